/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What became of the messages of one link, read from the mappings of ring and cursor: nobody is asked, nobody waits, and neither end notices.
 * Both ends write their counters while they run, so what is read is of one moment only when nothing moves (`still`); what they write is
 * their word, and hostile: every number is in range whatever stands there, and `adds_up` says whether they agree with each other.
 *
 * Of a consumer that was killed: a message is delivered once it is the caller's and the tail is past it, whether the caller had finished with
 * it or not. What it had taken of a batch that it had not shown yet waits, and is its successor's. The counters are stored before the tail, so one
 * that dies between them leaves the messages of one such batch counted twice, as delivered (or dropped) and as waiting. Nobody can tell it from
 * the counters which of the two they were to it. Hence its numbers need not add up, but they are `plausible`: no message that was passed is
 * missing from them, and no more is counted than was published.
 */
#ifndef TG_SHM_COUNTERS_H
#define TG_SHM_COUNTERS_H

#include "shm/ring.h"

typedef struct LinkCounters {
        bool active;
        bool still;   /* nothing moved while it was read */
        bool adds_up; /* what was taken is what was delivered and dropped, and no more than was published */
        bool plausible; /* adds up, or its consumer stands, or was killed, in the middle of telling: see below */
        uint64_t published; /* messages since the consumer began to read: delivered + sum of dropped + depth */
        uint64_t delivered, delivered_bytes, copied;
        uint64_t dropped[_DROP_REASON_MAX]; /* messages that are out of the window already, and not yet passed, included */
        uint64_t depth;    /* messages that wait */
        uint64_t age_ns;   /* of the first of these since it was published; 0: none waits, or it is not known */
        uint64_t n_wakes;  /* times the consumer slept, and found a message here when it woke */
        uint32_t n_holds;  /* messages in use, claimed */
        uint64_t refused;  /* messages that the producer gave up for all links of the output, for want of memory: never published */
} LinkCounters;

/**
 * link_counters_read() - of an active link
 * @ring, @cursor: mapped, read-only will do; the ring by region_map_status() or whole: without slots there is no age
 * @queue_size, @policy: the supervisor's
 * @now: CLOCK_MONOTONIC
 *
 * Bounded, no system call; may fault in a page of slots.
 */
void link_counters_read(const Region *ring, const Region *cursor, uint32_t queue_size, RingPolicy policy, uint64_t now,
        LinkCounters *ret);

#endif
