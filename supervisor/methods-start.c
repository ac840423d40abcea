/* SPDX-License-Identifier: Apache-2.0 */
/* Start and Restart. Once accepted a dataflow begins whatever becomes of the client. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "protocol/node_msg.h"
#include "supervisor/detach.h"
#include "supervisor/server-internal.h"

#define START_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" /* for want of an environment */

/* ---- the plan, and what goes with it */

/* Processes of others are moved by root alone, and for root alone. */
static int may_capture(const Plan *plan, uid_t uid, char *ret_why, size_t why_size)
{
        const PlanNode *node = plan_captures(plan);

        if (!node || (geteuid() == 0 && uid == 0))
                return 0;
        (void)snprintf(ret_why, why_size, "node %.128s (line %u): \"capture: true\" is for root alone: %s %u", node->id, node->line,
                geteuid() != 0 ? "this is the daemon of user" : "you are user", geteuid() != 0 ? (unsigned)geteuid() : (unsigned)uid);
        return error_origin(-EPERM);
}

/* @name in place of the plan's own; @uid: whose it will be. The caller owns the plan. */
static int make_plan(Plan **ret, json_t *json, const char *name, uid_t uid, char *ret_why, size_t why_size)
{
        json_t *named = name ? json_copy(json) : json_incref(json);
        int r = -ENOMEM;

        if (named && (!name || json_object_set_new(named, "name", json_string(name)) == 0))
                r = plan_new(ret, named, ret_why, why_size);
        json_decref(named);
        if (!r) {
                r = may_capture(*ret, uid, ret_why, why_size);
                if (r)
                        *ret = plan_free(*ret);
        }
        if (r && !ret_why[0])
                (void)snprintf(ret_why, why_size, "%s", strerror(-r));
        return r;
}

/* An array of borrowed strings; the caller frees it. NULL: one of them is no K=V, or memory is short. */
static char **make_environ(json_t *environment)
{
        static char path[] = START_PATH;
        size_t n = json_array_size(environment);
        char **environ_ = calloc(n + 2, sizeof(*environ_));

        if (environ_ && !environment)
                environ_[0] = path;
        for (size_t i = 0; environ_ && i < n; i++) {
                const char *entry = json_string_value(json_array_get(environment, i));

                if (!strchr(entry, '=') || *entry == '=') {
                        free(environ_);
                        return NULL;
                }
                environ_[i] = (char *)(uintptr_t)entry;
        }
        return environ_;
}

static nsec_t span_of(json_int_t ms, nsec_t otherwise)
{
        return ms == PARAM_ABSENT ? otherwise : (nsec_t)ms * NSEC_PER_MSEC;
}

static DataflowOptions options_of(const Client *client, const Parameters *parameters, const PeerFacts *facts, char **environ_)
{
        DataflowOptions options = {.grace_ns = span_of(parameters->grace_ms, client->server->supervisor->options.grace_ns),
                .budget_ns = span_of(parameters->budget_ms, client->server->supervisor->options.budget_ns),
                .log_dir = parameters->log_dir,
                .environ = environ_,
                .allow_unenforced = parameters->allow_unenforced_limits,
                .umask = parameters->umask == PARAM_ABSENT ? 022 : (mode_t)parameters->umask,
                .uid = client->peer.uid,
                .gid = client->peer.gid,
                .despite_leftover = parameters->despite_leftover,
                .n_groups = facts->n_groups,
                .nofile = facts->nofile,
                .log_fd = -1};

        memcpy(options.groups, facts->groups, facts->n_groups * sizeof(options.groups[0]));
        return options;
}

/* ---- beginning one */

/*
 * Starts @plan, which is consumed; it waits for @before to be gone (NULL: nobody of that name lives), which take_over() stops.
 * NULL: it could not be, and the call was answered so.
 */
static Flow *begin(Client *client, Plan *plan, DataflowOptions *options, Flow *before)
{
        Server *server = client->server;
        Flow *flow = NULL;
        int r = flow_new(&flow, server);

        if (r) {
                (void)plan_free(plan);
                client_fail(client, CONTROL_E_QUOTA, "the daemon is short of memory");
                return NULL;
        }
        options->owner = flow;
        options->waits_for = before ? before->dataflow->uuid_text : NULL;
        r = supervisor_start(server->supervisor, plan, options, server_on_event, &flow->dataflow);
        if (r) {
                free(flow);
                if (r == -ESHUTDOWN)
                        client_fail(client, CONTROL_E_SHUTTING, "the daemon is ending");
                else if (r == -EAGAIN)
                        client_fail(client, CONTROL_E_QUOTA, "as many dataflows as there can be are running");
                else
                        client_fail(client, CONTROL_E_REFUSED, "it cannot be started: %s", strerror(-r));
                return NULL;
        }
        list_append(&server->flows, &flow->link);
        flow->after = before;
        events_accepted(flow);
        return flow;
}

