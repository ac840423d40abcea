/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate node list|info|stop|restart|signal: one node of a dataflow. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/left.h"
#include "cli/print.h"
#include "cli/session.h"
#include "base/span.h"
#include "cli/status.h"
#include "cli/table.h"
#include "cli/targets.h"

typedef struct NodeCommand {
        Session session;
        const char *verb, *dataflow;
        bool quiet, force, all, despite_leftover;
        nsec_t grace; /* NSEC_NEVER: the dataflow's own */
        char **names;
        size_t n_names;
} NodeCommand;

/* ---- arguments */

static int read_arguments(NodeCommand *n, int argc, char **argv)
{
        static const struct option options[] = {
                {"dataflow", required_argument, NULL, 'd'},
                {"quiet", no_argument, NULL, 'q'},
                {"force", no_argument, NULL, 'f'},
                {"despite-leftover", no_argument, NULL, 'L'},
                {"all", no_argument, NULL, 'a'},
                {"grace-duration", required_argument, NULL, 'g'},
                {"grace", required_argument, NULL, 'g'}, /* Dora's */
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&n->session, argc, argv, "d:q", options)) != -1) {
                if (o == 'd')
                        n->dataflow = optarg;
                else if (o == 'q')
                        n->quiet = true;
                else if (o == 'f')
                        n->force = true;
                else if (o == 'L')
                        n->despite_leftover = true;
                else if (o == 'a')
                        n->all = true;
                else if (o != 'g')
                        return CLI_USAGE;
                else if (span_parse(optarg, &n->grace) || n->grace > 3600 * NSEC_PER_SEC)
                        return usage_error("node", "--grace-duration: `%s` is no time up to 1h (500ms, 2s, 1m)", optarg);
        }
        n->names = argv + optind;
        n->n_names = (size_t)(argc - optind);
        return 0;
}

/* ---- list, info */

static const json_t *usage_of_node(const json_t *usage, const json_t *node, long long *ret_memory, long long *ret_cpu)
{
        json_t *groups = json_object_get(usage, "groups"), *group, *process;
        char path[192];
        size_t i, k;

        *ret_memory = *ret_cpu = 0;
        (void)snprintf(path, sizeof(path), "%s.%lld", json_get_text(node, "id"), json_get_number(node, "generation"));
        json_array_foreach(groups, i, group) {
                const char *at = json_get_text(group, "path");
                size_t n = strlen(path);

                if (strncmp(at, path, n) != 0 || (at[n] && at[n] != '/'))
                        continue;
                json_array_foreach(json_object_get(group, "processes"), k, process) {
                        *ret_memory += json_get_number(process, "memory");
                        *ret_cpu += json_get_number(process, "cpu_ms");
                }
        }
        return groups;
}

static void print_node_row(const json_t *dataflow, const json_t *node, const json_t *usage, int width)
{
        long long memory, cpu, life = now_ms() - json_get_number(node, "since_at_ms");
        char id[192], name[192], memory_text[32] = "-", cpu_text[32] = "-", pid[24] = "-";

        (void)snprintf(id, sizeof(id), "%s", json_get_text(node, "id"));
        (void)snprintf(name, sizeof(name), "%s", json_get_text(dataflow, "name"));
        if (usage_of_node(usage, node, &memory, &cpu) && memory > 0) {
                format_bytes(memory_text, sizeof(memory_text), (unsigned long long)memory);
                (void)snprintf(cpu_text, sizeof(cpu_text), "%.1f%%", life > 0 ? 100.0 * (double)cpu / (double)life : 0.0);
        }
        if (json_get_number(node, "pid") > 0)
                (void)snprintf(pid, sizeof(pid), "%lld", json_get_number(node, "pid"));
        printf("%-*s  %-10s  %8s  %7s  %10s  %8lld  %s\n", width, text_tame(id, false), node_word(node), pid, cpu_text,
                memory_text, json_get_number(node, "restarts"), text_tame(name, false));
}

