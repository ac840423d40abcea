/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/node.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/utf8.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

#define NODE_BACKOFF_EXPONENT_MAX 16
#define NODE_LEFTOVER_SPAN        (50 * NSEC_PER_MSEC) /* what a tree gets to end with its leader before it is asked */
#define NODE_AGAIN_SPAN           (20 * NSEC_PER_MSEC) /* before another try of a start for which there was no guard */
#define NODE_CAPTURE_SPAN         (5 * NSEC_PER_SEC)   /* for a keeper to move a process; later it does not any more */
#define NODE_REFUSAL_SIZE         1024
#define NODE_FROZEN_SPAN          NSEC_PER_SEC /* a deadline of one who is frozen is looked at again */
#define NODE_LOOK_EARLY           (200 * NSEC_PER_MSEC) /* before the verdict falls: a busy host takes its time to say who is left */
#define NODE_LOOK_SPAN            (300 * NSEC_PER_MSEC)
#define NODE_GUARD_SPAN           (200 * NSEC_PER_MSEC) /* the guard answers in microseconds */
#define NODE_OUT_QUEUE_MAX        4096 /* packets that a node may leave unread; the handshake of the largest node is 1 800 */

typedef struct NodeStep {
        NodeState next;
        void (*act)(Node *node); /* runs after the state was entered; NULL: not allowed, ignored */
} NodeStep;

static void node_spawn(Node *node);
static void node_spawn_again(Node *node);
static void node_nothing(Node *node);
static void node_on_ready(Node *node);
static void node_on_spawn_failed(Node *node);
static void node_on_early_exit(Node *node);
static void node_on_startup_timeout(Node *node);
static void node_on_exit(Node *node);
static void node_on_finish_timeout(Node *node);
static void node_begin_ladder(Node *node);
static void node_next_rung(Node *node);
static void node_resolve(Node *node);
static void node_tell_end(Node *node, bool restart, bool failed);
static void node_end_now(Node *node, NodeEnd end);
static void node_back_off(Node *node);
static void node_on_final(Node *node);
static void node_on_no_restart(Node *node);

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

__attribute__((format(printf, 2, 0))) static void node_set_error_va(Node *node, const char *format, va_list ap)
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

static void node_set_deadline(Node *node, nsec_t at)
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
                if (node->state == NODE_RUNNING && node->dataflow->released)
                        show_node_runs(node);
                else if (from == NODE_RUNNING)
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

/* ---- starting */

Leftover *node_older(Node *node, uint64_t generation)
{
        for (size_t i = 0; i < NODE_OLDER_MAX; i++)
                if (node->older[i].generation == generation)
                        return &node->older[i];
        return NULL;
}

/* It stays where it is, is watched, and is not in the way any more. */
static void node_put_aside(Node *node)
{
        Leftover *room = node->quarantined ? node_older(node, 0) : NULL;
        char text[256];

        if (!room) { /* there was room when it was allowed */
                leftover_done(&node->left);
                return;
        }
        *room = node->left;
        node->left = (Leftover){};
        (void)snprintf(text, sizeof(text), "begins beside what is left of generation %llu (%s, %u task%s)",
                (unsigned long long)room->generation, leftover_verdict(room), room->n, room->n == 1 ? "" : "s");
        dataflow_note(node->dataflow, node->plan->id, text);
}

static void node_begin_incarnation(Node *node)
{
        node->generation++;
        node->spawned = node->captured = node->connected = node->mapped = node->started = false;
        node->exited = node->empty = node->killed = node->inputs_closed = node->exec_stuck = false;
        node->killed_by_guard = node->guard_asked = node->guard_heard = false;
        node->keeper_killed_at = NSEC_NEVER;
        node->enforced_at = node->kill_at = node->killed_until = node->exit_seen_at = node->exit_known_at = 0;
        node->n_killed = node->n_said = 0;
        node->not_removed = false;
        node->escrow_placed = false;
        node_put_aside(node);
        node->quarantined = node->resolved = node->strayed = node->foreseen = false;
        keeper_take_pidfd(node, 0, -1); /* that of another life */
        node->end = NODE_END_NONE;
        node->rung = NODE_RUNG_NONE;
        node->ordered = NODE_LADDER_NEVER;
        node->restart_wanted = false;
        node->held = false;
        resources_begin(&node->resources);
        node->n_signals_sent = node->n_signals_done = 0;
        free(node->error);
        node->error = NULL;
}

