/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/probe.h"
#include "cli/table.h"

typedef struct Validate {
        LoadOptions load;
        const char *path;
        bool strict, json;
} Validate;

/* Return: 0, CLI_USAGE, or CLI_FAILED without memory. */
static int read_arguments(Validate *v, int argc, char **argv)
{
        static const struct option options[] = {
                {"strict", no_argument, NULL, 's'},
                {"json", no_argument, NULL, 'j'},
                LOAD_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int c;

        optind = 0; /* starts over, also when another command line was read before */
        opterr = 0;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == 's')
                        v->strict = true;
                else if (c == 'j')
                        v->json = true;
                else if (c == '?')
                        return usage_error("validate", "unknown option or missing value: `%s`", argv[optind - 1]);
                else if (load_option(&v->load, c, optarg) < 0)
                        return CLI_FAILED;
        }
        if (argc - optind != 1)
                return usage_error("validate", "%s", argc == optind ? "which file?" : "one file only");
        v->path = argv[optind];
        return 0;
}

static void count_links(const json_t *plan, size_t *ret_links, size_t *ret_timers)
{
        json_t *node, *input;
        size_t i, k;

        *ret_links = *ret_timers = 0;
        json_array_foreach(json_object_get(plan, "nodes"), i, node)
                json_array_foreach(json_object_get(node, "inputs"), k, input)
                        ++*(json_object_get(json_object_get(input, "source"), "timer_ns") ? ret_timers : ret_links);
}

static const char *plural(size_t n)
{
        return n == 1 ? "" : "s";
}

static void print_summary(const Validate *v, const json_t *plan, const Diagnostics *diags)
{
        size_t n = json_array_size(json_object_get(plan, "nodes")), links, timers;

        count_links(plan, &links, &timers);
        printf("%s: valid: %zu node%s, %zu link%s", v->path, n, plural(n), links, plural(links));
        if (timers)
                printf(", %zu timer input%s", timers, plural(timers));
        if (diags->n_warnings)
                printf(", %u warning%s", diags->n_warnings, plural(diags->n_warnings));
        putchar('\n');
}

static int print_result_json(const Validate *v, bool ok, const json_t *plan, const Diagnostics *diags)
{
        _cleanup_(json_decrefp) json_t *result = NULL;
        json_t *list = diagnostics_to_json(diags);

        if (list)
                result = json_pack("{s:b, s:s%, s:i, s:i, s:o}", "ok", ok, "file", v->path,
                        utf8_valid(v->path, strlen(v->path)) ? strlen(v->path) : (size_t)0, "errors",
                        (int)diags->n_errors,
                        "warnings", (int)diags->n_warnings, "diagnostics", list);
        if (result && plan && json_object_set(result, "name", json_object_get(plan, "name")) < 0)
                return -ENOMEM;
        return result ? print_json(result) : -ENOMEM;
}

static int validate(Validate *v)
{
        _cleanup_(json_decrefp) json_t *plan = NULL;
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        Probe probe = PROBE_INIT;
        bool ok;
        int r;

        v->load.descriptor.probe = probe_program;
        v->load.descriptor.userdata = &probe;
        v->load.descriptor.n_cpus = cpus_here();
        r = descriptor_load(v->path, &v->load.descriptor, &plan, &diags);
        if (r < 0) {
                fprintf(stderr, "validate: %s\n", strerror(-r));
                return CLI_FAILED;
        }
        ok = r == 0 && !(v->strict && diags.n_warnings > 0);
        if (v->json) {
                if (print_result_json(v, ok, plan, &diags) < 0) {
                        fprintf(stderr, "validate: cannot write the result\n");
                        return CLI_FAILED;
                }
        } else {
                /* Warnings are errors when they make the command fail; else they belong to the result. */
                print_diagnostics(ok ? stdout : stderr, &diags, true);
                if (ok)
                        print_summary(v, plan, &diags);
        }
        if (fflush(stdout) == EOF)
                return CLI_FAILED;
        return ok ? CLI_OK : CLI_FAILED;
}

int cmd_validate(int argc, char **argv)
{
        Validate v = {.load = LOAD_OPTIONS_INIT};
        int r = read_arguments(&v, argc, argv);

        if (!r)
                r = validate(&v);
        load_options_done(&v.load);
        return r;
}
