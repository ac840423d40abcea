/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growth of pools: a burst that is larger than its pool, and everybody who may not answer.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

#define LARGE  100000u /* bytes; the first segment has two chunks of FIRST */
#define FIRST  4000u
#define QUEUE  10

static Flow *flow;
static _Atomic uint64_t *shared;

enum { GO, SENT, RESULT, DELIVERED, DROPPED_POOL, DROPPED, MORE, SPAN, N_SEEN, FAULTS, FAULTS_OF_READER };

static void stamp(uint8_t *p, uint64_t i, size_t size)
{
        memset(p, (int)(i * 37 + 1), size);
        memcpy(p, &i, 8);
        memcpy(p + size - 8, &i, 8);
}

static bool is_stamped(const uint8_t *p, size_t size)
{
        uint64_t i, end;

        memcpy(&i, p, 8);
        memcpy(&end, p + size - 8, 8);
        for (size_t k = 8; k < size - 8; k++)
                if (p[k] != (uint8_t)(i * 37 + 1))
                        return false;
        return i == end;
}

static uint8_t bytes[LARGE * 5];

static int send_size(tg_node *node, uint64_t i, size_t size)
{
        stamp(bytes, i, size);
        return tg_send(node, "out", bytes, size, NULL);
}

static void wait_for(int word, uint64_t value)
{
        for (nsec_t until = clock_now() + 20 * NSEC_PER_SEC; shared[word] < value;)
                NODE_CHECK(clock_now() < until);
}

/* Who may drop does not wait for long, and a supervisor that answers may be slow for once: here it is the answer that counts. */
static void wait_for_answers(tg_node *node)
{
        node->grow_span = 20 * NSEC_PER_SEC;
}

/* A burst at once, then waits to be stopped. */
static int burst(tg_node *node, void *arg)
{
        size_t size = *(const size_t *)arg;
        tg_event *ev;

        for (uint64_t i = 0; i < QUEUE; i++) {
                nsec_t began = clock_now();
                int r = send_size(node, i, size);

                shared[SPAN] = MAX(shared[SPAN], clock_now() - began);
                if (r)
                        shared[RESULT] = (uint64_t)(r < 0 ? -r : r);
                else
                        shared[SENT]++;
        }
        shared[GO] = 1;
        flow_note(flow);
        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                bool stop = tg_event_type(ev) == TG_EVENT_STOP;

                tg_event_free(ev);
                if (stop)
                        break;
        }
        return 0;
}

static int burst_with_answers(tg_node *node, void *arg)
{
        wait_for_answers(node);
        return burst(node, arg);
}

/* Begins to take when the burst is over. */
static int take_late(tg_node *node, void *arg)
{
        struct tg_input_stats stats;
        tg_event *ev;

        wait_for(GO, 1);
        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                bool stop = tg_event_type(ev) == TG_EVENT_STOP || tg_event_type(ev) == TG_EVENT_INPUT_CLOSED;

                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        NODE_CHECK(is_stamped(tg_event_data(ev), tg_event_size(ev)));
                tg_event_free(ev);
                NODE_CHECK(tg_input_stats(node, "in", &stats) == 0);
                shared[DELIVERED] = stats.delivered;
                shared[DROPPED_POOL] = stats.dropped_pool;
                shared[DROPPED] = stats.dropped_queue + stats.dropped_invalid + stats.dropped_source;
                flow_note(flow);
                if (stop)
                        break;
        }
        return 0;
}

static int source, sink;

static void two_with(FlowBody from, FlowBody to, const size_t *size, FlowLinkSpec spec, FlowGrowth growth, uint64_t first, uint32_t n)
{
        flow = flow_new();
        shared = flow_shared(flow);
        flow_growth(flow, growth);
        source = flow_node(flow, "source", from, (void *)(uintptr_t)size);
        sink = flow_node(flow, "sink", to, (void *)(uintptr_t)size);
        flow_link(flow, source, flow_output(flow, source, "out", QUEUE, first, n), sink, "in", spec);
        flow_start(flow);
}

static void two(FlowBody from, FlowBody to, const size_t *size, FlowLinkSpec spec, FlowGrowth growth)
{
        two_with(from, to, size, spec, growth, FIRST, 2);
}

