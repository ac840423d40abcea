/* SPDX-License-Identifier: Apache-2.0 */
/* What a keeper tells of limits, and when: counters in plain directories that look like cgroups, and a clock that the test sets. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/limit.h"
#include "supervisor/keeper-internal.h"

static char top[64];
static Keeper keeper;
static NodeEntry entry = {.node = 3};
static Incarnation inc;
static int supervisor;

static void put(const char *path, const char *name, const char *text)
{
        char full[256];
        FILE *f;

        (void)snprintf(full, sizeof(full), "%s/%s/%s", top, path, name);
        f = fopen(full, "we");
        cr_assert_not_null(f, "%s", full);
        (void)fputs(text, f);
        (void)fclose(f);
}

static int place(const char *path)
{
        char full[256];
        int fd;

        (void)snprintf(full, sizeof(full), "%s/%s", top, path);
        cr_assert_eq(mkdir(full, 0700), 0);
        fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(fd, 0);
        return fd;
}

static void setup(void)
{
        int pair[2];

        strcpy(top, "/tmp/tidegate-limits-XXXXXX");
        cr_assert_not_null(mkdtemp(top));
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        supervisor = pair[0];
        keeper = (Keeper){.supervisor_fd = pair[1], .supervisor = KEEPER_SOURCE_INIT, .controllers = LIMIT_CONTROLLER_MEMORY | LIMIT_CONTROLLER_PIDS,
                .dataflow_fd = place("d")};
        cr_assert_eq(keeper_loop_init(&keeper.loop), 0);
        list_init(&keeper.incarnations);
        list_init(&keeper.reports);
        inc = (Incarnation){.keeper = &keeper, .entry = &entry, .generation = 1, .cgroup_fd = place("d/n")};
        list_append(&keeper.incarnations, &inc.link);
        watch_init(&keeper.limits, &keeper, NULL);
        watch_init(&inc.limits, &keeper, &inc);
}

static void teardown(void)
{
        char command[128];

        keeper_loop_done(&keeper.loop);
        keeper.dataflow_fd = fd_close(keeper.dataflow_fd);
        keeper.supervisor_fd = fd_close(keeper.supervisor_fd);
        inc.cgroup_fd = fd_close(inc.cgroup_fd);
        supervisor = fd_close(supervisor);
        (void)snprintf(command, sizeof(command), "rm -rf %s", top);
        cr_assert_eq(system(command), 0);
}

TestSuite(keeper_limits, .init = setup, .fini = teardown);

/* The next report; type 0: there is none. */
static KeeperMsg told(void)
{
        static char packet[KEEPER_MSG_MAX];
        ssize_t n = recv(supervisor, packet, sizeof(packet), MSG_DONTWAIT);
        KeeperMsg msg = {};

        if (n > 0)
                cr_assert_eq(keeper_msg_decode(&msg, packet, (size_t)n), 0);
        return msg;
}

static void refused(unsigned n)
{
        char text[32];

        (void)snprintf(text, sizeof(text), "max %u\n", n);
        put("d/n", "pids.events", text);
}

Test(keeper_limits, a_counter_that_never_rests_is_told_once_a_second_and_its_last_value_always)
{
        nsec_t begin = 1000 * NSEC_PER_SEC, now = begin;
        unsigned n = 0, n_told = 0;
        KeeperMsg msg;

        for (; now < begin + 5 * NSEC_PER_SEC; now += 10 * NSEC_PER_MSEC) { /* as often as the kernel tells */
                refused(++n);
                watch_felt(&inc.limits, now);
                watches_tick(&keeper, now);
                while ((msg = told()).type) {
                        cr_assert(msg.type == KEEPER_MSG_USAGE && msg.node == 3 && msg.generation == 1);
                        if (n_told == 0)
                                cr_assert_eq(msg.usage.usage.forks_refused, 1, "the first one is told at once");
                        n_told++;
                }
        }
        cr_assert_eq(n_told, 5, "%u reports in 5 s", n_told);
        cr_assert_eq(watches_deadline(&keeper), begin + 5 * NSEC_PER_SEC, "the loop wakes up for the last one");
        watches_tick(&keeper, begin + 5 * NSEC_PER_SEC);
        cr_assert_eq(told().usage.usage.forks_refused, n);
        cr_assert_eq(watches_deadline(&keeper), NSEC_NEVER);
}

