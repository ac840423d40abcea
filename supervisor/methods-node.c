/* SPDX-License-Identifier: Apache-2.0 */
/* Orders about one node: StopNode, RestartNode, SignalNode, Reset. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "protocol/control_msg.h"
#include "supervisor/server-internal.h"

/* The node that is meant, of a dataflow that has begun and lives; NULL: answered. */
static Node *take_node(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Node *node;

        flow = flow ? flow_detached(flow, parameters->node) : NULL;
        node = flow ? flow_node(client, flow, parameters->node) : NULL;
        if (!node)
                return NULL;
        if (flow->after || flow->dataflow->state >= DATAFLOW_ENDING) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s %s", flow->dataflow->plan->name,
                        flow->after ? "has not begun" : "has ended");
                return NULL;
        }
        client->call.flow = flow;
        client->call.node = node;
        client->call.awaited = -1;
        client->call.generation = node->generation;
        return node;
}

static NodeLadder ladder_of(const Client *client, const Parameters *parameters)
{
        const DataflowOptions *options = &client->call.flow->dataflow->options;

        return node_ladder(client->server->loop->now,
                parameters->grace_ms == PARAM_ABSENT ? options->grace_ns : (nsec_t)parameters->grace_ms * NSEC_PER_MSEC,
                options->budget_ns, parameters->force);
}

/* What a call that orders a ladder waits at most: until there must be a verdict. */
static nsec_t ladder_span(const Client *client, const NodeLadder *ladder)
{
        return nsec_add(nsec_left(ladder->verdict, client->server->loop->now), SERVER_BEYOND_SPAN);
}

static void reply_node(Client *client)
{
        client_reply(client, json_pack("{so}", "node", describe_node(client->call.node, false)));
}

/* ---- StopNode, RestartNode */

static void look_for_node_end(Client *client)
{
        if (client->call.node->order_pending)
                return;
        if (node_is_final(client->call.node) || !flow_is_live(client->call.flow))
                reply_node(client);
}

static void stop_node(Client *client, const Parameters *parameters)
{
        Node *node = take_node(client, parameters);
        NodeLadder ladder;

        if (!node)
                return;
        if (node_is_final(node)) {
                node->stop_wanted = true;
                reply_node(client);
                return;
        }
        ladder = ladder_of(client, parameters);
        client->call.ordered = node_order_in_escrow(node, false, &ladder);
        client_wait(client, look_for_node_end, parameters->timeout_ms, ladder_span(client, &ladder));
}

static void look_for_node_start(Client *client)
{
        const Call *call = &client->call;
        const Node *node = call->node;

        if (node->order_pending)
                return;
        if (node->generation > call->generation && (node->state == NODE_RUNNING || node_is_final(node)))
                reply_node(client);
        else if (!flow_is_live(call->flow) || (call->flow->dataflow->stop_ordered && node_is_final(node)))
                client_fail(client, CONTROL_E_NOT_RUNNING, "its dataflow was stopped before the node ran again");
        else if (node_is_final(node) && node->n_events == 0 && (node->stop_wanted || node->quarantined))
                client_fail(client, CONTROL_E_NOT_RUNNING, "the node did not start again: %s",
                        node->quarantined ? "its last incarnation would not end" : "it was stopped");
}

static void restart_node(Client *client, const Parameters *parameters)
{
        Node *node = take_node(client, parameters);
        NodeLadder ladder;
        char first[512];

        if (!node)
                return;
        ladder = ladder_of(client, parameters);
        if (parameters->despite_leftover && !node_allow_leftover(node)) {
                client_fail(client, CONTROL_E_LEFTOVER, "node %.128s cannot start again: somebody is left of %u of its lives, and no more are watched",
                        node->plan->id, node_n_left(node));
                return;
        }
        if (node->quarantined && !node->despite_leftover) {
                client_fail(client, CONTROL_E_LEFTOVER,
                        "node %.128s cannot start again: its last incarnation would not end (%s: %s); --despite-leftover begins another beside it",
                        node->plan->id, leftover_verdict(&node->left), leftover_brief(&node->left, first, sizeof(first)));
                return;
        }
        if (!node_can_restart(node)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "node %.128s cannot start again: its dataflow is being stopped", node->plan->id);
                node->despite_leftover = false;
                return;
        }
        client->call.ordered = node_order_in_escrow(node, true, &ladder);
        /* A new incarnation gets its own time to become ready. */
        client_wait(client, look_for_node_start, parameters->timeout_ms,
                nsec_add(ladder_span(client, &ladder), node->plan->startup_timeout_ns));
}

