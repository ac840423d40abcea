/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An order to end one incarnation (StopNode, RestartNode, a stop by on_pressure) is in the guard's hands before anybody hears of it, as the
 * stop of a dataflow is: ESCROW, then the journal, then the ladder. So it ends by its deadline whatever becomes of
 * us, and the order is known to our successor from the guard, if we died before we wrote it down.
 */
#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"

#define ORDER_CONFIRM_SPAN (200 * NSEC_PER_MSEC) /* the guard answers in microseconds */
#define ORDER_DEAF_SPAN    NSEC_PER_SEC          /* a guard that says nothing for so long is replaced */

/* There is somebody who can be ended, and whose end has not been written down. */
static bool can_be_ended(const Node *node)
{
        return !node_is_dynamic(node) && !node->resolved &&
               (node->state == NODE_STARTING || node->state == NODE_RUNNING || node->state == NODE_STOPPING);
}

static int on_guard_deaf(Timer *timer, nsec_t now)
{
        const Node *node = container_of(timer, Node, order_timer);

        (void)now;
        guard_replace_order(node->dataflow->supervisor);
        return 0;
}

static void carry_out(Node *node)
{
        node->order_pending = node->order_ours = false;
        timer_disarm(&node->order_timer);
        if (node->order_restart)
                (void)node_order_restart(node,
                        &node->order_ladder); /* false: its dataflow is being stopped by now, which its client sees */
        else
                node_order_stop(node, &node->order_ladder);
        node_journal(node); /* before the ladder begins */
}

static int on_unconfirmed(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, order_timer);

        dataflow_ledger(node->dataflow, "escrow", node, "guard unresponsive", -1);
        carry_out(node);
        timer_arm(node->dataflow->loop, timer, nsec_add(now, ORDER_DEAF_SPAN), on_guard_deaf);
        return 0;
}

static void place(Node *node)
{
        Dataflow *dataflow = node->dataflow;

        node->order_generation = node->generation;
        node->n_escrows_asked++;
        timer_arm(dataflow->loop, &node->order_timer, nsec_add(dataflow->loop->now, ORDER_CONFIRM_SPAN),
                on_unconfirmed);
        guard_escrow_node_order(node, &node->order_ladder, node->order_restart);
}

bool node_order_in_escrow(Node *node, bool restart, const NodeLadder *ladder)
{
        if (!node->order_pending)
                node->order_ladder = *ladder;
        else
                (void)node_ladder_tighten(&node->order_ladder, ladder);
        node->order_restart = restart;
        if (!can_be_ended(node)) {
                carry_out(node);
                return false;
        }
        node->order_pending = true;
        place(node);
        return true;
}

void node_stop_in_escrow(Node *node, const NodeLadder *ladder)
{
        node->order_ours = node_order_in_escrow(node, false, ladder);
}

void node_on_escrow_answer(Node *node, int error)
{
        node->n_escrows_asked -= node->n_escrows_asked > 0;
        if (node->n_escrows_asked > 0)
                return; /* the last answer is the one that counts */
        timer_disarm(&node->order_timer);
        if (error)
                dataflow_ledger(node->dataflow, "escrow", node, "refused", -1);
        if (!node->order_pending)
                return; /* it was begun without: the supervisor's own ladder is all there is */
        if (error && node->order_ours) {
                carry_out(node);
        } else if (error) {
                node->order_pending = false;
                server_node_refused(node->dataflow->supervisor->server, node);
        } else if (node->generation != node->order_generation && can_be_ended(node)) {
                place(node); /* it ended by itself, and the next one is meant as well */
        } else {
                dataflow_ledger(node->dataflow, "escrow", node, "confirmed", -1);
                carry_out(node);
        }
}

void node_escrow_again(Node *node)
{
        if ((node->stop_wanted || node->restart_wanted) && node->ordered.kill != NSEC_NEVER &&
                !node->dataflow->stop_ordered && can_be_ended(node))
                guard_escrow_node_order(node, &node->ordered, node->restart_wanted);
}

void adopt_escrow(Dataflow *dataflow, const struct guard_record *record)
{
        Node *node = record->node < dataflow->plan->n_nodes ? &dataflow->nodes[record->node] : NULL;
        NodeLadder ladder;

        if (!dataflow->adopting || !node)
                return;
        if (node->generation != record->generation ||
                !can_be_ended(node)) { /* its end was written down, the word did not arrive */
                guard_forget_order(dataflow, record->node, record->generation);
                return;
        }
        ladder = dataflow_ladder_of_escrow(dataflow->loop->now, record->at_ns, record->until_ns);
        if (ladder.kill < node->ordered.kill)
                (void)node_ladder_tighten(&node->ordered, &ladder);
        if (node->stop_wanted || node->restart_wanted || dataflow->stop_ordered)
                return;
        log_line("node %s of %s was ordered to %s when the last supervisor died", node->plan->id,
                dataflow->plan->name, record->status ? "restart" : "stop");
        if (record->status)
                node->restart_wanted = true;
        else
                node->stop_wanted = true;
}
