/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "cli/histogram.h"
#include "cli/print.h"

#define UUID_BEGIN_MIN 4

static const TopUsage usage_unknown = {
        .cpu_percent = TOP_UNKNOWN, .throttled_percent = TOP_UNKNOWN, .some = {-1, -1, -1}, .full = {-1, -1, -1}};

static const char *const pressure_names[_TOP_PRESSURE_MAX] = {[TOP_CPU] = "cpu", [TOP_MEMORY] = "memory", [TOP_IO] = "io"};

/* What is no UTF-8, be it because it was cut here, becomes `?`: else JSON would not take it. */
static void copy(char *to, size_t size, const char *from)
{
        size_t left = (size_t)snprintf(to, size, "%s", from);

        left = MIN(left, size - 1);
        for (size_t n; left > 0; to += n, left -= n) {
                n = utf8_sequence(to, left);
                if (n == 0) {
                        *to = '?';
                        n = 1;
                }
        }
}

static uint64_t number(const json_t *object, const char *key)
{
        long long value = json_get_number(object, key);

        return value > 0 ? (uint64_t)value : 0;
}

/* A second's worth of @delta; a counter that went back belongs to another life, and says nothing. */
static double per_second(uint64_t before, uint64_t after, nsec_t then, nsec_t now)
{
        return then == 0 || now <= then || after < before ? TOP_UNKNOWN : (double)(after - before) * 1e9 / (double)(now - then);
}

static void free_links(TopLink *links, size_t n)
{
        for (size_t i = 0; i < n; i++)
                json_decref(links[i].reasons);
        free(links);
}

void top_model_done(TopModel *model)
{
        free(model->nodes);
        free_links(model->links, model->n_links);
        json_decref(model->dataflows);
        json_decref(model->probed);
        *model = TOP_MODEL_NULL;
}

bool top_model_wants(const TopModel *model, const char *name, const char *uuid, bool ended)
{
        if (model->n_names == 0)
                return model->ended || !ended;
        for (size_t i = 0; i < model->n_names; i++) {
                size_t n = strlen(model->names[i]);

                if (strcmp(name, model->names[i]) == 0)
                        return model->ended || !ended;
                if (n >= UUID_BEGIN_MIN && strncmp(uuid, model->names[i], n) == 0)
                        return true; /* that one is meant, whatever became of it */
        }
        return false;
}

/* ---- finding: rows come in the same order each time, so the next one is where the last was found */

static TopNode *find_node(TopNode *nodes, size_t n, const char *uuid, const char *id, size_t *hint)
{
        for (size_t i = 0; i < n; i++) {
                TopNode *node = &nodes[(*hint + i) % n];

                if (strcmp(node->id, id) == 0 && strcmp(node->uuid, uuid) == 0) {
                        *hint = (*hint + i + 1) % n;
                        return node;
                }
        }
        return NULL;
}

static TopLink *find_link(TopLink *links, size_t n, const char *uuid, const char *to, const char *input, size_t *hint)
{
        for (size_t i = 0; i < n; i++) {
                TopLink *link = &links[(*hint + i) % n];

                if (strcmp(link->to, to) == 0 && strcmp(link->input, input) == 0 && strcmp(link->uuid, uuid) == 0) {
                        *hint = (*hint + i + 1) % n;
                        return link;
                }
        }
        return NULL;
}

const TopNode *top_model_node(const TopModel *model, const char *uuid, const char *id)
{
        size_t hint = 0;

        return find_node(model->nodes, model->n_nodes, uuid, id, &hint);
}

const TopLink *top_model_link(const TopModel *model, const char *uuid, const char *to, const char *input)
{
        size_t hint = 0;

        return find_link(model->links, model->n_links, uuid, to, input, &hint);
}

json_t *top_model_dataflow(const TopModel *model, const char *uuid)
{
        json_t *dataflow;
        size_t i;

        json_array_foreach(model->dataflows, i, dataflow)
                if (strcmp(json_get_text(dataflow, "uuid"), uuid) == 0)
                        return dataflow;
        return NULL;
}

/* ---- nodes */

