/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a node waits: the rules of looking again before a sleep (node/spin.h), and what the modes of waiting do.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "node/node-internal.h"
#include "tests/node/harness.h"

/* -------- the rules -------- */

#define MANY 100000u /* CPUs: more than tasks that run here */

static SpinCost cost = {.call_ns = 1000, .wake_ns = 10000, .n_cpus = MANY, .load_path = "/proc/loadavg"};

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
        cr_assert_not(spin_worth_it(&spin, &crowded, NSEC_PER_SEC + SPIN_LOAD_AGAIN - 1), "it is not asked all the time");
        cr_assert(spin_worth_it(&spin, &crowded, NSEC_PER_SEC + SPIN_LOAD_AGAIN));
}

static void *be_busy(void *stop)
{
        (void)sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){}); /* wants to run all the same */
        while (!atomic_load_explicit((_Atomic bool *)stop, memory_order_relaxed))
                ;
        return NULL;
}

Test(spin, it_is_not_tried_while_one_more_wants_to_run_than_this_machine_has_cpus, .timeout = 60)
{
        _Atomic bool stop = false;
        pthread_t *threads;
        Spin spin = {};
        bool worth;
        SpinCost c;

        spin_cost_init(&c, -1);
        cr_assert_gt(c.n_cpus, 0);
        threads = calloc(c.n_cpus, sizeof(*threads));
        for (unsigned i = 0; i < c.n_cpus; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, be_busy, &stop), 0);
        arrive(&spin, SPIN_NEED_MIN, 0);
        worth = spin_worth_it(&spin, &c, NSEC_PER_SEC); /* these want to run, and we */
        stop = true;
        for (unsigned i = 0; i < c.n_cpus; i++)
                cr_assert_eq(pthread_join(threads[i], NULL), 0);
        free(threads);
        cr_assert_not(worth);
}

