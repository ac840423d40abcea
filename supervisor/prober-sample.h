/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where system calls cannot be counted: while somebody asks, the dataflow's keeper looks now and then in which ones its threads are. Looks are
 * added up for each life of a node. One question at a time; a keeper that does not answer is not asked again before SAMPLE_PATIENCE.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_PROBER_SAMPLE_H
#define TG_SUPERVISOR_PROBER_SAMPLE_H

#include <stdbool.h>

#include <jansson.h>

#include "protocol/keeper_msg.h"
#include "supervisor/loop.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;

#define SAMPLE_SPAN     (100 * NSEC_PER_MSEC)
#define SAMPLE_PATIENCE (5 * NSEC_PER_SEC)

typedef struct Sampler { /* of a dataflow; all zero: it does not sample */
        bool on;
        Timer timer;
        nsec_t asked; /* 0: no question is under way */
} Sampler;

/* What was seen of one life of a node, so far. */
typedef struct Samples {
        uint64_t generation, n_looks;
        uint64_t n_threads, n_outside, n_unseen, n_other; /* as in KeeperSample, of all looks */
        uint32_t n_calls;
        struct {
                uint32_t number;
                uint64_t n;
        } calls[2 * KEEPER_SAMPLE_CALLS];
} Samples;

/* sampler_set() - begin, or end and forget. */
void sampler_set(Dataflow *dataflow, bool on);

/* sampler_told() - a SAMPLED; @node NULL: the last one. */
void sampler_told(Dataflow *dataflow, Node *node, const KeeperMsg *msg);

/* sampler_describe() - as the interface has it (ProbedSamples); a new reference. NULL: nothing was seen of that node's present life. */
json_t *sampler_describe(const Node *node);

#endif
