/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One producer, up to three consumers and an observer under load: real memfds mapped and sealed in the order a
 * dataflow does it, random sizes, batches, pauses and holds, one consumer killed and replaced. They ring each other as nodes do, by both kinds
 * of doorbell one after the other: a timerfd that is watched with EPOLLET (base/doorbell.h), and a byte through a socketpair, which is all there
 * is where the kernel has none of the first kind.
 *
 * What must hold at the end: every delivered byte is the one published; every gap in a consumer's sequence is
 * counted, with published = delivered + dropped; backpressure dropped nothing; nobody slept with work to do (a poll
 * that times out after the look said "ready" is a lost wake-up); chunks held over many turns were never touched.
 *
 * Usage: stress_ring [--threads] [--long | --seconds S] [--seed N] [CASE]. Each case takes its share of S (default
 * 5), with each kind of doorbell a half of it. TIDEGATE_STRESS_SECONDS sets S as well. With --threads all parts are
 * threads on the same mappings and nobody is killed: that is what ThreadSanitizer looks at.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/doorbell.h"
#include "fixture.h"
#include "shm/shm-internal.h" /* SHM_STEP(): to ring and to wait are steps, too */

#define MAX_CONSUMERS 4 /* three and a successor */
#define POLL_MS       2000
#define MAX_PAYLOAD   6000u
#define MAX_LARGE     60000u
#define TAG_COMMAND   MAX_CONSUMERS /* of an epoll; below: of link and socket */
#define TAG_DOORBELL  (MAX_CONSUMERS + 1)

typedef struct Case {
        const char *name;
        unsigned n_consumers;
        struct {
                uint32_t queue_size;
                RingPolicy policy;
                unsigned max_holds; /* 0: releases at once */
                unsigned slow;      /* pauses after one take in this many; 0: never */
        } c[MAX_CONSUMERS];
        unsigned pooled; /* of 16 messages */
        PoolClass classes[2];
        unsigned max_batch;
        bool kill; /* the last consumer, which is then replaced */
        uint32_t large; /* payloads of up to so many bytes, more than any chunk of the classes: they are cut anew. 0: MAX_PAYLOAD */
} Case;

static const Case cases[] = {
        {"inline, one slot of queue", 1, {{1, RING_BACKPRESSURE, 0, 0}}, 0, {{64, 1}, {8192, 1}}, 1, false},
        {"inline, three readers", 3,
                {{2, RING_BACKPRESSURE, 0, 50}, {3, RING_BACKPRESSURE, 0, 0}, {1, RING_DROP_OLDEST, 0, 20}}, 0,
                {{64, 1}, {8192, 1}}, 3, false},
        {"pooled, latest only, few chunks", 1, {{1, RING_DROP_OLDEST, 1, 30}}, 16, {{64, 1}, {8192, 3}}, 1, false},
        {"pooled, lossless, fewer chunks than queue", 2,
                {{5, RING_BACKPRESSURE, 2, 40}, {2, RING_BACKPRESSURE, 1, 0}}, 16, {{64, 1}, {8192, 3}}, 2, false},
        {"mixed, both policies, many holds", 3,
                {{3, RING_BACKPRESSURE, 7, 40}, {2, RING_DROP_OLDEST, 7, 20}, {10, RING_DROP_OLDEST, 3, 0}}, 9,
                {{512, 8}, {8192, 12}}, 4, false},
        {"pressure: windows larger than the pool", 3,
                {{10, RING_DROP_OLDEST, 2, 10}, {15, RING_DROP_OLDEST, 1, 0}, {4, RING_DROP_OLDEST, 2, 15}}, 12,
                {{512, 2}, {8192, 4}}, 3, false},
        {"lossless reader killed and replaced", 3,
                {{4, RING_BACKPRESSURE, 2, 50}, {6, RING_DROP_OLDEST, 2, 0}, {3, RING_BACKPRESSURE, 3, 20}}, 10,
                {{512, 6}, {8192, 10}}, 3, true},
        {"latest-only reader killed and replaced", 2,
                {{2, RING_BACKPRESSURE, 1, 0}, {5, RING_DROP_OLDEST, 7, 20}}, 14, {{512, 3}, {8192, 8}}, 2, true},
        {"sizes that change, lossless", 2, {{5, RING_BACKPRESSURE, 2, 40}, {3, RING_BACKPRESSURE, 1, 0}}, 14, {{4096, 6}, {8192, 5}}, 2,
                false, MAX_LARGE},
        {"sizes that change, latest-only reader killed and replaced", 3,
                {{4, RING_BACKPRESSURE, 2, 50}, {6, RING_DROP_OLDEST, 3, 0}, {5, RING_DROP_OLDEST, 7, 20}}, 14, {{4096, 6}, {8192, 5}}, 2,
                true, MAX_LARGE},
};

typedef struct Result { /* in anonymous shared memory; each written by one party */
        uint64_t published, delivered, dropped, start, tail, sleeps, rings, holds;
        uint64_t reasons[_DROP_REASON_MAX];
        char failure[160];
        int done;
} Result;

