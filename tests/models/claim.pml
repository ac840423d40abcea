/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claim against reclaim: one producer with P chunks, one consumer that may use two messages at once (shm/reclaim.c,
 * claim_take() in shm/reader.c). Checked: a chunk in use is never written; under backpressure nothing is lost.
 *
 *   (none)      drop_oldest, window Q                                                                       holds
 *   -DBP        backpressure: the floor is the tail                                                         holds
 *   -DBP -DLAZY the claim may sit in the store buffer until the tail is stored: the tail's order covers it   holds
 *   -DLAZY      the same under drop_oldest, where the floor does not wait for the tail                      fails
 *   -DNOSC_C    the consumer's claim may still sit in its store buffer when it reads the floor              fails
 *   -DNOSC_P    the producer's floor may still sit in its store buffer when it reads the claims             fails
 *   -DNOCHECK   the consumer does not look at the floor after claiming                                      fails
 *   -DLATEREAD  it is read after the claim was let go of: no release                                        fails
 *   -DMOVE      a claim moves to another entry while the message is in use: the scan reads the empty one
 *               first, the moved one is new and below the old floor                                         fails
 *   -DTAILFIRST backpressure: the tail passes the message before it is claimed                              fails
 */
#ifndef M
#define M 4   /* messages */
#endif
#define P 3   /* chunks */
#define Q 1

byte head = 0;         /* shared: messages 1..head are published */
byte floor_ = 1;       /* shared: chunks of messages below it may be reused */
byte tail = 1;         /* shared */
byte claim[2];         /* shared: message, 0 = free */
byte slot[M + 2];      /* message -> chunk (the slot's own race is slot.pml's) */
byte content[P];       /* 0 = being written */
byte delivered, dropped;

#ifdef LAZY
#define NOSC_C
#endif

/* One pending store a side is enough for the race; without -DNOSC_x a store is visible at once. */
#ifdef NOSC_C
byte cb_i, cb_v;
bool cb_full = false;
active proctype flush_c() { end: do :: atomic { cb_full -> claim[cb_i] = cb_v; cb_full = false } od }
inline store_claim(i, v) { atomic { !cb_full -> cb_i = i; cb_v = v; cb_full = true } }
#else
inline store_claim(i, v) { claim[i] = v }
#endif
#ifdef NOSC_P
byte pb_v;
bool pb_full = false;
active proctype flush_p() { end: do :: atomic { pb_full -> floor_ = pb_v; pb_full = false } od }
inline store_floor(v) { atomic { !pb_full -> pb_v = v; pb_full = true } }
#else
inline store_floor(v) { floor_ = v }
#endif

active proctype producer()
{
        byte m = 1, c, k, v, f, old = 1;
        byte owner[P];  /* private: message in the chunk, 0 = free */
        byte held[2];   /* private: honoured claims by entry */

        do
        :: m > M -> break
        :: else ->
find:           atomic {
                        c = 0;
                        do
                        :: c < P && owner[c] != 0 -> c++
                        :: else -> break
                        od
                }
                if
                :: c < P -> skip
                :: else ->
#ifdef BP
                        f = tail;
#else
                        f = (m - 1 >= Q -> m - Q : 1);
#endif
                        if
                        :: f > old -> store_floor(f)
                        :: else -> f = old
                        fi;
                        k = 0;
                        do
                        :: k < 2 ->
                                v = claim[k]; /* once */
                                atomic {
                                        if
                                        :: v != 0 && v == held[k] -> skip             /* held already */
                                        :: else -> held[k] = (v >= old && v < f -> v : 0)
                                        fi;
                                        v = 0;
                                        k++
                                }
                        :: else -> break
                        od;
                        atomic {
                                old = f;
                                c = 0;
                                do
                                :: c < P ->
                                        if
                                        :: owner[c] != 0 && owner[c] < f &&
                                           owner[c] != held[0] && owner[c] != held[1] ->
                                                owner[c] = 0
                                        :: else -> skip
                                        fi;
                                        c++
                                :: else -> break
                                od;
                                k = 0
                        }
                        goto find
                fi;
                owner[c] = m;
                content[c] = 0; /* writing */
                content[c] = m;
                slot[m] = c;
                head = m;
                m++
        od
}

active proctype consumer()
{
        byte t = 1, c, k, use[2], at[2];
        bool ok;

        do
        :: t > M && use[0] == 0 && use[1] == 0 -> break
#ifdef LATEREAD
        :: use[0] != 0 -> store_claim(0, 0); assert(content[at[0]] == use[0]); use[0] = 0
#else
        :: use[0] != 0 -> assert(content[at[0]] == use[0]); store_claim(0, 0); use[0] = 0 /* released when it likes */
#endif
        :: use[1] != 0 -> assert(content[at[1]] == use[1]); store_claim(1, 0); use[1] = 0
        :: t <= M && head >= t && (use[0] == 0 || use[1] == 0) ->
#ifndef BP
                atomic {
                        if
                        :: head > t + Q - 1 -> dropped = dropped + head + 1 - Q - t; t = head + 1 - Q
                        :: else -> skip
                        fi
                }
#endif
                k = (use[0] == 0 -> 0 : 1);
                c = slot[t];
#ifdef TAILFIRST
                tail = t + 1;
#endif
#ifdef MOVE
                store_claim(1, t);
#else
                store_claim(k, t);
#endif
#ifdef NOCHECK
                ok = true;
#else
                ok = (floor_ <= t);
#endif
#ifdef BP
                assert(ok);
#endif
                if
                :: ok ->
#ifdef LAZY
                        !cb_full; /* release: what was stored before the tail is visible before it */
#endif
                        tail = t + 1;
                        assert(content[c] == t);
#ifdef MOVE
                        store_claim(0, t);
                        store_claim(1, 0);
                        k = 0;
#endif
                        atomic { use[k] = t; at[k] = c; delivered++ }
                :: else ->
                        store_claim(k, 0);
                        tail = t + 1;
                        dropped++
                fi;
                atomic { t++; c = 0; k = 0 }
        od;
        assert(delivered + dropped == M)
}
