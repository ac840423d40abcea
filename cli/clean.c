/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate clean, reset: forget dataflows that have ended; let a failed node have its restarts again. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/targets.h"

static int say_count(Session *session, json_t *answer, const char *key, const char *one, const char *many)
{
        long long n = json_get_number(answer, key);

        if (session->json)
                return session_result(session, json_incref(answer));
        printf("%lld %s\n", n, n == 1 ? one : many);
        if (json_get_number(answer, "kept") > 0)
                printf("%lld kept: somebody would not die there (tidegate status NAME)\n", json_get_number(answer, "kept"));
        return CLI_OK;
}

static int read_arguments(Session *session, int argc, char **argv)
{
        static const struct option options[] = {SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};

        session_begin();
        return session_getopt(session, argc, argv, "", options) != -1 ? CLI_USAGE : 0;
}

int cmd_clean(int argc, char **argv)
{
        Session session = SESSION_INIT("clean");
        json_t *answer = NULL;
        int status = read_arguments(&session, argc, argv);

        if (status)
                return status;
        if (argc - optind > 1)
                return usage_error("clean", "unexpected argument `%s`", argv[optind + 1]);
        status = session_locate(&session);
        if (!status)
                status = session_call(&session, "Clean",
                        optind < argc ? json_pack("{ss}", "dataflow", argv[optind]) : json_object(), &answer);
        if (!status)
                status = say_count(&session, answer, "cleaned", "dataflow was forgotten", "dataflows were forgotten");
        json_decref(answer);
        session_done(&session);
        return status;
}

int cmd_reset(int argc, char **argv)
{
        Session session = SESSION_INIT("reset");
        json_t *parameters, *answer = NULL;
        const char *node;
        Target target;
        int status = read_arguments(&session, argc, argv);

        if (status)
                return status;
        if (argc - optind < 1 || argc - optind > 2 || !target_parse(&target, argv[optind]))
                return usage_error("reset", "%s", argc == optind ? "which dataflow?" : "NAME [NODE] or NAME:NODE");
        node = argc - optind == 2 ? argv[optind + 1] : target.node;
        status = session_locate(&session);
        if (!status) {
                parameters = json_pack("{ss}", "dataflow", target.dataflow);
                if (parameters && node[0] && strcmp(node, "*") != 0)
                        (void)json_object_set_new(parameters, "node", json_string(node));
                status = session_call(&session, "Reset", parameters, &answer);
        }
        if (!status)
                status = say_count(&session, answer, "reset", "node was reset", "nodes were reset");
        json_decref(answer);
        session_done(&session);
        return status;
}