typedef struct World {
        const Case *cs;
        bool threads;
        uint64_t seed;
        nsec_t end;
        uint64_t n_messages; /* 0: as many as there is time for */
        bool told_to_begin;  /* the producer waits for that; else for nobody */
        Mapped ring, pool, cursor[MAX_CONSUMERS], cbell[MAX_CONSUMERS];
        bool doorbells;             /* they ring by those; else by a byte through the socket, whose hang-up tells of a death in any case */
        int sock[MAX_CONSUMERS][2]; /* producer's end, consumer's end */
        int heard[MAX_CONSUMERS][2]; /* the doorbells of the producer and of the consumer: the other side rings them */
        int command[2];             /* to the producer, to the test */
        int go[MAX_CONSUMERS][2];
        uint64_t start_at[MAX_CONSUMERS];
        Result *result; /* [0..]: consumers, [MAX_CONSUMERS]: producer, [MAX_CONSUMERS + 1]: observer */
} World;

typedef struct Producer {
        World *world;
        RingWriter *w;
        Region cursor[MAX_CONSUMERS];
        BellPeer peer[MAX_CONSUMERS];
        Region bell[MAX_CONSUMERS];
        bool attached[MAX_CONSUMERS];
        int sock[MAX_CONSUMERS];
        int epoll_fd;
        Result *res;
        uint64_t rng;
        bool may_begin, may_end;
        bool shown; /* by ring_writer_publish_small(), and nobody was rung since */
} Producer;

static void (*on_fork)(unsigned part); /* in the child: as which consumer, MAX_CONSUMERS: as the producer */

static uint64_t next_random(uint64_t *x)
{
        *x ^= *x << 13;
        *x ^= *x >> 7;
        return *x ^= *x << 17;
}

static uint64_t mix(uint64_t x)
{
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

static void fill(void *to, uint32_t n, uint64_t seed)
{
        for (uint32_t i = 0; i < n; i += 8) {
                uint64_t word = mix(seed + i);

                memcpy((uint8_t *)to + i, &word, MIN(8u, n - i));
        }
}

static bool same(const void *bytes, uint32_t n, uint64_t seed)
{
        for (uint32_t i = 0; i < n; i += 8) {
                uint64_t word = mix(seed + i);

                if (memcmp((const uint8_t *)bytes + i, &word, MIN(8u, n - i)) != 0)
                        return false;
        }
        return true;
}

#define FAIL(res, ...)                                                                                                 \
        do {                                                                                                           \
                if (!(res)->failure[0])                                                                                \
                        snprintf((res)->failure, sizeof((res)->failure), __VA_ARGS__);                                 \
        } while (0)

/* Then nobody waits for whoever has given up. */
static bool somebody_failed(const World *world)
{
        for (unsigned i = 0; i < MAX_CONSUMERS + 2; i++)
                if (world->result[i].failure[0])
                        return true;
        return false;
}

static bool message_intact(const RingMessage *m, const void *payload, const void *meta)
{
        return same(payload, m->d.payload_len, mix(m->index)) && same(meta, m->d.meta_len, ~m->index);
}

static Region world_map(World *world, Mapped *m, RegionKind kind)
{
        Region r;

        if (world->threads)
                return m->rw; /* the very same addresses, so that races are seen */
        must(region_map_read(&r, m->fd, kind, m->size));
        return r;
}

enum { PRODUCERS = 0, CONSUMERS = 1 }; /* ends of sockets and doorbells */

/* The other side of link @i is rung by @side. */
static void ring_once(const World *world, unsigned i, unsigned side, bool by_socket, Result *res)
{
        SHM_STEP(doorbell);
        if (!world->doorbells || by_socket)
                res->rings += send(world->sock[i][side], "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
        else if (doorbell_ring(world->heard[i][!side]))
                res->rings++;
        else
                FAIL(res, "doorbell %u cannot be rung: %s", i, strerrordesc_np(errno));
}

static void watch(int epoll_fd, int fd, uint32_t events, unsigned tag)
{
        must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = events, .data.u32 = tag}));
}

/* As a node does: the socket, and the doorbell where there is one. */
static void watch_link(const World *world, unsigned i, unsigned side, int epoll_fd)
{
        watch(epoll_fd, world->sock[i][side], EPOLLIN, i);
        if (world->doorbells)
                watch(epoll_fd, world->heard[i][side], EPOLLIN | EPOLLET, TAG_DOORBELL);
}

/* Empties a socket. False: the other end is gone. */
static bool drain_socket(int fd)
{
        char buf[64];
        ssize_t n;

        while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
                ;
        return n < 0;
}

/* ---- producer ---- */

static void producer_ring_peers(Producer *p)
{
        if (!ring_writer_flush(p->w) && !p->shown)
                return;
        p->shown = false;
        for (unsigned i = 0; i < MAX_CONSUMERS; i++)
                if (p->attached[i] && bell_peer_must_ring(&p->peer[i], false) && p->sock[i] >= 0)
                        ring_once(p->world, i, PRODUCERS, bell_peer_by_socket(&p->peer[i]), p->res);
}

