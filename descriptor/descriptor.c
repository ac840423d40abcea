/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/descriptor.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/expand.h"
#include "descriptor/plan.h"
#include "descriptor/read.h"

/* All that is read of one descriptor: trees of 1 MiB files need some tens of MiB. */
#define ARENA_BUDGET ((size_t)256 << 20)

#define NAME_BYTES_MAX 128

static bool name_ok(const char *s)
{
        size_t n = strlen(s);

        return n > 0 && n <= NAME_BYTES_MAX && *s != '.' &&
                s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")] == '\0';
}

/* "/x/audio/dataflow.yml" is called audio, "/x/arm.yml" arm. */
static const char *default_name(Arena *arena, const char *file)
{
        const char *end = strrchr(file, '/'), *start = end ? end + 1 : file, *dot = strrchr(start, '.');
        size_t n = dot && dot > start ? (size_t)(dot - start) : strlen(start);
        char *name;

        if (n == strlen("dataflow") && strncmp(start, "dataflow", n) == 0 && end && end > file) {
                for (start = end; start > file && start[-1] != '/'; start--)
                        ;
                n = (size_t)(end - start);
        }
        name = arena_strndup(arena, start, MIN(n, (size_t)NAME_BYTES_MAX));
        if (!name)
                return NULL;
        for (char *p = name; *p; p++)
                if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", *p) ||
                        (p == name && *p == '.'))
                        *p = '_';
        return *name ? name : "dataflow";
}

/* Root environment, then what the command line says. */
static int merge_env(Arena *arena, const DescriptorOptions *options, const EnvList *root, EnvList *ret,
        Diagnostics *diags)
{
        *ret = (EnvList){.items = arena_alloc(arena, (root->n + options->n_env + 1) * sizeof(EnvItem))};
        if (!ret->items)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < root->n; i++)
                ret->items[ret->n++] = root->items[i];
        for (size_t i = 0; i < options->n_env; i++) {
                const char *equals = strchr(options->env[i], '=');
                EnvItem item = {.value = equals ? equals + 1 : NULL};

                if (!equals) {
                        diagnostics_error_in(diags, NULL, "--env needs KEY=VALUE, not %s", QUOTE(options->env[i]));
                        continue;
                }
                item.name = arena_strndup(arena, options->env[i], (size_t)(equals - options->env[i]));
                if (!item.name)
                        return error_origin(-ENOMEM);
                if (!env_name_ok(diags, SEVERITY_ERROR, (Span){0}, item.name))
                        continue;
                if (strchr(item.value, '$') || strlen(item.value) > STRING_MAX ||
                        !utf8_valid(options->env[i], strlen(options->env[i]))) {
                        diagnostics_error_in(diags, NULL,
                                "--env %s: the value must be UTF-8 text of at most %d bytes without $",
                                item.name, STRING_MAX);
                        continue;
                }
                ret->items[ret->n++] = item;
        }
        return 0;
}

static int build(Arena *arena, const Source *source, const char *file, const DescriptorOptions *options,
        json_t **ret_plan,
        Diagnostics *diags)
{
        Reader reader = {.arena = arena, .diags = diags, .source = source,
                .allow_shell_nodes = options->allow_shell_nodes};
        Expander ex = {.arena = arena, .diags = diags, .allow_shell_nodes = options->allow_shell_nodes};
        const char *name = options->name, *slash = strrchr(file, '/');
        FileSpec *spec;
        EnvList env;
        int r;

        ex.dir = arena_strndup(arena, file, slash == file ? 1 : (size_t)(slash - file));
        if (!name)
                name = default_name(arena, file);
        if (!ex.dir || !name)
                return error_origin(-ENOMEM);
        if (!name_ok(name))
                diagnostics_error_in(diags, NULL,
                        "name %s must be letters (a-z), digits, _ . and -, at most %d, not beginning with a dot",
                        QUOTE(name),
                        NAME_BYTES_MAX);
        r = read_file(&reader, &spec);
        if (!r)
                r = merge_env(arena, options, &spec->env, &env, diags);
        if (r || spec->broken)
                return r;
        r = expand(&ex, spec);
        return r ? error_fold(r) : plan_build(&ex, options, name, file, &env, ret_plan);
}

static int load(const void *data, size_t size, const char *path, const char *file, const DescriptorOptions *options,
        json_t **ret_plan, Diagnostics *diags)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(ARENA_BUDGET);
        unsigned errors = diags->n_errors;
        json_t *plan = NULL;
        Source *source;
        int r;

        r = data ? source_from_memory(&source, &arena, path, data, size, diags)
                 : source_from_file(&source, &arena, file, path, (Span){0}, diags);
        if (!r)
                r = build(&arena, source, file, options, &plan, diags);
        diagnostics_sort(diags);
        if (r < 0 || diags->n_errors != errors || !plan) {
                json_decref(plan);
                return r < 0 ? error_fold(r) : DESCRIPTOR_E_INVALID;
        }
        *ret_plan = plan;
        return 0;
}

static const DescriptorOptions no_options = DESCRIPTOR_OPTIONS_INIT;

int descriptor_load(const char *path, const DescriptorOptions *options, json_t **ret_plan, Diagnostics *diags)
{
        char file[PATH_MAX];

        if (!realpath(path, file)) {
                diagnostics_error_in(diags, path, "cannot be read: %s", strerror(errno));
                return DESCRIPTOR_E_INVALID;
        }
        if (!utf8_valid(file, strlen(file))) {
                diagnostics_error_in(diags, path, "the path of a descriptor must be UTF-8 text");
                return DESCRIPTOR_E_INVALID;
        }
        return load(NULL, 0, path, file, options ? options : &no_options, ret_plan, diags);
}

int descriptor_parse(const void *data, size_t size, const char *file, const DescriptorOptions *options,
        json_t **ret_plan,
        Diagnostics *diags)
{
        return load(data ? data : "", data ? size : 0, file, file, options ? options : &no_options, ret_plan, diags);
}
