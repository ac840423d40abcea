/* SPDX-License-Identifier: Apache-2.0 */
/* What clients may ask, without changing anything: the interface itself, health, dataflows, and waiting for a state. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "protocol/control_msg.h"
#include "supervisor/server-internal.h"
#include "supervisor/json-text.h"

#define STATUS_NODES_PER_STEP 128 /* a millisecond's work or two; a dataflow counts as one, too */

static const char interface_text[] =
#include "interface.inc"
        ;

static const char service_text[] =
        "# The Varlink Service Interface is provided by every varlink service.\n"
        "interface org.varlink.service\n"
        "\n"
        "method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)\n"
        "method GetInterfaceDescription(interface: string) -> (description: string)\n"
        "\n"
        "error InterfaceNotFound (interface: string)\n"
        "error MethodNotFound (method: string)\n"
        "error MethodNotImplemented (method: string)\n"
        "error InvalidParameter (parameter: string)\n"
        "error ExpectedMore ()\n";

/* ---- org.varlink.service */

static void get_info(Client *client, const Parameters *parameters)
{
        (void)parameters;
        client_reply(client, json_pack("{ss ss ss ss s[ss]}", "vendor", "Tidegate", "product", "tidegated", "version",
                                     TIDEGATE_VERSION, "url", "", "interfaces", CONTROL_SERVICE, CONTROL_INTERFACE));
}

static void get_interface_description(Client *client, const Parameters *parameters)
{
        const char *text = strcmp(parameters->interface, CONTROL_INTERFACE) == 0 ? interface_text
                           : strcmp(parameters->interface, CONTROL_SERVICE) == 0 ? service_text
                                                                                 : NULL;

        if (text)
                client_reply(client, json_pack("{ss}", "description", text));
        else
                client_error(client, CONTROL_E_NO_INTERFACE, json_pack("{ss}", "interface", parameters->interface));
}

const Method methods_service[] = {
        {.name = "GetInfo", .run = get_info},
        {.name = "GetInterfaceDescription", .takes = {PARAM_INTERFACE | PARAM_REQUIRED}, .run = get_interface_description},
        {},
};

/* ---- health */

static void get_health(Client *client, const Parameters *parameters)
{
        const Server *server = client->server;
        const Supervisor *s = server->supervisor;
        const struct status_pulse *pulse = server->loop->pulse;
        json_int_t n_nodes = 0, n_live = 0;
        json_t *health;
        Flow *it, *next;

        (void)parameters;
        list_for_each(it, next, (List *)(uintptr_t)&server->flows, link) {
                n_live += flow_is_live(it);
                n_nodes += flow_is_live(it) ? (json_int_t)it->dataflow->plan->n_nodes : 0;
        }
        health = json_pack("{si si ss ss ss ss sI sI sI sI sI si}", "pid", (int)getpid(), "guard_pid",
                s->guard_gone ? 0 : (int)s->options.guard_pid, "version", TIDEGATE_VERSION, "instance", s->instance, "cgroup",
                s->cgroup, "runtime_dir", server->runtime_dir, "epoch", (json_int_t)s->epoch, "started_at_ms",
                (json_int_t)(server->started_at / NSEC_PER_MSEC), "now_at_ms", (json_int_t)(server->loop->now / NSEC_PER_MSEC),
                "n_dataflows", n_live, "n_nodes", n_nodes, "n_clients", (int)server->n_clients);
        if (health) {
                json_t *more = json_pack("{sI si si si sI sI sI ss}", "n_refused", (json_int_t)server->n_refused, "adopted",
                        (int)s->n_adopted, "lost", (int)s->n_lost, "duplicated", (int)s->n_duplicated, "lag_p50_us",
                        (json_int_t)status_lag_us(pulse, 500), "lag_p999_us", (json_int_t)status_lag_us(pulse, 999), "lag_max_us",
                        (json_int_t)pulse->lag_max_us, "guard", s->guard_gone ? "gone" : "ok");

                (void)json_object_update(health, more);
                json_decref(more);
        }
        client_reply(client, json_pack("{so}", "health", health));
}

/* ---- dataflows */