static void producer_attach(Producer *p, unsigned i)
{
        World *world = p->world;

        p->cursor[i] = world_map(world, &world->cursor[i], REGION_CURSOR);
        p->bell[i] = world_map(world, &world->cbell[i], REGION_BELL);
        bell_peer_init(&p->peer[i], &p->bell[i]);
        must(ring_writer_attach(p->w, &(RingLinkSpec){.id = i, .queue_size = world->cs->c[i].queue_size,
                                              .policy = world->cs->c[i].policy, .cursor = &p->cursor[i]}));
        watch_link(world, i, PRODUCERS, p->epoll_fd);
        p->attached[i] = true;
}

/* It is dead or detached. The doorbell is left where it is: nobody rings it any more. */
static void producer_close_socket(Producer *p, unsigned i)
{
        if (p->sock[i] >= 0)
                must(epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, p->sock[i], NULL));
        p->sock[i] = -1;
}

static void producer_detach(Producer *p, unsigned i)
{
        must(ring_writer_detach(p->w, i));
        region_unmap(&p->cursor[i]);
        region_unmap(&p->bell[i]);
        p->attached[i] = false;
        producer_close_socket(p, i);
}

/* Orders of the test, in the role of a supervisor: 'A' or 'D' and a link, or 'B', it may begin, 'E', it may end; answered by one byte. */
static void producer_obey(Producer *p)
{
        char order[2];

        if (recv(p->world->command[0], order, 2, MSG_DONTWAIT) != 2)
                return;
        if (order[0] == 'A')
                producer_attach(p, (unsigned)order[1]);
        else if (order[0] == 'B')
                p->may_begin = true;
        else if (order[0] == 'E')
                p->may_end = true;
        else
                producer_detach(p, (unsigned)order[1]);
        must(send(p->world->command[0], "k", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
}

static int producer_poll(Producer *p)
{
        struct epoll_event ready[2 * MAX_CONSUMERS + 1];
        int n;

        SHM_STEP(epoll);
        n = epoll_wait(p->epoll_fd, ready, ELEMENTSOF(ready), POLL_MS);
        for (int k = 0; k < n; k++) {
                unsigned tag = ready[k].data.u32;

                if (tag == TAG_COMMAND)
                        producer_obey(p);
                else if (tag < MAX_CONSUMERS && p->sock[tag] >= 0 && !drain_socket(p->sock[tag]))
                        producer_close_socket(p, tag); /* dead: the order to detach follows */
        }
        return n; /* -1: it was stopped, and goes on */
}

/* True: there was room before it had slept. */
static bool producer_wait(Producer *p, uint64_t bytes)
{
        RingBlock block;
        int r;

        r = ring_writer_arm(p->w, 1, bytes, &block);
        producer_ring_peers(p);
        if (r == RING_E_FULL || r == POOL_E_HELD) {
                p->res->sleeps++;
                /* The room may have come this moment, with its ring still on the way: what has not come after as long again is lost. */
                if (producer_poll(p) == 0 && ring_writer_look(p->w, 1, bytes, NULL) == 0 && producer_poll(p) == 0)
                        FAIL(p->res, "producer slept with room (link %u reason %d)", block.link, (int)block.reason);
        } else if (r) {
                FAIL(p->res, "arm says %d", r);
        }
        ring_writer_disarm(p->w);
        return r == 0;
}

/* Not 0, which is no chunk: one that holds nothing is waited for, too. */
static uint64_t chunk_bytes(uint32_t n, uint32_t n_meta)
{
        return MAX((uint64_t)(n + 7) / 8 * 8 + n_meta, UINT64_C(1));
}

static int producer_try(Producer *p, uint64_t index, bool pooled, uint32_t n, uint32_t n_meta)
{
        uint8_t payload[RING_INLINE_MAX], meta[64];
        PoolChunk chunk = POOL_CHUNK_INIT;
        RingPost post = {.payload = payload, .payload_len = n, .meta = meta, .meta_len = n_meta, .time_ns = index, .sequence = index};
        int r;

        fill(meta, n_meta, ~index);
        if (!pooled) {
                fill(payload, n, mix(index));
                if (!n_meta && index % 2 && ring_writer_publish_small(p->w, payload, n, index))
                        p->shown = true;
                else
                        return ring_writer_publish(p->w, &post, NULL, NULL);
                return 0;
        }
        r = ring_writer_alloc(p->w, chunk_bytes(n, n_meta), &chunk, NULL);
        if (r)
                return r;
        fill(chunk.data, n, mix(index));
        r = ring_writer_publish(p->w, &post, &chunk, NULL);
        ring_writer_give_back(p->w, &chunk);
        return r;
}

static void producer_send(Producer *p, uint64_t index)
{
        bool pooled = next_random(&p->rng) % 16 < p->world->cs->pooled;
        uint32_t n_meta = (uint32_t)(next_random(&p->rng) % 3 * 7);
        uint32_t large = p->world->cs->large ? p->world->cs->large : MAX_PAYLOAD;
        uint32_t n = (uint32_t)(next_random(&p->rng) % (pooled ? large : RING_INLINE_MAX - 24));
        unsigned n_awake = 0; /* in a row: there was room, and then there was none */
        int r;

        if (pooled && next_random(&p->rng) % 2)
                n %= 480;
        while (!somebody_failed(p->world)) {
                r = producer_try(p, index, pooled, n, n_meta);
                if (r == 0)
                        return;
                if (r != RING_E_FULL && r != POOL_E_HELD)
                        FAIL(p->res, "send says %d", r);
                else
                        n_awake = producer_wait(p, pooled ? chunk_bytes(n, n_meta) : 0) ? n_awake + 1 : 0;
                if (n_awake > 100)
                        FAIL(p->res, "there is room for message %lu, which finds none", index);
        }
}

static void *producer_main(void *arg)
{
        World *world = arg;
        Producer p = {.world = world, .res = &world->result[MAX_CONSUMERS], .rng = world->seed | 1};
        uint64_t index = 0;
        bool last = false;

        p.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        must(p.epoll_fd < 0);
        watch(p.epoll_fd, world->command[0], EPOLLIN, TAG_COMMAND);
        must(ring_writer_new(&p.w, &world->ring.rw, MAX_CONSUMERS));
        must(ring_writer_add_segment(p.w, &world->pool.rw));
        for (unsigned i = 0; i < MAX_CONSUMERS; i++)
                p.sock[i] = world->sock[i][0];
        for (unsigned i = 0; i < world->cs->n_consumers; i++)
                producer_attach(&p, i);
        must(send(world->command[0], "k", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);

        p.may_begin = !world->told_to_begin;
        while (!p.may_begin)
                (void)producer_poll(&p);
        p.may_end = world->n_messages > 0; /* else on a busy machine its time may be over before every reader has begun, or was replaced */
        while (!last && (!world->n_messages || index < world->n_messages) && !somebody_failed(world)) {
                uint64_t n = 1 + next_random(&p.rng) % world->cs->max_batch;

                last = p.may_end && clock_now() >= world->end; /* looked at before: after the order there is a message for whoever came last */
                for (uint64_t i = 0; i < n; i++)
                        producer_send(&p, index++);
                producer_ring_peers(&p);
                producer_obey(&p);
                if (next_random(&p.rng) % 512 == 0)
                        (void)poll(NULL, 0, 1); /* let everybody fall asleep now and then */
        }
        p.res->published = ring_writer_head(p.w);
        ring_writer_close(p.w);
        for (unsigned i = 0; i < MAX_CONSUMERS; i++)
                if (p.attached[i] && bell_peer_must_ring(&p.peer[i], false) && p.sock[i] >= 0)
                        ring_once(world, i, PRODUCERS, bell_peer_by_socket(&p.peer[i]), p.res);
        p.w = ring_writer_free(p.w);
        fd_close(p.epoll_fd);
        p.res->done = 1;
        return NULL;
}

/* ---- consumer ---- */

typedef struct Consumer {
        World *world;
        unsigned i;
        int epoll_fd;
        RingReader r;
        Bell bell;
        RingMessage held[CURSOR_N_CLAIMS];
        bool holds[CURSOR_N_CLAIMS];
        bool turned;   /* to its socket */
        uint64_t next; /* index expected if nothing is dropped */
        uint64_t gaps;
        Result *res;
        uint64_t rng;
} Consumer;

static void consumer_release(Consumer *c, unsigned k)
{
        RingMessage *m = &c->held[k];

        if (!message_intact(m, m->payload, m->meta))
                FAIL(c->res, "message %lu changed while it was held", m->index);
        if (ring_reader_release(&c->r, m->claim))
                ring_once(c->world, c->i, CONSUMERS, false, c->res);
        c->holds[k] = false;
}

static void consumer_keep(Consumer *c, const RingMessage *m)
{
        unsigned limit = c->world->cs->c[c->i].max_holds, k = 0, n = 0;

        for (unsigned i = 0; i < CURSOR_N_CLAIMS; i++)
                n += c->holds[i];
        while (k < CURSOR_N_CLAIMS && c->holds[k])
                k++;
        c->held[k] = *m;
        c->holds[k] = true;
        if (m->must_copy || n >= limit || next_random(&c->rng) % 3 == 0)
                consumer_release(c, k);
        else
                c->res->holds++;
        for (unsigned i = 0; i < CURSOR_N_CLAIMS; i++)
                if (c->holds[i] && next_random(&c->rng) % 8 == 0)
                        consumer_release(c, i);
}

static void consumer_release_all(Consumer *c)
{
        for (unsigned i = 0; i < CURSOR_N_CLAIMS; i++)
                if (c->holds[i])
                        consumer_release(c, i);
}

static void consumer_accept(Consumer *c, const RingMessage *m)
{
        if (m->index < c->next || m->d.time_ns != m->index || (m->d.sequence && m->d.sequence != m->index)) /* small ones have none */
                FAIL(c->res, "message %lu after %lu, time %lu, sequence %lu", m->index, c->next, m->d.time_ns, m->d.sequence);
        if (!message_intact(m, m->payload, m->meta))
                FAIL(c->res, "message %lu of %u bytes is not what was published", m->index, m->d.payload_len);
        c->gaps += m->index - c->next;
        c->next = m->index + 1;
        if (m->claim >= 0)
                consumer_keep(c, m);
}

static int consumer_poll(Consumer *c)
{
        struct epoll_event ready[2];

        SHM_STEP(epoll);
        return epoll_wait(c->epoll_fd, ready, ELEMENTSOF(ready), POLL_MS);
}

/* As a node whose doorbells are rung for nothing: from here on it hears its socket alone; and once it knows by whom, its doorbell again. */
static void consumer_turn(Consumer *c)
{
        int fd = c->world->heard[c->i][CONSUMERS];

        c->turned = !c->turned;
        if (c->turned) {
                bell_turn(&c->bell, true);
                must(epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, fd, NULL));
        } else {
                must(timerfd_settime(fd, 0, &(struct itimerspec){}, NULL));
                must(epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN | EPOLLET}));
                bell_turn(&c->bell, false);
        }
}

