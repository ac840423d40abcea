/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/plan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/node_msg.h"

const char *const placement_wish_names[_PLACEMENT_WISH_MAX] = {
        [PLACEMENT_AUTO] = "auto",
        [PLACEMENT_COLOCATE] = "colocate",
        [PLACEMENT_SPREAD] = "spread",
        [PLACEMENT_NONE] = "none",
};

#define PLAN_MAX_QUEUE   65535
#define PLAN_MIN_POOL    (UINT64_C(64) << 10)
#define PLAN_MAX_POOL    (UINT64_C(1) << 30)
#define PLAN_MAX_STRINGS 65536 /* of argv or env of one node */
#define PLAN_MAX_CPUS    1024
#define PLAN_MAX_AFTER   256   /* of one node */
#define PLAN_MAX_AFTERS  12000 /* of all nodes together */
#define PLAN_STUCK_NS    (30 * NSEC_PER_SEC)
#define PLAN_SPAN_MAX    (UINT64_C(1) << 62)

/* Where we are, for the message; the first complaint wins. */
typedef struct Check {
        char *why;
        size_t why_size;
        const char *node;
        size_t n_after; /* of all nodes so far */
        bool bad;
} Check;

__attribute__((format(printf, 2, 3))) static void complain(Check *check, const char *format, ...)
{
        char text[256];
        va_list ap;

        if (check->bad)
                return;
        check->bad = true;
        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (check->node)
                (void)snprintf(check->why, check->why_size, "node %.128s: %s", check->node, text);
        else
                (void)snprintf(check->why, check->why_size, "%s", text);
}

static const char *get_string(Check *check, json_t *object, const char *key)
{
        json_t *value = json_object_get(object, key);

        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
                complain(check, "\"%s\" must be a string", key);
                return "";
        }
        return json_string_value(value);
}

static uint64_t get_number(Check *check, json_t *object, const char *key, uint64_t min, uint64_t max)
{
        json_t *value = json_object_get(object, key);
        json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;

        if (n < 0 || (uint64_t)n < min || (uint64_t)n > max) {
                complain(check, "\"%s\" must be a whole number from %llu to %llu", key, (unsigned long long)min,
                        (unsigned long long)max);
                return min;
        }
        return (uint64_t)n;
}

/* The index of a string in @names (@n of them); -1 when it is none of them, and @what says so. */
static int get_choice(Check *check, json_t *object, const char *key, const char *const *names, size_t n, const char *what)
{
        const char *s = get_string(check, object, key);

        for (size_t i = 0; i < n && !check->bad; i++)
                if (strcmp(names[i], s) == 0)
                        return (int)i;
        complain(check, "\"%s\" must be %s", key, what);
        return -1;
}

static json_t *get_array(Check *check, json_t *object, const char *key, size_t max)
{
        json_t *value = json_object_get(object, key);

        if (!json_is_array(value) || json_array_size(value) > max) {
                complain(check, "\"%s\" must be a list of at most %zu", key, max);
                return NULL;
        }
        return value;
}

static bool is_id(const char *s, bool slashes)
{
        size_t n = strlen(s);

        if (n == 0 || n > NODE_MSG_ID_MAX || s[0] == '.' || s[0] == '/' || s[n - 1] == '/' || strstr(s, "//"))
                return false;
        for (; *s; s++)
                if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') || *s == '_' ||
                            *s == '-' || *s == '.' || (slashes && *s == '/')))
                        return false;
        return true;
}

static const char *get_id(Check *check, json_t *object, const char *key, bool slashes)
{
        const char *id = get_string(check, object, key);

        if (!check->bad && !is_id(id, slashes))
                complain(check, "\"%s\" is not a valid id", key);
        return id;
}

/* A NULL-terminated array of @n zeroed elements; never NULL unless out of memory. */
static void *array_new(Check *check, size_t n, size_t size)
{
        void *p = calloc(n + 1, size);

        if (!p)
                complain(check, "out of memory");
        return p;
}

