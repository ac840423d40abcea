/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting and adopting one node (docs/daemon.md): supervisor, guard, keeper and child, each step one journal write, one
 * message or one system call. The supervisor may be killed S times, the keeper K times, the guard G times, between any
 * two steps; a message or a journal write may be the last thing a killed supervisor did and take effect later. Slowness
 * needs no rule of its own: nobody ever has to take its next step. Checked: a generation is executed once; no two
 * incarnations live at a time; whoever runs is registered; every exit is journalled, as unknown only if the guard had
 * died; a node that runs once (restart: never) has run exactly once, or is said to have failed; nothing starts after
 * "stopped" was reported.
 *
 * Abstracted away: what a node's tree does but live and end; times and backoff (a start may be given up at any moment);
 * the cgroup's path; how descriptors travel; the store is read in one step. Supervisor and guard dead together, and the
 * next start, are the guard's death here: what stays is the journal, the keeper and the cgroups. The keeper's reports
 * that were on their way when it died are still read.
 *
 *   (none)             S=2 K=1 G=0; a node that runs once                                                 holds
 *   -DS=1 -DG=1        the guard as well                                                                  holds
 *   -DRESTART          restart: always, one restart                                                       holds
 *   -DFORGET           the keeper forgets an incarnation once it is over and reaped; the supervisor takes
 *                      "unknown" for "over" if the exit is journalled, else repeats the order             holds
 *   -DNODRAIN          the keeper serves the successor before it has emptied the dead one's socket        fails
 *   -DNOCLOSE          ... empties it, but does not close it: what lands late is carried out              fails
 *   -DORDERFIRST       the order goes out before its intent is journalled                                 fails
 *   -DNOREG            a child does not register before exec                                              fails
 *   -DREAPFIRST        REAP goes out before the exit is journalled                                        fails
 *   -DREAPGIVENUP      the keeper reaps a start that it gave up, without waiting for REAP                 fails
 *   -DRESTART -DNOEMPTY   the next generation does not wait for the last one's cgroup to be empty         fails
 *   -DONLYUNREAPED     RESUME is answered with the incarnations that are not reaped, alone                fails
 *   -DNOID             the intent does not say which keeper it was meant for                              fails
 *   -DNOASK            an empty cgroup that a new keeper found is taken for "it never ran"                fails
 *   -DUNREAD           the guard closes a dead keeper's registration socket with records in it            fails
 *   -DEARLYDROP        the guard drops a registration when the child ends, not when that is journalled    fails
 *   -DG=1 -DWHOLE      a guard that has just begun claims to know who had registered                      fails
 *   -DRESTART -DSAMEFILE  the successor goes on in the file its predecessor may still be writing to       fails
 *   -DTORN             a journal write that is cut short takes the old record with it                     fails
 */
#ifndef S
#define S 2
#endif
#ifndef K
#define K 1
#endif
#ifndef G
#define G 0
#endif
#define GENERATIONS 2
#define N (GENERATIONS + 1) /* generations and keepers count from 1 */

mtype = { SPAWN, ADOPT, REAP, KILL };

/* The journal's record of the node. */
byte jg = 0, jk = 0;                    /* generation, the keeper it was meant for */
byte jx = 0;                            /* its exit */
#define RAN 1                           /* with its code */
#define UNKNOWN 2
#define FAILED 3                        /* the keeper said that it could not be started */
#define NEVER 4                         /* it never ran: the next generation is ordered without being charged as a restart */
bool je = false, jstop = false;         /* its EMPTY; the stop */

byte s = 1;                             /* the supervisor: 0 dead, 1 reads journal and store, 2 wrote RESUME, 3 works */
bool s_known, s_sent, s_reaped, s_kill; /* the keeper knew of jg; ordered on this connection */
bool ask_stop = false, reported = false;
chan q = [4] of { mtype, byte };        /* orders on the supervisor's connection */
chan old = [5] of { mtype, byte };      /* on its predecessor's */
bool open_ = false, late_spawn = false; /* the predecessor's is not closed; a packet that lands late in it */
byte late_g = 0, late_w = 0;            /* a journal write that lands late: the exit of that generation */
byte n_s = S, n_k = K, n_g = G;

bool k = true;                          /* the keeper */
byte kn = 1, k_sock = 1, k_parent = 1;  /* its number; the guard its registration socket leads to, that is its parent */
byte kst[N];                            /* what it knows: 0 nothing */
#define STARTING 1
#define STARTED 2
#define ENDED 3
#define OVER 4
bool kfail[N], kad[N];                  /* could not be started; adopted: the leader's exit is not the keeper's to see */
bool r_exit[N], r_fail[N], r_empty[N];  /* reports on the supervisor's connection */

