/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/probes.h"

/* What a killed process may take to go away; longer than that is an unkillable one, which is then reported. */
#define REAP_SPAN NSEC_PER_SEC

#define SWEEP_SPAN NSEC_PER_SEC

/* For the whole end of the engine: the sweep of its cgroup, and its removal. */
#define STOP_SPAN (4 * NSEC_PER_SEC)

typedef struct Engine {
        int fd;      /* the doctor's end is the other one; hang-up means: clean up and go */
        ProbeHome home;
        ProbeContext context;
} Engine;

/* Ends one of our children. It was not reaped yet, so its pid cannot have become anybody else's. */
static bool end_child(pid_t pid, nsec_t deadline, siginfo_t *ret_si)
{
        siginfo_t si = {0};

        (void)kill(pid, SIGKILL); /* of one that is exiting already this changes nothing, its status included */
        for (;;) {
                if (waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG) < 0 && errno != EINTR)
                        return true; /* ECHILD: gone */
                if (si.si_pid == pid) {
                        *ret_si = si;
                        return true;
                }
                if (clock_now() >= deadline)
                        return false;
                (void)poll(NULL, 0, 1); /* no pidfd to wait on: whether there are pidfds is what we are to find out */
        }
}

/*
 * We are their subreaper: whatever an attempt started and left comes to us as a child, and we have no others. Asking
 * again until there is none catches the children of those just killed.
 */
static unsigned end_orphans(nsec_t deadline)
{
        char path[64], list[4096];
        unsigned n_left;
        siginfo_t si;

        (void)snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
        do {
                _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = fd >= 0 ? read(fd, list, sizeof(list) - 1) : 0;
                bool found = false;

                n_left = 0;
                list[MAX(n, (ssize_t)0)] = '\0';
                for (char *at = list, *end; *at; at = end) {
                        pid_t pid = (pid_t)strtol(at, &end, 10);

                        if (end == at || pid <= 1)
                                break;
                        found = true;
                        n_left += !end_child(pid, deadline, &si);
                }
                if (!found)
                        return 0;
        } while (clock_now() < deadline);
        return n_left;
}

static void attempt_main(const Engine *engine, const Probe *probe, pid_t parent, int report_fd)
{
        ProbeReport report = {0};

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(1);
        (void)close(engine->fd); /* only the engine's own end of it may mean that it is there */
        (void)prctl(PR_SET_DUMPABLE, 0); /* killed by a seccomp filter is an answer, not a core file */
        probe->attempt(&engine->context, &report);
        _exit(write(report_fd, &report, sizeof(report)) == sizeof(report) ? 0 : 1);
}

/* 0: a whole report. -EPIPE: the attempt ended without one. -ETIMEDOUT. -ECANCELED: the doctor is gone. */
static int await_report(const Engine *engine, int report_fd, ProbeReport *report)
{
        struct pollfd fds[] = {{.fd = report_fd, .events = POLLIN}, {.fd = engine->fd, .events = POLLIN}};

        for (;;) {
                int r = poll(fds, ELEMENTSOF(fds), nsec_poll_ms(engine->context.deadline, clock_now()));

                if (r == 0)
                        return -ETIMEDOUT;
                if (r > 0 && fds[1].revents) /* it never writes: this is its end */
                        return -ECANCELED;
                if (r > 0 && fds[0].revents)
                        break;
        }
        if (read(report_fd, report, sizeof(*report)) != sizeof(*report)) {
                *report = (ProbeReport){0};
                return -EPIPE;
        }
        return 0;
}

static void explain_silence(int r, nsec_t span, const siginfo_t *si, ProbeReport *report)
{
        if (r == -ETIMEDOUT) {
                probe_no(report, ETIMEDOUT, "probe timed out after %u ms", (unsigned)(span / NSEC_PER_MSEC));
                report->verdict = PROBE_VERDICT_TIMEOUT;
        } else if (si->si_code == CLD_KILLED || si->si_code == CLD_DUMPED) {
                /* SIGSYS is a seccomp filter */
                probe_no(report, 0, "the attempt was killed by SIG%s", sigabbrev_np(si->si_status) ?: "?");
        } else {
                probe_no(report, 0, "the attempt ended without a report");
        }
}

/* 0, or -ECANCELED when the doctor is gone. What is left of the attempt is gone either way. */
static int run_probe(Engine *engine, const Probe *probe, ProbeReport *report)
{
        nsec_t span = probe->span ? probe->span : PROBE_SPAN;
        _cleanup_fd_ int report_fd = -1, child_fd = -1;
        pid_t parent = getpid(), pid;
        siginfo_t si = {0};
        int fds[2], r;

        *report = (ProbeReport){0};
        if (probe->in_cgroup && !engine->context.home[0]) {
                probe_skip(report, "not tried: no cgroup of our own to try it in");
                return 0;
        }
        if (pipe2(fds, O_CLOEXEC) < 0) {
                probe_no(report, errno, "not tried: pipe: %m");
                return 0;
        }
        report_fd = fds[0];
        child_fd = fds[1];

        engine->context.deadline = nsec_add(clock_now(), span);
        pid = fork();
        if (pid < 0) {
                probe_no(report, errno, "not tried: fork: %m");
                return 0;
        }
        if (pid == 0) {
                (void)fd_close(report_fd);
                attempt_main(engine, probe, parent, child_fd);
        }
        child_fd = fd_close(child_fd);

        r = await_report(engine, report_fd, report);
        if (!end_child(pid, nsec_add(clock_now(), REAP_SPAN), &si))
                probe_no(report, 0, "the attempt's process %d cannot be killed", (int)pid);
        else if (r == -EPIPE || r == -ETIMEDOUT)
                explain_silence(r, span, &si, report);
        if (end_orphans(nsec_add(clock_now(), REAP_SPAN)) > 0)
                probe_no(report, 0, "a process of the attempt cannot be killed");
        return r == -ECANCELED ? r : 0;
}

