/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is still there: a line for each task of a cgroup. Reads only those files of /proc that take no lock of the
 * process they tell of (not cmdline, environ, maps), so that looking at a wedged process does not wedge the one that
 * looks.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"

#define STACK_FRAMES 6

#define NAME(call) {SYS_##call, #call}
static const struct {
        long number;
        const char *name;
} calls[] = {
        NAME(read), NAME(write), NAME(readv), NAME(writev), NAME(pread64), NAME(pwrite64), NAME(openat),
        NAME(close), NAME(lseek), NAME(ioctl), NAME(fcntl), NAME(flock), NAME(fsync), NAME(fdatasync), NAME(sync),
        NAME(syncfs), NAME(ftruncate), NAME(fallocate), NAME(getdents64), NAME(newfstatat), NAME(fstat),
        NAME(statx), NAME(faccessat), NAME(readlinkat), NAME(mkdirat), NAME(unlinkat), NAME(renameat2), NAME(chdir),
        NAME(mount), NAME(umount2), NAME(statfs), NAME(mmap), NAME(munmap), NAME(mremap), NAME(mprotect),
        NAME(madvise), NAME(brk), NAME(msync), NAME(mlock), NAME(clone), NAME(clone3), NAME(execve), NAME(execveat),
        NAME(exit), NAME(exit_group), NAME(wait4), NAME(waitid), NAME(futex), NAME(nanosleep),
        NAME(clock_nanosleep), NAME(rt_sigsuspend), NAME(rt_sigtimedwait), NAME(ppoll), NAME(pselect6),
        NAME(epoll_pwait), NAME(socket), NAME(connect), NAME(accept), NAME(accept4), NAME(sendto), NAME(recvfrom),
        NAME(sendmsg), NAME(recvmsg), NAME(shutdown), NAME(splice), NAME(sendfile), NAME(io_submit),
        NAME(io_getevents), NAME(io_uring_enter), NAME(ptrace), NAME(semtimedop), NAME(msgrcv), NAME(msgsnd),
        NAME(sched_yield), NAME(restart_syscall),
#ifdef SYS_pause
        NAME(pause), NAME(open), NAME(stat), NAME(lstat), NAME(access), NAME(mkdir), NAME(rmdir), NAME(unlink),
        NAME(rename), NAME(readlink), NAME(poll), NAME(select), NAME(epoll_wait), NAME(fork), NAME(vfork),
#endif
};
#undef NAME

typedef struct Look {
        char *text;
        size_t size, at;
        uint32_t n;
        char path[64]; /* "/proc/PID/task/TID" */
} Look;

__attribute__((format(printf, 2, 3))) static void say(Look *l, const char *format, ...)
{
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(l->text + l->at, l->size - l->at, format, ap);
        va_end(ap);
        if (n > 0)
                l->at = MIN(l->at + (size_t)n, l->size - 1);
}

/* A file of the task into @buf, as a string without its last newline. False: not to be had. */
static bool slurp(const Look *l, const char *name, char *buf, size_t size)
{
        _cleanup_fd_ int fd = -1;
        char path[96];
        ssize_t n;

        snprintf(path, sizeof(path), "%s/%s", l->path, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, buf, size - 1);
        if (n <= 0)
                return false;
        while (n > 0 && buf[n - 1] == '\n')
                n--;
        buf[n] = '\0';
        return n > 0;
}

static void say_call(Look *l)
{
        char buf[256];
        long number;

        if (!slurp(l, "syscall", buf, sizeof(buf)) || buf[0] < '0' || buf[0] > '9') /* "running", "-1 ...": in none */
                return;
        number = strtol(buf, NULL, 10);
        for (size_t i = 0; i < ELEMENTSOF(calls); i++)
                if (calls[i].number == number) {
                        say(l, " in %s", calls[i].name);
                        return;
                }
        say(l, " in system call %ld", number);
}

/* The innermost frames: "[<0>] name+0x1/0x2" a line. */
static void say_stack(Look *l)
{
        char buf[2048], *at = buf, *next;
        int n = 0;

        if (!slurp(l, "stack", buf, sizeof(buf)))
                return;
        for (; at && *at && n < STACK_FRAMES; at = next) {
                char *name = strstr(at, "] ");

                next = strchr(at, '\n');
                if (next)
                        *next++ = '\0';
                if (!name || (next && name > next))
                        continue;
                name += 2;
                name[strcspn(name, "+/")] = '\0';
                say(l, "%s%s", n++ ? " < " : ", stack ", name);
        }
}

static char task_state(const Look *l)
{
        char buf[512], *at;

        if (!slurp(l, "stat", buf, sizeof(buf)))
                return '?';
        at = strrchr(buf, ')'); /* a comm may hold anything, brackets too */
        return at && at[1] == ' ' ? at[2] : '?';
}

static pid_t tracer(const Look *l)
{
        char buf[2048], *at;

        if (!slurp(l, "status", buf, sizeof(buf)))
                return 0;
        at = strstr(buf, "\nTracerPid:");
        return at ? (pid_t)atoi(at + 11) : 0;
}

static void look_at_task(Look *l, pid_t pid, pid_t tid)
{
        char comm[64], wchan[128], state;
        pid_t traced_by;

        snprintf(l->path, sizeof(l->path), "/proc/%d/task/%d", pid, tid);
        state = task_state(l);
        if (state == '?')
                return; /* gone meanwhile */
        l->n++;
        if (!slurp(l, "comm", comm, sizeof(comm)))
                comm[0] = '\0';
        for (char *c = comm; *c; c++)
                if (*c == '\n' || (unsigned char)*c < ' ')
                        *c = '?';
        say(l, "pid %d", pid);
        if (tid != pid)
                say(l, " tid %d", tid);
        say(l, " (%s) state %c", comm, state);
        if (state == 'Z' && tid == pid)
                say(l, ", its first thread has exited");
        say_call(l);
        if (slurp(l, "wchan", wchan, sizeof(wchan)) && strcmp(wchan, "0") != 0)
                say(l, ", wchan %s", wchan);
        say_stack(l);
        traced_by = tracer(l);
        if (traced_by)
                say(l, ", traced by pid %d", traced_by);
        say(l, "\n");
}

static int look_at_process(pid_t pid, void *userdata)
{
        Look *l = userdata;
        struct dirent *entry;
        char path[64];
        DIR *d;

        snprintf(path, sizeof(path), "/proc/%d/task", pid);
        d = opendir(path);
        while (d && (entry = readdir(d)))
                if (entry->d_name[0] != '.')
                        look_at_task(l, pid, (pid_t)atoi(entry->d_name));
        if (d)
                closedir(d);
        return 0;
}

static int look_at_one_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, look_at_process, userdata);
}

uint32_t look_at_cgroup(int dir_fd, char *text, size_t size)
{
        Look l = {.text = text, .size = size};

        text[0] = '\0';
        (void)cgroup_walk(dir_fd, look_at_one_cgroup, &l); /* what could be seen is told */
        return l.n;
}
