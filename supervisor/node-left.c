/* SPDX-License-Identifier: Apache-2.0 */
/* Who is left of a node's lives: of this one at its verdict, and of those that another was begun beside. */
#include "supervisor/node-internal.h"

#include <stdio.h>

#include "base/log.h"
#include "supervisor/supervisor.h"

void node_quarantine(Node *node, bool in_exec)
{
        Leftover *left = &node->left;
        char first[512], many[64] = "";

        node->quarantined = true;
        left->generation = node->generation;
        left->since = node->dataflow->loop->now;
        if (left->n > 1)
                (void)snprintf(many, sizeof(many), " (the first of %u tasks)", left->n);
        node_set_error(node, "would not end%s%s%s: %s: %s%s", in_exec ? " (execve of " : "", in_exec ? node->plan->argv[0] : "",
                in_exec ? " has not returned)" : "", leftover_verdict(left),
                left->text ? leftover_brief(left, first, sizeof(first)) : "its cgroup is not empty, and its keeper did not say who is left", many);
        dataflow_verdict(node->dataflow, node);
}

void node_on_looked(Node *node, const KeeperMsg *msg)
{
        if (msg->generation != node->generation)
                return;
        leftover_take(&node->left, msg);
        if (node->rung == NODE_RUNG_KILL && msg->left.n > 0) {
                char first[512];

                log_line("dataflow %s %.8s: look %s: %u left: %s", node->dataflow->plan->name, node->dataflow->uuid_text, node->plan->id, node->left.n,
                        leftover_brief(&node->left, first, sizeof(first)));
        }
        /* The list is here: no need to wait for it any longer than to the verdict. Nobody: that comes as EMPTY, or the deadline does. */
        if (node->rung == NODE_RUNG_VERDICT && msg->left.n > 0)
                node_set_deadline(node, MAX(node->ladder.verdict, node->dataflow->loop->now));
}

const char *node_verdict(const Node *node)
{
        if (node->quarantined)
                return leftover_verdict(&node->left);
        if (node->generation == 0 || !node->exited || !node->empty)
                return node_is_final(node) && node->generation == 0 ? "empty" : NULL;
        return node->killed ? "killed" : "empty";
}

void node_nothing(Node *node)
{
        if (node->quarantined && node->empty) {
                node->quarantined = false;
                dataflow_cleared(node->dataflow, node, &node->left);
                leftover_done(&node->left);
                keeper_order_reap(node);
                guard_reap_order(node);
                dataflow_left_look(node->dataflow);
        }
}

Leftover *node_older(Node *node, uint64_t generation)
{
        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                if (node->older[i].generation == generation)
                        return &node->older[i];
        return NULL;
}

void node_on_older(Node *node, const KeeperMsg *msg)
{
        Leftover *left = node_older(node, msg->generation);
        Dataflow *dataflow = node->dataflow;

        if (!left || msg->generation == 0)
                return;
        if (msg->type == KEEPER_MSG_LEFT) {
                leftover_take(left, msg);
        } else if (msg->type == KEEPER_MSG_EMPTY) {
                dataflow_cleared(dataflow, node, left);
                keeper_order_forget(dataflow, node->index, msg->generation);
                guard_forget_order(dataflow, node->index, msg->generation);
                leftover_done(left);
                node_journal(node);
                dataflow_left_look(dataflow);
        }
}

uint32_t node_n_left(const Node *node)
{
        uint32_t n = node->quarantined;

        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                n += node->older[i].generation > 0;
        return n;
}

bool node_allow_leftover(Node *node)
{
        if (node->quarantined && !node_older(node, 0))
                return false;
        node->despite_leftover = node->quarantined;
        return true;
}
