/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into tidegated: counts the calls that may fail, of the processes in one role, and at the n-th lets it fail, or kills the
 * process before or after it. Once. What happened is written into a file that all of them share.
 *
 *     TIDEGATE_FAULT=FILE:ROLE:WHAT:HOW:N
 *
 * ROLE: guard, supervisor, keeper. WHAT: calls (of the system) or memory. HOW: fail, before, after, or count (nothing happens). Forked children
 * (enforcers, loggers, nodes before their execve) are not counted; nodes have an environment of their own, without this.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
        CALLS,
        MEMORY,
};

enum {
        COUNT,
        FAIL,
        BEFORE,
        AFTER,
};

/* The file. */
struct shared {
        _Atomic uint64_t count[2];
        _Atomic uint32_t fired;
        int32_t pid, error;
        char name[32];
};

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);

static struct shared *shared; /* NULL: another role */
static pid_t owner;
static int what, how;
static uint64_t at;

static long (*real_syscall)(long number, ...);

static bool one_of(const char *text, const char *const *names, size_t n, int *ret)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(text, names[i]) == 0) {
                        *ret = (int)i;
                        return true;
                }
        return false;
}

/* What /proc says the arguments are: "--role=X", or none for the one that is started. */
static bool has_role(const char *role)
{
        char arguments[4096], *found;
        int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, arguments, sizeof(arguments) - 1) : -1;

        if (fd >= 0)
                close(fd);
        if (n <= 0)
                return false;
        arguments[n] = '\0';
        for (char *p = arguments; p < arguments + n; p += strlen(p) + 1)
                if ((found = strstr(p, "--role=")) == p)
                        return strcmp(p + strlen("--role="), role) == 0;
        return strcmp(role, "guard") == 0;
}

__attribute__((constructor)) static void begin(void)
{
        static const char *const whats[] = {"calls", "memory"}, *const hows[] = {"count", "fail", "before", "after"};
        const char *text = getenv("TIDEGATE_FAULT");
        char copy[4096], *save = NULL, *file, *role, *a, *b, *n;
        void *map;
        int fd;

        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
        if (!text || strlen(text) >= sizeof(copy))
                return;
        strcpy(copy, text);
        file = strtok_r(copy, ":", &save);
        role = strtok_r(NULL, ":", &save);
        a = strtok_r(NULL, ":", &save);
        b = strtok_r(NULL, ":", &save);
        n = strtok_r(NULL, ":", &save);
        if (!n || !has_role(role) || !one_of(a, whats, 2, &what) || !one_of(b, hows, 4, &how))
                return;
        at = strtoull(n, NULL, 10);
        fd = open(file, O_RDWR | O_CLOEXEC);
        map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd >= 0)
                close(fd);
        owner = getpid();
        shared = map == MAP_FAILED ? NULL : map;
}

static void die(void)
{
        (void)real_syscall(SYS_kill, getpid(), SIGKILL);
        for (;;)
                pause();
}

/* True: this is the call. */
static bool is_it(int kind, const char *name, int error)
{
        if (!shared || getpid() != owner)
                return false;
        if (atomic_fetch_add(&shared->count[kind], 1) + 1 != at || kind != what || how == COUNT || atomic_exchange(&shared->fired, 1))
                return false;
        shared->pid = owner;
        shared->error = error;
        strncpy(shared->name, name, sizeof(shared->name) - 1);
        if (how == BEFORE || (how == FAIL && error == 0)) /* one that cannot fail */
                die();
        return true;
}

#define REAL(name)                                                \
        static __typeof__(&name) real;                            \
        if (!real)                                                \
                real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* @failed: what it returns then. */
