/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate bench: what the data plane and the enforcement cost beside what the kernel and the machine take alone.
 */
#include "cli/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/table.h"

typedef struct Benchmark {
        const char *name;
        int (*run)(Bench *bench);
} Benchmark;

static const Benchmark benchmarks[] = {
        {"latency", bench_latency},
        {"throughput", bench_throughput},
        {"fanout", bench_fanout},
        {"reclaim", bench_reclaim},
        {"spawn", bench_spawn},
        {"stop", bench_stop},
        {"probe", bench_probe},
};

static const uint64_t all_sizes[] = {0, 64, 4096, 65536, 1u << 20, 4u << 20, 40u << 20};
static const uint64_t quick_sizes[] = {0, 64, 65536, 1u << 20};

/* ---- what the benchmarks share */

json_t *bench_section(Bench *bench, const char *name)
{
        json_t *section = json_object_get(bench->result, name);

        if (!section) {
                (void)json_object_set_new(bench->result, name, json_object());
                section = json_object_get(bench->result, name);
        }
        return section;
}

json_t *bench_rows(Bench *bench, const char *name, const char *table)
{
        json_t *section = bench_section(bench, name), *rows = json_object_get(section, table);

        if (!rows) {
                (void)json_object_set_new(section, table, json_array());
                rows = json_object_get(section, table);
        }
        return rows;
}

void bench_row(Bench *bench, const char *name, const char *table, json_t *take_row)
{
        (void)json_array_append_new(bench_rows(bench, name, table), take_row); /* out of memory: the row is missing */
}

void bench_goal(Bench *bench, const char *id, const char *what, double value, double goal, bool at_least)
{
        bool known = !isnan(value), reached = known && (at_least ? value >= goal : value <= goal);
        json_t *row = json_pack("{ss ss sf ss}", "id", id, "what", what, "goal", goal, "direction",
                at_least ? "at least" : "at most");

        (void)json_object_set_new(row, "value", known ? json_real(value) : json_null());
        (void)json_object_set_new(row, "reached", known ? json_boolean(reached) : json_null());
        (void)json_array_append_new(json_object_get(bench->result, "goals"), row);
}

void bench_progress(const char *format, ...)
{
        va_list ap;

        if (!isatty(STDERR_FILENO))
                return;
        (void)fputs("\r\033[K", stderr);
        va_start(ap, format);
        (void)vfprintf(stderr, format, ap);
        va_end(ap);
        (void)fflush(stderr);
}

static void progress_done(void)
{
        if (isatty(STDERR_FILENO))
                (void)fputs("\r\033[K", stderr);
}

static int make_urgent(BenchFlow *flow)
{
        for (unsigned i = 0; i < flow->n_nodes; i++)
                if (setpriority(PRIO_PROCESS, (id_t)flow->pids[i], PRIO_MIN) < 0)
                        return bench_flow_fail(
                                flow, -errno, "--urgent: cannot make nodes urgent: %s", strerror(errno));
        return 0;
}

int bench_open(Bench *bench, BenchFlow *flow, const BenchFlowSpec *spec)
{
        int r = bench_flow_open(flow, spec);

        if (!r && bench->urgent)
                r = make_urgent(flow);
        return bench_fold(bench, flow, r);
}

int bench_fold(Bench *bench, const BenchFlow *flow, int r)
{
        if (r && !bench->error[0])
                (void)snprintf(
                        bench->error, sizeof(bench->error), "%.500s", flow->error[0] ? flow->error : error_text(r));
        return r;
}

const char *bench_way_name(BenchWay way)
{
        static const char *const names[_BENCH_WAY_MAX] = {
                "raw spin", "raw futex", "raw pipe", "raw doorbell", "raw ring", "raw descriptors", "raw broadcast", "tidegate"};

        return names[way];
}

void bench_size_name(uint64_t size, char *ret, size_t n)
{
        if (size && size % (1u << 20) == 0)
                (void)snprintf(ret, n, "%llu MiB", (unsigned long long)(size >> 20));
        else if (size && size % (1u << 10) == 0)
                (void)snprintf(ret, n, "%llu KiB", (unsigned long long)(size >> 10));
        else
                (void)snprintf(ret, n, "%llu B", (unsigned long long)size);
}

/* ---- arguments */

typedef struct Arguments {
        Bench bench;
        bool json;
        const char *report;
        const Benchmark *only;
} Arguments;

static int read_size(const char *text, uint64_t *ret)
{
        char *end;
        unsigned long long n;

        if (text[0] < '0' || text[0] > '9')
                return -EINVAL;
        errno = 0;
        n = strtoull(text, &end, 10);
        if (*end == 'K' || *end == 'M')
                n <<= *end++ == 'K' ? 10 : 20;
        if (errno || *end || n > 64u << 20)
                return -EINVAL;
        *ret = n;
        return 0;
}

static int read_sizes(Bench *bench, char *list)
{
        char *save = NULL;

        bench->n_sizes = 0;
        for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
                if (bench->n_sizes == BENCH_MAX_SIZES - 1 || read_size(word, &bench->sizes[bench->n_sizes]))
                        return -EINVAL;
                bench->n_sizes++;
        }
        return bench->n_sizes ? 0 : -EINVAL;
}

static int read_places(Bench *bench, char *list)
{
        static const char *const names[_BENCH_PLACE_MAX] = {"same", "other", "default"};
        char *save = NULL;

        memset(bench->places, 0, sizeof(bench->places));
        for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
                unsigned place = 0;

                while (place < _BENCH_PLACE_MAX && strcmp(word, names[place]) != 0)
                        place++;
                if (place == _BENCH_PLACE_MAX)
                        return -EINVAL;
                bench->places[place] = true;
        }
        return 0;
}

