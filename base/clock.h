/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One time type: nsec_t, absolute CLOCK_MONOTONIC nanoseconds. Spans are named *_span or *_ns. Wall time appears
 * only in output. Additions saturate at NSEC_NEVER, so "never" stays never.
 */
#ifndef TG_BASE_CLOCK_H
#define TG_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef uint64_t nsec_t;

#define NSEC_NEVER    UINT64_MAX
#define NSEC_PER_SEC  UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_USEC UINT64_C(1000)

/* clock_now() - CLOCK_MONOTONIC now, in nanoseconds. Never fails: the clock id is fixed. */
static inline nsec_t clock_now(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

/* clock_cpu() - CPU time of the calling thread, in nanoseconds. Never fails. */
static inline nsec_t clock_cpu(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

/* clock_process() - CPU time of all threads of the process, in nanoseconds. Never fails. */
static inline nsec_t clock_process(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

/* clock_wall() - CLOCK_REALTIME now, in nanoseconds since 1970. For output only. */
static inline uint64_t clock_wall(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* nsec_add() - a + b, saturating at NSEC_NEVER. */
static inline nsec_t nsec_add(nsec_t a, nsec_t b)
{
        nsec_t r;

        return __builtin_add_overflow(a, b, &r) ? NSEC_NEVER : r;
}

/* nsec_mul() - a * n, saturating at NSEC_NEVER. */
static inline nsec_t nsec_mul(nsec_t a, uint64_t n)
{
        nsec_t r;

        return __builtin_mul_overflow(a, n, &r) ? NSEC_NEVER : r;
}

/* nsec_left() - span from now to the absolute deadline; 0 when it has passed, NSEC_NEVER when there is none. */
static inline nsec_t nsec_left(nsec_t deadline, nsec_t now)
{
        if (deadline == NSEC_NEVER)
                return NSEC_NEVER;
        return deadline > now ? deadline - now : 0;
}

/* nsec_poll_ms() - that span as a poll(2) timeout: rounded up, so that a wake-up is never early; -1 for never. */
static inline int nsec_poll_ms(nsec_t deadline, nsec_t now)
{
        nsec_t left = nsec_left(deadline, now);

        if (left == NSEC_NEVER)
                return -1;
        left = (left + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
        return left > 3600000 ? 3600000 : (int)left;
}

static inline struct timespec nsec_to_timespec(nsec_t t)
{
        return (struct timespec){.tv_sec = (time_t)(t / NSEC_PER_SEC), .tv_nsec = (long)(t % NSEC_PER_SEC)};
}

#endif
