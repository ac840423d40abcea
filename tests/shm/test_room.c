/* SPDX-License-Identifier: Apache-2.0 */
/* Sleep epochs, room words and the control page: who must be rung, and how often. */
#include <criterion/criterion.h>

#include "fixture.h"

static bool fx_take_rings(Fixture *fx, unsigned l)
{
        RingMessage msg;
        bool ring;

        must(ring_reader_take(&fx->r[l], &msg, &ring));
        return ring;
}

Test(bell, a_peer_rings_once_for_each_sleep_and_never_an_awake_node)
{
        Mapped m = {.fd = -1};
        BellPeer peer;
        Bell bell;

        must(bell_create(&m.fd));
        mapped_open(&m, REGION_BELL, bell_size());
        bell_init(&bell, &m.rw);
        bell_peer_init(&peer, &m.ro);
        cr_assert_not(bell_peer_must_ring(&peer, false));
        for (int i = 0; i < 3; i++) {
                bell_sleep(&bell);
                cr_assert(bell_peer_must_ring(&peer, false));
                cr_assert_not(bell_peer_must_ring(&peer, false));
                bell_sleep(&bell); /* woken for nothing: a second poll is a new sleep */
                cr_assert(bell_peer_must_ring(&peer, false));
                bell_wake(&bell);
                cr_assert_not(bell_peer_must_ring(&peer, false));
                bell_wake(&bell);
                cr_assert_not(bell_peer_must_ring(&peer, false));
        }
        bell_peer_init(&peer, &m.ro);
        bell_sleep(&bell);
        cr_assert(bell_peer_must_ring(&peer, false), "what was rung belongs to the attached peer and starts anew");
        mapped_close(&m);
}

Test(bell, every_sleep_has_an_epoch_that_was_never_used_before)
{
        Mapped m = {.fd = -1};
        struct bell_shared *s;
        uint64_t last = 0;
        Bell bell;

        must(bell_create(&m.fd));
        mapped_open(&m, REGION_BELL, bell_size());
        s = m.rw.map;
        bell_init(&bell, &m.rw);
        for (int i = 0; i < 100; i++) {
                bell_sleep(&bell);
                cr_assert_eq(s->epoch & 1, 1);
                cr_assert_gt(s->epoch, last);
                last = s->epoch;
                if (i % 3)
                        bell_wake(&bell);
        }
        mapped_close(&m);
}

Test(control, a_stop_only_moves_earlier_and_keeps_its_first_cause)
{
        Mapped m = {.fd = -1};
        uint32_t cause;
        nsec_t deadline;

        must(control_create(&m.fd));
        mapped_open(&m, REGION_CONTROL, control_size());
        control_init(&m.rw);
        cr_assert_not(control_stopping(&m.ro));
        cr_assert_not(control_stop_read(&m.ro, &cause, &deadline));
        control_stop(&m.rw, 3, 5000);
        cr_assert(control_stopping(&m.ro));
        cr_assert(control_stop_read(&m.ro, &cause, &deadline));
        cr_assert_eq(cause, 3);
        cr_assert_eq(deadline, 5000);
        control_stop(&m.rw, 4, 9000);
        control_stop_read(&m.ro, &cause, &deadline);
        cr_assert_eq(deadline, 5000);
        control_stop(&m.rw, 4, 100);
        control_stop_read(&m.ro, &cause, &deadline);
        cr_assert_eq(deadline, 100);
        cr_assert_eq(cause, 3);
        cr_assert_eq(control_epoch(&m.ro), 3);
        control_bump(&m.rw);
        cr_assert_eq(control_epoch(&m.ro), 4);
        mapped_close(&m);
}

Test(room, only_the_named_link_rings_and_only_when_its_tail_reaches_the_target)
{
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_link(&fx, 6, RING_BACKPRESSURE);
        fixture_link(&fx, 3, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 3; i++)
                must(fx_send(&fx, i));
        cr_assert_not(fx_take_rings(&fx, 0), "nobody waits");
        cr_assert_eq(ring_writer_arm(fx.w, 2, 0, &block), RING_E_FULL);
        cr_assert_eq(block.link, 1);
        cr_assert_eq(block.target, 2);
        cr_assert_not(fx_take_rings(&fx, 0), "not named");
        cr_assert_not(fx_take_rings(&fx, 1), "not far enough");
        cr_assert(fx_take_rings(&fx, 1));
        cr_assert_not(fx_take_rings(&fx, 1), "once for each announcement");
        cr_assert_eq(ring_writer_look(fx.w, 2, 0, NULL), 0);
        ring_writer_disarm(fx.w);
        fixture_close(&fx);
}

Test(room, a_second_wait_in_a_row_is_rung_again)
{
        Fixture fx;

        fixture_ring(&fx, 2);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        for (uint64_t i = 0; i < 50; i++) {
                must(fx_send(&fx, i));
                cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
                if (i % 2)
                        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL); /* woken for nothing */
                cr_assert(fx_take_rings(&fx, 0));
                if (i % 3)
                        ring_writer_disarm(fx.w);
        }
        fixture_close(&fx);
}

Test(room, arming_looks_again_and_says_so_when_there_is_room_meanwhile)
{
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        cr_assert_eq(fx_send(&fx, 1), RING_E_FULL);
        fx_take(&fx, 0, NULL); /* between the refusal and the announcement: nobody rings */
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), 0);
        cr_assert_eq(fx_ring(&fx)->room_epoch & 1, 0, "not left announced");
        must(fx_send(&fx, 1));
        fixture_close(&fx);
}

