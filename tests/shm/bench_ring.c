/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of a raw ring's rate is left after everything the protocol promises: one producer and one consumer thread,
 * spinning, each pinned to a CPU, messages per second over raw messages per second, rounds interleaved, median of ratios.
 * Two anchors: "raw", the least that moves bytes between two CPUs that never sleep; and "wakeable", the same ring with
 * what it takes to know whether the other side sleeps: head and tail stored SC, the other's epoch read after each.
 *
 *   inline  64 bytes copied in and out      raw: single-producer ring of 64-byte slots, cached cursors
 *   pooled  4 KiB chunk, first and last     raw: the same ring carrying chunk numbers, chunks reused in ring order
 *           8 bytes written and read
 *
 * Usage: bench_ring [ROUNDS] [MESSAGES]. Not part of the test suite: the figures mean something on an idle machine only.
 */
#include <pthread.h>
#include <sched.h>

#include "fixture.h"
#include "shm/shm-internal.h"

#define N     1024u
#define CHUNK 4096u

typedef struct Bench {
        Fixture fx;
        uint64_t n;
        unsigned batch;
        bool pooled;
        bool wakeable;
        /* the raw ring */
        struct {
                uint64_t word[8];
        } slot[N] __attribute__((aligned(128)));
        uint64_t head __attribute__((aligned(128)));
        uint64_t tail __attribute__((aligned(128)));
        uint64_t epoch[2] __attribute__((aligned(128)));
        uint8_t *chunks;
        uint64_t sum;
        int cpu[2];
} Bench;

static void pin(int cpu)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        (void)sched_setaffinity(0, sizeof(set), &set); /* one CPU only: the figures say so themselves */
}

/* Both rings back off alike when full or empty, or all one measures is two CPUs tearing at one line. */
static inline void relax(void)
{
        for (unsigned i = 0; i < 32; i++)
#if defined(__x86_64__)
                __builtin_ia32_pause();
#else
                __asm__ volatile("");
#endif
}

static void *raw_consumer(void *arg)
{
        Bench *b = arg;
        uint64_t head = 0, sum = 0;

        for (uint64_t t = 0; t < b->n; t++) {
                uint64_t copy[8];

                while (head == t && (head = load_acquire(&b->head)) == t)
                        relax();
                memcpy(copy, b->slot[t % N].word, sizeof(copy));
                if (b->pooled) {
                        const volatile uint64_t *p = (const volatile uint64_t *)(b->chunks + copy[0] * CHUNK);

                        sum += p[0] + p[CHUNK / 8 - 1];
                }
                sum += copy[0] + copy[7];
                if (!b->wakeable) {
                        store_release(&b->tail, t + 1);
                        continue;
                }
                store_sc(&b->tail, t + 1);
                sum += load_sc(&b->epoch[0]);
        }
        b->sum = sum;
        return NULL;
}

static void raw_producer(Bench *b)
{
        uint64_t tail = 0;

        for (uint64_t i = 0; i < b->n; i++) {
                uint64_t words[8] = {i % N, i, i, i, i, i, i, i};

                while (i - tail == N && i - (tail = load_acquire(&b->tail)) == N) {
                        store_sc(&b->head, i);
                        relax();
                }
                if (b->pooled) {
                        volatile uint64_t *p = (volatile uint64_t *)(b->chunks + i % N * CHUNK);

                        p[0] = i;
                        p[CHUNK / 8 - 1] = i;
                }
                memcpy(b->slot[i % N].word, words, sizeof(words));
                if (!b->wakeable) {
                        store_release(&b->head, i + 1);
                } else if (i % b->batch == 0 || i + 1 == b->n) {
                        store_sc(&b->head, i + 1);
                        b->sum += load_sc(&b->epoch[1]);
                }
        }
}

static void *our_consumer(void *arg)
{
        Bench *b = arg;
        uint64_t sum = 0;
        RingMessage m;
        bool ring;

        for (uint64_t t = 0; t < b->n; t++) {
                const volatile uint64_t *p;
                int r;

                while ((r = ring_reader_take(&b->fx.r[0], &m, &ring)) == RING_E_EMPTY)
                        relax();
                must(r);
                p = m.payload;
                sum += p[0] + p[m.d.payload_len / 8 - 1];
                if (m.claim >= 0)
                        ring_reader_release(&b->fx.r[0], m.claim);
        }
        b->sum = sum;
        return NULL;
}

