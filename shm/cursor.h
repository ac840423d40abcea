/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cursor of one link: where the consumer is, and which pooled messages it still uses. The consumer writes it
 * (reader.h), the producer gates and reclaims by it (writer.h), the supervisor reads it for status and restart.
 * Every value is hostile to those who read it: clamped, never trusted.
 */
#ifndef TG_SHM_CURSOR_H
#define TG_SHM_CURSOR_H

#include "shm/region.h"

#define CURSOR_N_CLAIMS 8 /* K: messages in use at once; the last entry serves copying, so a user holds K - 1 */

typedef enum CursorState {
        CURSOR_INACTIVE = 0, /* gates nothing */
        CURSOR_ACTIVE = 1,
} CursorState;

/* Why a message was not delivered. The order is part of the layout: append only. */
typedef enum DropReason {
        DROP_WINDOW = 0, /* drop_oldest: fell out of the queue before it was taken */
        DROP_OVERRUN,    /* drop_oldest: overwritten while it was being copied */
        DROP_POOL,       /* its chunk was needed for a newer message: the pool is too small */
        DROP_TORN,       /* the slot never became whole: a producer that broke the protocol or died inside it */
        DROP_INVALID,    /* the descriptor names bytes that do not exist */
        DROP_RESTARTED,  /* left in the ring of a producer that was replaced */
        DROP_DEAD,       /* left by a consumer that died; counted by its successor */
        DROP_DISCARDED,  /* thrown away by the consumer on purpose (input closed, disconnect) */
        _DROP_REASON_MAX,
} DropReason;

const char *drop_reason_to_string(DropReason reason); /* "window", ...; NULL outside the enum */

struct cursor_shared {
        struct region_header header;
        /* 128: the two lines a producer reads */
        uint64_t tail;  /* next message wanted; everything below is delivered or dropped */
        uint32_t state; /* CursorState */
        uint32_t attachment; /* generation of the link that tail is about, stored once it is active; 0: none yet */
        uint64_t claim[CURSOR_N_CLAIMS]; /* message index + 1; 0: free. A claim stays in its entry for life */
        uint32_t cpu; /* where the consumer last took, + 1; 0: not said. A hint, as the ring's */
        uint8_t pad1[44];
        /* 256: counters, for status only. tail - start == delivered + sum of dropped; less than that while the next tail is being told,
         * for they are stored before it */
        uint64_t start; /* tail at activation */
        uint64_t delivered;
        uint64_t delivered_bytes; /* payload */
        uint64_t copied;          /* of delivered: had to be copied because K - 1 were held */
        uint64_t dropped[_DROP_REASON_MAX];
        uint64_t wakes; /* times the node slept, and took its first message from here */
        uint8_t reserved[152];
};
_Static_assert(sizeof(struct cursor_shared) == 512, "shared between processes");
_Static_assert(offsetof(struct cursor_shared, tail) == 128, "one unit of two cache lines");
_Static_assert(offsetof(struct cursor_shared, start) == 256, "counters keep off the hot lines");

static inline uint64_t cursor_size(void)
{
        return sizeof(struct cursor_shared);
}

int cursor_create(int *ret_fd);

typedef struct CursorStatus {
        bool active;
        uint32_t attachment;
        uint64_t tail, start, delivered, delivered_bytes, copied, dropped[_DROP_REASON_MAX], wakes;
        uint32_t n_claims; /* entries that are not free */
} CursorStatus;

/* cursor_read() - a copy of everything, for status; values are the consumer's word and not consistent with each other
 * while it runs. @map: any mapping of the region. Never blocks. */
void cursor_read(const Region *map, CursorStatus *ret);

#endif
