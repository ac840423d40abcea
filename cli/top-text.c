/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/histogram.h"
#include "cli/print.h"

#define TREE_DEPTH 32

void top_text_done(TopText *text)
{
        for (size_t i = 0; i < text->n; i++)
                free(text->lines[i]);
        free(text->lines);
        *text = TOP_TEXT_NULL;
}

void top_text_add(TopText *text, const char *format, ...)
{
        char *line, **grown;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&line, format, ap);
        va_end(ap);
        if (r < 0)
                return;
        if (text->n == TOP_TEXT_MAX) {
                free(text->lines[0]);
                memmove(text->lines, text->lines + 1, (text->n - 1) * sizeof(*text->lines));
                text->n--;
        }
        if (text->n == text->room) {
                grown = reallocarray(text->lines, text->room + 64, sizeof(*text->lines));
                if (!grown) {
                        free(line);
                        return;
                }
                text->lines = grown;
                text->room += 64;
        }
        text->lines[text->n++] = line;
}

/* ---- figures */

/* Three digits and a unit. */
static const char *format_scaled(char *buffer, size_t size, double value, double step, const char *const units[], size_t n)
{
        size_t unit = 0;

        for (; value >= step * 0.9995 && unit + 1 < n; unit++)
                value /= step;
        (void)snprintf(buffer, size, "%.*f%s", value >= 99.95 || (unit == 0 && step == 1024) ? 0 : value >= 9.995 ? 1 : 2, value, units[unit]);
        return buffer;
}

static const char *unknown(char *buffer, size_t size)
{
        (void)snprintf(buffer, size, "-");
        return buffer;
}

const char *top_format_bytes(char *buffer, size_t size, double bytes)
{
        static const char *const units[] = {"B", "K", "M", "G", "T", "P"};

        return bytes < 0 ? unknown(buffer, size) : format_scaled(buffer, size, bytes, 1024, units, ELEMENTSOF(units));
}

const char *top_format_rate(char *buffer, size_t size, double per_second)
{
        static const char *const units[] = {"", "k", "M", "G"};

        if (per_second < 0)
                return unknown(buffer, size);
        if (per_second < 1000) {
                (void)snprintf(buffer, size, "%.1f", per_second);
                return buffer;
        }
        return format_scaled(buffer, size, per_second, 1000, units, ELEMENTSOF(units));
}

const char *top_format_ns(char *buffer, size_t size, double ns)
{
        static const char *const units[] = {"ns", "us", "ms", "s"};

        return ns < 0 ? unknown(buffer, size) : format_scaled(buffer, size, ns, 1000, units, ELEMENTSOF(units));
}

