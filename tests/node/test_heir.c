/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The place of a dead consumer under backpressure: kept until the supervisor has said what follows, lost to nobody, and
 * no reason to wait without end. The supervisor's words are held back here for as long as a test likes.
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

enum { SENT, GOT, LAST, MARK, HOLD, LEAVE, TIMEOUT, TIMED_OUT, STOPPED, ONE };

#define QUEUE  10
#define A_LIFE 300 /* messages that each incarnation takes */

static struct {
        Flow *flow;
        _Atomic uint64_t *shared;
        int a, b, out, link;
} fx; /* inherited by the nodes */

static void tell(unsigned what, uint64_t value)
{
        fx.shared[what] = value;
        flow_note(fx.flow);
}

/* Each message carries its number; 1000 bytes, so that chunks are reused. */
static int send_for_ever(tg_node *node, void *arg)
{
        for (uint64_t i = 0;; i++) {
                uint64_t bytes[125] = {i};
                int r;

                tg_set_send_timeout(node, (int64_t)fx.shared[TIMEOUT] - 1);
                r = tg_send(node, "out", bytes, sizeof(bytes), NULL);
                if (r == TG_E_STOPPING) {
                        tell(STOPPED, 1);
                        return 0;
                }
                if (r == TG_E_TIMEOUT) {
                        tell(TIMED_OUT, fx.shared[TIMED_OUT] + 1);
                        i--;
                        continue;
                }
                NODE_CHECK(r == 0);
                fx.shared[SENT] = i + 1;
                if (i % 16 == 0)
                        flow_note(fx.flow);
        }
}

/* Goes on exactly where the last one was. Keeps the last HOLD messages, then waits for its death, or leaves. */
static int take_a_life(tg_node *node, void *arg)
{
        tg_event *ev, *held[8];
        struct tg_input_stats stats;
        unsigned n_held = 0;

        for (unsigned n = 0; n < A_LIFE; n++) {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                if (tg_event_type(ev) == TG_EVENT_INPUT_CLOSED) { /* the test is over */
                        tg_event_free(ev);
                        return 0;
                }
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT);
                NODE_CHECK(tg_event_seq(ev) == fx.shared[LAST]);
                NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                if (n + fx.shared[HOLD] >= A_LIFE)
                        held[n_held++] = ev;
                else
                        tg_event_free(ev);
                fx.shared[LAST]++;
                fx.shared[GOT]++;
        }
        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        NODE_CHECK(stats.delivered == A_LIFE);
        NODE_CHECK(stats.dropped_queue + stats.dropped_pool + stats.dropped_source + stats.dropped_invalid == 0);
        tell(MARK, 1);
        while (!fx.shared[LEAVE])
                pause();
        for (unsigned i = 0; i < n_held; i++)
                tg_event_free(held[i]);
        return 0;
}

static int take_one_when_told(tg_node *node, void *arg)
{
        tg_event *ev;

        tell(MARK, 1);
        while (!fx.shared[ONE])
                (void)sched_yield();
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        tg_event_free(ev);
        fx.shared[LAST]++;
        tell(ONE, 0);
        return pause();
}

static int idle(tg_node *node, void *arg)
{
        return pause();
}

static void begin_with(FlowLinkSpec spec, uint32_t n_chunks)
{
        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
        fx.a = flow_node(fx.flow, "source", send_for_ever, NULL);
        fx.b = flow_node(fx.flow, "sink", take_a_life, NULL);
        fx.out = flow_output(fx.flow, fx.a, "out", QUEUE, 1000, n_chunks);
        spec.queue_size = QUEUE;
        spec.backpressure = true;
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in", spec);
}

static void begin(void)
{
        begin_with((FlowLinkSpec){.restartable = true}, 20);
        flow_start(fx.flow);
}

static bool blocked(void)
{
        return flow_ring(fx.flow, fx.a, fx.out).blocked;
}

