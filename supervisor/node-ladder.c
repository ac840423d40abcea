/* SPDX-License-Identifier: Apache-2.0 */
/* A node is ended: what begins that, and the rungs from a question to the verdict. */
#include "supervisor/node-internal.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "supervisor/wiring.h"

#define NODE_LEFTOVER_SPAN (50 * NSEC_PER_MSEC)  /* what a tree gets to end with its leader before it is asked */
#define NODE_LOOK_EARLY    (400 * NSEC_PER_MSEC) /* before the verdict falls: a busy host takes its time to say who is left */
#define NODE_LOOK_SPAN     (100 * NSEC_PER_MSEC) /* after it: a stop is to return in time, also where nobody says who is left */

static void node_ladder_here(Node *node, nsec_t term)
{
        const DataflowOptions *o = &node->dataflow->options;

        node->ladder.term = term;
        node->ladder.kill = nsec_add(term, o->grace_ns / 2);
        node->ladder.verdict = nsec_add(node->ladder.kill, o->budget_ns);
}

static nsec_t node_look_at(const NodeLadder *ladder)
{
        return MAX(ladder->kill, ladder->verdict - MIN(ladder->verdict, NODE_LOOK_EARLY));
}

/* Whoever is there when half of the kill budget is over may well be there at its end, when a machine that is full may not answer in time. */
static bool node_foresees(const Node *node, nsec_t *ret_at)
{
        *ret_at = node->ladder.kill + (MAX(node->ladder.kill, node->ladder.verdict) - node->ladder.kill) / 2;
        return node->rung == NODE_RUNG_KILL && !node->foreseen && !node_is_loose(node) && *ret_at < node_look_at(&node->ladder);
}

/* The rung that is next in time, at its time. */
static void node_arm_rung(Node *node)
{
        const NodeLadder *l = &node->ladder;
        nsec_t foresee;
        const nsec_t at[_NODE_RUNG_MAX] = {
                [NODE_RUNG_NONE] = l->term,
                [NODE_RUNG_ASK] = l->term,
                [NODE_RUNG_TERM] = l->kill,
                [NODE_RUNG_KILL] = node_look_at(l),
                [NODE_RUNG_VERDICT] = nsec_add(l->verdict, NODE_LOOK_SPAN),
                [NODE_RUNG_LOOKED] = NSEC_NEVER,
        };

        node_set_deadline(node, node_foresees(node, &foresee) ? foresee : at[node->rung]);
        if (node->rung < NODE_RUNG_KILL && !node_is_loose(node))
                node_why_last(node);
}

void node_on_inputs_closed(Node *node)
{
        node->inputs_closed = true;
        if (node->state == NODE_RUNNING && node->plan->finish_grace_ns > 0)
                node_set_deadline(node, nsec_add(node->dataflow->loop->now, node->plan->finish_grace_ns));
}

void node_give_up(Node *node, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        node_set_error_va(node, format, ap);
        va_end(ap);
        if (node_is_loose(node)) {
                wiring_let_go(node, node->error ? node->error : "it was let go of");
                return;
        }
        keeper_order_kill(node, nsec_add(node->dataflow->loop->now, node->dataflow->options.budget_ns));
}

/* The first process has ended; whoever is left of its tree gets a ladder of its own. */
static void node_end_with_leader(Node *node, NodeEnd end)
{
        node->end = end;
        node_ladder_here(node, nsec_add(node->dataflow->loop->now, NODE_LEFTOVER_SPAN));
        node_arm_rung(node);
        node_resolve(node);
}

void node_on_exit(Node *node)
{
        bool no_more = node->plan->restart == PLAN_RESTART_NEVER && !node_is_dynamic(node); /* its place is free for another process */
        bool over = no_more || node->stop_wanted || node->inputs_closed;

        /* Its consumers need not wait for what it may have left behind. Of a failure they hear first, in node_resolve(). */
        if (over && node->exit_code == CLD_EXITED && node->exit_status == 0)
                wiring_close_outputs(node);
        node_end_with_leader(node, NODE_END_EXIT);
}

void node_on_early_exit(Node *node)
{
        char how[128];

        node_set_error(node, "%s before it was ready%s", node_describe_end(node, how, sizeof(how)),
                node->connected ? "" : ": it never connected (a node with inputs or outputs must call tg_node_open() or tidegate.Node())");
        node_end_with_leader(node, NODE_END_EARLY);
}

void node_end_now(Node *node, NodeEnd end)
{
        node->end = end;
        node_ladder_here(node, node->dataflow->loop->now);
        node_next_rung(node);
}

