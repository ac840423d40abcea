/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steady source|sink ARENA: two honest nodes between whom a third one is hostile. The source sends numbered messages of two sizes, one
 * in the slot and one in the pool, as fast as they are taken or at the arena's pace; the sink looks at every byte of each, and reads here and there
 * in whatever else comes, from the first to the last byte. Both note for each phase how many messages there were, and what they cost; the sink also
 * how long they took.
 */
#include <stdbool.h>
#include <sys/prctl.h>

#include "arena.h"

#define LARGE 2000u

typedef struct Pace {
        volatile uint64_t *record; /* of this part */
        volatile uint64_t *arena;
        uint64_t phase, n, cpu, wall;
} Pace;

static void pace_turn(Pace *pace)
{
        uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), wall = clock_ns(CLOCK_MONOTONIC);
        volatile uint64_t *r = &pace->record[3 * (pace->phase % ARENA_PHASES)];

        r[1] += cpu - pace->cpu;
        r[2] += wall - pace->wall;
        r[0] += pace->n;
        pace->phase = pace->arena[ARENA_PHASE];
        pace->n = 0;
        pace->cpu = cpu;
        pace->wall = wall;
}

static inline void pace_count(Pace *pace)
{
        pace->n++;
        if (pace->arena[ARENA_PHASE] != pace->phase)
                pace_turn(pace);
}

static Pace pace_new(volatile uint64_t *arena, unsigned part)
{
        return (Pace){.arena = arena, .record = arena + ARENA_RECORDS + part * 3 * ARENA_PHASES, .cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                .wall = clock_ns(CLOCK_MONOTONIC)};
}

static size_t size_of(uint64_t n)
{
        return n % 4 ? 64 : LARGE;
}

static void fill(uint8_t *bytes, uint64_t n)
{
        memset(bytes, (int)(n * 37 + 11), size_of(n));
        memcpy(bytes, &n, 8);
}

/* What is late is not made up for: with each message both of its receivers have to be woken, on a loaded machine, too. */
static void await_turn(uint64_t pace_ns)
{
        static uint64_t turn;
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        struct timespec ts;

        turn = turn + pace_ns < now ? now : turn + pace_ns;
        ts = (struct timespec){.tv_sec = (time_t)(turn / 1000000000u), .tv_nsec = (long)(turn % 1000000000u)};
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static int source(tg_node *node, Pace pace)
{
        static uint8_t bytes[LARGE];
        uint64_t n = 0;
        int r = 0;

        (void)prctl(PR_SET_TIMERSLACK, 1);
        while (!tg_should_stop(node)) {
                tg_event *ev;

                fill(bytes, n);
                if (pace.arena[ARENA_PACE])
                        await_turn(pace.arena[ARENA_PACE]);
                pace.arena[ARENA_SENT + n % ARENA_N_SENT] = clock_ns(CLOCK_MONOTONIC);
                r = tg_send(node, "out", bytes, size_of(n), NULL);
                if (r)
                        break;
                n++;
                pace_count(&pace);
                if (n % 64 == 0)
                        while (tg_next(node, &ev, 0) == 0)
                                tg_event_free(ev);
        }
        if (r && r != TG_E_STOPPING)
                DIE("tg_send of %" PRIu64 ": %s", n, tg_strerror(r));
        pace_turn(&pace);
        return 0;
}

static bool is_next(const uint8_t *data, size_t size, uint64_t n)
{
        uint8_t bytes[LARGE];

        fill(bytes, n);
        return size == size_of(n) && memcmp(data, bytes, size) == 0;
}

static void note_latency(Pace *pace, uint64_t n)
{
        uint64_t ns = (clock_ns(CLOCK_MONOTONIC) - pace->arena[ARENA_SENT + n % ARENA_N_SENT]) | 4;
        unsigned log2 = 63 - (unsigned)__builtin_clzll(ns), bucket = 4 * log2 + (unsigned)(ns >> (log2 - 2) & 3);

        bucket = bucket < ARENA_N_BUCKETS ? bucket : ARENA_N_BUCKETS - 1;
        pace->arena[ARENA_LATENCY + pace->phase % ARENA_PHASES * ARENA_N_BUCKETS + bucket]++;
}

static int sink(tg_node *node, Pace pace, volatile uint64_t *arena)
{
        volatile uint8_t sum = 0;
        uint64_t n = 0;
        tg_event *ev;

        while ((ev = next_event(node))) {
                if (tg_event_type(ev) == TG_EVENT_INPUT && strcmp(tg_event_id(ev), "in") == 0) {
                        note_latency(&pace, n);
                        arena[ARENA_WRONG] += !is_next(tg_event_data(ev), tg_event_size(ev), n++);
                        arena[ARENA_GOT]++;
                        pace_count(&pace);
                } else if (tg_event_type(ev) == TG_EVENT_INPUT) {
                        const uint8_t *data = tg_event_data(ev);

                        for (size_t i = 0; i < tg_event_size(ev); i += 1 + tg_event_size(ev) / 64) /* they are there to be read */
                                sum = (uint8_t)(sum + data[i]);
                        if (tg_event_size(ev))
                                sum = (uint8_t)(sum + data[tg_event_size(ev) - 1]);
                }
                tg_event_free(ev);
        }
        pace_turn(&pace);
        return 0;
}

int main(int argc, char **argv)
{
        volatile uint64_t *arena;
        tg_node *node;
        int r;

        if (argc != 3)
                DIE("usage: steady source|sink ARENA");
        arena = arena_open(argv[2]);
        node = open_node();
        r = strcmp(argv[1], "sink") == 0 ? sink(node, pace_new(arena, 1), arena) : source(node, pace_new(arena, 0));
        tg_node_close(node);
        return r;
}