/* What was measured of a life stays with it. */
static void inherit(TopNode *node, TopModel *model, size_t *hint)
{
        const TopNode *old = find_node(model->nodes, model->n_nodes, node->uuid, node->id, hint);

        bool same_life = old && old->generation == node->generation;

        node->usage = same_life ? old->usage : usage_unknown;
        node->calls = same_life ? old->calls : (TopCalls){.per_second = TOP_UNKNOWN};
        node->memory_max = old ? old->memory_max : 0;
}

static void take_nodes(TopModel *model, TopNode *take_nodes, size_t n, size_t n_dataflows)
{
        free(model->nodes);
        model->nodes = take_nodes;
        model->n_nodes = n;
        model->n_dataflows = n_dataflows;
}

/* A supervisor that answers is there, whatever its page looks like. */
static void put_daemon(TopModel *model, const StatusView *view, nsec_t now)
{
        TopDaemon *daemon = &model->daemon;
        bool lost = view->verdict == STATUS_VERDICT_NONE ||
                    (view->verdict == STATUS_VERDICT_WEDGED &&
                            (view->reason == STATUS_REASON_GONE || view->reason == STATUS_REASON_DEAD));

        if (model->answered_at && !daemon->silent_since)
                lost = false;

        daemon->verdict = view->verdict;
        daemon->reason = view->reason;
        copy(daemon->why, sizeof(daemon->why), view->why);
        copy(daemon->action, sizeof(daemon->action), view->action);
        if (!lost)
                daemon->lost_since = 0;
        else if (!daemon->lost_since)
                daemon->lost_since = daemon->silent_since ? daemon->silent_since : now;
        daemon->started_at = view->info.started_at_ns;
        daemon->pid = view->info.pid;
        daemon->guard_pid = view->info.guard_pid;
        daemon->guard = view->info.guard;
}

int top_model_put_page(TopModel *model, const StatusView *view, nsec_t now)
{
        TopNode *nodes;
        size_t n = 0, hint = 0, n_dataflows = 0;

        put_daemon(model, view, now);
        if (view->verdict == STATUS_VERDICT_NONE)
                return 0;
        nodes = calloc(view->n_nodes + 1, sizeof(*nodes));
        if (!nodes)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < view->n_dataflows; i++)
                n_dataflows += top_model_wants(model, view->dataflows[i].name, view->dataflows[i].uuid,
                        view->dataflows[i].state == STATUS_DATAFLOW_ENDED);
        for (size_t i = 0; i < view->n_nodes; i++) {
                const struct status_node *from = &view->nodes[i];
                const struct status_dataflow *d = &view->dataflows[from->dataflow];
                TopNode *node = &nodes[n];

                if (!top_model_wants(model, d->name, d->uuid, d->state == STATUS_DATAFLOW_ENDED))
                        continue;
                *node = (TopNode){.state = from->state, .health = from->health, .restarts = from->restarts,
                        .generation = from->generation, .pid = from->pid, .frozen = from->frozen || d->frozen,
                        .since = from->since_ns, .stuck_since = from->stuck_since_ns};
                copy(node->uuid, sizeof(node->uuid), d->uuid);
                copy(node->dataflow, sizeof(node->dataflow), d->name[0] ? d->name : d->uuid);
                copy(node->id, sizeof(node->id), from->id);
                inherit(node, model, &hint);
                n++;
        }
        take_nodes(model, nodes, n, n_dataflows);
        return 0;
}

/* ---- Status */

static uint32_t find_word(const char *word, uint32_t end, const char *(*to_string)(uint32_t))
{
        for (uint32_t i = 1; i < end; i++)
                if (strcmp(to_string(i), word) == 0)
                        return i;
        return 0;
}

static bool has_ended(const json_t *dataflow)
{
        return strcmp(json_get_text(dataflow, "state"), "ended") == 0;
}

static bool is_wanted(const TopModel *model, const json_t *dataflow)
{
        return top_model_wants(model, json_get_text(dataflow, "name"), json_get_text(dataflow, "uuid"), has_ended(dataflow));
}

