/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/session.h"
#include "cli/table.h"

/* The longest a single probe, the end of its processes and the sweep of its cgroup may take. */
#define ENGINE_SPAN (10 * NSEC_PER_SEC)

static const char *const promise_names[PROMISE_MAX + 1] = {
        [1] = "bounded stop",
        [2] = "nothing left",
        [3] = "the supervisor never waits",
        [4] = "survives itself",
        [5] = "honest data",
        [6] = "nobody is trusted",
        [7] = "always explained",
};

const DoctorResult *doctor_find(const Doctor *doctor, const char *id)
{
        for (size_t g = 0; g < n_probe_groups; g++)
                for (size_t i = 0; i < probe_groups[g]->n_probes; i++)
                        if (strcmp(probe_groups[g]->probes[i].id, id) == 0)
                                return &doctor->results[g][i];
        abort(); /* a name in this file that no table has */
}

static bool works(const Doctor *doctor, const char *id)
{
        return doctor_find(doctor, id)->report.verdict == PROBE_VERDICT_YES;
}

const char *doctor_kept(const PromiseState *promise)
{
        static const char *const names[] = {
                [PROMISE_WEAKER] = "weaker",
                [PROMISE_PARTLY] = "partly",
                [PROMISE_KEPT] = "kept",
        };

        return names[promise->kept];
}

const char *doctor_verdict(const DoctorResult *result)
{
        static const char *const names[_PROBE_VERDICT_MAX] = {
                [PROBE_VERDICT_NO] = "no",
                [PROBE_VERDICT_YES] = "yes",
                [PROBE_VERDICT_TIMEOUT] = "timeout",
                [PROBE_VERDICT_SKIPPED] = "skipped",
        };

        return result->report.verdict >= 0 && result->report.verdict < _PROBE_VERDICT_MAX ?
                names[result->report.verdict] : "no";
}

/* The first of these that does not work, with its evidence; NULL when all do. */
static const char *first_missing(const Doctor *doctor, const char *const *ids, char *ret, size_t size)
{
        for (; *ids; ids++) {
                if (works(doctor, *ids))
                        continue;
                (void)snprintf(ret, size, "%s: %.120s", *ids, doctor_find(doctor, *ids)->report.evidence);
                return ret;
        }
        return NULL;
}

static void judge_backends(Doctor *doctor)
{
        static const char *const cgroup_needs[] = {PROBE_ID_CGROUP_ROOT, PROBE_ID_CGROUP_MAKE, "clone_into_cgroup", "spawn",
                "cgroup_kill", "pidfd_kill_headless", NULL};
        static const char *const pidns_needs[] = {"userns_pidns", NULL};
        static const char *const subreaper_needs[] = {"subreaper", "pidfd_open", "pidfd_send_signal", NULL};
        BackendState *b = doctor->backends;

        b[BACKEND_CGROUP] = (BackendState){.name = "cgroup", .implemented = true};
        b[BACKEND_PIDNS] = (BackendState){.name = "pidns", .implemented = true};
        b[BACKEND_PID1] = (BackendState){.name = "pid1", .implemented = true, .possible = doctor->host.pid == 1};
        b[BACKEND_SUBREAPER] = (BackendState){.name = "subreaper", .implemented = true};

        b[BACKEND_CGROUP].possible =
                !first_missing(doctor, cgroup_needs, b[BACKEND_CGROUP].because, sizeof(b->because));
        if (b[BACKEND_CGROUP].possible)
                (void)snprintf(b[BACKEND_CGROUP].because, sizeof(b->because), "%.190s", doctor->cgroup_root);

        b[BACKEND_PIDNS].possible = works(doctor, "pidns") ||
                !first_missing(doctor, pidns_needs, b[BACKEND_PIDNS].because, sizeof(b->because));
        b[BACKEND_SUBREAPER].possible =
                !first_missing(doctor, subreaper_needs, b[BACKEND_SUBREAPER].because, sizeof(b->because));
        if (!b[BACKEND_PID1].possible)
                (void)snprintf(b[BACKEND_PID1].because, sizeof(b->because), "this is process %d, not PID 1 of a container",
                        doctor->host.pid);

        doctor->chosen = -1;
        for (int i = _BACKEND_MAX - 1; i >= 0; i--)
                if (b[i].possible && b[i].implemented)
                        doctor->chosen = i;
}

