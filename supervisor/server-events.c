/* SPDX-License-Identifier: Apache-2.0 */
/* One place that every event passes: clients that asked for it get it, and the daemon's log gets what has changed, once. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/server-internal.h"

bool call_has(const Call *call, const Flow *flow)
{
        if (call->flow == flow || call->other == flow)
                return true;
        for (size_t i = 0; i < call->n_flows; i++)
                if (call->flows[i] == flow)
                        return true;
        return false;
}

static bool wants(const Client *client, const Flow *flow)
{
        if (!client->call.events)
                return false;
        return client->call.everything ? (flow ? client_may(client, flow) : client_may_all(client))
                                       : flow && call_has(&client->call, flow);
}

/* Encoded once, whoever gets it. */
static void send_to_clients(Server *server, const Flow *flow, json_t *event)
{
        _cleanup_free_ char *text = NULL;
        Client *it, *next;
        size_t size = 0;

        list_for_each(it, next, &server->calls, call.link) {
                if (!wants(it, flow))
                        continue;
                if (!text && !(text = control_event_encode(event, &size)))
                        return;
                control_event_text(it->control, text, size);
        }
}

static void note_state(Flow *flow)
{
        Dataflow *dataflow = flow->dataflow;
        Client *it, *next;

        if (dataflow->state == DATAFLOW_STARTING)
                logs_begin(flow);
        list_for_each(it, next, &flow->server->calls, call.link)
                if (it->call.flow == flow && !it->call.node && it->call.awaited == (int)dataflow->state)
                        it->call.seen = true;
}

static void note_node_state(Flow *flow, const char *id)
{
        Client *it, *next;

        list_for_each(it, next, &flow->server->calls, call.link)
                if (it->call.node && it->call.flow == flow && strcmp(it->call.node->plan->id, id) == 0 &&
                        it->call.awaited == (int)it->call.node->state)
                        it->call.seen = true;
}

static const char *text_of(json_t *event, const char *key)
{
        const char *text = json_string_value(json_object_get(event, key));

        return text ? text : "";
}

static void log_event(const Flow *flow, const char *type, json_t *event)
{
        const Dataflow *d = flow->dataflow;
        const char *error = text_of(event, "error"), *node = text_of(event, "node");

        if (strcmp(type, "dataflow") == 0)
                log_line("dataflow %s %.8s: %s%s%s", d->plan->name, d->uuid_text, text_of(event, "state"),
                        d->state == DATAFLOW_ENDED ? ", " : "", d->state == DATAFLOW_ENDED ? describe_result_word(d) : "");
        else if (strcmp(type, "node") == 0)
                log_line("dataflow %s %.8s: node %s: %s -> %s (%s)%s%s", d->plan->name, d->uuid_text, node,
                        text_of(event, "from"), text_of(event, "to"), text_of(event, "event"), *error ? ": " : "", error);
        else if (strcmp(type, "ledger") == 0)
                log_line("dataflow %s %.8s: %s%s%s: %s", d->plan->name, d->uuid_text, text_of(event, "rung"), *node ? " " : "",
                        node, text_of(event, "result"));
        else
                log_line("dataflow %s %.8s: %s: %s%s%s", d->plan->name, d->uuid_text, type, node, *node ? ": " : "",
                        text_of(event, "text"));
}

/* A ledger's own at_ms counts from the order to stop; an event's is of the clock that all share. */
static json_t *decorate(const Flow *flow, const char *type, json_t *event)
{
        json_t *copy = json_copy(event), *stop_ms = strcmp(type, "ledger") == 0 ? json_object_get(event, "at_ms") : NULL;

        if (!copy)
                return NULL;
        if (stop_ms)
                (void)json_object_set(copy, "stop_ms", stop_ms);
        (void)json_object_set_new(copy, "at_ms", json_integer((json_int_t)(clock_now() / NSEC_PER_MSEC)));
        (void)json_object_set_new(copy, "dataflow", json_string(flow->dataflow->uuid_text));
        (void)json_object_set_new(copy, "name", json_string(flow->dataflow->plan->name));
        return copy;
}

static void publish(Flow *flow, json_t *event)
{
        const char *type = text_of(event, "type");
        json_t *decorated = list_empty(&flow->server->calls) ? NULL : decorate(flow, type, event);

        if (decorated)
                send_to_clients(flow->server, flow, decorated);
        json_decref(decorated);
        log_event(flow, type, event);
}

void server_on_event(Dataflow *dataflow, json_t *event, void *owner)
{
        Flow *flow = owner;
        const char *type = text_of(event, "type");

        if (!flow || flow->dataflow != dataflow)
                return; /* not shown yet: it is being made */
        if (strcmp(type, "dataflow") == 0)
                note_state(flow);
        else if (strcmp(type, "node") == 0)
                note_node_state(flow, text_of(event, "node"));
        publish(flow, event);
        server_kick(flow->server);
}

void events_accepted(Flow *flow)
{
        json_t *event = json_pack("{ss ss}", "type", "accepted", "uuid", flow->dataflow->uuid_text);

        if (event && flow->after) {
                (void)json_object_set_new(event, "waits_for", json_string(flow->after->dataflow->uuid_text));
                (void)json_object_set_new(event, "text", json_string("begins when its predecessor is gone"));
        }
        if (event)
                publish(flow, event);
        json_decref(event);
        server_kick(flow->server);
}

void events_adopted(Server *server)
{
        const Supervisor *s = server->supervisor;
        _cleanup_free_ char *text = NULL;
        json_t *event;

        if (asprintf(&text, "adopted %u, lost %u, duplicated %u", s->n_adopted, s->n_lost, s->n_duplicated) < 0)
                text = NULL;
        event = json_pack("{ss sI ss* si}", "type", "adopted", "at_ms", (json_int_t)(clock_now() / NSEC_PER_MSEC), "text", text,
                "count", (int)s->n_adopted);
        if (event)
                send_to_clients(server, NULL, event);
        json_decref(event);
}
