/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate run: a dataflow in the foreground. The command parses the descriptor, starts a private instance, shows what happens
 * and orders the stop. It waits for nothing without a deadline: every stop it orders is placed in the guard's escrow as
 * well, so that it ends on time whatever the supervisor does.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/enforcer.h"
#include "base/error.h"
#include "base/receive.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/probe.h"
#include "cli/run-instance.h"
#include "cli/run-screen.h"
#include "base/span.h"
#include "cli/table.h"

#define RUN_BUDGET       (2 * NSEC_PER_SEC)   /* kill budget of a stop */
#define RUN_ESCROW_SLACK (300 * NSEC_PER_MSEC) /* the guard's deadline lies a little behind the supervisor's own */
#define RUN_NOW_SPAN     (200 * NSEC_PER_MSEC) /* second Ctrl-C: what the supervisor gets to do it itself */
#define RUN_READY_SPAN   (10 * NSEC_PER_SEC)  /* the guard sweeps dead instances first */
#define RUN_LEAVE_SPAN   (5 * NSEC_PER_SEC)   /* result to the guard's exit: keepers flush, directories go */
#define RUN_ABORT_SPAN   NSEC_PER_SEC
#define RUN_FLUSH_SPAN   NSEC_PER_SEC
#define RUN_LOGS_A_TURN  256

typedef struct Run {
        LoadOptions load;
        const char *path, *cgroup_root, *enforcer;
        nsec_t stop_after, grace;
        bool json;

        json_t *plan;
        Screen screen;
        RunInstance instance;
        int signal_fd;
        unsigned n_interrupts;
        bool accepted;
        nsec_t stop_at;   /* --stop-after, absolute; NSEC_NEVER */
        nsec_t deadline;  /* absolute: by then the instance has done what it is doing, or we end it ourselves */
        const char *waits_for; /* what the deadline is about */
        bool stop_ordered;  /* by us, at the latest when somebody pressed Ctrl-C */
        nsec_t drain_until; /* everybody has gone: how long a reader that takes no lines is waited for */
        size_t drained;     /* bytes it had taken when that was last looked at */
        json_t *result;
        bool left_told;
        bool guard_exited, failed;
        bool allow_unenforced; /* limits */
        int status; /* exit status; -1: not known yet */
} Run;

/* ---- arguments */

static int read_arguments(Run *run, int argc, char **argv)
{
        static const struct option options[] = {
                {"stop-after", required_argument, NULL, 'a'},
                {"grace-duration", required_argument, NULL, 'g'},
                {"cgroup-root", required_argument, NULL, 'c'},
                {"enforcer", required_argument, NULL, 'F'},
                {"json", no_argument, NULL, 'j'},
                {"allow-unenforced-limits", no_argument, NULL, 'u'},
                LOAD_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int c;

        optind = 0;
        opterr = 0;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == 'j')
                        run->json = true;
                else if (c == 'u')
                        run->allow_unenforced = true;
                else if (c == 'c')
                        run->cgroup_root = optarg;
                else if (c == 'F' && enforcer_parse(optarg, &(Enforcer){0}))
                        return usage_error("run", "--enforcer: `%s` is none of " ENFORCER_NAMES, optarg);
                else if (c == 'F')
                        run->enforcer = optarg;
                else if (c == 'a' && span_parse(optarg, &run->stop_after))
                        return usage_error("run", "--stop-after: `%s` is no time (500ms, 2s, 1m)", optarg);
                else if (c == 'g' && (span_parse(optarg, &run->grace) || run->grace > 3600 * NSEC_PER_SEC))
                        return usage_error("run", "--grace-duration: `%s` is no time up to 1h (500ms, 2s, 1m)", optarg);
                else if (c == '?' || c == ':')
                        return usage_error("run", "unknown option or missing value: `%s`", argv[optind - 1]);
                else if (load_option(&run->load, c, optarg) < 0)
                        return CLI_FAILED;
        }
        if (argc - optind != 1)
                return usage_error("run", "%s", argc == optind ? "which file?" : "one file only");
        run->path = argv[optind];
        return 0;
}

