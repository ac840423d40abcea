/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting anew: one producer with C cells side by side, whose messages take one cell or two; a chunk is what a message was given, and no
 * border outlives it (shm/pool-cut.c). Two drop_oldest consumers that claim, hold, release, or find themselves too late: claim.pml and
 * chunk.pml are of chunks that stay as they are. Checked: no cell of a message in use is written, and the producer is never in poll with
 * a run of free cells to be had and no ring pending.
 *
 *   (none)        a run is made of cells that are below the stored floor and that nobody honoured holds                holds
 *   -DHELDTOO     of any below the floor: what is held is cut, too                                                     fails
 *   -DEARLY       of those that the floor is about to pass, before it is stored                                        fails
 *   -DFIRSTCELL   an honoured claim holds the first cell of its message, and not as many as it had                fails
 *   -DONLYWHOLE   who waits for two cells names those alone who hold two: a single one's release is not heard          fails
 */
#ifndef M
#define M 3
#endif
#define C 3
#define ANY 2

byte head = 0, floor_ = 1;
byte claim[2]; /* one entry a consumer */
byte start[M + 2], cells[M + 2];
byte content[C];
byte r_epoch = 0, r_link = 0;
byte bell = 0, want = 0;
bool in_poll = false, p_done = false;

byte owner[C], held[2]; /* the producer's own */
byte old = 1;
byte found;

#define HOLDS(c) (owner[c] == held[0] || owner[c] == held[1])
#ifdef FIRSTCELL
#define KEPT(c) (HOLDS(c) && start[owner[c]] == c)
#else
#define KEPT(c) HOLDS(c)
#endif

inline find() {
        found = C;
        if
        :: owner[0] == 0 && (want == 1 || owner[1] == 0) -> found = 0
        :: else ->
                if
                :: owner[1] == 0 && (want == 1 || owner[2] == 0) -> found = 1
                :: else ->
                        if
                        :: owner[2] == 0 && want == 1 -> found = 2
                        :: else -> skip
                        fi
                fi
        fi
}

inline give_up() {
        v = 0;
        do
        :: v < C ->
                if
#ifdef HELDTOO
                :: owner[v] != 0 -> owner[v] = 0
#else
                :: owner[v] != 0 && !KEPT(v) -> owner[v] = 0
#endif
                :: else -> skip
                fi;
                v++
        :: else -> break
        od;
        v = 0
}

/* Takes what is free; else moves the floor as far as it may go (under pressure: to the head), and scans. */
inline look() {
        atomic { find() };
        if
        :: found < C -> skip
        :: else ->
#ifndef EARLY
                if
                :: old < head + 1 -> floor_ = head + 1
                :: else -> skip
                fi;
#endif
                v = claim[0];
                held[0] = (v != 0 && (v == held[0] || v >= old) -> v : 0);
                v = claim[1];
                held[1] = (v != 0 && (v == held[1] || v >= old) -> v : 0);
                atomic {
                        old = head + 1;
                        v = 0;
                        give_up();
                        find()
                }
#ifdef EARLY
                if
                :: found < C -> owner[found] = head + 1; content[found] = 0
                :: else -> skip
                fi;
                floor_ = head + 1
#endif
        fi
}

inline name() {
#ifdef ONLYWHOLE
        r_link = (held[0] != 0 && cells[held[0]] >= want -> 0 : 1)
#else
        r_link = (held[0] != 0 && held[1] != 0 -> ANY : (held[0] != 0 -> 0 : 1))
#endif
}

active proctype producer()
{
        byte v, e = 0;

        do
        :: head == M -> break
        :: else ->
                if
                :: want = 1
                :: want = 2
                fi;
                look();
                do
                :: found < C -> break
                :: else ->
                        atomic { name(); e++; r_epoch = e }; /* link before epoch: chunk.pml */
                        look();
                        if
                        :: found < C -> skip
                        :: else ->
                                in_poll = true;
end:                            (bell > 0); /* for ever, where somebody holds on for ever */
                                in_poll = false;
                                bell = 0;
                                look()
                        fi;
                        atomic { e++; r_epoch = e }
                od;
                atomic { /* being written */
                        owner[found] = head + 1;
                        owner[found + want - 1] = head + 1;
                        content[found] = 0;
                        content[found + want - 1] = 0
                }
                atomic {
                        content[found] = head + 1;
                        content[found + want - 1] = head + 1;
                        start[head + 1] = found;
                        cells[head + 1] = want
                }
                head++
        od;
        p_done = true
}

inline tell(i) {
        e = r_epoch;
        if
        :: (e & 1) && e != rung && (r_link == i || r_link == ANY) -> atomic { rung = e; e = 0; bell = 1 }
        :: else -> e = 0
        fi
}

#define INTACT(t) (content[start[t]] == t && content[start[t] + cells[t] - 1] == t)

proctype consumer(byte id)
{
        byte t = 0, e, rung = 0;

end:    do
        :: p_done || t == M -> break
        :: t < M && head > t ->
                t = head; /* the newest */
                claim[id] = t;
                if
                :: floor_ > t ->
                        claim[id] = 0;
                        tell(id)
                :: else ->
                        assert(INTACT(t));
                        if
                        :: skip
                        :: id == 0 -> break /* holds on, for ever */
                        fi;
                        assert(INTACT(t));
                        claim[id] = 0;
                        tell(id)
                fi
        od
}

init { atomic { run consumer(0); run consumer(1) } }

#define REUSABLE(c) (owner[c] == 0 || (owner[c] != claim[0] && owner[c] != claim[1]))

active proctype watch()
{
end:    timeout ->
        assert(!(in_poll && (want == 1 && (REUSABLE(0) || REUSABLE(1) || REUSABLE(2)) ||
                             want == 2 && REUSABLE(1) && (REUSABLE(0) || REUSABLE(2)))))
}