static void print_nodes(const json_t *dataflows)
{
        _cleanup_(json_decrefp) json_t *usage = dataflows_usage(dataflows);
        json_t *dataflow, *node;
        int width = 4;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        width = MAX(width, (int)MIN(strlen(json_get_text(node, "id")), (size_t)128));
        printf("%-*s  %-10s  %8s  %7s  %10s  %8s  %s\n", width, "NODE", "STATUS", "PID", "CPU", "MEMORY", "RESTARTS",
                "DATAFLOW");
        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        print_node_row(dataflow, node, json_array_get(usage, i), width);
}

static void print_ids(const json_t *dataflows)
{
        json_t *dataflow, *node;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        printf("%s:%s\n", json_get_text(dataflow, "name"), json_get_text(node, "id"));
}

static int node_list(NodeCommand *n)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL, *all = json_array();
        const char *names[1] = {n->dataflow ? n->dataflow : n->n_names ? n->names[0] : NULL};
        json_t *dataflow, *node;
        int transport, status;
        size_t i, k;

        if (n->n_names > (n->dataflow ? 0 : 1))
                return usage_error("node", "list: one dataflow only");
        status = targets_status(&n->session, names, names[0] ? 1 : 0, &dataflows, &transport);
        if (transport)
                return session_fail(&n->session, transport);
        if (status)
                return status;
        if (n->session.json) {
                json_array_foreach(dataflows, i, dataflow) {
                        json_array_foreach(json_object_get(dataflow, "nodes"), k, node) {
                                (void)json_object_set(node, "dataflow", json_object_get(dataflow, "name"));
                                (void)json_array_append(all, node);
                        }
                }
                return session_result(&n->session, json_pack("{sO}", "nodes", all));
        }
        if (n->quiet)
                print_ids(dataflows);
        else
                print_nodes(dataflows);
        return CLI_OK;
}

static void print_info_line(const char *label, const char *text)
{
        _cleanup_free_ char *copy = strdup(text);

        if (copy && *copy)
                printf("%12s: %s\n", label, text_tame(copy, false));
}

static void print_protection(const json_t *node)
{
        const json_t *protection = json_object_get(node, "protection"), *weaker = json_object_get(protection, "weaker");
        char text[256];
        json_t *item;
        size_t i;

        protection_describe(text, sizeof(text), node);
        print_info_line("protection", text);
        json_array_foreach(weaker, i, item)
                print_info_line("weaker", json_string_value(item) ?: "");
}

static void print_placement(const json_t *placement)
{
        char text[400], cpu[64] = "where the scheduler likes";

        if (!json_is_object(placement))
                return;
        if (json_object_get(placement, "cpu"))
                (void)snprintf(cpu, sizeof(cpu), "CPU %lld", json_get_number(placement, "cpu"));
        (void)snprintf(text, sizeof(text), "%s: %s%s%s%s%s", json_get_text(placement, "wish"), cpu,
                json_object_get(placement, "beside") ? ", beside " : "", json_get_text(placement, "beside"),
                json_object_get(placement, "why") ? ": " : "", json_get_text(placement, "why"));
        print_info_line("placement", text);
}

