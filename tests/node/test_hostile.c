/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producers that write what no honest one writes, straight into the regions they own. The consumer must not crash, hang
 * or deliver what was not published, and must say what it saw.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/doorbell.h"
#include "node/node-internal.h"
#include "tests/node/harness-internal.h"

static Flow *flow;
static _Atomic uint64_t *shared;
static int source, sink;

#define MAX_CROWD 300

enum { GO, GOT, CLOSED, INVALID, ENDED, PARAMS, MARK, SENT, FIRST, HURRY };

static void tell(unsigned what, uint64_t value)
{
        shared[what] = value;
        flow_note(flow);
}

static void await(unsigned what, uint64_t value)
{
        nsec_t deadline = clock_now() + 20 * NSEC_PER_SEC;

        while (shared[what] < value) {
                NODE_CHECK(clock_now() < deadline);
                (void)sched_yield();
        }
}

static int take_all(tg_node *node, void *arg)
{
        struct tg_input_stats stats;
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
                shared[INVALID] = stats.dropped_invalid; /* before GOT: what was refused came first */
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        volatile uint8_t sum = 0;

                        for (size_t i = 0; i < tg_event_size(ev); i++) /* every byte is there to be read */
                                sum = (uint8_t)(sum + ((const uint8_t *)tg_event_data(ev))[i]);
                        shared[PARAMS] += tg_params_count(tg_event_params(ev));
                        shared[GOT]++;
                }
                shared[CLOSED] += tg_event_type(ev) == TG_EVENT_INPUT_CLOSED;
                tg_event_free(ev);
                flow_note(flow);
        }
        tell(ENDED, 1);
        return 0;
}

static void begin(FlowBody liar, bool backpressure)
{
        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "liar", liar, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_link(flow, source, flow_output(flow, source, "out", 10, 1000, 20), sink, "in",
                (FlowLinkSpec){.backpressure = backpressure});
        flow_start(flow);
}

static bool sink_ended_well(void)
{
        int status;

        if (!flow_exited(flow, sink, &status))
                return false;
        cr_assert_eq(status, 0, "the sink ended with %#x", (unsigned)status);
        return true;
}

static struct ring_shared *ring_of(tg_node *node)
{
        return node->outputs[0].ring.map;
}

/* Once per sleep, as the honest do: a producer that rings without need fills its own doorbell and loses wake-ups. */
static void ring_the_sink(tg_node *node)
{
        output_tell(&node->outputs[0]);
}

/* -------- positions -------- */

static int store_a_head_beyond_all_messages(tg_node *node, void *arg)
{
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        await(GOT, 1);
        __atomic_store_n(&ring_of(node)->head, UINT64_C(1) << 63, __ATOMIC_SEQ_CST);
        ring_the_sink(node);
        await(ENDED, 1);
        return 0;
}

static int store_a_head_that_goes_back(tg_node *node, void *arg)
{
        for (unsigned i = 0; i < 5; i++)
                NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        await(GOT, 5);
        __atomic_store_n(&ring_of(node)->head, 2, __ATOMIC_SEQ_CST);
        ring_the_sink(node);
        await(ENDED, 1);
        return 0;
}

Test(hostile, positions_that_nobody_honest_stores_end_the_link_and_are_reported, .timeout = 60)
{
        static const FlowBody liars[] = {store_a_head_beyond_all_messages, store_a_head_that_goes_back};

        for (unsigned i = 0; i < 4; i++) {
                begin(liars[i / 2], i % 2);
                cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()), "liar %u", i);
                cr_assert_eq(shared[CLOSED], 1);
                cr_assert_eq(flow_n_violations(flow), 1);
                flow_close(flow);
        }
}

/* -------- descriptors and metadata -------- */

/* Publishes by hand: message i with this descriptor. */
static void publish_raw(tg_node *node, uint64_t i, struct ring_descriptor d, const void *bytes, size_t size)
{
        struct ring_shared *ring = ring_of(node);
        struct ring_slot *slot = &ring->slot[i % 16];

        __atomic_store_n(&slot->seq, 2 * i + 1, __ATOMIC_SEQ_CST);
        memcpy(slot->descriptor, &d, sizeof(d));
        if (size)
                memcpy(slot->bytes, bytes, size);
        __atomic_store_n(&slot->seq, 2 * i + 2, __ATOMIC_SEQ_CST);
        __atomic_store_n(&ring->head, i + 1, __ATOMIC_SEQ_CST);
        ring_the_sink(node);
}

