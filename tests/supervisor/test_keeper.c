/* SPDX-License-Identifier: Apache-2.0 */
/* The life of nodes under a keeper: start, exit, signals, kill, what is left. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper_fixture.h"
#include "base/procstat.h"
#include "base/task.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

#define ARGV(...)  ((char *[]){__VA_ARGS__, NULL})
#define SH(script) ARGV((char *)"/bin/sh", (char *)"-c", (char *)(script))

static void expect_exit(Fixture *fx, uint32_t node, int code, int status)
{
        FxMsg *m = fx_expect(fx, KEEPER_MSG_EXITED);

        cr_assert_eq(m->msg.node, node);
        cr_assert_eq(m->msg.exited.code, code);
        cr_assert_eq(m->msg.exited.status, status);
}

static uint32_t expect_empty(Fixture *fx, uint32_t node)
{
        FxMsg *m = fx_expect(fx, KEEPER_MSG_EMPTY);

        cr_assert_eq(m->msg.node, node);
        cr_assert_eq(m->msg.empty.removed, 1);
        return m->msg.empty.n_killed;
}

static void wait_state(pid_t pid, char state)
{
        nsec_t until = clock_now() + FX_SPAN;
        ProcStat stat = {};

        while ((procstat_read(&stat, pid) != 0 || stat.state != state) && clock_now() < until)
                (void)poll(NULL, 0, 1);
        cr_assert_eq(stat.state, state, "it is in state %c, not %c", stat.state, state);
}

Test(keeper, begins_registers_its_cgroup_and_ends_without_leaving_anything, .timeout = 60)
{
        Fixture *fx = fx_new();
        struct guard_record record;
        struct stat st, here;
        int fd;

        record = fx_guard(fx, &fd);
        cr_assert_eq(record.type, GUARD_MSG_CGROUP);
        cr_assert_eq(record.slot, 5);
        cr_assert_eq(fstat(fd, &st), 0);
        cr_assert_eq(stat(fx->dataflow, &here), 0);
        cr_assert_eq(st.st_ino, here.st_ino);
        cr_assert_eq(st.st_mode & 07777, 0700);
        close(fd);
        fx_close(fx);
}

Test(keeper, says_failed_when_the_cgroup_exists_already, .timeout = 60)
{
        Fixture *fx = fx_open();
        KeeperMsg begin = {.type = KEEPER_MSG_BEGIN, .begin = {"taken", "t", "", 1, 0, 0, 0}};
        FxMsg *m;

        cr_assert_eq(mkdirat(fx->group.fd, "taken", 0700), 0);
        fx_order(fx, &begin, NULL, 0);
        m = fx_expect(fx, KEEPER_MSG_FAILED);
        cr_assert_eq(m->msg.failed.error, EEXIST);
        cr_assert_eq(unlinkat(fx->group.fd, "taken", AT_REMOVEDIR), 0);
        fx_begin(fx); /* it can be tried again */
        fx_close(fx);
}

Test(keeper, an_end_without_a_beginning_is_an_end, .timeout = 60)
{
        Fixture *fx = fx_open();

        cr_assert(fx_end(fx, FX_SPAN));
        fx_close(fx);
}

Test(keeper, an_end_after_a_beginning_that_failed_is_an_end, .timeout = 60)
{
        Fixture *fx = fx_open();
        KeeperMsg begin = {.type = KEEPER_MSG_BEGIN, .begin = {"taken", "t", "", 1, 0, 0, 0}};

        cr_assert_eq(mkdirat(fx->group.fd, "taken", 0700), 0);
        fx_order(fx, &begin, NULL, 0);
        (void)fx_expect(fx, KEEPER_MSG_FAILED);
        cr_assert_eq(unlinkat(fx->group.fd, "taken", AT_REMOVEDIR), 0);
        cr_assert(fx_end(fx, FX_SPAN));
        fx_close(fx);
}

