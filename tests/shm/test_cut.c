/* SPDX-License-Identifier: Apache-2.0 */
/* A pool that may not grow, and messages whose sizes change: chunks are cut anew, and no byte that somebody may read is among them. */
#include <criterion/criterion.h>

#include "fixture.h"
#include "shm/writer-internal.h"

#define PAGE 4096u

static const PoolClass eight = {16 * PAGE, 8}; /* what nearly all of these tests begin with */

static bool intact(const RingMessage *msg)
{
        const uint8_t *p = msg->payload;
        uint64_t value = msg->d.sequence;

        return memcmp(p, &value, 8) == 0 && p[8] == (uint8_t)value && memcmp(p + 8, p + 9, msg->d.payload_len - 9) == 0;
}

static void take(Fixture *fx, unsigned l, uint64_t value, RingMessage *msg)
{
        cr_assert_eq(fx_take(fx, l, msg), value);
        cr_assert(intact(msg));
}

static void pass(Fixture *fx, unsigned l, uint64_t value)
{
        RingMessage msg;

        take(fx, l, value, &msg);
        ring_reader_release(&fx->r[l], msg.claim);
}

/* The book holds together: chunks of a page and more fill their part of the segment, and every list and number agrees with them. */
static void check_book(const Pool *pool)
{
        uint32_t n_live = 0, n_spare = 0, n_of[64] = {}, n_free[64] = {}, n_listed;

        cr_assert_leq(pool->n_buckets, ELEMENTSOF(n_of));
        for (uint32_t i = 0; i < pool->n_chunks; i++) {
                const Chunk *c = &pool->chunk[i];

                if (c->state == CHUNK_SPARE)
                        continue;
                n_live++;
                n_of[c->bucket]++;
                n_free[c->bucket] += c->state == CHUNK_FREE;
        }
        for (uint32_t id = pool->spare; id != CHUNK_NONE; id = pool->chunk[id].next, n_spare++)
                cr_assert_eq(pool->chunk[id].state, CHUNK_SPARE);
        cr_assert_eq(n_live + n_spare, pool->n_chunks);
        for (uint32_t b = 0; b < pool->n_buckets; b++) {
                cr_assert(b == 0 || pool->bucket[b - 1].chunk_size < pool->bucket[b].chunk_size);
                cr_assert_gt(n_of[b], 0);
                cr_assert_eq(pool->bucket[b].n_chunks, n_of[b]);
                n_listed = 0;
                for (uint32_t id = pool->bucket[b].first_free; id != CHUNK_NONE; id = pool->chunk[id].next, n_listed++)
                        cr_assert(pool->chunk[id].state == CHUNK_FREE && pool->chunk[id].bucket == b);
                cr_assert_eq(n_listed, n_free[b]);
        }
        for (uint32_t s = 0; s < pool->n_segments; s++) {
                uint64_t bytes = 0, end = 0;

                for (uint32_t id = pool->pages[s].bytes ? pool->pages[s].first : CHUNK_NONE; id != CHUNK_NONE; id = pool->chunk[id].after) {
                        cr_assert_eq(pool->chunk[id].segment, s);
                        cr_assert(end == 0 || pool->chunk[id].offset == end);
                        cr_assert_eq(pool->chunk[id].offset % PAGE, 0);
                        end = pool->chunk[id].offset + pool_chunk_size(pool, id);
                        bytes += pool_chunk_size(pool, id);
                }
                cr_assert_eq(bytes, pool->pages[s].bytes);
        }
}

Test(cut, a_message_larger_than_every_chunk_takes_the_place_of_those_that_are_free)
{
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 8; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        for (uint64_t i = 0; i < 8; i++)
                pass(&fx, 0, i);
        must(ring_writer_alloc(fx.w, 64 * PAGE, &c, NULL));
        cr_assert_eq(c.capacity, 64 * PAGE);
        cr_assert_eq((uintptr_t)c.data % PAGE, 0);
        check_book(&fx.w->pool);
        ring_writer_give_back(fx.w, &c);
        must(fx_send_pooled(&fx, 8, 128 * PAGE));
        pass(&fx, 0, 8);
        cr_assert_eq(ring_writer_alloc(fx.w, 128 * PAGE + 1, &c, NULL), POOL_E_TOO_LARGE, "more than the segment has");
        cr_assert_eq(ring_writer_alloc(fx.w, UINT64_MAX, &c, NULL), POOL_E_TOO_LARGE);
        check_book(&fx.w->pool);
        fixture_close(&fx);
}

