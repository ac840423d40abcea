/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/reader.h"

#include <assert.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hot.h"
#include "shm/probe.h"
#include "shm/ring-internal.h"
#include "shm/shm-internal.h"

#define TAKE_ROUNDS 32 /* messages dropped one by one, or copied in vain, in a single take */
#define PREFETCH    4  /* slots ahead; 2 to 16 measured alike */
#define SPARE       (CURSOR_N_CLAIMS - 1)

int ring_reader_init(RingReader *r, const Region *ring, const Region *cursor, uint32_t link, uint32_t queue_size,
        RingPolicy policy)
{
        uint32_t n_slots = ring_slots(ring);

        if (!n_slots || queue_size < 1 || queue_size > n_slots - 1 || (unsigned)policy >= _RING_POLICY_MAX)
                return RING_E_INVALID;
        if (!cursor->map || !cursor->writable || cursor->kind != REGION_CURSOR || cursor->size != cursor_size())
                return RING_E_INVALID;
        *r = (RingReader){
                .ring = ring->map,
                .cursor = cursor->map,
                .n_slots = n_slots,
                .mask = n_slots - 1,
                .link = link,
                .queue_size = queue_size,
                .policy = policy,
        };
        return 0;
}

int ring_reader_add_segment(RingReader *r, uint32_t number, const Region *segment)
{
        if (number >= POOL_MAX_SEGMENTS || !segment->map || segment->kind != REGION_POOL || r->segment_size[number])
                return RING_E_INVALID;
        r->segment[number] = segment->map;
        r->segment_size[number] = segment->size;
        return 0;
}

/* The head to work with, believed only if it never went back and is a number of messages somebody could have sent. */
static int head_look(RingReader *r)
{
        uint64_t h;

        if (r->broken)
                return RING_E_VIOLATION;
        if (r->draining) {
                r->head = r->final;
                return 0;
        }
        h = load_sc(&r->ring->head); /* acquire for the slots below it; SC for start() and the look before a sleep */
        if (h < r->head || h > RING_INDEX_LIMIT) {
                r->broken = true;
                return RING_E_VIOLATION;
        }
        r->head = h;
        return 0;
}

/* Shows what was taken and dropped, the tail last: whoever is killed in here has counted too much and never too little (shm/counters.h).
 * The tail SC where the producer may be waiting for just that: it stored its room word, then looked at tail. */
static HOT void show(RingReader *r)
{
        struct cursor_shared *c = r->cursor;

        store_relaxed(&c->delivered, r->delivered); /* counters: for status only */
        store_relaxed(&c->delivered_bytes, r->delivered_bytes);
        if (r->more_to_show) {
                store_relaxed(&c->copied, r->copied);
                for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                        store_relaxed(&c->dropped[i], r->dropped[i]);
                r->more_to_show = false;
        }
        r->shown = r->tail;
        if (r->policy == RING_BACKPRESSURE)
                store_sc(&c->tail, r->tail);
        else
                store_release(&c->tail, r->tail); /* release: the slots were read before they are given up */
}

static void drop_count(RingReader *r, DropReason reason, uint64_t n)
{
        r->dropped[reason] += n;
        store_relaxed(&r->cursor->dropped[reason], r->dropped[reason]); /* counters: for status only */
}

/* Passes @n messages, which is still to be shown. */
static void drop(RingReader *r, DropReason reason, uint64_t n)
{
        r->dropped[reason] += n;
        r->tail += n;
        r->more_to_show = true;
}

typedef enum Gave { /* what the SC store just done may have given the producer */
        GAVE_TAIL,
        GAVE_CHUNK,
        GAVE_UP, /* this link altogether */
} Gave;

/* Whether the producer waits for this link and was not rung for this epoch yet. */
static bool must_ring(RingReader *r, Gave gave)
{
        uint64_t e = load_sc(&r->ring->room_epoch); /* SC: after the store of tail or claim */
        uint32_t link, reason;

        if (!(e & 1) || e == r->room_rung)
                return false;
        /* These three are at least as new as e. If newer, then the producer looked after announcing them: see models.
         * */
        link = load_relaxed(&r->ring->room_link);
        reason = load_relaxed(&r->ring->room_reason);
        if (link != r->link && !(link == ROOM_LINK_ANY && reason == ROOM_CHUNK))
                return false;
        if (gave == GAVE_TAIL && r->tail < load_relaxed(&r->ring->room_target))
                return false;
        if (gave == GAVE_CHUNK && reason != ROOM_CHUNK)
                return false;
        r->room_rung = e;
        return true;
}

