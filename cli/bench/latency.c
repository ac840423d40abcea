/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latency: one way, from before the first call of the sender to after the receiver has read the first and the last
 * line of the payload. One dataflow for each placement, all of them there at the same time: their nodes sleep while
 * another is measured.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/bench/bench.h"
#include "cli/bench/count.h"
#include "cli/bench/stats.h"

/* A node that never sleeps looks at its socket so often, with at most so many calls; and at the machine's load once a
 * second. */
#define LOOK_SPAN  (50 * NSEC_PER_MSEC)
#define LOOK_CALLS 3u

#define SETTLE_SPAN (3 * NSEC_PER_SEC)

typedef struct Pace {
        const char *name;
        uint64_t interval_ns;
        unsigned n, n_quick, n_warm;
} Pace;

static const Pace paces[] = {
        {"back to back", 0, 2000, 100, 50},
        {"1 kHz", NSEC_PER_MSEC, 100, 10, 5},
        {"200 Hz", 5 * NSEC_PER_MSEC, 40, 10, 3},
};

enum { SPIN, FUTEX, PIPE, BELL, OURS, OURS_BLOCK, OURS_SPIN, _N_WAYS };

static const BenchWay ways[_N_WAYS] = {
        BENCH_WAY_SPIN, BENCH_WAY_FUTEX, BENCH_WAY_PIPE, BENCH_WAY_BELL, BENCH_WAY_TIDEGATE, BENCH_WAY_TIDEGATE, BENCH_WAY_TIDEGATE};

/* Nodes that wait as they do by themselves, nodes that sleep at once, as one does who reads a pipe, and nodes that
 * never sleep. */
enum { USUAL, BLOCKING, SPINNING, _N_MODES };

static const char *const mode_waits[_N_MODES] = {NULL, "block", "spin"};
static const unsigned mode_ways[_N_MODES] = {OURS, OURS_BLOCK, OURS_SPIN};

typedef struct Cell {
        double p50[BENCH_MAX_ROUNDS], p99[BENCH_MAX_ROUNDS];
        unsigned n_rounds;
        Samples samples;
        uint64_t n, faults[2], sleeps[2];
} Cell;

typedef struct Latency {
        Bench *bench;
        BenchFlow (*flow)[_N_MODES]; /* one a placement and mode */
        Cell *cells;
} Latency;

static BenchFlow *flow_of(const Latency *l, unsigned place, unsigned way)
{
        return &l->flow[place][way == OURS_BLOCK ? BLOCKING : way == OURS_SPIN ? SPINNING : USUAL];
}

static Cell *cell_at(const Latency *l, unsigned pace, unsigned place, unsigned size, unsigned way)
{
        return &l->cells[((pace * _BENCH_PLACE_MAX + place) * BENCH_MAX_SIZES + size) * _N_WAYS + way];
}

/* To look without pause at what somebody on the same CPU will write is no way to wait. */
static bool applies(unsigned place, unsigned way)
{
        return way == SPIN || way == OURS_SPIN ? place == BENCH_PLACE_OTHER
                                               : way != OURS_BLOCK || place != BENCH_PLACE_DEFAULT;
}

static struct bench_order order_for(const Latency *l, unsigned pace, unsigned size, BenchWay way)
{
        const Pace *p = &paces[pace];

        return (struct bench_order){.what = BENCH_LATENCY,
                .way = way,
                .n_sinks = 1,
                .size = l->bench->sizes[size],
                .n = l->bench->quick ? p->n_quick : p->n,
                .n_warm = p->n_warm,
                .interval_ns = p->interval_ns};
}

static unsigned size_index(const Bench *bench, uint64_t size)
{
        for (unsigned i = 0; i < bench->n_sizes; i++)
                if (bench->sizes[i] == size)
                        return i;
        return BENCH_MAX_SIZES - 1; /* never filled */
}

static nsec_t order_span(const struct bench_order *order)
{
        return 20 * NSEC_PER_SEC + (order->n + order->n_warm) * (order->interval_ns + NSEC_PER_MSEC);
}