/* The request that was accepted last wins: another that waits gives way, and the one that lives is stopped. */
static void take_over(Flow *flow, nsec_t grace_ns, bool force, const char *why)
{
        Flow *it, *next, *before = flow->after;

        if (!before)
                return;
        list_for_each(it, next, &flow->server->flows, link)
                if (it != flow && it->after == before && flow_is_live(it))
                        dataflow_stop(it->dataflow, 0, true, "another took its place");
        dataflow_stop(before->dataflow, grace_ns, force, why);
}

/* Would @more be more than one user may run? Then answered. */
static bool has_too_many(Client *client, uid_t uid, unsigned more)
{
        unsigned n = 0;
        Flow *it, *next;

        list_for_each(it, next, &client->server->flows, link)
                n += flow_is_live(it) && it->dataflow->options.uid == uid;
        if (client_may_all(client) || n + more <= SERVER_LIVE_MAX)
                return false;
        client_fail(client, CONTROL_E_QUOTA, "you run %u dataflows already, and may run %u", n, SERVER_LIVE_MAX);
        return true;
}

/* Somebody of an earlier dataflow of that name would not die: answered, unless that does not matter to the caller. */
static bool is_left(Client *client, uid_t uid, const char *name, bool despite)
{
        Flow *it, *next;

        if (despite)
                return false;
        list_for_each(it, next, &client->server->flows, link) {
                const Dataflow *d = it->dataflow;
                char text[512];

                if (flow_is_live(it) || d->n_left == 0 || d->options.uid != uid || strcmp(d->plan->name, name) != 0)
                        continue;
                client_fail(client, CONTROL_E_LEFTOVER,
                        "dataflow %.128s %.8s has ended, and %s: it is watched; --despite-leftover begins another beside it", name, d->uuid_text,
                        dataflow_what_is_left(d, text, sizeof(text)));
                return true;
        }
        return false;
}

/* ---- until it runs, or has ended */

static void reply_started(Client *client)
{
        const Dataflow *d = client->call.flow->dataflow;
        bool ended = d->state == DATAFLOW_ENDED;
        json_t *reply = json_pack("{ss ss}", "uuid", d->uuid_text, "state", ended ? "ended" : "running");

        if (reply && ended)
                (void)json_object_set_new(reply, "result", describe_result(d));
        client_reply(client, reply);
}

static void look_for_start(Client *client)
{
        const Call *call = &client->call;
        const Dataflow *d = call->flow->dataflow;

        if (d->state == DATAFLOW_ENDED || call->seen || (int)d->state == call->awaited)
                reply_started(client);
}

/* Replies now, or has the client follow its events. */
static void follow(Client *client, Flow *flow, Flow *before, DataflowState until, json_int_t timeout_ms)
{
        Call *call = &client->call;
        json_t *accepted;

        if (!call->more) {
                client_reply(client, json_pack("{ss}", "uuid", flow->dataflow->uuid_text));
                return;
        }
        call->flow = flow;
        call->other = before;
        call->events = true;
        call->awaited = (int)until;
        accepted = json_pack("{ss sI ss ss ss}", "type", "accepted", "at_ms",
                (json_int_t)(client->server->loop->now / NSEC_PER_MSEC), "uuid", flow->dataflow->uuid_text, "dataflow",
                flow->dataflow->uuid_text, "name", flow->dataflow->plan->name);
        control_event(client->control, accepted);
        json_decref(accepted);
        client_wait(client, look_for_start, timeout_ms, NSEC_NEVER);
}

/* ---- nodes that outlive their dataflow */

/* A dataflow of the name that a detached node gets, which is something else; answered. */
static bool name_is_taken(Client *client, const Plan *plan, bool despite)
{
        for (size_t i = 0; i < plan->n_nodes; i++) {
                char name[2 * NODE_MSG_ID_MAX + 2];
                const Flow *flow;

                if (!plan->nodes[i].detach)
                        continue;
                (void)snprintf(name, sizeof(name), "%s.%s", plan->name, plan->nodes[i].id);
                if (is_left(client, client->peer.uid, name, despite))
                        return true;
                flow = flow_of(client->server, client->peer.uid, name);
                if (!flow || (flow->dataflow->plan->detached_from && strcmp(flow->dataflow->plan->detached_from, plan->name) == 0))
                        continue;
                client_fail(client, CONTROL_E_BUSY, "node %.128s (line %u) is to be detached as %.260s, and another dataflow of that name is %s",
                        plan->nodes[i].id, plan->nodes[i].line, name, dataflow_state_to_string(flow->dataflow->state));
                return true;
        }
        return false;
}