/* The cursor may have counted what came from a producer's earlier incarnation. */
static void counters_clear(struct cursor_shared *c)
{
        store_relaxed(&c->delivered, 0); /* counters: for status only */
        store_relaxed(&c->delivered_bytes, 0);
        store_relaxed(&c->copied, 0);
        store_relaxed(&c->wakes, 0);
        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                store_relaxed(&c->dropped[i], 0);
}

static void activate(RingReader *r, uint64_t tail)
{
        r->tail = r->shown = tail;
        counters_clear(r->cursor);
        store_relaxed(&r->cursor->start, r->start);
        store_relaxed(&r->cursor->tail, tail); /* visible with ACTIVE */
        store_sc(&r->cursor->state, CURSOR_ACTIVE); /* SC: before head is read again */
        r->active = true;
}

int ring_reader_start(RingReader *r)
{
        if (head_look(r))
                return RING_E_VIOLATION;
        r->start = r->head;
        activate(r, r->head);
        if (head_look(r)) /* what was published before the producer could know of us was for nobody */
                return RING_E_VIOLATION;
        r->start = r->safe_from = r->tail = r->shown = r->head;
        store_relaxed(&r->cursor->start, r->start);
        store_sc(&r->cursor->tail, r->tail); /* SC: the producer may have blocked on the first value already */
        return 0;
}

bool ring_reader_must_ring(RingReader *r)
{
        return must_ring(r, GAVE_TAIL);
}

int ring_reader_start_at(RingReader *r, uint64_t position)
{
        uint64_t first;

        if (head_look(r))
                return RING_E_VIOLATION;
        position = MIN(position, r->head); /* a dead consumer's word, hostile */
        first = r->head > r->n_slots ? r->head - r->n_slots : 0;
        r->start = position;
        activate(r, MAX(position, first));
        if (r->tail > position)
                drop_count(r, DROP_DEAD, r->tail - position);
        if (head_look(r))
                return RING_E_VIOLATION;
        r->safe_from = r->head; /* older messages may go before the producer has seen us: lost, not a violation */
        return 0;
}

void ring_reader_name(RingReader *r, uint32_t attachment)
{
        store_release(&r->cursor->attachment, attachment); /* after tail */
}

static bool strict(const RingReader *r)
{
        return r->policy == RING_BACKPRESSURE && r->tail >= r->safe_from;
}

/* Why a message is lost. Under backpressure that happens to an heir alone, before the producer has seen it. */
static DropReason lossy(const RingReader *r, DropReason reason)
{
        return r->policy == RING_BACKPRESSURE ? DROP_DEAD : reason;
}

static int violation(RingReader *r)
{
        r->broken = true;
        return RING_E_VIOLATION;
}

/* Brings head up to date and skips what is out of reach. 0: there is a message at tail. @again: we did so a moment ago. */
static int advance(RingReader *r, bool again)
{
        uint64_t reach = r->policy == RING_BACKPRESSURE ? r->n_slots : r->queue_size;
        int e;

        /* Backpressure: what head said once stays true. drop_oldest wants to know what is out of date now. */
        if ((r->policy == RING_DROP_OLDEST && !again) || r->tail == r->head) {
                e = head_look(r);
                if (e)
                        return e;
        }
        if (r->tail == r->head) {
                if (r->draining)
                        return RING_E_END;
                if (!load_acquire(&r->ring->closed)) /* acquire: head below is the final one if this is set */
                        return RING_E_EMPTY;
                e = head_look(r);
                if (e || r->tail == r->head)
                        return e ? e : RING_E_END;
        }
        if (r->head - r->tail > reach) {
                if (strict(r))
                        return violation(r);
                drop(r, lossy(r, DROP_WINDOW), r->head - r->tail - reach);
        }
        return 0;
}

