/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation and reuse of chunks. The invariant (I1): a chunk of message i is written only if floor > i and no
 * honoured claim of i exists.
 *
 * The producer stores floor (SC), then loads every claim (SC). A consumer stores its claim (SC), then loads floor
 * (SC). In the one order of all SC operations either our load comes after its store, and we honour the claim, or its
 * load comes after our store, and it sees that it was too late and lets go. Hence the two rules for a claim that was
 * not in its entry at the last scan: between the old and the new floor it counts; below the old floor its owner is
 * about to see, or has seen, that it lost.
 */
#include <assert.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hot.h"
#include "shm/shm-internal.h"
#include "shm/writer-internal.h"

#define PRESSURE_STEPS 3 /* chunks asked for one by one before more are at once */

/*
 * So much is published before it is looked, also while there are free chunks, which of it can be written again. Memory that was
 * just read is in the caches, and memory that was never written costs its pages first: 4 MB are copied in a third of the time when
 * two chunks take turns and not sixteen. Small messages pay for one look at the claims in thousands.
 */
#define COOL_BYTES (UINT64_C(4) << 20)

static void hold_drop(RingWriter *w, Link *link, unsigned k)
{
        uint32_t id = link->held_chunk[k];
        Chunk *c = &w->pool.chunk[id];

        link->held_value[k] = 0;
        link->held_bytes -= pool_chunk_size(&w->pool, id);
        if (--c->n_holds == 0)
                pool_push_free(&w->pool, id);
}

void link_drop_holds(RingWriter *w, Link *link)
{
        for (unsigned k = 0; k < CURSOR_N_CLAIMS; k++)
                if (link->held_value[k])
                        hold_drop(w, link, k);
}

/* Reads each claim of one link once; keeps what stands unchanged, lets go what does not, collects what is new. */
static uint32_t scan_link(RingWriter *w, uint32_t l, uint64_t old_floor, uint32_t n_fresh)
{
        Link *link = &w->link[l];

        for (unsigned k = 0; link->shared && k < CURSOR_N_CLAIMS; k++) {
                uint64_t v = load_sc(&link->shared->claim[k]); /* SC: after the store of floor */

                if (v && v == link->held_value[k])
                        continue;
                if (link->held_value[k])
                        hold_drop(w, link, k);
                if (v == 0 || v - 1 < old_floor || v - 1 >= w->floor || link->violated)
                        continue;
                w->fresh[n_fresh++] = (FreshClaim){.message = v - 1, .link = l, .entry = k};
        }
        return n_fresh;
}

/* Honours the fresh claims of this published chunk, as far as quotas allow. Returns whether anybody holds it. */
static bool hold_fresh(RingWriter *w, uint32_t id, uint32_t n_fresh)
{
        Chunk *c = &w->pool.chunk[id];
        uint32_t size = pool_chunk_size(&w->pool, id);

        for (uint32_t i = 0; i < n_fresh; i++) {
                const FreshClaim *f = &w->fresh[i];
                Link *link = &w->link[f->link];

                if (f->message != c->message)
                        continue;
                if (link->spec.quota_bytes && size > link->spec.quota_bytes - link->held_bytes) {
                        w->over_quota++; /* the offender alone reads what we write there next */
                        continue;
                }
                link->held_value[f->entry] = f->message + 1;
                link->held_chunk[f->entry] = id;
                link->held_bytes += size;
                c->n_holds++;
        }
        return c->n_holds > 0;
}

/* Moves the floor to @to (never back) and frees what nobody holds below it. */
static void reclaim_to(RingWriter *w, uint64_t to)
{
        uint64_t old_floor = w->floor, filter = 0;
        uint32_t n_fresh = 0, id;

        if (to > w->floor) {
                w->floor = to;
                store_sc(&w->shared->floor, to); /* SC: before the loads of claims */
        }
        for (uint32_t l = 0; l < w->n_links; l++)
                n_fresh = scan_link(w, l, old_floor, n_fresh);
        for (uint32_t i = 0; i < n_fresh; i++)
                filter |= UINT64_C(1) << (w->fresh[i].message & 63);

        while ((id = pool_front(&w->pool)) != CHUNK_NONE && w->pool.chunk[id].message < w->floor) {
                Chunk *c = &w->pool.chunk[id];

                pool_pop_front(&w->pool);
                if ((filter >> (c->message & 63) & 1) && hold_fresh(w, id, n_fresh))
                        c->state = CHUNK_HELD;
                else
                        pool_push_free(&w->pool, id);
        }
        fence_release(); /* floor is visible before new payload bytes are, also to an observer, who has no claim */
}

/* How far the floor may go: @ret_window keeps the windows of drop_oldest links, @ret_limit only backpressure tails.
 * Links are looked at afresh. */
static void floor_targets(RingWriter *w, uint64_t *ret_window, uint64_t *ret_limit)
{
        uint64_t window = w->published, limit = w->published; /* what is not flushed can never be reused */

        for (uint32_t l = 0; l < w->n_links; l++) {
                Link *link = &w->link[l];
                uint64_t t, q = link->spec.queue_size;

                link_look(w, link);
                if (!link->active)
                        continue;
                t = link->tail;
                if (link->spec.policy == RING_BACKPRESSURE)
                        limit = MIN(limit, t);
                else if (w->published > q)
                        t = MAX(t, w->published - q);
                window = MIN(window, t);
        }
        *ret_window = MIN(window, limit);
        *ret_limit = limit;
}

/* Whether a chunk is to be had from what is free, by cutting anew if need be and @may_cut. */
static bool has_chunk(RingWriter *w, uint64_t size_bytes, bool may_cut)
{
        return pool_has_free(&w->pool, pool_bucket_for(&w->pool, size_bytes), true) || (may_cut && pool_cut(&w->pool, size_bytes));
}

