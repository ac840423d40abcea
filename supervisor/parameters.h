/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters of the methods of dev.tidegate.Supervisor and org.varlink.service: which one a method takes, of which type and
 * range, and their values once they were checked. Strict: what a method does not know is refused by name.
 *
 * Pure. Strings and JSON values are borrowed from the call.
 */
#ifndef TG_SUPERVISOR_PARAMETERS_H
#define TG_SUPERVISOR_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

typedef enum ParamId {
        PARAM_NONE,
        PARAM_ALL,
        PARAM_ALLOW_UNENFORCED,
        PARAM_BUDGET,
        PARAM_BUDGET_MS,
        PARAM_CALLS,
        PARAM_DATAFLOW,
        PARAM_DESPITE_LEFTOVER,
        PARAM_ENVIRONMENT,
        PARAM_FORCE,
        PARAM_FREEZE,
        PARAM_GRACE_MS,
        PARAM_INTERFACE,
        PARAM_INTERVAL_MS,
        PARAM_LIMITS,
        PARAM_LINKS,
        PARAM_LOG_DIR,
        PARAM_NAME,
        PARAM_NAMES,
        PARAM_NODE,
        PARAM_NODES,
        PARAM_OUTPUT,
        PARAM_PLAN,
        PARAM_QUEUES,
        PARAM_REPLACE,
        PARAM_RING,
        PARAM_SEGMENTS,
        PARAM_SIGNAL,
        PARAM_STATE,
        PARAM_TIMEOUT_MS,
        PARAM_UMASK,
        PARAM_WAIT,
        _PARAM_MAX,
} ParamId;

#define PARAM_REQUIRED 0x80 /* with a ParamId in a method's list */
#define PARAM_ABSENT   ((json_int_t)-1)
#define PARAMS_MAX     16

typedef struct Parameters { /* absent: NULL, false, PARAM_ABSENT */
        const char *dataflow, *interface, *log_dir, *name, *node, *output, *state, *wait;
        json_t *environment, *limits, *names, *nodes, *plan;
        bool all, allow_unenforced_limits, calls, despite_leftover, force, freeze, links, queues, replace;
        double budget; /* absent: 0 */
        json_int_t budget_ms, grace_ms, interval_ms, ring, segments, signal, timeout_ms, umask;
} Parameters;

/**
 * parameters_parse() - check what came against what a method takes
 * @object:  an object, or NULL
 * @takes:   ParamIds, ended by PARAM_NONE
 * @ret_bad: on failure, the parameter that is missing, unknown, or not of its type or range; borrowed from @object or static
 *
 * Return: 0 or -EINVAL.
 */
int parameters_parse(Parameters *ret, json_t *object, const uint8_t *takes, const char **ret_bad);

#endif