static int describe_what_is_not_there(tg_node *node, void *arg)
{
        uint64_t size = node->outputs[0].pool.size, i = 0;
        const struct ring_descriptor bad[] = {
                {.offset = size, .payload_len = 1},
                {.offset = size - 1, .payload_len = 2},
                {.offset = UINT64_MAX - 1, .payload_len = 4},
                {.offset = 4096, .payload_len = UINT32_MAX},
                {.offset = 4096, .payload_len = 8, .meta_len = UINT32_MAX},
                {.offset = 4096, .segment = 65535, .payload_len = 1},
                {.flags = RING_FLAG_INLINE, .payload_len = RING_INLINE_MAX + 1},
                {.flags = RING_FLAG_INLINE, .payload_len = UINT32_MAX, .meta_len = UINT32_MAX},
                {.flags = RING_FLAG_INLINE, .payload_len = 8, .meta_len = 192},
        };

        for (unsigned k = 0; k < ELEMENTSOF(bad); k++, i++) {
                publish_raw(node, i, bad[k], NULL, 0);
                publish_raw(node, ++i, (struct ring_descriptor){.flags = RING_FLAG_INLINE, .payload_len = 3}, "abc", 3);
                await(GOT, k + 1);
        }
        tell(GO, ELEMENTSOF(bad));
        await(ENDED, 1);
        return 0;
}

Test(hostile, descriptors_of_bytes_that_do_not_exist_are_counted_and_passed, .timeout = 60)
{
        begin(describe_what_is_not_there, false);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO]));
        cr_assert_eq(shared[INVALID], shared[GO]);
        cr_assert(FLOW_UNTIL(flow, 10, flow_n_violations(flow) == 4), "told at the first, and when they have doubled");
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        flow_close(flow);
}

static int send_broken_metadata(tg_node *node, void *arg)
{
        uint8_t bytes[192] = "payload";
        unsigned seed = 99;
        uint64_t i = 0;

        for (uint64_t round = 1; round <= 300; round++) {
                uint32_t meta = 1 + (uint32_t)rand_r(&seed) % 100;

                for (unsigned k = 8; k < 8 + meta; k++)
                        bytes[k] = rand_r(&seed) % 4 ? (uint8_t)(rand_r(&seed) % 8) : (uint8_t)rand_r(&seed);
                publish_raw(node, i++, (struct ring_descriptor){.flags = RING_FLAG_INLINE, .payload_len = 8, .meta_len = meta},
                        bytes, sizeof(bytes));
                publish_raw(node, i++, (struct ring_descriptor){.flags = RING_FLAG_INLINE, .payload_len = 1}, "x", 1);
                await(GOT, round); /* the one after it, and no other */
        }
        tell(GO, 1);
        await(ENDED, 1);
        return 0;
}

Test(hostile, metadata_that_does_not_decode_is_refused_with_its_message, .timeout = 60)
{
        begin(send_broken_metadata, false);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO]));
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        cr_assert_eq(shared[GOT], 300);
        cr_assert_eq(shared[INVALID], 300);
        cr_assert_eq(flow_n_violations(flow), 9, "the 1st, 2nd, 4th, ... 256th");
        cr_assert_eq(shared[PARAMS], 0);
        flow_close(flow);
}

/* -------- noise -------- */

