/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/node-why.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "supervisor/progress.h"
#include "supervisor/supervisor.h"

static bool is_known(const Node *node)
{
        return node->why.text && node->why.generation == node->generation;
}

static json_t *reason_of(const Node *node)
{
        return is_known(node) ? json_pack("{ss ss sI}", "cause", node->why.cause, "text", node->why.text, "at_ms", (json_int_t)(node->why.at / NSEC_PER_MSEC)) : NULL;
}

void node_why_done(Node *node)
{
        timer_disarm(&node->why.timer);
        free(node->why.cause);
        free(node->why.text);
        free(node->why.stuck);
        node->why = (NodeWhy){};
}

void node_why_flush(Node *node)
{
        _cleanup_free_ char *text = TAKE_PTR(node->why.stuck);

        if (text)
                dataflow_stuck_event(node->dataflow, node, text, node->why.asked ? NULL : reason_of(node));
}

static int on_silent(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, why.timer);

        (void)now;
        node_why_flush(node);
        node->why.asked = 0;
        return 0;
}

/* False: nothing will come. */
static bool ask(Node *node)
{
        Dataflow *dataflow = node->dataflow;
        unsigned n = 0;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                n += dataflow->nodes[i].why.asked != 0;
        if (n >= NODE_WHYS_MAX || !node->spawned || node->empty || dataflow->adopting ||
                why_ask(node, false, true, nsec_add(dataflow->loop->now, NODE_WHY_SPAN), &node->why.asked))
                return false;
        timer_arm(dataflow->loop, &node->why.timer, nsec_add(dataflow->loop->now, NODE_WHY_SPAN), on_silent);
        return true;
}

void node_why_stuck(Node *node, const char *text)
{
        node_why_flush(node);
        node->why.stuck = strdup(text);
        if (!node->why.stuck) {
                dataflow_stuck_event(node->dataflow, node, text, NULL);
                return;
        }
        if (node->why.asked || ask(node))
                return;
        node->why.generation = 0; /* what was known is of another time */
        node_why_flush(node);
}

static bool is_stuck(const Node *node)
{
        return progress_state(node->dataflow->progress, node->index).health == PROGRESS_STUCK;
}

void node_why_ends(Node *node)
{
        node_why_flush(node);
        if (is_stuck(node))
                node->why.was_stuck = node->generation;
}

void node_why_killed(Node *node)
{
        if (node->why.was_stuck == node->generation && is_known(node))
                dataflow_why_event(node->dataflow, node, reason_of(node));
}

void node_why_said(Node *node, uint64_t asked, const json_t *report)
{
        const char *cause = json_string_value(json_object_get(report, "cause")), *text = json_string_value(json_object_get(report, "text"));
        char *own_cause, *own_text;

        if (asked == 0 || asked != node->why.asked)
                return;
        node->why.asked = 0;
        timer_disarm(&node->why.timer);
        own_cause = cause && text ? strdup(cause) : NULL;
        own_text = own_cause ? strdup(text) : NULL;
        if (own_text) {
                free(node->why.cause);
                free(node->why.text);
                node->why.cause = own_cause;
                node->why.text = own_text;
                node->why.at = node->dataflow->loop->now;
                node->why.generation = node->generation;
        } else {
                free(own_cause);
                node->why.generation = 0;
        }
        node_why_flush(node);
}

void node_why_describe(const Node *node, json_t *result)
{
        if (result && (is_stuck(node) || (node->killed && node->why.was_stuck == node->generation)) && is_known(node))
                (void)json_object_set_new(result, "why", reason_of(node));
}
