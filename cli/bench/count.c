/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench/count.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/doorbell.h"

typedef struct Tracee {
        pid_t pid;
        bool traced, counting;
        BenchCount count;
} Tracee;

static void count_futex(BenchCount *c, uint64_t op)
{
        op &= 127;
        c->sleeps += op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET;
        c->wakes += op == FUTEX_WAKE || op == FUTEX_WAKE_BITSET;
}

static void count_entry(Tracee *t, uint64_t nr, const uint64_t *args)
{
        BenchCount *c = &t->count;

        if (nr == SYS_prctl && (args[0] == BENCH_MARK_BEGIN || args[0] == BENCH_MARK_END)) {
                t->counting = args[0] == BENCH_MARK_BEGIN;
                return;
        }
        /* To attach interrupts a wait, and the library then asks whether a handler did; the source keeps time. */
        if (!t->counting || nr == SYS_rt_sigaction || nr == SYS_clock_nanosleep || nr == SYS_restart_syscall ||
                nr == SYS_sched_yield)
                return;
        c->calls++;
        switch (nr) {
        case SYS_epoll_pwait:
#ifdef SYS_epoll_wait
        case SYS_epoll_wait:
#endif
                c->sleeps++;
                break;
        case SYS_futex:
                count_futex(c, args[1]);
                break;
        case SYS_ioctl: /* a doorbell rings; the kernel looks at 32 bits of the request */
                c->wakes += (uint32_t)args[1] == TFD_IOC_SET_TICKS;
                break;
        case SYS_sendto: /* ... or, where there is none, a byte through the pair's socket */
                c->wakes++;
                break;
        case SYS_mmap:
        case SYS_munmap:
        case SYS_sendmsg:
                c->memory++;
                break;
        }
}

/* Lets it run on until its next call. */
static void go_on(Tracee *t, int status)
{
        struct __ptrace_syscall_info info;
        int sig = 0;

        if (!WIFSTOPPED(status)) {
                t->traced = false; /* it has ended, which its socket tells */
                return;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
                if (ptrace(PTRACE_GET_SYSCALL_INFO, t->pid, sizeof(info), &info) > 0 &&
                        info.op == PTRACE_SYSCALL_INFO_ENTRY)
                        count_entry(t, info.entry.nr, (const uint64_t *)info.entry.args);
        } else if (status >> 16 == 0) {
                sig = WSTOPSIG(status);
        }
        (void)ptrace(PTRACE_SYSCALL, t->pid, NULL, sig);
}

static bool attach(Tracee *t)
{
        int status;

        if (ptrace(PTRACE_SEIZE, t->pid, NULL, PTRACE_O_TRACESYSGOOD) < 0)
                return false;
        t->traced = true;
        if (ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL) < 0 || waitpid(t->pid, &status, __WALL) != t->pid)
                return true; /* it has ended */
        go_on(t, status);
        return true;
}

static void detach(Tracee *t)
{
        int status;

        /* Any stop will do, and any that comes first ends the wish for one. */
        if (!t->traced || ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL) < 0)
                return;
        if (waitpid(t->pid, &status, __WALL) == t->pid && WIFSTOPPED(status))
                (void)ptrace(PTRACE_DETACH, t->pid, NULL, NULL);
        t->traced = false;
}

static int follow(BenchFlow *flow, Tracee *tracees, struct bench_answer *answers, nsec_t deadline)
{
        bool waited[FLOW_MAX_NODES];
        unsigned n = flow->n_nodes;

        for (unsigned i = 0; i < n; i++)
                waited[i] = true;
        while (n > 0) {
                bool any = false;

                for (unsigned k = 0; k < 2; k++) {
                        int status;

                        if (tracees[k].traced &&
                                waitpid(tracees[k].pid, &status, __WALL | WNOHANG) == tracees[k].pid) {
                                go_on(&tracees[k], status);
                                any = true;
                        }
                }
                if (any)
                        continue;
                for (unsigned i = 0; i < flow->n_nodes; i++) {
                        int r = waited[i] ? bench_flow_take(flow, i, &answers[i]) : 1;

                        if (r < 0)
                                return r;
                        n -= r == 0;
                        waited[i] = waited[i] && r != 0;
                }
                if (clock_now() > deadline)
                        return bench_flow_fail(flow, -ETIMEDOUT,
                                "the nodes did not answer in time while their system calls were counted");
                (void)sched_yield();
        }
        return 0;
}

int bench_count(BenchFlow *flow, const struct bench_order *order, BenchCount ret[2], struct bench_answer *answers,
        nsec_t span)
{
        struct bench_order counted = *order;
        Tracee tracees[2] = {{.pid = flow->pids[0]}, {.pid = flow->pids[1]}};
        int r = 0;

        counted.flags |= BENCH_COUNTED;
        for (unsigned k = 0; k < 2; k++)
                if (tracees[k].pid <= 0 || !attach(&tracees[k])) {
                        detach(&tracees[0]);
                        return 1;
                }
        bench_flow_reset(flow);
        for (unsigned i = flow->n_nodes; r == 0 && i-- > 0;)
                r = bench_flow_tell(flow, i, &counted);
        if (!r)
                r = follow(flow, tracees, answers, nsec_add(clock_now(), span));
        for (unsigned k = 0; k < 2; k++) {
                detach(&tracees[k]);
                ret[k] = tracees[k].count;
        }
        return r;
}
