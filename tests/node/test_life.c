/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes that die, leave, are stopped and are started again while messages flow.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

enum { SENT, GOT, LAST, CLOSED, RECOVERED, ENDED, GAPS, FIRST, GO, DROPPED, MARK, TOOK_NS, RESULT, ROUND };

typedef struct Fixture {
        Flow *flow;
        _Atomic uint64_t *shared;
        int a, b, out, link;
} Fixture;

static Fixture fx; /* inherited by the nodes */

static void two_nodes(FlowBody source, FlowBody sink, FlowLinkSpec spec, uint64_t message_bytes, uint32_t n_chunks)
{
        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
        fx.a = flow_node(fx.flow, "source", source, NULL);
        fx.b = flow_node(fx.flow, "sink", sink, NULL);
        fx.out = flow_output(fx.flow, fx.a, "out", spec.queue_size ? spec.queue_size : 10, message_bytes, n_chunks);
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in", spec);
}

static void tell(unsigned what, uint64_t value)
{
        fx.shared[what] = value;
        flow_note(fx.flow);
}

static bool ended_with(int node, int status)
{
        int s;

        if (!flow_exited(fx.flow, node, &s))
                return false;
        cr_assert_eq(s, status << 8, "node %d ended with %#x", node, (unsigned)s);
        return true;
}

static bool gone(int node)
{
        return flow_exited(fx.flow, node, NULL);
}

/* -------- bodies -------- */

/* Each message carries its number; 1000 bytes, so that chunks are reused. */
static void send_number(tg_node *node, uint64_t i)
{
        uint64_t bytes[125] = {i};

        NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
}

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

static int send_5_then_wait(tg_node *node, void *arg)
{
        tg_event *ev;

        for (uint64_t i = 0; i < 5; i++)
                send_number(node, i);
        tell(SENT, 5);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0); /* STOP, or never */
        return 0;
}

static int take_for_ever(tg_node *node, void *arg)
{
        uint64_t expect = 0;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                switch (tg_event_type(ev)) {
                case TG_EVENT_INPUT:
                        NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                        if (tg_event_seq(ev) < expect) { /* a restarted source begins at 0 */
                                fx.shared[ROUND]++;
                                expect = 0;
                        }
                        fx.shared[GAPS] += tg_event_seq(ev) - expect;
                        expect = tg_event_seq(ev) + 1;
                        fx.shared[GOT]++;
                        break;
                case TG_EVENT_INPUT_CLOSED:
                        fx.shared[CLOSED]++;
                        break;
                case TG_EVENT_INPUT_RECOVERED:
                        fx.shared[RECOVERED]++;
                        break;
                default:
                        break;
                }
                fx.shared[LAST] = expect;
                tg_event_free(ev);
                flow_note(fx.flow);
        }
        NODE_CHECK(r == TG_E_END);
        tell(ENDED, 1);
        return 0;
}

static int hang(tg_node *node, void *arg)
{
        tell(MARK, 1);
        while (!fx.shared[RESULT] || !fx.shared[GO])
                pause();
        return 0;
}

/* -------- death of a source -------- */

Test(life, a_source_killed_in_the_middle_is_drained_and_then_closed, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 1000));
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[CLOSED], 1);
        cr_assert_eq(fx.shared[GAPS], 0);
        /* All that its head said were published arrived; SENT may lag by the one it was killed in. */
        cr_assert_geq(fx.shared[GOT], fx.shared[SENT]);
        cr_assert_leq(fx.shared[GOT], fx.shared[SENT] + 1);
        flow_close(fx.flow);
}

Test(life, without_a_supervisor_the_doorbell_tells_that_the_source_is_gone, .timeout = 30)
{
        two_nodes(send_5_then_wait, take_for_ever, (FlowLinkSpec){}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] == 5));
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, fx.b);
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)), "the sink did not learn of it");
        cr_assert_eq(fx.shared[CLOSED], 1);
        flow_close(fx.flow);
}

/* Neither ever sleeps, so neither polls for its own sake. */
static int take_without_waiting(tg_node *node, void *arg)
{
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, 0)) != TG_E_END) {
                if (r == TG_E_TIMEOUT) {
                        (void)sched_yield();
                        continue;
                }
                NODE_CHECK(r == 0);
                fx.shared[CLOSED] += tg_event_type(ev) == TG_EVENT_INPUT_CLOSED;
                fx.shared[GOT] += tg_event_type(ev) == TG_EVENT_INPUT;
                tg_event_free(ev);
        }
        return 0;
}

