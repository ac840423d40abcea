/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backpressure: one producer, two consumers with queues of Q; the room word {epoch, link, target}; ring_writer_arm(),
 * must_ring(). A consumer may die at any step; the producer is told by order, or sees the hang-up of the socket
 * itself. Checked: head - tail never exceeds Q; everything arrives; the producer never sleeps for ever.
 *
 *   (none)      nobody dies                                                                                 holds
 *   -DDIE       either may die at any step, an order tells the producer                                     holds
 *   -DDIE -DHANGUP    nobody orders; poll itself shows the hang-up                                          holds
 *   -DDIE -DNOFORGET  nobody orders and nobody looks at hang-ups                                            fails
 *   -DNOLOOK    after announcing the producer does not look again                                           fails
 *   -DNOSC      the consumer's tail may still sit in its store buffer when it reads the room word           fails
 *   -DSAMEEPOCH the producer announces the next wait without a new epoch                                    fails
 *   -DLIVE -DDIE            every fair run gets to its end                                                  lives
 *   -DLIVE -DDIE -DNOFORGET                                                                              starves
 *   -DPAUSE     a consumer may stay in user code for as long as it likes, after any message                 holds
 *   -DPAUSE -DFRACTION  ... and rings only at every second message or when it is empty                      fails
 */
#ifndef M
#define M 3
#endif
#ifndef Q
#define Q 1
#endif

byte head = 0, tail[2];
bool dead[2], forgot[2], paused[2];
byte r_epoch = 0, r_link = 0, r_target = 0; /* the room word */
byte bell = 0;
bool order = false, in_poll = false, p_done = false;

#ifdef NOSC
byte sb[2];
bool sb_full[2];
active [2] proctype flush() { end: do :: atomic { sb_full[_pid] -> tail[_pid] = sb[_pid]; sb_full[_pid] = false } od }
inline store_tail(i, v) { atomic { !sb_full[i] -> sb[i] = v; sb_full[i] = true } }
#else
inline store_tail(i, v) { tail[i] = v }
#endif

#define FULL(i) (!forgot[i] && head - tail[i] >= Q)

active proctype producer()
{
        byte i, e = 0;

        do
        :: head == M -> break
        :: else ->
                do
                :: FULL(0) || FULL(1) ->
                        if
                        :: FULL(0) -> i = 0
                        :: FULL(1) -> i = 1
                        :: else -> i = 0
                        fi;
                        r_link = i;
                        r_target = head - Q + 1;
#ifdef SAMEEPOCH
                        e = 1;
#else
                        e++; /* odd */
#endif
                        r_epoch = e;
                        if
#ifndef NOLOOK
                        :: order || !FULL(i) -> skip
#endif
                        :: else ->
                                in_poll = true;
end_poll:
#ifdef HANGUP
                                (bell > 0 || order || dead[i]);
#else
                                (bell > 0 || order);
#endif
                                in_poll = false;
                                bell = 0
                        fi;
#ifdef HANGUP
                        if
                        :: dead[i] -> forgot[i] = true
                        :: else -> skip
                        fi;
#endif
                        if
                        :: order ->
                                order = false;
                                forgot[0] = forgot[0] || dead[0];
                                forgot[1] = forgot[1] || dead[1]
                        :: else -> skip
                        fi;
#ifdef SAMEEPOCH
                        r_epoch = 0
#else
                        e++;
                        r_epoch = e
#endif
                :: else -> break
                od;
                head++;
                assert(forgot[0] || head - tail[0] <= Q);
                assert(forgot[1] || head - tail[1] <= Q)
        od;
        p_done = true
}

proctype consumer(byte id)
{
        byte t = 0, e, l, g, rung = 0;

        do
        :: t == M -> break
#ifdef DIE
        :: atomic { dead[id] = true }; break
#endif
        :: t < M ->
                if
                :: head > t ->
                        t++;
                        store_tail(id, t);
                        if
#ifdef FRACTION
                        :: t % 2 == 0 || head == t ->
#else
                        :: true ->
#endif
                                e = r_epoch;
                                if
                                :: (e & 1) && e != rung ->
                                        l = r_link; /* of this announcement or of a newer one */
                                        g = r_target;
                                        if
                                        :: l == id && t >= g -> rung = e; bell = 1
                                        :: else -> skip
                                        fi
                                :: else -> skip
                                fi;
                                atomic { e = 0; l = 0; g = 0 }
#ifdef FRACTION
                        :: else -> skip
#endif
                        fi
#ifdef PAUSE
                        ;
                        if
                        :: true -> skip
                        :: paused[id] = true; break /* in user code for as long as it likes */
                        fi
#endif
                :: else ->
end_wait:               (head > t || dead[id])
                fi
        od
}

active proctype supervisor()
{
        bool told[2];

end:    do
        :: false -> skip
#if !defined(NOFORGET) && !defined(HANGUP)
        :: atomic { dead[0] && !told[0] -> told[0] = true; order = true }
        :: atomic { dead[1] && !told[1] -> told[1] = true; order = true }
#endif
        od
}

init { atomic { run consumer(0); run consumer(1) } }

#ifdef LIVE
ltl the_producer_gets_on { <> p_done }
#else
active proctype watch()
{
end:    timeout ->
#ifdef PAUSE
        assert(!(in_poll && !FULL(0) && !FULL(1)))
        /* asleep although every queue has room: the protocol's fault, not that of a consumer that pauses */
#else
        assert(p_done);
        assert(dead[0] || tail[0] == M);
        assert(dead[1] || tail[1] == M)
#endif
}
#endif
