/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "descriptor/read.h"

#define STARTUP_TIMEOUT_NS (60 * NSEC_PER_SEC)
#define POOL_SIZE          0 /* not said: as large as the messages need, see supervisor/growth.h */
#define POOL_SIZE_MIN      (UINT64_C(64) << 10)
#define POOL_SIZE_MAX      (UINT64_C(1) << 30)
#define FINISH_GRACE_NS    (120 * NSEC_PER_SEC)

const char *const restart_policy_names[_RESTART_MAX + 1] = {
        [RESTART_NEVER] = "never",
        [RESTART_ON_FAILURE] = "on-failure",
        [RESTART_ALWAYS] = "always",
};

/* What a node is, by the one key that says so. */
typedef enum NodeKind {
        NODE_UNKNOWN,
        NODE_PATH,
        NODE_MODULE,
        NODE_CUSTOM,
        NODE_LATER, /* a kind this version refuses; its key was reported */
} NodeKind;

static const struct {
        const char *key;
        NodeKind kind;
} kind_keys[] = {
        {"path", NODE_PATH},
        {"module", NODE_MODULE},
        {"custom", NODE_CUSTOM},
        {"operator", NODE_LATER},
        {"operators", NODE_LATER},
        {"ros2", NODE_LATER},
        {"hub", NODE_LATER},
};

static NodeKind read_kind(Reader *reader, const YamlNode *map, Text id)
{
        const char *first = NULL;
        NodeKind kind = NODE_UNKNOWN;
        YamlNode *key;

        for (size_t i = 0; i < ELEMENTSOF(kind_keys); i++) {
                if (!yaml_get(map, kind_keys[i].key, &key))
                        continue;
                if (first)
                        diagnostics_error(reader->diags, key->span,
                                "a node has either \"%s\" or \"%s\", not both", first, kind_keys[i].key);
                else
                        kind = kind_keys[i].kind;
                first = first ? first : kind_keys[i].key;
        }
        if (kind == NODE_UNKNOWN && id.s)
                diagnostics_error(reader->diags, id.span, "node %s has no path (the program to run) and no module",
                        QUOTE(id.s));
        else if (kind == NODE_UNKNOWN)
                diagnostics_error(reader->diags, map->span,
                        "the node has no path (the program to run) and no module");
        return kind;
}

static void read_restart(Reader *reader, const YamlNode *map, RestartSpec *ret)
{
        const YamlNode *policy = yaml_get(map, "restart_policy", NULL);
        int64_t n;
        int choice;

        if (policy) {
                choice = read_choice(reader, policy, "restart_policy", restart_policy_names);
                if (choice >= 0)
                        ret->policy = (RestartPolicy)choice;
        }
        if (read_uint(reader, yaml_get(map, "max_restarts", NULL), "max_restarts", 0, UINT32_MAX, &n))
                ret->max_restarts = (unsigned)n;
        read_seconds(reader, yaml_get(map, "restart_delay", NULL), "restart_delay", true, &ret->delay_ns);
        read_seconds(reader, yaml_get(map, "max_restart_delay", NULL), "max_restart_delay", true, &ret->max_delay_ns);
        read_seconds(reader, yaml_get(map, "restart_window", NULL), "restart_window", true, &ret->window_ns);
}

/* Sorted and without duplicates: a set. */
static int read_cpus(Reader *reader, const YamlNode *value, NodeSpec *ret)
{
        bool wanted[CPU_MAX + 1] = {false};
        int64_t cpu;

        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_LIST) {
                wrong_kind(reader, value, "cpu_affinity", "a list of CPU numbers");
                return 0;
        }
        for (size_t i = 0; i < value->n; i++)
                if (read_uint(reader, value->items[i], "a CPU number", 0, CPU_MAX, &cpu))
                        wanted[cpu] = true;
        ret->cpus_span = value->span;
        ret->cpus = arena_alloc(reader->arena, MIN(value->n + 1, (size_t)CPU_MAX + 1) * sizeof(*ret->cpus));
        if (!ret->cpus)
                return error_origin(-ENOMEM);
        for (unsigned i = 0; i <= CPU_MAX; i++)
                if (wanted[i])
                        ret->cpus[ret->n_cpus++] = i;
        return 0;
}