Test(life, without_a_supervisor_a_node_that_never_sleeps_hears_of_a_death_too, .timeout = 30)
{
        two_nodes(send_for_ever, take_without_waiting, (FlowLinkSpec){}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 10));
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, fx.b);
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[CLOSED], 1);
        flow_close(fx.flow);
}

Test(life, without_a_supervisor_messages_go_on_and_nobody_spins, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 100));
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, fx.b);
        fx.shared[MARK] = fx.shared[GOT];
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > fx.shared[MARK] + 10000));
        cr_assert(!gone(fx.a) && !gone(fx.b));
        flow_stop_page(fx.flow, fx.a, NSEC_PER_SEC); /* whoever can still write the page can still ask */
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 7) && ended_with(fx.b, 0)));
        flow_close(fx.flow);
}

/* -------- restart of a source -------- */

Test(life, a_restarted_source_is_read_on_after_the_old_ring_and_the_input_stays_open, .timeout = 60)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        for (unsigned round = 1; round <= 5; round++) {
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > 500 * round));
                flow_will_restart(fx.flow, fx.a, true);
                flow_kill(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, gone(fx.a)));
                flow_restart(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[ROUND] == round), "nothing of incarnation %u", round + 1);
        }
        cr_assert_eq(fx.shared[CLOSED], 0);
        cr_assert_eq(fx.shared[GAPS], 0);
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[CLOSED], 1);
        cr_assert_eq(fx.shared[GAPS], 0);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

/* Holds the messages of the first incarnation while the second and third send. */
static int hold_across_restarts(tg_node *node, void *arg)
{
        struct tg_input_stats stats;
        tg_event *held[3], *ev;

        for (unsigned i = 0; i < 3; i++) {
                NODE_CHECK(tg_next(node, &held[i], TG_FOREVER) == 0);
                NODE_CHECK(tg_event_type(held[i]) == TG_EVENT_INPUT);
        }
        tell(MARK, 1); /* the test kills and restarts the source, twice, before we look again */
        while (!fx.shared[GO])
                if (tg_next(node, &ev, 0) == 0) {
                        tg_event_free(ev);
                        fx.shared[GOT]++;
                        flow_note(fx.flow);
                }
        for (unsigned i = 0; i < 3; i++) {
                NODE_CHECK(tg_event_seq(held[i]) == i);
                NODE_CHECK(*(const uint64_t *)tg_event_data(held[i]) == i);
                tg_event_free(held[i]);
        }
        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        tell(DROPPED, stats.dropped_source);
        tell(RESULT, stats.delivered);
        return 0;
}

Test(life, events_of_a_dead_source_stay_whole_while_its_successors_send, .timeout = 60)
{
        two_nodes(send_for_ever, hold_across_restarts, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK]));
        for (unsigned round = 0; round < 2; round++) {
                uint64_t got = fx.shared[GOT];

                flow_will_restart(fx.flow, fx.a, true);
                flow_kill(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, gone(fx.a)));
                flow_restart(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_running(fx.flow)));
                flow_note(fx.flow);
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] > 200 && fx.shared[GOT] > got + 200));
        }
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[RESULT], fx.shared[GOT] + 3);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

/* Does not take for two restarts: of three incarnations the first one's rest is given up, and counted. */
static int sleep_through_restarts(tg_node *node, void *arg)
{
        struct tg_input_stats stats;
        tg_event *ev;
        uint64_t n = 0;
        int r;

        tell(MARK, 1);
        while (!fx.shared[GO]) { /* the supervisor's messages are handled, no message is taken: a sender does that */
                char byte = 0;

                NODE_CHECK(tg_send(node, "other", &byte, 1, NULL) == 0);
        }
        while ((r = tg_next(node, &ev, 0)) == 0) {
                n += tg_event_type(ev) == TG_EVENT_INPUT;
                tg_event_free(ev);
        }
        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        NODE_CHECK(stats.delivered == n);
        fx.shared[DROPPED] = stats.dropped_source;
        tell(GOT, n);
        return 0;
}

