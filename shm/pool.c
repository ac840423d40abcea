/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/hot.h"
#include "shm/pool-internal.h"
#include "shm/ring.h"

#define PAGE POOL_PAGE

/* Sizes that can be there at once: those below a page, and multiples of a page, which are different ones and in POOL_MAX_SEGMENTS
 * segments of REGION_MAX_SIZE all the same. */
#define MAX_BUCKETS 4096u

PoolClass pool_class_for(uint64_t message_bytes, uint32_t n_chunks)
{
        uint64_t unit = message_bytes > PAGE - POOL_ALIGN ? PAGE : POOL_ALIGN;
        uint64_t size = message_bytes ? (MIN(message_bytes, REGION_MAX_SIZE) + unit - 1) / unit * unit : unit;

        return (PoolClass){.chunk_size = (uint32_t)size, .n_chunks = n_chunks};
}

uint64_t pool_roomy(uint64_t message_bytes)
{
        uint64_t size = MIN(MAX(message_bytes, PAGE), REGION_MAX_SIZE), step = PAGE;

        while (step * 16 <= size)
                step *= 2;
        return MIN((size + step - 1) / step * step, REGION_MAX_SIZE);
}

static uint64_t chunk_align(uint32_t chunk_size)
{
        return chunk_size >= PAGE ? PAGE : POOL_ALIGN;
}

static bool class_valid(const PoolClass *c)
{
        return c->chunk_size > 0 && c->chunk_size <= REGION_MAX_SIZE && c->n_chunks > 0 &&
               c->n_chunks <= POOL_MAX_CHUNKS && c->chunk_size % chunk_align(c->chunk_size) == 0;
}

/* Where the chunks of a class begin, given where the class before it ended. */
static uint64_t class_start(uint64_t end, const PoolClass *c)
{
        uint64_t align = chunk_align(c->chunk_size);

        return (end + align - 1) / align * align;
}

uint64_t pool_size(const PoolClass *classes, unsigned n_classes)
{
        uint64_t end = POOL_DATA_OFFSET, n = 0;

        if (n_classes < 1 || n_classes > POOL_MAX_CLASSES)
                return 0;
        for (unsigned i = 0; i < n_classes; i++) {
                if (!class_valid(&classes[i]) || (i && classes[i].chunk_size <= classes[i - 1].chunk_size))
                        return 0;
                end = class_start(end, &classes[i]) + (uint64_t)classes[i].chunk_size * classes[i].n_chunks;
                n += classes[i].n_chunks;
                if (end > REGION_MAX_SIZE || n > POOL_MAX_CHUNKS)
                        return 0;
        }
        return (end + PAGE - 1) / PAGE * PAGE;
}

uint64_t pool_largest(const PoolClass *classes, unsigned n_classes)
{
        uint64_t pages = 0, largest = 0;

        for (unsigned i = 0; i < n_classes; i++) {
                largest = MAX(largest, (uint64_t)classes[i].chunk_size);
                pages += classes[i].chunk_size >= PAGE ? (uint64_t)classes[i].chunk_size * classes[i].n_chunks : 0;
        }
        return MAX(largest, pages);
}

int pool_create(const PoolClass *classes, unsigned n_classes, int *ret_fd)
{
        uint64_t layout[REGION_N_LAYOUT] = {};
        uint64_t size = pool_size(classes, n_classes);

        if (!size)
                return REGION_E_SIZE;
        for (unsigned i = 0; i < n_classes; i++)
                layout[i] = (uint64_t)classes[i].chunk_size << 32 | classes[i].n_chunks;
        return region_create(REGION_POOL, size, layout, ret_fd);
}

/* The classes as the header's copy tells them; 0 unless they make exactly the sealed size. */
static unsigned classes_of(const Region *segment, PoolClass classes[POOL_MAX_CLASSES])
{
        unsigned n = 0;

        if (!segment->map || !segment->writable || segment->kind != REGION_POOL)
                return 0;
        while (n < POOL_MAX_CLASSES && segment->layout[n]) {
                classes[n] = (PoolClass){.chunk_size = (uint32_t)(segment->layout[n] >> 32),
                        .n_chunks = (uint32_t)segment->layout[n]};
                n++;
        }
        return pool_size(classes, n) == segment->size ? n : 0;
}

