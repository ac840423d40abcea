/* SPDX-License-Identifier: Apache-2.0 */
/* Orders to one node. */
#include "supervisor/node-internal.h"

#include "supervisor/wiring.h"

NodeLadder node_ladder(nsec_t now, nsec_t grace_ns, nsec_t budget_ns, bool force)
{
        nsec_t grace = force ? 0 : grace_ns, kill = nsec_add(now, nsec_add(grace, grace / 2));

        return (NodeLadder){.term = nsec_add(now, grace), .kill = kill, .verdict = nsec_add(kill, budget_ns)};
}

bool node_ladder_tighten(NodeLadder *ladder, const NodeLadder *wanted)
{
        bool changed = wanted->kill < ladder->kill;

        ladder->term = MIN(ladder->term, wanted->term);
        ladder->kill = MIN(ladder->kill, wanted->kill);
        ladder->verdict = MIN(ladder->verdict, wanted->verdict);
        return changed;
}

void node_order_stop(Node *node, const NodeLadder *ladder)
{
        node->stop_wanted = true;
        node->restart_wanted = false;
        (void)node_ladder_tighten(&node->ordered, ladder);
        if (!node_is_final(node))
                node_post(node, NODE_EV_STOP);
}

bool node_can_restart(const Node *node)
{
        return !node->dataflow->stop_ordered && (!node->quarantined || node->despite_leftover) && node->dataflow->state < DATAFLOW_STOPPING;
}

bool node_order_restart(Node *node, const NodeLadder *ladder)
{
        if (!node_can_restart(node))
                return false;
        node->despite_leftover = false;
        node->stop_wanted = false;
        if (node_is_final(node)) {
                node_post(node, NODE_EV_START);
        } else if (node->state == NODE_BACKOFF) {
                node_set_deadline(node, node->dataflow->loop->now);
        } else if (node->state != NODE_PENDING) {
                node->restart_wanted = true;
                wiring_will_restart(node);
                (void)node_ladder_tighten(&node->ordered, ladder);
                node_post(node, NODE_EV_STOP);
        }
        return true;
}

bool node_reset(Node *node)
{
        bool used = node->n_window > 0;

        node->n_window = 0;
        node->window_start = 0;
        if (node->state == NODE_FAILED && !node->stop_wanted)
                return node_order_restart(node, &NODE_LADDER_NEVER);
        return used;
}
