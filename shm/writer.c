/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/hot.h"
#include "shm/probe.h"
#include "shm/ring-internal.h"
#include "shm/shm-internal.h"
#include "shm/writer-internal.h"

#define MAX_LINKS  4096u
#define PREFETCH   4 /* slots ahead; 2 to 16 measured alike */
#define ARM_ROUNDS 64 /* a hostile cursor may change its story at every look; the caller's short timer takes over */

int ring_writer_new(RingWriter **ret, const Region *ring, uint32_t max_links)
{
        _cleanup_(ring_writer_freep) RingWriter *w = NULL;
        struct ring_shared *s = ring->map;
        uint32_t n_slots = ring_slots(ring);

        if (!n_slots || !ring->writable || max_links < 1 || max_links > MAX_LINKS)
                return RING_E_INVALID;
        if (load_relaxed(&s->head) || load_relaxed(&s->floor) || load_relaxed(&s->closed)) /* ours alone: no order */
                return RING_E_INVALID;

        w = calloc(1, sizeof(*w));
        if (!w)
                return error_origin(-ENOMEM);
        w->link = calloc(max_links, sizeof(*w->link));
        w->fresh = calloc((size_t)max_links * CURSOR_N_CLAIMS, sizeof(*w->fresh));
        if (!w->link || !w->fresh)
                return error_origin(-ENOMEM);
        w->shared = s;
        w->n_slots = n_slots;
        w->mask = n_slots - 1;
        w->max_links = max_links;
        w->max_queue = 1;

        *ret = TAKE_PTR(w);
        return 0;
}

RingWriter *ring_writer_free(RingWriter *w)
{
        if (!w)
                return NULL;
        pool_done(&w->pool);
        free(w->link);
        free(w->fresh);
        free(w);
        return NULL;
}

void ring_writer_freep(RingWriter **w)
{
        *w = ring_writer_free(*w);
}

int ring_writer_add_segment(RingWriter *w, const Region *segment)
{
        return pool_add_segment(&w->pool, segment);
}

int ring_writer_skip_segment(RingWriter *w)
{
        if (w->pool.n_segments == POOL_MAX_SEGMENTS)
                return RING_E_CAPACITY;
        w->pool.segment[w->pool.n_segments++] = NULL;
        return 0;
}

static Link *link_find(const RingWriter *w, uint32_t id)
{
        for (uint32_t l = 0; l < w->n_links; l++)
                if (w->link[l].spec.id == id)
                        return &w->link[l];
        return NULL;
}

static void links_changed(RingWriter *w)
{
        w->gate = 0; /* the next publish looks at every cursor */
        w->max_queue = 1;
        for (uint32_t l = 0; l < w->n_links; l++)
                w->max_queue = MAX(w->max_queue, w->link[l].spec.queue_size);
}

/* No honest tail lies below it. It may lie below the floor: where an heir starts, inline messages there are still
 * good. */
static uint64_t oldest_slot(const RingWriter *w)
{
        return w->published > w->n_slots ? w->published - w->n_slots : 0;
}

static bool spec_is_sound(const RingLinkSpec *spec)
{
        const Region *cursor = spec->cursor;

        if (spec->id == ROOM_LINK_ANY || spec->queue_size < 1 || (unsigned)spec->policy >= _RING_POLICY_MAX)
                return false;
        if (!cursor)
                return spec->policy == RING_BACKPRESSURE;
        return cursor->map && cursor->kind == REGION_CURSOR && cursor->size == cursor_size();
}

int ring_writer_attach(RingWriter *w, const RingLinkSpec *spec)
{
        const void *shared = spec->cursor ? spec->cursor->map : NULL;
        Link *link;

        if (!spec_is_sound(spec))
                return RING_E_INVALID;
        link = link_find(w, spec->id);
        if (link && (link->shared || !shared))
                return link->shared == shared ? 0 : RING_E_INVALID;
        if (spec->queue_size > w->n_slots - 1)
                return RING_E_CAPACITY;
        if (!link && w->n_links == w->max_links)
                return RING_E_LINKS;

        writer_publish_head(w); /* a batch begun under smaller queues may be too long for the new one */
        if (!shared)
                w->link[w->n_links++] = (Link){.spec = *spec, .tail = w->head, .active = true};
        else if (link && spec->policy == RING_BACKPRESSURE)
                *link = (Link){.spec = *spec, .shared = shared, .tail = link->tail, .active = true, .heir = true,
                        .lowest = MIN(link->tail, oldest_slot(w))};
        else
                *(link ? link : &w->link[w->n_links++]) = (Link){.spec = *spec, .shared = shared, .tail = oldest_slot(w)};
        links_changed(w);
        return 0;
}

