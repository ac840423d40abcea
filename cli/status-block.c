/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/log-reader.h"
#include "cli/log-show.h"
#include "cli/print.h"
#include "cli/usage.h"

#define LOG_LINES  10
#define TREE_SHOWN 200 /* processes; --json has all */

static void print_field(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void print_field(const char *label, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        printf("%10s: %s\n", label, text ? text_tame(text, false) : "?");
}

static void format_date(char *buffer, size_t size, long long monotonic_ms)
{
        time_t seconds = (time_t)(wall_ms(monotonic_ms) / 1000);
        struct tm tm;

        if (!localtime_r(&seconds, &tm) || strftime(buffer, size, "%a %Y-%m-%d %H:%M:%S %Z", &tm) == 0)
                (void)snprintf(buffer, size, "?");
}

/* "running since Tue 2026-08-29 10:47:12 CEST; 3min 12s ago" */
static void print_state(const json_t *dataflow)
{
        long long since = json_get_number(dataflow, "since_at_ms"), until = json_get_number(dataflow, "stop_until_at_ms"),
                  now = now_ms();
        const char *wanted = json_get_text(dataflow, "wanted"), *state = json_get_text(dataflow, "state"),
                   *result = json_get_text(dataflow, "result");
        char date[64], ago[64], more[128] = "";

        format_date(date, sizeof(date), since);
        format_span(ago, sizeof(ago), now - since);
        if (until > 0 && strcmp(state, "ended") != 0)
                (void)snprintf(more, sizeof(more), "; ends within %.1f s", (double)MAX(until - now, 0LL) / 1000);
        else if (strcmp(state, "running") == 0 && wanted[0] && strcmp(wanted, "running") != 0)
                (void)snprintf(more, sizeof(more), "; is to be %s", wanted);
        print_field("State", "%s%s%s%s since %s; %s ago%s", state, result[0] ? " (" : "", result, result[0] ? ")" : "", date,
                ago, more);
}

/* ---- processes */

static const char *branch(bool last)
{
        return last ? "\u2514\u2500" : "\u251c\u2500";
}

static void print_processes(const json_t *processes, const char *indent, unsigned *n_shown)
{
        json_t *process;
        size_t i, n = json_array_size(processes);

        json_array_foreach(processes, i, process) {
                char comm[64];

                if (++*n_shown > TREE_SHOWN)
                        return;
                (void)snprintf(comm, sizeof(comm), "%s", json_get_text(process, "comm"));
                printf("%12s%s%s%lld %s%s\n", "", indent, branch(i + 1 == n), json_get_number(process, "pid"),
                        text_tame(comm, false),
                        strcmp(json_get_text(process, "state"), "D") == 0 ? "  (in uninterruptible sleep)" : "");
        }
}

static size_t n_inhabited(const json_t *groups)
{
        json_t *group;
        size_t i, n = 0;

        json_array_foreach(groups, i, group)
                n += json_get_text(group, "path")[0] && json_array_size(json_object_get(group, "processes")) > 0;
        return n;
}

static void print_tree(const json_t *usage)
{
        json_t *groups = json_object_get(usage, "groups"), *group;
        size_t i, left = n_inhabited(groups);
        unsigned n_shown = 0;

        json_array_foreach(groups, i, group) {
                json_t *processes = json_object_get(group, "processes");
                char path[256];

                if (json_array_size(processes) == 0)
                        continue;
                (void)snprintf(path, sizeof(path), "%s", json_get_text(group, "path"));
                if (path[0]) {
                        left--;
                        printf("%12s%s%s\n", "", branch(left == 0), text_tame(path, false));
                }
                print_processes(processes, !path[0] ? "" : left == 0 ? "  " : "\u2502 ", &n_shown);
        }
        if (n_shown > TREE_SHOWN)
                printf("%12sand more: %lld processes in all\n", "", json_get_number(usage, "n"));
}

static void print_usage(const json_t *dataflow)
{
        _cleanup_(json_decrefp) json_t *list = json_pack("[O]", dataflow), *all = dataflows_usage(list);
        const json_t *usage = json_array_get(all, 0);
        const char *cgroup = json_get_text(dataflow, "cgroup");
        char memory[32];

        if (!json_is_object(usage)) {
                if (cgroup[0] && strcmp(json_get_text(dataflow, "state"), "ended") != 0)
                        print_field("CGroup", "%s (cannot be looked at)", cgroup);
                return;
        }
        format_bytes(memory, sizeof(memory), (unsigned long long)json_get_number(usage, "memory"));
        print_field("Tasks", "%lld processes", json_get_number(usage, "n"));
        print_field("Memory", "%s", memory);
        print_field("CPU", "%.3f s", (double)json_get_number(usage, "cpu_ms") / 1000);
        print_field("CGroup", "%s", cgroup);
        print_tree(usage);
}

/* ---- ends and logs */

static void print_protection(const json_t *dataflow)
{
        const json_t *nodes = json_object_get(dataflow, "nodes");
        char text[512];
        size_t at = 0;

        while ((at = protection_next(nodes, at, text, sizeof(text))))
                print_field("Held by", "%s", text);
}

static void print_exits(const json_t *dataflow)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node) {
                const json_t *exit_ = json_object_get(node, "exit");
                const char *code = json_get_text(exit_, "code"), *id = json_get_text(node, "id");
                long long number = json_get_number(exit_, "status"), restarts = json_get_number(node, "restarts");
                char again[48] = "";

                if (restarts)
                        (void)snprintf(again, sizeof(again), ", %lld restart%s", restarts, restarts == 1 ? "" : "s");
                if (strcmp(code, "exited") == 0)
                        print_field("Last exit", "%s (line %lld): status %lld%s", id, json_get_number(node, "line"), number,
                                again);
                else if (strcmp(code, "signalled") == 0)
                        print_field("Last exit", "%s (line %lld): SIG%s%s", id, json_get_number(node, "line"),
                                sigabbrev_np((int)number) ?: "?", again);
                else if (code[0])
                        print_field("Last exit", "%s (line %lld): not seen by anybody%s", id, json_get_number(node, "line"),
                                again);
        }
}

