/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate pid: of the supervisor, the guard, a node or all nodes of a dataflow. For a look only: numbers are used again. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/targets.h"

typedef struct PidCommand {
        Session session;
        bool guard;
        const char *name;
} PidCommand;

static int print_one(PidCommand *p, long long pid)
{
        if (p->session.json)
                return session_result(&p->session, json_pack("{sI}", "pid", (json_int_t)pid))
                               ?: pid > 0 ? CLI_OK
                                          : CLI_NOT_RUNNING;
        printf("%lld\n", pid);
        return pid > 0 ? CLI_OK : CLI_NOT_RUNNING;
}

static int daemon_pid(PidCommand *p)
{
        json_t *answer = NULL;
        int status = session_call(&p->session, "GetHealth", json_object(), &answer);

        if (!status)
                status = print_one(p, json_get_number(json_object_get(answer, "health"), p->guard ? "guard_pid" : "pid"));
        json_decref(answer);
        return status;
}

static int dataflow_pids(PidCommand *p, const json_t *dataflow)
{
        _cleanup_(json_decrefp) json_t *pids = json_object();
        json_t *node;
        int status = CLI_OK;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node) {
                long long pid = json_get_number(node, "pid");
                char id[192];

                (void)snprintf(id, sizeof(id), "%s", json_get_text(node, "id"));
                (void)json_object_set_new(pids, id, json_integer(pid));
                if (!p->session.json)
                        printf("%s: %lld\n", text_tame(id, false), pid);
                if (pid <= 0)
                        status = CLI_NOT_RUNNING;
        }
        if (p->session.json)
                return session_result(&p->session, json_pack("{sO}", "pids", pids)) ?: status;
        return status;
}

static int named_pid(PidCommand *p)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL, *dataflow = NULL, *node = NULL;
        const char *names[1];
        int transport, status;
        Target target;

        if (!target_parse(&target, p->name))
                return usage_error("pid", "`%s` names neither a dataflow nor DATAFLOW:NODE", p->name);
        if (target.node[0] && strcmp(target.node, "*") != 0) {
                status = targets_node(&p->session, NULL, p->name, &dataflow, &node);
                return status ? status : print_one(p, json_get_number(node, "pid"));
        }
        names[0] = target.dataflow;
        status = targets_status(&p->session, names, 1, &dataflows, &transport);
        if (transport)
                return session_fail(&p->session, transport);
        return status ? status : dataflow_pids(p, json_array_get(dataflows, 0));
}

int cmd_pid(int argc, char **argv)
{
        static const struct option options[] = {{"guard", no_argument, NULL, 'g'}, SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        PidCommand p = {.session = SESSION_INIT("pid")};
        int o, status;

        session_begin();
        while ((o = session_getopt(&p.session, argc, argv, "", options)) != -1) {
                if (o != 'g')
                        return CLI_USAGE;
                p.guard = true;
        }
        if (argc - optind > (p.guard ? 0 : 1))
                return usage_error("pid", "unexpected argument `%s`", argv[argc - 1]);
        p.name = argv[optind];
        status = session_locate(&p.session);
        if (!status)
                status = p.name ? named_pid(&p) : daemon_pid(&p);
        session_done(&p.session);
        return status;
}
