/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pressure.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/span.h"

#define WINDOW_MIN         (500 * NSEC_PER_MSEC) /* the kernel's */
#define WINDOW_MAX         (10 * NSEC_PER_SEC)
#define WINDOW_MIN_LOOKED  NSEC_PER_SEC
#define SPAN_LENGTH_MAX    32
#define COUNT_MAX          1000000000u

const char *const pressure_names[_PRESSURE_KIND_MAX + 1] = {
        [PRESSURE_CPU_SOME] = "cpu_some",
        [PRESSURE_CPU_FULL] = "cpu_full",
        [PRESSURE_MEMORY_SOME] = "memory_some",
        [PRESSURE_MEMORY_FULL] = "memory_full",
        [PRESSURE_IO_SOME] = "io_some",
        [PRESSURE_IO_FULL] = "io_full",
        [PRESSURE_CPU_THROTTLED] = "cpu_throttled",
        [PRESSURE_MEMORY_HIGH] = "memory_high",
        [PRESSURE_FORKS_REFUSED] = "forks_refused",
};

const char *const pressure_action_names[_PRESSURE_ACTION_MAX + 1] = {
        [PRESSURE_EVENT] = "event",
        [PRESSURE_RESTART] = "restart",
        [PRESSURE_STOP] = "stop",
};

int pressure_find(const char *name)
{
        for (int i = 0; i < _PRESSURE_KIND_MAX; i++)
                if (strcmp(pressure_names[i], name) == 0)
                        return i;
        return -1;
}

const char *pressure_file(PressureKind kind)
{
        static const char *const files[_PRESSURE_KIND_MAX] = {
                [PRESSURE_CPU_SOME] = "cpu.pressure",
                [PRESSURE_CPU_FULL] = "cpu.pressure",
                [PRESSURE_MEMORY_SOME] = "memory.pressure",
                [PRESSURE_MEMORY_FULL] = "memory.pressure",
                [PRESSURE_IO_SOME] = "io.pressure",
                [PRESSURE_IO_FULL] = "io.pressure",
        };

        return files[kind];
}

const char *pressure_line(PressureKind kind)
{
        return kind == PRESSURE_CPU_FULL || kind == PRESSURE_MEMORY_FULL || kind == PRESSURE_IO_FULL ? "full" : "some";
}

bool pressure_counts(PressureKind kind)
{
        return kind == PRESSURE_MEMORY_HIGH || kind == PRESSURE_FORKS_REFUSED;
}

const char *pressure_wanted(PressureKind kind)
{
        if (pressure_counts(kind))
                return "a number of times in a window of 1s to 10s, such as 100/1s";
        return pressure_file(kind) ? "a time in a window of 500ms to 10s, such as 150ms/1s" : "a time in a window of 1s to 10s, such as 500ms/1s";
}

bool pressure_valid(PressureKind kind, uint64_t threshold, nsec_t window_ns)
{
        if (window_ns < (pressure_file(kind) ? WINDOW_MIN : WINDOW_MIN_LOOKED) || window_ns > WINDOW_MAX || window_ns % NSEC_PER_USEC != 0)
                return false;
        if (pressure_counts(kind))
                return threshold >= 1 && threshold <= COUNT_MAX;
        return threshold >= NSEC_PER_USEC && threshold <= window_ns && threshold % NSEC_PER_USEC == 0;
}

/* Digits alone. */
static int parse_count(const char *text, uint64_t *ret)
{
        if (!text[0] || text[strspn(text, "0123456789")] || strlen(text) > 9)
                return -EINVAL;
        *ret = strtoull(text, NULL, 10);
        return 0;
}

int pressure_parse(PressureKind kind, const char *text, uint64_t *ret_threshold, nsec_t *ret_window_ns)
{
        const char *slash = strchr(text, '/');
        char first[SPAN_LENGTH_MAX];
        uint64_t threshold;
        nsec_t window;

        if (!slash || slash - text >= SPAN_LENGTH_MAX)
                return -EINVAL;
        memcpy(first, text, (size_t)(slash - text));
        first[slash - text] = '\0';
        if ((pressure_counts(kind) ? parse_count(first, &threshold) : span_parse(first, &threshold)) || span_parse(slash + 1, &window) || !pressure_valid(kind, threshold, window))
                return -EINVAL;
        *ret_threshold = threshold;
        *ret_window_ns = window;
        return 0;
}

bool pressure_put(char *text, size_t size, const PressureCondition *condition)
{
        size_t n = strlen(text);
        int more = snprintf(text + n, size - n, "%" PRIu32 " %s %" PRIu64 " %" PRIu64 "\n", condition->index, pressure_names[condition->kind],
                condition->threshold, (uint64_t)condition->window_ns);

        if (more > 0 && (size_t)more < size - n)
                return true;
        text[n] = '\0';
        return false;
}

int pressure_next(const char **at, PressureCondition *ret)
{
        uint64_t threshold, window;
        int kind, length = 0;
        uint32_t index;
        char name[32];

        if (!**at)
                return 0;
        if (sscanf(*at, "%" SCNu32 " %31[a-z_] %" SCNu64 " %" SCNu64 "%n", &index, name, &threshold, &window, &length) != 4 || (*at)[length] != '\n')
                return -EINVAL;
        kind = pressure_find(name);
        if (kind < 0 || !pressure_valid((PressureKind)kind, threshold, window))
                return -EINVAL;
        *ret = (PressureCondition){index, (PressureKind)kind, threshold, window};
        *at += length + 1;
        return 1;
}
