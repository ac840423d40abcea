/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate list, ps: the dataflows, one a line. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/last-resort.h"
#include "cli/print.h"
#include "cli/status.h"
#include "cli/table.h"
#include "cli/usage.h"

#define USAGE_SPAN (2 * NSEC_PER_SEC)

typedef struct ListCommand {
        Session session;
        bool quiet;
        const char *state, *name, *sort;
} ListCommand;

static int read_arguments(ListCommand *l, int argc, char **argv)
{
        static const struct option options[] = {
                {"quiet", no_argument, NULL, 'q'},
                {"status", required_argument, NULL, 's'},
                {"name", required_argument, NULL, 'n'},
                {"sort-by", required_argument, NULL, 'b'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&l->session, argc, argv, "q", options)) != -1) {
                if (o == 'q')
                        l->quiet = true;
                else if (o == 's')
                        l->state = optarg;
                else if (o == 'n')
                        l->name = optarg;
                else if (o == 'b')
                        l->sort = optarg;
                else
                        return CLI_USAGE;
        }
        if (l->state && strcmp(l->state, "running") != 0 && strcmp(l->state, "finished") != 0 &&
                strcmp(l->state, "failed") != 0)
                return usage_error(argv[0], "--status: `%s` is none of running, finished, failed", l->state);
        if (l->sort && strcmp(l->sort, "cpu") != 0 && strcmp(l->sort, "memory") != 0)
                return usage_error(argv[0], "--sort-by: `%s` is neither cpu nor memory", l->sort);
        return optind < argc ? usage_error(argv[0], "unexpected argument `%s`", argv[optind]) : 0;
}

/* ---- words and columns */

const char *dataflow_word(const json_t *dataflow)
{
        const char *state = json_get_text(dataflow, "state"), *result = json_get_text(dataflow, "result");

        if (strcmp(state, "ended") != 0)
                return state[0] ? state : "?";
        return strcmp(result, "succeeded") == 0 ? "finished" : "failed";
}

static bool is_wanted(const ListCommand *l, const json_t *dataflow)
{
        const char *word = dataflow_word(dataflow);
        bool ended = strcmp(word, "finished") == 0 || strcmp(word, "failed") == 0;

        if (l->state && strcmp(l->state, "running") == 0 ? ended : l->state && strcmp(l->state, word) != 0)
                return false;
        return !l->name || strstr(json_get_text(dataflow, "name"), l->name) ||
               fnmatch(l->name, json_get_text(dataflow, "name"), 0) == 0;
}

json_t *dataflows_usage(const json_t *dataflows)
{
        size_t n = json_array_size(dataflows), i;
        const char **paths = calloc(n + 1, sizeof(*paths));
        json_t *dataflow, *usage;

        if (!paths)
                return NULL;
        json_array_foreach(dataflows, i, dataflow)
                paths[i] = json_get_text(dataflow, "cgroup");
        usage = usage_read(paths, n, nsec_add(clock_now(), USAGE_SPAN));
        free(paths);
        return usage;
}

/* Of one processor, over the life of the dataflow. */
static double cpu_percent(const json_t *dataflow, const json_t *usage)
{
        long long life = now_ms() - json_get_number(dataflow, "started_at_ms");

        return life > 0 ? 100.0 * (double)json_get_number(usage, "cpu_ms") / (double)life : 0;
}

static void print_row(const json_t *dataflow, const json_t *usage, int width, bool color)
{
        const char *word = dataflow_word(dataflow), *tint = !color                         ? NULL
                                                            : strcmp(word, "failed") == 0  ? "31"
                                                            : strcmp(word, "running") == 0 ? "32"
                                                                                           : NULL;
        char name[256], nodes[64], cpu[32] = "-", memory[32] = "-", uptime[64] = "-";
        long long started = json_get_number(dataflow, "started_at_ms");

        (void)snprintf(name, sizeof(name), "%s", json_get_text(dataflow, "name"));
        (void)snprintf(nodes, sizeof(nodes), "%lld/%lld", json_get_number(dataflow, "n_running"),
                json_get_number(dataflow, "n_nodes"));
        if (json_is_object(usage)) {
                (void)snprintf(cpu, sizeof(cpu), "%.1f%%", cpu_percent(dataflow, usage));
                format_bytes(memory, sizeof(memory), (unsigned long long)json_get_number(usage, "memory"));
        }
        if (started && strcmp(json_get_text(dataflow, "state"), "ended") != 0)
                format_uptime(uptime, sizeof(uptime), now_ms() - started);
        printf("%-36.36s  %-*s  %s%s%s%-10s%s  %-7s  %7s  %10s  %s\n", json_get_text(dataflow, "uuid"), width,
                text_tame(name, false), tint ? "\033[" : "", tint ? tint : "", tint ? "m" : "", word, tint ? "\033[0m" : "",
                nodes, cpu, memory, uptime);
}

