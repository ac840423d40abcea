/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What readers and observers share: copying a slot whole, and holding a copied descriptor against sealed sizes.
 */
#ifndef TG_SHM_RING_INTERNAL_H
#define TG_SHM_RING_INTERNAL_H

#include "shm/ring.h"

/* Slots of a ring by its sealed size; 0 when it is no ring. */
uint32_t ring_slots(const Region *ring);

typedef enum SlotState {
        SLOT_WHOLE = 0,
        SLOT_OVERRUN, /* holds or becomes a later message */
        SLOT_TORN,    /* is not, or not yet, what head promises */
} SlotState;

/**
 * slot_copy() - message @index out of its slot, if it is whole and stays so while it is copied
 * @ret_d:     the descriptor, unchecked
 * @ret_bytes: RING_INLINE_MAX / 8 words: as many inline bytes as the descriptor claims, at most all
 */
SlotState slot_copy(const struct ring_slot *slot, uint64_t index, struct ring_descriptor *ret_d, uint64_t *ret_bytes);

/* slot_stable() - whether the slot still holds @index; call it after an acquire fence. */
bool slot_stable(const struct ring_slot *slot, uint64_t index);

/* extent_of() - bytes from the payload's start to the end of the metadata. Cannot overflow 64 bits. */
static inline uint64_t extent_of(uint64_t payload_len, uint64_t meta_len)
{
        return meta_len ? ((payload_len + 7) & ~UINT64_C(7)) + meta_len : payload_len;
}

static inline uint64_t descriptor_extent(const struct ring_descriptor *d)
{
        return extent_of(d->payload_len, d->meta_len);
}

/* descriptor_check() - 0, RING_E_INVALID, or RING_E_SEGMENT when it names a segment that is not attached. */
int descriptor_check(const struct ring_descriptor *d, const uint64_t segment_size[POOL_MAX_SEGMENTS]);

#endif
