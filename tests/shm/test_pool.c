/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks: classes, reuse by floor and claims, pressure, quotas, several owners, several segments. */
#include <criterion/criterion.h>

#include "fixture.h"

static bool intact(const RingMessage *msg, uint64_t value, uint32_t size)
{
        const uint8_t *p = msg->payload;

        for (uint32_t i = 8; i < size; i++)
                if (p[i] != (uint8_t)value)
                        return false;
        return memcmp(p, &value, 8) == 0;
}

Test(pool_layout, classes_that_make_no_sense_have_no_size)
{
        const PoolClass good[] = {{64, 10}, {4096, 3}};
        const PoolClass bad[][2] = {
                {{0, 1}, {64, 1}}, {{63, 1}, {64, 1}}, {{64, 0}, {128, 1}}, {{128, 1}, {64, 1}}, {{64, 1}, {64, 1}},
                {{64, 1}, {4160, 1}}, {{64, POOL_MAX_CHUNKS + 1}, {128, 1}}, {{64, POOL_MAX_CHUNKS}, {128, 1}},
                {{64, 1}, {1u << 30, 1}}, {{64, 1}, {0xfffff000u, 0xffffffffu}},
        };

        cr_assert_eq(pool_size(good, 2), 4096 + 4096 + 3 * 4096, "640 bytes of small chunks, then a page boundary");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_assert_eq(pool_size(bad[i], 2), 0, "case %zu", i);
        cr_assert_eq(pool_size(good, 0), 0);
        cr_assert_eq(pool_size(good, POOL_MAX_CLASSES + 1), 0);
        cr_assert_eq(pool_class_for(0, 1).chunk_size, 64);
        cr_assert_eq(pool_class_for(1, 1).chunk_size, 64);
        cr_assert_eq(pool_class_for(65, 1).chunk_size, 128);
        cr_assert_eq(pool_class_for(4032, 1).chunk_size, 4032);
        cr_assert_eq(pool_class_for(4033, 1).chunk_size, 4096);
        cr_assert_eq(pool_class_for(4097, 1).chunk_size, 8192);
        cr_assert_eq(pool_class_for(UINT64_MAX, 1).chunk_size, REGION_MAX_SIZE);
}

Test(pool_layout, roomy_sizes_are_few_and_at_most_an_eighth_too_large)
{
        uint64_t n = 0, last = 0;

        for (uint64_t size = 1; size <= REGION_MAX_SIZE; size += size / 50 + 1) {
                uint64_t roomy = pool_roomy(size);

                cr_assert_geq(roomy, size);
                cr_assert_leq(roomy, MAX(size + size / 8 + 4096, UINT64_C(4096)));
                cr_assert_eq(roomy % 4096, 0);
                cr_assert_eq(pool_roomy(roomy), roomy);
                n += roomy != last;
                last = roomy;
        }
        cr_assert_lt(n, 200);
        cr_assert_eq(pool_roomy(UINT64_MAX), REGION_MAX_SIZE);
}

Test(pool_alloc, gently_gives_up_nobodys_window)
{
        const PoolClass class = {64, 3};
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert_eq(ring_writer_alloc_gently(fx.w, 64, &c), POOL_E_FULL);
        cr_assert_eq(fx_ring(&fx)->floor, 0);
        cr_assert_eq(fx_ring(&fx)->pressure, 0);
        must(ring_writer_alloc(fx.w, 64, &c, NULL));
        cr_assert_eq(fx_ring(&fx)->floor, 1);
        cr_assert_eq(fx_ring(&fx)->pressure, 1);
        fixture_close(&fx);
}

