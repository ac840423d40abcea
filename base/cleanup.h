/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership words. An owned local is declared with _cleanup_ and an empty value; it leaves the function by
 * TAKE_PTR / TAKE_FD or is released at scope end. Destructors accept the empty value and return it.
 *
 * Does not: allocate, log.
 */
#ifndef TG_BASE_CLEANUP_H
#define TG_BASE_CLEANUP_H

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

#define TAKE_PTR(p)                                                                                                    \
        ({                                                                                                             \
                __typeof__(p) _taken = (p);                                                                            \
                (p) = NULL;                                                                                            \
                _taken;                                                                                                \
        })

#define TAKE_FD(fd)                                                                                                    \
        ({                                                                                                             \
                int _taken = (fd);                                                                                     \
                (fd) = -1;                                                                                             \
                _taken;                                                                                                \
        })

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))

#define MIN(a, b)                                                                                                      \
        ({                                                                                                             \
                __typeof__(a) _min_a = (a);                                                                            \
                __typeof__(b) _min_b = (b);                                                                            \
                _min_a < _min_b ? _min_a : _min_b;                                                                     \
        })

#define MAX(a, b)                                                                                                      \
        ({                                                                                                             \
                __typeof__(a) _max_a = (a);                                                                            \
                __typeof__(b) _max_b = (b);                                                                            \
                _max_a > _max_b ? _max_a : _max_b;                                                                     \
        })

/* Closes fd if it is one, keeps errno, returns -1: `fd = fd_close(fd);`. Not retried on EINTR: Linux has freed it. */
static inline int fd_close(int fd)
{
        if (fd >= 0) {
                int saved = errno;

                (void)close(fd); /* nothing of ours is lost by a late write error: we close no files for writing here */
                errno = saved;
        }
        return -1;
}

static inline void fd_closep(int *fd)
{
        *fd = fd_close(*fd);
}

static inline void freep(void *p)
{
        int saved = errno;

        free(*(void **)p);
        errno = saved;
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_fd_   _cleanup_(fd_closep)

#endif