Test(room, the_next_full_link_is_named_once_the_first_has_room)
{
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        fixture_link(&fx, 1, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, &block), RING_E_FULL);
        cr_assert_eq(block.link, 0);
        cr_assert(fx_take_rings(&fx, 0));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, &block), RING_E_FULL);
        cr_assert_eq(block.link, 1);
        cr_assert(fx_take_rings(&fx, 1));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, &block), 0);
        fixture_close(&fx);
}

Test(room, arming_makes_a_begun_batch_visible_first)
{
        Fixture fx;
        uint64_t v = 7;

        fixture_ring(&fx, 16);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(ring_writer_publish(fx.w, &(RingPost){.payload = &v, .payload_len = 8}, NULL, NULL));
        must(ring_writer_publish(fx.w, &(RingPost){.payload = &v, .payload_len = 8}, NULL, NULL));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        cr_assert(ring_reader_ready(&fx.r[0]), "or both would wait for each other");
        cr_assert_eq(ring_writer_flush(fx.w), 2, "and the peers are still owed a ring");
        fixture_close(&fx);
}

Test(room, a_consumer_that_stops_rings_the_producer_that_waits_for_it)
{
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 4);
        fixture_link(&fx, 2, RING_BACKPRESSURE);
        must(fx_send(&fx, 0));
        must(fx_send(&fx, 1));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), RING_E_FULL);
        ring_reader_stop(&fx.r[0], &ring);
        cr_assert(ring);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 0, NULL), 0);
        fixture_close(&fx);
}

Test(room, a_release_rings_a_producer_that_waits_for_a_chunk)
{
        const PoolClass class = {.chunk_size = 64, .n_chunks = 2};
        RingMessage msg[2];
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        for (uint64_t i = 0; i < 2; i++) {
                must(fx_send_pooled(&fx, i, 64));
                cr_assert_eq(fx_take(&fx, 0, &msg[i]), i);
        }
        cr_assert_not(ring_reader_release(&fx.r[0], msg[0].claim), "nobody waits");
        must(fx_send_pooled(&fx, 2, 64));
        cr_assert_eq(fx_take(&fx, 0, &msg[0]), 2);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), POOL_E_HELD);
        cr_assert_eq(block.reason, ROOM_CHUNK);
        cr_assert_eq(block.link, 0);
        cr_assert_not(block.any);
        must(fx_send(&fx, 3)); /* inline needs no chunk */
        cr_assert_not(fx_take_rings(&fx, 0), "taking more gives no chunk");
        cr_assert(ring_reader_release(&fx.r[0], msg[1].claim));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, NULL), 0);
        must(fx_send_pooled(&fx, 4, 64));
        fixture_close(&fx);
}

Test(room, with_several_holders_any_of_them_rings)
{
        const PoolClass class = {.chunk_size = 64, .n_chunks = 2};
        RingMessage a, b;
        RingBlock block;
        Fixture fx;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        fixture_link(&fx, 1, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 64));
        fx_take(&fx, 0, &a);
        must(fx_send_pooled(&fx, 1, 64));
        fx_take(&fx, 1, &b);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), POOL_E_HELD);
        cr_assert(block.any);
        cr_assert(ring_reader_release(&fx.r[1], b.claim), "the second holder would otherwise let it sleep");
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), 0);
        fixture_close(&fx);
}

Test(room, a_backpressure_tail_in_the_way_of_a_chunk_rings_when_it_passes)
{
        const PoolClass class = {.chunk_size = 64, .n_chunks = 2};
        RingMessage msg;
        RingBlock block;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 7, RING_BACKPRESSURE);
        must(fx_send_pooled(&fx, 0, 64));
        must(fx_send_pooled(&fx, 1, 64));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), POOL_E_HELD);
        cr_assert_eq(block.target, 1);
        must(ring_reader_take(&fx.r[0], &msg, &ring));
        cr_assert(ring);
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), POOL_E_HELD, "taken, but in use");
        cr_assert(ring_reader_release(&fx.r[0], msg.claim));
        cr_assert_eq(ring_writer_arm(fx.w, 1, 64, &block), 0);
        fixture_close(&fx);
}

/* The producer stored the floor, then read this consumer's claim and honoured it; the consumer then reads the floor.
 * */
Test(room, a_consumer_that_is_too_late_rings_when_it_lets_its_claim_go)
{
        const PoolClass class = {.chunk_size = 64, .n_chunks = 1};
        struct ring_shared *s;
        RingMessage msg;
        Fixture fx;
        bool ring;

        fixture_ring(&fx, 8);
        fixture_pool(&fx, &class, 1);
        fixture_link(&fx, 4, RING_DROP_OLDEST);
        must(fx_send_pooled(&fx, 0, 64));
        s = fx_ring(&fx);
        s->floor = 1;
        s->room_link = 0;
        s->room_reason = ROOM_CHUNK;
        s->room_target = UINT64_MAX;
        s->room_epoch = 1;
        cr_assert_eq(ring_reader_take(&fx.r[0], &msg, &ring), RING_E_EMPTY);
        cr_assert_eq(fx_dropped(&fx, 0, DROP_POOL), 1);
        cr_assert(ring, "or the producer waits for a release that has happened already");
        fixture_close(&fx);
}