static void parse_strings(Check *check, json_t *array, const char *key, const char ***ret)
{
        size_t n = json_array_size(array);

        *ret = array_new(check, n, sizeof(**ret));
        for (size_t i = 0; i < n && !check->bad; i++) {
                json_t *value = json_array_get(array, i);

                if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
                        complain(check, "\"%s\" must hold strings", key);
                else
                        (*ret)[i] = json_string_value(value);
        }
}

static void parse_env(Check *check, json_t *object, PlanNode *node)
{
        const char *key;
        json_t *value;
        size_t i = 0;

        if (!json_is_object(object) || json_object_size(object) > PLAN_MAX_STRINGS) {
                complain(check, "\"env\" must be a map");
                return;
        }
        node->env = array_new(check, 2 * json_object_size(object), sizeof(*node->env));
        json_object_foreach(object, key, value) {
                if (check->bad)
                        return;
                if (!json_is_string(value) || !*key || strchr(key, '=') ||
                        strlen(json_string_value(value)) != json_string_length(value)) {
                        complain(check, "\"env\": %.64s must be a name with a string", key);
                        return;
                }
                node->env[i++] = key;
                node->env[i++] = json_string_value(value);
        }
}

static void parse_cpus(Check *check, json_t *array, PlanNode *node)
{
        node->cpus = array_new(check, json_array_size(array), sizeof(*node->cpus));
        for (size_t i = 0; i < json_array_size(array) && !check->bad; i++) {
                json_t *value = json_array_get(array, i);

                if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= PLAN_MAX_CPUS)
                        complain(check, "\"cpu_affinity\" must hold CPU numbers");
                else
                        node->cpus[node->n_cpus++] = (uint32_t)json_integer_value(value);
        }
}

static void parse_restart(Check *check, json_t *object, PlanNode *node)
{
        static const char *const names[_PLAN_RESTART_MAX] = {
                [PLAN_RESTART_NEVER] = "never",
                [PLAN_RESTART_ON_FAILURE] = "on-failure",
                [PLAN_RESTART_ALWAYS] = "always",
        };
        const char *policy;

        if (!json_is_object(object)) {
                complain(check, "\"restart\" must be a map");
                return;
        }
        policy = get_string(check, object, "policy");
        node->restart = _PLAN_RESTART_MAX;
        for (unsigned i = 0; i < _PLAN_RESTART_MAX; i++)
                if (strcmp(policy, names[i]) == 0)
                        node->restart = i;
        if (node->restart == _PLAN_RESTART_MAX)
                complain(check, "\"policy\" of restart must be never, on-failure or always");
        node->max_restarts = (uint32_t)get_number(check, object, "max_restarts", 0, UINT32_MAX);
        node->restart_delay_ns = get_number(check, object, "delay_ns", 0, PLAN_SPAN_MAX);
        node->max_restart_delay_ns = get_number(check, object, "max_delay_ns", 0, PLAN_SPAN_MAX);
        node->restart_window_ns = get_number(check, object, "window_ns", 0, PLAN_SPAN_MAX);
}

static const char *const until_names[_PLAN_UNTIL_MAX] = {
        [PLAN_UNTIL_STARTED] = "started",
        [PLAN_UNTIL_READY] = "ready",
        [PLAN_UNTIL_COMPLETED] = "completed",
};

const char *plan_until_to_string(PlanUntil until)
{
        return until_names[until];
}

/* Names become indices in resolve_after(). */
static void parse_after(Check *check, json_t *array, PlanNode *node)
{
        if (!array || check->bad)
                return;
        check->n_after += json_array_size(array);
        if (check->n_after > PLAN_MAX_AFTERS) {
                complain(check, "\"after\" of all nodes together must hold at most %d", PLAN_MAX_AFTERS);
                return;
        }
        node->after = array_new(check, json_array_size(array), sizeof(*node->after));
        for (size_t i = 0; i < json_array_size(array) && !check->bad; i++) {
                json_t *object = json_array_get(array, i);
                int until;

                if (!json_is_object(object)) {
                        complain(check, "\"after\" must hold maps");
                        return;
                }
                until = get_choice(check, object, "until", until_names, _PLAN_UNTIL_MAX, "started, ready or completed");
                if (until < 0)
                        return;
                node->after[node->n_after++] = (PlanAfter){.until = (PlanUntil)until,
                        .line = (uint32_t)get_number(check, object, "line", 0, UINT32_MAX)};
        }
}

