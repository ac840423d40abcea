/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stop of one dataflow (docs/daemon.md, architecture.md "The life of one stop"): client, supervisor, guard, its
 * enforcer, keeper and node. FAULTS times, at any step of anybody, one of them is killed or stopped (SIGSTOP, wedged);
 * who is stopped may go on at any time. The node ignores everything but the kill, or is unkillable; its start may still
 * be under way. Whoever can run does what it has to do before time passes. Checked, at every tick: once a stop is
 * confirmed, by T + BUDGET everybody is dead or has been declared unkillable, if guard or supervisor can run at all; the
 * same for a stop that is only journalled, for the guard was told before;
 * "stopped" is never said while somebody lives or is still to be born; an escrow never moves later, whoever forgets
 * it; it never meets another dataflow.
 *
 * Abstracted away: time is ticks: kill at T - 1, the verdict at T + BUDGET, and the watchdog's span is longer than from
 * the kill to that end, as it is by default. The rungs before the kill are what the node ignores. 200 ms are no time:
 * who does not answer because it is dead or stopped is found out at once. RESUME, adoption and exits: start.pml. An
 * enforcer is stopped or killed at most once and not at the very end, for two of them are all the budget has room for.
 *
 *   (none)         two faults, a second stop with less or more time (three hold as well, in half a minute)   holds
 *   -DFAULTS=3 -DPLAIN  three faults, one stop, no unkillable node                                           holds
 *   -DCLI          a client that may write the cgroup enforces once its own count has run out: every stop
 *                  ends by T + BUDGET if the client alone can run                                            holds
 *   -DPOPULATED    the escrow is dropped at populated 0, and not with the directory                          fails
 *   -DTABLE        the guard never reads the journal, and knows when it begins what the supervisor knew that
 *                  became it: as the code is                                                                 holds
 *   -DTABLE -DFAULTS=3 -DPLAIN  ... both die, and the next supervisor is stopped                             fails
 *   -DTABLE -DJFIRST  ... and a stop is journalled before the guard is told                                  fails
 *   -DTABLE -DUNREADSG  ... and what a dead supervisor has sent is not read                                  fails
 *   -DJFIRST       the journal before the guard, but the guard reads it                                      holds
 *   -DNOREAD       the guard never reads the journal: its supervisor places the escrows again                fails
 *   -DREADONCE     ... reads it when it begins, and not again before it forks a successor                    holds
 *   -DREADONCE -DJFIRST  ... and a stop is journalled before the guard is told                               fails
 *   -DFAULTS=3 -DPLAIN -DFDONLY  a guard that has just begun has no cgroup to kill until the keeper
 *                  registers it again                                                                        fails
 *   -DLATER        a second stop may move the journalled time later                                          fails
 *   -DLATER -DMOVES   ... and the escrow                                                                     fails
 *   -DANEW         the successor begins the ladder anew                                                      fails
 *   -DUNWRITTEN    the stop is not journalled                                                                fails
 *   -DNOESCROW     the supervisor alone stops                                                                fails
 *   -DBLIND        the supervisor looks at the guard while it waits for the confirmation, and never again    fails
 *   -DONE          a stopped enforcer is waited for                                                          fails
 *   -DCLIENTGONE   the stop ends with its client                                                             fails
 *   -DCLI -DFIRSTBYTE  the client enforces only if it was never answered at all                              fails
 *   -DOLDEPOCH     a dead supervisor's socket is read when the next one works                                fails
 */
#ifndef FAULTS
#define FAULTS 2
#endif
#define GRACE 3
#define BUDGET 2
#define WATCHDOG 4
#define LAST 8 /* tick */
#define NONE 200
#define DEAD 0
#define RUNS 1
#define STOPPED 2

byte now = 0, faults = FAULTS;
bool window = true, e_fault = true;                    /* things may happen in this tick; the enforcer's one is to come */

byte s = RUNS, g = RUNS, k = RUNS, c = RUNS, e = DEAD; /* supervisor, guard, keeper, client, enforcer */

byte jT = NONE;                                        /* the journal: the pending stop, and that it is over */
bool jover = false;

