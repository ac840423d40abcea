/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private futexes: a mutex whose wait can have a deadline, and the bare wait and wake below it.
 *
 * Not pthread_mutex: waiting for a turn to send ends at the caller's deadline and tells of signals, and the library
 * takes locks on paths where a few nanoseconds count. Within one process only. Not recursive, not fair.
 */
#ifndef TG_NODE_LOCK_H
#define TG_NODE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

typedef struct Lock {
        uint32_t state; /* 0 free, 1 taken, 2 taken and waited for */
} Lock;

/* futex_wait() - sleep while *word is @value. Return: 0 (woken, or it is not), -ETIMEDOUT, -EINTR (a handler ran). */
int futex_wait(uint32_t *word, uint32_t value, nsec_t deadline);
void futex_wake(uint32_t *word, int n);

int lock_take_slow(Lock *lock, nsec_t deadline);

/*
 * In a program with one thread nobody else can have a lock or want it, and a program does not get its second thread inside a call
 * of ours: plain stores do. Half of what a small message costs were atomic operations.
 */
#if defined(__has_include)
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define LOCK_ALONE __libc_single_threaded
#endif
#endif
#ifndef LOCK_ALONE
#define LOCK_ALONE 0
#endif

static inline bool lock_try(Lock *lock)
{
        uint32_t free_state = 0;

        if (LOCK_ALONE) {
                if (__atomic_load_n(&lock->state, __ATOMIC_RELAXED))
                        return false;
                __atomic_store_n(&lock->state, 1, __ATOMIC_RELAXED);
                return true;
        }
        /* acquire: what the last holder wrote */
        return __atomic_compare_exchange_n(&lock->state, &free_state, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* lock_is_free() - a look, with no promise for the next moment. */
static inline bool lock_is_free(const Lock *lock)
{
        return __atomic_load_n(&lock->state, __ATOMIC_RELAXED) == 0;
}

/* lock_is_wanted() - by its holder: whether somebody waits for it. */
static inline bool lock_is_wanted(const Lock *lock)
{
        return __atomic_load_n(&lock->state, __ATOMIC_RELAXED) == 2;
}

/* lock_take_until() - 0, -ETIMEDOUT, or -EINTR when a signal handler ran. NSEC_NEVER for no deadline. */
static inline int lock_take_until(Lock *lock, nsec_t deadline)
{
        return lock_try(lock) ? 0 : lock_take_slow(lock, deadline);
}

/* For locks that are held for a bounded number of instructions only. */
static inline void lock_take(Lock *lock)
{
        while (lock_take_until(lock, NSEC_NEVER) != 0)
                ; /* a signal handler ran */
}

static inline void lock_give(Lock *lock)
{
        if (LOCK_ALONE) {
                __atomic_store_n(&lock->state, 0, __ATOMIC_RELAXED);
                return;
        }
        /* release: what we wrote is there for the next holder */
        if (__atomic_exchange_n(&lock->state, 0, __ATOMIC_RELEASE) == 2)
                futex_wake(&lock->state, 1);
}

#endif
