/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives an output and its links by a byte string that may also write anything into any shared word between two
 * calls. There are two pool segments, the second of which readers attach when a message names it, or never. Aborts when an end hands out bytes that do not lie in its regions, when its sums do not add up, or when the
 * writer loses its head. Used by the unit tests (pseudo-random strings) and by the fuzz target.
 */
#ifndef TG_TESTS_SHM_HOSTILE_H
#define TG_TESTS_SHM_HOSTILE_H

#include "fixture.h"

#define HOSTILE_CHECK(what)                                                                                            \
        do {                                                                                                           \
                if (!(what)) {                                                                                         \
                        fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #what);                           \
                        abort();                                                                                       \
                }                                                                                                      \
        } while (0)

typedef struct Hostile {
        Fixture fx;
        Mapped more; /* the second segment */
        RingObserver o;
        const uint8_t *p, *end;
        RingMessage held[FX_MAX_LINKS];
        bool holds[FX_MAX_LINKS];
        PoolChunk chunk;
        uint64_t floor, head;
        uint32_t sum; /* of every byte handed out: reading them is the point */
} Hostile;

static inline uint8_t hostile_byte(Hostile *h)
{
        return h->p < h->end ? *h->p++ : 0;
}

static inline uint64_t hostile_value(Hostile *h)
{
        uint64_t head = ring_writer_head(h->fx.w), v = 0;
        const uint64_t likely[] = {0, 1, 2, 3, head, head + 1, head - 1, head + 8, head - 8, 2 * head, 2 * head + 2,
                2 * head + 1, UINT64_C(1) << 62, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 1, h->floor,
                h->floor + 1,
                UINT32_MAX, 4096, POOL_DATA_OFFSET + 64};
        uint8_t b = hostile_byte(h);

        if (b < ELEMENTSOF(likely))
                return likely[b];
        for (int i = 0; i < 8; i++)
                v = v << 8 | hostile_byte(h);
        return v >> (b & 63);
}

static inline void hostile_scribble(Hostile *h)
{
        uint8_t b = hostile_byte(h);
        Region *region = b < 128 ? &h->fx.ring.rw : &h->fx.cursor[b % h->fx.n_links].rw;
        size_t first = sizeof(struct region_header) / 8, n = region->size / 8 - first;
        size_t at = hostile_byte(h);

        if (region->kind == REGION_RING && b >= 48) /* most words of a ring are inline bytes: aim at the others */
                at = (at & 1) ? (1024 + at / 2 % 8 * 256 + at / 16 % 8 * 8) / 8 - first : at % 112;
        ((volatile uint64_t *)region->map)[first + at % n] = hostile_value(h);
}

static inline void hostile_read(Hostile *h, const RingMessage *msg)
{
        const Region *segment = msg->d.segment ? &h->more.ro : &h->fx.pool.ro;
        const uint8_t *p = msg->payload, *pool = segment->map;
        uint64_t extent = msg->d.payload_len;

        if (msg->d.meta_len)
                extent = ((extent + 7) & ~UINT64_C(7)) + msg->d.meta_len;
        if (msg->claim < 0) {
                HOSTILE_CHECK(p == (const uint8_t *)msg->bytes && extent <= RING_INLINE_MAX);
        } else {
                HOSTILE_CHECK(msg->d.segment <= 1);
                HOSTILE_CHECK(msg->claim < CURSOR_N_CLAIMS && (uintptr_t)p % POOL_ALIGN == 0);
                HOSTILE_CHECK(p >= pool + POOL_DATA_OFFSET && extent <= segment->size && p + extent <= pool + segment->size);
        }
        HOSTILE_CHECK(!msg->d.meta_len || (const uint8_t *)msg->meta + msg->d.meta_len == p + extent);
        for (uint64_t i = 0; i < extent; i += 61)
                h->sum += p[i];
}

