/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Throughput: messages per second from one source, back to back and without loss (`backpressure`), to one sink, or to
 * several at once: then deliveries per second, the messages times the sinks. From the source's first message that
 * counts until the last sink has the last.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/bench/bench.h"
#include "cli/bench/stats.h"

#define RATE_QUEUE   1000u                /* of messages that stand in the ring */
#define POOLED_QUEUE 32u                  /* of those in a pool, whatever their size: 168 MiB of 4 MiB each */
#define LARGE        (UINT64_C(16) << 20) /* of larger ones so many would be too much */
#define LARGE_POOL   (UINT64_C(256) << 20)
#define WARM_UPS     20u
#define MAX_WAYS     3u

typedef struct RateWay {
        BenchWay way;
        uint32_t flags;
        const char *name;
} RateWay;

typedef struct RateCell {
        double rate[BENCH_MAX_ROUNDS]; /* deliveries a second */
        unsigned n_rounds;
        uint64_t n, faults, sleeps[2], cpu_ns;
} RateCell;

static int rate_order(Bench *bench, BenchFlow *flow, uint64_t size, const RateWay *way, RateCell *cell)
{
        const struct bench_order order = {.what = BENCH_RATE,
                .way = way->way,
                .flags = way->flags,
                .n_sinks = flow->spec.n_sinks,
                .size = size,
                .span_ns = (bench->quick ? 20 : 150) * NSEC_PER_MSEC,
                .warm_ns = (bench->quick ? 10 : 30) * NSEC_PER_MSEC};
        struct bench_answer answers[FLOW_MAX_NODES];
        nsec_t end = 0;
        int r = bench_flow_order(flow, &order, answers, 30 * NSEC_PER_SEC);

        if (r)
                return bench_fold(bench, flow, r);
        for (unsigned i = 1; i < flow->n_nodes; i++) {
                end = MAX(end, answers[i].end);
                cell->faults += answers[i].faults;
                cell->sleeps[1] += answers[i].sleeps;
                cell->cpu_ns += answers[i].cpu_ns;
        }
        cell->faults += answers[0].faults;
        cell->sleeps[0] += answers[0].sleeps;
        cell->cpu_ns += answers[0].cpu_ns;
        cell->n += answers[0].n * flow->spec.n_sinks;
        cell->rate[cell->n_rounds++] =
                (double)(answers[0].n * flow->spec.n_sinks) * 1e9 / (double)(end - answers[0].begin);
        return 0;
}

static double rate_ratio(const RateCell *a, const RateCell *b)
{
        double ratio[BENCH_MAX_ROUNDS];
        unsigned n = MIN(a->n_rounds, b->n_rounds);

        for (unsigned i = 0; i < n; i++)
                ratio[i] = a->rate[i] / b->rate[i];
        return n ? stats_median(ratio, n) : NAN;
}

static double rate_median(const RateCell *cell)
{
        double copy[BENCH_MAX_ROUNDS];

        memcpy(copy, cell->rate, cell->n_rounds * sizeof(*copy));
        return stats_median(copy, cell->n_rounds);
}

static json_t *rate_row(const RateCell *cell, const char *way, uint64_t size, double ratio)
{
        json_t *row =
                json_pack("{sI ss sI sf sf sf sf sf}", "size", (json_int_t)size, "way", way, "n", (json_int_t)cell->n,
                        "per_second", rate_median(cell), "faults", (double)cell->faults / (double)cell->n,
                        "source_sleeps", (double)cell->sleeps[0] / (double)cell->n, "sink_sleeps",
                        (double)cell->sleeps[1] / (double)cell->n, "cpu_ns", (double)cell->cpu_ns / (double)cell->n);

        (void)json_object_set_new(row, "to_raw", isnan(ratio) ? json_null() : json_real(ratio));
        return row;
}

/* ---- one to one */

/* Small ones stand in the slots of a ring, large ones in chunks that a ring tells of. Then comes Tidegate, one by one, as goals mean it; then what
 * only small ones have. */
static unsigned ways_for(uint64_t size, RateWay ret[MAX_WAYS])
{
        ret[0] = (RateWay){
                size <= 64 ? BENCH_WAY_RING : BENCH_WAY_DESC, 0, size <= 64 ? "raw ring" : "raw descriptors"};
        ret[1] = (RateWay){BENCH_WAY_TIDEGATE, 0, "tidegate"};
        ret[2] = (RateWay){BENCH_WAY_TIDEGATE, BENCH_BULK, "tidegate, batches"};
        return size >= 8 && size <= 64 ? 3 : 2;
}

static RateCell *pair_cell(RateCell *cells, unsigned place, unsigned size, unsigned way)
{
        return &cells[(place * BENCH_MAX_SIZES + size) * MAX_WAYS + way];
}

