/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The growth of a pool: supervisor/growth.c, node/grow.c, the steps in protocol/node_msg.h. One producer without a chunk that is large
 * enough, a lossless reader and its heir, a supervisor and the guard's store. A segment is one chunk here; BOUND of them are allowed.
 * Sockets outlive a supervisor, what waits in its own queue for a reader (RFULL packets fill that reader's socket) does not. How places
 * and claims are kept over deaths is heir.pml, how chunks are taken back claim.pml and chunk.pml: here these are one step each.
 * Checked: what a reader gets lies in memory that it was told of, is the memory that was written, and stays so while it is claimed; never
 * more than BOUND segments are in use; nobody honest is taken for one who breaks the protocol; a send that waits for a segment ends.
 *
 *   (none)                nobody dies                                                                    holds
 *   -DDIE                 the reader may die at any step, its heir comes                                 holds
 *   -DJOIN                another reader may come at any moment                                          holds
 *   -DLATE                the reader may stop to do anything: it is given up when its socket is full     holds
 *   -DSUPDIE -DDIE -DM=2, -DSUPDIE -DLATE -DM=2
 *                         the supervisor may die at any step too, a successor asks                       holds
 *   -DLOST                and the guard may have lost a segment: its number names nothing any more       holds
 *   -DAWAY                and all of them, and the sockets: the reader comes back by name, sooner or later holds
 *   -DALONE               no successor comes                                                             holds
 *   -DPDIE                the producer may die at any step and begins anew                               holds
 *   -DPNOMEM              the producer may have no memory to map a segment                               holds
 *   -DRNOMEM              the reader may have none, and leaves the link                                  holds
 *   -DLIVE -DDIE -DM=2, -DLIVE -DLOST -DM=1
 *                         every fair run gets to its end                                                 lives
 *   -DEARLY               READY follows the producer's ACK, and readers are told afterwards              fails
 *   -DNOWAIT              READY does not wait for what did not fit into a reader's socket                fails
 *   -DDIE -DUNTOLD        the heir is not told of grown segments                                         fails
 *   -DJOIN -DUSEDONLY     who comes is told of those that are used, and not of those that will be        fails
 *   -DLATE -DPATIENT      nobody gives up who does not read its socket                                   fails
 *   -DDIE -DNOGONE        the death of a reader for which something waits is no reason to go on          fails
 *   -DNOCLAIMS            of a grown segment's chunk it is not looked who claims it                      fails
 *   -DSUPDIE -DTWICE      a GROW that comes while another one is under way is served too                 fails
 *   -DSUPDIE -DUNCOUNTED  a successor counts what it makes itself alone                                  fails
 *   -DSUPDIE -DNOASK      the producer does not ask the successor again                                  fails
 *   -DSUPDIE -DALLUSED    a successor takes all that the guard has for used                              fails
 *   -DLOST -DREUSE        a lost segment's number is given to another one                                fails
 *   -DAWAY -DHASTY        READY does not wait for a reader that is still to come back                    fails
 *   -DALONE -DTRUST       a producer waits for the answer of a dead supervisor                           fails
 *   -DPDIE -DNOGEN        segments of a dead producer pass for those of the next one                     fails
 *   -DLIVE -DLATE -DPATIENT -DM=2, -DLIVE -DSUPDIE -DNOASK -DM=1                                          starves
 */
#ifndef M
#define M 3
#endif
#ifndef BOUND
#define BOUND 2
#endif
#define RFULL 1
#define NUMBERS 4 /* 0 is the first segment, which is too small for any message here */
#define FILES 7
#if defined(LOST) || defined(ALONE) || defined(AWAY)
#define SUPDIE
#endif

mtype = { GROW, ACK, HELLO, RESUMED, SEGMENT, READY, REFUSED, RESUME };
chan to_s = [7] of { mtype, byte, byte }; /* number, used */
chan to_p = [4] of { mtype, byte, byte }; /* number, memory */
chan to_r[2] = [7] of { byte, byte, byte };  /* LINK_SEGMENT: generation, number, memory; LINK_IN: number 0 */
chan waits[2] = [7] of { byte, byte, byte }; /* in the supervisor, for that */

/* Memory is known by the order in which it was made. What lies in it, if anything: a message + 1. */
byte n_files = 0, lies[FILES];
bool sealed[FILES];
byte store[NUMBERS]; /* of the guard: number -> memory */

byte gen = 1, head = 0, gen_of[M], where[M], file_of[M];
byte tail[2], claim[2], map_r[16]; /* of readers; map_r: reader, generation, number -> memory */
bool in_1[2], in_2[2];             /* LINK_IN of the first and of the second producer was read */
bool dead[2], late, gone, away = false;
byte map_p[NUMBERS], n_used = 0;   /* of the producer */
bool asked = false, refused = false, p_done = false, p_dead = false;

/* The supervisor's: lost with it. */
byte n = 0, file[NUMBERS];
bool mapped[NUMBERS], told[NUMBERS], used[NUMBERS], settled[2], knows_dead[2];
byte phase = 0; /* 1: has asked, 2: is being answered */
bool s_died = false, s_gone = false;
bool linked[2] = false; /* the journal's */

#define MAP(r, g, k)  map_r[(r) * 8 + ((g) - 1) * 4 + (k)]
#ifdef NOGEN
#define HAS(r)        MAP(r, 1, where[tail[r]])
#else
#define HAS(r)        MAP(r, gen_of[tail[r]], where[tail[r]])
#endif
#define IN(r)         (gen == 1 -> in_1[r] : in_2[r])
#define IN_FOR(r, i)  (gen_of[i] == 1 -> in_1[r] : in_2[r])
#ifdef JOIN
#define PLACE         (linked[1] && tail[1] < tail[0] -> tail[1] : tail[0])
#else
#define PLACE         (gone -> M : (!dead[0] -> tail[0] : (s_gone && !in_1[1] -> M : tail[1]))) /* M: nobody is waited for */
#endif
#ifdef NOCLAIMS
#define CLAIMED(f)    false
#else
#define CLAIMED(f)    (lies[f] && (claim[0] == lies[f] || claim[1] == lies[f]))
#endif
#define FREE(k)       (k <= n_used && map_p[k] && lies[map_p[k]] <= PLACE && !CLAIMED(map_p[k]))
#define ANY_FREE      (FREE(1) || FREE(2) || FREE(3))
#define N_IN_USE      ((n_used >= 1 && map_p[1]) + (n_used >= 2 && map_p[2]) + (n_used >= 3 && map_p[3]))
#define READS(r)      (linked[r] && !dead[r] && !knows_dead[r] && !(away && r == 0))
#ifdef HASTY
#define WAITS_FOR_AWAY false
#else
#define WAITS_FOR_AWAY away
#endif
#define UNDER_WAY     (n > 0 && file[n] && !used[n])
#define HAS_ROOM(r)   (len(to_r[r]) < (r == 0 -> RFULL : 7))

/* ---- the producer */

inline hear()
{
        to_p?what, k, f;
        if
        :: what == SEGMENT && k <= n_used -> to_s!ACK, k, 1
        :: what == SEGMENT && k > n_used ->
#ifdef REUSE
                assert(k == n_used + 1); /* else it has to take its supervisor for broken */
#endif
                if
                :: sealed[f] -> assert(map_p[k] == f); to_s!ACK, k, 0
                :: !sealed[f] -> map_p[k] = f; to_s!ACK, k, 0
#ifdef PNOMEM
                :: !sealed[f] -> refused = true; asked = false
#endif
                fi
        :: what == READY && k <= n_used -> skip
        :: what == READY && k > n_used ->
                d_step {
                        assert(map_p[k]);
                        j = n_used + 1;
                        do
                        :: j < k -> assert(!file[j]); map_p[j] = 0; j++ /* lost, and never used: nothing names it */
                        :: else -> break
                        od;
                        n_used = k;
                        asked = false;
                        assert(N_IN_USE <= BOUND)
                }
        :: what == REFUSED -> refused = true; asked = false
        :: what == RESUME ->
                to_s!HELLO, 0, 0;
                j = 1;
                do
                :: j < NUMBERS ->
                        if
                        :: map_p[j] -> to_s!ACK, j, (j <= n_used)
                        :: else -> skip
                        fi;
                        j++
                :: else -> break
                od;
                to_s!RESUMED, 0, 0;
                if
#ifndef NOASK
                :: asked -> to_s!GROW, 0, 0
#endif
                :: else -> skip
                fi
        fi;
        atomic { k = 0; f = 0; j = 0 }
}

proctype producer()
{
        mtype what;
        byte k, f, j;

end:    do
        :: head == M -> break
#ifdef PDIE
        :: gen == 1 -> break
#endif
        :: nempty(to_p) -> hear()
        :: head < M && ANY_FREE ->
                atomic {
                        if
                        :: FREE(1) -> k = 1
                        :: FREE(2) -> k = 2
                        :: FREE(3) -> k = 3
                        :: else -> k = 0
                        fi;
                        if
                        :: k ->
                                f = map_p[k];
                                lies[f] = head + 1;
                                gen_of[head] = gen;
                                where[head] = k;
                                file_of[head] = f;
                                head++
                        :: else -> skip
                        fi;
                        k = 0;
                        f = 0
                }
        :: head < M && !ANY_FREE && !asked && !refused && !s_gone -> asked = true; to_s!GROW, 0, 0
        :: head < M && !asked && (refused || s_gone) && n_used == 0 -> break /* it is told that its message is too large */
#ifndef TRUST
        :: asked && s_gone && empty(to_p) -> asked = false; refused = true
#endif
        od;
        atomic {
                if
                :: gen == 1 && head < M && !refused && !s_gone -> p_dead = true
                :: else -> p_done = true
                fi
        }
}

/* ---- readers */

proctype reader(byte id)
{
        byte g, k, f, i;

end:    do
        :: dead[id] -> break
#ifdef DIE
        :: atomic { id == 0 && !dead[0] && !gone -> dead[0] = true; tail[1] = tail[0]; claim[0] = 0 }; break
#endif
#ifdef LATE
        :: id == 0 -> late = true;
end_late:       dead[0]; break
#endif
        :: atomic { nempty(to_r[id]) && !dead[id] -> to_r[id]?g, k, f ->
                if
                :: k == 0 && g == 1 -> in_1[id] = true
                :: k == 0 && g == 2 -> in_2[id] = true
#ifdef NOGEN
                :: k > 0 && MAP(id, 1, k) == 0 -> MAP(id, 1, k) = f
#else
                :: k > 0 && MAP(id, g, k) == 0 -> MAP(id, g, k) = f
#endif
                :: else -> skip /* it has it */
                fi;
                k = 0; f = 0; g = 0 }
#ifdef RNOMEM
        :: atomic { nempty(to_r[id]) && id == 0 && !dead[0] -> gone = true; claim[0] = 0; dead[0] = true }; break
#endif
        :: atomic { tail[id] < head && !claim[id] && !dead[id] && IN_FOR(id, tail[id]) && (HAS(id) || empty(to_r[id]) && !(away && id == 0)) -> /* else its socket is read first */
                i = tail[id];
                f = HAS(id);
                if
                :: f == 0 -> assert(false) /* an honest producer is said to have broken the protocol */
                :: f > 0 ->
                        assert(f == file_of[i]);
                        claim[id] = i + 1;
                        tail[id] = i + 1
                fi;
                f = 0; i = 0 }
#ifdef AWAY
        :: id == 0 && away && empty(to_r[0]) -> away = false /* what was in the old one is read to its end */
#endif
        :: atomic { claim[id] > 0 && !dead[id] ->
                assert(lies[file_of[claim[id] - 1]] == claim[id]); /* nobody wrote there */
                claim[id] = 0 }
        :: p_done && tail[id] == head && !claim[id] && empty(to_r[id]) -> break
        od
}

/* ---- the supervisor */

inline may_die()
{
#ifdef SUPDIE
        if
        :: !s_died -> goto dies
        :: skip
        fi
#else
        skip
#endif
}

inline put(r, k0, f0)
{
        if
        :: HAS_ROOM(r) && len(waits[r]) == 0 -> to_r[r]!gen, k0, f0
        :: else -> waits[r]!gen, k0, f0
        fi
}

/* growth_tell_link() */
inline tell_all(r)
{
        j = 1;
        do
        :: j <= n ->
                if
#ifdef UNTOLD
                :: false -> skip
#elif defined(USEDONLY)
                :: file[j] && sealed[file[j]] && used[j] -> put(r, j, file[j])
#else
                :: file[j] && sealed[file[j]] -> put(r, j, file[j])
#endif
                :: else -> skip
                fi;
                j++
        :: else -> break
        od;
        j = 0
}

inline tell_readers(k0)
{
        if
        :: READS(0) && !told[k0] -> put(0, k0, file[k0])
        :: else -> skip
        fi;
        may_die();
        if
        :: READS(1) && !told[k0] -> put(1, k0, file[k0])
        :: else -> skip
        fi;
        told[k0] = true
}

inline advance(k0)
{
        if
        :: mapped[k0] && !used[k0] && phase == 0 && !WAITS_FOR_AWAY ->
#ifdef EARLY
                used[k0] = true;
                to_p!READY, k0, 0;
                may_die();
                tell_readers(k0)
#else
                tell_readers(k0);
                may_die();
                if
#ifndef NOWAIT
                :: READS(0) && len(waits[0]) > 0 || READS(1) && len(waits[1]) > 0 -> skip
#endif
                :: else -> used[k0] = true; to_p!READY, k0, 0
                fi
#endif
        :: else -> skip
        fi
}

inline on_read()
{
        if
        :: UNDER_WAY -> advance(n)
        :: else -> skip
        fi
}

inline on_grow()
{
        if
#ifndef TWICE
        :: UNDER_WAY -> skip
        :: !UNDER_WAY ->
#else
        :: true ->
#endif
                d_step {
                        present = 0;
                        j = 1;
                        do
                        :: j <= n ->
#ifdef UNCOUNTED
                                present = present + (file[j] > 0 && !store_had[j]);
#else
                                present = present + (file[j] || used[j]);
#endif
                                j++
                        :: else -> break
                        od;
                        j = 0
                }
                if
                :: present < BOUND && n + 1 < NUMBERS ->
                        d_step {
                                n++;
                                n_files++;
                                file[n] = n_files;
                                mapped[n] = false; told[n] = false; used[n] = false
                        }
                        store[n] = file[n];
                        may_die();
                        to_p!SEGMENT, n, file[n]
                :: else -> to_p!REFUSED, 0, 0
                fi
        fi
}

inline on_ack()
{
        if
        :: file[k] == 0 ->
                assert(phase == 2); /* else an honest producer is given up */
#ifndef REUSE
                d_step { n = (k > n -> k : n); used[k] = u; lost[k] = !u } /* counts if it is in use; its number is never given again */
#endif
        :: file[k] > 0 ->
                sealed[file[k]] = true;
                mapped[k] = true;
                used[k] = used[k] || (phase == 2 && u);
                advance(k)
        fi
}

inline on_resumed()
{
        k = 1;
        do
        :: k <= n ->
                if
                :: file[k] == 0 -> skip
                :: file[k] > 0 && !mapped[k] && !used[k] -> to_p!SEGMENT, k, file[k]
                :: else -> advance(k)
                fi;
                k++
        :: else -> break
        od
}

active proctype supervisor()
{
        mtype what;
        byte k, u, j, present;
        bool lost[NUMBERS];
#ifdef UNCOUNTED
        bool store_had[NUMBERS];
#endif

        linked[0] = true;
        settled[0] = true;
        to_r[0]!1, 0, 0;
        run producer();
        run reader(0);
        run reader(1);
turn:
end:
        do
        :: nempty(to_s) ->
                atomic {
                        to_s?what, k, u;
                        if
                        :: phase == 1 && what == HELLO -> phase = 2; goto turn
                        :: phase == 1 && what != HELLO -> goto turn /* said to a predecessor */
                        :: else -> skip
                        fi
                }
                if
                :: what == GROW -> on_grow()
                :: what == ACK -> on_ack()
                :: what == RESUMED -> phase = 0; on_resumed()
                fi;
                atomic { k = 0; u = 0; present = 0 }
        :: len(waits[0]) > 0 && !dead[0] && HAS_ROOM(0) ->
                waits[0]?k, u, j;
                to_r[0]!k, u, j;
                atomic { k = 0; u = 0; j = 0 }
                if
                :: len(waits[0]) == 0 -> on_read()
                :: else -> skip
                fi
#ifndef PATIENT
        :: atomic { len(waits[0]) > 0 && late && !dead[0] && UNDER_WAY -> dead[0] = true; tail[1] = tail[0]; claim[0] = 0 }
#endif
        :: dead[0] && !knows_dead[0] ->
                knows_dead[0] = true;
                d_step {
                        do
                        :: len(waits[0]) > 0 -> waits[0]?_, _, _
                        :: len(waits[0]) == 0 -> break
                        od
                }
#ifndef NOGONE
                on_read()
#endif
#ifdef JOIN
        :: !linked[1] && phase == 0 ->
                atomic { linked[1] = true; tail[1] = head } /* attach.pml has the steps of that */
#else
        :: knows_dead[0] && !linked[1] && phase == 0 && !gone ->
                linked[1] = true; /* in the journal first */
#endif
                settled[1] = true;
                may_die();
                tell_all(1);
                may_die();
                put(1, 0, 0)
        :: phase == 0 && !settled[0] && linked[0] && !dead[0] && empty(to_r[0]) && !away -> /* it has answered what it was asked */
                settled[0] = true;
                tell_all(0);
                if
                :: !IN(0) -> put(0, 0, 0)
                :: else -> skip
                fi;
                on_read()
        :: phase == 0 && !settled[1] && linked[1] && empty(to_r[1]) ->
                settled[1] = true;
                tell_all(1);
                if
                :: !IN(1) -> put(1, 0, 0)
                :: else -> skip
                fi
#ifdef PDIE
        :: p_dead ->
                atomic { /* its socket and its memory go with it */
                        p_dead = false;
                        gen = 2;
                        n = 0; n_used = 0;
                        asked = false; refused = false;
                        k = 0;
                        do
                        :: k < NUMBERS -> store[k] = 0; file[k] = 0; map_p[k] = 0; mapped[k] = false; told[k] = false; used[k] = false; k++
                        :: else -> break
                        od;
                        k = 0;
                        do
                        :: nempty(to_s) -> to_s?_, _, _
                        :: nempty(to_p) -> to_p?_, _, _
                        :: empty(to_s) && empty(to_p) -> break
                        od;
                        if
                        :: READS(0) -> put(0, 0, 0)
                        :: else -> skip
                        fi;
                        run producer()
                }
#endif
#ifdef SUPDIE
        :: !s_died -> goto dies
#endif
        od;
#ifdef SUPDIE
dies:   atomic {
                s_died = true;
                n = 0;
#ifdef AWAY
                do
                :: nempty(to_s) -> to_s?_, _, _
                :: nempty(to_p) -> to_p?_, _, _
                :: empty(to_s) && empty(to_p) -> break
                od;
                away = true;
#endif
                k = 1;
                do
                :: k < NUMBERS ->
#ifdef AWAY
                        store[k] = 0;
#endif
#ifdef LOST
                        if
                        :: store[k] > 0 -> store[k] = 0
                        :: true -> skip
                        fi;
#endif
                        file[k] = store[k];
                        n = (store[k] -> k : n);
                        mapped[k] = false;
                        told[k] = false;
#ifdef ALLUSED
                        used[k] = store[k] > 0;
#else
                        used[k] = false;
#endif
#ifdef UNCOUNTED
                        store_had[k] = store[k] > 0;
#endif
                        k++
                :: else -> break
                od;
                do
                :: len(waits[0]) > 0 -> waits[0]?_, _, _
                :: len(waits[1]) > 0 -> waits[1]?_, _, _
                :: len(waits[0]) == 0 && len(waits[1]) == 0 -> break
                od;
                k = 0; u = 0; j = 0; present = 0;
                settled[0] = false; settled[1] = false;
                knows_dead[0] = false;
                phase = 1
        }
#ifdef ALONE
        s_gone = true
#else
        to_p!RESUME, 0, 0;
        goto turn
#endif
#endif
}

#ifdef LIVE
ltl the_producer_gets_on { <> p_done }
#else
active proctype watch()
{
end:    timeout ->
        assert(p_done || (late && !dead[0] && !asked)) /* who is late may hold up room; nobody waits for an answer */
}
#endif