static int measure(Latency *l, unsigned pace, unsigned place, unsigned size, unsigned way)
{
        BenchFlow *flow = flow_of(l, place, way);
        const struct bench_order order = order_for(l, pace, size, ways[way]);
        struct bench_answer answers[FLOW_MAX_NODES];
        Cell *cell = cell_at(l, pace, place, size, way);
        uint32_t sample[BOARD_MAX_SAMPLES];
        int r = bench_flow_order(flow, &order, answers, order_span(&order));

        if (r)
                return bench_fold(l->bench, flow, r);
        memcpy(sample, flow->board->sample, order.n * sizeof(*sample));
        stats_sort(sample, order.n);
        cell->p50[cell->n_rounds] = stats_percentile(sample, order.n, 50);
        cell->p99[cell->n_rounds] = stats_percentile(sample, order.n, 99);
        cell->n_rounds++;
        cell->n += order.n;
        for (unsigned k = 0; k < 2; k++) {
                cell->faults[k] += answers[k].faults;
                cell->sleeps[k] += answers[k].sleeps;
        }
        return samples_add(&cell->samples, sample, order.n);
}

/* Whoever has never been used has its memory still to be given: the first use is not counted. */
static int warm_up(Latency *l, unsigned place, unsigned size, unsigned way)
{
        BenchFlow *flow = flow_of(l, place, way);
        struct bench_order order = order_for(l, 0, size, ways[way]);
        struct bench_answer answers[FLOW_MAX_NODES];
        int r;

        order.n = 1;
        order.n_warm = 100;
        r = bench_flow_order(flow, &order, answers, order_span(&order));
        if (r)
                return bench_fold(l->bench, flow, r);
        if (way == OURS)
                bench_row(l->bench, "latency", "first",
                        json_pack("{ss sI sf sf}", "place", bench_place_names[place], "size",
                                (json_int_t)l->bench->sizes[size], "source_faults",
                                (double)answers[0].warm_faults / 100, "sink_faults",
                                (double)answers[1].warm_faults / 100));
        return 0;
}

static int each_way(Latency *l, unsigned size, unsigned turn,
        int (*each)(Latency *l, unsigned pace, unsigned place, unsigned size, unsigned way), unsigned pace)
{
        int r = 0;

        for (unsigned place = 0; place < _BENCH_PLACE_MAX && r == 0; place++)
                for (unsigned k = 0; k < _N_WAYS && r == 0; k++) {
                        unsigned way = (k + turn) % _N_WAYS;

                        if (l->bench->places[place] && applies(place, way))
                                r = each(l, pace, place, size, way);
                }
        return r;
}

static int warm_up_one(Latency *l, unsigned pace, unsigned place, unsigned size, unsigned way)
{
        (void)pace;
        return warm_up(l, place, size, way);
}

/* Where nobody says where nodes are to be the supervisor may find a place for them, once it has seen what they do. */
static int settle(Latency *l, unsigned pace)
{
        struct bench_order order = order_for(l, pace, size_index(l->bench, 64), BENCH_WAY_TIDEGATE);
        struct bench_answer answers[FLOW_MAX_NODES];
        int r;

        if (l->bench->quick || !l->bench->places[BENCH_PLACE_DEFAULT] || order.interval_ns == 0)
                return 0;
        order.size = 64;
        order.n = SETTLE_SPAN / order.interval_ns;
        r = bench_flow_order(flow_of(l, BENCH_PLACE_DEFAULT, OURS), &order, answers, order_span(&order));
        return bench_fold(l->bench, flow_of(l, BENCH_PLACE_DEFAULT, OURS), r);
}

static int measure_all(Latency *l)
{
        int r = 0;

        for (unsigned size = 0; size < l->bench->n_sizes && r == 0; size++)
                r = each_way(l, size, 0, warm_up_one, 0);
        for (unsigned pace = 0; pace < ELEMENTSOF(paces) && r == 0; pace++) {
                r = settle(l, pace);
                for (unsigned round = 0; round < l->bench->rounds && r == 0; round++) {
                        bench_progress("latency, %s: round %u of %u", paces[pace].name, round + 1, l->bench->rounds);
                        for (unsigned size = 0; size < l->bench->n_sizes && r == 0; size++)
                                r = each_way(l, size, round, measure, pace);
                }
        }
        return r;
}

/* ---- system calls */

