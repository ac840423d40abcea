/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeping and waking: two peers, one sleeper (shm/bell.h; fall_asleep(), peer_send(), peer_watch() and peer_empty() of the node library).
 * Each peer rings by what it has: a byte through a stream socket, which is emptied every D sleeps, or a timerfd (base/doorbell.h), which is
 * not. Both are watched edge-triggered. A ring that was not told yet is one with the next; an edge is told only while there is something to
 * read, so who reads takes it away. A byte into a full socket gives no edge. The store that ends a sleep may be seen late, the one that
 * begins it not (bell_wake(), bell_sleep()). Checked: nobody is in poll with a message waiting and no edge pending; everything is taken; nobody
 * wakes more often than somebody rang.
 *
 *   (none)       both by sockets of -DCAP=4 bytes, that is D + 2                                           holds
 *   -DTIMERFD    both by timerfds                                                                         holds
 *   -DMIX        peer 0 by a timerfd, peer 1 by a socket                                                  holds
 *   -DMIX -DSWITCH   whoever has a timerfd finds at any ring that it does not work, and sends a byte           holds
 *   -DTWO        peer 0 has two threads                                                                   holds
 *   -DFEW        poll may tell of one edge, and of the other one later                                    holds
 *   -DQUIET      the edges that are there are taken before each sleep, as for tg_node_fd()                 holds
 *   -DSPURIOUS   one event comes from nowhere                                                             holds
 *   -DFLOOD      peer 1 is hostile: writes into its own socket at will, rings its timerfd, and reads it    holds
 *   -DSHARED     ... and there is one doorbell for all                                                    fails
 *   -DCAP=3      the buffer is smaller than D + 2                                                         fails
 *   -DSAMEEPOCH  woken for nothing, the sleeper polls again in the same epoch                             fails
 *   -DLATEDRAIN  sockets are emptied between the last look and poll, with them the ring that answered the look   fails
 *   -DLATETAKE   edges are taken between the last look and poll                                            fails
 *   -DNOSC       its epoch may still sit in the store buffer when it looks                                fails
 *   -DNOLOOK     it does not look again once its epoch is odd                                             fails
 *   -DTIMERFD -DLEVEL      timerfds are not watched edge-triggered: what was told once is told for ever              fails
 *   -DTIMERFD -DSWITCH -DNOBYTE  a ring that does not work is left at that                                          fails
 *   -DTIMERFD -DSWITCH -DDEAF    who has a timerfd to hear does not listen to its socket                             fails
 *   -DTIMERFD -DTURN      the sleeper drops its timerfds at some time, having asked for bytes, and announces anew before it polls  holds
 *   -DTIMERFD -DTURN -DUNASKED  ... without having asked: between its last look and poll it had asked, and had not announced since    fails
 *   -DTIMERFD -DTURN -DBACK   ... and back: silences its timerfds, hears them, then no longer asks for bytes          holds
 *   -DTIMERFD -DTURN -DBACK -DUNHEARD   ... no longer asks, and does not hear them                                  fails
 *   -DTIMERFD -DCONVICT   peer 1 sends, and rings for nothing besides: once more than U times for nothing was heard its links end, and
 *                it is heard neither by its socket nor by its timerfd (whoever floods a socket loses its own wake-ups)   holds
 *   -DTIMERFD -DCONVICT -DGOON   it is not heard, and its links go on                                               fails
 *   -DLIVE       every fair run takes everything and then sleeps for good; with -DTIMERFD -DCONVICT while peer 1 rings without an end   lives
 *   -DLIVE -DNOLOOK                                                                                       starves
 *   -DLIVE -DTIMERFD -DLEVEL                                                                                        starves
 *   -DLIVE -DTIMERFD -DCONVICT -DHEARD   who was convicted is heard as before                                       starves
 */
#ifndef K
#define K 4 /* messages of peer 0 */
#endif
#ifndef K1
#define K1 2 /* and of peer 1 */
#endif
#ifndef D
#define D 2
#endif
#ifndef CAP
#define CAP (D + 2)
#endif
#define U 1
#ifdef SHARED
#define CH(i) 0
#else
#define CH(i) i
#endif

#if defined(TIMERFD)
#define HAS_TIMERFD(i) (true)
#elif defined(MIX)
#define HAS_TIMERFD(i) (i == 0)
#else
#define HAS_TIMERFD(i) (false)
#endif