static inline void hostile_take(Hostile *h, unsigned l)
{
        bool ring;
        int r;

        if (h->holds[l]) {
                ring_reader_release(&h->fx.r[l], h->held[l].claim);
                h->holds[l] = false;
        }
        if ((h->sum ^ h->fx.r[l].tail) & 1) { /* takes nothing from the bytes that others are made of */
                r = ring_reader_take_more(&h->fx.r[l], &h->held[l], &ring);
                if ((h->sum ^ h->fx.r[l].tail) & 6)
                        (void)ring_reader_show(&h->fx.r[l]);
        } else if (((h->sum ^ h->fx.r[l].tail) & 8) && ring_reader_take_small(&h->fx.r[l], &h->held[l], &ring)) {
                r = 0;
        } else {
                r = ring_reader_take(&h->fx.r[l], &h->held[l], &ring);
        }
        HOSTILE_CHECK(r == 0 || (r >= RING_E_EMPTY && r <= RING_E_VIOLATION));
        if (r == RING_E_SEGMENT && h->held[l].d.segment == 1 && hostile_byte(h) & 1)
                must(ring_reader_add_segment(&h->fx.r[l], 1, &h->more.ro));
        else if (r == RING_E_SEGMENT)
                ring_reader_skip(&h->fx.r[l], DROP_INVALID, &ring);
        if (r)
                return;
        h->holds[l] = true;
        hostile_read(h, &h->held[l]);
        if (h->held[l].claim >= 0 && hostile_byte(h) & 1) { /* forget to release: claims run out */
                ring_reader_ref(&h->fx.r[l], h->held[l].claim);
                h->holds[l] = false;
        }
}

static inline bool hostile_lies_in(const Region *segment, const PoolChunk *chunk)
{
        const uint8_t *begin = segment->map, *data = chunk->data;

        return data >= begin + POOL_DATA_OFFSET && data + chunk->capacity <= begin + segment->size;
}

static inline void hostile_send(Hostile *h, uint8_t b)
{
        uint32_t size = (b & 64) ? 4096 : b & 63;
        uint8_t bytes[64];
        RingPost post = {.payload = bytes, .payload_len = b & 63};
        RingBlock block;
        int r;

        memset(bytes, b, sizeof(bytes));
        if (!(b & 128)) {
                if (!((h->sum ^ ring_writer_head(h->fx.w)) & 1) || !ring_writer_publish_small(h->fx.w, bytes, post.payload_len, 0))
                        (void)ring_writer_publish(h->fx.w, &post, NULL, &block);
                return;
        }
        if (!h->chunk.data) {
                r = ring_writer_alloc(h->fx.w, size, &h->chunk, &block);
                HOSTILE_CHECK(r == 0 || r == POOL_E_FULL || r == POOL_E_HELD);
                if (r)
                        return;
                HOSTILE_CHECK(h->chunk.capacity >= size);
                HOSTILE_CHECK(hostile_lies_in(&h->fx.pool.rw, &h->chunk) || hostile_lies_in(&h->more.rw, &h->chunk));
        }
        memset(h->chunk.data, b, h->chunk.capacity);
        post = (RingPost){.payload_len = (uint32_t)h->chunk.capacity};
        (void)ring_writer_publish(h->fx.w, &post, &h->chunk, &block);
}

static inline void hostile_observe(Hostile *h)
{
        struct ring_descriptor d;
        uint8_t buf[5000], meta[64];
        RingGlance glance = {.payload = buf, .payload_size = 32, .meta = meta, .meta_size = sizeof(meta)};
        bool glances = (h->sum ^ h->o.next) & 1; /* takes nothing from the bytes that others are made of */
        uint64_t i;
        int r;

        r = glances ? ring_observer_glance(&h->o, &d, &i, &glance) : ring_observer_copy(&h->o, &d, &i, buf, sizeof(buf));
        HOSTILE_CHECK(r == 0 || (r >= RING_E_EMPTY && r <= RING_E_VIOLATION));
        if (r == 0)
                for (uint64_t n = 0; n < MIN((uint64_t)d.payload_len, glances ? glance.payload_size : sizeof(buf)); n += 61)
                        h->sum += buf[n];
        if (r == RING_E_SEGMENT && d.segment == 1 && hostile_byte(h) & 1)
                must(ring_observer_add_segment(&h->o, 1, &h->more.ro));
        if (r == RING_E_SEGMENT && glances)
                ring_observer_again(&h->o);
        if (r == RING_E_VIOLATION)
                must(ring_observer_init(&h->o, &h->fx.ring.ro)); /* knows no segment any more */
}