static void list(Client *client, const Parameters *parameters)
{
        json_t *dataflows = json_array();
        Flow *it, *next;

        list_for_each(it, next, &client->server->flows, link)
                if (client_may(client, it) && (parameters->all || flow_is_live(it)))
                        (void)json_array_append_new(dataflows, describe_dataflow(it, false));
        client_reply(client, json_pack("{so}", "dataflows", dataflows));
}

static void text_add(Call *call, const char *text, size_t size)
{
        size_t room = MAX(call->text_room, (size_t)4096);
        char *grown;

        while (room < call->text_size + size)
                room *= 2;
        grown = call->text_size == SIZE_MAX ? NULL : room == call->text_room ? call->text : realloc(call->text, room);
        if (!grown) {
                call->text_size = SIZE_MAX; /* from now on */
                return;
        }
        memcpy(grown + call->text_size, text, size);
        call->text = grown;
        call->text_size += size;
        call->text_room = room;
}

/* Encoded and freed at once: to keep a tree of thousands of nodes would cost as much time as all the rest. */
static void text_add_json(Call *call, json_t *take, bool open)
{
        char *text = take ? json_text(take) : NULL;

        json_decref(take);
        if (text)
                text_add(call, text, strlen(text) - open); /* without its last brace: there will be more */
        else
                call->text_size = SIZE_MAX;
        free(text);
}

static void text_add_string(Call *call, const char *text)
{
        text_add(call, text, strlen(text));
}

static void status_begin_flow(Call *call, const Flow *flow)
{
        json_t *dataflow = describe_dataflow(flow, false);

        call->text_before = call->text_size;
        if (call->text[call->text_size - 1] == '}')
                text_add_string(call, ",");
        if (dataflow)
                (void)json_object_del(dataflow, "nodes");
        text_add_json(call, dataflow, true);
        text_add_string(call, ",\"nodes\":[");
}

/* A part of the reply, so that no turn is long for it. True: it was the last, and the call is answered. */
static bool status_step(Client *client)
{
        Call *call = &client->call;
        unsigned n = 0;

        for (; call->flow_at < call->n_flows && n < STATUS_NODES_PER_STEP && call->text_size != SIZE_MAX; n++) {
                const Flow *flow = call->flows[call->flow_at];
                const Dataflow *dataflow = flow ? flow->dataflow : NULL;

                if (flow && call->node_at == 0)
                        status_begin_flow(call, flow);
                for (; flow && call->node_at < dataflow->plan->n_nodes && n < STATUS_NODES_PER_STEP; n++) {
                        if (call->node_at > 0)
                                text_add_string(call, ",");
                        text_add_json(call, describe_node(&dataflow->nodes[call->node_at], call->links), false);
                        n += call->links ? (unsigned)(dataflow->nodes[call->node_at].plan->n_inputs + dataflow->nodes[call->node_at].plan->n_outputs) : 0;
                        call->node_at++;
                }
                if (flow && call->node_at < dataflow->plan->n_nodes)
                        break;
                if (flow)
                        text_add_string(call, "]}");
                call->flow_at++;
                call->node_at = 0;
        }
        if (call->flow_at < call->n_flows && call->text_size != SIZE_MAX)
                return false;
        text_add(call, "]}}", sizeof("]}}"));
        client_reply_text(client, call->text_size != SIZE_MAX ? TAKE_PTR(call->text) : NULL);
        return true;
}

static int on_status_step(Job *job)
{
        Client *client = container_of(job, Client, call.step);

        if (!status_step(client))
                job_post_client(client->server->loop, job, on_status_step);
        return 0;
}

static void look_nowhere(Client *client)
{
        (void)client; /* it goes on by itself */
}

bool status_forget(Call *call, const Flow *flow)
{
        if (call->look != look_nowhere)
                return false;
        for (size_t i = call->flow_at; i < call->n_flows; i++) {
                if (call->flows[i] != flow)
                        continue;
                call->flows[i] = NULL;
                if (i != call->flow_at || call->node_at == 0 || call->text_size == SIZE_MAX)
                        continue;
                call->text_size = call->text_before; /* as if it had been forgotten before */
                call->node_at = 0;
        }
        return true;
}

