/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/sweep.h"
#include "testgroup.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

static nsec_t in_ms(unsigned ms)
{
        return clock_now() + ms * NSEC_PER_MSEC;
}

static void assert_reaped(int pidfd, int code, int status)
{
        siginfo_t si = {};

        cr_assert(wait_readable(pidfd, 10 * NSEC_PER_SEC));
        cr_assert_eq(waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG), 0);
        cr_assert_eq(si.si_code, code);
        cr_assert_eq(si.si_status, status);
        close(pidfd);
}

Test(cgroup, a_name_that_exists_is_an_outcome_and_not_taken_over, .timeout = 20)
{
        TestGroup g = testgroup_make();
        int fd = -1, other = -1;

        cr_assert_eq(cgroup_make(g.fd, "a", &fd), 0);
        cr_assert_eq(cgroup_make(g.fd, "a", &other), CGROUP_E_EXISTS);
        cr_assert_eq(other, -1);
        close(fd);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(1000)), 0);
        testgroup_done(&g);
}

Test(cgroup, a_tree_of_cgroups_is_removed_and_a_missing_one_is_no_error, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char path[1024];

        snprintf(path, sizeof(path), "%s/a", g.path);
        cr_assert_eq(mkdir(path, 0700), 0);
        for (int i = 0; i < 60; i++) { /* more than one listing buffer holds */
                snprintf(path, sizeof(path), "%s/a/with_a_rather_long_name_%d", g.path, i);
                cr_assert_eq(mkdir(path, 0700), 0);
                snprintf(path, sizeof(path), "%s/a/with_a_rather_long_name_%d/x", g.path, i);
                cr_assert_eq(mkdir(path, 0700), 0);
        }
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(5000)), 0);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(5000)), 0);
        testgroup_done(&g);
}

Test(cgroup, the_depth_below_an_incarnation_is_bounded_by_the_kernel, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char path[4096];
        int fd = -1, depth, n;

        cr_assert_eq(cgroup_make(g.fd, "a", &fd), 0);
        cr_assert_eq(cgroup_limit_descent(fd), 0);
        n = snprintf(path, sizeof(path), "%s/a", g.path);
        for (depth = 0; depth < 100; depth++) {
                n += snprintf(path + n, sizeof(path) - (size_t)n, "/x");
                if (mkdir(path, 0700) < 0)
                        break;
        }
        cr_assert_eq(depth, CGROUP_DEPTH_MAX);
        close(fd);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(5000)), 0);
        testgroup_done(&g);
}

Test(cgroup, removing_one_that_is_in_use_ends_at_the_deadline, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char *argv[] = {helper_path("tree"), (char *)"1", NULL};
        nsec_t until;
        int fd = -1, pidfd;
        SweepResult result;

        cr_assert_eq(cgroup_make(g.fd, "a", &fd), 0);
        pidfd = testgroup_spawn(fd, argv, NULL);
        until = in_ms(100);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", until), CGROUP_E_BUSY);
        cr_assert(clock_now() >= until);
        cr_assert(clock_now() < until + 2 * NSEC_PER_SEC);
        cr_assert_eq(sweep_kill(fd, in_ms(5000), &result), 0);
        assert_reaped(pidfd, CLD_KILLED, SIGKILL);
        close(fd);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(1000)), 0);
        testgroup_done(&g);
}

Test(sweep, two_hundred_that_ignore_sigterm_and_left_their_session_are_gone, .timeout = 60)
{
        TestGroup g = testgroup_make();
        char *argv[] = {helper_path("tree"), (char *)"200", NULL};
        SweepResult result;
        int pidfd = testgroup_spawn(g.fd, argv, NULL);

        cr_assert_eq(cgroup_count(g.fd), 200);
        cr_assert_eq(sweep_signal(g.fd, SIGTERM, in_ms(5000), &result), 0);
        cr_assert_eq(result.n_found, 200);
        cr_assert_eq(result.n_sent, 200);
        cr_assert_eq(cgroup_count(g.fd), 200);
        cr_assert_eq(sweep_kill(g.fd, in_ms(10000), &result), 0);
        cr_assert_eq(result.n_found, 200);
        cr_assert_eq(result.n_left, 0);
        assert_reaped(pidfd, CLD_KILLED, SIGKILL);
        testgroup_done(&g);
}

Test(sweep, a_process_whose_leader_has_exited_is_killed_by_pidfd, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char *argv[] = {helper_path("headless"), NULL};
        SweepResult result;
        int pidfd = testgroup_spawn(g.fd, argv, NULL);

        cr_assert_eq(sweep_kill(g.fd, in_ms(5000), &result), 0);
        cr_assert(result.n_found >= 1);
        assert_reaped(pidfd, CLD_KILLED, SIGKILL);
        testgroup_done(&g);
}

