/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/load.h"

/*
 * These are linked in only when their libraries were found (cli/meson.build). A weak reference that nothing defines is
 * NULL, and the table then says what the build lacked: no list of features has to be kept in step by hand.
 */
#pragma weak cmd_run
#pragma weak cmd_validate
#pragma weak cmd_graph

const Command cli_commands[] = {
        {
                .name = "run",
                .synopsis = "FILE [--stop-after D] [--grace-duration D] [--name N] [--json]",
                .summary = "run a dataflow in the foreground, from start to bounded stop",
                .details = "Needs no daemon and no fixed port; any number run side by side. Needs root, or as an ordinary\n"
                           "user to run within a cgroup that is delegated to that user, as\n"
                           "`systemd-run --user --scope -p Delegate=yes tidegate run FILE` does; `tidegate doctor`\n"
                           "says whether it is. Ctrl-C once stops gracefully, twice stops now, three times aborts;\n"
                           "each ends in bounded time. The exit status says whether the dataflow succeeded.\n"
                           "\n"
                           "  --stop-after D       stop after this time (as if Ctrl-C was pressed): 500ms, 2s, 1m\n"
                           "  --grace-duration D   time nodes get to end by themselves, default 10s; the whole stop\n"
                           "                       takes at most 1.5 times as long, and 2 s to kill what is left\n"
                           "  --name N             name of the dataflow, default the file's\n"
                           "  --env K=V            set a variable for every node (a node's own env wins); may be repeated\n"
                           "  --allow-shell-nodes  accept nodes with `path: shell`\n"
                           "  --cgroup-root DIR    make the cgroups below DIR instead of where `doctor` says\n"
                           "  --json               one JSON object per event on stdout\n",
                .main = cmd_run,
        },
        {
                .name = "validate",
                .synopsis = "FILE [--strict] [--json]",
                .summary = "check a descriptor, with line, column and a hint for each error",
                .details = "Starts nothing. Exit status 0 when the descriptor is valid, 1 when it is not.\n"
                           "\n"
                           "  --strict             warnings count as errors\n"
                           "  --json               the verdict, errors and warnings as JSON\n" LOAD_OPTIONS_HELP,
                .main = cmd_validate,
        },
        {
                .name = "graph",
                .synopsis = "FILE [--mermaid | --dot | --json]",
                .summary = "print a descriptor's graph as Mermaid or DOT text",
                .details = "  --mermaid            Mermaid flowchart (the default)\n"
                           "  --dot                Graphviz DOT\n"
                           "  --json               the plan itself\n" LOAD_OPTIONS_HELP,
                .main = cmd_graph,
        },
        {
                .name = "doctor",
                .synopsis = "[--json]",
                .summary = "what this kernel and host can promise, each feature probed by trying it",
                .details = "Tries every feature in a child process with a deadline and removes what it made. Exit\n"
                           "status 0 when `tidegate run` can keep its promises here, 1 when one is weaker: the last\n"
                           "lines say which, and why.\n"
                           "\n"
                           "  --json               one JSON object: probes, backends, promises\n",
                .main = cmd_doctor,
        },
        {
                .name = "version",
                .synopsis = "[--json]",
                .summary = "version, compiler, libraries and kernel",
                .details = "  --json               the same as a JSON object\n",
                .main = cmd_version,
        },
        {
                .name = "help",
                .synopsis = "[COMMAND]",
                .summary = "this list, or the help of one command",
                .details = "`tidegate COMMAND --help` prints the same.\n",
                .main = cmd_help,
        },
};
const size_t n_cli_commands = ELEMENTSOF(cli_commands);

const Command *command_find(const char *name)
{
        for (size_t i = 0; i < n_cli_commands; i++)
                if (strcmp(cli_commands[i].name, name) == 0)
                        return &cli_commands[i];
        return NULL;
}

/* Edit distance with neighbouring letters swapped counting once (`rnu`); names longer than any command are far. */
static unsigned distance(const char *a, const char *b)
{
        enum { LONGEST = 24 };
        unsigned d[LONGEST + 1][LONGEST + 1];
        size_t n = strlen(a), m = strlen(b);

        if (n > LONGEST || m > LONGEST)
                return LONGEST;
        for (size_t i = 0; i <= n; i++) {
                for (size_t j = 0; j <= m; j++) {
                        unsigned best;

                        if (i == 0 || j == 0) {
                                d[i][j] = (unsigned)(i + j);
                                continue;
                        }
                        best = MIN(d[i - 1][j] + 1, d[i][j - 1] + 1);
                        best = MIN(best, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                best = MIN(best, d[i - 2][j - 2] + 1);
                        d[i][j] = best;
                }
        }
        return d[n][m];
}

const Command *command_nearest(const char *name)
{
        const Command *nearest = NULL;
        unsigned best = 0;

        for (size_t i = 0; i < n_cli_commands; i++) {
                const char *known = cli_commands[i].name;
                unsigned d = distance(name, known);

                /* A beginning of at least two letters is meant ("val"); else at most a third of it may be wrong. */
                if (strlen(name) >= 2 && strncmp(name, known, strlen(name)) == 0)
                        d = 0;
                else if (d > MAX(strlen(known) / 3, (size_t)1))
                        continue;
                if (!nearest || d < best) {
                        nearest = &cli_commands[i];
                        best = d;
                }
        }
        return nearest;
}

const char *command_absence(const Command *command)
{
        /* All of them parse descriptors; with libfyaml there, a part of the tree itself is missing. */
        return FYAML_VERSION[0] ? "" : ": it was made without libfyaml";
}

void command_print_help(const Command *command)
{
        printf("usage: tidegate %s %s\n\n%c%s.\n", command->name, command->synopsis,
                toupper((unsigned char)command->summary[0]), command->summary + 1);
        if (!command->main)
                printf("This build has no `%s`%s.\n", command->name, command_absence(command));
        if (command->details[0])
                printf("\n%s", command->details);
}

int usage_error(const char *command, const char *format, ...)
{
        const Command *known = command ? command_find(command) : NULL;
        va_list ap;

        fprintf(stderr, "tidegate%s%s: ", command ? " " : "", command ? command : "");
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        if (known)
                fprintf(stderr, "\nusage: tidegate %s %s\n", known->name, known->synopsis);
        else
                fputs("\n`tidegate help` lists the commands\n", stderr);
        return CLI_USAGE;
}