bool g = true;                          /* the guard */
byte gn = 1;
bool regq[N], reg[N], held[N];          /* registered: in the socket, in its table; an orphan's exit it holds */
bool whole[N] = true;                   /* by keeper: it has read or will read every registration of its children */
bool g_died = false;

byte pr[N];                             /* the leader */
#define CLONED 1
#define REGISTERED 2
#define RUNNING 3
#define ZOMBIE 4
#define REAPED 5
#define UNBORN 6                        /* ended before exec */
byte par[N], sock[N];                   /* its keeper; the guard its socket leads to */
bool to_guard[N], grand[N], dir[N], ran[N];
byte runs = 0;

#define LIVES(i) (pr[i] == CLONED || pr[i] == REGISTERED || pr[i] == RUNNING || grand[i])
#define MINE(i) (k && par[i] == kn)
#define EXITED(x) (x == RAN || x == UNKNOWN || x == FAILED)
#ifdef RESTART
#define AGAIN (jx == RAN || jx == UNKNOWN || jx == NEVER)
#else
#define AGAIN (jx == NEVER)
#endif
#define MAY_INTEND (s == 3 && k && !jstop && jg < GENERATIONS && (jg == 0 || (EMPTY_OK && AGAIN)))
#ifdef NOEMPTY
#define EMPTY_OK (je || jx == RAN)
#else
#define EMPTY_OK je
#endif
#ifdef NOID
#define SAME_KEEPER true
#else
#define SAME_KEEPER (jk == kn)
#endif
#define MAY_ORDER (s == 3 && k && jg > 0 && !je && jx == 0 && !jstop && !s_sent && !s_known && SAME_KEEPER)
#define SEES_EXIT (s == 3 && jg > 0 && jx == 0 && (r_exit[jg] || (g && held[jg])))

inline account(x) { /* the record's exit becomes x: is that the truth? */
        assert(x != NEVER || !ran[jg]);
        assert(x != RAN || ran[jg]);
        assert(x != UNKNOWN || g_died);
        jx = x
}

inline intend() {
        assert(jg == 0 || !ran[jg] || EXITED(jx)); /* the exit of the last one is not overwritten unseen */
        jg++;
        jk = kn;
        jx = 0;
        je = false;
        s_known = false;
        s_reaped = false;
        s_kill = false
}

active proctype supervisor()
{
        byte i;

end:    do
        /* A new one: journal and store at once, as the guard's records come in one go. */
        :: atomic { s == 1 && g && k -> s = 2 }
        /* No keeper: the guard forks one on its word and hands over the connection. */
        :: atomic { s != 0 && g && !k ->
                k = true;
                kn++;
                k_sock = gn;
                k_parent = gn;
                whole[kn] = true;
                open_ = false;
                late_spawn = false;
                s = 3;
                s_known = false;
                s_sent = false;
                s_reaped = false;
                s_kill = false
           }
#ifdef ORDERFIRST
        :: atomic { MAY_INTEND && !s_sent && nfull(q) -> q!SPAWN(jg + 1); s_sent = true }
        :: atomic { MAY_INTEND && s_sent -> intend() }
#else
        :: atomic { MAY_INTEND -> intend(); s_sent = false }
#endif
        :: atomic { MAY_ORDER && nfull(q) -> q!SPAWN(jg); s_sent = true }
        /* Another keeper than the one it was meant for: whatever became of it, it is not ordered again. */
        :: atomic { s == 3 && k && jg > 0 && !je && !s_sent && !s_known && !SAME_KEEPER && nfull(q) ->
                q!ADOPT(jg);
                s_sent = true
           }
#ifdef REAPFIRST
        :: atomic { s == 3 && k && jg > 0 && (r_exit[jg] || r_fail[jg]) && !s_reaped && nfull(q) -> q!REAP(jg); s_reaped = true }
        :: atomic { SEES_EXIT && (s_reaped || held[jg]) -> account(RAN) }
#else
        :: atomic { SEES_EXIT -> account(RAN) }
        :: atomic { s == 3 && k && jg > 0 && (r_exit[jg] || r_fail[jg]) && jx != 0 && !s_reaped && nfull(q) ->
                q!REAP(jg);
                s_reaped = true
           }
#endif
        :: atomic { s == 3 && g && jg > 0 && held[jg] && jx != 0 -> held[jg] = false; pr[jg] = REAPED }
        :: atomic { s == 3 && jg > 0 && r_empty[jg] && !je && jx != 0 -> je = true }
        :: atomic { s == 3 && jg > 0 && r_empty[jg] && jx == 0 && r_fail[jg] -> account(FAILED) }
        /* Empty, and nobody has said how it ended: the guard knows. It reads what has been registered before it answers. */
        :: atomic { s == 3 && g && jg > 0 && r_empty[jg] && jx == 0 && !r_exit[jg] && !r_fail[jg] ->
                if
#ifdef NOASK
                :: true -> account(NEVER)
#else
                :: regq[jg] -> regq[jg] = false; reg[jg] = true
                :: else ->
                        if
                        :: held[jg] || (reg[jg] && pr[jg] == ZOMBIE && to_guard[jg]) -> account(RAN)
                        :: reg[jg] && (pr[jg] == UNBORN || pr[jg] == 0) -> account(FAILED) /* ended as failed starts do */
                        :: reg[jg] && pr[jg] == REAPED -> account(UNKNOWN)
                        :: !reg[jg] && whole[jk] -> account(NEVER)
                        :: !reg[jg] && !whole[jk] -> account(UNKNOWN)
                        fi
#endif
                fi
           }
        :: atomic { s == 3 && ask_stop && !jstop -> jstop = true }
        :: atomic { s == 3 && k && jstop && jg > 0 && !je && (s_sent || s_known) && !s_kill && nfull(q) ->
                q!KILL(jg);
                s_kill = true
           }
        /* Never ordered, as the keeper it was meant for says. */
        :: atomic { s == 3 && k && jstop && jg > 0 && !je && jx == 0 && !s_sent && !s_known && SAME_KEEPER ->
                account(NEVER);
                je = true
           }
        :: atomic { s == 3 && jstop && (jg == 0 || je) && !reported ->
                reported = true;
                assert(!LIVES(1) && !LIVES(2))
           }
        od
}

