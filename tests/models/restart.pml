/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A producer that dies and comes again, as its consumer sees it under backpressure: each life has a ring of its own, one cursor serves
 * them all. The consumer reads the old ring to its final head, then the next; it holds one old ring at most and counts what it gives up of
 * older ones. input_make_way(), source_part_from_cursor(), links_in(), links_out(), ring_reader_drain(). What the producer of a life publishes
 * once its consumer is active is never lost. Checked: messages come in order, life by life; each is taken or counted; a living
 * producer never finds a position or a claim of another ring in the cursor that it reads.
 *
 *   (none)       holds
 *   -DSLEEPY     the consumer may be away for any number of lives                                          holds
 *   -DEARLYSTART a producer is started before its consumer has answered: the cursor is about the old ring yet   fails
 *   -DNODRAIN    it goes to the new ring at once                                                           fails
 *   -DNEWFIRST   the old ring is given up, counted, when the new one comes                                 holds as far as it goes, and loses: fails
 *   -DONECURSOR  the old ring is read on with the cursor that the new producer reads                      fails
 *   -DKEEPCLAIM  a message of the old ring that is still in use stays claimed in that cursor                 fails
 *   -DSLEEPY -DUNCOUNTED  what is given up of a ring before the old one is not counted                      fails
 */
#define LIVES 3
#define M 2 /* messages of each life, at most */
#define Q 1

byte head[LIVES], last[LIVES]; /* published; at the end of that life */
bool ended[LIVES], acked[LIVES], told[LIVES]; /* dead; has the cursor (LINK_OUT); its ring was sent to the consumer (LINK_IN) */
bool answered[LIVES], started[LIVES];         /* LINK_IN_ACK; START */
byte life = 0;                 /* the newest */

/* The cursor: what stands there, and which ring it is about. That is written nowhere; it is for the assertions. */
byte tail = 0, claim = 0;
byte tail_of = 0, claim_of = 0;
bool active_ = false;

byte taken[LIVES], dropped[LIVES];
bool c_done = false;

#define GATES(g) (acked[g] && active_)

proctype producer(byte g)
{
        do
        :: true -> break /* it dies, whenever */
        :: started[g] && head[g] < M && !(GATES(g) && head[g] - tail >= Q) ->
                atomic {
                        /* one look at the cursor: nothing there may be of another ring */
                        assert(!GATES(g) || tail_of == g && tail <= head[g]);
                        assert(!GATES(g) || claim == 0 || claim_of == g)
                };
                head[g]++
        od;
        last[g] = head[g];
        ended[g] = true
}

active proctype supervisor()
{
        byte g = 0;

        do
        :: g == LIVES -> break
        :: else ->
                if
                :: g == 0 -> run producer(0)
                :: else -> ended[g - 1] -> life = g; run producer(g)
                fi;
                acked[g] = true;
                told[g] = true;
                if
                :: ended[g]
#ifdef EARLYSTART
                :: true -> started[g] = true
#else
                :: answered[g] -> started[g] = true /* nobody sends before its consumers are there */
#endif
                fi;
                g++
        od
}

#define NONE 255

active proctype consumer()
{
        byte now = NONE, old = NONE, t, t_old, next = 0, held = NONE, before;
        bool on_cursor = false; /* old is still read with the shared cursor */

        do
        :: next < LIVES && told[next] -> /* LINK_IN */
                if
                :: old != NONE && now != NONE ->
#ifndef UNCOUNTED
                        dropped[old] = dropped[old] + last[old] - t_old;
#endif
                        old = NONE
                :: else -> skip
                fi;
#ifndef ONECURSOR
                active_ = false;
#ifndef KEEPCLAIM
                claim = 0;
#endif
#endif
                if
                :: now != NONE ->
#ifdef NODRAIN
                        now = NONE
#else
#ifdef NEWFIRST
                        dropped[now] = dropped[now] + last[now] - t;
#else
                        atomic { old = now; t_old = t }
#endif
#endif
                :: else -> skip
                fi;
                now = next;
                next++;
                t = 0;
                atomic { tail = 0; tail_of = now };
                active_ = true;
                answered[now] = true
#ifdef SLEEPY
        :: true -> (next < LIVES && told[next] || c_done || ended[LIVES - 1]) /* in user code, for as long as it likes */
#endif
        :: old != NONE && t_old < last[old] -> /* read to its end first */
                assert(ended[old]);
#ifdef ONECURSOR
                atomic { tail = t_old + 1; tail_of = old };
#endif
                t_old++;
                taken[old]++
        :: old != NONE && t_old == last[old] -> old = NONE
        :: old == NONE && now != NONE && t < head[now] ->
                assert(now == 0 || taken[now - 1] + dropped[now - 1] == last[now - 1]);
                atomic { claim = t + 1; claim_of = now };
                atomic { t++; tail = t; tail_of = now };
                taken[now]++;
                if
                :: true -> atomic { if :: claim_of == now -> claim = 0 :: else -> skip fi }
                :: true -> skip /* still in use: let go with the next */
                fi
        :: old == NONE && now == LIVES - 1 && ended[now] && t == last[now] -> break
        od;
        c_done = true
}

#ifdef NEWFIRST
#define LOST (dropped[0] + dropped[1] + dropped[2] > 0)
#else
#define LOST false
#endif

active proctype watch()
{
        byte g;

end:    timeout ->
        assert(c_done);
        d_step {
                do
                :: g < LIVES -> assert(taken[g] + dropped[g] == last[g]); g++
                :: else -> break
                od
        };
        assert(!LOST)
}
