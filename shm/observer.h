/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An observer: reads a ring and its pool without a cursor, so that nobody waits for it, rings it or knows of it. It
 * copies slot and payload, then proves that both were still whole; what was overwritten meanwhile is told as passed.
 * By timer, for nobody rings an observer. As suspicious as a reader.
 */
#ifndef TG_SHM_OBSERVER_H
#define TG_SHM_OBSERVER_H

#include "shm/ring.h"

typedef struct RingObserver {
        const struct ring_shared *ring;
        const uint8_t *segment[POOL_MAX_SEGMENTS];
        uint64_t segment_size[POOL_MAX_SEGMENTS];
        uint32_t n_slots;
        uint64_t next;   /* next index wanted */
        uint64_t head;   /* last seen */
        uint64_t missed; /* passed before they could be copied */
} RingObserver;

int ring_observer_init(RingObserver *o, const Region *ring); /* starts at the present head; 0, RING_E_INVALID */
int ring_observer_add_segment(RingObserver *o, uint32_t number, const Region *segment);
/* Go back up to @n messages (as far as slots exist), e.g. to show the last one at once. */
void ring_observer_rewind(RingObserver *o, uint64_t n);

/**
 * ring_observer_copy() - copy the next message that is still whole
 * @ret_d:     its descriptor, checked
 * @ret_index: its index
 * @buf, @buf_size: receives payload, padding to 8 and metadata as far as they fit; payload_len and meta_len in @ret_d
 *             stay what they are, so a short buffer shows. NULL with 0: descriptor only
 *
 * Bounded work. Return: 0; RING_E_EMPTY; RING_E_END; RING_E_AGAIN (lapped, call again); RING_E_SEGMENT (not attached:
 * passed over); RING_E_INVALID (passed over); RING_E_VIOLATION.
 */
int ring_observer_copy(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, void *buf,
        size_t buf_size);

typedef struct RingGlance {
        void *payload; /* its first bytes */
        size_t payload_size;
        void *meta;
        size_t meta_size;
} RingGlance;

/* ring_observer_glance() - the same, of a large message only what is wanted: the beginning of its payload, and its metadata; each as far as
 * it fits. */
int ring_observer_glance(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, const RingGlance *to);

/* ring_observer_again() - the message that was passed over because of RING_E_SEGMENT is wanted after all: that segment is attached now. */
void ring_observer_again(RingObserver *o);

#endif
