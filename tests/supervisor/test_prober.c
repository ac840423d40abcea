/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is watched, for how long, and what follows when the prober fails or counting costs too much. No kernel probe: the prober is the test, its
 * memory two files; deadlines are delivered when the test says so.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bpf/call-view.h"
#include "protocol/prober_msg.h"
#include "supervisor/helper.h"
#include "supervisor/packet.h"
#include "supervisor/sample.h"
#include "supervisor/supervisor.h"

#define CALL_NS 300
#define N_SLOTS 2

typedef struct Fixture {
        Supervisor supervisor;
        Dataflow *dataflow;
        int guard_fd;  /* the guard's end */
        int prober_fd; /* the prober's end */
        int maps[_PROBER_FD_MAX];
        CallView view; /* the kernel's */
        json_t *events;
} Fixture;

static Plan *plan_of(unsigned n)
{
        json_t *json = json_pack("{si ss ss ss s[]}", "version", 1, "name", "n", "file", "/d/n.yml", "dir", "/d", "nodes");
        Plan *plan = NULL;
        char why[256] = "", id[16];

        for (unsigned i = 0; i < n; i++) {
                (void)snprintf(id, sizeof(id), "n%u", i);
                (void)json_array_append_new(json_object_get(json, "nodes"),
                        json_pack("{ss si ss s[s] s{} s[] s[] s[] si s{ss si si si si} si si s[]}", "id", id, "line", 0, "kind", "program", "argv", "/b", "env", "cpu_affinity", "inputs",
                                "outputs", "pool_size", 65536, "restart", "policy", "never", "max_restarts", 0, "delay_ns", 0, "max_delay_ns", 0, "window_ns", 0, "startup_timeout_ns", 1,
                                "finish_grace_ns", 0, "after"));
        }
        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        return plan;
}

static void on_event(Dataflow *dataflow, json_t *event, void *owner)
{
        (void)dataflow;
        (void)json_array_append(owner, event);
}

/* As the kernel's side makes them. */
static void make_maps(Fixture *fx)
{
        struct call_watched watched = {.magic = CALL_MAGIC, .slot_size = sizeof(struct call_slot), .n_slots = N_SLOTS};

        for (unsigned i = 0; i < _PROBER_FD_MAX; i++) {
                fx->maps[i] = memfd_create("map", MFD_CLOEXEC);
                cr_assert_eq(ftruncate(fx->maps[i], i == PROBER_FD_WATCHED ? (off_t)sizeof(watched) : (off_t)(N_SLOTS * sizeof(struct call_slot))), 0);
        }
        cr_assert_eq(pwrite(fx->maps[PROBER_FD_WATCHED], &watched, sizeof(watched), 0), (ssize_t)sizeof(watched));
        cr_assert_eq(call_view_open(&fx->view, fx->maps[PROBER_FD_WATCHED], fx->maps[PROBER_FD_SLOTS]), 0);
}

/* A daemon's dataflow of @n nodes, which all run. */
static Fixture *fixture_new(unsigned n)
{
        static Fixture fx;
        static const uint8_t uuid[16] = {1};
        DataflowOptions options = {.grace_ns = 2 * NSEC_PER_SEC, .budget_ns = NSEC_PER_SEC, .log_fd = -1};
        int pair[2];

        if (geteuid() != 0)
                cr_skip_test("not root: nobody else's supervisor asks for a prober");
        (void)unsetenv("TIDEGATE_PROBES");
        fx = (Fixture){.supervisor = {.signal_fd = -1, .guard_pidfd = -1, .journal = JOURNAL_NULL, .epoch = 5}, .prober_fd = -1, .events = json_array()};
        fx.supervisor.options = (SupervisorOptions){.node_listen_fd = -1, .lock_fd = -1, .runtime_fd = -1};
        fx.supervisor.options.listen_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* any: it is what makes a daemon's */
        cr_assert_eq(loop_init(&fx.supervisor.loop), 0);
        fx.supervisor.loop.now = clock_now();
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx.supervisor.guard_fd = pair[0];
        fx.guard_fd = pair[1];
        packet_queue_init(&fx.supervisor.guard_out, 100);
        list_init(&fx.supervisor.dataflows);
        options.owner = fx.events;
        cr_assert_eq(dataflow_make(&fx.dataflow, &fx.supervisor, plan_of(n), &options, uuid, on_event), 0);
        list_append(&fx.supervisor.dataflows, &fx.dataflow->link);
        fx.dataflow->state = DATAFLOW_RUNNING;
        for (unsigned i = 0; i < n; i++) {
                fx.dataflow->nodes[i].state = NODE_RUNNING;
                fx.dataflow->nodes[i].generation = 1;
                fx.dataflow->nodes[i].cgroup_id = 1000 + i;
        }
        make_maps(&fx);
        return &fx;
}

