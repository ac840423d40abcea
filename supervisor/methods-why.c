/* SPDX-License-Identifier: Apache-2.0 */
/* Why: what a node waits for (supervisor/why.h). The keeper looks; here it is told what is known of the links, and whoever asked is answered. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "supervisor/prober.h"
#include "supervisor/progress.h"
#include "supervisor/server-internal.h"
#include "supervisor/show.h"
#include "supervisor/why.h"
#include "supervisor/wiring.h"

#define WHY_SPAN   (3 * NSEC_PER_SEC)
#define ANSWER_SPAN (500 * NSEC_PER_MSEC) /* of the time that is given, at most: until what was seen by then has come back */
#define LINKS_MAX  4096 /* of a dataflow, that the keeper is told of */

/* ---- asking */

static json_t *describe_link(const Link *link)
{
        LinkCounters counters = {};
        bool active = link->state == LINK_ACTIVE && show_link_counters(link, &counters);

        return json_pack("{si si ss ss sI sb sb}", "from", (int)link->source->index, "to", (int)link->target->index, "output",
                link->source->plan->outputs[link->output], "input", link->target->plan->inputs[link->input].id, "depth", (json_int_t)counters.depth,
                "active", active, "wants_room", progress_wants_room(link->source->dataflow->progress, link->number - 1));
}

/* A memfd with what is known of the links, or a negative errno. */
static int make_context(const Dataflow *dataflow)
{
        json_t *links = json_array(), *ids = json_array(), *context = json_pack("{so so}", "links", links, "ids", ids);
        _cleanup_free_ char *text = NULL;
        size_t n;
        int fd;

        for (size_t i = 0; context && i < MIN(dataflow->n_links, (size_t)LINKS_MAX); i++)
                (void)json_array_append_new(links, describe_link(&dataflow->links[i]));
        for (size_t i = 0; context && i < dataflow->plan->n_nodes; i++)
                (void)json_array_append_new(ids, json_string(dataflow->plan->nodes[i].id));
        text = context ? json_dumps(context, JSON_COMPACT) : NULL;
        json_decref(context);
        if (!text)
                return error_origin(-ENOMEM);
        n = strlen(text);
        fd = memfd_create("why", MFD_CLOEXEC);
        if (fd < 0)
                return error_origin(-errno);
        if (pwrite(fd, text, n, 0) != (ssize_t)n)
                return fd_close(fd), error_origin(-ENOSPC);
        return fd;
}

int why_ask(Node *node, bool freeze, KeeperHaste haste, nsec_t deadline, uint64_t *ret_asked)
{
        static uint64_t n_asked;
        _cleanup_fd_ int fd = make_context(node->dataflow);
        int r;

        if (fd < 0)
                return error_fold(fd);
        r = keeper_order_why(node, ++n_asked, fd, freeze, haste, deadline);
        if (r)
                return error_fold(r);
        *ret_asked = n_asked;
        return 0;
}

/* ---- the method */

static void look_for_answer(Client *client)
{
        const Call *call = &client->call;

        if (!flow_is_live(call->flow) || call->node->generation != call->generation || call->node->empty)
                client_fail(client, CONTROL_E_NOT_RUNNING, "node %.128s ended before its keeper had answered", call->node->plan->id);
}

static void why(Client *client, const Parameters *parameters)
{
        nsec_t span = parameters->timeout_ms == PARAM_ABSENT ? WHY_SPAN : MIN((nsec_t)parameters->timeout_ms * NSEC_PER_MSEC, WHY_SPAN_MAX);
        nsec_t reserve = parameters->timeout_ms == PARAM_ABSENT ? 0 : MIN(span / 4, ANSWER_SPAN);
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Node *node = flow ? flow_node(client, flow, parameters->node) : NULL;

        if (!node)
                return;
        if (!flow_is_live(flow) || !node->spawned || node->empty || node->generation == 0) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "node %.128s does not run: it is %s", node->plan->id, node_state_to_string(node->state));
                return;
        }
        if (flow->dataflow->adopting) {
                client_fail(client, CONTROL_E_BUSY, "dataflow %.128s is being taken over by a new supervisor; try again", flow->dataflow->plan->name);
                return;
        }
        client->call.flow = flow;
        client->call.node = node;
        client->call.awaited = -1;
        client->call.generation = node->generation;
        if (why_ask(node, parameters->freeze, KEEPER_HASTE_NONE, nsec_add(client->server->loop->now, span - reserve), &client->call.asked)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "the keeper of dataflow %.128s cannot be asked", flow->dataflow->plan->name);
                return;
        }
        client_wait(client, look_for_answer, parameters->timeout_ms, nsec_add(span, SERVER_BEYOND_SPAN));
}

/* ---- the answer */

static json_t *read_report(int fd, size_t size)
{
        _cleanup_free_ char *text = NULL;

        if (fd < 0 || size == 0 || size > WHY_REPORT_MAX)
                return NULL;
        text = malloc(size);
        if (!text || pread(fd, text, size, 0) != (ssize_t)size)
                return NULL;
        return json_loadb(text, size, 0, NULL);
}

static void answer(Client *client, int error, const json_t *report)
{
        const char *id = client->call.node->plan->id;

        if (error == ESRCH)
                client_fail(client, CONTROL_E_NOT_RUNNING, "node %.128s does not run: nobody of it is there", id);
        else if (error == EAGAIN || error == EBUSY)
                client_fail(client, CONTROL_E_BUSY, "node %.128s is not looked at: too many looks are under way, or it is being frozen; try again", id);
        else if (error == ETIMEDOUT)
                client_fail(client, CONTROL_E_TIMED_OUT, "the look at node %.128s took too long", id);
        else if (error || !report)
                client_fail(client, CONTROL_E_REFUSED, "node %.128s cannot be looked at: %s", id, error ? error_text(error) : "its keeper's report cannot be read");
        else
                client_reply(client, json_pack("{sO}", "why", report));
}

void why_said(Dataflow *dataflow, const KeeperMsg *msg, int fd)
{
        Server *server = dataflow->supervisor->server;
        json_t *report = NULL;
        Client *it, *next;

        if (msg->node >= dataflow->plan->n_nodes)
                return;
        report = read_report(msg->why_said.size ? fd : -1, msg->why_said.size);
        if (report) {
                (void)json_object_set_new(report, "dataflow", json_string(dataflow->plan->name));
                prober_date(&dataflow->nodes[msg->node], report);
        }
        node_why_said(&dataflow->nodes[msg->node], msg->why_said.asked, report);
        if (server)
                list_for_each(it, next, &server->calls, call.link)
                        if (it->call.asked == msg->why_said.asked && it->call.node == &dataflow->nodes[msg->node])
                                answer(it, msg->why_said.error, report);
        json_decref(report);
}

const Method methods_why[] = {
        {.name = "Why", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE | PARAM_REQUIRED, PARAM_FREEZE, PARAM_TIMEOUT_MS}, .run = why},
        {},
};
