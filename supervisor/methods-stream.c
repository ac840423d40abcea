/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: Events and Logs. Lines come from a dataflow's keeper over a tap, a socket of ours that is open only while somebody
 * reads. We take lines off it only while some reader has room: what the keeper then finds no room for, it counts and tells.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "protocol/control_msg.h"
#include "protocol/log_msg.h"
#include "supervisor/server-internal.h"

#define LOGS_PACKETS_PER_TURN 64

/* ---- Events */

/* Of one dataflow they end with it; its last event was sent before this. */
static void look_for_last_event(Client *client)
{
        if (!client->call.everything && !flow_is_live(client->call.flow))
                client_reply(client, json_object());
}

static void events(Client *client, const Parameters *parameters)
{
        Call *call = &client->call;

        if (parameters->dataflow && !(call->flow = flow_resolve(client, parameters->dataflow)))
                return;
        if (!client_stream(client))
                return;
        call->awaited = -1;
        call->events = true;
        call->everything = !parameters->dataflow;
        client_wait(client, look_for_last_event, PARAM_ABSENT, NSEC_NEVER);
}

/* ---- Logs: to one reader */

static json_t *line_dropped(const Call *call, uint32_t node, uint64_t n)
{
        const Plan *plan = call->flow->dataflow->plan;

        return json_pack("{s{ss si sI sI}}", "line", "node", plan->nodes[node].id, "stream", 0, "time_ms",
                (json_int_t)(clock_wall() / NSEC_PER_MSEC), "dropped", (json_int_t)n);
}

static json_t *line_of(const Call *call, const LogMsg *msg)
{
        const char *id = call->flow->dataflow->plan->nodes[msg->node].id;
        _cleanup_free_ char *clean = utf8_clean(msg->text, strlen(msg->text), NULL);
        json_t *line = json_pack("{ss si sI ss}", "node", id, "stream", (int)msg->stream, "time_ms",
                (json_int_t)(msg->wall_ns / NSEC_PER_MSEC), "line", clean ? clean : "");

        if (line && msg->count > 0)
                (void)json_object_set_new(line, "cut", json_integer((json_int_t)msg->count));
        return json_pack("{so}", "line", line);
}

/* Before anything else of that node, how much of it is missing. */
static bool confess(Client *client, uint32_t node)
{
        Call *call = &client->call;

        if (call->unsent[node] == 0)
                return true;
        if (!control_has_room(client->control) ||
                !control_continue(client->control, line_dropped(call, node, call->unsent[node])))
                return false;
        call->unsent[node] = 0;
        return true;
}

static void give(Client *client, const LogMsg *msg)
{
        Call *call = &client->call;
        uint64_t n = msg->type == LOG_MSG_DROPPED ? msg->count : 1;

        if (!call->shown[msg->node])
                return;
        if (msg->type == LOG_MSG_DROPPED) {
                call->unsent[msg->node] += n;
                (void)confess(client, msg->node);
        } else if (!confess(client, msg->node) || !control_has_room(client->control) ||
                   !control_continue(client->control, line_of(call, msg))) {
                call->unsent[msg->node] += n;
        }
}

static bool confess_all(Client *client)
{
        for (size_t i = 0; i < client->call.flow->dataflow->plan->n_nodes; i++)
                if (!confess(client, (uint32_t)i))
                        return false;
        return true;
}

/* ---- the tap */

static bool reads(const Client *client, const Flow *flow)
{
        return client->call.shown && client->call.flow == flow;
}

static bool somebody_has_room(const Flow *flow)
{
        Client *it, *next;

        list_for_each(it, next, (List *)(uintptr_t)&flow->server->calls, call.link)
                if (reads(it, flow) && control_has_room(it->control))
                        return true;
        return false;
}

static void tap_over(Flow *flow)
{
        source_remove(&flow->tap_source);
        flow->tap_fd = fd_close(flow->tap_fd);
        flow->tap_ended = true;
        server_kick(flow->server);
}

/* True: there may be more now. */
static bool tap_take(Flow *flow)
{
        char packet[LOG_MSG_MAX];
        ssize_t n = recv(flow->tap_fd, packet, sizeof(packet), MSG_DONTWAIT);
        Client *it, *next;
        LogMsg msg;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return false;
        if (n <= 0) {
                tap_over(flow);
                return false;
        }
        if (log_msg_decode(&msg, packet, (size_t)n) || msg.node >= flow->dataflow->plan->n_nodes)
                return true; /* from our own keeper: a line less is all the harm */
        list_for_each(it, next, &flow->server->calls, call.link)
                if (reads(it, flow))
                        give(it, &msg);
        return true;
}