void server_node_refused(Server *server, Node *node)
{
        Client *it, *next;

        if (!server)
                return;
        list_for_each(it, next, &server->calls, call.link)
                if (it->call.node == node && it->call.ordered)
                        client_fail(it, CONTROL_E_QUOTA,
                                "node %.128s goes on: the guard holds the deadlines of %u nodes, and no more; try again, or stop the dataflow",
                                node->plan->id, GUARD_MAX_NODE_ESCROWS);
}

/* ---- SignalNode */

static void look_for_signal(Client *client)
{
        const Call *call = &client->call;

        if (call->node->generation != call->generation || call->node->exited || !flow_is_live(call->flow))
                client_fail(client, CONTROL_E_NOT_RUNNING, "node %.128s ended before it was known who got the signal",
                        call->node->plan->id);
}

bool server_signalled(Server *server, Node *node, uint32_t n, int error)
{
        Client *it, *next;

        if (!server)
                return false;
        list_for_each(it, next, &server->calls, call.link) {
                if (it->call.node != node || it->call.ticket == 0 || it->call.ticket != node->n_signals_done)
                        continue;
                if (error && n == 0)
                        client_fail(it, CONTROL_E_REFUSED, "nobody got the signal: %s", strerror(error));
                else
                        client_reply(it, json_pack("{sI}", "sent", (json_int_t)n));
                return true;
        }
        return false;
}

static void signal_first(Client *client, const Node *node, int signo)
{
        if (syscall(SYS_pidfd_send_signal, node->pidfd, signo, NULL, 0) == 0)
                client_reply(client, json_pack("{si}", "sent", 1));
        else if (errno == ESRCH)
                client_fail(client, CONTROL_E_NOT_RUNNING, "the first process of node %.128s has ended", node->plan->id);
        else
                client_fail(client, CONTROL_E_REFUSED, "signal %d cannot be sent: %s", signo, strerror(errno));
}

static void signal_node(Client *client, const Parameters *parameters)
{
        Node *node = take_node(client, parameters);

        if (!node)
                return;
        if (!node->spawned || node->exited || node->pidfd < 0) {
                client_fail(
                        client, CONTROL_E_NOT_RUNNING, "node %.128s is %s", node->plan->id, node_state_to_string(node->state));
        } else if (!parameters->all) {
                signal_first(client, node, (int)parameters->signal);
        } else {
                client->call.ticket = keeper_order_signal(node, (int)parameters->signal);
                if (client->call.ticket == 0)
                        client_fail(client, CONTROL_E_NOT_RUNNING, "the keeper of its dataflow is gone");
                else
                        client_wait(client, look_for_signal, parameters->timeout_ms, SERVER_CALL_SPAN);
        }
}

/* ---- Reset */

static void reset(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Node *only = NULL;
        json_int_t n = 0;

        if (!flow || (parameters->node && !(only = flow_node(client, flow, parameters->node))))
                return;
        if (!flow_is_live(flow)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s has ended", flow->dataflow->plan->name);
                return;
        }
        for (size_t i = 0; i < flow->dataflow->plan->n_nodes; i++) {
                Node *node = &flow->dataflow->nodes[i];

                if (!only || node == only)
                        n += node_reset(node);
        }
        client_reply(client, json_pack("{sI}", "reset", n));
}

const Method methods_node[] = {
        {.name = "StopNode",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE | PARAM_REQUIRED, PARAM_GRACE_MS, PARAM_FORCE,
                        PARAM_TIMEOUT_MS},
                .run = stop_node},
        {.name = "RestartNode",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE | PARAM_REQUIRED, PARAM_GRACE_MS, PARAM_DESPITE_LEFTOVER,
                        PARAM_TIMEOUT_MS},
                .run = restart_node},
        {.name = "SignalNode",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE | PARAM_REQUIRED, PARAM_SIGNAL | PARAM_REQUIRED, PARAM_ALL,
                        PARAM_TIMEOUT_MS},
                .run = signal_node},
        {.name = "Reset", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_TIMEOUT_MS}, .run = reset},
        {},
};