const char *top_format_uptime(char *buffer, size_t size, nsec_t since, nsec_t now)
{
        uint64_t s = since && now > since ? (now - since) / NSEC_PER_SEC : 0;

        if (since == 0)
                return unknown(buffer, size);
        if (s >= 100 * 3600)
                (void)snprintf(buffer, size, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
        else
                (void)snprintf(buffer, size, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60, s % 60);
        return buffer;
}

/* ---- details of a node */

static void add_limits(TopText *text, const json_t *node)
{
        json_t *limit;
        size_t i;

        json_array_foreach(json_object_get(node, "limits"), i, limit)
                top_text_add(text, "%-14s %s = %s%s%s", i == 0 ? "limits" : "", json_get_text(limit, "key"), json_get_text(limit, "value"),
                        json_is_true(json_object_get(limit, "enforced")) ? "" : ", not enforced: ",
                        json_is_true(json_object_get(limit, "enforced")) ? "" : json_get_text(limit, "reason"));
}

static void add_felt(TopText *text, const json_t *node)
{
        const json_t *felt = json_object_get(node, "felt");
        char peak[32];

        if (!json_is_object(felt))
                return;
        format_bytes(peak, sizeof(peak), (unsigned long long)MAX(json_get_number(felt, "memory_peak"), 0LL));
        top_text_add(text, "%-14s memory peak %s, %lld OOM kills, %lld forks refused, throttled %lld ms", "felt of them", peak,
                json_get_number(felt, "oom_kills"), json_get_number(felt, "forks_refused"), json_get_number(felt, "throttled_ms"));
}

static void add_lives(TopText *text, const json_t *node, const TopNode *known)
{
        const json_t *ended = json_object_get(node, "exit");
        json_t *left;
        size_t i;

        top_text_add(text, "%-14s %" PRIu64 ", restarted %u times", "incarnation", known->generation, known->restarts);
        if (json_is_object(ended))
                top_text_add(text, "%-14s %s %lld", "the last ended", json_get_text(ended, "code"), json_get_number(ended, "status"));
        if (json_get_text(node, "error")[0])
                top_text_add(text, "%-14s %s", "error", json_get_text(node, "error"));
        json_array_foreach(json_object_get(node, "leftovers"), i, left)
                top_text_add(text, "%-14s of incarnation %lld: %s, %lld tasks", "left", json_get_number(left, "generation"),
                        json_get_text(left, "verdict"), json_get_number(left, "n_tasks"));
}

static void add_usage(TopText *text, const TopModel *model, const TopNode *node, nsec_t now)
{
        static const char *const names[_TOP_PRESSURE_MAX] = {"CPU pressure", "memory press.", "I/O pressure"};
        const TopUsage *u = &node->usage;
        char bytes[32];

        if (!top_usage_fresh(model, u, now)) {
                top_text_add(text, "%-14s not known now", "usage");
                return;
        }
        if (u->cpu_percent >= 0)
                top_text_add(text, "%-14s %.1f %% of one CPU", "CPU", u->cpu_percent);
        if (u->throttled_percent >= 0)
                top_text_add(text, "%-14s for %.1f %% of one CPU's time", "throttled", u->throttled_percent);
        format_bytes(bytes, sizeof(bytes), u->memory_bytes);
        top_text_add(text, "%-14s %s", "memory", bytes);
        if (u->memory_peak_bytes) {
                format_bytes(bytes, sizeof(bytes), u->memory_peak_bytes);
                top_text_add(text, "%-14s %s", "at most", bytes);
        }
        top_text_add(text, "%-14s %u", "processes", u->processes);
        if (u->threads)
                top_text_add(text, "%-14s %u", "threads", u->threads);
        for (int p = 0; p < _TOP_PRESSURE_MAX; p++)
                if (u->some[p] >= 0)
                        top_text_add(text, "%-14s %.2f %% some, %.2f %% full, of the last 10 s", names[p], u->some[p], MAX(u->full[p], 0.0));
}

/* ---- system calls of a node: most time first */

static int by_total(const void *a, const void *b)
{
        long long x = json_get_number(*(json_t *const *)a, "total_ns"), y = json_get_number(*(json_t *const *)b, "total_ns");

        return x < y ? 1 : x > y ? -1 : 0;
}

static void add_call(TopText *text, const json_t *call)
{
        char p50[16], p99[16], total[16];
        Histogram took;

        histogram_read(&took, json_object_get(call, "log2_ns"));
        top_text_add(text, "  %-18.18s %10lld %8lld %8s %8s %8s", json_get_text(call, "call"), json_get_number(call, "count"),
                json_get_number(call, "errors"), histogram_format_ns(histogram_quantile(&took, 0.5), p50, sizeof(p50)),
                histogram_format_ns(histogram_quantile(&took, 0.99), p99, sizeof(p99)),
                histogram_format_ns((uint64_t)MAX(json_get_number(call, "total_ns"), 0LL), total, sizeof(total)));
}

/* Where they are not counted: in which calls its threads were found. */
static void add_samples(TopText *text, const json_t *sampled)
{
        long long threads = json_get_number(sampled, "threads");
        json_t *call;
        size_t i;

        if (threads <= 0)
                return;
        top_text_add(text, "%s", "");
        top_text_add(text, "  %lld threads found in %lld looks: %.0f %% of them in no call, the others in", threads, json_get_number(sampled, "looks"),
                100.0 * (double)json_get_number(sampled, "outside") / (double)threads);
        json_array_foreach(json_object_get(sampled, "calls"), i, call)
                top_text_add(text, "  %-18.18s %9.0f %%", json_get_text(call, "call"), 100.0 * (double)json_get_number(call, "samples") / (double)threads);
}

static void add_calls(TopText *text, const TopModel *model, const TopNode *node)
{
        const json_t *calls = json_object_get(top_model_calls(model, node), "calls");
        size_t n = json_array_size(calls);
        _cleanup_free_ json_t **sorted = calloc(n + 1, sizeof(*sorted));

        if (n == 0 || !sorted)
                return;
        for (size_t i = 0; i < n; i++)
                sorted[i] = json_array_get(calls, i);
        qsort(sorted, n, sizeof(*sorted), by_total);
        top_text_add(text, "%s", "");
        top_text_add(text, "  %-18s %10s %8s %8s %8s %8s", "SYSTEM CALL", "COUNT", "ERRORS", "P50", "P99", "IN ALL");
        for (size_t i = 0; i < n; i++)
                add_call(text, sorted[i]);
}

static void add_link_line(TopText *text, const TopModel *model, const TopLink *l, const char *arrow, const char *other, nsec_t now)
{
        char rate[32];
        bool known = top_link_fresh(model, l, now);

        if (known)
                top_text_add(text, "  %s %s  %s/s, depth %" PRIu64 "/%u, dropped %" PRIu64, arrow, other,
                        top_format_rate(rate, sizeof(rate), l->rate), l->depth, l->queue_size, l->dropped);
        else
                top_text_add(text, "  %s %s  %s", arrow, other, l->state);
}

static void add_links(TopText *text, const TopModel *model, const TopNode *node, nsec_t now)
{
        char name[600];

        for (size_t i = 0; i < model->n_links; i++) {
                const TopLink *l = &model->links[i];

                if (strcmp(l->uuid, node->uuid) != 0)
                        continue;
                if (strcmp(l->to, node->id) == 0) {
                        (void)snprintf(name, sizeof(name), "%s from %s/%s", l->input, l->from, l->output);
                        add_link_line(text, model, l, "<-", name, now);
                }
                if (strcmp(l->from, node->id) == 0) {
                        (void)snprintf(name, sizeof(name), "%s to %s/%s", l->output, l->to, l->input);
                        add_link_line(text, model, l, "->", name, now);
                }
        }
}

static const json_t *find_node(const json_t *dataflow, const char *id)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node)
                if (strcmp(json_get_text(node, "id"), id) == 0)
                        return node;
        return NULL;
}