static void node_from_json(TopNode *node, const json_t *dataflow, const json_t *from)
{
        *node = (TopNode){.state = find_word(json_get_text(from, "state"), _STATUS_NODE_MAX, status_node_state_to_string),
                .health = find_word(json_get_text(from, "health"), _STATUS_HEALTH_MAX, status_health_to_string),
                .restarts = (uint32_t)number(from, "restarts"), .generation = number(from, "generation"),
                .pid = (int32_t)number(from, "pid"), .frozen = json_is_true(json_object_get(from, "frozen")),
                .since = number(from, "since_at_ms") * NSEC_PER_MSEC, .stuck_since = number(from, "stuck_since_at_ms") * NSEC_PER_MSEC};
        copy(node->uuid, sizeof(node->uuid), json_get_text(dataflow, "uuid"));
        copy(node->dataflow, sizeof(node->dataflow), json_get_text(dataflow, "name"));
        copy(node->id, sizeof(node->id), json_get_text(from, "id"));
}

static uint64_t memory_max(const json_t *node)
{
        json_t *limit;
        size_t i;

        json_array_foreach(json_object_get(node, "limits"), i, limit)
                if (strcmp(json_get_text(limit, "key"), "memory_max") == 0 && json_is_true(json_object_get(limit, "enforced")))
                        return strtoull(json_get_text(limit, "value"), NULL, 10); /* "max": 0 */
        return 0;
}

static void link_from_json(TopLink *link, const json_t *dataflow, const json_t *node, const json_t *from, nsec_t now)
{
        const json_t *counters = json_object_get(from, "counters"), *reasons = json_object_get(counters, "dropped");
        const char *reason;
        json_t *dropped;

        *link = (TopLink){.queue_size = (uint32_t)number(from, "queue_size"), .counted = json_is_object(counters),
                .published = number(counters, "published"), .delivered = number(counters, "delivered"),
                .depth = number(counters, "depth"), .age_us = number(counters, "age_us"), .at = now, .rate = TOP_UNKNOWN,
                .drop_rate = TOP_UNKNOWN, .reasons = json_is_object(reasons) ? json_incref((json_t *)reasons) : NULL};
        json_object_foreach((json_t *)reasons, reason, dropped)
                link->dropped += (uint64_t)MAX(json_integer_value(dropped), (json_int_t)0);
        copy(link->uuid, sizeof(link->uuid), json_get_text(dataflow, "uuid"));
        copy(link->dataflow, sizeof(link->dataflow), json_get_text(dataflow, "name"));
        copy(link->from, sizeof(link->from), json_get_text(from, "source"));
        copy(link->output, sizeof(link->output), json_get_text(from, "output"));
        copy(link->to, sizeof(link->to), json_get_text(node, "id"));
        copy(link->input, sizeof(link->input), json_get_text(from, "input"));
        copy(link->state, sizeof(link->state), json_get_text(from, "state"));
        copy(link->policy, sizeof(link->policy), json_get_text(from, "queue_policy"));
}

static void compare_link(TopLink *link, TopModel *model, size_t *hint)
{
        const TopLink *old = find_link(model->links, model->n_links, link->uuid, link->to, link->input, hint);

        if (!old || !old->counted || !link->counted)
                return;
        link->rate = per_second(old->published, link->published, old->at, link->at);
        link->drop_rate = per_second(old->dropped, link->dropped, old->at, link->at);
}

static size_t count_rows(const TopModel *model, const json_t *dataflows, size_t *ret_links, size_t *ret_dataflows)
{
        json_t *dataflow, *node;
        size_t i, k, n = 0;

        *ret_links = *ret_dataflows = 0;
        json_array_foreach(dataflows, i, dataflow) {
                if (!is_wanted(model, dataflow))
                        continue;
                ++*ret_dataflows;
                n += json_array_size(json_object_get(dataflow, "nodes"));
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        *ret_links += json_array_size(json_object_get(node, "links"));
        }
        return n;
}