Test(pool_alloc, takes_the_smallest_chunk_that_fits_then_a_larger_one_and_never_overlaps)
{
        const PoolClass classes[] = {{64, 2}, {192, 1}, {8192, 1}};
        PoolChunk c[5];
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, classes, 3);
        cr_assert_eq(ring_writer_alloc(fx.w, 8193, &c[0], NULL), POOL_E_TOO_LARGE);
        must(ring_writer_alloc(fx.w, 1, &c[0], NULL));
        must(ring_writer_alloc(fx.w, 65, &c[1], NULL));
        must(ring_writer_alloc(fx.w, 64, &c[2], NULL));
        must(ring_writer_alloc(fx.w, 64, &c[3], NULL));
        cr_assert_eq(c[0].capacity, 64);
        cr_assert_eq(c[1].capacity, 192);
        cr_assert_eq(c[2].capacity, 64);
        cr_assert_eq(c[3].capacity, 8192);
        cr_assert_eq((uintptr_t)c[3].data % 4096, 0);
        cr_assert_eq(ring_writer_alloc(fx.w, 1, &c[4], NULL), POOL_E_FULL, "all in our own hands");
        for (int i = 0; i < 4; i++) {
                cr_assert_eq((uintptr_t)c[i].data % POOL_ALIGN, 0);
                for (int k = 0; k < i; k++)
                        cr_assert((uint8_t *)c[i].data + c[i].capacity <= (uint8_t *)c[k].data ||
                                  (uint8_t *)c[k].data + c[k].capacity <= (uint8_t *)c[i].data);
        }
        ring_writer_give_back(fx.w, &c[1]);
        cr_assert_null(c[1].data);
        ring_writer_give_back(fx.w, &c[1]);
        must(ring_writer_alloc(fx.w, 10, &c[1], NULL));
        cr_assert_eq(c[1].capacity, 192);
        fixture_close(&fx);
}

Test(pool_alloc, a_message_that_does_not_fit_its_chunk_is_refused_and_the_chunk_stays)
{
        const PoolClass class = {64, 1};
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        must(ring_writer_alloc(fx.w, 64, &c, NULL));
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload_len = 65}, &c, NULL), RING_E_TOO_LARGE);
        cr_assert_eq(ring_writer_publish(fx.w, &(RingPost){.payload_len = 57, .meta = "m", .meta_len = 1}, &c, NULL),
                RING_E_TOO_LARGE);
        cr_assert_not_null(c.data);
        must(ring_writer_publish(fx.w, &(RingPost){.payload_len = 56, .meta = "metadata", .meta_len = 8}, &c, NULL));
        cr_assert_null(c.data);
        fixture_close(&fx);
}

Test(pool_message, payload_and_metadata_arrive_in_place_and_aligned)
{
        const PoolClass class = {4096, 3};
        RingMessage msg;
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(ring_writer_alloc(fx.w, 1000, &c, NULL));
        memset(c.data, 'p', 1001);
        must(ring_writer_publish(fx.w, &(RingPost){.payload_len = 1001, .meta = "abc", .meta_len = 3}, &c, NULL));
        ring_writer_flush(fx.w);
        fx_take(&fx, 0, &msg);
        cr_assert_eq((uintptr_t)msg.payload % 64, 0);
        cr_assert_eq((const uint8_t *)msg.meta - (const uint8_t *)msg.payload, 1008);
        cr_assert_eq(memcmp(msg.meta, "abc", 3), 0);
        cr_assert_eq(((const uint8_t *)msg.payload)[1000], 'p');
        cr_assert(msg.payload > fx.pool.ro.map && (uint8_t *)msg.payload < (uint8_t *)fx.pool.ro.map + fx.pool.size);
        fixture_close(&fx);
}

Test(floor, moves_only_when_an_allocation_finds_nothing_free)
{
        const PoolClass class = {64, 4};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 4; i++) {
                must(fx_send_pooled(&fx, i, 64));
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                ring_reader_release(&fx.r[0], msg.claim);
                cr_assert_eq(fx_ring(&fx)->floor, 0);
        }
        must(fx_send_pooled(&fx, 4, 64));
        cr_assert_eq(fx_ring(&fx)->floor, 4, "to the tail, at once");
        fixture_close(&fx);
}

