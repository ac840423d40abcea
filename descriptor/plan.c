/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/plan.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "descriptor/program.h"
#include "descriptor/text.h"

#define PLAN_VERSION    1
#define FINISH_GRACE_NS (120 * NSEC_PER_SEC)
/* of environments laid over each other: what is overridden does not stay */
#define MERGE_BYTES_MAX (4 * PLAN_BYTES_MAX)
#define WORDS_MAX       65000 /* of args; the supervisor takes 65536 strings of argv */
#define QUEUE_SIZE      10 /* Dora's default */
#define STUCK_NS        (30 * NSEC_PER_SEC)

#define _cleanup_json_ _cleanup_(json_decrefp)

typedef struct Planner {
        const Expander *ex;
        const DescriptorOptions *options;
        const EnvList *env;
        const char *python; /* found once, when first needed */
        size_t bytes;       /* of the plan so far, at least */
} Planner;

/* What is not UTF-8 cannot go into a plan; only the caller's environment can bring it in. */
static int put_string(Planner *p, json_t *array_or_object, const char *key, const char *value, Span span)
{
        json_t *string;

        if (!utf8_valid(value, strlen(value))) {
                diagnostics_error(p->ex->diags, span, "the value is not UTF-8 text once expanded");
                return 0;
        }
        p->bytes += strlen(value) + (key ? strlen(key) + 6 : 3);
        string = json_string(value);
        if (!string)
                return error_origin(-ENOMEM);
        if (key ? json_object_set_new(array_or_object, key, string) : json_array_append_new(array_or_object, string))
                return error_origin(-ENOMEM);
        return 0;
}

static int put_env(Planner *p, json_t *env, const EnvList *list)
{
        for (size_t i = 0; i < list->n && p->bytes <= MERGE_BYTES_MAX; i++) {
                int r = put_string(p, env, list->items[i].name, list->items[i].value, list->items[i].span);

                if (r)
                        return r;
        }
        return 0;
}

/* The environment of the nodes around, the outermost first. */
static int put_scope_env(Planner *p, json_t *env, const Scope *scope)
{
        int r = scope->parent ? put_scope_env(p, env, scope->parent) : 0;

        return r || !scope->user ? r : put_env(p, env, &scope->user->env);
}

/* Last in the list are the outermost, so that the inner ones win. */
static int put_params(Planner *p, json_t *env, const Scope *scope)
{
        for (size_t i = scope->params.n; i-- > 0 && p->bytes <= MERGE_BYTES_MAX;) {
                const EnvItem *item = &scope->params.items[i];
                char name[sizeof("PARAM_") + ID_BYTES_MAX] = "PARAM_";
                size_t n = strlen(name);
                int r;

                for (const char *s = item->name; *s; s++)
                        name[n++] = (char)toupper((unsigned char)*s);
                name[n] = '\0';
                r = put_string(p, env, name, item->value, item->span);
                if (r)
                        return r;
        }
        return 0;
}

static size_t env_bytes(json_t *env)
{
        const char *key;
        json_t *value;
        size_t n = 0;

        json_object_foreach(env, key, value)
                n += strlen(key) + json_string_length(value) + 6;
        return n;
}

static int plan_env(Planner *p, const Leaf *leaf, json_t **ret)
{
        _cleanup_json_ json_t *env = json_object();
        size_t before = p->bytes;
        int r;

        if (!env)
                return error_origin(-ENOMEM);
        if (leaf->spec->is_dynamic) { /* has the one of whoever starts it */
                *ret = TAKE_PTR(env);
                return 0;
        }
        r = put_env(p, env, p->env);
        if (!r)
                r = put_scope_env(p, env, leaf->scope);
        if (!r)
                r = put_env(p, env, &leaf->spec->env);
        if (!r)
                r = put_params(p, env, leaf->scope);
        if (r)
                return error_fold(r);
        if (p->bytes <= MERGE_BYTES_MAX)
                p->bytes = before + env_bytes(env);
        *ret = TAKE_PTR(env);
        return 0;
}