static void consumer_sleep(Consumer *c)
{
        if (c->world->doorbells && next_random(&c->rng) % 32 == 0)
                consumer_turn(c);
        bell_sleep(&c->bell);
        if (!ring_reader_ready(&c->r)) {
                c->res->sleeps++;
                if (consumer_poll(c) == 0 && ring_reader_ready(&c->r) && consumer_poll(c) == 0) /* as the producer */
                        FAIL(c->res, "consumer slept with messages waiting");
        }
        if (!drain_socket(c->world->sock[c->i][CONSUMERS]))
                ring_reader_drain(&c->r); /* the producer is gone: what it has published is all there will be */
        bell_wake(&c->bell);
}

static void consumer_show(Consumer *c)
{
        if (ring_reader_show(&c->r))
                ring_once(c->world, c->i, CONSUMERS, false, c->res);
}

/* One by one, or several that are shown as taken at once. */
static int consumer_take(Consumer *c, RingMessage *m)
{
        bool ring;
        unsigned how = (unsigned)next_random(&c->rng) % 8;
        int r = how == 1 && ring_reader_take_small(&c->r, m, &ring) ? 0 : how > 1 ? ring_reader_take_more(&c->r, m, &ring) : ring_reader_take(&c->r, m, &ring);

        if (ring)
                ring_once(c->world, c->i, CONSUMERS, false, c->res);
        if (r == RING_E_EMPTY || r == RING_E_END)
                consumer_show(c);
        return r;
}