Test(spin, it_is_tried_while_each_that_wants_to_run_has_a_cpu)
{
        static const char text[] = "9.20 8.18 7.12 3/512 4711\n";
        int fd = memfd_create("load", MFD_CLOEXEC);
        char path[64];

        cr_assert_eq(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        for (unsigned n_cpus = 1; n_cpus < 6; n_cpus++) {
                Spin spin = {};
                SpinCost c = cost;

                c.n_cpus = n_cpus;
                c.load_path = path;
                arrive(&spin, SPIN_NEED_MIN, 0);
                cr_expect_eq(spin_worth_it(&spin, &c, NSEC_PER_SEC), n_cpus >= 3, "three want to run, on %u CPUs", n_cpus);
        }
        (void)fd_close(fd);
}

static void put_load(int fd, const char *text)
{
        cr_assert_eq(ftruncate(fd, 0), 0);
        cr_assert_eq(pwrite(fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

Test(spin, who_saw_too_many_looks_again_soon_and_then_later_and_later)
{
        int fd = memfd_create("load", MFD_CLOEXEC);
        nsec_t now = NSEC_PER_SEC, span = SPIN_LOAD_AGAIN;
        SpinCost c = cost;
        Spin spin = {};
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        c.n_cpus = 2;
        c.load_path = path;
        arrive(&spin, SPIN_NEED_MIN, 0);
        put_load(fd, "0.1 0.1 0.1 3/512 4711\n");
        for (unsigned i = 0; i < 12; i++) {
                cr_expect_not(spin_worth_it(&spin, &c, now));
                put_load(fd, "0.1 0.1 0.1 2/512 4711\n");
                cr_expect_not(spin_worth_it(&spin, &c, now + span - 1), "look %u", i);
                put_load(fd, "0.1 0.1 0.1 3/512 4711\n");
                now += span;
                span = MIN(2 * span, SPIN_LOAD_SPAN);
        }
        put_load(fd, "0.1 0.1 0.1 2/512 4711\n");
        cr_expect(spin_worth_it(&spin, &c, now));
        put_load(fd, "0.1 0.1 0.1 3/512 4711\n");
        cr_expect(spin_worth_it(&spin, &c, now + SPIN_LOAD_SPAN - 1), "it was calm: once a second");
        cr_expect_not(spin_worth_it(&spin, &c, now + SPIN_LOAD_SPAN));
        put_load(fd, "0.1 0.1 0.1 2/512 4711\n");
        cr_expect(spin_worth_it(&spin, &c, now + SPIN_LOAD_SPAN + SPIN_LOAD_AGAIN), "soon, as at first");
        (void)fd_close(fd);
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

enum { DONE, ALONE, GAP };

#define N_ROUNDS 3000u
#define N_PACED  300u

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
        uint64_t n = shared[GAP] ? N_PACED : N_ROUNDS;

        if (shared[ALONE])
                pin(first_cpu());
        for (uint64_t i = 0; i < n; i++) {
                nsec_t due = clock_now() + shared[GAP];
                tg_event *ev;

                while (clock_now() < due)
                        (void)sched_yield(); /* the other one goes to sleep */
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

/* Asks and answers, N_ROUNDS times, or N_PACED with @gap ns before each; what both say of their waiting. Who is preempted by the other may find its message
 * without a sleep. */
static BellCounters play_paced(NodeWaitMode mode, bool alone, bool doorbells, nsec_t gap)
{
        BellCounters counters, other;
        int a, b, out_a, out_b;

        flow = flow_new();
        if (!doorbells)
                flow_without_doorbells(flow);
        shared = flow_shared(flow);
        shared[ALONE] = alone;
        shared[GAP] = gap;
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

static BellCounters play(NodeWaitMode mode, bool alone, bool doorbells)
{
        return play_paced(mode, alone, doorbells, 0);
}

Test(wait_modes, one_that_blocks_sleeps_and_never_looks, .timeout = 60)
{
        for (int doorbells = 0; doorbells < 2; doorbells++) {
                BellCounters c = play(NODE_WAIT_BLOCK, false, doorbells);

                cr_assert_eq(c.n_looks, 0);
                cr_assert_gt(c.n_sleeps, N_ROUNDS / 10);
        }
}

Test(wait_modes, one_that_spins_never_sleeps, .timeout = 60)
{
        BellCounters c = play(NODE_WAIT_SPIN, false, true);

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
        BellCounters c = play(NODE_WAIT_ADAPTIVE, true, true);

        cr_assert_leq(c.n_looks, 10, "%lu times in %u rounds", (unsigned long)c.n_looks, N_ROUNDS);
}

Test(wait_modes, sleeps_that_a_message_ended_are_measured, .timeout = 60)
{
        for (int doorbells = 0; doorbells < 2; doorbells++) {
                BellCounters c = play(NODE_WAIT_ADAPTIVE, true, doorbells);

                cr_assert_gt(c.n_woken, N_ROUNDS / 10);
                cr_assert_leq(c.n_woken, c.n_sleeps);
                cr_assert_gt(c.woken_ns, c.n_woken * 100);
                cr_assert_leq(c.woken_ns, c.n_woken * BELL_WOKEN_MAX);
        }
}

/* Two looks at the clock are much of what it takes, and one wake is as the next. */
Test(wait_modes, one_that_blocks_measures_one_sleep_in_half_a_millisecond_at_most, .timeout = 60)
{
        nsec_t began = clock_now();
        BellCounters c = play(NODE_WAIT_BLOCK, true, true);
        nsec_t span = clock_now() - began;

        cr_assert_gt(c.n_woken, 0);
        cr_assert_leq(c.n_woken, 2 * (span / (500 * NSEC_PER_USEC) + 1), "%lu in %lu us", (unsigned long)c.n_woken, (unsigned long)(span / NSEC_PER_USEC));
        cr_assert_gt(c.woken_ns, c.n_woken * 100);
        cr_assert_leq(c.woken_ns, c.n_woken * BELL_WOKEN_MAX);
}

Test(wait_modes, one_that_blocks_measures_each_sleep_that_is_longer, .timeout = 60)
{
        BellCounters c = play_paced(NODE_WAIT_BLOCK, true, true, 2 * NSEC_PER_MSEC);

        cr_assert_gt(c.n_woken, N_PACED / 2);
        cr_assert_leq(c.n_woken, c.n_sleeps);
}

/* -------- how long it looks -------- */

#define N_WAITS 201u

enum { WINDOW = 8, LOOKING, ASLEEP, LOOKS, LOOKED_AWAY, LOOKED_BESIDE, LOOKED_BLOCKING, LOOKED_CROWDED, TAKEN }; /* DONE, ALONE */

/* All that arrives came in time, and the machine has CPUs enough: it will look. */
static const Spin hot = {.run = SPIN_NEED_MAX, .load_at = NSEC_NEVER}, cold = {.load_at = NSEC_NEVER};

static nsec_t cpu_now(void)
{
        struct timespec t;

        NODE_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
        return (nsec_t)t.tv_sec * NSEC_PER_SEC + (nsec_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
        nsec_t x = *(const nsec_t *)a, y = *(const nsec_t *)b;

        return (x > y) - (x < y);
}

static void next_in_vain(tg_node *node)
{
        tg_event *ev;

        NODE_CHECK(tg_next(node, &ev, (int64_t)NSEC_PER_MSEC) == TG_E_TIMEOUT);
}

static void send_in_vain(tg_node *node)
{
        tg_set_send_timeout(node, (int64_t)NSEC_PER_MSEC);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == TG_E_TIMEOUT);
}

/* CPU time that it usually takes, with a look before the sleep or without: what others have of the CPU meanwhile is not counted. */
static nsec_t cpu_of(void (*wait)(tg_node *node), tg_node *node, Spin *spin, Spin as)
{
        nsec_t spans[N_WAITS];

        for (unsigned i = 0; i < N_WAITS; i++) {
                nsec_t before = cpu_now();

                *spin = as;
                wait(node);
                spans[i] = cpu_now() - before;
        }
        qsort(spans, N_WAITS, sizeof(*spans), by_size);
        return spans[N_WAITS / 2];
}

static void tell_how_long(void (*wait)(tg_node *node), tg_node *node, Spin *spin)
{
        for (unsigned i = 0; i < 1000; i++)
                spin_cost_learn(&node->cost, NSEC_PER_SEC); /* as long as it may become: then it can be told from a sleep */
        shared[WINDOW] = spin_window(&node->cost);
        shared[ASLEEP] = cpu_of(wait, node, spin, cold);
        shared[LOOKING] = cpu_of(wait, node, spin, hot);
        shared[LOOKS] = node->bell.counters.n_looks;
        shared[DONE] = 1;
        flow_note(flow);
}

static int look_in_vain(tg_node *node, void *arg)
{
        tell_how_long(next_in_vain, node, &node->spin);
        return 0;
}

static int be_silent(tg_node *node, void *arg)
{
        while (!tg_should_stop(node))
                (void)usleep(1000);
        return 0;
}

static void it_looked_for_the_window(void)
{
        nsec_t more = shared[LOOKING] > shared[ASLEEP] ? shared[LOOKING] - shared[ASLEEP] : 0;

        cr_assert_leq(more, shared[WINDOW] * 3 / 2, "%lu ns more than a sleep, of %lu that it costs", (unsigned long)more,
                (unsigned long)shared[WINDOW]);
        cr_assert_geq(more, shared[WINDOW] / 4, "%lu ns more than a sleep: it never looked", (unsigned long)more);
}

Test(looks, who_waits_for_a_message_looks_for_no_longer_than_a_sleep_costs, .timeout = 60)
{
        int a, b;

        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "waits", look_in_vain, NULL);
        b = flow_node(flow, "silent", be_silent, NULL);
        flow_link(flow, b, flow_output(flow, b, "out", 10, 1000, 20), a, "in", (FlowLinkSpec){});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[DONE]));
        cr_assert_leq(shared[LOOKS], N_WAITS, "it looks once before a sleep");
        cr_assert_geq(shared[LOOKS], N_WAITS / 2, "and not only when others had the CPU until the time was over");
        it_looked_for_the_window();
        flow_close(flow);
}

/* -------- who waits for room -------- */

static int second_cpu(void)
{
        int cpu = first_cpu() + 1;
        cpu_set_t set;

        NODE_CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
        while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, &set))
                cpu++;
        return cpu < CPU_SETSIZE ? cpu : -1;
}

static int take_one(tg_node *node, void *arg)
{
        tg_event *ev;

        pin(first_cpu());
        NODE_CHECK(tg_next(node, &ev, TG_FOREVER) == 0);
        tg_event_free(ev);
        shared[TAKEN] = 1;
        return be_silent(node, arg);
}

/* Until the first one is taken, whose consumer then has said where it runs; and one more, for which there is room as well. */
static void fill(tg_node *node)
{
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
        while (!shared[TAKEN])
                (void)usleep(1000);
        NODE_CHECK(tg_send(node, "out", "x", 1, NULL) == 0);
}

/* A look in vain says so. */
static bool looks_for_room(tg_node *node, Spin as)
{
        Spin *spin = &node->outputs[0].spin;

        *spin = as;
        send_in_vain(node);
        return spin->need > 0;
}

static int look_for_room(tg_node *node, void *arg)
{
        NodeWaitMode mode = node->wait_mode;
        cpu_set_t all;

        NODE_CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
        node->cost.n_cpus = MANY;
        fill(node);
        pin(first_cpu());
        shared[LOOKED_BESIDE] = looks_for_room(node, hot);
        NODE_CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
        pin(second_cpu());
        shared[LOOKED_AWAY] = looks_for_room(node, hot);
        node->wait_mode = NODE_WAIT_BLOCK;
        shared[LOOKED_BLOCKING] = looks_for_room(node, hot);
        node->wait_mode = mode;
        node->cost.n_cpus = 0;
        shared[LOOKED_CROWDED] = looks_for_room(node, (Spin){.run = SPIN_NEED_MAX}); /* asks */
        tell_how_long(send_in_vain, node, &node->outputs[0].spin);
        return be_silent(node, arg);
}

Test(looks, who_waits_for_room_looks_as_long_and_only_where_the_reader_can_run_meanwhile, .timeout = 60)
{
        int a, b;

        if (second_cpu() < 0)
                cr_skip("one CPU");
        flow = flow_new();
        shared = flow_shared(flow);
        a = flow_node(flow, "sends", look_for_room, NULL);
        b = flow_node(flow, "full", take_one, NULL);
        flow_link(flow, a, flow_output(flow, a, "out", 10, 1000, 20), b, "in", (FlowLinkSpec){.queue_size = 1, .backpressure = true});
        flow_start(flow);
        cr_assert(FLOW_UNTIL(flow, 20, shared[DONE]));
        cr_assert(shared[LOOKED_AWAY]);
        cr_assert_not(shared[LOOKED_BESIDE], "for room that has to be made on its own CPU");
        cr_assert_not(shared[LOOKED_BLOCKING], "and is to sleep");
        cr_assert_not(shared[LOOKED_CROWDED], "while others want its CPU");
        it_looked_for_the_window();
        flow_close(flow);
}