byte pub[2], taken[2], last[2], rung[2];
byte fill[2];      /* bytes in the sockets */
bool edge[2];      /* of the sockets; in the epoll, and not told yet */
bool by_socket[2]; /* was told, and not emptied since */
bool ticks[2];     /* of the timerfds: nobody who is honest reads them */
bool bell_edge[2];
byte heard[2];     /* how often */
bool convicted[2], ended[2];
byte epoch = 0;    /* shared: odd = asleep */
bool asks = false;   /* shared: for bytes */
bool turned = false; /* hears no timerfd any more */
bool in_poll = false;
byte credit = 0;   /* rings that woke nobody yet */

byte sb;
bool sb_full = false;
active proctype flush() { end: do :: atomic { sb_full -> epoch = sb; sb_full = false } od }
inline store_release(v) { atomic { !sb_full -> sb = v; sb_full = true } }
#ifdef NOSC
#define store_sc(v) store_release(v)
#else
inline store_sc(v) { atomic { epoch = v; sb_full = false } }
#endif

#define READY(i) (pub[i] > taken[i] && !ended[i])
#define IS_HEARD(i) (!convicted[i])
#ifdef DEAF
#define SOCKET_TELLS(i) (edge[i] && fill[i] > 0 && IS_HEARD(i) && !HAS_TIMERFD(i))
#else
#define SOCKET_TELLS(i) (edge[i] && fill[i] > 0 && IS_HEARD(i))
#endif
#ifdef LEVEL
#define BELL_TELLS(i) (ticks[i] && IS_HEARD(i) && !turned)
#else
#define BELL_TELLS(i) (bell_edge[i] && ticks[i] && IS_HEARD(i) && !turned)
#endif
#define TELLS(i) (SOCKET_TELLS(i) || BELL_TELLS(i))
#define DONE (taken[0] == last[0] && (taken[1] == last[1] || ended[1]))

#ifdef CONVICT
#define count_ring() skip
#else
#define count_ring() credit++
#endif

inline send_byte(i) {
        if
        :: fill[CH(i)] < CAP -> fill[CH(i)]++; edge[CH(i)] = true
        :: else -> skip /* EAGAIN */
        fi
}

inline ring(i, byte_wanted) {
        atomic {
                count_ring();
                if
                :: byte_wanted -> send_byte(i)
                :: HAS_TIMERFD(i) && !byte_wanted -> ticks[CH(i)] = true; bell_edge[CH(i)] = true
#ifdef SWITCH
                :: HAS_TIMERFD(i) && !byte_wanted ->
#ifdef NOBYTE
                        skip
#else
                        send_byte(i)
#endif
#endif
                :: !HAS_TIMERFD(i) && !byte_wanted -> send_byte(i)
                fi
        }
}

/* output_tell(): who has published loads the epoch, and the exchange lets one of two threads ring. One thread cannot be seen between these two. */
proctype peer(byte id)
{
        byte e;
        bool must, byte_wanted;

        do
        :: atomic { pub[id] < last[id] -> pub[id]++ };
#ifdef TWO
                e = epoch;
                if
                :: atomic { (e & 1) && rung[id] != e -> must = true };
                        atomic { must = (rung[id] != e); rung[id] = e }
                :: else -> skip
                fi;
#else
                d_step { must = (epoch & 1) && rung[id] != epoch; rung[id] = (must -> epoch : rung[id]) };
#endif
                if
                :: must ->
#ifdef TURN
                        byte_wanted = asks;
#endif
                        atomic { ring(id, byte_wanted); must = false; byte_wanted = false; e = 0 }
                :: else -> e = 0
                fi
        :: pub[id] == last[id] -> break
        od
}

inline take_edge(i) {
        if :: SOCKET_TELLS(i) -> by_socket[i] = true :: else -> skip fi;
#ifdef CONVICT
        if :: BELL_TELLS(i) && heard[i] < 9 -> heard[i]++ :: else -> skip fi;
#endif
        edge[i] = false;
        bell_edge[i] = false
}

/* It rings for what it has published. */
inline judge(i) {
        if
        :: heard[i] > pub[i] + U && !convicted[i] ->
#ifndef HEARD
                convicted[i] = true;
#endif
#ifndef GOON
                ended[i] = true
#endif
        :: else -> skip
        fi
}

