/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes of nodes, as the supervisor sees them (docs/probes.md): a helper process (tidegate-prober) loads and attaches the kernel probe that
 * counts system calls, hands over descriptors and memory, and ends. What is counted is read from that memory; whose calls are counted is
 * written there. Attached only while some dataflow wants it: by its descriptor, or by an open Probe call.
 *
 * A prober that fails is replaced, and given up when that does not help (supervisor/helper.h); it can then be asked for anew. Whoever has become
 * too expensive is watched no more until somebody asks again. When the supervisor dies its descriptors close, and nothing is left in the kernel;
 * the next one attaches anew for whoever still wants it.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_PROBER_H
#define TG_SUPERVISOR_PROBER_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/clock.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;
typedef struct Prober Prober;
typedef struct Supervisor Supervisor;

#define PROBE_BUDGET     0.03 /* of one CPU, for a dataflow that says nothing else */
#define PROBE_BUDGET_MAX 100.0
#define PROBE_OVER_MAX   3 /* seconds in a row beyond the budget */

/* What is wanted for a dataflow. All zero: nothing. */
typedef struct ProbeWish {
        unsigned n_streams;  /* open calls */
        double budget;       /* of the calls that said one; 0: its plan's, or PROBE_BUDGET */
        bool watching;       /* its nodes have places */
        nsec_t since;        /* ... from when on */
        double share;        /* of one CPU, in the last second */
        uint64_t n_calls;    /* counted until then ... */
        nsec_t counted_at;   /* ... when that was */
        unsigned n_over;     /* seconds beyond the budget */
        uint64_t n_unplaced; /* lives of its nodes for which there was no place */
        char over[160];      /* why it is watched no more; "": it is not too expensive */
} ProbeWish;

Prober *prober_free(Prober *prober); /* detaches; NULL is fine. Returns NULL */

/* prober_look() - somebody's wishes have changed, or a dataflow has begun, was adopted or has ended: ask, watch, let go. */
void prober_look(Supervisor *supervisor);

/**
 * prober_want() - a call wants to see a dataflow; prober_unwant() - it does not any more
 * @budget: of one CPU; 0: as it is
 *
 * One that was too expensive gets another chance.
 */
void prober_want(Dataflow *dataflow, double budget);
void prober_unwant(Dataflow *dataflow);

/* prober_forget() - it is about to be freed. */
void prober_forget(Dataflow *dataflow);

/* prober_node_home() - the cgroup of a node's present life is known: node->cgroup_id */
void prober_node_home(Node *node);

/* prober_reason() - why nothing of it is counted, for people, into @buffer; NULL: it is. @ret_settled: it is not being attached just now */
const char *prober_reason(const Dataflow *dataflow, char *buffer, size_t size, bool *ret_settled);

/* prober_n_changes() - how often it was attached, detached or given up: changes when there is something new to say. */
uint64_t prober_n_changes(const Supervisor *supervisor);

/* As the interface has them, new references; NULL without memory, and prober_node() also when nothing is counted of it. */
json_t *prober_describe(const Dataflow *dataflow); /* Probes, without nodes */
json_t *prober_describe_node(const Node *node);    /* ProbedNode */

/**
 * prober_date() - add to a report of Why (supervisor/why.h) since when each thread is in its call, as far as that was counted
 *
 * Of who was in that very call at the first look, at the second, and is now: since_ms, exact.
 */
void prober_date(const Node *node, json_t *report);

#endif
