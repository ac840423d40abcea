/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "base/span.h"
#include "cli/table.h"

#define LINE_FIRST  NSEC_PER_SEC        /* anything longer says what it waits for */
#define LINE_EVERY  NSEC_PER_SEC        /* repainted */
#define LINE_REPEAT (10 * NSEC_PER_SEC) /* where it cannot be repainted */
#define PROBE_SPAN  (2 * NSEC_PER_SEC)

/* ---- options */

void session_begin(void)
{
        optind = 0; /* argv is not the one of main(): start afresh */
        opterr = 0;
}

/* The command as the table has it: "node" for "node stop". Static. */
static const char *first_word(const Session *session)
{
        static char first[32];

        (void)snprintf(
                first, sizeof(first), "%.*s", (int)MIN(strcspn(session->command, " "), sizeof(first) - 1), session->command);
        return first;
}

int session_getopt(Session *session, int argc, char **argv, const char *shorts, const struct option *options)
{
        int c;

        while ((c = getopt_long(argc, argv, shorts, options, NULL)) != -1) {
                if (c == SESSION_OPT_RUNTIME_DIR) {
                        session->runtime_dir_option = optarg;
                } else if (c == SESSION_OPT_CGROUP_ROOT) {
                        session->cgroup_root_option = optarg;
                } else if (c == SESSION_OPT_JSON) {
                        session->json = true;
                } else if (c == SESSION_OPT_TIMEOUT) {
                        if (span_parse(optarg, &session->timeout) || session->timeout > 86400 * NSEC_PER_SEC) {
                                (void)usage_error(
                                        first_word(session), "--timeout: `%s` is no time up to 1d (500ms, 2s, 1m)", optarg);
                                return '?';
                        }
                        session->timeout_given = true;
                } else if (c == '?' || c == ':') {
                        (void)usage_error(first_word(session), "unknown option or missing value: `%s`", argv[optind - 1]);
                        return '?';
                } else {
                        return c;
                }
        }
        return -1;
}