static int read_rounds(Bench *bench, const char *text)
{
        char *end;
        unsigned long n = strtoul(text, &end, 10);

        if (text[0] < '0' || text[0] > '9' || *end || n < 1 || n > BENCH_MAX_ROUNDS)
                return -EINVAL;
        bench->rounds = (unsigned)n;
        return 0;
}

static int read_arguments(Arguments *a, int argc, char **argv)
{
        static const struct option options[] = {
                {"json", no_argument, NULL, 'j'},
                {"report", required_argument, NULL, 'r'},
                {"quick", no_argument, NULL, 'q'},
                {"urgent", no_argument, NULL, 'u'},
                {"rounds", required_argument, NULL, 'n'},
                {"size", required_argument, NULL, 's'},
                {"place", required_argument, NULL, 'p'},
                {NULL, 0, NULL, 0},
        };
        Bench *b = &a->bench;
        int c;

        optind = 0;
        opterr = 0;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == 'j')
                        a->json = true;
                else if (c == 'r')
                        a->report = optarg;
                else if (c == 'q')
                        b->quick = true;
                else if (c == 'u')
                        b->urgent = true;
                else if (c == 'n' && read_rounds(b, optarg))
                        return usage_error(
                                "bench", "--rounds: `%s` is no number from 1 to %u", optarg, BENCH_MAX_ROUNDS);
                else if (c == 's' && read_sizes(b, optarg))
                        return usage_error(
                                "bench", "--size: at most %u sizes up to 64M, as 64,4K,1M", BENCH_MAX_SIZES - 1);
                else if (c == 'p' && read_places(b, optarg))
                        return usage_error("bench", "--place: `%s` is none of same, other, default", optarg);
                else if (c == '?' || c == ':')
                        return usage_error("bench", "unknown option or missing value: `%s`", argv[optind - 1]);
        }
        if (argc - optind > 1)
                return usage_error("bench", "one benchmark, or none for all of them");
        for (size_t i = 0; optind < argc && i < ELEMENTSOF(benchmarks); i++)
                if (strcmp(argv[optind], benchmarks[i].name) == 0)
                        a->only = &benchmarks[i];
        if (optind < argc && !a->only)
                return usage_error("bench", "no benchmark `%s`", argv[optind]);
        return 0;
}

static void fill_in(Bench *b)
{
        const uint64_t *sizes = b->quick ? quick_sizes : all_sizes;
        int cpu[2];

        if (b->n_sizes == 0) {
                b->n_sizes = b->quick ? ELEMENTSOF(quick_sizes) : ELEMENTSOF(all_sizes);
                memcpy(b->sizes, sizes, b->n_sizes * sizeof(*sizes));
        }
        if (b->rounds == 0)
                b->rounds = b->quick ? 1 : 7;
        bench_cpus(cpu);
        b->one_cpu = cpu[0] == cpu[1];
        if (b->one_cpu)
                b->places[BENCH_PLACE_OTHER] = false;
}

static json_t *describe_host(void)
{
        struct utsname uts;
        double load = 0;

        if (uname(&uts) < 0)
                uts = (struct utsname){.release = "?", .machine = "?"};
        (void)getloadavg(&load, 1); /* or 0 */
        return json_pack("{sI ss ss sf}", "cpus", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "kernel", uts.release,
                "machine", uts.machine, "load", load);
}

static int run_all(Arguments *a)
{
        for (size_t i = 0; i < ELEMENTSOF(benchmarks); i++) {
                int r = a->only && a->only != &benchmarks[i] ? 0 : benchmarks[i].run(&a->bench);

                if (r) {
                        progress_done();
                        fprintf(stderr, "tidegate: bench %s: %s\n", benchmarks[i].name,
                                a->bench.error[0] ? a->bench.error : error_text(r));
                        return CLI_FAILED;
                }
        }
        progress_done();
        return 0;
}

/* Before minutes of work are done for nothing. */
static int try_report(const char *path)
{
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

        if (fd < 0)
                fprintf(stderr, "tidegate: bench: cannot write %s: %s\n", path, strerror(errno));
        return fd < 0 ? CLI_FAILED : 0;
}

static int write_report(const Arguments *a)
{
        int r = bench_report(a->bench.result, a->report);

        if (r)
                fprintf(stderr, "tidegate: bench: cannot write %s: %s\n", a->report, error_text(r));
        return r ? CLI_FAILED : 0;
}

int cmd_bench(int argc, char **argv)
{
        Arguments a = {.bench = {.places = {true, true, true}}};
        int status = read_arguments(&a, argc, argv);

        if (!status && a.report)
                status = try_report(a.report);
        if (status)
                return status;
        fill_in(&a.bench);
        a.bench.result = json_pack("{ss sb sb si so s[]}", "version", TIDEGATE_VERSION, "quick", a.bench.quick,
                "urgent", a.bench.urgent, "rounds", (int)a.bench.rounds, "host", describe_host(), "goals");
        if (!a.bench.result)
                return CLI_FAILED;
        status = run_all(&a);
        if (!status && a.report)
                status = write_report(&a);
        if (!status && a.json)
                status = print_json(a.bench.result) ? CLI_FAILED : 0;
        else if (!status)
                bench_show(a.bench.result);
        json_decref(a.bench.result);
        return status;
}
