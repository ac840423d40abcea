/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tg_next() says and in which order: timers, timeouts, fairness, news of other nodes, metadata, pinned messages,
 * foreign event loops, threads, fork.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

static Flow *flow;
static _Atomic uint64_t *shared;

enum { GO, MARK, SENT, GOT, A, B, C };

static void begin(void)
{
        flow = flow_new();
        shared = flow_shared(flow);
}

static void tell(unsigned what, uint64_t value)
{
        shared[what] = value;
        flow_note(flow);
}

static void await(unsigned what, uint64_t value)
{
        nsec_t deadline = clock_now() + 10 * NSEC_PER_SEC;

        while (shared[what] < value) {
                NODE_CHECK(clock_now() < deadline);
                (void)sched_yield();
        }
}

static bool ended(int node)
{
        int status;

        if (!flow_exited(flow, node, &status))
                return false;
        cr_assert_eq(status, 0, "node %d ended with %#x", node, (unsigned)status);
        return true;
}

static tg_event *take(tg_node *node, tg_event_kind kind, const char *id)
{
        tg_event *ev;
        int r = tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC);

        if (r != 0 || tg_event_type(ev) != kind || strcmp(tg_event_id(ev), id) != 0)
                fprintf(stderr, "got %d: kind %d id %s instead of %d %s\n", r, r ? 0 : tg_event_type(ev),
                        r ? "" : tg_event_id(ev), kind, id);
        NODE_CHECK(r == 0 && tg_event_type(ev) == kind && strcmp(tg_event_id(ev), id) == 0);
        return ev;
}

/* -------- timers -------- */

static int watch_a_timer(tg_node *node, void *arg)
{
        nsec_t began = clock_now(), first;
        uint64_t seq, due;
        tg_event *ev;

        ev = take(node, TG_EVENT_INPUT, "tick");
        NODE_CHECK(tg_event_size(ev) == 0 && !tg_event_data(ev) && !tg_event_params(ev));
        first = tg_event_time_ns(ev) - tg_event_seq(ev) * 20 * NSEC_PER_MSEC;
        NODE_CHECK(first + NSEC_PER_SEC > began && first <= began + 20 * NSEC_PER_MSEC && clock_now() >= tg_event_time_ns(ev));
        tg_event_free(ev);
        ev = take(node, TG_EVENT_INPUT, "tick");
        seq = tg_event_seq(ev);
        NODE_CHECK(tg_event_time_ns(ev) == first + seq * 20 * NSEC_PER_MSEC); /* no drift */
        tg_event_free(ev);

        /* Late by ten intervals: one tick, with the number of the latest that was due. */
        due = first + (seq + 11) * 20 * NSEC_PER_MSEC;
        while (clock_now() < due)
                ;
        ev = take(node, TG_EVENT_INPUT, "tick");
        NODE_CHECK(tg_event_seq(ev) >= seq + 11);
        seq = tg_event_seq(ev);
        tg_event_free(ev);
        ev = take(node, TG_EVENT_INPUT, "tick");
        NODE_CHECK(tg_event_seq(ev) > seq && tg_event_time_ns(ev) == first + tg_event_seq(ev) * 20 * NSEC_PER_MSEC);
        NODE_CHECK(clock_now() >= tg_event_time_ns(ev));
        seq = tg_event_seq(ev);
        tg_event_free(ev);

        struct tg_input_stats stats;

        NODE_CHECK(tg_input_stats(node, "tick", &stats) == 0);
        NODE_CHECK(stats.delivered + stats.dropped_queue == seq + 1);
        NODE_CHECK(tg_input_stats(node, "nonsense", &stats) == -ENOENT);
        tell(MARK, 1);
        while (tg_event_type(ev = ({ NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0); ev; })) == TG_EVENT_INPUT)
                tg_event_free(ev);
        NODE_CHECK(tg_event_type(ev) == TG_EVENT_STOP); /* only a stop ends a node with timers alone */
        tg_event_free(ev);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == TG_E_END); /* no tick after stop */
        return 0;
}

Test(events, timers_tick_without_drift_and_missed_ticks_are_skipped, .timeout = 30)
{
        int a;

        begin();
        a = flow_node(flow, "clock", watch_a_timer, NULL);
        flow_timer(flow, a, "tick", 20 * NSEC_PER_MSEC);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[MARK]));
        flow_stop(flow, a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a)));
        flow_close(flow);
}

/* -------- input timeouts -------- */

static int send_on_demand(tg_node *node, void *arg)
{
        for (uint64_t i = 0;; i++) {
                nsec_t deadline = clock_now() + 20 * NSEC_PER_SEC;

                while (shared[GO] <= i && !tg_should_stop(node)) {
                        NODE_CHECK(clock_now() < deadline);
                        (void)sched_yield();
                }
                if (tg_should_stop(node))
                        return 0;
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        }
}

