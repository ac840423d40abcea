/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/table.h"
#include "descriptor/graph.h"

typedef struct GraphCommand {
        LoadOptions load;
        const char *path;
        int format; /* 'm', 'd' or 'j' */
} GraphCommand;

/* Return: 0, CLI_USAGE, or CLI_FAILED without memory. */
static int read_arguments(GraphCommand *g, int argc, char **argv)
{
        static const struct option options[] = {
                {"mermaid", no_argument, NULL, 'm'},
                {"dot", no_argument, NULL, 'd'},
                {"json", no_argument, NULL, 'j'},
                LOAD_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int c;

        optind = 0; /* starts over, also when another command line was read before */
        opterr = 0;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c == '?')
                        return usage_error("graph", "unknown option or missing value: `%s`", argv[optind - 1]);
                if (c == 'm' || c == 'd' || c == 'j') {
                        if (g->format && g->format != c)
                                return usage_error("graph", "only one of --mermaid, --dot and --json");
                        g->format = c;
                } else if (load_option(&g->load, c, optarg) < 0) {
                        return CLI_FAILED;
                }
        }
        if (argc - optind != 1)
                return usage_error("graph", "%s", argc == optind ? "which file?" : "one file only");
        g->path = argv[optind];
        return 0;
}

static int draw(const GraphCommand *g, const json_t *plan)
{
        _cleanup_free_ char *text = NULL;
        int r;

        if (g->format == 'j')
                return print_json(plan);
        r = g->format == 'd' ? graph_dot(plan, &text) : graph_mermaid(plan, &text);
        if (r)
                return r;
        return fputs(text, stdout) == EOF || fflush(stdout) == EOF ? -EIO : 0;
}

static int graph(const GraphCommand *g)
{
        _cleanup_(json_decrefp) json_t *plan = NULL;
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        int r;

        r = descriptor_load(g->path, &g->load.descriptor, &plan, &diags);
        if (r == DESCRIPTOR_E_INVALID)
                print_diagnostics(stderr, &diags, false); /* warnings are for validate and run */
        else if (!r)
                r = draw(g, plan);
        if (r < 0)
                fprintf(stderr, "graph: %s\n", strerror(-r));
        return r ? CLI_FAILED : CLI_OK;
}

int cmd_graph(int argc, char **argv)
{
        GraphCommand g = {.load = LOAD_OPTIONS_INIT};
        int r = read_arguments(&g, argc, argv);

        if (!r)
                r = graph(&g);
        load_options_done(&g.load);
        return r;
}