static int on_tap(Source *source, uint32_t revents)
{
        Flow *flow = container_of(source, Flow, tap_source);

        (void)revents;
        for (unsigned i = 0; i < LOGS_PACKETS_PER_TURN && flow->tap_fd >= 0; i++) {
                if (!somebody_has_room(flow)) {
                        (void)source_set_events(source, 0);
                        return 0;
                }
                if (!tap_take(flow))
                        return 0;
        }
        return 0;
}

/* They come after those that are in the tap; their number is told with whatever comes first. */
void server_unshown(Dataflow *dataflow, uint32_t node, uint64_t n_lines)
{
        Flow *flow = dataflow->supervisor->server ? dataflow->options.owner : NULL;
        Client *it, *next;

        if (!flow || node >= dataflow->plan->n_nodes)
                return;
        list_for_each(it, next, &flow->server->calls, call.link)
                if (reads(it, flow) && it->call.shown[node])
                        it->call.unsent[node] += n_lines;
        server_kick(flow->server);
}

static int tap_open(Flow *flow)
{
        _cleanup_fd_ int keepers = -1;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        flow->tap_fd = pair[0];
        keepers = pair[1];
        r = source_add(flow->server->loop, &flow->tap_source, flow->tap_fd, EPOLLIN, SOURCE_CLIENTS, on_tap);
        if (!r)
                r = keeper_order_stream(flow->dataflow, keepers);
        if (r)
                logs_close(flow);
        return r ? error_fold(r) : 0;
}

void logs_close(Flow *flow)
{
        source_remove(&flow->tap_source);
        flow->tap_fd = fd_close(flow->tap_fd);
}

void logs_begin(Flow *flow)
{
        if (flow->n_readers > 0 && flow->tap_fd < 0 && tap_open(flow))
                flow->tap_ended = true;
}

void logs_room(Client *client)
{
        Flow *flow = client->call.flow;

        (void)confess_all(client); /* what does not fit now is told when there is room again */
        if (flow->tap_fd >= 0)
                (void)source_set_events(&flow->tap_source, EPOLLIN);
        server_kick(flow->server);
}

void logs_detach(Client *client)
{
        Flow *flow = client->call.flow;

        if (!client->call.shown)
                return;
        if (--flow->n_readers == 0)
                logs_close(flow);
}

/* Nothing follows what is in the tap now; its keeper is gone, or about to be. */
void logs_last(Flow *flow)
{
        if (flow->tap_fd < 0)
                return;
        while (flow->tap_fd >= 0 && somebody_has_room(flow) && tap_take(flow))
                ;
        if (flow->tap_fd >= 0 && somebody_has_room(flow))
                tap_over(flow);
}

/* ---- Logs */

static void look_for_last_line(Client *client)
{
        Flow *flow = client->call.flow;

        if (!flow->tap_ended && (flow_is_live(flow) || flow->tap_fd >= 0))
                return;
        if (confess_all(client))
                client_reply(client, json_object());
}

static bool choose_nodes(Client *client, Flow *flow, const Parameters *parameters)
{
        Call *call = &client->call;
        size_t n = flow->dataflow->plan->n_nodes;

        call->shown = calloc(n, sizeof(*call->shown));
        call->unsent = calloc(n, sizeof(*call->unsent));
        if (!call->shown || !call->unsent) {
                client_fail(client, CONTROL_E_QUOTA, "the daemon is short of memory");
                return false;
        }
        memset(call->shown, !parameters->nodes, n);
        for (size_t i = 0; i < json_array_size(parameters->nodes); i++) {
                Node *node = flow_node(client, flow, json_string_value(json_array_get(parameters->nodes, i)));

                if (!node)
                        return false;
                call->shown[node->index] = true;
        }
        return true;
}

static void logs(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        bool begun;

        if (!flow)
                return;
        if (flow->dataflow->state >= DATAFLOW_ENDING) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s has ended", flow->dataflow->plan->name);
                return;
        }
        if (!client_stream(client))
                return;
        client->call.flow = flow;
        client->call.awaited = -1;
        flow->n_readers++; /* until logs_detach(), which looks for `shown` */
        if (!choose_nodes(client, flow, parameters))
                return;
        begun = flow->dataflow->state > DATAFLOW_BEGINNING;
        flow->tap_ended = false;
        if (begun && flow->tap_fd < 0 && tap_open(flow)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "the keeper of dataflow %.128s cannot be reached",
                        flow->dataflow->plan->name);
                return;
        }
        client_wait(client, look_for_last_line, PARAM_ABSENT, NSEC_NEVER);
}

const Method methods_stream[] = {
        {.name = "Events", .takes = {PARAM_DATAFLOW}, .run = events, .needs_more = true},
        {.name = "Logs", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODES}, .run = logs, .needs_more = true},
        {},
};
