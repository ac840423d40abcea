/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of a seccomp filter, for processes that may make few system calls. A filter begins with SECCOMP_BEGIN, has an ALLOW() for each call, and ends with
 * SAY(REFUSE): what is not among them fails with EPERM, for a library of another version may do without. Without ARCH there are no filters for this machine.
 */
#ifndef TG_BASE_SECCOMP_H
#define TG_BASE_SECCOMP_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef ARCH

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SAY(verdict) BPF_STMT(BPF_RET | BPF_K, verdict)
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), SAY(SECCOMP_RET_ALLOW)
#define REFUSE (SECCOMP_RET_ERRNO | EPERM)
#define SECCOMP_BEGIN LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0), SAY(REFUSE), LOAD(nr)

/* For good, of this thread, with what it executes. */
static inline bool seccomp_install(struct sock_filter *filter, unsigned short n)
{
        struct sock_fprog program = {.len = n, .filter = filter};

        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

#endif
#endif
