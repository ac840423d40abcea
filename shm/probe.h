/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sites that tools outside of the process can attach to (SystemTap's note format: bpftrace, perf, libbpf, `readelf -n`):
 *
 *   tidegate:enqueue(link, seq, depth)          in the producer, once for each active link of a message that became visible
 *   tidegate:dequeue(link, seq, depth, age_ns)  in the consumer, when it has taken a message
 *
 * link: the supervisor's number, unique in a dataflow. seq: the message's index in its ring. depth: messages of the link that are not taken then, in
 * enqueue up to and including this one: 0 if the consumer was quicker than the look. age_ns: since the time in its slot.
 *
 * They are as base/sdt.h says: reached while somebody is attached, and until then a load and a branch that is not taken.
 */
#ifndef TG_SHM_PROBE_H
#define TG_SHM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/sdt.h"

#define PROBE_MASK_NONE UINT64_MAX /* no message is told of */

#if SDT_HAVE

SDT_SEMAPHORE_DECLARE(tidegate, enqueue);
SDT_SEMAPHORE_DECLARE(tidegate, dequeue);

/* Whether somebody is attached: the one question that the hot path asks. */
static inline bool probe_enqueue_wanted(void)
{
        return SDT_WANTED(tidegate, enqueue);
}

static inline bool probe_dequeue_wanted(void)
{
        return SDT_WANTED(tidegate, dequeue);
}

/* probe_may_tell() - whether this process may reach sites: not if it was forked off one that has, for on some kernels it would die of it. Asked before
 * each is reached. The first time in a process, a page is mapped. */
bool probe_may_tell(void);

static inline void probe_enqueue(uint64_t link, uint64_t seq, uint64_t depth)
{
        SDT_3(tidegate, enqueue, link, seq, depth);
}

static inline void probe_dequeue(uint64_t link, uint64_t seq, uint64_t depth, uint64_t age_ns)
{
        SDT_4(tidegate, dequeue, link, seq, depth, age_ns);
}

#else

static inline bool probe_enqueue_wanted(void)
{
        return false;
}

static inline bool probe_dequeue_wanted(void)
{
        return false;
}

static inline bool probe_may_tell(void)
{
        return false;
}

static inline void probe_enqueue(uint64_t link, uint64_t seq, uint64_t depth)
{
}

static inline void probe_dequeue(uint64_t link, uint64_t seq, uint64_t depth, uint64_t age_ns)
{
}

#endif

/*
 * Which messages are told of, said by one word that both ends of a link are given, so that they choose the same ones: those with
 * (seq & mask) == 0. 0: all. A power of two less one. PROBE_MASK_NONE: not even the first.
 */
static inline bool probe_is_sampled(uint64_t mask, uint64_t seq)
{
        return (seq & mask) == 0 && mask != PROBE_MASK_NONE;
}

#endif
