/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model: one descriptor or module file as read, before modules are expanded and names are looked up. Passive data in
 * the arena of the load; every part knows its place in the text. Inside the room only.
 */
#ifndef TG_DESCRIPTOR_MODEL_H
#define TG_DESCRIPTOR_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limit.h"
#include "base/pressure.h"
#include "descriptor/source.h"

#define NODES_MAX       4096
#define LINKS_MAX       12000 /* more do not fit a plan of 1 MiB */
#define PORTS_MAX       256
#define AFTER_MAX       256 /* of a node; of all together LINKS_MAX */
#define ID_BYTES_MAX    128
#define QUEUE_SIZE_MAX  65535
#define CPU_MAX         1023
#define STRING_MAX      131071 /* one string of argv or environ: the kernel's MAX_ARG_STRLEN without the NUL */
#define MODULE_DEPTH_MAX 8
#define PLAN_BYTES_MAX  ((size_t)1 << 20)
#define SPAN_MAX_NS     (UINT64_C(1000000000) * 1000000000)
#define MODULE_PORT     "_mod"
#define PATH_DYNAMIC    "dynamic" /* a node that is started by hand */

typedef struct Text {
        const char *s; /* NULL: not given */
        Span span;
} Text;

typedef enum QueuePolicy {
        QUEUE_POLICY_UNSET,
        QUEUE_POLICY_DROP_OLDEST,
        QUEUE_POLICY_BACKPRESSURE,
        _QUEUE_POLICY_MAX,
} QueuePolicy;

typedef enum RestartPolicy {
        RESTART_NEVER,
        RESTART_ON_FAILURE,
        RESTART_ALWAYS,
        _RESTART_MAX,
} RestartPolicy;

/* How far a node must have come before one that is after it may start. A later one includes those before it. */
typedef enum Until {
        UNTIL_STARTED,
        UNTIL_READY,
        UNTIL_COMPLETED,
        _UNTIL_MAX,
} Until;

typedef enum OnFailure {
        ON_FAILURE_UNSET,
        ON_FAILURE_STOP,
        ON_FAILURE_RESTART_DOWNSTREAM,
        ON_FAILURE_IGNORE,
        _ON_FAILURE_MAX,
} OnFailure;

typedef enum WaitMode { /* how a node waits for messages */
        WAIT_ADAPTIVE,
        WAIT_BLOCK,
        WAIT_SPIN,
        _WAIT_MODE_MAX,
} WaitMode;

typedef enum PlaceWish { /* beside its producer? */
        PLACE_UNSET,
        PLACE_AUTO,
        PLACE_COLOCATE,
        PLACE_SPREAD,
        PLACE_NONE,
        _PLACE_WISH_MAX,
} PlaceWish;

#define STUCK_TIMEOUT_UNSET UINT64_MAX

extern const char *const until_names[_UNTIL_MAX + 1];
extern const char *const on_failure_names[_ON_FAILURE_MAX + 1]; /* index 0 is "" */
extern const char *const place_wish_names[_PLACE_WISH_MAX + 1]; /* index 0 is "" */
extern const char *const wait_mode_names[_WAIT_MODE_MAX + 1];
extern const char *const queue_policy_names[_QUEUE_POLICY_MAX + 1]; /* ended by NULL; index 0 is "" */
extern const char *const restart_policy_names[_RESTART_MAX + 1];

typedef enum InputKind {
        INPUT_BROKEN, /* reported already: nothing follows from it */
        INPUT_TIMER,
        INPUT_NODE, /* node/output */
        INPUT_PORT, /* _mod/output: what the module's user wired to that port */
} InputKind;

/* What may be said of a link beside its source; unset parts come from elsewhere (a module's user, the default). */
typedef struct LinkOptions {
        unsigned queue_size; /* 0: unset */
        QueuePolicy queue_policy;
        uint64_t timeout_ns; /* 0: none, or unset */
} LinkOptions;

typedef struct InputSpec {
        Text id;
        Text source;
        InputKind kind;
        uint64_t timer_ns;
        const char *node, *output;
        LinkOptions options;
} InputSpec;

typedef struct EnvItem {
        const char *name, *value;
        Span span; /* of the value */
} EnvItem;

typedef struct EnvList {
        EnvItem *items;
        size_t n;
} EnvList;

typedef struct TextList {
        Text *items;
        size_t n;
        bool broken; /* something in it could not be read: do not complain about what is missing */
} TextList;

typedef struct RestartSpec {
        RestartPolicy policy;
        unsigned max_restarts;
        uint64_t delay_ns, max_delay_ns, window_ns;
} RestartSpec;

typedef struct AfterSpec {
        Text id; /* of a node, or of one that uses a module: all its nodes */
        Until until;
} AfterSpec;

/* `resources`: canonical values (base/limit.h), in the order of LimitKey. */
typedef struct LimitsSpec {
        Text values[_LIMIT_KEY_MAX]; /* span: of the key */
        unsigned n;                  /* how many are given */
        Span span;                   /* of `resources` */
} LimitsSpec;

/* One line of `on_pressure`. */
typedef struct PressureSpec {
        PressureKind kind;
        PressureAction action;
        uint64_t threshold; /* as in PressureCondition */
        nsec_t window_ns;
        Span span, action_span; /* of the keys; without an action that of the map */
} PressureSpec;

typedef struct PressureList {
        PressureSpec *items;
        size_t n;
        Span span; /* of `on_pressure` */
} PressureList;

typedef struct NodeSpec {
        Text id;
        Text path, args, module;
        EnvList env, params;
        InputSpec *inputs;
        size_t n_inputs;
        TextList outputs;
        RestartSpec restart;
        uint64_t startup_timeout_ns, finish_grace_ns;
        uint64_t pool_size; /* bound in bytes, of each output's pool; 0: by what its messages need */
        uint64_t expected_message; /* bytes; 0: not said */
        unsigned *cpus;
        size_t n_cpus;
        Span cpus_span;
        bool is_dynamic, capture, cgroup_writable;
        bool detach; /* it outlives the dataflow */
        Span detach_span;
        AfterSpec *after;
        size_t n_after;
        OnFailure on_failure;
        WaitMode wait;
        PlaceWish placement;
        uint64_t stuck_timeout_ns; /* 0: off */
        uint64_t health_check_timeout_ns; /* 0: none */
        Span health_check_span;           /* of its key */
        LimitsSpec limits;
        PressureList pressure;
} NodeSpec;

/* Of the whole dataflow: what is to be counted of it while it runs. */
typedef struct ProbesSpec {
        bool calls, queues;
        double budget; /* percent of one CPU; 0: not said */
} ProbesSpec;

typedef struct FileSpec {
        const Source *source;
        bool broken; /* not even its nodes are known */
        EnvList env;
        OnFailure on_failure; /* with the next: of nodes that do not say it themselves */
        uint64_t stuck_timeout_ns;
        PlaceWish placement;
        LimitsSpec limits; /* of the whole dataflow */
        PressureList pressure; /* likewise */
        ProbesSpec probes;
        NodeSpec *nodes;
        size_t n_nodes;
        NodeSpec **by_id; /* sorted; those without an id left out */
        size_t n_by_id;
        /* of a module file */
        Text module_name;
        TextList inputs, inputs_optional, outputs;
} FileSpec;

#endif