Test(life, at_most_one_dead_source_is_held_and_the_rest_is_counted, .timeout = 60)
{
        two_nodes(send_5_then_wait, sleep_through_restarts, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_output(fx.flow, fx.b, "other", 10, 100, 4);
        flow_start(fx.flow);
        for (unsigned round = 0; round < 3; round++) {
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_running(fx.flow) && fx.shared[SENT] == 5));
                fx.shared[SENT] = 0;
                if (round == 2)
                        break;
                flow_will_restart(fx.flow, fx.a, true);
                flow_kill(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, gone(fx.a)));
                flow_restart(fx.flow, fx.a);
        }
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GOT], 10);
        cr_assert_eq(fx.shared[DROPPED], 5);
        flow_close(fx.flow);
}

/* -------- restart of a consumer -------- */

/* Every message between the dead one's position and ours is counted, none comes twice. */
static void check_gap(tg_node *node, uint64_t first)
{
        struct tg_input_stats stats;

        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        NODE_CHECK(first >= fx.shared[LAST]);
        NODE_CHECK(first - fx.shared[LAST] ==
                stats.dropped_queue + stats.dropped_pool + stats.dropped_source + stats.dropped_invalid);
        fx.shared[DROPPED] += first - fx.shared[LAST];
}

static int take_some_and_die(tg_node *node, void *arg)
{
        tg_event *ev;

        for (unsigned n = 0; n <= 300; n++) {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT);
                if (n == 0 && tg_restart_count(node) > 0)
                        check_gap(node, tg_event_seq(ev));
                else
                        NODE_CHECK(tg_event_seq(ev) == fx.shared[LAST]);
                fx.shared[LAST] = tg_event_seq(ev) + 1;
                tg_event_free(ev);
                fx.shared[GOT]++;
        }
        tell(tg_restart_count(node) < 3 ? MARK : ENDED, 1);
        while (!fx.shared[RESULT])
                pause(); /* dies here, between two messages */
        return 0;
}

Test(life, a_restarted_consumer_goes_on_where_the_dead_one_was_and_counts_what_is_gone, .timeout = 60)
{
        two_nodes(send_for_ever, take_some_and_die, (FlowLinkSpec){.queue_size = 10, .backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        for (unsigned round = 1; round <= 3; round++) {
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK]));
                fx.shared[MARK] = 0;
                flow_kill(fx.flow, fx.b);
                cr_assert(FLOW_UNTIL(fx.flow, 10, gone(fx.b)));
                flow_restart(fx.flow, fx.b);
        }
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[ENDED]));
        cr_assert_eq(fx.shared[GOT], 4 * 301);
        cr_assert_eq(fx.shared[GOT] + fx.shared[DROPPED], fx.shared[LAST]);
        cr_assert_geq(flow_n_detach_acks(fx.flow), 3);
        flow_close(fx.flow);
}

/* -------- waiting for room, and what ends it -------- */

static int send_until_blocked(tg_node *node, void *arg)
{
        nsec_t began;
        uint64_t i;
        int r;

        for (i = 0; i < 10; i++)
                send_number(node, i);
        tell(SENT, i);
        tg_set_send_timeout(node, (int64_t)fx.shared[GO]);
        began = clock_now();
        r = tg_send(node, "out", "x", 1, NULL);
        fx.shared[TOOK_NS] = clock_now() - began;
        tell(RESULT, (uint64_t)r + 1000);
        return 0;
}

static void blocked(int64_t timeout_ns)
{
        two_nodes(send_until_blocked, hang, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        fx.shared[GO] = (uint64_t)timeout_ns;
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] == 10 && fx.shared[MARK]));
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[RESULT] || flow_ring(fx.flow, fx.a, fx.out).blocked));
}

Test(life, a_blocked_send_ends_at_its_timeout_and_nobody_gets_the_message, .timeout = 30)
{
        blocked(100 * NSEC_PER_MSEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[RESULT]));
        cr_assert_eq(fx.shared[RESULT], 1000 + TG_E_TIMEOUT);
        cr_assert_geq(fx.shared[TOOK_NS], 100 * NSEC_PER_MSEC);
        cr_assert_leq(fx.shared[TOOK_NS], 300 * NSEC_PER_MSEC);
        cr_assert_eq(flow_ring(fx.flow, fx.a, fx.out).head, 10);
        flow_close(fx.flow);
}

Test(life, a_send_with_timeout_0_looks_once, .timeout = 30)
{
        blocked(0);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[RESULT]));
        cr_assert_eq(fx.shared[RESULT], 1000 + TG_E_TIMEOUT);
        cr_assert_leq(fx.shared[TOOK_NS], 5 * NSEC_PER_MSEC);
        flow_close(fx.flow);
}

