/* SPDX-License-Identifier: Apache-2.0 */
/* What order.c answers, carried out: who starts when, who is asked to stop when, who begins anew. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/node_msg.h"
#include "supervisor/order.h"
#include "supervisor/supervisor.h"

int dataflow_order_init(Dataflow *dataflow)
{
        int r = order_new(&dataflow->order, dataflow->plan);

        dataflow->facts = calloc(dataflow->plan->n_nodes, sizeof(*dataflow->facts));
        dataflow->held = calloc(dataflow->plan->n_nodes, sizeof(*dataflow->held));
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                dataflow->ordered = dataflow->ordered || dataflow->plan->nodes[i].n_after > 0;
        return r ? error_fold(r) : dataflow->facts && dataflow->held ? 0 : error_origin(-ENOMEM);
}

void dataflow_order_done(Dataflow *dataflow)
{
        dataflow->order = order_free(dataflow->order);
        free(dataflow->facts);
        free(dataflow->held);
}

static bool ended_well(const Node *node)
{
        return node->state == NODE_STOPPED && node->end == NODE_END_EXIT && node->exit_code == CLD_EXITED && node->exit_status == 0 && !node->error;
}

/* What a node has once reached stays true; a successor knows the most of it from the journal. */
static void look_at_facts(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];
                OrderFact *fact = &dataflow->facts[i];

                fact->pending = node->state == NODE_PENDING;
                fact->started = fact->started || node->spawned || node->was_ready;
                fact->ready = fact->ready || node->was_ready || node->mapped || (node->plan->kind == PLAN_KIND_PROGRAM && node->spawned);
                fact->completed = fact->completed || ended_well(node);
                fact->final = node_is_final(node);
        }
}

static void never(Node *node, const PlanAfter *blame)
{
        const Node *other = &node->dataflow->nodes[blame->node];

        node_set_error(node, "never started: it is after %s (%s), which ended without that", other->plan->id, plan_until_to_string(blame->until));
        node_post(node, NODE_EV_FAIL);
}

void dataflow_start_some(Dataflow *dataflow)
{
        look_at_facts(dataflow);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const PlanAfter *blame = NULL;
                OrderAnswer answer;

                if (dataflow->nodes[i].state != NODE_PENDING)
                        continue;
                answer = order_may_start(dataflow->plan, dataflow->facts, (uint32_t)i, &blame);
                if (answer == ORDER_START)
                        node_post(&dataflow->nodes[i], NODE_EV_START);
                else if (answer == ORDER_NEVER && blame)
                        never(&dataflow->nodes[i], blame);
        }
}

static int on_term(Timer *timer, nsec_t now)
{
        (void)now;
        dataflow_stop_some(container_of(timer, Dataflow, order_timer)); /* from here on everybody is asked, whoever still lives */
        return 0;
}

/* In reverse: those whom nobody is after any more. The deadline is the same for all. */
void dataflow_stop_some(Dataflow *dataflow)
{
        bool any = false;

        dataflow->stopping = true;
        look_at_facts(dataflow);
        order_held(dataflow->order, dataflow->facts, dataflow->loop->now, dataflow->ladder.term, dataflow->held);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                any = any || dataflow->held[i] != ORDER_FREE;
                if (dataflow->held[i] == ORDER_FREE && (!node->stop_wanted || node->ordered.kill > dataflow->ladder.kill))
                        node_order_stop(node, &dataflow->ladder);
        }
        timer_arm(dataflow->loop, &dataflow->order_timer, any ? dataflow->ladder.term : NSEC_NEVER, on_term);
}

void dataflow_look_at_order(Dataflow *dataflow)
{
        if (!dataflow->ordered)
                return;
        if (dataflow->state == DATAFLOW_STARTING || dataflow->state == DATAFLOW_RUNNING)
                dataflow_start_some(dataflow);
        else if (dataflow->state == DATAFLOW_STOPPING && dataflow->stopping)
                dataflow_stop_some(dataflow);
}

static void restart_downstream(Node *failed)
{
        Dataflow *dataflow = failed->dataflow;
        NodeLadder ladder = node_ladder(dataflow->loop->now, dataflow->options.grace_ns, dataflow->options.budget_ns, false);
        _cleanup_free_ uint32_t *all = calloc(dataflow->plan->n_nodes, sizeof(*all));
        size_t n = all ? order_downstream(dataflow->order, failed->index, all) : 0;

        while (n-- > 0) { /* from the last to the first */
                Node *node = &dataflow->nodes[all[n]];

                if (node->state != NODE_PENDING && !node_is_final(node) && !node->stop_wanted)
                        (void)node_order_restart(node, &ladder); /* refused: its dataflow ends, or somebody would not die there */
        }
}

void dataflow_on_node_failed(Node *node, bool restart)
{
        Dataflow *dataflow = node->dataflow;
        char who[NODE_MSG_ID_MAX + 64];

        if (dataflow->stop_ordered || node->stop_wanted)
                return;
        if (node->plan->on_failure == PLAN_ON_FAILURE_STOP && !restart) {
                (void)snprintf(who, sizeof(who), "the failure of %s (on_failure: stop)", node->plan->id);
                dataflow_stop(dataflow, NSEC_NEVER, false, who);
        } else if (node->plan->on_failure == PLAN_ON_FAILURE_RESTART_DOWNSTREAM) {
                restart_downstream(node);
        }
}
