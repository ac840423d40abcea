/* SPDX-License-Identifier: Apache-2.0 */
/* SetLimit, Freeze, Thaw: of a node or of a whole dataflow; Usage: of all nodes of one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "supervisor/json-text.h"
#include "supervisor/server-internal.h"

#define USAGE_SPAN  (5 * NSEC_PER_SEC) /* files of the kernel's; a kill of a large tree holds them up for a quarter of a second */
#define FREEZE_SPAN (10 * NSEC_PER_SEC) /* the kernel needs microseconds, unless somebody is in an uninterruptible sleep */

/* Whom it is about: into the call. False: answered. */
static bool take_target(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Node *node = flow && parameters->node ? flow_node(client, flow, parameters->node) : NULL;

        if (!flow || (parameters->node && !node))
                return false;
        if (flow->after || flow->dataflow->state == DATAFLOW_BEGINNING || flow->dataflow->state >= DATAFLOW_ENDING) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s %s", flow->dataflow->plan->name,
                        flow->dataflow->state >= DATAFLOW_ENDING ? "has ended" : "has not begun");
                return false;
        }
        if (flow->dataflow->adopting) { /* what is frozen there its keeper is still being asked */
                client_fail(client, CONTROL_E_BUSY, "dataflow %.128s is being taken over by a new supervisor; try again", flow->dataflow->plan->name);
                return false;
        }
        client->call.flow = flow;
        client->call.node = node;
        client->call.awaited = -1;
        client->call.generation = node ? node->generation : 0;
        return true;
}

static void look_for_answer(Client *client)
{
        const Call *call = &client->call;

        if (!flow_is_live(call->flow) || (call->node && (call->node->generation != call->generation || call->node->empty)))
                client_fail(client, CONTROL_E_NOT_RUNNING, "it ended before its keeper had answered");
}

static const char *name_of(const Client *client, char *buffer, size_t size)
{
        const Call *call = &client->call;

        (void)snprintf(buffer, size, "%s%.128s", call->node ? "node " : "dataflow ", call->node ? call->node->plan->id : call->flow->dataflow->plan->name);
        return buffer;
}

/* ---- SetLimit */

/* {"memory_max": "512M", "cpu_weight": 50} as lines. False: answered. */
static bool take_limits(Client *client, json_t *object, char ret[static KEEPER_MSG_LIMITS_MAX + 1])
{
        char value[LIMIT_VALUE_MAX], number[40];
        const char *name, *text;
        json_t *item;
        size_t n = 0;

        ret[0] = '\0';
        json_object_foreach(object, name, item) {
                int key = limit_find(name, strlen(name));

                text = json_string_value(item);
                if (json_is_integer(item))
                        (void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(item));
                else if (json_is_real(item))
                        (void)snprintf(number, sizeof(number), "%.6f", json_real_value(item));
                text = text ? text : json_is_number(item) ? number : NULL;
                if (key < 0) {
                        client_fail(client, CONTROL_E_REFUSED, "there is no limit \"%.64s\"", name);
                        return false;
                }
                if (!text || (json_is_string(item) && strlen(text) != json_string_length(item)) || limit_parse((LimitKey)key, text, value)) {
                        client_fail(client, CONTROL_E_REFUSED, "%s must be %s", limit_name((LimitKey)key), limit_wanted((LimitKey)key));
                        return false;
                }
                if (n + strlen(name) + strlen(value) + 2 > KEEPER_MSG_LIMITS_MAX) {
                        client_fail(client, CONTROL_E_REFUSED, "the limits are too long");
                        return false;
                }
                n += (size_t)snprintf(ret + n, KEEPER_MSG_LIMITS_MAX + 1 - n, "%s=%s\n", name, value);
        }
        if (n == 0)
                client_bad_parameter(client, "limits");
        return n > 0;
}

static void reply_limits(Client *client)
{
        json_t *object = json_object(), *limits;

        resources_describe(object, client->call.flow->dataflow, client->call.node);
        limits = json_object_get(object, "limits");
        client_reply(client, json_pack("{so}", "limits", limits ? json_incref(limits) : json_array()));
        json_decref(object);
}

static void set_limit(Client *client, const Parameters *parameters)
{
        char limits[KEEPER_MSG_LIMITS_MAX + 1], why[512] = "", name[160];
        int r;

        if (!take_target(client, parameters) || !take_limits(client, parameters->limits, limits))
                return;
        r = resources_order_limits(client->call.flow->dataflow, client->call.node, limits, why, sizeof(why));
        if (r < 0) {
                client_fail(client, r == -EBUSY ? CONTROL_E_BUSY : CONTROL_E_REFUSED, "limits of %s are not set: %s", name_of(client, name, sizeof(name)), why);
        } else if (r == 0) {
                reply_limits(client);
        } else {
                client->call.order = CALL_ORDER_LIMITS;
                client_wait(client, look_for_answer, parameters->timeout_ms, SERVER_CALL_SPAN);
        }
}

static bool is_meant(const Client *client, CallOrder order, const Dataflow *dataflow, const Node *node)
{
        const Call *call = &client->call;

        return call->order == order && call->flow && call->flow->dataflow == dataflow && call->node == node;
}

void server_limited(Server *server, const Dataflow *dataflow, const Node *node, int error, const char *text)
{
        Client *it, *next;
        char name[160];

        if (!server)
                return;
        list_for_each(it, next, &server->calls, call.link) {
                const char *reason = strchr(text, '=');

                if (!is_meant(it, CALL_ORDER_LIMITS, dataflow, node))
                        continue;
                if (error)
                        client_fail(it, error == EAGAIN || error == ESRCH ? CONTROL_E_NOT_RUNNING : CONTROL_E_REFUSED, "%.*s of %s is not set: %s",
                                reason ? (int)(reason - text) : 6, reason ? text : "limits", name_of(it, name, sizeof(name)), reason ? reason + 1 : error_text(error));
                else
                        reply_limits(it);
        }
}

