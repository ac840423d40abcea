/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store-then-look pairs of the protocol, two threads meeting at each pair again and again: in every round at
 * least one of the two must see the other's store. On the real CPU, with the real code; the models say why, this says
 * that the compiled instructions do it. Each case runs for a fixed time; with one CPU there is nothing to meet, so it
 * is skipped.
 *
 * Usage: litmus_ring [SECONDS per case]
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "fixture.h"

typedef struct Litmus {
        Fixture fx;
        Mapped bell;
        Bell sleeper;
        BellPeer peer;
        nsec_t end;
        atomic_uint arrived[2];
        atomic_bool stop;
        bool a_says, b_says; /* each: "somebody was told, or I saw it" */
        uint64_t rounds, bad;
        RingMessage msg;
        bool holds;
} Litmus;

typedef struct LitmusCase {
        const char *name;
        RingPolicy policy;
        uint32_t n_slots, queue_size;
        void (*before)(Litmus *x); /* by thread a, alone */
        void (*a)(Litmus *x);
        void (*b)(Litmus *x);
        void (*after)(Litmus *x); /* by thread a, alone: counts a bad round, clears up */
} LitmusCase;

/* Both threads leave at the same moment, give or take a cache miss. */
static void meet(Litmus *x, int who)
{
        unsigned n = atomic_fetch_add(&x->arrived[who], 1) + 1;

        for (unsigned spins = 1; atomic_load(&x->arrived[!who]) < n; spins++)
                if (spins % 4096 == 0)
                        (void)sched_yield();
}

static void jitter(uint64_t *rng)
{
        *rng = *rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
        for (unsigned n = (unsigned)(*rng >> 33) % 400; n; n--)
                __asm__ volatile("");
}

static void drain_link(Litmus *x)
{
        RingMessage m;
        bool ring;

        while (ring_reader_take(&x->fx.r[0], &m, &ring) == 0)
                (void)ring_reader_release(&x->fx.r[0], m.claim);
}

static void judge(Litmus *x)
{
        x->bad += !x->a_says && !x->b_says;
}

/* head against sleep epoch: published and not rung, slept and saw nothing. */
static void publish_and_ring(Litmus *x)
{
        must(fx_send(&x->fx, 1));
        x->a_says = bell_peer_must_ring(&x->peer, false);
}

static void sleep_and_look(Litmus *x)
{
        bell_sleep(&x->sleeper);
        x->b_says = ring_reader_ready(&x->fx.r[0]);
}

static void after_sleep(Litmus *x)
{
        judge(x);
        bell_wake(&x->sleeper);
        drain_link(x);
}

/* tail against room word: announced and saw no room, took and did not ring. */
static void fill_queue(Litmus *x)
{
        must(fx_send(&x->fx, 1));
}

static void arm_for_slot(Litmus *x)
{
        x->a_says = ring_writer_arm(x->fx.w, 1, 0, NULL) == 0;
}

static void take_and_ring(Litmus *x)
{
        RingMessage m;

        must(ring_reader_take(&x->fx.r[0], &m, &x->b_says));
}

static void after_arm(Litmus *x)
{
        judge(x);
        ring_writer_disarm(x->fx.w);
        drain_link(x);
}

/* claim against floor: the chunk was freed, and the consumer uses it. */
static void fill_pool(Litmus *x)
{
        must(fx_send_pooled(&x->fx, 1, 64));
}

static void reclaim_chunk(Litmus *x)
{
        x->a_says = ring_writer_look(x->fx.w, 1, 64, NULL) != 0; /* not freed */
}

static void claim_chunk(Litmus *x)
{
        bool ring;

        x->holds = ring_reader_take(&x->fx.r[0], &x->msg, &ring) == 0;
        x->b_says = !x->holds;
}

static void after_claim(Litmus *x)
{
        judge(x);
        if (x->holds)
                (void)ring_reader_release(&x->fx.r[0], x->msg.claim);
        must(ring_writer_look(x->fx.w, 1, 64, NULL));
        drain_link(x);
}

/* release against room word: announced and saw no chunk, released and did not ring. */
static void hold_chunk(Litmus *x)
{
        bool ring;

        fill_pool(x);
        must(ring_reader_take(&x->fx.r[0], &x->msg, &ring));
}

static void arm_for_chunk(Litmus *x)
{
        x->a_says = ring_writer_arm(x->fx.w, 1, 64, NULL) == 0;
}

static void release_and_ring(Litmus *x)
{
        x->b_says = ring_reader_release(&x->fx.r[0], x->msg.claim);
}

static void after_release(Litmus *x)
{
        judge(x);
        ring_writer_disarm(x->fx.w);
        must(ring_writer_look(x->fx.w, 1, 64, NULL));
}

/* A slot that is overwritten all the time: what is taken is one message. */
static void write_much(Litmus *x)
{
        uint64_t words[RING_INLINE_MAX / 8];
        RingPost post = {.payload = words, .payload_len = sizeof(words)};

        for (unsigned i = 0; i < 20; i++) {
                for (size_t k = 0; k < ELEMENTSOF(words); k++)
                        words[k] = x->rounds * 20 + i;
                post.sequence = post.correlation = words[0];
                must(ring_writer_publish(x->fx.w, &post, NULL, NULL));
                ring_writer_flush(x->fx.w);
        }
        x->a_says = false;
}

