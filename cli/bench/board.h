/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Board: what `tidegate bench` shares with the nodes that it runs: orders and answers, which go over a socket, and one mapping with
 * the channels that are measured against (raw.h), the latencies found, and the payloads of those channels.
 *
 * All of them are one program in several processes, started by one user for one measurement: nothing here is checked against malice.
 */
#ifndef TG_CLI_BENCH_BOARD_H
#define TG_CLI_BENCH_BOARD_H

#include <stdint.h>

#define BOARD_MAX_SINKS   16u
#define BOARD_MAX_SAMPLES 65536u
#define BOARD_RING        1024u /* slots */
#define BOARD_PAGE        4096u
#define BOARD_ALIGN       __attribute__((aligned(128)))

#define BENCH_SOCKET_ENV "TIDEGATE_BENCH_SOCKET" /* abstract name, without the leading NUL */

/* How a message travels. The first ones are the anchors. */
typedef enum BenchWay {
        BENCH_WAY_SPIN = 0, /* a line of memory that the reader looks at without pause */
        BENCH_WAY_FUTEX,    /* the same line, and a reader that sleeps on a word */
        BENCH_WAY_PIPE,     /* 8 bytes through a pipe with blocking ends, the payload in shared memory */
        BENCH_WAY_BELL,     /* a doorbell (base/doorbell.h; else a byte through a socket) waited for in an edge-triggered epoll, as by Tidegate */
        BENCH_WAY_RING,     /* ring of 64-byte slots, one producer and one consumer, either sleeps on a word */
        BENCH_WAY_DESC,     /* ring of descriptors of counted chunks */
        BENCH_WAY_BCAST,    /* one ring of 64-byte slots, a cursor for each consumer, one word for all that sleep */
        BENCH_WAY_TIDEGATE, /* tg_send(), or tg_alloc() and tg_send_sample(), and tg_next() */
        _BENCH_WAY_MAX,
} BenchWay;

typedef enum BenchWhat {
        BENCH_LATENCY = 1, /* the source sends @n messages after @n_warm that are not counted */
        BENCH_RATE,        /* the source sends for @span_ns after @warm_ns */
        BENCH_HOLD,        /* reclaim: the sink takes what comes and lets nothing go */
        BENCH_FILL,        /* reclaim: the source sends to sink @n until nothing is left of the pool, then waits for a chunk */
        BENCH_QUIT,        /* leave the dataflow */
} BenchWhat;

enum {
        BENCH_COUNTED = 1u << 0, /* marks the measured part by a system call that a tracer knows */
        BENCH_AWAKE = 1u << 1,   /* the sink never sleeps: it looks again and again */
        BENCH_BULK = 1u << 3,    /* BENCH_RATE: Tidegate sends with tg_send_batch(), and takes with tg_next_batch() */
        BENCH_BATCH = 1u << 2,   /* in the scheduling class SCHED_BATCH meanwhile */
};

#define BENCH_MARK_BEGIN 0x54474201UL /* first argument of a prctl() that fails */
#define BENCH_MARK_END   0x54474202UL

struct bench_order {
        uint32_t what, way, flags, n_sinks;
        uint64_t size; /* payload, bytes */
        uint64_t n, n_warm;
        uint64_t interval_ns; /* BENCH_LATENCY: between messages; 0: each after the answer to the last */
        uint64_t span_ns, warm_ns;
};

struct bench_answer {
        int32_t error; /* negative errno, positive TG_E_* */
        uint32_t what;
        uint64_t n;            /* messages */
        uint64_t begin, end;   /* CLOCK_MONOTONIC of the measured part */
        uint64_t faults;       /* of the measured part, as the following */
        uint64_t sleeps;       /* the process gave up its CPU by itself */
        uint64_t preemptions;
        uint64_t cpu_ns;
        uint64_t warm_faults;  /* before it */
        char text[128];        /* with an error */
};

struct bench_hello {
        uint32_t index; /* 0: source, 1..: sinks */
        uint32_t reserved;
};

struct bench_word { /* on lines of its own */
        uint64_t word;
} BOARD_ALIGN;

struct bench_slot {
        uint64_t word[8];
};

struct bench_board {
        /* spin and futex: [0] there, [1] back. words: stamp ... number */
        struct {
                uint64_t word[8];
        } BOARD_ALIGN line[2];
        struct bench_word asleep[2];
        /* rings */
        struct bench_word head, tail[BOARD_MAX_SINKS];
        struct bench_word consumer_asleep, producer_asleep, wanted;
        struct bench_slot slot[BOARD_RING] BOARD_ALIGN;
        uint32_t refs[BOARD_RING] BOARD_ALIGN;

        struct bench_word stamp;     /* of a message without a payload */
        struct bench_word final;     /* BENCH_RATE: number of messages, UINT64_MAX until it is known */
        struct bench_word warm;      /* BENCH_RATE: first message that counts, likewise */
        struct bench_word reclaimed; /* BENCH_FILL: when the source had a chunk again */
        struct bench_word reclaimed_all; /* ... and all of those that the dead one had held */
        struct bench_word held[BOARD_MAX_SINKS]; /* BENCH_HOLD: messages in hand */

        uint32_t sample[BOARD_MAX_SAMPLES] BOARD_ALIGN; /* ns, by the sink */
        /* payloads follow, at BOARD_PAYLOAD */
};

#define BOARD_PAYLOAD ((sizeof(struct bench_board) + BOARD_PAGE - 1) / BOARD_PAGE * BOARD_PAGE)

/* Bytes of one chunk, and how many there are: all of them fit into @room. */
static inline uint64_t board_chunk_size(uint64_t size)
{
        return size ? (size + BOARD_PAGE - 1) / BOARD_PAGE * BOARD_PAGE : BOARD_PAGE;
}

static inline uint32_t board_n_chunks(uint64_t size, uint64_t room)
{
        uint64_t n = room / board_chunk_size(size);

        return n > BOARD_RING / 2 ? BOARD_RING / 2 : n ? (uint32_t)n : 1;
}

#endif
