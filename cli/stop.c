/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate stop, restart: end dataflows by a deadline known beforehand; of a restart, then start the same plan again. */
#include "cli/stop.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/last-resort.h"
#include "cli/print.h"
#include "base/span.h"
#include "cli/table.h"
#include "cli/targets.h"

typedef struct StopCommand {
        Session session;
        bool all, force, restart, despite_leftover;
        nsec_t grace; /* NSEC_NEVER: not given */
        char **names;
        size_t n_names;
} StopCommand;

static int read_arguments(StopCommand *c, int argc, char **argv)
{
        static const struct option options[] = {
                {"all", no_argument, NULL, 'a'},
                {"force", no_argument, NULL, 'f'},
                {"despite-leftover", no_argument, NULL, 'L'},
                {"grace-duration", required_argument, NULL, 'g'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&c->session, argc, argv, "", options)) != -1) {
                if (o == 'a' && !c->restart)
                        c->all = true;
                else if (o == 'f')
                        c->force = true;
                else if (o == 'L' && c->restart)
                        c->despite_leftover = true;
                else if (o == 'g') {
                        if (span_parse(optarg, &c->grace) || c->grace > 3600 * NSEC_PER_SEC)
                                return usage_error(
                                        argv[0], "--grace-duration: `%s` is no time up to 1h (500ms, 2s, 1m)", optarg);
                } else
                        return o == '?' ? CLI_USAGE : usage_error(argv[0], "unknown option `%s`", argv[optind - 1]);
        }
        c->names = argv + optind;
        c->n_names = (size_t)(argc - optind);
        if (c->all && c->n_names)
                return usage_error(argv[0], "--all and names exclude each other");
        if (c->restart && c->n_names != 1)
                return usage_error(argv[0], "%s", c->n_names ? "one dataflow only" : "which dataflow?");
        return 0;
}

static json_t *order_parameters(const StopCommand *c, json_t *dataflow)
{
        json_t *p = dataflow ? json_pack("{ss}", "dataflow", json_get_text(dataflow, "uuid")) : json_pack("{sb}", "all", 1);

        if (p && c->grace != NSEC_NEVER)
                (void)json_object_set_new(p, "grace_ms", json_integer((json_int_t)(c->grace / NSEC_PER_MSEC)));
        if (p && c->force)
                (void)json_object_set_new(p, "force", json_true());
        if (p && c->despite_leftover)
                (void)json_object_set_new(p, "despite_leftover", json_true());
        /* The ladder has its own end; this bounds a supervisor that would wait without one. */
        if (p)
                (void)json_object_set_new(p, "timeout_ms",
                        json_integer(c->session.timeout_given ? (json_int_t)(c->session.timeout / NSEC_PER_MSEC)
                                                              : 2 * 3600 * 1000));
        return p;
}

static int send_orders(StopCommand *c, json_t *dataflows)
{
        size_t n = c->all ? 1 : json_array_size(dataflows);
        StopOrder *orders = calloc(n, sizeof(*orders));
        Stop stop = {.session = &c->session,
                .grace = c->grace,
                .force = c->force,
                .restart = c->restart,
                .ledger = true,
                .orders = orders,
                .n_orders = n};
        int status;

        if (!orders) {
                session_say(&c->session, "out of memory");
                return CLI_FAILED;
        }
        for (size_t i = 0; i < n; i++) {
                json_t *dataflow = json_array_get(dataflows, i);

                orders[i] = (StopOrder){.method = c->restart ? "Restart" : "Stop",
                        .client = CLIENT_NULL,
                        .parameters = order_parameters(c, c->all ? NULL : dataflow),
                        .dataflows = c->all ? json_incref(dataflows) : json_pack("[O]", dataflow)};
        }
        status = stop_run(&stop);
        free(orders);
        return status;
}

/* Those that were named and still live; who has ended already is said. */
static json_t *drop_ended(StopCommand *c, json_t *dataflows, int *status)
{
        json_t *dataflow;
        size_t i;

        json_array_foreach(dataflows, i, dataflow) {
                if (!dataflow_has_ended(dataflow) || c->restart)
                        continue;
                session_say(&c->session, "%s has ended already", json_get_text(dataflow, "name"));
                *status = MAX(*status, CLI_NOT_RUNNING);
        }
        return c->restart ? json_incref(dataflows) : targets_live(dataflows);
}

static int stop(StopCommand *c)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL, *live = NULL;
        const LastResortKill kill = {.grace_ns = c->grace == NSEC_NEVER ? 10 * NSEC_PER_SEC : c->grace, .force = c->force};
        const char *const *names = (const char *const *)c->names;
        int transport, status = targets_status(&c->session, names, c->n_names, &dataflows, &transport);

        if (last_resort_applies(transport) && !c->restart)
                return last_resort_stop(&c->session, transport, names, c->n_names, c->all, &kill);
        if (transport)
                return session_fail(&c->session, transport);
        if (c->n_names == 0 && !c->all) {
                json_t *found;

                status = targets_the_one(&c->session, dataflows, &found);
                live = status ? NULL : json_pack("[O]", found);
        } else if (status == 0 || c->n_names > 1) {
                live = drop_ended(c, dataflows, &status);
        }
        if (json_array_size(live) == 0) {
                if (c->all && !c->session.json && status == 0)
                        puts("no dataflow is running");
                return status;
        }
        return MAX(status, send_orders(c, live));
}

static int run_command(int argc, char **argv, bool restart)
{
        StopCommand c = {.session = SESSION_INIT(argv[0]), .restart = restart, .grace = NSEC_NEVER};
        int status = read_arguments(&c, argc, argv);

        if (!status)
                status = session_locate(&c.session);
        if (!status && session_catch(&c.session))
                status = CLI_FAILED;
        if (!status)
                status = stop(&c);
        session_done(&c.session);
        return status;
}

int cmd_stop(int argc, char **argv)
{
        return run_command(argc, argv, false);
}

int cmd_restart(int argc, char **argv)
{
        return run_command(argc, argv, true);
}