static inline void hostile_reattach(Hostile *h, unsigned l)
{
        RingLinkSpec spec = {.id = l, .queue_size = l + 2, .policy = l == 0 ? RING_BACKPRESSURE : RING_DROP_OLDEST,
                .quota_bytes = l == 1 ? 4096 : 0, .cursor = &h->fx.cursor[l].ro};

        (void)ring_writer_detach(h->fx.w, l);
        must(ring_writer_attach(h->fx.w, &spec));
        memset((uint8_t *)h->fx.cursor[l].rw.map + 128, 0, cursor_size() - 128);
        must(ring_reader_init(&h->fx.r[l], &h->fx.ring.ro, &h->fx.cursor[l].rw, l, l + 2, spec.policy));
        must(ring_reader_add_segment(&h->fx.r[l], 0, &h->fx.pool.ro));
        h->holds[l] = false;
        (void)(hostile_byte(h) & 1 ? ring_reader_start(&h->fx.r[l])
                                   : ring_reader_start_at(&h->fx.r[l], hostile_value(h)));
}

static inline void hostile_check(Hostile *h)
{
        for (unsigned l = 0; l < h->fx.n_links; l++) {
                const RingReader *r = &h->fx.r[l];
                uint64_t sum = r->delivered;

                for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                        sum += r->dropped[i];
                HOSTILE_CHECK(r->tail - r->start == sum);
                HOSTILE_CHECK(r->tail <= r->head || r->draining);
        }
        HOSTILE_CHECK(ring_writer_head(h->fx.w) >= h->head);
        h->head = ring_writer_head(h->fx.w);
}

static inline void hostile_step(Hostile *h)
{
        uint8_t op = hostile_byte(h);
        unsigned l = op % h->fx.n_links;
        bool ring;

        switch (op >> 4) {
        case 0 ... 3:
                hostile_scribble(h);
                break;
        case 4 ... 6:
                hostile_take(h, l);
                break;
        case 7 ... 9:
                hostile_send(h, hostile_byte(h));
                break;
        case 10:
                (void)ring_writer_flush(h->fx.w);
                break;
        case 11:
                (void)ring_writer_arm(h->fx.w, 1, op & 8 ? 4096 : 0, NULL);
                break;
        case 12:
                hostile_observe(h);
                break;
        case 13:
                if (op & 8)
                        ring_observer_rewind(&h->o, hostile_value(h));
                else
                        (void)ring_reader_discard(&h->fx.r[l], DROP_DISCARDED, &ring);
                break;
        case 14:
                if (op & 8)
                        ring_reader_drain(&h->fx.r[l]);
                else
                        ring_writer_disarm(h->fx.w);
                break;
        case 15:
                hostile_reattach(h, l);
                break;
        }
}

static inline uint32_t hostile_drive(const uint8_t *data, size_t size)
{
        const PoolClass classes[] = {{64, 3}, {4096, 3}};
        Hostile h = {.p = data, .end = data + size};

        fixture_ring(&h.fx, 8);
        fixture_pool(&h.fx, classes, 2);
        h.more.fd = -1;
        mapped_pool(&h.more, &classes[1], 1);
        must(ring_writer_add_segment(h.fx.w, &h.more.rw));
        fixture_link(&h.fx, 2, RING_BACKPRESSURE);
        fixture_link(&h.fx, 3, RING_DROP_OLDEST);
        fixture_link(&h.fx, 4, RING_DROP_OLDEST);
        must(ring_observer_init(&h.o, &h.fx.ring.ro));
        must(ring_observer_add_segment(&h.o, 0, &h.fx.pool.ro));
        while (h.p < h.end) {
                hostile_step(&h);
                hostile_check(&h);
        }
        mapped_close(&h.more);
        fixture_close(&h.fx);
        return h.sum;
}

#endif
