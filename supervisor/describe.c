/* SPDX-License-Identifier: Apache-2.0 */
/* Dataflows and nodes as the control interface shows them. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/enforcer.h"
#include "supervisor/placer.h"
#include "supervisor/progress.h"
#include "supervisor/server-internal.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

static json_int_t ms(nsec_t t)
{
        return (json_int_t)(t / NSEC_PER_MSEC);
}

static const char *kind_of(const PlanNode *plan)
{
        static const char *const names[] = {
                [PLAN_KIND_NODE] = "node", [PLAN_KIND_PROGRAM] = "program", [PLAN_KIND_DYNAMIC] = "dynamic"};

        return names[plan->kind];
}

/* What it runs under now, and what that does not keep. Nothing is said of one that does not run. */
static json_t *describe_protection(const Node *node)
{
        static const char *const words[] = {[KEEPER_CGROUP_WRITE_NO] = "no",
                [KEEPER_CGROUP_WRITE_READ_ONLY] = "read-only mounts",
                [KEEPER_CGROUP_WRITE_POSSIBLE] = "possible"};
        bool lives = node->spawned && !node->exited;
        Enforcer enforcer = enforcer_of_name(node->dataflow->supervisor->cgroup);
        KeeperCgroupWrite write = lives && enforcer_has_cgroup(enforcer) ? node->cgroup_write : KEEPER_CGROUP_WRITE_UNKNOWN;
        json_t *weaker = json_array();

        if (lives && (enforcer == ENFORCER_SUBREAPER || enforcer == ENFORCER_PID1))
                (void)json_array_append_new(weaker, json_string("it is ended by way of the process table: the weakest of the enforcers"));
        if (lives && !enforcer_has_cgroup(enforcer))
                (void)json_array_append_new(weaker, json_string("no limits"));
        if (lives && enforcer != ENFORCER_CGROUP)
                (void)json_array_append_new(weaker, json_string("it ends with its keeper"));
        if (write == KEEPER_CGROUP_WRITE_READ_ONLY)
                (void)json_array_append_new(weaker, json_string("root can mount cgroups writable again: it leaves its cgroup by intent, not by accident"));
        else if (write == KEEPER_CGROUP_WRITE_POSSIBLE)
                (void)json_array_append_new(weaker, json_string("it can leave its cgroup, and move others of its user"));
        if (lives && node->dataflow->options.uid == geteuid() && !enforcer_has_pidns(enforcer))
                (void)json_array_append_new(weaker, json_string("it runs as the user of the supervisor: it can signal and trace us and its like"));
        return json_pack("{ss ss* so}", "backend", enforcer_name(enforcer), "cgroup_write", words[write], "weaker", weaker);
}

static json_t *describe_exit(const Node *node)
{
        const char *code = node->exit_code == CLD_EXITED                                    ? "exited"
                           : node->exit_code == CLD_KILLED || node->exit_code == CLD_DUMPED ? "signalled"
                                                                                            : "unknown";

        return json_pack("{ss si}", "code", code, "status", (int)node->exit_status);
}

/* A life beside which others were begun. */
static void describe_older(const Leftover *left, json_t *node)
{
        json_t *array = json_object_get(node, "leftovers"), *object = json_pack("{sI ss sb}", "generation", (json_int_t)left->generation, "verdict",
                leftover_verdict(left), "quarantined", 1);

        if (object)
                leftover_show(left, object);
        if (array)
                (void)json_array_append_new(array, object);
        else if (object)
                (void)json_object_set_new(node, "leftovers", json_pack("[o]", object));
}

static json_t *describe_counters(const LinkCounters *c)
{
        json_t *dropped = json_object(), *result;

        for (DropReason i = 0; i < _DROP_REASON_MAX; i++)
                if (c->dropped[i] > 0)
                        (void)json_object_set_new(dropped, drop_reason_to_string(i), json_integer((json_int_t)c->dropped[i]));
        result = json_pack("{sI sI sI so sI sI sI sI sI sI sb sb}", "published", (json_int_t)c->published, "delivered", (json_int_t)c->delivered,
                "bytes", (json_int_t)c->delivered_bytes, "dropped", dropped, "depth", (json_int_t)c->depth, "age_us",
                (json_int_t)(c->age_ns / NSEC_PER_USEC), "holds", (json_int_t)c->n_holds, "copied", (json_int_t)c->copied, "wakes",
                (json_int_t)c->n_wakes, "refused", (json_int_t)c->refused, "still", c->still, "adds_up", c->adds_up);
        return result;
}

static json_t *describe_link(const Link *link)
{
        static const char *const states[] = {[LINK_DETACHED] = "detached", [LINK_WAIT_OUT] = "attaching", [LINK_WAIT_IN] = "attaching",
                [LINK_ACTIVE] = "active", [LINK_CLOSED] = "closed"};
        const PlanInput *input = &link->target->plan->inputs[link->input];
        LinkCounters counters;
        json_t *result = json_pack("{ss ss ss ss ss sI}", "input", input->id, "source", link->source->plan->id, "output",
                link->source->plan->outputs[link->output], "state", states[link->state], "queue_policy",
                input->backpressure ? "backpressure" : "drop_oldest", "queue_size", (json_int_t)input->queue_size);

        if (result && show_link_counters(link, &counters))
                (void)json_object_set_new(result, "counters", describe_counters(&counters));
        return result;
}

