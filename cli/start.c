/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate start: hand a dataflow to the daemon. Detached it returns once the dataflow runs; attached it shows lines and
 * events until the end, and Ctrl-C stops it: once gracefully, twice now, a third time the command leaves it alone.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/load.h"
#include "cli/print.h"
#include "cli/probe.h"
#include "base/span.h"
#include "cli/table.h"

#define START_GRACE    (10 * NSEC_PER_SEC)
#define START_BUDGET   (2 * NSEC_PER_SEC)
#define START_SLACK    (10 * NSEC_PER_SEC)    /* cgroups, keeper, spawns */
#define START_READY    (60 * NSEC_PER_SEC)    /* a node's startup_timeout by default */
#define ATTACH_SPAN_MS (366LL * 86400 * 1000) /* of a dataflow that is waited for */
#define STOP_SLACK     (5 * NSEC_PER_SEC)
#define PROBE_SPAN     (2 * NSEC_PER_SEC)
#define LINES_A_TURN   256
#define LAST_TURNS     256 /* of a supervisor whose lines have no end */

typedef struct Start {
        Session session;
        LoadOptions load;
        const char *path, *log_dir;
        bool attach, detach, replace, despite_leftover, no_logs, allow_unenforced;
        nsec_t grace; /* NSEC_NEVER: not given */

        json_t *plan;
        Follow follow;
        Client main, logs, orders[2]; /* the start and its events, the lines, the orders to stop: gently and by force */
        char uuid[64];                /* "": not accepted yet */
        unsigned n_interrupts;
        bool reattached;           /* main has a Wait under way: the one that was told our Start is gone */
        nsec_t silent_at, stop_by; /* stop_by: when a stop that we ordered is overdue */
        int status;                /* -1: not known yet */
} Start;

/* ---- arguments */

static int read_arguments(Start *s, int argc, char **argv)
{
        static const struct option options[] = {
                {"attach", no_argument, NULL, 'a'},
                {"detach", no_argument, NULL, 'd'},
                {"replace", no_argument, NULL, 'r'},
                {"despite-leftover", no_argument, NULL, 'L'},
                {"no-logs", no_argument, NULL, 'n'},
                {"allow-unenforced-limits", no_argument, NULL, 'u'},
                {"log-dir", required_argument, NULL, 'l'},
                {"grace-duration", required_argument, NULL, 'g'},
                LOAD_LONG_OPTIONS,
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&s->session, argc, argv, "", options)) != -1) {
                if (o == 'a' || o == 'd') {
                        s->attach = o == 'a';
                        s->detach = o == 'd';
                } else if (o == 'r')
                        s->replace = true;
                else if (o == 'L')
                        s->despite_leftover = true;
                else if (o == 'n')
                        s->no_logs = true;
                else if (o == 'u')
                        s->allow_unenforced = true;
                else if (o == 'l')
                        s->log_dir = optarg;
                else if (o == 'g' && (span_parse(optarg, &s->grace) || s->grace > 3600 * NSEC_PER_SEC))
                        return usage_error("start", "--grace-duration: `%s` is no time up to 1h (500ms, 2s, 1m)", optarg);
                else if (o == '?')
                        return CLI_USAGE;
                else if (load_option(&s->load, o, optarg) < 0)
                        return CLI_FAILED;
        }
        if (argc - optind != 1)
                return usage_error("start", "%s", argc == optind ? "which file?" : "one file only");
        if (s->no_logs && s->log_dir)
                return usage_error("start", "--log-dir and --no-logs exclude each other");
        s->path = argv[optind];
        if (!s->detach && !s->attach)
                s->attach = isatty(STDOUT_FILENO); /* as Dora does */
        return 0;
}

static int load_plan(Start *s)
{
        Diagnostics diags = DIAGNOSTICS_INIT;
        int r = descriptor_load(s->path, &s->load.descriptor, &s->plan, &diags);

        print_diagnostics(stderr, &diags, true);
        diagnostics_done(&diags);
        if (r < 0)
                session_say(&s->session, "%s: %s", s->path, strerror(-r));
        return r ? CLI_FAILED : 0;
}

/* ---- what is sent */

