/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a node waits: the rules of looking again before a sleep (node/spin.h), and what the modes of waiting do.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/cleanup.h"
#include "node/spin.h"
#include "tests/node/harness.h"

/* -------- the rules -------- */

#define MANY 100000u /* CPUs: more than tasks that run here */

static SpinCost cost = {.call_ns = 1000, .wake_ns = 10000, .n_cpus = MANY};

static void arrive(Spin *spin, unsigned n, nsec_t gap)
{
        for (unsigned i = 0; i < n; i++)
                spin_arrived(spin, &cost, gap, false);
}

Test(spin, the_window_is_what_a_sleep_costs_and_never_more_than_its_bound)
{
        SpinCost c;

        cr_assert_eq(spin_window(&cost), 12000);
        spin_cost_init(&c, -1);
        cr_assert_leq(spin_window(&c), SPIN_COST_MAX + 2 * SPIN_COST_MAX / 8);
        for (unsigned i = 0; i < 1000; i++)
                spin_cost_learn(&c, NSEC_PER_SEC);
        cr_assert_leq(c.wake_ns, SPIN_COST_MAX);
        for (unsigned i = 0; i < 1000; i++)
                spin_cost_learn(&c, 0);
        cr_assert_geq(c.wake_ns, SPIN_COST_MIN);
        cr_assert_leq(c.wake_ns, SPIN_COST_MIN + 4);
}

Test(spin, a_quick_wake_counts_for_more_than_a_slow_one)
{
        SpinCost c = cost;

        spin_cost_learn(&c, 50000);
        cr_assert_lt(c.wake_ns, 12000);
        c = cost;
        spin_cost_learn(&c, 2000);
        cr_assert_eq(c.wake_ns, 8000);
}

Test(spin, it_is_tried_only_after_arrivals_in_a_row_within_the_window)
{
        Spin spin = {};

        cr_assert_not(spin_worth_it(&spin, &cost, NSEC_PER_SEC));
        arrive(&spin, SPIN_NEED_MIN - 1, 12000);
        cr_assert_not(spin_worth_it(&spin, &cost, NSEC_PER_SEC));
        arrive(&spin, 1, 12000);
        cr_assert(spin_worth_it(&spin, &cost, NSEC_PER_SEC));
        arrive(&spin, 1, 12001);
        cr_assert_not(spin_worth_it(&spin, &cost, NSEC_PER_SEC), "one that came too late begins the count anew");
}

Test(spin, each_look_in_vain_doubles_what_it_takes_and_each_good_one_halves_it)
{
        Spin spin = {};

        arrive(&spin, SPIN_NEED_MIN, 0);
        spin_missed(&spin);
        arrive(&spin, 2 * SPIN_NEED_MIN - 1, 0);
        cr_assert_not(spin_worth_it(&spin, &cost, NSEC_PER_SEC));
        arrive(&spin, 1, 0);
        cr_assert(spin_worth_it(&spin, &cost, NSEC_PER_SEC));
        for (unsigned i = 0; i < 100; i++)
                spin_missed(&spin);
        arrive(&spin, SPIN_NEED_MAX, 0);
        cr_assert(spin_worth_it(&spin, &cost, NSEC_PER_SEC), "it is never given up for good");
        for (unsigned i = 0; i < 20; i++)
                spin_arrived(&spin, &cost, 0, true);
        cr_assert_eq(spin.need, 0);
}

Test(spin, it_is_not_tried_while_more_tasks_want_to_run_than_there_are_cpus)
{
        SpinCost crowded = cost;
        Spin spin = {};

        arrive(&spin, SPIN_NEED_MIN, 0);
        crowded.n_cpus = 0; /* we run, so one wants to */
        cr_assert_not(spin_worth_it(&spin, &crowded, NSEC_PER_SEC));
        crowded.n_cpus = MANY;
        cr_assert_not(spin_worth_it(&spin, &crowded, NSEC_PER_SEC + SPIN_LOAD_SPAN - 1), "it is asked once a second");
        cr_assert(spin_worth_it(&spin, &crowded, NSEC_PER_SEC + SPIN_LOAD_SPAN));
}

Test(spin, a_cpu_that_is_taken_away_ends_it_for_a_while)
{
        Spin spin = {};

        arrive(&spin, SPIN_NEED_MIN, 0);
        cr_assert_not(spin_stolen(&spin, 1000, 1000 + SPIN_STOLEN_NS));
        cr_assert(spin_stolen(&spin, 1000, 1001 + SPIN_STOLEN_NS));
        cr_assert_not(spin_worth_it(&spin, &cost, 1000 + SPIN_CROWDED_NS));
        cr_assert(spin_worth_it(&spin, &cost, 1001 + SPIN_STOLEN_NS + SPIN_CROWDED_NS));
}

/* -------- the modes -------- */

static Flow *flow;
static _Atomic uint64_t *shared;

enum { DONE, ALONE };

#define N_ROUNDS 3000u

static void pin(int cpu)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        NODE_CHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
}

static int first_cpu(void)
{
        cpu_set_t set;
        int cpu = 0;

        NODE_CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
        while (!CPU_ISSET(cpu, &set))
                cpu++;
        return cpu;
}