static bool param_name_ok(Reader *reader, const YamlNode *key, const EnvList *before)
{
        const char *s = key->text;

        if (!*s || strlen(s) > ID_BYTES_MAX ||
                s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] != '\0') {
                diagnostics_error(reader->diags, key->span,
                        "parameter %s may only hold letters (a-z), digits and _, at most %d",
                        QUOTE(s), ID_BYTES_MAX);
                return false;
        }
        for (size_t i = 0; i < before->n; i++)
                if (strcasecmp(before->items[i].name, s) == 0) {
                        diagnostics_error(reader->diags, key->span,
                                "parameters %s and %s differ in case only; both would be the variable PARAM_%s",
                                QUOTE(before->items[i].name), QUOTE(s), s);
                        return false;
                }
        return true;
}

static int read_params(Reader *reader, const YamlNode *value, EnvList *ret)
{
        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_MAP || value->n > PORTS_MAX) {
                wrong_kind(reader, value, "params", value->kind == YAML_MAP ? "a map of at most 256 entries"
                        : "a map");
                return 0;
        }
        for (size_t i = 0; i < value->n; i++) {
                const YamlPair *pair = &value->pairs[i];
                EnvItem *slot;

                if (!param_name_ok(reader, pair->key, ret))
                        continue;
                if (pair->value->kind == YAML_NULL || pair->value->kind >= YAML_LIST) {
                        wrong_kind(reader, pair->value, "a parameter", "a string, a number or a boolean");
                        continue;
                }
                slot = arena_grow(reader->arena, &ret->items, ret->n, sizeof(EnvItem));
                if (!slot)
                        return error_origin(-ENOMEM);
                *slot = (EnvItem){.name = pair->key->text, .value = pair->value->text, .span = pair->value->span};
                ret->n++;
        }
        return 0;
}

static void check_path(Reader *reader, const NodeSpec *node)
{
        const char *path = node->path.s;

        if (!*path)
                diagnostics_error(reader->diags, node->path.span, "path is empty");
        else if (strlen(path) > 4095)
                diagnostics_error(reader->diags, node->path.span, "path is longer than 4095 bytes");
        else if (strncmp(path, "http://", 7) == 0 || strncmp(path, "https://", 8) == 0)
                diagnostics_error(
                        reader->diags, node->path.span,
                        "a URL as path is not supported yet by this version; download it first");
        else if (strcmp(path, "shell") == 0 && !reader->allow_shell_nodes)
                diagnostics_error(reader->diags, node->path.span,
                        "\"path: shell\" runs its args as a shell command; say --allow-shell-nodes to allow that");
        else if (strcmp(path, "shell") == 0 && !node->args.s)
                diagnostics_error(reader->diags, node->path.span, "\"path: shell\" needs args: the command");
}

/* Of the keys that need a process of ours none means anything for one that somebody else starts. */
static void check_dynamic(Reader *reader, const YamlNode *map)
{
        static const char *const ours[] = {"args", "env", "envs", "restart_policy", "max_restarts", "restart_delay",
                "max_restart_delay", "restart_window", "health_check_timeout", "cpu_affinity", "after", "cgroup_writable", "detach", "placement"};
        YamlNode *key;

        for (size_t i = 0; i < ELEMENTSOF(ours); i++)
                if (yaml_get(map, ours[i], &key))
                        diagnostics_error(reader->diags, key->span,
                                "key \"%s\" means nothing for a dynamic node: its process is started by hand",
                                ours[i]);
}

/* It becomes a dataflow of its own: nothing that ties it to the others means anything. */
static void check_detached(Reader *reader, const YamlNode *map)
{
        static const char *const ties[] = {"inputs", "outputs", "after", "on_failure", "stuck_timeout", "health_check_timeout"};
        YamlNode *key;

        for (size_t i = 0; i < ELEMENTSOF(ties); i++)
                if (yaml_get(map, ties[i], &key))
                        diagnostics_error(reader->diags, key->span,
                                "key \"%s\" means nothing with \"detach: true\": the node outlives the others and has no tie to them",
                                ties[i]);
}