/* Each becomes a dataflow, unless one of that name lives: then it is left alone, or the new one follows it. */
static unsigned n_to_detach(const Client *client, const Plan *plan)
{
        unsigned n = 0;

        for (size_t i = 0; i < plan->n_nodes; i++) {
                char name[2 * NODE_MSG_ID_MAX + 2];

                if (!plan->nodes[i].detach)
                        continue;
                (void)snprintf(name, sizeof(name), "%s.%s", plan->name, plan->nodes[i].id);
                n += flow_of(client->server, client->peer.uid, name) == NULL;
        }
        return n;
}

/* One of them; what is to be said of it goes to @notes. One that lives is left alone; one that is being stopped is waited for. False: answered. */
static bool begin_detached(Client *client, const Plan *plan, size_t index, DataflowOptions *options, json_t *notes)
{
        const PlanNode *node = &plan->nodes[index];
        const char *how;
        char why[512] = "";
        Flow *alive, *flow;
        Plan *own = NULL;
        json_t *text;

        if (detach_plan(&own, plan, index, why, sizeof(why))) {
                client_fail(client, CONTROL_E_PLAN, "%s", why[0] ? why : "out of memory");
                return false;
        }
        alive = flow_of(client->server, client->peer.uid, own->name);
        if (alive && !alive->dataflow->stop_ordered && alive->dataflow->state < DATAFLOW_ENDING) {
                how = detach_is_same(alive->dataflow->plan, own) ? "is left alone" : "is left alone, although it was to be another: stop it first";
                text = json_sprintf("detached, and runs already as dataflow %s: %s", own->name, how);
                own = plan_free(own);
        } else {
                text = json_sprintf("detached: it runs as dataflow %s, which a stop of %s leaves alone", own->name, plan->name);
                flow = begin(client, own, options, alive);
                if (!flow) {
                        json_decref(text);
                        return false;
                }
                take_over(flow, NSEC_NEVER, false, "a new one takes its place");
        }
        (void)json_array_append_new(notes, json_pack("{ss so}", "node", node->id, "text", text)); /* without memory: unsaid */
        return true;
}

/* Those of @take_plan, which is consumed; *ret is the rest. False: answered. */
static bool split_detached(Client *client, Plan *take_plan, DataflowOptions *options, json_t *notes, Plan **ret)
{
        char why[512] = "";
        bool any = false;
        int r = 0;

        for (size_t i = 0; i < take_plan->n_nodes; i++) {
                if (!take_plan->nodes[i].detach)
                        continue;
                any = true;
                if (!begin_detached(client, take_plan, i, options, notes)) {
                        (void)plan_free(take_plan);
                        return false;
                }
        }
        *ret = take_plan;
        if (!any)
                return true;
        r = detach_rest(ret, take_plan, why, sizeof(why));
        (void)plan_free(take_plan);
        if (r)
                client_fail(client, CONTROL_E_PLAN, "%s", why[0] ? why : "out of memory");
        return r == 0;
}

static void say_notes(Dataflow *dataflow, const json_t *notes)
{
        json_t *note;
        size_t i;

        json_array_foreach(notes, i, note)
                dataflow_note(dataflow, json_string_value(json_object_get(note, "node")), json_string_value(json_object_get(note, "text")) ?: "");
}