int ring_writer_detach(RingWriter *w, uint32_t id)
{
        Link *link = link_find(w, id);

        if (!link)
                return RING_E_UNKNOWN;
        link_drop_holds(w, link);
        *link = w->link[--w->n_links];
        links_changed(w);
        return 0;
}

int ring_writer_orphan(RingWriter *w, uint32_t id)
{
        Link *link = link_find(w, id);

        if (!link)
                return RING_E_UNKNOWN;
        link_look(w, link); /* the last time */
        if (!link->active || link->spec.policy != RING_BACKPRESSURE) {
                (void)ring_writer_detach(w, id);
                return RING_E_UNKNOWN;
        }
        link_drop_holds(w, link);
        link->shared = NULL;
        link->spec.cursor = NULL;
        w->gate = 0;
        return 0;
}

void ring_writer_set_lasting(RingWriter *w, uint32_t id, bool lasting)
{
        Link *link = link_find(w, id);

        if (!link)
                return;
        link->spec.lasting = lasting;
        w->gate = 0;
}

bool ring_writer_has_stopped(const RingWriter *w, uint32_t id)
{
        const Link *link = link_find(w, id);

        /* SC: what is done about it comes after the consumer's own store */
        return link && link->shared && link->spoken && load_sc(&link->shared->state) != CURSOR_ACTIVE;
}

void link_violate(RingWriter *w, Link *link)
{
        w->violations++;
        link->violated = true;
        link->active = false;
        store_relaxed(&w->shared->violations, w->violations); /* counter: for status only */
}

void link_look(RingWriter *w, Link *link)
{
        uint64_t t, lowest = link->heir ? link->lowest : link->tail;
        bool active;

        if (link->violated || !link->shared)
                return;
        /* SC, both: looks after our room word or head was stored, before or after the consumer's own SC stores */
        active = load_sc(&link->shared->state) == CURSOR_ACTIVE;
        link->spoken |= active;
        link->active = active || link->heir ||
                (link->spoken && link->spec.lasting && link->spec.policy == RING_BACKPRESSURE);
        if (!link->active || !link->spoken)
                return;
        t = load_sc(&link->shared->tail);
        if (t < lowest || t > w->published) {
                link_violate(w, link); /* backwards, or past what was ever visible */
                return;
        }
        link->tail = t;
        link->heir = false;
}

/* For diagnosis: whether somebody takes from the link, or is to go on with it, and up to where it has. Clamped from below alone. */
static bool link_taken(const Link *link, uint64_t *ret)
{
        bool active = !link->shared || link->heir ||
                load_acquire(&link->shared->state) == CURSOR_ACTIVE; /* acquire: tail is valid once it is */
        uint64_t t = link->shared ? load_relaxed(&link->shared->tail) : 0; /* any recent value will do */

        *ret = MAX(t, link->tail);
        return active;
}

/* Of the messages below @end those that wait for the link, which passes by those that fell out of its window. */
static uint64_t depth_of(const Link *link, uint64_t end, uint64_t taken)
{
        uint64_t n = end > taken ? end - taken : 0;

        return link->spec.policy == RING_DROP_OLDEST ? MIN(n, (uint64_t)link->spec.queue_size) : n;
}

