/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's loop: sources on an epoll. A KeeperSource is embedded in its owner and borrows its fd; it is removed
 * before the fd is closed. Any source may be removed from inside any callback: nothing is delivered to a removed
 * source.
 *
 * No source is an epoll, see supervisor/loop.h, and nobody polls this one: to ask a PSI trigger takes what it tells.
 *
 * One thread. Does not know: what the sources are for.
 */
#ifndef TG_SUPERVISOR_KEEPER_LOOP_H
#define TG_SUPERVISOR_KEEPER_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/clock.h"

#define KEEPER_LOOP_BATCH 64

typedef struct KeeperSource KeeperSource;
typedef void (*KeeperSourceEvent)(KeeperSource *source, uint32_t events);

struct KeeperSource {
        KeeperSourceEvent on_event;
        int fd; /* -1: not in a loop */
};

typedef struct KeeperLoop {
        int epoll_fd;
        struct epoll_event batch[KEEPER_LOOP_BATCH];
        int n_batch, at; /* being delivered */
} KeeperLoop;

#define KEEPER_SOURCE_INIT ((KeeperSource){.fd = -1})

int keeper_loop_init(KeeperLoop *loop);
void keeper_loop_done(KeeperLoop *loop);

/* keeper_loop_add() - @fd is borrowed. 0 or -errno. */
int keeper_loop_add(KeeperLoop *loop, KeeperSource *source, int fd, uint32_t events, KeeperSourceEvent on_event);
void keeper_loop_watch(KeeperLoop *loop, KeeperSource *source, uint32_t events); /* changes what is waited for */
void keeper_loop_remove(KeeperLoop *loop, KeeperSource *source);                 /* harmless when it is not in */

/* keeper_loop_turn() - wait until @deadline (absolute; 0: do not wait) for events and deliver them. 0 or -errno. */
int keeper_loop_turn(KeeperLoop *loop, nsec_t deadline);

#endif
