/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads of one node wait, one for messages and one for room to send: who comes first polls for both (the leader), the other one
 * waits for the pulse. node_wait(), leader_poll(), leader_take(), next(), wait_room(). Edges are gone once poll has told of them. Who rings by a
 * socket has its bytes taken every D announcements, which takes away an edge that was not told yet: by the leader when it is back, or by
 * who is about to announce that it waits for messages, if nobody polls just then. Timerfds (base/doorbell.h) are not emptied.
 * With -DOUTER the thread that waits for messages polls tg_node_fd() instead, a second epoll around the one that the other thread polls, and is
 * nudged by that one (quiet_outer(), leave_empty_handed()); a sender's poll may end by time then, IDLE times. Checked: nobody waits for
 * ever although what it waits for is there; -DLIVE: every fair run gets to its end.
 *
 *   (none)       the source and the reader ring by sockets                                                 holds
 *   -DTIMERFD    both by timerfds                                                                          holds
 *   -DMIX        the source by a timerfd, the reader by a socket                                           holds
 *   -DOUTER      and so with these two                                                                     holds
 *   -DLIVE -DM=1  lives
 *   -DLIVE -DNOPULSE  starves
 *   -DNOPULSE    the leader does not change the pulse when it comes back from poll                         fails
 *   -DNOWAKE     it changes it, and does not wake who waits for that                                       fails
 *   -DLATEPULSE  who waits reads the pulse after its look                                                  fails
 *   -DNOCHECK    who waits leads without looking whether the pulse is still the one it has read            fails
 *   -DLATEDRAIN  doorbells are emptied after the pulse: between somebody's look and its poll                fails
 *   -DBESIDE     who is about to announce empties them also while another one polls                        fails
 *   -DQUIET      it empties them and does not change the pulse                                             fails
 *   -DNOLOOK     it does not look again once it has announced that it waits                                 fails
 *                all of these with -DTIMERFD too, but for those of the emptying: -DLATEDRAIN, -DBESIDE, -DQUIET
 *   -DOUTER -DNONUDGE    the leader has taken edges and does not nudge                                      fails
 *   -DOUTER -DEDGESONLY  it nudges for edges alone, and not when it has emptied after a poll that ended by time   fails
 */
#ifndef M
#define M 2 /* messages of ours */
#endif
#ifndef S
#define S M /* of our source */
#endif
#define Q 1
#ifndef D
#define D 2
#endif
#ifndef IDLE
#define IDLE 2
#endif
#if defined(TIMERFD)
#define BY_SOCKET(i) (false)
#elif defined(MIX)
#define BY_SOCKET(i) (i == 1)
#else
#define BY_SOCKET(i) (true)
#endif

byte pub = 0, taken = 0;   /* of our source; by us */
byte sent = 0, freed = 0;  /* by us; of our reader */
byte epoch = 0, room = 0;  /* odd: announced */
byte rung[2];
bool edge[2];
byte pulse = 0;
bool leading = false, lock = false, asleep[2];
byte n = 0; /* announcements since doorbells were emptied */
#ifdef OUTER
bool armed = false, nudged = true; /* nobody has called tg_next() yet */
byte idle = 0;
#endif

#define READY(id) (id == 0 && pub > taken || id == 1 && sent - freed < Q)

/* Two odd epochs do for all that there are: a new one was never rung for. */
inline announce(i, word) {
        d_step {
                word = (word + 1) % 4;
                rung[i] = (rung[i] == word -> 0 : rung[i]);
                n = (n < D -> n + 1 : n)
        }
}
inline awake(word) { atomic { word = (word + (word & 1)) % 4 } }
/* Whoever publishes is one thread here: nobody can see between what it loads and that it notes it. */
inline tell(i, word) {
        d_step { must = (word & 1) && word != rung[i]; rung[i] = (must -> word : rung[i]) };
        if
        :: must -> atomic { edge[i] = true; must = false }
        :: else -> skip
        fi
}

inline take_lock() { atomic { !lock -> lock = true } }
inline give_lock() { lock = false }
inline empty_doorbells() {
        d_step {
                if
                :: n >= D -> n = 0; edge[0] = edge[0] && !BY_SOCKET(0); edge[1] = edge[1] && !BY_SOCKET(1)
                :: else -> skip
                fi
        }
}

inline new_pulse() {
        atomic {
                skip;
#ifndef NOPULSE
                pulse = (pulse + 1) % 16;
#ifndef NOWAKE
                asleep[0] = false;
                asleep[1] = false
#endif
#endif
        }
}

