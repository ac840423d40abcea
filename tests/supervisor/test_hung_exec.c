/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Somebody who hangs in the middle of execve(): he closes a file of a file system that does not answer. Linux 6.18 has whoever reads his stat, wchan,
 * syscall, stack, maps or links wait for that. Nobody here does, and all that can be told of him is told. A test that is red hangs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/place.h"
#include "base/procstat.h"
#include "base/task.h"
#include "hung.h"
#include "keeper_fixture.h"
#include "supervisor/cgroup.h"
#include "supervisor/confine.h"
#include "supervisor/measure.h"
#include "supervisor/sample.h"
#include "supervisor/stray.h"

#define ARGV(...) ((char *[]){__VA_ARGS__, NULL})

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

typedef struct Held {
        char dir[64];
        Hung hung;
        pid_t pid;
} Held;

static Held held_new(void)
{
        Held held = {.dir = "/tmp/tidegate-held-XXXXXX"};

        if (!private_mounts())
                cr_skip_test("no private mount namespace, or no FUSE");
        cr_assert_not_null(mkdtemp(held.dir));
        held.hung = hung_start(held.dir);
        held.pid = hung_execute(&held.hung);
        return held;
}

/* He dies of a signal alone. */
static void held_end(Held *held, int signo)
{
        siginfo_t si;

        hung_end(&held->hung);
        cr_assert_eq(waitid(P_PID, (id_t)held->pid, &si, WEXITED), 0);
        cr_expect_eq(si.si_code, CLD_KILLED);
        cr_expect_eq(si.si_status, signo);
        cr_expect_eq(rmdir(held->hung.dir), 0);
        cr_expect_eq(rmdir(held->dir), 0);
}

Test(hung_exec, who_asks_when_it_began_is_told_that_it_executes_a_program, .timeout = 60)
{
        Held held = held_new();
        ProcStat stat;
        ProcUse use;

        cr_expect(procstat_is_executing(held.pid));
        cr_expect_not(procstat_is_executing(getpid()));
        cr_expect_eq(procstat_read(&stat, held.pid), -EBUSY);
        do /* the server may say that he has asked before he has fallen asleep */
                cr_assert_eq(procstat_use(&use, held.pid), 0);
        while (use.state == 'R');
        cr_expect_str_eq(use.comm, "hangexec");
        cr_expect_eq(use.parent, getpid());
        cr_expect_eq(use.n_threads, 1);
        cr_expect_gt(use.pages, 0);
        cr_expect(strchr("SD", use.state), "%c", use.state);
        kill(held.pid, SIGKILL);
        held_end(&held, SIGKILL);
}

Test(hung_exec, a_task_is_told_of_by_its_call, .timeout = 60)
{
        Held held = held_new();
        char line[1024];
        Task task;

        kill(held.pid, SIGKILL);
        do /* on its way from a sleep that the kill ended to one that it does not */
                cr_assert_eq(task_read(&task, held.pid, held.pid), 0);
        while (task.state != 'D');
        cr_expect(task_is_executing(&task));
        cr_expect_eq(task.call, SYS_execve);
        cr_expect_eq(task.kind, TASK_UNINTERRUPTIBLE);
        cr_expect_str_eq(task.comm, "hangexec");
        (void)task_line(&task, line, sizeof(line));
        cr_expect(strstr(line, "state D") && strstr(line, " in execve") && strstr(line, "pending KILL"), "%s", line);
        cr_assert_eq(task_read(&task, getpid(), getpid()), 0);
        cr_expect_not(task_is_executing(&task));
        held_end(&held, SIGKILL);
}

static int find(pid_t pid, void *userdata)
{
        return pid == *(const pid_t *)userdata;
}

Test(hung_exec, those_without_a_cgroup_are_found_beside_him_and_he_is_killed_with_them, .timeout = 60)
{
        Held held = held_new();
        PlaceResult result;
        pid_t other = fork();

        if (other == 0)
                for (;;)
                        pause();
        cr_expect_eq(place_each_child(getpid(), find, &other), 1);
        cr_expect_eq(place_each_child(getpid(), find, &held.pid), 1);
        cr_expect_eq(place_signal_descendants(getpid(), (pid_t[]){other}, 1, SIGKILL, &result), 0);
        cr_expect_eq(result.n_sent, result.n_found); /* the server, and he */
        cr_expect_geq(result.n_sent, 2);
        kill(other, SIGTERM);
        cr_assert_eq(waitpid(other, &(int){0}, 0), other);
        held_end(&held, SIGKILL);
}

