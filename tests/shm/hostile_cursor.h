/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a producer by a byte string that may write anything into the cursors of its hostile links between two calls, attach,
 * orphan and detach them. Two honest readers go on beside them, one of each policy. Aborts when an honest reader gets another
 * byte than was published, loses something under backpressure, or finds changed what it holds; when a violation is put down
 * to the honest, or twice to one attachment; when a chunk is not there any more once nobody is left who could hold it.
 * Used by the unit tests (pseudo-random strings) and by the fuzz target.
 */
#ifndef TG_TESTS_SHM_HOSTILE_CURSOR_H
#define TG_TESTS_SHM_HOSTILE_CURSOR_H

#include "hostile.h"

#define HC_HONEST  2u /* links 0 (backpressure) and 1 (drop_oldest) */
#define HC_LINKS   5u
#define HC_HOLDS   3u
#define HC_SMALL   3u /* chunks of each class */
#define HC_LARGE   4u

typedef struct Besieged {
        Fixture fx;
        const uint8_t *p, *end;
        RingMessage held[HC_HONEST][HC_HOLDS];
        bool holds[HC_HONEST][HC_HOLDS];
        bool attached[HC_LINKS], told[HC_LINKS];
        uint64_t next[HC_HONEST]; /* index expected if nothing is dropped */
        PoolChunk chunk;
} Besieged;

static inline uint8_t hc_byte(Besieged *b)
{
        return b->p < b->end ? *b->p++ : 0;
}

static inline uint8_t hc_content(uint64_t index, uint64_t at)
{
        return (uint8_t)(index * 31 + at * 7 + (at >> 8));
}

static inline void hc_verify(const RingMessage *m)
{
        const uint8_t *bytes = m->payload;

        HOSTILE_CHECK(m->d.sequence == m->index);
        for (uint64_t i = 0; i < m->d.payload_len; i += i < 16 ? 1 : 37)
                HOSTILE_CHECK(bytes[i] == hc_content(m->index, i));
}

static inline uint64_t hc_value(Besieged *b)
{
        uint64_t head = ring_writer_head(b->fx.w), floor = fx_ring(&b->fx)->floor, v = 0;
        const uint64_t likely[] = {0, 1, 2, head, head + 1, head - 1, head - 2, head - 8, floor, floor + 1, floor + 2, floor - 1,
                b->fx.r[0].tail, b->fx.r[0].tail + 1, UINT64_C(1) << 62, UINT64_C(1) << 63, UINT64_MAX, UINT32_MAX};
        uint8_t which = hc_byte(b);

        if (which < 192)
                return likely[which % ELEMENTSOF(likely)];
        for (int i = 0; i < 8; i++)
                v = v << 8 | hc_byte(b);
        return v >> (which & 63);
}

static inline void hc_scribble(Besieged *b)
{
        unsigned l = HC_HONEST + hc_byte(b) % (HC_LINKS - HC_HONEST);
        struct cursor_shared *c = fx_cursor(&b->fx, l);
        uint8_t where = hc_byte(b);

        if (where < 64)
                c->tail = hc_value(b);
        else if (where < 128)
                c->state = (uint32_t)(where & 1 ? 1 : hc_value(b));
        else if (where < 224)
                c->claim[where % CURSOR_N_CLAIMS] = hc_value(b);
        else /* anything behind the header, or the header, which was copied when it was mapped */
                ((volatile uint64_t *)b->fx.cursor[l].rw.map)[hc_byte(b) % (cursor_size() / 8)] = hc_value(b);
}

static inline void hc_release(Besieged *b, unsigned l, unsigned k)
{
        if (!b->holds[l][k])
                return;
        hc_verify(&b->held[l][k]);
        (void)ring_reader_release(&b->fx.r[l], b->held[l][k].claim);
        b->holds[l][k] = false;
}

static inline int hc_take(Besieged *b, unsigned l, unsigned k)
{
        RingMessage *m = &b->held[l][k];
        bool ring;
        int r;

        hc_release(b, l, k);
        r = ring_reader_take(&b->fx.r[l], m, &ring);
        HOSTILE_CHECK(r == 0 || r == RING_E_EMPTY || r == RING_E_AGAIN);
        if (r)
                return r;
        HOSTILE_CHECK(l == 0 ? m->index == b->next[l] : m->index >= b->next[l]);
        b->next[l] = m->index + 1;
        hc_verify(m);
        b->holds[l][k] = m->claim >= 0;
        return 0;
}

static inline void hc_blocked(Besieged *b, int r, const RingBlock *block)
{
        if (r == RING_E_FULL || r == POOL_E_HELD)
                HOSTILE_CHECK(block->any || (block->link < HC_LINKS && b->attached[block->link]));
        else
                HOSTILE_CHECK(r == 0 || r == POOL_E_FULL);
}

static inline void hc_send(Besieged *b)
{
        uint64_t index = ring_writer_head(b->fx.w);
        uint8_t how = hc_byte(b), bytes[RING_INLINE_MAX];
        RingPost post = {.payload = bytes, .payload_len = how % (RING_INLINE_MAX + 1), .sequence = index};
        RingBlock block = {};
        int r;

        if (how & 1) {
                for (uint32_t i = 0; i < post.payload_len; i++)
                        bytes[i] = hc_content(index, i);
                r = ring_writer_publish(b->fx.w, &post, NULL, &block);
                hc_blocked(b, r, &block);
                return;
        }
        if (!b->chunk.data) {
                r = ring_writer_alloc(b->fx.w, how & 2 ? 4096 : 64, &b->chunk, &block);
                hc_blocked(b, r, &block);
                if (r)
                        return;
        }
        post.payload = NULL;
        post.payload_len = (uint32_t)b->chunk.capacity;
        for (uint32_t i = 0; i < post.payload_len; i++)
                ((uint8_t *)b->chunk.data)[i] = hc_content(index, i);
        r = ring_writer_publish(b->fx.w, &post, &b->chunk, &block);
        hc_blocked(b, r, &block);
}