inline known(i) { /* what RESUME is told of generation i */
        if
#ifdef ONLYUNREAPED
        :: kst[i] != 0 && pr[i] != REAPED ->
#else
        :: kst[i] != 0 ->
#endif
                if
                :: i == jg -> s_known = true
                :: else -> skip
                fi;
                r_exit[i] = (kst[i] == ENDED || kst[i] == OVER) && !kfail[i] && !kad[i];
                r_fail[i] = kst[i] == OVER && kfail[i];
                r_empty[i] = kst[i] == OVER
        :: else ->
#ifdef ONLYUNREAPED
                r_empty[i] = i == jg && jk == kn && jx != 0 /* its exit is journalled and nobody knows it: it must be over */
#else
#ifdef FORGET
                r_empty[i] = i == jg && jk == kn && jx != 0
#else
                skip
#endif
#endif
        fi
}

/* The leader ends: seen by its keeper, by the guard if the keeper is dead and was its child, else by nobody of ours. */
inline ends(i) {
        if
        :: MINE(i) -> pr[i] = ZOMBIE
        :: !MINE(i) && g && to_guard[i] -> pr[i] = ZOMBIE
        :: else -> pr[i] = REAPED
        fi
}

inline over(i) {
        kst[i] = OVER;
        dir[i] = false;
        r_fail[i] = r_fail[i] || (kfail[i] && s == 3);
        r_empty[i] = s == 3
}

inline give_up(i) {
        if
#ifdef REAPGIVENUP
        :: pr[i] == RUNNING || pr[i] == ZOMBIE -> pr[i] = REAPED
#else
        :: pr[i] == RUNNING || pr[i] == ZOMBIE -> pr[i] = ZOMBIE /* exec had just succeeded: its end waits for REAP */
#endif
        :: else -> pr[i] = UNBORN
        fi;
        grand[i] = false;
        kfail[i] = true;
        over(i)
}

inline kill(i) {
        if
        :: kst[i] == STARTING && pr[i] == 0 -> give_up(i)
        :: else ->
                if
                :: pr[i] == CLONED || pr[i] == REGISTERED -> pr[i] = UNBORN
                :: pr[i] == RUNNING -> ends(i)
                :: else -> skip
                fi;
                grand[i] = false
        fi
}

