/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Session: what every command that talks to the daemon shares: its common options, where the daemon is, calls that end by a
 * deadline while a line says what is waited for, and the exit status that a failure means.
 *
 * A supervisor is given `timeout` to say something. A call that takes long by its nature is `patient`: when that time has
 * passed, a second connection asks the supervisor whether it lives, and only if it does not is it given up.
 *
 * Says failures on stderr. One call at a time; single-threaded.
 */
#ifndef TG_CLI_SESSION_H
#define TG_CLI_SESSION_H

#include <getopt.h>
#include <limits.h>

#include "cli/client.h"

#define SESSION_TIMEOUT (5 * NSEC_PER_SEC) /* of silence */

typedef struct Session {
        const char *command; /* "list" */
        const char *runtime_dir_option, *cgroup_root_option;
        char runtime_dir[PATH_MAX];
        nsec_t timeout;
        bool timeout_given, json;
        bool links; /* targets_status() asks for them, too */
        Client client;

        /* how the next calls wait */
        char waits_for[160]; /* for the line that says so; "": the supervisor */
        nsec_t until;        /* absolute; NSEC_NEVER: the silence is the only bound */
        bool patient;
        bool streaming; /* nothing is promised: silence is no failure, and no line is shown */
        bool verbose;   /* the line is shown where it cannot be repainted, too */
        int signal_fd;  /* ends a wait with CLIENT_E_INTERRUPTED; -1: signals do what they always do. Ours */
        nsec_t (*tick)(void *userdata, nsec_t now); /* instead of the line; returns when to be called again */
        void *userdata;

        bool line_shown;
        nsec_t waits_since, line_at;
} Session;

#define SESSION_INIT(name)                                                                                                   \
        {                                                                                                                    \
                .command = (name), .timeout = SESSION_TIMEOUT, .client = {.fd = -1}, .until = NSEC_NEVER, .signal_fd = -1    \
        }

#define SESSION_RUNTIME_HELP                                                                                                 \
        "  --runtime-dir DIR    the daemon's directory, default $TIDEGATE_RUNTIME_DIR, else /run/tidegate\n"                 \
        "                       for root and $XDG_RUNTIME_DIR/tidegate for others\n"
#define SESSION_OPTIONS_HELP                                                                                                 \
        SESSION_RUNTIME_HELP                                                                                                 \
        "  --cgroup-root DIR    the daemon's cgroups are below DIR: without its help nobody else is ended\n"
#define SESSION_TIMEOUT_HELP "  --timeout D          how long a supervisor that says nothing is waited for, default 5s\n"

enum {
        SESSION_OPT_RUNTIME_DIR = 1000,
        SESSION_OPT_CGROUP_ROOT,
        SESSION_OPT_TIMEOUT,
        SESSION_OPT_JSON,
};

#define SESSION_LONG_OPTIONS                                                                                                 \
        {"runtime-dir", required_argument, NULL, SESSION_OPT_RUNTIME_DIR},                                                   \
                {"cgroup-root", required_argument, NULL, SESSION_OPT_CGROUP_ROOT},                                           \
                {"timeout", required_argument, NULL, SESSION_OPT_TIMEOUT},                                                   \
        {                                                                                                                    \
                "json", no_argument, NULL, SESSION_OPT_JSON                                                                  \
        }

/**
 * session_getopt() - the next option that is none of SESSION_LONG_OPTIONS, whose values are taken here
 * @shorts: begins with nothing special
 *
 * Starts over when @argv is a new one (session just initialised: optind is set to 0 by session_begin()).
 *
 * Return: as getopt_long(); '?' when a usage error was said.
 */
int session_getopt(Session *session, int argc, char **argv, const char *shorts, const struct option *options);
void session_begin(void);

/* session_find_dir() - the runtime directory by option, environment or custom, maybe in @buffer; NULL: none is known. */
const char *session_find_dir(const Session *session, char *buffer, size_t size);

/* session_locate() - find the runtime directory. 0 or CLI_UNREACHABLE, said. */
int session_locate(Session *session);

/* session_connect() - now, if not connected. 0, CLIENT_E_* or a negative errno; says nothing. */
int session_connect(Session *session);
void session_hang_up(Session *session);
void session_done(Session *session);

/* session_catch() - from here on SIGINT, SIGTERM, SIGHUP and SIGQUIT end waits instead of the process. 0 or a negative errno.
 */
int session_catch(Session *session);

/* session_signal() - the signal that came, or 0. */
int session_signal(Session *session);

/* session_send() - connect if need be and send a call. 0, CLIENT_E_*, a negative errno; says nothing. Consumes the
 * parameters. */
int session_send(Session *session, const char *method, bool more, json_t *take_parameters);

/* session_next() - wait for the next reply to it, as the fields above say. 0, CLIENT_E_*, a negative errno; says nothing. */
int session_next(Session *session, Reply *ret);

/* session_try() - both, for a call with one reply. The reply may be an error. Says nothing. */
int session_try(Session *session, const char *method, json_t *take_parameters, Reply *ret);

/* session_call() - the same, and anything but success is said. Return: 0 or the exit status; *ret is then untouched. */
int session_call(Session *session, const char *method, json_t *take_parameters, json_t **ret);

/* session_lives() - whether the supervisor answers on a connection of its own within @span. */
bool session_lives(Session *session, nsec_t span);

/* The exit status of a failure of ours / an error of the supervisor's. Both say it. */
int session_fail(Session *session, int r);
int session_refused(Session *session, const Reply *reply);
int session_error_status(const char *error);

/* session_say() - "tidegate COMMAND: ..." on stderr, tamed. */
__attribute__((format(printf, 2, 3))) void session_say(Session *session, const char *format, ...);

/* session_result() - exit status of having printed @take_json as the command's --json result. */
int session_result(Session *session, json_t *take_json);

#endif
