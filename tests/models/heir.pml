/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The death of a consumer under backpressure, and what follows on it: the supervisor starts another incarnation, or does not,
 * or gives it up half way; an heir may die too, before it has begun or later. The producer hears of a death by the doorbell's
 * hang-up at any moment, before or after the supervisor has said anything. peer_gone(), links_out(), links_detach(),
 * ring_writer_orphan(), link_lose_target(). Checked: an heir finds everything from the last position on; a producer waits
 * for nobody who will not come. A producer that begins anew: await.pml.
 *
 *   (none)      the supervisor always gives its verdict                                                 holds
 *   -DORDER     a restart nobody expected: announced to the producer, then the consumer is ended        holds
 *   -DSUPDIE    the supervisor may die at any step, for good: an heir loses something, nobody waits     holds
 *   -DFORGET    the hang-up alone ends the link                                                         fails
 *   -DNEWLINK   LINK_OUT of the heir begins a new link, which gates once its cursor is active           fails
 *   -DEARLYOUT  DETACH is sent although another incarnation comes                                       fails
 *   -DNOVERDICT a restart that is given up is told to nobody                                            fails
 *   -DORDER -DMAILLAST  at a hang-up the producer does not look first what it was told                  fails
 *   -DORDER -DCURSORFIRST  nor when the cursor says that the consumer has closed its node               fails
 *   -DSUPDIE -DTRUST    a producer waits for the verdict of a dead supervisor                           fails
 */
#ifndef M
#define M 3
#endif
#define Q 1
#define LIVES 3

mtype = { OUT, DETACH, FLAG };
chan mail = [3] of { mtype, byte }; /* supervisor to producer: a socket, which outlives a message's sender */
byte acked = 255;
byte head = 0;
byte tail[LIVES], start_at[LIVES];  /* the cursor of each incarnation, and where it was told to begin */
bool active_[LIVES], left_[LIVES], dead[LIVES], told[LIVES];
bool asked = false, s_dead = false, p_done = false;

/* What the producer knows of its link. Of `kept` and `heir` the place gates, else the cursor, once it is active. */
bool link = false, flag = false, kept = false, heir = false;
byte who = 0, place = 0;

#define SPOKE (active_[who])
#define PLACED (kept || heir && !SPOKE)
#ifdef CURSORFIRST
#define LEFT (left_[who] && !flag)
#else
#define LEFT false
#endif
#define FULL (link && (PLACED && head - place >= Q || !PLACED && SPOKE && !LEFT && head - tail[who] >= Q))
#define HAD_A_PLACE (link && (kept || heir || SPOKE))
#ifdef TRUST
#define SOMEBODY_DECIDES true
#else
#define SOMEBODY_DECIDES (!s_dead)
#endif
#ifdef MAILLAST
#define HEARD_ALL true
#else
#define HEARD_ALL empty(mail)
#endif

inline keep_place() {
        place = (!kept && SPOKE -> tail[who] : place);
        kept = true;
        heir = false
}

inline forget() {
        link = false;
        kept = false;
        heir = false
}

inline begin(g) {
#ifdef NEWLINK
        forget();
#else
        if
        :: HAD_A_PLACE -> keep_place(); heir = true
        :: else -> heir = false
        fi;
#endif
        link = true;
        kept = false;
        who = g;
#ifdef ORDER
        flag = g > 0;
#else
        flag = true;
#endif
        acked = g
}

active proctype producer()
{
        byte g;

end_out: atomic { mail ? OUT, g -> begin(g); g = 0 };
end_barrier:
        active_[0]; /* nobody sends before its consumers are there */
        do
        :: head == M -> break
        :: atomic { !FULL && head < M -> head++ }
        :: atomic { mail ? OUT, g -> begin(g); g = 0 }
        :: atomic { mail ? DETACH, g -> forget(); g = 0 }
        :: atomic { mail ? FLAG, g -> flag = true; g = 0 }
        :: atomic { link && !kept && dead[who] && HEARD_ALL -> /* the hang-up */
                if
#ifndef FORGET
                :: flag && (heir || SPOKE) && SOMEBODY_DECIDES -> keep_place()
#endif
                :: else -> forget()
                fi }
        :: atomic { link && !kept && SPOKE && left_[who] && !flag && HEARD_ALL -> forget() } /* let_go_of_stopped() */
#ifndef TRUST
        :: atomic { s_dead && empty(mail) && kept -> forget() }
#endif
        od;
        p_done = true;
end:    do
        :: atomic { mail ? OUT, g -> acked = g; g = 0 }
        :: atomic { mail ? DETACH, g -> g = 0 }
        :: atomic { mail ? FLAG, g -> g = 0 }
        od
}

#ifdef ORDER
#define MAY_DIE (id > 0 && id < LIVES - 1 || asked && id == 0)
#else
#define MAY_DIE (id < LIVES - 1)
#endif

proctype consumer(byte id)
{
        byte t;

end_told: if
        :: told[id]
        :: id > 0 && MAY_DIE -> goto die /* before it has begun */
        :: s_dead && !told[id] -> dead[id] = true; goto gone /* tg_node_open() gives up */
        fi;
        t = start_at[id];
        atomic { tail[id] = t; active_[id] = true };
        do
        :: t == M -> break
        :: atomic { head > t -> assert(s_dead || head - t <= Q); t++; tail[id] = t }
        :: MAY_DIE -> break
        od;
die:    if
#ifdef ORDER
        :: MAY_DIE -> left_[id] = true; dead[id] = true
#else
        :: MAY_DIE -> dead[id] = true
#endif
        :: t == M
        fi;
gone:   skip
}

#ifdef SUPDIE
#define MAY_GO if :: s_dead = true; goto gone :: true -> skip fi
#else
#define MAY_GO skip
#endif

active proctype supervisor()
{
        byte g = 0;

        run consumer(0);
        do
        ::
                mail ! OUT, g;
                if
                :: acked == g -> MAY_GO; told[g] = true
                :: g > 0 && dead[g] -> skip
                fi;
#ifdef ORDER
                if
                :: g == 0 -> mail ! FLAG, g; asked = true
                :: else -> skip
                fi;
#endif
                MAY_GO;
end_alive:      dead[g];
                MAY_GO;
                if
                :: g + 1 < LIVES ->
#ifdef EARLYOUT
                        mail ! DETACH, g;
#endif
                        start_at[g + 1] = (active_[g] -> tail[g] : start_at[g]);
                        g++;
                        MAY_GO;
                        if
                        :: true -> run consumer(g)
                        :: true -> break /* stopped before its backoff was over */
                        fi
                :: true -> break
                fi
        od;
#ifndef NOVERDICT
        mail ! DETACH, g;
#endif
gone:   skip
}

active proctype watch()
{
end:    timeout -> assert(p_done || s_dead && !active_[0])
}