/* What later probes need from this one. */
static void adopt(Engine *engine, const Probe *probe, ProbeReport *report)
{
        int r;

        if (report->verdict != PROBE_VERDICT_YES)
                return;
        if (strcmp(probe->id, PROBE_ID_CGROUP_ROOT) == 0) {
                (void)snprintf(engine->context.root, sizeof(engine->context.root), "%s", report->value);
        } else if (strcmp(probe->id, PROBE_ID_CGROUP_MAKE) == 0) {
                r = probe_home_make(&engine->home, engine->context.root, nsec_add(clock_now(), SWEEP_SPAN));
                if (r < 0)
                        probe_no(report, -r, "our own cgroup: %m");
                else
                        memcpy(engine->context.home, engine->home.path, sizeof(engine->context.home));
        }
}

static int run_all(Engine *engine)
{
        for (uint32_t g = 0; g < n_probe_groups; g++) {
                for (uint32_t i = 0; i < probe_groups[g]->n_probes; i++) {
                        const Probe *probe = &probe_groups[g]->probes[i];
                        ProbeOutcome outcome = {.group = g, .index = i};
                        nsec_t begin = clock_now();
                        int r;

                        r = run_probe(engine, probe, &outcome.report);
                        if (r)
                                return r;
                        adopt(engine, probe, &outcome.report);
                        if (probe_home_sweep(&engine->home, nsec_add(clock_now(), SWEEP_SPAN)) < 0)
                                probe_no(&outcome.report, EBUSY, "the cgroup it was tried in does not get empty");
                        outcome.took_ns = clock_now() - begin;
                        if (send(engine->fd, &outcome, sizeof(outcome), MSG_NOSIGNAL) != sizeof(outcome))
                                return -ECANCELED;
                }
        }
        return 0;
}

static void engine_main(int fd)
{
        static const int deaf[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM};
        Engine engine = {.fd = fd, .home = PROBE_HOME_NULL};
        sigset_t none;
        int r;

        (void)setsid(); /* Ctrl-C is for the doctor; we end when its end of the socket does */
        for (size_t i = 0; i < ELEMENTSOF(deaf); i++)
                (void)signal(deaf[i], SIG_IGN);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);

        (void)run_all(&engine);
        r = probe_home_remove(&engine.home, nsec_add(clock_now(), SWEEP_SPAN));
        _exit(r < 0 ? 1 : 0);
}

int probe_engine_start(ProbeEngine *engine)
{
        int fds[2];
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                return error_origin(-errno);
        pid = fork();
        if (pid == 0) {
                (void)fd_close(fds[0]);
                engine_main(fds[1]);
        }
        (void)fd_close(fds[1]);
        if (pid < 0) {
                int err = errno;

                (void)fd_close(fds[0]);
                return error_origin(-err);
        }
        *engine = (ProbeEngine){.pid = pid, .fd = fds[0]};
        return 0;
}

int probe_engine_next(ProbeEngine *engine, int signal_fd, nsec_t span, ProbeOutcome *ret)
{
        struct pollfd fds[] = {{.fd = engine->fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
        nsec_t deadline = nsec_add(clock_now(), span);
        ssize_t n;

        for (;;) {
                int r = poll(fds, ELEMENTSOF(fds), nsec_poll_ms(deadline, clock_now()));

                if (r < 0 && errno != EINTR)
                        return error_origin(-errno);
                if (r == 0)
                        return -ETIMEDOUT;
                if (r > 0 && fds[1].revents)
                        return -EINTR;
                if (r > 0 && fds[0].revents)
                        break;
        }
        n = recv(engine->fd, ret, sizeof(*ret), 0);
        if (n == 0)
                return PROBE_ENGINE_E_DONE;
        if (n != sizeof(*ret) || ret->group >= n_probe_groups || ret->index >= probe_groups[ret->group]->n_probes)
                return -EPIPE;
        ret->report.evidence[sizeof(ret->report.evidence) - 1] = '\0';
        ret->report.value[sizeof(ret->report.value) - 1] = '\0';
        return 0;
}

int probe_engine_stop(ProbeEngine *engine)
{
        nsec_t deadline = nsec_add(clock_now(), STOP_SPAN);
        siginfo_t si = {0};
        bool killed = false;

        if (engine->pid <= 0)
                return 0;
        engine->fd = fd_close(engine->fd);
        while (waitid(P_PID, (id_t)engine->pid, &si, WEXITED | WNOHANG) == 0 && si.si_pid != engine->pid) {
                if (clock_now() >= deadline && killed)
                        return error_origin(-ETIMEDOUT);
                if (clock_now() >= deadline) {
                        (void)kill(engine->pid, SIGKILL);
                        deadline = nsec_add(clock_now(), REAP_SPAN);
                        killed = true;
                }
                (void)poll(NULL, 0, 1);
        }
        engine->pid = 0;
        return si.si_code == CLD_EXITED && si.si_status == 0 ? 0 : error_origin(-EBUSY);
}