static void report_program(Planner *p, const Leaf *leaf, const char *path, bool is_script)
{
        Diagnostics *diags = p->ex->diags;
        Span span = leaf->spec->path.span;

        if (!p->options->probe)
                return;
        if (path[0] != '/') {
                diagnostics_warning(diags, span, "program %s is neither beside the descriptor nor in $PATH",
                        QUOTE_PATH(path));
                return;
        }
        switch (p->options->probe(path, is_script, p->options->userdata)) {
        case PROGRAM_MISSING:
                diagnostics_warning(diags, span, "%s does not exist", QUOTE_PATH(path));
                break;
        case PROGRAM_DIRECTORY:
                diagnostics_warning(diags, span, "%s is a directory, not a program", QUOTE_PATH(path));
                break;
        case PROGRAM_NOT_EXECUTABLE:
                diagnostics_warning(diags, span, "%s is not executable", QUOTE_PATH(path));
                break;
        case PROGRAM_SILENT:
                diagnostics_warning(diags, span, "the file system of %s does not answer", QUOTE_PATH(path));
                break;
        default:
                break;
        }
}

/* As Dora has it: they are left out. (When no other is named, starting the node fails.) */
static void report_cpus(const Planner *p, const NodeSpec *spec)
{
        unsigned last = spec->n_cpus ? spec->cpus[spec->n_cpus - 1] : 0; /* they are sorted */

        if (p->options->n_cpus && last >= p->options->n_cpus)
                diagnostics_warning(p->ex->diags, spec->cpus_span,
                        "this machine has no CPU %u (its last one is %u); it is left out", last, p->options->n_cpus - 1);
}

/* args after the module's parameters were put in; NULL when there are none, or they could not be made (reported). */
static int leaf_args(Planner *p, const Leaf *leaf, const char **ret)
{
        const Text *args = &leaf->spec->args;
        const char *unknown;
        int r;

        *ret = args->s;
        if (!args->s || !leaf->scope->parent)
                return 0;
        r = params_substitute(p->ex->arena, args->s, &leaf->scope->params, ret, &unknown);
        if (r < 0)
                return error_fold(r);
        if (r) {
                *ret = NULL;
                diagnostics_error(p->ex->diags, args->span, "args are longer than %d bytes", STRING_MAX);
        } else if (unknown) {
                diagnostics_warning(p->ex->diags, args->span,
                        "the module was given no parameter %s; its place in args stays as it is",
                        QUOTE(unknown));
        }
        return 0;
}

static int put_words(Planner *p, json_t *argv, const Leaf *leaf, const char *args)
{
        const char **words = NULL;
        size_t n = 0;
        int r;

        if (!args)
                return 0;
        r = args_split(p->ex->arena, args, &words, &n);
        if (r < 0)
                return error_fold(r);
        if (r == TEXT_E_UNBALANCED)
                diagnostics_error(p->ex->diags, leaf->spec->args.span,
                        "a quote or a backslash in args is not finished");
        else if (r)
                diagnostics_error(p->ex->diags, leaf->spec->args.span, "a word of args is longer than %d bytes",
                        STRING_MAX);
        if (r == 0 && n > WORDS_MAX) {
                diagnostics_error(p->ex->diags, leaf->spec->args.span, "%zu words in args; at most %d are allowed", n,
                        WORDS_MAX);
                return 0;
        }
        for (size_t i = 0; i < n && r == 0 && p->bytes <= PLAN_BYTES_MAX; i++)
                r = put_string(p, argv, NULL, words[i], leaf->spec->args.span);
        return r > 0 ? 0 : r;
}

static int put_program(Planner *p, json_t *argv, const Leaf *leaf)
{
        const Text *spec = &leaf->spec->path;
        const char *path, *unknown;
        bool script;
        int r;

        r = path_expand(p->ex->arena, spec->s, &path, &unknown);
        if (r < 0)
                return error_fold(r);
        if (r) {
                if (r == TEXT_E_UNKNOWN)
                        diagnostics_error(
                                p->ex->diags, spec->span, "environment variable %s is not set", QUOTE(unknown));
                else
                        diagnostics_error(p->ex->diags, spec->span, "path is too long once it is expanded");
                return 0;
        }
        if (leaf->scope->parent && path[0] != '/' && !path_stays_below(path, leaf->scope->dir, p->ex->dir))
                diagnostics_error(p->ex->diags, spec->span, "path %s leads out of the folder of the dataflow",
                        QUOTE(path));
        script = program_is_python(path);
        if (script && !p->python) {
                p->python = program_find_python(p->ex->arena);
                if (!p->python)
                        return error_origin(-ENOMEM);
        }
        path = *path ? program_find(p->ex->arena, path, leaf->scope->dir) : path;
        if (!path)
                return error_origin(-ENOMEM);
        report_program(p, leaf, path, script);
        if (script && (r = put_string(p, argv, NULL, p->python, spec->span)))
                return r;
        if (script && (r = put_string(p, argv, NULL, "-u", spec->span)))
                return r;
        return put_string(p, argv, NULL, path, spec->span);
}