inline carry_out(t, i) {
        if
        :: t == SPAWN && kst[i] == 0 && !dir[i] -> kst[i] = STARTING; dir[i] = true
        :: t == SPAWN && (kst[i] != 0 || dir[i]) -> skip /* refused */
        :: t == ADOPT && kst[i] == 0 ->
                kad[i] = true;
                if
                :: LIVES(i) -> kst[i] = STARTED
                :: else -> over(i)
                fi
        :: t == ADOPT && kst[i] != 0 -> skip
        :: t == REAP ->
                if
                :: kst[i] >= ENDED && pr[i] == ZOMBIE && MINE(i) -> pr[i] = REAPED
                :: else -> skip
                fi
        :: t == KILL && kst[i] == 0 -> skip
        :: t == KILL && kst[i] != 0 -> kill(i)
        fi
}

#ifdef FORGET
inline forget() {
        kst[i] = 0;
        kfail[i] = false;
        if
        :: pr[i] == UNBORN -> pr[i] = 0 /* it may be ordered again */
        :: else -> skip
        fi
}
#endif

inline start_step() {
        if
        :: pr[i] == 0 ->
                assert(!reported);
                assert(!LIVES(3 - i)); /* the other generation */
                pr[i] = CLONED;
                par[i] = kn;
                sock[i] = k_sock;
                to_guard[i] = k_parent == gn && g
        :: pr[i] == RUNNING || pr[i] == ZOMBIE -> kst[i] = STARTED
        :: pr[i] == UNBORN -> kfail[i] = true; over(i)
        :: pr[i] != 0 && pr[i] != UNBORN -> give_up(i) /* its deadline; exec may just have succeeded */
        fi
}