static int count_at(Latency *l, unsigned place, unsigned size, bool awake)
{
        BenchFlow *flow = flow_of(l, place, OURS);
        struct bench_order order = order_for(l, 0, size, BENCH_WAY_TIDEGATE);
        struct bench_answer answers[FLOW_MAX_NODES];
        BenchCount c[2];
        json_t *row;
        int r;

        order.interval_ns = awake ? 50 * NSEC_PER_USEC : NSEC_PER_MSEC;
        order.flags = awake ? BENCH_AWAKE : 0;
        order.n = awake ? 1000 : l->bench->quick ? 100 : 1000;
        r = bench_count(flow, &order, c, answers, order_span(&order));
        if (r < 0)
                return bench_fold(l->bench, flow, r);
        row = json_pack("{ss sI ss sI sb sI}", "place", bench_place_names[place], "size", (json_int_t)order.size,
                "consumer", awake ? "awake" : "asleep", "n", (json_int_t)order.n, "counted", r == 0, "looks",
                (json_int_t)(r == 0 ? 2 * LOOK_CALLS * (2 + (answers[0].end - answers[0].begin) / LOOK_SPAN) : 0));
        if (r == 0)
                (void)json_object_update_new(
                        row, json_pack("{sI sI sI sI sI sI}", "source_calls", (json_int_t)c[0].calls, "source_wakes",
                                     (json_int_t)c[0].wakes, "sink_calls", (json_int_t)c[1].calls, "sink_sleeps",
                                     (json_int_t)c[1].sleeps, "memory_calls", (json_int_t)(c[0].memory + c[1].memory),
                                     "sink_wakes", (json_int_t)c[1].wakes));
        bench_row(l->bench, "latency", "calls", row);
        return 0;
}

static int count_all(Latency *l)
{
        unsigned place = l->bench->places[BENCH_PLACE_OTHER] ? BENCH_PLACE_OTHER : BENCH_PLACE_SAME;
        int r = 0;

        if (!l->bench->places[place])
                return 0;
        bench_progress("latency: counting system calls");
        for (unsigned size = 0; size < l->bench->n_sizes && r == 0; size++) {
                r = count_at(l, place, size, false);
                if (!r && place == BENCH_PLACE_OTHER)
                        r = count_at(l, place, size, true);
        }
        return r;
}

/* ---- what came of it */

static double ratio_of(const double *a, const double *b, unsigned n)
{
        double ratio[BENCH_MAX_ROUNDS];
        unsigned k = 0;

        for (unsigned i = 0; i < n; i++)
                if (b[i] > 0)
                        ratio[k++] = a[i] / b[i];
        return k ? stats_median(ratio, k) : NAN;
}

static double cell_ratio(const Cell *a, const Cell *b, bool p99)
{
        return ratio_of(p99 ? a->p99 : a->p50, p99 ? b->p99 : b->p50, MIN(a->n_rounds, b->n_rounds));
}

static json_t *number_or_null(double value)
{
        return isnan(value) ? json_null() : json_real(value);
}

static void tell_cell(Latency *l, unsigned pace, unsigned place, unsigned size, unsigned way)
{
        Cell *cell = cell_at(l, pace, place, size, way);
        const Cell *pipe = cell_at(l, pace, place, size, PIPE);
        size_t n = cell->samples.n;
        json_t *row;

        if (n == 0)
                return;
        stats_sort(cell->samples.value, n);
        row = json_pack("{ss ss sI ss sI sf sf sf}", "pace", paces[pace].name, "place", bench_place_names[place],
                "size", (json_int_t)l->bench->sizes[size], "way",
                way == OURS_BLOCK  ? "tidegate, block"
                : way == OURS_SPIN ? "tidegate, spin"
                                   : bench_way_name(ways[way]),
                "n", (json_int_t)n, "p50_us", stats_percentile(cell->samples.value, n, 50) / 1e3, "p99_us",
                stats_percentile(cell->samples.value, n, 99) / 1e3, "p999_us",
                stats_percentile(cell->samples.value, n, 99.9) / 1e3);
        (void)json_object_update_new(
                row, json_pack("{so so sf sf sf sf}", "to_pipe", number_or_null(cell_ratio(cell, pipe, false)),
                             "to_pipe_p99", number_or_null(cell_ratio(cell, pipe, true)), "source_faults",
                             (double)cell->faults[0] / (double)cell->n, "sink_faults",
                             (double)cell->faults[1] / (double)cell->n, "source_sleeps",
                             (double)cell->sleeps[0] / (double)cell->n, "sink_sleeps",
                             (double)cell->sleeps[1] / (double)cell->n));
        if (applies(place, SPIN))
                (void)json_object_set_new(
                        row, "to_spin", number_or_null(cell_ratio(cell, cell_at(l, pace, place, size, SPIN), false)));
        bench_row(l->bench, "latency", "rows", row);
}

