/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate: arguments in, text or JSON out. Finds the command in the table and hands over; whatever a command prints
 * is checked once here, so that a full disk or a closed pipe is an error and not a silent success.
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/table.h"

/* A program started with 0, 1 or 2 closed would get a socket or a memfd there, and then print into it. */
static int occupy_standard_fds(void)
{
        for (int fd = 0; fd <= STDERR_FILENO; fd++)
                if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
                        return -1;
        return 0;
}

static bool asks_for_help(int argc, char **argv)
{
        for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
                if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
                        return true;
        return false;
}

static int dispatch(int argc, char **argv)
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

int main(int argc, char **argv)
{
        int status;

        if (occupy_standard_fds() < 0)
                return 1;
        setlocale(LC_CTYPE, ""); /* widths of what is printed; numbers stay in the C locale */

        status = dispatch(argc - 1, argv + 1);
        if (fflush(stdout) != 0 || ferror(stdout)) {
                fprintf(stderr, "tidegate: writing the output: %s\n", strerror(errno));
                return status ? status : 1;
        }
        return status;
}