Test(keeper, reports_a_life_in_order_and_reaps_on_order, .timeout = 60)
{
        Fixture *fx = fx_new();
        struct guard_record record;
        pid_t pid;

        pid = fx_start(fx, &(FxSpawn){.node = 3, .argv = SH("exit 7")});
        expect_exit(fx, 3, CLD_EXITED, 7);
        expect_empty(fx, 3);
        cr_assert_eq(kill(pid, 0), 0, "reaped before it was ordered");
        (void)fx_guard(fx, NULL);
        record = fx_guard(fx, NULL);
        cr_assert_eq(record.type, GUARD_MSG_CHILD);
        cr_assert_eq(record.node, 3);
        cr_assert_eq(record.generation, 1);
        cr_assert_eq(record.pid, pid);
        fx_reap(fx, 3);
        fx_signal(fx, 3, SIGTERM); /* answered after the reap, which waits for those who still look for others of its session */
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_SIGNALLED)->msg.signalled.n, 0);
        for (nsec_t until = clock_now() + FX_SPAN; kill(pid, 0) == 0 && clock_now() < until;)
                (void)poll(NULL, 0, 5);
        cr_assert(kill(pid, 0) < 0 && errno == ESRCH, "not reaped");
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper, tells_signals_and_core_dumps_from_exits, .timeout = 60)
{
        Fixture *fx = fx_new();

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("kill -TERM $$")});
        expect_exit(fx, 1, CLD_KILLED, SIGTERM);
        expect_empty(fx, 1);
        fx_close(fx);
}

Test(keeper, empty_waits_for_the_last_of_the_tree, .timeout = 60)
{
        Fixture *fx = fx_new();
        FxMsg m = {.fd = -1};

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("(trap '' TERM; sleep 1000) & exit 0")});
        expect_exit(fx, 1, CLD_EXITED, 0);
        cr_assert(!fx_receive(fx, &m, 200 * NSEC_PER_MSEC), "EMPTY although somebody is there");
        fx_kill(fx, 1, FX_SPAN);
        cr_assert_geq(fx_expect(fx, KEEPER_MSG_KILLING)->msg.signalled.n, 1);
        cr_assert_geq(expect_empty(fx, 1), 1);
        fx_close(fx);
}

Test(keeper, a_tree_of_two_hundred_that_ignores_sigterm_is_killed_and_counted, .timeout = 120)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        LogMsg line;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV(helper_path("tree"), (char *)"200")});
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "ready");
        fx_signal(fx, 1, SIGTERM);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_SIGNALLED)->msg.signalled.n, 200);
        fx_kill(fx, 1, FX_SPAN);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_KILLING)->msg.signalled.n, 200);
        expect_exit(fx, 1, CLD_KILLED, SIGKILL);
        cr_assert_eq(expect_empty(fx, 1), 200);
        fx_close(fx);
}

Test(keeper, a_kill_of_everybody_counts_each, .timeout = 120)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        uint32_t killed[3] = {};
        LogMsg line;

        for (uint32_t i = 0; i < 3; i++) {
                char n[8];

                snprintf(n, sizeof(n), "%u", i + 1);
                (void)fx_start(fx, &(FxSpawn){.node = i, .argv = ARGV(helper_path("tree"), n)});
                fx_line(fx, &line, packet);
        }
        fx_signal(fx, KEEPER_NODE_ALL, SIGTERM);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_SIGNALLED)->msg.signalled.n, 6);
        fx_kill(fx, KEEPER_NODE_ALL, FX_SPAN);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_KILLING)->msg.signalled.n, 6);
        for (int i = 0; i < 3; i++) {
                FxMsg *m = fx_wait(fx, KEEPER_MSG_EMPTY);

                killed[m->msg.node] = m->msg.empty.n_killed;
        }
        for (uint32_t i = 0; i < 3; i++) {
                cr_assert_eq(killed[i], i + 1);
                fx_reap(fx, i);
        }
        fx_expect_fds(fx); /* whoever kills may not have seen yet that nobody is left, and would kill once more */
        /* Children made below a cgroup that was killed live: a restart after a kill of everybody works. */
        (void)fx_start(fx, &(FxSpawn){.node = 0, .generation = 2, .argv = SH("exit 4")});
        expect_exit(fx, 0, CLD_EXITED, 4);
        expect_empty(fx, 0);
        fx_close(fx);
}

