/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for room, where no consumer may lose anything: each time there is some, who waits for it is woken. A sender looks again every few
 * milliseconds, so a wake-up that is lost is no more than late; here it never looks again, and so is late for ever.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

static Flow *flow;
static _Atomic uint64_t *shared;
static int source, sink;

enum { SENT, GOT };

#define LARGE  1000u /* bytes: in a chunk */
#define N_SENT 3000u

typedef struct Way {
        uint32_t queue_size, n_chunks;
        size_t size;
        unsigned n_held; /* messages that the consumer keeps */
        bool second;     /* the sender is not the thread that polls */
        bool by_socket;
} Way;

static void send_all(tg_node *node, const Way *way)
{
        uint64_t bytes[LARGE / 8] = {};

        for (uint64_t i = 0; i < N_SENT; i++) {
                bytes[0] = i;
                NODE_CHECK(tg_send(node, "out", bytes, way->size, NULL) == 0);
                shared[SENT] = i + 1;
        }
}

typedef struct Sender {
        tg_node *node;
        const Way *way;
} Sender;

static void *send_as_a_thread(void *arg)
{
        const Sender *sender = arg;

        send_all(sender->node, sender->way);
        return NULL;
}

/* Until the stop, which the test orders once all was taken. */
static void take_nothing(tg_node *node)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0)
                tg_event_free(ev);
}

static int send_and_never_look_again(tg_node *node, void *arg)
{
        Sender sender = {node, arg};
        pthread_t thread;

        node->relook_span = NSEC_NEVER;
        if (sender.way->second)
                NODE_CHECK(pthread_create(&thread, NULL, send_as_a_thread, &sender) == 0);
        else
                send_all(node, sender.way);
        take_nothing(node);
        if (sender.way->second)
                NODE_CHECK(pthread_join(thread, NULL) == 0);
        return 0;
}

/* Keeps the last few: what it gives back then is what makes room. */
static int take_and_hold(tg_node *node, void *arg)
{
        const Way *way = arg;
        tg_event *held[8] = {}, *ev;
        uint64_t n = 0;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                tg_event **place = &held[n % MAX(way->n_held, 1u)];

                if (tg_event_type(ev) != TG_EVENT_INPUT) {
                        tg_event_free(ev);
                        continue;
                }
                NODE_CHECK(*(const uint64_t *)tg_event_data(ev) == n);
                tg_event_free(*place);
                *place = way->n_held ? ev : tg_event_free(ev);
                shared[GOT] = ++n;
                if (n == N_SENT)
                        flow_note(flow);
        }
        for (unsigned i = 0; i < ELEMENTSOF(held); i++)
                tg_event_free(held[i]);
        return 0;
}

/* Each sleeps whenever it has nothing to do, so that each message and each place is one that somebody has to be woken for. */
static void all_is_sent(Way way)
{
        int status[2] = {};
        RingStatus ring;

        flow = flow_new();
        shared = flow_shared(flow);
        if (way.by_socket)
                flow_without_doorbells(flow);
        source = flow_node(flow, "source", send_and_never_look_again, &way);
        sink = flow_node(flow, "sink", take_and_hold, &way);
        flow_wait_mode(flow, source, NODE_WAIT_BLOCK);
        flow_wait_mode(flow, sink, NODE_WAIT_BLOCK);
        flow_link(flow, source, flow_output(flow, source, "out", way.queue_size, LARGE, way.n_chunks), sink, "in",
                (FlowLinkSpec){.queue_size = way.queue_size, .backpressure = true});
        if (way.second) /* somebody who could send, or a node that waits for messages has none to wait for */
                flow_link(flow, sink, flow_output(flow, sink, "silent", 10, 8, 20), source, "never", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[GOT] == N_SENT), "%lu were sent, %lu came, and nobody is woken", (unsigned long)shared[SENT],
                (unsigned long)shared[GOT]);
        ring = flow_ring(flow, source, 0);
        cr_assert_gt(ring.n_blocked_slot + ring.n_blocked_chunk, N_SENT / 20, "it hardly ever waited");
        flow_stop(flow, source, NSEC_PER_SEC);
        flow_stop(flow, sink, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, source, &status[0]) && flow_exited(flow, sink, &status[1])));
        cr_assert(status[0] == 0 && status[1] == 0);
        flow_close(flow);
}

/* With doorbells, and by the socket. */
static void all_is_sent_either_way(Way way)
{
        all_is_sent(way);
        way.by_socket = true;
        all_is_sent(way);
}

Test(room, who_waits_for_a_place_is_woken_for_each, .timeout = 60)
{
        all_is_sent_either_way((Way){.queue_size = 1, .n_chunks = 10, .size = 8});
        all_is_sent_either_way((Way){.queue_size = 4, .n_chunks = 10, .size = 8});
}

Test(room, who_waits_for_a_chunk_is_woken_by_who_gives_it_back, .timeout = 60)
{
        all_is_sent_either_way((Way){.queue_size = 10, .n_chunks = 4, .size = LARGE, .n_held = 3});
}

Test(room, who_waits_while_another_thread_polls_is_woken_by_that, .timeout = 60)
{
        all_is_sent_either_way((Way){.queue_size = 1, .n_chunks = 10, .size = 8, .second = true});
}