static int plan_argv(Planner *p, const Leaf *leaf, json_t **ret)
{
        _cleanup_json_ json_t *argv = json_array();
        const char *args;
        int r;

        if (!argv)
                return error_origin(-ENOMEM);
        r = leaf_args(p, leaf, &args);
        if (r)
                return error_fold(r);
        if (!leaf->spec->path.s || leaf->spec->is_dynamic) {
                r = 0; /* reported, or nothing of ours */
        } else if (strcmp(leaf->spec->path.s, "shell") == 0) {
                static const char *const shell[] = {"/bin/sh", "-c"};

                for (size_t i = 0; i < ELEMENTSOF(shell) && !r; i++)
                        r = put_string(p, argv, NULL, shell[i], leaf->spec->path.span);
                if (!r && args)
                        r = put_string(p, argv, NULL, args, leaf->spec->args.span);
        } else {
                r = put_program(p, argv, leaf);
                if (!r)
                        r = put_words(p, argv, leaf, args);
        }
        if (r)
                return error_fold(r);
        *ret = TAKE_PTR(argv);
        return 0;
}

static json_t *plan_source(const Link *link)
{
        if (!link->from)
                return json_pack("{s:I}", "timer_ns", (json_int_t)link->timer_ns);
        return json_pack("{s:s, s:s}", "node", link->from->id, "output", link->output);
}

static int plan_input(Planner *p, const Leaf *leaf, const Link *link, json_t **ret)
{
        const LinkOptions *o = &link->options;
        QueuePolicy policy = o->queue_policy == QUEUE_POLICY_UNSET ? QUEUE_POLICY_DROP_OLDEST : o->queue_policy;
        unsigned line = leaf->line;

        if (!leaf->scope->parent)
                line = source_line_number(leaf->scope->file->source, link->input->id.span.offset);
        p->bytes += 100 + strlen(link->input->id.s);
        if (link->from)
                p->bytes += strlen(link->from->id) + strlen(link->output);
        /* json_pack() fails, and releases what it was given, when the source is NULL. */
        *ret = json_pack("{s:s, s:i, s:o, s:i, s:s, s:I}", "id", link->input->id.s, "line", (int)line, "source",
                plan_source(link), "queue_size", (int)(o->queue_size ? o->queue_size : QUEUE_SIZE), "queue_policy",
                queue_policy_names[policy], "input_timeout_ns", (json_int_t)o->timeout_ns);
        return *ret ? 0 : error_origin(-ENOMEM);
}

static int plan_inputs(Planner *p, const Leaf *leaf, json_t **ret)
{
        _cleanup_json_ json_t *inputs = json_array();

        if (!inputs)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < leaf->n_links; i++) {
                json_t *input = NULL;
                int r = plan_input(p, leaf, &leaf->links[i], &input);

                if (r)
                        return error_fold(r);
                if (json_array_append_new(inputs, input))
                        return error_origin(-ENOMEM);
        }
        *ret = TAKE_PTR(inputs);
        return 0;
}

static int plan_outputs(Planner *p, const Leaf *leaf, json_t **ret)
{
        _cleanup_json_ json_t *outputs = json_array();
        int r = outputs ? 0 : error_origin(-ENOMEM);

        for (size_t i = 0; i < leaf->spec->outputs.n && !r; i++)
                r = put_string(p, outputs, NULL, leaf->spec->outputs.items[i].s, leaf->spec->outputs.items[i].span);
        if (r)
                return error_fold(r);
        *ret = TAKE_PTR(outputs);
        return 0;
}

