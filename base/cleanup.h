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

/* Each argument is evaluated once; the counter lets them nest. */
#define MIN(a, b) _PICK(a, b, <, __COUNTER__)
#define MAX(a, b) _PICK(a, b, >, __COUNTER__)
#define _PICK(a, b, op, n) _PICK_(a, b, op, n)
#define _PICK_(a, b, op, n)                                                                                            \
        ({                                                                                                             \
                __typeof__(a) _a##n = (a);                                                                             \
                __typeof__(b) _b##n = (b);                                                                             \
                _a##n op _b##n ? _a##n : _b##n;                                                                        \
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
