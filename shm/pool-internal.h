/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's private book of chunks: which are free, in its own hands, published (in message order) or held by
 * claims. Plain memory; who may free what is decided in reclaim.c.
 */
#ifndef TG_SHM_POOL_INTERNAL_H
#define TG_SHM_POOL_INTERNAL_H

#include "shm/pool.h"

#define CHUNK_NONE UINT32_MAX
#define POOL_PAGE  UINT64_C(4096)

typedef enum ChunkState {
        CHUNK_FREE = 0,
        CHUNK_OWNED,     /* allocated, not published */
        CHUNK_PUBLISHED, /* in the queue of published chunks */
        CHUNK_HELD,      /* below the floor, out of the queue, n_holds > 0 */
        CHUNK_SPARE,     /* no memory: what is left of chunks that became one, see pool-cut.c */
} ChunkState;

typedef struct Chunk {
        uint64_t message; /* PUBLISHED, HELD */
        uint64_t offset;
        uint32_t next;  /* FREE, SPARE */
        uint32_t after; /* the one behind it, of those of a page and more in its segment; CHUNK_NONE: none */
        uint32_t n_holds;
        uint16_t bucket;
        uint8_t segment;
        uint8_t state; /* ChunkState */
} Chunk;

typedef struct PoolBucket { /* all chunks of one size, over all segments; at least one */
        uint32_t chunk_size;
        uint32_t first_free;
        uint32_t n_chunks;
} PoolBucket;

/* Of a segment, the chunks of a page and more: they lie one behind the other, without gaps, and may be cut anew. */
typedef struct PoolPages {
        uint32_t first; /* by address */
        uint64_t bytes; /* of all of them together, for ever; 0: there are none */
        bool cut;       /* they were */
} PoolPages;

typedef struct Pool {
        Chunk *chunk;
        uint32_t n_chunks;
        uint32_t *queue; /* ids of PUBLISHED chunks in message order: a circle of n_chunks entries */
        uint32_t queue_first, n_queue;
        uint64_t queue_bytes; /* of all chunks in the queue */
        PoolBucket *bucket; /* ascending by chunk_size; room for every chunk, or for as many sizes as there can be */
        uint32_t n_buckets;
        uint32_t spare;         /* list of SPARE ones */
        uint64_t n_freed;       /* how often a chunk became FREE */
        uint8_t *segment[POOL_MAX_SEGMENTS];
        uint32_t n_segments;
        PoolPages pages[POOL_MAX_SEGMENTS];
        uint64_t most_pages;    /* bytes of the largest of these */
        uint64_t uncut_at;      /* n_freed when no run of FREE chunks was long enough ... */
        uint64_t uncut_bytes;   /* ... for so much */
} Pool;

int pool_add_segment(Pool *pool, const Region *segment); /* 0, RING_E_INVALID, RING_E_CAPACITY, -ENOMEM */
void pool_done(Pool *pool);

uint32_t pool_bucket_for(const Pool *pool, uint64_t size_bytes); /* n_buckets: too large */
bool pool_has_free(const Pool *pool, uint32_t bucket, bool or_larger);
uint32_t pool_pop(Pool *pool, uint32_t bucket, bool or_larger); /* FREE -> OWNED; CHUNK_NONE */
void pool_push_free(Pool *pool, uint32_t id);                   /* any -> FREE */
void pool_enqueue(Pool *pool, uint32_t id, uint64_t message);   /* OWNED -> PUBLISHED; messages only grow */
uint32_t pool_front(const Pool *pool);                          /* oldest PUBLISHED; CHUNK_NONE */
void pool_pop_front(Pool *pool);                                /* the caller frees or holds it */

/**
 * pool_oldest() - the @n-th of the published messages from @from on, and before @end, whose chunks would help to hold @size_bytes
 *
 * The last of them if there are not so many; UINT64_MAX: none.
 */
uint64_t pool_oldest(const Pool *pool, uint64_t size_bytes, uint32_t n, uint64_t from, uint64_t end);

uint32_t pool_bucket_make(Pool *pool, uint32_t chunk_size); /* the bucket of this size; the caller puts a chunk into it */
void pool_bucket_drop(Pool *pool, uint32_t bucket);         /* one that has no chunk left */

/* -------- pool-cut.c -------- */

/* pool_can_cut() - whether some segment can hold @size_bytes in one chunk, once enough of it is free. */
bool pool_can_cut(const Pool *pool, uint64_t size_bytes);

/* pool_helps() - whether this chunk, free, could be the one for @size_bytes or become a part of it. */
bool pool_helps(const Pool *pool, uint32_t id, uint64_t size_bytes);

/* pool_could_cut() - whether it could be held if all published messages before @end were given up, and nobody claimed them. */
bool pool_could_cut(const Pool *pool, uint64_t size_bytes, uint64_t end);

/* pool_cut() - make a FREE chunk for @size_bytes, when there is none, of FREE ones that are too small. False: they do not suffice.
 * Its cost is that of a look at each chunk of a page and more, and nothing where none became free since the last time. */
bool pool_cut(Pool *pool, uint64_t size_bytes);

/* pool_trim() - give back what an OWNED chunk has beyond @size_bytes, if that is much and its segment was cut anew already. */
void pool_trim(Pool *pool, uint32_t id, uint64_t size_bytes);

static inline uint8_t *pool_data(const Pool *pool, uint32_t id)
{
        return pool->segment[pool->chunk[id].segment] + pool->chunk[id].offset;
}

static inline uint32_t pool_chunk_size(const Pool *pool, uint32_t id)
{
        return pool->bucket[pool->chunk[id].bucket].chunk_size;
}

#endif