bool s_works = true, s_kill, s_wrote;                  /* has read journal and store; KILL was ordered; journalled a stop */
byte sT = NONE, s_escrow = 0, stale = 0;               /* 3 sent, not journalled; 1 both; 2 confirmed; ticks for which it has been stopped */
byte sg = NONE, old_sg = NONE;                         /* ESCROW in its socket, and in its predecessor's */
bool confirm = false, ended = false;                   /* from the guard: ESCROW_OK; ENFORCED, nobody left */

byte gT = NONE;                                        /* the escrow */
byte e_step = 0, e_since = 0;                          /* kill, remove; when it was forked */
bool e_ours = false;                                   /* by this guard */
bool has_cgroup = true;                                /* FDONLY: the keeper has registered it with this guard */

byte request = NONE, cT = NONE;                        /* at the control socket: in how long; what the client counts by itself */
byte told = 0;                                         /* the client: 1 "stopping", 2 "stopped" */
bool asked = false, again = false;

byte birth = 0;                                        /* a start: 1 ordered, 2 its cgroup is made, clone3 comes next */
bool order_kill = false;                               /* in the keeper's socket, behind it */
bool n = false, hard = false, dir = true;              /* the node's tree lives; unkillable; the dataflow's cgroup is there */
bool declared = false, said = false, second = false;   /* unkillable, by verdict; "stopped" was said; the slot's next dataflow */
byte aT = NONE, limit = NONE;                          /* earliest escrow ever placed; the end that was promised */

#define LATE(t) (now >= (t) && n && !declared)

inline promise(t) {
        limit = (limit < (t > now -> t : now) + BUDGET -> limit : (t > now -> t : now) + BUDGET)
}

inline place(t) { /* by the guard */
        assert(!second);
        if
        :: !dir -> ended = true
        :: else ->
                assert(aT == NONE || t <= aT || gT != NONE || jT > aT); /* the journal has it, once it is confirmed */
                if
                :: gT == NONE && jT > aT -> aT = NONE /* all who knew of it died before that */
                :: else -> skip
                fi;
#ifdef MOVES
                gT = t;
#else
                if
                :: t < gT -> gT = t
                :: else -> skip
                fi;
#endif
                if
                :: gT < aT -> aT = gT
                :: else -> skip
                fi;
                assert(gT == aT)
        fi
}

inline read_journal() {
        if
        :: jT != NONE && !jover -> place(jT)
        :: else -> skip
        fi
}

inline supervisor_ends() {
        s = DEAD;
        s_works = false;
        s_kill = false;
        s_wrote = false;
        sT = NONE;
        s_escrow = 0;
        stale = 0;
#ifdef OLDEPOCH
        old_sg = sg;
        sg = NONE;
#endif
#ifdef UNREADSG
        sg = NONE;
#endif
        confirm = false /* what it sent lies there, until the guard reads it or begins anew */
}

/* By exec, for the old guard is dead or has been killed, or at the next start. Its supervisor is forked next. */
inline guard_begins() {
        g = RUNS;
        gT = NONE;
        sg = NONE;
        ended = false;
        e_ours = false;
#ifdef FDONLY
        has_cgroup = false;
#endif
#ifdef TABLE
        if
        :: s == RUNS && sT != NONE && !jover -> place(sT)
        :: s == RUNS && (sT == NONE || jover) -> skip
        :: s != RUNS -> skip
        fi;
#endif
#ifdef READONCE
        read_journal();
#endif
        supervisor_ends()
}