/* A slot that would not be copied. 0: counted, go on. */
static int lost_slot(RingReader *r, SlotState state)
{
        if (strict(r) || (r->policy == RING_BACKPRESSURE && state == SLOT_TORN))
                return violation(r);
        drop(r, lossy(r, state == SLOT_OVERRUN ? DROP_OVERRUN : DROP_TORN), 1);
        return 0;
}

static int claim_free(const RingReader *r)
{
        for (int k = 0; k < CURSOR_N_CLAIMS; k++)
                if (!r->claim[k])
                        return k; /* the spare is the last */
        return -1;
}

static void claim_clear(RingReader *r, int k)
{
        r->claim[k] = 0;
        store_sc(&r->cursor->claim[k], 0); /* release: the payload was read before; SC: then the room word */
}

/* Claims the pooled message at tail. 0, RING_E_CLAIMS, RING_E_AGAIN (too late: counted), RING_E_VIOLATION. */
static HOT int claim_take(RingReader *r, RingMessage *msg, bool *ret_ring)
{
        int k = claim_free(r);

        if (k < 0)
                return RING_E_CLAIMS;
        r->claim[k] = r->tail + 1;
        if (strict(r)) /* the floor cannot pass before the tail does, and whoever sees that tail sees this claim */
                store_release(&r->cursor->claim[k], r->tail + 1);
        else
                store_sc(&r->cursor->claim[k], r->tail + 1); /* SC: before floor is read */
        if (load_sc(&r->ring->floor) > r->tail) {    /* acquire too: payload is read after it */
                claim_clear(r, k);
                if (strict(r))
                        return violation(r);
                drop(r, lossy(r, DROP_POOL), 1);
                *ret_ring |= must_ring(r, GAVE_CHUNK); /* the producer may have seen the claim and wait for its end */
                return RING_E_AGAIN;
        }
        r->n_refs[k] = 1;
        msg->claim = k;
        msg->must_copy = k == SPARE;
        msg->payload = r->segment[msg->d.segment] + msg->d.offset;
        return 0;
}

static __attribute__((noinline, cold)) void tell_taken(const RingReader *r, const RingMessage *msg)
{
        uint64_t mask = r->probe_mask ? load_relaxed(r->probe_mask) : 0, now; /* a wish: any recent one will do */

        if (!probe_is_sampled(mask, msg->index) || !probe_may_tell())
                return;
        now = clock_now();
        probe_dequeue(r->link, msg->index, ring_reader_backlog(r), now > msg->d.time_ns ? now - msg->d.time_ns : 0);
}

/* The message is the caller's. What is shown of that comes after its claim was stored. */
static void deliver(RingReader *r, RingMessage *msg)
{
        msg->index = r->tail++;
        msg->meta = (const uint8_t *)msg->payload + (((uint64_t)msg->d.payload_len + 7) & ~UINT64_C(7));
        r->delivered++;
        r->delivered_bytes += msg->d.payload_len;
        if (msg->must_copy) {
                r->copied++;
                r->more_to_show = true;
        }
        if (probe_dequeue_wanted())
                tell_taken(r, msg);
}

static inline void slot_prefetch(const struct ring_slot *slot)
{
        __builtin_prefetch(&slot->seq);
        __builtin_prefetch(slot->bytes);
}

/* The SC stores below keep the CPU from overlapping the misses of one message with the next one's: ask for a slot
 * well ahead. Only for one that is published: the producer is about to write the others. */
static inline void prefetch(const RingReader *r)
{
        if (r->head - r->tail > PREFETCH)
                slot_prefetch(&r->ring->slot[(r->tail + PREFETCH) & r->mask]);
}