static json_t *environment(Start *s)
{
        json_t *list = json_array();

        for (char **e = environ; *e; e++) {
                if (utf8_valid(*e, strlen(*e)))
                        (void)json_array_append_new(list, json_string(*e));
                else
                        session_say(&s->session, "%.*s is not UTF-8 and is not passed on to the nodes", (int)strcspn(*e, "="),
                                *e);
        }
        return list;
}

/* NULL and errno without memory. */
static char *log_folder(const Start *s)
{
        const char *dir = json_get_text(s->plan, "dir");
        char *path = NULL, *cwd;

        if (!s->log_dir)
                return asprintf(&path, "%s/out", strcmp(dir, "/") == 0 ? "" : dir) < 0 ? NULL : path;
        if (s->log_dir[0] == '/')
                return strdup(s->log_dir);
        cwd = getcwd(NULL, 0);
        if (!cwd || asprintf(&path, "%s/%s", cwd, s->log_dir) < 0)
                path = NULL;
        free(cwd);
        return path;
}

/* Until all nodes are ready, by their own bounds. */
static nsec_t start_span(const Start *s)
{
        const nsec_t grace = s->grace == NSEC_NEVER ? START_GRACE : s->grace;
        nsec_t longest = 0;
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(s->plan, "nodes"), i, node) {
                json_int_t span = json_integer_value(json_object_get(node, "startup_timeout_ns"));

                longest = MAX(longest, span > 0 ? (nsec_t)span : START_READY);
        }
        longest = nsec_add(longest, START_SLACK);
        return s->replace ? nsec_add(longest, nsec_add(grace + grace / 2, START_BUDGET)) : longest;
}

static json_t *start_parameters(Start *s)
{
        _cleanup_free_ char *log_dir = s->no_logs ? NULL : log_folder(s);
        mode_t mask = umask(0);
        json_t *p;

        (void)umask(mask);
        if (!s->no_logs && !log_dir)
                return NULL;
        p = json_pack(
                "{sO so si ss*}", "plan", s->plan, "environment", environment(s), "umask", (int)mask, "log_dir", log_dir);
        if (p && s->grace != NSEC_NEVER)
                (void)json_object_set_new(p, "grace_ms", json_integer((json_int_t)(s->grace / NSEC_PER_MSEC)));
        if (p && s->replace)
                (void)json_object_set_new(p, "replace", json_true());
        if (p && s->despite_leftover)
                (void)json_object_set_new(p, "despite_leftover", json_true());
        if (p && s->allow_unenforced)
                (void)json_object_set_new(p, "allow_unenforced_limits", json_true());
        if (p && s->attach)
                (void)json_object_set_new(p, "wait", json_string("ended"));
        if (p)
                (void)json_object_set_new(p, "timeout_ms",
                        json_integer(s->attach ? ATTACH_SPAN_MS : (json_int_t)(start_span(s) / NSEC_PER_MSEC)));
        return p;
}

/* ---- what comes back */

static void open_logs(Start *s)
{
        nsec_t until = nsec_add(clock_now(), s->session.timeout);
        int r = client_connect(&s->logs, s->session.runtime_dir, until);

        if (!r)
                r = client_send(&s->logs, "Logs", true, json_pack("{ss}", "dataflow", s->uuid), until);
        if (r) {
                client_done(&s->logs);
                screen_say(&s->follow.screen, true, "its lines cannot be shown: %s", client_explain(r));
        }
}

static void on_event(Start *s, const json_t *event)
{
        const char *type = json_get_text(event, "type"), *uuid = json_get_text(event, "uuid");

        if (strcmp(type, "accepted") == 0 && !s->uuid[0]) {
                (void)snprintf(s->uuid, sizeof(s->uuid), "%s", uuid[0] ? uuid : json_get_text(event, "dataflow"));
                if (s->attach && s->uuid[0])
                        open_logs(s);
        }
        follow_event(&s->follow, event);
}