/* Those that feed it, in the order of its inputs. */
static json_t *describe_links(const Node *node)
{
        json_t *links = json_array();

        for (uint32_t i = 0; links && i < node->n_links; i++)
                if (node->links[i]->target == node)
                        (void)json_array_append_new(links, describe_link(node->links[i]));
        return links;
}

json_t *describe_node(const Node *node, bool with_links)
{
        bool wanted = !node->stop_wanted && !node->dataflow->stop_ordered;
        ProgressState progress = progress_state(node->dataflow->progress, node->index);
        json_t *result = json_pack("{ss ss ss ss sI si sI sI si so sb sb sb ss ss*}", "id", node->plan->id, "kind", kind_of(node->plan),
                "state", node_state_to_string(node->state), "wanted", wanted ? "running" : "stopped", "generation",
                (json_int_t)node->generation, "pid", node->exited ? 0 : (int)node->pid, "restarts", (json_int_t)node->n_restarts,
                "since_at_ms", ms(node->since), "line", (int)node->plan->line, "protection", describe_protection(node), "captured",
                node->captured && node->spawned, "quarantined", node->quarantined, "frozen", false, "health", progress_health_to_string(progress.health), "error", node->error);

        if (result && node->spawned && node->exited)
                (void)json_object_set_new(result, "exit", describe_exit(node));
        if (result && node->killed)
                (void)json_object_set_new(result, "killed_by", json_string(node_killed_by(node)));
        if (result && node_verdict(node))
                (void)json_object_set_new(result, "verdict", json_string(node_verdict(node)));
        if (result && node->quarantined)
                leftover_show(&node->left, result);
        for (size_t i = 0; result && i < NODE_OLDER_MAX; i++)
                if (node->older[i].generation > 0)
                        describe_older(&node->older[i], result);
        if (result && progress.health == PROGRESS_STUCK)
                (void)json_object_set_new(result, "stuck_since_at_ms", json_integer(ms(progress.stuck_since)));
        node_why_describe(node, result);
        misbehaviour_describe(result, &node->misbehaviour);
        if (result && node->plan->kind == PLAN_KIND_NODE)
                placer_describe(node, result);
        resources_describe(result, node->dataflow, node);
        if (result && with_links)
                (void)json_object_set_new(result, "links", describe_links(node));
        if (result && with_links && node->plan->n_outputs > 0)
                (void)json_object_set_new(result, "outputs", describe_outputs(node));
        return result;
}

const char *describe_result_word(const Dataflow *dataflow)
{
        if (dataflow->state != DATAFLOW_ENDED)
                return NULL;
        return dataflow->n_left > 0 ? "left" : dataflow_succeeded(dataflow) ? "succeeded" : "failed";
}

static void count_nodes(const Dataflow *dataflow, int *ret_running, int *ret_failed)
{
        *ret_running = *ret_failed = 0;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                *ret_running += dataflow->nodes[i].state == NODE_RUNNING;
                *ret_failed += dataflow->nodes[i].state == NODE_FAILED;
        }
}

json_t *describe_dataflow(const Flow *flow, bool with_nodes)
{
        const Dataflow *d = flow->dataflow;
        int n_running, n_failed;
        json_t *result, *nodes = json_array();

        count_nodes(d, &n_running, &n_failed);
        for (size_t i = 0; with_nodes && i < d->plan->n_nodes; i++)
                (void)json_array_append_new(nodes, describe_node(&d->nodes[i], false));
        result = json_pack("{ss ss ss sI ss ss ss* ss* ss* ss* ss* ss* sI sI si si si sb so}", "uuid", d->uuid_text, "name",
                d->plan->name, "file", d->plan->file, "uid", (json_int_t)d->options.uid, "state",
                dataflow_state_to_string(d->state), "wanted",
                d->stop_ordered || d->state >= DATAFLOW_STOPPING ? "stopped" : "running", "result", describe_result_word(d),
                "error", d->error, "log_dir", d->log_dir, "cgroup", d->cgroup, "waits_for",
                flow->after ? flow->after->dataflow->uuid_text : NULL, "detached_from",
                d->plan->detached_from, "started_at_ms", ms(d->begun_at), "since_at_ms",
                ms(d->since), "n_nodes", (int)d->plan->n_nodes, "n_running", n_running, "n_failed", n_failed, "frozen", false, "nodes", nodes);
        resources_describe(result, d, NULL);
        if (result && d->state == DATAFLOW_STOPPING)
                (void)json_object_set_new(result, "stop_until_at_ms", json_integer(ms(d->ladder.verdict)));
        return result;
}

json_t *describe_result(const Dataflow *dataflow)
{
        json_t *result = dataflow_result(dataflow);

        if (result)
                (void)json_object_del(result, "type");
        return result;
}
