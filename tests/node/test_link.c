/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages over links: bytes, order, accounting, closing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

typedef struct Plan {
        Flow *flow;
        uint64_t n, size;
        bool in_place;
} Plan;

/* The bytes of message i: position-dependent, so that a shift, a swap or a stale chunk shows. */
static void fill(uint8_t *p, uint64_t i, size_t size)
{
        uint64_t x = i * 0x9e3779b97f4a7c15u + 1;

        for (size_t k = 0; k < size; k++) {
                if (k % 8 == 0)
                        x = x * 6364136223846793005u + 1442695040888963407u;
                p[k] = (uint8_t)(x >> (8 * (k % 8)));
        }
}

static bool same(const uint8_t *p, uint64_t i, size_t size)
{
        uint8_t *expect = malloc(size + 1);
        bool r;

        fill(expect, i, size);
        r = size == 0 || memcmp(p, expect, size) == 0;
        free(expect);
        return r;
}

static int send_n(tg_node *node, void *arg)
{
        const Plan *plan = arg;
        uint8_t *bytes = malloc(plan->size + 1);

        for (uint64_t i = 0; i < plan->n; i++) {
                if (plan->in_place) {
                        tg_sample *s;

                        NODE_CHECK(tg_alloc(node, "out", plan->size, &s) == 0);
                        NODE_CHECK((uintptr_t)tg_sample_data(s) % 64 == 0 && tg_sample_size(s) == plan->size);
                        fill(tg_sample_data(s), i, plan->size);
                        NODE_CHECK(tg_send_sample(s, NULL) == 0);
                } else {
                        fill(bytes, i, plan->size);
                        NODE_CHECK(tg_send(node, "out", bytes, plan->size, NULL) == 0);
                }
        }
        free(bytes);
        return 0;
}

enum { GOT, GAPS, CLOSED, STOPPED, DELIVERED, DROPPED };

/* Takes until the stream ends; every message is held against what it must be. */
static int take_all(tg_node *node, void *arg)
{
        const Plan *plan = arg;
        _Atomic uint64_t *shared = flow_shared(plan->flow);
        struct tg_input_stats stats;
        uint64_t expect = 0;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0) {
                switch (tg_event_type(ev)) {
                case TG_EVENT_INPUT:
                        NODE_CHECK(strcmp(tg_event_id(ev), "in") == 0);
                        NODE_CHECK(tg_event_size(ev) == plan->size);
                        NODE_CHECK(plan->size == 0 ? !tg_event_data(ev) : (uintptr_t)tg_event_data(ev) % 64 == 0);
                        NODE_CHECK(tg_event_seq(ev) >= expect);
                        NODE_CHECK(tg_event_time_ns(ev) <= clock_now());
                        shared[GAPS] += tg_event_seq(ev) - expect;
                        expect = tg_event_seq(ev) + 1;
                        NODE_CHECK(same(tg_event_data(ev), tg_event_seq(ev), plan->size));
                        NODE_CHECK(!shared[CLOSED]);
                        shared[GOT]++;
                        break;
                case TG_EVENT_INPUT_CLOSED:
                        shared[CLOSED]++;
                        break;
                case TG_EVENT_STOP:
                        NODE_CHECK(strcmp(tg_event_id(ev), "ALL_INPUTS_CLOSED") == 0);
                        shared[STOPPED]++;
                        break;
                default:
                        NODE_CHECK(!"an event of that kind");
                }
                NODE_CHECK(tg_event_free(ev) == NULL);
        }
        NODE_CHECK(r == TG_E_END);
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == TG_E_END);
        NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
        shared[DELIVERED] = stats.delivered;
        shared[DROPPED] = stats.dropped_queue + stats.dropped_pool + stats.dropped_source + stats.dropped_invalid;
        return 0;
}

static bool all_ended_well(Flow *flow, int n_nodes)
{
        int status;

        for (int i = 0; i < n_nodes; i++)
                if (!flow_exited(flow, i, &status))
                        return false;
                else
                        cr_assert_eq(status, 0, "node %d ended with %#x", i, (unsigned)status);
        return true;
}

