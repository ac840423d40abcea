/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's end of the log stream: lines on their way to whoever shows them.
 *
 * Nothing here ever blocks. While the stream is full the nodes are throttled (the caller stops reading them), so that
 * a reader that reads gets every line. When it took nothing at all for STREAM_STUCK_SPAN it is taken for one that does
 * not read: from then on lines are dropped until it has made room again, and nodes go on. So a reader that never
 * reads holds up a node once, for that long; signals, kills and exits it never holds up at all, for only reading the
 * nodes' output waits.
 *
 * A lossy stream (STREAM) is for readers that look on: it never throttles, what finds no room is dropped at once.
 *
 * One thread, the loop's.
 */
#ifndef TG_SUPERVISOR_KEEPER_STREAM_H
#define TG_SUPERVISOR_KEEPER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/log_msg.h"
#include "supervisor/keeper-loop.h"

#define STREAM_STUCK_SPAN (500 * NSEC_PER_MSEC) /* a reader on a busy machine is late by tens of milliseconds */
#define STREAM_DROP_SPAN  (250 * NSEC_PER_MSEC) /* before the keeper must have left: no more waiting, however it reads */

typedef struct StreamOps {
        void (*lost)(void *userdata, uint32_t node, uint64_t n_lines); /* these were taken and will not be shown */
        void (*room)(void *userdata);                                  /* after dropping: lines are taken again */
} StreamOps;

typedef struct Stream {
        const StreamOps *ops;
        void *userdata;
        KeeperLoop *loop;
        KeeperSource source;
        int fd;        /* -1: there is no reader (any more) */
        uint8_t *buf;  /* packets that found no room, each behind its size; [at, size) */
        size_t at, size, capacity;
        bool lossy;
        bool full;     /* the socket is */
        bool dropping; /* and has been for too long */
        nsec_t moved_at;   /* when something last went in, while full */
        nsec_t last_until; /* no throttling from then on */
} Stream;

#define STREAM_NULL ((Stream){.fd = -1, .source = KEEPER_SOURCE_INIT, .last_until = NSEC_NEVER})

/* stream_open() - @take_fd is closed in any case. 0 or a negative errno. */
int stream_open(Stream *stream, KeeperLoop *loop, int take_fd, const StreamOps *ops, void *userdata);
void stream_close(Stream *stream);

/* stream_put() - false: dropped, as the caller must count. Without a reader everything is taken and forgotten. */
bool stream_put(Stream *stream, const LogMsg *msg);

/* stream_throttles() - the nodes must not be read now. */
bool stream_throttles(const Stream *stream);

/* stream_deadline() - when stream_tick() wants to be called; NSEC_NEVER. */
nsec_t stream_deadline(const Stream *stream);
void stream_tick(Stream *stream, nsec_t now);

/* stream_give_up() - if it throttles: drop what waits, and no more waiting for this reader until there is room. */
void stream_give_up(Stream *stream);

/*
 * stream_last() - the dataflow ends, and the keeper leaves by @deadline: what is still to come goes into a larger socket, which
 * outlives the keeper, and throttles at most until STREAM_DROP_SPAN before it leaves.
 */
void stream_last(Stream *stream, nsec_t deadline);

#endif
