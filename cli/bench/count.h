/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Count: the system calls of the source and of the first sink in the measured part of one order, each seen by stopping the process at
 * its entry (ptrace). That works without any right, for the nodes are ours and allow it; times mean nothing meanwhile.
 */
#ifndef TG_CLI_BENCH_COUNT_H
#define TG_CLI_BENCH_COUNT_H

#include "cli/bench/flow.h"

typedef struct BenchCount {
        uint64_t calls;  /* but those that pace the source */
        uint64_t sleeps; /* calls that wait: epoll, or a futex */
        uint64_t wakes;  /* calls that wake another: a doorbell, a byte through a socket where there is none, or a futex */
        uint64_t memory; /* mmap, munmap, and messages with descriptors */
} BenchCount;

/* bench_count() - carry out @order with BENCH_COUNTED. @ret: of the source, of the first sink. 0; 1: this process may not trace the
 * nodes, nothing was done; or a negative errno with flow->error set. */
int bench_count(BenchFlow *flow, const struct bench_order *order, BenchCount ret[2], struct bench_answer *answers, nsec_t span);

#endif
