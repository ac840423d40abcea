/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dataflows as clients know them: by uuid, beginning of it, or name; and what follows when one is gone.
 *
 * Of one user and name at most one has begun and lives, and at most one waits for it to be gone. The request that was accepted
 * last decides what is there in the end: a Start with `replace` or a Restart takes the place of one that waits, and a Stop by
 * name ends both.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/uuid.h"
#include "protocol/control_msg.h"
#include "supervisor/server-internal.h"

#define PREFIX_MIN 4

bool flow_is_live(const Flow *flow)
{
        return flow->dataflow->state != DATAFLOW_ENDED;
}

int flow_new(Flow **ret, Server *server)
{
        Flow *flow = calloc(1, sizeof(*flow));

        if (!flow)
                return error_origin(-ENOMEM);
        *flow = (Flow){.server = server, .tap_fd = -1};
        list_init(&flow->link);
        *ret = flow;
        return 0;
}

void flow_forget(Flow *flow)
{
        Client *client, *next_client;
        Flow *it, *next;

        list_for_each(client, next_client, &flow->server->calls, call.link)
                if (!status_forget(&client->call, flow) && call_has(&client->call, flow)) /* it takes nothing, so it could not be told of the end */
                        client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s was forgotten", flow->dataflow->plan->name);
        list_for_each(it, next, &flow->server->flows, link)
                if (it->after == flow)
                        it->after = NULL;
        logs_close(flow);
        list_unlink(&flow->link);
        supervisor_forget(flow->server->supervisor, flow->dataflow);
        free(flow);
}

int server_adopt(Server *server, Dataflow *dataflow)
{
        Flow *flow = NULL;
        int r = flow_new(&flow, server);

        if (r)
                return error_fold(r);
        flow->dataflow = dataflow;
        dataflow->options.owner = flow;
        list_append(&server->flows, &flow->link);
        return 0;
}

/* All are there now, so one that waits finds the one that it waits for; if that is forgotten it is gone. */
void server_adopted(Server *server)
{
        Flow *it, *next, *other, *next_other;

        list_for_each(it, next, &server->flows, link) {
                list_for_each(other, next_other, &server->flows, link)
                        if (strcmp(it->dataflow->waits_for, other->dataflow->uuid_text) == 0)
                                it->after = other;
                if (!it->after)
                        dataflow_begin(it->dataflow);
        }
        events_adopted(server);
        server_kick(server);
}

/* ---- names */

Flow *flow_of(Server *server, uid_t uid, const char *name)
{
        Flow *it, *next;

        list_for_each(it, next, &server->flows, link)
                if (flow_is_live(it) && !it->after && it->dataflow->options.uid == uid &&
                        strcmp(it->dataflow->plan->name, name) == 0)
                        return it;
        return NULL;
}

/* What has begun and lives comes before what waits, that before what has ended; one's own before others'; late before early. */
static int rank(const Client *client, const Flow *flow)
{
        int own = flow->dataflow->options.uid == client->peer.uid ? 10 : 0;

        return own + (!flow_is_live(flow) ? 0 : flow->after ? 1 : 2);
}

static Flow *find_by_name(Client *client, const char *name, bool *ret_ambiguous)
{
        Flow *it, *next, *best = NULL;

        list_for_each(it, next, &client->server->flows, link) {
                if (!client_may(client, it) || strcmp(it->dataflow->plan->name, name) != 0)
                        continue;
                if (!best || rank(client, it) > rank(client, best))
                        *ret_ambiguous = false;
                else if (rank(client, it) == rank(client, best)) /* of two other users neither is meant more than the other */
                        *ret_ambiguous |= it->dataflow->options.uid != best->dataflow->options.uid;
                else
                        continue;
                best = it;
        }
        return best;
}

static Flow *find_by_uuid(Client *client, const char *prefix, bool *ret_ambiguous)
{
        size_t n = strlen(prefix);
        Flow *it, *next, *found = NULL;

        if (n < PREFIX_MIN || n > UUID_TEXT_LENGTH)
                return NULL;
        list_for_each(it, next, &client->server->flows, link) {
                if (!client_may(client, it) || strncmp(it->dataflow->uuid_text, prefix, n) != 0)
                        continue;
                *ret_ambiguous = found != NULL;
                found = it;
                if (*ret_ambiguous)
                        break;
        }
        return found;
}

