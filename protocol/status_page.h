/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The status page: what the supervisor says about itself and about each dataflow, in a file that anyone who may open it
 * can read without asking anybody. One writer (supervisor/status.h), any number of readers.
 *
 *     struct status_page_header | n_dataflows x struct status_dataflow_slot | n_nodes x struct status_node_slot
 *
 * Two kinds of pages have this layout. `status` has the pulse (turn words and lag) and room for no row; `status.<uid>` has
 * the rows of that user's dataflows, and no pulse: readers judge the supervisor by `status` alone.
 *
 * Everything with more than one word is there twice, and the low bit of a sequence number says which of the two is
 * whole. The writer fills the other one, then moves on the number. So a supervisor that was killed at any instruction leaves
 * every row readable, which is when people read it, and a reader that finds the same number before and after its copy has
 * a whole one. `changes` is odd while any of them is being written; two equal even values around a copy of everything mean
 * that nothing moved in between.
 *
 * Readers treat every byte as written by somebody else: sizes come from the file and not from the page, indices are
 * checked, text is cut, cleaned of control characters and ended, unknown numbers are named "?". No I/O here, no blocking:
 * every loop is bounded. Functions are thread-safe; a StatusSnapshot belongs to one thread.
 */
#ifndef TG_PROTOCOL_STATUS_PAGE_H
#define TG_PROTOCOL_STATUS_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

#define STATUS_PAGE_MAGIC   UINT64_C(0x3153555441545354) /* "TSTATUS1" in memory order */
#define STATUS_PAGE_VERSION 1u
#define STATUS_STALE_NS     (5 * NSEC_PER_SEC)

#define STATUS_MAX_DATAFLOWS 4096u /* that a reader believes */
#define STATUS_MAX_NODES     65536u
#define STATUS_LAG_BUCKETS   32
#define STATUS_NONE          UINT32_MAX

typedef enum StatusState {
        STATUS_RUNNING = 1,
        STATUS_STOPPING,
        STATUS_ENDED, /* the daemon ended in good order */
        _STATUS_STATE_MAX,
} StatusState;

typedef enum StatusGuard {
        STATUS_GUARD_OK = 1,
        STATUS_GUARD_UNRESPONSIVE,
        STATUS_GUARD_GONE,
        _STATUS_GUARD_MAX,
} StatusGuard;

typedef enum StatusHealth {
        STATUS_HEALTH_OK = 1,
        STATUS_HEALTH_STUCK,
        STATUS_HEALTH_IDLE, /* nodes only: nothing waits for it */
        _STATUS_HEALTH_MAX,
} StatusHealth;

typedef enum StatusWanted {
        STATUS_WANTED_RUNNING = 1,
        STATUS_WANTED_STOPPED,
        _STATUS_WANTED_MAX,
} StatusWanted;

typedef enum StatusResult {
        STATUS_RESULT_NONE = 1, /* has not ended */
        STATUS_RESULT_SUCCEEDED,
        STATUS_RESULT_FAILED,
        STATUS_RESULT_LEFT, /* somebody would not die */
        _STATUS_RESULT_MAX,
} StatusResult;

typedef enum StatusDataflowState {
        STATUS_DATAFLOW_BEGINNING = 1,
        STATUS_DATAFLOW_STARTING,
        STATUS_DATAFLOW_RUNNING,
        STATUS_DATAFLOW_STOPPING,
        STATUS_DATAFLOW_ENDING,
        STATUS_DATAFLOW_ENDED,
        _STATUS_DATAFLOW_MAX,
} StatusDataflowState;

typedef enum StatusNodeState {
        STATUS_NODE_PENDING = 1,
        STATUS_NODE_STARTING,
        STATUS_NODE_RUNNING,
        STATUS_NODE_STOPPING,
        STATUS_NODE_BACKOFF,
        STATUS_NODE_STOPPED,
        STATUS_NODE_FAILED,
        _STATUS_NODE_MAX,
} StatusNodeState;

typedef enum StatusNodeKind {
        STATUS_KIND_NODE = 1,
        STATUS_KIND_PROGRAM,
        STATUS_KIND_DYNAMIC,
        _STATUS_KIND_MAX,
} StatusNodeKind;

/* "running", ...: the words of the control interface; "?" outside the enum. */
const char *status_state_to_string(uint32_t state);
const char *status_guard_to_string(uint32_t guard);
const char *status_health_to_string(uint32_t health);
const char *status_wanted_to_string(uint32_t wanted);
const char *status_result_to_string(uint32_t result);
const char *status_dataflow_state_to_string(uint32_t state);
const char *status_node_state_to_string(uint32_t state);
const char *status_kind_to_string(uint32_t kind);

/*
 * Words of the loop, each an atomic of its own, written every turn. A turn is under way while started > completed; a loop
 * that sleeps is not: completed is stored before epoll_wait, started after it. Counters are of this supervisor's life.
 */
