/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard starts programs without a copy of its memory, and kills without an enforcer where a fork might hang: its helper, which attaches probes, sleeps in the kernel. Here that is
 * a process that asks another one, which is stuck with the lock of its memory, for that lock (bpf/mappers.h): the same sleep.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hung.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/guard-spawn.h"
#include "testgroup.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

static int status_of(pid_t pid, int take_pidfd)
{
        siginfo_t si = {};

        cr_assert_gt(pid, 0, "%d", (int)pid);
        cr_assert(wait_readable(take_pidfd, 20 * NSEC_PER_SEC));
        cr_assert_eq(waitid(P_PIDFD, (id_t)take_pidfd, &si, WEXITED), 0);
        cr_assert_eq(si.si_pid, pid);
        (void)close(take_pidfd);
        return si.si_code == CLD_EXITED ? si.si_status : -1;
}

Test(guard_spawn, a_program_has_its_arguments_and_the_descriptors_it_is_to_have_and_no_other, .timeout = 60)
{
        int shell = open("/bin/sh", O_RDONLY | O_CLOEXEC), handed[2], other = open("/", O_RDONLY | O_CLOEXEC), pidfd = -1;
        char script[128], name[] = "sh", option[] = "-c", said[16] = "", *argv[] = {name, option, script, NULL};
        pid_t pid;

        cr_assert(shell >= 0 && other >= 0 && pipe2(handed, O_CLOEXEC) == 0);
        (void)snprintf(script, sizeof(script), "[ ! -e /proc/self/fd/%d ] || exit 1; echo yes >/proc/self/fd/%d; exit 7", other, handed[1]);
        pid = guard_spawn(shell, argv, (int[]){-1, handed[1]}, 2, &pidfd);
        memset(script, 'x', sizeof(script) - 1); /* it has a copy, until it executes */
        cr_assert_eq(status_of(pid, pidfd), 7);
        cr_assert_eq(read(handed[0], said, sizeof(said) - 1), 4);
        cr_expect_str_eq(said, "yes\n");
        cr_expect(fcntl(handed[1], F_GETFD) == FD_CLOEXEC && fcntl(shell, F_GETFD) == FD_CLOEXEC, "as before");
        for (unsigned i = 0; i < 2; i++)
                (void)close(handed[i]);
        (void)close(shell);
        (void)close(other);
}

Test(guard_spawn, any_number_one_after_the_other_and_what_cannot_be_executed_says_127, .timeout = 60)
{
        int true_fd = open("/bin/true", O_RDONLY | O_CLOEXEC), passwd = open("/etc/passwd", O_RDONLY | O_CLOEXEC), pidfd = -1;
        char name[] = "true", *argv[] = {name, NULL}, *large = calloc(1, 65536), *too_large[] = {name, large, NULL};
        pid_t pid;

        for (unsigned i = 0; i < 20; i++) {
                pid = guard_spawn(true_fd, argv, NULL, 0, &pidfd);
                cr_assert_eq(status_of(pid, pidfd), 0);
        }
        pid = guard_spawn(passwd, argv, NULL, 0, &pidfd);
        cr_expect_eq(status_of(pid, pidfd), 127);
        memset(large, 'x', 65535);
        cr_expect_eq(guard_spawn(true_fd, too_large, NULL, 0, &pidfd), -E2BIG);
        free(large);
        (void)close(true_fd);
        (void)close(passwd);
}

static Guard guard;

static Hung hung;
static pid_t stuck;

static void make_stuck(const char *dir)
{
        char path[300];

        hung = hung_start(dir);
        (void)snprintf(path, sizeof(path), "%s/mapped", hung.dir);
        stuck = fork();
        if (stuck == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)execl(helper_path("memlocked"), "memlocked", path, "/bin/true", NULL);
                _exit(127);
        }
        hung_wait_asked(&hung);
        for (unsigned i = 0; i < 2; i++) {
                hung_let_go(&hung);
                hung_wait_asked(&hung);
        }
}

/* A process that sleeps in the kernel until it is killed. */
static pid_t begin_sleeper(void)
{
        nsec_t until = clock_now() + 20 * NSEC_PER_SEC;
        pid_t pid = fork();
        char path[64];

        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)stuck);
                (void)!write(open(path, O_WRONLY | O_CLOEXEC), "5", 1);
                _exit(0);
        }
        guard.helpers[GUARD_HELPER_QUEUES].process.pid = pid;
        while (!guard_forks_may_hang(&guard))
                cr_assert_lt(clock_now(), until, "it does not get there");
        return pid;
}

Test(guard_spawn, while_a_fork_may_hang_whose_time_is_over_is_killed_without_one, .timeout = 60)
{
        TestGroup g;
        GuardEscrow *escrow = &guard.slots[0].escrow;
        nsec_t now = clock_now();
        pid_t sleeper, victim;
        char path[600], dir[256];
        FILE *procs;

        if (geteuid() != 0 || !private_mounts() || access(helper_path("hungfs"), X_OK) < 0)
                cr_skip_test("no private mounts, or no FUSE");
        g = testgroup_make();
        testgroup_temp_dir(dir, sizeof(dir));
        make_stuck(dir);
        guard.results = calloc(GUARD_MAX_ENFORCERS, sizeof(*guard.results));
        guard.loop.now = now;
        guard.supervisor_fd = -1;
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++)
                guard.children[i].pidfd = -1;
        guard.slots[0] = (GuardSlot){.guard = &guard, .dir_fd = g.fd, .kill_fd = cgroup_open_kill(g.fd)};
        *escrow = (GuardEscrow){.guard = &guard, .at = now + NSEC_PER_SEC * 3600, .until = now + NSEC_PER_SEC * 3602, .term_ns = NSEC_PER_SEC};
        victim = fork();
        if (victim == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        (void)pause();
        }
        (void)snprintf(path, sizeof(path), "%s/cgroup.procs", g.path);
        procs = fopen(path, "we");
        cr_assert_not_null(procs);
        cr_assert_gt(fprintf(procs, "%d", (int)victim), 0);
        cr_assert_eq(fclose(procs), 0);

        sleeper = begin_sleeper();
        cr_expect_eq(guard_enforce(escrow, false), -EAGAIN, "asked to leave is nobody without a fork");
        cr_expect_eq(waitpid(victim, NULL, WNOHANG), 0, "its time has not come");
        cr_expect_eq(escrow->enforced_at, 0);
        escrow->at = now - NSEC_PER_SEC;
        escrow->until = now + NSEC_PER_SEC;
        cr_expect_eq(guard_enforce(escrow, false), -EAGAIN, "the enforcer is still to come");
        cr_assert_eq(waitpid(victim, NULL, 0), victim);
        cr_expect_neq(escrow->enforced_at, 0);
        cr_assert_eq(kill(sleeper, SIGKILL), 0);
        cr_assert_eq(waitpid(sleeper, NULL, 0), sleeper);
        cr_expect_not(guard_forks_may_hang(&guard));
        cr_assert_eq(kill(stuck, SIGKILL), 0);
        hung_end(&hung);
        cr_assert_eq(waitpid(stuck, NULL, 0), stuck);
        testgroup_remove_dir(dir);
        free(guard.results);
        (void)close(guard.slots[0].kill_fd);
        testgroup_done(&g);
}
