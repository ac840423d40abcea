/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/targets.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"

bool target_parse(Target *ret, const char *text)
{
        const char *colon = strchr(text, ':');
        size_t n = colon ? (size_t)(colon - text) : strlen(text);

        *ret = (Target){};
        if (n == 0 || n >= sizeof(ret->dataflow) || (colon && (!colon[1] || strlen(colon + 1) >= sizeof(ret->node))))
                return false;
        memcpy(ret->dataflow, text, n);
        if (colon)
                memcpy(ret->node, colon + 1, strlen(colon + 1));
        return true;
}

bool dataflow_has_ended(const json_t *dataflow)
{
        return strcmp(json_get_text(dataflow, "state"), "ended") == 0;
}

json_t *dataflow_find_node(const json_t *dataflow, const char *id)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node)
                if (strcmp(json_get_text(node, "id"), id) == 0)
                        return node;
        return NULL;
}

/* ---- dataflows */

static void add_once(json_t *to, json_t *dataflow)
{
        json_t *known;
        size_t i;

        if (!json_is_object(dataflow))
                return;
        json_array_foreach(to, i, known)
                if (strcmp(json_get_text(known, "uuid"), json_get_text(dataflow, "uuid")) == 0)
                        return;
        (void)json_array_append(to, dataflow);
}

/* Adds what one Status call returns. Return: 0 or the exit status; *ret_transport as targets_status(). */
static int ask(Session *session, const char *name, json_t *to, int *ret_transport)
{
        json_t *parameters = name ? json_pack("{s[s]}", "names", name) : json_object(), *dataflow;
        Reply reply = {};
        size_t i;
        int r;

        if (session->links)
                (void)json_object_set_new(parameters, "links", json_true());
        r = session_try(session, "Status", parameters, &reply);
        if (!r && !reply.error && !json_is_array(json_object_get(reply.parameters, "dataflows")))
                r = CLIENT_E_GARBAGE;
        if (r) {
                reply_done(&reply);
                *ret_transport = r;
                return CLI_UNREACHABLE;
        }
        if (reply.error) {
                r = session_refused(session, &reply);
        } else if (name && json_array_size(json_object_get(reply.parameters, "dataflows")) == 0) {
                session_say(session, "%s: no such dataflow", name);
                r = CLI_NO_SUCH;
        }
        json_array_foreach(reply.error ? NULL : json_object_get(reply.parameters, "dataflows"), i, dataflow)
                add_once(to, dataflow);
        reply_done(&reply);
        return r;
}

int targets_status(Session *session, const char *const *names, size_t n, json_t **ret, int *ret_transport)
{
        json_t *all = json_array();
        int status = 0;

        *ret_transport = 0;
        for (size_t i = 0; i < MAX(n, (size_t)1) && !*ret_transport; i++)
                status = MAX(status, ask(session, n ? names[i] : NULL, all, ret_transport));
        *ret = all;
        return all ? status : CLI_FAILED;
}

json_t *targets_live(const json_t *dataflows)
{
        json_t *live = json_array(), *dataflow;
        size_t i;

        json_array_foreach(dataflows, i, dataflow)
                if (!dataflow_has_ended(dataflow))
                        (void)json_array_append(live, dataflow);
        return live;
}

int targets_the_one(Session *session, const json_t *dataflows, json_t **ret)
{
        _cleanup_(json_decrefp) json_t *live = targets_live(dataflows);
        json_t *dataflow;
        size_t i;

        if (json_array_size(live) == 0) {
                session_say(session, "no dataflow is running");
                return CLI_NOT_RUNNING;
        }
        if (json_array_size(live) == 1) {
                *ret = json_array_get(live, 0); /* @dataflows holds it, too */
                return 0;
        }
        session_say(session, "which one? %zu dataflows are running:", json_array_size(live));
        json_array_foreach(live, i, dataflow)
                session_say(session, "  %s  %s", json_get_text(dataflow, "uuid"), json_get_text(dataflow, "name"));
        return CLI_USAGE;
}