static int wait_for_timeouts(tg_node *node, void *arg)
{
        tg_event *ev;
        nsec_t sent_at, at;

        /* Not armed before the first message. */
        NODE_CHECK(tg_next(node, &ev, 150 * (int64_t)NSEC_PER_MSEC) == TG_E_TIMEOUT);
        for (unsigned round = 0; round < 3; round++) {
                tell(GO, round + 1);
                if (round > 0)
                        tg_event_free(take(node, TG_EVENT_INPUT_RECOVERED, "in"));
                ev = take(node, TG_EVENT_INPUT, "in");
                sent_at = tg_event_time_ns(ev); /* the timeout began when it was taken, which we see later */
                tg_event_free(ev);
                at = clock_now();
                tg_event_free(take(node, TG_EVENT_INPUT_CLOSED, "in"));
                NODE_CHECK(clock_now() - sent_at >= 50 * NSEC_PER_MSEC && clock_now() - at < 2 * NSEC_PER_SEC);
                NODE_CHECK(tg_next(node, &ev, 80 * (int64_t)NSEC_PER_MSEC) == TG_E_TIMEOUT); /* said once */
        }
        tell(MARK, 1);
        tg_event_free(take(node, TG_EVENT_STOP, "ALL_INPUTS_CLOSED")); /* the end says nothing that was said already */
        return 0;
}

Test(events, an_input_that_is_silent_for_too_long_is_closed_once_and_recovers_with_data, .timeout = 30)
{
        int a, b;

        begin();
        a = flow_node(flow, "source", send_on_demand, NULL);
        b = flow_node(flow, "sink", wait_for_timeouts, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 20), b, "in",
                (FlowLinkSpec){.timeout_ns = 50 * NSEC_PER_MSEC});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[MARK]));
        flow_stop(flow, a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a) && ended(b)));
        flow_close(flow);
}

/* -------- order -------- */

static int send_50(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 50; i++)
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        shared[SENT]++;
        flow_note(flow);
        await(GO, 2);
        return 0;
}

static int take_in_turn(tg_node *node, void *arg)
{
        uint64_t n[3] = {};
        tg_event *ev;

        await(GO, 1);
        tg_event_free(take(node, TG_EVENT_NODE_FAILED, "someone")); /* news before messages */
        ev = take(node, TG_EVENT_NODE_RESTARTED, "someone");
        NODE_CHECK(tg_event_size(ev) == 0);
        tg_event_free(ev);
        for (unsigned i = 0; i < 150; i++) {
                unsigned which;

                NODE_CHECK(tg_next(node, &ev, 0) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
                which = (unsigned)(tg_event_id(ev)[0] - 'a');
                NODE_CHECK(tg_event_seq(ev) == n[which]);
                n[which]++;
                for (unsigned k = 0; k < 3; k++)
                        NODE_CHECK(n[k] + 1 >= n[which]); /* nobody is more than one message ahead */
                tg_event_free(ev);
        }
        NODE_CHECK(tg_next(node, &ev, 0) == TG_E_TIMEOUT);
        tell(GO, 2);
        return 0;
}

Test(events, inputs_are_served_in_turn_and_news_of_the_supervisor_come_first, .timeout = 30)
{
        static const char *const inputs[] = {"a", "b", "c"};
        int sources[3], sink;

        begin();
        for (unsigned i = 0; i < 3; i++)
                sources[i] = flow_node(flow, inputs[i], send_50, NULL);
        sink = flow_node(flow, "sink", take_in_turn, NULL);
        for (unsigned i = 0; i < 3; i++)
                flow_link(flow, sources[i], flow_output(flow, sources[i], "out", 60, 100, 20), sink, inputs[i],
                        (FlowLinkSpec){.queue_size = 60});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[SENT] == 3));
        flow_send(flow, sink, &(NodeMsg){.type = NODE_MSG_NODE_FAILED, .node_event = {.node = "someone", .text = "why"}});
        flow_send(flow, sink, &(NodeMsg){.type = NODE_MSG_NODE_RESTARTED, .node_event = {.node = "someone", .text = ""}});
        shared[GO] = 1;
        cr_assert(FLOW_UNTIL(flow, 10, ended(sink)));
        flow_close(flow);
}

/* -------- fan-out -------- */

static int send_numbers(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 5000; i++) {
                uint64_t bytes[100] = {i};

                NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
        }
        return 0;
}

static int count_numbers(tg_node *node, void *arg)
{
        unsigned which = (unsigned)(uintptr_t)arg;
        struct tg_input_stats stats;
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                        shared[A + which]++;
                        for (nsec_t until = clock_now() + (which == 2 ? 300 : 0) * NSEC_PER_USEC; clock_now() < until;)
                                ; /* the third one is slow */
                        NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                }
                tg_event_free(ev);
        }
        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        NODE_CHECK(stats.delivered == shared[A + which] && stats.dropped_invalid == 0);
        NODE_CHECK(stats.delivered + stats.dropped_queue + stats.dropped_pool == 5000);
        return 0;
}