static int scribble(tg_node *node, void *arg)
{
        nsec_t until = clock_now() + 700 * NSEC_PER_MSEC;
        uint64_t *ring = (uint64_t *)(void *)ring_of(node), *pool = node->outputs[0].pool.map;
        size_t n_ring = node->outputs[0].ring.size / 8, n_pool = node->outputs[0].pool.size / 8;
        uint64_t head = 0;
        unsigned seed = 7;

        while (clock_now() < until) {
                for (unsigned i = 0; i < 50; i++) {
                        /* Everything but the head, which ends the link at once; every third word small, thus plausible. */
                        size_t at = 32 + (size_t)rand_r(&seed) % (n_ring - 32);
                        uint64_t v = (uint64_t)rand_r(&seed) << 32 | (uint64_t)rand_r(&seed);

                        __atomic_store_n(&ring[at], i % 3 ? v : v % 200, __ATOMIC_RELAXED);
                        __atomic_store_n(&pool[(size_t)rand_r(&seed) % n_pool], v, __ATOMIC_RELAXED);
                }
                for (unsigned i = 0; i < 16; i++) /* make some slots whole, or they would all be torn */
                        __atomic_store_n(&ring_of(node)->slot[i].seq, 2 * (head / 16 * 16 + i) + 2, __ATOMIC_RELAXED);
                __atomic_store_n(&ring_of(node)->head, ++head, __ATOMIC_SEQ_CST);
                ring_the_sink(node);
        }
        tell(GO, 1);
        await(ENDED, 1);
        return 0;
}

Test(hostile, noise_all_over_ring_and_pool_never_crashes_a_consumer, .timeout = 60)
{
        for (unsigned i = 0; i < 2; i++) {
                begin(scribble, i);
                cr_assert(FLOW_UNTIL(flow, 20, shared[GO] || flow_exited(flow, sink, NULL)));
                flow_kill(flow, source);
                cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
                flow_close(flow);
        }
}

