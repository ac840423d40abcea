/* SPDX-License-Identifier: Apache-2.0 */
/* What became of the messages of a link, read by somebody who is neither of its ends. */
#include <criterion/criterion.h>

#include "fixture.h"
#include "shm/counters.h"

static uint64_t dropped(const LinkCounters *c)
{
        uint64_t sum = 0;

        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                sum += c->dropped[i];
        return sum;
}

static LinkCounters read_link(Fixture *fx, uint32_t queue_size, RingPolicy policy, uint64_t now)
{
        LinkCounters c;

        link_counters_read(&fx->ring.ro, &fx->cursor[0].ro, queue_size, policy, now, &c);
        return c;
}

Test(counters, published_is_delivered_and_dropped_and_waiting_at_every_moment_that_is_quiet)
{
        static const RingPolicy policies[] = {RING_DROP_OLDEST, RING_BACKPRESSURE};

        for (size_t p = 0; p < ELEMENTSOF(policies); p++) {
                unsigned seed = 7;
                Fixture fx;

                fixture_ring(&fx, 16);
                fixture_link(&fx, 4, policies[p]);
                for (unsigned i = 0; i < 2000; i++) {
                        LinkCounters c;

                        if (rand_r(&seed) % 3)
                                (void)fx_send(&fx, i);
                        else
                                (void)fx_take(&fx, 0, NULL);
                        c = read_link(&fx, 4, policies[p], 1);
                        cr_assert(c.active && c.still && c.adds_up);
                        cr_assert_eq(c.published, ring_writer_head(fx.w));
                        cr_assert_eq(c.published, c.delivered + dropped(&c) + c.depth, "after %u", i);
                        cr_assert_leq(c.depth, 4);
                        cr_assert_eq(c.delivered, fx.r[0].delivered);
                        cr_assert_eq(c.delivered_bytes, 8 * c.delivered);
                }
                fixture_close(&fx);
        }
}

Test(counters, what_fell_out_of_the_window_is_dropped_before_its_reader_looks)
{
        LinkCounters c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        for (unsigned i = 0; i < 10; i++)
                must(fx_send(&fx, i));
        c = read_link(&fx, 4, RING_DROP_OLDEST, 1);
        cr_assert_eq(c.depth, 4);
        cr_assert_eq(c.dropped[DROP_WINDOW], 6);
        cr_assert_eq(c.delivered, 0);
        fixture_close(&fx);
}

Test(counters, the_age_is_that_of_the_message_that_will_be_taken_next)
{
        const uint64_t times[] = {1000, 2000, 3000, 4000};
        LinkCounters c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 2, RING_DROP_OLDEST);
        cr_assert_eq(read_link(&fx, 2, RING_DROP_OLDEST, 9000).age_ns, 0, "nothing waits");
        for (size_t i = 0; i < ELEMENTSOF(times); i++)
                must(ring_writer_publish(fx.w, &(RingPost){.payload = "x", .payload_len = 1, .time_ns = times[i]}, NULL, NULL));
        ring_writer_flush(fx.w);
        c = read_link(&fx, 2, RING_DROP_OLDEST, 9000);
        cr_assert_eq(c.age_ns, 6000, "the window begins with the third");
        cr_assert_eq(read_link(&fx, 2, RING_DROP_OLDEST, 500).age_ns, 0, "published in the future, by its own word");
        fixture_close(&fx);
}

Test(counters, holds_wakes_and_what_was_refused)
{
        const PoolClass class = {64, 8};
        RingMessage msg[2];
        LinkCounters c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        for (unsigned i = 0; i < 2; i++) {
                must(fx_send_pooled(&fx, i, 64));
                cr_assert_eq(fx_take(&fx, 0, &msg[i]), i);
        }
        ring_reader_count_wake(&fx.r[0]);
        ring_writer_count_refused(fx.w);
        c = read_link(&fx, 4, RING_BACKPRESSURE, 1);
        cr_assert_eq(c.n_holds, 2);
        cr_assert_eq(c.n_wakes, 1);
        cr_assert_eq(c.refused, 1);
        ring_reader_release(&fx.r[0], msg[0].claim);
        cr_assert_eq(read_link(&fx, 4, RING_BACKPRESSURE, 1).n_holds, 1);
        fixture_close(&fx);
}

Test(counters, begin_anew_with_another_ring_of_the_same_cursor)
{
        LinkCounters c;
        RingReader again;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 2, RING_DROP_OLDEST);
        for (unsigned i = 0; i < 8; i++)
                must(fx_send(&fx, i));
        (void)fx_take(&fx, 0, NULL);
        must(ring_reader_init(&again, &fx.ring.ro, &fx.cursor[0].rw, 0, 2, RING_DROP_OLDEST));
        must(ring_reader_start_at(&again, 8));
        c = read_link(&fx, 2, RING_DROP_OLDEST, 1);
        cr_assert(c.adds_up);
        cr_assert_eq(c.published + c.delivered + dropped(&c), 0);
        fixture_close(&fx);
}

/* Killed after it has counted what it had taken, and before the tail says so. tests/shm/step_ring.c kills real ones, at every store. */
Test(counters, who_is_killed_in_the_middle_of_telling_has_counted_too_much_and_never_too_little)
{
        RingMessage msg;
        uint64_t counted;
        LinkCounters c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 8, RING_BACKPRESSURE);
        for (unsigned i = 0; i < 7; i++)
                must(fx_send(&fx, i));
        for (unsigned i = 0; i < 3; i++)
                (void)fx_take(&fx, 0, &msg);
        c = read_link(&fx, 8, RING_BACKPRESSURE, 1);
        cr_assert(c.adds_up && c.plausible);
        for (counted = 0; counted < 10; counted++) {
                fx_cursor(&fx, 0)->delivered = counted;
                c = read_link(&fx, 8, RING_BACKPRESSURE, 1);
                cr_assert_eq(c.adds_up, counted == 3, "%lu", counted);
                cr_assert_eq(c.plausible, counted >= 3 && counted <= 8, "%lu of 7; one may be on its way from delivered to dropped", counted);
        }
        fixture_close(&fx);
}

Test(counters, a_lie_shows_and_does_no_harm)
{
        const uint64_t lies[] = {1, 100, UINT64_MAX, UINT64_C(1) << 62, UINT64_C(1) << 63};
        LinkCounters c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        for (unsigned i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert(read_link(&fx, 4, RING_DROP_OLDEST, 1).adds_up);
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                struct cursor_shared *cursor = fx_cursor(&fx, 0);
                uint64_t *const words[] = {&cursor->delivered, &cursor->dropped[DROP_POOL], &cursor->start, &cursor->tail};

                for (size_t k = 0; k < ELEMENTSOF(words); k++) {
                        uint64_t honest = *words[k];

                        *words[k] = lies[i];
                        c = read_link(&fx, 4, RING_DROP_OLDEST, 1);
                        cr_assert_not(c.adds_up, "word %zu, lie %zu", k, i);
                        cr_assert_leq(c.depth, 4);
                        *words[k] = honest;
                }
        }
        fx_ring(&fx)->head = UINT64_MAX;
        c = read_link(&fx, 4, RING_DROP_OLDEST, 1);
        cr_assert_not(c.adds_up);
        fixture_close(&fx);
}