const char *session_find_dir(const Session *session, char *buffer, size_t size)
{
        const char *variable = getenv("TIDEGATE_RUNTIME_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

        if (session->runtime_dir_option)
                return session->runtime_dir_option;
        if (variable && *variable)
                return variable;
        if (geteuid() == 0)
                return "/run/tidegate";
        if (!xdg || !*xdg)
                return NULL;
        (void)snprintf(buffer, size, "%s/tidegate", xdg);
        return buffer;
}

int session_locate(Session *session)
{
        char buffer[PATH_MAX];
        const char *dir = session_find_dir(session, buffer, sizeof(buffer));

        if (!dir || !*dir || strlen(dir) >= sizeof(session->runtime_dir) - 64) {
                session_say(session, "no runtime directory is known: XDG_RUNTIME_DIR is not set; give --runtime-dir DIR");
                return CLI_UNREACHABLE;
        }
        (void)snprintf(session->runtime_dir, sizeof(session->runtime_dir), "%s", dir);
        return 0;
}

/* ---- saying things */

static void line_clear(Session *session)
{
        if (session->line_shown) {
                fputs("\r\033[K", stdout);
                (void)fflush(stdout);
        }
        session->line_shown = false;
}

void session_say(Session *session, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        line_clear(session);
        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        (void)fflush(stdout); /* what was printed before comes before */
        fprintf(stderr, "tidegate %s: %s\n", session->command, text ? text_tame(text, false) : "out of memory");
}

int session_fail(Session *session, int r)
{
        switch (r) {
        case CLIENT_E_ABSENT:
        case CLIENT_E_SILENT:
        case CLIENT_E_CLOSED:
        case CLIENT_E_GARBAGE:
                session_say(session, "%s: %s", session->runtime_dir, client_explain(r));
                return CLI_UNREACHABLE;
        case CLIENT_E_FORBIDDEN:
                session_say(session, "%s: %s", session->runtime_dir, client_explain(r));
                return CLI_UNREACHABLE;
        case CLIENT_E_LATE:
                session_say(session, "waited in vain for %s", session->waits_for[0] ? session->waits_for : "the supervisor");
                return CLI_NOT_RUNNING;
        case CLIENT_E_INTERRUPTED:
                return CLI_FAILED;
        default:
                session_say(session, "%s", client_explain(r));
                return CLI_FAILED;
        }
}

int session_error_status(const char *error)
{
        static const struct {
                const char *error;
                int status;
        } table[] = {
                {"NoSuchDataflow", CLI_NO_SUCH},
                {"NoSuchNode", CLI_NO_SUCH},
                {"NoSuchOutput", CLI_NO_SUCH},
                {"Ambiguous", CLI_USAGE},
                {"Leftover", CLI_NOT_RUNNING},
                {"NotRunning", CLI_NOT_RUNNING},
                {"TimedOut", CLI_NOT_RUNNING},
                {"ShuttingDown", CLI_UNREACHABLE},
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (strcmp(error, table[i].error) == 0)
                        return table[i].status;
        return CLI_FAILED;
}

int session_refused(Session *session, const Reply *reply)
{
        const char *state = json_get_text(reply->parameters, "state");

        if (strcmp(reply->error, "org.varlink.service.MethodNotFound") == 0)
                session_say(session, "this supervisor cannot do that: it is of another version");
        else if (state[0])
                session_say(session, "%s (it is %s)", reply->text[0] ? reply->text : reply->error, state);
        else
                session_say(session, "%s%s%s", reply->error, reply->text[0] ? ": " : "", reply->text);
        return session_error_status(reply->error);
}

int session_result(Session *session, json_t *take_json)
{
        int r = take_json ? print_json(take_json) : -ENOMEM;

        json_decref(take_json);
        if (r == -ENOMEM)
                session_say(session, "out of memory");
        return r ? CLI_FAILED : CLI_OK;
}

/* ---- the line that says what is waited for */

static nsec_t line_tick(Session *session, nsec_t now)
{
        bool tty = isatty(STDOUT_FILENO);
        nsec_t due = session->line_at ? nsec_add(session->line_at, tty ? LINE_EVERY : LINE_REPEAT)
                                      : nsec_add(session->waits_since, LINE_FIRST);
        nsec_t until = session->until;
        char bound[64] = "";

        if (session->json || session->streaming || (!tty && !session->verbose))
                return NSEC_NEVER;
        if (now < due)
                return due;
        if (!session->patient)
                until = MIN(until, nsec_add(session->waits_since, session->timeout));
        if (until != NSEC_NEVER)
                (void)snprintf(bound, sizeof(bound), ", at most %.0f s more", (double)nsec_left(until, now) / 1e9);
        printf("%stidegate: waiting for %s%s%s", tty ? "\r\033[K" : "",
                session->waits_for[0] ? session->waits_for : "the supervisor", bound, tty ? "" : "\n");
        (void)fflush(stdout);
        session->line_shown = tty;
        session->line_at = now;
        return nsec_add(now, tty ? LINE_EVERY : LINE_REPEAT);
}

/* ---- calls */

int session_connect(Session *session)
{
        if (session->client.fd >= 0)
                return 0;
        return client_connect(&session->client, session->runtime_dir, nsec_add(clock_now(), session->timeout));
}

void session_hang_up(Session *session)
{
        client_done(&session->client);
}

void session_done(Session *session)
{
        line_clear(session);
        session_hang_up(session);
        session->signal_fd = fd_close(session->signal_fd);
}

int session_catch(Session *session)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGQUIT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return error_origin(-errno);
        session->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return session->signal_fd < 0 ? error_origin(-errno) : 0;
}

int session_signal(Session *session)
{
        struct signalfd_siginfo info;

        if (session->signal_fd < 0 || read(session->signal_fd, &info, sizeof(info)) != sizeof(info))
                return 0;
        return (int)info.ssi_signo;
}

bool session_lives(Session *session, nsec_t span)
{
        nsec_t until = nsec_add(clock_now(), span);
        Client client = CLIENT_NULL;
        Reply reply = {};
        int r = client_connect(&client, session->runtime_dir, until);

        if (!r)
                r = client_send(&client, "GetHealth", false, json_object(), until);
        while (!r && (r = client_read(&client, &reply)) == CLIENT_E_AGAIN) {
                struct pollfd p[] = {{.fd = client.fd, .events = POLLIN}, {.fd = session->signal_fd, .events = POLLIN}};
                nsec_t now = clock_now();

                if (now >= until)
                        break;
                r = 0;
                if (poll(p, ELEMENTSOF(p), nsec_poll_ms(until, now)) > 0 && p[1].revents)
                        break; /* the caller sees the signal first; who lives is of no interest any more */
        }
        reply_done(&reply);
        client_done(&client);
        return r == 0;
}

int session_send(Session *session, const char *method, bool more, json_t *take_parameters)
{
        int r = session_connect(session);

        if (r) {
                json_decref(take_parameters);
                return r;
        }
        return client_send(&session->client, method, more, take_parameters, nsec_add(clock_now(), session->timeout));
}

/* Nobody spoke for `timeout`. Return: 0 to go on waiting. */
static int on_silence(Session *session, nsec_t *silent_at)
{
        if (!session->patient || !session_lives(session, MIN(session->timeout, PROBE_SPAN)))
                return CLIENT_E_SILENT;
        *silent_at = nsec_add(clock_now(), session->timeout);
        return 0;
}

static int wait_reply(Session *session, Reply *ret)
{
        nsec_t now = clock_now(), silent_at = session->streaming ? NSEC_NEVER : nsec_add(now, session->timeout);

        session->waits_since = now;
        session->line_at = 0;
        for (;;) {
                struct pollfd p[] = {
                        {.fd = session->client.fd, .events = POLLIN}, {.fd = session->signal_fd, .events = POLLIN}};
                int r = client_read(&session->client, ret);
                nsec_t wake;

                if (r != CLIENT_E_AGAIN)
                        return r;
                now = clock_now();
                if (now >= session->until)
                        return CLIENT_E_LATE;
                if (now >= silent_at) {
                        r = on_silence(session, &silent_at);
                        if (r)
                                return r;
                }
                wake = session->tick ? session->tick(session->userdata, now) : line_tick(session, now);
                wake = MIN(wake, MIN(session->until, silent_at));
                if (poll(p, ELEMENTSOF(p), nsec_poll_ms(wake, now)) > 0 && p[1].revents)
                        return CLIENT_E_INTERRUPTED;
        }
}

int session_next(Session *session, Reply *ret)
{
        int r = wait_reply(session, ret);

        line_clear(session);
        return r;
}

int session_try(Session *session, const char *method, json_t *take_parameters, Reply *ret)
{
        int r = session_send(session, method, false, take_parameters);

        *ret = (Reply){};
        if (!r)
                r = session_next(session, ret);
        if (!r && ret->continues) { /* nobody asked for a stream */
                reply_done(ret);
                r = CLIENT_E_GARBAGE;
        }
        if (r)
                session_hang_up(session); /* an answer that is late must not be taken for that of another call */
        return r;
}

int session_call(Session *session, const char *method, json_t *take_parameters, json_t **ret)
{
        Reply reply = {};
        int r = session_try(session, method, take_parameters, &reply);

        if (r)
                return session_fail(session, r);
        if (reply.error)
                r = session_refused(session, &reply);
        else
                *ret = json_incref(reply.parameters);
        reply_done(&reply);
        return r;
}
