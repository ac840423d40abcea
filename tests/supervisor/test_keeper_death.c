/* SPDX-License-Identifier: Apache-2.0 */
/* When keeper, supervisor or guard are gone: what lives is known, and what nobody answers for ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper_fixture.h"
#include "supervisor/cgroup.h"
#include "supervisor/sweep.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

#define SH(script) ((char *[]){(char *)"/bin/sh", (char *)"-c", (char *)(script), NULL})

static void reap_everybody(void)
{
        while (waitid(P_ALL, 0, &(siginfo_t){}, WEXITED) == 0)
                continue;
        cr_assert_eq(errno, ECHILD);
}

Test(keeper_death, without_a_supervisor_nodes_go_on_and_are_read_until_the_last_is_gone, .timeout = 60)
{
        Fixture *fx = fx_new();
        char path[512], *log;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .cwd = fx->dir,
                .argv = SH("while ! [ -e go ]; do sleep 0.01; done; seq 1 100000; echo bye")});
        fx->supervisor = fd_close(fx->supervisor);
        cr_assert(!wait_readable(fx->keeper, 200 * NSEC_PER_MSEC), "the keeper left its node alone");
        snprintf(path, sizeof(path), "%s/go", fx->dir);
        close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        fx_wait_exit(fx, FX_SPAN, 0);
        log = fx_log(fx, "n1");
        cr_assert(strstr(log, "\"message\":\"bye\""));
        free(log);
        reap_everybody();
        fx->keeper = -1;
        cr_assert(access(fx->dataflow, F_OK) < 0 && errno == ENOENT, "its cgroup is left");
        fx->supervisor = -1;
        fx_close(fx);
}

Test(keeper_death, without_supervisor_and_guard_everything_is_killed_and_removed, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        nsec_t start, took;
        LogMsg line;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = (char *[]){helper_path("tree"), (char *)"50", NULL}});
        fx_line(fx, &line, packet);
        (void)fx_start(fx, &(FxSpawn){.node = 2, .argv = (char *[]){helper_path("headless"), NULL}});
        fx_line(fx, &line, packet);
        start = clock_now();
        fx->guard = fd_close(fx->guard);
        fx->supervisor = fd_close(fx->supervisor);
        fx_wait_exit(fx, FX_SPAN, 0);
        took = clock_now() - start;
        cr_assert(took < 5 * NSEC_PER_SEC, "%d ms", (int)(took / NSEC_PER_MSEC));
        reap_everybody();
        cr_assert(access(fx->dataflow, F_OK) < 0 && errno == ENOENT, "its cgroup is left");
        fx_close(fx);
}

Test(keeper_death, the_end_of_a_kill_that_was_ordered_before_is_not_that_of_everybody, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX], pid_text[16];
        LogMsg line;
        int tracer;

        snprintf(pid_text, sizeof(pid_text), "%d", fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo ready; exec sleep 1000")}));
        fx_line(fx, &line, packet);
        tracer = testgroup_spawn(fx->group.fd, (char *[]){helper_path("undying"), (char *)"--trace", pid_text, NULL}, NULL);
        fx_kill(fx, 1, 300 * NSEC_PER_MSEC);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        fx->guard = fd_close(fx->guard);
        fx->supervisor = fd_close(fx->supervisor);
        cr_assert(!wait_readable(fx->keeper, 700 * NSEC_PER_MSEC), "the keeper left somebody alone whom it still had time to kill");
        cr_assert_eq(pidfd_send_signal(tracer, SIGKILL, NULL, 0), 0); /* now he can die */
        fx_wait_exit(fx, FX_SPAN, 0);
        reap_everybody();
        close(tracer);
        cr_assert(access(fx->dataflow, F_OK) < 0 && errno == ENOENT, "its cgroup is left");
        fx_close(fx);
}

Test(keeper_death, without_a_guard_orders_are_still_carried_out, .timeout = 60)
{
        Fixture *fx = fx_new();

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("sleep 1000")});
        fx->guard = fd_close(fx->guard);
        fx_kill(fx, 1, FX_SPAN);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        fx_close(fx);
}

Test(keeper_death, a_keeper_whose_supervisor_never_began_exits, .timeout = 60)
{
        Fixture *fx = fx_open();

        fx->supervisor = fd_close(fx->supervisor);
        fx_wait_exit(fx, FX_SPAN, 0);
        fx_close(fx);
}

Test(keeper_death, signals_to_the_keeper_do_nothing, .timeout = 60)
{
        static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM};
        Fixture *fx = fx_new();

        for (unsigned i = 0; i < ELEMENTSOF(signals); i++)
                cr_assert_eq(pidfd_send_signal(fx->keeper, signals[i], NULL, 0), 0);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0")});
        (void)fx_expect(fx, KEEPER_MSG_EXITED);
        (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        fx_close(fx);
}

typedef struct Known {
        pid_t pids[64];
        int n;
        int n_strangers;
} Known;

static int is_known(pid_t pid, void *userdata)
{
        Known *known = userdata;

        for (int i = 0; i < known->n; i++)
                if (known->pids[i] == pid)
                        return 0;
        known->n_strangers++;
        return 0;
}

static int in_cgroup(int fd, void *userdata)
{
        return cgroup_each_process(fd, is_known, userdata);
}

