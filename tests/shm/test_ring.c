/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "fixture.h"

Test(ring_layout, slots_are_a_power_of_two_above_the_largest_queue)
{
        cr_assert_eq(ring_slots_for(0), 0);
        cr_assert_eq(ring_slots_for(1), 2);
        cr_assert_eq(ring_slots_for(2), 4);
        cr_assert_eq(ring_slots_for(3), 4);
        cr_assert_eq(ring_slots_for(4), 8);
        cr_assert_eq(ring_slots_for(10), 16);
        cr_assert_eq(ring_slots_for(RING_MAX_QUEUE), RING_MAX_SLOTS);
        cr_assert_eq(ring_slots_for(RING_MAX_QUEUE + 1), 0);
        cr_assert_eq(ring_size(3), 0);
        cr_assert_eq(ring_size(0), 0);
        cr_assert_eq(ring_size(16), 1024 + 16 * 256);
}

Test(ring_inline, messages_come_in_order_with_their_metadata_over_many_turns)
{
        Fixture fx;
        unsigned l;

        fixture_ring(&fx, 4);
        l = fixture_link(&fx, 3, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 1000; i++) {
                uint8_t payload[RING_INLINE_MAX], meta[RING_INLINE_MAX];
                uint32_t n = (uint32_t)(i % 150), n_meta = (uint32_t)(i % 41);
                RingMessage msg;
                bool ring;

                memset(payload, (int)i, sizeof(payload));
                memset(meta, (int)~i, sizeof(meta));
                must(ring_writer_publish(fx.w, &(RingPost){.payload = payload, .payload_len = n, .meta = meta,
                                                       .meta_len = n_meta, .time_ns = i * 3, .encoding = 7,
                                                       .flags = RING_FLAG_CORRELATED, .type_hash = ~i,
                                                       .correlation = i + 5, .sequence = i + 9}, NULL, NULL));
                cr_assert_eq(ring_writer_flush(fx.w), 1);
                must(ring_reader_take(&fx.r[l], &msg, &ring));
                cr_assert_eq(msg.index, i);
                cr_assert_eq(msg.claim, -1);
                cr_assert_eq(msg.d.payload_len, n);
                cr_assert_eq(msg.d.meta_len, n_meta);
                cr_assert_eq(memcmp(msg.payload, payload, n), 0);
                cr_assert_eq(memcmp(msg.meta, meta, n_meta), 0);
                cr_assert_eq((uintptr_t)msg.meta % 8, 0);
                cr_assert_eq(msg.d.time_ns, i * 3);
                cr_assert_eq(msg.d.encoding, 7);
                cr_assert_eq(msg.d.flags, RING_FLAG_CORRELATED | RING_FLAG_INLINE);
                cr_assert_eq(msg.d.type_hash, ~i);
                cr_assert_eq(msg.d.correlation, i + 5);
                cr_assert_eq(msg.d.sequence, i + 9);
        }
        cr_assert(fx_adds_up(&fx, l));
        fixture_close(&fx);
}

Test(ring_inline, takes_exactly_what_fits_into_a_slot_and_no_byte_more)
{
        uint8_t bytes[RING_INLINE_MAX + 1] = {};
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload = bytes, .payload_len = 193}, NULL, NULL),
                RING_E_TOO_LARGE);
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload = bytes, .payload_len = 185, .meta = bytes,
                                                       .meta_len = 1}, NULL, NULL), RING_E_TOO_LARGE);
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload = bytes, .payload_len = UINT32_MAX, .meta = bytes,
                                                       .meta_len = UINT32_MAX}, NULL, NULL), RING_E_TOO_LARGE);
        cr_assert_eq(ring_writer_head(fx.w), 0, "a refused message uses no index");
        must(ring_writer_publish(fx.w, &(RingPost){.payload = bytes, .payload_len = 192}, NULL, NULL));
        must(ring_writer_publish(fx.w, &(RingPost){.payload = bytes, .payload_len = 184, .meta = bytes,
                                               .meta_len = 8}, NULL, NULL));
        must(ring_writer_publish(fx.w, &(RingPost){}, NULL, NULL));
        ring_writer_flush(fx.w);
        for (int i = 0; i < 3; i++)
                must(ring_reader_take(&fx.r[0], &msg, &ring));
        cr_assert_eq(msg.d.payload_len, 0);
        fixture_close(&fx);
}

