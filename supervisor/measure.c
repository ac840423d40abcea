/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/measure.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/procstat.h"
#include "supervisor/cgroup.h"
#include "supervisor/cgroup-text.h"

#define PROCESSES_MAX 65536 /* a tree may fork faster than it can be counted */

/* What the processes say themselves. */
typedef struct Sum {
        pid_t reaper;
        bool look;         /* else they are only counted */
        uint64_t ticks, pages;
        uint32_t n, n_threads;
} Sum;

static int add_process(pid_t pid, void *userdata)
{
        Sum *sum = userdata;
        ProcUse use;

        if (pid == sum->reaper)
                return 0;
        if (!sum->look) {
                sum->n++;
        } else if (procstat_use(&use, pid) == 0) {
                bool dead = use.state == 'Z' || use.state == 'X';

                sum->ticks += use.own + use.waited;
                sum->pages += dead ? 0 : use.pages;
                sum->n += !dead;
                sum->n_threads += dead ? 0 : (uint32_t)use.n_threads;
        }
        return sum->n < PROCESSES_MAX ? 0 : CGROUP_E_MANY;
}

static int add_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, add_process, userdata);
}

/* "avg10=12.34" of one line; no float: a locale may not get in between. */
static uint16_t parse_average(const char *line)
{
        unsigned whole, hundredths;

        if (!line || sscanf(line, "avg10=%3u.%2u", &whole, &hundredths) != 2 || whole > 100)
                return KEEPER_PRESSURE_UNKNOWN;
        return (uint16_t)(whole * 100 + hundredths);
}

void measure_parse_pressure(const char *text, uint16_t *ret_some, uint16_t *ret_full)
{
        *ret_some = parse_average(cgroup_text_find(text, "some"));
        *ret_full = parse_average(cgroup_text_find(text, "full"));
}

static void read_pressure(KeeperMeasure *m, int dir_fd)
{
        static const char *const names[] = {"cpu.pressure", "memory.pressure", "io.pressure"};
        char text[256];

        for (unsigned i = 0; i < ELEMENTSOF(names); i++) {
                (void)cgroup_read_text(dir_fd, names[i], text, sizeof(text)); /* "": unknown */
                measure_parse_pressure(text, &m->pressure[2 * i], &m->pressure[2 * i + 1]);
        }
}
_Static_assert(_KEEPER_PRESSURE_MAX == 6 && KEEPER_PRESSURE_MEMORY_SOME == 2 && KEEPER_PRESSURE_IO_SOME == 4, "in the order of the files");

int measure_read(KeeperMeasure *ret, int dir_fd, pid_t reaper)
{
        KeeperMeasure m = {.at_ns = clock_now(), .throttled_ns = UINT64_MAX};
        Sum sum = {.reaper = reaper};
        bool has_cpu, has_memory, has_threads;
        char text[4096];
        ProcUse use;
        int r;

        has_cpu = cgroup_read_text(dir_fd, "cpu.stat", text, sizeof(text)) == 0 && cgroup_text_find(text, "usage_usec");
        if (has_cpu)
                m.cpu_ns = cgroup_text_number(text, "usage_usec") * 1000;
        if (has_cpu && cgroup_text_find(text, "throttled_usec"))
                m.throttled_ns = cgroup_text_number(text, "throttled_usec") * 1000;
        has_memory = cgroup_read_text(dir_fd, "memory.current", text, sizeof(text)) == 0;
        if (has_memory)
                m.memory = strtoull(text, NULL, 10);
        if (has_memory && cgroup_read_text(dir_fd, "memory.peak", text, sizeof(text)) == 0)
                m.memory_peak = strtoull(text, NULL, 10);
        has_threads = cgroup_read_text(dir_fd, "pids.current", text, sizeof(text)) == 0;
        if (has_threads)
                m.n_threads = (uint32_t)strtoul(text, NULL, 10);
        if (has_threads && reaper > 0 && m.n_threads > 0) /* else it has gone meanwhile, too */
                m.n_threads--;
        read_pressure(&m, dir_fd);

        sum.look = !has_cpu || !has_memory || !has_threads;
        r = cgroup_walk(dir_fd, add_cgroup, &sum);
        if (r < 0 && !has_cpu)
                return -ENOENT;
        m.n_processes = sum.n;
        m.summed = sum.look;
        if (!has_threads)
                m.n_threads = sum.n_threads;
        if (!has_memory)
                m.memory = sum.pages * (uint64_t)sysconf(_SC_PAGESIZE);
        if (!has_cpu && reaper > 0 && procstat_use(&use, reaper) == 0)
                sum.ticks += use.waited;
        if (!has_cpu)
                m.cpu_ns = sum.ticks * (NSEC_PER_SEC / (nsec_t)sysconf(_SC_CLK_TCK));
        *ret = m;
        return 0;
}
