/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls the way a run uses them, where the C library has no wrapper or an older header has no name. For probes:
 * single-threaded, in a process that is about to end.
 */
#ifndef TG_CLI_PROBE_RAW_H
#define TG_CLI_PROBE_RAW_H

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static inline int raw_pidfd_open(pid_t pid)
{
        return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int raw_pidfd_signal(int pidfd, int signo)
{
        return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0);
}

/* fork() with clone3's flags; @cgroup_fd counts with CLONE_INTO_CGROUP, @ret_pidfd with CLONE_PIDFD. */
static inline pid_t raw_fork(uint64_t flags, int cgroup_fd, int *ret_pidfd)
{
        struct clone_args args = {
                .flags = flags,
                .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
                .exit_signal = SIGCHLD,
                .cgroup = (uint64_t)cgroup_fd,
        };

        return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* A child that does nothing until the write end of the pipe is closed everywhere, then ends with 0. */
static inline void child_wait(const int pipe_fds[2])
{
        char byte;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(pipe_fds[1]);
        while (read(pipe_fds[0], &byte, 1) < 0 && errno == EINTR)
                ;
        _exit(0);
}

/* A child that does not end by itself and does not listen to anybody. */
static inline void child_stay(void)
{
        (void)signal(SIGTERM, SIG_IGN);
        for (;;)
                (void)pause();
}

/* 1 once @fd has one of @events, 0 when the deadline passed. */
static inline int wait_fd(int fd, short events, nsec_t deadline)
{
        struct pollfd pfd = {.fd = fd, .events = events};
        int r;

        do
                r = poll(&pfd, 1, nsec_poll_ms(deadline, clock_now()));
        while (r < 0 && errno == EINTR);
        return r > 0;
}

/* Waits for the exit of one of our children and reaps it. 0, or -ETIMEDOUT or another negative errno. */
static inline int wait_pidfd(int pidfd, nsec_t deadline, siginfo_t *ret_si)
{
        *ret_si = (siginfo_t){0};
        if (!wait_fd(pidfd, POLLIN, deadline))
                return -ETIMEDOUT;
        return waitid(P_PIDFD, (id_t)pidfd, ret_si, WEXITED | WNOHANG) < 0 ? -errno : 0;
}

static inline nsec_t in_ms(unsigned ms)
{
        return nsec_add(clock_now(), ms * NSEC_PER_MSEC);
}

/* "166 us", "12.7 ms": in @buf, 24 bytes. */
static inline const char *span_text(char *buf, nsec_t span)
{
        if (span < NSEC_PER_MSEC)
                (void)snprintf(buf, 24, "%u us", (unsigned)(span / NSEC_PER_USEC));
        else
                (void)snprintf(buf, 24, "%.1f ms", (double)span / NSEC_PER_MSEC);
        return buf;
}

/* How long something took that began then; lives as long as the block it stands in. */
#define TOOK(since) span_text((char[24]){0}, clock_now() - (since))

/*
 * The way a run starts a node: clone3 with CLONE_VM | CLONE_VFORK. The child shares our memory and our stack, so between
 * the call and its end it must touch neither: it ends in the next instruction with status 7. -ENOSYS on other machines.
 */
static inline pid_t raw_vfork_exit_7(uint64_t flags, int cgroup_fd, int *ret_pidfd)
{
        struct clone_args args = {
                .flags = flags | CLONE_VM | CLONE_VFORK,
                .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
                .exit_signal = SIGCHLD,
                .cgroup = (uint64_t)cgroup_fd,
        };
#if defined(__x86_64__)
        long r = SYS_clone3;

        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "mov $231, %%eax\n\t" /* exit_group */
                         "mov $7, %%edi\n\t"
                         "syscall\n"
                         "1:"
                         : "+a"(r)
                         : "D"(&args), "S"(sizeof(args))
                         : "rcx", "r11", "memory");
#elif defined(__aarch64__)
        register long r __asm__("x0") = (long)&args;
        register long size __asm__("x1") = sizeof(args);
        register long number __asm__("x8") = SYS_clone3;

        __asm__ volatile("svc #0\n\t"
                         "cbnz x0, 1f\n\t"
                         "mov x8, #94\n\t" /* exit_group */
                         "mov x0, #7\n\t"
                         "svc #0\n"
                         "1:"
                         : "+r"(r)
                         : "r"(size), "r"(number)
                         : "memory");
#else
        long r = -ENOSYS;

        (void)args;
#endif
        if (r >= 0)
                return (pid_t)r;
        errno = (int)-r;
        return -1;
}

#endif
