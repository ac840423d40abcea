/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/guard-spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"

#define STARTS_MAX 8 /* at once; each is over when its child has executed */
#define ARGS_MAX   24
#define FDS_MAX    16

/* What a child uses of our memory: it goes on beside us until it executes. */
typedef struct Start {
        _Atomic int busy; /* the kernel clears it when the child has executed, or is gone */
        int program;
        char *argv[ARGS_MAX];
        char text[PATH_MAX + 1024];
        _Alignas(64) unsigned char stack[4096];
} Start;

#if defined(__x86_64__)

/* Not by libc, which would write to the errno of the thread that we share. */
static inline long call(long n, long a, long b, long c, long d, long e)
{
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        long r;

        __asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
        return r;
}
#define HAVE_CALL 1

#elif defined(__aarch64__)

static inline long call(long n, long a, long b, long c, long d, long e)
{
        register long x8 __asm__("x8") = n;
        register long x0 __asm__("x0") = a;
        register long x1 __asm__("x1") = b;
        register long x2 __asm__("x2") = c;
        register long x3 __asm__("x3") = d;
        register long x4 __asm__("x4") = e;

        __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
        return x0;
}
#define HAVE_CALL 1

#endif

#ifdef HAVE_CALL

static Start starts[STARTS_MAX];

__attribute__((no_sanitize("address", "undefined"))) static int execute(void *userdata)
{
        const Start *start = userdata;
        const char *path = start->program < 0 ? "/proc/self/exe" : "";

        (void)call(SYS_execveat, start->program < 0 ? AT_FDCWD : start->program, (long)path, (long)start->argv, (long)environ, start->program < 0 ? 0 : AT_EMPTY_PATH);
        return 127; /* which clone() exits with */
}

static int copy_arguments(Start *start, char *const argv[])
{
        size_t used = 0, i;

        for (i = 0; argv[i]; i++) {
                size_t size = strlen(argv[i]) + 1;

                if (i == ARGS_MAX - 1 || size > sizeof(start->text) - used)
                        return -E2BIG;
                start->argv[i] = memcpy(start->text + used, argv[i], size);
                used += size;
        }
        start->argv[i] = NULL;
        return 0;
}

static pid_t begin(int program, char *const argv[], int *ret_pidfd)
{
        Start *start = NULL;
        pid_t pid;
        int r;

        for (size_t i = 0; i < STARTS_MAX && !start; i++)
                if (atomic_load_explicit(&starts[i].busy, memory_order_acquire) == 0)
                        start = &starts[i];
        if (!start)
                return -EAGAIN;
        start->program = program;
        r = copy_arguments(start, argv);
        if (r)
                return r;
        atomic_store_explicit(&start->busy, 1, memory_order_relaxed); /* before the child is there, which ends it */
        pid = clone(execute, start->stack + sizeof(start->stack), CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD, start, ret_pidfd, NULL, &start->busy);
        if (pid >= 0)
                return pid;
        r = -errno;
        atomic_store_explicit(&start->busy, 0, memory_order_relaxed);
        return r;
}

#else

static pid_t begin(int program, char *const argv[], int *ret_pidfd)
{
        pid_t pid = fork_pidfd(0, ret_pidfd);

        if (pid != 0)
                return pid < 0 ? -errno : pid;
        if (program < 0)
                (void)execve("/proc/self/exe", argv, environ);
        else
                (void)execveat(program, "", argv, environ, AT_EMPTY_PATH);
        _exit(127);
}

#endif

pid_t guard_spawn(int program, char *const argv[], const int *fds, size_t n_fds, int *ret_pidfd)
{
        int handed[FDS_MAX], flags[FDS_MAX];
        size_t n = 0;
        pid_t pid;

        if (n_fds >= FDS_MAX)
                return error_origin(-EINVAL);
        for (size_t i = 0; i <= n_fds; i++) {
                int fd = i < n_fds ? fds[i] : program; /* a script would be read from it */

                flags[n] = fd < 0 ? -1 : fcntl(fd, F_GETFD);
                if (flags[n] < 0)
                        continue; /* a bad number shows when it is used */
                handed[n++] = fd;
        }
        for (size_t i = 0; i < n; i++)
                (void)fcntl(handed[i], F_SETFD, flags[i] & ~FD_CLOEXEC);
        pid = begin(program, argv, ret_pidfd);
        for (size_t i = n; i > 0; i--) /* the same one may be among them twice */
                (void)fcntl(handed[i - 1], F_SETFD, flags[i - 1]);
        return pid;
}