Test(ring_batch, nothing_is_visible_before_the_flush)
{
        Fixture fx;
        uint64_t v = 1;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        must(ring_writer_publish(fx.w, &(RingPost){.payload = &v, .payload_len = 8}, NULL, NULL));
        must(ring_writer_publish(fx.w, &(RingPost){.payload = &v, .payload_len = 8}, NULL, NULL));
        cr_assert_not(ring_reader_ready(&fx.r[0]));
        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_EMPTY));
        cr_assert_eq(ring_writer_flush(fx.w), 2);
        cr_assert_eq(ring_writer_flush(fx.w), 0);
        cr_assert(ring_reader_ready(&fx.r[0]));
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(ring_reader_backlog(&fx.r[0]), 1);
        fixture_close(&fx);
}

Test(ring_batch, flushes_itself_before_a_visible_window_would_be_overwritten)
{
        Fixture fx;
        RingMessage msg;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 50; i++)
                must(ring_writer_publish(fx.w, &(RingPost){.payload = &i, .payload_len = 8}, NULL, NULL));
        /* 4 slots, window of 3: a batch of more than one message would eat into what readers may be looking at */
        cr_assert_eq(fx_take(&fx, 0, &msg), 47);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_WINDOW), 47);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_OVERRUN), 0);
        cr_assert_eq(ring_writer_flush(fx.w), 50, "flushed by itself, and still told so that peers are rung");
        fixture_close(&fx);
}

typedef struct QueueCase {
        uint32_t queue_size, n_slots;
} QueueCase;

static const QueueCase queue_cases[] = {{1, 2}, {2, 4}, {3, 4}, {1, 16}, {3, 16}, {10, 16}, {15, 16}};

Test(drop_oldest, keeps_the_newest_queue_size_messages_and_counts_the_rest)
{
        for (size_t c = 0; c < ELEMENTSOF(queue_cases); c++) {
                uint32_t q = queue_cases[c].queue_size;
                uint64_t sent = 0, next = 0;
                Fixture fx;

                fixture_ring(&fx, queue_cases[c].n_slots);
                fixture_link(&fx, q, RING_DROP_OLDEST);
                for (uint64_t burst = 0; burst < 40; burst++) {
                        uint64_t oldest;

                        for (uint64_t i = 0; i < burst; i++)
                                must(fx_send(&fx, sent++));
                        oldest = MAX(next, sent > q ? sent - q : 0);
                        for (next = oldest; next < sent; next++)
                                cr_assert_eq(fx_take(&fx, 0, NULL), next, "queue %u burst %lu", q, burst);
                        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_EMPTY));
                        cr_assert(fx_adds_up(&fx, 0));
                }
                cr_assert_eq(fx.r[0].delivered + fx_dropped(&fx, 0, DROP_WINDOW), sent);
                fixture_close(&fx);
        }
}

Test(backpressure, gives_room_for_exactly_queue_size_messages_and_drops_none)
{
        for (size_t c = 0; c < ELEMENTSOF(queue_cases); c++) {
                uint32_t q = queue_cases[c].queue_size;
                uint64_t sent = 0, taken = 0;
                RingBlock block;
                Fixture fx;

                fixture_ring(&fx, queue_cases[c].n_slots);
                fixture_link(&fx, q, RING_BACKPRESSURE);
                for (unsigned turn = 0; turn < 50; turn++) {
                        while (fx_send(&fx, sent) == 0)
                                sent++;
                        cr_assert_eq(sent - taken, q);
                        cr_assert_eq(ring_writer_look(fx.w, 1, 0, &block), RING_E_FULL);
                        cr_assert_eq(block.link, 0);
                        cr_assert_eq(block.reason, ROOM_SLOT);
                        cr_assert_eq(block.target, taken + 1);
                        for (unsigned i = 0; i <= turn % q; i++)
                                cr_assert_eq(fx_take(&fx, 0, NULL), taken++);
                        cr_assert_eq(ring_writer_look(fx.w, 1 + turn % q, 0, &block), 0);
                        cr_assert_eq(fx_ring(&fx)->head, sent, "a full queue uses no index");
                }
                cr_assert(fx_adds_up(&fx, 0));
                cr_assert_eq(fx.r[0].delivered, taken);
                fixture_close(&fx);
        }
}

Test(backpressure, more_messages_than_a_queue_can_ever_hold_are_too_large)
{
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        cr_assert_eq(ring_writer_look(fx.w, 4, 0, NULL), RING_E_TOO_LARGE);
        cr_assert_eq(ring_writer_arm(fx.w, 4, 0, NULL), RING_E_TOO_LARGE);
        cr_assert_eq(fx_ring(&fx)->room_epoch & 1, 0);
        fixture_close(&fx);
}