Test(life, a_blocked_send_ends_with_stop, .timeout = 30)
{
        nsec_t began;

        blocked(TG_FOREVER);
        began = clock_now();
        flow_stop(fx.flow, fx.a, 5 * NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[RESULT]));
        cr_assert_eq(fx.shared[RESULT], 1000 + TG_E_STOPPING);
        cr_assert_lt(clock_now() - began, 200 * NSEC_PER_MSEC);
        cr_assert_eq(flow_ring(fx.flow, fx.a, fx.out).head, 10);
        flow_close(fx.flow);
}

Test(life, a_blocked_send_ends_with_the_flag_alone, .timeout = 30)
{
        blocked(TG_FOREVER);
        flow_stop_page(fx.flow, fx.a, 5 * NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 0.5, fx.shared[RESULT]));
        cr_assert_eq(fx.shared[RESULT], 1000 + TG_E_STOPPING);
        flow_close(fx.flow);
}

Test(life, a_blocked_send_ends_with_the_death_of_the_consumer, .timeout = 30)
{
        nsec_t began;

        blocked(TG_FOREVER);
        began = clock_now();
        flow_kill(fx.flow, fx.b);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[RESULT]));
        cr_assert_eq(fx.shared[RESULT], 1000);
        cr_assert_lt(clock_now() - began, 200 * NSEC_PER_MSEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, gone(fx.a)));
        flow_close(fx.flow);
}

Test(life, a_blocked_send_ends_with_the_death_of_the_consumer_without_a_supervisor, .timeout = 30)
{
        blocked(TG_FOREVER);
        flow_hang_up(fx.flow, fx.a);
        flow_hang_up(fx.flow, fx.b);
        flow_kill(fx.flow, fx.b);
        cr_assert(FLOW_UNTIL(fx.flow, 0.5, fx.shared[RESULT]), "the doorbell's hang-up was not heard");
        cr_assert_eq(fx.shared[RESULT], 1000);
        flow_close(fx.flow);
}

/* -------- stop -------- */

static int take_after_stop(tg_node *node, void *arg)
{
        tg_event *ev;
        int r;

        while (!fx.shared[GO])
                ; /* until there is something queued and STOP was sent */
        NODE_CHECK(tg_should_stop(node));
        NODE_CHECK(tg_stop_deadline(node) > clock_now() && tg_stop_deadline(node) < clock_now() + 10 * NSEC_PER_SEC);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        NODE_CHECK(tg_event_type(ev) == TG_EVENT_STOP && strcmp(tg_event_id(ev), "MANUAL") == 0);
        tg_event_free(ev);
        tell(MARK, 1);
        while (fx.shared[GO] < 2)
                ; /* messages that come after STOP was taken are too late */
        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT);
                fx.shared[GOT]++;
                tg_event_free(ev);
        }
        NODE_CHECK(r == TG_E_END);
        return 0;
}

static int send_5_and_5(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 5; i++)
                send_number(node, i);
        tell(SENT, 5);
        while (fx.shared[GO] < 1 || !fx.shared[MARK])
                ;
        for (uint64_t i = 5; i < 10; i++)
                send_number(node, i);
        tell(SENT, 10);
        while (fx.shared[GO] < 3)
                ;
        return 0;
}

Test(life, what_was_queued_before_stop_is_delivered_after_it_and_then_the_stream_ends, .timeout = 30)
{
        two_nodes(send_5_and_5, take_after_stop, (FlowLinkSpec){.queue_size = 20}, 1000, 40);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] == 5));
        flow_stop(fx.flow, fx.b, 5 * NSEC_PER_SEC);
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] == 10));
        fx.shared[GO] = 2;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GOT], 5);
        fx.shared[GO] = 3;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 0)));
        flow_close(fx.flow);
}

/* -------- closing -------- */

