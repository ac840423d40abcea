/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork() that gives a pidfd. By clone3, and where a container's seccomp filter says that there is none (so that it can look at the flags) by clone.
 * The child must only make system calls and exec: nothing of libc's is told of it.
 */
#ifndef TG_BASE_FORK_H
#define TG_BASE_FORK_H

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* @flags: more CLONE_ flags, namespaces; @ret_pidfd: NULL for none. As fork(). */
static inline pid_t fork_pidfd(uint64_t flags, int *ret_pidfd)
{
        struct clone_args args = {.flags = flags | (ret_pidfd ? CLONE_PIDFD : 0), .exit_signal = SIGCHLD, .pidfd = (uint64_t)(uintptr_t)ret_pidfd};
        pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

        if (pid < 0 && errno == ENOSYS)
                pid = (pid_t)syscall(SYS_clone, (unsigned long)(args.flags | SIGCHLD), NULL, ret_pidfd, NULL, NULL);
        return pid;
}

#endif