active proctype supervisor()
{
end:    do
        :: atomic { s == RUNS && g == DEAD -> guard_begins() }
        /* The guard owes an answer. */
        :: atomic { s == RUNS && g == STOPPED && (s_escrow == 1 || !s_works) -> guard_begins() }
#ifndef BLIND
        :: atomic { s == RUNS && g == STOPPED && s_works && sT != NONE && !jover && now >= sT - 1 -> guard_begins() }
#endif
        :: atomic { s == RUNS && !s_works && g == RUNS ->
                s_works = true;
                sT = jT;
                if /* the guard holds it, so it was ordered, whether it was written down or not */
                :: gT < sT && !jover -> sT = gT; jT = sT
                :: else -> skip
                fi;
#ifdef ANEW
                if
                :: jT != NONE && !jover -> sT = now + GRACE; jT = sT
                :: else -> skip
                fi
#endif
           }
        :: atomic { s == RUNS && s_works && request != NONE ->
#ifdef LATER
                sT = now + request;
#else
                sT = (now + request < sT -> now + request : sT);
#endif
                request = NONE;
#ifdef JFIRST
                s_escrow = 0;
#ifndef UNWRITTEN
                jT = sT;
                s_wrote = true
#endif
#else
                if
                :: jover -> skip /* it has ended: there is nobody to stop */
                :: else ->
                        s_escrow = 3;
#ifndef NOESCROW
                        sg = sT;
#endif
                        confirm = false
                fi
#endif
           }
        :: atomic { s == RUNS && s_escrow == 3 ->
#ifdef NOESCROW
                s_escrow = 0;
#else
                s_escrow = 1;
#endif
#ifndef UNWRITTEN
                jT = sT;
                s_wrote = true
#endif
           }
#ifdef NOESCROW
        :: atomic { s == RUNS && s_works && sT != NONE && !jover && s_escrow == 0 -> s_escrow = 2 }
#else
        :: atomic { s == RUNS && s_works && sT != NONE && !jover && s_escrow == 0 -> s_escrow = 1; sg = sT; confirm = false }
#endif
        :: atomic { s == RUNS && s_escrow == 1 && confirm -> s_escrow = 2; confirm = false; promise(sT) }
        :: atomic { s == RUNS && s_escrow == 2 && told == 0 && c == RUNS -> told = 1; promise(sT) }
        /* The ladder's last rung; a keeper that is dead or does not do it is replaced, if the guard can. */
        :: atomic { s == RUNS && s_escrow == 2 && now >= sT - 1 && k == RUNS && !s_kill -> order_kill = true; s_kill = true }
        :: atomic { s == RUNS && g == RUNS && s_escrow == 2 && now >= sT - 1 && k != RUNS ->
                k = RUNS;
                birth = 0;
                order_kill = false;
                s_kill = false
           }
        :: atomic { s == RUNS && s_kill && k == RUNS && !order_kill && birth == 0 && !n && !jover -> jover = true }
        :: atomic { s == RUNS && s_works && sT != NONE && ended && !jover -> jover = true }
        :: atomic { s == RUNS && s_works && jover && !said -> said = true; assert(!n); told = 2 }
        :: atomic { s == RUNS && s_works && jover && dir && k == RUNS && birth == 0 && !n -> dir = false } /* END */
        :: atomic { s == RUNS && s_kill && k == RUNS && !order_kill && birth == 0 && n && now >= sT + BUDGET && !declared ->
                assert(hard);
                declared = true
           }
        :: atomic { s == RUNS && g == RUNS && s_works && said && !dir && gT == NONE && sg == NONE && !second -> second = true }
#ifdef CLIENTGONE
        :: atomic { s == RUNS && s_works && c == DEAD && sT != NONE && !jover -> sT = NONE; jT = NONE; s_escrow = 0 }
#endif
        od
}

active proctype guard()
{
end:    do
        :: atomic { g == DEAD && s == DEAD -> guard_begins() }
        :: atomic { g == RUNS && s == STOPPED && stale >= WATCHDOG -> supervisor_ends() }
        :: atomic { g == RUNS && s == DEAD ->
                if
                :: sg != NONE -> place(sg); sg = NONE
                :: else -> skip
                fi;
#if !defined(NOREAD) && !defined(READONCE) && !defined(TABLE)
                read_journal();
#endif
                s = RUNS
           }
        :: atomic { g == RUNS && sg != NONE -> place(sg); sg = NONE; confirm = true }
#ifdef OLDEPOCH
        :: atomic { g == RUNS && s == RUNS && old_sg != NONE -> place(old_sg); old_sg = NONE }
#endif
        /* Two at a time, if the first is not done in time. */
        :: atomic { g == RUNS && gT != NONE && now >= gT && dir && has_cgroup && !declared && (e == DEAD || !e_ours) ->
                e = RUNS;
                e_ours = true;
                e_since = now;
                e_step = 0
           }
#ifndef ONE
        :: atomic { g == RUNS && gT != NONE && now >= gT && dir && !declared && e == STOPPED && now > e_since ->
                e = RUNS;
                e_since = now;
                e_step = 0
           }
#endif
        :: atomic { g == RUNS && gT != NONE && !dir -> gT = NONE; ended = true }
#ifdef FDONLY
        :: atomic { g == RUNS && !has_cgroup && k == RUNS -> has_cgroup = true }
#endif
#ifdef POPULATED
        :: atomic { g == RUNS && gT != NONE && now >= gT && !n -> gT = NONE; ended = true }
#endif
        od
}