/* The source has answered something that it was asked just now, so it has seen whatever was there to be seen before. */
static void let_the_source_look(void)
{
        for (unsigned i = 0; i < 3; i++) {
                unsigned n = flow_n_out_acks(fx.flow);

                flow_repeat(fx.flow);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_out_acks(fx.flow) > n));
        }
}

static bool sink_is_gone(void)
{
        return flow_exited(fx.flow, fx.b, NULL);
}

static void life_is_full(void)
{
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK]), "%lu messages came", (unsigned long)fx.shared[GOT]);
        fx.shared[MARK] = 0;
}

static void sink_dies(void)
{
        flow_kill(fx.flow, fx.b);
        cr_assert(FLOW_UNTIL(fx.flow, 10, sink_is_gone()));
}

static void place_is_kept(void)
{
        uint64_t n;

        let_the_source_look();
        n = flow_ring(fx.flow, fx.a, fx.out).n_blocked_slot;
        /* Until it has found no room once more: all that it was asked it may have answered in one breath, with what it announced before still there. */
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_ring(fx.flow, fx.a, fx.out).n_blocked_slot > n + 1 && blocked()));
        cr_assert_eq(fx.shared[SENT], fx.shared[LAST] + QUEUE, "%lu sent, and %lu taken", (unsigned long)fx.shared[SENT],
                (unsigned long)fx.shared[LAST]);
}

static void stop_the_source(void)
{
        siginfo_t si;

        cr_assert_eq(kill(flow_pid(fx.flow, fx.a), SIGSTOP), 0);
        cr_assert_eq(waitid(P_PID, (id_t)flow_pid(fx.flow, fx.a), &si, WSTOPPED), 0);
}

static void source_goes_on(double seconds)
{
        uint64_t sent = fx.shared[SENT];

        cr_assert(FLOW_UNTIL(fx.flow, seconds, fx.shared[SENT] > sent + 100), "it is still blocked");
}

Test(heir, gets_every_message_although_the_verdict_came_late, .timeout = 60)
{
        begin();
        flow_hold_verdicts(fx.flow, true);
        for (unsigned life = 1; life <= 4; life++) {
                life_is_full();
                sink_dies();
                place_is_kept();
                if (life % 2) /* what the supervisor says of it, or the heir at once */
                        flow_detach(fx.flow, fx.link, true);
                place_is_kept();
                flow_restart(fx.flow, fx.b);
        }
        life_is_full();
        cr_assert_eq(fx.shared[GOT], 5 * A_LIFE);
        cr_assert_eq(fx.shared[LAST], 5 * A_LIFE);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

Test(heir, has_its_place_kept_until_it_is_active, .timeout = 60)
{
        begin();
        life_is_full();
        flow_will_restart(fx.flow, fx.b, true);
        flow_hold_in(fx.flow, true);
        sink_dies();
        for (unsigned i = 0; i < 3; i++) { /* two die before they have begun */
                unsigned n = flow_n_out_acks(fx.flow);

                flow_restart(fx.flow, fx.b);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_n_out_acks(fx.flow) > n), "the source does not know the heir");
                place_is_kept();
                if (i == 2)
                        break;
                flow_will_restart(fx.flow, fx.b, true);
                sink_dies();
                place_is_kept();
        }
        flow_hold_in(fx.flow, false);
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 2 * A_LIFE);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

Test(heir, follows_one_that_left_in_order, .timeout = 60)
{
        begin_with((FlowLinkSpec){.restartable = true}, 20);
        fx.shared[LEAVE] = 1;
        flow_hold_verdicts(fx.flow, true);
        flow_start(fx.flow);
        for (unsigned life = 1; life <= 3; life++) {
                life_is_full();
                cr_assert(FLOW_UNTIL(fx.flow, 10, sink_is_gone()));
                place_is_kept();
                flow_restart(fx.flow, fx.b);
        }
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 4 * A_LIFE);
        flow_close(fx.flow);
}

static int send_one_when_told(tg_node *node, void *arg)
{
        for (;;) {
                while (!fx.shared[ONE])
                        (void)sched_yield();
                fx.shared[ONE] = 0;
                NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        }
}

