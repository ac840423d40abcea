/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The short way of tg_next() (node/next.c, "one input, and nothing else that has anything to say"): who goes it, and what ends that.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "node/node-internal.h"
#include "tests/node/harness.h"

enum { GAP, DONE, N_TAKEN, KINDS, CLOSED, READY, HOW, GO };
enum { SMALL, MIXED, LARGE };

static Flow *flow;
static _Atomic uint64_t *shared;

static void pause_for(nsec_t ns)
{
        struct timespec t = nsec_to_timespec(ns);

        (void)nanosleep(&t, NULL);
}

static bool is_large(uint64_t i)
{
        return shared[KINDS] == LARGE || (shared[KINDS] == MIXED && i % 3 == 1);
}

/* Counts upwards until it is stopped, a message each GAP ns, or as soon as there is room. */
static int count(tg_node *node, void *arg)
{
        tg_event *ev = NULL;
        int r = 0;

        for (uint64_t i = 0; r == 0 || r == TG_E_TIMEOUT; i += r == 0) {
                uint8_t large[1000];

                memset(large, (int)i, sizeof(large));
                memcpy(large, &i, 8);
                r = tg_send(node, "out", large, is_large(i) ? sizeof(large) : 8, NULL);
                if (shared[GAP])
                        pause_for(shared[GAP]);
                if (tg_next(node, &ev, 0) == 0) {
                        NODE_CHECK(tg_event_type(ev) == TG_EVENT_STOP);
                        ev = tg_event_free(ev);
                        return 0;
                }
        }
        NODE_CHECK(r == TG_E_STOPPING);
        return 0;
}

static tg_event_kind take(tg_node *node, uint64_t *ret_value, size_t *ret_size)
{
        tg_event *ev;
        tg_event_kind kind;
        uint64_t value = 0;

        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        kind = tg_event_type(ev);
        if (kind == TG_EVENT_INPUT && tg_event_size(ev) > 0) { /* a timer's have no bytes */
                const uint8_t *bytes = tg_event_data(ev);

                memcpy(&value, bytes, 8);
                for (size_t i = 8; i < tg_event_size(ev); i++)
                        NODE_CHECK(bytes[i] == (uint8_t)value);
        }
        if (ret_value)
                *ret_value = value;
        if (ret_size)
                *ret_size = tg_event_size(ev);
        tg_event_free(ev);
        return kind;
}

static void done(void)
{
        shared[DONE] = 1;
        flow_note(flow);
}

/* Until it is stopped. */
static int leave(tg_node *node)
{
        tg_event *ev;

        done();
        while (tg_next(node, &ev, TG_FOREVER) == 0)
                tg_event_free(ev);
        return 0;
}

typedef struct Graph {
        FlowBody sink;
        NodeWaitMode mode;
        FlowLinkSpec link;
        bool timer, twice; /* the sink has another input */
} Graph;

static void begin(const Graph *g, nsec_t gap, unsigned kinds, int *ret_source, int *ret_sink)
{
        int out;

        flow = flow_new();
        shared = flow_shared(flow);
        shared[GAP] = gap;
        shared[KINDS] = kinds;
        *ret_source = flow_node(flow, "source", count, NULL);
        *ret_sink = flow_node(flow, "sink", g->sink, NULL);
        flow_wait_mode(flow, *ret_sink, g->mode);
        out = flow_output(flow, *ret_source, "out", 10, 1000, 40);
        flow_link(flow, *ret_source, out, *ret_sink, "in", g->link);
        if (g->twice)
                flow_link(flow, *ret_source, out, *ret_sink, "again", g->link);
        if (g->timer)
                flow_timer(flow, *ret_sink, "tick", NSEC_PER_MSEC);
        flow_start(flow);
}

static void end(int source, int sink)
{
        int status;

        flow_stop(flow, source, NSEC_PER_SEC);
        flow_stop(flow, sink, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, NULL) && flow_exited(flow, sink, &status)));
        cr_assert_eq(status, 0);
        flow_close(flow);
}

