/* SPDX-License-Identifier: Apache-2.0 */
/**
 * peer.h - a transport as the work of scripts/bench-peers sees it
 *
 * Two processes, side 0 and side 1, with a channel each way. Each transport is one file beside this one that defines the
 * functions below; work.c is linked to each of them and does the same with all.
 *
 * All functions return 0, PEER_TIMEOUT where said, or -1 after a line on stderr that says what failed. One message is
 * being written and one being read at a time. Sizes are bytes.
 */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stddef.h>
#include <stdint.h>

#define PEER_TIMEOUT 1

struct peer_spec {
        int side;            /* 0 asks, 1 answers */
        const char *dir;     /* empty folder that both sides share: for sockets and files */
        const char *variant; /* of the transport, where there are some */
        size_t size;         /* of every message */
        unsigned queue;      /* messages that may be under way in one direction: the sender waits then */
};

/* peer_open() - connect; side 1 is started first. Messages that are sent before the other side is there may be lost. */
int peer_open(const struct peer_spec *spec);

/* peer_loan() - room for the next message: what the transport offers to write in place, or a buffer to copy from. May block. */
int peer_loan(void **ret);

/* peer_send() - what was loaned last. Waits for room, and loses nothing once both sides are connected. */
int peer_send(void);

/* peer_take() - the next message, blocking. @timeout_ms: transports that lose nothing while they connect may wait for longer. */
int peer_take(const void **ret, int timeout_ms);

/* peer_release() - the message that was taken last is done with. */
int peer_release(void);

/* peer_close() - nothing of it may be left behind by the processes' ends. */
void peer_close(void);

/* peer_left_ms() - of a wait that ends at a CLOCK_MONOTONIC time, at least 0; peer_deadline_ns() is when one ends that begins now. For waits
 * that may end early with nothing. */
uint64_t peer_deadline_ns(int timeout_ms);
int peer_left_ms(uint64_t deadline_ns);

/* peer_fail() - "what: text" on stderr. Return: -1. */
int peer_fail(const char *what, const char *text);

#endif
