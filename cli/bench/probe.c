/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes: what a system call takes longer while the kernel counts calls (bpf/call.bpf.c), of a node that is watched, of its
 * neighbours and of anybody else. Measured by tidegate-bench-probe, which loads them as the daemon's helper does.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/bench/bench.h"
#include "cli/bench/stats.h"

typedef enum Who { ALONE, OTHER, NEIGHBOUR, WATCHED, TWO_ALONE, TWO_WATCHED, AFTER, _WHO_MAX } Who;

/* One line of the program's: picoseconds a call, of each. */
typedef struct Rounds {
        double us[_WHO_MAX][BENCH_MAX_ROUNDS];
        size_t n;
        char skipped[256];
} Rounds;

static void take_round(void *userdata, const char *line)
{
        Rounds *rounds = userdata;
        unsigned long long ps[_WHO_MAX];

        if (strncmp(line, "skipped: ", 9) == 0)
                (void)snprintf(rounds->skipped, sizeof(rounds->skipped), "%s", line + 9);
        if (rounds->n == BENCH_MAX_ROUNDS || sscanf(line, "%llu %llu %llu %llu %llu %llu %llu", &ps[0], &ps[1], &ps[2], &ps[3], &ps[4], &ps[5], &ps[6]) != _WHO_MAX)
                return;
        for (size_t i = 0; i < _WHO_MAX; i++)
                rounds->us[i][rounds->n] = (double)ps[i] / 1e6;
        rounds->n++;
}

/* Longer than by @base in the same round. */
static double tell(Bench *bench, const Rounds *rounds, const char *what, Who who, Who base)
{
        double longer[BENCH_MAX_ROUNDS], ratio[BENCH_MAX_ROUNDS], us[BENCH_MAX_ROUNDS], ret;

        for (size_t i = 0; i < rounds->n; i++) {
                us[i] = rounds->us[who][i];
                longer[i] = us[i] - rounds->us[base][i];
                ratio[i] = us[i] / rounds->us[base][i];
        }
        ret = stats_median(longer, rounds->n);
        bench_row(bench, "probe", "rows",
                json_pack("{ss sI sf sf sf}", "what", what, "n", (json_int_t)rounds->n, "us", stats_median(us, rounds->n), "longer_us", ret, "ratio",
                        stats_median(ratio, rounds->n)));
        return ret;
}

static int calls_in(Bench *bench, const char *program, const char *home)
{
        static Rounds rounds;
        char n[16], calls[16];
        char *argv[] = {(char *)program, (char *)home, n, calls, NULL};
        double other, neighbour, watched, after;
        int r;

        memset(&rounds, 0, sizeof(rounds));
        (void)snprintf(n, sizeof(n), "%u", bench->rounds);
        (void)snprintf(calls, sizeof(calls), "%u", bench->quick ? 10000u : 200000u);
        r = bench_run_program(argv, take_round, &rounds);
        if (rounds.skipped[0]) {
                bench_skip(bench, "probe", rounds.skipped);
                return 0;
        }
        if (r || rounds.n == 0)
                return r ? r : -EIO;
        (void)tell(bench, &rounds, "nothing is attached", ALONE, ALONE);
        other = tell(bench, &rounds, "attached: of somebody outside", OTHER, ALONE);
        neighbour = tell(bench, &rounds, "attached: of a node that is not watched", NEIGHBOUR, ALONE);
        watched = tell(bench, &rounds, "attached: of a node that is watched", WATCHED, ALONE);
        if (rounds.us[TWO_ALONE][0] > 0) {
                (void)tell(bench, &rounds, "nothing attached: two threads, two CPUs", TWO_ALONE, TWO_ALONE);
                (void)tell(bench, &rounds, "attached: two of a watched node", TWO_WATCHED, TWO_ALONE);
        }
        after = tell(bench, &rounds, "detached again", AFTER, ALONE);
        bench_goal(bench, "probe", "a system call of a watched node, us longer", watched, 0.35, false);
        bench_goal(bench, "probe", "a system call of anybody else while attached, us longer", MAX(other, neighbour), 0.17, false);
        bench_goal(bench, "probe", "a system call after it was detached, us longer (0, and what the clock makes of it)", after, 0.01, false);
        return 0;
}

int bench_probe(Bench *bench)
{
        bench_progress("probe");
        return bench_in_cgroup(bench, "probe",
                &(BenchInCgroup){"tidegate-bench-probe", "this build has no kernel probes: it needs clang, bpftool and libbpf", calls_in});
}
