/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer's private state: writer.c publishes and gates, reclaim.c allocates and decides what may be reused.
 */
#ifndef TG_SHM_WRITER_INTERNAL_H
#define TG_SHM_WRITER_INTERNAL_H

#include "shm/pool-internal.h"
#include "shm/writer.h"

typedef struct Link {
        RingLinkSpec spec; /* the supervisor's word: policy, queue_size and quota never come from shared memory */
        const struct cursor_shared *shared; /* NULL: an orphan, whose tail stays as it is */
        uint64_t tail; /* last value believed: clamped, monotone */
        bool active;   /* gates, as last looked */
        bool spoken;   /* this cursor was active once */
        bool heir;     /* tail is an orphan's until this cursor is active */
        uint64_t lowest; /* of an heir: where no honest one starts below */
        bool violated; /* has no say any more */
        bool told;     /* violation reported to the caller */
        uint64_t held_value[CURSOR_N_CLAIMS]; /* claims honoured, as they stood in their entry; 0: none */
        uint32_t held_chunk[CURSOR_N_CLAIMS];
        uint64_t held_bytes;
} Link;

typedef struct FreshClaim { /* seen in the present scan and not before */
        uint64_t message;
        uint32_t link, entry;
} FreshClaim;

struct RingWriter {
        struct ring_shared *shared;
        uint32_t n_slots, mask;
        uint64_t head;      /* next index; messages from `published` on are not flushed */
        uint64_t published; /* shared->head */
        uint64_t floor;     /* shared->floor */
        uint64_t gate;      /* publishing below this index needs no look at any cursor */
        uint64_t unreported;
        uint32_t max_queue; /* of the attached links */
        bool closed;
        uint32_t cpu;
        uint64_t room_epoch;
        uint64_t bytes, pooled, reclaims, pressure, blocked_slot, blocked_chunk, over_quota, violations,
                refused;

        const uint64_t *probe_mask; /* NULL: every message */

        Link *link;
        uint32_t n_links, max_links;
        uint64_t cool_bytes; /* published when chunks were last looked for, and not free then */
        Pool pool;
        FreshClaim *fresh; /* max_links * CURSOR_N_CLAIMS */
};

/* link_look() - read state and tail of a link, clamp, note violations. Afterwards link->active and link->tail hold.
 * */
void link_look(RingWriter *w, Link *link);
void link_violate(RingWriter *w, Link *link);
void link_drop_holds(RingWriter *w, Link *link);

void writer_publish_head(RingWriter *w);

/* reclaim_look() - make a chunk of size_bytes free if it can be done; may_press: at the price of windows of drop_oldest links. 0,
 * POOL_E_TOO_LARGE, POOL_E_FULL, POOL_E_HELD. */
int reclaim_look(RingWriter *w, uint64_t size_bytes, bool may_press, RingBlock *ret_block);

#endif