static void node_details(TopText *text, const TopModel *model, const TopUi *ui, nsec_t now)
{
        const TopNode *node = top_model_node(model, ui->uuid, ui->node);
        const json_t *more = find_node(top_model_dataflow(model, ui->uuid), ui->node);
        char since[32];

        if (!node) {
                top_text_add(text, "%s is not there any more", ui->node);
                return;
        }
        top_text_add(text, "%-14s %s (%s)", "dataflow", node->dataflow, node->uuid);
        top_text_add(text, "%-14s %s%s%s, for %s", "state", status_node_state_to_string(node->state),
                node->health == STATUS_HEALTH_STUCK ? ", STUCK" : "", node->frozen ? ", frozen" : "",
                top_format_uptime(since, sizeof(since), node->since, now));
        if (node->health == STATUS_HEALTH_STUCK)
                top_text_add(text, "%-14s %s", "stuck for", top_format_uptime(since, sizeof(since), node->stuck_since, now));
        if (node->pid)
                top_text_add(text, "%-14s %d", "pid", node->pid);
        add_lives(text, more, node);
        add_usage(text, model, node, now);
        add_limits(text, more);
        add_felt(text, more);
        top_text_add(text, "%s", "");
        add_links(text, model, node, now);
        add_calls(text, model, node);
        add_samples(text, json_object_get(top_model_calls(model, node), "sampled"));
}

/* ---- details of a link */

