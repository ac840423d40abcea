/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A doorbell: a timerfd that is never armed. To ring it is to set its ticks (TFD_IOC_SET_TICKS), which wakes whoever polls it under one spinlock.
 * So whoever rings never waits, whatever others do who have the descriptor: who writes to a pipe waits for its mutex, and who writes to an
 * eventfd can be made to wait for room. It is not read: watched with EPOLLET each ring is an event, and a ring that nobody has seen yet is one
 * with the next. Who has the descriptor may read it, which takes a ring away, so it is for two: who rings, and who hears.
 *
 * Kernels without CONFIG_CHECKPOINT_RESTORE have no such call: doorbell_make() finds out. One system call a ring, some 100 ns beside the wake-up.
 * Source: ioctl_timerfd in timerfd_create(2), since Linux 3.17.
 */
#ifndef TG_BASE_DOORBELL_H
#define TG_BASE_DOORBELL_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t) /* linux/timerfd.h, which does not go with glibc's */
#endif

/* doorbell_ring() - false: it is none. errno is left as it was. Never blocks. */
static inline bool doorbell_ring(int fd)
{
        const uint64_t one = 1;
        int saved = errno;
        bool rung = ioctl(fd, TFD_IOC_SET_TICKS, &one) == 0;

        errno = saved;
        return rung;
}

/* doorbell_make() - a silent one (close-on-exec), -ENOTSUP where the kernel has none, or another negative errno. */
static inline int doorbell_make(void)
{
        _cleanup_fd_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        uint64_t n;

        if (fd < 0)
                return -errno;
        if (!doorbell_ring(fd) || read(fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
                return -ENOTSUP;
        return TAKE_FD(fd);
}

#endif