static __attribute__((noinline, cold)) void tell_published(const RingWriter *w, uint64_t first)
{
        uint64_t mask = w->probe_mask ? load_relaxed(w->probe_mask) : 0; /* a wish: any recent one will do */

        if (mask == PROBE_MASK_NONE || !probe_may_tell())
                return;
        for (uint64_t i = (first + mask) & ~mask; i < w->published; i += mask + 1)
                for (uint32_t l = 0; l < w->n_links; l++) {
                        const Link *link = &w->link[l];
                        uint64_t taken;

                        if (link_taken(link, &taken))
                                probe_enqueue(link->spec.id, i, depth_of(link, i + 1, taken));
                }
}

void writer_publish_head(RingWriter *w)
{
        uint64_t first = w->published;

        if (w->published == w->head)
                return;
        w->unreported += w->head - w->published;
        w->published = w->head;
        store_relaxed(&w->shared->published_bytes, w->bytes); /* counters: for status only */
        store_relaxed(&w->shared->published_pooled, w->pooled);
        fence_payload(); /* nobody looks at a slot or chunk before head has passed it: one for the whole batch */
        store_sc(&w->shared->head, w->head); /* publishes the slots; SC: then sleep epochs and states are read */
        if (probe_enqueue_wanted())
                tell_published(w, first); /* not before: somebody waits for them */
}

HOT uint64_t ring_writer_flush(RingWriter *w)
{
        uint64_t n;

        writer_publish_head(w);
        n = w->unreported;
        w->unreported = 0;
        return n;
}

/* Whether n more messages fit into the queue of every active backpressure link; moves the gate. */
static int room_look(RingWriter *w, uint32_t n, RingBlock *ret_block)
{
        uint64_t gate = UINT64_MAX;
        Link *first = NULL;

        for (uint32_t l = 0; l < w->n_links; l++) {
                Link *link = &w->link[l];
                uint64_t end;

                if (link->spec.policy != RING_BACKPRESSURE || link->violated)
                        continue;
                if (n > link->spec.queue_size)
                        return RING_E_TOO_LARGE;
                link_look(w, link);
                /* Not active: gates nothing, but has to be looked at again before the next message. */
                end = link->active ? link->tail + link->spec.queue_size : w->head + n;
                if (link->violated || end >= gate)
                        continue;
                gate = end;
                first = link;
        }
        w->gate = gate;
        if (w->head + n <= gate)
                return 0;
        if (ret_block)
                *ret_block = (RingBlock){.link = first->spec.id, .reason = ROOM_SLOT,
                        .target = w->head + n - first->spec.queue_size};
        return RING_E_FULL;
}

