/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Show: the result of benchmarks as text.
 */
#include <string.h>

#include "base/cleanup.h"
#include "cli/bench/bench.h"

typedef enum Kind { TEXT, SIZE, COUNT, NUMBER, RATE } Kind;

typedef struct Column {
        const char *key, *title;
        Kind kind;
        int width; /* negative: to the left */
} Column;

typedef struct Table {
        const char *section, *rows, *title;
        Column columns[10]; /* ends with a NULL key */
} Table;

static const Table tables[] = {
        {"latency", "rows", "latency: one way, us; to pipe, to spin: the median of ratios of p50",
                {{"pace", "pace", TEXT, -13}, {"place", "place", TEXT, -10}, {"size", "size", SIZE, -7},
                        {"way", "", TEXT, -15}, {"p50_us", "p50", NUMBER, 9}, {"p99_us", "p99", NUMBER, 9},
                        {"p999_us", "p99.9", NUMBER, 9}, {"to_pipe", "to pipe", NUMBER, 8},
                        {"to_spin", "to spin", NUMBER, 8}}},
        {"latency", "calls", "system calls in so many messages",
                {{"place", "place", TEXT, -10}, {"consumer", "consumer", TEXT, -8}, {"size", "size", SIZE, -7},
                        {"n", "messages", COUNT, 9}, {"source_calls", "source", COUNT, 8},
                        {"source_wakes", "its wakes", COUNT, 10}, {"sink_calls", "sink", COUNT, 8},
                        {"sink_sleeps", "its sleeps", COUNT, 11}, {"memory_calls", "memory", COUNT, 7}}},
        {"throughput", "rows", "throughput: messages a second; CPU and sleeps of both sides, a message",
                {{"place", "place", TEXT, -10}, {"size", "size", SIZE, -7}, {"way", "", TEXT, -17},
                        {"per_second", "messages", RATE, 10}, {"to_raw", "to raw", NUMBER, 7},
                        {"cpu_ns", "CPU ns", COUNT, 8}, {"source_sleeps", "sleeps", NUMBER, 8},
                        {"sink_sleeps", "sink's", NUMBER, 8}, {"faults", "faults", NUMBER, 8}}},
        {"fanout", "rows", "fanout: deliveries a second, 64 B, default placement; to raw: with SCHED_BATCH",
                {{"sinks", "sinks", COUNT, 5}, {"way", " ", TEXT, -27}, {"per_second", "deliveries", RATE, 11},
                        {"to_raw", "to raw", NUMBER, 7}, {"cpu_ns", "CPU ns", COUNT, 8},
                        {"source_sleeps", "sleeps", NUMBER, 8}, {"sink_sleeps", "sinks'", NUMBER, 8}}},
        {"reclaim", "rows", "reclaim: us from SIGKILL to a reader that holds messages",
                {{"what", "", TEXT, -36}, {"n", "kills", COUNT, 6}, {"p50_us", "p50", NUMBER, 9},
                        {"p99_us", "p99", NUMBER, 9}, {"longest_us", "longest", NUMBER, 9}}},
        {"spawn", "rows", "spawn",
                {{"what", "", TEXT, -25}, {"n", "pairs", COUNT, 6}, {"raw_ms", "raw ms", NUMBER, 8},
                        {"ours_ms", "ours ms", NUMBER, 8}, {"ratio", "ratio", NUMBER, 6}}},
        {"stop", "rows", "stop",
                {{"what", "", TEXT, -25}, {"n", "pairs", COUNT, 6}, {"raw_ms", "raw ms", NUMBER, 8},
                        {"ours_ms", "ours ms", NUMBER, 8}, {"ratio", "ratio", NUMBER, 6}}},
        {"probe", "rows", "probe: a system call (getppid), us; longer: than in the same round without",
                {{"what", "", TEXT, -42}, {"n", "rounds", COUNT, 6}, {"us", "us", NUMBER, 7}, {"longer_us", "longer", NUMBER, 7}, {"ratio", "ratio", NUMBER, 6}}},
        {"probe", "messages", "probe: a message of 64 B sent and taken, us; longer: than without sites",
                {{"what", "", TEXT, -42}, {"n", "rounds", COUNT, 6}, {"us", "us", NUMBER, 7}, {"longer_us", "longer", NUMBER, 7}, {"ratio", "ratio", NUMBER, 6}}},
};