static void on_last_word(Start *s, const Reply *reply)
{
        json_t *result = json_object_get(reply->parameters, "result");
        const char *state = json_get_text(reply->parameters, "state"), *name = json_get_text(s->plan, "name");

        if (!s->uuid[0])
                (void)snprintf(s->uuid, sizeof(s->uuid), "%s", json_get_text(reply->parameters, "uuid"));
        if (json_is_object(result)) {
                follow_result(&s->follow, result, false);
                s->status = s->follow.status;
                if (s->status != CLI_OK && !s->session.json)
                        screen_say(&s->follow.screen, false, "`tidegate status %s` shows it until `tidegate clean`", name);
                return;
        }
        s->status = strcmp(state, "running") == 0 || (strcmp(state, "ended") == 0 && s->reattached) ? CLI_OK : CLI_FAILED;
        if (s->session.json)
                screen_json(&s->follow.screen,
                        json_pack("{ss ss ss ss}", "type", "started", "uuid", s->uuid, "name", name, "state", state));
        else
                screen_say(&s->follow.screen, s->status != CLI_OK, "%s (%s) is %s", name, s->uuid,
                        state[0] ? state : "accepted");
}

static void on_reply(Start *s, const Reply *reply)
{
        s->silent_at = nsec_add(clock_now(), s->session.timeout);
        if (reply->error) {
                screen_say(&s->follow.screen, true, "%s%s%s", reply->error, reply->text[0] ? ": " : "", reply->text);
                if (strcmp(reply->error, "TimedOut") == 0 && s->uuid[0])
                        screen_say(&s->follow.screen, true, "the start of %s goes on; `tidegate status` shows how far it is",
                                s->uuid);
                s->status = session_error_status(reply->error);
                return;
        }
        if (reply->continues)
                on_event(s, json_object_get(reply->parameters, "event"));
        else
                on_last_word(s, reply);
}

/* ---- stopping */

static void order_stop(Start *s, bool force)
{
        const nsec_t grace = force ? 0 : s->grace == NSEC_NEVER ? START_GRACE : s->grace;
        nsec_t now = clock_now(), until = nsec_add(now, s->session.timeout);
        int r = client_connect(&s->orders[force], s->session.runtime_dir, until);

        if (!r)
                r = client_send(
                        &s->orders[force], "Stop", false, json_pack("{ss sb}", "dataflow", s->uuid, "force", force), until);
        if (r)
                screen_say(&s->follow.screen, true, "the order to stop did not get through: %s", client_explain(r));
        s->follow.since = now;
        s->follow.screen.stop_until = nsec_add(now, nsec_add(grace + grace / 2, START_BUDGET + 100 * NSEC_PER_MSEC));
        s->stop_by = nsec_add(s->follow.screen.stop_until, STOP_SLACK);
        screen_phase(&s->follow.screen, "stopping", now);
}

static void leave(Start *s, const char *why)
{
        if (s->uuid[0])
                screen_say(&s->follow.screen, true, "%s: left; %s (%s) goes on without this command%s", why,
                        json_get_text(s->plan, "name"), s->uuid, s->n_interrupts > 1 ? ", and so does its stop" : "");
        else
                screen_say(&s->follow.screen, true,
                        "%s: left before the supervisor accepted the dataflow; it may start all the same", why);
        s->status = CLI_FAILED;
}

static void on_signal(Start *s, int signo)
{
        const nsec_t grace = s->grace == NSEC_NEVER ? START_GRACE : s->grace;

        if (signo != SIGINT || !s->attach || !s->uuid[0]) {
                leave(s, signo == SIGINT ? "Ctrl-C" : signo == SIGHUP ? "SIGHUP" : signo == SIGTERM ? "SIGTERM" : "SIGQUIT");
                return;
        }
        s->n_interrupts++;
        if (s->n_interrupts == 1) {
                screen_say(&s->follow.screen, false, "Ctrl-C: stopping, nodes have %.1f s to end; once more to stop now",
                        (double)grace / 1e9);
                order_stop(s, false);
        } else if (s->n_interrupts == 2) {
                screen_say(&s->follow.screen, false, "Ctrl-C: stopping now; once more to leave");
                order_stop(s, true);
        } else {
                leave(s, "Ctrl-C");
        }
}

/* ---- when the supervisor goes away */