static void play(const Graph *g, nsec_t gap, unsigned kinds)
{
        int source, sink;

        begin(g, gap, kinds, &source, &sink);
        cr_assert(FLOW_UNTIL(flow, 30, shared[DONE] || flow_exited(flow, sink, NULL)));
        end(source, sink);
}

/* Nothing is due that would have the long way taken by chance. */
static void be_quiet(tg_node *node)
{
        lock_take(&node->lock);
        node->glanced_at = clock_now();
        node->n_announced = node->n_polls = 0;
        node->spin.run = 0;
        lock_give(&node->lock);
}

/* -------- who goes it -------- */

/* The mark is one that the long way alone sees: it says "recovered" before it gives the message. */
static int mark_and_take(tg_node *node, void *arg)
{
        unsigned n_short = 0;

        NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
        for (unsigned i = 0; n_short < 10; i++) {
                NODE_CHECK(i < 100); /* a ring that came late wakes for nothing, and then it is looked at all */
                while (!node->usual)
                        NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
                node->inputs[0].said_closed = true;
                be_quiet(node);
                if (take(node, NULL, NULL) != TG_EVENT_INPUT)
                        continue;
                n_short++;
                node->usual = NULL;
                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT_RECOVERED);
                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
        }
        return leave(node);
}

Test(usual, who_has_one_input_goes_it_asleep_and_awake, .timeout = 60)
{
        static const NodeWaitMode modes[] = {NODE_WAIT_BLOCK, NODE_WAIT_ADAPTIVE};

        for (unsigned m = 0; m < ELEMENTSOF(modes); m++)
                for (unsigned policy = 0; policy < 2; policy++) {
                        Graph g = {.sink = mark_and_take, .mode = modes[m], .link = {.backpressure = policy}};

                        play(&g, 2 * NSEC_PER_MSEC, SMALL);
                        play(&g, 2 * NSEC_PER_MSEC, LARGE);
                        if (policy) /* else some fall out of the window, which is for the long way */
                                play(&g, 0, SMALL);
                }
}

enum { SOCKETS_ARE_DUE, A_CROWD_IS_TO_BE_NAMED, ONE_WAS_WOKEN_FOR_NOTHING, A_POLL_IS_TO_BE_WATCHED, IT_IS_HOT, _N_DUE };

static void make_due(tg_node *node, unsigned what)
{
        lock_take(&node->lock);
        if (what == SOCKETS_ARE_DUE)
                node->n_announced = NODE_DRAIN_EPOCHS;
        else if (what == A_CROWD_IS_TO_BE_NAMED)
                node->crowded = true; /* there is none */
        else if (what == ONE_WAS_WOKEN_FOR_NOTHING)
                node->n_silent = 1;
        else if (what == IT_IS_HOT)
                node->spin.run = SPIN_NEED_MAX;
        else
                while (rings_watch_passes(node))
                        node->n_polls++;
        lock_give(&node->lock);
}

/* What the long way does before it sleeps, or behind that. The same mark; where a message is there already, nobody sleeps. */
static int sleep_while_something_is_due(tg_node *node, void *arg)
{
        for (unsigned what = 0; what < _N_DUE; what++)
                for (unsigned n_long = 0, i = 0; n_long < 5; i++) {
                        NODE_CHECK(i < 30);
                        do
                                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
                        while (!node->usual);
                        node->inputs[0].said_closed = true;
                        be_quiet(node);
                        make_due(node, what);
                        if (take(node, NULL, NULL) == TG_EVENT_INPUT_RECOVERED)
                                n_long++;
                        node->inputs[0].said_closed = false;
                        be_quiet(node);
                        node->n_silent = 0;
                }
        return leave(node);
}

Test(usual, it_is_left_before_a_sleep_while_something_is_due, .timeout = 60)
{
        play(&(Graph){.sink = sleep_while_something_is_due}, 4 * NSEC_PER_MSEC, SMALL);
}

static int never(tg_node *node, void *arg)
{
        for (unsigned i = 0; i < 40; i++) {
                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
                NODE_CHECK(!node->usual);
        }
        return leave(node);
}