#define CALL(type, failed, error, name, ...)                      \
        do {                                                      \
                bool it = is_it(CALLS, #name, error);             \
                type r;                                           \
                                                                  \
                if (it && how == FAIL) {                          \
                        errno = error;                            \
                        return failed;                            \
                }                                                 \
                r = real(__VA_ARGS__);                            \
                if (it)                                           \
                        die();                                    \
                return r;                                         \
        } while (0)

#define WRAP(type, failed, error, name, parameters, ...)          \
        type name parameters                                      \
        {                                                         \
                REAL(name);                                       \
                CALL(type, failed, error, name, __VA_ARGS__);     \
        }

int openat(int dir, const char *path, int flags, ...)
{
        REAL(openat);
        va_list ap;
        mode_t mode;

        va_start(ap, flags);
        mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
        va_end(ap);
        CALL(int, -1, EMFILE, openat, dir, path, flags, mode);
}

int fcntl(int fd, int command, ...)
{
        REAL(fcntl);
        va_list ap;
        void *argument;

        va_start(ap, command);
        argument = va_arg(ap, void *);
        va_end(ap);
        if (command != F_DUPFD_CLOEXEC && command != F_ADD_SEALS)
                return real(fd, command, argument);
        CALL(int, -1, command == F_ADD_SEALS ? EBUSY : EMFILE, fcntl, fd, command, argument);
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
        REAL(epoll_ctl);

        if (op != EPOLL_CTL_ADD) /* the others cannot fail */
                return real(epfd, op, fd, event);
        CALL(int, -1, at % 2 ? ENOMEM : ENOSPC, epoll_ctl, epfd, op, fd, event);
}

long syscall(long number, ...)
{
        long a[6];
        va_list ap;
        const char *name = number == SYS_clone3                ? "clone3"
                           : number == SYS_pidfd_open          ? "pidfd_open"
                           : number == SYS_pidfd_send_signal   ? "pidfd_send_signal"
                                                               : NULL;
        int error = number == SYS_clone3 ? EAGAIN : number == SYS_pidfd_open ? EMFILE : 0;
        bool it;
        long r;

        va_start(ap, number);
        for (int i = 0; i < 6; i++)
                a[i] = va_arg(ap, long);
        va_end(ap);
        it = name && is_it(CALLS, name, error);
        if (it && how == FAIL) {
                errno = error;
                return -1;
        }
        r = real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (it && getpid() == owner) /* not the child */
                die();
        return r;
}

WRAP(int, -1, ENOSPC, mkdirat, (int dir, const char *path, mode_t mode), dir, path, mode)
WRAP(int, -1, 0, unlinkat, (int dir, const char *path, int flags), dir, path, flags)
WRAP(int, -1, ENOSPC, renameat, (int a, const char *from, int b, const char *to), a, from, b, to)
WRAP(int, -1, ENOSPC, ftruncate, (int fd, off_t size), fd, size)
WRAP(int, -1, ENOSPC, fallocate, (int fd, int mode, off_t from, off_t size), fd, mode, from, size)
WRAP(ssize_t, -1, ENOSPC, write, (int fd, const void *data, size_t size), fd, data, size)
WRAP(ssize_t, -1, ENOSPC, pwrite, (int fd, const void *data, size_t size, off_t offset), fd, data, size, offset)
WRAP(ssize_t, -1, EIO, pread, (int fd, void *data, size_t size, off_t offset), fd, data, size, offset)
WRAP(ssize_t, -1, EAGAIN, read, (int fd, void *data, size_t size), fd, data, size)
WRAP(ssize_t, -1, at % 2 ? EAGAIN : ENOBUFS, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
WRAP(ssize_t, -1, at % 2 ? EAGAIN : EINTR, recvmsg, (int fd, struct msghdr *message, int flags), fd, message, flags)
WRAP(ssize_t, -1, EAGAIN, recv, (int fd, void *data, size_t size, int flags), fd, data, size, flags)
WRAP(ssize_t, -1, EAGAIN, send, (int fd, const void *data, size_t size, int flags), fd, data, size, flags)
WRAP(int, -1, EMFILE, socket, (int domain, int type, int protocol), domain, type, protocol)
WRAP(int, -1, EMFILE, socketpair, (int domain, int type, int protocol, int fds[2]), domain, type, protocol, fds)
WRAP(int, -1, EMFILE, accept4, (int fd, __SOCKADDR_ARG address, socklen_t *size, int flags), fd, address, size, flags)
WRAP(int, -1, EAGAIN, connect, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), fd, address, size)
WRAP(int, -1, ENOSPC, bind, (int fd, __CONST_SOCKADDR_ARG address, socklen_t size), fd, address, size)
WRAP(int, -1, EMFILE, epoll_create1, (int flags), flags)
WRAP(int, -1, EMFILE, timerfd_create, (int clock, int flags), clock, flags)
WRAP(int, -1, 0, timerfd_settime, (int fd, int flags, const struct itimerspec *value, struct itimerspec *old), fd, flags, value, old)
WRAP(int, -1, EMFILE, eventfd, (unsigned value, int flags), value, flags)
WRAP(int, -1, EMFILE, signalfd, (int fd, const sigset_t *mask, int flags), fd, mask, flags)
WRAP(int, -1, EMFILE, memfd_create, (const char *name, unsigned flags), name, flags)
WRAP(void *, MAP_FAILED, ENOMEM, mmap, (void *p, size_t size, int protection, int flags, int fd, off_t from), p, size, protection, flags, fd, from)
WRAP(int, -1, EMFILE, pipe2, (int fds[2], int flags), fds, flags)
WRAP(int, -1, 0, waitid, (idtype_t type, id_t id, siginfo_t *info, int options), type, id, info, options)

/* ---- memory */

static bool no_memory(const char *name)
{
        if (!is_it(MEMORY, name, ENOMEM))
                return false;
        if (how != FAIL)
                die();
        errno = ENOMEM;
        return true;
}

void *malloc(size_t size)
{
        return no_memory("malloc") ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
        return no_memory("calloc") ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
        return no_memory("realloc") ? NULL : __libc_realloc(p, size);
}

char *strdup(const char *text)
{
        size_t size = strlen(text) + 1;
        char *copy = no_memory("strdup") ? NULL : __libc_malloc(size);

        return copy ? memcpy(copy, text, size) : NULL;
}
