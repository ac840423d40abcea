/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a link under backpressure: its consumer closes its node, or dies, at any step, while the producer may be blocked on it for a
 * slot or for a chunk. It gates no more once it is inactive; what it still reads it may read until it has let go of it. The producer
 * hears of the end by the doorbell's hang-up, or by DETACH, whichever is first. ring_reader_stop(), node_drop_links(), peer_gone(), links_detach(),
 * let_go_of_stopped(). Checked: nothing is written that somebody alive still reads; the producer waits for nobody who is gone; and has
 * all its chunks back then.
 *
 *   (none)       holds
 *   -DCLAIMSGO   claims of an inactive consumer are not looked at any more                                 fails
 *   -DEARLY      DETACH is sent when the consumer says that it will leave, and not when it has let go        fails
 *   -DNOLOOK     a detached link does not make the sender look again                                       fails
 *   -DKEEPCLAIMS claims that were honoured stay when their link is forgotten                                fails
 *   -DNOHANGUP   nobody looks at hang-ups, and nobody orders                                               fails
 */
#ifndef M
#define M 3
#endif
#define P 2 /* chunks */
#define Q 2

byte head = 0, floor_ = 1; /* messages 1..head are published */
byte content[P];
byte slot[M + 2];
byte tail = 1, claim = 0;  /* the cursor */
bool active_ = true; /* how it became so: attach.pml */
bool leaves = false, gone = false; /* its socket says so; its doorbell hung up */
bool detach = false;       /* in the producer's socket */
byte bell = 0, room = 0;
bool p_done = false;

bool known = true;         /* the producer's own */
byte owner[P], held = 0, found;

#define GATES (known && active_)
#define HUNG_UP (gone && known)

inline forget() {
        atomic {
                known = false;
#ifndef KEEPCLAIMS
                held = 0
#endif
        }
}

/* Looks for room and for a chunk: found == P means that there is none. */
inline look() {
        found = P;
        if
        :: GATES && head + 1 - tail >= Q -> skip
        :: else ->
                v = (GATES -> tail : head + 1);
                if
                :: v > floor_ -> old = floor_; floor_ = v
                :: else -> old = floor_
                fi;
                if
                :: known ->
#ifdef CLAIMSGO
                        v = (active_ -> claim : 0);
#else
                        v = claim;
#endif
                        held = (v != 0 && (v == held || v >= old && v < floor_) -> v : 0)
                :: else -> skip
                fi;
                d_step {
                        v = 0;
                        do
                        :: v < P ->
                                if
                                :: owner[v] != 0 && owner[v] < floor_ && owner[v] != held -> owner[v] = 0
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
        fi
}

active proctype producer()
{
        byte v, old;

        do
        :: head == M -> break
        :: else ->
                look();
                do
                :: found < P -> break
                :: else ->
                        room++;
                        look();
                        if
                        :: found < P -> skip
                        :: else ->
end_poll:                       atomic {
                                        if
                                        :: bell > 0 -> bell = 0
                                        :: detach -> skip
#ifndef NOHANGUP
                                        :: HUNG_UP -> skip
#endif
                                        fi
                                };
#ifdef NOLOOK
                                if
                                :: detach || gone ->
                                        if :: detach -> detach = false; forget() :: else -> skip fi;
end_never:                              (bell > 0)
                                :: else -> skip
                                fi;
#endif
                                if
                                :: detach -> detach = false; forget()
#ifndef NOHANGUP
                                :: HUNG_UP && !detach -> forget()
#endif
                                :: else -> skip
                                fi;
                                look()
                        fi;
                        room++
                od;
                owner[found] = head + 1;
                content[found] = 0;
                content[found] = head + 1;
                slot[head + 1] = found;
                head++
        od;
        p_done = true;
        do /* whoever is gone is forgotten, and every chunk comes back */
        :: detach -> detach = false; forget()
#ifndef NOHANGUP
        :: HUNG_UP -> forget()
#endif
        :: !known ->
                look();
                assert(owner[0] == 0 && owner[1] == 0);
                break
        od
}

inline ring() {
        e = room;
        if
        :: (e & 1) && e != rung -> atomic { rung = e; bell = 1 }
        :: else -> skip
        fi
}

active proctype consumer()
{
        byte t = 1, c, e, rung = 0;

        do
        :: true -> leaves = true; goto leave
        :: true -> goto dead /* it reads nothing any more, whatever stands in its cursor */
        :: head >= t && t <= M ->
                c = slot[t];
                claim = t;
                assert(floor_ <= t);
                tail = t + 1;
                ring();
                assert(content[c] == t);
                if
                :: true -> leaves = true; goto leave /* and holds it yet */
                :: true -> goto dead
                :: true -> assert(content[c] == t)
                fi;
                claim = 0;
                ring();
                c = 0;
                t++
        od;
leave:  active_ = false;
        ring();
        assert(claim == 0 || content[c] == t);
        if
        :: true -> goto dead
        :: true -> skip
        fi;
        assert(claim == 0 || content[c] == t);
        claim = 0;
dead:   gone = true
}

active proctype supervisor()
{
end:    if
#ifdef EARLY
        :: leaves -> detach = true
#endif
#ifndef NOHANGUP
        :: gone -> detach = true
#else
        :: false -> skip
#endif
        fi
}

active proctype watch()
{
end:    timeout -> assert(p_done && !known)
}