Test(keeper_limits, what_comes_after_a_rest_is_told_at_once)
{
        nsec_t now = 1000 * NSEC_PER_SEC;

        for (unsigned n = 1; n <= 3; n++, now += 2 * NSEC_PER_SEC) {
                refused(n);
                watch_felt(&inc.limits, now);
                watches_tick(&keeper, now);
                cr_assert_eq(told().usage.usage.forks_refused, n);
        }
}

Test(keeper_limits, the_end_of_a_node_does_not_wait_for_the_second)
{
        nsec_t now = 1000 * NSEC_PER_SEC;

        refused(1);
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        (void)told();
        refused(2);
        watch_felt(&inc.limits, now + NSEC_PER_MSEC);
        watches_tick(&keeper, now + NSEC_PER_MSEC);
        cr_assert_eq(told().type, 0);
        watch_tell(&inc.limits);
        cr_assert_eq(told().usage.usage.forks_refused, 2);
}

/* Until @type is told. */
static KeeperMsg told_after_job(KeeperMsgType type)
{
        nsec_t until = nsec_add(clock_now(), 20 * NSEC_PER_SEC);
        KeeperMsg msg = {};

        while (msg.type != type && clock_now() < until) {
                cr_assert_eq(keeper_loop_turn(&keeper.loop, until), 0);
                do
                        msg = told();
                while (msg.type && msg.type != type);
        }
        cr_assert_eq(msg.type, type);
        return msg;
}

static void throttled(unsigned ms)
{
        char text[64];

        (void)snprintf(text, sizeof(text), "usage_usec 1\nthrottled_usec %u000\n", ms);
        put("d/n", "cpu.stat", text);
}

static void order_pressure(const char *conditions)
{
        keeper_pressure(&keeper, &(KeeperMsg){.type = KEEPER_MSG_PRESSURE, .node = 3, .generation = 1, .pressure = {conditions}});
}

Test(keeper_limits, throttling_is_looked_at_once_a_window_and_held_against_the_time_that_it_took)
{
        static const char conditions[] = "3 cpu_throttled 500000000 1000000000\n4 memory_some 1000 1000000000\n";
        nsec_t s = NSEC_PER_SEC, began = clock_now(), due;
        KeeperMsg msg;

        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        throttled(1000);
        order_pressure(conditions);
        msg = told_after_job(KEEPER_MSG_UNWATCHED);
        cr_expect(msg.node == 3 && msg.generation == 1);
        cr_expect_str_eq(msg.unwatched.text, "4=this kernel counts no pressure (PSI): it was built without it, or booted with psi=0\n");
        due = watches_deadline(&keeper);
        cr_assert(due >= began + s && due <= clock_now() + s, "it is looked at a window later");

        throttled(1500);
        watches_tick(&keeper, due - 1);
        cr_expect_eq(told().type, 0);
        watches_tick(&keeper, due);
        msg = told();
        cr_assert(msg.type == KEEPER_MSG_PRESSED && msg.node == 3 && msg.generation == 1);
        cr_expect(msg.pressed.index == 3 && msg.pressed.measured == s / 2 && msg.pressed.over_ns == s && msg.pressed.average == KEEPER_PRESSURE_UNKNOWN);

        throttled(1999);
        watches_tick(&keeper, due + s);
        cr_expect_eq(told().type, 0, "a little less");
        throttled(1999 + 999);
        watches_tick(&keeper, due + 3 * s);
        cr_expect_eq(told().type, 0, "more than the threshold, in a look that came late: in two windows");
        throttled(1999 + 999 + 1000);
        watches_tick(&keeper, due + 5 * s);
        cr_expect(told().pressed.measured == s);

        order_pressure(conditions); /* another supervisor says it once more */
        cr_expect_eq(watches_deadline(&keeper), due + 6 * s);
        cr_expect(jobs_idle(&keeper.jobs));
        watch_end(&inc.limits);
        cr_expect_eq(watches_deadline(&keeper), NSEC_NEVER);
}

static void gone(const char *file)
{
        cr_assert_eq(unlinkat(inc.cgroup_fd, file, 0), 0);
}