static void read_much(Litmus *x)
{
        x->b_says = true;
        for (unsigned i = 0; i < 40; i++) {
                RingMessage m;
                const uint64_t *words = m.bytes;
                bool ring;
                int r = ring_reader_take(&x->fx.r[0], &m, &ring);

                if (r == RING_E_EMPTY || r == RING_E_AGAIN)
                        continue;
                must(r);
                for (size_t k = 0; k < RING_INLINE_MAX / 8; k++)
                        if (words[k] != m.d.sequence || words[k] != m.d.correlation || words[k] != m.index)
                                x->b_says = false;
        }
}

/* A backpressure consumer that comes and goes: from the moment it is active it loses nothing. */
static void write_if_room(Litmus *x)
{
        for (uint64_t i = 0; i < 12; i++)
                (void)fx_send(&x->fx, i);
        x->a_says = false;
}

static void come_and_go(Litmus *x)
{
        RingReader *r = &x->fx.r[0];
        RingMessage m;
        bool ring;

        must(ring_reader_start(r));
        x->b_says = true;
        for (unsigned i = 0; i < 8; i++) {
                int says = ring_reader_take(r, &m, &ring);

                if (says != 0 && says != RING_E_EMPTY)
                        x->b_says = false;
        }
        ring_reader_stop(r, &ring);
}

static const LitmusCase cases[] = {
        {"head, then sleep epoch", RING_BACKPRESSURE, 4, 3, NULL, publish_and_ring, sleep_and_look, after_sleep},
        {"tail, then room word", RING_BACKPRESSURE, 4, 1, fill_queue, arm_for_slot, take_and_ring, after_arm},
        {"claim, then floor", RING_DROP_OLDEST, 4, 1, fill_pool, reclaim_chunk, claim_chunk, after_claim},
        {"released claim, then room word", RING_DROP_OLDEST, 4, 1, hold_chunk, arm_for_chunk, release_and_ring,
                after_release},
        {"a slot overwritten while it is read", RING_DROP_OLDEST, 2, 1, NULL, write_much, read_much, judge},
        {"active, then head", RING_BACKPRESSURE, 2, 1, NULL, write_if_room, come_and_go, judge},
};

typedef struct Partner {
        Litmus *x;
        const LitmusCase *c;
} Partner;

static void *partner(void *arg)
{
        Partner *p = arg;
        uint64_t rng = 99;

        for (;;) {
                meet(p->x, 1);
                if (atomic_load(&p->x->stop))
                        return NULL;
                jitter(&rng);
                p->c->b(p->x);
                meet(p->x, 1);
        }
}

static void run_rounds(Litmus *x, const LitmusCase *c)
{
        uint64_t rng = 7;

        for (;;) {
                bool stop = x->rounds && x->rounds % 64 == 0 && clock_now() > x->end; /* also who was late to begin meets somebody */

                if (c->before && !stop)
                        c->before(x);
                atomic_store(&x->stop, stop);
                meet(x, 0);
                if (stop)
                        return;
                jitter(&rng);
                c->a(x);
                meet(x, 0);
                c->after(x);
                x->rounds++;
        }
}

static bool run_case(const LitmusCase *c, unsigned number, double seconds)
{
        static Litmus x;
        const PoolClass class = {64, 1};
        Partner p = {.x = &x, .c = c};
        pthread_t thread;

        memset(&x, 0, sizeof(x));
        fixture_ring(&x.fx, c->n_slots);
        fixture_pool(&x.fx, &class, 1);
        fixture_link(&x.fx, c->queue_size, c->policy);
        must(bell_create(&x.bell.fd));
        mapped_open(&x.bell, REGION_BELL, bell_size());
        bell_init(&x.sleeper, &x.bell.rw);
        bell_peer_init(&x.peer, &x.bell.ro);
        x.end = clock_now() + (nsec_t)(seconds * 1e9);

        must(pthread_create(&thread, NULL, partner, &p));
        run_rounds(&x, c);
        must(pthread_join(thread, NULL));
        printf("%s %u - %s: %lu of %lu rounds bad\n", x.bad || !x.rounds ? "not ok" : "ok", number, c->name, x.bad,
                x.rounds);
        mapped_close(&x.bell);
        fixture_close(&x.fx);
        return x.bad == 0 && x.rounds > 0;
}

int main(int argc, char **argv)
{
        double seconds = argc > 1 ? atof(argv[1]) : 0.7;
        bool good = true;
        cpu_set_t set;

        CPU_ZERO(&set);
        if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) < 2) {
                printf("1..0 # SKIP one CPU\n");
                return 0;
        }
        printf("1..%zu\n", ELEMENTSOF(cases));
        for (unsigned i = 0; i < ELEMENTSOF(cases); i++)
                good &= run_case(&cases[i], i + 1, seconds);
        return !good;
}
