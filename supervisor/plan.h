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
#include "base/limit.h"
#include "base/pressure.h"
#include "protocol/node_msg.h"
#include "supervisor/placement.h"

#define PLAN_MAX_NODES 4096

extern const char *const placement_wish_names[_PLACEMENT_WISH_MAX]; /* as the plan has them */

typedef enum PlanKind {
        PLAN_KIND_NODE,    /* makes the handshake */
        PLAN_KIND_PROGRAM, /* ready once exec succeeded */
        PLAN_KIND_DYNAMIC, /* makes the handshake; started by somebody else: no argv, no environment, no restarts */
} PlanKind;

typedef enum PlanRestart {
        PLAN_RESTART_NEVER,
        PLAN_RESTART_ON_FAILURE,
        PLAN_RESTART_ALWAYS,
        _PLAN_RESTART_MAX,
} PlanRestart;

/* How far a node must have come before one that is after it may start; a later one includes those before it. */
typedef enum PlanUntil {
        PLAN_UNTIL_STARTED,   /* its program runs; dynamic: it has connected */
        PLAN_UNTIL_READY,     /* its own part of the handshake is done; program: it has started */
        PLAN_UNTIL_COMPLETED, /* ended by itself, successfully and for good */
        _PLAN_UNTIL_MAX,
} PlanUntil;

typedef enum PlanOnFailure {
        PLAN_ON_FAILURE_IGNORE,
        PLAN_ON_FAILURE_STOP,
        PLAN_ON_FAILURE_RESTART_DOWNSTREAM,
        _PLAN_ON_FAILURE_MAX,
} PlanOnFailure;

typedef struct PlanAfter {
        uint32_t node; /* index */
        PlanUntil until;
        uint32_t line;
} PlanAfter;

typedef struct PlanInput {
        const char *id;
        nsec_t timer_ns; /* 0: a link */
        uint32_t source_node, source_output; /* indices */
        uint32_t queue_size;
        bool backpressure;
        nsec_t timeout_ns;
} PlanInput;

/* `resources`, canonical (base/limit.h); NULL: not given. */
typedef struct PlanLimits {
        const char *values[_LIMIT_KEY_MAX];
        uint32_t lines[_LIMIT_KEY_MAX];
        bool any;
} PlanLimits;

/* `on_pressure` */
typedef struct PlanPressure {
        PressureKind kind;
        PressureAction action;
        uint64_t threshold; /* as in PressureCondition */
        nsec_t window_ns;
        uint32_t line;
} PlanPressure;

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
        uint64_t pool_size; /* bound of each output's pool; 0: by what its messages need */
        uint64_t expected_message; /* bytes: room for some of them is there before the node runs; 0: not said */
        PlanRestart restart;
        uint32_t max_restarts;
        nsec_t restart_delay_ns, max_restart_delay_ns, restart_window_ns;
        nsec_t startup_timeout_ns, finish_grace_ns;
        nsec_t stuck_timeout_ns; /* 0: off */
        nsec_t health_check_timeout_ns; /* 0: none; else stuck_timeout_ns is neither 0 nor more */
        PlanOnFailure on_failure;
        NodeWaitMode wait;
        PlacementWish placement;
        bool capture; /* of a dynamic node */
        bool cgroup_writable; /* of others: root's may write cgroups */
        bool detach; /* of a program: it becomes a dataflow of its own (supervisor/detach.h) */
        bool late;    /* does not count for the startup barrier of the others (plan-order.c) */
        PlanAfter *after;
        size_t n_after;
        PlanLimits limits;
        PlanPressure *pressure;
        size_t n_pressure;
} PlanNode;

typedef struct Plan {
        json_t *json; /* owns every string */
        const char *name, *file, *dir;
        const char *detached_from; /* name of the dataflow of which this was a node; NULL: none */
        PlanNode *nodes;
        size_t n_nodes;
        PlanLimits limits; /* of the whole dataflow */
        PlanPressure *pressure; /* likewise */
        size_t n_pressure;
        bool probe_calls;    /* its system calls are counted while it lives */
        bool probe_queues;   /* its queues are looked into while it lives */
        double probe_budget; /* of one CPU; 0: not said */
        uint32_t *sorted; /* n_nodes indices: whoever is waited for comes before who waits */
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

/* plan_captures() - a node that captures whoever connects as it (`capture: true`), or NULL. */
const PlanNode *plan_captures(const Plan *plan);

const char *plan_until_to_string(PlanUntil until);

/*
 * plan_check_order() - sort the nodes and find who is late, once every `after` and every source is an index
 *
 * For plan_new(). Return: 0, -EINVAL for a cycle or for two linked nodes of which one has ended when the other starts
 * (@ret_why says which), -ENOMEM.
 */
int plan_check_order(Plan *plan, char *ret_why, size_t why_size);

#endif