/* Where the doorbell is a byte through the socket a flood costs the flooder its own wake-ups, for that is full; it hides nobody else's. */
static int flood_the_doorbell(tg_node *node, void *arg)
{
        Peer *peer = list_first(&node->peers, Peer, link);
        static const char bytes[4096];

        while (!tg_should_stop(node)) {
                if (peer->rung_fd >= 0)
                        NODE_CHECK(doorbell_ring(peer->rung_fd));
                else
                        (void)send(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
                shared[GO] = 1;
                (void)sched_yield();
        }
        return 0;
}

/* On one CPU, whoever else wants it, and the thief before the sink: so that nobody hears a ring before it is taken again. */
static bool come_first(int priority)
{
        struct sched_param param = {.sched_priority = priority};
        cpu_set_t set;
        int cpu = 0;

        if (sched_getaffinity(0, sizeof(set), &set) < 0)
                return false;
        while (!CPU_ISSET(cpu, &set))
                cpu++;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        return sched_setaffinity(0, sizeof(set), &set) == 0 && sched_setscheduler(0, SCHED_FIFO, &param) == 0;
}

/* Whoever hears it is woken, and finds nothing. */
static void ring_and_take_until(tg_node *node, bool (*enough)(tg_node *node, Peer *peer))
{
        Peer *peer = list_first(&node->peers, Peer, link);
        uint64_t n;

        (void)fcntl(peer->rung_fd, F_SETFL, O_NONBLOCK);
        shared[FIRST] = come_first(2);
        shared[GO] = 1;
        while (!enough(node, peer)) {
                NODE_CHECK(doorbell_ring(peer->rung_fd));
                (void)!read(peer->rung_fd, &n, sizeof(n));
                (void)usleep(30);
        }
}

static bool should_stop(tg_node *node, Peer *peer)
{
        return tg_should_stop(node);
}

static bool is_found_out(tg_node *node, Peer *peer)
{
        return bell_peer_by_socket(&peer->bell) || tg_should_stop(node);
}

static int ring_and_take(tg_node *node, void *arg)
{
        ring_and_take_until(node, should_stop);
        return 0;
}

static int ring_and_take_for_a_while(tg_node *node, void *arg)
{
        ring_and_take_until(node, is_found_out);
        while (!tg_should_stop(node)) /* not await(): it comes first */
                (void)usleep(1000);
        return 0;
}

static int take_all_first(tg_node *node, void *arg)
{
        (void)come_first(1);
        return take_all(node, arg);
}

static int be_honest_beside(tg_node *node, void *arg)
{
        uint64_t n = 0;

        await(GO, 1); /* there is a flood */
        while (n < 3000 || !shared[MARK]) {
                NODE_CHECK(tg_send(node, "out", &n, 8, NULL) == 0);
                await(GOT, ++n);
        }
        tell(SENT, n);
        return 0;
}

/* At a pace at which the sink sleeps for a while between any two. */
static int be_honest_now_and_then(tg_node *node, void *arg)
{
        uint64_t n = 0;

        await(GO, 1);
        while (n < 3000 || !shared[MARK]) {
                if (!shared[MARK] && !shared[HURRY])
                        (void)usleep(500);
                NODE_CHECK(tg_send(node, "out", &n, 8, NULL) == 0);
                await(GOT, ++n);
        }
        tell(SENT, n);
        return 0;
}

static void flood_hides_nobody_elses_messages(bool doorbells)
{
        int other;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        source = flow_node(flow, "flooder", flood_the_doorbell, NULL);
        other = flow_node(flow, "honest", be_honest_beside, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_link(flow, other, flow_output(flow, other, "out", 10, 100, 20), sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, source, flow_output(flow, source, "out", 10, 100, 20), sink, "in2", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_violations(flow) > 0 || flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        tell(MARK, 1);
        cr_assert(FLOW_UNTIL(flow, 30, flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_assert_geq(shared[SENT], 3000);
        cr_assert_eq(shared[GOT], shared[SENT]);
        cr_assert_eq(flow_n_violations(flow), 1);
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        flow_close(flow);
}

static void begin_with_a_thief(FlowBody thief, int *ret_other)
{
        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "thief", thief, NULL);
        *ret_other = flow_node(flow, "honest", be_honest_now_and_then, NULL);
        sink = flow_node(flow, "sink", take_all_first, NULL);
        flow_wait_mode(flow, sink, NODE_WAIT_BLOCK);
        flow_link(flow, *ret_other, flow_output(flow, *ret_other, "out", 10, 100, 20), sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, source, flow_output(flow, source, "out", 10, 100, 20), sink, "in2", (FlowLinkSpec){});
        flow_start(flow);
        if (!flow_has_doorbells(flow))
                cr_skip_test("this kernel has no doorbells");
        cr_assert(FLOW_UNTIL(flow, 10, shared[GO]));
        if (!shared[FIRST])
                cr_skip_test("needs the right to a real-time priority");
}

static void end_with_all_messages(int other)
{
        tell(MARK, 1);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_assert_geq(shared[SENT], 3000);
        cr_assert_eq(shared[GOT], shared[SENT]);
        if (!flow_exited(flow, source, NULL))
                flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        flow_close(flow);
}

Test(hostile, who_rings_a_doorbell_and_takes_that_away_is_found_among_those_that_have_one, .timeout = 60)
{
        int other, link;

        begin_with_a_thief(ring_and_take, &other);
        cr_assert(FLOW_UNTIL(flow, 30, flow_n_violations(flow) > 0 || flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_expect_str_eq(flow_violation(flow, &link), "it rings, and takes that away before it is heard");
        cr_expect_eq(link, 1, "that of the thief");
        cr_expect(FLOW_UNTIL(flow, 10, flow_bell(flow, sink).by_socket == 0), "the others are heard by their doorbells again");
        cr_expect_eq(flow_n_turned(flow), 0, "nobody is told that it does not know");
        cr_expect_eq(flow_n_violations(flow), 1);
        end_with_all_messages(other);
}

/* By whom it was rung it cannot tell, and the honest one it hears as before. */
static void is_rung_for_nothing_by_nobody_knows_whom(int *ret_other)
{
        int other;

        begin_with_a_thief(ring_and_take_for_a_while, &other);
        cr_assert(FLOW_UNTIL(flow, 30, flow_n_turned(flow) > 0 || flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_expect_eq(flow_bell(flow, sink).by_socket, 1);
        cr_expect_eq(flow_n_turned(flow), 1);
        cr_assert(flow_knows(flow, sink));
        cr_expect_eq(flow_n_turned(flow), 2, "a new supervisor is told, too");
        cr_expect_eq(flow_bell(flow, other).by_socket, 0, "nobody rings it for nothing");
        cr_expect_eq(flow_n_violations(flow), 0);
        *ret_other = other;
}

Test(hostile, who_was_rung_for_nothing_by_nobody_knows_whom_hears_sockets_until_somebody_leaves, .timeout = 60)
{
        int other;

        is_rung_for_nothing_by_nobody_knows_whom(&other);
        flow_kill(flow, source);
        cr_expect(FLOW_UNTIL(flow, 10, flow_bell(flow, sink).by_socket == 0));
        end_with_all_messages(other);
}

Test(hostile, who_was_rung_for_nothing_by_nobody_knows_whom_hears_sockets_for_a_while, .timeout = 60)
{
        int other;

        is_rung_for_nothing_by_nobody_knows_whom(&other);
        tell(HURRY, 1);
        cr_expect(FLOW_UNTIL(flow, 30, flow_bell(flow, sink).by_socket == 0), "nothing happens any more");
        end_with_all_messages(other);
}

static int take_by_its_own_poll(tg_node *node, void *arg)
{
        struct pollfd pfd = {.fd = tg_node_fd(node), .events = POLLIN};
        tg_event *ev;

        for (int r = 0; r != TG_E_END;) {
                NODE_CHECK(poll(&pfd, 1, 20000) == 1);
                for (r = tg_next(node, &ev, 0); r == 0; r = tg_next(node, &ev, 0)) {
                        shared[GOT] += tg_event_type(ev) == TG_EVENT_INPUT;
                        tg_event_free(ev);
                }
        }
        tell(ENDED, 1);
        return 0;
}

/* Where it sleeps nobody can count, so nobody is let to ring for nothing there. */
Test(hostile, who_polls_by_itself_is_rung_by_sockets, .timeout = 60)
{
        int other;

        flow = flow_new();
        shared = flow_shared(flow);
        other = flow_node(flow, "honest", be_honest_now_and_then, NULL);
        sink = flow_node(flow, "sink", take_by_its_own_poll, NULL);
        flow_link(flow, other, flow_output(flow, other, "out", 10, 100, 20), sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        tell(GO, 1);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GOT] > 100));
        cr_expect_eq(flow_bell(flow, sink).by_socket, 1);
        cr_expect_eq(flow_bell(flow, other).by_socket, 0);
        tell(MARK, 1);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_assert_eq(shared[GOT], shared[SENT]);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        cr_expect_eq(flow_n_turned(flow), 0);
        flow_close(flow);
}

/* Whoever rings there calls on all of them: each of @n epolls has it as often as there are descriptors of it. */
static int take_from_within_a_crowd_of(tg_node *node, unsigned n)
{
        Peer *peer = list_first(&node->peers, Peer, link);
        struct epoll_event ev = {.events = EPOLLIN};
        tg_event *event;
        int fds[MAX_CROWD];

        for (unsigned i = 0; i < n; i++)
                fds[i] = dup(peer->heard_fd >= 0 ? peer->heard_fd : peer->fd);
        for (unsigned i = 0; i < n; i++) {
                int fd = epoll_create1(EPOLL_CLOEXEC);

                for (unsigned k = 0; k < n; k++)
                        NODE_CHECK(epoll_ctl(fd, EPOLL_CTL_ADD, fds[k], &ev) == 0);
        }
        shared[GO] = 1;
        while (tg_next(node, &event, TG_FOREVER) == 0)
                tg_event_free(event);
        return 0;
}

static int take_from_within_a_crowd(tg_node *node, void *arg)
{
        return take_from_within_a_crowd_of(node, 40);
}

static int take_from_within_a_multitude(tg_node *node, void *arg)
{
        return take_from_within_a_crowd_of(node, MAX_CROWD);
}

static void a_crowd_is_rung_no_more(bool doorbells, FlowBody crowd)
{
        int other, link;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        other = flow_node(flow, "honest", be_honest_beside, NULL);
        source = flow_node(flow, "crowd", crowd, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_wait_mode(flow, source, NODE_WAIT_BLOCK);
        flow_link(flow, other, flow_output(flow, other, "out", 10, 100, 20), source, "in", (FlowLinkSpec){});
        flow_link(flow, other, 0, sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, flow_n_violations(flow) > 0 || flow_exited(flow, other, NULL)), "%lu came", (unsigned long)shared[GOT]);
        cr_expect_str_eq(flow_violation(flow, &link), "it crowds what it is rung by");
        cr_expect_eq(link, 0, "that of the crowd");
        if (crowd == take_from_within_a_multitude)
                cr_expect_lt(flow_bell(flow, source).n_sleeps, 100u, "rung %lu times", (unsigned long)flow_bell(flow, source).n_sleeps);
        end_with_all_messages(other);
}

Test(hostile, who_has_a_crowd_hear_its_doorbell_is_rung_no_more, .timeout = 60)
{
        a_crowd_is_rung_no_more(true, take_from_within_a_crowd);
}

/* 90 000: some 5 ms a ring. Not to be rung 256 times before anybody looks. */
Test(hostile, who_has_a_multitude_hear_its_doorbell_is_rung_no_more_after_a_few_times, .timeout = 60)
{
        a_crowd_is_rung_no_more(true, take_from_within_a_multitude);
}

Test(hostile, who_has_a_crowd_hear_its_socket_is_rung_no_more_where_that_is_the_doorbell, .timeout = 60)
{
        a_crowd_is_rung_no_more(false, take_from_within_a_crowd);
}

Test(hostile, a_flooded_doorbell_hides_nobody_elses_messages, .timeout = 60)
{
        flood_hides_nobody_elses_messages(true);
}

Test(hostile, a_flooded_socket_hides_nobody_elses_messages_where_that_is_the_doorbell, .timeout = 60)
{
        flood_hides_nobody_elses_messages(false);
}

/* What it has left to say is nothing that anybody waits for. */
static int lie_and_ring_on(tg_node *node, void *arg)
{
        Peer *peer = list_first(&node->peers, Peer, link);

        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        await(GOT, 1);
        __atomic_store_n(&ring_of(node)->head, UINT64_C(1) << 63, __ATOMIC_SEQ_CST);
        ring_the_sink(node);
        await(CLOSED, 1);
        tell(GO, 1);
        await(HURRY, 1);
        for (unsigned i = 0; i < 500; i++) {
                if (peer->rung_fd >= 0)
                        NODE_CHECK(doorbell_ring(peer->rung_fd));
                else
                        (void)send(peer->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
                (void)usleep(50); /* it could sleep again in between */
        }
        tell(MARK, 1);
        await(ENDED, 1);
        return 0;
}

static int wait_for_the_mark(tg_node *node, void *arg)
{
        await(MARK, 1);
        return 0;
}

static void who_has_no_link_any_more_is_not_heard(bool doorbells)
{
        uint64_t n_sleeps;
        int other;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        source = flow_node(flow, "liar", lie_and_ring_on, NULL);
        other = flow_node(flow, "honest", wait_for_the_mark, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_wait_mode(flow, sink, NODE_WAIT_BLOCK);
        flow_link(flow, source, flow_output(flow, source, "out", 10, 100, 20), sink, "in", (FlowLinkSpec){});
        flow_link(flow, other, flow_output(flow, other, "out", 10, 100, 20), sink, "in2", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] && flow_n_violations(flow) == 1));
        n_sleeps = flow_bell(flow, sink).n_sleeps;
        tell(HURRY, 1);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MARK]));
        cr_expect_leq(flow_bell(flow, sink).n_sleeps - n_sleeps, 100u, "woken %lu times", (unsigned long)(flow_bell(flow, sink).n_sleeps - n_sleeps));
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, other, NULL) && sink_ended_well()));
        cr_expect_eq(flow_n_violations(flow), 1);
        flow_close(flow);
}