Test(fan_out, the_slowest_backpressure_link_gates_and_a_drop_oldest_link_never_does)
{
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 5, RING_BACKPRESSURE);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        cr_assert_eq(ring_writer_look(fx.w, 1, 0, &block), RING_E_FULL);
        cr_assert_eq(block.link, 1);
        fx_take(&fx, 0, NULL);
        cr_assert_eq(ring_writer_look(fx.w, 1, 0, &block), RING_E_FULL);
        fx_take(&fx, 1, NULL);
        must(fx_send(&fx, 2));
        cr_assert_eq(fx_take(&fx, 2, NULL), 2);
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(fx_take(&fx, 1, NULL), 1);
        for (unsigned l = 0; l < 3; l++)
                cr_assert(fx_adds_up(&fx, l));
        fixture_close(&fx);
}

Test(attach, a_link_gates_nothing_until_its_consumer_is_active)
{
        Fixture fx;
        unsigned l;

        fixture_ring(&fx, 4);
        l = fixture_attach_quota(&fx, 1, RING_BACKPRESSURE, 0);
        for (uint64_t i = 0; i < 10; i++)
                must(fx_send(&fx, i));
        must(ring_reader_start(&fx.r[l]));
        cr_assert_eq(fx_take(&fx, l, NULL), FX_SAYS(RING_E_EMPTY), "starts at the present head");
        must(fx_send(&fx, 10));
        cr_assert_eq(fx_send(&fx, 11), RING_E_FULL);
        cr_assert_eq(fx_take(&fx, l, NULL), 10);
        cr_assert(fx_adds_up(&fx, l));
        fixture_close(&fx);
}

Test(attach, is_idempotent_by_link_and_refuses_what_the_ring_cannot_hold)
{
        Fixture fx;
        RingLinkSpec spec;
        Mapped other = {.fd = -1};

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        spec = (RingLinkSpec){.id = 0, .queue_size = 3, .policy = RING_BACKPRESSURE, .cursor = &fx.cursor[0].ro};
        cr_assert_eq(ring_writer_attach(fx.w, &spec), 0, "a new supervisor repeats unacknowledged steps");
        must(cursor_create(&other.fd));
        mapped_open(&other, REGION_CURSOR, cursor_size());
        spec.cursor = &other.ro;
        cr_assert_eq(ring_writer_attach(fx.w, &spec), RING_E_INVALID, "same id, other cursor");
        spec.id = 1;
        spec.queue_size = 4;
        cr_assert_eq(ring_writer_attach(fx.w, &spec), RING_E_CAPACITY);
        spec.queue_size = 0;
        cr_assert_eq(ring_writer_attach(fx.w, &spec), RING_E_INVALID);
        spec.queue_size = 1;
        spec.policy = (RingPolicy)9;
        cr_assert_eq(ring_writer_attach(fx.w, &spec), RING_E_INVALID);
        spec.policy = RING_DROP_OLDEST;
        for (spec.id = 1; spec.id < FX_MAX_LINKS; spec.id++)
                must(ring_writer_attach(fx.w, &spec));
        cr_assert_eq(ring_writer_attach(fx.w, &spec), RING_E_LINKS);
        cr_assert_eq(ring_writer_detach(fx.w, 99), RING_E_UNKNOWN);
        must(ring_writer_detach(fx.w, 3));
        must(ring_writer_attach(fx.w, &spec));
        mapped_close(&other);
        fixture_close(&fx);
}

Test(attach, a_stopped_or_detached_consumer_gates_no_more)
{
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        cr_assert_eq(fx_send(&fx, 1), RING_E_FULL);
        ring_reader_stop(&fx.r[0], &ring);
        cr_assert_eq(fx_send(&fx, 1), RING_E_FULL, "the other one still does");
        must(ring_writer_detach(fx.w, 1));
        for (uint64_t i = 1; i < 20; i++)
                must(fx_send(&fx, i));
        fixture_close(&fx);
}

