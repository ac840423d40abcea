/* SPDX-License-Identifier: Apache-2.0 */
/* A node begins: its spawn, or the process that comes to take its place. */
#include "supervisor/node-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

#define NODE_CAPTURE_SPAN (5 * NSEC_PER_SEC) /* for a keeper to move a process; later it does not any more */
#define NODE_REFUSAL_SIZE 1024

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
        node->spawned = node->captured = node->connected = node->mapped = node->started = node->turned = false;
        node->exited = node->empty = node->killed = node->inputs_closed = node->exec_stuck = false;
        node->killed_by_guard = node->guard_asked = node->guard_heard = false;
        node->keeper_killed_at = NSEC_NEVER;
        node->enforced_at = node->kill_at = node->killed_until = node->exit_seen_at = node->exit_known_at = 0;
        node->n_killed = node->n_said = node->n_heavy = 0;
        node->cgroup_id = 0;
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
        resources_ended(node);
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

void node_spawn(Node *node)
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

void node_repeat_spawn(Node *node)
{
        guard_unstore_order(node);
        node_order_spawn(node);
}

void node_spawn_again(Node *node)
{
        node->stop_wanted = node->finished = false;
        node->n_restarts++;
        wiring_reopen(node);
        node_spawn(node);
}

void node_on_ready(Node *node)
{
        bool again = node->n_restarts > 0;

        node->was_ready = true;
        if (again)
                wiring_tell_restarted(node);
        if (node->dataflow->released && node->plan->kind != PLAN_KIND_PROGRAM)
                wiring_start(node);
}

void node_on_spawn_failed(Node *node)
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
