/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's loop: sources on an epoll. A Source is embedded in its owner and borrows its fd; it is removed before the fd is
 * closed. Any source may be removed from inside any callback: nothing is delivered to a removed source.
 *
 * One thread. Does not know: what the sources are for.
 */
#ifndef TG_SUPERVISOR_KEEPER_LOOP_H
#define TG_SUPERVISOR_KEEPER_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/clock.h"

#define LOOP_BATCH 64

typedef struct Source Source;
typedef void (*SourceEvent)(Source *source, uint32_t events);

struct Source {
        SourceEvent on_event;
        int fd; /* -1: not in a loop */
};

typedef struct Loop {
        int epoll_fd;
        struct epoll_event batch[LOOP_BATCH];
        int n_batch, at; /* being delivered */
        bool pause;      /* set by a callback: deliver the rest of the batch another time (level-triggered: nothing is lost) */
} Loop;

#define SOURCE_INIT ((Source){.fd = -1})

int loop_init(Loop *loop);
void loop_done(Loop *loop);

/* loop_add() - @fd is borrowed. 0 or -errno. */
int loop_add(Loop *loop, Source *source, int fd, uint32_t events, SourceEvent on_event);
void loop_watch(Loop *loop, Source *source, uint32_t events); /* changes what is waited for */
void loop_remove(Loop *loop, Source *source);                 /* harmless when it is not in */

/* loop_turn() - wait until @deadline (absolute; 0: do not wait) for events and deliver them. 0 or -errno. */
int loop_turn(Loop *loop, nsec_t deadline);

#endif