static void node_order_spawn(Node *node)
{
        nsec_t now = node->dataflow->loop->now, deadline = nsec_add(now, node->plan->startup_timeout_ns);
        _cleanup_fd_ int sock = -1;
        int r = 0;

        node->started_at = now;
        if (node_is_dynamic(node)) { /* whoever connects; nobody waits for it */
                node_journal(node);
                return;
        }
        node_set_deadline(node, deadline);
        node_journal(node); /* the intent, before anything can come of it */
        node->held = node->dataflow->frozen_all; /* a child that is frozen on its way to execve would hang there */
        if (node->held)
                return;
        if (node->plan->kind == PLAN_KIND_NODE) {
                r = wiring_prepare(node, &sock);
                if (r)
                        node_set_error(node, "cannot make its shared memory and socket: %s", error_text(r));
        }
        if (!r) {
                r = keeper_order_spawn(node, sock, deadline);
                if (r)
                        node_set_error(node, "cannot order its start: %s", error_text(r));
        }
        if (r)
                node_post(node, NODE_EV_SPAWN_FAILED);
}

static void node_spawn(Node *node)
{
        guard_unstore_order(node);
        node_begin_incarnation(node);
        node_order_spawn(node);
}

void node_on_connected(Node *node)
{
        node->spawned = true;
        node_set_deadline(node, nsec_add(node->dataflow->loop->now, node->plan->startup_timeout_ns));
        node_journal(node);
        dataflow_kick(node->dataflow);
}

void node_on_joining(Node *node, int pidfd)
{
        nsec_t now = node->dataflow->loop->now;
        char text[128];
        int r;

        node->captured = true;
        node_set_deadline(node, nsec_add(now, node->plan->startup_timeout_ns));
        node_journal(node); /* the intent, before anything can come of it */
        r = keeper_order_capture(node, pidfd, nsec_add(now, MIN(node->plan->startup_timeout_ns, NODE_CAPTURE_SPAN)));
        if (!r)
                return;
        (void)snprintf(text, sizeof(text), "its keeper cannot be told: %s", error_text(r));
        node_on_refused(node, text);
}

void node_on_captured(Node *node)
{
        wiring_greet(node);
        dataflow_kick(node->dataflow);
}

/* Nothing of the node's own has failed: another process may come. Its number in the journal and at the keeper is used up. */
void node_on_refused(Node *node, const char *text)
{
        char why[NODE_REFUSAL_SIZE];
        _cleanup_free_ char *clean = NULL;

        (void)snprintf(why, sizeof(why), "%s cannot be captured: %s", node->plan->id, text);
        clean = utf8_clean(why, strlen(why), NULL);
        dataflow_note(node->dataflow, node->plan->id, why);
        wiring_refuse(node, clean ? clean : "it cannot be captured");
        if (node->state != NODE_STARTING) { /* a stop overtook it */
                node_post(node, NODE_EV_SPAWN_FAILED);
                return;
        }
        timer_disarm(&node->deadline);
        keeper_order_reap(node);
        guard_unstore_order(node);
        node->generation++;
        node->captured = node->spawned = node->connected = false;
        keeper_take_pidfd(node, 0, -1); /* that of another life */
        node->n_signals_sent = node->n_signals_done = 0;
        node->found = (NodeFound){};
        node_journal(node);
        show_node(node);
}