/* ---- nodes */

/* One that runs is meant rather than one of the past, and of those of one name the last. */
static int find_among(Session *session, const json_t *dataflows, const char *id, json_t **ret_dataflow, json_t **ret_node)
{
        json_t *dataflow, *node, *at = NULL, *found = NULL;
        size_t i;

        for (int ended = 0; ended < 2 && !found; ended++) {
                json_array_foreach(dataflows, i, dataflow) {
                        bool same = at && strcmp(json_get_text(at, "name"), json_get_text(dataflow, "name")) == 0;
                        const char *key = same ? "uuid" : "name";

                        node = dataflow_has_ended(dataflow) == (ended == 1) ? dataflow_find_node(dataflow, id) : NULL;
                        if (!node)
                                continue;
                        if (found && !(ended && same)) {
                                session_say(session, "several dataflows have a node %s: say %s:%s or %s:%s", id,
                                        json_get_text(at, key), id, json_get_text(dataflow, key), id);
                                return CLI_USAGE;
                        }
                        at = dataflow;
                        found = node;
                }
        }
        if (!found) {
                session_say(session, "%s: no such node", id);
                return CLI_NO_SUCH;
        }
        *ret_dataflow = json_incref(at);
        *ret_node = json_incref(found);
        return 0;
}

void targets_usage(Session *session, json_t *dataflow)
{
        Reply reply = {};
        json_t *one;
        size_t i;

        if (dataflow_has_ended(dataflow) ||
                session_try(session, "Usage", json_pack("{ss si}", "dataflow", json_get_text(dataflow, "uuid"), "timeout_ms", 1000), &reply))
                return;
        json_array_foreach(json_object_get(reply.parameters, "usage"), i, one) {
                json_t *node = dataflow_find_node(dataflow, json_get_text(one, "node"));

                if (node && json_get_number(node, "generation") == json_get_number(one, "generation"))
                        (void)json_object_set(node, "usage", one);
        }
        reply_done(&reply);
}

json_t *targets_detached(Session *session, const json_t *dataflow, const char *id)
{
        _cleanup_(json_decrefp) json_t *all = NULL;
        json_t *it, *found = NULL;
        int transport;
        size_t i;

        if (targets_status(session, NULL, 0, &all, &transport) || transport)
                return NULL;
        json_array_foreach(all, i, it)
                if (strcmp(json_get_text(it, "detached_from"), json_get_text(dataflow, "name")) == 0 &&
                        json_get_number(it, "uid") == json_get_number(dataflow, "uid") && dataflow_find_node(it, id) &&
                        (!found || !dataflow_has_ended(it)))
                        found = it;
        return json_incref(found);
}

int targets_node(Session *session, const char *dataflow, const char *text, json_t **ret_dataflow, json_t **ret_node)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        const char *names[1] = {dataflow}, *id = text;
        int transport, status;
        Target target;

        if (!target_parse(&target, text) || strcmp(target.node, "*") == 0) {
                session_say(session, "`%s` names no node; say DATAFLOW:NODE", text);
                return CLI_USAGE;
        }
        if (target.node[0]) {
                if (dataflow && strcmp(dataflow, target.dataflow) != 0) {
                        session_say(session, "`%s` is not a node of %s", text, dataflow);
                        return CLI_USAGE;
                }
                names[0] = target.dataflow;
                id = target.node;
        }
        status = targets_status(session, names, names[0] ? 1 : 0, &dataflows, &transport);
        if (transport)
                return session_fail(session, transport);
        if (status)
                return status;
        if (names[0] && !dataflow_find_node(json_array_get(dataflows, 0), id)) {
                _cleanup_(json_decrefp) json_t *detached = targets_detached(session, json_array_get(dataflows, 0), id);

                if (detached && json_array_append(dataflows, detached))
                        return CLI_FAILED;
        }
        return find_among(session, dataflows, id, ret_dataflow, ret_node);
}