struct status_pulse {
        uint64_t turn_started_ns;   /* CLOCK_MONOTONIC, as all times here; release */
        uint64_t turn_completed_ns; /* release */
        uint64_t turns;
        uint64_t lag_max_us;
        uint64_t lag[STATUS_LAG_BUCKETS]; /* turns: [0] below 1 us, [k] from 2^(k-1) to below 2^k us, the last all above */
};
_Static_assert(sizeof(struct status_pulse) == 288, "shared between processes");

struct status_info { /* changes seldom */
        uint64_t epoch;
        uint64_t started_at_ns;  /* this supervisor */
        uint64_t stale_after_ns; /* a turn under way for longer is a wedged supervisor */
        uint64_t pid_start;      /* field 22 of /proc/PID/stat: tells another process of that number apart; 0: unknown */
        int32_t pid;
        int32_t guard_pid;
        uint32_t uid; /* of the dataflows in this page; `status`: the daemon's own */
        uint32_t state;
        uint32_t guard;
        uint32_t adopted; /* of the last change of supervisors */
        uint32_t lost;
        uint32_t duplicated;
        char boot_id[40];
        char version[32];
        char instance[64];
        char cgroup[1024]; /* of the instance; empty: too long for here */
};
_Static_assert(sizeof(struct status_info) == 1224 && sizeof(struct status_info) % 8 == 0, "shared between processes");

struct status_dataflow {
        uint64_t serial; /* of this use of the slot, from 1; 0: free */
        uint64_t started_at_ns;
        uint64_t since_ns;      /* in this state */
        uint64_t stop_until_ns; /* while stopping: the end of the kill budget; 0: none */
        uint64_t stuck_since_ns;
        uint32_t uid;
        uint32_t state;
        uint32_t wanted;
        uint32_t result;
        uint32_t health;
        uint32_t n_nodes;
        uint32_t n_running;
        uint32_t n_failed;
        uint32_t n_stuck;
        uint32_t frozen; /* 1: all of it stands still until it is thawed */
        char uuid[40];
        char name[136];
        char cgroup[768]; /* empty: too long for here, or not there yet */
};
_Static_assert(sizeof(struct status_dataflow) == 1024, "shared between processes");

struct status_node {
        uint64_t serial; /* of its dataflow; 0: free */
        uint64_t generation;
        uint64_t since_ns; /* in this state */
        uint64_t stuck_since_ns;
        uint32_t dataflow; /* slot of its dataflow; the node is of it only while the serials are the same */
        uint32_t index;    /* in the plan */
        uint32_t kind;
        uint32_t state;
        uint32_t wanted;
        uint32_t health;
        uint32_t waiting;   /* messages in its fullest queue */
        uint32_t waits_for; /* index of the node in whose queue it waits for room; STATUS_NONE */
        uint32_t restarts;
        int32_t pid; /* 0: none. For display only */
        int32_t exit_code; /* CLD_* of the last end; 0: none */
        int32_t exit_status;
        char id[132];
        uint32_t frozen; /* 1: it, or all of its dataflow, stands still until it is thawed */
};
_Static_assert(sizeof(struct status_node) == 216, "shared between processes");

struct status_info_slot {
        uint64_t seq;
        struct status_info copy[2]; /* [seq & 1] is whole */
};

struct status_dataflow_slot {
        uint64_t seq;
        struct status_dataflow copy[2];
};

struct status_node_slot {
        uint64_t seq;
        struct status_node copy[2];
};

struct status_page_header {
        uint64_t magic;
        uint32_t version;
        uint32_t header_size;
        uint64_t size; /* of the file */
        uint32_t n_dataflows; /* capacity */
        uint32_t n_nodes;
        uint32_t dataflow_slot_size;
        uint32_t node_slot_size;
        uint64_t changes;
        /* what is in use: words of their own, for display and so that readers need not look at rows never used */
        uint32_t dataflows_end; /* rows from here on were never used */
        uint32_t nodes_end;
        uint32_t n_dataflows_shown;
        uint32_t n_nodes_shown;
        uint32_t n_dataflows_not_shown; /* for want of room */
        uint32_t n_nodes_not_shown;
        uint8_t pad[56];
        /* 128 */
        struct status_pulse pulse;
        uint8_t pad1[96];
        /* 512 */
        struct status_info_slot info;
        uint8_t pad2[1128];
};
_Static_assert(offsetof(struct status_page_header, pulse) == 128, "cache lines of its own");
_Static_assert(offsetof(struct status_page_header, info) == 512, "");
_Static_assert(sizeof(struct status_page_header) == 4096, "one page");
_Static_assert(sizeof(struct status_dataflow_slot) == 2056 && sizeof(struct status_node_slot) == 440, "shared between processes");

enum {
        STATUS_E_SIZE = 1, /* not a size of any page */
        STATUS_E_MAGIC,    /* not a status page */
        STATUS_E_VERSION,  /* of another version, or other tables than the file has room for */
        STATUS_E_FREE,     /* no such row, or nothing in it */
        STATUS_E_BUSY,     /* moved on while it was copied, at every try */
};

/* status_page_size() - bytes of a page with this much room; 0 when that is more than anybody believes. */
uint64_t status_page_size(uint32_t n_dataflows, uint32_t n_nodes);

