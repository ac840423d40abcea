/* SPDX-License-Identifier: Apache-2.0 */
#include "node/lock.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

int futex_wait(uint32_t *word, uint32_t value, nsec_t deadline)
{
        struct timespec ts = nsec_to_timespec(deadline);
        int saved = errno, r = 0;

        /* The BITSET form takes an absolute CLOCK_MONOTONIC time, so a restart after a stop signal keeps the deadline. */
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value,
                    deadline == NSEC_NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY) < 0 &&
            (errno == ETIMEDOUT || errno == EINTR))
                r = -errno;
        errno = saved;
        return r;
}

void futex_wake(uint32_t *word, int n)
{
        int saved = errno;

        (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, NULL, NULL, 0);
        errno = saved;
}

int lock_take_slow(Lock *lock, nsec_t deadline)
{
        int r;

        /* Once we have waited we do not know who else does, so the lock is taken in the state "waited for". */
        while (__atomic_exchange_n(&lock->state, 2, __ATOMIC_ACQUIRE) != 0) {
                r = futex_wait(&lock->state, 2, deadline);
                if (r)
                        return r;
        }
        return 0;
}