/* Not in a plan that was journalled before there was any of this: then as if nothing had been said. */
static void parse_order(Check *check, json_t *object, PlanNode *node)
{
        static const char *const names[_PLAN_ON_FAILURE_MAX] = {
                [PLAN_ON_FAILURE_IGNORE] = "ignore",
                [PLAN_ON_FAILURE_STOP] = "stop",
                [PLAN_ON_FAILURE_RESTART_DOWNSTREAM] = "restart-downstream",
        };
        static const char *const waits[] = {
                [NODE_WAIT_ADAPTIVE] = "adaptive",
                [NODE_WAIT_BLOCK] = "block",
                [NODE_WAIT_SPIN] = "spin",
        };
        json_t *capture = json_object_get(object, "capture"), *writable = json_object_get(object, "cgroup_writable"),
               *detach = json_object_get(object, "detach");
        int choice;

        node->stuck_timeout_ns = PLAN_STUCK_NS;
        if (json_object_get(object, "stuck_timeout_ns"))
                node->stuck_timeout_ns = get_number(check, object, "stuck_timeout_ns", 0, PLAN_SPAN_MAX);
        if (json_object_get(object, "health_check_timeout_ns"))
                node->health_check_timeout_ns = get_number(check, object, "health_check_timeout_ns", 0, PLAN_SPAN_MAX);
        if (!check->bad && node->health_check_timeout_ns &&
                (node->stuck_timeout_ns == 0 || node->stuck_timeout_ns > node->health_check_timeout_ns))
                complain(check, "\"stuck_timeout_ns\" must be at most \"health_check_timeout_ns\", and not 0");
        if (json_object_get(object, "on_failure")) {
                choice = get_choice(check, object, "on_failure", names, _PLAN_ON_FAILURE_MAX,
                        "stop, restart-downstream or ignore");
                node->on_failure = choice < 0 ? PLAN_ON_FAILURE_IGNORE : (PlanOnFailure)choice;
        }
        if (json_object_get(object, "wait")) {
                choice = get_choice(check, object, "wait", waits, ELEMENTSOF(waits), "adaptive, block or spin");
                node->wait = choice < 0 ? NODE_WAIT_ADAPTIVE : (NodeWaitMode)choice;
        }
        if (json_object_get(object, "placement")) {
                choice = get_choice(check, object, "placement", placement_wish_names, _PLACEMENT_WISH_MAX, "auto, colocate, spread or none");
                node->placement = choice < 0 ? PLACEMENT_AUTO : (PlacementWish)choice;
        }
        if (json_object_get(object, "after"))
                parse_after(check, get_array(check, object, "after", PLAN_MAX_AFTER), node);
        if (capture && (!json_is_boolean(capture) || node->kind != PLAN_KIND_DYNAMIC))
                complain(check, "\"capture\" must be true or false, and of a dynamic node");
        node->capture = json_is_true(capture);
        if (writable && (!json_is_boolean(writable) || node->kind == PLAN_KIND_DYNAMIC))
                complain(check, "\"cgroup_writable\" must be true or false, and not of a dynamic node");
        node->cgroup_writable = json_is_true(writable);
        if (detach && (!json_is_boolean(detach) || node->kind != PLAN_KIND_PROGRAM || node->n_after))
                complain(check, "\"detach\" must be true or false, and of a program that is after nobody");
        node->detach = json_is_true(detach);
}

