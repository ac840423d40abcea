/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw: the least that moves a message from one process to another, by each mechanism: what Tidegate is measured against. No
 * checks, no policy, nobody who may die. See board.h for what each way is.
 *
 * The message with number i is sent by raw_send() and received by raw_receive() in that order, i from 0. Both block.
 */
#ifndef TG_CLI_BENCH_RAW_H
#define TG_CLI_BENCH_RAW_H

#include "base/clock.h"
#include "cli/bench/board.h"

typedef struct Raw {
        struct bench_board *board;
        uint8_t *payload;
        uint64_t room; /* bytes of payload */
        int pipe_fds[4]; /* read, write there; read, write back */
        int bell_fds[2]; /* doorbells: the source hears the first, the sink the second; else a socket pair: the source's end, the sink's */
        bool by_socket;  /* they turned out to be that */
        int epoll_fd;    /* raw_watch_bell(); -1: not yet */
        unsigned n_rung; /* ... and how often since the end was emptied */
        BenchWay way;
        uint64_t size, chunk_size;
        uint32_t n_chunks;
        unsigned n_sinks, index; /* index of this consumer, from 0 */
        uint64_t cached;         /* of the other side's position */
        uint64_t chunk;          /* the next to be looked at */
} Raw;

/* raw_watch_bell() - before the first message by BELL: @end of the two is waited at. Return: 0 or a negative errno; epoll_fd is the caller's to close. */
int raw_watch_bell(Raw *raw, unsigned end);

/* raw_begin() - before the first message of a measurement; the words were set back by whoever ordered it. */
void raw_begin(Raw *raw, BenchWay way, uint64_t size, unsigned n_sinks);

/* raw_send() - writes the first and the last line of the payload, then tells. @stamp travels with it. */
int raw_send(Raw *raw, uint64_t i, nsec_t stamp);

/* raw_receive() - waits for it, reads both lines. */
int raw_receive(Raw *raw, uint64_t i, nsec_t *ret_stamp);

/* A message without payload the other way; for SPIN, FUTEX, PIPE and BELL. */
int raw_answer(Raw *raw, uint64_t i);
int raw_wait_answer(Raw *raw, uint64_t i);

/* The first and the last line of a payload, be it whose it will. */
static inline void payload_write(void *payload, uint64_t size, nsec_t stamp)
{
        volatile uint64_t *p = payload;

        if (size < 8)
                return;
        p[0] = stamp;
        p[size / 8 - 1] = size < 16 ? stamp : stamp + 1;
}

static inline nsec_t payload_read(const void *payload, uint64_t size)
{
        const volatile uint64_t *p = payload;

        if (size < 8)
                return 0;
        return p[size / 8 - 1] ? p[0] : 0;
}

#endif