Test(events, a_slow_consumer_loses_messages_and_the_others_do_not, .timeout = 60)
{
        int source, sinks[3], out;

        begin();
        source = flow_node(flow, "source", send_numbers, NULL);
        out = flow_output(flow, source, "out", 10, 1000, 40);
        for (uintptr_t i = 0; i < 3; i++) {
                sinks[i] = flow_node(flow, i == 0 ? "one" : i == 1 ? "two" : "three", count_numbers, (void *)i);
                flow_link(flow, source, out, sinks[i], "in", (FlowLinkSpec){.backpressure = i < 2});
        }
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, ended(source) && ended(sinks[0]) && ended(sinks[1]) && ended(sinks[2])));
        cr_assert_eq(shared[A], 5000);
        cr_assert_eq(shared[B], 5000);
        cr_assert_lt(shared[C], 5000);
        flow_close(flow);
}

/* -------- metadata -------- */

static int send_params(tg_node *node, void *arg)
{
        static const size_t sizes[] = {0, 8, 100, 190, 3000};
        _cleanup_free_ char *long_text = calloc(1, 60001);
        const char *const strings[] = {"a", "ü"};
        uint8_t bytes[3000];
        tg_params *p = tg_params_new();

        memset(bytes, 7, sizeof(bytes));
        memset(long_text, 'x', 60000);
        NODE_CHECK(tg_params_set_int(p, "number", -5) == 0 && tg_params_set_bool(p, "yes", true) == 0);
        NODE_CHECK(tg_params_set_float(p, "pi", 3.25) == 0 && tg_params_set_strings(p, "list", strings, 2) == 0);
        for (unsigned i = 0; i < ELEMENTSOF(sizes); i++)
                NODE_CHECK(tg_send(node, "out", bytes, sizes[i], p) == 0);
        for (unsigned i = 0; i < ELEMENTSOF(sizes); i++) { /* in place: room for the metadata was not reserved */
                tg_sample *s;

                NODE_CHECK(tg_alloc(node, "out", sizes[i], &s) == 0);
                memset(tg_sample_data(s), 7, sizes[i]);
                NODE_CHECK(tg_send_sample(s, p) == 0);
        }
        NODE_CHECK(tg_params_set_string(p, "long", long_text) == 0);
        NODE_CHECK(tg_send(node, "out", bytes, 5, p) == 0);
        NODE_CHECK(tg_send(node, "out", bytes, 5, NULL) == 0);
        tg_params_free(p);
        return 0;
}

static void check_params(const tg_params *p, bool with_long)
{
        const char *const *strings;
        const char *text, *key;
        tg_param_type type;
        int64_t number;
        double pi;
        bool yes;
        size_t n;

        NODE_CHECK(tg_params_count(p) == (with_long ? 5 : 4));
        NODE_CHECK(tg_params_get_int(p, "number", &number) == 0 && number == -5);
        NODE_CHECK(tg_params_get_bool(p, "yes", &yes) == 0 && yes);
        NODE_CHECK(tg_params_get_float(p, "pi", &pi) == 0 && pi == 3.25);
        NODE_CHECK(tg_params_get_strings(p, "list", &strings, &n) == 0 && n == 2 && strcmp(strings[1], "ü") == 0);
        NODE_CHECK(tg_params_get_string(p, "long", &text) == (with_long ? 0 : TG_E_NO_PARAM));
        NODE_CHECK(tg_params_get_int(p, "pi", &number) == TG_E_NO_PARAM); /* another type */
        NODE_CHECK(tg_params_at(p, 0, &key, &type) == 0 && strcmp(key, "list") == 0 && type == TG_PARAM_STRINGS);
        NODE_CHECK(tg_params_at(p, 9, &key, &type) == TG_E_NO_PARAM);
}

static int take_params(tg_node *node, void *arg)
{
        static const size_t sizes[] = {0, 8, 100, 190, 3000, 0, 8, 100, 190, 3000, 5};
        tg_event *ev;

        for (unsigned i = 0; i < ELEMENTSOF(sizes); i++) {
                ev = take(node, TG_EVENT_INPUT, "in");
                NODE_CHECK(tg_event_size(ev) == sizes[i]);
                for (size_t k = 0; k < sizes[i]; k++)
                        NODE_CHECK(((const uint8_t *)tg_event_data(ev))[k] == 7);
                check_params(tg_event_params(ev), i == 10);
                tg_event_free(ev);
        }
        ev = take(node, TG_EVENT_INPUT, "in");
        NODE_CHECK(!tg_event_params(ev) && tg_params_count(tg_event_params(ev)) == 0);
        tg_event_free(ev);
        return 0;
}

