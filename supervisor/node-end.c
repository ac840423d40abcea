/* SPDX-License-Identifier: Apache-2.0 */
/* A node has ended: who ended it, how, and whether another incarnation follows. */
#include "supervisor/node-internal.h"

#include <signal.h>
#include <sys/wait.h>

#include "supervisor/supervisor.h"
#include "supervisor/wiring.h"

#define NODE_BACKOFF_EXPONENT_MAX 16
#define NODE_AGAIN_SPAN           (20 * NSEC_PER_MSEC)  /* before another try of a start for which there was no guard */
#define NODE_GUARD_SPAN           (200 * NSEC_PER_MSEC) /* the guard answers in microseconds */

void node_on_ended(Node *node, int32_t code, int32_t status)
{
        node->exited = true;
        node->exit_code = code == 0 && node->captured ? CLD_EXITED : code;
        node->exit_status = status;
        node->exit_known_at = clock_now();
        node->exit_seen_at = node->exit_seen_at ? node->exit_seen_at : node->exit_known_at;
        node_post(node, NODE_EV_EXITED);
}

void node_on_left(Node *node)
{
        node->exited = node->empty = true;
        node->exit_code = CLD_EXITED; /* nobody sees how it ended, and nobody is to blame */
        node->exit_status = 0;
        node_post(node, NODE_EV_EXITED);
        node_post(node, NODE_EV_EMPTY);
}

/* A consumer whose last input closes is done, so it has to hear why before. */
void node_tell_end(Node *node, bool restart, bool failed)
{
        if (failed && !restart && !node->dataflow->stop_ordered)
                wiring_tell_failed(node, node->error ? node->error : "failed");
        wiring_node_ended(node, restart);
}

const char *node_killed_by(const Node *node)
{
        return !node->killed ? NULL : node->killed_by_guard ? "guard" : "keeper";
}

static int on_guard_read(Timer *timer, nsec_t now)
{
        (void)now;
        node_post(container_of(timer, Node, guard_timer), NODE_EV_EMPTY);
        return 0;
}

static int on_guard_silent(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, guard_timer);

        (void)now;
        node->guard_heard = true;
        dataflow_ledger(node->dataflow, "guard", node, "guard unresponsive", -1);
        node_post(node, NODE_EV_EMPTY);
        return 0;
}

/*
 * We may have slept while the guard enforced, and an end looks the same whoever brought it about. The guard says that it is going to
 * kill before it does, so once we have read all that it has said before this end, it has killed here if we know of it.
 */
static bool node_awaits_guard(Node *node)
{
        Dataflow *dataflow = node->dataflow;
        Supervisor *supervisor = dataflow->supervisor;

        if (node->guard_heard || node_is_dynamic(node) || supervisor->guard_fd < 0)
                return false;
        if (node->guard_asked)
                return true;
        if (guard_has_unread(supervisor)) {
                timer_arm(dataflow->loop, &node->guard_timer, dataflow->loop->now, on_guard_read); /* read in the next turn, before jobs */
                return true;
        }
        if (!supervisor->enforced_at && !dataflow->enforced_at && !node->enforced_at)
                return false;
        node->guard_asked = true;
        timer_arm(dataflow->loop, &node->guard_timer, nsec_add(dataflow->loop->now, NODE_GUARD_SPAN), on_guard_silent);
        guard_ask_killed_order(node);
        return true;
}

void node_on_keeper_killed(Node *node, nsec_t at)
{
        if (at)
                node->keeper_killed_at = MIN(node->keeper_killed_at, at);
}

void node_on_guard_word(Node *node, uint32_t n_killed, nsec_t at)
{
        if (!node->guard_asked || node->guard_heard)
                return;
        timer_disarm(&node->guard_timer);
        node->guard_heard = true;
        if (n_killed > 0 && at < node->keeper_killed_at) { /* else it found those who were dying already, as the keeper did if it came later */
                node->killed = node->killed_by_guard = true;
                audit_note_kill(node, at);
                audit_note_killed(node, n_killed);
                dataflow_ledger_at(node->dataflow, at, "guard", node, "killed", n_killed);
        }
        node_post(node, NODE_EV_EMPTY);
}