static json_t *plan_cpus(const NodeSpec *spec)
{
        json_t *cpus = json_array();

        for (size_t i = 0; cpus && i < spec->n_cpus; i++)
                if (json_array_append_new(cpus, json_integer(spec->cpus[i]))) {
                        json_decref(cpus);
                        return NULL;
                }
        return cpus;
}

static json_t *plan_restart(const RestartSpec *r)
{
        return json_pack("{s:s, s:I, s:I, s:I, s:I}", "policy", restart_policy_names[r->policy],
                "max_restarts", (json_int_t)r->max_restarts, "delay_ns", (json_int_t)r->delay_ns,
                "max_delay_ns", (json_int_t)r->max_delay_ns, "window_ns", (json_int_t)r->window_ns);
}

static int plan_after(Planner *p, const Leaf *leaf, json_t **ret)
{
        _cleanup_json_ json_t *list = json_array();

        if (!list)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < leaf->n_after; i++) {
                const After *a = &leaf->after[i];

                p->bytes += 30 + strlen(a->leaf->id);
                if (json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "node", a->leaf->id, "until",
                                                        until_names[a->until], "line", (int)a->line)))
                        return error_origin(-ENOMEM);
        }
        *ret = TAKE_PTR(list);
        return 0;
}

static const char *node_kind(const NodeSpec *spec)
{
        return spec->is_dynamic ? "dynamic" : spec->n_inputs || spec->outputs.n ? "node" : "program";
}

/* What the dataflow says for all its nodes, also for those inside modules, unless they say it themselves. */
static const char *on_failure(const Planner *p, const NodeSpec *spec)
{
        OnFailure of = spec->on_failure ? spec->on_failure : p->ex->root->file->on_failure;

        if (spec->detach)
                return on_failure_names[ON_FAILURE_IGNORE]; /* there is nobody else */
        return on_failure_names[of ? of : ON_FAILURE_IGNORE];
}

static uint64_t stuck_timeout(const Planner *p, const NodeSpec *spec)
{
        uint64_t ns = spec->stuck_timeout_ns;

        if (ns == STUCK_TIMEOUT_UNSET)
                ns = p->ex->root->file->stuck_timeout_ns;
        if (ns == STUCK_TIMEOUT_UNSET)
                ns = STUCK_NS;
        /* What is ended for being stuck has been reported as stuck, at the latest then. */
        if (spec->health_check_timeout_ns && (ns == 0 || ns > spec->health_check_timeout_ns))
                ns = spec->health_check_timeout_ns;
        return ns;
}

/* Only what waits for a node shows whether it goes on, and the node's own timers do not. */
static void report_health_check(const Planner *p, const Leaf *leaf)
{
        if (!leaf->spec->health_check_timeout_ns || leaf->spec->is_dynamic)
                return;
        for (size_t i = 0; i < leaf->n_links; i++)
                if (leaf->links[i].from)
                        return;
        diagnostics_warning(p->ex->diags, leaf->spec->health_check_span,
                "health_check_timeout has no effect: no other node sends anything to node %s, so nothing can wait for it",
                QUOTE(leaf->id));
}

/* Keys that a plan has only where they say something. */
static int plan_optional(const Planner *p, const NodeSpec *spec, json_t *node)
{
        PlaceWish placement = spec->placement ? spec->placement : p->ex->root->file->placement;

        if (placement > PLACE_AUTO && !spec->is_dynamic && json_object_set_new(node, "placement", json_string(place_wish_names[placement])))
                return error_origin(-ENOMEM);
        if (spec->is_dynamic && json_object_set_new(node, "capture", json_boolean(spec->capture)))
                return error_origin(-ENOMEM);
        if (spec->detach && json_object_set_new(node, "detach", json_true()))
                return error_origin(-ENOMEM);
        if (spec->cgroup_writable && json_object_set_new(node, "cgroup_writable", json_true()))
                return error_origin(-ENOMEM);
        if (spec->wait != WAIT_ADAPTIVE && json_object_set_new(node, "wait", json_string(wait_mode_names[spec->wait])))
                return error_origin(-ENOMEM);
        if (spec->expected_message &&
                json_object_set_new(node, "expected_message", json_integer((json_int_t)spec->expected_message)))
                return error_origin(-ENOMEM);
        if (spec->health_check_timeout_ns &&
                json_object_set_new(node, "health_check_timeout_ns", json_integer((json_int_t)spec->health_check_timeout_ns)))
                return error_origin(-ENOMEM);
        return 0;
}

