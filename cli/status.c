/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate status: supervisorctl's lines, one a node; for one dataflow also what systemctl would show. */
#include "cli/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/last-resort.h"
#include "cli/left.h"
#include "cli/print.h"
#include "cli/status-page.h"
#include "cli/table.h"
#include "cli/targets.h"

typedef struct StatusCommand {
        Session session;
        bool any_not_running; /* what makes it exit with 3 */
        char **names;
        size_t n_names;
} StatusCommand;

static int read_arguments(StatusCommand *s, int argc, char **argv)
{
        static const struct option options[] = {
                {"exit-code-on", required_argument, NULL, 'x'},
                {"links", no_argument, NULL, 'l'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&s->session, argc, argv, "", options)) != -1) {
                if (o == 'l') {
                        s->session.links = true;
                        continue;
                }
                if (o != 'x')
                        return CLI_USAGE;
                if (strcmp(optarg, "any-not-running") != 0 && strcmp(optarg, "failed") != 0)
                        return usage_error(argv[0], "--exit-code-on: `%s` is neither failed nor any-not-running", optarg);
                s->any_not_running = optarg[0] == 'a';
        }
        s->names = argv + optind;
        s->n_names = (size_t)(argc - optind);
        if (s->n_names == 1 && strcmp(s->names[0], "all") == 0)
                s->n_names = 0;
        return 0;
}

/* ---- what was asked for */

/* A dataflow with only those nodes. New reference. */
static json_t *with_nodes(const json_t *dataflow, json_t *take_nodes)
{
        json_t *copy = json_copy((json_t *)dataflow);

        (void)json_object_set_new(copy, "nodes", take_nodes);
        return copy;
}

/* Adds what @name means to @to. Return: 0 or the exit status; *ret_transport as targets_status(). */
static int add_target(StatusCommand *s, const char *name, json_t *to, int *ret_transport)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        const char *names[1];
        _cleanup_(json_decrefp) json_t *detached = NULL;
        json_t *node, *dataflow;
        Target target;
        int status;

        if (!target_parse(&target, name)) {
                session_say(&s->session, "`%s` names neither a dataflow nor DATAFLOW:NODE", name);
                return CLI_NO_SUCH;
        }
        names[0] = target.dataflow;
        status = targets_status(&s->session, names, 1, &dataflows, ret_transport);
        if (status)
                return status;
        if (!target.node[0] || strcmp(target.node, "*") == 0)
                return json_array_extend(to, dataflows) < 0 ? CLI_FAILED : 0;
        dataflow = json_array_get(dataflows, 0);
        node = dataflow_find_node(dataflow, target.node);
        if (!node && (detached = targets_detached(&s->session, dataflow, target.node))) {
                dataflow = detached;
                node = dataflow_find_node(dataflow, target.node);
        }
        if (!node) {
                session_say(&s->session, "%s: no such node", name);
                return CLI_NO_SUCH;
        }
        return json_array_append_new(to, with_nodes(dataflow, json_pack("[O]", node))) < 0 ? CLI_FAILED : 0;
}

static int collect(StatusCommand *s, json_t **ret, int *ret_transport)
{
        json_t *all = json_array();
        int status = 0;

        if (s->n_names == 0) {
                json_decref(all);
                return targets_status(&s->session, NULL, 0, ret, ret_transport);
        }
        *ret_transport = 0;
        for (size_t i = 0; i < s->n_names && !*ret_transport; i++)
                status = MAX(status, add_target(s, s->names[i], all, ret_transport));
        *ret = all;
        return status;
}

/* ---- what comes of it */

static bool counts(const StatusCommand *s, const json_t *node)
{
        const char *state = json_get_text(node, "state");

        return s->any_not_running ? strcmp(state, "running") != 0 : strcmp(state, "failed") == 0;
}

static int exit_status(const StatusCommand *s, const json_t *dataflows)
{
        json_t *dataflow, *node;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        if (counts(s, node))
                                return CLI_NOT_RUNNING;
        return CLI_OK;
}

static int status_json(StatusCommand *s, json_t *dataflows)
{
        _cleanup_(json_decrefp) json_t *usage = dataflows_usage(dataflows);
        json_t *dataflow;
        size_t i;

        json_array_foreach(dataflows, i, dataflow)
                (void)json_object_set(dataflow, "usage", json_array_get(usage, i) ?: json_null());
        return session_result(&s->session, json_pack("{ss sO}", "source", "supervisor", "dataflows", dataflows));
}

static bool has_a_stuck_node(const json_t *dataflow)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node)
                if (strcmp(json_get_text(node, "health"), "stuck") == 0)
                        return true;
        return false;
}

/* All that is known of them, for whoever asks by name. */
static void show_who_is_left(const json_t *dataflows)
{
        json_t *dataflow, *node;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                {
                        left_print(node, json_get_text(node, "id"));
                        left_print_older(node, json_get_text(node, "id"));
                }
}

/* Whom of several to blame, and what can be done: as the status page has it, and nothing where that may not be read. */
static void say_who_is_stuck(StatusCommand *s, const json_t *dataflows)
{
        StatusView view = STATUS_VIEW_NULL;
        const struct status_dataflow *d;
        bool ambiguous, loaded = false;
        json_t *dataflow;
        size_t i;

        json_array_foreach(dataflows, i, dataflow) {
                if (!has_a_stuck_node(dataflow))
                        continue;
                if (!loaded && status_view_load(&view, s->session.runtime_dir, clock_now()))
                        break;
                loaded = true;
                d = status_view_find(&view, json_get_text(dataflow, "uuid"), &ambiguous);
                if (!d || d->health != STATUS_HEALTH_STUCK)
                        continue;
                printf("%s ", d->name);
                status_view_print_stuck(&view, d, clock_now(), color_wanted(stdout), stdout);
        }
        status_view_done(&view);
}

static int status(StatusCommand *s)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        bool block = s->n_names == 1 && !strchr(s->names[0], ':');
        int transport, r = collect(s, &dataflows, &transport);

        if (last_resort_applies(transport))
                return last_resort_show(&s->session, transport, (const char *const *)s->names, s->n_names, true);
        if (transport)
                return session_fail(&s->session, transport);
        if (block && json_array_size(dataflows) == 1)
                targets_usage(&s->session, json_array_get(dataflows, 0));
        if (s->session.json) {
                int written = status_json(s, dataflows);

                r = r ? r : written;
        } else if (s->session.links) {
                status_print_links(dataflows);
        } else {
                status_print_lines(dataflows);
                if (s->n_names > 0)
                        show_who_is_left(dataflows);
                say_who_is_stuck(s, dataflows);
                if (block && json_array_size(dataflows) == 1)
                        status_print_block(json_array_get(dataflows, 0));
                if (r == 0 && json_array_size(dataflows) == 0 && isatty(STDOUT_FILENO))
                        puts("no dataflow is known; `tidegate start FILE` starts one");
        }
        return r ? r : exit_status(s, dataflows);
}

int cmd_status(int argc, char **argv)
{
        StatusCommand s = {.session = SESSION_INIT(argv[0])};
        int r = read_arguments(&s, argc, argv);

        if (!r)
                r = session_locate(&s.session);
        if (!r)
                r = status(&s);
        session_done(&s.session);
        return r;
}