Test(attach, a_successor_starts_where_the_dead_consumer_stood_and_counts_what_is_gone)
{
        Fixture fx;
        RingReader next;
        Mapped cursor = {.fd = -1};
        RingMessage msg;
        CursorStatus s;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        must(ring_writer_detach(fx.w, 0));       /* dead at position 1 */
        for (uint64_t i = 3; i < 11; i++)       /* nobody gates: 11 - 8 = 3 is the oldest slot left */
                must(fx_send(&fx, i));

        must(cursor_create(&cursor.fd));
        mapped_open(&cursor, REGION_CURSOR, cursor_size());
        must(ring_reader_init(&next, &fx.ring.ro, &cursor.rw, 5, 4, RING_BACKPRESSURE));
        must(ring_writer_attach(fx.w, &(RingLinkSpec){.id = 5, .queue_size = 4, .policy = RING_BACKPRESSURE,
                                               .cursor = &cursor.ro}));
        must(ring_reader_start_at(&next, 1));
        cr_assert_eq(fx_send(&fx, 11), RING_E_FULL, "gated again, at once");
        for (uint64_t i = 3; i < 11; i++) {
                must(ring_reader_take(&next, &msg, &ring));
                cr_assert_eq(msg.index, i);
        }
        cursor_read(&cursor.ro, &s);
        cr_assert_eq(s.start, 1);
        cr_assert_eq(s.dropped[DROP_DEAD], 2);
        cr_assert_eq(s.tail - s.start, s.delivered + s.dropped[DROP_DEAD]);
        must(fx_send(&fx, 11));
        cr_assert_eq(ring_reader_start_at(&next, UINT64_MAX), 0, "a position beyond head is clamped");
        cr_assert_eq(next.tail, 12);
        mapped_close(&cursor);
        fixture_close(&fx);
}

/* The consumer of link 0 is dead, and this one comes in its place. */
static void heir_attach(Fixture *fx, RingReader *heir, Mapped *cursor, uint32_t queue_size)
{
        *cursor = (Mapped){.fd = -1};
        must(cursor_create(&cursor->fd));
        mapped_open(cursor, REGION_CURSOR, cursor_size());
        must(ring_reader_init(heir, &fx->ring.ro, &cursor->rw, 0, queue_size, RING_BACKPRESSURE));
        if (fx->has_pool)
                must(ring_reader_add_segment(heir, 0, &fx->pool.ro));
        must(ring_writer_attach(fx->w, &(RingLinkSpec){.id = 0, .queue_size = queue_size, .policy = RING_BACKPRESSURE,
                                               .cursor = &cursor->ro}));
}

Test(orphan, gates_at_its_last_tail_until_its_heir_is_active)
{
        RingMessage msg;
        RingReader heir;
        CursorStatus s;
        Mapped cursor;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 4; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        must(ring_writer_orphan(fx.w, 0));
        must(ring_writer_orphan(fx.w, 0));
        must(fx_send(&fx, 4));
        cr_assert_eq(fx_send(&fx, 5), RING_E_FULL, "at the tail that it had, not at the last one that was looked at");
        heir_attach(&fx, &heir, &cursor, 4);
        cr_assert_eq(fx_send(&fx, 5), RING_E_FULL, "its cursor says nothing yet");
        must(ring_reader_start_at(&heir, 1));
        cr_assert_eq(fx_send(&fx, 5), RING_E_FULL);
        for (uint64_t i = 1; i < 20; i++) {
                must(ring_reader_take(&heir, &msg, &ring));
                cr_assert_eq(msg.index, i);
                must(fx_send(&fx, i + 4));
                cr_assert_eq(fx_send(&fx, i + 5), RING_E_FULL);
        }
        cursor_read(&cursor.ro, &s);
        cr_assert_eq(s.dropped[DROP_DEAD], 0);
        ring_reader_stop(&heir, &ring);
        must(fx_send(&fx, 24));
        mapped_close(&cursor);
        fixture_close(&fx);
}

Test(orphan, is_forgotten_by_detach_and_one_that_gates_nothing_at_once)
{
        uint32_t link;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        fixture_attach_quota(&fx, 1, RING_BACKPRESSURE, 0); /* never active */
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        ring_reader_stop(&fx.r[2], &ring);
        must(fx_send(&fx, 0));
        ((struct cursor_shared *)fx.cursor[4].rw.map)->tail = 7; /* hostile: had no say any more */
        must(ring_writer_orphan(fx.w, 0));
        for (uint32_t l = 1; l < 5; l++)
                cr_assert_eq(ring_writer_orphan(fx.w, l), RING_E_UNKNOWN);
        cr_assert_eq(ring_writer_orphan(fx.w, 1), RING_E_UNKNOWN);
        cr_assert_eq(fx_send(&fx, 1), RING_E_FULL);
        must(ring_writer_detach(fx.w, 0));
        must(fx_send(&fx, 1));
        must(fx_send(&fx, 2));
        cr_assert_not(ring_writer_take_violation(fx.w, &link));
        fixture_close(&fx);
}

