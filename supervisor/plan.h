/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan as the supervisor holds it: re-validated, for whoever sent it may lie. Format and limits: docs/plan.md.
 *
 * Ids become directory names, sizes become memory, indices become array accesses: everything is checked here once, and
 * used without a check afterwards. Pure: no file, process or clock is touched.
 */
#ifndef TG_SUPERVISOR_PLAN_H
#define TG_SUPERVISOR_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/clock.h"

#define PLAN_MAX_NODES 4096

typedef enum PlanKind {
        PLAN_KIND_NODE,    /* makes the handshake */
        PLAN_KIND_PROGRAM, /* ready once exec succeeded */
} PlanKind;

typedef enum PlanRestart {
        PLAN_RESTART_NEVER,
        PLAN_RESTART_ON_FAILURE,
        PLAN_RESTART_ALWAYS,
        _PLAN_RESTART_MAX,
} PlanRestart;

typedef struct PlanInput {
        const char *id;
        nsec_t timer_ns; /* 0: a link */
        uint32_t source_node, source_output; /* indices */
        uint32_t queue_size;
        bool backpressure;
        nsec_t timeout_ns;
} PlanInput;

typedef struct PlanNode {
        const char *id;
        uint32_t line;
        PlanKind kind;
        const char **argv; /* NULL-terminated */
        const char **env;  /* pairs: name, value, ..., NULL */
        uint32_t *cpus;
        size_t n_cpus;
        PlanInput *inputs;
        size_t n_inputs;
        const char **outputs;
        size_t n_outputs;
        uint64_t pool_size;
        PlanRestart restart;
        uint32_t max_restarts;
        nsec_t restart_delay_ns, max_restart_delay_ns, restart_window_ns;
        nsec_t startup_timeout_ns, finish_grace_ns;
} PlanNode;

typedef struct Plan {
        json_t *json; /* owns every string */
        const char *name, *file, *dir;
        PlanNode *nodes;
        size_t n_nodes;
} Plan;

/**
 * plan_new() - check a plan and take it over
 * @json:    borrowed; a reference is kept
 * @ret_why: room for @why_size bytes; on failure, what is wrong with it, naming node and key
 *
 * Return: 0, -EINVAL for a plan that breaks the format, -ENOMEM.
 */
int plan_new(Plan **ret, json_t *json, char *ret_why, size_t why_size);
Plan *plan_free(Plan *plan);

#endif