Test(cut, gently_nothing_is_and_it_says_that_a_segment_would_help)
{
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        cr_assert_eq(ring_writer_alloc_gently(fx.w, 17 * PAGE, &c), POOL_E_FULL);
        cr_assert_eq(ring_writer_alloc_gently(fx.w, 129 * PAGE, &c), POOL_E_TOO_LARGE);
        for (int i = 0; i < 8; i++) {
                must(ring_writer_alloc(fx.w, 16 * PAGE, &c, NULL));
                cr_assert_eq(c.capacity, 16 * PAGE);
        }
        fixture_close(&fx);
}

Test(cut, chunks_of_less_than_a_page_stay_what_they_are)
{
        const PoolClass classes[] = {{64, 4}, {2048, 4}, {PAGE, 2}};
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, classes, 3);
        cr_assert_eq(pool_largest(classes, 3), 2 * PAGE);
        cr_assert_eq(pool_largest(classes, 2), 2048);
        cr_assert_eq(ring_writer_alloc(fx.w, 2 * PAGE + 1, &c, NULL), POOL_E_TOO_LARGE);
        must(ring_writer_alloc(fx.w, 2 * PAGE, &c, NULL));
        ring_writer_give_back(fx.w, &c);
        for (int i = 0; i < 4; i++) {
                must(ring_writer_alloc(fx.w, 64, &c, NULL));
                cr_assert_eq(c.capacity, 64);
                must(ring_writer_alloc(fx.w, 2048, &c, NULL));
                cr_assert_eq(c.capacity, 2048);
        }
        check_book(&fx.w->pool);
        fixture_close(&fx);
}

Test(cut, sizes_that_go_back_find_as_many_chunks_as_there_were)
{
        PoolChunk c[9];
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        for (int round = 0; round < 3; round++) {
                must(ring_writer_alloc(fx.w, 128 * PAGE, &c[0], NULL));
                cr_assert_eq(ring_writer_alloc(fx.w, 16 * PAGE, &c[1], NULL), POOL_E_FULL);
                ring_writer_give_back(fx.w, &c[0]);
                for (int i = 0; i < 8; i++) {
                        must(ring_writer_alloc(fx.w, 16 * PAGE, &c[i], NULL));
                        for (int k = 0; k < i; k++)
                                cr_assert((uint8_t *)c[i].data + c[i].capacity <= (uint8_t *)c[k].data ||
                                          (uint8_t *)c[k].data + c[k].capacity <= (uint8_t *)c[i].data);
                }
                cr_assert_eq(ring_writer_alloc(fx.w, 16 * PAGE, &c[8], NULL), POOL_E_FULL);
                check_book(&fx.w->pool);
                for (int i = 0; i < 8; i++)
                        ring_writer_give_back(fx.w, &c[i]);
        }
        fixture_close(&fx);
}

Test(cut, what_somebody_holds_is_left_out_and_waited_for_by_name)
{
        RingMessage held = {}, msg;
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        fixture_link(&fx, 10, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 5; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        for (uint64_t i = 0; i < 5; i++) {
                pass(&fx, 0, i);
                take(&fx, 1, i, &msg);
                if (i == 3)
                        held = msg; /* in the middle */
                else
                        ring_reader_release(&fx.r[1], msg.claim);
        }
        for (uint64_t i = 5; i < 40; i++) { /* half of the segment lies on the other side */
                must(fx_send_pooled(&fx, i, 64 * PAGE));
                pass(&fx, 0, i);
                pass(&fx, 1, i);
                cr_assert(intact(&held));
        }
        for (int i = 0; i < 3; i++)
                cr_assert_eq(ring_writer_arm(fx.w, 1, 80 * PAGE, &block), POOL_E_HELD);
        cr_assert_eq(block.link, 1);
        cr_assert_eq(block.target, UINT64_MAX);
        cr_assert_not(block.any);
        cr_assert(intact(&held));
        cr_assert(ring_reader_release(&fx.r[1], held.claim), "the producer waits for just this");
        cr_assert_eq(ring_writer_look(fx.w, 1, 80 * PAGE, NULL), 0);
        ring_writer_disarm(fx.w);
        must(fx_send_pooled(&fx, 40, 128 * PAGE));
        pass(&fx, 0, 40);
        pass(&fx, 1, 40);
        cr_assert(fx_adds_up(&fx, 0) && fx_adds_up(&fx, 1));
        check_book(&fx.w->pool);
        fixture_close(&fx);
}

Test(cut, what_a_lossless_reader_has_not_read_is_left_alone_and_waited_for_message_by_message)
{
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 8; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        for (uint64_t i = 0; i < 4; i++) {
                cr_assert_eq(ring_writer_arm(fx.w, 1, 64 * PAGE, &block), POOL_E_HELD);
                cr_assert_eq(block.link, 0);
                cr_assert_eq(block.target, i + 1);
                pass(&fx, 0, i);
        }
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64 * PAGE, &block), 0);
        must(fx_send_pooled(&fx, 8, 64 * PAGE));
        for (uint64_t i = 4; i < 9; i++)
                pass(&fx, 0, i);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(cut, windows_are_given_up_oldest_first_and_no_more_than_it_takes)
{
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 10, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 8; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        must(fx_send_pooled(&fx, 8, 48 * PAGE));
        cr_assert_eq(fx_ring(&fx)->pressure, 1);
        for (uint64_t i = 3; i < 9; i++)
                pass(&fx, 0, i);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_POOL), 3);
        cr_assert(fx_adds_up(&fx, 0));
        fixture_close(&fx);
}