/* How one of the hostile is, or is again, or is not. */
static inline void hc_relink(Besieged *b)
{
        uint8_t how = hc_byte(b);
        unsigned l = HC_HONEST + how % (HC_LINKS - HC_HONEST);
        RingLinkSpec spec = {.id = l, .queue_size = 1 + (how >> 2) % 7, .policy = how & 32 ? RING_BACKPRESSURE : RING_DROP_OLDEST,
                .quota_bytes = how & 64 ? 4096 : 0, .lasting = how & 128, .cursor = &b->fx.cursor[l].ro};

        switch (hc_byte(b) % 4) {
        case 0:
                b->attached[l] &= ring_writer_orphan(b->fx.w, l) == 0;
                break;
        case 1:
                ring_writer_set_lasting(b->fx.w, l, how & 128);
                break;
        case 2:
                spec.cursor = NULL; /* somebody who is to come */
                __attribute__((fallthrough));
        default:
                if (how & 1)
                        (void)ring_writer_detach(b->fx.w, l);
                b->attached[l] &= !(how & 1);
                if (ring_writer_attach(b->fx.w, &spec) == 0)
                        b->attached[l] = true, b->told[l] = false;
        }
}

static inline void hc_check(Besieged *b)
{
        uint32_t link;

        while (ring_writer_take_violation(b->fx.w, &link)) {
                HOSTILE_CHECK(link >= HC_HONEST && link < HC_LINKS && !b->told[link]);
                b->told[link] = true;
        }
        for (unsigned l = 0; l < HC_HONEST; l++)
                HOSTILE_CHECK(fx_adds_up(&b->fx, l));
        HOSTILE_CHECK(b->fx.r[0].delivered == b->fx.r[0].tail - b->fx.r[0].start); /* backpressure drops nothing */
        HOSTILE_CHECK(fx_ring(&b->fx)->head - b->fx.r[0].tail <= b->fx.r[0].queue_size);
}

static inline void hc_step(Besieged *b)
{
        uint8_t op = hc_byte(b);

        switch (op >> 4) {
        case 0 ... 4:
                hc_scribble(b);
                break;
        case 5 ... 7:
                (void)hc_take(b, op & 1, (op >> 1) % HC_HOLDS);
                break;
        case 8:
                hc_release(b, op & 1, (op >> 1) % HC_HOLDS);
                break;
        case 9 ... 12:
                hc_send(b);
                break;
        case 13:
                (void)ring_writer_flush(b->fx.w);
                break;
        case 14: {
                RingBlock block = {};
                int r = ring_writer_arm(b->fx.w, 1, op & 8 ? 4096 : 0, &block);

                hc_blocked(b, r, &block);
                if (op & 4)
                        ring_writer_disarm(b->fx.w);
                break;
        }
        case 15:
                if (op & 8)
                        hc_relink(b);
                else
                        ring_writer_give_back(b->fx.w, &b->chunk);
                break;
        }
}

/* Once nobody is left who could hold one, every chunk is free. */
static inline void hc_count_chunks(Besieged *b)
{
        PoolChunk chunks[HC_SMALL + HC_LARGE];
        unsigned n = 0;

        ring_writer_give_back(b->fx.w, &b->chunk);
        for (unsigned l = 0; l < HC_LINKS; l++)
                (void)ring_writer_detach(b->fx.w, l);
        while (n < ELEMENTSOF(chunks) && ring_writer_alloc(b->fx.w, n < HC_LARGE ? 4096 : 64, &chunks[n], NULL) == 0)
                n++;
        HOSTILE_CHECK(n == ELEMENTSOF(chunks));
}

static inline void hostile_cursor_drive(const uint8_t *data, size_t size)
{
        const PoolClass classes[] = {{64, HC_SMALL}, {4096, HC_LARGE}};
        Besieged b = {.p = data, .end = data + size};

        fixture_ring(&b.fx, 8);
        fixture_pool(&b.fx, classes, ELEMENTSOF(classes));
        (void)fixture_link(&b.fx, 2, RING_BACKPRESSURE);
        (void)fixture_link(&b.fx, 3, RING_DROP_OLDEST);
        while (b.fx.n_links < HC_LINKS)
                (void)fixture_attach_quota(&b.fx, 1 + b.fx.n_links, b.fx.n_links % 2 ? RING_DROP_OLDEST : RING_BACKPRESSURE,
                        b.fx.n_links == 4 ? 4096 : 0);
        memset(b.attached, true, sizeof(b.attached));
        while (b.p < b.end) {
                hc_step(&b);
                hc_check(&b);
        }
        (void)ring_writer_flush(b.fx.w);
        for (unsigned l = 0; l < HC_HONEST; l++) {
                while (hc_take(&b, l, 0) != RING_E_EMPTY)
                        ;
                for (unsigned k = 0; k < HC_HOLDS; k++)
                        hc_release(&b, l, k);
        }
        HOSTILE_CHECK(b.next[0] == ring_writer_head(b.fx.w));
        hc_check(&b);
        hc_count_chunks(&b);
        fixture_close(&b.fx);
}

#endif
