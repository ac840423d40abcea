/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes: what a message takes longer for the sites in the node library, attached and not (shm/probe.h); and what a system call takes longer while the kernel counts calls (bpf/call.bpf.c), of a node that is watched, of its
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

/* ---- messages */

typedef enum Sites { BARE, IDLE, TOLD, UNTOLD, DETACHED, _SITES_MAX } Sites;

typedef struct Messages {
        double us[_SITES_MAX][BENCH_MAX_ROUNDS];
        size_t n;
        char skipped[256];
} Messages;

static void take_messages(void *userdata, const char *line)
{
        Messages *messages = userdata;
        unsigned long long ps[_SITES_MAX];

        if (strncmp(line, "skipped: ", 9) == 0)
                (void)snprintf(messages->skipped, sizeof(messages->skipped), "%s", line + 9);
        if (messages->n == BENCH_MAX_ROUNDS || sscanf(line, "%llu %llu %llu %llu %llu", &ps[0], &ps[1], &ps[2], &ps[3], &ps[4]) != _SITES_MAX)
                return;
        for (size_t i = 0; i < _SITES_MAX; i++)
                messages->us[i][messages->n] = (double)ps[i] / 1e6;
        messages->n++;
}

static void tell_messages(Bench *bench, const Messages *messages, const char *what, Sites sites, double *ret_longer, double *ret_ratio)
{
        double longer[BENCH_MAX_ROUNDS], ratio[BENCH_MAX_ROUNDS], us[BENCH_MAX_ROUNDS];

        for (size_t i = 0; i < messages->n; i++) {
                us[i] = messages->us[sites][i];
                longer[i] = us[i] - messages->us[BARE][i];
                ratio[i] = us[i] / messages->us[BARE][i];
        }
        *ret_longer = stats_median(longer, messages->n);
        *ret_ratio = stats_median(ratio, messages->n);
        bench_row(bench, "probe", "messages",
                json_pack("{ss sI sf sf sf}", "what", what, "n", (json_int_t)messages->n, "us", stats_median(us, messages->n), "longer_us", *ret_longer, "ratio", *ret_ratio));
}

static int messages_in(Bench *bench, const char *program, const char *home)
{
        static const char *const what[_SITES_MAX] = {[BARE] = "built without sites", [IDLE] = "nothing is attached", [TOLD] = "attached: it is told of, at both ends",
                [UNTOLD] = "attached: it is not in the sample", [DETACHED] = "detached again"};
        static Messages messages;
        char n[16], count[16];
        char *argv[] = {(char *)program, (char *)home, n, count, NULL};
        double longer[_SITES_MAX], ratio[_SITES_MAX];
        int r;

        memset(&messages, 0, sizeof(messages));
        (void)snprintf(n, sizeof(n), "%u", bench->rounds);
        (void)snprintf(count, sizeof(count), "%u", bench->quick ? 10000u : 200000u);
        r = bench_run_program(argv, take_messages, &messages);
        if (messages.skipped[0]) {
                bench_skip(bench, "probe", messages.skipped);
                return 0;
        }
        if (r || messages.n == 0)
                return r ? r : -EIO;
        for (unsigned i = 0; i < _SITES_MAX; i++)
                tell_messages(bench, &messages, what[i], (Sites)i, &longer[i], &ratio[i]);
        bench_goal(bench, "probe", "a message that is told of, us longer at each end", longer[TOLD] / 2, 1.3, false);
        bench_goal(bench, "probe", "a message with nothing attached, by one without sites (1, and what the clock makes of it)", ratio[IDLE], 1.05, false);
        return 0;
}

int bench_probe(Bench *bench)
{
        static const char *const not_built = "this build has no kernel probes: it needs clang, bpftool and libbpf";
        int r;

        bench_progress("probe");
        r = bench_in_cgroup(bench, "probe", &(BenchInCgroup){"tidegate-bench-probe", not_built, calls_in});
        return r ? r : bench_in_cgroup(bench, "probe", &(BenchInCgroup){"tidegate-bench-sites", not_built, messages_in});
}