static int note_news(tg_node *node, void *arg)
{
        tg_event *ev;

        for (;;) {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                tell(MARK, (uint64_t)tg_event_type(ev) + 1);
                if (tg_event_type(ev) == TG_EVENT_INPUT_RECOVERED)
                        return pause();
                tg_event_free(ev);
        }
}

/* Its predecessor was told that there are messages again, and died before it asked for the first one. */
Test(heir, gets_what_was_announced_and_not_given, .timeout = 60)
{
        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
        fx.a = flow_node(fx.flow, "source", send_one_when_told, NULL);
        fx.b = flow_node(fx.flow, "sink", note_news, NULL);
        fx.out = flow_output(fx.flow, fx.a, "out", QUEUE, 1000, 20);
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in",
                (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true, .restartable = true, .timeout_ns = 20 * NSEC_PER_MSEC});
        flow_start(fx.flow);
        fx.shared[ONE] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK] == TG_EVENT_INPUT_CLOSED + 1));
        cr_assert_eq(flow_cursor(fx.flow, fx.link).tail, 1);
        fx.shared[ONE] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[MARK] == TG_EVENT_INPUT_RECOVERED + 1));
        cr_assert_eq(flow_cursor(fx.flow, fx.link).tail, 1);
        flow_close(fx.flow);
}

/* All chunks are claimed by the dead one: its claims end with it, its place does not. */
Test(heir, does_not_inherit_claims, .timeout = 60)
{
        begin_with((FlowLinkSpec){.restartable = true}, 4);
        fx.shared[HOLD] = 4;
        flow_start(fx.flow);
        life_is_full();
        flow_will_restart(fx.flow, fx.b, true);
        fx.shared[HOLD] = 0;
        sink_dies();
        let_the_source_look();
        flow_restart(fx.flow, fx.b);
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 2 * A_LIFE);
        flow_close(fx.flow);
}

/* A restart that nobody could expect at the start is announced before the death, and that is soon enough. */
Test(heir, may_be_announced_at_any_time_before_the_death, .timeout = 60)
{
        begin_with((FlowLinkSpec){}, 20);
        flow_start(fx.flow);
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        flow_set_restartable(fx.flow, fx.link);
        sink_dies();
        place_is_kept();
        flow_restart(fx.flow, fx.b);
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 2 * A_LIFE);
        flow_close(fx.flow);
}

/* The source learns of both in one breath, and of the death first, for that consumer had rung before either. */
Test(heir, may_be_announced_to_a_source_that_does_not_listen, .timeout = 60)
{
        int c;

        fx.flow = flow_new();
        fx.shared = flow_shared(fx.flow);
        fx.a = flow_node(fx.flow, "source", send_for_ever, NULL);
        fx.b = flow_node(fx.flow, "sink", take_one_when_told, NULL);
        c = flow_node(fx.flow, "idle", idle, NULL); /* keeps the source in its wait */
        fx.out = flow_output(fx.flow, fx.a, "out", QUEUE, 1000, 20);
        fx.link = flow_link(fx.flow, fx.a, fx.out, fx.b, "in", (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true});
        flow_link(fx.flow, fx.a, fx.out, c, "in", (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true});
        flow_start(fx.flow);
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        cr_assert(FLOW_UNTIL(fx.flow, 10, blocked()));
        stop_the_source();
        fx.shared[ONE] = 1;
        cr_assert(FLOW_UNTIL(fx.flow, 10, !fx.shared[ONE]));
        flow_set_restartable(fx.flow, fx.link);
        sink_dies();
        cr_assert_eq(kill(flow_pid(fx.flow, fx.a), SIGCONT), 0);
        let_the_source_look();
        flow_kill(fx.flow, c);
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_exited(fx.flow, c, NULL)));
        place_is_kept();
        flow_close(fx.flow);
}