Test(events, metadata_travels_with_messages_of_every_size, .timeout = 30)
{
        int a, b;

        begin();
        a = flow_node(flow, "source", send_params, NULL);
        b = flow_node(flow, "sink", take_params, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 20, 70000, 32), b, "in",
                (FlowLinkSpec){.queue_size = 20, .backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a) && ended(b)));
        flow_close(flow);
}

/* -------- pinned messages -------- */

static int hold_many(tg_node *node, void *arg)
{
        tg_event *held[30];

        for (unsigned i = 0; i < 30; i++) {
                held[i] = take(node, TG_EVENT_INPUT, "in");
                NODE_CHECK((uintptr_t)tg_event_data(held[i]) % 64 == 0);
        }
        tell(GO, 1);
        await(SENT, 1); /* every chunk was written again */
        for (unsigned i = 0; i < 30; i++)
                NODE_CHECK(tg_event_seq(held[i]) == i && *(const uint64_t *)tg_event_data(held[i]) == i);
        for (unsigned i = 0; i < 30; i++) /* in an order of their own */
                tg_event_free(held[(i * 7) % 30]);
        tell(GO, 2);
        return 0;
}

static int send_while_held(tg_node *node, void *arg)
{
        uint64_t bytes[125] = {};

        for (uint64_t i = 0; i < 30; i++) {
                bytes[0] = i;
                NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
        }
        await(GO, 1);
        for (uint64_t i = 30; i < 500; i++) {
                bytes[0] = i;
                NODE_CHECK(tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0);
        }
        tell(SENT, 1);
        await(GO, 2);
        return 0;
}

Test(events, any_number_of_messages_may_be_held_while_the_pool_goes_round, .timeout = 30)
{
        int a, b, link;

        begin();
        a = flow_node(flow, "source", send_while_held, NULL);
        b = flow_node(flow, "sink", hold_many, NULL);
        link = flow_link(flow, a, flow_output(flow, a, "out", 40, 1000, 60), b, "in", (FlowLinkSpec){.queue_size = 40});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a) && ended(b)));
        cr_assert_eq(flow_cursor(flow, link).n_claims, 0);
        cr_assert_gt(flow_cursor(flow, link).copied, 20); /* seven pinned, the others copied */
        flow_close(flow);
}

static int exhaust_the_pool(tg_node *node, void *arg)
{
        tg_sample *s[4], *t;
        uint8_t bytes[1000] = {};

        node->grow_span = 20 * NSEC_PER_SEC; /* until the supervisor has said no, however long that takes it */
        for (unsigned i = 0; i < 4; i++)
                NODE_CHECK(tg_alloc(node, "out", 1000, &s[i]) == 0);
        NODE_CHECK(tg_alloc(node, "out", 1000, &t) == TG_E_DROPPED);
        NODE_CHECK(tg_send(node, "out", bytes, 1000, NULL) == TG_E_DROPPED);
        NODE_CHECK(tg_send(node, "out", bytes, 100, NULL) == 0); /* inline: wants no chunk */
        NODE_CHECK(tg_alloc(node, "out", 5000, &t) == -EMSGSIZE);
        NODE_CHECK(tg_send(node, "out", bytes, (size_t)1 << 33, NULL) == -EMSGSIZE);
        NODE_CHECK(tg_sample_free(s[0]) == NULL && tg_sample_free(NULL) == NULL);
        NODE_CHECK(tg_send(node, "out", bytes, 1000, NULL) == 0);
        for (unsigned i = 1; i < 4; i++)
                NODE_CHECK(tg_send_sample(s[i], NULL) == 0);
        return 0;
}

Test(events, a_pool_that_is_all_in_our_own_hands_says_so, .timeout = 30)
{
        int a;

        begin();
        a = flow_node(flow, "source", exhaust_the_pool, NULL);
        flow_output(flow, a, "out", 10, 1000, 4);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a)));
        flow_close(flow);
}

/* -------- a foreign event loop -------- */

static int poll_ourselves(tg_node *node, void *arg)
{
        struct pollfd pfd = {.fd = tg_node_fd(node), .events = POLLIN};
        unsigned n_empty = 0;
        uint64_t n = 0;
        tg_event *ev;
        int r = 0;

        NODE_CHECK(pfd.fd >= 0 && tg_node_fd(node) == pfd.fd);
        NODE_CHECK(fcntl(pfd.fd, F_GETFD) & FD_CLOEXEC);
        while (r != TG_E_END) {
                NODE_CHECK(poll(&pfd, 1, 10000) == 1);
                n_empty++;
                while ((r = tg_next(node, &ev, 0)) == 0) {
                        if (tg_event_type(ev) == TG_EVENT_INPUT) {
                                NODE_CHECK(strcmp(tg_event_id(ev), "tick") == 0 || tg_event_seq(ev) == n++);
                                n_empty = 0;
                        }
                        tg_event_free(ev);
                }
                NODE_CHECK(r == TG_E_TIMEOUT || r == TG_E_END);
                NODE_CHECK(n_empty < 10); /* it is quiet when nothing is there */
        }
        NODE_CHECK(n == 3000);
        return 0;
}

