/* SPDX-License-Identifier: Apache-2.0 */
/* A keeper that is ordered to capture a process which somebody else started: its life there is that of any incarnation. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper_fixture.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

typedef struct Stranger {
        pid_t pid;
        int pidfd;
} Stranger;

/* A child of the test's that does nothing; stopped: it does not even hear SIGTERM. */
static Stranger stranger_new(bool stopped)
{
        Stranger s = {.pid = fork()};

        cr_assert(s.pid >= 0);
        if (s.pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (stopped)
                        (void)raise(SIGSTOP);
                for (;;)
                        pause();
        }
        s.pidfd = (int)syscall(SYS_pidfd_open, s.pid, 0);
        cr_assert(s.pidfd >= 0);
        return s;
}

static bool lives(const Stranger *s)
{
        return waitid(P_PIDFD, (id_t)s->pidfd, &(siginfo_t){}, WEXITED | WNOHANG | WNOWAIT) == 0 && !wait_readable(s->pidfd, 0);
}

static void expect_signal(Stranger *s, int signo)
{
        siginfo_t si = {};

        cr_assert(wait_readable(s->pidfd, FX_SPAN), "it lives on");
        cr_assert_eq(waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED), 0);
        cr_expect_eq(si.si_status, signo);
        s->pidfd = fd_close(s->pidfd);
}

static void stranger_end(Stranger *s)
{
        cr_assert_eq(syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0), 0);
        expect_signal(s, SIGKILL);
}

static void capture(Fixture *fx, const Stranger *s, uint32_t node, nsec_t deadline)
{
        char id[16];
        KeeperMsg order = {.type = KEEPER_MSG_CAPTURE, .node = node, .generation = 1, .capture = {.id = id, .deadline_ns = deadline}};

        snprintf(id, sizeof(id), "n%u", node);
        fx_order(fx, &order, &s->pidfd, 1);
}

static nsec_t soon(void)
{
        return clock_now() + FX_SPAN;
}

static void captured(Fixture *fx, const Stranger *s, uint32_t node)
{
        FxMsg *m;

        capture(fx, s, node, soon());
        m = fx_expect(fx, KEEPER_MSG_SPAWNED);
        cr_assert_eq(m->msg.node, node);
        cr_assert_eq(m->msg.spawned.pid, s->pid);
        cr_assert(m->fd >= 0, "with its pidfd");
}

static void expect_end(Fixture *fx, uint32_t node, uint32_t n_killed)
{
        FxMsg *m = fx_expect(fx, KEEPER_MSG_EXITED);

        cr_expect_eq(m->msg.node, node);
        cr_expect_eq(m->msg.exited.code, 0, "nobody sees how");
        m = fx_expect(fx, KEEPER_MSG_EMPTY);
        cr_expect_eq(m->msg.node, node);
        cr_expect_eq(m->msg.empty.removed, 1);
        cr_expect_eq(m->msg.empty.n_killed, n_killed);
}

static void expect_refused(Fixture *fx, const char *text)
{
        FxMsg *m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);

        cr_expect_eq(m->msg.spawn_failed.stage, KEEPER_STAGE_CAPTURE);
        cr_expect(strstr(m->msg.spawn_failed.text, text), "\"%s\" does not say \"%s\"", m->msg.spawn_failed.text, text);
        m = fx_expect(fx, KEEPER_MSG_EMPTY);
        cr_expect_eq(m->msg.empty.removed, 1);
}

static void expect_in(Fixture *fx, const Stranger *s, const char *name)
{
        char path[2048], text[64] = "";
        FILE *f;

        snprintf(path, sizeof(path), "%s/%s/cgroup.procs", fx->dataflow, name);
        f = fopen(path, "re");
        cr_assert(f, "%s: %s", path, strerror(errno));
        cr_expect(fgets(text, sizeof(text), f) && atoi(text) == s->pid, "%s is there", text);
        fclose(f);
}

static void expect_no_place(Fixture *fx, const char *name)
{
        char path[2048];

        snprintf(path, sizeof(path), "%s/%s", fx->dataflow, name);
        cr_expect(access(path, F_OK) < 0, "%s is there", path);
}

