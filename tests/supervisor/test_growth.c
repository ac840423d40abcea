/* SPDX-License-Identifier: Apache-2.0 */
/* How large a pool may become, and what its next segment is. */
#include <criterion/criterion.h>

#include "base/cleanup.h"
#include "supervisor/growth.h"

#define MIB (UINT64_C(1) << 20)

/* A pool that is asked for messages of one size until it is refused. Returns what it has grown to. */
static GrowthNeed grow(GrowthNeed need, uint64_t chunk_size, uint64_t *ret_chunks)
{
        PoolClass class;

        need.chunk_size = chunk_size;
        need.largest = MAX(need.largest, pool_roomy(chunk_size));
        *ret_chunks = 0;
        while (growth_class(&need, &class)) {
                cr_assert_geq(class.chunk_size, chunk_size);
                need.present += pool_size(&class, 1);
                cr_assert_leq(need.present, growth_bound(&need));
                *ret_chunks += class.n_chunks;
                need.n_segments++;
                cr_assert_leq(need.n_segments, NODE_MSG_MAX_SEGMENTS);
        }
        return need;
}

static const GrowthNeed fresh = {.present = GROWTH_FIRST, .first = GROWTH_FIRST, .want = 20, .n_segments = 1};

Test(growth, by_default_a_pool_holds_all_that_is_wanted_of_the_largest_message)
{
        const uint64_t sizes[] = {200, 5000, 100000, MIB, 3 * MIB + 1, 6 * MIB, 40 * MIB};
        uint64_t n;

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                (void)grow(fresh, sizes[i], &n);
                cr_assert_geq(n + 1, fresh.want, "%lu chunks of %lu bytes", (unsigned long)n, (unsigned long)sizes[i]);
        }
}

Test(growth, the_default_bound_is_between_8_mib_and_1_gib)
{
        GrowthNeed need = fresh;

        cr_assert_eq(growth_bound(&need), 8 * MIB, "nothing was asked for");
        need.largest = 1000;
        cr_assert_eq(growth_bound(&need), 8 * MIB);
        need.largest = 10 * MIB;
        cr_assert_eq(growth_bound(&need), GROWTH_FIRST + 200 * MIB);
        need.largest = UINT64_C(1) << 30;
        cr_assert_eq(growth_bound(&need), 1024 * MIB);
        need.bound = 5 * MIB;
        cr_assert_eq(growth_bound(&need), 5 * MIB, "as it was said");
}

Test(growth, the_first_large_message_does_not_take_the_whole_bound)
{
        GrowthNeed need = fresh;
        PoolClass class;

        need.chunk_size = need.largest = 40 * MIB;
        cr_assert(growth_class(&need, &class));
        cr_assert_eq(class.n_chunks, 2, "one is read while the next is written");
        need.chunk_size = need.largest = 10000;
        cr_assert(growth_class(&need, &class));
        cr_assert_eq(class.n_chunks, 20, "so many small ones are no matter");
}

Test(growth, room_for_three_messages_of_the_expected_size_is_there_from_the_beginning)
{
        PoolClass class;

        cr_assert(growth_expected(10 * MIB, MIB, 1024 * MIB, &class));
        cr_assert_eq(class.n_chunks, 3);
        cr_assert_eq(class.chunk_size, pool_roomy(10 * MIB));
        cr_assert_not(growth_expected(MIB, MIB, 1024 * MIB, &class), "it is there anyway");
        cr_assert_not(growth_expected(0, MIB, 1024 * MIB, &class));
        cr_assert(growth_expected(10000000, MIB, 20 * MIB, &class));
        cr_assert_eq(class.n_chunks, 2, "as many as its bound allows");
        cr_assert_not(growth_expected(10 * MIB, MIB, 9 * MIB, &class));
}

Test(growth, segments_are_not_used_up_by_sizes_that_rise)
{
        GrowthNeed need = fresh;
        uint64_t n, total = 0;
        PoolClass class;

        need.want = 1000;
        for (uint64_t size = 4096; size < 64 * MIB; size += size / 16) {
                need.chunk_size = pool_roomy(size);
                need.largest = MAX(need.largest, need.chunk_size);
                if (need.n_segments < NODE_MSG_MAX_SEGMENTS && growth_class(&need, &class)) {
                        need.present += pool_size(&class, 1);
                        need.n_segments++;
                }
        }
        cr_assert_eq(need.n_segments, NODE_MSG_MAX_SEGMENTS);
        (void)grow(need, 64 * MIB, &n);
        cr_assert_eq(n, 0, "no number is left");
        (void)grow(fresh, 64 * MIB, &total);
        cr_assert_gt(total, 10);
}

Test(growth, near_a_bound_that_was_said_the_size_is_exact)
{
        GrowthNeed need = fresh;
        uint64_t n;

        need.bound = 8000000;
        need = grow(need, 1800000, &n);
        cr_assert_eq(n, 2, "rounded up only one would fit");
        need = fresh;
        need.bound = GROWTH_FIRST;
        (void)grow(need, 5000, &n);
        cr_assert_eq(n, 0);
        need.bound = GROWTH_FIRST + POOL_DATA_OFFSET + 8191;
        (void)grow(need, 5000, &n);
        cr_assert_eq(n, 0);
        need.bound++;
        (void)grow(need, 5000, &n);
        cr_assert_eq(n, 1);
}

Test(growth, no_number_that_a_producer_may_ask_for_makes_a_pool_that_cannot_be)
{
        for (unsigned shift = 0; shift <= 30; shift++)
                for (int off = -1; off <= 1; off++) {
                        uint64_t n, size = (UINT64_C(1) << shift) + (uint64_t)off;

                        if (size == 0 || size > NODE_MSG_REGION_MAX)
                                continue;
                        for (uint64_t bound = 0; bound <= GROWTH_BOUND_MOST; bound = bound ? bound * 4 : 65536) {
                                GrowthNeed need = fresh;

                                need.bound = bound;
                                need.first = need.present = bound ? MIN(bound, GROWTH_FIRST) : GROWTH_FIRST;
                                need.want = 65545;
                                (void)grow(need, size, &n);
                        }
                }
}