static void stop_both(void)
{
        int status;

        flow_stop(flow, source, NSEC_PER_SEC);
        flow_stop(flow, sink, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL) && flow_exited(flow, sink, NULL)));
        cr_assert(flow_exited(flow, source, &status) && status == 0);
        cr_assert(flow_exited(flow, sink, &status) && status == 0);
        flow_close(flow);
}

Test(grow, a_burst_larger_than_the_pool_loses_nothing, .timeout = 60)
{
        const size_t sizes[] = {FIRST, LARGE};

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                two(burst_with_answers, take_late, &sizes[i], (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 15, .n_chunks = 3});
                cr_assert(FLOW_UNTIL(flow, 20, shared[DELIVERED] == QUEUE), "%lu of %u", (unsigned long)shared[DELIVERED], QUEUE);
                cr_assert_eq(shared[SENT], QUEUE);
                cr_assert_eq(shared[DROPPED_POOL] + shared[DROPPED], 0);
                cr_assert_geq(flow_n_grows(flow), (QUEUE - 2) / 3);
                cr_assert_leq(flow_n_grows(flow), (QUEUE + 2) / 3);
                cr_assert_eq(flow_ring(flow, source, 0).pressure, 0);
                stop_both();
        }
}

Test(grow, under_backpressure_too, .timeout = 60)
{
        const size_t size = LARGE;

        two(burst, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true}, (FlowGrowth){.n_segments = 15, .n_chunks = 4});
        cr_assert(FLOW_UNTIL(flow, 20, shared[DELIVERED] == QUEUE));
        cr_assert_eq(shared[SENT], QUEUE);
        cr_assert_eq(shared[DROPPED_POOL] + shared[DROPPED], 0);
        stop_both();
}

Test(grow, what_does_not_fit_past_the_bound_is_dropped_and_counted_and_not_asked_for_again, .timeout = 60)
{
        const size_t size = LARGE;

        two(burst_with_answers, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 1, .n_chunks = 3});
        cr_assert(FLOW_UNTIL(flow, 20, shared[DELIVERED] + shared[DROPPED_POOL] == QUEUE));
        cr_assert_eq(shared[SENT], QUEUE);
        cr_assert_geq(shared[DROPPED_POOL], QUEUE - 3);
        cr_assert_eq(shared[DROPPED], 0);
        cr_assert_eq(flow_n_grows(flow), 2, "one that was granted and one that was not");
        cr_assert_gt(flow_ring(flow, source, 0).pressure, 0);
        stop_both();
}

Test(grow, a_message_that_can_never_fit_is_refused_at_once, .timeout = 60)
{
        const size_t size = LARGE;

        two(burst_with_answers, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){});
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1));
        cr_assert_eq(shared[SENT], 0);
        cr_assert_eq(shared[RESULT], EMSGSIZE);
        cr_assert_eq(flow_n_grows(flow), 1);
        stop_both();
}

Test(grow, a_supervisor_that_does_not_answer_holds_up_nobody_who_may_drop, .timeout = 60)
{
        const size_t sizes[] = {FIRST, LARGE};

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                two(burst, take_late, &sizes[i], (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 1, .n_chunks = QUEUE, .silent = true});
                cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1));
                cr_assert_eq(shared[SENT], sizes[i] == FIRST ? QUEUE : 0);
                cr_assert_eq(shared[RESULT], sizes[i] == FIRST ? 0 : TG_E_DROPPED);
                cr_assert_lt(shared[SPAN], 2 * NSEC_PER_SEC);
                flow_hear(flow);
                cr_assert_eq(flow_n_grows(flow), 1, "asked once");
                cr_assert_eq(flow_ring(flow, source, 0).refused, sizes[i] == FIRST ? 0 : QUEUE);
                stop_both();
        }
}

/* -------- backpressure waits -------- */

static int send_one_with_timeout(tg_node *node, void *arg)
{
        int r;

        tg_set_send_timeout(node, (int64_t)(50 * NSEC_PER_MSEC));
        shared[RESULT] = (uint64_t)send_size(node, 0, LARGE);
        tg_set_send_timeout(node, TG_FOREVER);
        shared[GO] = 1;
        flow_note(flow);
        r = send_size(node, 0, LARGE); /* until it is answered, or stopped */
        shared[MORE] = (uint64_t)r + 1;
        flow_note(flow);
        return 0;
}