Test(hostile, who_has_no_link_any_more_wakes_nobody_by_a_doorbell, .timeout = 60)
{
        who_has_no_link_any_more_is_not_heard(true);
}

Test(hostile, who_has_no_link_any_more_wakes_nobody_by_a_socket, .timeout = 60)
{
        who_has_no_link_any_more_is_not_heard(false);
}

/* A consumer that floods: of its producer nothing more can be expected of what it says about the link, and the others go on. */
static int be_held_up(tg_node *node, void *arg)
{
        for (uint64_t i = 0; i < 5000 && !tg_should_stop(node); i++) {
                tg_event *ev;

                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
                shared[PARAMS] = i + 1;
                await(GOT, i + 1);
                if (tg_next(node, &ev, 0) == 0)
                        tg_event_free(ev);
        }
        return 0;
}

static void a_flooding_consumer_has_no_say(bool doorbells)
{
        int producer;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        producer = flow_node(flow, "producer", be_held_up, NULL);
        source = flow_node(flow, "flooder", flood_the_doorbell, NULL); /* and takes nothing: without a verdict it would hold up the producer */
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_link(flow, producer, flow_output(flow, producer, "out", 10, 100, 20), source, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, producer, 0, sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, flow_exited(flow, producer, NULL)), "%lu were sent, %lu came", (unsigned long)shared[PARAMS], (unsigned long)shared[GOT]);
        cr_assert_eq(shared[GOT], 5000);
        cr_assert_eq(flow_n_violations(flow), 1);
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        flow_close(flow);
}

