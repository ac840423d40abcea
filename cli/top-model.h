/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `tidegate top` knows: nodes and links as they were looked at last, and rates from the look before. Samples are put in by
 * whoever has them, in any order; each says when it was taken. What was not measured, or too long ago, is unknown and never 0.
 *
 * Pure: no I/O, no clock. All text is somebody else's and is cleaned where it is shown (cli/picture.h).
 */
#ifndef TG_CLI_TOP_MODEL_H
#define TG_CLI_TOP_MODEL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "cli/status-page.h"

#define TOP_UNKNOWN (-1.0) /* of any figure that is not negative */

enum { TOP_CPU, TOP_MEMORY, TOP_IO, _TOP_PRESSURE_MAX };

typedef struct TopUsage { /* of one life of a node */
        nsec_t at;        /* 0: never */
        bool by_look;     /* the sum of its processes, as they were found; else the supervisor's word */
        uint64_t cpu_ns;
        uint64_t memory_bytes, memory_peak_bytes; /* peak 0: unknown */
        uint64_t throttled_ns;
        uint32_t processes, threads; /* threads 0: unknown */
        double cpu_percent;          /* of one CPU, since the sample before */
        double throttled_percent;    /* of one CPU's time: several may be held back at once */
        double some[_TOP_PRESSURE_MAX], full[_TOP_PRESSURE_MAX]; /* percent of the last 10 s */
} TopUsage;

typedef struct TopCalls { /* of one life of a node, while its system calls are counted */
        nsec_t at;             /* 0: never */
        double per_second;     /* since the answer before */
        char worst[24];        /* the call whose 99 % quantile was the longest since then; "": there was none */
        uint64_t worst_p99_ns;
} TopCalls;

typedef struct TopNode {
        char uuid[40], dataflow[136], id[132];
        uint32_t state, health; /* STATUS_NODE_*, STATUS_HEALTH_* */
        uint32_t restarts;
        uint64_t generation;
        int32_t pid;
        bool frozen;
        nsec_t since, stuck_since;
        uint64_t memory_max; /* 0: none, or unknown */
        TopUsage usage;
        TopCalls calls;
} TopNode;

typedef struct TopLink {
        char uuid[40], dataflow[136];
        char from[132], output[132], to[132], input[132];
        char state[16], policy[24];
        uint32_t queue_size;
        bool counted; /* the counters are known */
        uint64_t published, delivered, dropped, depth, age_us;
        nsec_t at;
        double rate, drop_rate; /* messages a second, published and dropped */
        json_t *reasons;        /* owned; {"window": 3, ...}; NULL: unknown */
} TopLink;

typedef struct TopHost {
        nsec_t at;
        uint64_t busy, total; /* ticks of all CPUs */
        unsigned n_cpus;
        double cpu_percent; /* of all of them together */
        double some[_TOP_PRESSURE_MAX], full[_TOP_PRESSURE_MAX];
} TopHost;

typedef struct TopDaemon {
        StatusVerdict verdict;
        StatusReason reason;
        char why[256], action[256];
        nsec_t lost_since;   /* nobody is there; 0: somebody is */
        nsec_t silent_since; /* it does not answer; 0: it does, or was not asked yet */
        const char *silent_why; /* borrowed */
        nsec_t started_at;
        int pid, guard_pid;
        uint32_t guard; /* STATUS_GUARD_* */
} TopDaemon;

typedef struct TopModel {
        const char *const *names; /* borrowed: of those dataflows only (name or beginning of the uuid); n 0: of all */
        size_t n_names;
        bool ended; /* also dataflows that have ended */
        TopDaemon daemon;
        TopHost host;
        TopNode *nodes; /* owned; by dataflow, then as in the plan */
        size_t n_nodes;
        TopLink *links; /* owned */
        size_t n_links;
        json_t *dataflows; /* owned; what was said last, for details; NULL: nothing yet */
        nsec_t answered_at; /* of that */
        json_t *probed;     /* owned; {uuid: Probes}; NULL: none */
        size_t n_dataflows; /* shown */
        nsec_t fresh_span;  /* what is older is unknown */
} TopModel;

#define TOP_MODEL_NULL ((TopModel){.host = {.cpu_percent = TOP_UNKNOWN, .some = {-1, -1, -1}, .full = {-1, -1, -1}}})

void top_model_done(TopModel *model);

/* top_model_wants() - whether a dataflow of that name, uuid and state is shown. */
bool top_model_wants(const TopModel *model, const char *name, const char *uuid, bool ended);

/*
 * top_model_put_page() - the status page: the daemon and, unless there is no page, the nodes. 0 or -ENOMEM (all stays).
 * top_model_put_status() - a reply to Status with links, new reference taken: links, limits; nodes only where no page has
 * them. 0, -ENOMEM, or -EBADMSG: it is none.
 */
int top_model_put_page(TopModel *model, const StatusView *view, nsec_t now);
int top_model_put_status(TopModel *model, json_t *dataflows, nsec_t now);

/* top_model_put_silence() - what was asked is not answered, and why; borrowed until an answer comes. That takes it back. */
void top_model_put_silence(TopModel *model, const char *why, nsec_t now);

/* top_model_put_usage() - a reply to Usage of one dataflow: an array of NodeUsage. What is malformed is passed over. */
void top_model_put_usage(TopModel *model, const char *uuid, const json_t *usage, nsec_t now);

/* top_model_put_look() - an entry of usage_read() for the cgroup of one dataflow: for nodes of which Usage says nothing. */
void top_model_put_look(TopModel *model, const char *uuid, const json_t *entry, nsec_t now);

/* top_model_put_probes() - Probes of one dataflow, from Probe. NULL, and such as are neither attached nor have samples: there are none. */
void top_model_put_probes(TopModel *model, const char *uuid, json_t *probes, nsec_t now);

/* top_host_put() - the texts of /proc/stat and /proc/pressure/{cpu,memory,io}; NULL: could not be read. */
void top_host_put(TopHost *host, const char *stat, const char *const pressure[static _TOP_PRESSURE_MAX], nsec_t now);

/* top_usage_fresh() - whether the figures are of late: else they are shown as unknown. */
bool top_usage_fresh(const TopModel *model, const TopUsage *usage, nsec_t now);
bool top_calls_fresh(const TopModel *model, const TopCalls *calls, nsec_t now);
bool top_link_fresh(const TopModel *model, const TopLink *link, nsec_t now);

/* top_model_node(), _link() - by name; NULL: it is not there (any more). */
const TopNode *top_model_node(const TopModel *model, const char *uuid, const char *id);
const TopLink *top_model_link(const TopModel *model, const char *uuid, const char *to, const char *input);

/* top_model_dataflow() - what Status said of it, borrowed; NULL: nothing. */
json_t *top_model_dataflow(const TopModel *model, const char *uuid);

/* top_model_calls() - the ProbedNode of a node's life, top_model_queue() - the ProbedLink; borrowed; NULL: nothing of it is known. */
json_t *top_model_calls(const TopModel *model, const TopNode *node);
json_t *top_model_queue(const TopModel *model, const TopLink *link);

/* top_model_probe_share() - of one CPU, what the probes of all dataflows cost; unknown without any. */
double top_model_probe_share(const TopModel *model);

/* top_link_fill() - share of the queue that is taken; unknown without a size. */
double top_link_fill(const TopLink *link);

/* top_model_json() - all of it, as `top --once --json` prints it. New reference, or NULL: no memory. */
json_t *top_model_json(const TopModel *model, nsec_t now);

#endif