/* Its successor has the dataflow; what it tells is its end. */
static void reattach(Start *s, int why)
{
        nsec_t until = nsec_add(clock_now(), s->session.timeout);
        int r;

        client_done(&s->main);
        client_done(&s->logs);
        if (!s->uuid[0] || s->reattached) {
                screen_say(&s->follow.screen, true, "%s%s", client_explain(why),
                        s->uuid[0] ? "" : " before it accepted the dataflow; it may start all the same");
                s->status = CLI_UNREACHABLE;
                return;
        }
        screen_say(&s->follow.screen, true, "%s; asking its successor", client_explain(why));
        r = client_connect(&s->main, s->session.runtime_dir, until);
        if (!r)
                r = client_send(&s->main, "Wait", false,
                        json_pack("{ss ss sI}", "dataflow", s->uuid, "state", s->attach ? "ended" : "running", "timeout_ms",
                                (json_int_t)ATTACH_SPAN_MS),
                        until);
        if (r) {
                screen_say(&s->follow.screen, true, "%s; %s goes on as far as its nodes live", client_explain(r), s->uuid);
                s->status = CLI_UNREACHABLE;
                return;
        }
        s->reattached = true;
        s->silent_at = until;
        if (s->attach)
                open_logs(s);
}

static void on_silence(Start *s)
{
        if (session_lives(&s->session, MIN(s->session.timeout, PROBE_SPAN)))
                s->silent_at = nsec_add(clock_now(), s->session.timeout);
        else
                reattach(s, CLIENT_E_SILENT);
}

/* How it ended, from the successor's list; only it knows. */
static void show_end(Start *s)
{
        Reply reply = {};
        const json_t *dataflow = NULL;

        if (session_try(&s->session, "Status", json_pack("{s[s]}", "names", s->uuid), &reply) == 0)
                dataflow = json_array_get(json_object_get(reply.parameters, "dataflows"), 0);
        if (dataflow) {
                const char *result = json_get_text(dataflow, "result"), *error = json_get_text(dataflow, "error");

                s->status = strcmp(result, "succeeded") == 0 ? CLI_OK
                            : strcmp(result, "left") == 0    ? CLI_NOT_RUNNING
                                                             : CLI_FAILED;
                screen_say(&s->follow.screen, s->status != CLI_OK, "%s: %s%s%s", json_get_text(s->plan, "name"), result,
                        error[0] ? ": " : "", error);
        }
        reply_done(&reply);
}

/* ---- the loop */

static void read_main(Start *s)
{
        for (unsigned i = 0; i < LINES_A_TURN && s->status < 0; i++) {
                Reply reply = {};
                int r = client_read(&s->main, &reply);

                if (r == CLIENT_E_AGAIN)
                        return;
                if (r)
                        reattach(s, r);
                else
                        on_reply(s, &reply);
                reply_done(&reply);
                if (r)
                        return;
        }
}

/* True: there may be more now. */
static bool read_logs(Start *s)
{
        for (unsigned i = 0; i < LINES_A_TURN; i++) {
                Reply reply = {};
                int r;

                if (screen_is_full(&s->follow.screen))
                        return false;
                r = client_read(&s->logs, &reply);
                if (r == CLIENT_E_AGAIN)
                        return false;
                if (!r && !reply.error && json_is_object(json_object_get(reply.parameters, "line")))
                        follow_line(&s->follow, json_object_get(reply.parameters, "line"));
                if (r || reply.error || !reply.continues) /* the end of the stream is told by the other one */
                        client_done(&s->logs);
                reply_done(&reply);
                if (s->logs.fd < 0)
                        return false;
        }
        return true;
}

/* What was printed before the end. */
static void read_last_lines(Start *s)
{
        for (unsigned i = 0; i < LAST_TURNS && read_logs(s); i++)
                ;
}

static void read_order(Start *s, Client *order)
{
        Reply reply = {};
        int r = client_read(order, &reply);

        if (r == CLIENT_E_AGAIN)
                return;
        if (!r && reply.error && strcmp(reply.error, "NotRunning") != 0)
                screen_say(&s->follow.screen, true, "the order to stop was refused: %s%s%s", reply.error,
                        reply.text[0] ? ": " : "", reply.text);
        reply_done(&reply);
        client_done(order);
}

