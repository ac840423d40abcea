/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits by name: what `resources` of a descriptor, a plan and `set-limit` may hold, and how each is written into its
 * cgroup file. Pure: no file is touched, nothing is allocated.
 *
 * A value has one canonical form, which is the text that the kernel takes: limit_parse() makes it of what people write,
 * and gives it back unchanged. So a plan is valid when its values survive limit_parse().
 */
#ifndef TG_BASE_LIMIT_H
#define TG_BASE_LIMIT_H

#include <stddef.h>

typedef enum LimitKey {
        LIMIT_MEMORY_MAX,
        LIMIT_MEMORY_HIGH,
        LIMIT_MEMORY_SWAP_MAX,
        LIMIT_CPU_MAX,
        LIMIT_CPU_WEIGHT,
        LIMIT_PIDS_MAX,
        LIMIT_IO_WEIGHT,
        LIMIT_IO_MAX,
        LIMIT_CPUSET_CPUS,
        _LIMIT_KEY_MAX,
} LimitKey;

/* Controllers, as a set of bits. */
enum {
        LIMIT_CONTROLLER_MEMORY = 1,
        LIMIT_CONTROLLER_CPU = 2,
        LIMIT_CONTROLLER_PIDS = 4,
        LIMIT_CONTROLLER_IO = 8,
        LIMIT_CONTROLLER_CPUSET = 16,
        LIMIT_CONTROLLER_ALL = 31,
};
#define LIMIT_CONTROLLERS 5 /* how many bits */

#define LIMIT_VALUE_MAX 512  /* bytes of a canonical value, with its NUL */
#define LIMIT_IO_PARTS  8    /* devices of one io_max */
#define LIMIT_PERIOD_US 100000
/* All of one node in one text, a line "key=value" each, with its NUL. */
#define LIMIT_TEXT_MAX  1200

extern const char *const limit_controller_names[LIMIT_CONTROLLERS + 1]; /* in the order of the bits; ended by NULL */

const char *limit_name(LimitKey key);        /* "memory_max" */
const char *limit_file(LimitKey key);        /* "memory.max" */
unsigned limit_controller(LimitKey key);     /* its bit */
const char *limit_controller_name(LimitKey key);
/* limit_controller_v1() - what /proc/cgroups calls it: "blkio" for "io". */
const char *limit_controller_v1(const char *controller);
const char *limit_wanted(LimitKey key);      /* "a size (bytes, or a text such as 512M) or max" */
int limit_find(const char *name, size_t n);  /* the key of a name of @n bytes; -1: there is none */

/**
 * limit_parse() - a value as people write it, into its canonical form
 *
 * Sizes: bytes, or B, K, M, G, T with or without a B in either case, powers of 1024, fractions allowed, or "max".
 * cpu_max: cores ("1.5"), "max", or the kernel's "QUOTA PERIOD" in microseconds. Weights: 1 to 10000. pids_max: a number
 * or "max". cpuset_cpus: "0-3,6". io_max: "DEVICE key=value ...", several with ";" between them; DEVICE is /dev/NAME or
 * MAJOR:MINOR, the keys are rbps, wbps (sizes), riops, wiops (numbers), each may be "max".
 *
 * Return: 0, or -EINVAL (limit_wanted() says what it should be).
 */
int limit_parse(LimitKey key, const char *text, char ret[static LIMIT_VALUE_MAX]);

/**
 * limit_next() - the next "key=value" line of a text that was made of canonical values
 * @at: begins as the text, moves on; @ret_value: room for the canonical value
 *
 * Return: 1, 0 at the end, -EINVAL for what is not canonical.
 */
int limit_next(const char **at, LimitKey *ret_key, char ret_value[static LIMIT_VALUE_MAX]);

#endif