Test(usual, who_has_two_inputs_a_timer_or_a_timeout_does_not, .timeout = 60)
{
        play(&(Graph){.sink = never, .twice = true}, NSEC_PER_MSEC, SMALL);
        play(&(Graph){.sink = never, .timer = true}, NSEC_PER_MSEC, SMALL);
        play(&(Graph){.sink = never, .link = {.timeout_ns = 30 * NSEC_PER_SEC}}, NSEC_PER_MSEC, SMALL);
}

static int ask_for_the_descriptor(tg_node *node, void *arg)
{
        NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
        NODE_CHECK(node->usual);
        NODE_CHECK(tg_node_fd(node) >= 0);
        NODE_CHECK(!node->usual);
        return never(node, NULL);
}

Test(usual, who_polls_the_descriptor_does_not_any_more, .timeout = 60)
{
        play(&(Graph){.sink = ask_for_the_descriptor}, NSEC_PER_MSEC, SMALL);
}

/* -------- what it delivers -------- */

static int take_in_order(tg_node *node, void *arg)
{
        for (uint64_t i = 0, value; i < 2000; i++) {
                size_t size;

                NODE_CHECK(take(node, &value, &size) == TG_EVENT_INPUT);
                NODE_CHECK(value == i);
                NODE_CHECK(size == (is_large(i) ? 1000 : 8));
        }
        return leave(node);
}

Test(usual, small_and_large_messages_come_in_their_order, .timeout = 60)
{
        Graph g = {.sink = take_in_order, .mode = NODE_WAIT_BLOCK, .link = {.backpressure = true}};

        play(&g, 0, SMALL);
        play(&g, 0, MIXED);
        play(&g, 100 * NSEC_PER_USEC, MIXED);
}

/* -------- what else is heard -------- */

/* Where there is always a message, and each takes long. */
static int work_long(tg_node *node, void *arg)
{
        nsec_t until = clock_now() + 400 * NSEC_PER_MSEC;
        unsigned n = 0, n_usual = 0;

        for (; clock_now() < until || n < 50; n++) {
                nsec_t before = clock_now();

                n_usual += node->usual != NULL;
                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
                NODE_CHECK(node->glanced_at + NODE_GLANCE_NS + 20 * NSEC_PER_MSEC > before); /* the coarse clock lags by some */
                pause_for(4 * NSEC_PER_MSEC);
        }
        NODE_CHECK(n_usual > n / 2);
        return leave(node);
}

Test(usual, who_is_never_out_of_messages_looks_around_as_often_as_others, .timeout = 60)
{
        play(&(Graph){.sink = work_long, .mode = NODE_WAIT_BLOCK, .link = {.backpressure = true}}, 0, SMALL);
}

/* As another thread of the program does, in a call of its own: what tg_next() believed is over when that returns. */
static int learn_elsewhere(tg_node *node, void *arg)
{
        do
                NODE_CHECK(take(node, NULL, NULL) == TG_EVENT_INPUT);
        while (!node->usual);
        shared[READY] = 1;
        flow_note(flow);
        while (!shared[GO])
                pause_for(NSEC_PER_MSEC);
        lock_take(&node->lock);
        NODE_CHECK(node->usual);
        if (shared[HOW] == 0)
                NODE_CHECK(event_queue(node, TG_EVENT_NODE_RESTARTED, "other", NULL) == 0);
        else if (shared[HOW] == 1)
                NODE_CHECK(socket_read(node) == 0);
        else
                node_look_around(node);
        NODE_CHECK(!node->usual);
        lock_give(&node->lock);
        return leave(node);
}