static void consumer_loop(Consumer *c)
{
        unsigned slow = c->world->cs->c[c->i].slow;

        while (!c->res->failure[0]) {
                RingMessage m;
                int r = consumer_take(c, &m);

                if (r == 0) {
                        consumer_accept(c, &m);
                        if (slow && next_random(&c->rng) % slow == 0)
                                for (uint64_t n = next_random(&c->rng) % 20000; n; n--)
                                        __asm__ volatile("");
                } else if (r == RING_E_EMPTY) {
                        /* Whoever waits while holding may keep a lossless producer from sending what it waits for. */
                        consumer_release_all(c);
                        consumer_sleep(c);
                } else if (r == RING_E_END) {
                        return;
                } else if (r != RING_E_AGAIN) {
                        FAIL(c->res, "take says %d at %lu", r, c->r.tail);
                }
        }
}

static void consumer_report(Consumer *c)
{
        c->res->start = c->r.start;
        c->res->tail = c->r.tail;
        c->res->delivered = c->r.delivered;
        for (unsigned i = 0; i < _DROP_REASON_MAX; i++) {
                c->res->reasons[i] = c->r.dropped[i];
                c->res->dropped += c->r.dropped[i];
        }
        if (c->res->dropped != c->gaps + (c->r.tail - c->next))
                FAIL(c->res, "%lu dropped, but the gaps make %lu", c->res->dropped, c->gaps + (c->r.tail - c->next));
        c->res->done = 1;
}

