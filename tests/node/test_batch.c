/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tg_send_batch(): as many sends in a row, all of them or the first few, with one wake-up.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

#define N_MESSAGES 200u
#define LARGE      5000u

static Flow *flow;
static _Atomic uint64_t *shared;
static uint64_t last[8]; /* of shared, once both had ended */

enum { GOT, RESULT, SENT, BLOCKED, CHECKED, TIMES };

static size_t size_of(unsigned i)
{
        static const size_t sizes[] = {0, 8, 192, 193, LARGE};

        return sizes[i % 5];
}

static uint8_t byte_of(unsigned i, size_t at)
{
        return (uint8_t)(i * 7 + at * 13 + 1);
}

/* Message i of the batch: its size and bytes tell which one it is; every third has a number with it. */
static void make(tg_message *m, unsigned i)
{
        uint8_t *bytes = malloc(LARGE);
        tg_params *params = i % 3 ? NULL : tg_params_new();

        for (size_t k = 0; k < size_of(i); k++)
                bytes[k] = byte_of(i, k);
        if (params)
                NODE_CHECK(tg_params_set_int(params, "i", i) == 0);
        *m = (tg_message){bytes, size_of(i), params};
}

static void unmake(const tg_message *m, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                free((void *)(uintptr_t)m[i].data);
                (void)tg_params_free((tg_params *)(uintptr_t)m[i].params);
        }
}

static int send_one_batch(tg_node *node, void *arg)
{
        tg_message *m = calloc(N_MESSAGES, sizeof(*m));
        size_t n = 0;

        for (unsigned i = 0; i < N_MESSAGES; i++)
                make(&m[i], i);
        NODE_CHECK(tg_send_batch(node, "out", m, N_MESSAGES, &n) == 0);
        shared[SENT] = n;
        unmake(m, N_MESSAGES);
        free(m);
        return 0;
}

static void check(const tg_event *ev, unsigned i)
{
        const uint8_t *bytes = tg_event_data(ev);
        int64_t number;

        NODE_CHECK(tg_event_seq(ev) == i && tg_event_size(ev) == size_of(i));
        for (size_t k = 0; k < size_of(i); k++)
                NODE_CHECK(bytes[k] == byte_of(i, k));
        NODE_CHECK(!tg_event_params(ev) == (i % 3 != 0));
        if (i % 3 == 0)
                NODE_CHECK(tg_params_get_int(tg_event_params(ev), "i", &number) == 0 && number == i);
}

static int take_all(tg_node *node, void *arg)
{
        uint64_t before = 0;
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        check(ev, (unsigned)shared[GOT]++);
                        shared[TIMES] += tg_event_time_ns(ev) != before;
                        before = tg_event_time_ns(ev);
                }
                tg_event_free(ev);
        }
        return 0;
}

static void two_nodes(FlowBody send, FlowBody take, FlowLinkSpec spec)
{
        int a, b;

        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "source", send, NULL);
        b = flow_node(flow, "sink", take, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", MAX(spec.queue_size, 10u), LARGE + 64, spec.queue_size + 14), b, "in", spec);
        flow_start(flow);
}

static void both_end_well(void)
{
        int status[2];

        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, 0, &status[0]) && flow_exited(flow, 1, &status[1])));
        cr_assert_eq(status[0], 0);
        cr_assert_eq(status[1], 0);
        for (unsigned i = 0; i < 8; i++)
                last[i] = shared[i];
        flow_close(flow);
}

Test(batch, one_longer_than_queue_and_pool_arrives_whole_and_in_order, .timeout = 60)
{
        two_nodes(send_one_batch, take_all, (FlowLinkSpec){.queue_size = 10, .backpressure = true});
        both_end_well();
        cr_assert_eq(last[SENT], N_MESSAGES);
        cr_assert_eq(last[GOT], N_MESSAGES);
}

Test(batch, one_that_fits_is_one_moment, .timeout = 60)
{
        two_nodes(send_one_batch, take_all, (FlowLinkSpec){.queue_size = N_MESSAGES});
        both_end_well();
        cr_assert_eq(last[GOT], N_MESSAGES);
        cr_assert_eq(last[TIMES], 1, "%lu times", (unsigned long)last[TIMES]);
}

static int hang(tg_node *node, void *arg)
{
        while (!tg_should_stop(node))
                (void)usleep(1000);
        return 0;
}

static int send_more_than_fits(tg_node *node, void *arg)
{
        tg_message m[30];
        size_t n = 99;

        for (unsigned i = 0; i < 30; i++)
                make(&m[i], i);
        tg_set_send_timeout(node, 30 * 1000000);
        NODE_CHECK(tg_send_batch(node, "out", m, 30, &n) == TG_E_TIMEOUT);
        unmake(m, 30);
        shared[SENT] = n;
        shared[BLOCKED] = 1;
        flow_note(flow);
        return hang(node, arg);
}

Test(batch, at_the_timeout_the_first_were_sent_and_of_the_others_none, .timeout = 60)
{
        two_nodes(send_more_than_fits, hang, (FlowLinkSpec){.queue_size = 10, .backpressure = true});
        cr_assert(FLOW_UNTIL(flow, 10, shared[BLOCKED]));
        cr_assert_eq(shared[SENT], 10);
        cr_assert_eq(flow_ring(flow, 0, 0).head, 10);
        flow_stop(flow, 0, NSEC_PER_SEC);
        flow_stop(flow, 1, NSEC_PER_SEC);
        both_end_well();
}

static int send_what_cannot_be(tg_node *node, void *arg)
{
        static const uint8_t large[1 << 20];
        const tg_message good[] = {{"a", 1, NULL}, {"b", 1, NULL}};
        const tg_message no_data[] = {{"a", 1, NULL}, {NULL, 1, NULL}};
        const tg_message too_large[] = {{"a", 1, NULL}, {large, sizeof(large), NULL}, {"b", 1, NULL}};
        size_t n = 99;

        node->grow_span = 20 * NSEC_PER_SEC; /* until the supervisor has said no, however long that takes it */
        NODE_CHECK(tg_send_batch(node, "in", good, 2, &n) == TG_E_NO_OUTPUT && n == 0);
        NODE_CHECK(tg_send_batch(node, "out", no_data, 2, &n) == -EINVAL && n == 0);
        NODE_CHECK(tg_send_batch(node, "out", NULL, 0, &n) == 0 && n == 0);
        NODE_CHECK(tg_send_batch(node, "out", too_large, 3, &n) == -EMSGSIZE && n == 1);
        NODE_CHECK(tg_send_batch(node, "out", good, 2, NULL) == 0);
        NODE_CHECK(tg_close_outputs(node, (const char *[]){"out"}, 1) == 0);
        NODE_CHECK(tg_send_batch(node, "out", good, 2, &n) == TG_E_CLOSED && n == 0);
        return 0;
}

static int count_all(tg_node *node, void *arg)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                shared[GOT] += tg_event_type(ev) == TG_EVENT_INPUT;
                tg_event_free(ev);
        }
        return 0;
}

Test(batch, what_cannot_be_sent_is_told_and_what_came_before_it_was_sent, .timeout = 60)
{
        two_nodes(send_what_cannot_be, count_all, (FlowLinkSpec){.queue_size = 10});
        both_end_well();
        cr_assert_eq(last[GOT], 3);
}