Test(sweep, those_in_child_cgroups_are_found, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char *argv[] = {helper_path("headless"), NULL};
        int a = -1, b = -1, pidfd;
        SweepResult result;

        cr_assert_eq(cgroup_make(g.fd, "a", &a), 0);
        cr_assert_eq(cgroup_make(a, "b", &b), 0);
        pidfd = testgroup_spawn(b, argv, NULL);
        cr_assert_eq(sweep_signal(g.fd, SIGTERM, in_ms(1000), &result), 0);
        cr_assert_eq(result.n_sent, 1);
        cr_assert_eq(sweep_kill(g.fd, in_ms(5000), &result), 0);
        assert_reaped(pidfd, CLD_KILLED, SIGKILL);
        close(a);
        close(b);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(1000)), 0);
        testgroup_done(&g);
}

Test(sweep, a_stopped_process_acts_on_sigterm, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char *argv[] = {(char *)"/bin/sh", (char *)"-c",
                (char *)"trap 'exit 5' TERM; echo ready; while :; do sleep 100 & wait; done", NULL};
        SweepResult result;
        siginfo_t si = {};
        int pidfd = testgroup_spawn(g.fd, argv, NULL);

        cr_assert_eq(syscall(SYS_pidfd_send_signal, pidfd, SIGSTOP, NULL, 0), 0);
        cr_assert_eq(waitid(P_PIDFD, (id_t)pidfd, &si, WSTOPPED), 0);
        cr_assert_eq(sweep_signal(g.fd, SIGTERM, in_ms(1000), &result), 0);
        assert_reaped(pidfd, CLD_EXITED, 5);
        cr_assert_eq(sweep_kill(g.fd, in_ms(5000), &result), 0);
        testgroup_done(&g);
}

Test(sweep, an_empty_cgroup_and_one_that_is_gone_count_as_empty, .timeout = 20)
{
        TestGroup g = testgroup_make();
        SweepResult result;
        int fd = -1;

        cr_assert_eq(cgroup_make(g.fd, "a", &fd), 0);
        cr_assert_eq(sweep_kill(fd, 0, &result), 0);
        cr_assert_eq(result.n_found, 0);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(1000)), 0);
        cr_assert_eq(sweep_kill(fd, in_ms(1000), &result), 0);
        cr_assert_eq(sweep_signal(fd, SIGTERM, in_ms(1000), &result), 0);
        cr_assert_eq(result.n_sent, 0);
        close(fd);
        testgroup_done(&g);
}

Test(sweep, threaded_cgroups_below_are_swept_too, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char *argv[] = {helper_path("headless"), NULL};
        int a = -1, t = -1, pidfd;
        SweepResult result;
        char pid_text[16];
        pid_t pid;

        cr_assert_eq(cgroup_make(g.fd, "a", &a), 0);
        cr_assert_eq(cgroup_make(a, "t", &t), 0);
        pidfd = testgroup_spawn(a, argv, &pid);
        cr_assert_eq(cgroup_write(t, "cgroup.type", "threaded"), 0);
        snprintf(pid_text, sizeof(pid_text), "%d", pid);
        cr_assert_eq(cgroup_write(t, "cgroup.procs", pid_text), 0);
        cr_assert_eq(cgroup_count(t), 1); /* listed by its thread */
        cr_assert_eq(sweep_kill(t, in_ms(5000), &result), 0);
        cr_assert_eq(result.error, EOPNOTSUPP);
        assert_reaped(pidfd, CLD_KILLED, SIGKILL);
        close(a);
        close(t);
        cr_assert_eq(cgroup_remove_tree(g.fd, "a", in_ms(1000)), 0);
        testgroup_done(&g);
}

Test(sweep, a_tracee_that_cannot_die_ends_at_the_deadline_and_is_counted, .timeout = 30)
{
        TestGroup g = testgroup_make();
        int inside = -1, tracer_group = -1, tracer;
        nsec_t until;
        SweepResult result;
        char path[1024];

        cr_assert_eq(cgroup_make(g.fd, "inside", &inside), 0);
        cr_assert_eq(cgroup_make(g.fd, "tracer", &tracer_group), 0);
        snprintf(path, sizeof(path), "%s/inside/cgroup.procs", g.path);
        tracer = testgroup_spawn(tracer_group, (char *[]){helper_path("undying"), path, NULL}, NULL);
        until = in_ms(1500); /* the second round is some 10 ms after the first, when a processor is to be had */
        cr_assert_eq(sweep_kill(inside, until, &result), SWEEP_E_LEFT);
        cr_assert_eq(result.n_left, 1);
        cr_assert(result.n_rounds >= 2);
        cr_assert(clock_now() >= until);
        cr_assert(clock_now() < until + 2700 * NSEC_PER_MSEC);
        cr_assert_eq(sweep_kill(tracer_group, in_ms(5000), &result), 0);
        assert_reaped(tracer, CLD_KILLED, SIGKILL);
        cr_assert_eq(sweep_kill(inside, in_ms(5000), &result), 0); /* nobody holds it back now */
        close(inside);
        close(tracer_group);
        cr_assert_eq(cgroup_remove_tree(g.fd, "inside", in_ms(1000)), 0);
        cr_assert_eq(cgroup_remove_tree(g.fd, "tracer", in_ms(1000)), 0);
        testgroup_done(&g);
}
