/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for a chunk: one producer with P chunks, two drop_oldest consumers that claim, hold, release, or find
 * themselves too late and retract. The room word's reason is "chunk": find_block() in shm/reclaim.c, must_ring() and
 * claim_take() in shm/reader.c. Checked: the producer is never in poll with a chunk to be had and no ring pending.
 *
 *   (none)        any holder rings                                                                      holds
 *   -DNORETRACT   a consumer that retracts a claim does not ring: the producer had honoured it          fails
 *   -DNAMEONE     only the first holder is named: the other one's release is not heard                  fails
 *   -DNOLOOK      after announcing the producer does not look again                                     fails
 *   -DNOSC        the release may still sit in the store buffer when the room word is read              fails
 */
#ifndef M
#define M 3
#endif
#define P 2
#define ANY 2

byte head = 0, floor_ = 1;
byte claim[2];          /* one entry a consumer */
byte slot[M + 2];
byte content[P];
byte r_epoch = 0, r_link = 0;
byte bell = 0;
bool in_poll = false, p_done = false;

#ifdef NOSC
byte sb;
bool sb_full; /* of consumer 1: one is enough */
active proctype flush() { end: do :: atomic { sb_full -> claim[1] = sb; sb_full = false } od }
inline store_claim(i, v) {
        if
        :: i == 1 -> atomic { !sb_full -> sb = v; sb_full = true }
        :: else -> claim[i] = v
        fi
}
inline fence(i) { (i != 1 || !sb_full) }
#else
inline store_claim(i, v) { claim[i] = v }
inline fence(i) { skip }
#endif

byte owner[P], held[2]; /* the producer's own */
byte old = 1;
byte found;

/* Moves the floor as far as it may go (drop_oldest: to the head, under pressure), scans, and says which chunk is
 * free. */
inline look() {
        if
        :: old < head + 1 -> floor_ = head + 1
        :: else -> skip
        fi;
        v = claim[0];
        held[0] = (v != 0 && (v == held[0] || v >= old) -> v : 0);
        v = claim[1];
        held[1] = (v != 0 && (v == held[1] || v >= old) -> v : 0);
        atomic {
                old = head + 1;
                v = 0;
                found = P;
                do
                :: v < P ->
                        if
                        :: owner[v] != 0 && owner[v] != held[0] && owner[v] != held[1] -> owner[v] = 0
                        :: else -> skip
                        fi;
                        if
                        :: owner[v] == 0 -> found = v
                        :: else -> skip
                        fi;
                        v++
                :: else -> break
                od;
                v = 0
        }
}

active proctype producer()
{
        byte v, e = 0;

        do
        :: head == M -> break
        :: else ->
                look();
                do
                :: found < P -> break
                :: else ->
#ifdef NAMEONE
                        r_link = (held[0] != 0 -> 0 : 1);
#else
                        r_link = (held[0] != 0 && held[1] != 0 -> ANY : (held[0] != 0 -> 0 : 1));
#endif
                        atomic { e++; r_epoch = e };
#ifndef NOLOOK
                        look();
#endif
                        if
                        :: found < P -> skip
                        :: else ->
                                in_poll = true;
                                (bell > 0);
                                in_poll = false;
                                bell = 0;
                                look()
                        fi;
                        atomic { e++; r_epoch = e }
                od;
                owner[found] = head + 1;
                content[found] = 0;
                content[found] = head + 1;
                slot[head + 1] = found;
                head++
        od;
        p_done = true
}

inline tell(i) {
        e = r_epoch;
        if
        :: (e & 1) && e != rung && (r_link == i || r_link == ANY) -> atomic { rung = e; e = 0; bell = 1 }
        :: else -> e = 0
        fi
}

proctype consumer(byte id)
{
        byte t = 0, c, e, rung = 0;

        do
        :: p_done || t == M -> break
        :: t < M && head > t ->
                t = head; /* the newest */
                c = slot[t];
                store_claim(id, t);
                fence(id);
                if
                :: floor_ > t ->
                        store_claim(id, 0);
#ifndef NORETRACT
                        tell(id)
#endif
                :: else ->
                        assert(content[c] == t);
                        if
                        :: skip
                        :: id == 0 -> break /* holds on, for ever: P = 2 leaves the producer one chunk to wait for */
                        fi;
                        assert(content[c] == t);
                        store_claim(id, 0);
                        tell(id)
                fi
        od
}

init { atomic { run consumer(0); run consumer(1) } }

#define REUSABLE(c) (owner[c] != claim[0] && owner[c] != claim[1])

active proctype watch()
{
end:    timeout -> assert(!(in_poll && (REUSABLE(0) || REUSABLE(1))))
}