static void print_logs(const json_t *dataflow)
{
        const char *dir = json_get_text(dataflow, "log_dir");
        LogShow show = {.n_last = LOG_LINES, .color = color_wanted(stdout), .tty = isatty(STDOUT_FILENO)};
        LogReader reader;
        json_t *record;
        uint64_t wall_ns;
        int r;

        if (!dir[0])
                return;
        r = log_reader_open(&reader, dir, NULL, 0);
        if (r) {
                print_field("Logs", "%s: %s", dir, strerror(-r));
                return;
        }
        print_field("Logs", "%s", dir);
        log_reader_skip(&reader, LOG_LINES);
        while (log_reader_next(&reader, &record, &wall_ns))
                log_show(&show, record, wall_ns);
        if (show.n_kept > 0)
                putchar('\n');
        log_show_kept(&show);
        log_show_done(&show);
        log_reader_done(&reader);
}

void status_print_block(const json_t *dataflow)
{
        const char *word = dataflow_word(dataflow), *error = json_get_text(dataflow, "error");
        const char *tint = !color_wanted(stdout)          ? ""
                           : strcmp(word, "failed") == 0  ? "\033[31m"
                           : strcmp(word, "running") == 0 ? "\033[32m"
                                                          : "\033[33m";
        char title[256];
        json_t *node;
        size_t i;

        (void)snprintf(title, sizeof(title), "%s (%s)", json_get_text(dataflow, "name"), json_get_text(dataflow, "uuid"));
        printf("\n%s\u25cf%s %s\n", tint, tint[0] ? "\033[0m" : "", text_tame(title, false));
        print_field("File", "%s", json_get_text(dataflow, "file"));
        if (json_get_text(dataflow, "detached_from")[0])
                print_field("Detached", "from %s, whose stop leaves it", json_get_text(dataflow, "detached_from"));
        print_state(dataflow);
        print_field("Nodes", "%lld running, %lld failed, of %lld", json_get_number(dataflow, "n_running"),
                json_get_number(dataflow, "n_failed"), json_get_number(dataflow, "n_nodes"));
        if (error[0])
                print_field("Error", "%s", error);
        print_protection(dataflow);
        if (json_is_true(json_object_get(dataflow, "frozen")))
                print_field("Frozen", "%s", "yes: every process stands still until `thaw`");
        status_print_limits(dataflow, 10);
        json_array_foreach(json_object_get(dataflow, "nodes"), i, node)
                status_print_pressure(node, 10, json_get_text(node, "id"));
        print_usage(dataflow);
        print_exits(dataflow);
        print_logs(dataflow);
}