/* leader_take(): with the lock; any: poll told of something. */
inline come_back() {
#ifdef OUTER
#ifdef EDGESONLY
        nudge = any;
#else
        nudge = any || n >= D;
#endif
#endif
#ifndef LATEDRAIN
        empty_doorbells();
#endif
#ifdef OUTER
#ifndef NONUDGE
        d_step { nudged = nudged || (nudge && armed); nudge = false };
#endif
#endif
        leading = false;
        any = false;
        new_pulse()
}

/* With the lock. */
inline node_wait(id, p) {
        if
#ifndef NOCHECK
        :: pulse != p -> skip
        :: pulse == p && leading ->
#else
        :: leading ->
#endif
                give_lock();
                atomic { if :: pulse == p -> asleep[id] = true :: else -> skip fi };
                !asleep[id];
                take_lock()
#ifndef NOCHECK
        :: pulse == p && !leading ->
#else
        :: !leading ->
#endif
                leading = true;
                give_lock();
                atomic {
                        if
                        :: edge[0] || edge[1] -> edge[0] = false; edge[1] = false; any = true
#ifdef OUTER
                        :: idle < IDLE -> idle++; any = false
#endif
                        fi
                };
                take_lock();
                come_back();
#ifdef LATEDRAIN
                give_lock();
                empty_doorbells();
                take_lock();
#endif
        fi
}

#ifndef OUTER
active proctype taker()
{
        byte p;
        bool any;

        do
        :: taken == S -> break
        :: else ->
                take_lock();
                awake(epoch);
                do
                ::
#ifndef LATEPULSE
                        p = pulse;
#endif
                        if
                        :: READY(0) -> taken++; break
                        :: else -> skip
                        fi;
                        if
#ifdef BESIDE
                        :: n >= D -> empty_doorbells(); new_pulse(); p = pulse
#elif defined(QUIET)
                        :: n >= D && !leading -> empty_doorbells()
#else
                        :: n >= D && !leading -> empty_doorbells(); new_pulse(); p = pulse
#endif
                        :: else -> skip
                        fi;
                        announce(0, epoch);
                        if
#ifndef NOLOOK
                        :: READY(0) -> skip
#endif
                        :: else ->
#ifdef LATEPULSE
                                p = pulse;
#endif
                                node_wait(0, p)
                        fi;
                        awake(epoch)
                od;
                give_lock()
        od
}
#else
/* tg_next(node, &ev, 0) until there is nothing, then poll(). */
active proctype loop()
{
        bool any, nudge;

        do
        :: taken == S -> break
        :: else ->
                nudged || edge[0] || edge[1];
                take_lock();
                awake(epoch);
                armed = false;
                do
                :: READY(0) -> taken++
                :: else ->
                        nudged = false;
                        if
                        :: !leading -> /* node_look_around() */
                                leading = true;
                                give_lock();
                                d_step { any = edge[0] || edge[1]; edge[0] = false; edge[1] = false };
                                take_lock();
                                come_back()
                        :: else -> skip
                        fi;
                        if
                        :: n >= D && !leading -> empty_doorbells(); new_pulse()
                        :: else -> skip
                        fi;
                        announce(0, epoch);
                        if
#ifndef NOLOOK
                        :: READY(0) -> awake(epoch)
#endif
                        :: else -> armed = true; break
                        fi
                od;
                give_lock()
        od
}
#endif

active proctype sender()
{
        byte p;
        bool any;
#ifdef OUTER
        bool nudge;
#endif

        do
        :: sent == M -> break
        :: else ->
                do
                ::
#ifndef LATEPULSE
                        p = pulse;
#endif
                        if :: READY(1) -> sent++; break :: else -> skip fi;
                        announce(1, room);
                        if
#ifndef NOLOOK
                        :: READY(1) -> skip
#endif
                        :: else ->
#ifdef LATEPULSE
                                p = pulse;
#endif
                                take_lock();
                                node_wait(1, p);
                                give_lock()
                        fi;
                        awake(room)
                od
        od
}

active proctype source()
{
        bool must;

        do
        :: pub == S -> break
        :: else ->
                pub++;
                tell(0, epoch)
        od
}

active proctype reader()
{
        bool must;

        do
        :: freed == M -> break
        :: freed < sent ->
                freed++;
                tell(1, room)
        od
}

#ifdef LIVE
ltl both_get_to_their_end { <> (taken == S && sent == M) }
#else
active proctype watch()
{
end:    timeout -> assert(taken == S && sent == M)
}
#endif