Test(hostile, a_consumer_that_floods_the_doorbell_has_no_say_any_more, .timeout = 60)
{
        a_flooding_consumer_has_no_say(true);
}

Test(hostile, a_consumer_that_floods_the_socket_has_no_say_any_more_where_that_is_the_doorbell, .timeout = 60)
{
        a_flooding_consumer_has_no_say(false);
}

/* Rings far more often than there are messages, and never more than it has taken: as often as an honest one may at the most. */
static int ring_for_everything(tg_node *node, void *arg)
{
        Peer *peer = list_first(&node->peers, Peer, link);
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        peer_send(node, peer);
                tg_event_free(ev);
        }
        return 0;
}

static void a_ring_a_message_is_no_flood(bool doorbells)
{
        int producer;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        producer = flow_node(flow, "producer", be_held_up, NULL);
        source = flow_node(flow, "eager", ring_for_everything, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        flow_link(flow, producer, flow_output(flow, producer, "out", 2, 100, 20), source, "in", (FlowLinkSpec){.backpressure = true, .queue_size = 1});
        flow_link(flow, producer, 0, sink, "in", (FlowLinkSpec){.backpressure = true, .queue_size = 1});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, flow_exited(flow, producer, NULL)));
        cr_assert_eq(shared[GOT], 5000);
        cr_assert(FLOW_UNTIL(flow, 10, sink_ended_well()));
        cr_assert_eq(flow_n_violations(flow), 0);
        flow_close(flow);
}

