/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting awake. To sleep and be woken costs two system calls, two switches and, across CPUs, an interrupt: some
 * microseconds, while a message that comes within that time could have been had at once. So who finds nothing may look
 * again for a while before it sleeps:
 *
 *   adaptive  never for longer than a sleep costs, and only
 *             - if the last arrivals came within that time; each look in vain doubles how many must have, each that was
 *               worth it halves them;
 *             - if nobody it waits for was last seen on our own CPU, where it could not run meanwhile;
 *             - if no more tasks want to run than there are CPUs (asked once a second, sooner while they do), and the CPU was
 *               not taken from us while we looked (then not for a while);
 *   block     never
 *   spin      until something is there, or the deadline
 *
 * What a sleep costs is first guessed from what a system call costs, then learned from the wakes themselves: a message says
 * when it was sent. No system call here but that look.
 */
#ifndef TG_NODE_SPIN_H
#define TG_NODE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define SPIN_COST_MIN   (1 * NSEC_PER_USEC)
#define SPIN_COST_MAX   (60 * NSEC_PER_USEC)
#define SPIN_NEED_MIN   3u   /* arrivals in a row */
#define SPIN_NEED_MAX   1024u
#define SPIN_STOLEN_NS  (30 * NSEC_PER_USEC)  /* between two looks: somebody else had the CPU */
#define SPIN_CROWDED_NS (100 * NSEC_PER_MSEC) /* how long we then do not try */
#define SPIN_LOAD_SPAN  NSEC_PER_SEC          /* between two looks at how many tasks want to run */
#define SPIN_LOAD_AGAIN (8 * NSEC_PER_MSEC)   /* ... behind one that saw too many; doubled while it does. It sees one moment, and thousands of messages fit into a second */
#define SPIN_LOOKS      8u   /* between two looks at the clock */
#define SPIN_LOOKS_FIRST 16u /* before the first look at the clock */
#define LOCK_LOOKS      2000u /* until whoever was woken for a lock has taken it */

/* What a sleep costs here. One for all threads of a node: the two times are atomic. */
typedef struct SpinCost {
        nsec_t call_ns; /* a system call */
        nsec_t wake_ns; /* from the moment of sending until we run */
        unsigned n_cpus;
        const char *load_path; /* the kernel's; a test may have one that says what it likes */
} SpinCost;

/* One thing that is waited for, by one thread at a time: the messages of a node, or the room of one output. */
typedef struct Spin {
        uint32_t run;  /* arrivals in a row that came in time */
        uint32_t need; /* before we try; 0: SPIN_NEED_MIN */
        nsec_t crowded_until; /* somebody else had our CPU */
        nsec_t load_at;       /* the next look at how many want to run, and what the last one said */
        nsec_t load_span;     /* how long after it, while that saw too many */
        bool loaded;
} Spin;

void spin_cost_init(SpinCost *cost, int epoll_fd); /* some system calls; epoll_fd may be -1 */

/* spin_window() - what a sleep costs: for how long looking may be worth it. */
static inline nsec_t spin_window(const SpinCost *cost)
{
        return __atomic_load_n(&cost->wake_ns, __ATOMIC_RELAXED) + 2 * cost->call_ns;
}

/* spin_cost_learn() - we slept, and ran @ns after the message that woke us was sent. A hostile value does little. */
void spin_cost_learn(SpinCost *cost, nsec_t ns);

/* spin_worth_it() - whether to try, as far as arrivals and the machine tell. Asks the kernel, at most once a second. */
bool spin_worth_it(Spin *spin, const SpinCost *cost, nsec_t now);

/* spin_may_be_hot() - false: spin_worth_it() says no, whatever the clock and the machine do. */
static inline bool spin_may_be_hot(const Spin *spin)
{
        return spin->run >= (spin->need > SPIN_NEED_MIN ? spin->need : SPIN_NEED_MIN);
}

/* spin_is_hot() - as the last spin_worth_it(), without a clock: for some looks, before it is asked. */
static inline bool spin_is_hot(const Spin *spin)
{
        return spin_may_be_hot(spin) && !spin->crowded_until && !spin->loaded;
}

/* spin_stolen() - whether the CPU was taken from us between two looks. Then it is not tried again for a while. */
static inline bool spin_stolen(Spin *spin, nsec_t last, nsec_t now)
{
        if (now - last <= SPIN_STOLEN_NS)
                return false;
        spin->crowded_until = now + SPIN_CROWDED_NS;
        return true;
}

/* spin_arrived() - what we waited for came @gap_ns after we had found nothing. @hit: while we looked. */
void spin_arrived(Spin *spin, const SpinCost *cost, nsec_t gap_ns, bool hit);

/* spin_missed() - we looked in vain for as long as it may be worth it. */
void spin_missed(Spin *spin);

static inline void spin_relax(void)
{
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#else
        __asm__ volatile("");
#endif
}

#endif
