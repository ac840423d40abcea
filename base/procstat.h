/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What /proc/PID/stat says of a process: enough to know whether a pid is still the process it was, and whether it can run.
 * It waits for a process that hangs while it executes a program (seen on 6.18; status, statm, comm and cgroup do not), and cmdline and maps wait for more.
 */
#ifndef TG_BASE_PROCSTAT_H
#define TG_BASE_PROCSTAT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct ProcStat {
        char state;          /* R, S, D, T (stopped), t (traced), Z, X */
        uint64_t start_time; /* clock ticks after boot: with the pid, one process of this boot */
} ProcStat;

/* procstat_parse() - from the NUL-terminated text of the file. 0 or -EBADMSG. */
int procstat_parse(ProcStat *ret, const char *text);

/* procstat_read() - of @pid. 0; -ESRCH: there is none; or a negative errno. */
int procstat_read(ProcStat *ret, pid_t pid);

/* procfs_read() - as much of a file of /proc as @size - 1 bytes, and NUL. 0 or a negative errno. */
int procfs_read(const char *path, char *buffer, size_t size);

/* procfs_read_whole() - a file that does not say its size, in at most @max bytes, a power of two; @fd -1: none. The caller frees it; NULL when it
 * cannot be read. */
char *procfs_read_whole(int fd, size_t max, size_t *ret_size);

/* boot_id_read() - of this boot, 36 characters and NUL; "" when it cannot be read. */
void boot_id_read(char ret[static 37]);

#endif
