/* SPDX-License-Identifier: Apache-2.0 */
/* Who is placed beside whom: what nodes say is given, two looks a second. */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "supervisor/placement.h"

#define MAX_NODES 1000
#define US        NSEC_PER_USEC

static Placement *placement;
static PlacementSpec specs[MAX_NODES];
static BellCounters said[MAX_NODES];
static uint32_t n_nodes;
static nsec_t now;
static int cpu[MAX_NODES];
static unsigned n_moves;

static void on_move(uint32_t node, int where, const char *why, void *userdata)
{
        cr_assert_neq(cpu[node], where, "it is there already");
        cr_assert(why && *why);
        cpu[node] = where;
        n_moves++;
}

/* Each consumes from the one before it. */
static void chain(uint32_t n, PlacementWish wish)
{
        n_nodes = n;
        for (uint32_t i = 0; i < n; i++) {
                specs[i] = (PlacementSpec){.wish = wish, .producer = i ? i - 1 : PLACEMENT_NOBODY, .fixed_cpu = -1};
                cpu[i] = -1;
        }
}

static void begin(size_t n_cpus)
{
        static const int cpus[] = {3, 5, 9};

        cr_assert_eq(placement_new(&placement, specs, n_nodes, cpus, n_cpus, 0), 0);
        for (uint32_t i = 0; i < n_nodes; i++)
                placement_begin(placement, i, -1);
}

typedef struct Life { /* in half a second */
        unsigned n;      /* messages, each of which wakes */
        nsec_t wake_ns, service_ns;
} Life;

static void live(Life life, unsigned n_looks)
{
        for (unsigned k = 0; k < n_looks; k++) {
                now += PLACEMENT_PERIOD;
                for (uint32_t i = 0; i < n_nodes; i++) {
                        said[i].n_taken += life.n;
                        said[i].n_woken += life.n;
                        said[i].woken_ns += life.n * life.wake_ns;
                        said[i].cpu_ns += life.n * life.service_ns;
                        said[i].cpu_at = now;
                }
                placement_judge(placement, said, now, on_move, NULL);
        }
}

static void end(void)
{
        cr_assert_null(placement_free(placement));
}

static const Life slow_wakes = {500, 50 * US, 10 * US}, quick_wakes = {500, 12 * US, 10 * US}, long_work = {500, 12 * US, 200 * US};

Test(placement, a_consumer_with_short_work_is_placed_beside_its_producer_and_stays_if_that_helps)
{
        chain(2, PLACEMENT_AUTO);
        begin(2);
        live(slow_wakes, 2);
        cr_assert_eq(n_moves, 0, "one look says nothing yet, for it has no other to be held against");
        live(slow_wakes, 1);
        cr_assert_eq(n_moves, 2);
        cr_assert_eq(cpu[0], cpu[1]);
        cr_assert(cpu[0] == 3 || cpu[0] == 5);
        cr_assert_eq(placement_state(placement, 1).beside, 0);
        cr_assert_eq(placement_state(placement, 0).beside, PLACEMENT_NOBODY);
        live(quick_wakes, 200);
        cr_assert_eq(n_moves, 2);
        end();
}

Test(placement, it_leaves_if_that_does_not_help_and_is_tried_again_ever_later)
{
        unsigned n_looks[3] = {};

        chain(2, PLACEMENT_AUTO);
        begin(2);
        for (unsigned i = 0; i < 3; i++) {
                while (cpu[1] < 0 && n_looks[i]++ < 1000)
                        live(slow_wakes, 1);
                cr_assert_geq(cpu[1], 0);
                live(slow_wakes, 2);
                cr_assert_eq(cpu[1], -1, "placed, and woken no sooner");
                cr_assert_eq(cpu[0], -1, "nor has its producer a place for itself");
        }
        cr_assert_geq(n_looks[1] * PLACEMENT_PERIOD, PLACEMENT_AGAIN);
        cr_assert_geq(n_looks[2] * PLACEMENT_PERIOD, 2 * PLACEMENT_AGAIN);
        end();
}

Test(placement, it_leaves_when_its_work_gets_long)
{
        chain(2, PLACEMENT_AUTO);
        begin(2);
        live(slow_wakes, 3);
        live(quick_wakes, 3);
        cr_assert_geq(cpu[1], 0);
        live(long_work, 1);
        cr_assert_geq(cpu[1], 0, "one look does not decide");
        live(long_work, 1);
        cr_assert_eq(cpu[1], -1);
        end();
}

Test(placement, long_work_rare_wakes_and_quick_ones_are_no_reason)
{
        static const Life lives[] = {{500, 50 * US, 200 * US}, {PLACEMENT_WAKES - 1, 50 * US, 10 * US}, {500, 9 * US, 5 * US}, {0, 0, 0}};

        for (size_t i = 0; i < ELEMENTSOF(lives); i++) {
                chain(2, PLACEMENT_AUTO);
                begin(2);
                live(lives[i], 20);
                cr_assert_eq(n_moves, 0, "%zu", i);
                end();
        }
}

