/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the nodes of a dataflow use, asked of its keeper when a client wants to know. One question at a time: who asks while one is under way gets
 * its answer, whose numbers say when they were taken.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_USAGE_H
#define TG_SUPERVISOR_USAGE_H

#include <jansson.h>

#include "base/clock.h"
#include "protocol/keeper_msg.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;

typedef struct Usage {
        nsec_t asked; /* 0: no question is under way */
        json_t *nodes; /* the answer so far, as the interface has it */
} Usage;

/* usage_ask() - server_measured() follows, unless the keeper is lost before. 0 or a negative errno. */
int usage_ask(Dataflow *dataflow);

/* usage_told() - a MEASURED; @node NULL: the last one, of the dataflow. */
void usage_told(Dataflow *dataflow, const Node *node, const KeeperMsg *msg);

/* usage_forget() - what was under way is not answered any more, or of no interest. */
void usage_forget(Dataflow *dataflow);

#endif