static const Cell *ours(const Latency *l, unsigned pace, unsigned place, uint64_t size)
{
        return cell_at(l, pace, place, size_index(l->bench, size), OURS);
}

/* L3, in each of the ways to wait that is one way only: what is compared with itself is not to sleep here and spin there. */
static void tell_flat(Latency *l)
{
        static const uint64_t sizes[] = {4u << 20, 40u << 20};

        for (unsigned way = OURS_BLOCK; way <= OURS_SPIN; way++)
                for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                        const Cell *large = cell_at(l, 0, BENCH_PLACE_OTHER, size_index(l->bench, sizes[i]), way);
                        const Cell *small = cell_at(l, 0, BENCH_PLACE_OTHER, size_index(l->bench, 64), way);
                        char what[96], size[32];

                        bench_size_name(sizes[i], size, sizeof(size));
                        (void)snprintf(what, sizeof(what), "%s to 64 B, other CPU, back to back, wait: %s", size,
                                way == OURS_BLOCK ? "block" : "spin");
                        bench_goal(l->bench, "L3", what, cell_ratio(large, small, false), 1.05, false);
                }
}

static double faults_of(const Latency *l)
{
        uint64_t faults = 0, n = 0;

        for (unsigned pace = 0; pace < ELEMENTSOF(paces); pace++)
                for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++)
                        for (unsigned size = 0; size < l->bench->n_sizes; size++) {
                                const Cell *c = cell_at(l, pace, place, size, OURS);

                                faults += c->faults[0] + c->faults[1];
                                n += c->n;
                        }
        return n ? (double)faults / (double)n : NAN;
}

static double first_faults(const Latency *l)
{
        json_t *rows = bench_rows(l->bench, "latency", "first"), *row;
        double sum = 0;
        size_t i;

        json_array_foreach(rows, i, row) sum += json_number_value(json_object_get(row, "source_faults")) +
                                                json_number_value(json_object_get(row, "sink_faults"));
        return i ? sum / (double)i : NAN;
}

static void tell_goals(Latency *l)
{
        Bench *b = l->bench;
        const unsigned s64 = size_index(b, 64);

        for (unsigned place = BENCH_PLACE_SAME; place <= BENCH_PLACE_OTHER; place++) {
                const Cell *pipe = cell_at(l, 0, place, s64, PIPE), *mine = cell_at(l, 0, place, s64, OURS_BLOCK);
                char what[96];

                (void)snprintf(what, sizeof(what), "64 B, %s, back to back, wait: block: p50 to a pipe's",
                        bench_place_names[place]);
                bench_goal(b, "L1", what, cell_ratio(mine, pipe, false), 1.15, false);
                (void)snprintf(what, sizeof(what), "64 B, %s, back to back, wait: block: p99 to a pipe's",
                        bench_place_names[place]);
                bench_goal(b, "L1", what, cell_ratio(mine, pipe, true), 1.3, false);
                (void)snprintf(what, sizeof(what), "64 B, %s, back to back, wait: block: p50 to the same doorbell, raw", bench_place_names[place]);
                bench_goal(b, "L1", what, cell_ratio(mine, cell_at(l, 0, place, s64, BELL), false), 1.15, false);
        }
        bench_goal(b, "L2", "64 B, other CPU, back to back, wait: spin: p50 to raw spin",
                cell_ratio(cell_at(l, 0, BENCH_PLACE_OTHER, s64, OURS_SPIN),
                        cell_at(l, 0, BENCH_PLACE_OTHER, s64, SPIN), false),
                2, false);
        bench_goal(b, "L2", "64 B, other CPU, back to back, adaptive where CPUs are free: p50 to raw spin",
                cell_ratio(ours(l, 0, BENCH_PLACE_OTHER, 64), cell_at(l, 0, BENCH_PLACE_OTHER, s64, SPIN), false), 2,
                false);
        tell_flat(l);
        bench_goal(b, "L4", "64 B at 1 kHz, default placement: p50 to a pipe's on the same CPU",
                cell_ratio(ours(l, 1, BENCH_PLACE_DEFAULT, 64), cell_at(l, 1, BENCH_PLACE_SAME, s64, PIPE), false),
                1.3, false);
        bench_goal(b, "M1", "page faults a message in the steady state, both sides", faults_of(l), 0, false);
        bench_goal(b, "M1", "page faults a message in the first hundred of a size, both sides", first_faults(l), 0,
                false);
}

