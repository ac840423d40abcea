/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The consumer's end of one link: takes messages, claims pooled ones, counts what it misses. Works on a read-only
 * ring and pool and the link's own cursor; believes nothing it reads there (indices are checked for order and range,
 * descriptors are copied once and held against sealed sizes). For any bytes in the ring it neither crashes nor reads
 * out of bounds nor loops without bound. Does not wait, poll, send, lock, log or allocate. One thread at a time per
 * reader, releases included (the library's lock per node).
 *
 * Payload bytes of a pooled message lie in the producer's memory: an honest producer leaves them alone until the
 * claim is released, a hostile one may change them under the reader's eyes. Copy before validating anything inside.
 */
#ifndef TG_SHM_READER_H
#define TG_SHM_READER_H

#include "shm/ring.h"

#define RING_N_HOLDS (CURSOR_N_CLAIMS - 1) /* messages a user may keep at once; one entry serves copying */

typedef struct RingReader {
        /* all private: use the functions */
        const struct ring_shared *ring;
        struct cursor_shared *cursor;
        uint32_t n_slots, mask;
        uint32_t link, queue_size;
        RingPolicy policy;
        bool active, broken, draining;
        uint64_t tail;      /* private truth of cursor->tail */
        uint64_t shown;     /* what stands there */
        bool more_to_show;  /* counters that rarely change did, and were not stored yet */
        uint64_t head;      /* last head seen: the next one may not be smaller */
        uint64_t final;     /* with draining */
        uint64_t safe_from; /* backpressure promises hold from this index */
        uint64_t room_rung; /* room epoch that we rang for */
        uint32_t cpu;
        uint64_t start, delivered, delivered_bytes, copied, dropped[_DROP_REASON_MAX], wakes;
        uint64_t claim[CURSOR_N_CLAIMS]; /* private copy of our claims */
        uint32_t n_refs[CURSOR_N_CLAIMS];
        const uint64_t *probe_mask; /* NULL: every message */
        const uint8_t *segment[POOL_MAX_SEGMENTS];
        uint64_t segment_size[POOL_MAX_SEGMENTS];
} RingReader;

/* One taken message. Not movable while in use: an inline payload points into the struct itself. */
typedef struct RingMessage {
        struct ring_descriptor d; /* checked copy */
        uint64_t index;
        const void *payload; /* d.payload_len bytes, 64-byte aligned */
        const void *meta;    /* d.meta_len bytes, 8-byte aligned */
        int claim;           /* entry to release; -1: inline, nothing to release */
        bool must_copy;      /* took the spare entry: copy and release before the next take */
        uint64_t bytes[RING_INLINE_MAX / 8] __attribute__((aligned(64)));
} RingMessage;

/**
 * ring_reader_init() - the consumer's end, not active yet
 * @ring, @cursor: REGION_RING read-only and REGION_CURSOR writable; borrowed until the reader is dropped
 * @link:          the supervisor's number for this link
 * @queue_size:    1..n_slots - 1
 *
 * Return: 0, RING_E_INVALID.
 */
int ring_reader_init(RingReader *r, const Region *ring, const Region *cursor, uint32_t link, uint32_t queue_size,
        RingPolicy policy);

/* ring_reader_add_segment() - pool segment @number (0, 1, ...), read-only, borrowed. 0, RING_E_INVALID. */
int ring_reader_add_segment(RingReader *r, uint32_t number, const Region *segment);

/* ring_reader_start() - step 4 of attaching: gate from the present head on. Only after the producer acknowledged. */
int ring_reader_start(RingReader *r); /* 0, RING_E_VIOLATION */

/* ring_reader_must_ring() - after a start: whether to ring the producer, which may have seen us behind the head, and blocked. */
bool ring_reader_must_ring(RingReader *r);

/* ring_reader_start_at() - the same in place of a dead consumer that stood at @position: begins there, as far as the
 * messages still exist; what does not is counted as DROP_DEAD, so tail - start still adds up from @position. Nothing is
 * lost if the producer has kept the dead one's place: ring_writer_orphan(). */
int ring_reader_start_at(RingReader *r, uint64_t position);

/* ring_reader_name() - store in the cursor which attachment its position is about, for whoever reads it after our death.
 * Once started, before the first take. */
void ring_reader_name(RingReader *r, uint32_t attachment);

/**
 * ring_reader_take() - the next message
 * @msg:      filled on success
 * @ret_ring: set in every case: the producer waits for us and is owed a ring. Never NULL
 *
 * drop_oldest skips (and counts) what fell out of the window. On success a pooled message is claimed with one owner:
 * ring_reader_release(msg->claim) when done. Bounded work per call.
 *
 * Return: 0; RING_E_EMPTY; RING_E_END; RING_E_AGAIN; RING_E_CLAIMS (release first); RING_E_SEGMENT (attach the
 * segment d.segment and take again; unknown to the supervisor: ring_reader_skip()); RING_E_INVALID (dropped, counted,
 * the next take goes on); RING_E_VIOLATION (positions that no honest producer stores: every later take says the same;
 * ring_reader_discard() counts the rest, then detach and report).
 */
int ring_reader_take(RingReader *r, RingMessage *msg, bool *ret_ring);

/**
 * ring_reader_take_small() - ring_reader_take() where that has nothing to decide
 *
 * True: the next message lay in its slot, without metadata, and was taken as that function would have; @msg and @ret_ring are as it sets them.
 * False: nothing was done, and nobody knows whether there is a message; ring_reader_take() does.
 */
bool ring_reader_take_small(RingReader *r, RingMessage *msg, bool *ret_ring);

/**
 * ring_reader_take_more() - the next message of several: as ring_reader_take(), but nobody sees it before ring_reader_show()
 *
 * Until then the cursor stands where it stood: a producer under backpressure keeps everything, so that the successor of a reader that
 * dies meanwhile begins before the first of them; counters say nothing of them; whoever waits for room goes on waiting, so show before
 * waiting for anything. Claims are stored at once, as the protocol of chunks wants it. Under drop_oldest the window is that of the first one's
 * moment. ring_reader_skip(), _discard(), _stop() and ring_reader_take() show what there is to show.
 *
 * Return: as ring_reader_take(). @ret_ring is for claims alone.
 */
int ring_reader_take_more(RingReader *r, RingMessage *msg, bool *ret_ring);

/* ring_reader_show() - store the cursor once for all that was taken more. True: the producer waits for that and is owed a ring. */
bool ring_reader_show(RingReader *r);

/* ring_reader_ready() - SC look before a sleep: whether take would say something else than EMPTY. */
bool ring_reader_ready(const RingReader *r);

/* ring_reader_backlog() - messages published and not taken, at most queue_size under drop_oldest. */
uint64_t ring_reader_backlog(const RingReader *r);

/* One more owner of a claimed message / one less. The last release frees the chunk for reuse. The returned flag says:
 * the producer waits for a chunk and is owed a ring. A claim of -1 (inline) is ignored. */
void ring_reader_ref(RingReader *r, int claim);
bool ring_reader_release(RingReader *r, int claim);
uint32_t ring_reader_n_held(const RingReader *r);

/* ring_reader_reject() - the message just taken proved unusable (its metadata does not decode): it counts as dropped,
 * reason "invalid", instead of delivered. Once a message; its claim is released as usual. */
void ring_reader_reject(RingReader *r, const RingMessage *msg);

/* ring_reader_count_wake() - its node slept, and took the first message after that from here; for status only. */
void ring_reader_count_wake(RingReader *r);

/* ring_reader_skip() - pass the next message and count it. @ret_ring as in take. No effect when there is none. */
void ring_reader_skip(RingReader *r, DropReason reason, bool *ret_ring);

/* ring_reader_break() - the producer was proven to break the protocol elsewhere: every later take says RING_E_VIOLATION. */
void ring_reader_break(RingReader *r);

/* ring_reader_n_published() - messages that the producer has published since this reader began, as it says now, or said before it lied. */
uint64_t ring_reader_n_published(const RingReader *r);

/* ring_reader_drain() - the producer is gone or replaced: its head is final. Takes go on to it, then say RING_E_END.
 * */
void ring_reader_drain(RingReader *r);

/* ring_reader_discard() - count everything up to the present (or final) head as dropped. Claims stay. Returns how
 * many. */
uint64_t ring_reader_discard(RingReader *r, DropReason reason, bool *ret_ring);

/* ring_reader_stop() - INACTIVE: gates the producer no more. Claims stay valid and are scanned until the producer
 * detaches; release all, then tell the supervisor, then unmap. *ret_ring as in take. */
void ring_reader_stop(RingReader *r, bool *ret_ring);

/* ring_reader_set_probe_mask() - as ring_writer_set_probe_mask(). */
void ring_reader_set_probe_mask(RingReader *r, const uint64_t *mask);

/* ring_reader_set_cpu() - tell the producer where we run; @cpu from 0, negative: unknown. A store only if it changed. */
void ring_reader_set_cpu(RingReader *r, int cpu);

/* ring_reader_shares_cpu() - whether the producer said that it runs on @cpu. A hint; false for a negative one. */
bool ring_reader_shares_cpu(const RingReader *r, int cpu);

#endif