/* Of a node inside a module the line is that of the node that uses the module, as everywhere in the plan. */
static int plan_limits(Planner *p, const LimitsSpec *limits, const Source *source, unsigned line, json_t *object)
{
        json_t *map;

        if (limits->n == 0)
                return 0;
        map = json_object();
        if (!map || json_object_set_new(object, "resources", map))
                return error_origin(-ENOMEM);
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                const Text *value = &limits->values[i];

                if (!value->s)
                        continue;
                p->bytes += strlen(value->s) + 60;
                if (json_object_set_new(map, limit_name(i), json_pack("{s:s, s:i}", "value", value->s, "line",
                                                (int)(line ? line : source_line_number(source, value->span.offset)))))
                        return error_origin(-ENOMEM);
        }
        return 0;
}

/* The line is as in plan_limits(). */
static int plan_pressure(Planner *p, const PressureList *list, const Source *source, unsigned line, json_t *object)
{
        json_t *array;

        if (list->n == 0)
                return 0;
        array = json_array();
        if (!array || json_object_set_new(object, "on_pressure", array))
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < list->n; i++) {
                const PressureSpec *s = &list->items[i];

                p->bytes += 120;
                if (json_array_append_new(array, json_pack("{s:s, s:s, s:I, s:I, s:i}", "resource", pressure_names[s->kind], "action",
                                                         pressure_action_names[s->action], pressure_counts(s->kind) ? "times" : "threshold_ns", (json_int_t)s->threshold, "window_ns",
                                                         (json_int_t)s->window_ns, "line", (int)(line ? line : source_line_number(source, s->span.offset)))))
                        return error_origin(-ENOMEM);
        }
        return 0;
}

/* Some conditions are about its own limit alone; that may be set later, so this is no error. */
static void report_without_limit(const Planner *p, const PressureList *list, const LimitsSpec *limits)
{
        for (size_t i = 0; i < list->n; i++) {
                PressureKind kind = list->items[i].kind;
                int key = kind == PRESSURE_CPU_THROTTLED  ? LIMIT_CPU_MAX
                          : kind == PRESSURE_MEMORY_HIGH   ? LIMIT_MEMORY_HIGH
                          : kind == PRESSURE_FORKS_REFUSED ? LIMIT_PIDS_MAX
                                                           : -1;

                if (key >= 0 && !limits->values[key].s)
                        diagnostics_warning(p->ex->diags, list->items[i].span, "%s of on_pressure has no effect without a %s in resources beside it",
                                pressure_names[kind], limit_name((LimitKey)key));
        }
}

static int plan_node(Planner *p, const Leaf *leaf, json_t **ret)
{
        const NodeSpec *spec = leaf->spec;
        _cleanup_json_ json_t *argv = NULL, *env = NULL, *inputs = NULL, *outputs = NULL, *after = NULL;
        int r;

        p->bytes += 320 + strlen(leaf->id);
        report_cpus(p, spec);
        report_health_check(p, leaf);
        report_without_limit(p, &spec->pressure, &spec->limits);
        r = plan_env(p, leaf, &env);
        if (!r)
                r = plan_argv(p, leaf, &argv);
        if (!r)
                r = plan_inputs(p, leaf, &inputs);
        if (!r)
                r = plan_outputs(p, leaf, &outputs);
        if (!r)
                r = plan_after(p, leaf, &after);
        if (r)
                return error_fold(r);
        *ret = json_pack("{s:s, s:i, s:s, s:O, s:O, s:o, s:O, s:O, s:o, s:I, s:I, s:I, s:O, s:s, s:I}", "id", leaf->id,
                "line", (int)leaf->line, "kind", node_kind(spec),
                "argv", argv, "env", env, "cpu_affinity", plan_cpus(spec), "inputs", inputs, "outputs", outputs,
                "restart", plan_restart(&spec->restart), "startup_timeout_ns", (json_int_t)spec->startup_timeout_ns,
                "finish_grace_ns", (json_int_t)spec->finish_grace_ns, "pool_size", (json_int_t)spec->pool_size,
                "after", after, "on_failure", on_failure(p, spec), "stuck_timeout_ns",
                (json_int_t)stuck_timeout(p, spec));
        if (*ret && (plan_optional(p, spec, *ret) ||
                            plan_limits(p, &spec->limits, leaf->scope->file->source, leaf->scope->parent ? leaf->line : 0, *ret) ||
                            plan_pressure(p, &spec->pressure, leaf->scope->file->source, leaf->scope->parent ? leaf->line : 0, *ret))) {
                json_decref(*ret);
                *ret = NULL;
        }
        return *ret ? 0 : error_origin(-ENOMEM);
}

