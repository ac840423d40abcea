/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate wait: until a dataflow or a node is in a state. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/targets.h"

#define WAIT_DEFAULT (60 * NSEC_PER_SEC)
#define WAIT_SLACK   (2 * NSEC_PER_SEC) /* the supervisor's own deadline comes first */

static int wait_for(Session *session, const Target *target, const char *state, nsec_t span)
{
        json_t *p = json_pack("{ss ss sI}", "dataflow", target->dataflow, "state", state, "timeout_ms",
                       (json_int_t)(span / NSEC_PER_MSEC)),
               *answer = NULL;
        int status;

        if (p && target->node[0])
                (void)json_object_set_new(p, "node", json_string(target->node));
        session->patient = session->verbose = true;
        session->until = nsec_add(clock_now(), nsec_add(span, WAIT_SLACK));
        (void)snprintf(session->waits_for, sizeof(session->waits_for), "%.60s%s%.60s to be %.20s", target->dataflow,
                target->node[0] ? ":" : "", target->node, state);
        status = session_call(session, "Wait", p, &answer);
        if (!status && session->json)
                status = session_result(session, json_incref(answer));
        else if (!status)
                printf("%s%s%s is %s\n", target->dataflow, target->node[0] ? ":" : "", target->node,
                        json_get_text(answer, "state")[0] ? json_get_text(answer, "state") : state);
        json_decref(answer);
        return status;
}

int cmd_wait(int argc, char **argv)
{
        static const char *const states[] = {
                "pending", "beginning", "starting", "running", "stopping", "backoff", "stopped", "failed", "ending", "ended"};
        static const struct option options[] = {SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};
        Session session = SESSION_INIT("wait");
        nsec_t span = WAIT_DEFAULT;
        bool known = false;
        Target target;
        int status;

        session_begin();
        if (session_getopt(&session, argc, argv, "", options) != -1)
                return CLI_USAGE;
        if (argc - optind != 2)
                return usage_error("wait", "for what, and which state?");
        for (size_t i = 0; i < ELEMENTSOF(states); i++)
                known |= strcmp(states[i], argv[optind + 1]) == 0;
        if (!known)
                return usage_error("wait", "`%s` is no state: running, stopped, failed, ended, ...", argv[optind + 1]);
        if (!target_parse(&target, argv[optind]))
                return usage_error("wait", "`%s` names neither a dataflow nor DATAFLOW:NODE", argv[optind]);
        if (session.timeout_given) { /* here it is the time to wait; silence is bounded as everywhere */
                span = session.timeout;
                session.timeout = SESSION_TIMEOUT;
        }
        status = session_locate(&session);
        if (!status)
                status = wait_for(&session, &target, argv[optind + 1], span);
        session_done(&session);
        return status;
}
