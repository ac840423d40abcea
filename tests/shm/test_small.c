/* SPDX-License-Identifier: Apache-2.0 */
/* ring_writer_publish_small() and ring_reader_take_small(): the short way does what the long one does, or nothing. */
#include <criterion/criterion.h>

#include "fixture.h"

/* Message @i in one of the forms that there are: inline, with metadata, in a chunk. */
static void send_some_form(Fixture *fx, uint64_t i)
{
        RingPost post = {.payload = &i, .payload_len = 8, .meta = "metadata", .sequence = i};

        if (i % 5 == 3) {
                must(fx_send_pooled(fx, i, 4096));
                return;
        }
        post.meta_len = i % 5 == 1 ? 8 : 0;
        must(ring_writer_publish(fx->w, &post, NULL, NULL));
        ring_writer_flush(fx->w);
}

static void expect_same(const RingMessage *a, const RingMessage *b)
{
        cr_assert_eq(a->index, b->index);
        cr_assert_eq(memcmp(&a->d, &b->d, sizeof(a->d)), 0);
        cr_assert_eq(memcmp(a->payload, b->payload, a->d.payload_len), 0);
        cr_assert_eq(a->claim < 0, b->claim < 0);
        cr_assert_eq(a->must_copy, b->must_copy);
}

static void expect_same_counts(Fixture *fx, unsigned a, unsigned b)
{
        CursorStatus x, y;

        cursor_read(&fx->cursor[a].ro, &x);
        cursor_read(&fx->cursor[b].ro, &y);
        cr_assert_eq(x.tail, y.tail);
        cr_assert_eq(x.delivered, y.delivered);
        cr_assert_eq(x.delivered_bytes, y.delivered_bytes);
        cr_assert_eq(memcmp(x.dropped, y.dropped, sizeof(x.dropped)), 0);
}

static void release(Fixture *fx, unsigned l, const RingMessage *m)
{
        if (m->claim >= 0)
                ring_reader_release(&fx->r[l], m->claim);
}

/* Two readers of each policy, one of which tries the short way first: nobody can tell them apart, also where some fall out of the window. */
static void short_as_long(RingPolicy policy)
{
        static const PoolClass class = {.chunk_size = 4096, .n_chunks = 64};
        unsigned n_short = 0;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 6, policy);
        fixture_link(&fx, 6, policy);
        for (uint64_t i = 0, sent = 0; i < 2000; i++) {
                unsigned n = policy == RING_BACKPRESSURE ? 1 + (unsigned)(i % 6) : 1 + (unsigned)(i % 9);
                RingMessage a, b;
                bool ring_a, ring_b;

                for (unsigned k = 0; k < n; k++)
                        send_some_form(&fx, sent++);
                for (;;) {
                        bool small = ring_reader_take_small(&fx.r[0], &a, &ring_a);
                        int r = small ? 0 : ring_reader_take(&fx.r[0], &a, &ring_a);

                        n_short += small;
                        cr_assert_eq(r, ring_reader_take(&fx.r[1], &b, &ring_b));
                        cr_assert_eq(ring_a, ring_b);
                        expect_same_counts(&fx, 0, 1);
                        if (r == RING_E_EMPTY)
                                break;
                        must(r);
                        expect_same(&a, &b);
                        cr_assert(!small || (a.claim < 0 && !a.d.meta_len), "only what lies in its slot, without metadata");
                        release(&fx, 0, &a);
                        release(&fx, 1, &b);
                }
        }
        cr_assert_gt(n_short, 2000, "and it is gone where it can be");
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(small, a_reader_of_all_takes_what_the_long_way_would)
{
        short_as_long(RING_BACKPRESSURE);
}

Test(small, a_reader_of_the_latest_takes_what_the_long_way_would)
{
        short_as_long(RING_DROP_OLDEST);
}

Test(small, nothing_is_taken_where_there_is_something_to_decide)
{
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 2, RING_DROP_OLDEST);
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring), "there is nothing");
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring), "one is to be dropped first");
        cr_assert_eq(fx.r[0].tail, 0);
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_WINDOW), 1);
        cr_assert(ring_reader_take_small(&fx.r[0], &msg, &ring));
        must(fx_send(&fx, 3));
        ring_reader_drain(&fx.r[0]);
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring), "the producer is dead");
        cr_assert_eq(fx_take(&fx, 0, NULL), 3);
        fixture_close(&fx);
}

/* What no honest producer stores is for the long way to find. */
Test(small, a_ring_that_lies_is_left_to_the_long_way)
{
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 6, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        cr_assert(ring_reader_take_small(&fx.r[0], &msg, &ring));
        fx_ring(&fx)->slot[1].descriptor[3] = RING_INLINE_MAX + 1; /* payload_len */
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring));
        cr_assert_eq(fx_take(&fx, 0, &msg), FX_SAYS(RING_E_INVALID));
        fx_ring(&fx)->head = 1;
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring), "it went back");
        cr_assert_eq(fx_take(&fx, 0, &msg), FX_SAYS(RING_E_VIOLATION));
        cr_assert_not(ring_reader_take_small(&fx.r[0], &msg, &ring), "nothing of it is believed any more");
        fixture_close(&fx);
}

Test(small, a_reader_that_makes_room_says_so_to_who_waits_for_it)
{
        RingMessage msg;
        RingBlock block;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        cr_assert_not(ring_writer_publish_small(fx.w, "x", 1, 7), "there is no room");
        cr_assert_eq(ring_writer_head(fx.w), 2);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, &block), RING_E_FULL);
        cr_assert(ring_reader_take_small(&fx.r[0], &msg, &ring));
        cr_assert(ring);
        cr_assert(ring_writer_publish_small(fx.w, "x", 1, 7));
        fixture_close(&fx);
}

Test(small, a_writer_shows_one_message_at_once_with_its_time_and_bytes)
{
        uint8_t bytes[RING_INLINE_MAX];
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 6, RING_BACKPRESSURE);
        for (uint32_t n = 0; n <= RING_INLINE_MAX; n++) {
                memset(bytes, (int)n, n);
                cr_assert(ring_writer_publish_small(fx.w, bytes, n, n + 5));
                cr_assert_eq(fx_ring(&fx)->head, n + 1);
                must(ring_reader_take(&fx.r[0], &msg, &ring));
                cr_assert_eq(msg.d.payload_len, n);
                cr_assert_eq(msg.d.time_ns, n + 5);
                cr_assert_eq(msg.d.flags, RING_FLAG_INLINE);
                cr_assert_eq(memcmp(msg.payload, bytes, n), 0);
        }
        cr_assert_eq(fx_ring(&fx)->published_bytes, RING_INLINE_MAX * (RING_INLINE_MAX + 1) / 2);
        cr_assert_eq(ring_writer_flush(fx.w), 0, "nothing is left to be shown");
        fixture_close(&fx);
}

Test(small, a_writer_puts_nothing_before_what_waits_to_be_shown_or_behind_the_end)
{
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 6, RING_BACKPRESSURE);
        must(ring_writer_publish(fx.w, &(RingPost){.payload = "a", .payload_len = 1}, NULL, NULL));
        cr_assert_not(ring_writer_publish_small(fx.w, "b", 1, 0));
        cr_assert_eq(fx_ring(&fx)->head, 0);
        cr_assert_eq(ring_writer_flush(fx.w), 1);
        cr_assert(ring_writer_publish_small(fx.w, "b", 1, 0));
        ring_writer_close(fx.w);
        cr_assert_not(ring_writer_publish_small(fx.w, "c", 1, 0));
        cr_assert_eq(ring_writer_head(fx.w), 2);
        fixture_close(&fx);
}