static void report_size(const Planner *p)
{
        diagnostics_error(p->ex->diags, (Span){.source = p->ex->root->file->source},
                "the plan would be larger than %zu bytes; shorten args and env, or use fewer nodes", PLAN_BYTES_MAX);
}

static void report_all_detached(const Planner *p)
{
        for (size_t i = 0; i < p->ex->n_leaves; i++)
                if (!p->ex->leaves[i]->spec->detach)
                        return;
        if (p->ex->n_leaves > 0)
                diagnostics_error(p->ex->diags, p->ex->leaves[0]->spec->detach_span,
                        "every node is detached, so no dataflow is left: leave \"detach\" out, for with the daemon a dataflow outlives the "
                        "command that started it");
}

static int plan_nodes(Planner *p, json_t *nodes)
{
        report_all_detached(p);
        for (size_t i = 0; i < p->ex->n_leaves; i++) {
                json_t *node = NULL;
                int r;

                if (p->bytes > PLAN_BYTES_MAX)
                        return 0;
                r = plan_node(p, p->ex->leaves[i], &node);
                if (r)
                        return error_fold(r);
                if (json_array_append_new(nodes, node))
                        return error_origin(-ENOMEM);
        }
        return 0;
}

/* Where there is something to count. */
static int plan_probes(const ProbesSpec *probes, json_t *plan)
{
        _cleanup_json_ json_t *object = json_object();

        if (!probes->calls && !probes->queues)
                return 0;
        if ((probes->calls && json_object_set_new(object, "calls", json_true())) || (probes->queues && json_object_set_new(object, "queues", json_true())) ||
                (probes->budget > 0 && json_object_set_new(object, "budget", json_real(probes->budget))) || json_object_set(plan, "probes", object))
                return error_origin(-ENOMEM);
        return 0;
}

int plan_build(const Expander *ex, const DescriptorOptions *options, const char *name, const char *file,
        const EnvList *env,
        json_t **ret)
{
        Planner p = {.ex = ex, .options = options, .env = env};
        _cleanup_json_ json_t *nodes = json_array(), *plan = NULL;
        int r;

        if (!nodes)
                return error_origin(-ENOMEM);
        r = plan_nodes(&p, nodes);
        if (r)
                return error_fold(r);
        plan = json_pack("{s:i, s:s, s:s, s:s, s:I, s:O}", "version", PLAN_VERSION, "name", name, "file", file,
                "dir", ex->dir, "finish_grace_ns", (json_int_t)FINISH_GRACE_NS, "nodes", nodes);
        if (!plan)
                return error_origin(-ENOMEM);
        r = plan_limits(&p, &ex->root->file->limits, ex->root->file->source, 0, plan);
        if (!r)
                r = plan_probes(&ex->root->file->probes, plan);
        if (!r)
                r = plan_pressure(&p, &ex->root->file->pressure, ex->root->file->source, 0, plan);
        report_without_limit(&p, &ex->root->file->pressure, &ex->root->file->limits);
        if (r)
                return error_fold(r);
        if (p.bytes > PLAN_BYTES_MAX || json_dumpb(plan, NULL, 0, JSON_COMPACT | JSON_SORT_KEYS) > PLAN_BYTES_MAX)
                report_size(&p);
        *ret = TAKE_PTR(plan);
        return 0;
}