Test(grow, under_backpressure_a_send_waits_for_the_answer_until_its_timeout_or_stop, .timeout = 60)
{
        const size_t size = LARGE;

        for (unsigned answered = 0; answered < 2; answered++) {
                two(send_one_with_timeout, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                        (FlowGrowth){.n_segments = 1, .n_chunks = 2, .silent = true});
                cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1));
                cr_assert_eq(shared[RESULT], TG_E_TIMEOUT);
                flow_hear(flow);
                cr_assert_eq(flow_n_grows(flow), 1);
                if (answered)
                        flow_grow_now(flow, source, 0);
                else
                        flow_stop(flow, source, NSEC_PER_SEC);
                cr_assert(FLOW_UNTIL(flow, 20, shared[MORE] > 0));
                cr_assert_eq(shared[MORE], answered ? 1 : TG_E_STOPPING + 1);
                cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL)));
                if (answered)
                        cr_assert(FLOW_UNTIL(flow, 20, shared[DELIVERED] == 1));
                stop_both();
        }
}

Test(grow, under_backpressure_nobody_waits_for_an_answer_that_cannot_come, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_one_with_timeout, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = 2, .silent = true});
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1));
        flow_turn_away(flow, "another one of that name is here");
        flow_hang_up(flow, source);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MORE] > 0), "its supervisor is lost for good, and it sends for ever");
        cr_assert_eq((int)shared[MORE] - 1, -EMSGSIZE);
        stop_both();
}

static int send_one(tg_node *node, void *arg)
{
        shared[MORE] = (uint64_t)send_size(node, 0, LARGE) + 1;
        flow_note(flow);
        return 0;
}

/* Nobody else wakes it: it looks for the next one by itself, as who waits for room does. */
Test(grow, under_backpressure_a_send_finds_the_next_supervisor_and_asks_that_one, .timeout = 60)
{
        flow = flow_new();
        shared = flow_shared(flow);
        flow_growth(flow, (FlowGrowth){.n_segments = 1, .n_chunks = 2, .silent = true});
        source = flow_node(flow, "source", send_one, NULL);
        sink = flow_node(flow, "sink", take_late, NULL);
        flow_link(flow, source, flow_output(flow, source, "out", QUEUE, FIRST, 2), sink, "in", (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true});
        flow_by_name(flow);
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_grows(flow) == 1));
        flow_hang_up(flow, source);
        flow_listen(flow, true);
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_joined(flow) == 1 || flow_exited(flow, sink, NULL)));
        cr_assert(!flow_exited(flow, sink, NULL), "it looks for another only when somebody rings");
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_grows(flow) == 2));
        flow_grow_now(flow, source, 0);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MORE] > 0));
        cr_assert_eq(shared[MORE], 1);
        shared[GO] = 1;
        cr_assert(FLOW_UNTIL(flow, 20, shared[DELIVERED] == 1));
        stop_both();
}

static bool sleeps(int node)
{
        ProcStat stat;

        return procstat_read(&stat, flow_pid(flow, node)) == 0 && stat.state == 'S';
}

Test(grow, under_backpressure_the_word_on_the_page_alone_ends_a_send_that_waits_for_an_answer, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_one, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true}, (FlowGrowth){.n_segments = 1, .n_chunks = 2, .silent = true});
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_grows(flow) == 1));
        cr_assert(FLOW_UNTIL(flow, 20, sleeps(source)));
        flow_stop_page(flow, source, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 20, shared[MORE] > 0), "it waits on");
        cr_assert_eq(shared[MORE], TG_E_STOPPING + 1);
        shared[GO] = 1;
        stop_both();
}

/* -------- those who read -------- */

Test(grow, a_descriptor_in_a_segment_that_nobody_told_of_ends_the_link_alone, .timeout = 60)
{
        const size_t size = LARGE;

        two(burst_with_answers, take_late, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 1, .n_chunks = QUEUE, .secret = true});
        cr_assert(FLOW_UNTIL(flow, 20, flow_n_violations(flow) == 1));
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, sink, NULL)), "its input was closed, and it ended by itself");
        cr_assert_eq(shared[DELIVERED], 0);
        stop_both();
}

/* As take_late(), but without room for what the pool grows by. */
static int take_late_without_memory(tg_node *node, void *arg)
{
        unsigned long pages = 0;
        FILE *f = fopen("/proc/self/statm", "re");

        NODE_CHECK(f && fscanf(f, "%lu", &pages) == 1 && fclose(f) == 0);
        NODE_CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + LARGE * QUEUE / 2, .rlim_max = RLIM_INFINITY}) == 0);
        shared[MORE] = 1;
        return take_late(node, arg);
}