static int load_plan(Run *run)
{
        Diagnostics diags = DIAGNOSTICS_INIT;
        int r;

        run->load.descriptor.n_cpus = cpus_here();
        r = descriptor_load(run->path, &run->load.descriptor, &run->plan, &diags);
        print_diagnostics(stderr, &diags, true);
        diagnostics_done(&diags);
        if (r < 0)
                fprintf(stderr, "tidegate: %s: %s\n", run->path, error_text(r));
        return r ? CLI_FAILED : 0;
}

/* ---- stopping */

static void set_deadline(Run *run, nsec_t at, const char *waits_for)
{
        run->deadline = at;
        run->waits_for = waits_for;
}

static void order_stop(Run *run, nsec_t grace, bool force)
{
        nsec_t now = clock_now();
        nsec_t kill = force ? nsec_add(now, RUN_NOW_SPAN) : nsec_add(now, nsec_add(grace, grace / 2));
        nsec_t at = nsec_add(kill, RUN_ESCROW_SLACK), until = nsec_add(at, RUN_BUDGET);

        run_instance_escrow(&run->instance, at, until);
        run_instance_stop(&run->instance, grace, force);
        run->stop_at = NSEC_NEVER;
        run->stop_ordered = true;
        run->screen.stop_until = until;
        screen_phase(&run->screen, "stopping", now); /* also when the supervisor does not say so in time */
        set_deadline(run, nsec_add(until, RUN_LEAVE_SPAN), "the stop to end");
}

/* Nobody is there any more: what was to be said lies in the log stream and in our own buffer. */
static bool is_draining(const Run *run)
{
        return run->guard_exited && run->instance.control_fds[0] < 0;
}

static void on_interrupt(Run *run, const char *what)
{
        run->n_interrupts++;
        if (is_draining(run)) {
                run->drain_until = 0;
                return;
        }
        if (run->n_interrupts == 1) {
                screen_say(&run->screen, false, "%s: stopping, nodes have %.1f s to end; once more to stop now", what, (double)run->grace / 1e9);
                order_stop(run, run->grace, false);
        } else if (run->n_interrupts == 2) {
                screen_say(&run->screen, false, "%s: stopping now; once more to abort", what);
                order_stop(run, 0, true);
        } else {
                screen_say(&run->screen, true, "%s: aborted", what);
                run_instance_abort(&run->instance, nsec_add(clock_now(), RUN_ABORT_SPAN));
                run->status = CLI_FAILED;
        }
}

/* ---- what the instance says */

static void on_reply(Run *run, json_t *reply)
{
        json_t *parameters = json_object_get(reply, "parameters"), *event = json_object_get(parameters, "event");
        const char *error = json_string_value(json_object_get(reply, "error"));

        if (error) {
                const char *text = json_string_value(json_object_get(parameters, "text"));

                screen_say(&run->screen, true, "the supervisor refuses the dataflow: %s", text ? text : error);
                run->failed = true;
                order_stop(run, 0, true);
        } else if (event) {
                run->accepted = true;
                screen_event(&run->screen, event, clock_now());
        } else if (json_object_get(parameters, "result")) {
                run->result = json_incref(json_object_get(parameters, "result"));
                set_deadline(run, nsec_add(clock_now(), RUN_LEAVE_SPAN), "the guard to leave");
        }
}

static void read_control(Run *run)
{
        for (unsigned i = 0; i < 64; i++) {
                json_t *reply = NULL;
                int r = run_instance_message(&run->instance, &reply);

                if (r == 0)
                        on_reply(run, reply);
                json_decref(reply);
                if (r == 0)
                        continue;
                if (r != RUN_E_AGAIN)
                        run->instance.control_fds[0] = fd_close(run->instance.control_fds[0]);
                return;
        }
}

