/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/observer.h"

#include <string.h>

#include "base/cleanup.h"
#include "shm/ring-internal.h"
#include "shm/shm-internal.h"

#define COPY_ROUNDS 32

int ring_observer_init(RingObserver *o, const Region *ring)
{
        uint32_t n_slots = ring_slots(ring);

        if (!n_slots)
                return RING_E_INVALID;
        *o = (RingObserver){.ring = ring->map, .n_slots = n_slots};
        o->next = o->head = MIN(load_acquire(&o->ring->head), RING_INDEX_LIMIT); /* acquire: the slots below it */
        return 0;
}

int ring_observer_add_segment(RingObserver *o, uint32_t number, const Region *segment)
{
        if (number >= POOL_MAX_SEGMENTS || !segment->map || segment->kind != REGION_POOL || o->segment_size[number])
                return RING_E_INVALID;
        o->segment[number] = segment->map;
        o->segment_size[number] = segment->size;
        return 0;
}

void ring_observer_rewind(RingObserver *o, uint64_t n)
{
        n = MIN(n, (uint64_t)o->n_slots);
        o->next = o->head - MIN(n, o->head);
}

static int head_look(RingObserver *o)
{
        uint64_t h = load_acquire(&o->ring->head); /* acquire: the slots below it */

        if (h < o->head || h > RING_INDEX_LIMIT)
                return RING_E_VIOLATION;
        o->head = h;
        return 0;
}

static int advance(RingObserver *o)
{
        int r;

        r = head_look(o);
        if (r)
                return r;
        if (o->next == o->head) {
                if (!load_acquire(&o->ring->closed)) /* acquire: head below is the final one if this is set */
                        return RING_E_EMPTY;
                r = head_look(o);
                if (r || o->next == o->head)
                        return r ? r : RING_E_END;
        }
        if (o->head - o->next > o->n_slots) {
                o->missed += o->head - o->next - o->n_slots;
                o->next = o->head - o->n_slots;
        }
        return 0;
}

static void glance_copy(const RingGlance *to, const RingGlance *from)
{
        if (from->payload_size)
                memcpy(to->payload, from->payload, from->payload_size);
        if (from->meta_size)
                memcpy(to->meta, from->meta, from->meta_size);
}

/* What of a message that lies at @at is wanted. Its descriptor was checked. */
static RingGlance glance_at(const uint8_t *at, const struct ring_descriptor *d, const RingGlance *to)
{
        uint64_t meta_at = descriptor_extent(d) - d->meta_len;

        return (RingGlance){.payload = (void *)(uintptr_t)at,
                .payload_size = MIN((uint64_t)d->payload_len, (uint64_t)to->payload_size),
                .meta = (void *)(uintptr_t)(at + meta_at),
                .meta_size = MIN((uint64_t)d->meta_len, (uint64_t)to->meta_size)};
}

/* Copies the payload out of the chunk and proves that it was still the message's. The producer may write there at any
 * moment, so the bytes are worth nothing until floor was read afterwards. */
static int copy_pooled(RingObserver *o, const struct ring_descriptor *d, uint64_t index, const RingGlance *to, const RingGlance *from)
{
        glance_copy(to, from);
        fence_acquire(); /* the bytes were read before floor and seq are */
        if (load_sc(&o->ring->floor) > index || !slot_stable(&o->ring->slot[index & (o->n_slots - 1)], index))
                return RING_E_PASSED;
        return 0;
}

/* @to or @buf */
static int copy_one(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, const RingGlance *to, void *buf, size_t buf_size)
{
        uint64_t bytes[RING_INLINE_MAX / 8];
        RingGlance from, all = {.payload = buf};
        const uint8_t *at;
        uint64_t i;
        int r;

        r = advance(o);
        if (r)
                return r;
        i = o->next++;
        if (slot_copy(&o->ring->slot[i & (o->n_slots - 1)], i, ret_d, bytes) != SLOT_WHOLE)
                return RING_E_PASSED;
        r = descriptor_check(ret_d, o->segment_size);
        if (r)
                return r;

        *ret_index = i;
        at = ret_d->flags & RING_FLAG_INLINE ? (const uint8_t *)bytes : o->segment[ret_d->segment] + ret_d->offset;
        if (to) {
                from = glance_at(at, ret_d, to);
        } else {
                from = (RingGlance){.payload = (void *)(uintptr_t)at, .payload_size = MIN(descriptor_extent(ret_d), (uint64_t)buf_size)};
                to = &all;
        }
        if (from.payload_size + from.meta_size > 0 && !(ret_d->flags & RING_FLAG_INLINE))
                return copy_pooled(o, ret_d, i, to, &from);
        glance_copy(to, &from);
        return 0;
}

static int copy_some(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, const RingGlance *to, void *buf, size_t buf_size)
{
        for (unsigned i = 0; i < COPY_ROUNDS; i++) {
                int r = copy_one(o, ret_d, ret_index, to, buf, buf_size);

                if (r != RING_E_PASSED)
                        return r;
                o->missed++;
        }
        return RING_E_AGAIN;
}

int ring_observer_copy(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, void *buf,
        size_t buf_size)
{
        return copy_some(o, ret_d, ret_index, NULL, buf, buf_size);
}

int ring_observer_glance(RingObserver *o, struct ring_descriptor *ret_d, uint64_t *ret_index, const RingGlance *to)
{
        return copy_some(o, ret_d, ret_index, to, NULL, 0);
}

void ring_observer_again(RingObserver *o)
{
        o->next -= o->next > 0;
}
