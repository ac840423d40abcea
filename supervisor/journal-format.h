/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bytes of <uuid>.state mean. Fixed width, host byte order (the file never leaves its boot), no implicit padding.
 *
 *     header | dataflow x 2 | node 0 x 2 | node 1 x 2 | ... | link 0 x 2 | ...
 *
 * Each record has two slots; sequence number n is written to slot n % 2, so the slot that holds the last good one is not
 * touched by the next write. A slot holds a record if the sequence number is not 0 and belongs into that slot, the CRC-32
 * of everything before it is right, and its texts end in NUL. Of two good slots the higher number is the record; without any, the
 * record was never written.
 *
 * The journal knows bytes: the values of wanted, state, rung and end are the supervisor's, which checks them when it reads them
 * back. `reserved` is written as zero and not looked at; a change of anything else is another JOURNAL_VERSION.
 */
#ifndef TG_SUPERVISOR_JOURNAL_FORMAT_H
#define TG_SUPERVISOR_JOURNAL_FORMAT_H

#include <stdint.h>

#define JOURNAL_MAGIC       UINT32_C(0x4c4e4a54) /* "TJNL" */
#define JOURNAL_VERSION     2u
#define JOURNAL_MAX_NODES   4096u
#define JOURNAL_MAX_LINKS   131072u /* more than a plan of JOURNAL_MAX_PLAN bytes can hold */
#define JOURNAL_MAX_PLAN    (8u << 20)
#define JOURNAL_MAX_OUTPUTS 256u
#define JOURNAL_TEXT_SIZE   256u

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"

struct journal_header { /* written once */
        uint32_t magic;
        uint32_t version; /* these two stay where they are in every version */
        uint8_t boot_id[16];
        uint8_t uuid[16];
        uint32_t n_nodes;
        uint32_t n_links;
        uint32_t plan_size; /* of <uuid>.plan, in bytes */
        uint32_t plan_crc;
        uint8_t reserved[68];
        uint32_t crc;
};

struct journal_ladder { /* absolute CLOCK_MONOTONIC, as are all *_ns here */
        uint64_t term_ns;
        uint64_t kill_ns;
        uint64_t verdict_ns;
};

enum { /* journal_dataflow.flags */
        JOURNAL_DATAFLOW_RELEASED = 1u << 0,
        JOURNAL_DATAFLOW_STOP_ORDERED = 1u << 1,
        JOURNAL_DATAFLOW_FAILED_START = 1u << 2,
        JOURNAL_DATAFLOW_KEEPER_GONE = 1u << 3,
        JOURNAL_DATAFLOW_WAITS = 1u << 4, /* for the one whose uuid is among its options to be gone; it has not begun */
};

struct journal_dataflow {
        uint64_t sequence;
        uint8_t wanted;
        uint8_t state;
        uint8_t reserved0[2];
        uint32_t flags;
        uint32_t slot;
        uint32_t uid;
        uint32_t gid;
        uint32_t keeper_deaths;
        uint32_t n_killed;
        uint32_t n_left;
        uint64_t begun_at_ns;
        uint64_t stop_at_ns;
        uint64_t ended_at_ns;
        struct journal_ladder ladder;
        char error[JOURNAL_TEXT_SIZE];
        uint8_t reserved[164];
        uint32_t crc;
};

enum { /* journal_node.flags */
        JOURNAL_NODE_SPAWNED = 1u << 0,
        JOURNAL_NODE_CONNECTED = 1u << 1,
        JOURNAL_NODE_MAPPED = 1u << 2,
        JOURNAL_NODE_STARTED = 1u << 3,
        JOURNAL_NODE_EXITED = 1u << 4,
        JOURNAL_NODE_EMPTY = 1u << 5,
        JOURNAL_NODE_KILLED = 1u << 6,
        JOURNAL_NODE_RESOLVED = 1u << 7,
        JOURNAL_NODE_EXEC_STUCK = 1u << 8,
        JOURNAL_NODE_INPUTS_CLOSED = 1u << 9,
        JOURNAL_NODE_STOP_WANTED = 1u << 10,
        JOURNAL_NODE_QUARANTINED = 1u << 11,
        JOURNAL_NODE_FINISHED = 1u << 12,
        JOURNAL_NODE_WAS_READY = 1u << 13,
        JOURNAL_NODE_RESTART_WANTED = 1u << 14,
        JOURNAL_NODE_CAPTURED = 1u << 15, /* or ordered to be: with SPAWNED it is */
        JOURNAL_NODE_KILLED_BY_GUARD = 1u << 16,
};

struct journal_older {
        uint64_t generation;
        uint64_t since_ns;
};

struct journal_node {
        uint64_t sequence;
        uint64_t generation;
        uint8_t state;
        uint8_t rung;
        uint8_t end;
        uint8_t left_kind; /* with QUARANTINED: the verdict, a TaskKind; 0: nobody could look */
        uint32_t flags;
        int32_t pid;
        int32_t exit_code;
        int32_t exit_status;
        uint32_t n_restarts;
        uint32_t n_window;
        uint32_t n_left; /* likewise: tasks */
        uint64_t started_at_ns;
        uint64_t since_ns;
        uint64_t deadline_ns;
        uint64_t window_start_ns;
        struct journal_ladder ladder;
        struct journal_ladder ordered; /* of the stop that was asked for */
        uint8_t outputs_closed[JOURNAL_MAX_OUTPUTS / 8]; /* output i: bit i % 8 of byte i / 8 */
        char error[JOURNAL_TEXT_SIZE];
        char left[JOURNAL_TEXT_SIZE];
        uint64_t left_since_ns; /* likewise: when the verdict fell */
        struct journal_older older[4]; /* earlier lives of which somebody is left; generation 0: none */
        uint64_t n_violations; /* by the word of others (supervisor/misbehaviour.h), in all lives */
        char violation[JOURNAL_TEXT_SIZE]; /* the last of them */
        uint8_t reserved[12];
        uint32_t crc;
};

struct journal_link {
        uint64_t sequence;
        uint64_t source_generation;
        uint64_t pair_a_generation;
        uint64_t pair_b_generation;
        uint64_t resume_at;
        uint32_t generation;
        uint32_t pair_generation;
        uint8_t state;
        uint8_t reserved[43];
        uint32_t crc;
};

#pragma GCC diagnostic pop

_Static_assert(sizeof(struct journal_header) == 128, "read by the next supervisor");
_Static_assert(sizeof(struct journal_dataflow) == 512, "read by the next supervisor");
_Static_assert(sizeof(struct journal_node) == 1024, "read by the next supervisor");
_Static_assert(sizeof(struct journal_link) == 96, "read by the next supervisor");

#endif