/* The burst begins when the reader has no memory left. */
static int burst_after_it(tg_node *node, void *arg)
{
        wait_for(MORE, 1);
        return burst_with_answers(node, arg);
}

Test(grow, a_consumer_without_memory_for_a_segment_loses_what_lies_in_there_and_lives_on, .timeout = 60)
{
        const size_t size = LARGE;

#if defined(__SANITIZE_ADDRESS__)
        cr_skip("the sanitizer needs memory of its own");
#endif
        two(burst_after_it, take_late_without_memory, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 1, .n_chunks = QUEUE});
        cr_assert(FLOW_UNTIL(flow, 20, shared[GO] == 1));
        flow_stop(flow, source, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, sink, NULL)), "it has looked at all that is there, and ended by itself");
        cr_expect_eq(shared[DELIVERED] + shared[DROPPED], 0);
        cr_expect_eq(shared[DROPPED_POOL], QUEUE, "%lu", (unsigned long)shared[DROPPED_POOL]);
        cr_expect_eq(flow_n_violations(flow) + flow_n_links_left(flow), 0);
        stop_both();
}

Test(grow, under_backpressure_it_lets_go_of_the_link_and_blames_nobody, .timeout = 60)
{
        const size_t size = LARGE;

#if defined(__SANITIZE_ADDRESS__)
        cr_skip("the sanitizer needs memory of its own");
#endif
        two(burst_after_it, take_late_without_memory, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = QUEUE});
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, sink, NULL)), "its input was closed, and it ended by itself");
        cr_expect_eq(shared[DELIVERED] + shared[DROPPED], 0);
        cr_expect_eq(shared[DROPPED_POOL], QUEUE, "%lu", (unsigned long)shared[DROPPED_POOL]);
        cr_expect_eq(flow_n_links_left(flow), 1);
        cr_expect_eq(flow_n_violations(flow), 0, "the producer did nothing wrong");
        cr_expect_eq(shared[SENT], QUEUE);
        stop_both();
}

/* Sends whenever told to, so that a consumer that comes later has something to read. */
static int send_on_demand(tg_node *node, void *arg)
{
        wait_for_answers(node);
        for (uint64_t i = 0; !tg_should_stop(node); i++) {
                while (shared[GO] <= i && !tg_should_stop(node)) {
                        tg_event *ev;

                        if (tg_next(node, &ev, (int64_t)NSEC_PER_MSEC) == 0)
                                tg_event_free(ev);
                }
                if (!tg_should_stop(node))
                        NODE_CHECK(send_size(node, i, LARGE) == 0);
                shared[SENT] = i + 1;
                flow_note(flow);
        }
        return 0;
}

static int take_all(tg_node *node, void *arg)
{
        tg_event *ev;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                bool stop = tg_event_type(ev) == TG_EVENT_STOP;

                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        NODE_CHECK(is_stamped(tg_event_data(ev), tg_event_size(ev)));
                        shared[N_SEEN]++;
                        flow_note(flow);
                }
                tg_event_free(ev);
                if (stop)
                        break;
        }
        return 0;
}

Test(grow, a_consumer_that_comes_later_knows_all_segments, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_on_demand, take_all, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 2, .n_chunks = 1});
        shared[GO] = 1;
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 1));
        flow_will_restart(flow, sink, true);
        flow_kill(flow, sink);
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, sink, NULL)));
        flow_restart(flow, sink);
        cr_assert(FLOW_UNTIL(flow, 20, flow_running(flow)));
        shared[GO] = 3;
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 3));
        cr_assert_eq(flow_n_violations(flow), 0);
        stop_both();
}

Test(grow, a_successor_is_told_which_segments_are_used, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_on_demand, take_all, &size, (FlowLinkSpec){.queue_size = QUEUE}, (FlowGrowth){.n_segments = 2, .n_chunks = 1});
        shared[GO] = 1;
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 1));
        cr_assert(flow_knows(flow, source));
        cr_assert_eq(flow_n_segments_named(flow), 1);
        shared[GO] = 2;
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 2));
        stop_both();
}

/* -------- what it costs -------- */

