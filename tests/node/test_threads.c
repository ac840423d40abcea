/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One node used by many threads while its links come and go: senders, takers, a thread that holds messages across them all, one that
 * only looks. With ThreadSanitizer (tests/tsan) this is where races would be seen; without it, that nothing is lost or crosses over.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/node/harness.h"

#define N_SENDERS 3
#define N_TAKERS  3

static Flow *flow;
static _Atomic uint64_t *shared;

enum { SENT, TAKEN, LIFE, STOP, TAKEN_BY_LIFE /* by the consumer that dies; and the words after it */ };

static void *send_until_told(void *arg)
{
        tg_node *node = arg;
        uint64_t bytes[64];
        int r = 0;

        for (uint64_t i = 0; !shared[STOP]; i++) {
                size_t size = i % 3 ? 16 : sizeof(bytes);

                for (size_t k = 0; k < ELEMENTSOF(bytes); k++)
                        bytes[k] = i;
                if (i % 5 == 0) { /* the same in place */
                        tg_sample *s;

                        r = tg_alloc(node, "out", size, &s);
                        if (r == 0) {
                                memcpy(tg_sample_data(s), bytes, size);
                                r = tg_send_sample(s, NULL);
                        }
                } else {
                        r = tg_send(node, "out", bytes, size, NULL);
                }
                if (r == TG_E_STOPPING)
                        return NULL;
                NODE_CHECK(r == 0);
                shared[SENT]++;
        }
        return NULL;
}

static void *look_around(void *arg)
{
        tg_node *node = arg;
        struct tg_input_stats stats;

        while (!tg_should_stop(node)) {
                NODE_CHECK(tg_input_stats(node, "back", &stats) == 0);
                (void)sched_yield();
        }
        return NULL;
}

static void *take_echoes(void *arg)
{
        tg_node *node = arg;
        tg_event *ev;
        int r;

        while ((r = tg_next(node, &ev, TG_FOREVER)) == 0)
                tg_event_free(ev);
        NODE_CHECK(r == TG_E_END);
        return NULL;
}

static int send_from_threads(tg_node *node, void *arg)
{
        pthread_t threads[N_SENDERS + 2];

        for (unsigned i = 0; i < ELEMENTSOF(threads); i++)
                NODE_CHECK(pthread_create(&threads[i], NULL, i < N_SENDERS ? send_until_told : i == N_SENDERS ? look_around : take_echoes, node) == 0);
        for (unsigned i = 0; i < ELEMENTSOF(threads); i++)
                NODE_CHECK(pthread_join(threads[i], NULL) == 0);
        return 0;
}

/* Takes, and frees what another thread has taken: claims are released on whatever thread. */
static void *take_and_hand_over(void *arg)
{
        static tg_event *_Atomic held;
        tg_node *node = arg;
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        const uint64_t *bytes = tg_event_data(ev);

                        for (size_t k = 1; k < tg_event_size(ev) / 8; k++)
                                NODE_CHECK(bytes[k] == bytes[0]);
                        if (tg_event_seq(ev) % 16 == 0)
                                NODE_CHECK(tg_send(node, "back", bytes, 8, NULL) != -EINVAL);
                        shared[TAKEN]++;
                        if (strcmp(tg_node_id(node), "mortal") == 0)
                                shared[TAKEN_BY_LIFE + shared[LIFE]]++;
                }
                ev = atomic_exchange(&held, ev);
                if (ev)
                        tg_event_free(ev);
        }
        ev = atomic_exchange(&held, NULL);
        if (ev)
                tg_event_free(ev);
        return NULL;
}

static int take_in_threads(tg_node *node, void *arg)
{
        pthread_t threads[N_TAKERS];

        for (unsigned i = 0; i < N_TAKERS; i++)
                NODE_CHECK(pthread_create(&threads[i], NULL, take_and_hand_over, node) == 0);
        for (unsigned i = 0; i < N_TAKERS; i++)
                NODE_CHECK(pthread_join(threads[i], NULL) == 0);
        return 0;
}

static bool ended_well(int node)
{
        int status;

        if (!flow_exited(flow, node, &status))
                return false;
        cr_assert_eq(status, 0, "node %d ended with %#x", node, (unsigned)status);
        return true;
}

Test(threads, of_both_ends_go_on_while_a_consumer_dies_and_comes_again, .timeout = 60)
{
        int source, sink, mortal;

        flow = flow_new();
        shared = flow_shared(flow);
        source = flow_node(flow, "source", send_from_threads, NULL);
        sink = flow_node(flow, "sink", take_in_threads, NULL);
        mortal = flow_node(flow, "mortal", take_in_threads, NULL);
        flow_link(flow, source, flow_output(flow, source, "out", 10, 600, 30), sink, "in", (FlowLinkSpec){.backpressure = true});
        flow_link(flow, source, 0, mortal, "in", (FlowLinkSpec){.queue_size = 3});
        flow_link(flow, sink, flow_output(flow, sink, "back", 10, 100, 20), source, "back", (FlowLinkSpec){});
        (void)flow_output(flow, mortal, "back", 10, 100, 20);
        flow_start(flow);
        for (unsigned life = 0; life < 3; life++) {
                uint64_t before = shared[SENT];

                cr_assert(FLOW_UNTIL(flow, 20, (shared[SENT] > before + 2000 && shared[TAKEN_BY_LIFE + life] > 0) || flow_exited(flow, source, NULL) ||
                        flow_exited(flow, sink, NULL)));
                cr_assert_gt(shared[TAKEN_BY_LIFE + life], 0);
                flow_will_restart(flow, mortal, true);
                flow_kill(flow, mortal);
                cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, mortal, NULL)));
                shared[LIFE]++;
                flow_restart(flow, mortal);
        }
        shared[STOP] = 1;
        flow_stop(flow, source, 5 * NSEC_PER_SEC);
        flow_stop(flow, sink, 5 * NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 20, ended_well(source) && ended_well(sink)));
        cr_assert_eq(flow_n_violations(flow), 0);
        flow_close(flow);
}