int top_model_put_status(TopModel *model, json_t *dataflows, nsec_t now)
{
        bool nodes_too = model->daemon.verdict == STATUS_VERDICT_NONE;
        size_t n_nodes, n_links, n_dataflows, at_node = 0, at_link = 0, hint = 0, link_hint = 0, max_hint = 0, i, k, l;
        json_t *dataflow, *node, *link;
        TopNode *nodes;
        TopLink *links;

        if (!json_is_array(dataflows))
                return error_origin(-EBADMSG);
        n_nodes = count_rows(model, dataflows, &n_links, &n_dataflows);
        nodes = calloc(n_nodes + 1, sizeof(*nodes));
        links = calloc(n_links + 1, sizeof(*links));
        if (!nodes || !links) {
                free(nodes);
                free(links);
                return error_origin(-ENOMEM);
        }
        json_array_foreach(dataflows, i, dataflow) {
                if (!is_wanted(model, dataflow))
                        continue;
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node) {
                        node_from_json(&nodes[at_node], dataflow, node);
                        inherit(&nodes[at_node++], model, &hint);
                        json_array_foreach(json_object_get(node, "links"), l, link) {
                                link_from_json(&links[at_link], dataflow, node, link, now);
                                compare_link(&links[at_link++], model, &link_hint);
                        }
                }
        }
        if (nodes_too)
                take_nodes(model, TAKE_PTR(nodes), at_node, n_dataflows);
        free(nodes);
        free_links(model->links, model->n_links);
        model->links = links;
        model->n_links = at_link;
        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                {
                        TopNode *known = find_node(model->nodes, model->n_nodes, json_get_text(dataflow, "uuid"),
                                json_get_text(node, "id"), &max_hint);

                        if (known)
                                known->memory_max = memory_max(node);
                }
        json_decref(model->dataflows);
        model->dataflows = json_incref(dataflows);
        model->answered_at = now;
        model->daemon.silent_since = 0;
        if (nodes_too)
                model->daemon.lost_since = 0;
        return 0;
}

void top_model_put_silence(TopModel *model, const char *why, nsec_t now)
{
        if (!model->daemon.silent_since)
                model->daemon.silent_since = now;
        model->daemon.silent_why = why;
}

/* ---- usage */

static void compare_usage(TopUsage *new, const TopUsage *old)
{
        nsec_t then = old->by_look == new->by_look ? old->at : 0; /* a cgroup counts the dead, too */
        double cpu = per_second(old->cpu_ns, new->cpu_ns, then, new->at);
        double throttled = per_second(old->throttled_ns, new->throttled_ns, then, new->at);

        new->cpu_percent = cpu < 0 ? TOP_UNKNOWN : cpu / 1e7;
        new->throttled_percent = throttled < 0 ? TOP_UNKNOWN : throttled / 1e7;
}

static double percent(const json_t *pressure, const char *resource, const char *key)
{
        const json_t *value = json_object_get(json_object_get(pressure, resource), key);

        return json_is_number(value) && json_number_value(value) >= 0 ? json_number_value(value) : TOP_UNKNOWN;
}

void top_model_put_usage(TopModel *model, const char *uuid, const json_t *usage, nsec_t now)
{
        size_t i, hint = 0;
        json_t *from;

        json_array_foreach(usage, i, from) {
                TopNode *node = find_node(model->nodes, model->n_nodes, uuid, json_get_text(from, "node"), &hint);
                const json_t *pressure = json_object_get(from, "pressure");
                TopUsage new = usage_unknown;

                if (!node || number(from, "generation") != node->generation)
                        continue;
                new.at = number(from, "at_ms") * NSEC_PER_MSEC; /* when it was read, which may be a while ago */
                if (new.at == 0 || new.at > now)
                        new.at = now;
                new.cpu_ns = number(from, "cpu_ns");
                new.memory_bytes = number(from, "memory_bytes");
                new.memory_peak_bytes = number(from, "memory_peak_bytes");
                new.throttled_ns = number(from, "throttled_ns");
                new.processes = (uint32_t)number(from, "processes");
                new.threads = (uint32_t)number(from, "threads");
                compare_usage(&new, &node->usage);
                if (!json_is_integer(json_object_get(from, "throttled_ns")))
                        new.throttled_percent = TOP_UNKNOWN;
                for (int p = 0; p < _TOP_PRESSURE_MAX; p++) {
                        new.some[p] = percent(pressure, pressure_names[p], "some");
                        new.full[p] = percent(pressure, pressure_names[p], "full");
                }
                node->usage = new;
        }
}