Test(keeper_limits, what_cannot_be_read_for_a_while_is_not_held_against_the_node_afterwards)
{
        nsec_t s = NSEC_PER_SEC, due, now;

        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        throttled(100000);
        refused(500);
        watch_felt(&inc.limits, clock_now());
        watches_tick(&keeper, clock_now());
        cr_assert_eq(told().usage.usage.forks_refused, 500);
        order_pressure("3 cpu_throttled 500000000 1000000000\n4 memory_some 1000 1000000000\n7 forks_refused 10 3000000000\n");
        (void)told_after_job(KEEPER_MSG_UNWATCHED);
        due = now = watches_deadline(&keeper);

        gone("cpu.stat");
        gone("pids.events");
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        cr_expect_eq(told().type, 0, "nothing is felt less than before");
        throttled(100000 + 900);
        refused(501);
        now = due + s;
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        for (KeeperMsg msg = told(); msg.type; msg = told())
                cr_expect(msg.type == KEEPER_MSG_USAGE && msg.usage.usage.forks_refused == 501, "%d: 0.9 s of two windows, and one of ten", (int)msg.type);
        gone("cpu.stat");
        watches_tick(&keeper, due + 2 * s);
        cr_expect_eq(told().type, 0);
        throttled(100000 + 900 + 1000);
        watches_tick(&keeper, due + 3 * s);
        cr_expect(told().pressed.measured == s, "half of both");

        gone("cpu.stat");
        order_pressure("5 cpu_throttled 500000000 1000000000\n");
        cr_expect_str_eq(told_after_job(KEEPER_MSG_UNWATCHED).unwatched.text, "5=No such file or directory\n");
        cr_expect_eq(watches_deadline(&keeper), NSEC_NEVER);
        watch_end(&inc.limits);
}

Test(keeper_limits, what_is_counted_is_held_against_a_window_that_begins_with_the_first)
{
        nsec_t s = NSEC_PER_SEC, until = nsec_add(clock_now(), 20 * s), now;
        KeeperMsg msg;

        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        refused(5); /* of before */
        order_pressure("7 forks_refused 10 3000000000\n");
        while (!inc.limits.pressure && clock_now() < until)
                cr_assert_eq(keeper_loop_turn(&keeper.loop, until), 0);
        cr_assert_not_null(inc.limits.pressure);
        cr_expect_eq(watches_deadline(&keeper), NSEC_NEVER, "the kernel tells");

        for (now = clock_now() + 100 * s; now < clock_now() + 103 * s; now += s) { /* a window of nine */
                refused(5 + 3 * (unsigned)(1 + (now - clock_now()) / s - 100));
                watch_felt(&inc.limits, now);
                watches_tick(&keeper, now);
                while ((msg = told()).type)
                        cr_expect_eq(msg.type, KEEPER_MSG_USAGE);
        }
        now += 100 * s; /* long after: those nine do not count any more */
        refused(14 + 9);
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        while ((msg = told()).type)
                cr_expect_eq(msg.type, KEEPER_MSG_USAGE);
        now += 2 * s;
        refused(14 + 9 + 1);
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        do
                msg = told();
        while (msg.type == KEEPER_MSG_USAGE);
        cr_assert_eq(msg.type, KEEPER_MSG_PRESSED);
        cr_expect(msg.pressed.index == 7 && msg.pressed.measured == 10 && msg.pressed.over_ns == 3 * s, "%llu in %llu ns", (unsigned long long)msg.pressed.measured,
                (unsigned long long)msg.pressed.over_ns);
        now += s;
        refused(14 + 9 + 2);
        watch_felt(&inc.limits, now);
        watches_tick(&keeper, now);
        while ((msg = told()).type)
                cr_expect_eq(msg.type, KEEPER_MSG_USAGE, "a window begins anew when one was told");
}

Test(keeper_limits, conditions_of_somebody_who_has_ended_meanwhile_are_not_watched)
{
        nsec_t until = nsec_add(clock_now(), 20 * NSEC_PER_SEC);

        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        throttled(1);
        order_pressure("0 cpu_throttled 500000000 1000000000\n");
        inc.removing = true;
        while (!jobs_idle(&keeper.jobs) && clock_now() < until)
                cr_assert_eq(keeper_loop_turn(&keeper.loop, until), 0);
        cr_expect(jobs_idle(&keeper.jobs));
        cr_expect_null(inc.limits.pressure);
        cr_expect_eq(told().type, 0);
}

Test(keeper_limits, at_whose_limit_memory_ran_out_is_told_before_who_was_ended_for_it)
{
        KeeperMsg msg;

        put("d", "memory.events.local", "high 0\nmax 7\noom 1\noom_kill 0\n");
        put("d/n", "memory.events.local", "high 0\nmax 0\noom 0\noom_kill 2\n");
        keeper.limits.next = NSEC_NEVER; /* its own turn would be much later */
        watch_felt(&keeper.limits, 1000 * NSEC_PER_SEC);
        watch_tell(&inc.limits);
        msg = told();
        cr_assert(msg.type == KEEPER_MSG_USAGE && msg.node == KEEPER_NODE_ALL && msg.usage.usage.oom == 1);
        msg = told();
        cr_assert(msg.type == KEEPER_MSG_USAGE && msg.node == 3 && msg.usage.usage.oom_kills == 2);
        cr_assert_eq(told().type, 0);
        watch_tell(&inc.limits);
        cr_assert_eq(told().type, 0, "nothing is new");
}