Test(cut, no_window_is_given_up_in_vain)
{
        RingMessage held;
        Fixture fx;

        fixture_ring(&fx, 32);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 16, RING_DROP_OLDEST);
        fixture_link(&fx, 16, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 8; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        for (uint64_t i = 0; i < 4; i++)
                pass(&fx, 1, i);
        take(&fx, 1, 4, &held);                          /* for ever */
        must(fx_send_pooled(&fx, 8, 48 * PAGE));         /* so the floor passes 0 to 2 */
        cr_assert_eq(fx_send_pooled(&fx, 9, 96 * PAGE), POOL_E_HELD, "this once the claim is found too late");
        for (uint64_t i = 9; i < 12; i++)
                must(fx_send_pooled(&fx, i, 16 * PAGE));
        for (int i = 0; i < 3; i++)
                cr_assert_eq(ring_writer_look(fx.w, 1, 96 * PAGE, NULL), POOL_E_HELD);
        for (uint64_t i = 9; i < 12; i++)
                pass(&fx, 0, i);
        cr_assert(intact(&held));
        check_book(&fx.w->pool);
        fixture_close(&fx);
}

Test(cut, a_reader_that_claims_too_late_lets_go_and_one_in_time_keeps_it_whole)
{
        const uint8_t *second;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, &eight, 1);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 8; i++)
                must(fx_send_pooled(&fx, i + 1, 16 * PAGE));
        second = (const uint8_t *)fx.pool.ro.map + POOL_DATA_OFFSET + 16 * PAGE;
        fx_cursor(&fx, 0)->claim[2] = 1 + 1; /* of message 1, as a consumer at that point would have put it */
        for (uint64_t i = 8; i < 20; i++) {
                must(fx_send_pooled(&fx, i + 1, 48 * PAGE));
                cr_assert_eq(second[100], 2);
        }
        fx_cursor(&fx, 0)->claim[2] = 0;
        fx_cursor(&fx, 0)->claim[3] = 1 + 1; /* below the floor by now */
        for (uint64_t i = 20; i < 22; i++)
                must(fx_send_pooled(&fx, i + 1, 128 * PAGE));
        cr_assert_eq(second[100], 22);
        fixture_close(&fx);
}

Test(cut, of_several_segments_each_is_one_area)
{
        const PoolClass first[] = {{64, 4}, {PAGE, 8}}, more_class = {16 * PAGE, 2};
        Mapped more = {.fd = -1};
        RingMessage msg;
        PoolChunk c;
        Fixture fx;

        fixture_ring(&fx, 16);
        fixture_pool(&fx, first, 2);
        fixture_link(&fx, 10, RING_BACKPRESSURE);
        must(ring_writer_skip_segment(fx.w));
        must(pool_create(&more_class, 1, &more.fd));
        mapped_open(&more, REGION_POOL, pool_size(&more_class, 1));
        must(ring_writer_add_segment(fx.w, &more.rw));
        must(ring_reader_add_segment(&fx.r[0], 2, &more.ro));
        cr_assert_eq(ring_writer_alloc(fx.w, 33 * PAGE, &c, NULL), POOL_E_TOO_LARGE);
        must(fx_send_pooled(&fx, 0, 32 * PAGE));
        take(&fx, 0, 0, &msg);
        must(fx_send_pooled(&fx, 1, 8 * PAGE)); /* of the first segment */
        pass(&fx, 0, 1);
        cr_assert_eq(ring_writer_look(fx.w, 1, 20 * PAGE, NULL), POOL_E_HELD);
        cr_assert(intact(&msg));
        check_book(&fx.w->pool);
        mapped_close(&more);
        fixture_close(&fx);
}

