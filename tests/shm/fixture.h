/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One output with its links, all in this process: real memfds, mapped as the processes of a dataflow would map them.
 * Aborts on anything that a test does not test.
 */
#ifndef TG_TESTS_SHM_FIXTURE_H
#define TG_TESTS_SHM_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/observer.h"
#include "shm/reader.h"
#include "shm/region.h"
#include "shm/writer.h"

#define FX_MAX_LINKS 8

#define must(call)                                                                                                     \
        ({                                                                                                             \
                int _must_r = (call);                                                                                  \
                if (_must_r) {                                                                                         \
                        fprintf(stderr, "%s:%d: %s = %d\n", __FILE__, __LINE__, #call, _must_r);                       \
                        abort();                                                                                       \
                }                                                                                                      \
        })

typedef struct Mapped { /* one region, both ends */
        int fd;
        uint64_t size;
        Region rw, ro;
} Mapped;

typedef struct Fixture {
        Mapped ring, pool, cursor[FX_MAX_LINKS];
        RingWriter *w;
        RingReader r[FX_MAX_LINKS];
        unsigned n_links;
        bool has_pool;
} Fixture;

/* A fuzz target makes the same regions in the same order for every input: it may keep them, and only has them cleared. */
typedef struct KeptRegions {
        Mapped m[16];
        unsigned n, next;
} KeptRegions;

static KeptRegions *fixture_kept; /* NULL: as everybody else */

static inline bool mapped_again(Mapped *m, RegionKind kind, uint64_t size)
{
        if (!fixture_kept || fixture_kept->next == fixture_kept->n)
                return false;
        *m = fixture_kept->m[fixture_kept->next++];
        must(m->size != size || m->rw.kind != kind);
        if (kind != REGION_POOL)
                memset((uint8_t *)m->rw.map + sizeof(struct region_header), 0, size - sizeof(struct region_header));
        return true;
}

static inline void mapped_open(Mapped *m, RegionKind kind, uint64_t size)
{
        m->size = size;
        must(region_map_write(&m->rw, m->fd, kind, size));
        must(region_seal(m->fd, kind));
        must(region_map_read(&m->ro, m->fd, kind, size));
        m->fd = fd_close(m->fd);
        if (fixture_kept && fixture_kept->n < ELEMENTSOF(fixture_kept->m)) {
                fixture_kept->m[fixture_kept->n++] = *m;
                fixture_kept->next = fixture_kept->n;
        }
}

static inline void mapped_close(Mapped *m)
{
        if (fixture_kept)
                return;
        region_unmap(&m->rw);
        region_unmap(&m->ro);
        m->fd = fd_close(m->fd);
}

static inline void fixture_ring(Fixture *fx, uint32_t n_slots)
{
        *fx = (Fixture){.ring.fd = -1, .pool.fd = -1};
        if (fixture_kept)
                fixture_kept->next = 0; /* the first of them */
        if (!mapped_again(&fx->ring, REGION_RING, ring_size(n_slots))) {
                must(ring_create(n_slots, &fx->ring.fd));
                mapped_open(&fx->ring, REGION_RING, ring_size(n_slots));
        }
        must(ring_writer_new(&fx->w, &fx->ring.rw, FX_MAX_LINKS));
}

static inline void mapped_pool(Mapped *m, const PoolClass *classes, unsigned n_classes)
{
        if (mapped_again(m, REGION_POOL, pool_size(classes, n_classes)))
                return;
        must(pool_create(classes, n_classes, &m->fd));
        mapped_open(m, REGION_POOL, pool_size(classes, n_classes));
}

static inline void fixture_pool(Fixture *fx, const PoolClass *classes, unsigned n_classes)
{
        mapped_pool(&fx->pool, classes, n_classes);
        must(ring_writer_add_segment(fx->w, &fx->pool.rw));
        fx->has_pool = true;
}

/* A link whose consumer has mapped everything and is not active yet. Returns its number, which is its id too. */
static inline unsigned fixture_attach_quota(Fixture *fx, uint32_t queue_size, RingPolicy policy, uint64_t quota)
{
        unsigned l = fx->n_links++;
        Mapped *c = &fx->cursor[l];

        if (!mapped_again(c, REGION_CURSOR, cursor_size())) {
                must(cursor_create(&c->fd));
                mapped_open(c, REGION_CURSOR, cursor_size());
        }
        must(ring_reader_init(&fx->r[l], &fx->ring.ro, &c->rw, l, queue_size, policy));
        if (fx->has_pool)
                must(ring_reader_add_segment(&fx->r[l], 0, &fx->pool.ro));
        must(ring_writer_attach(fx->w, &(RingLinkSpec){.id = l, .queue_size = queue_size, .policy = policy,
                                               .quota_bytes = quota, .cursor = &c->ro}));
        return l;
}

static inline unsigned fixture_link(Fixture *fx, uint32_t queue_size, RingPolicy policy)
{
        unsigned l = fixture_attach_quota(fx, queue_size, policy, 0);

        must(ring_reader_start(&fx->r[l]));
        return l;
}

static inline void fixture_close(Fixture *fx)
{
        fx->w = ring_writer_free(fx->w);
        mapped_close(&fx->ring);
        if (fx->has_pool)
                mapped_close(&fx->pool);
        for (unsigned l = 0; l < fx->n_links; l++)
                mapped_close(&fx->cursor[l]);
}

static inline struct ring_shared *fx_ring(Fixture *fx)
{
        return fx->ring.rw.map;
}

static inline struct cursor_shared *fx_cursor(Fixture *fx, unsigned l)
{
        return fx->cursor[l].rw.map;
}

/* Publishes and flushes one inline message that holds its number. */
static inline int fx_send(Fixture *fx, uint64_t value)
{
        RingPost post = {.payload = &value, .payload_len = 8, .sequence = value};
        int r = ring_writer_publish(fx->w, &post, NULL, NULL);

        ring_writer_flush(fx->w);
        return r;
}

/* The same through the pool: @size bytes, the first eight its number. */
static inline int fx_send_pooled(Fixture *fx, uint64_t value, uint32_t size)
{
        PoolChunk chunk = POOL_CHUNK_INIT;
        int r = ring_writer_alloc(fx->w, size, &chunk, NULL);

        if (r)
                return r;
        memset(chunk.data, (int)value, size);
        memcpy(chunk.data, &value, 8);
        r = ring_writer_publish(fx->w, &(RingPost){.payload_len = size, .sequence = value}, &chunk, NULL);
        ring_writer_give_back(fx->w, &chunk);
        ring_writer_flush(fx->w);
        return r;
}

/* Takes one message; its value, or UINT64_MAX - outcome. The claim stays. */
static inline uint64_t fx_take(Fixture *fx, unsigned l, RingMessage *msg)
{
        RingMessage local;
        bool ring;
        uint64_t v;
        int r;

        if (!msg)
                msg = &local;
        r = ring_reader_take(&fx->r[l], msg, &ring);
        if (r)
                return UINT64_MAX - (uint64_t)r;
        memcpy(&v, msg->payload, 8);
        return v;
}

#define FX_SAYS(outcome) (UINT64_MAX - (uint64_t)(outcome))

/* tail - start = delivered + dropped (I5), in private and in shared memory. */
static inline bool fx_adds_up(Fixture *fx, unsigned l)
{
        CursorStatus s;
        uint64_t sum;

        cursor_read(&fx->cursor[l].ro, &s);
        sum = s.delivered;
        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                sum += s.dropped[i];
        return s.tail - s.start == sum && s.tail == fx->r[l].tail;
}

static inline uint64_t fx_dropped(Fixture *fx, unsigned l, DropReason reason)
{
        CursorStatus s;

        cursor_read(&fx->cursor[l].ro, &s);
        return s.dropped[reason];
}

#endif