/* May be missing. What is there is written into files of the kernel's: only what limit_parse() makes goes in. */
static void parse_limits(Check *check, json_t *object, PlanLimits *ret)
{
        json_t *map = json_object_get(object, "resources"), *value;
        char canonical[LIMIT_VALUE_MAX];
        const char *name;

        if (!map)
                return;
        if (!json_is_object(map)) {
                complain(check, "\"resources\" must be a map");
                return;
        }
        json_object_foreach(map, name, value) {
                int key = limit_find(name, strlen(name));
                const char *text;

                if (key < 0 || !json_is_object(value)) {
                        complain(check, "\"resources\": %.64s is no limit, or no map", name);
                        return;
                }
                text = get_string(check, value, "value");
                ret->lines[key] = (uint32_t)get_number(check, value, "line", 0, UINT32_MAX);
                if (!check->bad && (limit_parse((LimitKey)key, text, canonical) || strcmp(text, canonical) != 0))
                        complain(check, "\"resources\": %s must be %s, in the form of the kernel", limit_name(key), limit_wanted(key));
                if (check->bad)
                        return;
                ret->values[key] = text;
                ret->any = true;
        }
}

static void parse_condition(Check *check, json_t *object, PlanPressure *ret)
{
        int kind, action;

        if (!json_is_object(object)) {
                complain(check, "\"on_pressure\" must hold maps");
                return;
        }
        kind = get_choice(check, object, "resource", pressure_names, _PRESSURE_KIND_MAX,
                "cpu_some, cpu_full, memory_some, memory_full, io_some, io_full, cpu_throttled, memory_high or forks_refused");
        action = get_choice(check, object, "action", pressure_action_names, _PRESSURE_ACTION_MAX, "event, restart or stop");
        ret->threshold = get_number(check, object, kind >= 0 && pressure_counts((PressureKind)kind) ? "times" : "threshold_ns", 1, PLAN_SPAN_MAX);
        ret->window_ns = get_number(check, object, "window_ns", 1, PLAN_SPAN_MAX);
        ret->line = (uint32_t)get_number(check, object, "line", 0, UINT32_MAX);
        if (check->bad)
                return;
        ret->kind = (PressureKind)kind;
        ret->action = (PressureAction)action;
        if (!pressure_valid(ret->kind, ret->threshold, ret->window_ns))
                complain(check, "\"on_pressure\": %s must be %s", pressure_names[ret->kind], pressure_wanted(ret->kind));
}

/* May be missing. @node: whose it is; NULL: the whole dataflow's, which nobody restarts. */
static void parse_pressure(Check *check, json_t *object, const PlanNode *node, PlanPressure **ret, size_t *ret_n)
{
        json_t *list = json_object_get(object, "on_pressure");

        if (!list || check->bad)
                return;
        list = get_array(check, object, "on_pressure", PRESSURE_CONDITIONS_MAX);
        *ret = array_new(check, json_array_size(list), sizeof(**ret));
        for (size_t i = 0; i < json_array_size(list) && !check->bad; i++) {
                PlanPressure *p = &(*ret)[*ret_n];

                parse_condition(check, json_array_get(list, i), p);
                (*ret_n)++;
                if (!check->bad && p->action == PRESSURE_RESTART && (!node || node->restart == PLAN_RESTART_NEVER))
                        complain(check, "\"on_pressure\": %s", node ? "\"restart\" needs a restart policy other than never" : "a dataflow is not restarted");
        }
        if (!check->bad && *ret_n > 0 && node && node->kind == PLAN_KIND_DYNAMIC && !node->capture)
                complain(check, "\"on_pressure\" means nothing for a dynamic node that is not captured");
}

/* What somebody else starts has nothing of what we give to a process. */
static void check_dynamic(Check *check, const PlanNode *node)
{
        if (check->bad)
                return;
        if (node->argv[0] || node->env[0] || node->n_cpus || node->restart != PLAN_RESTART_NEVER || node->n_after ||
                node->health_check_timeout_ns)
                complain(check, "a dynamic node has no argv, env, cpu_affinity, restart policy, health check or after");
}

static void parse_input(Check *check, json_t *object, PlanInput *input)
{
        json_t *source = json_object_get(object, "source");
        const char *policy;

        input->id = get_id(check, object, "id", true);
        input->queue_size = (uint32_t)get_number(check, object, "queue_size", 1, PLAN_MAX_QUEUE);
        input->timeout_ns = get_number(check, object, "input_timeout_ns", 0, PLAN_SPAN_MAX);
        policy = get_string(check, object, "queue_policy");
        input->backpressure = strcmp(policy, "backpressure") == 0;
        if (!check->bad && !input->backpressure && strcmp(policy, "drop_oldest") != 0)
                complain(check, "input %.128s: \"queue_policy\" must be drop_oldest or backpressure", input->id);
        if (!json_is_object(source))
                complain(check, "input %.128s: \"source\" must be a map", input->id);
        else if (json_object_get(source, "timer_ns"))
                input->timer_ns = get_number(check, source, "timer_ns", 1, PLAN_SPAN_MAX);
}

