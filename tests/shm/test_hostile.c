/* SPDX-License-Identifier: Apache-2.0 */
/* What the other side writes is believed only as far as it cannot hurt. */
#include <criterion/criterion.h>

#include "hostile.h"
#include "hostile_cursor.h"

Test(hostile_producer, a_head_that_goes_back_or_leaps_ends_the_link_and_the_rest_is_counted)
{
        const uint64_t heads[] = {2, 0, UINT64_MAX, (UINT64_C(1) << 62) + 1};

        for (size_t i = 0; i < ELEMENTSOF(heads); i++) {
                Fixture fx;
                bool ring;

                fixture_ring(&fx, 8);
                fixture_link(&fx, 7, RING_DROP_OLDEST);
                for (uint64_t v = 0; v < 5; v++)
                        must(fx_send(&fx, v));
                cr_assert_eq(fx_take(&fx, 0, NULL), 0);
                fx_ring(&fx)->head = heads[i];
                cr_assert(ring_reader_ready(&fx.r[0]));
                for (int k = 0; k < 3; k++)
                        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_VIOLATION));
                cr_assert_eq(ring_reader_n_published(&fx.r[0]), 5, "nor does it count as so many messages, each of which explains a ring");
                cr_assert_eq(ring_reader_discard(&fx.r[0], DROP_INVALID, &ring), 4, "up to the last head believed");
                cr_assert(fx_adds_up(&fx, 0));
                fixture_close(&fx);
        }
}

Test(hostile_producer, a_head_without_slots_behind_it_costs_bounded_work_and_is_counted_as_torn)
{
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_DROP_OLDEST);
        fx_ring(&fx)->head = UINT64_C(1) << 40;
        for (int i = 0; i < 100; i++) {
                uint64_t says = fx_take(&fx, 0, NULL);

                cr_assert(says == FX_SAYS(RING_E_AGAIN) || says == FX_SAYS(RING_E_EMPTY), "%lx", says);
        }
        cr_assert_eq(fx_dropped(&fx, 0, DROP_WINDOW) + fx_dropped(&fx, 0, DROP_TORN), UINT64_C(1) << 40);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_TORN), 7);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(hostile_producer, breaking_the_promise_of_backpressure_is_a_violation_not_a_silent_loss)
{
        for (int what = 0; what < 4; what++) {
                const PoolClass class = {64, 2};
                Fixture fx;

                fixture_ring(&fx, 8);
                fixture_pool(&fx, &class, 1);
                fixture_link(&fx, 7, RING_BACKPRESSURE);
                must(fx_send_pooled(&fx, 0, 64));
                if (what == 0)
                        fx_ring(&fx)->slot[0].seq = 0; /* never written */
                else if (what == 1)
                        fx_ring(&fx)->slot[0].seq = 2 * 8 + 2; /* overwritten */
                else if (what == 2)
                        fx_ring(&fx)->floor = 1; /* chunk taken back */
                else
                        fx_ring(&fx)->head = 9; /* overrun */
                cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_VIOLATION), "case %d", what);
                cr_assert_eq(fx.r[0].tail, 0);
                cr_assert_eq(ring_reader_n_held(&fx.r[0]), 0);
                cr_assert(fx_adds_up(&fx, 0));
                fixture_close(&fx);
        }
}

typedef struct BadDescriptor {
        struct ring_descriptor d;
        int outcome;
} BadDescriptor;

Test(hostile_producer, a_descriptor_that_names_bytes_out_of_bounds_is_dropped_and_counted)
{
        const uint64_t end = 4096 + 4096;
        const BadDescriptor cases[] = {
                {{.flags = RING_FLAG_INLINE, .payload_len = 193}, RING_E_INVALID},
                {{.flags = RING_FLAG_INLINE, .payload_len = 185, .meta_len = 1}, RING_E_INVALID},
                {{.flags = RING_FLAG_INLINE, .payload_len = UINT32_MAX, .meta_len = UINT32_MAX}, RING_E_INVALID},
                {{.flags = RING_FLAG_INLINE, .payload_len = 0, .meta_len = 193}, RING_E_INVALID},
                {{.offset = 0, .payload_len = 1}, RING_E_INVALID},
                {{.offset = 4096 + 8, .payload_len = 1}, RING_E_INVALID},
                {{.offset = end, .payload_len = 1}, RING_E_INVALID},
                {{.offset = end + 64, .payload_len = 0}, RING_E_INVALID},
                {{.offset = UINT64_MAX - 63, .payload_len = 64}, RING_E_INVALID},
                {{.offset = end - 64, .payload_len = 65}, RING_E_INVALID},
                {{.offset = end - 64, .payload_len = 57, .meta_len = 1}, RING_E_INVALID},
                {{.offset = 4096, .payload_len = UINT32_MAX, .meta_len = UINT32_MAX}, RING_E_INVALID},
                {{.offset = 4096, .segment = POOL_MAX_SEGMENTS, .payload_len = 1}, RING_E_INVALID},
                {{.offset = 4096, .segment = 1, .payload_len = 1}, RING_E_SEGMENT},
                {{.offset = end - 64, .payload_len = 64}, 0},
                {{.offset = end - 64, .payload_len = 56, .meta_len = 8}, 0},
                {{.offset = end, .payload_len = 0}, 0},
                {{.flags = RING_FLAG_INLINE | 0xfff0, .payload_len = 192}, 0},
        };
        const PoolClass class = {64, 64};

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                RingMessage msg;
                Fixture fx;
                bool ring;
                int r;

                fixture_ring(&fx, 4);
                fixture_pool(&fx, &class, 1);
                fixture_link(&fx, 3, RING_BACKPRESSURE);
                must(fx_send(&fx, 1));
                must(fx_send(&fx, 2));
                memcpy(fx_ring(&fx)->slot[0].descriptor, &cases[i].d, sizeof(cases[i].d));
                r = ring_reader_take(&fx.r[0], &msg, &ring);
                cr_assert_eq(r, cases[i].outcome, "case %zu says %d", i, r);
                cr_assert_eq(fx_dropped(&fx, 0, DROP_INVALID), r == RING_E_INVALID);
                if (r == RING_E_SEGMENT)
                        ring_reader_skip(&fx.r[0], DROP_INVALID, &ring);
                cr_assert_eq(fx_take(&fx, 0, NULL), 2, "the link goes on");
                cr_assert(fx_adds_up(&fx, 0));
                fixture_close(&fx);
        }
}