/* What a run of this version does not keep of a promise, whatever the host offers. */
static const char *promise_limit(const Doctor *doctor, unsigned number)
{
        if (number == 4)
                return "a daemon's nodes go on and are adopted, whichever of its parts dies; those of `tidegate run` end with it, in "
                       "bounded time";
        if (number == 6 && doctor->chosen != BACKEND_PIDNS)
                return "nothing that a node sends or writes can harm another; but they run as the same user as their supervisor and "
                       "could signal it, trace it or leave their cgroup; `--enforcer cgroup+pidns` and `--enforcer pidns` prevent that";
        return NULL;
}

static void judge_promise(Doctor *doctor, unsigned number)
{
        PromiseState *promise = &doctor->promises[number];
        size_t n_missing = 0, n_fallbacks = 0;

        *promise = (PromiseState){.name = promise_names[number]};
        for (size_t g = 0; g < n_probe_groups; g++) {
                for (size_t i = 0; i < probe_groups[g]->n_probes; i++) {
                        const Probe *probe = &probe_groups[g]->probes[i];

                        if (!(probe->promises & P(number)) || doctor->results[g][i].report.verdict == PROBE_VERDICT_YES)
                                continue;
                        if (probe->weight == PROBE_REQUIRED)
                                promise->missing[n_missing++] = probe;
                        else
                                promise->fallbacks[n_fallbacks++] = probe;
                }
        }
        promise->limit = promise_limit(doctor, number);
        promise->kept = n_missing > 0 ? PROMISE_WEAKER : promise->limit ? PROMISE_PARTLY : PROMISE_KEPT;
}

void doctor_judge(Doctor *doctor)
{
        judge_backends(doctor);
        doctor->ok = doctor->chosen >= 0;
        for (unsigned i = 1; i <= PROMISE_MAX; i++) {
                judge_promise(doctor, i);
                doctor->ok &= doctor->promises[i].kept != PROMISE_WEAKER;
        }
}

static void host_describe(DoctorHost *host)
{
        struct utsname uts = {0};

        if (uname(&uts) == 0)
                (void)snprintf(host->kernel, sizeof(host->kernel), "%s %s %s", uts.sysname, uts.release, uts.machine);
        host->uid = geteuid();
        host->pid = getpid();
}

/* Whatever was not told counts as timed out: the engine itself hangs in the kernel, or is dead. */
static void give_up(Doctor *doctor, int r)
{
        for (size_t g = 0; g < n_probe_groups; g++) {
                for (size_t i = 0; i < probe_groups[g]->n_probes; i++) {
                        DoctorResult *result = &doctor->results[g][i];

                        if (result->told)
                                continue;
                        result->report = (ProbeReport){.verdict = PROBE_VERDICT_TIMEOUT, .err = -r};
                        (void)snprintf(result->report.evidence, sizeof(result->report.evidence),
                                "the probing process %s", r == -ETIMEDOUT ? "did not answer" : "is gone");
                }
        }
}

/* 0 when every probe was told; -EINTR on a signal; -ETIMEDOUT or -EPIPE with what is missing filled in. */
static int examine(Doctor *doctor, int signal_fd, bool show)
{
        ProbeEngine engine = PROBE_ENGINE_NULL;
        ProbeOutcome outcome;
        int r, stopped;

        r = probe_engine_start(&engine);
        if (r < 0)
                return error_fold(r);
        for (;;) {
                DoctorResult *result;

                r = probe_engine_next(&engine, signal_fd, ENGINE_SPAN, &outcome);
                if (r)
                        break;
                result = &doctor->results[outcome.group][outcome.index];
                *result = (DoctorResult){.report = outcome.report, .took_ns = outcome.took_ns, .told = true};
                if (outcome.report.verdict == PROBE_VERDICT_YES &&
                        strcmp(probe_groups[outcome.group]->probes[outcome.index].id, PROBE_ID_CGROUP_ROOT) == 0)
                        (void)snprintf(doctor->cgroup_root, sizeof(doctor->cgroup_root), "%s", outcome.report.value);
                if (show) {
                        doctor_show_result(doctor, outcome.group, outcome.index, stdout);
                        (void)fflush(stdout); /* main() looks for its errors */
                }
        }
        if (r < 0 && r != -EINTR)
                give_up(doctor, r);
        stopped = probe_engine_stop(&engine);
        if (stopped < 0)
                fprintf(stderr, "tidegate doctor: the probing process did not end cleanly (%s): a cgroup "
                                "tidegate-doctor-* may be left below %s; the next doctor removes it\n",
                        strerrordesc_np(-stopped), doctor->cgroup_root[0] ? doctor->cgroup_root : "the cgroup v2 root");
        return r == PROBE_ENGINE_E_DONE ? 0 : r;
}