static inline int room_for(RingWriter *w, uint32_t n, RingBlock *ret_block)
{
        return __builtin_expect(w->head + n <= w->gate, 1) ? 0 : room_look(w, n, ret_block);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pack32() and the layouts are for little-endian machines");

static inline uint64_t pack32(uint32_t low, uint32_t high)
{
        return (uint64_t)high << 32 | low;
}

static void store_words(uint64_t *to, const void *from, uint32_t n_bytes)
{
        const uint8_t *p = from;
        uint64_t word;

        for (; n_bytes >= 8; n_bytes -= 8, p += 8) {
                memcpy(&word, p, 8);
                store_relaxed(to++, word); /* a reader that overlaps with us is caught by the sequence */
        }
        if (n_bytes) {
                word = 0;
                memcpy(&word, p, n_bytes);
                store_relaxed(to, word);
        }
}

/* struct ring_descriptor word by word. Not by way of the struct: writing its small fields and reading them back as
 * words in the same breath defeats the CPU's store forwarding, which costs more than all the rest. */
static void descriptor_write(struct ring_slot *s, const RingPost *post, const Chunk *chunk)
{
        uint32_t flags = chunk ? post->flags & ~(uint32_t)RING_FLAG_INLINE : post->flags | RING_FLAG_INLINE;
        uint32_t small = post->encoding | (uint32_t)(chunk ? chunk->segment : 0) << 16;
        uint64_t *d = s->descriptor;

        store_relaxed(&d[0], post->time_ns);
        store_relaxed(&d[1], pack32(flags, small));
        store_relaxed(&d[2], chunk ? chunk->offset : 0);
        store_relaxed(&d[3], pack32(post->payload_len, post->meta_len));
        store_relaxed(&d[4], post->type_hash);
        store_relaxed(&d[5], post->correlation);
        store_relaxed(&d[6], post->sequence);
}

static INLINE void slot_write(struct ring_slot *s, uint64_t index, const RingPost *post, const Chunk *chunk)
{
        store_relaxed(&s->seq, 2 * index + 1);
        fence_release(); /* "being written" is visible before any new word is */
        descriptor_write(s, post, chunk);
        if (!chunk && post->payload_len)
                store_words(s->bytes, post->payload, post->payload_len);
        if (!chunk && post->meta_len)
                store_words(s->bytes + (post->payload_len + 7) / 8, post->meta, post->meta_len);
        store_release(&s->seq, 2 * index + 2); /* "whole" is not visible before the words are */
}

/* Enters the chunk into the book as message head, and puts the metadata behind its payload. */
static const Chunk *place_pooled(RingWriter *w, const RingPost *post, const PoolChunk *chunk)
{
        assert(chunk->id < w->pool.n_chunks);
        if (post->meta && post->meta_len)
                memcpy((uint8_t *)chunk->data + ((post->payload_len + UINT64_C(7)) & ~UINT64_C(7)), post->meta,
                        post->meta_len);
        pool_enqueue(&w->pool, chunk->id, w->head);
        w->pooled++;
        return &w->pool.chunk[chunk->id];
}

/* Message head, which becomes the one before head. */
static inline void put(RingWriter *w, const RingPost *post, const Chunk *chunk)
{
        struct ring_slot *next = &w->shared->slot[(w->head + PREFETCH) & w->mask];

        slot_write(&w->shared->slot[w->head & w->mask], w->head, post, chunk);
        __builtin_prefetch(&next->seq, 1); /* readers have it: ask for it back early */
        if (!chunk)
                __builtin_prefetch(next->bytes, 1);
        w->bytes += post->payload_len;
        w->head++;
}

HOT int ring_writer_publish(RingWriter *w, const RingPost *post, PoolChunk *chunk, RingBlock *ret_block)
{
        const Chunk *c = NULL;
        int r;

        if (w->closed)
                return RING_E_CLOSED;
        if (extent_of(post->payload_len, post->meta_len) > (chunk ? chunk->capacity : RING_INLINE_MAX))
                return RING_E_TOO_LARGE;
        r = room_for(w, 1, ret_block);
        if (r)
                return r;

        if (chunk) {
                c = place_pooled(w, post, chunk);
                *chunk = POOL_CHUNK_INIT;
        }
        put(w, post, c);
        if (w->head - w->published >= w->n_slots - w->max_queue)
                writer_publish_head(w); /* one more would overwrite a slot inside the window of the visible head */
        return 0;
}

HOT bool ring_writer_publish_small(RingWriter *w, const void *payload, uint32_t size_bytes, uint64_t time_ns)
{
        const RingPost post = {.payload = payload, .payload_len = size_bytes, .time_ns = time_ns};

        assert(size_bytes <= RING_INLINE_MAX);
        if (w->closed || w->published != w->head || w->unreported || room_for(w, 1, NULL))
                return false;
        put(w, &post, NULL);
        w->published = w->head;
        store_relaxed(&w->shared->published_bytes, w->bytes); /* counter: for status only */
        store_sc(&w->shared->head, w->head); /* as in writer_publish_head(); the slot alone, so there is nothing to fence */
        if (probe_enqueue_wanted())
                tell_published(w, w->head - 1);
        return true;
}

int ring_writer_look(RingWriter *w, uint32_t n, uint64_t chunk_bytes, RingBlock *ret_block)
{
        int r;

        r = room_look(w, n, ret_block); /* not room_for(): a look before a sleep believes no cached gate */
        if (r || !chunk_bytes)
                return r;
        return reclaim_look(w, chunk_bytes, true, ret_block);
}

static void announce(RingWriter *w, const RingBlock *block)
{
        struct ring_shared *s = w->shared;

        w->room_epoch += 1 + (w->room_epoch & 1); /* always a new odd one: consumers ring once for each */
        store_relaxed(&s->room_link, block->any ? ROOM_LINK_ANY : block->link);
        store_relaxed(&s->room_target, block->target);
        store_relaxed(&s->room_reason, (uint32_t)block->reason);
        store_sc(&s->room_epoch, w->room_epoch); /* publishes the three; SC: before the look that follows */
}

static bool block_same(const RingBlock *a, const RingBlock *b)
{
        return a->link == b->link && a->reason == b->reason && a->target == b->target && a->any == b->any;
}

static void count_block(RingWriter *w, const RingBlock *block)
{
        if (block->reason == ROOM_CHUNK)
                store_relaxed(&w->shared->blocked_chunk, ++w->blocked_chunk); /* counters: for status only */
        else
                store_relaxed(&w->shared->blocked_slot, ++w->blocked_slot);
}

int ring_writer_arm(RingWriter *w, uint32_t n, uint64_t chunk_bytes, RingBlock *ret_block)
{
        RingBlock block, announced;
        int r;

        writer_publish_head(w);
        r = ring_writer_look(w, n, chunk_bytes, &block);
        if (r == RING_E_FULL || r == POOL_E_HELD)
                count_block(w, &block);

        for (unsigned i = 0; i < ARM_ROUNDS && (r == RING_E_FULL || r == POOL_E_HELD); i++) {
                announced = block;
                announce(w, &announced);
                r = ring_writer_look(w, n, chunk_bytes, &block);
                if ((r == RING_E_FULL || r == POOL_E_HELD) && block_same(&block, &announced))
                        break;
        }
        if (r != RING_E_FULL && r != POOL_E_HELD)
                ring_writer_disarm(w);
        else if (ret_block)
                *ret_block = block;
        return r;
}

void ring_writer_disarm(RingWriter *w)
{
        if (!(w->room_epoch & 1))
                return;
        w->room_epoch++;
        store_release(&w->shared->room_epoch, w->room_epoch); /* seen late: one superfluous ring */
}

void ring_writer_close(RingWriter *w)
{
        writer_publish_head(w);
        w->closed = true;
        store_sc(&w->shared->closed, 1); /* after head; SC: before the loads of sleep epochs */
}

HOT uint64_t ring_writer_head(const RingWriter *w)
{
        return w->head;
}

void ring_writer_count_refused(RingWriter *w)
{
        store_relaxed(&w->shared->refused, ++w->refused); /* counter: for status only */
}

bool ring_writer_take_violation(RingWriter *w, uint32_t *ret_link)
{
        for (uint32_t l = 0; l < w->n_links; l++) {
                Link *link = &w->link[l];

                if (link->violated && !link->told) {
                        link->told = true;
                        *ret_link = link->spec.id;
                        return true;
                }
        }
        return false;
}

void ring_writer_convict(RingWriter *w, uint32_t id)
{
        Link *link = link_find(w, id);

        if (!link || link->violated)
                return;
        link_violate(w, link);
        link->told = true;
        w->gate = 0;
}

int ring_writer_backlog(const RingWriter *w, uint32_t id, bool *ret_active, uint64_t *ret_backlog)
{
        const Link *link = link_find(w, id);
        uint64_t taken;

        if (!link)
                return RING_E_UNKNOWN;
        *ret_active = link_taken(link, &taken);
        *ret_backlog = *ret_active ? w->published - MIN(taken, w->published) : 0;
        return 0;
}

void ring_writer_set_probe_mask(RingWriter *w, const uint64_t *mask)
{
        w->probe_mask = mask;
}

HOT void ring_writer_set_cpu(RingWriter *w, int cpu)
{
        if (w->cpu == (uint32_t)(cpu + 1))
                return;
        w->cpu = (uint32_t)(cpu + 1);
        store_relaxed(&w->shared->cpu, w->cpu);
}

bool ring_writer_shares_cpu(const RingWriter *w, int cpu)
{
        for (uint32_t l = 0; l < w->n_links && cpu >= 0; l++) {
                const Link *link = &w->link[l];

                if (link->spec.policy == RING_BACKPRESSURE && link->shared && load_relaxed(&link->shared->cpu) == (uint32_t)cpu + 1)
                        return true;
        }
        return false;
}
