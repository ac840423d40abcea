/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/table.h"

static void print_all(void)
{
        puts("tidegate " TIDEGATE_VERSION ": dataflows of ordinary processes whose stop always ends\n\n"
             "usage: tidegate COMMAND [ARGUMENT...]\n");
        for (size_t i = 0; i < n_cli_commands; i++)
                printf("  %-10s %s%s\n", cli_commands[i].name, cli_commands[i].summary,
                        cli_commands[i].main ? "" : " (not built)");
        puts("\n`tidegate help COMMAND` says more. Exit status: 0 ok, 1 failed, 2 usage, 3 not running or timed out\n"
             "with a verdict, 4 no such thing, 5 supervisor unreachable.");
}

int cmd_help(int argc, char **argv)
{
        const Command *command, *near;

        if (argc > 2)
                return usage_error("help", "one command at a time");
        if (argc < 2) {
                print_all();
                return 0;
        }
        if (argv[1][0] == '-')
                return usage_error("help", "unknown option `%s`", argv[1]);
        command = command_find(argv[1]);
        if (command) {
                command_print_help(command);
                return 0;
        }
        near = command_nearest(argv[1]);
        if (near)
                return usage_error(NULL, "no command `%s`; did you mean `%s`?", argv[1], near->name);
        return usage_error(NULL, "no command `%s`", argv[1]);
}