Test(keeper_capture, a_captured_process_lives_and_ends_as_any_node, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = stranger_new(false);

        captured(fx, &s, 2);
        expect_in(fx, &s, "n2.1");
        fx_signal(fx, 2, SIGTERM);
        cr_expect_eq(fx_expect(fx, KEEPER_MSG_SIGNALLED)->msg.signalled.n, 1);
        expect_end(fx, 2, 0);
        expect_signal(&s, SIGTERM);
        expect_no_place(fx, "n2.1");
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, a_kill_ends_it_with_what_it_has_started_since, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = stranger_new(true);

        captured(fx, &s, 2);
        fx_kill(fx, 2, FX_SPAN);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        expect_end(fx, 2, 1);
        expect_signal(&s, SIGKILL);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, one_that_has_ended_is_refused_and_makes_no_cgroup, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = stranger_new(false);
        int pidfd = fcntl(s.pidfd, F_DUPFD_CLOEXEC, 3);

        stranger_end(&s);
        s.pidfd = pidfd;
        capture(fx, &s, 2, soon());
        expect_refused(fx, "it has ended");
        expect_no_place(fx, "n2.1");
        close(pidfd);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, nobody_is_moved_after_the_deadline, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = stranger_new(false);

        capture(fx, &s, 2, clock_now() - 1);
        expect_refused(fx, "its keeper was held up for too long");
        cr_expect(lives(&s));
        expect_no_place(fx, "n2.1");
        stranger_end(&s);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, one_in_another_namespace_is_refused_and_lives_on, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = {};
        int up[2];
        char c;

        cr_assert_eq(pipe2(up, O_CLOEXEC), 0);
        s.pid = fork();
        cr_assert(s.pid >= 0);
        if (s.pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                c = unshare(CLONE_NEWCGROUP) == 0 ? 'y' : 'n';
                (void)!write(up[1], &c, 1);
                for (;;)
                        pause();
        }
        s.pidfd = (int)syscall(SYS_pidfd_open, s.pid, 0);
        close(up[1]);
        cr_assert_eq(read(up[0], &c, 1), 1);
        close(up[0]);
        if (c == 'y') {
                capture(fx, &s, 2, soon());
                expect_refused(fx, "it belongs to a container: its cgroup namespace");
                cr_expect(lives(&s));
                expect_no_place(fx, "n2.1");
                fx_reap(fx, 2);
        }
        stranger_end(&s);
        fx_expect_fds(fx);
        fx_close(fx);
        if (c != 'y')
                cr_skip_test("a cgroup namespace cannot be made here");
}

Test(keeper_capture, a_node_of_ours_is_not_captured, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = {.pid = fx_start(fx, &(FxSpawn){.node = 1, .argv = (char *[]){(char *)"/bin/sleep", (char *)"1000", NULL}})};

        s.pidfd = (int)syscall(SYS_pidfd_open, s.pid, 0);
        capture(fx, &s, 2, soon());
        expect_refused(fx, "it is part of a dataflow already");
        fx_kill(fx, 1, FX_SPAN);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        (void)fx_expect(fx, KEEPER_MSG_EXITED);
        (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        close(s.pidfd);
        fx_reap(fx, 1);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, the_same_generation_is_not_captured_twice, .timeout = 60)
{
        Fixture *fx = fx_new();
        Stranger s = stranger_new(false), other = stranger_new(false);

        captured(fx, &s, 2);
        capture(fx, &other, 2, soon());
        (void)fx_expect(fx, KEEPER_MSG_NOTE);
        cr_expect(strstr(fx->note, "twice was refused"), "%s", fx->note);
        expect_in(fx, &s, "n2.1");
        cr_expect(lives(&other));
        stranger_end(&s);
        expect_end(fx, 2, 0);
        stranger_end(&other);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_capture, what_it_leaves_behind_is_not_empty, .timeout = 60)
{
        Fixture *fx = fx_new();
        int orders[2], told[2];
        Stranger s = {};
        pid_t child = 0;
        FxMsg *m;

        cr_assert_eq(pipe2(orders, O_CLOEXEC), 0);
        cr_assert_eq(pipe2(told, O_CLOEXEC), 0);
        s.pid = fork();
        cr_assert(s.pid >= 0);
        if (s.pid == 0) { /* told to, it forks, and ends */
                char c;

                (void)!read(orders[0], &c, 1);
                child = fork();
                if (child == 0)
                        for (;;)
                                pause();
                (void)!write(told[1], &child, sizeof(child));
                _exit(0);
        }
        s.pidfd = (int)syscall(SYS_pidfd_open, s.pid, 0);
        captured(fx, &s, 2);
        cr_assert_eq(write(orders[1], "x", 1), 1);
        cr_assert_eq(read(told[0], &child, sizeof(child)), (ssize_t)sizeof(child));
        for (int i = 0; i < 2; i++) {
                close(orders[i]);
                close(told[i]);
        }
        m = fx_expect(fx, KEEPER_MSG_EXITED);
        cr_expect_eq(m->msg.exited.code, 0);
        expect_signal(&s, 0);
        fx_kill(fx, 2, FX_SPAN); /* no EMPTY before it */
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        m = fx_expect(fx, KEEPER_MSG_EMPTY);
        cr_expect_eq(m->msg.empty.n_killed, 1);
        fx_reap(fx, 2);
        fx_expect_fds(fx);
        fx_close(fx);
}