static int close_then_linger(tg_node *node, void *arg)
{
        static const char *const wrong[] = {"out", "nonsense"};
        static const char *const right[] = {"out"};
        tg_sample *s;

        send_number(node, 0);
        NODE_CHECK(tg_alloc(node, "out", 1000, &s) == 0);
        NODE_CHECK(tg_close_outputs(node, wrong, 2) == TG_E_NO_OUTPUT);
        send_number(node, 1);
        NODE_CHECK(tg_close_outputs(node, right, 1) == 0);
        NODE_CHECK(tg_close_outputs(node, right, 1) == 0);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == TG_E_CLOSED);
        NODE_CHECK(tg_send(node, "out", NULL, 999, NULL) == -EINVAL);
        NODE_CHECK(tg_send_sample(s, NULL) == TG_E_CLOSED);
        NODE_CHECK(tg_alloc(node, "out", 1000, &s) == TG_E_CLOSED);
        NODE_CHECK(tg_send(node, "nonsense", "x", 1, NULL) == TG_E_NO_OUTPUT);
        while (!fx.shared[GO])
                ;
        return 0;
}

Test(life, closing_an_output_ends_its_consumers_while_the_node_lives_on, .timeout = 30)
{
        two_nodes(close_then_linger, take_for_ever, (FlowLinkSpec){}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert(!gone(fx.a));
        cr_assert(flow_output_closed(fx.flow, fx.a, fx.out));
        cr_assert_eq(fx.shared[GOT], 2);
        cr_assert_eq(fx.shared[CLOSED], 1);
        fx.shared[GO] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 0)));
        flow_close(fx.flow);
}

static int keep_events_past_close(tg_node *node, void *arg)
{
        tg_event *held[3];

        for (unsigned i = 0; i < 3; i++)
                NODE_CHECK(tg_next(node, &held[i], TG_FOREVER) == 0);
        NODE_CHECK(tg_node_close(node) == NULL);
        tell(MARK, fx.shared[SENT]);
        /* The pool goes round many times, and the sender looks around more than once. */
        for (nsec_t until = clock_now() + 200 * NSEC_PER_MSEC;
             clock_now() < until || fx.shared[SENT] < fx.shared[MARK] + 1000;)
                (void)sched_yield();
        for (unsigned i = 0; i < 3; i++) {
                NODE_CHECK(*(const uint64_t *)tg_event_data(held[i]) == tg_event_seq(held[i]));
                NODE_CHECK(strcmp(tg_event_id(held[i]), "in") == 0);
                tg_event_free(held[i]);
        }
        tell(ENDED, 1);
        _exit(0);
}

Test(life, events_keep_their_payload_after_the_node_was_closed, .timeout = 30)
{
        two_nodes(send_for_ever, keep_events_past_close, (FlowLinkSpec){}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[ENDED], 1);
        flow_close(fx.flow);
}

/* -------- a supervisor that repeats itself -------- */

Test(life, repeated_steps_are_answered_again_and_change_nothing, .timeout = 30)
{
        two_nodes(send_for_ever, take_for_ever, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        for (unsigned i = 0; i < 50; i++) {
                uint64_t got = fx.shared[GOT];

                flow_repeat(fx.flow);
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[GOT] > got + 100));
        }
        flow_kill(fx.flow, fx.a);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.b, 0)));
        cr_assert_eq(fx.shared[GAPS], 0);
        flow_close(fx.flow);
}

/* -------- hostile peers -------- */

Test(life, a_cursor_that_no_honest_consumer_writes_is_reported_and_stalls_nobody, .timeout = 30)
{
        two_nodes(send_for_ever, hang, (FlowLinkSpec){.backpressure = true}, 1000, 20);
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_ring(fx.flow, fx.a, fx.out).blocked));
        flow_spoil_cursor(fx.flow, fx.link);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_violations(fx.flow) == 1));
        fx.shared[MARK] = fx.shared[SENT];
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] > fx.shared[MARK] + 100), "the sender is still blocked");
        flow_close(fx.flow);
}

/* -------- a node that feeds itself -------- */

static int feed_oneself(tg_node *node, void *arg)
{
        tg_event *ev;

        NODE_CHECK(tg_send(node, "out", "a", 1, NULL) == 0);
        for (unsigned i = 0; i < 10000; i++) {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                NODE_CHECK(tg_event_seq(ev) == i);
                NODE_CHECK(tg_send(node, "out", tg_event_data(ev), tg_event_size(ev), NULL) == 0);
                tg_event_free(ev);
        }
        return 0;
}

Test(life, a_node_may_feed_itself, .timeout = 30)
{
        int out;

        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
        fx.a = flow_node(fx.flow, "loop", feed_oneself, NULL);
        out = flow_output(fx.flow, fx.a, "out", 10, 100, 20);
        flow_link(fx.flow, fx.a, out, fx.a, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, ended_with(fx.a, 0)));
        flow_close(fx.flow);
}