Test(usual, what_another_thread_learns_ends_it, .timeout = 60)
{
        for (unsigned how = 0; how < 3; how++) {
                int source, sink, status = 0;

                begin(&(Graph){.sink = learn_elsewhere, .mode = NODE_WAIT_BLOCK}, 5 * NSEC_PER_MSEC, SMALL, &source, &sink);
                cr_assert(FLOW_UNTIL(flow, 20, shared[READY] || flow_exited(flow, sink, &status)));
                if (how == 1)
                        flow_hang_up(flow, sink);
                if (how == 2) { /* its hang-up, and not the packets that follow on it */
                        flow_hold_verdicts(flow, true);
                        flow_kill(flow, source);
                        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, NULL)));
                }
                shared[HOW] = how;
                shared[GO] = 1;
                cr_assert(FLOW_UNTIL(flow, 20, shared[DONE] || flow_exited(flow, sink, &status)));
                cr_assert_eq(status, 0, "in case %u", how);
                if (!flow_exited(flow, sink, NULL)) /* without a producer it ends */
                        flow_kill(flow, sink);
                if (how != 2)
                        flow_kill(flow, source);
                cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, NULL) && flow_exited(flow, sink, NULL)));
                flow_close(flow);
        }
}

static int take_to_the_end(tg_node *node, void *arg)
{
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT && ++shared[N_TAKEN] >= 20 && node->usual)
                        shared[READY] = 1;
                else if (tg_event_type(ev) == TG_EVENT_INPUT_CLOSED)
                        shared[CLOSED] = 1;
                tg_event_free(ev);
                flow_note(flow);
        }
        NODE_CHECK(r == TG_E_END);
        return 0;
}

static const Graph to_the_end = {.sink = take_to_the_end, .mode = NODE_WAIT_BLOCK};

/* By packet and page; and by the page alone, which wakes nobody, with the next message. */
Test(usual, a_stop_is_heard_by_who_sleeps, .timeout = 60)
{
        for (unsigned page_alone = 0; page_alone < 2; page_alone++) {
                int source, sink, status;

                begin(&to_the_end, 5 * NSEC_PER_MSEC, SMALL, &source, &sink);
                cr_assert(FLOW_UNTIL(flow, 20, shared[READY]));
                (page_alone ? flow_stop_page : flow_stop)(flow, sink, NSEC_PER_SEC);
                cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, sink, &status)));
                cr_assert_eq(status, 0);
                end(source, sink);
        }
}

Test(usual, the_death_of_the_producer_is_heard_by_who_sleeps, .timeout = 60)
{
        int source, sink, status;

        begin(&to_the_end, 5 * NSEC_PER_MSEC, SMALL, &source, &sink);
        cr_assert(FLOW_UNTIL(flow, 20, shared[READY]));
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, sink, &status)));
        cr_assert_eq(status, 0);
        cr_assert(shared[CLOSED]);
        flow_close(flow);
}

Test(usual, messages_go_on_without_a_supervisor_and_it_is_looked_at_all_again, .timeout = 60)
{
        uint64_t taken;
        int source, sink;

        begin(&to_the_end, 2 * NSEC_PER_MSEC, SMALL, &source, &sink);
        cr_assert(FLOW_UNTIL(flow, 20, shared[READY]));
        flow_hang_up(flow, sink);
        taken = shared[N_TAKEN];
        shared[READY] = 0;
        cr_assert(FLOW_UNTIL(flow, 10, shared[N_TAKEN] >= taken + 50));
        shared[READY] = 0; /* what was said before it noticed */
        taken = shared[N_TAKEN];
        cr_assert(FLOW_UNTIL(flow, 10, shared[N_TAKEN] >= taken + 50));
        cr_assert_eq(shared[READY], 0);
        flow_kill(flow, sink);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, sink, NULL)));
        flow_stop(flow, source, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, NULL)));
        flow_close(flow);
}

Test(usual, another_producer_takes_over_where_the_first_has_died, .timeout = 60)
{
        uint64_t taken;
        int source, sink;

        begin(&to_the_end, 2 * NSEC_PER_MSEC, SMALL, &source, &sink);
        cr_assert(FLOW_UNTIL(flow, 20, shared[READY]));
        flow_will_restart(flow, source, true);
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, NULL)));
        taken = shared[N_TAKEN];
        shared[READY] = 0;
        flow_restart(flow, source);
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_TAKEN] >= taken + 50 && shared[READY]));
        cr_assert_eq(shared[CLOSED], 0);
        end(source, sink);
}
