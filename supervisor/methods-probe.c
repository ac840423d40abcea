/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probe: what the nodes of a dataflow do in the kernel (supervisor/prober.h), once, or again and again until the client hangs up. A reply is put
 * together a node at a time, so that no dataflow is large enough to hold anybody up; one that the client has no room for is left out, and the
 * next one has it all, for counts only grow.
 */
#include "protocol/control_msg.h"
#include "supervisor/prober.h"
#include "supervisor/queues.h"
#include "supervisor/server-internal.h"

#define INTERVAL_SPAN (1 * NSEC_PER_SEC)

static json_t *finish(Client *client)
{
        json_t *probes = prober_describe(client->call.flow->dataflow);

        queues_describe_into(client->call.flow->dataflow, probes);
        if (probes && client->call.results)
                (void)json_object_set(probes, "nodes", client->call.results);
        if (probes && client->call.probed_links)
                (void)json_object_set(probes, "links", client->call.probed_links);
        json_decref(client->call.probed_links);
        json_decref(client->call.results);
        client->call.probed_links = client->call.results = NULL;
        return json_pack("{so}", "probes", probes);
}

/* The next node. True: that was the last one. */
static bool add_node(Call *call)
{
        const Dataflow *dataflow = call->flow->dataflow;
        size_t i = call->node ? call->node->index : call->node_at;
        json_t *node;

        if (i < dataflow->plan->n_nodes && (node = prober_describe_node(&dataflow->nodes[i])))
                (void)json_array_append_new(call->results, node);
        if (call->probed_links && i < dataflow->plan->n_nodes)
                queues_describe_links(&dataflow->nodes[i], call->node != NULL, call->probed_links);
        return call->node || ++call->node_at >= dataflow->plan->n_nodes;
}

static int on_interval(Timer *timer, nsec_t now);

static int on_step(Job *job)
{
        Client *client = container_of(job, Client, call.step);
        Call *call = &client->call;
        json_t *reply;

        if (!add_node(call)) {
                job_post_client(client->server->loop, &call->step, on_step);
                return 0;
        }
        reply = finish(client);
        if (!call->more) {
                client_reply(client, reply);
                return 0;
        }
        if (control_has_room(client->control))
                (void)control_continue(client->control, reply);
        else
                json_decref(reply);
        return 0;
}

static void begin_reply(Client *client)
{
        Call *call = &client->call;

        if (call->results)
                return; /* one is under way */
        call->results = json_array();
        json_decref(call->probed_links); /* of one that was begun without memory */
        call->probed_links = json_array();
        call->node_at = 0;
        if (call->results)
                job_post_client(client->server->loop, &call->step, on_step);
        if (call->more)
                timer_arm(client->server->loop, &call->interval, nsec_add(client->server->loop->now, call->interval_ns), on_interval);
}

static int on_interval(Timer *timer, nsec_t now)
{
        (void)now;
        begin_reply(container_of(timer, Client, call.interval));
        return 0;
}

/* All of it once more, from the beginning; then it is over. */
static void begin_last(Client *client)
{
        Call *call = &client->call;

        call->last = true;
        timer_disarm(&call->interval);
        json_decref(call->results);
        call->results = NULL;
        call->more = false;
        begin_reply(client);
        if (!call->results) /* without memory */
                client_reply(client, finish(client));
}

/* At once when it was attached, detached or given up; and the last of it, when the dataflow has ended and its places are still there. */
static void look_for_changes(Client *client)
{
        Call *call = &client->call;
        char buffer[256];
        bool settled;

        if (!flow_is_live(call->flow)) {
                if (!call->last)
                        begin_last(client);
                return;
        }
        if (call->changes_seen == prober_n_changes(client->server->supervisor))
                return;
        call->changes_seen = prober_n_changes(client->server->supervisor);
        (void)prober_reason(call->flow->dataflow, buffer, sizeof(buffer), &settled);
        if (settled)
                begin_reply(client);
}

void probe_end(Client *client)
{
        Call *call = &client->call;

        timer_disarm(&call->interval);
        if (call->probes)
                prober_unwant(call->flow->dataflow);
        if (call->queues)
                queues_unwant(call->flow->dataflow);
}

void server_forget_probes(Server *server, const Dataflow *dataflow)
{
        Client *it, *next;

        if (!server)
                return;
        list_for_each(it, next, &server->calls, call.link)
                if ((it->call.probes || it->call.queues) && it->call.flow->dataflow == dataflow)
                        it->call.probes = it->call.queues = false;
}

static void probe(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Call *call = &client->call;
        char buffer[256];
        bool settled;

        if (!flow || (parameters->node && !(call->node = flow_node(client, flow, parameters->node))))
                return;
        if (!flow_is_live(flow)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s has ended", flow->dataflow->plan->name);
                return;
        }
        if (call->more && !client_stream(client))
                return;
        call->flow = flow;
        call->awaited = -1;
        call->interval_ns = parameters->interval_ms == PARAM_ABSENT ? INTERVAL_SPAN : (nsec_t)parameters->interval_ms * NSEC_PER_MSEC;
        client_wait(client, look_for_changes, parameters->timeout_ms, call->more ? NSEC_NEVER : SERVER_CALL_SPAN);
        if (call->more) {
                call->probes = parameters->calls || !parameters->queues; /* until probe_end() */
                call->queues = parameters->queues;
                if (call->probes)
                        prober_want(flow->dataflow, parameters->budget);
                if (call->queues)
                        queues_want(flow->dataflow, parameters->budget);
        }
        call->changes_seen = prober_n_changes(client->server->supervisor);
        (void)prober_reason(flow->dataflow, buffer, sizeof(buffer), &settled);
        if (settled || !call->more)
                begin_reply(client);
        else
                timer_arm(client->server->loop, &call->interval, nsec_add(client->server->loop->now, call->interval_ns), on_interval);
}

const Method methods_probe[] = {
        {.name = "Probe",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_CALLS, PARAM_QUEUES, PARAM_BUDGET, PARAM_INTERVAL_MS, PARAM_TIMEOUT_MS},
                .run = probe},
        {},
};