static void *consumer_main(void *arg)
{
        Consumer *c = arg;
        World *world = c->world;
        Region ring = world_map(world, &world->ring, REGION_RING), pool = world_map(world, &world->pool, REGION_POOL);
        uint64_t start = world->start_at[c->i];

        c->res = &world->result[c->i];
        c->rng = (world->seed + c->i * 77) | 1;
        c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        must(c->epoll_fd < 0);
        watch_link(world, c->i, CONSUMERS, c->epoll_fd);
        bell_init(&c->bell, &world->cbell[c->i].rw);
        must(ring_reader_init(&c->r, &ring, &world->cursor[c->i].rw, c->i, world->cs->c[c->i].queue_size,
                world->cs->c[c->i].policy));
        must(ring_reader_add_segment(&c->r, 0, &pool));
        must(start == UINT64_MAX ? ring_reader_start(&c->r) : ring_reader_start_at(&c->r, start));
        c->next = c->r.start;
        if (ring_reader_must_ring(&c->r))
                ring_once(c->world, c->i, CONSUMERS, false, c->res);
        ring_reader_name(&c->r, 1);
        must(send(world->go[c->i][1], "s", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
        consumer_loop(c);
        consumer_release_all(c);
        consumer_report(c);
        fd_close(c->epoll_fd);
        return NULL;
}

/* ---- observer ---- */

static void observer_main(World *world)
{
        Result *res = &world->result[MAX_CONSUMERS + 1];
        Region ring = world_map(world, &world->ring, REGION_RING), pool = world_map(world, &world->pool, REGION_POOL);
        RingObserver o;
        int r = 0;

        must(ring_observer_init(&o, &ring));
        must(ring_observer_add_segment(&o, 0, &pool));
        while (r != RING_E_END && !res->failure[0]) {
                uint8_t buf[MAX_LARGE + 64];
                struct ring_descriptor d;
                uint64_t i;

                r = ring_observer_copy(&o, &d, &i, buf, sizeof(buf));
                if (r == 0) {
                        RingMessage m = {.d = d, .index = i};

                        res->delivered++;
                        if (!message_intact(&m, buf, buf + (d.payload_len + 7) / 8 * 8))
                                FAIL(res, "observer: message %lu is not what was published", i);
                } else if (r == RING_E_EMPTY) {
                        (void)poll(NULL, 0, 1); /* by timer: nobody rings an observer */
                } else if (r != RING_E_AGAIN && r != RING_E_END) {
                        FAIL(res, "observer says %d", r);
                }
        }
        res->dropped = o.missed;
        res->done = 1;
}

/* ---- the world ---- */

static void mapped_new(Mapped *m, int r, uint64_t size)
{
        must(r);
        m->size = size;
}

static void world_open(World *world)
{
        uint32_t max_queue = 1;

        for (unsigned i = 0; i < world->cs->n_consumers; i++)
                max_queue = MAX(max_queue, world->cs->c[i].queue_size);
        mapped_new(&world->ring, ring_create(ring_slots_for(max_queue), &world->ring.fd),
                ring_size(ring_slots_for(max_queue)));
        mapped_new(&world->pool, pool_create(world->cs->classes, 2, &world->pool.fd),
                pool_size(world->cs->classes, 2));
        for (unsigned i = 0; i < MAX_CONSUMERS; i++) {
                mapped_new(&world->cursor[i], cursor_create(&world->cursor[i].fd), cursor_size());
                mapped_new(&world->cbell[i], bell_create(&world->cbell[i].fd), bell_size());
                must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, world->sock[i]));
                for (unsigned side = 0; side < 2; side++) {
                        world->heard[i][side] = world->doorbells ? doorbell_make() : -1;
                        must(world->doorbells && world->heard[i][side] < 0);
                }
                must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, world->go[i]));
                world->start_at[i] = UINT64_MAX;
        }
        must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, world->command));
        world->result = mmap(NULL, sizeof(Result) * (MAX_CONSUMERS + 2), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        must(world->result == MAP_FAILED);
}

static void world_close(World *world)
{
        mapped_close(&world->ring);
        mapped_close(&world->pool);
        for (unsigned i = 0; i < MAX_CONSUMERS; i++) {
                mapped_close(&world->cursor[i]);
                mapped_close(&world->cbell[i]);
                for (int k = 0; k < 2; k++) {
                        fd_close(world->sock[i][k]);
                        fd_close(world->heard[i][k]);
                        fd_close(world->go[i][k]);
                }
        }
        fd_close(world->command[0]);
        fd_close(world->command[1]);
        munmap(world->result, sizeof(Result) * (MAX_CONSUMERS + 2));
}

/* One byte from a part of the world, in bounded time. */
static void expect(int fd, const char *what)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char byte;

        if (poll(&p, 1, 20000) != 1 || recv(fd, &byte, 1, 0) != 1) {
                fprintf(stderr, "no answer: %s\n", what);
                abort();
        }
}

static void map_write(Mapped *m, RegionKind kind)
{
        must(region_map_write(&m->rw, m->fd, kind, m->size));
}

static void map_own_consumer(World *world, unsigned i)
{
        map_write(&world->cursor[i], REGION_CURSOR);
        map_write(&world->cbell[i], REGION_BELL);
}

static void seal_consumer(World *world, unsigned i)
{
        must(region_seal(world->cursor[i].fd, REGION_CURSOR));
        must(region_seal(world->cbell[i].fd, REGION_BELL));
}