/*
 * Gives up windows of drop_oldest links, oldest message first, for one chunk. One by one, at first: then twice as many each time, for each
 * look at the claims has its price, and many small chunks may have to go for one large.
 */
static void press(RingWriter *w, uint64_t size_bytes, uint64_t limit)
{
        uint32_t n = 1;

        if (size_bytes > POOL_PAGE - POOL_ALIGN && !pool_could_cut(&w->pool, size_bytes, limit))
                return; /* in vain: what is claimed lies in between */
        for (unsigned i = 0;; i++) {
                uint64_t m = pool_oldest(&w->pool, size_bytes, n, w->floor, limit);

                if (m == UINT64_MAX)
                        return;
                if (i == 0)
                        w->pressure++;
                reclaim_to(w, m + 1);
                if (has_chunk(w, size_bytes, true))
                        return;
                if (i + 1 >= PRESSURE_STEPS)
                        n *= 2;
        }
}

static void block_add(RingBlock *block, bool *found, uint32_t link, uint64_t target)
{
        if (!*found) {
                *block = (RingBlock){.link = link, .reason = ROOM_CHUNK, .target = target};
                *found = true;
                return;
        }
        block->target = MIN(block->target, target);
        block->any |= block->link != link;
}

/* Names who keeps the chunks that would help, beside windows that can be given up. False: nobody but the producer itself. */
static bool find_block(RingWriter *w, uint64_t size_bytes, uint64_t limit, RingBlock *ret)
{
        uint64_t m = pool_oldest(&w->pool, size_bytes, 1, MAX(w->floor, limit), UINT64_MAX);
        bool found = false;

        for (uint32_t l = 0; l < w->n_links; l++) {
                Link *link = &w->link[l];

                if (m != UINT64_MAX && link->active && link->spec.policy == RING_BACKPRESSURE && link->tail <= m)
                        block_add(ret, &found, link->spec.id, m + 1);
                for (unsigned k = 0; k < CURSOR_N_CLAIMS; k++)
                        if (link->held_value[k] && pool_helps(&w->pool, link->held_chunk[k], size_bytes))
                                block_add(ret, &found, link->spec.id, UINT64_MAX);
        }
        return found;
}

static void look_early(RingWriter *w)
{
        uint64_t window, limit;

        if (w->pool.queue_bytes < w->cool_bytes + COOL_BYTES)
                return;
        floor_targets(w, &window, &limit);
        reclaim_to(w, window);
        w->cool_bytes = w->pool.queue_bytes; /* is still to be read */
}

HOT void ring_writer_tidy(RingWriter *w)
{
        if (w->n_links > 0) /* else a message that was just published would be gone before any observer had seen it */
                look_early(w);
}

HOT int reclaim_look(RingWriter *w, uint64_t size_bytes, bool may_press, RingBlock *ret_block)
{
        uint32_t bucket = pool_bucket_for(&w->pool, size_bytes);
        RingBlock block = {};
        uint64_t window, limit;

        if (bucket == w->pool.n_buckets && !pool_can_cut(&w->pool, size_bytes))
                return POOL_E_TOO_LARGE;
        if (pool_has_free(&w->pool, bucket, false)) {
                look_early(w);
                return 0;
        }

        w->reclaims++;
        writer_publish_head(w); /* chunks of messages nobody can see yet would wait for themselves */
        floor_targets(w, &window, &limit);
        reclaim_to(w, window);
        if (!has_chunk(w, size_bytes, may_press) && may_press)
                press(w, size_bytes, limit);
        w->cool_bytes = w->pool.queue_bytes;
        store_relaxed(&w->shared->reclaims, w->reclaims); /* counters: for status only */
        store_relaxed(&w->shared->pressure, w->pressure);
        store_relaxed(&w->shared->over_quota, w->over_quota);
        if (has_chunk(w, size_bytes, false))
                return 0;

        if (!find_block(w, size_bytes, limit, &block))
                return POOL_E_FULL;
        if (ret_block)
                *ret_block = block;
        return POOL_E_HELD;
}

static int alloc(RingWriter *w, uint64_t size_bytes, bool may_press, PoolChunk *ret_chunk, RingBlock *ret_block)
{
        uint32_t id;
        int r;

        r = reclaim_look(w, size_bytes, may_press, ret_block);
        if (r)
                return r;
        id = pool_pop(&w->pool, pool_bucket_for(&w->pool, size_bytes), true);
        if (w->pool.spare != CHUNK_NONE) /* else nothing was cut */
                pool_trim(&w->pool, id, size_bytes);
        *ret_chunk = (PoolChunk){
                .data = pool_data(&w->pool, id),
                .capacity = pool_chunk_size(&w->pool, id),
                .id = id,
        };
        return 0;
}

HOT int ring_writer_alloc(RingWriter *w, uint64_t size_bytes, PoolChunk *ret_chunk, RingBlock *ret_block)
{
        return alloc(w, size_bytes, true, ret_chunk, ret_block);
}

HOT int ring_writer_alloc_gently(RingWriter *w, uint64_t size_bytes, PoolChunk *ret_chunk)
{
        return alloc(w, size_bytes, false, ret_chunk, NULL);
}

void ring_writer_give_back(RingWriter *w, PoolChunk *chunk)
{
        if (chunk->data) {
                assert(chunk->id < w->pool.n_chunks && w->pool.chunk[chunk->id].state == CHUNK_OWNED); /* another may have it by now */
                pool_push_free(&w->pool, chunk->id);
        }
        *chunk = POOL_CHUNK_INIT;
}

uint32_t ring_writer_chunk_segment(const RingWriter *w, const PoolChunk *chunk)
{
        return w->pool.chunk[chunk->id].segment;
}