static void parse_ports(Check *check, json_t *object, PlanNode *node)
{
        json_t *inputs = get_array(check, object, "inputs", NODE_MSG_MAX_PORTS);
        json_t *outputs = get_array(check, object, "outputs", NODE_MSG_MAX_PORTS);

        if (check->bad)
                return;
        node->inputs = array_new(check, json_array_size(inputs), sizeof(*node->inputs));
        for (size_t i = 0; i < json_array_size(inputs) && !check->bad; i++) {
                parse_input(check, json_array_get(inputs, i), &node->inputs[i]);
                node->n_inputs++;
                for (size_t k = 0; k < i && !check->bad; k++)
                        if (strcmp(node->inputs[k].id, node->inputs[i].id) == 0)
                                complain(check, "input %.128s is there twice", node->inputs[i].id);
        }
        parse_strings(check, outputs, "outputs", &node->outputs);
        node->n_outputs = json_array_size(outputs);
        for (size_t i = 0; i < node->n_outputs && !check->bad; i++) {
                if (!is_id(node->outputs[i], true))
                        complain(check, "\"outputs\" holds an invalid id");
                for (size_t k = 0; k < i && !check->bad; k++)
                        if (strcmp(node->outputs[k], node->outputs[i]) == 0)
                                complain(check, "output %.128s is there twice", node->outputs[i]);
        }
}

static void parse_node(Check *check, json_t *object, PlanNode *node)
{
        static const char *const kinds[] = {
                [PLAN_KIND_NODE] = "node",
                [PLAN_KIND_PROGRAM] = "program",
                [PLAN_KIND_DYNAMIC] = "dynamic",
        };
        json_t *argv;
        int kind;

        if (!json_is_object(object)) {
                complain(check, "\"nodes\" must hold maps");
                return;
        }
        node->id = get_id(check, object, "id", false);
        check->node = check->bad ? NULL : node->id;
        node->line = (uint32_t)get_number(check, object, "line", 0, UINT32_MAX);
        kind = get_choice(check, object, "kind", kinds, ELEMENTSOF(kinds), "node, program or dynamic");
        node->kind = kind < 0 ? PLAN_KIND_NODE : (PlanKind)kind;
        argv = get_array(check, object, "argv", PLAN_MAX_STRINGS);
        if (argv && json_array_size(argv) == 0 && node->kind != PLAN_KIND_DYNAMIC)
                complain(check, "\"argv\" must not be empty");
        parse_strings(check, argv, "argv", &node->argv);
        parse_env(check, json_object_get(object, "env"), node);
        parse_cpus(check, get_array(check, object, "cpu_affinity", PLAN_MAX_CPUS), node);
        parse_restart(check, json_object_get(object, "restart"), node);
        node->pool_size = get_number(check, object, "pool_size", 0, PLAN_MAX_POOL);
        if (!check->bad && node->pool_size > 0 && node->pool_size < PLAN_MIN_POOL)
                complain(check, "\"pool_size\" must be 0, or from %d to %d", (int)PLAN_MIN_POOL, (int)PLAN_MAX_POOL);
        if (json_object_get(object, "expected_message"))
                node->expected_message = get_number(check, object, "expected_message", 1, PLAN_MAX_POOL / 2);
        if (!check->bad && node->pool_size > 0 && node->expected_message > node->pool_size / 2)
                complain(check, "\"expected_message\" must be at most half of \"pool_size\"");
        node->startup_timeout_ns = get_number(check, object, "startup_timeout_ns", 1, PLAN_SPAN_MAX);
        node->finish_grace_ns = get_number(check, object, "finish_grace_ns", 0, PLAN_SPAN_MAX);
        parse_ports(check, object, node);
        parse_order(check, object, node);
        parse_limits(check, object, &node->limits);
        parse_pressure(check, object, node, &node->pressure, &node->n_pressure);
        if (!check->bad && node->limits.any && node->kind == PLAN_KIND_DYNAMIC && !node->capture)
                complain(check, "\"resources\" mean nothing for a dynamic node that is not captured");
        if (node->kind == PLAN_KIND_DYNAMIC)
                check_dynamic(check, node);
        if (!check->bad && node->kind == PLAN_KIND_PROGRAM && (node->n_inputs || node->n_outputs))
                complain(check, "a program has neither inputs nor outputs");
        check->node = NULL;
}