/* Nobody is left: how did it end, and does another incarnation follow? */
void node_resolve(Node *node)
{
        Dataflow *dataflow = node->dataflow;
        bool restart, failed;

        if (!node->exited || !node->empty || node->resolved || node_awaits_guard(node))
                return;
        node->resolved = true;
        node->quarantined = false;
        restart = node_may_restart(node, dataflow->loop->now);
        failed = node->error != NULL || (node->killed && node->end != NODE_END_EXIT);
        if (node->killed && node->end == NODE_END_EXIT)
                dataflow_note(dataflow, node->plan->id,
                        node->killed_by_guard ? "was still there at the deadline of a stop, and was killed by the guard"
                                              : "left processes behind when it ended; they did not react to SIGTERM and were killed");
        if (!failed && node->end == NODE_END_EXIT && !(node->exit_code == CLD_EXITED && node->exit_status == 0)) {
                char how[128];

                node_set_error(node, "%s", node_describe_end(node, how, sizeof(how)));
                failed = true;
        } else if (failed && !node->error) {
                node_set_error(node, "did not react to stop in time and was killed%s", node->killed_by_guard ? " by the guard" : "");
        } else if (node->end == NODE_END_STOP && !failed && !dataflow->failed_start && node->exit_code == CLD_EXITED && node->exit_status != 0 &&
                   node->exit_status != 128 + SIGTERM && node->exit_status != 128 + SIGINT) {
                char how[128];

                node_set_error(node, "%s after it was asked to stop", node_describe_end(node, how, sizeof(how)));
                failed = true;
        }
        node_tell_end(node, restart, failed);
        if (failed)
                dataflow_on_node_failed(node, restart);
        node_journal(node); /* how it ended, before anybody forgets it */
        keeper_order_reap(node);
        guard_reap_order(node);
        node_post(node, restart ? NODE_EV_RESTART : failed ? NODE_EV_FAIL : NODE_EV_DONE);
}

bool node_may_restart(const Node *node, nsec_t now)
{
        const PlanNode *plan = node->plan;
        bool ok = node->exit_code == CLD_EXITED && node->exit_status == 0 && !node->error && !node->killed;
        bool fresh_window = plan->restart_window_ns > 0 && nsec_add(node->window_start, plan->restart_window_ns) <= now;

        if (node->dataflow->stop_ordered || node->quarantined)
                return false;
        if (node->restart_wanted)
                return true;
        if (node_is_dynamic(node)) /* its place is free for another process */
                return !node->stop_wanted;
        if (node->stop_wanted || plan->restart == PLAN_RESTART_NEVER)
                return false;
        if (node->inputs_closed) /* its work is done, or it died of having none */
                return false;
        if (plan->restart == PLAN_RESTART_ON_FAILURE && ok)
                return false;
        return plan->max_restarts == 0 || fresh_window || node->n_window < plan->max_restarts;
}

nsec_t node_backoff_ns(const PlanNode *plan, uint32_t n_restarts)
{
        nsec_t delay = nsec_mul(plan->restart_delay_ns, UINT64_C(1) << MIN(n_restarts, (uint32_t)NODE_BACKOFF_EXPONENT_MAX));

        return plan->max_restart_delay_ns > 0 ? MIN(delay, plan->max_restart_delay_ns) : delay;
}

/* It was ended alone, on somebody's order; in the stop of its dataflow it is counted with the others. */
static void node_audit(Node *node)
{
        if (node->end == NODE_END_STOP && !node->dataflow->stop_ordered && node->spawned && !node_is_loose(node))
                audit_node(node);
}

void node_back_off(Node *node)
{
        nsec_t now = node->dataflow->loop->now;

        node->n_restarts++;
        if (node->restart_wanted) { /* asked for: at once, and nothing that counts against it */
                wiring_release(node);
                node_audit(node);
                node_set_deadline(node, node->end == NODE_END_SPAWN ? nsec_add(now, NODE_AGAIN_SPAN) : now);
                return;
        }
        if (node->n_window == 0 || (node->plan->restart_window_ns > 0 &&
                                           nsec_add(node->window_start, node->plan->restart_window_ns) <= now)) {
                node->window_start = now;
                node->n_window = 0;
        }
        wiring_release(node);
        node_set_deadline(node, nsec_add(now, node_backoff_ns(node->plan, node->n_window)));
        node->n_window++;
}

void node_on_final(Node *node)
{
        wiring_release(node);
        node_audit(node);
}

/* Its peers were told that it would come again. */
void node_on_no_restart(Node *node)
{
        wiring_node_ended(node, false);
        node_on_final(node);
}