/* From the order of four starts until the last is told of, in this build and on this machine. */
static nsec_t start_span(void)
{
        Fixture *fx = fx_new();
        nsec_t began = clock_now(), span;

        for (uint32_t i = 0; i < 4; i++)
                (void)fx_start(fx, &(FxSpawn){.node = i, .argv = (char *[]){(char *)"/bin/sleep", (char *)"1000", NULL}});
        span = clock_now() - began;
        for (uint32_t i = 0; i < 4; i++) {
                fx_kill(fx, i, FX_SPAN);
                (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        }
        fx_close(fx);
        return span;
}

/* A keeper dies at any instruction of a start: each process that lives was made known to the guard. */
Test(keeper_death, a_keeper_killed_during_a_start_leaves_a_registered_child_or_none, .timeout = 120)
{
        nsec_t step = MIN(MAX(start_span() / 30, 60 * NSEC_PER_USEC), 5 * NSEC_PER_MSEC); /* one stall must not make it minutes */
        int n_left = 0;

        for (int round = 0; round < 40; round++) {
                Fixture *fx = fx_new();
                struct timespec delay = nsec_to_timespec((nsec_t)round * step); /* 0 to 2.4 ms, or to behind the starts: where it strikes */
                struct guard_record record;
                nsec_t until = clock_now() + FX_SPAN;
                SweepResult result;
                Known known;

                for (uint32_t i = 0; i < 4; i++)
                        fx_spawn(fx, &(FxSpawn){.node = i, .argv = (char *[]){(char *)"/bin/sleep", (char *)"1000",
                                NULL}});
                (void)nanosleep(&delay, NULL);
                cr_assert_eq(pidfd_send_signal(fx->keeper, SIGKILL, NULL, 0), 0);
                cr_assert(wait_readable(fx->keeper, FX_SPAN));
                cr_assert_eq(waitid(P_PIDFD, (id_t)fx->keeper, &(siginfo_t){}, WEXITED), 0);
                fx->keeper = fd_close(fx->keeper);
                known = (Known){};
                do { /* those on their way register, or exit because they cannot */
                        while (wait_readable(fx->guard, 10 * NSEC_PER_MSEC) &&
                                recv(fx->guard, &record, sizeof(record), MSG_DONTWAIT) == (ssize_t)sizeof(record))
                                if (record.type == GUARD_MSG_CHILD)
                                        known.pids[known.n++] = record.pid;
                        known.n_strangers = 0;
                        (void)cgroup_walk(fx->group.fd, in_cgroup, &known);
                } while (known.n_strangers > 0 && clock_now() < until);
                cr_assert_eq(known.n_strangers, 0, "round %d: a process that the guard does not know", round);
                n_left += cgroup_count(fx->group.fd);
                cr_assert_eq(sweep_kill(fx->group.fd, until, &result), 0);
                reap_everybody(); /* the logger ends by itself */
                cr_assert_eq(cgroup_remove_tree(fx->group.fd, "u-1", until), 0);
                fx_close(fx);
        }
        cr_assert_gt(n_left, 0, "no start ever got as far as a process: the delays are too short to show anything");
}

Test(keeper_death, whatever_is_gone_the_loop_does_not_spin, .timeout = 60)
{
        Fixture *fx = fx_new();
        SweepResult result;

        (void)fx_start(fx, &(FxSpawn){.node = 1,
                .argv = SH("exec >&- 2>&-; sleep 1000")}); /* has closed its output */
        (void)fx_start(fx, &(FxSpawn){.node = 2, .argv = SH("sleep 1000")});
        (void)fx_start(fx, &(FxSpawn){.node = 3, .argv = SH("sleep 1000 & exit 0")}); /* its leader is gone */
        (void)fx_expect(fx, KEEPER_MSG_EXITED);
        (void)fx_start(fx, &(FxSpawn){.node = 4, .argv = SH("exit 0")}); /* over, not reaped */
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        fx_expect_idle(fx);
        fx->stream = fd_close(fx->stream);
        fx_expect_idle(fx);
        cr_assert_eq(kill(fx_logger(fx), SIGKILL), 0);
        (void)fx_expect(fx, KEEPER_MSG_NOTE);
        fx_expect_idle(fx);
        fx->supervisor = fd_close(fx->supervisor);
        fx_expect_idle(fx);
        cr_assert_eq(sweep_kill(fx->group.fd, clock_now() + FX_SPAN, &result), 0); /* as the guard would */
        fx_wait_exit(fx, FX_SPAN, 0);
        reap_everybody();
        fx_close(fx);
}

Test(keeper_death, a_supervisor_that_does_not_listen_costs_no_memory_and_gets_every_answer, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg order = {.type = KEEPER_MSG_SIGNAL, .node = 9, .generation = 1, .signal = {SIGTERM}};
        char packet[KEEPER_MSG_MAX];
        int n = keeper_msg_encode(&order, packet, sizeof(packet)), n_sent = 0, n_answers = 0;
        FxMsg m = {.fd = -1};

        for (int quiet = 0; quiet < 20;) { /* until nothing is taken any more for 200 ms */
                if (send(fx->supervisor, packet, (size_t)n, MSG_DONTWAIT) == n) {
                        n_sent++;
                        quiet = 0;
                        continue;
                }
                cr_assert_eq(errno, EAGAIN);
                cr_assert_lt(n_sent, 100000, "orders are taken without end");
                (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
                quiet++;
        }
        fx_expect_idle(fx);
        while (n_answers < n_sent) {
                cr_assert(fx_receive(fx, &m, FX_SPAN), "%d of %d answers", n_answers, n_sent);
                cr_assert_eq(m.msg.type, KEEPER_MSG_SIGNALLED);
                n_answers++;
        }
        fx_close(fx);
}
