/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/ring.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/hot.h"
#include "shm/ring-internal.h"
#include "shm/shm-internal.h"

uint32_t ring_slots_for(uint32_t max_queue_size)
{
        uint32_t n = 2;

        if (max_queue_size < 1 || max_queue_size > RING_MAX_QUEUE)
                return 0;
        while (n < max_queue_size + 1)
                n *= 2;
        return n;
}

static bool slots_valid(uint64_t n)
{
        return n >= 2 && n <= RING_MAX_SLOTS && (n & (n - 1)) == 0;
}

uint64_t ring_size(uint32_t n_slots)
{
        return slots_valid(n_slots) ? sizeof(struct ring_shared) + (uint64_t)n_slots * RING_SLOT_SIZE : 0;
}

int ring_create(uint32_t n_slots, int *ret_fd)
{
        const uint64_t layout[REGION_N_LAYOUT] = {n_slots, RING_SLOT_SIZE};

        return region_create(REGION_RING, ring_size(n_slots), layout, ret_fd);
}

uint32_t ring_slots(const Region *ring)
{
        uint64_t bytes;

        if (!ring->map || ring->kind != REGION_RING || ring->size < sizeof(struct ring_shared))
                return 0;
        bytes = ring->size - sizeof(struct ring_shared);
        if (bytes % RING_SLOT_SIZE || !slots_valid(bytes / RING_SLOT_SIZE))
                return 0;
        if (ring->layout[0] != bytes / RING_SLOT_SIZE || ring->layout[1] != RING_SLOT_SIZE)
                return 0;
        return (uint32_t)(bytes / RING_SLOT_SIZE);
}

void ring_read_status(const Region *map, RingStatus *ret)
{
        const struct ring_shared *s = map->map;

        *ret = (RingStatus){
                .head = load_acquire(&s->head), /* acquire: a status never shows more bytes than messages for long */
                .floor = load_relaxed(&s->floor), /* the rest is for display: each word is whole, the set is not */
                .closed = load_relaxed(&s->closed) != 0,
                .blocked = load_relaxed(&s->room_epoch) & 1,
                .blocked_link = load_relaxed(&s->room_link),
                .blocked_reason = load_relaxed(&s->room_reason) == ROOM_CHUNK ? ROOM_CHUNK : ROOM_SLOT,
                .published_bytes = load_relaxed(&s->published_bytes),
                .published_pooled = load_relaxed(&s->published_pooled),
                .reclaims = load_relaxed(&s->reclaims),
                .pressure = load_relaxed(&s->pressure),
                .n_blocked_slot = load_relaxed(&s->blocked_slot),
                .n_blocked_chunk = load_relaxed(&s->blocked_chunk),
                .over_quota = load_relaxed(&s->over_quota),
                .violations = load_relaxed(&s->violations),
                .refused = load_relaxed(&s->refused),
        };
}

bool slot_stable(const struct ring_slot *slot, uint64_t index)
{
        return load_relaxed(&slot->seq) == 2 * index + 2; /* ordered by the caller's acquire fence */
}

HOT int descriptor_check(const struct ring_descriptor *d, const uint64_t segment_size[POOL_MAX_SEGMENTS])
{
        uint64_t extent = descriptor_extent(d), size;

        if (d->flags & RING_FLAG_INLINE)
                return extent <= RING_INLINE_MAX ? 0 : RING_E_INVALID;
        if (d->segment >= POOL_MAX_SEGMENTS)
                return RING_E_INVALID;
        size = segment_size[d->segment];
        if (!size)
                return RING_E_SEGMENT;
        if (d->offset % POOL_ALIGN || d->offset < POOL_DATA_OFFSET || d->offset > size || extent > size - d->offset)
                return RING_E_INVALID;
        return 0;
}
