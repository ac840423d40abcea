/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/expand.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"
#include "descriptor/suggest.h"
#include "descriptor/text.h"

#define FILES_MAX      256
#define FILE_BYTES_MAX ((size_t)8 << 20) /* of all modules together */

typedef struct LoadedFile {
        const char *path; /* resolved */
        const char *dir;
        FileSpec *spec;
} LoadedFile;

const NodeSpec *file_find_node(const FileSpec *file, const char *id)
{
        size_t low = 0, high = file->n_by_id;

        while (low < high) {
                size_t mid = low + (high - low) / 2;
                int c = strcmp(file->by_id[mid]->id.s, id);

                if (c == 0)
                        return file->by_id[mid];
                if (c < 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        return NULL;
}

static bool path_is_below(const char *path, const char *dir)
{
        size_t n = strlen(dir);

        return strncmp(path, dir, n) == 0 && (path[n] == '/' || (n > 0 && dir[n - 1] == '/'));
}

/* "a/b.yml" relative to where "x/y.yml" lies is "x/a/b.yml": how a module is called in messages. */
static const char *shown_name(Arena *arena, const char *user_file, const char *path)
{
        const char *slash = strrchr(user_file, '/');

        return arena_printf(arena, "%.*s%s", slash ? (int)(slash + 1 - user_file) : 0, user_file, path);
}

static int read_module_file(Expander *ex, const char *path, const char *name, Span blame, LoadedFile *ret)
{
        Reader reader = {.arena = ex->arena, .diags = ex->diags, .is_module = true,
                .allow_shell_nodes = ex->allow_shell_nodes};
        const char *slash = strrchr(path, '/');
        Source *source;
        int r;

        ret->path = arena_strndup(ex->arena, path, strlen(path));
        ret->dir = arena_strndup(ex->arena, path, slash == path ? 1 : (size_t)(slash - path));
        ret->spec = arena_alloc(ex->arena, sizeof(*ret->spec));
        if (!ret->path || !ret->dir || !ret->spec)
                return error_origin(-ENOMEM);
        ret->spec->broken = true;
        r = source_from_file(&source, ex->arena, path, name, blame, ex->diags);
        if (r)
                return r < 0 ? error_fold(r) : 0;
        ex->file_bytes += source->size;
        if (ex->file_bytes > FILE_BYTES_MAX) {
                diagnostics_error(ex->diags, blame, "the modules are larger than %zu bytes altogether",
                        FILE_BYTES_MAX);
                return 0;
        }
        reader.source = source;
        return read_file(&reader, &ret->spec);
}

/* Each file is read once, however often it is used. *ret is NULL when it may not be used (reported). */
static int load_module(Expander *ex, const Scope *scope, const NodeSpec *user, const LoadedFile **ret)
{
        Span blame = user->module.span;
        char real[PATH_MAX];
        const char *path, *name;
        LoadedFile *slot;
        int r;

        *ret = NULL;
        if (user->module.s[0] == '/') {
                diagnostics_error(ex->diags, blame, "the path of a module must be relative");
                return 0;
        }
        path = arena_printf(ex->arena, "%s/%s", scope->dir, user->module.s);
        name = shown_name(ex->arena, scope->file->source->name, user->module.s);
        if (!path || !name)
                return error_origin(-ENOMEM);
        if (!realpath(path, real)) {
                diagnostics_error(ex->diags, blame, "module %s cannot be read: %s", QUOTE_PATH(user->module.s),
                        strerror(errno));
                return 0;
        }
        if (!path_is_below(real, ex->dir)) {
                diagnostics_error(ex->diags, blame, "module %s lies outside the folder of the dataflow",
                        QUOTE_PATH(user->module.s));
                return 0;
        }
        for (size_t i = 0; i < ex->n_files; i++)
                if (strcmp(ex->files[i].path, real) == 0) {
                        *ret = &ex->files[i];
                        return 0;
                }
        if (ex->n_files == FILES_MAX) {
                diagnostics_error(ex->diags, blame, "more than %d module files", FILES_MAX);
                return 0;
        }
        slot = &ex->files[ex->n_files++];
        r = read_module_file(ex, real, name, blame, slot);
        if (r)
                return error_fold(r);
        *ret = slot;
        return 0;
}

static bool module_is_cyclic(Expander *ex, const Scope *scope, const FileSpec *file, Span blame)
{
        unsigned depth = 1;

        for (const Scope *s = scope; s; s = s->parent, depth++)
                if (s->file == file) {
                        diagnostics_error(ex->diags, blame, "module %s uses itself", QUOTE_PATH(file->source->name));
                        return true;
                }
        if (depth > MODULE_DEPTH_MAX + 1) {
                diagnostics_error(ex->diags, blame, "modules are nested deeper than %d", MODULE_DEPTH_MAX);
                return true;
        }
        return false;
}

/* The id as it will be: prefixed. Reported when it grows too long. NULL without memory. */
static const char *flat_id(Expander *ex, const Scope *scope, const NodeSpec *spec)
{
        const char *id = arena_printf(ex->arena, "%s%s", scope->prefix, spec->id.s);

        if (id && *scope->prefix && strlen(id) > ID_BYTES_MAX)
                diagnostics_error(ex->diags, spec->id.span,
                        "node id %s is longer than %d bytes once the module is expanded",
                        QUOTE(id), ID_BYTES_MAX);
        return id;
}

static int add_leaf(Expander *ex, Scope *scope, size_t index)
{
        const NodeSpec *spec = &scope->file->nodes[index];
        Leaf *leaf, **slot;

        if (ex->n_leaves == NODES_MAX) {
                diagnostics_error(ex->diags, scope->user ? scope->user->id.span : spec->id.span,
                        "more than %d nodes once the modules are expanded", NODES_MAX);
                return 0;
        }
        leaf = arena_alloc(ex->arena, sizeof(*leaf));
        slot = arena_grow(ex->arena, &ex->leaves, ex->n_leaves, sizeof(Leaf *));
        if (!leaf || !slot)
                return error_origin(-ENOMEM);
        *leaf = (Leaf){.spec = spec, .scope = scope, .index = ex->n_leaves};
        leaf->line = scope->parent ? scope->line : source_line_number(scope->file->source, spec->id.span.offset);
        leaf->id = flat_id(ex, scope, spec);
        if (!leaf->id)
                return error_origin(-ENOMEM);
        scope->leaves[index] = leaf;
        *slot = leaf;
        ex->n_leaves++;
        return 0;
}

static const InputSpec *find_input(const NodeSpec *node, const char *id)
{
        for (size_t i = 0; i < node->n_inputs; i++)
                if (strcmp(node->inputs[i].id.s, id) == 0)
                        return &node->inputs[i];
        return NULL;
}

static bool list_offer(const TextList *list, const char *s, Suggest *suggest)
{
        for (size_t i = 0; i < list->n; i++) {
                if (strcmp(list->items[i].s, s) == 0)
                        return true;
                suggest_offer(suggest, list->items[i].s);
        }
        return list->broken;
}

/* What the user wires against what the module declares. */
static void check_ports(Expander *ex, const NodeSpec *user, const FileSpec *file)
{
        for (size_t i = 0; i < user->n_inputs; i++) {
                const Text *id = &user->inputs[i].id;
                Suggest suggest = SUGGEST_INIT(id->s);

                if (!list_offer(&file->inputs, id->s, &suggest) &&
                        !list_offer(&file->inputs_optional, id->s, &suggest))
                        diagnostics_error_hint(
                                ex->diags, id->span, suggest.best, "the module has no input %s", QUOTE(id->s));
        }
        for (size_t i = 0; i < file->inputs.n; i++)
                if (!find_input(user, file->inputs.items[i].s))
                        diagnostics_error(ex->diags, user->id.span, "input %s of the module must be wired here",
                                QUOTE(file->inputs.items[i].s));
}

static int take_params(Expander *ex, Scope *scope)
{
        const EnvList *own = &scope->user->params, *outer = &scope->parent->params;
        EnvList all = {.items = arena_alloc(ex->arena, (own->n + outer->n + 1) * sizeof(EnvItem))};
        const char *unknown;
        int r;

        if (!all.items)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < own->n; i++) {
                EnvItem item = own->items[i];

                /* A module may hand its own parameters down. */
                if (scope->parent->parent) {
                        r = params_substitute(ex->arena, item.value, outer, &item.value, &unknown);
                        if (r < 0)
                                return error_fold(r);
                        if (r)
                                diagnostics_error(ex->diags, item.span, "the parameter is longer than %d bytes",
                                        STRING_MAX);
                }
                all.items[all.n++] = item;
        }
        for (size_t i = 0; i < outer->n; i++)
                all.items[all.n++] = outer->items[i];
        scope->params = all;
        return 0;
}

static bool node_produces(const Scope *scope, size_t index, const char *output)
{
        const NodeSpec *node = &scope->file->nodes[index];
        const TextList *outputs = &node->outputs;

        if (node->module.s)
                outputs = scope->children[index] ? &scope->children[index]->file->outputs : NULL;
        for (size_t i = 0; outputs && i < outputs->n; i++)
                if (strcmp(outputs->items[i].s, output) == 0)
                        return true;
        return false;
}

/* Each declared output of a module comes from exactly one of its nodes. */
static int find_producers(Expander *ex, Scope *scope)
{
        const FileSpec *file = scope->file;

        scope->producers = arena_alloc(ex->arena, (file->outputs.n + 1) * sizeof(*scope->producers));
        if (!scope->producers)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < file->outputs.n; i++) {
                const Text *output = &file->outputs.items[i];
                size_t n = 0, found = SIZE_MAX;

                for (size_t k = 0; k < file->n_nodes; k++)
                        if (node_produces(scope, k, output->s) && n++ == 0)
                                found = k;
                scope->producers[i] = n == 1 ? found : SIZE_MAX;
                if (n == 0)
                        diagnostics_error(ex->diags, output->span, "no node of the module has the output %s",
                                QUOTE(output->s));
                else if (n > 1)
                        diagnostics_error(ex->diags, output->span, "%zu nodes of the module have the output %s", n,
                                QUOTE(output->s));
        }
        return 0;
}

