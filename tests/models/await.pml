/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A producer begins anew under backpressure, and its consumer is there, is dead, or dies meanwhile, before or after it has begun; another one
 * follows, or none. What the producer has not been given a place for it sends to nobody, and an heir begins at message 0. links_await(), on_mapped(),
 * link_lose_target(), on_resumed(), link_settle(). Checked: an heir finds everything from 0, or from where the one before it stood; a producer waits
 * for nobody who will not come. What follows on a death of a consumer that has begun is in heir.pml.
 *
 *   (none)      holds
 *   -DSUPDIE    the supervisor dies once, at any step, with what it has not sent yet; a successor goes on from the journal    holds
 *   -DLATE      START comes before AWAIT                                                                        fails
 *   -DKEEPDEAD  DETACH does not come before AWAIT: what it meets is the link of the dead one, which gates nothing      fails
 *   -DNOAWAIT   one that died before it had begun is followed by another, and the producer is not told           fails
 *   -DNOVERDICT a restart that is given up is told to nobody                                                    fails
 *   -DSUPDIE -DSTARTFIRST  a successor repeats START at once                                                    fails
 *   -DSUPDIE -DNOREPEAT    it does not repeat what its predecessor has written down as decided                  fails
 */
#ifndef M
#define M 2
#endif
#define Q 1
#define LIVES 3

mtype = { OUT, DETACH, LEFT, AWAIT, START }; /* LEFT: DETACH with `restarting` */
chan mail = [8] of { mtype, byte }; /* supervisor to producer: a socket, which outlives a message's sender */
byte acked = 255;
byte head = 0;
byte tail[LIVES], start_at[LIVES];
bool active_[LIVES], dead[LIVES], told[LIVES];
bool p_started = false, p_done = false;

/* What the producer knows of its link, as in heir.pml. */
bool link = false, kept = false, heir = false;
byte who = 0, place = 0;

#define SPOKE (active_[who])
#define PLACED (kept || heir && !SPOKE)
#define FULL (link && (PLACED && head - place >= Q || !PLACED && SPOKE && head - tail[who] >= Q))

inline forget() {
        link = false;
        kept = false;
        heir = false
}

inline keep_place() {
        place = (!kept && SPOKE -> tail[who] : place);
        kept = true;
        heir = false
}

inline begin(g) {
        if
        :: link && !kept && who == g -> skip /* the same again */
        :: else ->
                if
                :: link && (kept || heir || SPOKE) -> keep_place(); heir = true
                :: else -> heir = false
                fi;
                link = true;
                kept = false;
                who = g
        fi;
        acked = g
}

inline leave() {
        if
        :: link && (kept || heir || SPOKE) -> keep_place()
        :: else -> forget() /* who has not begun has no place that it could leave */
        fi
}

inline await() {
        if
        :: !link -> link = true; kept = true; heir = false; place = head
        :: else -> skip /* somebody is there, or has a place */
        fi
}

active proctype producer()
{
        byte g;

        do
        :: head == M -> break
        :: atomic { p_started && !FULL && head < M -> head++ }
        :: atomic { mail ? OUT, g -> begin(g); g = 0 }
        :: atomic { mail ? DETACH, g -> forget(); g = 0 }
        :: atomic { mail ? LEFT, g -> leave(); g = 0 }
        :: atomic { mail ? AWAIT, g -> await(); g = 0 }
        :: atomic { mail ? START, g -> p_started = true; g = 0 }
        :: atomic { link && !kept && dead[who] && empty(mail) -> /* the hang-up */
                leave() }
        od;
        p_done = true;
end:    do
        :: atomic { mail ? OUT, g -> acked = g; g = 0 }
        :: atomic { mail ? DETACH, g -> g = 0 }
        :: atomic { mail ? LEFT, g -> g = 0 }
        :: atomic { mail ? AWAIT, g -> g = 0 }
        :: atomic { mail ? START, g -> g = 0 }
        od
}

proctype consumer(byte id)
{
        byte t;

end_told: if
        :: told[id]
        :: id < LIVES - 1 -> goto die
        fi;
        t = start_at[id];
        atomic { tail[id] = t; active_[id] = true };
        do
        :: t == M -> goto gone
        :: atomic { head > t -> assert(head - t <= Q); t++; tail[id] = t }
        :: id < LIVES - 1 -> break
        od;
die:    dead[id] = true;
gone:   skip
}

/* The journal: the present life, what is decided of it, and what was said to the producer. */
byte g = 0;
bool gone = false, come = true, out_said = false, start_said = false;

/* Once something has not found room in the socket, nothing after it is sent either, and all of it dies with the supervisor. */
bool stuck = false, may_die = false;

inline say(what, n) {
        if
        :: !stuck -> mail ! what, n
        :: may_die -> stuck = true
        fi
}

inline order_start() {
        start_said = true;
        say(START, 0)
}

/* Nobody is there who has a link, and somebody will be. */
inline await_next() {
#ifndef KEEPDEAD
        say(LEFT, g);
#endif
        say(AWAIT, g)
}

active proctype supervisor()
{
#ifdef SUPDIE
        may_die = true;
#endif
        if
        :: run consumer(0)
        :: dead[0] = true; /* both have died, and the producer is back first */
           come = false
        fi;
        if
        :: !come || dead[0] ->
#ifndef LATE
                await_next();
#else
                order_start();
                await_next();
#endif
                come = false
        :: come -> skip
        fi;
work:   do
        :: stuck -> goto successor
        :: may_die -> goto successor
        :: gone && start_said && !may_die -> goto rest
        :: !gone && come && !out_said -> out_said = true; say(OUT, g) /* it has made its handshake */
        :: !gone && come && out_said && acked == g && !told[g] -> told[g] = true
        :: !start_said && (gone || !come || active_[g]) -> order_start() /* no attachment is under way */
        :: !gone && dead[g] ->
                start_at[g + 1] = (active_[g] -> tail[g] : start_at[g]);
                out_said = false;
                come = false;
                if
                :: g++; run consumer(g);
#ifndef NOAWAIT
                   await_next()
#endif
                :: gone = true;
#ifndef NOVERDICT
                   say(DETACH, g)
#endif
                fi
        :: !gone && !come && !dead[g] -> come = true
        :: !gone && start_said && p_done && !may_die -> goto rest
        od;

successor: /* nothing is asked of the producer before it has taken what there is from the last one */
        stuck = false;
        may_die = false;
        empty(mail);
#ifdef STARTFIRST
        if :: start_said && !p_started -> say(START, 0) :: else -> skip fi;
#else
        start_said = p_started; /* said again when it is due, as for the first time */
#endif
#ifndef NOREPEAT
        if
        :: gone -> say(DETACH, g)
        :: !gone && (!come || dead[g]) -> await_next()
        :: !gone && come && !dead[g] -> skip
        fi;
#endif
        if :: !told[g] -> out_said = false :: else -> skip fi; /* not both ends have it: attached anew */
        goto work;
rest:   skip
}

active proctype watch()
{
end:    timeout -> assert(p_done)
}