/* Distinct chunks of a megabyte that n messages are written to; each is read and released before the next. */
static unsigned chunks_in_turn(Fixture *fx, unsigned n)
{
        const uint8_t *seen[32];
        unsigned n_seen = 0;
        RingMessage msg;

        for (uint64_t i = 0; i < n; i++) {
                unsigned k = 0;

                must(fx_send_pooled(fx, i, 1 << 20));
                cr_assert_eq(fx_take(fx, 0, &msg), i);
                while (k < n_seen && seen[k] != msg.payload)
                        k++;
                if (k == n_seen)
                        seen[n_seen++] = msg.payload;
                ring_reader_release(&fx->r[0], msg.claim);
        }
        return n_seen;
}

Test(floor, also_moves_after_four_mebibytes_so_that_warm_chunks_are_written_again)
{
        const PoolClass class = {1 << 20, 16};
        Fixture fx;

        fixture_ring(&fx, 64);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        cr_assert_eq(chunks_in_turn(&fx, 32), 4, "and twelve were never touched");
        fixture_close(&fx);
}

Test(floor, moves_behind_a_message_too_where_nobody_waits_for_it)
{
        const PoolClass class = {1 << 20, 16};
        const void *last = NULL;
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 64);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 4; i++) {
                ring_writer_tidy(fx.w);
                cr_assert_eq(fx_ring(&fx)->floor, 0, "fewer than four mebibytes went out");
                must(fx_send_pooled(&fx, i, 1 << 20));
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                if (i < 3) /* the last one is still in use */
                        ring_reader_release(&fx.r[0], msg.claim);
                else
                        cr_assert_neq(msg.payload, last);
                last = msg.payload;
        }
        ring_writer_tidy(fx.w);
        cr_assert_eq(fx_ring(&fx)->floor, 4);
        ring_writer_tidy(fx.w);
        for (uint64_t i = 4; i < 7; i++) {
                must(fx_send_pooled(&fx, i, 1 << 20));
                cr_assert_eq(fx_ring(&fx)->floor, 4, "the allocation had not to look");
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                cr_assert_neq(msg.payload, last, "what is in use is not written");
        }
        fixture_close(&fx);
}

Test(floor, that_moves_early_passes_nothing_that_is_still_to_be_read)
{
        const PoolClass class = {1 << 20, 16};
        RingMessage held, msg;
        Fixture fx;

        fixture_ring(&fx, 64);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 14, RING_BACKPRESSURE);
        fixture_link(&fx, 12, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 1 << 20));
        cr_assert_eq(fx_take(&fx, 0, &held), 0, "and is kept");
        cr_assert_eq(fx_take(&fx, 1, &msg), 0);
        ring_reader_release(&fx.r[1], msg.claim);
        for (uint64_t i = 1; i < 13; i++)
                must(fx_send_pooled(&fx, i, 1 << 20));
        for (unsigned reader = 0; reader < 2; reader++)
                for (uint64_t i = 1; i < 13; i++) {
                        cr_assert_eq(fx_take(&fx, reader, &msg), i);
                        cr_assert(intact(&msg, i, 1 << 20));
                        ring_reader_release(&fx.r[reader], msg.claim);
                }
        cr_assert(intact(&held, 0, 1 << 20));
        fixture_close(&fx);
}

Test(floor, never_passes_a_backpressure_tail)
{
        const PoolClass class = {64, 3};
        RingMessage msg;
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send_pooled(&fx, i, 64));
        for (int i = 0; i < 5; i++)
                cr_assert_eq(ring_writer_look(fx.w, 1, 64, &block), POOL_E_HELD);
        cr_assert_eq(block.link, 0);
        cr_assert_eq(block.target, 1);
        for (uint64_t i = 0; i < 3; i++) {
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                cr_assert(intact(&msg, i, 64));
                ring_reader_release(&fx.r[0], msg.claim);
        }
        cr_assert_eq(fx.r[0].delivered, 3);
        fixture_close(&fx);
}

