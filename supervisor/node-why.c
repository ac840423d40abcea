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

/* It is said of who was killed. */
static bool is_told(const Node *node)
{
        return is_known(node) && (node->why.was_stuck == node->generation || node->why.was_late == node->generation);
}

/* Which question is under way; 0: none any more. */
static void set_asked(Node *node, uint64_t asked)
{
        if (node->why.asked)
                node->dataflow->n_whys--;
        if (asked)
                node->dataflow->n_whys++;
        node->why.asked = asked;
}

void node_why_done(Node *node)
{
        set_asked(node, 0);
        timer_disarm(&node->why.timer);
        timer_disarm(&node->why.last_timer);
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
        set_asked(node, 0);
        return 0;
}

static bool are_too_many(const Dataflow *dataflow)
{
        return dataflow->n_whys >= NODE_WHYS_MAX;
}

/* False: nothing will come. */
static bool ask(Node *node, KeeperHaste haste, nsec_t until)
{
        Dataflow *dataflow = node->dataflow;
        uint64_t asked;

        if (are_too_many(dataflow) || !node->spawned || node->empty || dataflow->adopting || why_ask(node, false, haste, until, &asked))
                return false;
        set_asked(node, asked);
        node->why.asked_last = haste == KEEPER_HASTE_LAST;
        timer_arm(dataflow->loop, &node->why.timer, until, on_silent);
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
        if (node->why.asked || ask(node, KEEPER_HASTE_BRIEF, nsec_add(node->dataflow->loop->now, NODE_WHY_SPAN)))
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

/* ---- who is to end */

static int on_last(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, why.last_timer);
        nsec_t kill = node->ladder.kill;

        if (node->generation != node->why.last_of || node->end == NODE_END_NONE || node->empty || nsec_add(now, NODE_WHY_LAST_MIN) > kill)
                return 0; /* it has ended, or there is no time for it */
        if (node->why.asked || are_too_many(node->dataflow)) {
                timer_arm(node->dataflow->loop, timer, nsec_add(now, NODE_WHY_LAST_AGAIN), on_last);
                return 0;
        }
        node->why.tried_last = node->generation;
        (void)ask(node, KEEPER_HASTE_LAST, kill - NODE_WHY_LAST_EARLY); /* else nothing is said */
        return 0;
}

void node_why_last(Node *node)
{
        const NodeLadder *l = &node->ladder;
        nsec_t half = nsec_left(l->kill, l->term), now = node->dataflow->loop->now; /* of its grace; or what is left of it when it is asked at once */
        nsec_t at = l->term > nsec_add(now, half / 2) ? l->term - MIN(l->term, half) : nsec_add(l->term, half / 2);

        if (node->why.tried_last == node->generation || node->dataflow->plan->n_nodes > NODE_WHY_LAST_NODES)
                return;
        node->why.last_of = node->generation;
        timer_arm(node->dataflow->loop, &node->why.last_timer, MAX(at, now), on_last);
}

void node_why_killed(Node *node)
{
        timer_disarm(&node->why.last_timer);
        if (node->why.asked && node->why.asked_last) { /* too late: nobody waits for it */
                set_asked(node, 0);
                timer_disarm(&node->why.timer);
        }
        if (is_told(node))
                dataflow_why_event(node->dataflow, node, node->why.was_late == node->generation ? "had not ended in its grace" : "was stuck", reason_of(node));
}

void node_why_said(Node *node, uint64_t asked, const json_t *report)
{
        const char *cause = json_string_value(json_object_get(report, "cause")), *text = json_string_value(json_object_get(report, "text"));
        bool last = node->why.asked_last;
        char *own_cause, *own_text;

        if (asked == 0 || asked != node->why.asked)
                return;
        set_asked(node, 0);
        node->why.asked_last = false;
        if ((uint64_t)json_integer_value(json_object_get(report, "generation")) != node->generation)
                cause = NULL; /* of a life that is over */
        if (last && (!cause || strcmp(cause, "unknown") == 0 || strcmp(cause, "exiting") == 0))
                cause = NULL; /* which says nothing of why it has not ended */
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
                node->why.was_late = last ? node->generation : node->why.was_late;
        } else {
                free(own_cause);
                if (!last)
                        node->why.generation = 0;
        }
        node_why_flush(node);
}

void node_why_describe(const Node *node, json_t *result)
{
        if (result && (is_stuck(node) || (node->killed && is_told(node))) && is_known(node))
                (void)json_object_set_new(result, "why", reason_of(node));
}