/* Both die, and the source is back first: nothing that it sends then is for nobody. */
Test(heir, is_awaited_by_a_source_that_begins_anew, .timeout = 60)
{
        begin();
        for (unsigned round = 0; round < 3; round++) {
                life_is_full();
                flow_will_restart(fx.flow, fx.b, true);
                sink_dies();
                flow_kill(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, flow_exited(fx.flow, fx.a, NULL)));
                fx.shared[LAST] = fx.shared[SENT] = 0;
                flow_restart(fx.flow, fx.a);
                cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[SENT] > 0));
                cr_assert(FLOW_UNTIL(fx.flow, 10, blocked()));
                cr_assert_eq(fx.shared[SENT], QUEUE);
                if (round == 2)
                        break;
                flow_restart(fx.flow, fx.b);
        }
        flow_detach(fx.flow, fx.link, false);
        source_goes_on(10);
        cr_assert_eq(flow_n_violations(fx.flow), 0);
        flow_close(fx.flow);
}

/* The cursor says that the consumer has closed its node before the source has read why. */
Test(heir, may_be_announced_to_a_source_that_looks_at_the_cursor_first, .timeout = 60)
{
        begin_with((FlowLinkSpec){}, 20);
        flow_start(fx.flow);
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        cr_assert(FLOW_UNTIL(fx.flow, 10, blocked()));
        stop_the_source();
        flow_set_restartable(fx.flow, fx.link);
        flow_stop_cursor(fx.flow, fx.link);
        cr_assert_eq(kill(flow_pid(fx.flow, fx.a), SIGCONT), 0);
        place_is_kept();
        sink_dies();
        place_is_kept();
        flow_restart(fx.flow, fx.b);
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 2 * A_LIFE);
        flow_close(fx.flow);
}

Test(verdict, that_nobody_comes_ends_the_wait, .timeout = 60)
{
        begin();
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        place_is_kept();
        flow_detach(fx.flow, fx.link, true);
        place_is_kept();
        flow_detach(fx.flow, fx.link, false); /* the restart was given up */
        source_goes_on(10);
        flow_hear(fx.flow);
        cr_assert_eq(flow_n_detach_acks(fx.flow), 2);
        flow_close(fx.flow);
}

Test(verdict, is_not_waited_for_where_no_restart_can_follow, .timeout = 60)
{
        begin_with((FlowLinkSpec){}, 20);
        flow_start(fx.flow);
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        source_goes_on(10);
        flow_close(fx.flow);

        begin_with((FlowLinkSpec){}, 20);
        flow_start(fx.flow);
        life_is_full();
        cr_assert(FLOW_UNTIL(fx.flow, 10, blocked()));
        flow_stop_cursor(fx.flow, fx.link); /* it has left in order, and lives on */
        source_goes_on(10);
        flow_close(fx.flow);
}

/* One has left in order, and the other one does not take: that is waited for, and not by asking again and again. */
Test(verdict, on_one_that_has_left_is_looked_for_once, .timeout = 60)
{
        uint64_t n;
        nsec_t began;
        int c, link;

        begin_with((FlowLinkSpec){}, 20);
        c = flow_node(fx.flow, "idle", idle, NULL);
        link = flow_link(fx.flow, fx.a, fx.out, c, "in", (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true});
        flow_start(fx.flow);
        cr_assert(FLOW_UNTIL(fx.flow, 10, blocked()));
        flow_stop_cursor(fx.flow, fx.link);
        let_the_source_look();
        n = flow_ring(fx.flow, fx.a, fx.out).n_blocked_slot;
        began = clock_now();
        cr_assert(FLOW_UNTIL(fx.flow, 10, flow_ring(fx.flow, fx.a, fx.out).n_blocked_slot > n + 20));
        cr_assert_gt(clock_now() - began, 50 * NSEC_PER_MSEC);
        flow_stop_cursor(fx.flow, link);
        source_goes_on(10);
        flow_close(fx.flow);
}