Test(hostile, nobody_is_convicted_for_a_ring_a_message, .timeout = 60)
{
        a_ring_a_message_is_no_flood(true);
}

Test(hostile, nobody_is_convicted_for_a_byte_a_message_where_that_is_the_doorbell, .timeout = 60)
{
        a_ring_a_message_is_no_flood(false);
}

/* Its link is there as long as a verdict may come, and the time for that is not waited for here: it is put back. */
static int send_past_the_shut(tg_node *node, void *arg)
{
        OutLink *link, *next;

        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        tell(GO, 1);
        await(GOT, 1);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0); /* its place is kept, and the queue of one is full then */
        __atomic_store_n(&node->send_timeout_ns, 50000000, __ATOMIC_RELAXED);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == TG_E_TIMEOUT);
        lock_take(&node->lock);
        list_for_each(link, next, &node->outputs[0].links, link) {
                NODE_CHECK(!link->peer && link->unsaid_since);
                link->unsaid_since -= NODE_MSG_VERDICT_NS;
        }
        lock_give(&node->lock);
        for (unsigned i = 0; i < 100; i++)
                NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        tell(MARK, 1);
        await(ENDED, 1);
        return 0;
}

static int shut_the_doorbell(tg_node *node, void *arg)
{
        Peer *peer, *next;
        tg_event *ev;

        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        tg_event_free(ev);
        list_for_each(peer, next, &node->peers, link)
                (void)shutdown(peer->fd, SHUT_RDWR);
        tell(GOT, 1);
        await(ENDED, 1);
        return 0;
}

