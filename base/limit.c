/* SPDX-License-Identifier: Apache-2.0 */
#include "base/limit.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

#define SIZE_MAX_   (UINT64_C(1) << 62)
#define MEMORY_MIN  4096
#define WEIGHT_MAX  10000
#define PIDS_MAX    4194304 /* of the kernel */
#define CORES_MAX   8192
#define QUOTA_MIN   1000    /* microseconds; less the kernel refuses */
#define PERIOD_MAX  1000000
#define CPU_MAX     8191
#define NAME_SIZE   64      /* of a device */

#define SIZE   "a size (bytes, or a text such as 512M) or max"
#define WEIGHT "a whole number from 1 to 10000"

static const struct {
        const char *name, *file;
        unsigned controller; /* its number */
        const char *wanted;
} limits[_LIMIT_KEY_MAX] = {
        [LIMIT_MEMORY_MAX] = {"memory_max", "memory.max", 0, SIZE},
        [LIMIT_MEMORY_HIGH] = {"memory_high", "memory.high", 0, SIZE},
        [LIMIT_MEMORY_SWAP_MAX] = {"memory_swap_max", "memory.swap.max", 0, SIZE},
        [LIMIT_CPU_MAX] = {"cpu_max", "cpu.max", 1, "a number of cores (such as 1.5, at least 0.01) or max"},
        [LIMIT_CPU_WEIGHT] = {"cpu_weight", "cpu.weight", 1, WEIGHT},
        [LIMIT_PIDS_MAX] = {"pids_max", "pids.max", 2, "a whole number from 1 to 4194304 or max"},
        [LIMIT_IO_WEIGHT] = {"io_weight", "io.weight", 3, WEIGHT},
        [LIMIT_IO_MAX] = {"io_max", "io.max", 3,
                "a text such as \"/dev/sda rbps=10M wiops=100\" (device: /dev/NAME or MAJOR:MINOR; rbps, wbps, riops, wiops; several with ; "
                "between them)"},
        [LIMIT_CPUSET_CPUS] = {"cpuset_cpus", "cpuset.cpus", 4, "CPU numbers such as 0-3,6"},
};

const char *const limit_controller_names[LIMIT_CONTROLLERS + 1] = {"memory", "cpu", "pids", "io", "cpuset", NULL};

const char *limit_name(LimitKey key)
{
        return limits[key].name;
}

const char *limit_file(LimitKey key)
{
        return limits[key].file;
}

unsigned limit_controller(LimitKey key)
{
        return 1u << limits[key].controller;
}

const char *limit_controller_name(LimitKey key)
{
        return limit_controller_names[limits[key].controller];
}

const char *limit_controller_v1(const char *controller)
{
        return strcmp(controller, "io") == 0 ? "blkio" : controller;
}

const char *limit_wanted(LimitKey key)
{
        return limits[key].wanted;
}

int limit_find(const char *name, size_t n)
{
        for (int i = 0; i < _LIMIT_KEY_MAX; i++)
                if (strlen(limits[i].name) == n && memcmp(limits[i].name, name, n) == 0)
                        return i;
        return -1;
}

/* Digits only, and nothing behind them. */
static bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
        uint64_t v = 0;

        if (!*text)
                return false;
        for (; *text; text++) {
                if (*text < '0' || *text > '9' || v > (UINT64_MAX - 9) / 10)
                        return false;
                v = v * 10 + (uint64_t)(*text - '0');
        }
        *ret = v;
        return v >= min && v <= max;
}

static bool parse_decimal(const char *text, double *ret, const char **ret_end)
{
        char *end;

        if (text[0] < '0' || text[0] > '9' || text[strspn(text, "0123456789.")] == 'x')
                return false;
        *ret = strtod(text, &end);
        *ret_end = end;
        return isfinite(*ret);
}

static bool parse_size(const char *text, uint64_t min, uint64_t *ret)
{
        static const char units[] = "KMGT";
        const char *end, *unit;
        double v;

        if (parse_number(text, min, SIZE_MAX_, ret)) /* exact, also beyond 2^53 */
                return true;
        if (!parse_decimal(text, &v, &end))
                return false;
        end += strspn(end, " ");
        unit = *end ? strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end) : NULL;
        if (unit) {
                for (const char *u = units; u <= unit; u++)
                        v *= 1024;
                end++;
        }
        if (strcasecmp(end, "B") == 0)
                end++;
        if (*end || !(v >= (double)min && v <= (double)SIZE_MAX_))
                return false;
        *ret = (uint64_t)v;
        return true;
}

