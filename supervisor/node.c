/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/node-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

#define NODE_FROZEN_SPAN   NSEC_PER_SEC /* a deadline of one who is frozen is looked at again */
#define NODE_OUT_QUEUE_MAX 4096         /* packets that a node may leave unread; the handshake of the largest node is 1 800 */

typedef struct NodeStep {
        NodeState next;
        void (*act)(Node *node); /* runs after the state was entered; NULL: not allowed, ignored */
} NodeStep;

static const NodeStep node_steps[_NODE_STATE_MAX][_NODE_EVENT_MAX] = {
        [NODE_PENDING] = {
                [NODE_EV_START]        = { NODE_STARTING, node_spawn },
                [NODE_EV_STOP]         = { NODE_STOPPED,  node_on_final },
                [NODE_EV_FAIL]         = { NODE_FAILED,   node_on_final }, /* whom it is after ended too soon */
        },
        [NODE_STARTING] = {
                [NODE_EV_READY]        = { NODE_RUNNING,  node_on_ready },
                [NODE_EV_SPAWN_FAILED] = { NODE_STOPPING, node_on_spawn_failed },
                [NODE_EV_EXITED]       = { NODE_STOPPING, node_on_early_exit },
                [NODE_EV_DEADLINE]     = { NODE_STOPPING, node_on_startup_timeout },
                [NODE_EV_STOP]         = { NODE_STOPPING, node_begin_ladder },
        },
        [NODE_RUNNING] = {
                [NODE_EV_EXITED]       = { NODE_STOPPING, node_on_exit },
                [NODE_EV_DEADLINE]     = { NODE_STOPPING, node_on_finish_timeout },
                [NODE_EV_STOP]         = { NODE_STOPPING, node_begin_ladder },
        },
        [NODE_STOPPING] = {
                [NODE_EV_SPAWN_FAILED] = { NODE_STOPPING, node_on_spawn_failed },
                [NODE_EV_EXITED]       = { NODE_STOPPING, node_resolve },
                [NODE_EV_EMPTY]        = { NODE_STOPPING, node_resolve },
                [NODE_EV_DEADLINE]     = { NODE_STOPPING, node_next_rung },
                [NODE_EV_STOP]         = { NODE_STOPPING, node_begin_ladder }, /* a tighter one */
                [NODE_EV_RESTART]      = { NODE_BACKOFF,  node_back_off },
                [NODE_EV_DONE]         = { NODE_STOPPED,  node_on_final },
                [NODE_EV_FAIL]         = { NODE_FAILED,   node_on_final },
        },
        [NODE_BACKOFF] = {
                [NODE_EV_DEADLINE]     = { NODE_STARTING, node_spawn },
                [NODE_EV_STOP]         = { NODE_STOPPED,  node_on_no_restart },
        },
        [NODE_STOPPED] = { /* for good, unless the operator says otherwise */
                [NODE_EV_START]        = { NODE_STARTING, node_spawn_again },
                [NODE_EV_EMPTY]        = { NODE_STOPPED,  node_nothing },
        },
        [NODE_FAILED] = {
                [NODE_EV_START]        = { NODE_STARTING, node_spawn_again },
                [NODE_EV_EMPTY]        = { NODE_FAILED,   node_nothing }, /* a quarantine that cleared by itself */
        },
};

static const char *const state_names[_NODE_STATE_MAX] = {
        [NODE_PENDING] = "pending",
        [NODE_STARTING] = "starting",
        [NODE_RUNNING] = "running",
        [NODE_STOPPING] = "stopping",
        [NODE_BACKOFF] = "backoff",
        [NODE_STOPPED] = "stopped",
        [NODE_FAILED] = "failed",
};

static const char *const event_names[_NODE_EVENT_MAX] = {
        [NODE_EV_START] = "start",
        [NODE_EV_SPAWN_FAILED] = "spawn-failed",
        [NODE_EV_READY] = "ready",
        [NODE_EV_EXITED] = "exited",
        [NODE_EV_EMPTY] = "empty",
        [NODE_EV_DEADLINE] = "deadline",
        [NODE_EV_STOP] = "stop",
        [NODE_EV_RESTART] = "restart",
        [NODE_EV_DONE] = "done",
        [NODE_EV_FAIL] = "fail",
};

static const char *const rung_names[_NODE_RUNG_MAX] = {
        [NODE_RUNG_NONE] = "none",
        [NODE_RUNG_ASK] = "ask",
        [NODE_RUNG_TERM] = "term",
        [NODE_RUNG_KILL] = "kill",
        [NODE_RUNG_VERDICT] = "verdict",
        [NODE_RUNG_LOOKED] = "verdict",
};

const char *node_state_to_string(NodeState state)
{
        return state < _NODE_STATE_MAX ? state_names[state] : "?";
}

const char *node_event_to_string(NodeEvent event)
{
        return event < _NODE_EVENT_MAX ? event_names[event] : "?";
}

const char *node_rung_to_string(NodeRung rung)
{
        return rung < _NODE_RUNG_MAX ? rung_names[rung] : "?";
}

bool node_step(NodeState state, NodeEvent event, NodeState *ret_next)
{
        const NodeStep *step = &node_steps[state][event];

        if (!step->act)
                return false;
        *ret_next = step->next;
        return true;
}

void node_set_error_va(Node *node, const char *format, va_list ap)
{
        _cleanup_free_ char *text = NULL;

        if (node->error)
                return;
        if (vasprintf(&text, format, ap) < 0)
                text = NULL; /* out of memory: the state still says that it failed */
        if (text) /* paths in it may hold anything, and it travels as JSON */
                node->error = utf8_clean(text, strlen(text), NULL);
}

/* ---- applying events */

