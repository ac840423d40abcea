/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pool segments: chunks of a few sizes for payloads that do not fit into a slot. What is free and what is in use is
 * the producer's private bookkeeping (writer.h); the shared memory holds the header and payload bytes, nothing else.
 * A reader needs the segment's sealed size alone.
 *
 * A chunk holds [payload][padding to 8][metadata]. Chunks, hence payloads, start at multiples of 64 bytes, those of
 * 4 KiB and more at multiples of 4 KiB. These are cut anew where sizes change and no segment can be added (pool-cut.c): the classes in
 * the header are what a segment begins with.
 */
#ifndef TG_SHM_POOL_H
#define TG_SHM_POOL_H

#include "shm/region.h"

#define POOL_ALIGN        64u
#define POOL_DATA_OFFSET  UINT64_C(4096) /* the first chunk: the header keeps its page to itself */
#define POOL_MAX_CLASSES  REGION_N_LAYOUT
#define POOL_MAX_SEGMENTS 16u
#define POOL_MAX_CHUNKS   (1u << 20) /* per segment */

enum {
        POOL_E_TOO_LARGE = 32, /* no segment has a chunk of that size, or could have one: add one, or refuse the message */
        POOL_E_FULL,           /* all suitable chunks are in the producer's own hands, not published yet */
        POOL_E_HELD,           /* a consumer's claim or a backpressure tail is in the way; the block says whose */
};

typedef struct PoolClass {
        uint32_t chunk_size; /* bytes; multiple of POOL_ALIGN, and of 4096 from 4096 up */
        uint32_t n_chunks;   /* 1.. */
} PoolClass;

/**
 * pool_class_for() - the class that holds messages of up to @message_bytes (payload + metadata), @n_chunks times
 *
 * Rounds up to what alignment needs: 64 below 4 KiB, 4 KiB from there. To never drop for want of memory take n_chunks
 * = queue_size + CURSOR_N_CLAIMS + 2 of the largest message.
 */
PoolClass pool_class_for(uint64_t message_bytes, uint32_t n_chunks);

/**
 * pool_roomy() - the chunk size to ask for when a pool grows for messages of @message_bytes
 *
 * Up to an eighth more, in steps of which a power of two has eight: messages that vary a little share one size, and
 * sizes from one page to REGION_MAX_SIZE are 150 at most.
 */
uint64_t pool_roomy(uint64_t message_bytes);

/**
 * pool_size() - bytes of a segment with these classes
 * @classes:   ascending by chunk_size
 * @n_classes: 1..POOL_MAX_CLASSES
 *
 * Return: the size, or 0 when the classes are not valid or need more than REGION_MAX_SIZE.
 */
uint64_t pool_size(const PoolClass *classes, unsigned n_classes);

/* pool_largest() - bytes of the largest message that a segment with these classes can hold, in a chunk of its own or cut anew. */
uint64_t pool_largest(const PoolClass *classes, unsigned n_classes);

/* pool_create() - region_create() of such a segment; the classes stand in its header. REGION_E_SIZE when not valid.
 * */
int pool_create(const PoolClass *classes, unsigned n_classes, int *ret_fd);

/* A chunk in the producer's hands, from ring_writer_alloc() until it is published or given back. */
typedef struct PoolChunk {
        void *data;        /* aligned to 64 bytes; NULL: none */
        uint64_t capacity; /* bytes for payload, padding and metadata together */
        uint32_t id;       /* private */
} PoolChunk;

#define POOL_CHUNK_INIT ((PoolChunk){.data = NULL})

#endif