static int node_info(NodeCommand *n, json_t *dataflow, json_t *node)
{
        static const char *const keys[] = {"kind", "state", "wanted", "health", "error", "verdict"};
        static const char *const numbers[] = {"pid", "generation", "restarts", "line"};
        _cleanup_(json_decrefp) json_t *one = json_copy(dataflow), *list = NULL;
        json_t *exit_ = json_object_get(node, "exit");
        char text[128];

        (void)json_object_set_new(one, "nodes", json_pack("[O]", node));
        targets_usage(&n->session, one);
        if (n->session.json) {
                (void)json_object_set(node, "dataflow", json_object_get(dataflow, "name"));
                return session_result(&n->session, json_incref(node));
        }
        list = json_pack("[O]", one);
        status_print_lines(list);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                print_info_line(keys[i], json_get_text(node, keys[i]));
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                (void)snprintf(text, sizeof(text), "%lld", json_get_number(node, numbers[i]));
                print_info_line(numbers[i], text);
        }
        print_protection(node);
        if (json_is_object(exit_)) {
                (void)snprintf(text, sizeof(text), "%s %lld", json_get_text(exit_, "code"), json_get_number(exit_, "status"));
                print_info_line("last exit", text);
        }
        if (json_is_true(json_object_get(node, "frozen")))
                print_info_line("frozen", "yes: it stands still until `thaw`");
        status_print_limits(node, 12);
        status_print_pressure(node, 12, NULL);
        print_placement(json_object_get(node, "placement"));
        if (strcmp(json_get_text(node, "kind"), "dynamic") == 0)
                print_info_line("captured", json_is_true(json_object_get(node, "captured")) ? "yes: a stop ends it" : "no: a stop lets go of it");
        if (json_is_true(json_object_get(node, "quarantined")))
                print_info_line("quarantined", "yes: its cgroup does not empty");
        left_print(node, json_get_text(node, "id"));
        left_print_older(node, json_get_text(node, "id"));
        return CLI_OK;
}

/* ---- stop, restart, signal */

static json_t *node_parameters(json_t *dataflow, json_t *node)
{
        return json_pack("{ss ss}", "dataflow", json_get_text(dataflow, "uuid"), "node", json_get_text(node, "id"));
}

/* The name by which to speak of it. */
static void full_name(char *buffer, size_t size, json_t *dataflow, json_t *node)
{
        (void)snprintf(buffer, size, "%s:%s", json_get_text(dataflow, "name"), json_get_text(node, "id"));
}

static int node_order(NodeCommand *n, json_t *dataflow, json_t *node, const char *method, const char *done)
{
        const nsec_t grace = n->force ? 0 : n->grace == NSEC_NEVER ? 10 * NSEC_PER_SEC : n->grace;
        const nsec_t span = nsec_add(grace + grace / 2, 75 * NSEC_PER_SEC); /* with the start of a new one */
        json_t *p = node_parameters(dataflow, node), *answer = NULL;
        Reply reply = {};
        char name[320];
        int r;

        full_name(name, sizeof(name), dataflow, node);
        if (p && n->grace != NSEC_NEVER)
                (void)json_object_set_new(p, "grace_ms", json_integer((json_int_t)(n->grace / NSEC_PER_MSEC)));
        if (p && n->force)
                (void)json_object_set_new(p, "force", json_true());
        if (p && n->despite_leftover && strcmp(method, "RestartNode") == 0)
                (void)json_object_set_new(p, "despite_leftover", json_true());
        if (p)
                (void)json_object_set_new(p, "timeout_ms", json_integer((json_int_t)(span / NSEC_PER_MSEC)));
        n->session.patient = n->session.verbose = true;
        n->session.until = nsec_add(clock_now(), nsec_add(span, 5 * NSEC_PER_SEC));
        (void)snprintf(n->session.waits_for, sizeof(n->session.waits_for), "%.120s to be %s", name, done);
        if (session_catch(&n->session))
                return CLI_FAILED;
        r = session_try(&n->session, method, p, &reply);
        if (r == CLIENT_E_INTERRUPTED)
                session_say(&n->session, "left; the order for %s goes on without this command", name);
        if (r)
                return session_fail(&n->session, r);
        r = reply.error ? session_refused(&n->session, &reply) : 0;
        answer = json_object_get(reply.parameters, "node");
        if (!r && n->session.json)
                r = session_result(&n->session, json_incref(reply.parameters));
        else if (!r)
                printf("%s: %s%s%s\n", name, done, json_get_text(answer, "left")[0] ? ", but left: " : "",
                        json_get_text(answer, "left"));
        if (!r && json_get_text(answer, "left")[0])
                r = CLI_NOT_RUNNING;
        reply_done(&reply);
        return r;
}

