/* SPDX-License-Identifier: Apache-2.0 */
/* Stop, Clean and Shutdown. An accepted stop goes on whatever becomes of the client. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "protocol/control_msg.h"
#include "supervisor/server-internal.h"

static nsec_t grace_of(const Parameters *parameters)
{
        return parameters->grace_ms == PARAM_ABSENT ? NSEC_NEVER : (nsec_t)parameters->grace_ms * NSEC_PER_MSEC;
}

/* ---- Stop */

/* Those that have ended become results; the rest is waited for. */
static void look_for_stops(Client *client)
{
        Call *call = &client->call;
        size_t n = 0;

        for (size_t i = 0; i < call->n_flows; i++) {
                Flow *flow = call->flows[i];

                if (flow_is_live(flow))
                        call->flows[n++] = flow;
                else
                        (void)json_array_append_new(call->results, describe_result(flow->dataflow));
        }
        call->n_flows = n;
        if (n == 0)
                client_reply(client, json_pack("{sO}", "results", call->results));
}

/* By name it means all of that name: one that lives and one that waits for it. By uuid it means that one. */
static bool is_meant(const Client *client, const Parameters *parameters, const Flow *named, const Flow *flow)
{
        if (!flow_is_live(flow) || !client_may(client, flow))
                return false;
        if (parameters->all || flow == named)
                return true;
        return named->dataflow->options.uid == flow->dataflow->options.uid &&
               strcmp(parameters->dataflow, flow->dataflow->plan->name) == 0;
}

static bool gather(Client *client, const Parameters *parameters, const Flow *named)
{
        Call *call = &client->call;
        Flow *it, *next;
        size_t n = 0;

        list_for_each(it, next, &client->server->flows, link)
                n += is_meant(client, parameters, named, it);
        call->flows = calloc(n + 1, sizeof(*call->flows));
        call->results = json_array();
        if (!call->flows || !call->results)
                return false;
        list_for_each(it, next, &client->server->flows, link)
                if (is_meant(client, parameters, named, it))
                        call->flows[call->n_flows++] = it;
        return true;
}

static void stop(Client *client, const Parameters *parameters)
{
        Flow *named = NULL;
        Call *call = &client->call;
        nsec_t until = client->server->loop->now;
        char who[64];

        if (!parameters->dataflow == !parameters->all) { /* one of them, and not both */
                client_bad_parameter(client, "dataflow");
                return;
        }
        if (parameters->dataflow && !(named = flow_resolve(client, parameters->dataflow)))
                return;
        if (named && !flow_is_live(named)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s has ended", named->dataflow->plan->name);
                return;
        }
        if (!gather(client, parameters, named)) {
                client_fail(client, CONTROL_E_QUOTA, "the daemon is short of memory");
                return;
        }
        call->events = call->more;
        client_wait(client, look_for_stops, parameters->timeout_ms, NSEC_NEVER);
        (void)snprintf(who, sizeof(who), "user %u", (unsigned)client->peer.uid);
        /* From the back: one that waits ends before the one that it waits for can have. */
        for (size_t i = call->n_flows; i-- > 0;) {
                Dataflow *dataflow = call->flows[i]->dataflow;

                dataflow_stop(dataflow, grace_of(parameters), parameters->force, who);
                until = MAX(until, dataflow->state == DATAFLOW_ENDED ? until : dataflow->ladder.verdict);
        }
        if (parameters->timeout_ms == PARAM_ABSENT)
                timer_arm(client->server->loop, &call->deadline, nsec_add(until, SERVER_BEYOND_SPAN), call->deadline.fn);
}

/* ---- Clean */

static json_int_t clean_all(Client *client, const Flow *only, json_int_t *ret_kept)
{
        Flow *it, *next;
        json_int_t n = 0;

        list_for_each(it, next, &client->server->flows, link) {
                if ((only && it != only) || flow_is_live(it) || !client_may(client, it))
                        continue;
                if (dataflow_holds(it->dataflow)) {
                        ++*ret_kept;
                        continue;
                }
                flow_forget(it);
                n++;
        }
        return n;
}

static void clean(Client *client, const Parameters *parameters)
{
        json_int_t cleaned, kept = 0;
        json_t *reply;
        Flow *only = NULL;
        char text[512];

        if (parameters->dataflow && !(only = flow_resolve(client, parameters->dataflow)))
                return;
        if (only && flow_is_live(only)) {
                client_fail(client, CONTROL_E_BUSY, "dataflow %.128s has not ended", only->dataflow->plan->name);
                return;
        }
        if (only && only->dataflow->n_left > 0) {
                client_fail(client, CONTROL_E_LEFTOVER, "dataflow %.128s is not forgotten: %s, and is watched until it has", only->dataflow->plan->name,
                        dataflow_what_is_left(only->dataflow, text, sizeof(text)));
                return;
        }
        server_look(client->server); /* nobody may be left who looks at what is forgotten */
        cleaned = clean_all(client, only, &kept);
        reply = json_pack("{sI}", "cleaned", cleaned);
        if (reply && kept > 0)
                (void)json_object_set_new(reply, "kept", json_integer(kept));
        client_reply(client, reply);
}

/* ---- Shutdown */

static void look_for_the_end(Client *client)
{
        Flow *it, *next;

        list_for_each(it, next, &client->server->flows, link)
                if (flow_is_live(it))
                        return;
        client_reply(client, json_object());
}

static void shutdown_(Client *client, const Parameters *parameters)
{
        char who[64];

        if (!client_may_all(client)) {
                client_fail(client, CONTROL_E_REFUSED, "only root and the daemon's own user may end it");
                return;
        }
        (void)snprintf(who, sizeof(who), "user %u", (unsigned)client->peer.uid);
        if (client->call.more) {
                client->call.events = client->call.everything = true;
                client_wait(client, look_for_the_end, parameters->timeout_ms, NSEC_NEVER);
        } else {
                client_reply(client, json_object());
        }
        supervisor_stop_all(client->server->supervisor, grace_of(parameters), parameters->force, who);
}

const Method methods_stop[] = {
        {.name = "Stop", .takes = {PARAM_DATAFLOW, PARAM_ALL, PARAM_GRACE_MS, PARAM_FORCE, PARAM_TIMEOUT_MS}, .run = stop},
        {.name = "Clean", .takes = {PARAM_DATAFLOW, PARAM_TIMEOUT_MS}, .run = clean},
        {.name = "Shutdown", .takes = {PARAM_FORCE, PARAM_GRACE_MS, PARAM_TIMEOUT_MS}, .run = shutdown_},
        {},
};
