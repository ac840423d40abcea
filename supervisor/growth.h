/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growth of an output's pool: segments beyond the first one, which every incarnation of a producer gets with its setup. The steps are in
 * protocol/node_msg.h. What a producer asks for are numbers, and hostile until they were held against the output's bound.
 *
 * The supervisor makes a segment and never touches its pages: who maps it for writing pays. A segment lives as long as the ring of
 * its incarnation, is kept by the guard like that (GUARD_ITEM_POOL, index: output | number << 8), and is told to each consumer before
 * its producer may use it: a consumer that does not read its socket holds that up, for GROWTH_PATIENCE at most, and is given up then.
 */
#ifndef TG_SUPERVISOR_GROWTH_H
#define TG_SUPERVISOR_GROWTH_H

#include "protocol/node_msg.h"
#include "shm/pool.h"
#include "supervisor/wiring.h"

#define GROWTH_FIRST        (UINT64_C(4) << 20) /* bytes of the first segment, if the bound is not smaller: all touched before the barrier */
#define GROWTH_BOUND_LEAST  (UINT64_C(8) << 20)
#define GROWTH_BOUND_MOST   (UINT64_C(1) << 30)
#define GROWTH_STEP         (UINT64_C(2) << 20) /* a segment is at least so large, where that is not more chunks than anybody needs */
#define GROWTH_EXPECTED     UINT64_C(3) /* messages of the expected size: one is read, one waits, one is written */
#define GROWTH_PATIENCE     (5 * NSEC_PER_SEC)

typedef struct GrowthSegment {
        int fd; /* -1: none, or lost with a supervisor and its guard: then its number is given to no other one */
        uint64_t size; /* of a lost one: what its producer said, if it is used */
        bool mapped; /* by its producer; sealed since */
        bool told;   /* to the consumers there are */
        bool used;   /* SEGMENT_READY was said */
} GrowthSegment;

typedef struct Growth { /* of one output, in one incarnation */
        Node *node;
        uint32_t output;
        GrowthSegment segment[NODE_MSG_MAX_SEGMENTS]; /* by number, from 1 */
        uint32_t n_segments; /* numbers that were given: 1 .. n_segments */
        uint64_t largest;    /* chunk that was asked for */
        uint32_t n_asked;
        bool said;           /* that it is at its bound */
        bool said_never;     /* ... and that a message can never be held */
        Timer patience;
} Growth;

typedef struct GrowthNeed {
        uint64_t bound;      /* shared_memory_pool_size; 0: not said */
        uint64_t present;    /* bytes of all segments */
        uint64_t first;      /* of these, of the first one */
        uint64_t largest;    /* bytes of the largest chunk that was ever asked for */
        uint64_t chunk_size; /* asked for now; largest at the most */
        uint32_t want;       /* chunks that are never too few: queue + claims + 2 */
        uint32_t n_segments; /* the first included */
} GrowthNeed;

/* growth_bound() - how large the pool may become: as was said, else room for `want` of the largest chunks beside the first segment,
 * between GROWTH_BOUND_LEAST and GROWTH_BOUND_MOST. */
uint64_t growth_bound(const GrowthNeed *need);

/**
 * growth_class() - the chunks of the next segment
 *
 * As many bytes as there were grown before, so that few segments make any pool; never more chunks than `want`, never beyond the bound.
 * Pure. False: not one more chunk of that size.
 */
bool growth_class(const GrowthNeed *need, PoolClass *ret);

/* growth_expected() - the class of a first segment for messages of the expected size, if @largest, the largest there is anyway, is less.
 * @left: bytes that the bound leaves. False: none. */
bool growth_expected(uint64_t expected, uint64_t largest, uint64_t left, PoolClass *ret);

void growth_on_grow(Node *node, const NodeMsg *msg);
void growth_on_ack(Node *node, const NodeMsg *msg);
void growth_on_resumed(Node *node); /* a producer has said what it has mapped */
void growth_on_read(Node *consumer); /* its socket has taken what waited for it, or it is gone, or is back by name, or will not be */
void growth_tell_link(Link *link);  /* every segment that its consumer may meet, under the link's generation: before its LINK_IN */
void growth_take(Node *node, uint32_t output, uint32_t number, int take_fd); /* from the guard's store; consumed */
void growth_drop(NodeOutput *output);

/* growth_fd() - segment @number, or -1 */
int growth_fd(const NodeOutput *output, uint32_t number);

static inline uint16_t growth_item_index(uint32_t output, uint32_t number)
{
        return (uint16_t)(output | number << 8);
}

#endif