static int parse_cpu(const char *text, char *ret)
{
        const char *end;
        double cores;
        char first[24];
        uint64_t quota, period;
        size_t n = strcspn(text, " ");

        if (text[n] == ' ' && n < sizeof(first)) { /* as the kernel has it */
                memcpy(first, text, n);
                first[n] = '\0';
                if (!parse_number(text + n + 1, QUOTA_MIN, PERIOD_MAX, &period))
                        return -EINVAL;
                if (strcmp(first, "max") == 0)
                        (void)snprintf(ret, LIMIT_VALUE_MAX, "max");
                else if (parse_number(first, QUOTA_MIN, CORES_MAX * period, &quota))
                        (void)snprintf(ret, LIMIT_VALUE_MAX, "%llu %llu", (unsigned long long)quota, (unsigned long long)period);
                else
                        return -EINVAL;
                return 0;
        }
        if (!parse_decimal(text, &cores, &end) || *end || cores > CORES_MAX)
                return -EINVAL;
        quota = (uint64_t)(cores * LIMIT_PERIOD_US + 0.5);
        if (quota < QUOTA_MIN)
                return -EINVAL;
        (void)snprintf(ret, LIMIT_VALUE_MAX, "%llu %d", (unsigned long long)quota, LIMIT_PERIOD_US);
        return 0;
}

/* "0-3,6": numbers and spans that rise, blanks dropped. */
static int parse_cpus(const char *text, char *ret)
{
        size_t n = 0;
        const char *at;

        for (; *text; text++)
                if (*text != ' ') {
                        if (n + 1 >= LIMIT_VALUE_MAX)
                                return -EINVAL;
                        ret[n++] = *text;
                }
        ret[n] = '\0';
        for (at = ret; ; at++) {
                long first, last;
                char *end;

                if (*at < '0' || *at > '9')
                        return -EINVAL;
                first = last = strtol(at, &end, 10);
                if (*end == '-') {
                        if (end[1] < '0' || end[1] > '9')
                                return -EINVAL;
                        last = strtol(end + 1, &end, 10);
                }
                if (last < first || last > CPU_MAX)
                        return -EINVAL;
                if (!*end)
                        return 0;
                if (*end != ',')
                        return -EINVAL;
                at = end;
        }
}

