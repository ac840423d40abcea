/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Supervisors that die and are replaced, and nodes that connect by name.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

enum { SENT, GOT, GAPS, CLOSED, STOPS, FAILED, RESTARTED, ERRORS, ENDED, GO, MARK, DEADLINE, FORWARDED };

typedef struct Fixture {
        Flow *flow;
        _Atomic uint64_t *shared;
        int a, b, out, link;
} Fixture;

static Fixture fx; /* inherited by the nodes */

static void tell(unsigned what, uint64_t value)
{
        fx.shared[what] = value;
        flow_note(fx.flow);
}

static void new_flow(void)
{
        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
}

static bool ended_with(int node, int status)
{
        int s;

        if (!flow_exited(fx.flow, node, &s))
                return false;
        cr_assert_eq(s, status << 8, "node %d ended with %#x", node, (unsigned)s);
        return true;
}

/* -------- bodies -------- */

static int send_for_ever(tg_node *node, void *arg)
{
        for (uint64_t i = 0;; i++) {
                uint64_t bytes[125] = {i};
                int r = tg_send(node, "out", bytes, sizeof(bytes), NULL);

                if (r == TG_E_STOPPING)
                        return 7;
                NODE_CHECK(r == 0);
                fx.shared[SENT] = i + 1;
                if (i % 64 == 0)
                        flow_note(fx.flow);
        }
}

static void count(const tg_event *ev)
{
        static const unsigned what[] = {[TG_EVENT_INPUT] = GOT, [TG_EVENT_INPUT_CLOSED] = CLOSED, [TG_EVENT_STOP] = STOPS,
                [TG_EVENT_NODE_FAILED] = FAILED, [TG_EVENT_NODE_RESTARTED] = RESTARTED, [TG_EVENT_ERROR] = ERRORS};
        static uint64_t expect;

        if (tg_event_type(ev) == TG_EVENT_INPUT && tg_event_size(ev)) {
                NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                fx.shared[GAPS] += tg_event_seq(ev) - expect;
                expect = tg_event_seq(ev) + 1;
        }
        fx.shared[what[tg_event_type(ev)]]++;
}

static int take_for_ever(tg_node *node, void *arg)
{
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                count(ev);
                tg_event_free(ev);
                flow_note(fx.flow);
        }
        NODE_CHECK(r == TG_E_END);
        fx.shared[DEADLINE] = tg_stop_deadline(node);
        tell(ENDED, 1);
        return 0;
}

static void two_nodes(FlowBody source, FlowBody sink, FlowLinkSpec spec)
{
        new_flow();
        fx.a = flow_node(fx.flow, "source", source, NULL);
        fx.b = flow_node(fx.flow, "sink", sink, NULL);
        fx.out = flow_output(fx.flow, fx.a, "out", spec.queue_size ? spec.queue_size : 10, 1000, 20);
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in", spec);
}

/* -------- a death at every step -------- */

#define N_MESSAGES 300

static int send_some(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < N_MESSAGES; i++) {
                NODE_CHECK(tg_send(node, "x", &i, sizeof(i), NULL) == 0);
                NODE_CHECK(tg_send(node, "y", &i, sizeof(i), NULL) == 0);
        }
        return 0;
}

/* Sends on what it gets; the ticks are for the timers' sake. */
static int forward(tg_node *node, void *arg)
{
        uint64_t expect = 0;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                NODE_CHECK(tg_event_type(ev) != TG_EVENT_ERROR);
                if (tg_event_type(ev) == TG_EVENT_INPUT && strcmp(tg_event_id(ev), "in") == 0) {
                        NODE_CHECK(tg_event_seq(ev) == expect++);
                        NODE_CHECK(tg_send(node, "out", tg_event_data(ev), tg_event_size(ev), NULL) == 0);
                }
                tg_event_free(ev);
        }
        NODE_CHECK(r == TG_E_END && expect == N_MESSAGES);
        return 0;
}

static int take_both(tg_node *node, void *arg)
{
        uint64_t expect[2] = {0};
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                NODE_CHECK(tg_event_type(ev) != TG_EVENT_ERROR);
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        unsigned which = strcmp(tg_event_id(ev), "direct") == 0;

                        NODE_CHECK(tg_event_seq(ev) == expect[which]++);
                        NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                        fx.shared[GOT]++;
                } else if (tg_event_type(ev) == TG_EVENT_INPUT_CLOSED)
                        fx.shared[CLOSED]++;
                tg_event_free(ev);
        }
        NODE_CHECK(r == TG_E_END);
        tell(ENDED, 1);
        return 0;
}

