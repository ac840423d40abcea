/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegated: guard, supervisor, keeper and holder are one program in four roles, each a process of its own. The guard is what one
 * starts; it executes this program again for the others.
 */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/span.h"
#include "supervisor/guard-state.h"
#include "supervisor/guard.h"
#include "supervisor/holder.h"
#include "supervisor/journal-format.h"
#include "supervisor/keeper.h"
#include "supervisor/supervisor.h"

enum {
        OPT_PRIVATE = 256,
        OPT_ROLE,
        OPT_CLIENT_FD,
        OPT_CLIENT_PIDFD,
        OPT_CONTROL_FD,
        OPT_GUARD_FD,
        OPT_SUPERVISOR_FD,
        OPT_LOCK_FD,
        OPT_NOFILE,
        OPT_GRACE,
        OPT_BUDGET,
        OPT_CGROUP_ROOT,
        OPT_RUNTIME_DIR,
        OPT_WATCHDOG,
        OPT_GRACE_DURATION,
        OPT_LISTEN_FD,
        OPT_NODE_LISTEN_FD,
        OPT_RUNTIME_FD,
        OPT_EPOCH,
        OPT_STATE_FD,
        OPT_REEXEC,
        OPT_CONFIG,
        OPT_SAID,
        OPT_LINGER,
        OPT_STATE_VERSION,
        OPT_ENFORCER,
};