static int send_3000_slowly(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 3000; i++) {
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
                if (i % 3 == 0)
                        for (nsec_t until = clock_now() + 30 * NSEC_PER_USEC; clock_now() < until;)
                                ; /* so that the other one falls asleep often */
        }
        return 0;
}

Test(events, a_foreign_loop_can_wait_on_the_descriptor_and_misses_nothing, .timeout = 30)
{
        int a, b;

        begin();
        a = flow_node(flow, "source", send_3000_slowly, NULL);
        b = flow_node(flow, "sink", poll_ourselves, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_timer(flow, b, "tick", 5 * NSEC_PER_MSEC);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, ended(a) && ended(b)));
        flow_close(flow);
}

/* A thread that waits for room polls too and takes the edges; the loop's descriptor must not go silent by that. */
static void *send_to_the_slow_one(void *arg)
{
        tg_node *node = arg;
        uint64_t bytes[125] = {};

        while (tg_send(node, "out", bytes, sizeof(bytes), NULL) == 0)
                ;
        return NULL;
}

static int poll_beside_a_blocked_sender(tg_node *node, void *arg)
{
        struct pollfd pfd = {.fd = tg_node_fd(node), .events = POLLIN};
        pthread_t thread;
        uint64_t n = 0;
        tg_event *ev;

        NODE_CHECK(pthread_create(&thread, NULL, send_to_the_slow_one, node) == 0);
        tell(GO, 1);
        while (n < 2000) {
                NODE_CHECK(poll(&pfd, 1, 5000) == 1);
                while (tg_next(node, &ev, 0) == 0) {
                        n += tg_event_type(ev) == TG_EVENT_INPUT;
                        tg_event_free(ev);
                }
                tell(GOT, n);
        }
        tell(MARK, 1);
        NODE_CHECK(pthread_join(thread, NULL) == 0); /* stop ends it */
        return 0;
}

static int send_one_after_the_other(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 2000; i++) {
                await(GOT, i);
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        }
        return 0;
}

static int take_nothing(tg_node *node, void *arg)
{
        while (!shared[MARK])
                pause();
        return 0;
}

Test(events, a_foreign_loop_is_woken_beside_a_thread_that_waits_for_room, .timeout = 60)
{
        int a, b, c;

        begin();
        a = flow_node(flow, "source", send_one_after_the_other, NULL);
        b = flow_node(flow, "middle", poll_beside_a_blocked_sender, NULL);
        c = flow_node(flow, "slow", take_nothing, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, b, flow_output(flow, b, "out", 10, 1000, 20), c, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, shared[MARK] || flow_exited(flow, b, NULL)), "%lu came", (unsigned long)shared[GOT]);
        flow_stop(flow, b, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a) && ended(b)));
        flow_close(flow);
}

/*
 * The thread that waits for room has come back from its poll with nothing, and is about to empty what doorbells are emptied: what rings
 * just now is taken with it, and the loop's descriptor must say so instead.
 */
static bool sender_has_polled(tg_node *node)
{
        return node->leading && lock_is_wanted(&node->lock); /* by nobody else: whoever leads gave it up for the poll */
}

/* Under node->lock. */
static void hold_up_the_sender(tg_node *node)
{
        nsec_t deadline = clock_now() + 10 * NSEC_PER_SEC;

        while (!sender_has_polled(node)) {
                NODE_CHECK(clock_now() < deadline);
                if (!node->leading) {
                        lock_give(&node->lock);
                        (void)sched_yield();
                        lock_take(&node->lock);
                } else
                        (void)sched_yield();
        }
}

static void ring_by_ourselves(tg_node *node)
{
        NODE_CHECK(tg_send(node, "loop", "x", 1, NULL) == 0);
}

static void let_the_source_ring(tg_node *node)
{
        Source *source = list_first(&node->sources, Source, link);
        int before, now = 0;

        NODE_CHECK(source->peer->rung_fd < 0);
        source->peer->by_socket = true; /* bytes of earlier have been told, and not been taken yet */
        NODE_CHECK(ioctl(source->peer->fd, FIONREAD, &before) == 0);
        tell(GO, shared[GO] + 1);
        for (nsec_t deadline = clock_now() + 10 * NSEC_PER_SEC; now <= before; (void)sched_yield()) {
                NODE_CHECK(clock_now() < deadline);
                NODE_CHECK(ioctl(source->peer->fd, FIONREAD, &now) == 0);
        }
}

