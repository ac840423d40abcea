/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate logs, tail: what nodes printed, from the log files, which the command reads with the caller's own rights; as it is
 * printed with -f, until the dataflow ends. A dataflow without log files is followed over the control socket.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/log-reader.h"
#include "cli/log-show.h"
#include "cli/print.h"
#include "cli/session.h"
#include "base/span.h"
#include "cli/table.h"
#include "cli/targets.h"

#define TAIL_LINES   10
#define TAIL_MAX     1000000
#define WAIT_SPAN_MS (3600 * 1000)      /* of one Wait; asked again */
#define RETRY_SPAN   (2 * NSEC_PER_SEC) /* to a supervisor that went away */

typedef struct Logs {
        Session session;
        LogShow show;
        bool tail, follow;
        long lines; /* -1: all */
        const char **nodes;
        size_t n_nodes;
        const char *name, *dir;
        Target target;
        json_t *dataflow;
        Client waiter; /* has a Wait for the end under way */
        nsec_t retry_at;
        bool ended;
} Logs;

/* ---- arguments */

/* "5m" ago, or a date. 0: neither. */
static uint64_t parse_moment(const char *text)
{
        uint64_t now = clock_wall();
        nsec_t span;

        if (span_parse(text, &span) == 0)
                return span < now ? now - span : 1;
        return log_time_parse(text);
}

static int read_number(const char *command, const char *option, const char *text, long *ret)
{
        char *end;

        errno = 0;
        *ret = strtol(text, &end, 10);
        if (errno || end == text || *end || *ret < 0 || *ret > TAIL_MAX)
                return usage_error(command, "%s: `%s` is no number up to %d", option, text, TAIL_MAX);
        return 0;
}

static int take_option(Logs *l, const char *command, int o)
{
        switch (o) {
        case 'f':
                l->follow = true;
                return 0;
        case 'n':
                if (l->tail)
                        return read_number(command, "-n", optarg, &l->lines);
                l->nodes[l->n_nodes++] = optarg; /* at most one an argument */
                return 0;
        case 't':
                return read_number(command, "--tail", optarg, &l->lines);
        case 's':
        case 'u':
                *(o == 's' ? &l->show.since_ns : &l->show.until_ns) = parse_moment(optarg);
                if (parse_moment(optarg) == 0)
                        return usage_error(command,
                                "`%s` is neither a time span (30s, 5m, 1h, 2d) nor a date (2026-01-31T12:00:00)", optarg);
                return 0;
        case 'l':
                l->show.level = log_level_rank(optarg);
                return l->show.level < 0 ? usage_error(command,
                                                   "--level: `%s` is none of stdout, trace, debug, info, warn, error", optarg)
                                         : 0;
        case 'g':
                l->show.grep = optarg;
                return 0;
        case 'd':
                l->dir = optarg;
                return 0;
        default:
                return CLI_USAGE;
        }
}

