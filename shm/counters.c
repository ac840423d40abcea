/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/counters.h"

#include <string.h>

#include "base/cleanup.h"
#include "shm/ring-internal.h"
#include "shm/shm-internal.h"

#define STILL_ROUNDS 4

/* When message @index was published; 0: its slot is not mapped, or holds another one. */
static uint64_t time_of(const Region *ring, uint64_t index)
{
        const struct ring_shared *s = ring->map;
        uint64_t n_slots = ring->layout[0], bytes[RING_INLINE_MAX / 8];
        struct ring_descriptor d;
        size_t end;

        if (n_slots < 2 || n_slots > RING_MAX_SLOTS || (n_slots & (n_slots - 1)))
                return 0;
        end = offsetof(struct ring_shared, slot) + (size_t)((index & (n_slots - 1)) + 1) * RING_SLOT_SIZE;
        if (end > ring->size || slot_copy(&s->slot[index & (n_slots - 1)], index, &d, bytes) != SLOT_WHOLE)
                return 0;
        return d.time_ns;
}

static bool same(const CursorStatus *a, const CursorStatus *b)
{
        return a->tail == b->tail && a->start == b->start && a->delivered == b->delivered && a->attachment == b->attachment &&
                memcmp(a->dropped, b->dropped, sizeof(a->dropped)) == 0;
}

static uint64_t sum_of(const uint64_t dropped[_DROP_REASON_MAX])
{
        uint64_t sum = 0;

        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                sum += dropped[i]; /* wraps for what nobody honest stored, and does not add up then */
        return sum;
}

void link_counters_read(const Region *ring, const Region *cursor, uint32_t queue_size, RingPolicy policy, uint64_t now,
        LinkCounters *ret)
{
        CursorStatus c, again;
        RingStatus r;
        uint64_t tail, time, late = 0, taken, told;
        bool in_order;

        cursor_read(cursor, &c);
        for (unsigned i = 0;; i++) {
                ring_read_status(ring, &r);
                fence_acquire(); /* the head that was read is not older than the second look at the cursor */
                cursor_read(cursor, &again);
                if (same(&c, &again) || i == STILL_ROUNDS)
                        break;
                c = again;
        }
        *ret = (LinkCounters){
                .active = c.active,
                .still = same(&c, &again),
                .delivered = c.delivered,
                .delivered_bytes = c.delivered_bytes,
                .copied = c.copied,
                .n_wakes = c.wakes,
                .n_holds = c.n_claims,
                .refused = r.refused,
        };
        memcpy(ret->dropped, c.dropped, sizeof(ret->dropped));
        tail = MIN(c.tail, r.head); /* a head that was read before the tail moved */
        in_order = c.start <= c.tail && c.tail <= r.head && r.head <= RING_INDEX_LIMIT;
        taken = c.tail - c.start;
        told = c.delivered + sum_of(c.dropped);
        ret->adds_up = in_order && told == taken;
        ret->plausible = in_order && told >= taken && told <= r.head - c.start + 1; /* 1: ring_reader_reject() */
        ret->depth = r.head - tail;
        if (policy != RING_DROP_OLDEST)
                ret->depth = MIN(ret->depth, RING_MAX_SLOTS); /* no ring holds more: a producer that says so is not honest */
        else if (ret->depth > queue_size) {
                late = ret->depth - queue_size;
                ret->depth = queue_size;
                ret->dropped[DROP_WINDOW] += late;
        }
        ret->published = r.head > c.start ? r.head - c.start : 0;
        time = ret->depth > 0 ? time_of(ring, tail + late) : 0;
        ret->age_ns = time > 0 && time < now ? now - time : 0;
}