/* One attempt at the message at tail. RING_E_AGAIN: it was dropped, or head has to be looked at again. */
static int take_one(RingReader *r, RingMessage *msg, bool again, bool *ret_ring)
{
        SlotState state;
        int e;

        e = advance(r, again);
        if (e)
                return e;
        prefetch(r);
        state = slot_copy(&r->ring->slot[r->tail & r->mask], r->tail, &msg->d, msg->bytes);
        if (state != SLOT_WHOLE) {
                e = lost_slot(r, state);
                return e ? e : RING_E_AGAIN;
        }
        e = descriptor_check(&msg->d, r->segment_size);
        if (e == RING_E_INVALID)
                drop(r, DROP_INVALID, 1);
        if (e)
                return e;
        if (msg->d.flags & RING_FLAG_INLINE) {
                msg->claim = -1;
                msg->must_copy = false;
                msg->payload = msg->bytes;
        } else {
                e = claim_take(r, msg, ret_ring);
                if (e)
                        return e;
        }
        deliver(r, msg);
        return 0;
}

static inline int take(RingReader *r, RingMessage *msg, bool again, bool *ret_ring)
{
        int e = RING_E_AGAIN;

        *ret_ring = false;
        if (!r->active)
                return r->broken ? RING_E_VIOLATION : RING_E_EMPTY;
        for (unsigned i = 0; i < TAKE_ROUNDS && e == RING_E_AGAIN; i++)
                e = take_one(r, msg, again && i == 0, ret_ring);
        return e;
}

HOT int ring_reader_take(RingReader *r, RingMessage *msg, bool *ret_ring)
{
        int e = take(r, msg, false, ret_ring);

        *ret_ring |= ring_reader_show(r); /* also what was dropped without delivering: that is room, too */
        return e;
}

/* slot_copy() and descriptor_check() of a message that lies in its slot, without metadata. */
static inline bool small_copy(const struct ring_slot *slot, uint64_t index, RingMessage *msg)
{
        uint64_t want = 2 * index + 2;

        if (load_acquire(&slot->seq) != want) /* acquire: the words below are at least as new */
                return false;
        descriptor_copy(&msg->d, slot);
        if (!(msg->d.flags & RING_FLAG_INLINE) || msg->d.meta_len || msg->d.payload_len > RING_INLINE_MAX)
                return false;
        bytes_copy(msg->bytes, slot, (msg->d.payload_len + 7) / 8);
        fence_acquire(); /* the words were read before seq is read again */
        return load_relaxed(&slot->seq) == want;
}

HOT bool ring_reader_take_small(RingReader *r, RingMessage *msg, bool *ret_ring)
{
        uint64_t reach = r->policy == RING_BACKPRESSURE ? r->n_slots : r->queue_size, head = r->head;
        const struct ring_slot *slot = &r->ring->slot[r->tail & r->mask];

        *ret_ring = false;
        if (!r->active || r->broken || r->draining)
                return false;
        if (r->policy == RING_DROP_OLDEST || r->tail == head)
                head = load_sc(&r->ring->head); /* as in head_look() */
        if (head < r->head || head > RING_INDEX_LIMIT || head == r->tail || head - r->tail > reach)
                return false;
        if (!small_copy(slot, r->tail, msg))
                return false;
        r->head = head;
        prefetch(r);
        msg->claim = -1;
        msg->must_copy = false;
        msg->payload = msg->bytes;
        deliver(r, msg);
        show(r);
        *ret_ring = r->policy == RING_BACKPRESSURE && must_ring(r, GAVE_TAIL);
        return true;
}

int ring_reader_take_more(RingReader *r, RingMessage *msg, bool *ret_ring)
{
        return take(r, msg, r->tail != r->shown, ret_ring);
}

HOT bool ring_reader_show(RingReader *r)
{
        if (r->tail == r->shown)
                return false;
        show(r);
        return r->policy == RING_BACKPRESSURE && must_ring(r, GAVE_TAIL); /* under drop_oldest nobody ever waits for the tail */
}

HOT void ring_reader_count_wake(RingReader *r)
{
        store_relaxed(&r->cursor->wakes, ++r->wakes); /* counter: for status only */
}

void ring_reader_reject(RingReader *r, const RingMessage *msg)
{
        drop_count(r, DROP_INVALID, 1); /* first: for a moment it is counted twice, and at no moment not at all */
        r->delivered--;
        r->delivered_bytes -= msg->d.payload_len;
        store_release(&r->cursor->delivered, r->delivered); /* counters: for status only */
        store_relaxed(&r->cursor->delivered_bytes, r->delivered_bytes);
}