active proctype enforcer()
{
end:    do
        :: atomic { e == RUNS && e_step == 0 -> n = n && hard; e_step = 1 }
        :: atomic { e == RUNS && e_step == 1 && n && !hard -> e_step = 0 } /* born meanwhile */
        :: atomic { e == RUNS && e_step == 1 && !n ->
                e = DEAD;
#ifndef POPULATED
                dir = false
#endif
           }
        :: atomic { e == RUNS && n && hard && e_step == 1 && now >= aT + BUDGET -> declared = true; e = DEAD }
        od
}

active proctype keeper()
{
end:    do
        :: atomic { k == RUNS && birth == 1 -> birth = (dir -> 2 : 0) }
        :: atomic { k == RUNS && birth == 2 ->
                birth = 0;
                if
                :: dir -> n = true; assert(!said)
                :: else -> skip /* no clone into a cgroup that is gone */
                fi
           }
        :: atomic { k == RUNS && birth != 1 && order_kill -> birth = 0; n = n && hard; order_kill = false }
        od
}

proctype client()
{
end:    do
        :: atomic { c == RUNS && !asked -> asked = true; request = GRACE; cT = now + GRACE }
#ifdef CLI
        /* The last resort: its own count of the stop's time has run out. */
#ifdef FIRSTBYTE
        :: atomic { c == RUNS && asked && told == 0 && now > cT && dir && !declared ->
#else
        :: atomic { c == RUNS && asked && told < 2 && now > cT && dir && !declared ->
#endif
                n = n && hard;
                dir = n;
                declared = n
           }
#endif
        od
}

inline hit(who) {
        if
        :: who == RUNS -> who = STOPPED
        :: who != DEAD -> who = DEAD
        fi;
        faults--
}

proctype fate()
{
end:    do
        :: atomic { window && faults > 0 && s != DEAD -> hit(s);
                if
                :: s == DEAD -> supervisor_ends()
                :: else -> skip
                fi
           }
        :: atomic { window && faults > 0 && g != DEAD -> hit(g) }
        :: atomic { window && faults > 0 && k != DEAD -> hit(k);
                if
                :: k == DEAD -> birth = 0; order_kill = false
                :: else -> skip
                fi
           }
        :: atomic { window && faults > 0 && c != DEAD -> hit(c) }
        :: atomic { window && faults > 0 && e != DEAD && e_fault && !LATE(limit) -> hit(e); e_fault = false }
        :: atomic { window && s == STOPPED -> s = RUNS; stale = 0 }
        :: atomic { window && g == STOPPED -> g = RUNS }
        :: atomic { window && k == STOPPED -> k = RUNS }
        :: atomic { window && c == STOPPED -> c = RUNS }
        :: atomic { window && e == STOPPED -> e = RUNS }
#ifndef PLAIN
        /* A second stop, with less or more time than the first. */
        :: atomic { window && c == RUNS && asked && !again && now < 2 && request == NONE ->
                again = true;
                if
                :: request = 1
                :: request = GRACE + 1
                fi;
                cT = (now + request < cT -> now + request : cT)
           }
#endif
        :: atomic { window -> window = false }
        :: atomic { timeout && now < LAST ->
                assert(!(LATE(limit) && (g == RUNS || s == RUNS)));
#ifdef JFIRST
                assert(!(LATE(jT + BUDGET) && e_fault && (s == RUNS || (g == RUNS && !s_wrote))));
#else
                assert(!(LATE(jT + BUDGET) && e_fault && (s == RUNS || g == RUNS)));
#endif
#ifdef CLI
                assert(!(LATE(cT + BUDGET) && c == RUNS));
#endif
                now++;
                window = faults > 0 || s == STOPPED || g == STOPPED || k == STOPPED || c == STOPPED || e == STOPPED || now < 2;
                stale = (s == STOPPED -> stale + 1 : 0)
           }
        od
}

init {
        atomic {
                if
                :: n = true
                :: birth = 1
#ifndef PLAIN
                :: n = true; hard = true
                :: birth = 1; hard = true
#endif
                fi;
                run client();
                run fate()
        }
}