/* ---- Freeze, Thaw */

static void freeze_or_thaw(Client *client, const Parameters *parameters, bool frozen)
{
        nsec_t span = parameters->timeout_ms == PARAM_ABSENT ? FREEZE_SPAN : MIN((nsec_t)parameters->timeout_ms * NSEC_PER_MSEC, FREEZE_SPAN);
        char why[512] = "", name[160];
        int r;

        if (!take_target(client, parameters))
                return;
        r = resources_order_freeze(client->call.flow->dataflow, client->call.node, frozen, nsec_add(client->server->loop->now, span), why, sizeof(why));
        if (r < 0) {
                client_fail(client, r == -EBUSY ? CONTROL_E_BUSY : r == -ESRCH ? CONTROL_E_NOT_RUNNING : CONTROL_E_REFUSED, "%s is not %s: %s",
                        name_of(client, name, sizeof(name)), frozen ? "frozen" : "thawed", why);
        } else if (r == 0) {
                client_reply(client, json_pack("{sb}", "frozen", frozen));
        } else {
                client->call.order = CALL_ORDER_FREEZE;
                client->call.awaited = frozen;
                client_wait(client, look_for_answer, parameters->timeout_ms, nsec_add(span, SERVER_BEYOND_SPAN));
        }
}

static void freeze(Client *client, const Parameters *parameters)
{
        freeze_or_thaw(client, parameters, true);
}

static void thaw(Client *client, const Parameters *parameters)
{
        freeze_or_thaw(client, parameters, false);
}

void server_frozen(Server *server, const Dataflow *dataflow, const Node *node, bool frozen, int error)
{
        Client *it, *next;
        char name[160];

        if (!server)
                return;
        list_for_each(it, next, &server->calls, call.link) {
                const char *wanted = it->call.awaited ? "frozen" : "thawed";

                if (!is_meant(it, CALL_ORDER_FREEZE, dataflow, node))
                        continue;
                if (error == ETIMEDOUT)
                        client_fail(it, CONTROL_E_TIMED_OUT, "%s is not %s yet: the kernel has not said so; the order stands (somebody may be in an uninterruptible sleep)",
                                name_of(it, name, sizeof(name)), wanted);
                else if (error == EAGAIN)
                        client_fail(it, CONTROL_E_BUSY, "%s is not %s: somebody is being started, or looked at while it stands still; try again", name_of(it, name, sizeof(name)), wanted);
                else if (error == EOPNOTSUPP)
                        client_fail(it, CONTROL_E_REFUSED, "%s is not %s: that needs cgroups, and nodes are ended without them here", name_of(it, name, sizeof(name)), wanted);
                else if (error == ESRCH)
                        client_fail(it, CONTROL_E_NOT_RUNNING, "%s is not %s: nobody is there", name_of(it, name, sizeof(name)), wanted);
                else if (error)
                        client_fail(it, CONTROL_E_REFUSED, "%s is not %s: %s", name_of(it, name, sizeof(name)), wanted, error_text(error));
                else
                        client_reply(it, json_pack("{sb}", "frozen", frozen));
        }
}

/* ---- Usage */

/* Also when the keeper that was asked has died, or is dead and the guard has not said so yet: its successor is asked as soon as it has taken over. */
static void look_for_usage(Client *client)
{
        Dataflow *dataflow = client->call.flow->dataflow;
        char name[160];
        int r;

        if (!flow_is_live(client->call.flow)) {
                client_fail(client, CONTROL_E_NOT_RUNNING, "it ended before its keeper had answered");
                return;
        }
        r = dataflow->adopting ? 0 : usage_ask(dataflow);
        if (r && r != -ENOTCONN)
                client_fail(client, CONTROL_E_BUSY, "the keeper of %s cannot be asked: %s", name_of(client, name, sizeof(name)), error_text(r));
}

static void usage(Client *client, const Parameters *parameters)
{
        if (!take_target(client, parameters))
                return;
        client->call.order = CALL_ORDER_USAGE;
        client_wait(client, look_for_usage, parameters->timeout_ms, USAGE_SPAN);
}

void server_measured(Server *server, const Dataflow *dataflow, json_t *nodes)
{
        json_t *reply = json_pack("{s{sO}}", "parameters", "usage", nodes);
        _cleanup_free_ char *text = reply ? json_text(reply) : NULL; /* once: that takes long for thousands of nodes, and many may wait */
        Client *it, *next;

        json_decref(reply);
        if (!server)
                return;
        list_for_each(it, next, &server->calls, call.link)
                if (is_meant(it, CALL_ORDER_USAGE, dataflow, NULL))
                        client_reply_text(it, text ? strdup(text) : NULL);
}

void server_look_again(Server *server)
{
        if (server)
                server_kick(server);
}

const Method methods_resources[] = {
        {.name = "SetLimit",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_LIMITS | PARAM_REQUIRED, PARAM_TIMEOUT_MS},
                .run = set_limit},
        {.name = "Freeze", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_TIMEOUT_MS}, .run = freeze},
        {.name = "Usage", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_TIMEOUT_MS}, .run = usage},
        {.name = "Thaw", .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE, PARAM_TIMEOUT_MS}, .run = thaw},
        {},
};