bool ring_reader_ready(const RingReader *r)
{
        if (!r->active || r->broken)
                return r->broken;
        /* SC: a look after the sleep epoch was stored. Anything but what we have seen is worth a take. */
        if (r->draining)
                return true;
        slot_prefetch(&r->ring->slot[r->tail & r->mask]); /* asked for only once head has changed, it comes one way between the CPUs later */
        return load_sc(&r->ring->head) != r->tail || load_sc(&r->ring->closed) != 0;
}

uint64_t ring_reader_backlog(const RingReader *r)
{
        uint64_t h = r->draining ? r->final : load_acquire(&r->ring->head); /* acquire: as in take */
        uint64_t n = h > r->tail ? h - r->tail : 0;

        return r->active ? MIN(n, (uint64_t)(r->policy == RING_DROP_OLDEST ? r->queue_size : r->n_slots)) : 0;
}

void ring_reader_ref(RingReader *r, int claim)
{
        if (claim < 0)
                return;
        assert(claim < CURSOR_N_CLAIMS && r->n_refs[claim]);
        r->n_refs[claim]++;
}

HOT bool ring_reader_release(RingReader *r, int claim)
{
        if (claim < 0)
                return false;
        assert(claim < CURSOR_N_CLAIMS && r->n_refs[claim]);
        if (--r->n_refs[claim])
                return false;
        claim_clear(r, claim);
        return must_ring(r, GAVE_CHUNK);
}

uint32_t ring_reader_n_held(const RingReader *r)
{
        uint32_t n = 0;

        for (int k = 0; k < CURSOR_N_CLAIMS; k++)
                n += r->claim[k] != 0;
        return n;
}

void ring_reader_skip(RingReader *r, DropReason reason, bool *ret_ring)
{
        *ret_ring = false;
        if (!r->active || head_look(r) || r->tail == r->head)
                return;
        drop(r, reason, 1);
        show(r);
        *ret_ring = must_ring(r, GAVE_TAIL);
}

void ring_reader_break(RingReader *r)
{
        r->broken = true;
}

uint64_t ring_reader_n_published(const RingReader *r)
{
        uint64_t h = r->draining ? r->final
                : r->broken      ? r->head /* the last that was believed */
                                 : load_acquire(&r->ring->head); /* acquire: not older than a ring that was heard */

        return h > r->start ? h - r->start : 0;
}

void ring_reader_drain(RingReader *r)
{
        if (r->draining)
                return;
        (void)head_look(r); /* a last lie breaks the link, and take says so; the last honest head is kept */
        r->final = r->head;
        r->draining = true;
}

uint64_t ring_reader_discard(RingReader *r, DropReason reason, bool *ret_ring)
{
        uint64_t n;

        *ret_ring = false;
        if (!r->active)
                return 0;
        (void)head_look(r); /* broken: up to the last head that was believed */
        n = r->head - r->tail;
        if (n)
                drop(r, reason, n);
        if (r->tail != r->shown)
                show(r);
        *ret_ring = must_ring(r, GAVE_TAIL);
        return n;
}

void ring_reader_stop(RingReader *r, bool *ret_ring)
{
        if (r->tail != r->shown)
                show(r);
        store_sc(&r->cursor->state, CURSOR_INACTIVE); /* SC: then the room word, as for a tail */
        r->active = false;
        *ret_ring = must_ring(r, GAVE_UP);
}

void ring_reader_set_probe_mask(RingReader *r, const uint64_t *mask)
{
        r->probe_mask = mask;
}

void ring_reader_set_cpu(RingReader *r, int cpu)
{
        if (r->cpu == (uint32_t)(cpu + 1))
                return;
        r->cpu = (uint32_t)(cpu + 1);
        store_relaxed(&r->cursor->cpu, r->cpu);
}

bool ring_reader_shares_cpu(const RingReader *r, int cpu)
{
        return cpu >= 0 && load_relaxed(&r->ring->cpu) == (uint32_t)cpu + 1;
}