static int find_output(const PlanNode *node, const char *id)
{
        for (size_t i = 0; i < node->n_outputs; i++)
                if (strcmp(node->outputs[i], id) == 0)
                        return (int)i;
        return -1;
}

/* Once every node is known: names of sources become indices. @index maps a node's id to its number. */
static void resolve_sources(Check *check, Plan *plan, json_t *nodes, json_t *index)
{
        for (size_t n = 0; n < plan->n_nodes && !check->bad; n++) {
                json_t *inputs = json_object_get(json_array_get(nodes, n), "inputs");

                check->node = plan->nodes[n].id;
                for (size_t i = 0; i < plan->nodes[n].n_inputs && !check->bad; i++) {
                        PlanInput *input = &plan->nodes[n].inputs[i];
                        json_t *source = json_object_get(json_array_get(inputs, i), "source");
                        json_t *number;
                        int output = -1;

                        if (input->timer_ns)
                                continue;
                        number = json_object_get(index, get_string(check, source, "node"));
                        if (number) {
                                input->source_node = (uint32_t)json_integer_value(number);
                                output = find_output(&plan->nodes[input->source_node], get_string(check, source, "output"));
                        }
                        if (output < 0)
                                complain(check, "input %.128s: its source does not exist", input->id);
                        else
                                input->source_output = (uint32_t)output;
                }
        }
        check->node = NULL;
}

static void resolve_after(Check *check, Plan *plan, json_t *nodes, json_t *index)
{
        for (size_t n = 0; n < plan->n_nodes && !check->bad; n++) {
                PlanNode *node = &plan->nodes[n];
                json_t *list = json_object_get(json_array_get(nodes, n), "after");

                check->node = node->id;
                for (size_t i = 0; i < node->n_after && !check->bad; i++) {
                        PlanAfter *after = &node->after[i];
                        const char *id = get_string(check, json_array_get(list, i), "node");
                        json_t *number = json_object_get(index, id);

                        if (!number)
                                complain(check, "\"after\": its node does not exist");
                        else
                                after->node = (uint32_t)json_integer_value(number);
                        if (!check->bad && plan->nodes[after->node].detach)
                                complain(check, "\"after\": node %.128s is detached, and nobody can be after it", id);
                        for (size_t k = 0; k < i && !check->bad; k++)
                                if (node->after[k].node == after->node)
                                        complain(check, "\"after\": node %.128s is there twice", id);
                        if (!check->bad && after->until == PLAN_UNTIL_COMPLETED &&
                                plan->nodes[after->node].kind == PLAN_KIND_DYNAMIC)
                                complain(check, "\"after\": nobody sees how dynamic node %.128s completes", id);
                }
        }
        check->node = NULL;
}

static void parse_nodes(Check *check, Plan *plan, json_t *nodes)
{
        json_t *index = json_object();

        if (!index)
                complain(check, "out of memory");
        for (size_t i = 0; i < json_array_size(nodes) && !check->bad; i++) {
                PlanNode *node = &plan->nodes[i];

                plan->n_nodes++;
                parse_node(check, json_array_get(nodes, i), node);
                if (check->bad)
                        break;
                if (json_object_get(index, node->id))
                        complain(check, "node %.128s is there twice", node->id);
                else if (json_object_set_new(index, node->id, json_integer((json_int_t)i)) < 0)
                        complain(check, "out of memory");
        }
        resolve_sources(check, plan, nodes, index);
        resolve_after(check, plan, nodes, index);
        json_decref(index);
}