static void fixture_done(Fixture *fx)
{
        (void)dataflow_free(fx->dataflow);
        fx->supervisor.prober = prober_free(fx->supervisor.prober);
        call_view_close(&fx->view);
        for (unsigned i = 0; i < _PROBER_FD_MAX; i++)
                (void)fd_close(fx->maps[i]);
        packet_queue_done(&fx->supervisor.guard_out);
        (void)fd_close(fx->supervisor.guard_fd);
        (void)fd_close(fx->guard_fd);
        (void)fd_close(fx->prober_fd);
        (void)fd_close(fx->supervisor.options.listen_fd);
        loop_done(&fx->supervisor.loop);
        json_decref(fx->events);
}

/* How many places the guard was told of, in an order for a prober; 0: it was told nothing. */
static uint32_t asked(Fixture *fx)
{
        struct guard_record record = {};
        size_t size = 0;

        if (packet_recv(fx->guard_fd, &record, sizeof(record), &size, NULL, 0, NULL) == PACKET_E_AGAIN)
                return 0;
        cr_assert_eq(guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, size, 0), 0);
        cr_assert(record.type == GUARD_MSG_FORK_HELPER && record.count == GUARD_HELPER_PROBER, "type %u", record.type);
        return record.node;
}

static void start_prober(Fixture *fx)
{
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx->prober_fd = fd_close(fx->prober_fd);
        fx->prober_fd = pair[1];
        helper_on_started(&fx->supervisor, GUARD_HELPER_PROBER, 4711, pair[0], -1);
}

static int on_turn_over(Job *job)
{
        (void)job;
        return 1; /* ends loop_run() */
}

/* What lies in the sockets is read. */
static void turn(Fixture *fx)
{
        Job over = {};

        job_post(&fx->supervisor.loop, &over, on_turn_over);
        (void)loop_run(&fx->supervisor.loop);
}

/* The first deadline passes. How long after now it is, in milliseconds; -1: there is none. */
static long pass(Fixture *fx)
{
        Timer *timer = list_empty(&fx->supervisor.loop.timers) ? NULL : list_first(&fx->supervisor.loop.timers, Timer, link);
        nsec_t at = timer ? timer->at : 0, before = fx->supervisor.loop.now;

        if (!timer)
                return -1;
        timer_disarm(timer);
        fx->supervisor.loop.now = MAX(at, before);
        (void)timer->fn(timer, fx->supervisor.loop.now);
        return (long)(nsec_left(at, before) / NSEC_PER_MSEC);
}

static void say(Fixture *fx, ProberMsgType type, const char *text)
{
        struct prober_record record = {.magic = PROBER_MAGIC, .type = (uint16_t)type, .load_ms = 40, .call_ns = CALL_NS, .other_call_ns = 100};

        (void)snprintf(record.text, sizeof(record.text), "%s", text);
        cr_assert_eq(packet_send(fx->prober_fd, &record, sizeof(record), fx->maps, type == PROBER_MSG_READY ? _PROBER_FD_MAX : 0), 0);
        turn(fx);
}

static void attach(Fixture *fx)
{
        prober_want(fx->dataflow, 0);
        cr_assert_gt(asked(fx), 0);
        start_prober(fx);
        say(fx, PROBER_MSG_READY, "");
        cr_assert(fx->dataflow->probe.watching);
}

static const char *reason(Fixture *fx)
{
        static char buffer[256];
        bool settled;

        return prober_reason(fx->dataflow, buffer, sizeof(buffer), &settled);
}

static void count(Fixture *fx, uint32_t slot, uint64_t n)
{
        fx->view.slots[slot].entries[0].key = 1;
        fx->view.slots[slot].entries[0].log2_ns[10] += n;
}

