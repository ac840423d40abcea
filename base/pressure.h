/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pressure by name: what `on_pressure` of a descriptor and a plan may say, and the files of a cgroup that tell of it. Pure: no file is touched,
 * nothing is allocated.
 *
 * A condition is met when tasks have waited for a resource for so much of a window of time, or when a limit was felt so often in one. PSI's are the
 * kernel's to watch, which takes windows of 500 ms to 10 s. It has no notification of throttling, so that is looked at once a window, of at least a second.
 * What is counted it tells of; that is looked at once a second at most.
 */
#ifndef TG_BASE_PRESSURE_H
#define TG_BASE_PRESSURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

typedef enum PressureKind {
        PRESSURE_CPU_SOME, /* some of its tasks waited */
        PRESSURE_CPU_FULL, /* all that had something to do waited at the same time */
        PRESSURE_MEMORY_SOME,
        PRESSURE_MEMORY_FULL,
        PRESSURE_IO_SOME,
        PRESSURE_IO_FULL,
        PRESSURE_CPU_THROTTLED, /* by cpu_max; added up over CPUs */
        PRESSURE_MEMORY_HIGH,   /* how often memory_high slowed it down */
        PRESSURE_FORKS_REFUSED, /* how often pids_max did */
        _PRESSURE_KIND_MAX,
} PressureKind;

typedef enum PressureAction {
        PRESSURE_EVENT,
        PRESSURE_RESTART,
        PRESSURE_STOP,
        _PRESSURE_ACTION_MAX,
} PressureAction;

#define PRESSURE_CONDITIONS_MAX 16 /* of one node, or of a dataflow */
#define PRESSURE_TEXT_MAX       (PRESSURE_CONDITIONS_MAX * 72)
#define PRESSURE_UNPRIVILEGED   (2 * NSEC_PER_SEC) /* who has no CAP_SYS_RESOURCE gets windows that are multiples of this (kernels that let such in at all) */

extern const char *const pressure_names[_PRESSURE_KIND_MAX + 1];          /* "memory_some"; ended by NULL */
extern const char *const pressure_action_names[_PRESSURE_ACTION_MAX + 1]; /* "event"; likewise */

typedef struct PressureCondition {
        uint32_t index; /* whoever made it knows by this which one it is */
        PressureKind kind;
        uint64_t threshold; /* ns, or how often (pressure_counts()) */
        nsec_t window_ns;
} PressureCondition;

int pressure_find(const char *name);          /* -1: there is none of that name */
const char *pressure_file(PressureKind kind); /* "memory.pressure"; NULL: it is not the kernel's to watch */
const char *pressure_line(PressureKind kind); /* "some", "full" */
bool pressure_counts(PressureKind kind);        /* its threshold is a number of times */
const char *pressure_wanted(PressureKind kind); /* "a time in a window of time, ..." */

/* pressure_valid() - are they in range? */
bool pressure_valid(PressureKind kind, uint64_t threshold, nsec_t window_ns);

/* pressure_parse() - "150ms/1s", "100/1s". 0, or -EINVAL (pressure_wanted() says what it should be). */
int pressure_parse(PressureKind kind, const char *text, uint64_t *ret_threshold, nsec_t *ret_window_ns);

/* pressure_put() - one more line to a text of conditions in @size bytes. False: there is no room. */
bool pressure_put(char *text, size_t size, const PressureCondition *condition);

/* pressure_next() - the next line; @at begins as the text, and moves on. 1, 0 at the end, -EINVAL for what pressure_put() would not have made. */
int pressure_next(const char **at, PressureCondition *ret);

#endif