/* They become dataflows of their own, and something must be left. */
static void check_detached(Check *check, const Plan *plan)
{
        size_t n = 0;

        for (size_t i = 0; i < plan->n_nodes && !check->bad; i++) {
                const PlanNode *node = &plan->nodes[i];

                n += node->detach;
                check->node = node->id;
                if (node->detach && plan->detached_from)
                        complain(check, "\"detach\": this one is detached already");
                else if (node->detach && strlen(plan->name) + 1 + strlen(node->id) > NODE_MSG_ID_MAX)
                        complain(check, "\"detach\": the names of dataflow and node are too long together");
        }
        check->node = NULL;
        if (n > 0 && n == plan->n_nodes)
                complain(check, "every node has \"detach\"");
}

const PlanNode *plan_captures(const Plan *plan)
{
        for (size_t i = 0; i < plan->n_nodes; i++)
                if (plan->nodes[i].capture)
                        return &plan->nodes[i];
        return NULL;
}

/* There only where something is to be counted. */
static void parse_probes(Check *check, json_t *probes, Plan *plan)
{
        json_t *budget = json_object_get(probes, "budget");

        if (!probes || check->bad)
                return;
        plan->probe_calls = json_is_true(json_object_get(probes, "calls"));
        plan->probe_queues = json_is_true(json_object_get(probes, "queues"));
        plan->probe_budget = json_number_value(budget) / 100;
        if (!json_is_object(probes) || (!plan->probe_calls && !plan->probe_queues))
                complain(check, "\"probes\" must be a map, with \"calls\": true or \"queues\": true");
        else if (budget && !(json_is_number(budget) && plan->probe_budget > 0 && plan->probe_budget <= 100))
                complain(check, "the budget of \"probes\" must be a percentage, above 0 and up to 10000");
}

int plan_new(Plan **ret, json_t *json, char *ret_why, size_t why_size)
{
        Check check = {.why = ret_why, .why_size = why_size};
        json_t *nodes;
        Plan *plan;
        int r;

        plan = calloc(1, sizeof(*plan));
        if (!plan)
                return error_origin(-ENOMEM);
        plan->json = json_incref(json);
        if (!json_is_object(json))
                complain(&check, "the plan must be a map");
        (void)get_number(&check, json, "version", 1, 1);
        plan->name = get_id(&check, json, "name", false);
        plan->file = get_string(&check, json, "file");
        plan->dir = get_string(&check, json, "dir");
        if (!check.bad && plan->dir[0] != '/')
                complain(&check, "\"dir\" must be an absolute path");
        if (json_object_get(json, "detached_from"))
                plan->detached_from = get_id(&check, json, "detached_from", false);
        if (!check.bad)
                parse_limits(&check, json, &plan->limits);
        parse_probes(&check, json_object_get(json, "probes"), plan);
        parse_pressure(&check, json, NULL, &plan->pressure, &plan->n_pressure);
        nodes = get_array(&check, json, "nodes", PLAN_MAX_NODES);
        if (nodes && json_array_size(nodes) == 0)
                complain(&check, "\"nodes\" must not be empty");
        plan->nodes = array_new(&check, json_array_size(nodes), sizeof(*plan->nodes));
        if (!check.bad)
                parse_nodes(&check, plan, nodes);
        if (!check.bad)
                check_detached(&check, plan);
        r = check.bad ? error_origin(-EINVAL) : plan_check_order(plan, ret_why, why_size);
        if (r) {
                (void)plan_free(plan);
                return error_fold(r);
        }
        *ret = plan;
        return 0;
}

Plan *plan_free(Plan *plan)
{
        if (!plan)
                return NULL;
        for (size_t i = 0; i < plan->n_nodes; i++) {
                PlanNode *node = &plan->nodes[i];

                free(node->argv);
                free(node->env);
                free(node->cpus);
                free(node->inputs);
                free(node->outputs);
                free(node->after);
                free(node->pressure);
        }
        free(plan->pressure);
        free(plan->sorted);
        free(plan->nodes);
        json_decref(plan->json);
        free(plan);
        return NULL;
}