/* "TERM", "SIGTERM", "15". -1: none. */
static int parse_signal(const char *text)
{
        char *end;
        long number = strtol(text, &end, 10);
        const char *name = strncasecmp(text, "SIG", 3) == 0 ? text + 3 : text;

        if (*text && !*end)
                return number > 0 && number < NSIG ? (int)number : -1;
        for (int i = 1; i < NSIG; i++)
                if (sigabbrev_np(i) && strcasecmp(sigabbrev_np(i), name) == 0)
                        return i;
        return -1;
}

static int node_signal(NodeCommand *n, json_t *dataflow, json_t *node, int signo)
{
        json_t *p = node_parameters(dataflow, node), *answer = NULL;
        char name[320];
        int status;

        full_name(name, sizeof(name), dataflow, node);
        if (p)
                (void)json_object_set_new(p, "signal", json_integer(signo));
        if (p && n->all)
                (void)json_object_set_new(p, "all", json_true());
        status = session_call(&n->session, "SignalNode", p, &answer);
        if (!status && n->session.json) {
                status = session_result(&n->session, json_incref(answer));
        } else if (!status) {
                long long sent = json_get_number(answer, "sent");

                printf("%s: signalled (SIG%s to %lld process%s)\n", name, sigabbrev_np(signo) ?: "?", sent,
                        sent == 1 ? "" : "es");
        }
        if (!status && json_get_number(answer, "sent") == 0)
                status = CLI_NOT_RUNNING;
        json_decref(answer);
        return status;
}

/* ---- the command */

static int one_node(NodeCommand *n)
{
        _cleanup_(json_decrefp) json_t *dataflow = NULL, *node = NULL;
        bool signals = strcmp(n->verb, "signal") == 0;
        const char *name = n->names[0];
        int signo = 0, status;

        if (n->n_names != (signals ? 2 : 1))
                return usage_error("node", "%s: %s", n->verb, signals ? "which node, which signal?" : "which node?");
        if (signals) { /* in either order: supervisorctl has the signal first */
                signo = parse_signal(n->names[1]);
                if (signo < 0) {
                        signo = parse_signal(n->names[0]);
                        name = n->names[1];
                }
                if (signo < 0)
                        return usage_error("node", "signal: `%s` is no signal (TERM, SIGHUP, 10)", n->names[1]);
        }
        status = targets_node(&n->session, n->dataflow, name, &dataflow, &node);
        if (status)
                return status;
        if (strcmp(n->verb, "info") == 0)
                return node_info(n, dataflow, node);
        if (strcmp(n->verb, "stop") == 0)
                return node_order(n, dataflow, node, "StopNode", "stopped");
        if (strcmp(n->verb, "restart") == 0)
                return node_order(n, dataflow, node, "RestartNode", "restarted");
        return node_signal(n, dataflow, node, signo);
}

int cmd_node(int argc, char **argv)
{
        static const char *const verbs[] = {"list", "info", "stop", "restart", "signal"};
        char command[32];
        NodeCommand n = {.session = SESSION_INIT(command), .grace = NSEC_NEVER};
        int status = -1;

        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (argc > 1 && strcmp(argv[1], verbs[i]) == 0)
                        n.verb = verbs[i];
        if (!n.verb)
                return argc > 1 ? usage_error("node", "no `node %s`: list, info, stop, restart, signal", argv[1])
                                : usage_error("node", "list, info, stop, restart or signal?");
        (void)snprintf(command, sizeof(command), "node %s", n.verb);
        status = read_arguments(&n, argc - 1, argv + 1);
        if (!status)
                status = session_locate(&n.session);
        if (!status)
                status = strcmp(n.verb, "list") == 0 ? node_list(&n) : one_node(&n);
        session_done(&n.session);
        return status;
}