Test(placement, no_more_are_placed_together_than_half_a_cpu_serves)
{
        static const Life busy = {5000, 50 * US, 20 * US}; /* 200 per mille each */

        chain(4, PLACEMENT_AUTO);
        begin(2);
        live(busy, 3);
        cr_assert_eq(cpu[0], cpu[1]);
        cr_assert_geq(cpu[0], 0);
        cr_assert(cpu[2] != cpu[0], "three would need more than half");
        end();
}

Test(placement, a_chain_shares_one_cpu_and_a_circle_does_too)
{
        for (unsigned circle = 0; circle < 2; circle++) {
                chain(4, PLACEMENT_AUTO);
                if (circle)
                        specs[0].producer = 3;
                begin(3);
                live(slow_wakes, 4);
                for (unsigned i = 0; i < 4; i++) {
                        cr_assert_geq(cpu[i], 0, "%u", i);
                        cr_assert_eq(cpu[i], cpu[0]);
                }
                end();
        }
}

static nsec_t cpu_now(void)
{
        struct timespec ts;

        cr_assert_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

Test(placement, a_thousand_join_in_one_look_without_holding_up_the_loop, .timeout = 60)
{
        nsec_t before, ns;

        chain(MAX_NODES, PLACEMENT_COLOCATE);
        begin(2);
        before = cpu_now();
        live(quick_wakes, 1);
        ns = cpu_now() - before;
        for (unsigned i = 0; i < n_nodes; i++)
                cr_assert_eq(cpu[i], cpu[0], "%u", i);
        cr_assert_geq(cpu[0], 0);
        cr_assert_lt(ns, 300 * NSEC_PER_MSEC, "%llu ms of CPU; with a look at all groups for each that joins it takes 700", (unsigned long long)(ns / NSEC_PER_MSEC));
        end();
}

Test(placement, colocate_needs_no_reason_and_spread_and_none_have_none)
{
        chain(2, PLACEMENT_COLOCATE);
        begin(2);
        live((Life){0}, 1);
        cr_assert_eq(cpu[0], cpu[1]);
        cr_assert_geq(cpu[0], 0);
        live(long_work, 10);
        cr_assert_geq(cpu[1], 0);
        end();

        for (PlacementWish wish = PLACEMENT_SPREAD; wish <= PLACEMENT_NONE; wish++) {
                chain(2, PLACEMENT_COLOCATE);
                specs[0].wish = wish;
                n_moves = 0;
                begin(2);
                live(slow_wakes, 5);
                cr_assert_eq(n_moves, wish == PLACEMENT_SPREAD ? 2 : 0);
                end();
                chain(2, wish);
                n_moves = 0;
                begin(2);
                live(slow_wakes, 5);
                cr_assert_eq(n_moves, 0);
                cr_assert_eq(placement_next(placement, now), NSEC_NEVER);
                end();
        }
}

Test(placement, who_has_an_affinity_is_never_moved_and_others_come_to_its_only_cpu)
{
        chain(3, PLACEMENT_COLOCATE);
        specs[0].fixed = true;
        specs[0].fixed_cpu = 9;
        specs[2].fixed = true;
        begin(2);
        live(slow_wakes, 3);
        cr_assert_eq(cpu[0], -1);
        cr_assert_eq(cpu[1], 9);
        cr_assert_eq(cpu[2], -1);
        end();
}

Test(placement, the_end_of_a_producer_sets_its_consumer_free_and_who_refuses_is_left_alone)
{
        chain(2, PLACEMENT_COLOCATE);
        begin(2);
        live(slow_wakes, 1);
        cr_assert_geq(cpu[1], 0);
        placement_end(placement, 0);
        cpu[0] = -1;
        live(slow_wakes, 1);
        cr_assert_eq(cpu[1], -1);
        placement_begin(placement, 0, -1);
        live(slow_wakes, 1);
        cr_assert_eq(cpu[0], cpu[1]);
        cr_assert_geq(cpu[1], 0);

        placement_refused(placement, 1, "it would not");
        cpu[1] = -1;
        live(slow_wakes, 3);
        cr_assert_eq(cpu[0], -1);
        cr_assert_eq(cpu[1], -1);
        cr_assert_str_eq(placement_state(placement, 1).why, "it would not");
        end();
}

Test(placement, what_nobody_honest_says_is_nothing_said)
{
        chain(2, PLACEMENT_AUTO);
        begin(2);
        for (unsigned i = 0; i < 50; i++) {
                said[1] = (BellCounters){.n_taken = 1000 - i, .n_woken = UINT64_MAX - i, .woken_ns = UINT64_MAX, .cpu_ns = i, .cpu_at = 1};
                now += PLACEMENT_PERIOD;
                placement_judge(placement, said, now, on_move, NULL);
        }
        cr_assert_eq(n_moves, 0);
        end();
}

Test(placement, one_cpu_is_no_choice)
{
        chain(2, PLACEMENT_COLOCATE);
        begin(1);
        live(slow_wakes, 5);
        cr_assert_eq(n_moves, 0);
        cr_assert_eq(placement_next(placement, now), NSEC_NEVER);
        end();
}