static void number_text(double v, char *ret, size_t n)
{
        (void)snprintf(ret, n, v >= 1000 ? "%.0f" : v >= 100 ? "%.1f" : v >= 0.01 || v <= 0 ? "%.2f" : "%.5f", v);
}

static void rate_text(double v, char *ret, size_t n)
{
        if (v >= 1e6)
                (void)snprintf(ret, n, "%.2f M", v / 1e6);
        else
                (void)snprintf(ret, n, "%.1f k", v / 1e3);
}

static void value_text(const json_t *value, Kind kind, char *ret, size_t n)
{
        ret[0] = '\0';
        if (!value || json_is_null(value))
                (void)snprintf(ret, n, "-");
        else if (kind == TEXT)
                (void)snprintf(ret, n, "%s", json_string_value(value));
        else if (kind == SIZE)
                bench_size_name((uint64_t)json_integer_value(value), ret, n);
        else if (kind == COUNT)
                (void)snprintf(ret, n, "%.0f", json_number_value(value));
        else if (kind == RATE)
                rate_text(json_number_value(value), ret, n);
        else
                number_text(json_number_value(value), ret, n);
}

static void show_table(const Table *table, const json_t *rows)
{
        json_t *row;
        size_t i;

        printf("%s\n", table->title);
        for (const Column *c = table->columns; c < table->columns + ELEMENTSOF(table->columns) && c->key; c++)
                printf("  %*s", c->width, c->title);
        putchar('\n');
        json_array_foreach(rows, i, row)
        {
                for (const Column *c = table->columns; c < table->columns + ELEMENTSOF(table->columns) && c->key;
                        c++) {
                        char text[64];

                        value_text(json_object_get(row, c->key), c->kind, text, sizeof(text));
                        printf("  %*s", c->width, text);
                }
                putchar('\n');
        }
        putchar('\n');
}

static void show_goals(const json_t *goals)
{
        json_t *row;
        size_t i;

        if (json_array_size(goals) == 0)
                return;
        printf("goals\n");
        json_array_foreach(goals, i, row)
        {
                const json_t *value = json_object_get(row, "value"), *reached = json_object_get(row, "reached");
                char text[32], goal[32];

                value_text(value, NUMBER, text, sizeof(text));
                value_text(json_object_get(row, "goal"), NUMBER, goal, sizeof(goal));
                printf("  %-3s %8s  %-8s %5s  %-13s %s\n", json_string_value(json_object_get(row, "id")), text,
                        json_string_value(json_object_get(row, "direction")), goal,
                        json_is_null(reached)   ? "not measured"
                        : json_is_true(reached) ? "reached"
                                                : "NOT REACHED",
                        json_string_value(json_object_get(row, "what")));
        }
}

void bench_show(const json_t *result)
{
        const json_t *host = json_object_get(result, "host");

        printf("%lld CPUs, Linux %s, load %.1f; %lld rounds%s%s\n\n",
                (long long)json_integer_value(json_object_get(host, "cpus")),
                json_string_value(json_object_get(host, "kernel")), json_number_value(json_object_get(host, "load")),
                (long long)json_integer_value(json_object_get(result, "rounds")),
                json_is_true(json_object_get(result, "urgent")) ? ", nodes at the highest niceness" : "",
                json_is_true(json_object_get(result, "quick")) ? ", of a quick run" : "");
        for (size_t i = 0; i < ELEMENTSOF(tables); i++) {
                const json_t *section = json_object_get(result, tables[i].section),
                             *rows = json_object_get(section, tables[i].rows);
                const json_t *skipped = json_object_get(section, "skipped");

                if (skipped)
                        printf("%s: not measured: %s\n\n", tables[i].section, json_string_value(skipped));

                if (json_array_size(rows) > 0)
                        show_table(&tables[i], rows);
        }
        show_goals(json_object_get(result, "goals"));
}