static int on_deadline(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, deadline);

        /* Who stands still is late for nothing, and nobody for its sake; with the thaw its time begins anew. */
        if ((node->state == NODE_STARTING || node->state == NODE_RUNNING) && (resources_is_frozen(node) || (node->mapped && node->state == NODE_STARTING && dataflow_has_frozen(node->dataflow)))) {
                timer_arm(node->dataflow->loop, timer, nsec_add(now, NODE_FROZEN_SPAN), on_deadline);
                return 0;
        }
        /* It has done its part, and waits for links with nodes that have not begun: they have deadlines of their own. */
        if (node->state == NODE_STARTING && node->mapped && wiring_waits_for_others(node))
                timer_arm(node->dataflow->loop, timer, nsec_add(now, node->plan->startup_timeout_ns), on_deadline);
        else
                node_post(node, NODE_EV_DEADLINE);
        return 0;
}

void node_set_deadline(Node *node, nsec_t at)
{
        timer_arm(node->dataflow->loop, &node->deadline, at, on_deadline);
}

static void node_apply(Node *node, NodeEvent event)
{
        const NodeStep *step = &node_steps[node->state][event];
        NodeState from = node->state;

        if (!step->act)
                return;
        if (step->next != from) {
                timer_disarm(&node->deadline);
                node->state = step->next;
                node->since = node->dataflow->loop->now;
        }
        dataflow_node_changed(node, from, event);
        step->act(node);
        node_journal(node);
        if (node->state != from) {
                if (node->state == NODE_RUNNING && node->dataflow->released) {
                        show_node_runs(node);
                        pressure_watch(node->dataflow, node);
                } else if (from == NODE_RUNNING)
                        show_node_ends(node);
                show_dataflow(node->dataflow);
        }
        show_node(node);
        dataflow_kick(node->dataflow);
}

static int on_job(Job *job)
{
        Node *node = container_of(job, Node, job);

        while (node->n_events > 0) {
                NodeEvent event = node->events[0];

                node->n_events--;
                memmove(node->events, node->events + 1, node->n_events);
                node_apply(node, event);
        }
        return 0;
}

void node_post(Node *node, NodeEvent event)
{
        /* The same event twice says nothing new, and there are fewer kinds of events than room. */
        for (unsigned i = 0; i < node->n_events; i++)
                if (node->events[i] == event)
                        return;
        node->events[node->n_events++] = (uint8_t)event;
        job_post(node->dataflow->loop, &node->job, on_job);
}
_Static_assert(_NODE_EVENT_MAX <= sizeof(((Node *)NULL)->events), "every kind of event fits once");

void node_arm(Node *node, nsec_t at)
{
        node_set_deadline(node, at);
}

/* ---- the rest */

void node_set_error(Node *node, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        node_set_error_va(node, format, ap);
        va_end(ap);
}

const char *node_describe_end(const Node *node, char *buffer, size_t size)
{
        if (node->exit_code == CLD_KILLED && resources_explain_oom(node, buffer, size))
                return buffer;
        if (node->exit_code == CLD_EXITED)
                (void)snprintf(buffer, size, "exited with status %d", node->exit_status);
        else if (node->exit_code == CLD_KILLED || node->exit_code == CLD_DUMPED)
                (void)snprintf(buffer, size, "was ended by SIG%s%s", sigabbrev_np(node->exit_status) ?: "?",
                        node->exit_code == CLD_DUMPED ? " (core dumped)" : "");
        else
                (void)snprintf(buffer, size, "ended, its exit status is unknown");
        return buffer;
}

int node_init(Node *node, Dataflow *dataflow, uint32_t index)
{
        const PlanNode *plan = &dataflow->plan->nodes[index];

        *node = (Node){.dataflow = dataflow,
                .index = index,
                .plan = plan,
                .since = dataflow->loop->now,
                .pidfd = -1,
                .sock = -1,
                .control_fd = -1,
                .bell_fd = -1,
                .out_fds = {-1, -1},
                .ordered = NODE_LADDER_NEVER,
                .keeper_killed_at = NSEC_NEVER,
                .control = REGION_INIT};
        packet_queue_init(&node->out, NODE_OUT_QUEUE_MAX);
        node->outputs = calloc(plan->n_outputs + 1, sizeof(*node->outputs));
        node->cursor_fds = calloc(plan->n_inputs + 1, sizeof(*node->cursor_fds));
        node->resume_at = calloc(plan->n_inputs + 1, sizeof(*node->resume_at));
        if (!node->outputs || !node->cursor_fds || !node->resume_at)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < plan->n_outputs; i++)
                node->outputs[i] = (NodeOutput){.ring_fd = -1, .pool_fd = -1};
        for (size_t i = 0; i < plan->n_inputs; i++) {
                node->cursor_fds[i] = -1;
                node->resume_at[i] = UINT64_MAX;
        }
        return 0;
}

void node_done(Node *node)
{
        if (!node->dataflow)
                return;
        timer_disarm(&node->deadline);
        timer_disarm(&node->guard_timer);
        timer_disarm(&node->order_timer);
        timer_disarm(&node->hung_up);
        node_why_done(node);
        job_cancel(&node->job);
        wiring_release(node);
        source_remove(&node->pid_source);
        node->pidfd = fd_close(node->pidfd);
        wiring_release_outputs(node);
        for (unsigned i = 0; i < ELEMENTSOF(node->out_fds); i++)
                node->out_fds[i] = fd_close(node->out_fds[i]);
        free(node->outputs);
        free(node->cursor_fds);
        free(node->resume_at);
        free(node->links);
        free(node->error);
        leftover_done(&node->left);
        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                leftover_done(&node->older[i]);
        resources_done(&node->resources);
        pressure_done(&node->pressure);
        *node = (Node){};
}