Test(keeper, a_process_whose_leader_exited_is_looked_at_and_killed, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};
        char packet[LOG_MSG_MAX];
        LogMsg line;
        FxMsg *m;

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV(helper_path("headless"))});
        fx_line(fx, &line, packet);
        fx_order(fx, &look, NULL, 0);
        m = fx_expect(fx, KEEPER_MSG_LEFT);
        cr_assert_eq(m->msg.left.n, 2, "%s", fx_left(m));
        cr_assert(strstr(fx_left(m), "(headless) state Z") && strstr(fx_left(m), ", its first thread has exited"), "%s",
                fx_left(m));
        cr_assert(strstr(fx_left(m), " tid "), "%s", fx_left(m));
        fx_kill(fx, 1, FX_SPAN);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        fx_close(fx);
}

Test(keeper, a_stopped_node_acts_on_sigterm_and_dies_of_a_kill, .timeout = 60)
{
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX];
        LogMsg line;
        pid_t pid;

        pid = fx_start(fx, &(FxSpawn){.node = 1,
                .argv = SH("trap 'exit 5' TERM; echo trapped; kill -STOP $$; while :; do sleep 100 & wait; done")});
        fx_line(fx, &line, packet); /* an earlier signal would end it */
        wait_state(pid, 'T');       /* one right before it stops would find it stopped behind the SIGCONT that comes with it */
        pid = fx_start(fx, &(FxSpawn){.node = 2, .argv = SH("kill -STOP $$")});
        wait_state(pid, 'T');
        fx_signal(fx, 1, SIGTERM);
        (void)fx_expect(fx, KEEPER_MSG_SIGNALLED);
        expect_exit(fx, 1, CLD_EXITED, 5);
        fx_kill(fx, KEEPER_NODE_ALL, FX_SPAN);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        fx_close(fx);
}

Test(keeper, somebody_who_cannot_die_is_named_and_the_sweep_ends_in_time, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};
        char packet[LOG_MSG_MAX], pid_text[16];
        pid_t pid;
        int tracer;
        LogMsg line;
        FxMsg *m, none = {.fd = -1};

        pid = fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("echo ready; while :; do sleep 1000; done")});
        fx_line(fx, &line, packet);
        snprintf(pid_text, sizeof(pid_text), "%d", pid);
        tracer = testgroup_spawn(fx->group.fd, ARGV(helper_path("undying"), (char *)"--trace", pid_text), NULL);
        cr_assert_eq(kill(pid, SIGKILL), 0);
        wait_state(pid, 't'); /* else it might be looked at for the first time on its way there */
        fx_kill(fx, 1, 1500 * NSEC_PER_MSEC);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        cr_assert(!fx_receive(fx, &none, 2 * NSEC_PER_SEC), "somebody who cannot die is said to be gone");
        fx_order(fx, &look, NULL, 0);
        m = fx_expect(fx, KEEPER_MSG_LEFT);
        cr_assert_eq(m->msg.left.n, 1);
        cr_assert(strstr(fx_left(m), pid_text) && strstr(fx_left(m), "state t"), "%s", fx_left(m));
        cr_assert(strstr(fx_left(m), "traced by pid") && strstr(fx_left(m), "(undying)"), "%s", fx_left(m));
        cr_assert(strstr(fx_left(m), " s or more"), "it was looked at before, and has not moved: %s", fx_left(m));
        cr_assert_eq(m->msg.left.kind, TASK_TRACED);
        cr_assert_eq(pidfd_send_signal(tracer, SIGKILL, NULL, 0), 0);
        expect_exit(fx, 1, CLD_KILLED, SIGKILL); /* the end is noticed whenever it comes */
        expect_empty(fx, 1);
        cr_assert(wait_readable(tracer, FX_SPAN));
        cr_assert_eq(waitid(P_PIDFD, (id_t)tracer, &(siginfo_t){}, WEXITED), 0);
        close(tracer);
        fx_close(fx);
}