static uint64_t faults(void)
{
        struct rusage usage;

        NODE_CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
        return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

#define N_WARM 4
#define N_SENT 300

static int send_and_count_faults(tg_node *node, void *arg)
{
        uint64_t before = 0;

        for (uint64_t i = 0; i < N_SENT; i++) {
                if (i == N_WARM)
                        before = faults();
                NODE_CHECK(send_size(node, i, LARGE) == 0);
        }
        shared[FAULTS] = faults() - before;
        shared[GO] = 1;
        flow_note(flow);
        return 0;
}

/* Holds some, so that all chunks are used. */
static int take_and_count_faults(tg_node *node, void *arg)
{
        tg_event *ev, *held[6] = {};
        uint64_t before = 0;

        for (uint64_t i = 0; i < N_SENT; i++) {
                if (i == N_WARM)
                        before = faults();
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
                NODE_CHECK(is_stamped(tg_event_data(ev), tg_event_size(ev)));
                tg_event_free(held[i % ELEMENTSOF(held)]);
                held[i % ELEMENTSOF(held)] = ev;
        }
        shared[FAULTS_OF_READER] = faults() - before;
        for (size_t i = 0; i < ELEMENTSOF(held); i++)
                tg_event_free(held[i]);
        return 0;
}

Test(grow, a_pool_that_has_grown_costs_no_page_fault_not_even_with_its_first_messages, .timeout = 60)
{
        const size_t size = LARGE;

#if defined(__SANITIZE_ADDRESS__)
        cr_skip("the sanitizer's own memory grows");
#endif
        two(send_and_count_faults, take_and_count_faults, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = 20});
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL) && flow_exited(flow, sink, NULL)));
        cr_assert_eq(shared[GO], 1);
        cr_assert_leq(shared[FAULTS], 8, "the sender took %lu faults", (unsigned long)shared[FAULTS]);
        cr_assert_leq(shared[FAULTS_OF_READER], 8, "the reader took %lu faults", (unsigned long)shared[FAULTS_OF_READER]);
        flow_close(flow);
}

/* -------- sizes that grow past the bound -------- */

static const size_t several = 3 * (size_t)LARGE; /* as long as three of those that the pool has grown for */

/* Four of one size, four of the other, and again. */
static int send_sizes_and_count_faults(tg_node *node, void *arg)
{
        uint64_t before = 0;

        memset(bytes, 1, sizeof(bytes)); /* which are not the pool's */
        for (uint64_t i = 0; i < N_SENT; i++) {
                if (i == N_WARM)
                        before = faults();
                NODE_CHECK(send_size(node, i, i / 4 % 2 ? several : LARGE) == 0);
        }
        shared[FAULTS] = faults() - before;
        shared[GO] = 1;
        flow_note(flow);
        return 0;
}

static int take_sizes_and_count_faults(tg_node *node, void *arg)
{
        uint64_t before = 0;
        tg_event *ev;

        for (uint64_t i = 0; i < N_SENT; i++) {
                if (i == N_WARM)
                        before = faults();
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0 && tg_event_type(ev) == TG_EVENT_INPUT);
                NODE_CHECK(tg_event_size(ev) == (i / 4 % 2 ? several : LARGE) && is_stamped(tg_event_data(ev), tg_event_size(ev)));
                NODE_CHECK(memcmp(tg_event_data(ev), &i, 8) == 0);
                tg_event_free(ev);
        }
        shared[FAULTS_OF_READER] = faults() - before;
        return 0;
}

Test(grow, a_message_that_fits_no_chunk_past_the_bound_is_put_where_smaller_ones_were, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_sizes_and_count_faults, take_sizes_and_count_faults, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = 4});
        cr_assert(FLOW_UNTIL(flow, 20, flow_exited(flow, source, NULL) && flow_exited(flow, sink, NULL)));
        cr_assert_eq(shared[GO], 1, "one of them was refused, or lost");
        cr_assert_leq(flow_n_grows(flow), 3, "one that was granted, and each size once that was not");
#if !defined(__SANITIZE_ADDRESS__)
        cr_assert_leq(shared[FAULTS], 8, "the sender took %lu faults", (unsigned long)shared[FAULTS]);
        cr_assert_leq(shared[FAULTS_OF_READER], 8, "the reader took %lu faults", (unsigned long)shared[FAULTS_OF_READER]);
#endif
        flow_close(flow);
}

