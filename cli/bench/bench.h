/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bench: what the benchmarks of `tidegate bench` share. Each adds its rows and goals to one JSON value; text
 * (show.c) and the report (report.c) are made of that and of nothing else.
 *
 * Rows are objects of plain values. A ratio is the median over rounds of Tidegate's figure by the anchor's of the
 * same round: each round measures all of them one after another.
 */
#ifndef TG_CLI_BENCH_BENCH_H
#define TG_CLI_BENCH_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "cli/bench/flow.h"

#define BENCH_MAX_ROUNDS 99u
#define BENCH_MAX_SIZES  8u

typedef struct Bench {
        bool quick; /* a second or two each: for tests, the figures mean little */
        unsigned rounds;
        uint64_t sizes[BENCH_MAX_SIZES];
        unsigned n_sizes;
        bool places[_BENCH_PLACE_MAX];
        bool urgent;    /* nodes at the highest niceness */
        bool one_cpu;   /* there is only one: nothing is on another */
        json_t *result; /* owned */
        char error[512];
} Bench;

/* Each returns 0, or a negative errno with bench->error set. */
int bench_latency(Bench *bench);
int bench_throughput(Bench *bench);
int bench_fanout(Bench *bench);
int bench_reclaim(Bench *bench);
int bench_spawn(Bench *bench);
int bench_stop(Bench *bench);
int bench_probe(Bench *bench);

/* bench_section() - the object that a benchmark's rows go into, under its name. Borrowed. */
json_t *bench_section(Bench *bench, const char *name);
json_t *bench_rows(Bench *bench, const char *name, const char *table);

/* bench_row() - append; consumes the row. */
void bench_row(Bench *bench, const char *name, const char *table, json_t *take_row);

/* bench_goal() - a goal and what was measured. Reached: value <= goal, or with @at_least value >= goal. NAN: not
 * measured. */
void bench_goal(Bench *bench, const char *id, const char *what, double value, double goal, bool at_least);

/* bench_progress() - one line on stderr when that is a terminal. */
__attribute__((format(printf, 1, 2))) void bench_progress(const char *format, ...);

/* bench_open() - bench_flow_open() of nodes as they are wanted. As that, with bench->error. */
int bench_open(Bench *bench, BenchFlow *flow, const BenchFlowSpec *spec);

/* bench_fold() - copies a flow's error, and returns @r. */
int bench_fold(Bench *bench, const BenchFlow *flow, int r);

/* ---- what is measured by a program of its own, in a cgroup */

typedef void BenchTakeLine(void *userdata, const char *line);

/* bench_run_program() - its output line by line, until its end or for two minutes. Return: 0, -EIO (it failed), or a negative errno. */
int bench_run_program(char *const *argv, BenchTakeLine *take, void *userdata);

typedef struct BenchInCgroup {
        const char *program;   /* of libexec */
        const char *not_built; /* why it may not be there */
        int (*run)(Bench *bench, const char *program, const char *home); /* home: the cgroup's directory, which is empty before and after */
} BenchInCgroup;

/* bench_in_cgroup() - without a cgroup that we may write, or the program, the section says why it was skipped, and that is no error. */
int bench_in_cgroup(Bench *bench, const char *section, const BenchInCgroup *what);
void bench_skip(Bench *bench, const char *section, const char *why);

const char *bench_way_name(BenchWay way);
void bench_size_name(uint64_t size, char *ret, size_t n); /* "0 B", "64 B", "4 KiB", "40 MiB" */

/* show.c, report.c */
void bench_show(const json_t *result);
int bench_report(const json_t *result, const char *path); /* 0 or a negative errno */

#endif
