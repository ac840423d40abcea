/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reclaim: a reader that holds messages is killed, and its producer, which has nothing left in its pool and waits for
 * a chunk, has one again, and all that the reader held. From just before the signal; beside it when the kernel says
 * that the process is dead (its pidfd, polled here).
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/bench/bench.h"
#include "cli/bench/stats.h"
#include "shm/shm-internal.h"

#define RECLAIM_SIZE  16384u
#define RECLAIM_HELD  7u /* of the 8 that a reader may pin; with one more the library begins to copy */
#define RECLAIM_SPAN  (10 * NSEC_PER_SEC)
#define RECLAIM_PAUSE 2 /* ms; the producer has gone to sleep */

typedef struct Reclaim {
        Samples death, first, all;
        double to_death[BENCH_MAX_ROUNDS * BOARD_MAX_SINKS];
        unsigned n;
} Reclaim;

static int kill_reader(BenchFlow *flow, unsigned sink, nsec_t *ret_killed, nsec_t *ret_dead)
{
        _cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, flow->pids[sink], 0);
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        if (pidfd < 0)
                return bench_flow_fail(flow, -errno, "cannot get hold of a node's process: %s", error_text(-errno));
        *ret_killed = clock_now();
        if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
                return bench_flow_fail(flow, -errno, "cannot kill a node of our own: %s", error_text(-errno));
        if (poll(&p, 1, (int)(RECLAIM_SPAN / NSEC_PER_MSEC)) != 1)
                return bench_flow_fail(flow, -ETIMEDOUT, "a killed node did not end");
        *ret_dead = clock_now();
        return 0;
}

static int answer_of_source(BenchFlow *flow, struct bench_answer *answers)
{
        const bool source[FLOW_MAX_NODES] = {true};

        return bench_flow_wait(flow, source, answers, nsec_add(clock_now(), RECLAIM_SPAN));
}

static int sample(Samples *samples, nsec_t begin, nsec_t end)
{
        uint32_t value = end <= begin ? 0 : end - begin < UINT32_MAX ? (uint32_t)(end - begin) : UINT32_MAX;

        return samples_add(samples, &value, 1);
}

static int kill_one(BenchFlow *flow, unsigned sink, Reclaim *reclaim)
{
        const struct bench_order hold = {.what = BENCH_HOLD, .way = BENCH_WAY_TIDEGATE};
        const struct bench_order fill = {.what = BENCH_FILL,
                .way = BENCH_WAY_TIDEGATE,
                .size = RECLAIM_SIZE,
                .n = sink,
                .n_warm = RECLAIM_HELD};
        struct bench_answer answers[FLOW_MAX_NODES];
        nsec_t killed = 0, dead = 0, first, all;
        int r = bench_flow_tell(flow, sink, &hold);

        if (!r)
                r = bench_flow_tell(flow, 0, &fill);
        if (!r)
                r = answer_of_source(flow, answers);
        if (r)
                return r;
        store_release(&flow->board->reclaimed.word, 0);
        store_release(&flow->board->reclaimed_all.word, 0);
        (void)poll(NULL, 0, RECLAIM_PAUSE);
        if (load_acquire(&flow->board->reclaimed.word) != 0)
                return bench_flow_fail(flow, -EIO, "the producer had a chunk although a reader held all");
        r = kill_reader(flow, sink, &killed, &dead);
        flow->fds[sink] = fd_close(flow->fds[sink]);
        if (!r)
                r = answer_of_source(flow, answers);
        if (r)
                return r;
        first = load_acquire(&flow->board->reclaimed.word);
        all = load_acquire(&flow->board->reclaimed_all.word);
        reclaim->to_death[reclaim->n++] = (double)(all - killed) / (double)(dead - killed);
        r = sample(&reclaim->death, killed, dead);
        if (!r)
                r = sample(&reclaim->first, killed, first);
        return r ? r : sample(&reclaim->all, killed, all);
}

static int one_round(Bench *bench, Reclaim *reclaim)
{
        static BenchFlow flow;
        const BenchFlowSpec spec = {.n_sinks = bench->quick ? 4 : BOARD_MAX_SINKS,
                .place = BENCH_PLACE_DEFAULT,
                .queue_size = 16,
                .pool_size = 2u << 20,
                .room = BOARD_PAGE,
                .one_output_each = true};
        int r = bench_open(bench, &flow, &spec), closed;

        for (unsigned sink = 1; sink < flow.n_nodes && r == 0; sink++)
                r = kill_one(&flow, sink, reclaim);
        closed = bench_flow_close(&flow);
        return bench_fold(bench, &flow, r ? r : closed);
}

static void tell(Bench *bench, const char *what, Samples *samples)
{
        stats_sort(samples->value, samples->n);
        bench_row(bench, "reclaim", "rows",
                json_pack("{ss sI sf sf sf}", "what", what, "n", (json_int_t)samples->n, "p50_us",
                        stats_percentile(samples->value, samples->n, 50) / 1e3, "p99_us",
                        stats_percentile(samples->value, samples->n, 99) / 1e3, "longest_us",
                        stats_percentile(samples->value, samples->n, 100) / 1e3));
}

int bench_reclaim(Bench *bench)
{
        static Reclaim reclaim;
        int r = 0;

        reclaim = (Reclaim){};
        for (unsigned round = 0; round < bench->rounds && r == 0; round++) {
                bench_progress("reclaim: round %u of %u", round + 1, bench->rounds);
                r = one_round(bench, &reclaim);
        }
        if (!r) {
                tell(bench, "raw: the reader is dead", &reclaim.death);
                tell(bench, "tidegate: its producer has a chunk", &reclaim.first);
                tell(bench, "tidegate: all that it held are back", &reclaim.all);
                (void)json_object_set_new(bench_section(bench, "reclaim"), "to_death",
                        json_real(stats_median(reclaim.to_death, reclaim.n)));
                bench_goal(bench, "K1", "ms from SIGKILL until a reader's chunks are back, p99",
                        stats_percentile(reclaim.all.value, reclaim.all.n, 99) / 1e6, 1, false);
        }
        samples_done(&reclaim.death);
        samples_done(&reclaim.first);
        samples_done(&reclaim.all);
        return r;
}