Test(prober, it_is_asked_for_when_somebody_wants_it_and_let_go_with_the_last_of_them, .timeout = 20)
{
        Fixture *fx = fixture_new(2);

        prober_look(&fx->supervisor);
        cr_expect_eq(asked(fx), 0, "nobody has asked");
        cr_expect_str_eq(reason(fx), "nobody has asked for it");
        attach(fx);
        prober_want(fx->dataflow, 0);
        cr_expect_eq(asked(fx), 0, "it is there");
        cr_expect_null(reason(fx));
        cr_expect_eq(call_view_cgroup(&fx->view, 0), 1000);
        cr_expect_eq(call_view_cgroup(&fx->view, 1), 1001);
        prober_unwant(fx->dataflow);
        cr_expect(fx->dataflow->probe.watching);
        prober_unwant(fx->dataflow);
        cr_expect_not(fx->dataflow->probe.watching);
        cr_expect_eq(call_view_cgroup(&fx->view, 0), 0);
        cr_expect_eq(recv(fx->prober_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "its end was hung up");
        cr_expect_eq(pass(fx), -1, "nothing is waited for");
        fixture_done(fx);
}

Test(prober, the_next_life_of_a_node_has_the_place_of_its_last_one, .timeout = 20)
{
        Fixture *fx = fixture_new(2);
        Node *node = &fx->dataflow->nodes[0];

        attach(fx);
        count(fx, 0, 5);
        node->empty = true;
        node->generation = 2;
        node->cgroup_id = 0;
        cr_expect_eq(call_view_cgroup(&fx->view, 0), 1000, "it is shown until another one begins");
        node->empty = false;
        node->cgroup_id = 2000;
        prober_node_home(node);
        cr_expect_eq(call_view_cgroup(&fx->view, 0), 2000);
        cr_expect_eq(call_view_cgroup(&fx->view, 1), 1001);
        fixture_done(fx);
}

Test(prober, whoever_finds_no_place_is_told_of_and_gets_that_of_one_who_has_ended, .timeout = 20)
{
        Fixture *fx = fixture_new(3);
        Node *third = &fx->dataflow->nodes[2];

        attach(fx);
        cr_expect_str_eq(reason(fx), "no place was left for 1 of its lives: 2 at a time can be watched");
        cr_expect_eq(third->probe_place, 0);
        fx->dataflow->nodes[1].empty = true;
        prober_node_home(third);
        cr_expect_eq(call_view_cgroup(&fx->view, 1), 1002);
        cr_expect_eq(fx->dataflow->nodes[1].probe_place, 0);
        fixture_done(fx);
}

Test(prober, one_that_is_late_is_replaced_after_pauses_that_grow_and_given_up_in_the_end, .timeout = 20)
{
        static const long pauses[] = {1000, 4000, 16000, 60000};
        Fixture *fx = fixture_new(1);

        prober_want(fx->dataflow, 0);
        for (size_t i = 0; i < ELEMENTSOF(pauses); i++) {
                cr_assert_gt(asked(fx), 0);
                start_prober(fx);
                cr_expect_geq(pass(fx), 19000, "it has 20 s");
                cr_expect_str_eq(reason(fx), "tidegate-prober does not get its probe loaded");
                cr_expect_eq(recv(fx->prober_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "it is let go of");
                cr_expect_eq(pass(fx), pauses[i]);
        }
        cr_assert_gt(asked(fx), 0);
        start_prober(fx);
        (void)pass(fx);
        cr_expect_str_eq(reason(fx), "tidegate-prober does not get its probe loaded, 5 times");
        cr_expect_eq(asked(fx), 0);
        prober_want(fx->dataflow, 0);
        cr_expect_eq(asked(fx), 0, "not at once");
        fx->supervisor.loop.now += 10 * NSEC_PER_SEC;
        prober_want(fx->dataflow, 0);
        cr_expect_gt(asked(fx), 0, "whoever asks later gets another chance");
        fixture_done(fx);
}

Test(prober, what_it_cannot_load_it_says_and_that_is_the_reason, .timeout = 20)
{
        Fixture *fx = fixture_new(1);

        prober_want(fx->dataflow, 0);
        cr_assert_gt(asked(fx), 0);
        start_prober(fx);
        cr_expect_str_eq(reason(fx), "it is being attached");
        say(fx, PROBER_MSG_UNAVAILABLE, "load: no BTF");
        cr_expect_str_eq(reason(fx), "load: no BTF");
        cr_expect(fx->dataflow->sampler.on, "threads are looked at instead");
        prober_unwant(fx->dataflow);
        cr_expect_not(fx->dataflow->sampler.on);
        fixture_done(fx);
}

Test(prober, a_second_word_of_it_is_the_end_of_it, .timeout = 20)
{
        Fixture *fx = fixture_new(1);

        attach(fx);
        say(fx, PROBER_MSG_READY, "");
        cr_expect_str_eq(reason(fx), "tidegate-prober broke its protocol");
        cr_expect_not(fx->dataflow->probe.watching);
        cr_expect_eq(json_array_size(fx->events), 1);
        cr_expect_str_eq(json_string_value(json_object_get(json_array_get(fx->events, 0), "type")), "probe-detached");
        fixture_done(fx);
}

Test(prober, who_comes_when_nobody_wants_it_any_more_is_let_go, .timeout = 20)
{
        Fixture *fx = fixture_new(1);

        prober_want(fx->dataflow, 0);
        cr_assert_gt(asked(fx), 0);
        prober_unwant(fx->dataflow);
        start_prober(fx);
        cr_expect_eq(recv(fx->prober_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0);
        fixture_done(fx);
}

Test(prober, a_guard_that_does_not_answer_is_not_waited_for_without_end, .timeout = 20)
{
        Fixture *fx = fixture_new(1);

        prober_want(fx->dataflow, 0);
        cr_assert_gt(asked(fx), 0);
        cr_expect_geq(pass(fx), 19000);
        cr_expect_str_eq(reason(fx), "tidegate-prober is not started: the guard does not answer");
        cr_expect_eq(pass(fx), 1000);
        cr_expect_gt(asked(fx), 0, "it is asked again");
        start_prober(fx);
        say(fx, PROBER_MSG_READY, "");
        cr_expect(fx->dataflow->probe.watching, "an answer that was lost is not waited for any more");
        fixture_done(fx);
}

Test(prober, who_was_started_for_an_order_before_the_last_is_not_the_one_that_is_meant, .timeout = 20)
{
        Fixture *fx = fixture_new(1);

        prober_want(fx->dataflow, 0);
        prober_unwant(fx->dataflow);
        prober_want(fx->dataflow, 0);
        cr_assert(asked(fx) > 0 && asked(fx) > 0);
        start_prober(fx); /* whom the guard kills when it comes to the second order */
        cr_expect_eq(recv(fx->prober_fd, (char[1]){0}, 1, MSG_DONTWAIT), 0, "it is let go of");
        start_prober(fx);
        say(fx, PROBER_MSG_READY, "");
        cr_expect(fx->dataflow->probe.watching);
        fixture_done(fx);
}

/* 3 % of a CPU are 100 000 calls a second of 300 ns. */
Test(prober, beyond_its_budget_for_three_seconds_in_a_row_it_is_watched_no_more, .timeout = 20)
{
        static const uint64_t calls[] = {120000, 120000, 90000, 120000, 120000, 120000};
        Fixture *fx = fixture_new(1);

        attach(fx);
        for (size_t i = 0; i < ELEMENTSOF(calls); i++) {
                cr_expect(fx->dataflow->probe.watching, "after %zu s", i);
                count(fx, 0, calls[i]);
                cr_expect_leq(pass(fx), 1000);
        }
        cr_expect_not(fx->dataflow->probe.watching);
        cr_expect(strncmp(reason(fx), "counting its system calls took 3.", 33) == 0 && strstr(reason(fx), "the budget is 3 %"), "%s", reason(fx));
        cr_expect_str_eq(json_string_value(json_object_get(json_array_get(fx->events, 0), "text")), reason(fx));
        prober_look(&fx->supervisor);
        cr_expect_eq(asked(fx), 0, "nobody else wants it");
        prober_want(fx->dataflow, 0.5);
        cr_expect_gt(asked(fx), 0, "somebody has asked anew");
        fixture_done(fx);
}

Test(sample, a_thread_is_in_a_call_or_in_none)
{
        KeeperSample sample = {};

        sample_add(&sample, "0 0x3 0x7f 0x10 0x0 0x0 0x0 0x7ffd 0x7f12\n");
        sample_add(&sample, "running\n");
        sample_add(&sample, "-1 0x7ffd 0x7f12\n");
        sample_add(&sample, "0 0x4 0x7f 0x10 0x0 0x0 0x0 0x7ffd 0x7f12\n");
        sample_add(&sample, "");
        cr_expect_eq(sample.n_threads, 5);
        cr_expect_eq(sample.n_outside, 3);
        cr_expect_eq(sample.n_calls, 1);
        cr_expect(sample.calls[0].number == 0 && sample.calls[0].n == 2);
}

Test(sample, calls_for_which_there_is_no_room_are_counted_together)
{
        KeeperSample sample = {};
        char text[32];

        for (unsigned i = 0; i < KEEPER_SAMPLE_CALLS + 3; i++) {
                (void)snprintf(text, sizeof(text), "%u 0x0", i);
                sample_add(&sample, text);
        }
        cr_expect_eq(sample.n_calls, KEEPER_SAMPLE_CALLS);
        cr_expect_eq(sample.n_other, 3);
        cr_expect_eq(sample.n_threads, KEEPER_SAMPLE_CALLS + 3);
}