Test(floor, passes_drop_oldest_windows_under_pressure_one_message_at_a_time)
{
        const PoolClass class = {64, 4};
        RingMessage msg;
        RingStatus s;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_DROP_OLDEST); /* a window of 10, chunks for 4 */
        for (uint64_t i = 0; i < 6; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert_eq(fx_take(&fx, 0, &msg), 2, "the newest four are still there");
        cr_assert_eq(fx_dropped(&fx, 0, DROP_POOL), 2);
        ring_read_status(&fx.ring.ro, &s);
        cr_assert_eq(s.pressure, 2);
        cr_assert_eq(s.floor, 2);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(floor, inline_messages_below_it_are_still_delivered)
{
        const PoolClass class = {64, 1};
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_DROP_OLDEST);
        must(fx_send(&fx, 0));
        must(fx_send_pooled(&fx, 1, 64));
        must(fx_send(&fx, 2));
        must(fx_send_pooled(&fx, 3, 64));
        cr_assert_eq(fx_ring(&fx)->floor, 2);
        cr_assert_eq(fx_take(&fx, 0, NULL), 0);
        cr_assert_eq(fx_take(&fx, 0, NULL), 2);
        cr_assert_eq(fx_take(&fx, 0, NULL), 3);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_POOL), 1);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(floor, frees_chunks_of_a_begun_batch_only_after_it_is_visible)
{
        const PoolClass class = {64, 2};
        Fixture fx;
        PoolChunk c;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        for (int i = 0; i < 5; i++) {
                must(ring_writer_alloc(fx.w, 64, &c, NULL));
                must(ring_writer_publish(fx.w, &(RingPost){.payload_len = 64}, &c, NULL));
                cr_assert_leq(fx_ring(&fx)->floor, fx_ring(&fx)->head);
        }
        cr_assert_eq(ring_writer_flush(fx.w), 5);
        fixture_close(&fx);
}

Test(claim, keeps_a_message_intact_while_the_pool_turns_over_many_times)
{
        const PoolClass class = {128, 4};
        RingMessage held, msg;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 128));
        cr_assert_eq(fx_take(&fx, 0, &held), 0);
        for (uint64_t i = 1; i < 500; i++) {
                must(fx_send_pooled(&fx, i, 128));
                cr_assert(intact(&held, 0, 128));
                if (i % 3)
                        continue;
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                cr_assert(intact(&msg, i, 128));
                ring_reader_release(&fx.r[0], msg.claim);
        }
        cr_assert_gt(fx_ring(&fx)->floor, 1);
        ring_reader_release(&fx.r[0], held.claim);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(claim, of_one_consumer_is_not_released_by_another)
{
        const PoolClass class = {64, 3};
        RingMessage a, b;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 7, 64));
        fx_take(&fx, 0, &a);
        fx_take(&fx, 1, &b);
        for (uint64_t i = 8; i < 12; i++)
                must(fx_send_pooled(&fx, i, 64));
        ring_reader_release(&fx.r[0], a.claim);
        for (uint64_t i = 12; i < 20; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert(intact(&b, 7, 64));
        ring_reader_release(&fx.r[1], b.claim);
        for (uint64_t i = 20; i < 24; i++)
                must(fx_send_pooled(&fx, i, 64));
        fixture_close(&fx);
}

Test(claim, seven_are_held_the_eighth_is_for_copying_and_a_ninth_is_refused)
{
        const PoolClass class = {64, 16};
        RingMessage msg[CURSOR_N_CLAIMS + 1];
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 12, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 11; i++)
                must(fx_send_pooled(&fx, i, 64));
        must(fx_send(&fx, 11));
        for (uint64_t i = 0; i < CURSOR_N_CLAIMS; i++) {
                cr_assert_eq(fx_take(&fx, 0, &msg[i]), i);
                cr_assert_eq(msg[i].must_copy, i == RING_N_HOLDS);
        }
        cr_assert_eq(ring_reader_n_held(&fx.r[0]), CURSOR_N_CLAIMS);
        for (int i = 0; i < 3; i++)
                cr_assert_eq(fx_take(&fx, 0, &msg[8]), FX_SAYS(RING_E_CLAIMS));
        cr_assert_eq(fx.r[0].tail, 8, "nothing was taken");
        ring_reader_release(&fx.r[0], msg[7].claim); /* copied */
        cr_assert_eq(fx_take(&fx, 0, &msg[7]), 8);
        cr_assert(msg[7].must_copy);
        ring_reader_release(&fx.r[0], msg[3].claim);
        cr_assert_eq(fx_take(&fx, 0, &msg[3]), 9);
        cr_assert_not(msg[3].must_copy);
        cr_assert_eq(fx.r[0].copied, 2);
        fixture_close(&fx);
}