/* -------- at random -------- */

typedef struct Walk {
        Fixture fx;
        uint64_t rng, next, lossless_next;
        RingMessage held[2][CURSOR_N_CLAIMS];
        unsigned n_held[2];
} Walk;

static uint64_t draw(Walk *walk, uint64_t n)
{
        walk->rng ^= walk->rng << 13;
        walk->rng ^= walk->rng >> 7;
        walk->rng ^= walk->rng << 17;
        return walk->rng % n;
}

static void let_go(Walk *walk, unsigned l, unsigned k)
{
        cr_assert(intact(&walk->held[l][k]), "message %lu was written to while it was held", (unsigned long)walk->held[l][k].index);
        ring_reader_release(&walk->fx.r[l], walk->held[l][k].claim);
        walk->held[l][k] = walk->held[l][--walk->n_held[l]];
}

static void read_some(Walk *walk, unsigned l)
{
        RingMessage msg;
        bool ring;

        for (uint64_t n = draw(walk, 4); n; n--) {
                if (walk->n_held[l] == RING_N_HOLDS)
                        let_go(walk, l, (unsigned)draw(walk, RING_N_HOLDS));
                if (ring_reader_take(&walk->fx.r[l], &msg, &ring))
                        break;
                cr_assert(intact(&msg));
                if (l == 0)
                        cr_assert_eq(msg.d.sequence, walk->lossless_next++);
                if (msg.claim >= 0)
                        walk->held[l][walk->n_held[l]++] = msg;
        }
        for (uint64_t n = draw(walk, 4); n && walk->n_held[l]; n--)
                let_go(walk, l, (unsigned)draw(walk, walk->n_held[l]));
}

Test(cut, at_random_no_byte_of_a_held_message_changes_and_nothing_is_lost, .timeout = 60)
{
        const PoolClass classes[] = {{512, 4}, {PAGE, 6}, {4 * PAGE, 6}};
        Walk walk = {.rng = 88172645463325252u};
        Fixture *fx = &walk.fx;
        uint64_t n_refused = 0;

        fixture_ring(fx, 32);
        fixture_pool(fx, classes, 3);
        fixture_link(fx, 9, RING_BACKPRESSURE);
        fixture_link(fx, 4, RING_DROP_OLDEST);
        for (unsigned step = 0; step < 3000; step++) {
                unsigned wide = step / 250 % 3; /* sizes grow and shrink for a while, or change with each message */
                uint32_t size = 16 + (uint32_t)draw(&walk, (wide == 0 ? 30 : wide == 1 ? 3 : 12) * PAGE - 16);
                int r = fx_send_pooled(fx, walk.next, size);

                if (r == 0)
                        walk.next++;
                else
                        cr_assert(r == POOL_E_HELD || r == RING_E_FULL, "it says %d", r);
                n_refused += r != 0;
                read_some(&walk, 0);
                read_some(&walk, 1);
                if (step % 16 == 0)
                        check_book(&fx->w->pool);
        }
        while (walk.n_held[0] || walk.n_held[1])
                let_go(&walk, walk.n_held[0] ? 0 : 1, 0);
        while (walk.lossless_next < walk.next)
                read_some(&walk, 0);
        while (walk.n_held[0])
                let_go(&walk, 0, 0);
        must(fx_send_pooled(fx, walk.next, 30 * PAGE)); /* all of it, at last */
        check_book(&fx->w->pool);
        cr_assert(fx_adds_up(fx, 0) && fx_adds_up(fx, 1));
        cr_assert_eq(fx_dropped(fx, 0, DROP_POOL), 0);
        cr_assert(walk.next > 1000 && n_refused > 100, "%lu sent, %lu refused", (unsigned long)walk.next, (unsigned long)n_refused);
        fixture_close(fx);
}