void list_print_table(const json_t *dataflows, const json_t *usage)
{
        const bool color = color_wanted(stdout);
        json_t *dataflow;
        int width = 4;
        size_t i;

        json_array_foreach(dataflows, i, dataflow)
                width = MAX(width, (int)MIN(strlen(json_get_text(dataflow, "name")), (size_t)128));
        printf("%-36s  %-*s  %-10s  %-7s  %7s  %10s  %s\n", "UUID", width, "NAME", "STATUS", "NODES", "CPU", "MEMORY",
                "UPTIME");
        json_array_foreach(dataflows, i, dataflow)
                print_row(dataflow, json_array_get(usage, i), width, color);
}

/* ---- the command */

static long long sort_key(const ListCommand *l, const json_t *dataflow, const json_t *usage)
{
        if (strcmp(l->sort, "memory") == 0)
                return json_get_number(usage, "memory");
        return (long long)(1000 * cpu_percent(dataflow, usage));
}

/* Both arrays, largest first. Dataflows are few; their order among equals stays. */
static void sort_by(const ListCommand *l, json_t *dataflows, json_t *usage)
{
        for (size_t i = 1; i < json_array_size(dataflows); i++) {
                for (size_t k = i; k > 0; k--) {
                        json_t *a = json_array_get(dataflows, k - 1), *b = json_array_get(dataflows, k);
                        json_t *ua = json_array_get(usage, k - 1), *ub = json_array_get(usage, k);

                        if (sort_key(l, a, ua) >= sort_key(l, b, ub))
                                break;
                        json_incref(a);
                        json_incref(ua);
                        (void)json_array_set(dataflows, k - 1, b);
                        (void)json_array_set_new(dataflows, k, a);
                        (void)json_array_set(usage, k - 1, ub);
                        (void)json_array_set_new(usage, k, ua);
                }
        }
}

static int show(ListCommand *l, const json_t *parameters)
{
        _cleanup_(json_decrefp) json_t *dataflows = json_array(), *usage = NULL;
        json_t *dataflow;
        size_t i;

        json_array_foreach(json_object_get(parameters, "dataflows"), i, dataflow)
                if (json_is_object(dataflow) && is_wanted(l, dataflow))
                        (void)json_array_append(dataflows, dataflow);
        if (!l->quiet || l->sort)
                usage = dataflows_usage(dataflows);
        if (l->sort && usage)
                sort_by(l, dataflows, usage);
        if (l->quiet) {
                json_array_foreach(dataflows, i, dataflow)
                        puts(json_get_text(dataflow, "uuid"));
        } else if (l->session.json) {
                json_array_foreach(dataflows, i, dataflow) {
                        json_t *one = json_array_get(usage, i);

                        (void)json_object_set_new(
                                dataflow, "memory_bytes", one ? json_integer(json_get_number(one, "memory")) : json_null());
                        (void)json_object_set_new(
                                dataflow, "cpu_ms", one ? json_integer(json_get_number(one, "cpu_ms")) : json_null());
                }
                return session_result(&l->session, json_pack("{ss sO}", "source", "supervisor", "dataflows", dataflows));
        } else {
                list_print_table(dataflows, usage);
        }
        return CLI_OK;
}

static int list(ListCommand *l)
{
        Reply reply = {};
        int r = session_try(&l->session, "List", json_pack("{sb}", "all", 1), &reply), status;

        if (!r && !reply.error && !json_is_array(json_object_get(reply.parameters, "dataflows")))
                r = CLIENT_E_GARBAGE;
        if (last_resort_applies(r))
                status = last_resort_show(&l->session, r, NULL, 0, false);
        else if (r)
                status = session_fail(&l->session, r);
        else
                status = reply.error ? session_refused(&l->session, &reply) : show(l, reply.parameters);
        reply_done(&reply);
        return status;
}

int cmd_list(int argc, char **argv)
{
        ListCommand l = {.session = SESSION_INIT(argv[0])};
        int status = read_arguments(&l, argc, argv);

        if (!status)
                status = session_locate(&l.session);
        if (!status)
                status = list(&l);
        session_done(&l.session);
        return status;
}