inline empty_socket(i) {
        if
        :: by_socket[i] ->
#ifdef CONVICT
                heard[i] = (heard[i] + fill[i] > 9 -> 9 : heard[i] + fill[i]);
#endif
                fill[i] = 0;
                by_socket[i] = false
        :: else -> skip
        fi
}

proctype sleeper()
{
        byte e = 0, n = 0;

        do
        :: READY(0) -> taken[0]++
        :: READY(1) -> taken[1]++
        :: !READY(0) && !READY(1) ->
#ifdef QUIET
                d_step { take_edge(0); take_edge(1) };
#endif
                d_step {
                        if
                        :: n >= D ->
                                n = 0;
                                empty_socket(0);
                                empty_socket(1);
#ifdef CONVICT
                                judge(0);
                                judge(1)
#endif
                        :: else -> skip
                        fi
                };
again:          atomic { n++; e = (e + 1 + (e & 1)) % 64; store_sc(e) };
#ifndef NOLOOK
                if
                :: READY(0) -> goto awake
                :: else -> skip
                fi;
                if
                :: READY(1) -> goto awake
                :: else -> skip
                fi;
#endif
#ifdef LATEDRAIN
                d_step { fill[0] = 0; fill[1] = 0; by_socket[0] = false; by_socket[1] = false };
#endif
#ifdef LATETAKE
                d_step { take_edge(0); take_edge(1) };
#endif
#ifdef UNASKED
                if
                :: !turned -> atomic { asks = true; turned = true }
                :: skip
                fi;
#endif
poll:           in_poll = true;
end_asleep:     atomic {
                        TELLS(0) || TELLS(1) ->
                        in_poll = false;
#if !defined(CONVICT) && !defined(LIVE)
                        assert(credit > 0);
                        credit--;
#endif
                        if
#ifdef FEW
                        :: TELLS(0) -> take_edge(0)
                        :: TELLS(1) -> take_edge(1)
#endif
                        :: take_edge(0); take_edge(1)
                        fi
                };
#ifdef SAMEEPOCH
                if
                :: !READY(0) && !READY(1) -> goto poll
                :: else -> skip
                fi;
#endif
awake:
#if defined(TURN) && !defined(UNASKED)
                if
                :: !turned -> asks = true; turned = true /* its epoch may be odd still */
#ifdef BACK
#ifdef UNHEARD
                :: turned -> asks = false
#else
                :: turned -> ticks[0] = false; ticks[1] = false; bell_edge[0] = false; bell_edge[1] = false; turned = false; asks = false
#endif
#endif
                :: skip
                fi;
#endif
                atomic { e = (e + 1) % 64; store_release(e) }
        od
}

#ifdef SPURIOUS
proctype spurious()
{
        atomic { count_ring(); ticks[0] = true; bell_edge[0] = true }
}
#endif

#ifdef FLOOD
proctype hostile()
{
        byte n;

        do
        :: n < 5 -> ring(1, false); n++
        :: n < 5 -> ticks[CH(1)] = false; n++ /* it reads */
        :: break
        od
}
#endif

#ifdef CONVICT
proctype hostile()
{
#ifdef LIVE
        do :: ring(1, false) od
#else
        byte n;

        do
        :: n < 4 -> ring(1, false); n++
        :: break
        od
#endif
}
#endif

init {
        atomic {
                last[0] = K;
                run peer(0);
#ifdef TWO
                run peer(0);
#endif
#if !defined(FLOOD) && K1 > 0
                last[1] = K1;
                run peer(1);
#endif
#if defined(FLOOD) || defined(CONVICT)
                run hostile();
#endif
#ifdef SPURIOUS
                run spurious();
#endif
                run sleeper()
        }
}

#ifdef LIVE
#ifndef CONVICT
active proctype others() { do :: skip; skip od } /* the run goes on when everybody here sleeps: with fairness spin judges none that stops */
#endif
ltl everything_is_taken_and_then_it_sleeps { <> [] (pub[0] == K && DONE && in_poll) }
#else
active proctype watch()
{
end:    timeout -> assert(in_poll && !READY(0) && !READY(1)); assert(DONE); assert(!convicted[0])
}
#endif