/* T4: what the sleeps cost, and that being awake costs none. */
static void tell_call_goals(Latency *l)
{
        json_t *rows = bench_rows(l->bench, "latency", "calls"), *row;
        double awake = NAN, a_sleep = NAN, memory = NAN;
        size_t i;

        json_array_foreach(rows, i, row)
        {
                double n = (double)json_integer_value(json_object_get(row, "n")),
                       calls = (double)json_integer_value(json_object_get(row, "sink_calls"));
                double sleeps = (double)json_integer_value(json_object_get(row, "sink_sleeps")),
                       both = calls + (double)json_integer_value(json_object_get(row, "source_calls"));

                if (!json_is_true(json_object_get(row, "counted")))
                        continue;
                memory = fmax(isnan(memory) ? 0 : memory,
                        (double)json_integer_value(json_object_get(row, "memory_calls")) / n);
                if (strcmp(json_string_value(json_object_get(row, "consumer")), "awake") == 0)
                        awake = fmax(isnan(awake) ? 0 : awake,
                                fmax(0, both - (double)json_integer_value(json_object_get(row, "looks"))) / n);
                else if (sleeps > 0)
                        a_sleep = fmax(isnan(a_sleep) ? 0 : a_sleep, calls / sleeps);
        }
        bench_goal(l->bench, "T4",
                "system calls a message while the consumer is awake, both sides (but for a look in 50 ms)", awake, 0,
                false);
        bench_goal(l->bench, "T4", "system calls of the consumer a sleep", a_sleep, 2, false);
        bench_goal(l->bench, "M1", "mmap, munmap and passed descriptors a message", memory, 0, false);
}

static int open_all(Latency *l, bool opened[_BENCH_PLACE_MAX][_N_MODES])
{
        Bench *bench = l->bench;
        uint64_t largest = 0;
        int r = 0;

        for (unsigned i = 0; i < bench->n_sizes; i++)
                largest = MAX(largest, bench->sizes[i]);
        for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++)
                for (unsigned mode = 0; bench->places[place] && mode < _N_MODES && r == 0; mode++) {
                        const BenchFlowSpec spec = {.n_sinks = 1,
                                .place = place,
                                .queue_size = 10,
                                .expected = largest,
                                .room = MAX(UINT64_C(1) << 20, largest + BOARD_PAGE),
                                .wait = mode_waits[mode]};

                        if (!applies(place, mode_ways[mode]))
                                continue;
                        r = bench_open(bench, &l->flow[place][mode], &spec);
                        opened[place][mode] = true;
                }
        return r;
}

static int close_all(Latency *l, bool opened[_BENCH_PLACE_MAX][_N_MODES])
{
        int r = 0;

        for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++)
                for (unsigned mode = 0; mode < _N_MODES; mode++) {
                        int closed = opened[place][mode] ? bench_flow_close(&l->flow[place][mode]) : 0;

                        r = r ? r : bench_fold(l->bench, &l->flow[place][mode], closed);
                }
        return r;
}

static void tell_all(Latency *l)
{
        for (unsigned pace = 0; pace < ELEMENTSOF(paces); pace++)
                for (unsigned size = 0; size < l->bench->n_sizes; size++)
                        for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++)
                                for (unsigned way = 0; way < _N_WAYS; way++)
                                        tell_cell(l, pace, place, size, way);
        tell_goals(l);
        tell_call_goals(l);
}

int bench_latency(Bench *bench)
{
        static BenchFlow flows[_BENCH_PLACE_MAX][_N_MODES];
        const size_t n_cells = ELEMENTSOF(paces) * _BENCH_PLACE_MAX * BENCH_MAX_SIZES * _N_WAYS;
        bool opened[_BENCH_PLACE_MAX][_N_MODES] = {};
        Latency l = {.bench = bench, .flow = flows, .cells = calloc(n_cells, sizeof(*l.cells))};
        int r, closed;

        if (!l.cells)
                return error_origin(-ENOMEM);
        r = open_all(&l, opened);
        if (!r)
                r = measure_all(&l);
        if (!r)
                r = count_all(&l);
        closed = close_all(&l, opened);
        r = r ? r : closed;
        if (!r)
                tell_all(&l);
        for (size_t i = 0; i < n_cells; i++)
                samples_done(&l.cells[i].samples);
        free(l.cells);
        return r;
}