static int expand_module(Expander *ex, Scope *scope, size_t index)
{
        const NodeSpec *user = &scope->file->nodes[index];
        const LoadedFile *loaded;
        int r;

        r = load_module(ex, scope, user, &loaded);
        if (r || !loaded || loaded->spec->broken)
                return r;
        if (module_is_cyclic(ex, scope, loaded->spec, user->module.span))
                return 0;
        if (++ex->n_scopes > NODES_MAX) {
                diagnostics_error(ex->diags, user->module.span, "modules are used more than %d times", NODES_MAX);
                return 0;
        }
        check_ports(ex, user, loaded->spec);
        return expand_scope(ex, loaded->spec, scope, user, loaded->dir, &scope->children[index]);
}

int expand_scope(Expander *ex, const FileSpec *file, Scope *parent, const NodeSpec *user, const char *dir,
        Scope **ret)
{
        Scope *scope = arena_alloc(ex->arena, sizeof(*scope));
        int r;

        if (!scope)
                return error_origin(-ENOMEM);
        *scope = (Scope){.parent = parent, .user = user, .file = file, .dir = dir, .prefix = ""};
        scope->leaves = arena_alloc(ex->arena, file->n_nodes * sizeof(*scope->leaves));
        scope->children = arena_alloc(ex->arena, file->n_nodes * sizeof(*scope->children));
        if (!scope->leaves || !scope->children)
                return error_origin(-ENOMEM);
        if (parent) {
                scope->line = parent->parent ? parent->line
                        : source_line_number(parent->file->source, user->id.span.offset);
                scope->prefix = arena_printf(ex->arena, "%s%s.", parent->prefix, user->id.s);
                if (!scope->prefix)
                        return error_origin(-ENOMEM);
                r = take_params(ex, scope);
                if (r)
                        return error_fold(r);
        }
        *ret = scope;
        for (size_t i = 0; i < file->n_nodes; i++) {
                if (!file->nodes[i].id.s)
                        continue; /* reported; nothing can refer to it */
                r = file->nodes[i].module.s ? expand_module(ex, scope, i) : add_leaf(ex, scope, i);
                if (r)
                        return error_fold(r);
        }
        return parent ? find_producers(ex, scope) : 0;
}