/* Keeps the first message until it has the second. */
static int hold_the_first(tg_node *node, void *arg)
{
        tg_event *ev, *first = NULL;

        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                bool stop = tg_event_type(ev) == TG_EVENT_STOP || tg_event_type(ev) == TG_EVENT_INPUT_CLOSED;

                if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        NODE_CHECK(is_stamped(tg_event_data(ev), tg_event_size(ev)));
                        if (shared[N_SEEN] == 0)
                                first = TAKE_PTR(ev);
                        else if (first) {
                                NODE_CHECK(is_stamped(tg_event_data(first), tg_event_size(first)));
                                tg_event_free(TAKE_PTR(first));
                        }
                }
                tg_event_free(ev);
                shared[N_SEEN]++;
                flow_note(flow);
                if (stop)
                        break;
        }
        return 0;
}

static int send_past_what_is_held(tg_node *node, void *arg)
{
        const size_t all = 4 * (size_t)LARGE; /* with what is held in the only segment there is no room for it */

        wait_for_answers(node);
        NODE_CHECK(send_size(node, 0, LARGE) == 0);
        wait_for(N_SEEN, 1);
        tg_set_send_timeout(node, (int64_t)(50 * NSEC_PER_MSEC));
        shared[RESULT] = (uint64_t)send_size(node, 1, all);
        tg_set_send_timeout(node, TG_FOREVER);
        NODE_CHECK(send_size(node, 1, LARGE) == 0);
        wait_for(N_SEEN, 2);
        shared[MORE] = (uint64_t)send_size(node, 2, all) + 1;
        flow_note(flow);
        return 0;
}

Test(grow, what_a_reader_holds_is_waited_for_under_backpressure_and_costs_others_that_message, .timeout = 60)
{
        const size_t size = LARGE;

        for (unsigned lossless = 0; lossless < 2; lossless++) {
                two(send_past_what_is_held, hold_the_first, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = lossless},
                        (FlowGrowth){.n_segments = 1, .n_chunks = 4});
                cr_assert(FLOW_UNTIL(flow, 20, shared[MORE] > 0));
                cr_assert_eq(shared[RESULT], lossless ? TG_E_TIMEOUT : TG_E_DROPPED);
                cr_assert_eq(flow_ring(flow, source, 0).refused, !lossless);
                cr_assert_eq(shared[MORE], 1, "it is free again");
                cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] >= 3));
                stop_both();
        }
}

static int send_one_large(tg_node *node, void *arg)
{
        shared[RESULT] = (uint64_t)send_size(node, 0, several) + 1;
        flow_note(flow);
        return 0;
}

Test(grow, what_can_be_put_where_smaller_ones_were_waits_for_no_supervisor_that_does_not_answer, .timeout = 60)
{
        const size_t size = LARGE;

        two_with(send_one_large, take_all, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = 2, .silent = true}, LARGE, 4);
        cr_assert(FLOW_UNTIL(flow, 20, shared[RESULT] > 0));
        cr_assert_eq(shared[RESULT], 1);
        flow_hear(flow);
        cr_assert_eq(flow_n_grows(flow), 1, "it was asked");
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 1));
        stop_both();
}

static int send_what_never_fits(tg_node *node, void *arg)
{
        NODE_CHECK(send_size(node, 0, LARGE) == 0 && send_size(node, 1, several) == 0);
        shared[RESULT] = (uint64_t)-send_size(node, 2, sizeof(bytes));
        shared[MORE] = (uint64_t)-send_size(node, 2, sizeof(bytes));
        NODE_CHECK(send_size(node, 2, several) == 0);
        flow_note(flow);
        return 0;
}

Test(grow, of_a_message_that_no_segment_can_hold_the_supervisor_hears_once_though_less_was_refused_already, .timeout = 60)
{
        const size_t size = LARGE;

        two(send_what_never_fits, take_all, &size, (FlowLinkSpec){.queue_size = QUEUE, .backpressure = true},
                (FlowGrowth){.n_segments = 1, .n_chunks = 4});
        cr_assert(FLOW_UNTIL(flow, 20, shared[N_SEEN] == 3));
        cr_assert_eq(shared[RESULT], EMSGSIZE);
        cr_assert_eq(shared[MORE], EMSGSIZE);
        flow_hear(flow);
        cr_assert_eq(flow_n_grows(flow), 3, "one that was granted, one that was not, and this");
        stop_both();
}
