/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate up: the daemon in the background, unless it is there. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/enforcer.h"
#include "base/error.h"
#include "cli/beside.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/table.h"

#define UP_SPAN   (10 * NSEC_PER_SEC)
#define UP_STEP   (20 * NSEC_PER_MSEC) /* nothing tells that a socket has appeared in a directory that is just made */
#define UP_LATER  (2 * NSEC_PER_SEC)   /* our daemon gave up: another one that was started meanwhile may be about to answer */
#define LOG_SHOWN 2000                 /* bytes of the daemon's log */

typedef struct Up {
        Session session;
        const char *watchdog, *enforcer;
        char daemon[PATH_MAX];
        int log_fd;
        off_t log_begin;
        pid_t pid;
        int pidfd;
} Up;

static int read_arguments(Up *up, int argc, char **argv)
{
        static const struct option options[] = {
                {"watchdog", required_argument, NULL, 'w'},
                {"enforcer", required_argument, NULL, 'E'},
                SESSION_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int o;

        session_begin();
        while ((o = session_getopt(&up->session, argc, argv, "", options)) != -1) {
                if (o == 'w')
                        up->watchdog = optarg;
                else if (o == 'E' && enforcer_parse(optarg, &(Enforcer){0}))
                        return usage_error("up", "--enforcer: `%s` is none of " ENFORCER_NAMES, optarg);
                else if (o == 'E')
                        up->enforcer = optarg;
                else
                        return CLI_USAGE;
        }
        return optind < argc ? usage_error("up", "unexpected argument `%s`", argv[optind]) : 0;
}

static int say_health(Up *up, const json_t *parameters, bool was_there)
{
        const json_t *health = json_object_get(parameters, "health");

        if (up->session.json)
                return session_result(&up->session, json_pack("{sb sO}", "started", !was_there, "health", (json_t *)health));
        printf("tidegated %s: supervisor %lld, guard %lld, in %s\n", was_there ? "is running already" : "runs",
                json_get_number(health, "pid"), json_get_number(health, "guard_pid"), up->session.runtime_dir);
        return CLI_OK;
}

/* One question. Return: 0 and the answer was said, CLIENT_E_*, or a negative errno. */
static int ask(Up *up, bool was_there, int *ret_status)
{
        Reply reply = {};
        int r = session_try(&up->session, "GetHealth", json_object(), &reply);

        if (!r && !reply.error && !json_is_object(json_object_get(reply.parameters, "health")))
                r = CLIENT_E_GARBAGE;
        if (!r)
                *ret_status =
                        reply.error ? session_refused(&up->session, &reply) : say_health(up, reply.parameters, was_there);
        reply_done(&reply);
        return r;
}

/* ---- starting it */

static int make_directory(Up *up)
{
        char real[PATH_MAX], path[PATH_MAX + 32];

        if (mkdir(up->session.runtime_dir, 0755) < 0 && errno != EEXIST) {
                session_say(&up->session, "%s: %s", up->session.runtime_dir, strerror(errno));
                return CLI_FAILED;
        }
        if (!realpath(up->session.runtime_dir, real) || strlen(real) >= sizeof(up->session.runtime_dir)) {
                session_say(&up->session, "%s: %s", up->session.runtime_dir, strerror(errno));
                return CLI_FAILED;
        }
        memcpy(up->session.runtime_dir, real, strlen(real) + 1); /* the daemon may change its directory */
        (void)snprintf(path, sizeof(path), "%s/tidegated.log", up->session.runtime_dir);
        up->log_fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
        if (up->log_fd < 0) {
                session_say(&up->session, "%s: %s", path, strerror(errno));
                return CLI_FAILED;
        }
        up->log_begin = lseek(up->log_fd, 0, SEEK_END);
        return 0;
}

static _Noreturn void exec_daemon(const Up *up)
{
        char dir[PATH_MAX + 32], root[PATH_MAX + 32], watchdog[128], enforcer[64], name[] = "tidegated";
        char *argv[6] = {name, dir};
        int n = 2, null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        sigset_t none;

        (void)snprintf(dir, sizeof(dir), "--runtime-dir=%s", up->session.runtime_dir);
        (void)snprintf(root, sizeof(root), "--cgroup-root=%s", up->session.cgroup_root_option ? up->session.cgroup_root_option : "");
        (void)snprintf(watchdog, sizeof(watchdog), "--watchdog=%s", up->watchdog ? up->watchdog : "");
        (void)snprintf(enforcer, sizeof(enforcer), "--enforcer=%.40s", up->enforcer ? up->enforcer : "");
        if (up->session.cgroup_root_option)
                argv[n++] = root;
        if (up->enforcer)
                argv[n++] = enforcer;
        if (up->watchdog)
                argv[n++] = watchdog;
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (null < 0 || setsid() < 0 || dup2(null, 0) < 0 || dup2(up->log_fd, 1) < 0 || dup2(up->log_fd, 2) < 0)
                _exit(126);
        execv(up->daemon, argv);
        _exit(127);
}

static int start_daemon(Up *up)
{
        int r = find_tidegated(up->daemon, sizeof(up->daemon)), status;

        if (r) {
                session_say(&up->session, "cannot find tidegated beside this program: %s", strerror(-r));
                return CLI_FAILED;
        }
        status = make_directory(up);
        if (status)
                return status;
        (void)fflush(stdout);
        up->pid = fork();
        if (up->pid == 0)
                exec_daemon(up);
        up->pidfd = up->pid > 0 ? (int)syscall(SYS_pidfd_open, up->pid, 0) : -1;
        if (up->pidfd >= 0)
                return 0;
        session_say(&up->session, "cannot start %s: %s", up->daemon, strerror(errno));
        return CLI_FAILED;
}

/* ---- waiting for it */

static void say_log(Up *up)
{
        char text[LOG_SHOWN + 1];
        off_t end = lseek(up->log_fd, 0, SEEK_END), begin = MAX(up->log_begin, end - LOG_SHOWN);
        ssize_t n = pread(up->log_fd, text, LOG_SHOWN, begin);

        if (n <= 0)
                return;
        text[n] = '\0';
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
                session_say(&up->session, "  %s", line);
}

static void say_exit(Up *up)
{
        siginfo_t si = {};

        (void)waitid(P_PIDFD, (id_t)up->pidfd, &si, WEXITED | WNOHANG);
        if (si.si_code == CLD_EXITED)
                session_say(&up->session, "tidegated exited with status %d; its log %s/tidegated.log ends with", si.si_status,
                        up->session.runtime_dir);
        else
                session_say(&up->session, "tidegated was ended by SIG%s; its log %s/tidegated.log ends with",
                        sigabbrev_np(si.si_status) ?: "?", up->session.runtime_dir);
        say_log(up);
}

static void show_waiting(const Up *up, nsec_t begin, nsec_t until, nsec_t *next)
{
        nsec_t now = clock_now();

        if (up->session.json || !isatty(STDOUT_FILENO) || now < *next || now - begin < NSEC_PER_SEC)
                return;
        printf("\r\033[Ktidegate: waiting for tidegated (pid %d) to answer, at most %.0f s more", (int)up->pid,
                (double)nsec_left(until, now) / 1e9);
        (void)fflush(stdout);
        *next = nsec_add(now, NSEC_PER_SEC);
}

static int wait_until_it_answers(Up *up)
{
        nsec_t begin = clock_now(), until = nsec_add(begin, up->session.timeout_given ? up->session.timeout : UP_SPAN),
               next = 0;
        bool exited = false;
        int status = CLI_FAILED, r;

        do {
                struct pollfd p = {.fd = exited ? -1 : up->pidfd, .events = POLLIN};

                up->session.timeout = MAX(nsec_left(until, clock_now()), NSEC_PER_MSEC);
                up->session.streaming = true; /* this loop says what is waited for */
                up->session.until = until;
                r = ask(up, false, &status);
                if (!r || r == CLIENT_E_FORBIDDEN)
                        break;
                show_waiting(up, begin, until, &next);
                if (poll(&p, 1, nsec_poll_ms(UP_STEP, 0)) > 0 && !exited) {
                        exited = true;
                        until = MIN(until, nsec_add(clock_now(), UP_LATER));
                }
        } while (clock_now() < until);
        if (next) {
                fputs("\r\033[K", stdout);
                (void)fflush(stdout);
        }
        if (!r)
                return status;
        if (exited) {
                say_exit(up);
                return CLI_FAILED;
        }
        session_say(&up->session,
                "tidegated (pid %d) runs but did not answer within %.0f s: %s; its log %s/tidegated.log ends with",
                (int)up->pid, (double)(clock_now() - begin) / 1e9, client_explain(r), up->session.runtime_dir);
        say_log(up);
        return CLI_UNREACHABLE;
}

static int up_(Up *up)
{
        nsec_t until = nsec_add(clock_now(), UP_LATER);
        int status = CLI_FAILED, r;

        /* Who hangs up without a word was about to die when it took the question: its guard makes another, or nobody is there. */
        while ((r = ask(up, true, &status)) == CLIENT_E_CLOSED && clock_now() < until)
                (void)poll(NULL, 0, nsec_poll_ms(UP_STEP, 0));
        if (!r)
                return status;
        if (r != CLIENT_E_ABSENT) /* there is one, and it is not well: another would not get the lock */
                return session_fail(&up->session, r);
        status = start_daemon(up);
        return status ? status : wait_until_it_answers(up);
}

int cmd_up(int argc, char **argv)
{
        Up up = {.session = SESSION_INIT("up"), .log_fd = -1, .pidfd = -1};
        int status = read_arguments(&up, argc, argv);

        if (!status)
                status = session_locate(&up.session);
        if (!status)
                status = up_(&up);
        (void)fd_close(up.log_fd);
        (void)fd_close(up.pidfd);
        session_done(&up.session);
        return status;
}