static uint32_t queue_for(uint64_t size)
{
        return size <= 64 ? RATE_QUEUE : POOLED_QUEUE;
}

/* Tidegate's pool as it comes: enough for the queue and what the reader holds. The raw side has as many chunks. */
static BenchFlowSpec pairs_spec(uint64_t size, unsigned place)
{
        return (BenchFlowSpec){.n_sinks = 1,
                .place = place,
                .queue_size = queue_for(size),
                .pool_size = size > LARGE ? LARGE_POOL : 0,
                .room = size > LARGE ? LARGE_POOL : (POOLED_QUEUE + 10) * board_chunk_size(size)};
}

/* A pool grows with what is sent: not while that is measured. */
static int pairs_warm_up(Bench *bench, BenchFlow *flow, uint64_t size)
{
        RateWay ways[MAX_WAYS];

        (void)ways_for(size, ways);
        for (unsigned i = 0; i < WARM_UPS; i++) {
                RateCell cell = {};
                int r = rate_order(bench, flow, size, &ways[1], &cell);

                if (r)
                        return r;
                if (cell.faults == 0)
                        break;
        }
        return 0;
}

static int pairs_measure(Bench *bench, BenchFlow *flows, RateCell *cells, unsigned size)
{
        RateWay ways[MAX_WAYS];
        unsigned n = ways_for(bench->sizes[size], ways);
        int r = 0;

        for (unsigned place = 0; place < _BENCH_PLACE_MAX && r == 0; place++)
                if (bench->places[place])
                        r = pairs_warm_up(bench, &flows[place], bench->sizes[size]);
        for (unsigned round = 0; round < bench->rounds && r == 0; round++)
                for (unsigned place = 0; place < _BENCH_PLACE_MAX && r == 0; place++)
                        for (unsigned k = 0; bench->places[place] && k < n && r == 0; k++) {
                                unsigned way = (k + round) % n;

                                r = rate_order(bench, &flows[place], bench->sizes[size], &ways[way],
                                        pair_cell(cells, place, size, way));
                        }
        return r;
}

/* One dataflow for each placement, and all of them anew for each size: a pool that has grown for one has no room for
 * another. */
static int pairs_of_size(Bench *bench, RateCell *cells, unsigned size)
{
        static BenchFlow flows[_BENCH_PLACE_MAX];
        bool opened[_BENCH_PLACE_MAX] = {};
        char name[32];
        int r = 0;

        bench_size_name(bench->sizes[size], name, sizeof(name));
        bench_progress("throughput: %s", name);
        for (unsigned place = 0; place < _BENCH_PLACE_MAX && r == 0; place++) {
                const BenchFlowSpec spec = pairs_spec(bench->sizes[size], place);

                if (!bench->places[place])
                        continue;
                r = bench_open(bench, &flows[place], &spec);
                opened[place] = true;
        }
        if (!r)
                r = pairs_measure(bench, flows, cells, size);
        for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++) {
                int closed = opened[place] ? bench_flow_close(&flows[place]) : 0;

                r = r ? r : bench_fold(bench, &flows[place], closed);
        }
        return r;
}

static void pairs_tell(Bench *bench, RateCell *cells)
{
        double pooled = NAN, at_4k = 0, at_4m = 0, small = NAN, sleeps = NAN;

        for (unsigned size = 0; size < bench->n_sizes; size++)
                for (unsigned place = 0; place < _BENCH_PLACE_MAX; place++) {
                        RateWay ways[MAX_WAYS];
                        unsigned n = ways_for(bench->sizes[size], ways);
                        const RateCell *mine = pair_cell(cells, place, size, 1);
                        double ratio = rate_ratio(mine, pair_cell(cells, place, size, 0));

                        for (unsigned way = 0; bench->places[place] && way < n; way++) {
                                json_t *row = rate_row(pair_cell(cells, place, size, way), ways[way].name,
                                        bench->sizes[size],
                                        rate_ratio(pair_cell(cells, place, size, way),
                                                pair_cell(cells, place, size, 0)));

                                (void)json_object_set_new(row, "place", json_string(bench_place_names[place]));
                                bench_row(bench, "throughput", "rows", row);
                        }
                        if (place != BENCH_PLACE_OTHER || !bench->places[place])
                                continue;
                        if (bench->sizes[size] == 64) {
                                small = ratio;
                                sleeps = (double)mine->sleeps[1] / (double)mine->n;
                        }
                        if (bench->sizes[size] >= 4096 && bench->sizes[size] <= 4u << 20)
                                pooled = isnan(pooled) ? ratio : fmin(pooled, ratio);
                        if (bench->sizes[size] == 4096)
                                at_4k = rate_median(mine);
                        if (bench->sizes[size] == 4u << 20)
                                at_4m = rate_median(mine);
                }
        bench_goal(bench, "T1", "64 B, other CPU: messages a second to the raw ring's", small, 0.6, true);
        bench_goal(
                bench, "T4", "64 B, other CPU: sleeps of the consumer a message, back to back", sleeps, 0.05, false);
        bench_goal(bench, "T2", "4 KiB to 4 MiB, other CPU: the least ratio to the raw descriptor ring", pooled, 0.6,
                true);
        bench_goal(bench, "T2", "4 MiB to 4 KiB, other CPU: messages a second (flat)",
                at_4k > 0 && at_4m > 0 ? at_4m / at_4k : NAN, 0.9, true);
}