/* A consumer in its own process: maps and says so, waits for "go", then runs. Only its own socket ends stay open. */
static pid_t fork_consumer(World *world, unsigned i)
{
        Consumer c = {.world = world, .i = i};
        pid_t pid = fork();

        must(pid < 0);
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned k = 0; k < MAX_CONSUMERS; k++) {
                fd_close(world->sock[k][0]);
                if (k != i)
                        fd_close(world->sock[k][1]);
        }
        if (on_fork)
                on_fork(i);
        map_own_consumer(world, i);
        must(send(world->go[i][1], "m", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
        expect(world->go[i][1], "go");
        (void)consumer_main(&c);
        _exit(0);
}

static pid_t fork_producer(World *world)
{
        pid_t pid = fork();

        must(pid < 0);
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned k = 0; k < MAX_CONSUMERS; k++)
                fd_close(world->sock[k][1]);
        if (on_fork)
                on_fork(MAX_CONSUMERS);
        map_write(&world->ring, REGION_RING);
        map_write(&world->pool, REGION_POOL);
        must(send(world->command[0], "m", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
        expect(world->command[0], "sealed");
        (void)producer_main(world);
        _exit(0);
}

static void order(World *world, char what, unsigned link)
{
        const char bytes[2] = {what, (char)link};

        must(send(world->command[1], bytes, 2, MSG_NOSIGNAL) == 2 ? 0 : -errno);
        expect(world->command[1], "producer obeys");
}

/* All have begun, and none will come: the producer may end. Its answer is not waited for: it may have failed, and then says so in its result. */
static void let_end(World *world)
{
        must(send(world->command[1], "E", 2, MSG_NOSIGNAL) == 2 ? 0 : -errno);
}

static void go(World *world, unsigned i)
{
        must(send(world->go[i][0], "g", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
        expect(world->go[i][0], "consumer starts");
}

static void check_exit(pid_t pid, const char *who, int *failures)
{
        int status;

        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                printf("# %s ended with status %x\n", who, status);
                ++*failures;
        }
}

/* Kills the last consumer somewhere in the middle and puts a successor where it stood. */
static pid_t kill_and_replace(World *world, pid_t victim, unsigned i)
{
        unsigned heir = MAX_CONSUMERS - 1;
        bool lossless = world->cs->c[i].policy == RING_BACKPRESSURE;
        nsec_t now = clock_now();
        CursorStatus s;
        Region cursor;
        pid_t pid;

        (void)poll(NULL, 0, (int)((MAX(world->end, now) - now) / NSEC_PER_MSEC / 3 + world->seed % 50));
        must(kill(victim, SIGKILL));
        must(waitpid(victim, NULL, 0) != victim);
        must(region_map_read(&cursor, world->cursor[i].fd, REGION_CURSOR, cursor_size()));
        cursor_read(&cursor, &s);
        region_unmap(&cursor);
        world->start_at[heir] = s.tail;
        if (!lossless)
                order(world, 'D', i);
        pid = fork_consumer(world, heir);
        expect(world->go[heir][0], "successor maps");
        seal_consumer(world, heir);
        order(world, 'A', heir);
        go(world, heir);
        if (lossless)
                order(world, 'D', i); /* until its heir is active the dead one goes on gating: nothing is lost */
        return pid;
}

static int run_processes(World *world)
{
        unsigned n = world->cs->n_consumers;
        pid_t consumer[MAX_CONSUMERS] = {}, producer, observer, heir = 0;
        int failures = 0;

        producer = fork_producer(world);
        expect(world->command[1], "producer maps");
        must(region_seal(world->ring.fd, REGION_RING));
        must(region_seal(world->pool.fd, REGION_POOL));
        for (unsigned i = 0; i < n; i++) {
                consumer[i] = fork_consumer(world, i);
                expect(world->go[i][0], "consumer maps");
                seal_consumer(world, i);
        }
        must(send(world->command[1], "s", 1, MSG_NOSIGNAL) == 1 ? 0 : -errno);
        expect(world->command[1], "producer has attached all");
        for (unsigned i = 0; i < n; i++)
                go(world, i);
        observer = fork();
        must(observer < 0);
        if (observer == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (unsigned k = 0; k < MAX_CONSUMERS; k++) {
                        fd_close(world->sock[k][0]);
                        fd_close(world->sock[k][1]);
                }
                observer_main(world);
                _exit(0);
        }
        if (world->cs->kill)
                heir = kill_and_replace(world, consumer[n - 1], n - 1);
        let_end(world);

        check_exit(producer, "producer", &failures);
        for (unsigned i = 0; i < n; i++)
                if (!world->cs->kill || i < n - 1)
                        check_exit(consumer[i], "consumer", &failures);
        if (heir)
                check_exit(heir, "successor", &failures);
        check_exit(observer, "observer", &failures);
        return failures;
}

static int run_threads(World *world)
{
        Consumer c[MAX_CONSUMERS] = {};
        pthread_t producer, consumer[MAX_CONSUMERS];
        unsigned n = world->cs->n_consumers;

        map_write(&world->ring, REGION_RING);
        map_write(&world->pool, REGION_POOL);
        for (unsigned i = 0; i < n; i++)
                map_own_consumer(world, i);
        must(pthread_create(&producer, NULL, producer_main, world));
        expect(world->command[1], "producer has attached all");
        for (unsigned i = 0; i < n; i++) {
                c[i] = (Consumer){.world = world, .i = i};
                must(pthread_create(&consumer[i], NULL, consumer_main, &c[i]));
                expect(world->go[i][0], "consumer starts");
        }
        let_end(world);
        must(pthread_join(producer, NULL));
        for (unsigned i = 0; i < n; i++)
                must(pthread_join(consumer[i], NULL));
        return 0;
}

static int check_consumer(const World *world, unsigned i, uint64_t published)
{
        const Result *r = &world->result[i];
        int failures = 0;

        printf("#   reader %u: from %lu, delivered %lu, dropped %lu (window %lu overrun %lu pool %lu torn %lu "
               "dead %lu), slept %lu, rang %lu, held %lu\n",
                i, r->start, r->delivered, r->dropped, r->reasons[DROP_WINDOW], r->reasons[DROP_OVERRUN],
                r->reasons[DROP_POOL], r->reasons[DROP_TORN], r->reasons[DROP_DEAD], r->sleeps, r->rings, r->holds);
        if (!r->done || r->tail != published || r->tail - r->start != r->delivered + r->dropped) {
                printf("# reader %u: %lu published, ended at %lu\n", i, published, r->tail);
                failures++;
        }
        if (world->cs->c[i].policy == RING_BACKPRESSURE && r->dropped) {
                printf("# reader %u: backpressure dropped %lu\n", i, r->dropped);
                failures++;
        }
        if (r->reasons[DROP_TORN] || r->reasons[DROP_INVALID] || r->delivered == 0) {
                printf("# reader %u: torn or invalid messages, or none at all\n", i);
                failures++;
        }
        return failures;
}

/* Whether the kernel has them, as the supervisor finds out. */
static bool doorbells_exist(void)
{
        _cleanup_fd_ int fd = doorbell_make();

        must(fd < 0 && fd != -ENOTSUP);
        return fd >= 0;
}

static int run_case(const Case *cs, bool threads, bool doorbells, nsec_t span, uint64_t seed)
{
        Case copy = *cs;
        World world = {.cs = &copy, .threads = threads, .doorbells = doorbells, .seed = seed, .ring.fd = -1, .pool.fd = -1};
        const Result *producer;
        int failures;

        copy.kill &= !threads;
        copy.c[MAX_CONSUMERS - 1] = copy.c[copy.n_consumers - 1]; /* the successor is like the victim */
        world_open(&world);
        world.end = clock_now() + span;
        failures = threads ? run_threads(&world) : run_processes(&world);

        producer = &world.result[MAX_CONSUMERS];
        printf("#   published %lu, slept %lu, rang %lu; observer saw %lu\n", producer->published, producer->sleeps,
                producer->rings, world.result[MAX_CONSUMERS + 1].delivered);
        for (unsigned i = 0; i < MAX_CONSUMERS + 2; i++)
                if (world.result[i].failure[0]) {
                        printf("# part %u: %s\n", i, world.result[i].failure);
                        failures++;
                }
        for (unsigned i = 0; i < copy.n_consumers; i++)
                if (!copy.kill || i < copy.n_consumers - 1)
                        failures += check_consumer(&world, i, producer->published);
        if (copy.kill)
                failures += check_consumer(&world, MAX_CONSUMERS - 1, producer->published);
        failures += producer->published == 0;
        world_close(&world);
        return failures;
}

int main(int argc, char **argv)
{
        const char *env = getenv("TIDEGATE_STRESS_SECONDS");
        double seconds = env ? atof(env) : 5;
        uint64_t seed = clock_now() | 1;
        bool threads = false, failed = false, exist;
        int only = -1;
        nsec_t span;

        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--threads"))
                        threads = true;
                else if (!strcmp(argv[i], "--long"))
                        seconds = 120;
                else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
                        seconds = atof(argv[++i]);
                else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
                        seed = strtoull(argv[++i], NULL, 0) | 1;
                else
                        only = atoi(argv[i]);
        }
        (void)alarm((unsigned)(seconds * 3) + 60); /* a broken protocol hangs: end then, and with us our children */
        setvbuf(stdout, NULL, _IOLBF, 0);
        exist = doorbells_exist();
        span = (nsec_t)(seconds * 1e9) / (only < 0 ? ELEMENTSOF(cases) : 1) / (exist ? 2 : 1);
        printf("1..%zu\n# seed %lu\n", only < 0 ? 2 * ELEMENTSOF(cases) : 2, seed);
        fflush(stdout);
        for (unsigned i = 0; i < 2 * ELEMENTSOF(cases); i++) {
                const Case *cs = &cases[i / 2];
                bool doorbells = i % 2 == 0;
                int failures;

                if (only >= 0 && (unsigned)only != i / 2)
                        continue;
                if (doorbells && !exist) {
                        printf("ok %u - %s, rung by timerfd # SKIP the kernel has no TFD_IOC_SET_TICKS\n", i + 1, cs->name);
                        continue;
                }
                failures = run_case(cs, threads, doorbells, span, seed + i * 2);
                printf("%s %u - %s, rung by %s\n", failures ? "not ok" : "ok", i + 1, cs->name, doorbells ? "timerfd" : "socket");
                failed |= failures > 0;
        }
        return failed;
}
