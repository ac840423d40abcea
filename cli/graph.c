/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "descriptor/graph.h"

static const char usage[] = "usage: tidegate graph [OPTIONS] FILE\n"
                            "\n"
                            "Draw a dataflow as text.\n"
                            "\n"
                            "  --mermaid            for Mermaid (default)\n"
                            "  --dot                for Graphviz\n"
                            "  --json               the plan: nodes and links as JSON\n" LOAD_OPTIONS_HELP
                            "  -h, --help           this text\n"
                            "\n"
                            "Exit status: 0 drawn, 1 the file is not valid, 2 wrong usage.\n";

typedef struct GraphCommand {
        LoadOptions load;
        const char *path;
        int format; /* 'm', 'd' or 'j' */
        bool help;
} GraphCommand;

/* Return: 0, CLI_USAGE, or CLI_FAILED without memory. */
static int read_arguments(GraphCommand *g, int argc, char **argv)
{
        static const struct option options[] = {
                {"mermaid", no_argument, NULL, 'm'},
                {"dot", no_argument, NULL, 'd'},
                {"json", no_argument, NULL, 'j'},
                {"help", no_argument, NULL, 'h'},
                LOAD_LONG_OPTIONS,
                {NULL, 0, NULL, 0},
        };
        int c;

        optind = 0; /* starts over, also when another command line was read before */
        while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
                if (c == '?')
                        return CLI_USAGE;
                if (c == 'h') {
                        g->help = true;
                } else if (c == 'm' || c == 'd' || c == 'j') {
                        if (g->format && g->format != c) {
                                fprintf(stderr, "graph: only one of --mermaid, --dot and --json\n");
                                return CLI_USAGE;
                        }
                        g->format = c;
                } else if (load_option(&g->load, c, optarg) < 0) {
                        return CLI_FAILED;
                }
        }
        if (g->help)
                return 0;
        if (argc - optind != 1) {
                fprintf(stderr, "graph: %s\n%s", argc == optind ? "which file?" : "one file only", usage);
                return CLI_USAGE;
        }
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

        if (!r && g.help)
                fputs(usage, stdout);
        else if (!r)
                r = graph(&g);
        load_options_done(&g.load);
        return r;
}