static void a_small_graph(void)
{
        const FlowLinkSpec spec = {.queue_size = 4, .backpressure = true};
        int a, b, c, x, y;

        new_flow();
        a = flow_node(fx.flow, "source", send_some, NULL);
        b = flow_node(fx.flow, "middle", forward, NULL);
        c = flow_node(fx.flow, "sink", take_both, NULL);
        x = flow_output(fx.flow, a, "x", 4, 100, 8);
        y = flow_output(fx.flow, a, "y", 4, 100, 8);
        flow_link(fx.flow, a, x, b, "in", spec);
        flow_timer(fx.flow, b, "tick", NSEC_PER_MSEC);
        flow_link(fx.flow, a, y, c, "direct", spec);
        flow_link(fx.flow, b, flow_output(fx.flow, b, "out", 4, 100, 8), c, "indirect", spec);
}

static bool all_ended(void)
{
        bool all = true;

        for (int i = 0; i < 3; i++)
                all &= ended_with(i, 0);
        return all;
}

static void check_the_small_graph(const char *what, unsigned k)
{
        cr_assert_eq(fx.shared[GOT], 2 * N_MESSAGES, "%s %u: %lu messages", what, k, (unsigned long)fx.shared[GOT]);
        cr_assert_eq(fx.shared[CLOSED], 2, "%s %u", what, k);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

static void die_at_every_step(FlowSuccessor how)
{
        unsigned k = 0;
        bool died;

        do {
                a_small_graph();
                flow_die_after(fx.flow, ++k);
                flow_spawn(fx.flow);
                cr_assert(FLOW_UNTIL(fx.flow, 20, flow_is_dead(fx.flow) || all_ended()), "no progress before message %u", k);
                died = flow_is_dead(fx.flow);
                if (died)
                        flow_succeed(fx.flow, how);
                cr_assert(FLOW_UNTIL(fx.flow, 20, all_ended()), "successor %d did not get along after message %u; %lu came", how, k,
                        (unsigned long)fx.shared[GOT]);
                check_the_small_graph("a death after message", k);
        } while (died && k < 1000);
        cr_assert_geq(k, 30); /* setup, introductions, links, starts, ends */
        cr_assert_lt(k, 1000);
}

Test(succession, one_who_repeats_everything_gets_along_after_a_death_at_any_step, .timeout = 240)
{
        die_at_every_step(FLOW_REPEATS);
}

Test(succession, one_who_repeats_everything_gets_along_though_answers_are_lost, .timeout = 240)
{
        die_at_every_step(FLOW_REPEATS_WITH_LOSS);
}

Test(succession, one_who_asks_gets_along_after_a_death_at_any_step, .timeout = 240)
{
        die_at_every_step(FLOW_ASKS);
}

Test(succession, one_who_asks_gets_along_though_answers_are_lost, .timeout = 240)
{
        die_at_every_step(FLOW_ASKS_WITH_LOSS);
}

/* Successors die too, at any distance from each other, and none knows how the others went about it. */
Test(succession, any_number_of_them_may_die_on_the_way, .timeout = 240)
{
        unsigned seed = 4711;

        for (unsigned round = 0; round < 60; round++) {
                unsigned n_deaths = 0;

                a_small_graph();
                flow_die_after(fx.flow, 1 + (unsigned)rand_r(&seed) % 30);
                flow_spawn(fx.flow);
                while (!FLOW_UNTIL(fx.flow, 20, flow_is_dead(fx.flow) || all_ended()) || flow_is_dead(fx.flow)) {
                        cr_assert(flow_is_dead(fx.flow), "round %u: no progress after %u deaths", round, n_deaths);
                        flow_die_after(fx.flow, ++n_deaths < 6 ? 1 + (unsigned)rand_r(&seed) % 30 : 0);
                        flow_succeed(fx.flow, (FlowSuccessor)((unsigned)rand_r(&seed) % _FLOW_SUCCESSOR_MAX));
                }
                check_the_small_graph("round", round);
        }
}

/* -------- the same again, later in life -------- */

static int take_stop_slowly(tg_node *node, void *arg)
{
        tg_event *ev;

        do {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                count(ev);
                tg_event_free(ev);
        } while (!fx.shared[STOPS]);
        tell(MARK, 1);
        while (!fx.shared[GO])
                ; /* until all that shall be said was sent */
        return take_for_ever(node, arg);
}

Test(succession, a_second_stop_is_no_second_event_and_may_only_come_earlier, .timeout = 30)
{
        NodeMsg stop = {.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL, .deadline_ns = clock_now() + NSEC_PER_SEC}};
        uint64_t first = stop.stop.deadline_ns;

        two_nodes(send_for_ever, take_stop_slowly, (FlowLinkSpec){.backpressure = true});
        flow_start(fx.flow);
        flow_send(fx.flow, fx.b, &stop); /* by packets alone: whoever came by name may have lost the page */
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK]));
        stop.stop.deadline_ns = first - 1000;
        flow_send(fx.flow, fx.b, &stop);
        stop.stop.deadline_ns = first + 1000;
        flow_send(fx.flow, fx.b, &stop);
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[STOPS], 1);
        cr_assert_eq(fx.shared[ERRORS], 0);
        cr_assert_eq(fx.shared[DEADLINE], first - 1000);
        flow_close(fx.flow);
}

