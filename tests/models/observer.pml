/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An observer: copies the slot and the chunk of a message without a claim, and then proves that both were still the message's:
 * ring_observer_copy(), reclaim_to(), slot_write(). One chunk goes from message to message. The producer's stores become visible in any order
 * that its fences allow, also later than what it does next. Checked: what the observer takes is one message, and the one it wanted.
 *
 *   (none)      floor, release fence, payload, slot (slot.pml has its inside); copy, acquire fence, floor and slot again   holds
 *   -DNOFENCE   payload may be visible before the floor that frees its chunk                                 fails
 *   -DNORECHECK the observer does not look at the floor again                                                fails
 *   -DEARLY     nor waits for its copy before it looks: no acquire fence                                     fails
 *   -DSLOTFIRST the slot may be visible before the payload: no release                                       fails
 */
#define TURNS 3

byte floor_ = 0;   /* chunks of messages below it are free */
byte slot = 0;     /* the message that the slot holds, whole; 0: being written */
byte word[2];      /* the chunk */

/* Pending stores of the producer. */
bool p_floor, p_w0, p_w1, p_odd, p_slot;
byte cur;

#ifdef NOFENCE
#define WORDS_MAY true
#else
#define WORDS_MAY !p_floor
#endif
#ifdef SLOTFIRST
#define SLOT_MAY  !p_odd
#else
#define SLOT_MAY  (!p_odd && !p_w0 && !p_w1)
#endif

active proctype producer()
{
        cur = 1;
        do
        :: cur > TURNS -> break
        :: else ->
                atomic { p_floor = true; p_w0 = true; p_w1 = true; p_odd = true; p_slot = true };
                do
                :: atomic { p_floor -> floor_ = cur; p_floor = false }
                :: atomic { p_w0 && WORDS_MAY -> word[0] = cur; p_w0 = false }
                :: atomic { p_w1 && WORDS_MAY -> word[1] = cur; p_w1 = false }
                :: atomic { p_odd && !p_floor -> slot = 0; p_odd = false } /* the floor is an SC store of before */
                :: atomic { p_slot && SLOT_MAY -> slot = cur; p_slot = false }
                :: !p_floor && !p_w0 && !p_w1 && !p_odd && !p_slot -> break
                od;
                cur++
        od
}

active proctype observer()
{
        byte want, a, b, n = 0;
        bool good;

        do
        :: n == TURNS -> break
        :: else ->
                n++;
                if :: want = 1 :: want = 2 :: want = 3 fi;
                if
                :: slot == want ->
#ifdef EARLY
                        good = floor_ <= want && slot == want;
#endif
                        if
                        :: a = word[0]; b = word[1]
                        :: b = word[1]; a = word[0]
                        fi;
#ifndef EARLY
#ifdef NORECHECK
                        good = true;
#else
                        good = floor_ <= want && slot == want;
#endif
#endif
                        assert(!good || a == want && b == want)
                :: else -> skip
                fi
        od
}