Test(verdict, is_waited_for_no_longer_than_the_timeout_of_send_and_until_stop, .timeout = 60)
{
        uint64_t n;

        begin();
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        place_is_kept();
        flow_stop(fx.flow, fx.a, 5 * NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[STOPPED]));
        flow_close(fx.flow);

        begin_with((FlowLinkSpec){.restartable = true}, 20);
        fx.shared[TIMEOUT] = 20 * NSEC_PER_MSEC + 1;
        flow_start(fx.flow);
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        let_the_source_look();
        n = fx.shared[TIMED_OUT];
        cr_assert(FLOW_UNTIL(fx.flow, 10, fx.shared[TIMED_OUT] > n + 2));
        fx.shared[TIMEOUT] = 0; /* from now on without end */
        place_is_kept();
        flow_close(fx.flow);
}

Test(verdict, comes_from_nobody_once_the_supervisor_is_gone, .timeout = 60)
{
        for (unsigned first = 0; first < 2; first++) { /* who dies first */
                begin();
                life_is_full();
                flow_hold_verdicts(fx.flow, true);
                if (first == 0) {
                        sink_dies();
                        place_is_kept();
                }
                flow_hang_up(fx.flow, fx.a);
                if (first == 1)
                        sink_dies();
                source_goes_on(10);
                flow_close(fx.flow);
        }
}

/* Its last word was that somebody comes, and it is gone when that is answered. */
Test(verdict, comes_from_nobody_also_when_the_supervisor_goes_in_the_middle_of_one, .timeout = 60)
{
        for (unsigned awaited = 0; awaited < 2; awaited++) { /* whether the node knows where a successor would be */
                if (awaited)
                        cr_assert_eq(setenv(NODE_MSG_SOCKET_ENV, "/nonexistent/node.sock", 1), 0);
                begin();
                life_is_full();
                flow_hold_verdicts(fx.flow, true);
                sink_dies();
                place_is_kept();
                stop_the_source();
                flow_detach(fx.flow, fx.link, true);
                flow_hang_up(fx.flow, fx.a);
                cr_assert_eq(kill(flow_pid(fx.flow, fx.a), SIGCONT), 0);
                source_goes_on(NODE_MSG_VERDICT_NS / 1e9 + 10);
                flow_close(fx.flow);
        }
}

/* It knows where a successor would be, and is not wanted there. */
Test(verdict, comes_from_nobody_to_one_that_was_turned_away, .timeout = 60)
{
        cr_assert_eq(setenv(NODE_MSG_SOCKET_ENV, "/nonexistent/node.sock", 1), 0);
        begin();
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        place_is_kept();
        flow_send(fx.flow, fx.a, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = "who are you?"}});
        source_goes_on(10);
        flow_close(fx.flow);
}

/* A successor may know, so it is waited for; but one may never come. */
Test(verdict, of_a_successor_is_waited_for_and_not_for_ever, .timeout = 60)
{
        nsec_t began;

        cr_assert_eq(setenv(NODE_MSG_SOCKET_ENV, "/nonexistent/node.sock", 1), 0);
        begin();
        life_is_full();
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        place_is_kept();
        began = clock_now(); /* before it can hear of it */
        flow_hang_up(fx.flow, fx.a);
        source_goes_on(NODE_MSG_VERDICT_NS / 1e9 + 10);
        cr_assert_geq(clock_now() - began, NODE_MSG_VERDICT_NS);
        flow_close(fx.flow);
}

Test(verdict, is_asked_for_by_a_new_supervisor_that_is_told_of_living_consumers_only, .timeout = 60)
{
        begin();
        life_is_full();
        cr_assert(flow_knows(fx.flow, fx.a));
        cr_assert_eq(flow_n_named(fx.flow), 1);
        flow_hold_verdicts(fx.flow, true);
        sink_dies();
        place_is_kept();
        cr_assert(flow_knows(fx.flow, fx.a));
        cr_assert_eq(flow_n_named(fx.flow), 0);
        place_is_kept();
        flow_restart(fx.flow, fx.b);
        life_is_full();
        cr_assert_eq(fx.shared[LAST], 2 * A_LIFE);
        flow_close(fx.flow);
}