static void start_turn(Start *s)
{
        enum { SIGNAL, MAIN, LOGS, STOP, FORCE, _N };
        const bool full = screen_is_full(&s->follow.screen);
        /* Read already, but more than one turn takes: no socket tells of it again. */
        const bool logs_wait = !full && client_holds_reply(&s->logs), main_waits = !full && client_holds_reply(&s->main);
        struct pollfd p[_N] = {
                [SIGNAL] = {.fd = s->session.signal_fd, .events = POLLIN},
                [MAIN] = {.fd = full ? -1 : s->main.fd, .events = POLLIN},
                [LOGS] = {.fd = full ? -1 : s->logs.fd, .events = POLLIN},
                [STOP] = {.fd = s->orders[false].fd, .events = POLLIN},
                [FORCE] = {.fd = s->orders[true].fd, .events = POLLIN},
        };
        nsec_t now = clock_now(), wake = MIN(screen_tick(&s->follow.screen, now), MIN(s->silent_at, s->stop_by));
        int signo;

        if (full) /* a terminal that does not take more: look again shortly, the supervisor counts what it must drop meanwhile
                   */
                wake = MIN(wake, nsec_add(now, 20 * NSEC_PER_MSEC));
        if (logs_wait || main_waits)
                wake = now;
        if (poll(p, _N, nsec_poll_ms(wake, now)) < 0)
                return; /* EINTR: every signal we care for comes by signalfd */
        if (p[LOGS].revents || logs_wait)
                (void)read_logs(s);
        if (p[MAIN].revents || main_waits)
                read_main(s);
        if (p[STOP].revents)
                read_order(s, &s->orders[false]);
        if (p[FORCE].revents)
                read_order(s, &s->orders[true]);
        while (s->status < 0 && p[SIGNAL].revents && (signo = session_signal(&s->session)))
                on_signal(s, signo);
        now = clock_now();
        if (s->status < 0 && now >= s->stop_by) {
                screen_say(&s->follow.screen, true, "the stop is overdue; `tidegate stop %s` ends it without the supervisor",
                        s->uuid);
                s->status = CLI_NOT_RUNNING;
        } else if (s->status < 0 && now >= s->silent_at && !full) {
                on_silence(s);
        }
}

static int start_send(Start *s)
{
        nsec_t until = nsec_add(clock_now(), s->session.timeout);
        json_t *p = start_parameters(s);
        int r = p ? client_connect(&s->main, s->session.runtime_dir, until) : -ENOMEM;

        if (r) {
                json_decref(p);
                return r;
        }
        s->silent_at = nsec_add(clock_now(), s->session.timeout);
        return client_send(&s->main, "Start", true, p, until);
}

static int start(Start *s)
{
        _cleanup_(json_decrefp) json_t *shown =
                json_pack("[{sO sO}]", "name", json_object_get(s->plan, "name"), "nodes", json_object_get(s->plan, "nodes"));
        int r = shown ? session_catch(&s->session) : -ENOMEM;

        if (!r)
                r = follow_init(&s->follow, shown, "starting", s->session.json);
        if (!r)
                r = start_send(s);
        if (r == -EMSGSIZE || r == CLIENT_E_TOO_LARGE)
                session_say(&s->session, "the plan with its environment is larger than the 1 MiB that one call may have");
        else if (r)
                return session_fail(&s->session, r);
        if (r)
                return CLI_FAILED;
        while (s->status < 0)
                start_turn(s);
        read_last_lines(s);
        if (s->reattached && s->attach && s->status == CLI_OK)
                show_end(s);
        return s->status;
}

int cmd_start(int argc, char **argv)
{
        Start s = {.session = SESSION_INIT("start"),
                .load = LOAD_OPTIONS_INIT,
                .grace = NSEC_NEVER,
                .main = CLIENT_NULL,
                .logs = CLIENT_NULL,
                .orders = {CLIENT_NULL, CLIENT_NULL},
                .silent_at = NSEC_NEVER,
                .stop_by = NSEC_NEVER,
                .status = -1};
        int status = read_arguments(&s, argc, argv);

        if (!status)
                status = session_locate(&s.session);
        if (!status)
                status = load_plan(&s);
        if (!status)
                status = start(&s);
        if (s.follow.plan)
                follow_done(&s.follow);
        client_done(&s.main);
        client_done(&s.logs);
        client_done(&s.orders[false]);
        client_done(&s.orders[true]);
        session_done(&s.session);
        json_decref(s.plan);
        load_options_done(&s.load);
        return status;
}
