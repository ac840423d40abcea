/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate probe: which system calls the nodes of a dataflow make, how often and for how long, for some time. What the supervisor has attached for
 * it is detached when the connection ends, however that comes.
 */
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/span.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/probing.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/targets.h"

#define FOR_SPAN    (10 * NSEC_PER_SEC)
#define ATTACH_SPAN (40 * NSEC_PER_SEC) /* the supervisor gives up before that */
#define CALLS_SHOWN 12

typedef struct Probing {
        Session session;
        nsec_t span;
        double budget; /* of one CPU; 0: as it is */
        const char *report;
        bool all;
        const char *name;
        Target target;
        json_t *first, *last; /* owned; of type Probes */
} Probing;

/* ---- arguments */

static int read_budget(Probing *p, const char *text)
{
        char *end;
        double percent = strtod(text, &end);

        if (end == text || (*end && strcmp(end, "%") != 0) || !(percent > 0) || percent > 10000)
                return usage_error("probe", "--budget: `%s` is no percentage of one CPU (3, 0.5%%)", text);
        p->budget = percent / 100;
        return 0;
}

static int read_arguments(Probing *p, int argc, char **argv)
{
        static const struct option options[] = {
                {"for", required_argument, NULL, 'f'},
                {"budget", required_argument, NULL, 'b'},
                {"report", required_argument, NULL, 'r'},
                {"all", no_argument, NULL, 'a'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o, status = 0;

        session_begin();
        while (!status && (o = session_getopt(&p->session, argc, argv, "", options)) != -1) {
                if (o == 'f' && (span_parse(optarg, &p->span) || p->span == 0))
                        status = usage_error("probe", "--for: `%s` is no span of time (10s, 500ms, 1m)", optarg);
                else if (o == 'b')
                        status = read_budget(p, optarg);
                else if (o == 'r')
                        p->report = optarg;
                else if (o == 'a')
                        p->all = true;
                else if (o == '?')
                        status = CLI_USAGE;
        }
        if (status)
                return status;
        if (argc - optind > 1)
                return usage_error("probe", "unexpected argument `%s`", argv[optind + 1]);
        p->name = argv[optind];
        if (p->name && !target_parse(&p->target, p->name))
                return usage_error("probe", "`%s` names neither a dataflow nor DATAFLOW:NODE", p->name);
        return 0;
}

/* ---- the dataflow */

/* A word alone is a dataflow, or else a node of the only one that has it. */
static int find_by_word(Probing *p)
{
        _cleanup_(json_decrefp) json_t *dataflow = NULL, *node = NULL;
        Reply reply = {};
        int r = session_try(&p->session, "Status", json_pack("{s[s]}", "names", p->target.dataflow), &reply), status;
        bool known = !r && !reply.error && json_array_size(json_object_get(reply.parameters, "dataflows")) > 0;

        if (!r && reply.error && strcmp(reply.error, "NoSuchDataflow") != 0)
                known = true; /* Probe says it */
        reply_done(&reply);
        if (r)
                return session_fail(&p->session, r);
        if (known)
                return 0;
        status = targets_node(&p->session, NULL, p->name, &dataflow, &node);
        if (status)
                return status;
        (void)snprintf(p->target.dataflow, sizeof(p->target.dataflow), "%s", json_get_text(dataflow, "name"));
        (void)snprintf(p->target.node, sizeof(p->target.node), "%s", json_get_text(node, "id"));
        return 0;
}

static int find_dataflow(Probing *p)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        json_t *found = NULL;
        int transport, status;

        if (p->name)
                return p->target.node[0] ? 0 : find_by_word(p); /* the supervisor knows it */
        status = targets_status(&p->session, NULL, 0, &dataflows, &transport);
        if (transport)
                return session_fail(&p->session, transport);
        if (!status)
                status = targets_the_one(&p->session, dataflows, &found);
        if (!status)
                (void)snprintf(p->target.dataflow, sizeof(p->target.dataflow), "%s", json_get_text(found, "name"));
        return status;
}

static json_t *parameters_of(const Probing *p)
{
        json_t *parameters = json_pack("{ss sb sb}", "dataflow", p->target.dataflow, "calls", 1, "queues", 1);

        if (parameters && p->target.node[0] && strcmp(p->target.node, "*") != 0)
                (void)json_object_set_new(parameters, "node", json_string(p->target.node));
        return parameters;
}

static void keep(json_t **to, const Reply *reply)
{
        json_decref(*to);
        *to = json_incref(json_object_get(reply->parameters, "probes"));
}

static bool is_attached(const json_t *probes)
{
        return json_is_true(json_object_get(probes, "attached"));
}

/* The supervisor replies once it knows whether it can be attached, and each second while it does not. */
static int read_first(Probing *p)
{
        json_t *parameters = parameters_of(p);
        Reply reply = {};
        int r, status = 0;

        if (parameters && p->budget > 0)
                (void)json_object_set_new(parameters, "budget", json_real(p->budget));
        (void)snprintf(p->session.waits_for, sizeof(p->session.waits_for), "the kernel probe to be attached");
        p->session.until = nsec_add(clock_now(), ATTACH_SPAN);
        p->session.patient = true;
        r = session_send(&p->session, "Probe", true, parameters);
        while (!r && !status && !is_attached(p->first)) {
                r = session_next(&p->session, &reply);
                if (r)
                        break;
                if (reply.error)
                        status = session_refused(&p->session, &reply);
                else
                        keep(&p->first, &reply);
                if (!status && (!reply.continues || strcmp(json_get_text(p->first, "reason"), "it is being attached") != 0))
                        break;
                reply_done(&reply);
        }
        reply_done(&reply);
        return r == CLIENT_E_INTERRUPTED ? 0 : r ? session_fail(&p->session, r) : status;
}

/* Until the time is over, Ctrl-C, the end of the dataflow, or that of what was attached; then once more, on a connection of its own. */
static int read_rest(Probing *p, nsec_t begin)
{
        Session other = SESSION_INIT("probe");
        bool over = false, attached = is_attached(p->first);
        Reply reply = {};
        int r = 0, status = 0;

        p->session.until = nsec_add(begin, p->span);
        p->session.streaming = true;
        while (!over) {
                r = session_next(&p->session, &reply);
                if (r)
                        break;
                if (reply.error)
                        status = session_refused(&p->session, &reply);
                else
                        keep(&p->last, &reply);
                over = status || !reply.continues || (attached && !is_attached(p->last));
                attached = attached || is_attached(p->last);
                reply_done(&reply);
        }
        if (r && r != CLIENT_E_LATE && r != CLIENT_E_INTERRUPTED)
                return session_fail(&p->session, r);
        if (over)
                return status;
        memcpy(other.runtime_dir, p->session.runtime_dir, sizeof(other.runtime_dir));
        other.timeout = p->session.timeout;
        r = session_try(&other, "Probe", parameters_of(p), &reply);
        if (!r && !reply.error)
                keep(&p->last, &reply);
        reply_done(&reply);
        session_done(&other);
        return 0; /* else what came last is shown */
}

/* ---- shown */

static bool speaks_utf8(void)
{
        return setlocale(LC_CTYPE, "") && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

static int write_report(Probing *p, const json_t *probing)
{
        FILE *f = fopen(p->report, "we");
        int r = f ? probing_page(probing, f) : -errno;

        if (f && fclose(f) && !r)
                r = -errno;
        if (r)
                session_say(&p->session, "%s: %s", p->report, strerror(-r));
        return r ? CLI_FAILED : CLI_OK;
}

static int show(Probing *p, nsec_t begin)
{
        const json_t *last = p->last ? p->last : p->first;
        long long at_ms = json_get_number(last, "at_ms"), since_ms = MAX((long long)(begin / NSEC_PER_MSEC), 0);
        _cleanup_(json_decrefp) json_t *probing = probing_between(p->target.dataflow, MAX(at_ms - since_ms, 0), p->first == last ? NULL : p->first, last);
        bool seen = json_array_size(json_object_get(probing, "nodes")) > 0;
        int status = CLI_OK;

        if (!probing)
                return session_fail(&p->session, -ENOMEM);
        if (p->session.json)
                (void)print_json(probing);
        else if (is_attached(last) || seen)
                probing_print(probing, speaks_utf8(), p->all ? SIZE_MAX : CALLS_SHOWN);
        if (json_get_text(probing, "reason")[0])
                session_say(&p->session, "%s%s", is_attached(last) ? "" : "nothing is counted: ", json_get_text(probing, "reason"));
        if (p->report && (is_attached(last) || seen))
                status = write_report(p, probing);
        return status ? status : is_attached(last) || seen ? CLI_OK : CLI_FAILED;
}

static int probe(Probing *p)
{
        int status = session_catch(&p->session) ? CLI_FAILED : session_locate(&p->session);
        nsec_t begin;

        if (!status)
                status = find_dataflow(p);
        if (!status)
                status = read_first(p);
        if (status || !p->first)
                return status ? status : CLI_FAILED; /* Ctrl-C */
        begin = clock_now();
        status = read_rest(p, begin);
        return status ? status : show(p, begin);
}

int cmd_probe(int argc, char **argv)
{
        Probing p = {.session = SESSION_INIT("probe"), .span = FOR_SPAN};
        int status = read_arguments(&p, argc, argv);

        if (!status)
                status = probe(&p);
        session_done(&p.session);
        json_decref(p.first);
        json_decref(p.last);
        return status;
}