Test(hostile_producer, a_toggling_room_word_costs_one_ring_per_take_and_no_more)
{
        Fixture fx;
        RingMessage msg;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 20; i++) {
                must(fx_send(&fx, i));
                fx_ring(&fx)->room_epoch = 2 * i + 1;
                fx_ring(&fx)->room_link = 0;
                must(ring_reader_take(&fx.r[0], &msg, &ring));
                cr_assert(ring);
                must(fx_send(&fx, i));
                must(ring_reader_take(&fx.r[0], &msg, &ring));
                cr_assert_not(ring);
        }
        fixture_close(&fx);
}

Test(hostile_consumer, a_tail_that_goes_back_or_beyond_head_loses_its_say_and_is_named_once)
{
        const uint64_t tails[] = {0, 4, UINT64_MAX, UINT64_C(1) << 63};

        for (size_t i = 0; i < ELEMENTSOF(tails); i++) {
                uint32_t link;
                Fixture fx;

                fixture_ring(&fx, 4);
                fixture_link(&fx, 2, RING_BACKPRESSURE);
                fixture_link(&fx, 2, RING_BACKPRESSURE);
                must(fx_send(&fx, 0));
                must(fx_send(&fx, 1));
                fx_take(&fx, 0, NULL);
                fx_take(&fx, 1, NULL);
                must(fx_send(&fx, 2)); /* looks: tail 1 is believed from now on */
                fx_cursor(&fx, 0)->tail = tails[i];
                cr_assert_eq(fx_send(&fx, 3), RING_E_FULL, "the honest link still gates");
                cr_assert(ring_writer_take_violation(fx.w, &link));
                cr_assert_eq(link, 0);
                cr_assert_not(ring_writer_take_violation(fx.w, &link));
                fx_take(&fx, 1, NULL);
                must(fx_send(&fx, 3));
                cr_assert_eq(fx_take(&fx, 1, NULL), 2);
                fixture_close(&fx);
        }
}

Test(hostile_consumer, claims_of_any_value_pin_at_most_k_chunks_and_only_its_own)
{
        const PoolClass class = {64, 4};
        const uint64_t values[] = {1, 2, UINT64_MAX, UINT64_C(1) << 63, 0};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 200; i++) {
                for (int k = 0; k < CURSOR_N_CLAIMS; k++)
                        fx_cursor(&fx, 1)->claim[k] = values[(i + (uint64_t)k) % ELEMENTSOF(values)] + (k ? 0 : i);
                if (i % 10 == 9)
                        memset(fx_cursor(&fx, 1)->claim, 0, sizeof(fx_cursor(&fx, 1)->claim));
                if (fx_send_pooled(&fx, i, 64))
                        memset(fx_cursor(&fx, 1)->claim, 0, sizeof(fx_cursor(&fx, 1)->claim)), i--;
                else
                        cr_assert_eq(fx_take(&fx, 0, &msg), i);
                if (fx.r[0].claim[0])
                        ring_reader_release(&fx.r[0], 0);
        }
        cr_assert(fx_adds_up(&fx, 0));
        cr_assert_eq(fx.r[0].delivered, 200);
        fixture_close(&fx);
}

Test(hostile_consumer, a_state_that_flips_at_every_look_does_not_hold_the_producer_in_a_loop)
{
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        for (uint32_t s = 0; s < 8; s++) {
                fx_cursor(&fx, 0)->state = s;
                cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), s == CURSOR_ACTIVE ? RING_E_FULL : 0);
        }
        fixture_close(&fx);
}

/* @n scripts of pseudo-random bytes. */
static void run_scripts(unsigned n, void (*drive)(const uint8_t *data, size_t size))
{
        uint64_t x = 88172645463325252u;
        uint8_t script[1024];

        for (unsigned run = 0; run < n; run++) {
                for (size_t i = 0; i < sizeof(script); i++) {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        script[i] = (uint8_t)(x >> 24);
                }
                drive(script, sizeof(script));
        }
}

static void drive_both_ends(const uint8_t *data, size_t size)
{
        (void)hostile_drive(data, size);
}

Test(hostile_bytes, random_scripts_over_every_shared_word_never_break_an_end, .timeout = 60)
{
        run_scripts(3000, drive_both_ends);
}

Test(hostile_bytes, random_cursors_neither_cost_the_honest_a_byte_nor_the_producer_a_chunk, .timeout = 60)
{
        run_scripts(2000, hostile_cursor_drive);
}