static json_t *run_parameters(const Run *run)
{
        const char *dir = json_string_value(json_object_get(run->plan, "dir"));
        _cleanup_free_ char *log_dir = NULL;
        mode_t mask = umask(0);

        (void)umask(mask);
        if (asprintf(&log_dir, "%s/out", strcmp(dir, "/") == 0 ? "" : dir) < 0) {
                log_dir = NULL;
                return NULL;
        }
        return json_pack("{sO sb sI sI si ss}", "plan", run->plan, "allow_unenforced_limits", run->allow_unenforced, "grace_ns", (json_int_t)run->grace, "budget_ns", (json_int_t)RUN_BUDGET,
                "umask", (int)mask, "log_dir", log_dir);
}

static void on_guard_ready(Run *run, const char *cgroup)
{
        json_t *parameters = run_parameters(run);
        int r = parameters ? run_instance_run(&run->instance, parameters) : -ENOMEM;

        (void)snprintf(run->instance.cgroup, sizeof(run->instance.cgroup), "%s", cgroup);
        if (r) {
                screen_say(&run->screen, true, "cannot hand the dataflow to the supervisor: %s",
                        r == -EMSGSIZE ? "the plan is larger than 1 MiB" : error_text(r));
                run->failed = true;
                order_stop(run, 0, true);
                return;
        }
        set_deadline(run, NSEC_NEVER, NULL);
        if (run->stop_after != NSEC_NEVER)
                run->stop_at = nsec_add(clock_now(), run->stop_after);
        if (run->n_interrupts > 0) /* asked to stop before there was anybody to ask */
                order_stop(run, run->n_interrupts > 1 ? 0 : run->grace, run->n_interrupts > 1);
}

static void on_supervisor_gone(Run *run, const struct guard_record *record)
{
        nsec_t grace = run->grace / 2;

        screen_say(&run->screen, true, "the supervisor %s %d; the guard ends its nodes (SIGTERM now, SIGKILL in %.1f s)",
                record->code == CLD_EXITED ? "exited with status" : "was ended by signal", record->status, (double)grace / 1e9);
        run->failed = true;
        run->stop_at = NSEC_NEVER;
        set_deadline(run, nsec_add(clock_now(), nsec_add(grace, RUN_BUDGET + RUN_LEAVE_SPAN)), "the guard to end the nodes");
}

static void on_record(Run *run, const struct guard_record *record)
{
        switch (record->type) {
        case GUARD_MSG_READY:
                on_guard_ready(run, record->text);
                break;
        case GUARD_MSG_FAILED:
                screen_say(&run->screen, true, "%s: %s", record->text, error_text(record->error));
                run->failed = true;
                set_deadline(run, nsec_add(clock_now(), RUN_LEAVE_SPAN), "the guard to leave");
                break;
        case GUARD_MSG_SUPERVISOR_GONE:
                on_supervisor_gone(run, record);
                break;
        case GUARD_MSG_ENFORCED:
                if (record->left > 0 && !run->left_told) /* each of its enforcers says so */
                        screen_say(&run->screen, true, "the guard could not end %u of %u processes below %s", record->left,
                                record->count, run->instance.cgroup);
                run->left_told = run->left_told || record->left > 0;
                break;
        }
}

static void read_records(Run *run)
{
        struct guard_record record;
        int r;

        while ((r = run_instance_record(&run->instance, &record)) == 0)
                on_record(run, &record);
        if (r != RUN_E_AGAIN)
                run->instance.guard_fd = fd_close(run->instance.guard_fd);
}

static void read_logs(Run *run)
{
        char packet[LOG_MSG_MAX];

        for (unsigned i = 0; i < RUN_LOGS_A_TURN && !screen_is_full(&run->screen); i++) {
                ssize_t n = receive_bytes(run->instance.log_fd, packet, sizeof(packet), MSG_DONTWAIT);
                LogMsg msg;

                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n <= 0) {
                        run->instance.log_fd = fd_close(run->instance.log_fd);
                        return;
                }
                if (log_msg_decode(&msg, packet, (size_t)n) == 0)
                        screen_log(&run->screen, &msg);
        }
}

