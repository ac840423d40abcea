/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bell of a node: a sleep epoch in memory that only the node writes, odd while it sleeps. A peer that has
 * published something looks at it and, once per odd value, must ring that node: by the doorbell that it has of it
 * (base/doorbell.h), or by one byte through the socket that the two share. No system call here: ringing, polling and
 * emptying are the node library's.
 *
 * Sleep, in this order (each omission loses wake-ups; see tests/models/):
 *
 *   bell_sleep(b);                      a new odd epoch every time, also after a spurious wake-up
 *   look at every ring, room, control   ring_reader_ready(), ring_writer_arm(), control_epoch(): all SC
 *   nothing? poll()                     never empty a socket between look and poll; a doorbell is not read
 *   bell_wake(b), look again
 *
 * Wake: publish (SC store of head, tail or claim), then for each peer node: if (bell_peer_must_ring(p)) ring it; by the socket if
 * bell_peer_by_socket(p), which is to be asked behind the load that said that it sleeps.
 */
#ifndef TG_SHM_BELL_H
#define TG_SHM_BELL_H

#include <stddef.h>

#include "shm/region.h"

struct bell_shared {
        struct region_header header;
        uint64_t epoch; /* odd: asleep or about to be */
        uint64_t by_socket; /* 1: it does not listen to its doorbells */
        uint8_t pad0[112];
        /* 256: how it waits, by its own word: for status, and for where it is placed */
        uint64_t n_sleeps;
        uint64_t n_looks;  /* times it looked for a while before it slept */
        uint64_t n_found;  /* of those, that were worth it */
        uint64_t n_woken;  /* sleeps that a message ended, and it was measured how long that took */
        uint64_t woken_ns; /* from there until it ran, in all; each counts for BELL_WOKEN_MAX at most */
        uint64_t cpu_ns;   /* CPU time of the process, and ... */
        uint64_t cpu_at;   /* ... when that was: CLOCK_MONOTONIC, some tenths of a second ago at most while it takes or sends */
        uint64_t n_taken;  /* messages, as of then */
        uint8_t reserved[64];
};
_Static_assert(sizeof(struct bell_shared) == 384, "shared between processes");
_Static_assert(offsetof(struct bell_shared, n_sleeps) == 256, "counters keep off the line that peers read");

#define BELL_WOKEN_MAX UINT64_C(1000000) /* ns */

static inline uint64_t bell_size(void)
{
        return sizeof(struct bell_shared);
}

int bell_create(int *ret_fd);

typedef struct BellCounters { /* see struct bell_shared */
        uint64_t n_sleeps, n_looks, n_found, n_woken, woken_ns, cpu_ns, cpu_at, n_taken;
        uint64_t by_socket;
} BellCounters;

/* Own side. One thread at a time (the node's leader). */
typedef struct Bell {
        struct bell_shared *shared;
        uint64_t epoch; /* private truth: the shared word is only ever stored */
        BellCounters counters; /* likewise: change them, then bell_tell() */
} Bell;

void bell_init(Bell *bell, const Region *map); /* map: writable, borrowed for the life of bell; epoch starts even */
void bell_sleep(Bell *bell);                   /* SC store of the next odd epoch; call it again before every poll */
void bell_wake(Bell *bell);                    /* store of the next even epoch; harmless when awake */

/* bell_turn() - to be rung by sockets from the next epoch on: announce anew before any poll that hears no doorbell. Or by doorbells again: hear all of
 * them before. SC store */
void bell_turn(Bell *bell, bool to_sockets);

void bell_tell(const Bell *bell); /* stores the counters; for whoever looks at them, in no order */

/* bell_read() - a copy of the counters: the node's word, hostile. @map: any mapping of the region, status too. Never blocks. */
void bell_read(const Region *map, BellCounters *ret);

/* A peer's bell. One per mapped region, shared by all outputs of this node; any thread. `rung` starts anew with it.
 * */
typedef struct BellPeer {
        const struct bell_shared *shared;
        uint64_t rung; /* atomic: the last odd epoch that we rang for */
} BellPeer;

void bell_peer_init(BellPeer *peer, const Region *map); /* map: read-only, borrowed */

/**
 * bell_peer_must_ring() - whether the caller, having published, owes this peer a ring
 *
 * @alone: no other thread of the process calls it at the same time
 *
 * Call it after the SC store that published. At most once true per sleep of the peer, over all threads. The epoch is
 * a hostile value: a peer that toggles it costs one ring per call and nothing else.
 */
bool bell_peer_must_ring(BellPeer *peer, bool alone);
/* bell_peer_sleeps_again() - whether it sleeps, and nobody has rung for that: since our last ring it was up, and lay down again. Epochs that no honest one shows
 * behind the one that was rung for are no sleep. */
bool bell_peer_sleeps_again(const BellPeer *peer);
bool bell_peer_by_socket(const BellPeer *peer); /* a hostile value, too: a byte is all that it costs */

#endif