Flow *flow_resolve(Client *client, const char *name)
{
        bool ambiguous = false;
        Flow *flow = strlen(name) == UUID_TEXT_LENGTH ? find_by_uuid(client, name, &ambiguous) : NULL;

        if (!flow)
                flow = find_by_name(client, name, &ambiguous);
        if (!flow)
                flow = find_by_uuid(client, name, &ambiguous);
        if (flow && !ambiguous)
                return flow;
        if (flow)
                client_fail(client, CONTROL_E_AMBIGUOUS, "%.200s is more than one dataflow; give more of its uuid", name);
        else
                client_fail(client, CONTROL_E_NO_DATAFLOW, "there is no dataflow %.200s", name);
        return NULL;
}

Flow *flow_detached(Flow *flow, const char *id)
{
        Flow *it, *next, *found = flow;

        list_for_each(it, next, &flow->server->flows, link) {
                const Plan *plan = it->dataflow->plan;

                if (plan->detached_from && it->dataflow->options.uid == flow->dataflow->options.uid && strcmp(plan->nodes[0].id, id) == 0 &&
                        strcmp(plan->detached_from, flow->dataflow->plan->name) == 0 && (found == flow || !flow_is_live(found) || flow_is_live(it)))
                        found = it;
        }
        return found;
}

Node *flow_node(Client *client, Flow *flow, const char *id)
{
        const Plan *plan = flow->dataflow->plan;

        for (size_t i = 0; i < plan->n_nodes; i++)
                if (strcmp(plan->nodes[i].id, id) == 0)
                        return &flow->dataflow->nodes[i];
        client_fail(client, CONTROL_E_NO_NODE, "dataflow %.128s has no node %.200s", plan->name, id);
        return NULL;
}

/* ---- what follows */

static void flow_follow(Flow *flow)
{
        Dataflow *before = flow->after->dataflow;
        char text[512];

        if (!flow_is_live(flow))
                flow->after = NULL;
        if (!flow->after || before->state != DATAFLOW_ENDED)
                return;
        flow->after = NULL;
        if (before->n_left == 0 || flow->dataflow->options.despite_leftover) {
                dataflow_begin(flow->dataflow);
                return;
        }
        dataflow_fail(flow->dataflow, NULL, "cannot begin: of its predecessor %.8s %s; --despite-leftover begins it all the same", before->uuid_text,
                dataflow_what_is_left(before, text, sizeof(text)));
        dataflow_stop(flow->dataflow, 0, true, "its predecessor is still there");
}

/* The oldest of those of its user that have ended; NULL while they are few enough. Quarantined ones stay. */
static Flow *one_too_many(Server *server, uid_t uid)
{
        Flow *it, *next, *oldest = NULL;
        unsigned n = 0;

        list_for_each(it, next, &server->flows, link) {
                if (it->dataflow->options.uid != uid || flow_is_live(it))
                        continue;
                n++;
                if (!dataflow_holds(it->dataflow) && (!oldest || it->dataflow->ended_at < oldest->dataflow->ended_at))
                        oldest = it;
        }
        return n > SERVER_ENDED_MAX ? oldest : NULL;
}

static bool forget_one(Server *server)
{
        Flow *it, *next;

        list_for_each(it, next, &server->flows, link) {
                Flow *oldest = flow_is_live(it) ? NULL : one_too_many(server, it->dataflow->options.uid);

                if (oldest) {
                        flow_forget(oldest);
                        return true;
                }
        }
        return false;
}

void flows_follow(Server *server)
{
        Flow *it, *next;

        list_for_each(it, next, &server->flows, link) {
                if (it->after)
                        flow_follow(it);
                if (!flow_is_live(it))
                        logs_last(it);
        }
}

void flows_forget(Server *server)
{
        while (forget_one(server))
                ;
}