static const struct option long_options[] = {
        {"private", no_argument, NULL, OPT_PRIVATE},
        {"role", required_argument, NULL, OPT_ROLE},
        {"client-fd", required_argument, NULL, OPT_CLIENT_FD},
        {"client-pidfd", required_argument, NULL, OPT_CLIENT_PIDFD},
        {"control-fd", required_argument, NULL, OPT_CONTROL_FD},
        {"guard-fd", required_argument, NULL, OPT_GUARD_FD},
        {"supervisor-fd", required_argument, NULL, OPT_SUPERVISOR_FD},
        {"lock-fd", required_argument, NULL, OPT_LOCK_FD},
        {"nofile", required_argument, NULL, OPT_NOFILE},
        {"grace-ns", required_argument, NULL, OPT_GRACE},
        {"budget-ns", required_argument, NULL, OPT_BUDGET},
        {"cgroup-root", required_argument, NULL, OPT_CGROUP_ROOT},
        {"enforcer", required_argument, NULL, OPT_ENFORCER},
        {"runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR},
        {"watchdog", required_argument, NULL, OPT_WATCHDOG},
        {"grace-duration", required_argument, NULL, OPT_GRACE_DURATION},
        {"listen-fd", required_argument, NULL, OPT_LISTEN_FD},
        {"node-listen-fd", required_argument, NULL, OPT_NODE_LISTEN_FD},
        {"runtime-fd", required_argument, NULL, OPT_RUNTIME_FD},
        {"epoch", required_argument, NULL, OPT_EPOCH},
        {"config", required_argument, NULL, OPT_CONFIG},
        {"said", required_argument, NULL, OPT_SAID},
        {"linger-ns", required_argument, NULL, OPT_LINGER},
        {"reexec", no_argument, NULL, OPT_REEXEC},
        {"state-fd", required_argument, NULL, OPT_STATE_FD},
        {"state-version", no_argument, NULL, OPT_STATE_VERSION},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {},
};

typedef struct Arguments {
        bool private;
        const char *role;
        GuardOptions guard;
        SupervisorOptions supervisor;
        unsigned n_controls;
        int guard_fd, supervisor_fd, lock_fd;
        bool reexec;
        nsec_t linger_ns; /* the holder's */
        const char *bad; /* what is wrong with them */
} Arguments;

static int usage(const char *what)
{
        fprintf(stderr, "tidegated: %s (see --help)\n", what);
        return 2;
}

static void help(void)
{
        printf("usage: tidegated [options]\n"
               "The Tidegate daemon, in the foreground: runs dataflows until it is told to end (SIGTERM, SIGINT, `tidegate down`).\n"
               "`tidegate up` starts it in the background.\n\n"
               "  --runtime-dir DIR       sockets, journal and status page (default /run/tidegate for root, else\n"
               "                          $XDG_RUNTIME_DIR/tidegate); one daemon a directory\n"
               "  --cgroup-root DIR       cgroup v2 directory to make cgroups below (default: found)\n"
               "  --enforcer E            what nodes are ended with: cgroup, cgroup+pidns, pidns, pid1, subreaper (default: auto,\n"
               "                          that is cgroup, and without one the next of these that the host allows; also a setting)\n"
               "  --grace-duration D      what nodes get to end when the daemon does (default 10s)\n"
               "  --config FILE           settings, read again at SIGHUP (default /etc/tidegate/tidegated.conf)\n"
               "  --watchdog D            replace a supervisor whose loop stands still for longer (default 5s; 0: never)\n"
               "  --reexec                have the daemon that runs there execute this program in its place; nodes run on\n"
               "                          (refused when it reads another state: --state-version prints which)\n"
               "  --version, --help\n\n"
               "Signals, to the guard: SIGTERM and SIGINT stop everything and end, SIGUSR1 writes the state to the log, SIGUSR2 is what\n"
               "--reexec sends, SIGHUP has the settings read again. The log goes to stderr.\n");
}

/* A descriptor that we inherited: close-on-exec from here on. */
static int parse_fd(const char *text)
{
        char *end;
        long fd = strtol(text, &end, 10);

        if (*end || end == text || fd < 0 || fd > INT_MAX || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
                return -1;
        return (int)fd;
}

static nsec_t parse_span(const char *text)
{
        return strtoull(text, NULL, 10);
}

static void parse_one(Arguments *a, int option, const char *value)
{
        unsigned long long soft, hard;

        switch (option) {
        case OPT_PRIVATE:
                a->private = true;
                break;
        case OPT_ROLE:
                a->role = value;
                break;
        case OPT_CLIENT_FD:
                a->guard.client_fd = parse_fd(value);
                break;
        case OPT_CLIENT_PIDFD:
                a->guard.client_pidfd = parse_fd(value);
                break;
        case OPT_CONTROL_FD:
                if (a->n_controls < SUPERVISOR_MAX_CONTROLS) {
                        a->guard.control_fds[a->n_controls] = parse_fd(value);
                        a->supervisor.control_fds[a->n_controls] = a->guard.control_fds[a->n_controls];
                        a->n_controls++;
                }
                break;
        case OPT_GUARD_FD:
                a->guard_fd = parse_fd(value);
                break;
        case OPT_SUPERVISOR_FD:
                a->supervisor_fd = parse_fd(value);
                break;
        case OPT_LOCK_FD: /* held open for its lock; the keeper also makes its cgroups there */
                a->lock_fd = parse_fd(value);
                break;
        case OPT_NOFILE:
                if (sscanf(value, "%llu:%llu", &soft, &hard) == 2)
                        a->supervisor.nofile = (struct rlimit){.rlim_cur = soft, .rlim_max = hard};
                break;
        case OPT_GRACE:
                a->guard.grace_ns = parse_span(value);
                break;
        case OPT_BUDGET:
                a->guard.budget_ns = parse_span(value);
                break;
        case OPT_CGROUP_ROOT:
                a->guard.cgroup_root = value;
                break;
        case OPT_ENFORCER:
                a->guard.has_enforcer = true;
                a->bad = enforcer_parse(value, &a->guard.enforcer) ? "--enforcer wants cgroup, cgroup+pidns, pidns, pid1, subreaper or auto" : a->bad;
                break;
        case OPT_RUNTIME_DIR:
                a->guard.runtime_dir = value;
                break;
        case OPT_WATCHDOG:
                a->guard.has_watchdog = true;
                a->bad = span_parse(value, &a->guard.watchdog_ns) ? "--watchdog wants a time (5s, 500ms; 0: never)" : a->bad;
                break;
        case OPT_GRACE_DURATION:
                a->guard.has_grace = true;
                a->bad = span_parse(value, &a->guard.grace_ns) || a->guard.grace_ns > 3600 * NSEC_PER_SEC ? "--grace-duration wants a time up to 1h (10s, 500ms)" : a->bad;
                break;
        case OPT_LISTEN_FD:
                a->supervisor.listen_fd = parse_fd(value);
                break;
        case OPT_NODE_LISTEN_FD:
                a->supervisor.node_listen_fd = parse_fd(value);
                break;
        case OPT_RUNTIME_FD:
                a->supervisor.runtime_fd = parse_fd(value);
                break;
        case OPT_CONFIG:
                a->guard.config = a->supervisor.config = value;
                break;
        case OPT_SAID: /* after the values themselves */
                a->supervisor.said = value;
                a->guard.has_grace = strchr(value, GUARD_SAID_GRACE);
                a->guard.has_budget = strchr(value, GUARD_SAID_BUDGET);
                a->guard.has_watchdog = strchr(value, GUARD_SAID_WATCHDOG);
                a->guard.has_enforcer = strchr(value, GUARD_SAID_ENFORCER);
                break;
        case OPT_REEXEC:
                a->reexec = true;
                break;
        case OPT_LINGER:
                a->linger_ns = parse_span(value);
                break;
        case OPT_STATE_FD:
                a->guard.state_fd = parse_fd(value);
                break;
        case OPT_EPOCH:
                a->supervisor.epoch = strtoull(value, NULL, 10);
                break;
        }
}

static bool has_control(const Arguments *a)
{
        return a->n_controls == SUPERVISOR_MAX_CONTROLS || (a->supervisor.listen_fd >= 0 && a->supervisor.node_listen_fd >= 0 && a->supervisor.runtime_fd >= 0);
}

static int ask_reexec(const Arguments *a)
{
        char why[512] = "";
        int r = guard_ask_reexec(a->guard.runtime_dir, why, sizeof(why));

        if (r)
                fprintf(stderr, "tidegated: %s\n", why[0] ? why : strerror(-r));
        return r ? 1 : 0;
}

static int run_role(Arguments *a)
{
        if (strcmp(a->role, "supervisor") == 0 && a->guard_fd >= 0 && has_control(a)) {
                (void)prctl(PR_SET_NAME, "tidegate-super");
                a->supervisor.guard_fd = a->guard_fd;
                a->supervisor.lock_fd = a->lock_fd;
                a->supervisor.watchdog_ns = a->guard.watchdog_ns;
                a->supervisor.grace_ns = a->guard.grace_ns;
                a->supervisor.budget_ns = a->guard.budget_ns;
                a->supervisor.guard_pid = getppid();
                return supervisor_main(&a->supervisor);
        }
        if (strcmp(a->role, "keeper") == 0 && a->supervisor_fd >= 0 && a->guard_fd >= 0 && a->lock_fd >= 0) {
                (void)prctl(PR_SET_NAME, "tidegate-keeper");
                return keeper_main(a->supervisor_fd, a->guard_fd, a->lock_fd, a->supervisor.listen_fd);
        }
        if (strcmp(a->role, "guard") == 0 && a->guard.state_fd >= 0) {
                (void)prctl(PR_SET_NAME, "tidegate-guard");
                a->guard.daemon = true;
                return guard_main(&a->guard);
        }
        if (strcmp(a->role, "holder") == 0) {
                (void)prctl(PR_SET_NAME, "tidegate-holder");
                return holder_main(a->linger_ns);
        }
        return usage("this role is started by the guard");
}

int main(int argc, char **argv)
{
        Arguments a = {.guard = {.state_fd = -1, .client_fd = -1, .client_pidfd = -1, .control_fds = {-1, -1}, .grace_ns = 10 * NSEC_PER_SEC, .budget_ns = 2 * NSEC_PER_SEC, .watchdog_ns = 5 * NSEC_PER_SEC},
                .supervisor = {.guard_fd = -1, .control_fds = {-1, -1}, .listen_fd = -1, .node_listen_fd = -1, .runtime_fd = -1, .epoch = 1},
                .guard_fd = -1,
                .supervisor_fd = -1,
                .lock_fd = -1,
                .linger_ns = HOLDER_LINGER};
        static char program[PATH_MAX];
        int option;

        while ((option = getopt_long(argc, argv, "Vh", long_options, NULL)) != -1) {
                if (option == 'V') {
                        printf("tidegated %s\n", TIDEGATE_VERSION);
                        return 0;
                }
                if (option == OPT_STATE_VERSION) {
                        printf("%u.%u\n", GUARD_STATE_VERSION, JOURNAL_VERSION);
                        return 0;
                }
                if (option == 'h') {
                        help();
                        return 0;
                }
                if (option == '?')
                        return usage("unknown option");
                parse_one(&a, option, optarg);
        }
        if (a.bad || optind < argc)
                return usage(a.bad ? a.bad : "it takes no arguments");
        if (readlink("/proc/self/exe", program, sizeof(program) - 1) > 0)
                a.guard.program = program; /* its path: what lies there later may be a newer one */
        if (a.role)
                return run_role(&a);
        if (a.reexec)
                return ask_reexec(&a);
        if (a.private && (a.guard.client_fd < 0 || a.guard.client_pidfd < 0 || a.n_controls != SUPERVISOR_MAX_CONTROLS))
                return usage("--private is for `tidegate run`");
        a.guard.daemon = !a.private;
        (void)prctl(PR_SET_NAME, "tidegate-guard");
        return guard_main(&a.guard);
}
