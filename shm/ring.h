/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring of one output, for one incarnation of its producer: layout, descriptor and words shared by writer.h,
 * reader.h and observer.h. Message i (its index, from 0) lives in slot i % n_slots. Written by the producer alone.
 *
 *   head   messages below it are published            monotone
 *   floor  chunks of messages below it may be reused  monotone; moved only when an allocation finds nothing free
 *   room   "I am blocked on this link until its tail reaches target (or it releases a chunk)"; epoch odd while so
 */
#ifndef TG_SHM_RING_H
#define TG_SHM_RING_H

#include "shm/cursor.h"
#include "shm/pool.h"
#include "shm/region.h"

#define RING_SLOT_SIZE   256u
#define RING_INLINE_MAX  192u /* bytes: payload, padding to 8 and metadata together */
#define RING_MAX_QUEUE   65535u
#define RING_MAX_SLOTS   65536u
#define RING_INDEX_LIMIT (UINT64_C(1) << 62) /* no head beyond it is honest */

typedef enum RingPolicy {
        RING_DROP_OLDEST = 0,
        RING_BACKPRESSURE,
        _RING_POLICY_MAX,
} RingPolicy;

enum {
        RING_E_EMPTY = 64, /* reader: nothing new */
        RING_E_END,        /* reader: nothing new and nothing to come: closed, or drained to the final head */
        RING_E_AGAIN,      /* reader: the producer laps us faster than we copy; drops are counted, take again */
        RING_E_CLAIMS,     /* reader: all K claims are held; nothing was taken */
        RING_E_SEGMENT,    /* reader: names a pool segment that is not attached yet; nothing was taken */
        RING_E_INVALID,    /* reader: descriptor out of bounds; the message is counted as dropped and passed */
        RING_E_VIOLATION,  /* reader: the producer broke the protocol; the link is finished, see reader.h */
        RING_E_FULL,       /* writer: a backpressure link has no room; nothing was published */
        RING_E_TOO_LARGE,  /* writer: does not fit into slot or chunk */
        RING_E_CAPACITY,   /* writer: queue_size needs more slots than this ring has */
        RING_E_LINKS,      /* writer: no entry left for another link */
        RING_E_UNKNOWN,    /* writer: no such link */
        RING_E_CLOSED,     /* writer: closed */
        RING_E_PASSED,     /* observer: already overwritten or reclaimed */
};

enum { /* descriptor flags; readers ignore bits they do not know */
        RING_FLAG_INLINE = 1u << 0,     /* set by the writer: bytes stand in the slot */
        RING_FLAG_CORRELATED = 1u << 1, /* carries a correlation: keep between floor and window if you can */
        RING_FLAG_SCHEMA = 1u << 2,     /* payload is a schema, not a batch */
        RING_FLAG_USER = 1u << 16,      /* this bit and those above are the node library's */
};

#define ROOM_LINK_ANY UINT32_MAX /* in the room word, with ROOM_CHUNK: whichever link lets a chunk go; no link's id */

typedef enum RoomReason {
        ROOM_SLOT = 1, /* queue full: ring when tail >= target */
        ROOM_CHUNK,    /* no chunk: ring at that too, and at every release */
} RoomReason;

/* 56 bytes, copied word by word: every word is an atomic of its own, torn sets are caught by the slot's sequence. */
struct ring_descriptor {
        uint64_t time_ns; /* CLOCK_MONOTONIC at publication */
        uint32_t flags;
        uint16_t encoding; /* the node library's: raw, Arrow, ... */
        uint16_t segment;  /* pool segment; 0 when inline */
        uint64_t offset;   /* of the payload in the segment; 0 when inline */
        uint32_t payload_len;
        uint32_t meta_len; /* metadata begins at the payload + payload_len rounded up to 8 */
        uint64_t type_hash;
        uint64_t correlation;
        uint64_t sequence; /* the sender's own numbering; the ring does not look at it */
};
_Static_assert(sizeof(struct ring_descriptor) == 56, "shared between processes");

struct ring_slot {
        uint64_t seq; /* 2i + 1 while message i is being written, 2i + 2 once it is whole */
        uint64_t descriptor[7]; /* struct ring_descriptor */
        uint64_t bytes[RING_INLINE_MAX / 8];
};
_Static_assert(sizeof(struct ring_slot) == RING_SLOT_SIZE, "shared between processes");

struct ring_shared {
        struct region_header header; /* layout[0]: n_slots, [1]: RING_SLOT_SIZE */
        /* 128 */
        uint64_t head;
        uint64_t closed; /* 1: head is final */
        uint32_t cpu;    /* where the producer last published, + 1; 0: not said. A hint: whoever waits on that CPU should sleep */
        uint8_t pad0[108];
        /* 256 */
        uint64_t floor;
        uint8_t pad1[120];
        /* 384: the room word */
        uint64_t room_epoch; /* odd: announced */
        uint64_t room_target;
        uint32_t room_link;
        uint32_t room_reason;
        uint8_t pad2[104];
        /* 512: counters, for status only */
        uint64_t published_bytes; /* payload */
        uint64_t published_pooled;
        uint64_t reclaims;     /* allocations that had to look for free chunks */
        uint64_t pressure;     /* reclaims that passed the window of a drop_oldest link */
        uint64_t blocked_slot; /* times announced for want of a slot / of a chunk */
        uint64_t blocked_chunk;
        uint64_t over_quota; /* claims not honoured */
        uint64_t violations; /* values of cursors that no honest consumer stores */
        uint64_t refused;    /* messages given up by their sender for want of room or a chunk */
        uint8_t pad3[440];
        /* 1024 */
        struct ring_slot slot[];
};
_Static_assert(offsetof(struct ring_shared, head) == 128, "");
_Static_assert(offsetof(struct ring_shared, floor) == 256, "");
_Static_assert(offsetof(struct ring_shared, room_epoch) == 384, "");
_Static_assert(offsetof(struct ring_shared, published_bytes) == 512, "");
_Static_assert(offsetof(struct ring_shared, slot) == 1024, "");

/* ring_slots_for() - slots of a ring whose largest queue_size is this: a power of two above it. 0 when out of range
 * (1..RING_MAX_QUEUE). A later link may ask for at most slots - 1. */
uint32_t ring_slots_for(uint32_t max_queue_size);

/* ring_size() - bytes of a ring region; n_slots must be a power of two, 2..RING_MAX_SLOTS, else 0. Exact, not rounded
 * to pages, so that the sealed size alone tells the number of slots. */
uint64_t ring_size(uint32_t n_slots);

int ring_create(uint32_t n_slots, int *ret_fd);

typedef struct RingStatus {
        uint64_t head, floor; /* head is the number of messages published */
        bool closed, blocked;
        uint32_t blocked_link;
        RoomReason blocked_reason;
        uint64_t published_bytes, published_pooled, reclaims, pressure, n_blocked_slot, n_blocked_chunk;
        uint64_t over_quota, violations, refused;
} RingStatus;

/* ring_read_status() - a copy of everything but the slots, for status; the producer's word, not consistent in itself.
 * */
void ring_read_status(const Region *map, RingStatus *ret);

#endif
