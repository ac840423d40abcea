/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What /proc/PID/stat says of a process: enough to know whether a pid is still the process it was, and whether it can run.
 *
 * In the middle of execve() a process may hang for as long as it likes: when it closes a file that is close-on-exec on a file system that does not
 * answer. As of Linux 6.18 whoever then reads its stat, wchan, syscall, stack, io, environ, maps or a link (fd, exe, cwd, root, ns) waits for it, and
 * only SIGKILL ends that, be it one's own process, anybody's, or of a user who may not look at it at all. status, statm, comm, cgroup, schedstat,
 * limits and the listings of fd and task wait for nobody. So it is asked first whether somebody is at it: by statm, for its new memory has no program
 * yet. Who begins that between the question and the look is waited for all the same, and so the loop of nobody whom others wait for may look.
 */
#ifndef TG_BASE_PROCSTAT_H
#define TG_BASE_PROCSTAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct ProcStat {
        char state;          /* R, S, D, T (stopped), t (traced), Z, X */
        uint64_t start_time; /* clock ticks after boot: with the pid, one process of this boot */
} ProcStat;

/* procstat_parse() - from the NUL-terminated text of the file. 0 or -EBADMSG. */
int procstat_parse(ProcStat *ret, const char *text);

/* procstat_is_executing() - it is in the middle of execve(), and who looked at it would wait for it. False also when there is none. */
bool procstat_is_executing(pid_t pid);

/* procstat_read() - of @pid. 0; -ESRCH: there is none; -EBUSY: it is in the middle of execve(); or a negative errno. */
int procstat_read(ProcStat *ret, pid_t pid);

/* What a process uses. */
typedef struct ProcUse {
        char comm[64]; /* as it came */
        char state;
        pid_t parent;
        uint64_t own, waited; /* ticks on a processor: its own, and of children that it has waited for */
        uint64_t n_threads, pages;
} ProcUse;

/* procstat_use() - of @pid; of one in the middle of execve() less is known: no time of children, nor of threads that it had. 0 or as procstat_read(). */
int procstat_use(ProcUse *ret, pid_t pid);


/* procfs_read() - as much of a file of /proc as @size - 1 bytes, and NUL. 0 or a negative errno. */
int procfs_read(const char *path, char *buffer, size_t size);

/* procfs_read_whole() - a file that does not say its size, in at most @max bytes, a power of two; @fd -1: none. The caller frees it; NULL when it
 * cannot be read. */
char *procfs_read_whole(int fd, size_t max, size_t *ret_size);

/* boot_id_read() - of this boot, 36 characters and NUL; "" when it cannot be read. */
void boot_id_read(char ret[static 37]);

#endif
