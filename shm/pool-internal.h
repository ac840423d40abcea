/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's private book of chunks: which are free, in its own hands, published (in message order) or held by
 * claims. Plain memory; who may free what is decided in reclaim.c.
 */
#ifndef TG_SHM_POOL_INTERNAL_H
#define TG_SHM_POOL_INTERNAL_H

#include "shm/pool.h"

#define CHUNK_NONE UINT32_MAX

typedef enum ChunkState {
        CHUNK_FREE = 0,
        CHUNK_OWNED,     /* allocated, not published */
        CHUNK_PUBLISHED, /* in the queue of published chunks */
        CHUNK_HELD,      /* below the floor, out of the queue, n_holds > 0 */
} ChunkState;

typedef struct Chunk {
        uint64_t message; /* PUBLISHED, HELD */
        uint64_t offset;
        uint32_t next; /* FREE */
        uint32_t n_holds;
        uint16_t segment;
        uint8_t bucket;
        uint8_t state; /* ChunkState */
} Chunk;

typedef struct PoolBucket { /* all chunks of one size, over all segments */
        uint32_t chunk_size;
        uint32_t first_free;
        uint32_t n_busy; /* PUBLISHED or HELD */
} PoolBucket;

typedef struct Pool {
        Chunk *chunk;
        uint32_t n_chunks;
        uint32_t *queue; /* ids of PUBLISHED chunks in message order: a circle of n_chunks entries */
        uint32_t queue_first, n_queue;
        uint64_t queue_bytes; /* of all chunks in the queue */
        PoolBucket bucket[POOL_MAX_CLASSES * POOL_MAX_SEGMENTS]; /* ascending by chunk_size */
        uint32_t n_buckets;
        uint8_t *segment[POOL_MAX_SEGMENTS];
        uint32_t n_segments;
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

/* pool_oldest() - the oldest published message from @from on whose chunk is of @bucket or larger; UINT64_MAX: none.
 * */
uint64_t pool_oldest(const Pool *pool, uint32_t bucket, uint64_t from);

static inline uint8_t *pool_data(const Pool *pool, uint32_t id)
{
        return pool->segment[pool->chunk[id].segment] + pool->chunk[id].offset;
}

static inline uint32_t pool_chunk_size(const Pool *pool, uint32_t id)
{
        return pool->bucket[pool->chunk[id].bucket].chunk_size;
}

#endif