static int ask(tg_node *node, void *arg)
{
        if (shared[ALONE])
                pin(first_cpu());
        for (uint64_t i = 0; i < N_ROUNDS; i++) {
                tg_event *ev;

                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
                NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
                NODE_CHECK(tg_event_type(ev) == TG_EVENT_INPUT && *(const uint64_t *)tg_event_data(ev) == i);
                tg_event_free(ev);
        }
        shared[DONE] = 1;
        flow_note(flow);
        while (!tg_should_stop(node)) /* so that its memory can be looked at */
                (void)usleep(1000);
        return 0;
}

static int answer(tg_node *node, void *arg)
{
        tg_event *ev;

        if (shared[ALONE])
                pin(first_cpu());
        while (tg_next(node, &ev, TG_FOREVER) == 0) {
                if (tg_event_type(ev) == TG_EVENT_INPUT)
                        NODE_CHECK(tg_send(node, "out", tg_event_data(ev), 8, NULL) == 0);
                tg_event_free(ev);
        }
        return 0;
}

/* Asks and answers, N_ROUNDS times; what both say of their waiting. Who is preempted by the other may find its message without a sleep. */
static BellCounters play(NodeWaitMode mode, bool alone)
{
        BellCounters counters, other;
        int a, b, out_a, out_b;

        flow = flow_new();
        shared = flow_shared(flow);
        shared[ALONE] = alone;
        a = flow_node(flow, "ask", ask, NULL);
        b = flow_node(flow, "answer", answer, NULL);
        flow_wait_mode(flow, a, mode);
        flow_wait_mode(flow, b, mode);
        out_a = flow_output(flow, a, "out", 10, 1000, 20);
        out_b = flow_output(flow, b, "out", 10, 1000, 20);
        flow_link(flow, a, out_a, b, "in", (FlowLinkSpec){});
        flow_link(flow, b, out_b, a, "in", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 30, shared[DONE]));
        counters = flow_bell(flow, a);
        other = flow_bell(flow, b);
        counters.n_sleeps += other.n_sleeps;
        counters.n_looks += other.n_looks;
        counters.n_woken += other.n_woken;
        counters.woken_ns += other.woken_ns;
        flow_stop(flow, a, NSEC_PER_SEC);
        flow_stop(flow, b, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, a, NULL) && flow_exited(flow, b, NULL)));
        flow_close(flow);
        return counters;
}

Test(wait_modes, one_that_blocks_sleeps_and_never_looks, .timeout = 60)
{
        BellCounters c = play(NODE_WAIT_BLOCK, false);

        cr_assert_eq(c.n_looks, 0);
        cr_assert_gt(c.n_sleeps, N_ROUNDS / 10);
}

Test(wait_modes, one_that_spins_never_sleeps, .timeout = 60)
{
        BellCounters c = play(NODE_WAIT_SPIN, false);

        cr_assert_eq(c.n_sleeps, 0);
}

/* -------- a lock that is never put down -------- */

#define N_SENT 20000u

static void *send_many(void *node)
{
        for (uint64_t i = 0; i < N_SENT; i++)
                NODE_CHECK(tg_send(node, "out", &i, 8, NULL) == 0);
        shared[DONE] = 1;
        flow_note(flow);
        return NULL;
}

/* Its other thread waits for what does not come, and never sleeps. */
static int spin_and_send(tg_node *node, void *arg)
{
        pthread_t thread;
        tg_event *ev;

        NODE_CHECK(pthread_create(&thread, NULL, send_many, node) == 0);
        while (tg_next(node, &ev, TG_FOREVER) == 0)
                tg_event_free(ev);
        NODE_CHECK(pthread_join(thread, NULL) == 0);
        return 0;
}

Test(wait_modes, who_never_sleeps_lets_its_other_threads_send, .timeout = 60)
{
        int a, b, out;

        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "spin", spin_and_send, NULL);
        b = flow_node(flow, "silent", answer, NULL);
        flow_wait_mode(flow, a, NODE_WAIT_SPIN);
        out = flow_output(flow, b, "out", 10, 1000, 20);
        flow_link(flow, b, out, a, "in", (FlowLinkSpec){});
        (void)flow_output(flow, a, "out", 10, 1000, 20);
        flow_start(flow);
        cr_expect(FLOW_UNTIL(flow, 10, shared[DONE]), "it has to wait for who waits for nothing");
        flow_stop(flow, a, NSEC_PER_SEC);
        flow_stop(flow, b, NSEC_PER_SEC);
        cr_assert(FLOW_UNTIL(flow, 10, flow_exited(flow, a, NULL) && flow_exited(flow, b, NULL)));
        flow_close(flow);
}

/* Whatever the machine does meanwhile: the other one cannot run while we look. */
Test(wait_modes, nobody_looks_for_what_has_to_be_sent_on_its_own_cpu, .timeout = 60)
{
        BellCounters c = play(NODE_WAIT_ADAPTIVE, true);

        cr_assert_leq(c.n_looks, 10, "%lu times in %u rounds", (unsigned long)c.n_looks, N_ROUNDS);
}

Test(wait_modes, sleeps_that_a_message_ended_are_measured, .timeout = 60)
{
        BellCounters c = play(NODE_WAIT_BLOCK, true);

        cr_assert_gt(c.n_woken, N_ROUNDS / 10);
        cr_assert_leq(c.n_woken, c.n_sleeps);
        cr_assert_gt(c.woken_ns, c.n_woken * 100);
        cr_assert_leq(c.woken_ns, c.n_woken * BELL_WOKEN_MAX);
}