static int hang_until_go(tg_node *node, void *arg)
{
        tg_event *ev;

        tell(MARK, 1);
        while (!fx.shared[GO])
                ;
        while (tg_next(node, &ev, 0) == 0)
                tg_event_free(ev);
        return 0;
}

Test(succession, a_blocked_send_ends_with_a_stop_by_packet_alone, .timeout = 30)
{
        two_nodes(send_for_ever, hang_until_go, (FlowLinkSpec){.backpressure = true});
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_ring(fx.flow, fx.a, fx.out).blocked));
        flow_send(fx.flow, fx.a, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL,
                .deadline_ns = clock_now() + NSEC_PER_SEC}});
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7)));
        fx.shared[GO] = 1;
        flow_close(fx.flow);
}

static void say_event(NodeMsgType type, const char *id, uint64_t generation)
{
        flow_send(fx.flow, fx.b, &(NodeMsg){.type = type, .node_event = {.node = id, .text = "", .generation = generation}});
}

Test(succession, what_befell_another_node_is_told_once_per_incarnation, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){});
        flow_start(fx.flow);
        for (unsigned i = 0; i < 3; i++) {
                say_event(NODE_MSG_NODE_FAILED, "source", 1);
                say_event(NODE_MSG_NODE_RESTARTED, "source", 2);
        }
        say_event(NODE_MSG_NODE_FAILED, "other", 1);
        say_event(NODE_MSG_NODE_FAILED, "source", 2);
        say_event(NODE_MSG_NODE_FAILED, "source", 1); /* from far behind */
        say_event(NODE_MSG_NODE_FAILED, "nobody knows", 0);
        say_event(NODE_MSG_NODE_FAILED, "nobody knows", 0);
        flow_stop(fx.flow, fx.b, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[FAILED], 5); /* source twice, other, and whatever has no generation each time */
        cr_assert_eq(fx.shared[RESTARTED], 1);
        flow_close(fx.flow);
}

/* All of it, to nodes in the middle of their work. */
Test(succession, a_whole_handshake_again_and_again_loses_no_message, .timeout = 60)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true});
        flow_start(fx.flow);
        for (unsigned i = 0; i < 100; i++) {
                uint64_t got = fx.shared[GOT];

                flow_succeed(fx.flow, (FlowSuccessor)(i % _FLOW_SUCCESSOR_MAX));
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > got + 20 && flow_running(fx.flow)), "successor %u", i);
        }
        flow_stop(fx.flow, fx.a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7) && ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GAPS], 0);
        cr_assert_eq(fx.shared[CLOSED], 1);
        cr_assert_eq(fx.shared[ERRORS], 0);
        flow_close(fx.flow);
}

static void *look_while_not_stopped(void *node)
{
        do
                fx.shared[MARK]++;
        while (!tg_should_stop(node));
        NODE_CHECK(tg_stop_deadline(node) < NSEC_NEVER);
        return NULL;
}

static int look_and_take(tg_node *node, void *arg)
{
        pthread_t thread;

        NODE_CHECK(pthread_create(&thread, NULL, look_while_not_stopped, node) == 0);
        (void)take_for_ever(node, arg);
        NODE_CHECK(pthread_join(thread, NULL) == 0);
        return 0;
}

