/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/dispatch.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/table.h"

static bool asks_for_help(int argc, char **argv)
{
        for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
                        return true;
        return false;
}

int command_dispatch(int argc, char **argv)
{
        const Command *command, *near;

        if (argc < 1)
                return usage_error(NULL, "a command is missing");
        if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)
                return cmd_help(1, argv);
        if (strcmp(argv[0], "--version") == 0)
                return cmd_version(1, argv);

        command = command_find(argv[0]);
        if (!command) {
                near = command_nearest(argv[0]);
                if (near)
                        return usage_error(NULL, "unknown command `%s`; did you mean `%s`?", argv[0], near->name);
                return usage_error(NULL, "unknown command `%s`", argv[0]);
        }
        if (asks_for_help(argc, argv)) {
                command_print_help(command);
                return 0;
        }
        if (!command->main) {
                fprintf(stderr, "tidegate: this build has no `%s`%s\n", command->name, command_absence(command));
                return 1;
        }
        return command->main(argc, argv);
}

int command_finish(int status)
{
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        fprintf(stderr, "tidegate: writing the output: %s\n", strerror(errno));
        return status ? status : 1;
}