Test(claim, ends_with_the_last_of_its_owners)
{
        const PoolClass class = {64, 1};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 64));
        fx_take(&fx, 0, &msg);
        ring_reader_ref(&fx.r[0], msg.claim);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, NULL), POOL_E_HELD);
        cr_assert_not(ring_reader_release(&fx.r[0], msg.claim));
        cr_assert_eq(ring_writer_look(fx.w, 1, 64, NULL), POOL_E_HELD);
        cr_assert(ring_reader_release(&fx.r[0], msg.claim));
        cr_assert_eq(ring_writer_look(fx.w, 1, 64, NULL), 0);
        cr_assert_not(ring_reader_release(&fx.r[0], -1), "inline: nothing to release");
        ring_reader_ref(&fx.r[0], -1);
        fixture_close(&fx);
}

/* The three cases of the scan, with claims put where a consumer at that point would have put them. */
Test(claim, stored_before_the_floor_passed_counts_and_stored_after_does_not)
{
        const PoolClass class = {64, 2};
        const uint8_t *chunk_of_0;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 64));
        must(fx_send_pooled(&fx, 1, 64));
        chunk_of_0 = (const uint8_t *)fx.pool.ro.map + POOL_DATA_OFFSET;
        fx_cursor(&fx, 0)->claim[2] = 0 + 1; /* old floor 0 <= message 0 < new floor */
        for (uint64_t i = 2; i < 10; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert_eq(chunk_of_0[0], 0, "honoured for as long as it stays in its entry");
        fx_cursor(&fx, 0)->claim[2] = 0;
        fx_cursor(&fx, 0)->claim[3] = 0 + 1; /* moved: another entry, below the floor by now */
        for (uint64_t i = 10; i < 12; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert_neq(chunk_of_0[0], 0, "not honoured");
        fixture_close(&fx);
}

Test(claim, of_a_detached_consumer_is_forgotten)
{
        const PoolClass class = {64, 1};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 64));
        fx_take(&fx, 0, &msg);
        cr_assert_eq(ring_writer_look(fx.w, 1, 64, NULL), POOL_E_HELD);
        must(ring_writer_detach(fx.w, 0));
        cr_assert_eq(ring_writer_look(fx.w, 1, 64, NULL), 0);
        fixture_close(&fx);
}

/* Its claims are nobody's. What it had not taken is its heir's, and no chunk of that is reused. */
Test(claim, of_an_orphan_is_dropped_and_its_place_holds_the_floor)
{
        const PoolClass class = {64, 4};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 4; i++)
                must(fx_send_pooled(&fx, i, 64));
        fx_take(&fx, 0, &msg);
        fx_take(&fx, 0, &msg);
        cr_assert_eq(ring_writer_look(fx.w, 1, 64, NULL), POOL_E_HELD);
        must(ring_writer_orphan(fx.w, 0));
        must(fx_send_pooled(&fx, 4, 64));
        must(fx_send_pooled(&fx, 5, 64));
        cr_assert_eq(fx_ring(&fx)->floor, 2);
        cr_assert_neq(fx_send_pooled(&fx, 6, 64), 0);
        cr_assert_eq(fx_ring(&fx)->floor, 2);
        must(ring_writer_detach(fx.w, 0));
        must(fx_send_pooled(&fx, 6, 64));
        fixture_close(&fx);
}

