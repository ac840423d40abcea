/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How deep queues are and how long messages wait in them, as the supervisor sees it (docs/probes.md): a helper process (tidegate-queues) loads the kernel
 * probe and attaches it to the sites of the files that nodes run of; it holds what is attached, and hands over the memory in which it counts. Which files
 * these are, the dataflow's keeper shows it. Attached only while somebody wants to see: an open Probe call, or the plan of a dataflow that lives.
 *
 * An attached site is reached by whoever runs of that file. How many of its messages a node tells of stands in its control page: of a dataflow that
 * somebody wants to see 1 in N, such that it stays within the budget; of all others none.
 *
 * Loading and attaching have deadlines. A helper that fails, or that is stuck with some process's memory, is given up, with the reason, until somebody asks anew
 * later. When the supervisor dies, its end of the helper's socket does, and nothing is left in the kernel.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_QUEUES_H
#define TG_SUPERVISOR_QUEUES_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/clock.h"
#include "protocol/keeper_msg.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;
typedef struct Queues Queues;
typedef struct Supervisor Supervisor;

/* What is wanted of a dataflow. All zero: nothing. */
typedef struct QueueWish {
        unsigned n_streams;  /* open calls */
        double budget;       /* of one CPU, of the calls that said one; 0: its plan's, or PROBE_BUDGET */
        bool gone;           /* about to be freed */
        bool waits;          /* its files are to be shown: since a node of it has started, or from the beginning */
        bool watching;       /* its links have places */
        bool shown, done;    /* of the question under way: the keeper has answered, the helper has */
        uint64_t cgroup_id;  /* as the keeper says; 0: not yet */
        nsec_t since;        /* watched from when on */
        uint64_t mask;       /* shm/probe.h, while it is watched */
        double share;        /* of one CPU, of late */
        uint64_t n_told;     /* messages told of until then ... */
        nsec_t counted_at;   /* ... when that was */
        char why[160];       /* not to be had here; "": it may be */
        char partly[160];    /* what some of its files could not be attached to for; "": all were */
} QueueWish;

Queues *queues_free(Queues *queues); /* detaches; NULL is fine. Returns NULL */

/* queues_look() - a dataflow was adopted or has ended: ask, show, let go. */
void queues_look(Supervisor *supervisor);

/*
 * queues_dataflow_begins() - it is a new one: if its plan wants to be seen that counts as asking anew; queues_dataflow_resumed() - it was adopted, and has its
 * keeper
 */
void queues_dataflow_begins(Dataflow *dataflow);
void queues_dataflow_resumed(Dataflow *dataflow);

/**
 * queues_want() - a call wants to see a dataflow; queues_unwant() - it does not any more
 * @budget: of one CPU, for all that its nodes spend at sites; 0: as it is
 */
void queues_want(Dataflow *dataflow, double budget);
void queues_unwant(Dataflow *dataflow);

/* queues_forget() - it has ended, or is about to be freed. */
void queues_forget(Dataflow *dataflow);

/* queues_node_prepared() - its control page was made; queues_node_started() - it has its library mapped, and goes on. */
void queues_node_prepared(Node *node);
void queues_node_started(Node *node);

/* queues_files_shown() - a FILES_SHOWN of its keeper. */
void queues_files_shown(Dataflow *dataflow, const KeeperMsg *msg);

/* queues_describe_links() - a ProbedLink for each link that ends at a node, or with @outgoing begins there, appended to @links; none while it is not watched. */
void queues_describe_links(const Node *node, bool outgoing, json_t *links);

json_t *queues_describe_buckets(const uint64_t *buckets, int n);

/* queues_describe_into() - queue_cost and queue_reason of a Probes; @probes NULL is fine. */
void queues_describe_into(const Dataflow *dataflow, json_t *probes);

/* The guard's answers. */
void queues_on_started(Supervisor *supervisor, int32_t pid, int take_sock, int take_pidfd);
void queues_on_failed(Supervisor *supervisor, int error);

#endif
