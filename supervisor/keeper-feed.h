/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's end of the logger: starts it, feeds it, notices when it makes no progress, ends it.
 *
 * Lines are gathered and written to the logger's pipe without ever blocking. While the pipe is full the nodes are
 * throttled (the caller stops reading them), so that a busy disk loses nothing. When nothing at all went into the
 * pipe for FEED_STUCK_SPAN the logger is taken for hung: nodes go on, lines are dropped and counted, and once the
 * pipe moves again the logger is told how many are missing.
 *
 * One thread, the loop's. Never blocks.
 */
#ifndef TG_SUPERVISOR_KEEPER_FEED_H
#define TG_SUPERVISOR_KEEPER_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "supervisor/keeper-loop.h"
#include "supervisor/logger.h"

#define FEED_STUCK_SPAN (1 * NSEC_PER_SEC)

typedef struct Feed Feed;

typedef struct FeedOps {
        void (*note)(void *userdata, const char *text); /* for a person, once per change */
} FeedOps;

struct Feed {
        const FeedOps *ops;
        void *userdata;
        KeeperLoop *loop;
        int pipe_fd, report_fd, pidfd; /* -1: there is no logger (any more) */
        pid_t pid;                     /* of the logger; 0: there never was one */
        KeeperSource pipe, report, exit;
        uint8_t *buf; /* frames on their way; [at, size) */
        size_t at, size, capacity;
        bool started;     /* there was a logger at all */
        bool blocked;     /* the pipe is full */
        bool stuck;       /* and has been for too long */
        bool closing;     /* end of feed asked for */
        bool failed;      /* it ended although we did not end it, or with an error */
        nsec_t moved_at;  /* when something last went into the pipe, while blocked */
        uint64_t dropped; /* lines that never went in, in all */
        uint64_t lost;    /* lines the logger could not write, as it says */
};

#define FEED_NULL                                                                                                      \
        ((Feed){.pipe_fd = -1, .report_fd = -1, .pidfd = -1, .pipe = KEEPER_SOURCE_INIT, .report = KEEPER_SOURCE_INIT,  \
                .exit = KEEPER_SOURCE_INIT})

/**
 * feed_start() - fork the logger
 * @config: without descriptors; log_dir "" for no logger: then lines go nowhere and nothing is ever lost
 *
 * To be called while the process has one thread. Return: 0 or a negative errno.
 */
int feed_start(Feed *feed, KeeperLoop *loop, const LoggerConfig *config, const FeedOps *ops, void *userdata);

/*
 * feed_node() - tell the logger which id @node is, before its first line. False: not now; then nothing else may be
 * said of it.
 */
bool feed_node(Feed *feed, uint32_t node, const char *id);

/* feed_line() - false: the line was dropped, as @node's caller must count to tell the logger later. */
bool feed_line(Feed *feed, uint32_t node, int stream, uint64_t wall_ns, const void *line, size_t size,
        uint64_t truncated);

/* feed_lost() - tell the logger of lines that were dropped. False: not now. */
bool feed_lost(Feed *feed, uint32_t node, uint64_t n_lines);

/* feed_flush() - write what was gathered; once per turn. */
void feed_flush(Feed *feed);

/* feed_throttles() - the pipe is full: no node is to be read now. */
bool feed_throttles(const Feed *feed);

/* feed_deadline() - when feed_tick() wants to be called; NSEC_NEVER. */
nsec_t feed_deadline(const Feed *feed);
void feed_tick(Feed *feed, nsec_t now);

/* feed_close() - no more lines: what was gathered goes out, then the pipe is closed and the logger ends by itself. */
void feed_close(Feed *feed);

/* feed_kill() - it will not end: SIGKILL by pidfd. */
void feed_kill(Feed *feed);

/* feed_ended() - the logger is gone (or never was). */
bool feed_ended(const Feed *feed);

/* feed_clean() - every line that was given is in a file. Final once feed_ended(). */
bool feed_clean(const Feed *feed);

void feed_done(Feed *feed);

#endif
