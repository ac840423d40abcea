/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The producer's end of one output: ring, pool and the cursors of the links it feeds. Publishes, gates by
 * backpressure cursors, reclaims chunks by floor and claims. Does not wait, poll, send, lock, log, or allocate after
 * setup (setup: init, add_segment). One thread at a time per writer (the library's lock per output).
 *
 * Sending one message:
 *
 *   ring_writer_publish(w, &post, NULL, &block)             up to RING_INLINE_MAX bytes, or
 *   ring_writer_alloc(w, bytes, &chunk, &block), fill it,
 *   ring_writer_publish(w, &post, &chunk, &block)
 *   ring_writer_flush(w)                                    once per batch
 *   for each peer node fed by it: if (bell_peer_must_ring(p)) ring it
 *
 * When one says RING_E_FULL or POOL_E_HELD, wait:
 *
 *   r = ring_writer_arm(w, 1, bytes)   announces whom we wait for, then looks again; every time before polling
 *   r == 0: there is room now; else poll(the doorbells of the peers, <= 10 ms and <= the deadline)
 *   ring_writer_disarm(w); try again; look once more before reporting a timeout
 *
 * The room word is its own epoch: the node's bell stays even unless it wants messages at the same time.
 *
 * One waiter per writer at a time: the room word names one link. A second sending thread waits for the first.
 */
#ifndef TG_SHM_WRITER_H
#define TG_SHM_WRITER_H

#include "shm/ring.h"

typedef struct RingWriter RingWriter;

/* Whom a blocked send waits for. */
typedef struct RingBlock {
        uint32_t link;   /* RingLinkSpec.id */
        RoomReason reason;
        uint64_t target; /* the tail that would help; UINT64_MAX: only a release can */
        bool any;        /* ROOM_CHUNK: other links could help as well; `link` is the first of them */
} RingBlock;

typedef struct RingLinkSpec {
        uint32_t id;          /* unique within the output; the supervisor's number */
        uint32_t queue_size;  /* 1..n_slots - 1 */
        RingPolicy policy;
        uint64_t quota_bytes; /* chunk bytes that its claims may pin beyond the floor; 0: no quota */
        bool lasting;         /* backpressure: once active it gates until it is detached, whatever its cursor says later */
        const Region *cursor; /* REGION_CURSOR, read-only; borrowed until detach. NULL: backpressure, and nobody is there yet */
} RingLinkSpec;

typedef struct RingPost {
        const void *payload;  /* inline: copied. Pooled: ignored, the bytes are in the chunk already */
        const void *meta;     /* copied, inline and pooled; NULL: none, or it stands in the chunk already */
        uint32_t payload_len; /* bytes */
        uint32_t meta_len;
        uint32_t flags; /* RING_FLAG_INLINE is the writer's to set */
        uint16_t encoding;
        uint64_t time_ns; /* CLOCK_MONOTONIC */
        uint64_t type_hash;
        uint64_t correlation;
        uint64_t sequence;
} RingPost;

/**
 * ring_writer_new() - the producer's end of a fresh ring
 * @ret:       set on success; free with ring_writer_free()
 * @ring:      REGION_RING, writable, all zero but its header; borrowed
 * @max_links: links at once, 1..4096; memory for them is taken here
 *
 * Return: 0, RING_E_INVALID when the region is no such ring, or -ENOMEM.
 */
int ring_writer_new(RingWriter **ret, const Region *ring, uint32_t max_links);

RingWriter *ring_writer_free(RingWriter *w); /* accepts NULL, returns NULL; unmaps nothing */
void ring_writer_freep(RingWriter **w);

/**
 * ring_writer_add_segment() - give the writer one more pool segment
 * @segment: REGION_POOL, writable; borrowed until free. Gets the next number: 0, 1, ...
 *
 * Every reader must have been given the segment before the first chunk of it is published (rule 10).
 *
 * Return: 0, RING_E_INVALID (classes that do not fit the sealed size), RING_E_CAPACITY (POOL_MAX_SEGMENTS), -ENOMEM.
 */
int ring_writer_add_segment(RingWriter *w, const Region *segment);

/* ring_writer_skip_segment() - leave the next number out for ever. Return: 0, RING_E_CAPACITY. */
int ring_writer_skip_segment(RingWriter *w);

/**
 * ring_writer_attach() - step 1 of attaching a consumer: know its cursor and scan its claims from now on
 *
 * Idempotent by id: a spec that is attached already, with the same cursor mapping, is success. Gates nothing until
 * the consumer stores ACTIVE, unless it is the heir of an orphan of the same id, whose place it takes: then the
 * orphan's tail gates until that. Without a cursor it is an orphan from the beginning, whose place is the present head.
 * Acknowledge to the supervisor only after it returned 0.
 *
 * Return: 0, RING_E_CAPACITY, RING_E_LINKS, RING_E_INVALID (policy, queue_size or cursor out of range; the id is in
 * use with another cursor: detach first).
 */
int ring_writer_attach(RingWriter *w, const RingLinkSpec *spec);

/**
 * ring_writer_detach() - forget a consumer that is inactive and unmapped, or dead
 *
 * Its claims are dropped and its tail gates no more; the cursor mapping may go afterwards. If this writer is armed,
 * look again: room may have appeared. Nothing of a process that may still run may be detached: it could be reading.
 *
 * Return: 0, RING_E_UNKNOWN.
 */
int ring_writer_detach(RingWriter *w, uint32_t link);

/**
 * ring_writer_orphan() - the consumer is dead, and another one may take its place
 *
 * Its claims are dropped, and the cursor mapping may go afterwards. Its last tail goes on gating and holding the
 * floor, until ring_writer_attach() of the same id or ring_writer_detach(). Idempotent.
 *
 * Return: 0, RING_E_UNKNOWN: there is no such link, or it gated nothing and was detached.
 */
int ring_writer_orphan(RingWriter *w, uint32_t link);

/* ring_writer_set_lasting() - RingLinkSpec.lasting of an attached link. */
void ring_writer_set_lasting(RingWriter *w, uint32_t link, bool lasting);

/* ring_writer_has_stopped() - its consumer was active, and is not any more. */
bool ring_writer_has_stopped(const RingWriter *w, uint32_t link);

/**
 * ring_writer_alloc() - a chunk for payload, padding and metadata
 * @size_bytes: what must fit, payload rounded up to 8 plus metadata. 0 is as 1 here, but not in ring_writer_look() and ring_writer_arm()
 * @ret_chunk:  set on success; in the caller's hands until published or given back
 * @ret_block:  set with POOL_E_HELD; may be NULL
 *
 * Takes a free chunk of the smallest class that fits, the last one that became free; reclaims by floor and claims when there is none, and
 * after each 4 MiB, so that memory that is warm is written again before memory that is not; else takes a larger chunk; else makes one
 * of smaller chunks that are free and lie side by side (pool-cut.c); else moves the floor past drop_oldest windows (their readers count
 * reason "pool"), never past a backpressure tail.
 *
 * Return: 0, POOL_E_TOO_LARGE, POOL_E_FULL, POOL_E_HELD.
 */
int ring_writer_alloc(RingWriter *w, uint64_t size_bytes, PoolChunk *ret_chunk, RingBlock *ret_block);

/* ring_writer_alloc_gently() - the same without the last two steps: nobody's window is given up, and chunks stay as they are. POOL_E_HELD
 * and POOL_E_FULL say that another segment would help. */
int ring_writer_alloc_gently(RingWriter *w, uint64_t size_bytes, PoolChunk *ret_chunk);

/* ring_writer_give_back() - return a chunk that will not be published; sets *chunk to POOL_CHUNK_INIT. */
void ring_writer_give_back(RingWriter *w, PoolChunk *chunk);

/* ring_writer_chunk_segment() - the number of the segment a chunk lies in: tell readers of it before publishing. */
uint32_t ring_writer_chunk_segment(const RingWriter *w, const PoolChunk *chunk);

/**
 * ring_writer_publish() - write one message into the ring; visible to readers after ring_writer_flush()
 * @post:      copied
 * @chunk:     NULL: inline. Else taken on success and set to POOL_CHUNK_INIT; still the caller's on any other outcome
 * @ret_block: set with RING_E_FULL; may be NULL
 *
 * All or nothing: without room on every active backpressure link no index is used. Flushes by itself when readers
 * would otherwise see their window overwritten (a batch of more than n_slots - the largest queue_size).
 *
 * Return: 0, RING_E_FULL, RING_E_TOO_LARGE, RING_E_CLOSED.
 */
int ring_writer_publish(RingWriter *w, const RingPost *post, PoolChunk *chunk, RingBlock *ret_block);

/* ring_writer_flush() - one SC store of head for everything published since; then ring the peers. Returns how many
 * messages became visible since the last call of this function, those that a full batch flushed by itself included: 0
 * means nobody needs to be rung. */
uint64_t ring_writer_flush(RingWriter *w);

/**
 * ring_writer_publish_small() - ring_writer_publish() and ring_writer_flush() of one message where these have nothing to decide
 * @size_bytes: RING_INLINE_MAX at most. The message has no metadata
 *
 * True: it is visible; ring the peers. False: there is no room, or something is published that was not flushed: nothing was done, and
 * ring_writer_publish() says what there is to say.
 */
bool ring_writer_publish_small(RingWriter *w, const void *payload, uint32_t size_bytes, uint64_t time_ns);

/* ring_writer_tidy() - looks which chunks can be written again, if enough was published since the last look. ring_writer_alloc() does it as well; after a
 * flush nobody waits for it. */
void ring_writer_tidy(RingWriter *w);

/* ring_writer_look() - whether n more messages, one of them with a chunk of chunk_bytes (0: inline), can be sent now.
 * Reads cursors, reclaims. Return: 0, RING_E_FULL, POOL_E_HELD, POOL_E_FULL, POOL_E_TOO_LARGE; ret_block as above. */
int ring_writer_look(RingWriter *w, uint32_t n, uint64_t chunk_bytes, RingBlock *ret_block);

/**
 * ring_writer_arm() - announce in the room word whom we wait for (a new odd epoch), look again, until both agree
 *
 * Flushes first: nobody waits for a consumer that cannot see what it shall consume. If the flush made messages
 * visible (the next ring_writer_flush() returns them), ring the peers before polling.
 *
 * Return: 0 (there is room: not armed), RING_E_FULL or POOL_E_HELD (armed: poll now), POOL_E_FULL or POOL_E_TOO_LARGE
 * (waiting cannot help: not armed). ret_block as above.
 */
int ring_writer_arm(RingWriter *w, uint32_t n, uint64_t chunk_bytes, RingBlock *ret_block);

void ring_writer_disarm(RingWriter *w); /* epoch even again; harmless when not armed */

/* ring_writer_close() - flush and say that head is final; then ring the peers. Allocation and publishing end. */
void ring_writer_close(RingWriter *w);

uint64_t ring_writer_head(const RingWriter *w); /* next index; includes what is not flushed */

/* ring_writer_count_refused() - a message that its sender gave up for want of room or a chunk; for status only. */
void ring_writer_count_refused(RingWriter *w);

/* ring_writer_take_violation() - a link whose cursor held values that no honest consumer stores. It has no say any
 * more (gates nothing, no new claims honoured). Each is told once: report it, let the supervisor end it, detach. */
bool ring_writer_take_violation(RingWriter *w, uint32_t *ret_link);

/* ring_writer_convict() - the same of a consumer that was proven to break the protocol elsewhere, and is told already. */
void ring_writer_convict(RingWriter *w, uint32_t link);

/* How far a link is behind, clamped; for "stuck" diagnosis. RING_E_UNKNOWN, or 0 and the number of unread messages.
 * */
int ring_writer_backlog(const RingWriter *w, uint32_t link, bool *ret_active, uint64_t *ret_backlog);

/* ring_writer_set_probe_mask() - where it stands which messages probes are told of (shm/probe.h), read while some are attached; borrowed. NULL: all. */
void ring_writer_set_probe_mask(RingWriter *w, const uint64_t *mask);

/* ring_writer_set_cpu() - tell consumers where we run; @cpu from 0, negative: unknown. A store only if it changed. */
void ring_writer_set_cpu(RingWriter *w, int cpu);

/* ring_writer_shares_cpu() - whether a backpressure link's consumer said that it runs on @cpu. A hint; false for a negative one. */
bool ring_writer_shares_cpu(const RingWriter *w, int cpu);

#endif