Test(hostile, who_shuts_its_doorbell_and_lives_keeps_no_place, .timeout = 60)
{
        int producer;

        flow = flow_new();
        shared = flow_shared(flow);
        producer = flow_node(flow, "producer", send_past_the_shut, NULL);
        source = flow_node(flow, "shut", shut_the_doorbell, NULL);
        flow_link(flow, producer, flow_output(flow, producer, "out", 10, 100, 20), source, "in",
                (FlowLinkSpec){.backpressure = true, .restartable = true, .queue_size = 1});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MARK] || flow_exited(flow, producer, NULL)));
        cr_assert_eq(shared[MARK], 1);
        cr_assert(FLOW_UNTIL(flow, 10, flow_n_violations(flow) == 1));
        tell(ENDED, 1);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, producer, NULL) && flow_exited(flow, source, NULL)));
        flow_close(flow);
}

/* -------- who only seems to be hostile -------- */

/* Rings for each of its messages: whenever it sends, the sink has fallen asleep anew. */
static void ring_often(tg_node *node, const char *output, unsigned n)
{
        nsec_t deadline = clock_now() + 20 * NSEC_PER_SEC;
        Peer *peer, *next;

        for (unsigned i = 0; i < n; i++) {
                bool asleep = false;

                while (!asleep) {
                        list_for_each(peer, next, &node->peers, link) {
                                uint64_t epoch = __atomic_load_n(&peer->bell.shared->epoch, __ATOMIC_SEQ_CST);

                                asleep |= epoch % 2 == 1 && epoch != peer->bell.rung;
                        }
                        NODE_CHECK(clock_now() < deadline);
                        (void)sched_yield();
                }
                NODE_CHECK(tg_send(node, output, "x", 1, NULL) == 0);
        }
}

static int ring_before_it_is_known(tg_node *node, void *arg)
{
        if (shared[MARK]++ == 0) {
                await(ENDED, 1);
                return 0;
        }
        ring_often(node, "out", 900);
        tell(GO, 1);
        await(GO, 2);
        ring_often(node, "more", 400);
        tell(GO, 3);
        await(GO, 4);
        for (unsigned i = 0; i < 5; i++)
                NODE_CHECK(tg_send(node, "more", "x", 1, NULL) == 0);
        await(ENDED, 1);
        return 0;
}

Test(hostile, whose_links_we_are_told_of_late_does_not_flood_our_doorbell, .timeout = 60)
{
        int link;

        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "late", ring_before_it_is_known, NULL);
        sink = flow_node(flow, "sink", take_all, NULL);
        link = flow_link(flow, source, flow_output(flow, source, "out", 10, 100, 20), sink, "in", (FlowLinkSpec){});
        flow_link(flow, source, flow_output(flow, source, "more", 10, 100, 20), sink, "more", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MARK] == 1));
        flow_will_restart(flow, source, true);
        flow_kill(flow, source);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL)));
        flow_hold_in(flow, true);
        flow_restart(flow, source);
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_out_acks(flow) == 4));
        flow_send(flow, source, &(NodeMsg){.type = NODE_MSG_START}); /* who may drop waits for nobody */
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1 || flow_exited(flow, source, NULL)));
        cr_assert_eq(shared[GO], 1, "it is not rung any more");
        flow_send_link_in(flow, link);
        cr_assert(FLOW_UNTIL(flow, 20, flow->links[link].state == LINK_UP));
        tell(GO, 2);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 3 || flow_exited(flow, source, NULL)));
        cr_assert_eq(shared[GO], 3, "what the first link took has been given back");
        flow_hold_in(flow, false);
        cr_assert(FLOW_UNTIL(flow, 20, flow_running(flow)));
        tell(GO, 4);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GOT] == 5), "%lu of 5 messages came", (unsigned long)shared[GOT]);
        cr_expect_eq(flow_n_violations(flow), 0);
        tell(ENDED, 1);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL) && flow_exited(flow, sink, NULL)));
        flow_close(flow);
}