static void ship(Plan plan, FlowLinkSpec spec, uint32_t n_chunks, uint64_t ret[8])
{
        Flow *flow = flow_new();
        int a, b, out;

        plan.flow = flow;
        a = flow_node(flow, "source", send_n, &plan);
        b = flow_node(flow, "sink", take_all, &plan);
        out = flow_output(flow, a, "out", spec.queue_size ? spec.queue_size : 10, plan.size + 1, n_chunks);
        flow_link(flow, a, out, b, "in", spec);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 60, all_ended_well(flow, 2)), "not over after 60 s; %lu of %lu messages came",
                (unsigned long)flow_shared(flow)[GOT], (unsigned long)plan.n);
        for (int i = 0; i < 8; i++)
                ret[i] = flow_shared(flow)[i];
        flow_close(flow);
}

static void ship_all(uint64_t n, uint64_t size, uint32_t queue, bool in_place)
{
        uint64_t got[8];

        ship((Plan){.n = n, .size = size, .in_place = in_place}, (FlowLinkSpec){.queue_size = queue, .backpressure = true},
                queue + 10, got);
        cr_assert_eq(got[GOT], n);
        cr_assert_eq(got[GAPS], 0);
        cr_assert_eq(got[CLOSED], 1);
        cr_assert_eq(got[STOPPED], 1);
        cr_assert_eq(got[DELIVERED], n);
        cr_assert_eq(got[DROPPED], 0);
}

Test(link, one_message_arrives_and_the_stream_ends, .timeout = 90)
{
        ship_all(1, 5, 10, false);
}

Test(link, empty_messages_are_messages, .timeout = 90)
{
        ship_all(100, 0, 10, false);
}

Test(link, backpressure_delivers_a_million_bytes_one_by_one, .timeout = 90)
{
        ship_all(1000000, 1, 64, false);
}

Test(link, backpressure_delivers_20_mb_in_chunks_of_4_kib, .timeout = 90)
{
        ship_all(5000, 4096, 10, false);
}

Test(link, backpressure_delivers_20_mb_in_chunks_of_1_mib_written_in_place, .timeout = 90)
{
        ship_all(20, 1 << 20, 3, true);
}

Test(link, backpressure_works_with_a_queue_of_one, .timeout = 90)
{
        ship_all(20000, 8, 1, true);
        ship_all(2000, 300, 1, true);
        ship_all(2000, 300, 2, false);
}

/* The pool holds fewer chunks than the queue wants: the sender waits for chunks, nothing is lost. */
Test(link, backpressure_waits_for_chunks_too, .timeout = 90)
{
        uint64_t got[8];

        ship((Plan){.n = 3000, .size = 5000}, (FlowLinkSpec){.queue_size = 10, .backpressure = true}, 3, got);
        cr_assert_eq(got[GOT], 3000);
        cr_assert_eq(got[GAPS] + got[DROPPED], 0);
}

/* Every gap in the numbers is counted; what was not seen at the end is too. */
Test(link, drop_oldest_counts_every_gap, .timeout = 90)
{
        static const uint64_t sizes[] = {1, 192, 193, 5000};

        for (unsigned i = 0; i < ELEMENTSOF(sizes); i++) {
                uint64_t got[8];

                ship((Plan){.n = 50000, .size = sizes[i]}, (FlowLinkSpec){.queue_size = 10}, 20, got);
                cr_assert_eq(got[GOT], got[DELIVERED]);
                cr_assert_eq(got[GAPS], got[DROPPED], "%lu bytes: %lu gaps, %lu dropped", (unsigned long)sizes[i],
                        (unsigned long)got[GAPS], (unsigned long)got[DROPPED]);
                cr_assert_eq(got[GOT] + got[DROPPED], 50000);
                cr_assert_eq(got[CLOSED], 1);
        }
}

/* -------- wake-ups -------- */

#define N_PINGS 100000

/* Each message is sent when the other side is just about to fall asleep: a wake-up that is lost stays lost. */
static int ping(tg_node *node, void *arg)
{
        bool first = arg;
        tg_event *ev;

        if (first)
                NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        for (unsigned i = 0; i < N_PINGS; i++) {
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT && tg_event_seq(ev) == i);
                tg_event_free(ev);
                if (!first || i + 1 < N_PINGS)
                        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        }
        return 0;
}

Test(link, two_nodes_that_wait_for_each_other_never_lose_a_wake_up, .timeout = 90)
{
        Flow *flow = flow_new();
        int a = flow_node(flow, "a", ping, flow), b = flow_node(flow, "b", ping, NULL);

        flow_link(flow, a, flow_output(flow, a, "out", 10, 100, 4), b, "in", (FlowLinkSpec){});
        flow_link(flow, b, flow_output(flow, b, "out", 10, 100, 4), a, "in", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 60, all_ended_well(flow, 2)));
        flow_close(flow);
}