static int poll_while_doorbells_are_emptied(tg_node *node, void *arg)
{
        struct pollfd pfd = {.fd = tg_node_fd(node), .events = POLLIN};
        pthread_t thread;
        tg_event *ev;

        NODE_CHECK(pthread_create(&thread, NULL, send_to_the_slow_one, node) == 0);
        for (unsigned i = 0; i < 10; i++) {
                uint32_t pulse;

                NODE_CHECK(tg_next(node, &ev, 0) == TG_E_TIMEOUT);
                lock_take(&node->lock);
                hold_up_the_sender(node);
                NODE_CHECK(node->outer_armed);
                pulse = node->pulse;
                __atomic_store_n(&node->n_announced, 2 * NODE_DRAIN_EPOCHS, __ATOMIC_RELAXED); /* it is due */
                if (shared[A])
                        ring_by_ourselves(node);
                else
                        let_the_source_ring(node);
                lock_give(&node->lock);
                for (nsec_t deadline = clock_now() + 10 * NSEC_PER_SEC; __atomic_load_n(&node->pulse, __ATOMIC_ACQUIRE) == pulse; (void)sched_yield())
                        NODE_CHECK(clock_now() < deadline);
                NODE_CHECK(poll(&pfd, 1, 5000) == 1);
                NODE_CHECK(tg_next(node, &ev, 0) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
                tg_event_free(ev);
        }
        tell(MARK, 1);
        NODE_CHECK(pthread_join(thread, NULL) == 0); /* stop ends it */
        return 0;
}

static int send_when_told(tg_node *node, void *arg)
{
        for (uint64_t i = 1; !tg_should_stop(node); (void)sched_yield()) {
                if (shared[GO] < i)
                        continue;
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
                i++;
        }
        return 0;
}

static void a_loop_is_told_of_what_is_emptied(bool by_itself)
{
        int a = -1, b, c;

        begin();
        flow_without_doorbells(flow);
        tell(A, by_itself);
        b = flow_node(flow, "middle", poll_while_doorbells_are_emptied, NULL);
        c = flow_node(flow, "slow", take_nothing, NULL);
        flow_link(flow, b, flow_output(flow, b, "out", 10, 1000, 20), c, "in", (FlowLinkSpec){.backpressure = true});
        if (by_itself)
                flow_link(flow, b, flow_output(flow, b, "loop", 10, 100, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        else {
                a = flow_node(flow, "source", send_when_told, NULL);
                flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        }
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, shared[MARK] || flow_exited(flow, b, NULL)));
        flow_stop(flow, b, NSEC_PER_SEC);
        if (a >= 0)
                flow_stop(flow, a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended(b) && (a < 0 || ended(a))));
        flow_close(flow);
}

Test(events, a_foreign_loop_is_woken_by_a_byte_that_a_waiting_sender_empties, .timeout = 60)
{
        a_loop_is_told_of_what_is_emptied(false);
}

Test(events, a_foreign_loop_is_woken_by_a_message_to_itself_that_a_waiting_sender_empties, .timeout = 60)
{
        a_loop_is_told_of_what_is_emptied(true);
}

/* -------- threads -------- */

#define N_THREADS  4
#define PER_THREAD 5000

static void *take_in_a_thread(void *arg)
{
        tg_node *node = arg;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == tg_event_seq(ev));
                        shared[16 + tg_event_seq(ev) / 64] |= UINT64_C(1) << (tg_event_seq(ev) % 64);
                        shared[GOT]++;
                        NODE_CHECK(tg_send(node, "back", tg_event_data(ev), tg_event_size(ev), NULL) == 0);
                }
                tg_event_free(ev);
        }
        NODE_CHECK(r == TG_E_END);
        return NULL;
}

static int take_with_threads(tg_node *node, void *arg)
{
        pthread_t threads[N_THREADS];

        for (unsigned i = 0; i < N_THREADS; i++)
                NODE_CHECK(pthread_create(&threads[i], NULL, take_in_a_thread, node) == 0);
        for (unsigned i = 0; i < N_THREADS; i++)
                NODE_CHECK(pthread_join(threads[i], NULL) == 0);
        NODE_CHECK(shared[GOT] == N_THREADS * PER_THREAD);
        return 0;
}

static void *send_in_a_thread(void *arg)
{
        tg_node *node = arg;
        static _Atomic uint64_t turn;
        static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER; /* the payload says the number: one at a time */

        for (unsigned i = 0; i < PER_THREAD; i++) {
                uint64_t bytes[40];

                pthread_mutex_lock(&order);
                bytes[0] = turn++;
                NODE_CHECK(tg_send(node, "out", bytes, i % 2 ? 8 : sizeof(bytes), NULL) == 0);
                pthread_mutex_unlock(&order);
        }
        return NULL;
}