void node_on_startup_timeout(Node *node)
{
        double seconds = (double)node->plan->startup_timeout_ns / 1e9;

        if (!node->spawned && node->captured)
                node_set_error(node, "its process could not be captured within startup_timeout (%g s)", seconds);
        else if (!node->spawned)
                node_set_error(node, "its program did not start within startup_timeout (%g s): execve of %s has not returned",
                        seconds, node->plan->argv[0]);
        else
                node_set_error(node, "was not ready within startup_timeout (%g s): %s", seconds,
                        node->connected ? "it connected, and a node it is linked to did not"
                                        : "it never connected");
        node_end_now(node, NODE_END_STARTUP_TIMEOUT);
}

void node_on_finish_timeout(Node *node)
{
        if (!node->error) /* else it is node_on_overdue()'s or node_on_pressure()'s */
                node_set_error(node, "did not end within finish_grace_secs (%g s) after all its inputs had closed",
                (double)node->plan->finish_grace_ns / 1e9);
        node_end_now(node, NODE_END_FINISH_TIMEOUT);
}

void node_on_overdue(Node *node)
{
        if (node->state != NODE_RUNNING || node->error)
                return;
        node_set_error(node, "took none of the messages that wait for it within health_check_timeout (%g s)",
                (double)node->plan->health_check_timeout_ns / 1e9);
        node_post(node, NODE_EV_DEADLINE);
}

void node_on_pressure(Node *node, const char *text)
{
        if (node->state != NODE_RUNNING || node->error)
                return;
        node_set_error(node, "was ended for its pressure: %s", text);
        node_post(node, NODE_EV_DEADLINE);
}

void node_begin_ladder(Node *node)
{
        node->ladder = node->ordered;
        if (node->end == NODE_END_NONE)
                node->end = NODE_END_STOP;
        if (node_is_loose(node) && !node_is_connected(node) && !node->exited)
                node_on_left(node); /* nobody came: nobody is waited for */
        if (node->held) { /* nobody was started */
                node->held = false;
                node->exited = node->empty = true;
                node->exit_code = CLD_EXITED;
                node->exit_status = 0;
        }
        if (node->ladder.term > node->dataflow->loop->now) /* else it begins with the kill, which needs no thaw */
                resources_thaw(node->dataflow, node);
        if (node->rung == NODE_RUNG_NONE) {
                node->rung = NODE_RUNG_ASK;
                if (node_is_connected(node))
                        wiring_stop(node, node->ladder.kill);
                else if (!node->exited) /* nobody there who could hear a stop event */
                        (void)keeper_order_signal(node, SIGTERM); /* the next rung does not depend on it */
        }
        node_arm_rung(node);
        node_resolve(node);
}

void node_next_rung(Node *node)
{
        Dataflow *dataflow = node->dataflow;
        bool in_exec = !node->spawned && !node_is_dynamic(node);
        nsec_t now = dataflow->loop->now, foresee;

        if (node->exited && node->empty) /* it is over, and the guard is asked about it */
                return;
        if (node_foresees(node, &foresee) && foresee <= now) {
                node->foreseen = true;
                keeper_order_look(node);
                node_arm_rung(node);
                return;
        }

        /* Rungs whose time has passed already are not climbed one by one: --force begins with the kill. */
        do
                node->rung = node->rung == NODE_RUNG_NONE ? NODE_RUNG_TERM : node->rung + 1;
        while (node->rung == NODE_RUNG_TERM && node->ladder.kill <= now);

        if (node_is_loose(node)) { /* not our process: it was asked, and is let go of */
                dataflow_ledger(dataflow, node_rung_to_string(node->rung), node, "let go", -1);
                wiring_let_go(node, "the dataflow has ended");
                return;
        }
        switch (node->rung) {
        case NODE_RUNG_TERM:
                resources_thaw(dataflow, node);
                (void)keeper_order_signal(node, SIGTERM); /* the next rung does not depend on it */
                break;
        case NODE_RUNG_KILL:
                node->killed = true;
                keeper_order_kill(node, node->ladder.verdict);
                node_why_killed(node);
                break;
        case NODE_RUNG_VERDICT:
                keeper_order_look(node);
                node_set_deadline(node, nsec_add(MAX(node->ladder.verdict, now), NODE_LOOK_SPAN)); /* also who slept beyond it hears the answer */
                return;
        default:
                node_quarantine(node, in_exec);
                node_tell_end(node, false, true);
                node_post(node, NODE_EV_FAIL);
                return;
        }
        node_arm_rung(node);
}