/* "camera.3/deeper" is of the third life of camera. */
static bool is_of(const char *path, const TopNode *node)
{
        char name[160];
        size_t n = (size_t)snprintf(name, sizeof(name), "%s.%" PRIu64, node->id, node->generation);

        return n < sizeof(name) && strncmp(path, name, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static void add_group(TopUsage *usage, const json_t *group)
{
        json_t *process;
        size_t i;

        json_array_foreach(json_object_get(group, "processes"), i, process) {
                usage->cpu_ns += number(process, "cpu_ms") * NSEC_PER_MSEC;
                usage->memory_bytes += number(process, "memory");
                usage->processes++;
        }
}

void top_model_put_look(TopModel *model, const char *uuid, const json_t *entry, nsec_t now)
{
        json_t *groups = json_object_get(entry, "groups"), *group;
        size_t i;

        for (size_t k = 0; k < model->n_nodes && json_is_array(groups); k++) {
                TopNode *node = &model->nodes[k];
                TopUsage new = usage_unknown;

                if (strcmp(node->uuid, uuid) != 0 || (!node->usage.by_look && top_usage_fresh(model, &node->usage, now)))
                        continue;
                json_array_foreach(groups, i, group)
                        if (is_of(json_get_text(group, "path"), node))
                                add_group(&new, group);
                if (new.processes == 0)
                        continue;
                new.at = now;
                new.by_look = true;
                compare_usage(&new, &node->usage);
                new.throttled_percent = TOP_UNKNOWN;
                node->usage = new;
        }
}

/* ---- system calls */

static json_t *find_calls(const json_t *probes, const TopNode *node)
{
        json_t *probed;
        size_t i;

        json_array_foreach(json_object_get(probes, "nodes"), i, probed)
                if (strcmp(json_get_text(probed, "node"), node->id) == 0 && number(probed, "generation") == node->generation)
                        return probed;
        return NULL;
}

static const json_t *find_call(const json_t *probed, const json_t *like)
{
        json_t *call;
        size_t i;

        json_array_foreach(json_object_get(probed, "calls"), i, call)
                if (strcmp(json_get_text(call, "call"), json_get_text(like, "call")) == 0)
                        return call;
        return NULL;
}

/* Where calls cannot be counted threads may have been looked at. */
static bool has_samples(const json_t *probes)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(probes, "nodes"), i, node)
                if (json_is_object(json_object_get(node, "sampled")))
                        return true;
        return false;
}

/* What came between two answers: how many, and which took longest. */
static void compare_calls(TopNode *node, const json_t *probed, const json_t *before, nsec_t span_ns, nsec_t now)
{
        uint64_t n = 0;
        json_t *call;
        size_t i;

        node->calls = (TopCalls){.at = now, .per_second = TOP_UNKNOWN};
        json_array_foreach(json_object_get(probed, "calls"), i, call) {
                const json_t *old = find_call(before, call);
                Histogram took, then;
                uint64_t p99;

                histogram_read(&took, json_object_get(call, "log2_ns"));
                histogram_read(&then, json_object_get(old, "log2_ns"));
                histogram_minus(&took, &then);
                n += took.sum;
                p99 = histogram_quantile(&took, 0.99);
                if (took.sum == 0 || p99 <= node->calls.worst_p99_ns)
                        continue;
                node->calls.worst_p99_ns = p99;
                copy(node->calls.worst, sizeof(node->calls.worst), json_get_text(call, "call"));
        }
        if (before && span_ns > 0)
                node->calls.per_second = (double)n * 1e9 / (double)span_ns;
}

void top_model_put_probes(TopModel *model, const char *uuid, json_t *probes, nsec_t now)
{
        json_t *before = json_object_get(model->probed, uuid);
        nsec_t span_ns = (number(probes, "at_ms") - number(before, "at_ms")) * NSEC_PER_MSEC;

        bool attached = json_is_true(json_object_get(probes, "attached"));

        if (!attached && !has_samples(probes)) {
                (void)json_object_del(model->probed, uuid);
                return;
        }
        if (number(probes, "at_ms") <= number(before, "at_ms") || number(probes, "attached_at_ms") != number(before, "attached_at_ms"))
                before = NULL; /* not to be compared: they were attached anew */
        for (size_t i = 0; attached && i < model->n_nodes; i++) {
                TopNode *node = &model->nodes[i];
                const json_t *probed = strcmp(node->uuid, uuid) == 0 ? find_calls(probes, node) : NULL;

                if (probed)
                        compare_calls(node, probed, find_calls(before, node), span_ns, now);
        }
        if (!model->probed)
                model->probed = json_object();
        (void)json_object_set(model->probed, uuid, probes);
}