Test(claim, of_an_heir_that_starts_below_the_floor_is_no_violation_and_what_is_gone_counts_as_dead)
{
        const PoolClass class = {64, 2};
        Mapped cursor = {.fd = -1};
        RingReader heir;
        RingMessage msg;
        CursorStatus s;
        uint32_t link;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 8, RING_BACKPRESSURE);
        must(fx_send_pooled(&fx, 0, 64));
        must(ring_writer_detach(fx.w, 0)); /* dead at 0 */
        must(fx_send(&fx, 1));
        for (uint64_t i = 2; i < 6; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert_eq(fx_ring(&fx)->floor, 5, "nobody held it back");

        must(cursor_create(&cursor.fd));
        mapped_open(&cursor, REGION_CURSOR, cursor_size());
        must(ring_reader_init(&heir, &fx.ring.ro, &cursor.rw, 9, 8, RING_BACKPRESSURE));
        must(ring_reader_add_segment(&heir, 0, &fx.pool.ro));
        must(ring_writer_attach(fx.w, &(RingLinkSpec){.id = 9, .queue_size = 8, .policy = RING_BACKPRESSURE,
                                               .cursor = &cursor.ro}));
        must(ring_reader_start_at(&heir, 0));
        must(fx_send(&fx, 6));
        cr_assert_not(ring_writer_take_violation(fx.w, &link));
        must(ring_reader_take(&heir, &msg, &ring));
        cr_assert_eq(msg.index, 1, "inline: still whole");
        must(ring_reader_take(&heir, &msg, &ring));
        cr_assert_eq(msg.index, 5);
        cursor_read(&cursor.ro, &s);
        cr_assert_eq(s.dropped[DROP_DEAD], 4);
        cr_assert_eq(s.dropped[DROP_POOL], 0);
        cr_assert_eq(s.tail - s.start, s.delivered + s.dropped[DROP_DEAD]);
        mapped_close(&cursor);
        fixture_close(&fx);
}

Test(claim, survives_a_stop_until_the_producer_detaches)
{
        const PoolClass class = {64, 2};
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        must(fx_send_pooled(&fx, 5, 64));
        fx_take(&fx, 0, &msg);
        ring_reader_stop(&fx.r[0], &ring);
        for (uint64_t i = 0; i < 10; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert(intact(&msg, 5, 64));
        fixture_close(&fx);
}

Test(quota, claims_beyond_it_are_not_honoured_and_the_offender_alone_pays)
{
        const PoolClass class = {64, 4};
        RingMessage greedy[2], modest;
        RingStatus s;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_attach_quota(&fx, 4, RING_DROP_OLDEST, 64); /* one chunk */
        fixture_attach_quota(&fx, 4, RING_DROP_OLDEST, 0);
        must(ring_reader_start(&fx.r[0]));
        must(ring_reader_start(&fx.r[1]));
        must(fx_send_pooled(&fx, 0, 64));
        must(fx_send_pooled(&fx, 1, 64));
        fx_take(&fx, 0, &greedy[0]);
        fx_take(&fx, 0, &greedy[1]);
        fx_take(&fx, 1, &modest);
        for (uint64_t i = 2; i < 30; i++)
                must(fx_send_pooled(&fx, i, 64));
        cr_assert(intact(&modest, 0, 64));
        cr_assert(intact(&greedy[0], 0, 64));
        cr_assert_not(intact(&greedy[1], 1, 64));
        ring_read_status(&fx.ring.ro, &s);
        cr_assert_eq(s.over_quota, 1);
        fixture_close(&fx);
}

Test(segments, a_message_in_an_unknown_segment_waits_until_the_segment_is_attached)
{
        const PoolClass small = {64, 2}, large = {64 << 20, 1};
        Mapped more = {.fd = -1};
        RingMessage msg;
        PoolChunk c;
        Fixture fx;
        bool ring;
        uint8_t *p;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &small, 1);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(fx_send_pooled(&fx, 0, 64));
        cr_assert_eq(fx_send_pooled(&fx, 1, 64 << 20), POOL_E_TOO_LARGE);

        must(pool_create(&large, 1, &more.fd));
        mapped_open(&more, REGION_POOL, pool_size(&large, 1));
        must(ring_writer_add_segment(fx.w, &more.rw));
        must(ring_writer_alloc(fx.w, 64 << 20, &c, NULL));
        cr_assert_eq(ring_writer_chunk_segment(fx.w, &c), 1);
        p = c.data;
        p[0] = 'a';
        p[(64 << 20) - 1] = 'z';
        must(ring_writer_publish(fx.w, &(RingPost){.payload_len = 64 << 20}, &c, NULL));
        ring_writer_flush(fx.w);

        cr_assert_eq(fx_take(&fx, 0, &msg), 0);
        for (int i = 0; i < 3; i++)
                cr_assert_eq(ring_reader_take(&fx.r[0], &msg, &ring), RING_E_SEGMENT);
        cr_assert_eq(msg.d.segment, 1);
        cr_assert_eq(fx.r[0].tail, 1, "nothing was taken");
        must(ring_reader_add_segment(&fx.r[0], 1, &more.ro));
        cr_assert_eq(ring_reader_add_segment(&fx.r[0], 1, &more.ro), RING_E_INVALID, "a number is used once");
        cr_assert_eq(ring_reader_add_segment(&fx.r[0], POOL_MAX_SEGMENTS, &more.ro), RING_E_INVALID);
        must(ring_reader_take(&fx.r[0], &msg, &ring));
        cr_assert_eq(((const uint8_t *)msg.payload)[0], 'a');
        cr_assert_eq(((const uint8_t *)msg.payload)[(64 << 20) - 1], 'z');
        mapped_close(&more);
        fixture_close(&fx);
}