/* What probes saw of its messages. Depths are whole numbers below the end of their bucket. */
static void add_queue(TopText *text, const json_t *queue)
{
        char p50[16], p99[16], most[16];
        Histogram h;

        histogram_read(&h, json_object_get(queue, "depth_log2"));
        if (h.sum == 0)
                return;
        top_text_add(text, "%s", "");
        if (strcmp(json_get_text(queue, "source"), "counters") == 0)
                top_text_add(text, "%-14s %lld times, nothing waited in %lld", "looked at", json_get_number(queue, "sampled"), json_get_number(queue, "empty"));
        else
                top_text_add(text, "%-14s %lld messages, one in %lld", "probed", json_get_number(queue, "sampled"), MAX(json_get_number(queue, "one_in"), 1LL));
        top_text_add(text, "  %-12s %" PRIu64 " p50, %" PRIu64 " p99, %" PRIu64 " at most", "waited", histogram_quantile(&h, 0.5) - 1, histogram_quantile(&h, 0.99) - 1,
                histogram_quantile(&h, 1) - 1);
        histogram_read(&h, json_object_get(queue, "age_log2_ns"));
        if (h.sum > 0)
                top_text_add(text, "  %-12s %s p50, %s p99, %s at most", "age", histogram_format_ns(histogram_quantile(&h, 0.5), p50, sizeof(p50)),
                        histogram_format_ns(histogram_quantile(&h, 0.99), p99, sizeof(p99)), histogram_format_ns(histogram_quantile(&h, 1), most, sizeof(most)));
}

static void link_details(TopText *text, const TopModel *model, const TopUi *ui, nsec_t now)
{
        const TopLink *l = top_model_link(model, ui->link_uuid, ui->link_to, ui->link_input);
        const char *reason;
        char rate[32], age[32];
        json_t *n;

        if (!l) {
                top_text_add(text, "the link to %s/%s is not there any more", ui->link_to, ui->link_input);
                return;
        }
        top_text_add(text, "%-14s %s (%s)", "dataflow", l->dataflow, l->uuid);
        top_text_add(text, "%-14s %s/%s", "from", l->from, l->output);
        top_text_add(text, "%-14s %s/%s", "to", l->to, l->input);
        top_text_add(text, "%-14s %s, %s, at most %u in its queue", "state", l->state, l->policy, l->queue_size);
        if (!top_link_fresh(model, l, now)) {
                top_text_add(text, "%-14s not known now", "counters");
                return;
        }
        top_text_add(text, "%-14s %" PRIu64 ", %s a second", "published", l->published, top_format_rate(rate, sizeof(rate), l->rate));
        top_text_add(text, "%-14s %" PRIu64, "delivered", l->delivered);
        top_text_add(text, "%-14s %" PRIu64 "%s%s", "waiting", l->depth, l->depth ? ", the first for " : "",
                l->depth ? top_format_ns(age, sizeof(age), 1000.0 * (double)l->age_us) : "");
        top_text_add(text, "%-14s %" PRIu64 ", %s a second", "dropped", l->dropped, top_format_rate(rate, sizeof(rate), l->drop_rate));
        json_object_foreach(l->reasons, reason, n)
                top_text_add(text, "  %-12s %lld", reason, (long long)json_integer_value(n));
        add_queue(text, top_model_queue(model, l));
        if (json_get_text(json_object_get(model->probed, l->uuid), "queue_reason")[0])
                top_text_add(text, "%-14s not of messages: %s", "probed", json_get_text(json_object_get(model->probed, l->uuid), "queue_reason"));
}

void top_text_details(TopText *text, const TopModel *model, const TopUi *ui, nsec_t now)
{
        if (ui->on_links)
                link_details(text, model, ui, now);
        else
                node_details(text, model, ui, now);
}

/* ---- processes */

typedef struct Tree {
        TopText *text;
        const json_t *processes, *before;
        nsec_t span_ns;
        bool ascii;
} Tree;

static const json_t *find_process(const json_t *entry, long long pid)
{
        json_t *group, *process;
        size_t i, k;

        json_array_foreach(json_object_get(entry, "groups"), i, group)
                json_array_foreach(json_object_get(group, "processes"), k, process)
                        if (json_get_number(process, "pid") == pid)
                                return process;
        return NULL;
}

static bool is_in(const json_t *processes, long long pid)
{
        json_t *process;
        size_t i;

        json_array_foreach(processes, i, process)
                if (json_get_number(process, "pid") == pid)
                        return true;
        return false;
}