static int read_order(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        const YamlNode *custom = yaml_get(map, "custom", NULL);
        YamlNode *key;

        ret->is_dynamic = ret->path.s && strcmp(ret->path.s, PATH_DYNAMIC) == 0;
        read_bool(reader, yaml_get(map, "capture", &key), "capture", &ret->capture);
        if (ret->is_dynamic) {
                check_dynamic(reader, map);
                if (custom)
                        check_dynamic(reader, custom);
        } else if (ret->path.s && yaml_get(map, "capture", &key)) {
                diagnostics_error(reader->diags, key->span,
                        "capture means something with \"path: dynamic\" only: "
                        "of any other node the process is ours from its birth");
        }
        read_bool(reader, yaml_get(map, "cgroup_writable", NULL), "cgroup_writable", &ret->cgroup_writable);
        read_bool(reader, yaml_get(map, "detach", &key), "detach", &ret->detach);
        if (ret->detach) {
                ret->detach_span = key->span;
                check_detached(reader, map);
                if (custom)
                        check_detached(reader, custom);
        }
        read_on_failure(reader, yaml_get(map, "on_failure", NULL), &ret->on_failure);
        read_placement(reader, yaml_get(map, "placement", NULL), &ret->placement);
        read_wait(reader, yaml_get(map, "wait", NULL), &ret->wait);
        read_stuck_timeout(reader, yaml_get(map, "stuck_timeout", NULL), &ret->stuck_timeout_ns);
        read_seconds(reader, yaml_get(map, "health_check_timeout", &key), "health_check_timeout", false,
                &ret->health_check_timeout_ns);
        if (ret->health_check_timeout_ns)
                ret->health_check_span = key->span;
        return read_after(reader, yaml_get(map, "after", NULL), ret);
}

static void check_outputs(Reader *reader, const YamlNode *map)
{
        const YamlNode *outputs = yaml_get(map, "outputs", NULL);

        if (outputs && outputs->kind == YAML_MAP)
                diagnostics_error(reader->diags, outputs->span, "outputs must be a list (- name), not a map");
}

/* The keys that say what runs: of a node itself, or of its `custom` in the older form. */
static int read_program(Reader *reader, const YamlNode *map, const char *path_key, const char *env_key, NodeSpec *ret)
{
        const YamlNode *outputs = yaml_get(map, "outputs", NULL);
        int r;

        read_string(reader, yaml_get(map, path_key, NULL), path_key, &ret->path);
        read_string(reader, yaml_get(map, "args", NULL), "args", &ret->args);
        if (ret->args.s && strlen(ret->args.s) > STRING_MAX) {
                diagnostics_error(reader->diags, ret->args.span, "args are longer than %d bytes", STRING_MAX);
                ret->args = (Text){NULL};
        }
        read_restart(reader, map, &ret->restart);
        check_outputs(reader, map);
        if (outputs && outputs->kind == YAML_MAP)
                ret->outputs.broken = true;
        else if ((r = read_ids(reader, outputs, "output", &ret->outputs)))
                return error_fold(r);
        r = read_env(reader, yaml_get(map, env_key, NULL), &ret->env);
        if (!r)
                r = read_inputs(reader, yaml_get(map, "inputs", NULL), ret);
        if (!r && ret->path.s)
                check_path(reader, ret);
        return r;
}

static int read_custom(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        static const char *const moved[] = {"args", "inputs", "outputs", "restart_policy"};
        YamlNode *key, *custom = yaml_get(map, "custom", &key);
        const char *path_key;

        diagnostics_warning(reader->diags, key->span,
                "\"custom\" is the form of an older Dora; its keys may stand in the node itself");
        for (size_t i = 0; i < ELEMENTSOF(moved); i++)
                if (yaml_get(map, moved[i], &key))
                        diagnostics_error(reader->diags, key->span, "key \"%s\" belongs into \"custom\" here",
                                moved[i]);
        if (!check_keys(reader, custom, &keys_custom))
                return 0;
        path_key = yaml_get(custom, "source", NULL) ? "source" : "path";
        if (!yaml_get(custom, path_key, NULL))
                diagnostics_error(reader->diags, custom->span, "\"custom\" has no source (the program to run)");
        return read_program(reader, custom, path_key, "envs", ret);
}

static int read_module_user(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        static const char *const allowed[] = {"id", "name", "description", "module", "params", "inputs", "env",
                "after"};
        int r;

        for (size_t i = 0; i < map->n; i++) {
                const YamlNode *key = map->pairs[i].key;
                const Key *known = keys_find(&keys_node, key->text);
                bool ok = !known || known->status != KEY_ACCEPTED || strcmp(key->text, "path") == 0 ||
                        strcmp(key->text, "custom") == 0; /* reported elsewhere */

                for (size_t k = 0; k < ELEMENTSOF(allowed); k++)
                        ok = ok || strcmp(key->text, allowed[k]) == 0;
                if (!ok)
                        diagnostics_error(reader->diags, key->span,
                                "key \"%s\" belongs to the nodes inside the module, not to the one that uses it",
                                key->text);
        }
        read_string(reader, yaml_get(map, "module", NULL), "module", &ret->module);
        r = read_env(reader, yaml_get(map, "env", NULL), &ret->env);
        if (!r)
                r = read_inputs(reader, yaml_get(map, "inputs", NULL), ret);
        if (!r)
                r = read_after(reader, yaml_get(map, "after", NULL), ret);
        return r ? r : read_params(reader, yaml_get(map, "params", NULL), &ret->params);
}

