/* SPDX-License-Identifier: Apache-2.0 */
/* ring_reader_take_more(): several messages that nobody sees to be taken before all of them are. */
#include <criterion/criterion.h>

#include "fixture.h"

/* Takes one more; its value, or UINT64_MAX - outcome. */
static uint64_t fx_take_more(Fixture *fx, unsigned l, RingMessage *msg, bool *ret_ring)
{
        uint64_t v;
        int r;

        r = ring_reader_take_more(&fx->r[l], msg, ret_ring);
        if (r)
                return FX_SAYS(r);
        memcpy(&v, msg->payload, 8);
        return v;
}

static void send_up_to(Fixture *fx, uint64_t from, uint64_t to)
{
        for (uint64_t i = from; i < to; i++)
                must(fx_send(fx, i));
}

Test(more, the_cursor_stands_until_all_is_shown_and_an_heir_gets_every_one_of_them)
{
        RingMessage msg;
        CursorStatus s;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        send_up_to(&fx, 0, 9);
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        for (uint64_t i = 1; i < 6; i++)
                cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), i);
        cursor_read(&fx.cursor[0].ro, &s);
        cr_assert_eq(s.tail, 1);
        cr_assert_eq(s.delivered, 1);

        must(ring_reader_init(&fx.r[0], &fx.ring.ro, &fx.cursor[0].rw, 0, 10, RING_BACKPRESSURE)); /* it died here */
        must(ring_reader_start_at(&fx.r[0], s.tail));
        for (uint64_t i = 1; i < 9; i++)
                cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), i);
        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), FX_SAYS(RING_E_EMPTY));
        cr_assert_not(ring_reader_show(&fx.r[0]));
        cr_assert(fx_adds_up(&fx, 0));
        cursor_read(&fx.cursor[0].ro, &s);
        cr_assert_eq(s.tail, 9);
        cr_assert_eq(s.delivered, 8);
        cr_assert_eq(s.delivered_bytes, 64);
        fixture_close(&fx);
}

Test(more, a_producer_that_waits_is_rung_once_and_only_when_it_can_see_the_room)
{
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        send_up_to(&fx, 0, 4);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        for (uint64_t i = 0; i < 3; i++) {
                cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), i);
                cr_assert_not(ring);
                cr_assert_eq(ring_writer_look(fx.w, 1, 0, NULL), RING_E_FULL);
        }
        cr_assert(ring_reader_show(&fx.r[0]));
        cr_assert_not(ring_reader_show(&fx.r[0]));
        cr_assert_eq(ring_writer_look(fx.w, 3, 0, NULL), 0);
        fixture_close(&fx);
}

/* By whatever comes after them on the same link: nothing that was taken is taken back, or counted twice. */
Test(more, is_shown_with_what_is_taken_skipped_discarded_or_stopped_after_it)
{
        for (unsigned how = 0; how < 4; how++) {
                RingMessage msg;
                CursorStatus s;
                Fixture fx;
                bool ring;

                fixture_ring(&fx, 16);
                fixture_link(&fx, 10, RING_BACKPRESSURE);
                send_up_to(&fx, 0, 10);
                cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
                for (uint64_t i = 0; i < 3; i++)
                        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), i);
                switch (how) {
                case 0:
                        must(ring_reader_take(&fx.r[0], &msg, &ring));
                        break;
                case 1:
                        ring_reader_skip(&fx.r[0], DROP_POOL, &ring);
                        break;
                case 2:
                        cr_assert_eq(ring_reader_discard(&fx.r[0], DROP_DISCARDED, &ring), 7);
                        break;
                case 3:
                        ring_reader_stop(&fx.r[0], &ring);
                        break;
                }
                cr_assert(ring, "%u", how);
                cr_assert(fx_adds_up(&fx, 0), "%u", how);
                cursor_read(&fx.cursor[0].ro, &s);
                cr_assert_eq(s.tail, ((uint64_t[]){4, 4, 10, 3})[how]);
                cr_assert_eq(s.delivered, how == 0 ? 4 : 3);
                fixture_close(&fx);
        }
}

Test(more, all_of_a_discarded_link_is_shown_also_when_nothing_is_left_of_it)
{
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        send_up_to(&fx, 0, 2);
        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), 0);
        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), 1);
        cr_assert_eq(ring_reader_discard(&fx.r[0], DROP_INVALID, &ring), 0);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

/* The window is that of the first one's moment; what was overwritten since is counted, and the newest are found again. */
Test(more, of_a_drop_oldest_link_gives_no_message_that_was_overwritten_meanwhile)
{
        uint64_t next, last = 0, n = 0;
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 5, RING_DROP_OLDEST);
        send_up_to(&fx, 0, 20);
        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), 15);
        send_up_to(&fx, 20, 22);
        cr_assert_eq(fx_take_more(&fx, 0, &msg, &ring), 16, "it was in the window, and still is there");
        send_up_to(&fx, 22, 90);
        while ((next = fx_take_more(&fx, 0, &msg, &ring)) != FX_SAYS(RING_E_EMPTY)) {
                cr_assert(next >= 85 && next > last, "%lu after %lu", next, last);
                last = next;
                n++;
        }
        cr_assert_eq(n, 5);
        cr_assert_not(ring_reader_show(&fx.r[0]));
        cr_assert(fx_adds_up(&fx, 0));
        cr_assert_eq(fx_dropped(&fx, 0, DROP_WINDOW) + fx_dropped(&fx, 0, DROP_OVERRUN), 83);
        fixture_close(&fx);
}

/* Chunks are claimed as ever: none of those that are held is written again, and those that are let go may be, once the tail is shown. */
Test(more, of_pooled_messages_each_is_claimed_before_the_tail_passes_it)
{
        const PoolClass class = {4096, 6};
        RingMessage msg[4];
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 6; i++)
                must(fx_send_pooled(&fx, i, 4096));
        for (uint64_t i = 0; i < 4; i++)
                cr_assert_eq(fx_take_more(&fx, 0, &msg[i], &ring), i);
        cr_assert_eq(ring_reader_n_held(&fx.r[0]), 4);
        cr_assert_not(ring_reader_release(&fx.r[0], msg[0].claim));
        cr_assert_eq(fx_send_pooled(&fx, 6, 4096), POOL_E_HELD, "its reader could die, and its heir want it");
        cr_assert_not(ring_reader_show(&fx.r[0]));
        must(fx_send_pooled(&fx, 6, 4096));
        cr_assert_eq(fx_send_pooled(&fx, 7, 4096), POOL_E_HELD);
        for (uint64_t i = 1; i < 4; i++)
                cr_assert_eq(((const uint8_t *)msg[i].payload)[4095], i);
        fixture_close(&fx);
}