Test(keeper, a_leader_that_left_its_cgroup_is_not_taken_for_gone, .timeout = 60)
{
        Fixture *fx = fx_new();
        FxMsg none = {.fd = -1}, *m;
        pid_t pid;
        char script[1200], packet[LOG_MSG_MAX];
        LogMsg line;

        if (getuid() != 0)
                cr_skip_test("not root: a node cannot leave");
        snprintf(script, sizeof(script), "echo $$ > %s/cgroup.procs && echo gone; exec sleep 1000", fx->group.path);
        pid = fx_start(fx, &(FxSpawn){.node = 1, .argv = SH(script), .cgroup_writable = true});
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "gone");
        m = fx_expect(fx, KEEPER_MSG_ESCAPED);
        cr_expect_eq(m->msg.escaped.pid, pid);
        cr_expect(strstr(m->msg.escaped.from, "/n1.1"), "%s", m->msg.escaped.from);
        cr_expect(strstr(fx->group.path, m->msg.escaped.to), "%s", m->msg.escaped.to);
        cr_assert(!fx_receive(fx, &none, 200 * NSEC_PER_MSEC), "EMPTY although the leader lives elsewhere");
        fx_kill(fx, 1, FX_SPAN);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        expect_exit(fx, 1, CLD_KILLED, SIGKILL);
        expect_empty(fx, 1);
        fx_close(fx);
}

/* When that process began, as the kernel's probe says it. */
static uint64_t start_ns(pid_t pid)
{
        char path[64], text[1024] = "";
        unsigned long long ticks = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        cr_assert(f && fread(text, 1, sizeof(text) - 1, f) > 0);
        fclose(f);
        cr_assert_eq(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks), 1);
        return ticks * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

static const FxMsg *tell_astray(Fixture *fx, pid_t pid, uint64_t start, bool alone)
{
        KeeperMsg msg = {.type = KEEPER_MSG_ASTRAY, .node = 1, .generation = 1, .astray = {.pid = pid, .start_ns = start, .alone = alone, .comm = "told", .to = "/told"}};
        const FxMsg *m;

        fx_order(fx, &msg, NULL, 0);
        m = fx_expect(fx, KEEPER_MSG_ESCAPED);
        cr_expect_eq(m->msg.escaped.pid, pid);
        return m;
}

Test(keeper, whoever_it_is_told_has_left_is_looked_at_and_killed, .timeout = 60)
{
        Fixture *fx = fx_new();
        pid_t pid, other = fork();
        const FxMsg *m;

        if (other == 0)
                for (;;)
                        pause();
        if (getuid() != 0)
                cr_skip_test("not root: a node cannot leave");
        pid = fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("exec sleep 1000")});

        m = tell_astray(fx, pid, start_ns(pid), false); /* which is where it belongs: it has come back */
        cr_expect_eq(m->msg.escaped.signo, KEEPER_ESCAPED_GONE);
        cr_expect_str_eq(m->msg.escaped.comm, "told");
        cr_expect_str_eq(m->msg.escaped.to, "/told");
        m = tell_astray(fx, other, start_ns(other) + NSEC_PER_SEC, false); /* a number that another one has got since */
        cr_expect_eq(m->msg.escaped.signo, KEEPER_ESCAPED_GONE);
        m = tell_astray(fx, other, start_ns(other), true);
        cr_expect_eq(m->msg.escaped.signo, KEEPER_ESCAPED_ALONE);
        cr_expect_str_neq(m->msg.escaped.to, "/told", "as it is now");
        cr_assert_eq(kill(other, 0), 0);
        cr_assert_eq(waitpid(other, NULL, WNOHANG), 0, "nothing has been done to it");

        m = tell_astray(fx, other, start_ns(other), false);
        cr_expect_eq(m->msg.escaped.signo, SIGKILL);
        cr_assert_eq(waitpid(other, NULL, 0), other);

        fx_kill(fx, 1, FX_SPAN);
        (void)fx_expect(fx, KEEPER_MSG_KILLING);
        expect_exit(fx, 1, CLD_KILLED, SIGKILL);
        cr_expect_eq(expect_empty(fx, 1), 2);
        fx_close(fx);
}