static void status(Client *client, const Parameters *parameters)
{
        Call *call = &client->call;
        size_t n_names = json_array_size(parameters->names), room = n_names;
        Flow *it, *next;

        list_for_each(it, next, &client->server->flows, link)
                room++;
        call->links = parameters->links;
        text_add_string(call, "{\"parameters\":{\"dataflows\":[");
        call->flows = calloc(room + 1, sizeof(Flow *));
        if (!call->text || !call->flows) {
                client_fail(client, CONTROL_E_QUOTA, "the daemon is short of memory");
                return;
        }
        for (size_t i = 0; i < n_names; i++) {
                Flow *flow = flow_resolve(client, json_string_value(json_array_get(parameters->names, i)));

                if (!flow)
                        return; /* answered */
                call->flows[call->n_flows++] = flow;
        }
        list_for_each(it, next, &client->server->flows, link)
                if (!parameters->names && client_may(client, it))
                        call->flows[call->n_flows++] = it;
        if (status_step(client))
                return;
        client_wait(client, look_nowhere, parameters->timeout_ms, SERVER_CALL_SPAN);
        job_post_client(client->server->loop, &call->step, on_status_step);
}

/* ---- waiting for a state */

#define WAIT_ENDED (-1) /* of a node: stopped or failed */

static void reply_state(Client *client, const char *state)
{
        client_reply(client, json_pack("{ss}", "state", state));
}

static void cannot_get_there(Client *client, const char *text, const char *state)
{
        client_error(client, CONTROL_E_UNREACHABLE, json_pack("{ss ss}", "text", text, "state", state));
}

static void look_for_dataflow_state(Client *client)
{
        Call *call = &client->call;
        const Dataflow *d = call->flow->dataflow;
        bool passed = (int)d->state > call->awaited || (d->stop_ordered && call->awaited < DATAFLOW_STOPPING);

        if (call->seen || (int)d->state == call->awaited)
                reply_state(client, dataflow_state_to_string(call->awaited));
        else if (passed)
                cannot_get_there(client, "the dataflow is beyond that state, and does not get there again",
                        dataflow_state_to_string(d->state));
}

static void look_for_node_state(Client *client)
{
        Call *call = &client->call;
        const Node *node = call->node;
        bool over = call->flow->dataflow->state == DATAFLOW_ENDED;

        if (call->awaited == WAIT_ENDED && (node_is_final(node) || over))
                reply_state(client, node_state_to_string(node->state));
        else if (call->awaited != WAIT_ENDED && (call->seen || (int)node->state == call->awaited))
                reply_state(client, node_state_to_string(call->awaited));
        else if (node_is_final(node) || over)
                cannot_get_there(
                        client, "the node has ended, and does not get there by itself", node_state_to_string(node->state));
}

static int find_dataflow_state(const char *name)
{
        for (int i = 0; i < _DATAFLOW_STATE_MAX; i++)
                if (strcmp(dataflow_state_to_string(i), name) == 0)
                        return i;
        return -1;
}

static int find_node_state(const char *name, int otherwise)
{
        for (int i = 0; i < _NODE_STATE_MAX; i++)
                if (strcmp(node_state_to_string(i), name) == 0)
                        return i;
        return strcmp(name, "ended") == 0 ? WAIT_ENDED : otherwise;
}

static void wait_(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Call *call = &client->call;

        if (!flow)
                return;
        if (parameters->node) {
                Node *node = flow_node(client, flow, parameters->node);

                if (!node)
                        return;
                call->node = node;
                call->awaited = find_node_state(parameters->state, -2);
        } else {
                call->awaited = find_dataflow_state(parameters->state);
        }
        if (call->awaited < (call->node ? WAIT_ENDED : 0)) {
                client_bad_parameter(client, "state");
                return;
        }
        call->flow = flow;
        client_wait(client, call->node ? look_for_node_state : look_for_dataflow_state, parameters->timeout_ms, SERVER_CALL_SPAN);
}

const Method methods_query[] = {
        {.name = "GetHealth", .takes = {PARAM_TIMEOUT_MS}, .run = get_health},
        {.name = "List", .takes = {PARAM_ALL, PARAM_TIMEOUT_MS}, .run = list},
        {.name = "Status", .takes = {PARAM_LINKS, PARAM_NAMES, PARAM_TIMEOUT_MS}, .run = status},
        {.name = "Wait",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_STATE | PARAM_REQUIRED, PARAM_TIMEOUT_MS},
                .run = wait_},
        {},
};