static void read_node_id(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        const YamlNode *id = yaml_get(map, "id", NULL);

        if (!id)
                diagnostics_error(reader->diags, map->span, "the node has no id");
        read_string(reader, id, "id", &ret->id);
        if (ret->id.s)
                /* reported; others may refer to it all the same */
                (void)node_id_ok(reader->diags, ret->id, "node id");
}

/* Half of a pool at the most: the other half is for what else there is. */
static void read_expected(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        YamlNode *key;

        read_size(reader, yaml_get(map, "expected_message_size", &key), "expected_message_size", 1, POOL_SIZE_MAX / 2,
                &ret->expected_message);
        if (ret->pool_size && ret->expected_message > ret->pool_size / 2)
                diagnostics_error(reader->diags, key->span,
                        "expected_message_size is more than half of shared_memory_pool_size (%llu bytes)",
                        (unsigned long long)ret->pool_size);
}

int read_node(Reader *reader, const YamlNode *map, NodeSpec *ret)
{
        Text ignored = {NULL};
        YamlNode *key;
        int r = 0;

        ret->startup_timeout_ns = STARTUP_TIMEOUT_NS;
        ret->finish_grace_ns = FINISH_GRACE_NS;
        ret->pool_size = POOL_SIZE;
        ret->stuck_timeout_ns = STUCK_TIMEOUT_UNSET;
        ret->id.span = map->span;
        if (!check_keys(reader, map, &keys_node))
                return 0;
        read_node_id(reader, map, ret);
        read_string(reader, yaml_get(map, "name", NULL), "name", &ignored);
        read_string(reader, yaml_get(map, "description", NULL), "description", &ignored);

        switch (read_kind(reader, map, ret->id)) {
        case NODE_MODULE:
                return read_module_user(reader, map, ret);
        case NODE_CUSTOM:
                r = read_env(reader, yaml_get(map, "env", NULL), &ret->env);
                if (!r)
                        r = read_custom(reader, map, ret);
                break;
        default:
                r = read_program(reader, map, "path", "env", ret);
        }
        if (yaml_get(map, "params", &key))
                diagnostics_error(reader->diags, key->span, "params mean something with a module only");
        read_seconds(reader, yaml_get(map, "startup_timeout", NULL), "startup_timeout", false,
                &ret->startup_timeout_ns);
        read_seconds(reader, yaml_get(map, "finish_grace_secs", NULL), "finish_grace_secs", true,
                &ret->finish_grace_ns);
        read_size(reader, yaml_get(map, "shared_memory_pool_size", NULL), "shared_memory_pool_size", POOL_SIZE_MIN,
                POOL_SIZE_MAX,
                &ret->pool_size);
        read_expected(reader, map, ret);
        if (!r)
                r = read_order(reader, map, ret);
        if (!r)
                r = read_resources(reader, map, &ret->limits);
        if (!r)
                r = read_pressure(reader, map, &ret->pressure);
        if (ret->is_dynamic && !ret->capture && yaml_get(map, "on_pressure", &key))
                diagnostics_error(reader->diags, key->span,
                        "on_pressure means nothing for a dynamic node without \"capture: true\": its process is in no cgroup of ours");
        for (size_t i = 0; i < ret->pressure.n; i++)
                if (ret->pressure.items[i].action == PRESSURE_RESTART && ret->restart.policy == RESTART_NEVER) {
                        diagnostics_error(reader->diags, ret->pressure.items[i].action_span,
                                "action restart of on_pressure needs a restart_policy of the node, on-failure or always");
                        break;
                }
        if (ret->is_dynamic && !ret->capture && yaml_get(map, "resources", &key))
                diagnostics_error(reader->diags, key->span,
                        "resources mean nothing for a dynamic node without \"capture: true\": its process is in no cgroup of ours");
        return r ? r : read_cpus(reader, yaml_get(map, "cpu_affinity", NULL), ret);
}