/* Any thread may look at it at any time, so it is exchanged under its eyes. */
Test(succession, a_new_control_page_takes_the_place_of_the_old_one, .timeout = 30)
{
        two_nodes(send_for_ever, look_and_take, (FlowLinkSpec){});
        flow_start(fx.flow);
        for (unsigned i = 0; i < 20; i++) {
                for (int n = 0; n < 2; n++)
                        flow_lose_page(fx.flow, n);
                flow_succeed(fx.flow, FLOW_REPEATS);
                fx.shared[MARK] = 0;
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK] > 1000 && flow_running(fx.flow)));
        }
        flow_stop_page(fx.flow, fx.b, NSEC_PER_SEC); /* no packet: the page alone */
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        flow_close(fx.flow);
}

Test(succession, a_second_start_does_not_put_off_the_timers, .timeout = 30)
{
        new_flow();
        fx.a = flow_node(fx.flow, "clock", take_for_ever, NULL);
        flow_timer(fx.flow, fx.a, "tick", 300 * NSEC_PER_MSEC);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, (flow_send(fx.flow, fx.a, &(NodeMsg){.type = NODE_MSG_START}), fx.shared[GOT] >= 3)));
        flow_close(fx.flow);
}

static int close_then_take(tg_node *node, void *arg)
{
        static const char *const out[] = {"out"};
        tg_event *ev;

        while (!fx.shared[GO])
                ;
        NODE_CHECK(tg_close_outputs(node, out, 1) == 0);
        tell(MARK, 1);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0); /* STOP */
        tg_event_free(ev);
        return 0;
}

Test(succession, an_output_that_was_closed_while_nobody_listened_is_named_to_who_asks, .timeout = 30)
{
        two_nodes(close_then_take, take_for_ever, (FlowLinkSpec){});
        flow_start(fx.flow);
        flow_die_after(fx.flow, 1);
        say_event(NODE_MSG_NODE_FAILED, "last words", 0);
        cr_assert(flow_is_dead(fx.flow));
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK]));
        flow_succeed(fx.flow, FLOW_ASKS_WITH_LOSS); /* CLOSE_OUTPUT was read by the dead one */
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert(flow_output_closed(fx.flow, fx.a, fx.out));
        cr_assert_eq(fx.shared[CLOSED], 1);
        flow_close(fx.flow);
}

/* -------- by name -------- */

static void hang_up_both(void)
{
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, fx.b);
}

Test(by_name, messages_flow_without_a_gap_while_nobody_is_there_and_when_somebody_is_again, .timeout = 60)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true});
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        for (unsigned round = 1; round <= 3; round++) {
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 1000 * round));
                flow_listen(fx.flow, false);
                hang_up_both();
                fx.shared[MARK] = fx.shared[GOT];
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > fx.shared[MARK] + 5000));
                flow_listen(fx.flow, true);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 2 * round), "%u came", flow_n_joined(fx.flow));
                fx.shared[MARK] = fx.shared[GOT];
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > fx.shared[MARK] + 1000));
        }
        flow_stop(fx.flow, fx.a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7) && ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GAPS], 0);
        cr_assert_eq(fx.shared[CLOSED], 1);
        cr_assert_eq(fx.shared[ERRORS], 0);
        flow_close(fx.flow);
}

/* Asleep in tg_next(), or in a send that waits for room: both look for a supervisor all the same. */
Test(by_name, who_sleeps_wakes_up_to_look, .timeout = 60)
{
        nsec_t first = 0;

        two_nodes(send_for_ever, hang_until_go, (FlowLinkSpec){.backpressure = true});
        (void)flow_node(fx.flow, "idle", take_for_ever, NULL);
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_ring(fx.flow, fx.a, fx.out).blocked && fx.shared[MARK]));
        flow_listen(fx.flow, true);
        flow_turn_away(fx.flow, ""); /* they come again, but not more often than every 100 ms */
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, 2);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_knocks(fx.flow) >= 2));
        first = clock_now();
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_knocks(fx.flow) >= 8));
        cr_assert_geq(clock_now() - first, 200 * NSEC_PER_MSEC, "6 more attempts of two nodes within %lu us",
                (unsigned long)((clock_now() - first) / 1000));
        flow_turn_away(fx.flow, NULL);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 2), "%u came", flow_n_joined(fx.flow));
        flow_send(fx.flow, fx.a, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL, .deadline_ns = 5}});
        flow_send(fx.flow, 2, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL, .deadline_ns = 5}});
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7) && ended_with(2, 0)));
        cr_assert_eq(fx.shared[ERRORS], 0);
        fx.shared[GO] = 1;
        flow_close(fx.flow);
}