/* Buckets stay sorted, so chunks of those above move up by one. */
uint32_t pool_bucket_make(Pool *pool, uint32_t chunk_size)
{
        uint32_t b = 0;

        while (b < pool->n_buckets && pool->bucket[b].chunk_size < chunk_size)
                b++;
        if (b < pool->n_buckets && pool->bucket[b].chunk_size == chunk_size)
                return b;
        assert(pool->n_buckets < MIN(pool->n_chunks, MAX_BUCKETS));
        memmove(&pool->bucket[b + 1], &pool->bucket[b], (pool->n_buckets - b) * sizeof(pool->bucket[0]));
        pool->bucket[b] = (PoolBucket){.chunk_size = chunk_size, .first_free = CHUNK_NONE};
        pool->n_buckets++;
        for (uint32_t i = 0; i < pool->n_chunks; i++)
                pool->chunk[i].bucket += pool->chunk[i].bucket >= b;
        return b;
}

void pool_bucket_drop(Pool *pool, uint32_t b)
{
        assert(pool->bucket[b].n_chunks == 0);
        pool->n_buckets--;
        memmove(&pool->bucket[b], &pool->bucket[b + 1], (pool->n_buckets - b) * sizeof(pool->bucket[0]));
        for (uint32_t i = 0; i < pool->n_chunks; i++)
                pool->chunk[i].bucket -= pool->chunk[i].bucket > b;
}

static int grow(Pool *pool, uint32_t n_more)
{
        uint32_t n = pool->n_chunks + n_more;
        PoolBucket *bucket;
        uint32_t *queue;
        Chunk *chunk;

        chunk = realloc(pool->chunk, (size_t)n * sizeof(*chunk));
        if (!chunk)
                return error_origin(-ENOMEM);
        pool->chunk = chunk; /* larger than n_chunks says: harmless if the next step fails */
        bucket = realloc(pool->bucket, MIN(n, MAX_BUCKETS) * sizeof(*bucket));
        if (!bucket)
                return error_origin(-ENOMEM);
        pool->bucket = bucket;

        queue = malloc((size_t)n * sizeof(*queue));
        if (!queue)
                return error_origin(-ENOMEM);
        for (uint32_t i = 0; i < pool->n_queue; i++) /* the circle is larger now: lay it out from the start */
                queue[i] = pool->queue[(pool->queue_first + i) % pool->n_chunks];
        free(pool->queue);
        pool->queue = queue;
        pool->queue_first = 0;
        return 0;
}

static void add_class(Pool *pool, const PoolClass *c, uint64_t start)
{
        uint32_t first = pool->n_chunks, b;

        pool->n_chunks += c->n_chunks;
        for (uint32_t i = 0; i < c->n_chunks; i++)
                pool->chunk[first + i] = (Chunk){.offset = start + (uint64_t)i * c->chunk_size,
                        .segment = (uint8_t)pool->n_segments, .next = CHUNK_NONE, .after = CHUNK_NONE};
        b = pool_bucket_make(pool, c->chunk_size);
        pool->bucket[b].n_chunks += c->n_chunks;
        for (uint32_t i = 0; i < c->n_chunks; i++)
                pool->chunk[first + i].bucket = (uint16_t)b;
        for (uint32_t i = 0; i < c->n_chunks; i++) /* lowest offset first out */
                pool_push_free(pool, pool->n_chunks - 1 - i);
}

/* Those of a page and more are the last ones of a segment, and there is no gap between them. */
static void add_pages(Pool *pool, const PoolClass *c, uint32_t first)
{
        PoolPages *pages = &pool->pages[pool->n_segments];

        if (c->chunk_size < PAGE)
                return;
        if (!pages->bytes)
                pages->first = first;
        else
                pool->chunk[first - 1].after = first;
        for (uint32_t id = first; id + 1 < pool->n_chunks; id++)
                pool->chunk[id].after = id + 1;
        pages->bytes += (uint64_t)c->chunk_size * c->n_chunks;
        pool->most_pages = MAX(pool->most_pages, pages->bytes);
}