static int our_send(Bench *b, uint64_t i)
{
        uint64_t words[8] = {i % N, i, i, i, i, i, i, i};
        PoolChunk chunk;
        volatile uint64_t *p;
        int r;

        if (!b->pooled)
                return ring_writer_publish(b->fx.w, &(RingPost){.payload = words, .payload_len = 64}, NULL, NULL);
        r = ring_writer_alloc(b->fx.w, CHUNK, &chunk, NULL);
        if (r)
                return r;
        p = chunk.data;
        p[0] = i;
        p[CHUNK / 8 - 1] = i;
        r = ring_writer_publish(b->fx.w, &(RingPost){.payload_len = CHUNK}, &chunk, NULL);
        ring_writer_give_back(b->fx.w, &chunk);
        return r;
}

static void our_producer(Bench *b)
{
        for (uint64_t i = 0; i < b->n; i++) {
                while (our_send(b, i)) {
                        ring_writer_flush(b->fx.w);
                        relax();
                }
                if (i % b->batch == 0 || i + 1 == b->n)
                        ring_writer_flush(b->fx.w);
        }
}

static double rate(Bench *b, bool ours)
{
        const PoolClass class = {CHUNK, N + 16};
        pthread_t consumer;
        nsec_t start;

        if (ours) {
                fixture_ring(&b->fx, 2 * N);
                fixture_pool(&b->fx, &class, 1);
                fixture_link(&b->fx, N, RING_BACKPRESSURE);
        }
        b->head = b->tail = 0;
        pin(b->cpu[1]); /* inherited: under a real-time policy it would never get away from beside us */
        must(pthread_create(&consumer, NULL, ours ? our_consumer : raw_consumer, b));
        pin(b->cpu[0]);
        start = clock_now();
        if (ours)
                our_producer(b);
        else
                raw_producer(b);
        must(pthread_join(consumer, NULL));
        start = clock_now() - start;
        if (ours)
                fixture_close(&b->fx);
        return (double)b->n * 1e9 / (double)start;
}

static int ascending(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
        qsort(v, n, sizeof(*v), ascending);
        return v[n / 2];
}

static void compare(Bench *b, const char *name, unsigned rounds)
{
        double to_raw[64], to_wakeable[64], raw[64], wakeable[64], ours[64];

        for (unsigned i = 0; i < rounds; i++) {
                b->wakeable = false;
                raw[i] = rate(b, false);
                b->wakeable = true;
                wakeable[i] = rate(b, false);
                ours[i] = rate(b, true);
                to_raw[i] = ours[i] / raw[i];
                to_wakeable[i] = ours[i] / wakeable[i];
        }
        printf("%-28s raw %6.2f  wakeable %6.2f  ours %6.2f M/s   ours/raw %.2f  ours/wakeable %.2f\n", name,
                median(raw, rounds) / 1e6, median(wakeable, rounds) / 1e6, median(ours, rounds) / 1e6,
                median(to_raw, rounds), median(to_wakeable, rounds));
}

int main(int argc, char **argv)
{
        unsigned rounds = argc > 1 ? MIN((unsigned)atoi(argv[1]), 63u) : 5;
        Bench *b = aligned_alloc(128, sizeof(Bench));
        cpu_set_t set;

        if (!b)
                return 1;
        memset(b, 0, sizeof(*b));
        b->n = argc > 2 ? strtoull(argv[2], NULL, 0) : 2000000;
        b->chunks = aligned_alloc(4096, (size_t)N * CHUNK);
        if (!b->chunks || rounds < 1)
                return 1;
        memset(b->chunks, 1, (size_t)N * CHUNK);
        (void)sched_getaffinity(0, sizeof(set), &set);
        for (int cpu = 0, k = 0; cpu < CPU_SETSIZE && k < 2; cpu++)
                if (CPU_ISSET(cpu, &set))
                        b->cpu[k++] = cpu;
        for (int pooled = 0; pooled < 2; pooled++)
                for (unsigned batch = 1; batch <= 16; batch *= 16) {
                        char name[64];

                        b->pooled = pooled;
                        b->batch = batch;
                        snprintf(name, sizeof(name), "%s, flush every %u", pooled ? "pooled 4 KiB" : "inline 64 B", batch);
                        compare(b, name, rounds);
                }
        free(b->chunks);
        free(b);
        return 0;
}
