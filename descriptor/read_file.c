/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"

#define PROBES_BUDGET_MAX 10000 /* a hundred CPUs */

static int node_compare(const void *a, const void *b)
{
        const NodeSpec *x = *(NodeSpec *const *)a, *y = *(NodeSpec *const *)b;
        int c = strcmp(x->id.s, y->id.s);

        return c ? c : x < y ? -1 : x > y;
}

/* Sorts the nodes that have an id, for file_find_node(); a second one of the same id is an error. */
static int index_nodes(Reader *reader, FileSpec *file)
{
        file->by_id = arena_alloc(reader->arena, file->n_nodes * sizeof(*file->by_id));
        if (!file->by_id)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < file->n_nodes; i++)
                if (file->nodes[i].id.s)
                        file->by_id[file->n_by_id++] = &file->nodes[i];
        qsort(file->by_id, file->n_by_id, sizeof(*file->by_id), node_compare);
        for (size_t i = 1; i < file->n_by_id; i++)
                if (strcmp(file->by_id[i - 1]->id.s, file->by_id[i]->id.s) == 0)
                        diagnostics_error(reader->diags, file->by_id[i]->id.span,
                                "duplicate node id %s (first in line %u)",
                                QUOTE(file->by_id[i]->id.s),
                                source_line_number(file->source, file->by_id[i - 1]->id.span.offset));
        return 0;
}

static int read_nodes(Reader *reader, const YamlNode *root, FileSpec *file)
{
        const YamlNode *nodes = yaml_get(root, "nodes", NULL);
        int r;

        file->broken = true;
        if (!nodes) {
                diagnostics_error(reader->diags, root->span,
                        "there is no key \"nodes\" (the list of programs to run)");
                return 0;
        }
        if (nodes->kind != YAML_LIST) {
                wrong_kind(reader, nodes, "nodes", "a list");
                return 0;
        }
        if (nodes->n == 0 || nodes->n > NODES_MAX) {
                diagnostics_error(reader->diags, nodes->span, "there must be 1 to %d nodes, not %zu", NODES_MAX,
                        nodes->n);
                return 0;
        }
        file->nodes = arena_alloc(reader->arena, nodes->n * sizeof(*file->nodes));
        if (!file->nodes)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < nodes->n; i++) {
                r = read_node(reader, nodes->items[i], &file->nodes[i]);
                if (r)
                        return error_fold(r);
        }
        file->n_nodes = nodes->n;
        file->broken = false;
        return index_nodes(reader, file);
}

static void read_debug(Reader *reader, const YamlNode *value)
{
        bool ignored;

        if (value && check_keys(reader, value, &keys_debug))
                read_bool(reader, yaml_get(value, "enable_debug_inspection", NULL), "enable_debug_inspection", &ignored);
}

/* "true", or a map: then what is not said is as with true. */
static void read_probes(Reader *reader, const YamlNode *value, ProbesSpec *ret)
{
        const YamlNode *budget = value && value->kind == YAML_MAP ? yaml_get(value, "budget", NULL) : NULL;

        if (!value)
                return;
        ret->calls = true;
        if (value->kind != YAML_MAP) {
                if (yaml_as_bool(value, &ret->calls) != 0)
                        wrong_kind(reader, value, "probes", "true, false or a map {calls, queues, budget}");
                ret->queues = ret->calls;
                return;
        }
        if (!check_keys(reader, value, &keys_probes))
                return;
        ret->queues = true;
        read_bool(reader, yaml_get(value, "calls", NULL), "calls", &ret->calls);
        read_bool(reader, yaml_get(value, "queues", NULL), "queues", &ret->queues);
        if (budget && (yaml_as_double(budget, &ret->budget) || !(ret->budget > 0) || ret->budget > PROBES_BUDGET_MAX))
                diagnostics_error(reader->diags, budget->span, "the budget of probes must be a percentage of one CPU, above 0 and up to %d", PROBES_BUDGET_MAX);
}

