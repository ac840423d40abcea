/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads of one node wait, one for messages and one for room to send: who comes first polls for both (the leader), the other one
 * waits for the pulse. node_wait(), leader_poll(), leader_take(), next(), wait_room(). Doorbells are sockets here, as where the kernel has no others
 * (those of base/doorbell.h are not emptied: that is this with D without an end). Their edges are gone once poll has told of
 * them, and doorbells are emptied every D announcements, which takes away an edge that was not told yet: by the leader when it is back, or by
 * who is about to announce that it waits for messages, if nobody polls just then. Checked: nobody waits for
 * ever although what it waits for is there; -DLIVE: every fair run gets to its end.
 *
 *   (none)       holds
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
 */
#ifndef M
#define M 2 /* messages each way */
#endif
#define Q 1
#define D 2

byte pub = 0, taken = 0;   /* of our source; by us */
byte sent = 0, freed = 0;  /* by us; of our reader */
byte epoch = 0, room = 0;  /* odd: announced */
bool edge[2];
byte pulse = 0;
bool leading = false, lock = false, asleep[2];
byte n = 0; /* announcements since doorbells were emptied */

#define READY(id) (id == 0 && pub > taken || id == 1 && sent - freed < Q)

inline take_lock() { atomic { !lock -> lock = true } }
inline give_lock() { lock = false }
inline empty_doorbells() { d_step { if :: n >= D -> n = 0; edge[0] = false; edge[1] = false :: else -> skip fi } }

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
                atomic { (edge[0] || edge[1]) -> edge[0] = false; edge[1] = false };
                take_lock();
#ifndef LATEDRAIN
                empty_doorbells();
#endif
                leading = false;
                new_pulse();
#ifdef LATEDRAIN
                give_lock();
                empty_doorbells();
                take_lock();
#endif
        fi
}

active proctype taker()
{
        byte p;

        do
        :: taken == M -> break
        :: else ->
                take_lock();
                epoch = epoch + (epoch & 1);
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
                        atomic { epoch++; n++ };
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
                        atomic { epoch = (epoch + 1) % 64 }
                od;
                give_lock()
        od
}

active proctype sender()
{
        byte p;

        do
        :: sent == M -> break
        :: else ->
                do
                ::
#ifndef LATEPULSE
                        p = pulse;
#endif
                        if :: READY(1) -> sent++; break :: else -> skip fi;
                        atomic { room++; n++ };
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
                        atomic { room = (room + 1) % 64 }
                od
        od
}

active proctype source()
{
        byte e, rung = 0;

        do
        :: pub == M -> break
        :: else ->
                pub++;
                e = epoch;
                if
                :: (e & 1) && e != rung -> atomic { rung = e; e = 0 }; edge[0] = true
                :: else -> e = 0
                fi
        od
}

active proctype reader()
{
        byte e, rung = 0;

        do
        :: freed == M -> break
        :: freed < sent ->
                freed++;
                e = room;
                if
                :: (e & 1) && e != rung -> atomic { rung = e; e = 0 }; edge[1] = true
                :: else -> e = 0
                fi
        od
}

#ifdef LIVE
ltl both_get_to_their_end { <> (taken == M && sent == M) }
#else
active proctype watch()
{
end:    timeout -> assert(taken == M && sent == M)
}
#endif