Test(keeper, orders_about_nobody_are_answered, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 9, .generation = 4};
        FxMsg *m;

        fx_signal(fx, 9, SIGTERM);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_SIGNALLED)->msg.signalled.n, 0);
        fx_kill(fx, 9, FX_SPAN);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_KILLING)->msg.signalled.n, 0);
        fx_order(fx, &look, NULL, 0);
        m = fx_expect(fx, KEEPER_MSG_LEFT);
        cr_assert_eq(m->msg.left.n, 0);
        cr_assert_eq(m->msg.generation, 4);
        fx_reap(fx, 9);
        fx_close(fx);
}

Test(keeper, of_whose_end_is_written_down_after_end_nothing_is_said, .timeout = 60)
{
        Fixture *fx = fx_new();
        KeeperMsg end = {.type = KEEPER_MSG_END, .end = {nsec_add(clock_now(), FX_SPAN)}};

        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0")});
        expect_exit(fx, 1, CLD_EXITED, 0);
        expect_empty(fx, 1);
        cr_assert_eq(pidfd_send_signal(fx->keeper, SIGSTOP, NULL, 0), 0); /* it shall find all three in one turn */
        fx_order(fx, &end, NULL, 0);
        fx_reap(fx, 1);
        fx_spawn(fx, &(FxSpawn){.node = 2, .argv = SH("exit 0")});
        cr_assert_eq(pidfd_send_signal(fx->keeper, SIGCONT, NULL, 0), 0);
        (void)fx_wait(fx, KEEPER_MSG_ENDED);
        fx_wait_exit(fx, FX_SPAN, 0);
        cr_assert(strstr(fx->note, "SPAWN came after END"), "nobody is begun any more: %s", fx->note);
        cr_assert_eq(fx->n_notes, 1, "and of the other one nothing is said");
        fx_close(fx);
}

/* The cgroup could not be removed for it; the logger is what the end waits for. */
Test(keeper, who_was_left_at_the_end_and_dies_in_it_leaves_no_cgroup, .timeout = 60)
{
        for (int stay = 0; stay < 2; stay++) {
                Fixture *fx = fx_new();
                pid_t pid, logger = fx_logger(fx);
                int status;
                FxMsg *m;

                pid = fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("exec sleep 1000")});
                cr_assert_eq(ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT), 0); /* it cannot die until we let it */
                cr_assert_eq(kill(logger, SIGSTOP), 0);
                fx_order(fx, &(KeeperMsg){.type = KEEPER_MSG_END, .end = {nsec_add(clock_now(), FX_SPAN), stay}}, NULL, 0);
                fx_expect_idle(fx); /* for longer than it tries to remove what somebody is in */
                cr_assert_eq(waitpid(pid, &status, __WALL), pid);
                cr_assert_eq(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
                m = fx_wait(fx, KEEPER_MSG_EMPTY);
                cr_assert_eq(m->msg.node, 1);
                cr_assert_eq(kill(logger, SIGCONT), 0);
                m = fx_wait(fx, KEEPER_MSG_ENDED);
                cr_expect(m->msg.ended.removed && !m->msg.ended.stays, "stay %d", stay);
                fx_wait_exit(fx, FX_SPAN, 0);
                fx_close(fx);
        }
}