Test(hung_exec, he_is_measured_and_sampled_as_others_are, .timeout = 60)
{
        Held held = held_new();
        char dir[] = "/tmp/tidegate-life-XXXXXX", path[64], text[16];
        _cleanup_fd_ int dir_fd = -1;
        KeeperMeasure measure;
        KeeperSample sample;
        FILE *f;

        cr_assert_not_null(mkdtemp(dir));
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
        snprintf(text, sizeof(text), "%d\n", held.pid);
        f = fopen(path, "we");
        cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
        cr_assert_eq(measure_read(&measure, dir_fd, 0), 0);
        cr_expect_eq(measure.n_processes, 1);
        cr_expect_eq(measure.n_threads, 1);
        cr_assert_eq(sample_read(&sample, dir_fd, 0), 0);
        cr_expect_eq(sample.n_threads, 1);
        cr_assert_eq(sample.n_calls, 1);
        cr_expect_eq(sample.calls[0].number, SYS_execve);
        cr_expect_not(confine_is_apart(held.pid));
        cr_expect_eq(unlink(path), 0);
        cr_expect_eq(rmdir(dir), 0);
        kill(held.pid, SIGKILL);
        held_end(&held, SIGKILL);
}

Test(hung_exec, one_who_left_his_cgroup_is_found, .timeout = 60)
{
        Held held = held_new();
        StrayHome home = {.leader = held.pid, .leader_held = true, .cgroup_fd = -1, .place = "/no-such-dataflow/a.1"};
        Stray stray;

        cr_assert_eq(strays_find(&home, 1, &stray, 1), 1);
        cr_expect_eq(stray.pid, held.pid);
        cr_expect_eq(stray.start_time, 0, "not known");
        cr_expect_str_eq(stray.comm, "hangexec");
        kill(held.pid, SIGKILL);
        cr_expect_eq(poll(&(struct pollfd){.fd = stray.pidfd, .events = POLLIN}, 1, 0), 0, "he hangs");
        held_end(&held, SIGKILL);
        cr_expect_eq(poll(&(struct pollfd){.fd = stray.pidfd, .events = POLLIN}, 1, 0), 1);
        close(stray.pidfd);
}

/* Beyond the first look at who outlives it, too: a kill is repeated after that. */
Test(hung_exec, a_kill_and_its_verdict_come_in_time, .timeout = 90)
{
        KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};
        char path[512];
        Fixture *fx;
        nsec_t start, took;
        Hung h;
        FxMsg *m;

        if (!private_mounts())
                cr_skip_test("no private mount namespace or no FUSE");
        fx = fx_new();
        h = hung_start(fx->dir);
        snprintf(path, sizeof(path), "%s/open", h.dir);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV(helper_path("hangexec"), path)});
        hung_wait_asked(&h);
        fx_kill(fx, 1, 300 * NSEC_PER_MSEC);
        start = clock_now();
        do {
                cr_assert(clock_now() - start < FX_SPAN, "he is never named: %s", fx_left(m));
                fx_order(fx, &look, NULL, 0);
                m = fx_wait(fx, KEEPER_MSG_LEFT);
                cr_assert_eq(m->msg.left.n, 1, "%s", fx_left(m));
        } while (!strstr(fx_left(m), "state D") || !strstr(fx_left(m), "or more"));
        cr_expect_eq(m->msg.left.kind, TASK_UNINTERRUPTIBLE);
        cr_expect(strstr(fx_left(m), "(hangexec)") && strstr(fx_left(m), " in execve") && strstr(fx_left(m), "pending KILL"), "%s", fx_left(m));
        start = clock_now();
        cr_assert(!fx_end(fx, 300 * NSEC_PER_MSEC), "clean although somebody hangs");
        took = clock_now() - start;
        cr_expect(took < 5 * NSEC_PER_SEC, "the keeper took %d ms to end", (int)(took / NSEC_PER_MSEC));
        hung_end(&h);
        cr_assert_eq(cgroup_remove_tree(fx->group.fd, "u-1", clock_now() + FX_SPAN), 0);
        cr_assert_eq(waitid(P_ALL, 0, &(siginfo_t){}, WEXITED), 0); /* he comes to us */
        fx_close(fx);
}