typedef struct StatusPage { /* a page as a reader has it: proven sizes, taken once */
        const struct status_page_header *header; /* borrowed */
        const struct status_dataflow_slot *dataflows;
        const struct status_node_slot *nodes;
        uint32_t n_dataflows, n_nodes; /* capacity */
} StatusPage;

/**
 * status_page_open() - look whether @size bytes at @map are a status page
 * @map: a mapping of the file or a copy of it, 8-byte aligned; borrowed by @ret
 * @size_bytes: of the file, by fstat() and not by the page
 *
 * Only arithmetic on the proven size is kept: the page may say what it likes afterwards.
 *
 * Return: 0, STATUS_E_SIZE, STATUS_E_MAGIC, STATUS_E_VERSION.
 */
int status_page_open(StatusPage *ret, const void *map, uint64_t size_bytes);

/* status_page_*() - one whole copy, cleaned. Return: 0, STATUS_E_FREE, STATUS_E_BUSY. info is never free. */
int status_page_info(const StatusPage *page, struct status_info *ret);
int status_page_dataflow(const StatusPage *page, uint32_t slot, struct status_dataflow *ret);
int status_page_node(const StatusPage *page, uint32_t slot, struct status_node *ret);
void status_page_pulse(const StatusPage *page, struct status_pulse *ret);

typedef struct StatusSnapshot {
        bool consistent; /* all of it is of one moment; else each row is whole, and they may be of different ones */
        struct status_info info;
        struct status_pulse pulse;
        uint32_t n_dataflows_not_shown, n_nodes_not_shown;
        uint32_t n_unreadable; /* rows that moved on at every try */
        struct status_dataflow *dataflows; /* owned, in the order of their slots */
        size_t n_dataflows;
        struct status_node *nodes; /* owned, by dataflow, then index; .dataflow is the index in dataflows[] above */
        size_t n_nodes;
} StatusSnapshot;

#define STATUS_SNAPSHOT_NULL ((StatusSnapshot){.dataflows = NULL})

/**
 * status_page_read() - a copy of everything
 * @ret: release with status_snapshot_done(), also when it was filled before
 *
 * Tries a bounded number of times for a copy that is of one moment. A node whose dataflow is not there is left out.
 *
 * Return: 0, STATUS_E_BUSY (not even the header held still), -ENOMEM.
 */
int status_page_read(const StatusPage *page, StatusSnapshot *ret);
void status_snapshot_done(StatusSnapshot *snapshot);

/* status_pulse_is_stale() - a turn was started and has not been completed for longer than @stale_after_ns. */
bool status_pulse_is_stale(const struct status_pulse *pulse, nsec_t stale_after_ns, nsec_t now);

/**
 * status_lag_us() - the lag that @per_mille of the turns stayed below (500: the median, 999: p99.9)
 *
 * Interpolated within a bucket, never above the largest seen. 0 without a turn.
 */
uint64_t status_lag_us(const struct status_pulse *pulse, uint32_t per_mille);

/* status_lag_bucket() - where a lag is counted. */
static inline unsigned status_lag_bucket(uint64_t us)
{
        unsigned bits = us ? 64u - (unsigned)__builtin_clzll(us) : 0;

        return bits < STATUS_LAG_BUCKETS ? bits : STATUS_LAG_BUCKETS - 1;
}

/* status_pulse_begin(), status_pulse_end() - the loop's two stores a turn. One writer: no read-modify-write is needed.
 * Release: whoever sees that a turn has ended sees its counters, and never the other way round. */
static inline void status_pulse_begin(struct status_pulse *pulse, nsec_t now)
{
        __atomic_store_n(&pulse->turn_started_ns, now, __ATOMIC_RELEASE);
}

static inline void status_pulse_end(struct status_pulse *pulse, nsec_t now, nsec_t lag_ns)
{
        uint64_t us = lag_ns / NSEC_PER_USEC;
        unsigned bucket = status_lag_bucket(us);

        __atomic_store_n(&pulse->lag[bucket], pulse->lag[bucket] + 1, __ATOMIC_RELAXED);
        if (us > pulse->lag_max_us)
                __atomic_store_n(&pulse->lag_max_us, us, __ATOMIC_RELAXED);
        __atomic_store_n(&pulse->turns, pulse->turns + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&pulse->turn_completed_ns, now, __ATOMIC_RELEASE);
}

/* status_page_init() - fill the header of a new page, whose bytes are 0. The magic comes last: until then it is none. */
void status_page_init(struct status_page_header *header, uint32_t n_dataflows, uint32_t n_nodes);

/* status_slot_write() - what the writer of a slot does: fills the copy that nobody is told to read, then tells.
 * @seq, @copies: of the slot; @copy_size: of one copy, a multiple of 8, as is the alignment of all three. */
void status_slot_write(uint64_t *seq, void *copies, const void *value, size_t copy_size);

/* status_changes_begin(), _end() - around one or more of those. */
void status_changes_begin(struct status_page_header *header);
void status_changes_end(struct status_page_header *header);

#endif