/* ---- whoever reads cgroup.events for something else, and what he reads is not notified any more */

/* The last of that life, whose first process has ended before, has just left. */
static void nobody_is_left(void)
{
        char full[256];

        put("d", "events", "populated 0\nfrozen 0\n");
        (void)snprintf(full, sizeof(full), "%s/d/events", top);
        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        keeper.enforcer = ENFORCER_CGROUP;
        inc.events_fd = open(full, O_RDONLY | O_CLOEXEC);
        inc.cgroup = (char *)(uintptr_t)"n";
        inc.started = inc.exited = inc.reaped = true;
        inc.pidfd = -1;
        inc.reaper = REAPER_NULL;
        inc.events = inc.exit = KEEPER_SOURCE_INIT;
        for (int i = 0; i < 2; i++)
                output_init(&inc.out[i], &inc, i + 1);
}

Test(keeper_limits, who_looks_whether_somebody_is_frozen_sees_that_nobody_is_left, .timeout = 60)
{
        KeeperMsg msg;

        nobody_is_left();
        watches_frozen(&keeper);
        msg = told_after_job(KEEPER_MSG_EMPTY);
        cr_expect(msg.node == 3 && msg.generation == 1 && msg.empty.removed);
}

Test(keeper_limits, who_is_signalled_and_has_just_left_is_seen_to_have, .timeout = 60)
{
        KeeperMsg msg;

        nobody_is_left();
        keeper_signal(&keeper, &(KeeperMsg){.type = KEEPER_MSG_SIGNAL, .node = 3, .generation = 1, .signal = {15}});
        msg = told_after_job(KEEPER_MSG_EMPTY);
        cr_expect(msg.node == 3 && msg.generation == 1 && msg.empty.removed);
}

/* ---- looks that hang */

static void start(Keeper *k, bool sample, uint64_t asked)
{
        if (sample)
                keeper_sample(k, asked);
        else
                keeper_measure(k, asked);
}

/* Who reads the list of processes of that life waits for a writer. */
static void expect_bound(bool sample)
{
        nsec_t until = clock_now() + 20 * NSEC_PER_SEC;
        unsigned n_told = 0;
        char full[256], away[256];
        KeeperMsg msg;

        (void)snprintf(full, sizeof(full), "%s/d/n/cgroup.procs", top);
        cr_assert_eq(mkfifo(full, 0600), 0);
        cr_assert_eq(jobs_init(&keeper.jobs, &keeper.loop), 0);
        keeper.enforcer = ENFORCER_SUBREAPER;
        inc.started = true;
        for (uint64_t asked = 1; asked <= 3; asked++)
                start(&keeper, sample, asked);
        msg = told();
        cr_expect_eq(msg.type, sample ? KEEPER_MSG_SAMPLED : KEEPER_MSG_MEASURED, "the third is answered at once: of nobody");
        cr_expect_eq(msg.node, KEEPER_NODE_ALL);
        cr_expect_eq(sample ? msg.sampled.asked_ns : msg.measured.asked_ns, 3);
        cr_expect_eq(told().type, 0);

        /* Both are let go, and whoever has not come to it yet finds a file. */
        (void)snprintf(away, sizeof(away), "%s/fifo", top);
        cr_assert_eq(rename(full, away), 0);
        put("d/n", "cgroup.procs", "");
        while (n_told < 2 && clock_now() < until) {
                (void)fd_close(open(away, O_WRONLY | O_NONBLOCK | O_CLOEXEC));
                cr_assert_eq(keeper_loop_turn(&keeper.loop, nsec_add(clock_now(), 10 * NSEC_PER_MSEC)), 0);
                while ((msg = told()).type)
                        n_told += msg.node == KEEPER_NODE_ALL;
        }
        cr_expect_eq(n_told, 2);
}

Test(keeper_limits, looks_at_what_is_used_that_hang_do_not_pile_up, .timeout = 60)
{
        expect_bound(false);
}

Test(keeper_limits, looks_at_calls_that_hang_do_not_pile_up, .timeout = 60)
{
        expect_bound(true);
}