static int read_dataflow(Reader *reader, const YamlNode *root, FileSpec *file)
{
        int r;

        if (yaml_get(root, "module", NULL) && !yaml_get(root, "env", NULL)) {
                YamlNode *key;

                (void)yaml_get(root, "module", &key);
                diagnostics_error(reader->diags, key->span,
                        "this is a module file: it is used by a node of a dataflow (\"module: <file>\"), not run by "
                        "itself");
                file->broken = true;
                return 0;
        }
        if (!check_keys(reader, root, &keys_dataflow)) {
                file->broken = true;
                return 0;
        }
        read_debug(reader, yaml_get(root, "debug", NULL));
        read_bool_off(reader, yaml_get(root, "exit_when_nodes_finish", NULL), "exit_when_nodes_finish");
        read_bool_off(reader, yaml_get(root, "strict_types", NULL), "strict_types");
        read_on_failure(reader, yaml_get(root, "on_failure", NULL), &file->on_failure);
        read_stuck_timeout(reader, yaml_get(root, "stuck_timeout", NULL), &file->stuck_timeout_ns);
        read_placement(reader, yaml_get(root, "placement", NULL), &file->placement);
        read_probes(reader, yaml_get(root, "probes", NULL), &file->probes);
        r = read_resources(reader, root, &file->limits);
        if (!r)
                r = read_pressure(reader, root, &file->pressure);
        for (size_t i = 0; i < file->pressure.n; i++)
                if (file->pressure.items[i].action == PRESSURE_RESTART) {
                        diagnostics_error(reader->diags, file->pressure.items[i].action_span,
                                "a dataflow is not restarted: action restart of on_pressure is for nodes");
                        break;
                }
        if (!r)
                r = read_env(reader, yaml_get(root, "env", NULL), &file->env);
        return r ? r : read_nodes(reader, root, file);
}

static bool list_holds(const TextList *list, const char *s)
{
        for (size_t i = 0; i < list->n; i++)
                if (strcmp(list->items[i].s, s) == 0)
                        return true;
        return false;
}

static int read_module_header(Reader *reader, const YamlNode *header, FileSpec *file)
{
        int r;

        if (!check_keys(reader, header, &keys_module_header))
                return 0;
        if (!yaml_get(header, "name", NULL))
                diagnostics_error(reader->diags, header->span, "the module has no name");
        read_string(reader, yaml_get(header, "name", NULL), "name", &file->module_name);
        r = read_ids(reader, yaml_get(header, "inputs", NULL), "input", &file->inputs);
        if (!r)
                r = read_ids(reader, yaml_get(header, "inputs_optional", NULL), "optional input",
                        &file->inputs_optional);
        if (!r)
                r = read_ids(reader, yaml_get(header, "outputs", NULL), "output", &file->outputs);
        for (size_t i = 0; i < file->inputs_optional.n; i++)
                if (list_holds(&file->inputs, file->inputs_optional.items[i].s))
                        diagnostics_error(reader->diags, file->inputs_optional.items[i].span,
                                "input %s is either required or optional, not both",
                                QUOTE(file->inputs_optional.items[i].s));
        return r;
}

static int read_module(Reader *reader, const YamlNode *root, FileSpec *file)
{
        const YamlNode *header;
        int r;

        file->broken = true;
        if (!check_keys(reader, root, &keys_module_file))
                return 0;
        header = yaml_get(root, "module", NULL);
        if (!header) {
                diagnostics_error(reader->diags, root->span,
                        "a module file needs the key \"module\" (its name, inputs and outputs)");
                return 0;
        }
        r = read_module_header(reader, header, file);
        return r ? r : read_nodes(reader, root, file);
}

int read_file(Reader *reader, FileSpec **ret)
{
        unsigned errors = reader->diags->n_errors;
        FileSpec *file = arena_alloc(reader->arena, sizeof(*file));
        YamlNode *root;
        int r;

        if (!file)
                return error_origin(-ENOMEM);
        file->source = reader->source;
        file->stuck_timeout_ns = STUCK_TIMEOUT_UNSET;
        *ret = file;
        r = yaml_parse(&root, reader->arena, reader->source, reader->diags);
        if (r < 0)
                return error_fold(r);
        if (r || !root) {
                if (!r)
                        diagnostics_error_in(reader->diags, reader->source->name, "the file is empty");
                file->broken = true;
                return 0;
        }
        r = reader->is_module ? read_module(reader, root, file) : read_dataflow(reader, root, file);
        /* A module with errors is not instantiated: each would be told again for each use. */
        if (reader->is_module && reader->diags->n_errors != errors)
                file->broken = true;
        return r;
}
