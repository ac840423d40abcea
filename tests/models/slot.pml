/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One slot, written again and again by the producer and copied by a reader that may come too late: slot_write() and
 * slot_copy(). The producer's stores may become visible in any order that its fences allow. Checked: what the reader
 * takes for whole is one message, and the one it wanted.
 *
 *   (none)       sequence odd, release fence, words, sequence even by release store; second look      holds
 *   -DNORECHECK  the reader looks at the sequence before the copy only                               fails
 *   -DNOODD      the sequence is not made odd first                                                 fails
 *   -DNOFENCE    no release fence: new words may be visible while the sequence says "old and whole" fails
 *   -DNORELEASE  the even sequence may be visible before the words                                  fails
 */
#define TURNS 3 /* messages 1..TURNS pass through this slot */

byte seq = 0;    /* 2 * message: whole; 2 * message + 1: the next one is being written */
byte word[2];

/* Pending stores of one message: bit set = not visible yet. */
bool p_odd, p_w0, p_w1, p_even;
byte cur;

#ifdef NOFENCE
#define WORDS_MAY   true
#else
#define WORDS_MAY   !p_odd
#endif
#ifdef NORELEASE
#define EVEN_MAY    !p_odd /* same word: stores to it keep their order */
#else
#define EVEN_MAY    (!p_odd && !p_w0 && !p_w1)
#endif

active proctype producer()
{
        cur = 1;
        do
        :: cur > TURNS -> break
        :: else ->
                atomic {
#ifndef NOODD
                        p_odd = true;
#endif
                        p_w0 = true; p_w1 = true; p_even = true
                }
                do
                :: atomic { p_odd -> seq = 2 * cur - 1; p_odd = false }
                :: atomic { p_w0 && WORDS_MAY -> word[0] = cur; p_w0 = false }
                :: atomic { p_w1 && WORDS_MAY -> word[1] = cur; p_w1 = false }
                :: atomic { p_even && EVEN_MAY -> seq = 2 * cur; p_even = false }
                :: !p_odd && !p_w0 && !p_w1 && !p_even -> break
                od;
                cur++
        od
}

active proctype reader()
{
        byte want, a, b;
        byte n = 0;

        do
        :: n == 3 -> break
        :: else ->
                n++;
                if :: want = 1 :: want = 2 :: want = 3 fi;
                if
                :: seq == 2 * want ->
                        if /* the two words are read in either order */
                        :: a = word[0]; b = word[1]
                        :: b = word[1]; a = word[0]
                        fi;
#ifndef NORECHECK
                        if
                        :: seq == 2 * want -> assert(a == want && b == want)
                        :: else -> skip
                        fi
#else
                        assert(a == want && b == want)
#endif
                :: else -> skip
                fi
        od
}