static void look_at_caller(Client *client, const Parameters *parameters, Plan *take_plan, DataflowState until)
{
        _cleanup_free_ char **environ_ = make_environ(parameters->environment);
        Flow *before = flow_of(client->server, client->peer.uid, take_plan->name), *flow;
        char why[256] = "";
        _cleanup_(json_decrefp) json_t *notes = NULL;
        DataflowOptions options;
        Plan *rest = NULL;
        PeerFacts facts;

        if (!environ_) {
                (void)plan_free(take_plan);
                client_bad_parameter(client, "environment");
                return;
        }
        if (peer_examine(&client->peer, control_fd(client->control), &client->server->supervisor->options.nofile, &facts, why,
                    sizeof(why))) {
                (void)plan_free(take_plan);
                client_fail(client, CONTROL_E_REFUSED, "%s", why);
                return;
        }
        if (before && !parameters->replace) {
                client_fail(client, CONTROL_E_BUSY, "dataflow %.128s is %s", take_plan->name,
                        dataflow_state_to_string(before->dataflow->state));
                (void)plan_free(take_plan);
                return;
        }
        if (is_left(client, client->peer.uid, take_plan->name, parameters->despite_leftover)) {
                (void)plan_free(take_plan);
                return;
        }
        if (name_is_taken(client, take_plan, parameters->despite_leftover) || has_too_many(client, client->peer.uid, (before ? 0 : 1) + n_to_detach(client, take_plan))) {
                (void)plan_free(take_plan);
                return;
        }
        options = options_of(client, parameters, &facts, environ_);
        notes = json_array();
        if (!split_detached(client, take_plan, &options, notes, &rest))
                return;
        flow = begin(client, rest, &options, before);
        if (!flow)
                return;
        follow(client, flow, before, until, parameters->timeout_ms);
        say_notes(flow->dataflow, notes);
        take_over(flow, NSEC_NEVER, false, "a new one takes its place");
}

static void start(Client *client, const Parameters *parameters)
{
        DataflowState until = DATAFLOW_RUNNING;
        char why[512] = "";
        Plan *plan = NULL;

        flows_follow(client->server); /* what is about to begin has begun */
        if (parameters->wait && strcmp(parameters->wait, "ended") == 0)
                until = DATAFLOW_ENDED;
        else if (parameters->wait && strcmp(parameters->wait, "running") != 0) {
                client_bad_parameter(client, "wait");
                return;
        }
        if (parameters->log_dir && parameters->log_dir[0] != '/') {
                client_bad_parameter(client, "log_dir");
                return;
        }
        if (make_plan(&plan, parameters->plan, parameters->name, client->peer.uid, why, sizeof(why)))
                client_fail(client, CONTROL_E_PLAN, "%s", why);
        else
                look_at_caller(client, parameters, plan, until);
}

/* ---- again */

/* A log directory without the uuid that was appended; NULL: none. */
static char *base_of(const char *log_dir)
{
        const char *slash = log_dir ? strrchr(log_dir, '/') : NULL;

        return slash ? strndup(log_dir, (size_t)(slash - log_dir)) : NULL;
}

static void restart(Client *client, const Parameters *parameters)
{
        nsec_t grace = span_of(parameters->grace_ms, NSEC_NEVER);
        DataflowOptions options;
        _cleanup_free_ char *log_dir = NULL;
        Flow *old, *alive, *flow;
        char why[512] = "";
        Plan *plan = NULL;

        flows_follow(client->server);
        old = flow_resolve(client, parameters->dataflow);
        if (!old)
                return;
        alive = flow_of(client->server, old->dataflow->options.uid, old->dataflow->plan->name);
        if (!flow_is_live(old) && alive) {
                client_fail(client, CONTROL_E_BUSY, "that one has ended, and dataflow %.128s lives as %s",
                        old->dataflow->plan->name, alive->dataflow->uuid_text);
                return;
        }
        if (is_left(client, old->dataflow->options.uid, old->dataflow->plan->name, parameters->despite_leftover) ||
                (!alive && has_too_many(client, old->dataflow->options.uid, 1)))
                return;
        if (plan_new(&plan, old->dataflow->plan->json, why, sizeof(why))) {
                client_fail(client, CONTROL_E_PLAN, "%s", why);
                return;
        }
        options = old->dataflow->options;
        options.log_fd = -1;
        options.despite_leftover = parameters->despite_leftover;
        options.log_dir = log_dir = base_of(old->dataflow->log_dir);
        flow = begin(client, plan, &options, alive);
        if (!flow)
                return;
        follow(client, flow, alive, DATAFLOW_RUNNING, parameters->timeout_ms);
        take_over(flow, grace, parameters->force, "a restart");
}

const Method methods_start[] = {
        {.name = "Start",
                .takes = {PARAM_PLAN | PARAM_REQUIRED, PARAM_NAME, PARAM_ENVIRONMENT, PARAM_UMASK, PARAM_LOG_DIR, PARAM_GRACE_MS,
                        PARAM_BUDGET_MS, PARAM_REPLACE, PARAM_DESPITE_LEFTOVER, PARAM_ALLOW_UNENFORCED, PARAM_WAIT, PARAM_TIMEOUT_MS},
                .run = start},
        {.name = "Restart",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_GRACE_MS, PARAM_FORCE, PARAM_DESPITE_LEFTOVER, PARAM_TIMEOUT_MS},
                .run = restart},
        {},
};