/* With everything cleaned up: end by that signal, so that a shell sees what happened. */
static int end_by_signal(int signal_fd, const sigset_t *mask)
{
        struct signalfd_siginfo si;
        int signo = read(signal_fd, &si, sizeof(si)) == sizeof(si) ? (int)si.ssi_signo : SIGTERM;

        (void)signal(signo, SIG_DFL);
        (void)fflush(stdout);
        (void)raise(signo);
        (void)sigprocmask(SIG_UNBLOCK, mask, NULL);
        return 1;
}

static int parse(Session *session, int argc, char **argv)
{
        static const struct option options[] = {SESSION_LONG_OPTIONS, {0}};

        session_begin();
        if (session_getopt(session, argc, argv, "", options) != -1)
                return CLI_USAGE;
        if (optind < argc)
                return usage_error("doctor", "unexpected argument `%s`", argv[optind]);
        return 0;
}

/* Nobody is asked: a daemon that does not answer is just what it is to tell. */
static int look_at_daemon(Doctor *doctor, const Session *session)
{
        char buffer[PATH_MAX];
        const char *dir = session_find_dir(session, buffer, sizeof(buffer));

        doctor->daemon = STATUS_VIEW_NULL;
        if (!dir || strlen(dir) >= sizeof(doctor->runtime_dir))
                return 0;
        (void)snprintf(doctor->runtime_dir, sizeof(doctor->runtime_dir), "%s", dir);
        return status_view_load(&doctor->daemon, dir, clock_now());
}

int cmd_doctor(int argc, char **argv)
{
        _cleanup_free_ Doctor *doctor = calloc(1, sizeof(*doctor));
        _cleanup_fd_ int signal_fd = -1;
        Session session = SESSION_INIT("doctor");
        sigset_t mask;
        bool json, wedged;
        int r;

        r = parse(&session, argc, argv);
        if (r)
                return r;
        json = session.json;
        if (!doctor) {
                fputs("tidegate doctor: out of memory\n", stderr);
                return 1;
        }

        (void)sigemptyset(&mask);
        (void)sigaddset(&mask, SIGINT);
        (void)sigaddset(&mask, SIGTERM);
        (void)sigaddset(&mask, SIGHUP);
        (void)sigprocmask(SIG_BLOCK, &mask, NULL);
        signal_fd = signalfd(-1, &mask, SFD_CLOEXEC); /* without one, signals wait until the end: a few seconds */

        host_describe(&doctor->host);
        r = look_at_daemon(doctor, &session);
        if (r) {
                fputs("tidegate doctor: out of memory\n", stderr);
                return 1;
        }
        if (!json) {
                doctor_show_head(doctor, stdout);
                doctor_show_daemon(doctor, stdout);
        }
        (void)fflush(stdout); /* or the engine's children would have it in their buffers too */
        r = examine(doctor, signal_fd, !json);
        if (r == -EINTR)
                return end_by_signal(signal_fd, &mask);
        if (r < 0 && r != -ETIMEDOUT && r != -EPIPE) {
                fprintf(stderr, "tidegate doctor: cannot start the probing process: %s\n", strerrordesc_np(-r));
                return 1;
        }
        (void)sigprocmask(SIG_UNBLOCK, &mask, NULL);

        doctor_judge(doctor);
        if (json && doctor_show_json(doctor, stdout) < 0) {
                fputs("tidegate doctor: out of memory\n", stderr);
                return 1;
        }
        if (!json)
                doctor_show_judgement(doctor, stdout);
        wedged = doctor->daemon.verdict == STATUS_VERDICT_WEDGED;
        status_view_done(&doctor->daemon);
        return doctor->ok && !wedged ? 0 : 1;
}