static void read_signals(Run *run)
{
        struct signalfd_siginfo info;

        while (read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
                on_interrupt(run, info.ssi_signo == SIGINT ? "Ctrl-C" : info.ssi_signo == SIGTERM ? "SIGTERM" : info.ssi_signo == SIGHUP ? "SIGHUP" : "SIGQUIT");
}

/* ---- the loop */

static nsec_t run_wake_at(Run *run, nsec_t now)
{
        nsec_t at = MIN(run->deadline, run->stop_at);

        at = MIN(at, screen_tick(&run->screen, now));
        /* A terminal that does not take more: look again shortly, the keeper holds the nodes up or drops meanwhile. */
        return screen_is_full(&run->screen) || is_draining(run) ? MIN(at, nsec_add(now, 20 * NSEC_PER_MSEC)) : at;
}

static void run_poll(Run *run)
{
        enum { SIGNAL, GUARD, RECORD, CONTROL, ORDER, LOG, _N };
        const bool full = screen_is_full(&run->screen);
        struct pollfd p[_N] = {
                [SIGNAL] = {.fd = run->signal_fd, .events = POLLIN},
                [GUARD] = {.fd = run->guard_exited ? -1 : run->instance.guard_pidfd, .events = POLLIN},
                [RECORD] = {.fd = run->instance.guard_fd, .events = POLLIN},
                [CONTROL] = {.fd = run->instance.control_fds[0], .events = POLLIN},
                [ORDER] = {.fd = run->instance.control_fds[1], .events = POLLIN},
                [LOG] = {.fd = full ? -1 : run->instance.log_fd, .events = POLLIN},
        };
        const bool more = run->instance.control_fds[0] >= 0 && run_instance_holds_message(&run->instance); /* than one turn takes */
        nsec_t now = clock_now();
        char sink[1024];

        if (poll(p, _N, nsec_poll_ms(more ? now : run_wake_at(run, now), now)) < 0)
                return; /* EINTR: every signal we care for comes by signalfd */
        if (p[RECORD].revents)
                read_records(run);
        if (p[CONTROL].revents || more)
                read_control(run);
        if (p[ORDER].revents && recv(run->instance.control_fds[1], sink, sizeof(sink), MSG_DONTWAIT) == 0)
                run->instance.control_fds[1] = fd_close(run->instance.control_fds[1]); /* answers to orders say nothing new */
        if (p[LOG].revents)
                read_logs(run);
        if (p[GUARD].revents) {
                run->guard_exited = true;
                run->drain_until = nsec_add(now, RUN_FLUSH_SPAN);
                run->drained = out_written(run->screen.out);
        }
        if (p[SIGNAL].revents)
                read_signals(run);
}

/*
 * A reader that takes lines gets them all, however slowly. One that takes none for RUN_FLUSH_SPAN is left, and so is,
 * after that span, any reader when a stop was ordered: a stop waits for nobody.
 */
static bool run_is_drained(Run *run)
{
        size_t written;
        nsec_t now;

        if (!is_draining(run))
                return false;
        if (run->instance.log_fd < 0 && out_backlog(run->screen.out) == 0)
                return true;
        now = clock_now();
        written = out_written(run->screen.out);
        if (written != run->drained && !run->stop_ordered && run->n_interrupts == 0)
                run->drain_until = nsec_add(now, RUN_FLUSH_SPAN);
        run->drained = written;
        return now >= run->drain_until;
}

static void on_deadline(Run *run)
{
        screen_say(&run->screen, true, "waited in vain for %s; ending the processes below %s from here", run->waits_for,
                run->instance.cgroup[0] ? run->instance.cgroup : "this instance");
        run_instance_abort(&run->instance, nsec_add(clock_now(), RUN_ABORT_SPAN));
        run_instance_remove(&run->instance, nsec_add(clock_now(), RUN_ABORT_SPAN)); /* if it is empty already */
        run->status = CLI_NOT_RUNNING;
}

static void run_loop(Run *run)
{
        while (run->status < 0 && !run_is_drained(run)) {
                nsec_t now;

                run_poll(run);
                if (is_draining(run))
                        continue; /* which has a bound of its own */
                now = clock_now();
                if (now >= run->stop_at) {
                        screen_say(&run->screen, false, "--stop-after has passed: stopping");
                        order_stop(run, run->grace, false);
                }
                if (run->guard_exited && run->deadline == NSEC_NEVER) /* it died: the supervisor still stops what it can */
                        set_deadline(run, nsec_add(now, nsec_add(run->grace + run->grace / 2, RUN_BUDGET + RUN_LEAVE_SPAN)), "the supervisor to end");
                if (now >= run->deadline)
                        on_deadline(run);
        }
}

/* ---- the end */

static int guard_status(Run *run)
{
        siginfo_t si = {};

        if (!run->guard_exited || waitid(P_PIDFD, (id_t)run->instance.guard_pidfd, &si, WEXITED | WNOHANG) < 0)
                return -1;
        return si.si_code == CLD_EXITED ? si.si_status : -1;
}

static int run_status(Run *run)
{
        int guard = guard_status(run);

        if (run->status < 0 && (run->instance.log_fd >= 0 || out_backlog(run->screen.out) > 0))
                screen_say(&run->screen, true, "the last lines are not shown: whoever reads this output is too slow");
        if (run->result)
                screen_result(&run->screen, run->result);
        if (run->status >= 0)
                return run->status;
        if (guard != 0 && guard != 1 && guard != 3) {
                screen_say(&run->screen, true, "the guard ended unexpectedly; the next `tidegate run` sweeps what it may have left");
                run_instance_remove(&run->instance, nsec_add(clock_now(), RUN_ABORT_SPAN));
        }
        if (guard == 3 || json_integer_value(json_object_get(run->result, "left")) > 0)
                return CLI_NOT_RUNNING;
        if (!run->result && !run->failed)
                return CLI_UNREACHABLE;
        return run->result && !run->failed && json_is_true(json_object_get(run->result, "success")) && guard == 0 ? CLI_OK : CLI_FAILED;
}

static int run_signals(Run *run)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGQUIT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return -errno;
        run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return run->signal_fd < 0 ? -errno : 0;
}