void node_on_thawed(Node *node)
{
        nsec_t now = node->dataflow->loop->now;

        if (resources_is_frozen(node))
                return;
        if (node->state == NODE_STARTING && node->held)
                node_order_spawn(node);
        else if (node->state == NODE_STARTING && node->deadline.loop)
                node_set_deadline(node, nsec_add(now, node->plan->startup_timeout_ns));
        else if (node->state == NODE_RUNNING && node->deadline.loop)
                node_set_deadline(node, nsec_add(now, node->plan->finish_grace_ns));
        if (node->state == NODE_RUNNING && node->dataflow->released)
                show_node_runs(node);
}

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

void node_repeat_spawn(Node *node)
{
        guard_unstore_order(node);
        node_order_spawn(node);
}

void node_arm(Node *node, nsec_t at)
{
        node_set_deadline(node, at);
}

static void node_spawn_again(Node *node)
{
        node->stop_wanted = node->finished = false;
        node->n_restarts++;
        wiring_reopen(node);
        node_spawn(node);
}

static void node_on_ready(Node *node)
{
        bool again = node->n_restarts > 0;

        node->was_ready = true;
        if (again)
                wiring_tell_restarted(node);
        if (node->dataflow->released && node->plan->kind != PLAN_KIND_PROGRAM)
                wiring_start(node);
}

static void node_on_spawn_failed(Node *node)
{
        node->end = node->end == NODE_END_NONE ? NODE_END_SPAWN : node->end;
        node->exited = true;
        /* No process ran, so nothing has to empty; but a child stuck in exec has to be got rid of. */
        if (!node->exec_stuck)
                node->empty = true;
        else if (node->rung == NODE_RUNG_NONE)
                node_end_now(node, NODE_END_SPAWN);
        node_resolve(node);
}

/* ---- ending */

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

static void node_on_exit(Node *node)
{
        bool no_more = node->plan->restart == PLAN_RESTART_NEVER && !node_is_dynamic(node); /* its place is free for another process */
        bool over = no_more || node->stop_wanted || node->inputs_closed;

        /* Its consumers need not wait for what it may have left behind. Of a failure they hear first, in node_resolve(). */
        if (over && node->exit_code == CLD_EXITED && node->exit_status == 0)
                wiring_close_outputs(node);
        node_end_with_leader(node, NODE_END_EXIT);
}

static void node_on_early_exit(Node *node)
{
        char how[128];

        node_set_error(node, "%s before it was ready%s", node_describe_end(node, how, sizeof(how)),
                node->connected ? "" : ": it never connected (a node with inputs or outputs must call tg_node_open() or tidegate.Node())");
        node_end_with_leader(node, NODE_END_EARLY);
}

static void node_end_now(Node *node, NodeEnd end)
{
        node->end = end;
        node_ladder_here(node, node->dataflow->loop->now);
        node_next_rung(node);
}

static void node_on_startup_timeout(Node *node)
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

static void node_on_finish_timeout(Node *node)
{
        if (!node->error) /* else it is node_on_overdue()'s */
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

static void node_begin_ladder(Node *node)
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

static void node_quarantine(Node *node, bool in_exec)
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

static void node_next_rung(Node *node)
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
                break;
        case NODE_RUNG_VERDICT:
                keeper_order_look(node);
                break;
        default:
                node_quarantine(node, in_exec);
                node_tell_end(node, false, true);
                node_post(node, NODE_EV_FAIL);
                return;
        }
        node_arm_rung(node);
}

/* A consumer whose last input closes is done, so it has to hear why before. */
static void node_tell_end(Node *node, bool restart, bool failed)
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
static void node_resolve(Node *node)
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

static void node_back_off(Node *node)
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

static void node_on_final(Node *node)
{
        wiring_release(node);
        node_audit(node);
}

/* Its peers were told that it would come again. */
static void node_on_no_restart(Node *node)
{
        wiring_node_ended(node, false);
        node_on_final(node);
}

static void node_nothing(Node *node)
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

/* ---- orders */

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
        *node = (Node){};
}
