/* SPDX-License-Identifier: Apache-2.0 */
/* Carries out what placement.h decides: looks by a timer, orders to the keeper, events. */
#ifndef TG_SUPERVISOR_PLACER_H
#define TG_SUPERVISOR_PLACER_H

#include "supervisor/dataflow.h"

int placer_init(Dataflow *dataflow); /* 0, -ENOMEM */
void placer_done(Dataflow *dataflow);

/* placer_is_one_of_many() - is it one of more consumers of one output than there are CPUs? Then each wake-up would take the CPU from their producer. */
bool placer_is_one_of_many(const Node *node);

/* A node runs behind the barrier, or does not any more. */
void placer_node_runs(Node *node);
void placer_node_ends(Node *node);

void placer_on_placed(Node *node, const KeeperMsg *msg); /* the keeper's answer */

/* placer_describe() - "placement": the wish, and where it is; into @object. */
void placer_describe(const Node *node, json_t *object);

#endif