static int read_arguments(Logs *l, int argc, char **argv)
{
        static const struct option logs_options[] = {
                {"node", required_argument, NULL, 'n'},
                {"all-nodes", no_argument, NULL, 'A'},
                {"tail", required_argument, NULL, 't'},
                {"follow", no_argument, NULL, 'f'},
                {"since", required_argument, NULL, 's'},
                {"until", required_argument, NULL, 'u'},
                {"level", required_argument, NULL, 'l'},
                {"grep", required_argument, NULL, 'g'},
                {"log-dir", required_argument, NULL, 'd'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        static const struct option tail_options[] = {
                {"lines", required_argument, NULL, 'n'},
                {"follow", no_argument, NULL, 'f'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o, status = 0;

        l->nodes = calloc((size_t)argc + 1, sizeof(*l->nodes));
        if (!l->nodes)
                return CLI_FAILED;
        session_begin();
        while (!status && (o = session_getopt(&l->session, argc, argv, "fn:", l->tail ? tail_options : logs_options)) != -1)
                status = o == 'A' ? 0 : take_option(l, argv[0], o);
        if (status)
                return status;
        if (argc - optind > 1)
                return usage_error(argv[0], "unexpected argument `%s`", argv[optind + 1]);
        l->name = argv[optind];
        if (l->tail && !l->name)
                return usage_error(argv[0], "of what?");
        if (l->name && l->dir)
                return usage_error(argv[0], "--log-dir and a name exclude each other");
        return 0;
}

/* ---- which dataflow */

static int find_dataflow(Logs *l)
{
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        json_t *found = NULL;
        const char *names[1] = {l->target.dataflow};
        int transport, status;

        if (l->name && !target_parse(&l->target, l->name))
                return usage_error(l->session.command, "`%s` names neither a dataflow nor DATAFLOW:NODE", l->name);
        if (l->target.node[0] && strcmp(l->target.node, "*") != 0)
                l->nodes[l->n_nodes++] = l->target.node;
        status = targets_status(&l->session, names, l->name ? 1 : 0, &dataflows, &transport);
        if (transport)
                return session_fail(&l->session, transport);
        if (status)
                return status;
        if (l->name)
                found = json_array_get(dataflows, 0);
        else
                status = targets_the_one(&l->session, dataflows, &found);
        if (!found)
                return status;
        l->dataflow = json_incref(found);
        for (size_t i = 0; i < l->n_nodes; i++) {
                if (!dataflow_find_node(found, l->nodes[i])) {
                        session_say(&l->session, "%s has no node %s", json_get_text(found, "name"), l->nodes[i]);
                        return CLI_NO_SUCH;
                }
        }
        return 0;
}

/* ---- files */

static void show_available(Logs *l, LogReader *reader)
{
        json_t *record;
        uint64_t wall_ns;

        while (log_reader_next(reader, &record, &wall_ns))
                log_show(&l->show, record, wall_ns);
        (void)fflush(stdout);
}

/* The supervisor says when the dataflow has ended. Without one, -f goes on until Ctrl-C. */
static void ask_for_end(Logs *l, nsec_t now)
{
        nsec_t until = nsec_add(now, NSEC_PER_SEC);

        if (!l->dataflow || now < l->retry_at || l->waiter.fd >= 0)
                return;
        l->retry_at = nsec_add(now, RETRY_SPAN);
        if (client_connect(&l->waiter, l->session.runtime_dir, until) == 0 &&
                client_send(&l->waiter, "Wait", false,
                        json_pack("{ss ss si}", "dataflow", json_get_text(l->dataflow, "uuid"), "state", "ended",
                                "timeout_ms", WAIT_SPAN_MS),
                        until) != 0)
                client_done(&l->waiter);
}

static void read_end(Logs *l)
{
        Reply reply = {};
        int r = client_read(&l->waiter, &reply);

        if (r == CLIENT_E_AGAIN)
                return;
        l->ended = r == 0 &&
                   (!reply.error || strcmp(reply.error, "NoSuchDataflow") == 0 || strcmp(reply.error, "NotRunning") == 0);
        reply_done(&reply);
        client_done(&l->waiter);
}

static int follow_files(Logs *l, LogReader *reader, int watch_fd)
{
        while (!l->ended) {
                nsec_t now = clock_now();
                struct pollfd p[] = {{.fd = watch_fd, .events = POLLIN}, {.events = POLLIN}};
                char events[16384];

                ask_for_end(l, now);
                p[1].fd = l->waiter.fd;
                /* Without a supervisor to tell the end, it is looked for again now and then. */
                if (poll(p, ELEMENTSOF(p), l->dataflow && l->waiter.fd < 0 ? nsec_poll_ms(l->retry_at, now) : -1) < 0 &&
                        errno != EINTR)
                        return -errno;
                if (p[1].revents)
                        read_end(l);
                if (p[0].revents && read(watch_fd, events, sizeof(events)) < 0 && errno != EINTR && errno != EAGAIN)
                        return -errno;
                log_reader_look(reader);
                show_available(l, reader);
                if (ferror(stdout))
                        return 0; /* main() says why */
        }
        return 0;
}

static int show_files(Logs *l, const char *dir)
{
        LogReader reader = LOG_READER_NULL;
        _cleanup_fd_ int watch_fd = l->follow ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
        int r = 0;

        /* The watch first: what is written after the reading then wakes us. */
        if (l->follow && (watch_fd < 0 || inotify_add_watch(watch_fd, dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0))
                r = -errno;
        if (!r)
                r = log_reader_open(&reader, dir, l->nodes, l->n_nodes);
        if (r < 0)
                return r;
        if (reader.error)
                session_say(&l->session, "%s/%s: %s", dir, reader.error_file, strerror(reader.error));
        l->show.name_nodes = l->n_nodes != 1 && reader.n_files != 1;
        if (l->lines >= 0) {
                if (!log_show_filters(&l->show))
                        log_reader_skip(&reader, (size_t)l->lines);
                l->show.n_last = (size_t)l->lines;
        }
        if (l->lines != 0 || l->follow)
                show_available(l, &reader);
        log_show_kept(&l->show);
        (void)fflush(stdout);
        if (l->follow)
                r = follow_files(l, &reader, watch_fd);
        log_reader_done(&reader);
        return r;
}

/* ---- without files */

static int follow_stream(Logs *l)
{
        json_t *parameters = json_pack("{ss}", "dataflow", json_get_text(l->dataflow, "uuid")), *nodes = json_array();
        Reply reply = {};
        int r, status = 0;

        for (size_t i = 0; i < l->n_nodes; i++)
                (void)json_array_append_new(nodes, json_string(l->nodes[i]));
        (void)json_object_set_new(parameters, "nodes", l->n_nodes ? nodes : json_null());
        l->session.streaming = true;
        l->show.name_nodes = l->n_nodes != 1;
        r = session_send(&l->session, "Logs", true, parameters);
        while (!r && !status && !ferror(stdout)) {
                uint64_t wall_ns;
                json_t *line;

                r = session_next(&l->session, &reply);
                if (r)
                        break;
                line = json_object_get(reply.parameters, "line");
                if (reply.error)
                        status = session_refused(&l->session, &reply);
                else if (json_is_object(line)) {
                        json_t *record = log_record(line, &wall_ns);

                        log_show(&l->show, record, wall_ns);
                        (void)fflush(stdout);
                }
                if (!reply.error && !reply.continues)
                        break;
                reply_done(&reply);
        }
        reply_done(&reply);
        return r ? session_fail(&l->session, r) : status;
}

/* ---- the commands */

static int logs(Logs *l)
{
        const char *dir = l->dir;
        int status, r;

        if (!dir) {
                status = session_locate(&l->session);
                if (!status)
                        status = find_dataflow(l);
                if (status)
                        return status;
                dir = json_get_text(l->dataflow, "log_dir");
                session_hang_up(&l->session);
        }
        l->show.json = l->session.json;
        l->show.raw = l->tail;
        l->show.color = color_wanted(stdout);
        l->show.tty = l->show.color || isatty(STDOUT_FILENO);
        if (!dir[0] && l->follow)
                return follow_stream(l);
        if (!dir[0]) {
                session_say(&l->session, "%s keeps no log files (--no-logs); -f shows what is printed from now on",
                        json_get_text(l->dataflow, "name"));
                return CLI_FAILED;
        }
        r = show_files(l, dir);
        if (r == -ENOENT && l->follow && l->dataflow && !dataflow_has_ended(l->dataflow))
                return follow_stream(l); /* its logger has not made the directory yet */
        if (r)
                session_say(&l->session, "%s: %s", dir, strerror(-r));
        return r ? CLI_FAILED : CLI_OK;
}

static int run_command(int argc, char **argv, bool tail)
{
        Logs l = {.session = SESSION_INIT(argv[0]), .tail = tail, .lines = tail ? TAIL_LINES : -1, .waiter = CLIENT_NULL};
        int status = read_arguments(&l, argc, argv);

        if (!status)
                status = logs(&l);
        client_done(&l.waiter);
        log_show_done(&l.show);
        json_decref(l.dataflow);
        free(l.nodes);
        session_done(&l.session);
        return status;
}

int cmd_logs(int argc, char **argv)
{
        return run_command(argc, argv, false);
}

int cmd_tail(int argc, char **argv)
{
        return run_command(argc, argv, true);
}
