/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What readers and observers share: copying a slot whole, and holding a copied descriptor against sealed sizes.
 */
#ifndef TG_SHM_RING_INTERNAL_H
#define TG_SHM_RING_INTERNAL_H

#include <string.h>

#include "base/cleanup.h"
#include "shm/ring.h"
#include "shm/shm-internal.h"

/* Slots of a ring by its sealed size; 0 when it is no ring. */
uint32_t ring_slots(const Region *ring);

typedef enum SlotState {
        SLOT_WHOLE = 0,
        SLOT_OVERRUN, /* holds or becomes a later message */
        SLOT_TORN,    /* is not, or not yet, what head promises */
} SlotState;

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

_Static_assert(RING_INLINE_MAX % 32 == 0, "copied by four words at a time");

static inline void word_copy(void *to, const uint64_t *from)
{
        uint64_t word = load_relaxed(from);

        memcpy(to, &word, 8);
}

static inline void four_words_copy(void *to, const uint64_t *from)
{
        word_copy(to, from);
        word_copy((uint8_t *)to + 8, from + 1);
        word_copy((uint8_t *)to + 16, from + 2);
        word_copy((uint8_t *)to + 24, from + 3);
}

/* Torn sets, here and below: the second look at seq. */
static inline void descriptor_copy(struct ring_descriptor *to, const struct ring_slot *slot)
{
        _Static_assert(ELEMENTSOF(slot->descriptor) == 7, "words");
        four_words_copy(to, slot->descriptor);
        for (size_t i = 4; i < 7; i++)
                word_copy((uint8_t *)to + 8 * i, &slot->descriptor[i]);
}

/* @n words, and up to three more than that: all stand in the slot. */
static inline void bytes_copy(uint64_t *to, const struct ring_slot *slot, uint64_t n)
{
        for (uint64_t i = 0; i < n; i += 4)
                four_words_copy(&to[i], &slot->bytes[i]);
}

/**
 * slot_copy() - message @index out of its slot, if it is whole and stays so while it is copied
 * @ret_d:     the descriptor, unchecked
 * @ret_bytes: RING_INLINE_MAX / 8 words: as many inline bytes as the descriptor claims, at most all
 */
static inline SlotState slot_copy(const struct ring_slot *slot, uint64_t index, struct ring_descriptor *ret_d, uint64_t *ret_bytes)
{
        uint64_t want = 2 * index + 2, seq;
        uint64_t n = 0;

        seq = load_acquire(&slot->seq); /* acquire: the words below are at least as new */
        if (seq != want)
                return seq > want ? SLOT_OVERRUN : SLOT_TORN;

        descriptor_copy(ret_d, slot);
        if (ret_d->flags & RING_FLAG_INLINE)
                n = (MIN(descriptor_extent(ret_d), (uint64_t)RING_INLINE_MAX) + 7) / 8;
        bytes_copy(ret_bytes, slot, n);
        fence_acquire(); /* the words were read before seq is read again */
        seq = load_relaxed(&slot->seq);
        return seq == want ? SLOT_WHOLE : seq > want ? SLOT_OVERRUN : SLOT_TORN;
}

/* descriptor_check() - 0, RING_E_INVALID, or RING_E_SEGMENT when it names a segment that is not attached. */
int descriptor_check(const struct ring_descriptor *d, const uint64_t segment_size[POOL_MAX_SEGMENTS]);

#endif