static int run_plan(Run *run)
{
        RunInstanceOptions options = {.grace_ns = run->grace, .budget_ns = RUN_BUDGET, .cgroup_root = run->cgroup_root, .enforcer = run->enforcer};
        const char *why = "cannot set up";
        int r = run_signals(run), status;

        if (!r) {
                why = "cannot set up the output";
                r = screen_init(&run->screen, run->plan, run->json);
        }
        if (!r)
                r = run_instance_start(&run->instance, &options, &why);
        if (r) {
                fprintf(stderr, "tidegate: %s: %s\n", why, error_text(r));
                return CLI_FAILED;
        }
        set_deadline(run, nsec_add(clock_now(), RUN_READY_SPAN), "the guard to get ready");
        run_loop(run);
        status = run_status(run);
        screen_done(&run->screen, nsec_add(clock_now(), RUN_FLUSH_SPAN));
        return status;
}

int cmd_run(int argc, char **argv)
{
        Run run = {.load = LOAD_OPTIONS_INIT,
                .stop_after = NSEC_NEVER,
                .grace = 10 * NSEC_PER_SEC,
                .instance = RUN_INSTANCE_NULL,
                .signal_fd = -1,
                .stop_at = NSEC_NEVER,
                .deadline = NSEC_NEVER,
                .status = -1};
        int status = read_arguments(&run, argc, argv);

        if (!status)
                status = load_plan(&run);
        if (!status)
                status = run_plan(&run);
        run_instance_done(&run.instance);
        (void)fd_close(run.signal_fd);
        json_decref(run.result);
        json_decref(run.plan);
        load_options_done(&run.load);
        return status;
}