int bench_throughput(Bench *bench)
{
        RateCell *cells = calloc(_BENCH_PLACE_MAX * BENCH_MAX_SIZES * MAX_WAYS, sizeof(*cells));
        int r = cells ? 0 : error_origin(-ENOMEM);

        for (unsigned size = 0; size < bench->n_sizes && r == 0; size++)
                r = pairs_of_size(bench, cells, size);
        if (!r)
                pairs_tell(bench, cells);
        free(cells);
        return r;
}

/* ---- one to many */

#define FAN_COUNTS 3u

static const unsigned fan_counts[FAN_COUNTS] = {1, 4, 16};
static const RateWay fan_ways[] = {
        {BENCH_WAY_BCAST, 0, "raw broadcast"},
        {BENCH_WAY_BCAST, BENCH_BATCH, "raw broadcast, SCHED_BATCH"},
        {BENCH_WAY_TIDEGATE, 0, "tidegate"},
        {BENCH_WAY_TIDEGATE, BENCH_BULK, "tidegate, batches"},
};

static void fan_tell(Bench *bench, RateCell cells[FAN_COUNTS][ELEMENTSOF(fan_ways)])
{
        for (unsigned f = 0; f < FAN_COUNTS; f++) {
                double ratio = NAN, best = 0;
                char what[96];

                if (cells[f][0].n_rounds == 0)
                        continue;
                for (unsigned way = 0; way < ELEMENTSOF(fan_ways); way++) {
                        json_t *row = rate_row(
                                &cells[f][way], fan_ways[way].name, 64, rate_ratio(&cells[f][way], &cells[f][1]));

                        (void)json_object_set_new(row, "sinks", json_integer(fan_counts[f]));
                        bench_row(bench, "fanout", "rows", row);
                }
                for (unsigned way = 0; fan_ways[way].way != BENCH_WAY_TIDEGATE; way++)
                        if (rate_median(&cells[f][way]) > best) {
                                best = rate_median(&cells[f][way]);
                                ratio = rate_ratio(&cells[f][ELEMENTSOF(fan_ways) - 1], &cells[f][way]);
                        }
                (void)snprintf(what, sizeof(what),
                        "1 to %u, 64 B, batches, default placement: deliveries a second to the better raw broadcast",
                        fan_counts[f]);
                if (fan_counts[f] > 1)
                        bench_goal(bench, "T3", what, ratio, 0.6, true);
        }
}

int bench_fanout(Bench *bench)
{
        static BenchFlow flows[FAN_COUNTS];
        static RateCell cells[FAN_COUNTS][ELEMENTSOF(fan_ways)];
        bool opened[FAN_COUNTS] = {};
        int r = 0;

        memset(cells, 0, sizeof(cells));
        for (unsigned f = 0; f < FAN_COUNTS && r == 0; f++) {
                const BenchFlowSpec spec = {.n_sinks = fan_counts[f],
                        .place = BENCH_PLACE_DEFAULT,
                        .queue_size = RATE_QUEUE,
                        .room = 1u << 20};

                if (bench->quick && fan_counts[f] > 4)
                        continue;
                r = bench_open(bench, &flows[f], &spec);
                opened[f] = true;
        }
        for (unsigned round = 0; round < bench->rounds && r == 0; round++) {
                bench_progress("fanout: round %u of %u", round + 1, bench->rounds);
                for (unsigned f = 0; f < FAN_COUNTS && r == 0; f++)
                        for (unsigned k = 0; opened[f] && k < ELEMENTSOF(fan_ways) && r == 0; k++) {
                                unsigned way = (k + round) % ELEMENTSOF(fan_ways);

                                r = rate_order(bench, &flows[f], 64, &fan_ways[way], &cells[f][way]);
                        }
        }
        for (unsigned f = 0; f < FAN_COUNTS; f++) {
                int closed = opened[f] ? bench_flow_close(&flows[f]) : 0;

                r = r ? r : bench_fold(bench, &flows[f], closed);
        }
        if (!r)
                fan_tell(bench, cells);
        return r;
}