static bool device_ok(const char *s)
{
        const char *colon = strchr(s, ':');
        char major[24];
        uint64_t v;

        if (strncmp(s, "/dev/", 5) == 0)
                return s[5] && s[5] != '.' && s[5 + strspn(s + 5, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == '\0';
        if (!colon || (size_t)(colon - s) >= sizeof(major))
                return false;
        memcpy(major, s, (size_t)(colon - s));
        major[colon - s] = '\0';
        return parse_number(major, 0, 4095, &v) && parse_number(colon + 1, 0, 1048575, &v);
}

static bool io_value(const char *key, const char *value, char *ret, size_t size)
{
        bool bytes = strcmp(key, "rbps") == 0 || strcmp(key, "wbps") == 0;
        uint64_t v;

        if (!bytes && strcmp(key, "riops") != 0 && strcmp(key, "wiops") != 0)
                return false;
        if (strcmp(value, "max") == 0)
                return snprintf(ret, size, "%s=max", key) > 0;
        if (bytes ? !parse_size(value, 1, &v) : !parse_number(value, 1, UINT32_MAX, &v))
                return false;
        return snprintf(ret, size, "%s=%llu", key, (unsigned long long)v) > 0;
}

/* One device. */
static int parse_io_part(char *part, char *ret, size_t size, size_t *at)
{
        char *save = NULL, *word = strtok_r(part, " ", &save);
        char seen[4][8];
        unsigned n = 0;

        if (!word || strlen(word) >= NAME_SIZE || !device_ok(word))
                return -EINVAL;
        *at += (size_t)snprintf(ret + *at, size - *at, "%s", word);
        while ((word = strtok_r(NULL, " ", &save))) {
                char *equals = strchr(word, '='), text[40];

                if (!equals || n == ELEMENTSOF(seen) || equals - word > 5)
                        return -EINVAL;
                *equals = '\0';
                for (unsigned i = 0; i < n; i++)
                        if (strcmp(seen[i], word) == 0)
                                return -EINVAL;
                if (!io_value(word, equals + 1, text, sizeof(text)))
                        return -EINVAL;
                (void)snprintf(seen[n++], sizeof(seen[0]), "%s", word);
                *at += (size_t)snprintf(ret + *at, size - *at, " %s", text);
                if (*at >= size)
                        return -EINVAL;
        }
        return n > 0 && *at < size ? 0 : -EINVAL;
}

static int parse_io(const char *text, char *ret)
{
        char buf[LIMIT_VALUE_MAX], *save = NULL, *part;
        size_t at = 0;
        unsigned n = 0;
        int r;

        if (strlen(text) >= sizeof(buf))
                return -EINVAL;
        memcpy(buf, text, strlen(text) + 1);
        for (part = strtok_r(buf, ";", &save); part; part = strtok_r(NULL, ";", &save)) {
                if (part[strspn(part, " ")] == '\0')
                        continue;
                if (n++ == LIMIT_IO_PARTS)
                        return -EINVAL;
                if (at > 0)
                        at += (size_t)snprintf(ret + at, LIMIT_VALUE_MAX - at, ";");
                r = at < LIMIT_VALUE_MAX ? parse_io_part(part, ret, LIMIT_VALUE_MAX, &at) : -EINVAL;
                if (r)
                        return r;
        }
        return n > 0 ? 0 : -EINVAL;
}

int limit_parse(LimitKey key, const char *text, char ret[static LIMIT_VALUE_MAX])
{
        bool weight = key == LIMIT_CPU_WEIGHT || key == LIMIT_IO_WEIGHT;
        uint64_t v;

        if (strlen(text) >= LIMIT_VALUE_MAX || strchr(text, '\n'))
                return -EINVAL;
        if (strcmp(text, "max") == 0 && !weight && key != LIMIT_IO_MAX && key != LIMIT_CPUSET_CPUS) {
                (void)snprintf(ret, LIMIT_VALUE_MAX, "max");
                return 0;
        }
        switch (key) {
        case LIMIT_CPU_MAX:
                return parse_cpu(text, ret);
        case LIMIT_CPUSET_CPUS:
                return parse_cpus(text, ret);
        case LIMIT_IO_MAX:
                return parse_io(text, ret);
        case LIMIT_CPU_WEIGHT:
        case LIMIT_IO_WEIGHT:
                if (!parse_number(text, 1, WEIGHT_MAX, &v))
                        return -EINVAL;
                break;
        case LIMIT_PIDS_MAX:
                if (!parse_number(text, 1, PIDS_MAX, &v))
                        return -EINVAL;
                break;
        default:
                if (!parse_size(text, key == LIMIT_MEMORY_SWAP_MAX ? 0 : MEMORY_MIN, &v))
                        return -EINVAL;
        }
        (void)snprintf(ret, LIMIT_VALUE_MAX, "%llu", (unsigned long long)v);
        return 0;
}

int limit_next(const char **at, LimitKey *ret_key, char ret_value[static LIMIT_VALUE_MAX])
{
        const char *line = *at, *end = strchrnul(line, '\n'), *equals = memchr(line, '=', (size_t)(end - line));
        char text[LIMIT_VALUE_MAX];
        size_t n;
        int key;

        if (!*line)
                return 0;
        key = equals ? limit_find(line, (size_t)(equals - line)) : -1;
        n = equals ? (size_t)(end - equals - 1) : sizeof(text);
        if (key < 0 || n >= sizeof(text))
                return -EINVAL;
        memcpy(text, equals + 1, n);
        text[n] = '\0';
        if (limit_parse((LimitKey)key, text, ret_value) || strcmp(text, ret_value) != 0)
                return -EINVAL;
        *ret_key = (LimitKey)key;
        *at = *end ? end + 1 : end;
        return 1;
}