Test(segments, a_number_that_is_left_out_holds_nothing_and_is_not_given_again)
{
        const PoolClass small = {64, 2}, large = {128 << 10, 1};
        Mapped more = {.fd = -1};
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_pool(&fx, &small, 1);
        must(ring_writer_skip_segment(fx.w));
        cr_assert_eq(ring_writer_alloc(fx.w, 128 << 10, &c, NULL), POOL_E_TOO_LARGE);

        must(pool_create(&large, 1, &more.fd));
        mapped_open(&more, REGION_POOL, pool_size(&large, 1));
        must(ring_writer_add_segment(fx.w, &more.rw));
        must(ring_writer_alloc(fx.w, 128 << 10, &c, NULL));
        cr_assert_eq(ring_writer_chunk_segment(fx.w, &c), 2);
        ring_writer_give_back(fx.w, &c);
        for (unsigned i = 3; i < POOL_MAX_SEGMENTS; i++)
                must(ring_writer_skip_segment(fx.w));
        cr_assert_eq(ring_writer_skip_segment(fx.w), RING_E_CAPACITY);
        mapped_close(&more);
        fixture_close(&fx);
}

Test(segments, chunks_in_use_keep_their_order_when_a_segment_is_added)
{
        const PoolClass class = {128, 3}, more_classes[] = {{64, 2}, {128, 2}, {256, 1}};
        Mapped more = {.fd = -1};
        RingMessage msg;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 5; i++) { /* the circle of published chunks does not start at 0 any more */
                must(fx_send_pooled(&fx, i, 128));
                cr_assert_eq(fx_take(&fx, 0, &msg), i);
                ring_reader_release(&fx.r[0], msg.claim);
        }
        must(fx_send_pooled(&fx, 5, 128));
        must(pool_create(more_classes, 3, &more.fd));
        mapped_open(&more, REGION_POOL, pool_size(more_classes, 3));
        must(ring_writer_add_segment(fx.w, &more.rw));
        must(ring_reader_add_segment(&fx.r[0], 1, &more.ro));
        for (uint64_t i = 6; i < 200; i++) {
                must(fx_send_pooled(&fx, i, i % 2 ? 60 : 128));
                cr_assert_eq(fx_take(&fx, 0, &msg), i - 1);
                cr_assert(intact(&msg, i - 1, (i - 1) % 2 && i > 6 ? 60 : 128));
                ring_reader_release(&fx.r[0], msg.claim);
        }
        cr_assert_eq(ring_writer_alloc(fx.w, 256, &(PoolChunk){}, NULL), 0);
        mapped_close(&more);
        fixture_close(&fx);
}