json_t *top_model_calls(const TopModel *model, const TopNode *node)
{
        return find_calls(json_object_get(model->probed, node->uuid), node);
}

json_t *top_model_queue(const TopModel *model, const TopLink *link)
{
        json_t *queue;
        size_t i;

        json_array_foreach(json_object_get(json_object_get(model->probed, link->uuid), "links"), i, queue)
                if (strcmp(json_get_text(queue, "to"), link->to) == 0 && strcmp(json_get_text(queue, "input"), link->input) == 0 &&
                        strcmp(json_get_text(queue, "from"), link->from) == 0 && strcmp(json_get_text(queue, "output"), link->output) == 0)
                        return queue;
        return NULL;
}

double top_model_probe_share(const TopModel *model)
{
        static const char *const costs[] = {"cost", "queue_cost"};
        double sum = TOP_UNKNOWN;
        const char *uuid;
        json_t *probes;

        json_object_foreach(model->probed, uuid, probes) {
                for (size_t i = 0; i < ELEMENTSOF(costs); i++) {
                        const json_t *share = json_object_get(json_object_get(probes, costs[i]), "share");

                        if (json_is_number(share) && json_number_value(share) >= 0)
                                sum = MAX(sum, 0.0) + json_number_value(share);
                }
        }
        return sum;
}

bool top_calls_fresh(const TopModel *model, const TopCalls *calls, nsec_t now)
{
        return calls->at != 0 && now < nsec_add(calls->at, model->fresh_span);
}

bool top_usage_fresh(const TopModel *model, const TopUsage *usage, nsec_t now)
{
        return usage->at != 0 && now < nsec_add(usage->at, model->fresh_span);
}

bool top_link_fresh(const TopModel *model, const TopLink *link, nsec_t now)
{
        return link->counted && now < nsec_add(link->at, model->fresh_span);
}

double top_link_fill(const TopLink *link)
{
        return link->queue_size == 0 ? TOP_UNKNOWN : (double)link->depth / (double)link->queue_size;
}

/* ---- the host */

static double find_avg10(const char *text, const char *line)
{
        const char *at = text ? strstr(text, line) : NULL;
        double value;

        at = at ? strstr(at, "avg10=") : NULL;
        return at && sscanf(at, "avg10=%lf", &value) == 1 && value >= 0 ? value : TOP_UNKNOWN;
}

static void put_cpu(TopHost *host, const char *stat)
{
        unsigned long long f[8] = {};
        uint64_t total = 0, idle;
        unsigned n_cpus = 0;

        host->cpu_percent = TOP_UNKNOWN;
        if (!stat || sscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7]) < 4)
                return;
        for (size_t i = 0; i < ELEMENTSOF(f); i++)
                total += f[i];
        idle = f[3] + f[4]; /* and waiting for a disk */
        for (const char *at = stat; (at = strstr(at, "\ncpu")); at += 4)
                n_cpus++;
        if (host->total && total > host->total && total - idle >= host->busy)
                host->cpu_percent = MIN(100.0 * (double)(total - idle - host->busy) / (double)(total - host->total), 100.0);
        host->busy = total - idle;
        host->total = total;
        host->n_cpus = n_cpus;
}

void top_host_put(TopHost *host, const char *stat, const char *const pressure[static _TOP_PRESSURE_MAX], nsec_t now)
{
        host->at = now;
        put_cpu(host, stat);
        for (int p = 0; p < _TOP_PRESSURE_MAX; p++) {
                host->some[p] = find_avg10(pressure[p], "some ");
                host->full[p] = find_avg10(pressure[p], "full ");
        }
}

/* ---- JSON */

static json_t *figure(bool known, double value)
{
        return known && value >= 0 ? json_real(value) : json_null();
}