/* A foreign loop is woken by the same descriptor. */
static int poll_alone(tg_node *node, void *arg)
{
        tg_event *ev;
        int r;

        for (;;) {
                struct pollfd pfd = {.fd = tg_node_fd(node), .events = POLLIN};

                NODE_CHECK(poll(&pfd, 1, 20000) == 1);
                while ((r = tg_next(node, &ev, 0)) == 0) {
                        count(ev);
                        tg_event_free(ev);
                }
                fx.shared[MARK]++;
                if (r == TG_E_END)
                        return 0;
                NODE_CHECK(r == TG_E_TIMEOUT);
        }
}

Test(by_name, a_foreign_loop_looks_too_and_does_not_spin, .timeout = 30)
{
        uint64_t before;

        new_flow();
        fx.a = flow_node(fx.flow, "node", poll_alone, NULL);
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        flow_hang_up(fx.flow, fx.a);
        before = fx.shared[MARK];
        cr_assert(!FLOW_UNTIL(fx.flow, 0.5, fx.shared[ERRORS])); /* nothing happens, and it must not happen often */
        cr_assert_leq(fx.shared[MARK] - before, 30);
        flow_listen(fx.flow, true);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 1));
        flow_stop(fx.flow, fx.a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 0)));
        cr_assert_eq(fx.shared[STOPS], 1);
        flow_close(fx.flow);
}

Test(by_name, the_death_of_a_source_closes_nothing_before_somebody_says_so, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){});
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 100));
        hang_up_both();
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_exited(fx.flow, fx.a, NULL)));
        cr_assert(!FLOW_UNTIL(fx.flow, 0.3, fx.shared[CLOSED])); /* it may be started again */
        flow_listen(fx.flow, true);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[CLOSED], 1);
        cr_assert_eq(flow_n_joined(fx.flow), 1);
        flow_close(fx.flow);
}

Test(by_name, a_source_restarted_by_the_next_supervisor_is_read_on, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true});
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 100));
        hang_up_both();
        flow_will_restart(fx.flow, fx.a, true);
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_exited(fx.flow, fx.a, NULL)));
        flow_listen(fx.flow, true);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 1));
        fx.shared[MARK] = fx.shared[GOT];
        flow_restart(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > fx.shared[MARK] + 1000));
        cr_assert_eq(fx.shared[CLOSED], 0);
        flow_close(fx.flow);
}

Test(by_name, who_is_not_wanted_any_more_hears_why_and_ends, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){});
        flow_by_name(fx.flow);
        flow_start(fx.flow);
        flow_listen(fx.flow, true);
        flow_turn_away(fx.flow, "no such dataflow");
        flow_hang_up(fx.flow, fx.b);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[ERRORS], 1);
        cr_assert_eq(flow_n_knocks(fx.flow), 1);
        flow_close(fx.flow);
}

/* Guard and supervisor may die before everybody is ready. */
Test(by_name, a_start_goes_on_with_the_next_supervisor, .timeout = 30)
{
        for (unsigned when = 0; when < 2; when++) {
                two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true});
                flow_by_name(fx.flow);
                flow_hold_start(fx.flow, true);
                flow_spawn(fx.flow);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_cursor_active(fx.flow, 0)));
                hang_up_both();
                flow_hold_start(fx.flow, false); /* nobody hears that */
                flow_listen(fx.flow, true);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 2));
                cr_assert_eq(fx.shared[GOT], 0);
                flow_succeed(fx.flow, FLOW_ASKS);
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 100));
                flow_close(fx.flow);
        }
}

/* -------- dynamic nodes -------- */

Test(by_name, a_process_started_by_hand_becomes_the_node_it_asks_to_be, .timeout = 30)
{
        new_flow();
        fx.a = flow_node(fx.flow, "source", send_for_ever, NULL);
        fx.b = flow_dynamic(fx.flow, "viewer", take_for_ever, NULL);
        fx.out = flow_output(fx.flow, fx.a, "out", 10, 1000, 20);
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in", (FlowLinkSpec){.backpressure = true});
        flow_by_name(fx.flow);
        flow_listen(fx.flow, true);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 1000));
        cr_assert_eq(flow_n_joined(fx.flow), 1);
        flow_hang_up(fx.flow, fx.b);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_joined(fx.flow) == 2));
        flow_stop(fx.flow, fx.a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7) && ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GAPS], 0);
        flow_close(fx.flow);
}