Test(orphan, may_have_an_heir_that_starts_elsewhere)
{
        uint32_t link;
        RingReader heir;
        Mapped cursor;
        Fixture fx;

        for (unsigned where = 0; where < 2; where++) {
                fixture_ring(&fx, 8);
                fixture_link(&fx, 4, RING_BACKPRESSURE);
                for (uint64_t i = 0; i < 6; i++) {
                        must(fx_send(&fx, i));
                        if (i < 3)
                                cr_assert_eq(fx_take(&fx, 0, NULL), i);
                }
                must(ring_writer_orphan(fx.w, 0));
                heir_attach(&fx, &heir, &cursor, 4);
                must(where ? ring_reader_start(&heir) : ring_reader_start_at(&heir, 1));
                cr_assert_eq(fx_send(&fx, 6), where ? 0 : RING_E_FULL);
                cr_assert_not(ring_writer_take_violation(fx.w, &link));
                mapped_close(&cursor);
                fixture_close(&fx);
        }
}

/* It begins as far back as there are messages, and the writer has gone on within its room when it looks. */
Test(orphan, may_have_an_heir_that_starts_below_what_is_still_there_when_it_is_looked_at)
{
        RingLinkSpec nobody = {.id = 0, .queue_size = 4, .policy = RING_BACKPRESSURE};
        uint32_t link;
        RingReader heir;
        RingMessage msg;
        Mapped cursor;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        for (uint64_t i = 0; i < 20; i++)
                must(fx_send(&fx, i));
        must(ring_writer_attach(fx.w, &nobody));
        heir_attach(&fx, &heir, &cursor, 4);
        must(fx_send(&fx, 20)); /* looks, and need not for the next three */
        must(ring_reader_start_at(&heir, 1));
        for (uint64_t i = 21; i < 24; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(fx_send(&fx, 24), RING_E_FULL);
        cr_assert_not(ring_writer_take_violation(fx.w, &link), "it is honest");
        must(ring_reader_take(&heir, &msg, &ring));
        cr_assert_eq(msg.index, 16);
        mapped_close(&cursor);
        fixture_close(&fx);
}

Test(orphan, may_be_one_from_the_beginning)
{
        RingMessage msg;
        RingReader heir;
        Mapped cursor;
        Fixture fx;
        RingLinkSpec nobody = {.id = 0, .queue_size = 2, .policy = RING_BACKPRESSURE};
        bool ring;

        fixture_ring(&fx, 8);
        must(fx_send(&fx, 0));
        must(ring_writer_attach(fx.w, &nobody));
        must(ring_writer_attach(fx.w, &nobody));
        must(fx_send(&fx, 1));
        must(fx_send(&fx, 2));
        cr_assert_eq(fx_send(&fx, 3), RING_E_FULL);
        heir_attach(&fx, &heir, &cursor, 2);
        cr_assert_eq(ring_writer_attach(fx.w, &nobody), RING_E_INVALID, "somebody is there now");
        must(ring_reader_start_at(&heir, 1));
        must(ring_reader_take(&heir, &msg, &ring));
        cr_assert_eq(msg.index, 1);
        must(fx_send(&fx, 3));
        nobody.policy = RING_DROP_OLDEST;
        cr_assert_eq(ring_writer_attach(fx.w, &nobody), RING_E_INVALID);
        mapped_close(&cursor);
        fixture_close(&fx);
}

Test(attach, a_lasting_link_gates_after_its_consumer_has_stopped)
{
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        ring_writer_set_lasting(fx.w, 0, true);
        ring_writer_set_lasting(fx.w, 77, true); /* nobody: no matter */
        for (uint64_t i = 0; i < 2; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        ring_reader_stop(&fx.r[0], &ring);
        must(fx_send(&fx, 2));
        cr_assert_eq(fx_send(&fx, 3), RING_E_FULL, "at its very last tail");
        must(ring_writer_orphan(fx.w, 0));
        cr_assert_eq(fx_send(&fx, 3), RING_E_FULL);
        must(ring_writer_detach(fx.w, 0));
        must(fx_send(&fx, 3));
        fixture_close(&fx);
}

Test(attach, a_cursor_names_its_attachment_once_it_is_asked_to)
{
        CursorStatus s;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        cursor_read(&fx.cursor[0].ro, &s);
        cr_assert_eq(s.attachment, 0);
        ring_reader_name(&fx.r[0], 17);
        cursor_read(&fx.cursor[0].ro, &s);
        cr_assert_eq(s.attachment, 17);
        fixture_close(&fx);
}

Test(ending, close_ends_a_link_after_its_last_message)
{
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload = "12345678", .payload_len = 8}, NULL, NULL), 0);
        ring_writer_close(fx.w);
        cr_assert_eq(fx_send(&fx, 2), RING_E_CLOSED);
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        cr_assert_neq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_END));
        cr_assert(ring_reader_ready(&fx.r[0]));
        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_END));
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(ending, a_dead_producers_ring_is_drained_to_its_last_head)
{
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 5; i++)
                must(fx_send(&fx, i));
        ring_reader_drain(&fx.r[0]);
        must(fx_send(&fx, 5)); /* a liar that is not quite dead: not ours any more */
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        cr_assert_eq(fx_take(&fx, 0, NULL), 1);
        cr_assert_eq(ring_reader_discard(&fx.r[0], DROP_RESTARTED, &ring), 3);
        cr_assert_eq(fx_take(&fx, 0, NULL), FX_SAYS(RING_E_END));
        cr_assert_eq(fx_dropped(&fx, 0, DROP_RESTARTED), 3);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