int pool_add_segment(Pool *pool, const Region *segment)
{
        PoolClass classes[POOL_MAX_CLASSES];
        unsigned n_classes = classes_of(segment, classes);
        uint64_t end = POOL_DATA_OFFSET, n_more = 0;
        int r;

        if (!n_classes)
                return RING_E_INVALID;
        if (pool->n_segments == POOL_MAX_SEGMENTS)
                return RING_E_CAPACITY;
        for (unsigned i = 0; i < n_classes; i++)
                n_more += classes[i].n_chunks;
        r = grow(pool, (uint32_t)n_more);
        if (r)
                return error_fold(r);

        if (!pool->n_chunks)
                pool->spare = CHUNK_NONE;
        pool->segment[pool->n_segments] = segment->map;
        for (unsigned i = 0; i < n_classes; i++) {
                uint64_t start = class_start(end, &classes[i]);
                uint32_t first = pool->n_chunks;

                add_class(pool, &classes[i], start);
                add_pages(pool, &classes[i], first);
                end = start + (uint64_t)classes[i].chunk_size * classes[i].n_chunks;
        }
        pool->n_segments++;
        return 0;
}

void pool_done(Pool *pool)
{
        free(pool->chunk);
        free(pool->queue);
        free(pool->bucket);
        *pool = (Pool){};
}

HOT uint32_t pool_bucket_for(const Pool *pool, uint64_t size_bytes)
{
        uint32_t b = 0;

        while (b < pool->n_buckets && pool->bucket[b].chunk_size < size_bytes)
                b++;
        return b;
}

HOT bool pool_has_free(const Pool *pool, uint32_t bucket, bool or_larger)
{
        for (uint32_t b = bucket; b < pool->n_buckets; b++) {
                if (pool->bucket[b].first_free != CHUNK_NONE)
                        return true;
                if (!or_larger)
                        break;
        }
        return false;
}

HOT uint32_t pool_pop(Pool *pool, uint32_t bucket, bool or_larger)
{
        for (uint32_t b = bucket; b < pool->n_buckets; b++) {
                uint32_t id = pool->bucket[b].first_free;

                if (id != CHUNK_NONE) {
                        pool->bucket[b].first_free = pool->chunk[id].next;
                        pool->chunk[id].state = CHUNK_OWNED;
                        return id;
                }
                if (!or_larger)
                        break;
        }
        return CHUNK_NONE;
}

void pool_push_free(Pool *pool, uint32_t id)
{
        Chunk *c = &pool->chunk[id];
        PoolBucket *b = &pool->bucket[c->bucket];

        c->state = CHUNK_FREE;
        c->next = b->first_free; /* last in, first out: the warmest cache lines are written next */
        b->first_free = id;
        pool->n_freed++;
}

HOT void pool_enqueue(Pool *pool, uint32_t id, uint64_t message)
{
        Chunk *c = &pool->chunk[id];
        uint32_t at = pool->queue_first + pool->n_queue;

        assert(c->state == CHUNK_OWNED);
        c->state = CHUNK_PUBLISHED;
        c->message = message;
        c->n_holds = 0;
        pool->queue[at < pool->n_chunks ? at : at - pool->n_chunks] = id; /* at most n_chunks are published */
        pool->n_queue++;
        pool->queue_bytes += pool_chunk_size(pool, id);
}

uint32_t pool_front(const Pool *pool)
{
        return pool->n_queue ? pool->queue[pool->queue_first] : CHUNK_NONE;
}

void pool_pop_front(Pool *pool)
{
        assert(pool->n_queue);
        pool->queue_bytes -= pool_chunk_size(pool, pool_front(pool));
        pool->queue_first = pool->queue_first + 1 < pool->n_chunks ? pool->queue_first + 1 : 0;
        pool->n_queue--;
}

uint64_t pool_oldest(const Pool *pool, uint64_t size_bytes, uint32_t n, uint64_t from, uint64_t end)
{
        uint64_t last = UINT64_MAX;

        for (uint32_t i = 0; i < pool->n_queue && n > 0; i++) {
                uint32_t id = pool->queue[(pool->queue_first + i) % pool->n_chunks];
                const Chunk *c = &pool->chunk[id];

                if (c->message >= end)
                        break;
                if (c->message < from || !pool_helps(pool, id, size_bytes))
                        continue;
                last = c->message;
                n--;
        }
        return last;
}