static void add_process(const Tree *tree, const json_t *process, const char *indent, bool last)
{
        const json_t *before = find_process(tree->before, json_get_number(process, "pid"));
        long long cpu_ms = json_get_number(process, "cpu_ms") - json_get_number(before, "cpu_ms");
        char memory[32], cpu[32] = "-";

        if (before && tree->span_ns > 0 && cpu_ms >= 0)
                (void)snprintf(cpu, sizeof(cpu), "%.1f%%", 1e8 * (double)cpu_ms / (double)tree->span_ns);
        top_text_add(tree->text, "%s%s%lld %s  %s  %s  %s", indent, tree->ascii ? (last ? "`-" : "|-") : last ? "\u2514\u2500" : "\u251c\u2500",
                json_get_number(process, "pid"), json_get_text(process, "comm"), json_get_text(process, "state"), cpu,
                top_format_bytes(memory, sizeof(memory), (double)json_get_number(process, "memory")));
}

/* Those whose parent is @parent; -1: whose parent is none of them. */
static bool is_child(const Tree *tree, const json_t *process, long long parent)
{
        long long ppid = json_get_number(process, "ppid");

        return parent < 0 ? !is_in(tree->processes, ppid) : ppid == parent && json_get_number(process, "pid") != parent;
}

static void add_children(const Tree *tree, long long parent, const char *indent, unsigned depth)
{
        json_t *process;
        size_t i, left = 0;

        if (depth >= TREE_DEPTH || tree->text->n >= TOP_TEXT_MAX - 1)
                return;
        json_array_foreach(tree->processes, i, process)
                left += is_child(tree, process, parent);
        json_array_foreach(tree->processes, i, process) {
                char deeper[8 * TREE_DEPTH];

                if (!is_child(tree, process, parent) || tree->text->n >= TOP_TEXT_MAX - 1)
                        continue;
                left--;
                add_process(tree, process, indent, left == 0);
                (void)snprintf(deeper, sizeof(deeper), "%.200s%s", indent, left == 0 ? "  " : tree->ascii ? "| " : "\u2502 ");
                add_children(tree, json_get_number(process, "pid"), deeper, depth + 1);
        }
}

void top_text_tree(TopText *text, const json_t *entry, const json_t *before, nsec_t span_ns, bool ascii)
{
        json_t *group;
        size_t i;

        json_array_foreach(json_object_get(entry, "groups"), i, group) {
                const json_t *processes = json_object_get(group, "processes");
                const char *path = json_get_text(group, "path");
                Tree tree = {.text = text, .processes = processes, .before = before, .span_ns = span_ns, .ascii = ascii};

                if (json_array_size(processes) == 0)
                        continue;
                top_text_add(text, "%s", path[0] ? path : "(of the dataflow)");
                add_children(&tree, -1, "  ", 0);
        }
        if (text->n == 0)
                top_text_add(text, "no process of it can be seen");
}

/* ---- help */

void top_text_help(TopText *text, const TopUi *ui)
{
        static const char *const lines[] = {
                "up, down, j, k     move; Page Up, Page Down, Home, End",
                "Tab                between nodes and links",
                "<, >, left, right  what they are ordered by; I: the other way round",
                "  nodes            N name, S state, C CPU, M memory, P pressure, Y system calls,",
                "                   W worst call, R restarts, U uptime",
                "  links            N name, R rate, Q queue, D drops, A age",
                "/                  only those with that in their name; Escape: all again",
                "Enter              all about the selected node or link",
                "e                  dataflows that have ended, too",
                "t                  the processes of its dataflow",
                "l                  what the node printed last",
        };
        static const char *const end[] = {
                "space              stand still, and go on",
                "h, ?               this; again, or Escape: back",
                "q                  leave",
                "",
                "CPU% is of one CPU. PSI: percent of the last 10 s in which something of the",
                "node waited for CPU, memory or a disk: the most of the three. A depth is green",
                "up to 60 % of the queue, yellow up to 85 %, red above. What is not known is -.",
        };

        for (size_t i = 0; i < ELEMENTSOF(lines); i++)
                top_text_add(text, "%s", lines[i]);
        if (ui->can_why)
                top_text_add(text, "w                  why it makes no progress");
        if (ui->can_probe)
                top_text_add(text, "p                  count the system calls of its dataflow, and stop that");
        for (size_t i = 0; i < ELEMENTSOF(end); i++)
                top_text_add(text, "%s", end[i]);
}