Test(keeper, a_packet_that_is_no_order_is_refused_and_work_goes_on, .timeout = 60)
{
        Fixture *fx = fx_new();

        cr_assert_eq(send(fx->supervisor, "\xffgarbage", 8, 0), 8);
        (void)fx_expect(fx, KEEPER_MSG_NOTE);
        cr_assert(strstr(fx->note, "protocol"), "%s", fx->note);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0")});
        expect_exit(fx, 1, CLD_EXITED, 0);
        expect_empty(fx, 1);
        fx_close(fx);
}

Test(keeper, a_node_sees_its_own_session_fds_limits_and_nothing_of_ours, .timeout = 60)
{
        static const char *const fds[] = {"/dev/null", "pipe:", "pipe:", "socket:"};
        Fixture *fx = fx_new();
        char packet[LOG_MSG_MAX], expected[256];
        int pair[2];
        LogMsg line;
        pid_t pid;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        pid = fx_start(fx, &(FxSpawn){.node = 1,
                .socket = pair[1],
                .nofile = 77,
                .cwd = "/usr",
                .argv = SH("for f in /proc/$$/fd/*; do readlink $f; done; "
                           "echo $(ulimit -n) $(pwd) $(umask) $(ps -o sid= -p $$) $(grep -c '^Sig[BI].*0000000000000000' /proc/$$/status) "
                           "$(cat /proc/self/oom_score_adj)")});
        for (unsigned i = 0; i < ELEMENTSOF(fds); i++) {
                fx_line(fx, &line, packet);
                cr_assert_eq(strncmp(line.text, fds[i], strlen(fds[i])), 0, "%u: %s", i, line.text);
        }
        fx_line(fx, &line, packet);
        snprintf(expected, sizeof(expected), "77 /usr 0022 %d 2 0", pid);
        cr_assert_str_eq(line.text, expected);
        expect_exit(fx, 1, CLD_EXITED, 0);
        expect_empty(fx, 1);
        close(pair[0]);
        fx_close(fx);
}

Test(keeper, credentials_are_dropped_for_node_and_log_files, .timeout = 60)
{
        Fixture *fx = fx_open();
        char packet[LOG_MSG_MAX], path[512];
        struct stat st;
        LogMsg line;

        if (getuid() != 0)
                cr_skip_test("not root");
        fx->uid = fx->gid = 65534;
        cr_assert_eq(chown(fx->dir, 65534, 65534), 0);
        fx_begin(fx);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = SH("id -u; id -g; id -G; grep ^CapEff /proc/self/status")});
        for (int i = 0; i < 3; i++) {
                fx_line(fx, &line, packet);
                cr_assert_str_eq(line.text, "65534");
        }
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "CapEff:\t0000000000000000");
        expect_exit(fx, 1, CLD_EXITED, 0);
        expect_empty(fx, 1);
        snprintf(path, sizeof(path), "%s/log_n1.jsonl", fx->log_dir);
        cr_assert(fx_end(fx, FX_SPAN));
        cr_assert_eq(stat(path, &st), 0);
        cr_assert_eq(st.st_uid, 65534);
        cr_assert_eq(st.st_gid, 65534);
        fx_close(fx);
}

Test(keeper, a_hundred_nodes_start_and_end_and_no_descriptor_is_left, .timeout = 120)
{
        Fixture *fx = fx_new();
        int spawned = 0, exited = 0, empty = 0;
        FxMsg m = {.fd = -1};

        for (uint32_t i = 0; i < 100; i++)
                fx_spawn(fx, &(FxSpawn){.node = i, .argv = SH("exit 0")});
        while (empty < 100) {
                cr_assert(fx_receive(fx, &m, FX_SPAN));
                spawned += m.msg.type == KEEPER_MSG_SPAWNED;
                empty += m.msg.type == KEEPER_MSG_EMPTY;
                if (m.msg.type == KEEPER_MSG_EXITED) {
                        exited++;
                        fx_reap(fx, m.msg.node);
                }
        }
        m.fd = fd_close(m.fd);
        cr_assert_eq(spawned, 100);
        cr_assert_eq(exited, 100);
        fx_expect_fds(fx);
        fx_close(fx);
}