Test(observer, looks_at_the_beginning_of_a_payload_and_at_the_metadata_behind_it)
{
        const PoolClass class = {4096, 4};
        uint8_t payload[1000], meta[] = "metadata", first[8], small[4], found[64];
        RingGlance to = {.payload = first, .payload_size = sizeof(first), .meta = found, .meta_size = sizeof(found)};
        RingPost post = {.payload = payload, .payload_len = 997, .meta = meta, .meta_len = sizeof(meta)};
        PoolChunk chunk = POOL_CHUNK_INIT;
        struct ring_descriptor d;
        RingObserver o;
        Fixture fx;
        uint64_t i;

        memset(payload, 0x5a, sizeof(payload));
        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        must(ring_observer_init(&o, &fx.ring.ro));
        must(ring_writer_alloc(fx.w, 1100, &chunk, NULL));
        memcpy(chunk.data, payload, sizeof(payload));
        must(ring_writer_publish(fx.w, &post, &chunk, NULL));
        post.payload_len = 5;
        must(ring_writer_publish(fx.w, &post, NULL, NULL));
        (void)ring_writer_flush(fx.w);

        cr_assert_eq(ring_observer_glance(&o, &d, &i, &to), RING_E_SEGMENT);
        must(ring_observer_add_segment(&o, 0, &fx.pool.ro));
        ring_observer_again(&o);
        must(ring_observer_glance(&o, &d, &i, &to));
        cr_assert_eq(i, 0, "the message that could not be read before");
        cr_assert_eq(d.payload_len, 997);
        cr_assert_eq(memcmp(first, payload, sizeof(first)), 0);
        cr_assert_eq(memcmp(found, meta, sizeof(meta)), 0);

        to = (RingGlance){.payload = first, .payload_size = sizeof(first), .meta = small, .meta_size = sizeof(small)};
        memset(first, 0, sizeof(first));
        must(ring_observer_glance(&o, &d, &i, &to));
        cr_assert_eq(i, 1, "and one in the slot");
        cr_assert_eq(memcmp(first, "ZZZZZ\0\0", 8), 0);
        cr_assert_eq(memcmp(small, meta, sizeof(small)), 0, "as far as it fits");
        cr_assert_eq(o.missed, 0);
        cr_assert_eq(ring_observer_glance(&o, &d, &i, &to), RING_E_EMPTY);
        fixture_close(&fx);
}

Test(observer, sees_what_is_whole_and_counts_what_has_passed)
{
        const PoolClass class = {64, 4};
        struct ring_descriptor d;
        uint8_t buf[64];
        RingObserver o;
        uint64_t i, v;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        must(fx_send(&fx, 0));
        must(ring_observer_init(&o, &fx.ring.ro));
        cr_assert_eq(ring_observer_copy(&o, &d, &i, buf, sizeof(buf)), RING_E_EMPTY);
        ring_observer_rewind(&o, 5);
        must(ring_observer_copy(&o, &d, &i, buf, sizeof(buf)));
        cr_assert_eq(i, 0);
        must(fx_send_pooled(&fx, 1, 64));
        cr_assert_eq(ring_observer_copy(&o, &d, &i, buf, sizeof(buf)), RING_E_SEGMENT);
        must(ring_observer_add_segment(&o, 0, &fx.pool.ro));
        ring_observer_rewind(&o, 1);
        must(ring_observer_copy(&o, &d, &i, buf, 8));
        memcpy(&v, buf, 8);
        cr_assert_eq(v, 1);
        cr_assert_eq(d.payload_len, 64, "a short buffer shows");
        for (v = 2; v < 30; v++)
                must(fx_send_pooled(&fx, v, 64));
        must(ring_observer_copy(&o, &d, &i, buf, sizeof(buf)));
        cr_assert_eq(i, fx_ring(&fx)->floor, "the oldest whose chunk was not reused");
        memcpy(&v, buf, 8);
        cr_assert_eq(v, i);
        cr_assert_eq(o.missed, i - 2);
        ring_writer_close(fx.w);
        while (ring_observer_copy(&o, &d, &i, NULL, 0) == 0)
                ;
        cr_assert_eq(i, 29);
        cr_assert_eq(ring_observer_copy(&o, &d, &i, NULL, 0), RING_E_END);
        fixture_close(&fx);
}