static int leaf_compare(const void *a, const void *b)
{
        const Leaf *x = *(Leaf *const *)a, *y = *(Leaf *const *)b;
        int c = strcmp(x->id, y->id);

        return c ? c : x->index < y->index ? -1 : x->index > y->index;
}

static int index_leaves(Expander *ex)
{
        ex->by_id = arena_alloc(ex->arena, (ex->n_leaves + 1) * sizeof(*ex->by_id));
        if (!ex->by_id)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < ex->n_leaves; i++)
                ex->by_id[i] = ex->leaves[i];
        qsort(ex->by_id, ex->n_leaves, sizeof(*ex->by_id), leaf_compare);
        for (size_t i = 1; i < ex->n_leaves; i++) {
                const Leaf *x = ex->by_id[i - 1], *y = ex->by_id[i];

                if (x->scope != y->scope && strcmp(x->id, y->id) == 0)
                        diagnostics_error(ex->diags, y->spec->id.span,
                                "two nodes are called %s once the modules are expanded",
                                QUOTE(y->id));
        }
        return 0;
}

int expand(Expander *ex, const FileSpec *file)
{
        int r;

        ex->files = arena_alloc(ex->arena, FILES_MAX * sizeof(*ex->files));
        if (!ex->files)
                return error_origin(-ENOMEM);
        r = expand_scope(ex, file, NULL, NULL, ex->dir, &ex->root);
        if (!r)
                r = index_leaves(ex);
        if (!r)
                r = resolve_links(ex);
        if (!r)
                r = resolve_order(ex);
        if (!r)
                r = warn_of_cycles(ex);
        return r ? error_fold(r) : 0;
}