static void *take_echoes(void *arg)
{
        tg_node *node = arg;
        tg_event *ev;

        for (unsigned n = 0; n < N_THREADS * PER_THREAD;) {
                NODE_CHECK(tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC) == 0);
                n += tg_event_type(ev) == TG_EVENT_INPUT;
                tg_event_free(ev);
        }
        return NULL;
}

static int send_with_threads(tg_node *node, void *arg)
{
        pthread_t threads[N_THREADS + 1];
        const char *out = "out";

        NODE_CHECK(pthread_create(&threads[N_THREADS], NULL, take_echoes, node) == 0);
        for (unsigned i = 0; i < N_THREADS; i++)
                NODE_CHECK(pthread_create(&threads[i], NULL, send_in_a_thread, node) == 0);
        for (unsigned i = 0; i < N_THREADS + 1; i++)
                NODE_CHECK(pthread_join(threads[i], NULL) == 0);
        NODE_CHECK(tg_close_outputs(node, &out, 1) == 0);
        return 0;
}

Test(events, many_threads_take_and_send_at_once, .timeout = 60)
{
        int a, b;

        begin();
        a = flow_node(flow, "source", send_with_threads, NULL);
        b = flow_node(flow, "sink", take_with_threads, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 400, 30), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, b, flow_output(flow, b, "back", 10, 400, 30), a, "back", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 40, ended(a) && ended(b)), "%lu came", (unsigned long)shared[GOT]);
        for (unsigned i = 0; i < N_THREADS * PER_THREAD; i++)
                cr_assert(shared[16 + i / 64] >> (i % 64) & 1, "message %u was never delivered", i);
        flow_close(flow);
}

/* -------- fork -------- */

static int fork_in_a_node(tg_node *node, void *arg)
{
        const char *out = "out";
        struct tg_input_stats stats;
        tg_event *ev, *held = take(node, TG_EVENT_INPUT, "in");
        tg_node *again;
        tg_sample *s, *t;
        int status;
        pid_t pid;

        NODE_CHECK(tg_alloc(node, "out", 1000, &s) == 0);
        NODE_CHECK(tg_node_open(&again) == -EALREADY);
        pid = fork();
        if (pid == 0) {
                NODE_CHECK(tg_next(node, &ev, 0) == -EOWNERDEAD);
                NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == -EOWNERDEAD);
                NODE_CHECK(tg_alloc(node, "out", 1000, &t) == -EOWNERDEAD);
                NODE_CHECK(tg_send_sample(s, NULL) == -EOWNERDEAD);
                NODE_CHECK(tg_close_outputs(node, &out, 1) == -EOWNERDEAD);
                NODE_CHECK(tg_node_fd(node) == -EOWNERDEAD);
                NODE_CHECK(tg_input_stats(node, "in", &stats) == -EOWNERDEAD);
                NODE_CHECK(tg_log(node, TG_LOG_INFO, "x") == -EOWNERDEAD);
                NODE_CHECK(tg_event_size(held) == 8 && tg_event_free(held) == NULL);
                NODE_CHECK(tg_node_close(node) == NULL);
                NODE_CHECK(tg_node_open(&again) < 0);
                _exit(0);
        }
        NODE_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        NODE_CHECK(*(const uint64_t *)tg_event_data(held) == 0);
        tg_event_free(held);
        NODE_CHECK(tg_send_sample(s, NULL) == 0); /* the parent goes on as if nothing had been */
        tg_event_free(take(node, TG_EVENT_INPUT, "in"));
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        tell(MARK, 1);
        return 0;
}

static int answer(tg_node *node, void *arg)
{
        uint64_t i = 0;

        NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        tg_event_free(take(node, TG_EVENT_INPUT, "in"));
        NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        tg_event_free(take(node, TG_EVENT_INPUT, "in"));
        await(MARK, 1);
        return 0;
}

Test(events, a_forked_child_is_turned_away_and_harms_nobody, .timeout = 30)
{
        int a, b;

        begin();
        a = flow_node(flow, "forks", fork_in_a_node, NULL);
        b = flow_node(flow, "peer", answer, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, b, flow_output(flow, b, "out", 10, 1000, 20), a, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a) && ended(b)));
        flow_close(flow);
}

/* -------- signals -------- */

static void on_usr1(int sig)
{
        shared[A]++;
}

static int be_interrupted(tg_node *node, void *arg)
{
        tg_event *ev;

        tell(MARK, 1);
        NODE_CHECK(tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC) == TG_E_END ||
                tg_event_type(ev) == TG_EVENT_STOP); /* stopped and continued without a handler: nothing happened */
        tg_event_free(ev);
        return 0;
}

