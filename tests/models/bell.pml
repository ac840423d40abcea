/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeping and waking: two peers, one sleeper, one edge-triggered stream socket per peer, emptied every D sleeps
 * (shm/bell.h; the sockets are the node library's). A write into a full socket gives no edge. Checked: nobody is in
 * poll with a message waiting and no edge pending; everything is taken.
 *
 *   (none)       -DCAP=4, that is D + 2 bytes                                                            holds
 *   -DFLOOD      peer 1 is hostile and writes into its own socket at will                                holds
 *   -DSHARED     ... and there is one socket for all                                                     fails
 *   -DCAP=3      the buffer is smaller than D + 2                                                        fails
 *   -DSAMEEPOCH  woken for nothing, the sleeper polls again in the same epoch                            fails
 *   -DLATEDRAIN  it drains between its last look and poll, with it the ring that answered the look       fails
 *   -DNOSC       its epoch may still sit in the store buffer when it looks                               fails
 *   -DNOLOOK     it does not look again once its epoch is odd                                            fails
 *   -DLIVE       every fair run gets to its end                                                         lives
 *   -DLIVE -DNOLOOK                                                                                      starves
 */
#ifndef K
#define K 4 /* messages of peer 0 */
#endif
#ifndef K1
#define K1 2 /* and of peer 1 */
#endif
#ifndef CAP
#define CAP 4
#endif
#define D 2
#ifdef SHARED
#define CH(i) 0
#else
#define CH(i) i
#endif

byte pub[2], taken[2], last[2];
byte fill[2];      /* bytes in the sockets */
bool edge[2];
byte epoch = 0;    /* shared: odd = asleep */
bool in_poll = false;
#ifdef LIVE
bool begun = false;
#endif

#ifdef NOSC
byte sb;
bool sb_full = false;
active proctype flush() { end: do :: atomic { sb_full -> epoch = sb; sb_full = false } od }
inline store_epoch(v) { atomic { !sb_full -> sb = v; sb_full = true } }
#else
inline store_epoch(v) { epoch = v }
#endif

#define READY (pub[0] > taken[0] || pub[1] > taken[1])

inline ring(i) {
        atomic {
                if
                :: fill[CH(i)] < CAP -> fill[CH(i)]++; edge[CH(i)] = true
                :: else -> skip /* EAGAIN */
                fi
        }
}

proctype peer(byte id)
{
        byte rung = 0;

        do
        :: pub[id] < last[id] ->
                pub[id]++;
                if
                :: atomic { (epoch & 1) && epoch != rung -> rung = epoch }; ring(id) /* one load of epoch */
                :: else -> skip
                fi
        :: else -> break
        od
}

inline drain() { d_step { fill[0] = 0; fill[1] = 0; edge[0] = false; edge[1] = false } }
inline wait_edge() {
        in_poll = true;
        atomic { (edge[0] || edge[1]) -> edge[0] = false; edge[1] = false };
        in_poll = false
}

proctype sleeper()
{
        byte e = 0, n = 0;

        do
        :: taken[0] == last[0] && taken[1] == last[1] -> break
        :: else ->
                if
                :: pub[0] > taken[0] -> taken[0]++
                :: pub[1] > taken[1] -> taken[1]++
                :: !READY ->
                        atomic { e++; store_epoch(e) };
#ifdef NOLOOK
                        wait_edge();
#else
#ifdef SAMEEPOCH
                        do
                        :: READY -> break
                        :: else -> wait_edge()
                        od;
#else
                        if
                        :: READY -> skip
                        :: else ->
#ifdef LATEDRAIN
                                drain();
#endif
                                wait_edge()
                        fi;
#endif
#endif
                        atomic {
                                n++;
                                if
                                :: n >= D -> n = 0; fill[0] = 0; fill[1] = 0 /* after poll; an edge stays an edge */
                                :: else -> skip
                                fi
                        };
                        atomic { e++; store_epoch(e) }
                fi
        od
}

#ifdef FLOOD
proctype hostile()
{
        byte n;

        do
        :: n < 5 -> ring(1); n++
        :: break
        od
}
#endif

init {
        atomic {
                last[0] = K;
#ifdef LIVE
                begun = true;
#endif
                run peer(0);
#ifdef FLOOD
                run hostile();
#else
                last[1] = K1;
                run peer(1);
#endif
                run sleeper()
        }
}

#ifdef LIVE
ltl everything_is_taken { [] (begun -> <> (taken[0] == last[0] && taken[1] == last[1])) }
#else
active proctype watch()
{
end:    timeout -> assert(!(in_poll && READY)); assert(taken[0] == last[0] && taken[1] == last[1])
}
#endif