active proctype keeper()
{
        mtype t;
        byte i;

end:    do
        :: atomic { k && nempty(old) -> old?t(i); carry_out(t, i); t = 0; i = 0 }
        :: atomic { k && s == 3 && nempty(q) -> q?t(i); carry_out(t, i); t = 0; i = 0 }
#ifdef NODRAIN
        :: atomic { k && s == 2 ->
#else
        :: atomic { k && s == 2 && empty(old) ->
#ifndef NOCLOSE
                open_ = false;
                late_spawn = false; /* it meets a closed socket */
#endif
#endif
                s = 3;
                s_known = false;
                s_sent = false;
                s_reaped = false;
                s_kill = false;
                known(1);
                known(2)
           }
        /* A new guard's registration socket came with the supervisor's orders: everybody is registered again. */
        :: atomic { k && g && s == 3 && k_sock != gn ->
                k_sock = gn;
                whole[kn] = true;
                for (i : 1 .. GENERATIONS) {
                        reg[i] = reg[i] || (MINE(i) && pr[i] >= REGISTERED && pr[i] <= ZOMBIE)
                }
                i = 0
           }
        :: atomic { k && kst[1] == STARTING -> i = 1; start_step(); i = 0 }
        :: atomic { k && kst[2] == STARTING -> i = 2; start_step(); i = 0 }
        :: atomic { k && kst[1] == STARTED && pr[1] == ZOMBIE && !kad[1] -> kst[1] = ENDED; r_exit[1] = s == 3 }
        :: atomic { k && kst[2] == STARTED && pr[2] == ZOMBIE && !kad[2] -> kst[2] = ENDED; r_exit[2] = s == 3 }
        :: atomic { k && (kst[1] == ENDED || (kst[1] == STARTED && kad[1])) && !LIVES(1) -> over(1) }
        :: atomic { k && (kst[2] == ENDED || (kst[2] == STARTED && kad[2])) && !LIVES(2) -> over(2) }
#ifdef FORGET
        :: atomic { k && kst[1] == OVER && !kad[1] && pr[1] >= REAPED -> i = 1; forget(); i = 0 }
        :: atomic { k && kst[2] == OVER && !kad[2] && pr[2] >= REAPED -> i = 2; forget(); i = 0 }
#endif
        od
}

proctype child(byte i)
{
end:    do
        :: atomic { pr[i] == CLONED ->
#ifdef NOREG
                pr[i] = REGISTERED
#else
                if
                :: g && sock[i] == gn -> regq[i] = true; pr[i] = REGISTERED
                :: else -> pr[i] = UNBORN
                fi
#endif
           }
        :: atomic { pr[i] == REGISTERED ->
                assert(!ran[i]);
                assert(!reported);
                assert(!LIVES(3 - i));
                assert(regq[i] || reg[i] || g_died);
                ran[i] = true;
                runs++;
#ifndef RESTART
                assert(runs == 1);
#endif
                pr[i] = RUNNING
           }
        :: atomic { pr[i] == RUNNING -> ends(i) }
        :: atomic { pr[i] == RUNNING -> ends(i); grand[i] = true }
        :: atomic { pr[i] > RUNNING && grand[i] -> grand[i] = false }
        od
}

/* Only looked at, and kept until it is journalled; one that nobody knows is reaped. Records are read before exits. */
inline orphan() {
        reg[i] = reg[i] || regq[i];
        regq[i] = false;
        if
        :: reg[i] -> held[i] = true
        :: else -> pr[i] = REAPED
        fi
}

inline kill_supervisor() {
        if
        :: MAY_ORDER && k -> late_spawn = true; late_g = jg
        :: true -> skip
        fi;
#ifdef SAMEFILE
        if
        :: SEES_EXIT -> late_w = jg
        :: true -> skip
        fi;
#endif
#ifdef TORN
        if
        :: SEES_EXIT -> jg = 0; jx = 0; je = false
        :: true -> skip
        fi;
#endif
        if
        :: s == 3 -> open_ = true
        :: else -> skip
        fi;
        s = 0;
        do
        :: nempty(q) -> q?t(i); old!t(i)
        :: empty(q) -> break
        od;
        t = 0;
        for (i : 1 .. GENERATIONS) {
                r_exit[i] = false;
                r_fail[i] = false;
                r_empty[i] = false
        }
        i = 0;
        s_known = false;
        s_sent = false;
        s_reaped = false;
        s_kill = false
}

active proctype guard()
{
        mtype t;
        byte i;

end:    do
        :: atomic { g && s == 0 -> s = 1 }
        :: atomic { !g -> g = true; gn++; kill_supervisor() } /* the supervisor execs, or the next start: it knows nothing */
        :: atomic { g && regq[1] -> regq[1] = false; reg[1] = true }
        :: atomic { g && regq[2] -> regq[2] = false; reg[2] = true }
#ifdef EARLYDROP
        :: atomic { g && reg[1] && pr[1] == ZOMBIE && !held[1] -> reg[1] = false }
        :: atomic { g && reg[2] && pr[2] == ZOMBIE && !held[2] -> reg[2] = false }
#endif
        :: atomic { g && pr[1] == ZOMBIE && !MINE(1) && to_guard[1] && !held[1] -> i = 1; orphan(); i = 0 }
        :: atomic { g && pr[2] == ZOMBIE && !MINE(2) && to_guard[2] && !held[2] -> i = 2; orphan(); i = 0 }
        od
}

active proctype fate()
{
        mtype t;
        byte i;

end:    do
        :: atomic { n_s > 0 && s != 0 -> n_s--; kill_supervisor() }
        :: atomic { late_spawn && open_ && nfull(old) -> old!SPAWN(late_g); late_spawn = false }
#ifdef SAMEFILE
        :: atomic { late_w > 0 && s == 0 -> jg = late_w; jx = RAN; je = false; late_w = 0 }
#endif
        :: atomic { n_k > 0 && k -> n_k--;
                k = false;
                late_spawn = false;
                open_ = false;
                do
                :: nempty(old) -> old?t(i)
                :: nempty(q) -> q?t(i)
                :: empty(old) && empty(q) -> break
                od;
                t = 0;
                for (i : 1 .. GENERATIONS) {
                        kst[i] = 0;
                        kad[i] = false;
                        kfail[i] = false;
#ifdef UNREAD
                        regq[i] = false;
#endif
                        if
                        :: pr[i] == ZOMBIE && par[i] == kn && !to_guard[i] -> pr[i] = REAPED
                        :: else -> skip
                        fi
                }
                i = 0
           }
        :: atomic { n_g > 0 && g -> n_g--;
                g = false;
                g_died = true;
                for (i : 1 .. GENERATIONS) {
                        regq[i] = false;
                        reg[i] = false;
                        if
                        :: pr[i] == ZOMBIE && !MINE(i) && to_guard[i] -> pr[i] = REAPED
                        :: else -> skip
                        fi;
                        held[i] = false;
                        to_guard[i] = false
                }
#ifndef WHOLE
                for (i : 1 .. GENERATIONS) {
                        whole[i] = false
                }
#endif
                i = 0
           }
        od
}

/* Everything has come to rest, and somebody is there to say so. */
active proctype watch()
{
end:    timeout ->
        assert(s == 3 && g && k);
        assert(!ask_stop || reported);
        assert(!ran[1] || jg > 1 || EXITED(jx));
        assert(!ran[2] || EXITED(jx));
        assert(ask_stop || runs > 0 || jx == FAILED || jx == UNKNOWN || (jx == NEVER && jg == GENERATIONS))
}

init { atomic { if :: ask_stop = true :: true fi; run child(1); run child(2) } }
