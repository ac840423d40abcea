/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting anew. A pool that may not grow any more is full of chunks for the messages that it grew with; a larger one is put where
 * several of those lie side by side, free, and a small one is cut from a large chunk again. Without this 1 MB and then 4 MB on one output
 * meant that the second size was refused for ever.
 *
 * This is the producer's private matter. A reader knows no chunks: it has a segment, an offset and a length from a descriptor, held
 * against the segment's sealed size, and whether these bytes are still the message's is told by floor and claim alone. So the
 * invariant (I1, reclaim.c) is one of bytes: a byte that message i was given is written only if floor > i and no honoured claim of i
 * exists. A FREE chunk is just that: all of its bytes. What is made of FREE chunks alone is as free as they were, wherever the borders
 * between them are drawn. A reader that still has the descriptor of such a message, and has claimed it too late, finds the floor past it
 * and reads nothing; one whose claim was honoured keeps its chunk HELD, which is in no run. tests/models/recut.pml checks it.
 *
 * Chunks of less than a page stay as they are: those of a page and more lie behind them, and fill their part of the segment without a
 * gap, before and after. Their records in the book are used again, so nothing is allocated, and there are never more chunks than at
 * the beginning: the circle of published ones stays long enough.
 */
#include <assert.h>

#include "base/cleanup.h"
#include "shm/pool-internal.h"

typedef struct Run { /* chunks side by side */
        uint32_t first;
        uint32_t n; /* 0: there is none */
        uint64_t bytes;
} Run;

static uint64_t in_pages(uint64_t size_bytes)
{
        return (size_bytes + POOL_PAGE - 1) / POOL_PAGE * POOL_PAGE;
}

bool pool_can_cut(const Pool *pool, uint64_t size_bytes)
{
        return size_bytes <= pool->most_pages && in_pages(size_bytes) <= pool->most_pages;
}

bool pool_helps(const Pool *pool, uint32_t id, uint64_t size_bytes)
{
        uint32_t size = pool_chunk_size(pool, id);

        return size >= size_bytes || (size >= POOL_PAGE && in_pages(size_bytes) <= pool->pages[pool->chunk[id].segment].bytes);
}

static bool run_is_better(const Run *a, const Run *b)
{
        return b->n == 0 || a->n < b->n || (a->n == b->n && a->bytes < b->bytes);
}

static bool is_or_can_be_free(const Chunk *c, uint64_t end)
{
        return c->state == CHUNK_FREE || (c->state == CHUNK_PUBLISHED && c->message < end);
}

/*
 * Of the runs that hold @bytes the one of fewest chunks: those that are close to the size are used up first. Of FREE chunks, and of those
 * whose messages are before @end.
 */
static Run find_run(const Pool *pool, uint64_t bytes, uint64_t end)
{
        Run best = {};

        for (uint32_t s = 0; s < pool->n_segments; s++) {
                Run run = {};

                if (!pool->segment[s] || pool->pages[s].bytes < bytes)
                        continue;
                for (uint32_t id = pool->pages[s].first; id != CHUNK_NONE; id = pool->chunk[id].after) {
                        if (!is_or_can_be_free(&pool->chunk[id], end)) {
                                run = (Run){};
                                continue;
                        }
                        if (run.n++ == 0)
                                run.first = id;
                        run.bytes += pool_chunk_size(pool, id);
                        while (run.bytes - pool_chunk_size(pool, run.first) >= bytes) {
                                run.bytes -= pool_chunk_size(pool, run.first);
                                run.first = pool->chunk[run.first].after;
                                run.n--;
                        }
                        if (run.bytes >= bytes && run_is_better(&run, &best))
                                best = run;
                }
        }
        return best;
}

bool pool_could_cut(const Pool *pool, uint64_t size_bytes, uint64_t end)
{
        return pool_can_cut(pool, size_bytes) && find_run(pool, in_pages(size_bytes), end).n > 0;
}

static void leave_bucket(Pool *pool, uint32_t id)
{
        uint32_t b = pool->chunk[id].bucket;

        if (--pool->bucket[b].n_chunks == 0)
                pool_bucket_drop(pool, b);
}

static void enter_bucket(Pool *pool, uint32_t id, uint64_t size)
{
        uint32_t b = pool_bucket_make(pool, (uint32_t)size);

        pool->bucket[b].n_chunks++;
        pool->chunk[id].bucket = (uint16_t)b;
}

static void unlist_spare(Pool *pool)
{
        for (uint32_t b = 0; b < pool->n_buckets; b++) {
                uint32_t *id = &pool->bucket[b].first_free;

                while (*id != CHUNK_NONE)
                        if (pool->chunk[*id].state == CHUNK_SPARE)
                                *id = pool->chunk[*id].next;
                        else
                                id = &pool->chunk[*id].next;
        }
}

/* All of a run but its first become spare, and that is in no bucket. Returns what lies behind the run. */
static uint32_t dissolve(Pool *pool, const Run *run)
{
        uint32_t id = run->first, behind;

        for (uint32_t i = 0; i < run->n; i++, id = pool->chunk[id].after)
                pool->chunk[id].state = CHUNK_SPARE;
        behind = id;
        unlist_spare(pool); /* goes by the links that are set below */
        id = run->first;
        for (uint32_t i = 0; i < run->n; i++, id = pool->chunk[id].after) {
                leave_bucket(pool, id);
                if (i == 0)
                        continue;
                pool->chunk[id].next = pool->spare;
                pool->spare = id;
        }
        return behind;
}

/* A FREE chunk of the last @bytes of chunk @id, which has @size beside them. */
static void add_rest(Pool *pool, uint32_t id, uint64_t size, uint64_t bytes, uint32_t behind)
{
        uint32_t rest = pool->spare;
        Chunk *c = &pool->chunk[rest];

        pool->spare = c->next;
        *c = (Chunk){.offset = pool->chunk[id].offset + size, .segment = pool->chunk[id].segment, .after = behind};
        pool->chunk[id].after = rest;
        enter_bucket(pool, rest, bytes);
        pool_push_free(pool, rest);
}

bool pool_cut(Pool *pool, uint64_t size_bytes)
{
        uint64_t bytes = in_pages(size_bytes), size;
        uint32_t behind;
        Run run;

        if (!pool_can_cut(pool, size_bytes) || (pool->uncut_at == pool->n_freed && bytes >= pool->uncut_bytes))
                return false;
        run = find_run(pool, bytes, 0);
        if (!run.n) {
                pool->uncut_at = pool->n_freed;
                pool->uncut_bytes = bytes;
                return false;
        }
        assert(run.n > 1); /* else the caller had one */
        pool->pages[pool->chunk[run.first].segment].cut = true;
        size = MIN(pool_roomy(size_bytes), run.bytes);
        behind = dissolve(pool, &run);
        pool->chunk[run.first].after = behind;
        if (size < run.bytes)
                add_rest(pool, run.first, size, run.bytes - size, behind);
        enter_bucket(pool, run.first, size);
        pool_push_free(pool, run.first);
        return true;
}

void pool_trim(Pool *pool, uint32_t id, uint64_t size_bytes)
{
        uint64_t now = pool_chunk_size(pool, id), size = pool_roomy(size_bytes);

        if (pool->spare == CHUNK_NONE || now < POOL_PAGE || now / 2 < size || !pool->pages[pool->chunk[id].segment].cut)
                return;
        assert(pool->chunk[id].state == CHUNK_OWNED);
        leave_bucket(pool, id);
        add_rest(pool, id, size, now - size, pool->chunk[id].after);
        enter_bucket(pool, id, size);
}
