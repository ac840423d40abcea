/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attaching a new consumer to a running producer, step by step; the supervisor may crash once at any step and its
 * successor repeats what was not acknowledged. ring_writer_attach(), ring_reader_start(). Chunks are reused all the
 * time. Checked: a delivered message is intact; under backpressure nothing is lost and the window is kept; nobody
 * hangs.
 *
 *   (none)      backpressure, window Q once active                                                        holds
 *   -DDROP      drop_oldest                                                                               holds
 *   -DNOSUCC    the supervisor may die for good                                                           holds
 *   -DEARLY     the consumer is told before the producer has acknowledged                                 fails
 *   -DNOREREAD  the consumer starts at the head it read before it became active                           fails
 *   -DARMNOW -DNOSUCC  the link gates from the moment the producer has it                                 fails
 */
#ifndef M
#define M 5
#endif
#define P 3
#define Q 1
#define NONE 255

byte head = 0, floor_ = 0;
byte content[P], owner[P], slot[M + 1];
bool active_ = false;                             /* the cursor region: */
byte tail = 0, claim = NONE;
bool to_p = false, to_c = false, ack_p = false;   /* node sockets: they outlive the supervisor */
bool known = false;                               /* the producer scans this cursor */
bool p_done = false, c_done = false, s_dead = false;

inline control() {
        if
        :: to_p -> known = true; ack_p = true; to_p = false
        :: else -> skip
        fi
}

active proctype producer()
{
        byte c, k, f, cl, tl;
        bool ac;

        do
        :: head == M -> break
        :: else ->
                if
                :: to_p -> control()
                :: true -> skip /* orders are read when the library runs, not before */
                fi;
                do
                ::
#ifdef DROP
                        break
#else
                        ac = active_;
                        tl = tail;
#ifdef ARMNOW
                        ac = true;
#endif
                        if
                        :: known && ac && head - tl >= Q ->
                                (tail != tl || (active_ && !ac) || to_p);
                                control()
                        :: else -> break
                        fi
#endif
                od;
                c = 0;
                do
                :: c < P && owner[c] != 0 -> c++
                :: else -> break
                od;
                if
                :: c < P -> skip
                :: else ->
                        do
                        ::
                                f = head;
                                if
                                :: known ->
                                        ac = active_;
                                        tl = tail;
#ifdef DROP
                                        f = (head >= Q -> head - Q : 0);
                                        if
                                        :: ac && tl > f -> f = tl
                                        :: else -> skip
                                        fi
#else
                                        if
                                        :: ac && tl < f -> f = tl
                                        :: else -> skip
                                        fi
#endif
                                :: else -> skip
                                fi;
                                if
                                :: f > floor_ -> floor_ = f
                                :: else -> skip
                                fi;
                                cl = (known -> claim : NONE);
                                k = 0;
                                do
                                :: k < P ->
                                        if
                                        :: owner[k] != 0 && owner[k] - 1 < floor_ && owner[k] - 1 != cl ->
                                                owner[k] = 0
                                        :: else -> skip
                                        fi;
                                        k++
                                :: else -> break
                                od;
                                c = 0;
                                do
                                :: c < P && owner[c] != 0 -> c++
                                :: else -> break
                                od;
                                if
                                :: c < P -> break
                                :: else -> skip
                                fi
                        od
                fi;
                owner[c] = head + 1;
                content[c] = NONE;
                content[c] = head;
                slot[head] = c;
                head++;
                c = 0;
                k = 0
        od;
        p_done = true;
end:    do
        :: to_p -> control()
        od
}

active proctype consumer()
{
        byte t, h, c;
        bool ok;

end:    to_c;
        t = head;
        tail = t;
        active_ = true;
#ifndef NOREREAD
        t = head;
        tail = t;
#endif
        do
        :: t == M -> break
        :: else ->
                h = head;
                if
                :: h == t ->
                        (head > t || (p_done && head == t));
                        if
                        :: head == t -> break
                        :: else -> skip
                        fi
                :: else ->
#ifdef DROP
                        if
                        :: h - t > Q -> t = h - Q
                        :: else -> skip
                        fi;
#else
                        assert(h - t <= Q + 1); /* one may have been under way when we became active */
#endif
                        c = slot[t];
                        claim = t;
                        ok = !(t < floor_);
#ifndef DROP
                        assert(ok);
#endif
                        tail = t + 1;
                        if
                        :: ok -> assert(content[c] == t); assert(content[c] == t)
                        :: else -> skip
                        fi;
                        claim = NONE;
                        t++
                fi
        od;
        c_done = true
}

active proctype supervisor()
{
        bool crashed = false;

again:
        if
        :: !crashed -> crashed = true; goto again
        :: true -> skip
        fi;
#ifdef EARLY
        to_c = true;
#endif
        to_p = true;
        if
        :: !crashed -> crashed = true; goto again
        :: true -> skip
        fi;
#ifdef NOSUCC
        if
        :: true -> s_dead = true; goto dead
        :: true -> skip
        fi;
#endif
        ack_p;
        if
        :: !crashed -> crashed = true; goto again
        :: true -> skip
        fi;
        to_c = true;
dead:   skip
}

active proctype watch()
{
end:    timeout -> assert(p_done); assert(s_dead || c_done)
}