static json_t *count(bool known, uint64_t value)
{
        return known ? json_integer((json_int_t)value) : json_null();
}

/* Null where nothing of it is known. */
static json_t *pressure_json(bool known, const double some[static _TOP_PRESSURE_MAX], const double full[static _TOP_PRESSURE_MAX])
{
        json_t *all = json_object();

        for (int p = 0; p < _TOP_PRESSURE_MAX; p++)
                if (known && some[p] >= 0)
                        (void)json_object_set_new(all, pressure_names[p],
                                json_pack("{so so}", "some", json_real(some[p]), "full", figure(true, full[p])));
        if (json_object_size(all) > 0)
                return all;
        json_decref(all);
        return json_null();
}

static json_t *node_json(const TopModel *model, const TopNode *node, nsec_t now)
{
        const TopUsage *u = &node->usage;
        bool known = top_usage_fresh(model, u, now), counted = top_calls_fresh(model, &node->calls, now);

        return json_pack("{ss ss ss ss ss sb sI si si sI so so so so so so so so so ss? so}", "uuid", node->uuid, "dataflow", node->dataflow,
                "node", node->id, "state", status_node_state_to_string(node->state), "health", status_health_to_string(node->health),
                "frozen", node->frozen, "generation", (json_int_t)node->generation, "restarts", (int)node->restarts, "pid", node->pid,
                "since_at_ms", (json_int_t)(node->since / NSEC_PER_MSEC), "cpu_percent", figure(known, u->cpu_percent), "memory_bytes",
                count(known, u->memory_bytes), "memory_peak_bytes", count(known && u->memory_peak_bytes, u->memory_peak_bytes),
                "memory_max_bytes", count(node->memory_max > 0, node->memory_max), "processes", count(known, u->processes), "threads",
                count(known && u->threads, u->threads), "throttled_percent", figure(known, u->throttled_percent), "pressure",
                pressure_json(known, u->some, u->full), "calls_per_second", figure(counted, node->calls.per_second), "worst_call",
                counted && node->calls.worst[0] ? node->calls.worst : NULL, "worst_call_p99_ns",
                count(counted && node->calls.worst[0], node->calls.worst_p99_ns));
}

static json_t *link_json(const TopModel *model, const TopLink *link, nsec_t now)
{
        bool known = top_link_fresh(model, link, now);

        return json_pack("{ss ss ss ss ss ss ss ss si so so so so so so so so sO?}", "uuid", link->uuid, "dataflow", link->dataflow,
                "from", link->from, "output", link->output, "to", link->to, "input", link->input, "state", link->state, "queue_policy",
                link->policy, "queue_size", (int)link->queue_size, "rate", figure(known, link->rate), "published",
                count(known, link->published), "delivered", count(known, link->delivered), "depth", count(known, link->depth), "fill",
                figure(known, top_link_fill(link)), "age_us", count(known, link->age_us), "drops", count(known, link->dropped),
                "drop_rate", figure(known, link->drop_rate), "dropped", link->reasons);
}

json_t *top_model_json(const TopModel *model, nsec_t now)
{
        json_t *nodes = json_array(), *links = json_array(), *host, *daemon;
        const TopDaemon *d = &model->daemon;

        for (size_t i = 0; i < model->n_nodes; i++)
                (void)json_array_append_new(nodes, node_json(model, &model->nodes[i], now));
        for (size_t i = 0; i < model->n_links; i++)
                (void)json_array_append_new(links, link_json(model, &model->links[i], now));
        host = json_pack("{so si so}", "cpu_percent", figure(true, model->host.cpu_percent), "n_cpus", (int)model->host.n_cpus, "pressure",
                pressure_json(true, model->host.some, model->host.full));
        daemon = json_pack("{ss ss ss si si sb}", "verdict", status_verdict_to_string(d->verdict), "reason", status_reason_to_string(d->reason),
                "text", d->why, "pid", d->pid, "guard_pid", d->guard_pid, "answers", d->silent_since == 0);
        return json_pack("{sI so so so so}", "at_ms", (json_int_t)(now / NSEC_PER_MSEC), "supervisor", daemon, "host", host, "nodes", nodes,
                "links", links);
}
