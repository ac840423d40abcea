/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/private.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "supervisor/control.h"

struct Private {
        Supervisor *supervisor;
        Control *control;
};

/* Its owner may be suspended for as long as it likes: it loses events, never the result. */
static const ControlLimits limits = {
        .events_max = 4u << 20, .replies_max = SIZE_MAX / 2, .frame_span = NSEC_NEVER, .reading_span = NSEC_NEVER};

static nsec_t get_span(json_t *parameters, const char *key, nsec_t otherwise)
{
        json_t *value = json_object_get(parameters, key);

        return json_is_integer(value) && json_integer_value(value) >= 0 ? (nsec_t)json_integer_value(value) : otherwise;
}

static void on_dataflow_event(Dataflow *dataflow, json_t *event, void *owner)
{
        Private *private = owner;

        (void)dataflow;
        control_event(private->control, event);
}

/* There is no node.sock: a private instance has no directory, and ends with its command. */
static void note_dynamic(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->plan->nodes[i].kind == PLAN_KIND_DYNAMIC)
                        dataflow_note(dataflow, dataflow->plan->nodes[i].id, "nobody can connect as this node: `tidegate run` has no socket for it, a daemon has");
}

/* The log stream: the keeper writes one end, the client reads the other. Both are ours by birth. */
static int log_stream_new(int *ret_keeper, int *ret_client)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        *ret_keeper = pair[0];
        *ret_client = pair[1];
        return 0;
}

/* There is nobody here whom it could outlive. */
static void note_detached(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->plan->nodes[i].detach)
                        dataflow_note(dataflow, dataflow->plan->nodes[i].id,
                                "detach needs the daemon: under `tidegate run` it ends with the others");
}

/* Nor anybody who could ask. */
static void note_probes(Dataflow *dataflow)
{
        if (dataflow->plan->probe_calls || dataflow->plan->probe_queues)
                dataflow_note(dataflow, NULL, "probes need the daemon: under `tidegate run` nobody could ask what they have counted");
}

static void method_run(Private *private, json_t *parameters)
{
        Supervisor *supervisor = private->supervisor;
        const char *log_dir = json_string_value(json_object_get(parameters, "log_dir"));
        DataflowOptions options = {.grace_ns = get_span(parameters, "grace_ns", 10 * NSEC_PER_SEC),
                .budget_ns = get_span(parameters, "budget_ns", 2 * NSEC_PER_SEC),
                .log_dir = log_dir && log_dir[0] == '/' && strlen(log_dir) < PATH_MAX - 64 ? log_dir : NULL,
                .environ = environ,
                .umask = (mode_t)(get_span(parameters, "umask", 022) & 0777),
                .allow_unenforced = json_is_true(json_object_get(parameters, "allow_unenforced_limits")),
                .uid = getuid(),
                .gid = getgid(),
                .nofile = supervisor->options.nofile,
                .owner = private,
                .log_fd = -1};
        Dataflow *dataflow = NULL;
        const PlanNode *captures;
        json_t *accepted;
        char why[512] = "";
        Plan *plan = NULL;
        int r, client_fd = -1;

        if (supervisor->n_dataflows > 0) {
                control_error_text(private->control, CONTROL_E_BUSY, "this instance runs its dataflow already");
                return;
        }
        r = plan_new(&plan, json_object_get(parameters, "plan"), why, sizeof(why));
        if (!r && (captures = plan_captures(plan))) {
                (void)snprintf(why, sizeof(why), "node %.128s (line %u): \"capture: true\" needs a daemon: `tidegate run` has no socket for dynamic nodes",
                        captures->id, captures->line);
                plan = plan_free(plan);
                r = -EOPNOTSUPP;
        }
        if (r) {
                control_error_text(private->control, CONTROL_E_PLAN, why[0] ? why : strerror(-r));
                return;
        }
        r = log_stream_new(&options.log_fd, &client_fd);
        if (r) {
                plan = plan_free(plan);
        } else {
                control_send_fd(private->control, client_fd);
                r = supervisor_start(supervisor, plan, &options, on_dataflow_event, &dataflow);
        }
        if (r) {
                control_error_text(private->control, CONTROL_E_PLAN, strerror(-r));
                return;
        }
        accepted = json_pack("{ss ss}", "type", "accepted", "uuid", dataflow->uuid_text);
        control_event(private->control, accepted);
        json_decref(accepted);
        note_dynamic(dataflow);
        note_detached(dataflow);
        note_probes(dataflow);
        if (supervisor->stop_first.ordered)
                dataflow_stop(dataflow, supervisor->stop_first.grace, supervisor->stop_first.force, "the command");
}

/* Run and Stop come by connections of their own, so that nothing holds a stop up; it may even be the first. */
static void method_stop(Private *private, json_t *parameters)
{
        Supervisor *supervisor = private->supervisor;
        Dataflow *dataflow = list_first(&supervisor->dataflows, Dataflow, link);
        nsec_t grace = get_span(parameters, "grace_ns", NSEC_NEVER);
        bool force = json_is_true(json_object_get(parameters, "force"));

        if (dataflow) {
                dataflow_stop(dataflow, grace, force, "the command");
        } else {
                supervisor->stop_first.grace = supervisor->stop_first.ordered ? MIN(supervisor->stop_first.grace, grace) : grace;
                supervisor->stop_first.force |= force;
                supervisor->stop_first.ordered = true;
        }
        control_reply(private->control, json_object());
}

static void on_call(void *owner, const ControlCall *call)
{
        Private *private = owner;

        if (strcmp(call->method, CONTROL_RUN) == 0)
                method_run(private, call->parameters);
        else if (strcmp(call->method, CONTROL_STOP) == 0)
                method_stop(private, call->parameters);
        else
                control_error(private->control, CONTROL_E_METHOD, json_pack("{ss}", "method", call->method));
}

/* When its owner is gone the guard sees its death and orders the stop: a connection that is over means nothing more. */
static const ControlOps ops = {.call = on_call};

int private_new(Private **ret, Supervisor *supervisor, int take_fd)
{
        Private *private = calloc(1, sizeof(*private));
        int r;

        if (!private)
                return error_origin(-ENOMEM);
        private->supervisor = supervisor;
        r = control_new(&private->control, &supervisor->loop, take_fd, &ops, private, &limits, NULL);
        if (r) {
                free(private);
                return error_fold(r);
        }
        *ret = private;
        return 0;
}

Private *private_free(Private *private)
{
        if (!private)
                return NULL;
        (void)control_free(private->control);
        free(private);
        return NULL;
}

void private_ended(Private *private, json_t *take_result)
{
        control_reply(private->control, take_result);
}

bool private_flushed(const Private *private)
{
        return control_flushed(private->control);
}