/* A start stores two tails, and moves on from the first when messages came in between: the producer may have blocked on it. */
Test(attach, a_start_rings_a_producer_that_blocked_on_the_first_of_its_tails)
{
        Fixture fx;

        fixture_ring(&fx, 4);
        (void)fixture_attach_quota(&fx, 1, RING_BACKPRESSURE, 0);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        fx_cursor(&fx, 0)->tail = 1;
        fx_cursor(&fx, 0)->state = CURSOR_ACTIVE;
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        must(ring_reader_start(&fx.r[0]));
        cr_assert_eq(fx.r[0].tail, 2);
        cr_assert(ring_reader_must_ring(&fx.r[0]));
        cr_assert_not(ring_reader_must_ring(&fx.r[0]), "once");
        cr_assert_eq(ring_writer_look(fx.w, 1, 0, NULL), 0);
        fixture_close(&fx);
}

Test(ending, skip_and_discard_are_counted_and_give_room)
{
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        ring_reader_skip(&fx.r[0], DROP_INVALID, &ring);
        cr_assert_eq(fx.r[0].tail, 0, "nothing to skip");
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        ring_reader_skip(&fx.r[0], DROP_INVALID, &ring);
        cr_assert(ring);
        cr_assert_eq(ring_writer_arm(fx.w, 2, 0, NULL), RING_E_FULL);
        cr_assert_eq(ring_reader_discard(&fx.r[0], DROP_DISCARDED, &ring), 2);
        cr_assert(ring);
        cr_assert_eq(ring_writer_look(fx.w, 3, 0, NULL), 0);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_INVALID), 1);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_DISCARDED), 2);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(status, a_rejected_message_counts_as_invalid_and_a_refused_one_as_refused)
{
        RingMessage msg;
        RingStatus s;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        fx_take(&fx, 0, &msg);
        fx_take(&fx, 0, &msg);
        ring_reader_reject(&fx.r[0], &msg);
        cr_assert_eq(fx.r[0].delivered, 1);
        cr_assert_eq(fx.r[0].delivered_bytes, 8);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_INVALID), 1);
        cr_assert(fx_adds_up(&fx, 0));
        ring_writer_count_refused(fx.w);
        ring_writer_count_refused(fx.w);
        ring_read_status(&fx.ring.ro, &s);
        cr_assert_eq(s.refused, 2);
        fixture_close(&fx);
}

Test(status, shows_what_was_published_and_whom_the_producer_waits_for)
{
        Fixture fx;
        RingStatus s;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        ring_read_status(&fx.ring.ro, &s);
        cr_assert_eq(s.head, 2);
        cr_assert_eq(s.published_bytes, 16);
        cr_assert(s.blocked);
        cr_assert_eq(s.blocked_link, 1);
        cr_assert_eq(s.blocked_reason, ROOM_SLOT);
        cr_assert_eq(s.n_blocked_slot, 1);
        ring_writer_disarm(fx.w);
        ring_read_status(&fx.ring.ro, &s);
        cr_assert_not(s.blocked);
        cr_assert_str_eq(drop_reason_to_string(DROP_POOL), "pool");
        cr_assert_null(drop_reason_to_string(_DROP_REASON_MAX));
        fixture_close(&fx);
}