Test(events, stopping_and_continuing_a_process_without_handlers_does_not_end_its_wait, .timeout = 30)
{
        int a;

        begin();
        a = flow_node(flow, "node", be_interrupted, NULL);
        flow_timer(flow, a, "tick", 3600 * NSEC_PER_SEC);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[MARK]));
        for (unsigned i = 0; i < 20; i++) {
                kill(flow_pid(flow, a), SIGSTOP);
                flow_turn(flow, clock_now() + NSEC_PER_MSEC);
                kill(flow_pid(flow, a), SIGCONT);
                flow_turn(flow, clock_now() + NSEC_PER_MSEC);
        }
        cr_assert(!flow_exited(flow, a, NULL));
        flow_stop(flow, a, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a)));
        flow_close(flow);
}

static int have_a_handler(tg_node *node, void *arg)
{
        struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
        tg_event *ev;

        NODE_CHECK(sigaction(SIGUSR1, &sa, NULL) == 0);
        tell(MARK, 1);
        NODE_CHECK(tg_next(node, &ev, 10 * (int64_t)NSEC_PER_SEC) == -EINTR && shared[A] == 1);
        return 0;
}

/* It has said that it goes to sleep, and the kernel says that it does: in nothing else does it wait. */
static bool sleeps(int node)
{
        ProcStat stat;

        return flow_bell(flow, node).n_sleeps > 0 && procstat_read(&stat, flow_pid(flow, node)) == 0 && stat.state == 'S';
}

Test(events, a_signal_handler_ends_the_wait, .timeout = 30)
{
        int a;

        begin();
        a = flow_node(flow, "node", have_a_handler, NULL);
        flow_timer(flow, a, "tick", 3600 * NSEC_PER_SEC);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 10, shared[MARK]));
        cr_assert(FLOW_UNTIL(flow, 10, sleeps(a))); /* before that the signal would be no interruption */
        kill(flow_pid(flow, a), SIGUSR1);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a)));
        flow_close(flow);
}

/* -------- identity and log -------- */

static int say_who_we_are(tg_node *node, void *arg)
{
        NODE_CHECK(strcmp(tg_node_id(node), "node") == 0 && strcmp(tg_dataflow_name(node), "test") == 0);
        NODE_CHECK(strcmp(tg_dataflow_id(node), "ab000000-0000-0000-0000-000000000000") == 0);
        NODE_CHECK(tg_restart_count(node) == 0);
        NODE_CHECK(strcmp(tg_input_name(node, 0), "tick") == 0 && !tg_input_name(node, 1));
        NODE_CHECK(strcmp(tg_output_name(node, 0), "out") == 0 && !tg_output_name(node, 1));
        NODE_CHECK(!tg_should_stop(node) && tg_stop_deadline(node) == UINT64_MAX);
        NODE_CHECK(strcmp(tg_version(), TIDEGATE_VERSION) == 0);
        NODE_CHECK(tg_log(node, TG_LOG_WARN, "a \"quoted\"\nline\t\xff \xc3\xbc\x01") == 0);
        NODE_CHECK(tg_log(node, (tg_log_level)9, "x") == -EINVAL);
        for (int r = -130; r < 10; r++)
                NODE_CHECK(strlen(tg_strerror(r)) > 3);
        return 0;
}

Test(events, a_node_knows_who_it_is_and_logs_json, .timeout = 30)
{
        int a, pipe_fds[2], saved = dup(STDOUT_FILENO);
        static char line[1024];

        cr_assert_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
        begin();
        a = flow_node(flow, "node", say_who_we_are, NULL);
        flow_timer(flow, a, "tick", NSEC_PER_SEC);
        flow_output(flow, a, "out", 10, 100, 4);
        dup2(pipe_fds[1], STDOUT_FILENO);
        flow_start(flow);
        dup2(saved, STDOUT_FILENO);
        (void)fd_close(pipe_fds[1]);
        cr_assert(FLOW_UNTIL(flow, 10, ended(a)));
        cr_assert_gt(read(pipe_fds[0], line, sizeof(line) - 1), 0);
        cr_assert(strncmp(line, "{\"timestamp\":\"20", 16) == 0, "%s", line);
        cr_assert(strstr(line, "Z\",\"level\":\"warn\",\"node_id\":\"node\",\"message\":\"a \\\"quoted\\\"\\nline\\u0009\\ufffd \xc3\xbc"
                               "\\u0001\"}\n"), "%s", line);
        cr_assert_eq(strchr(line, '\n') - line + 1, (long)strlen(line));
        (void)fcntl(pipe_fds[1] = dup(saved), F_SETFD, FD_CLOEXEC); /* as many descriptors as before the flow */
        flow_close(flow);
        (void)fd_close(pipe_fds[0]);
        (void)fd_close(pipe_fds[1]);
        (void)fd_close(saved);
}
