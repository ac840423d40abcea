/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one table of commands: main() dispatches by it, `help` prints it, a usage error quotes it. Knows nothing of what
 * the commands do.
 */
#ifndef TG_CLI_TABLE_H
#define TG_CLI_TABLE_H

#include <stddef.h>

typedef struct Command {
        const char *name;
        const char *synopsis;          /* arguments, as in a usage line */
        const char *summary;           /* one line, no full stop */
        const char *details;           /* paragraphs and options, ready to print; ends in a newline */
        int (*main)(int argc, char **argv); /* NULL: not compiled in */
} Command;

extern const Command cli_commands[];
extern const size_t n_cli_commands;

/* command_find() - the command of that name, or NULL. */
const Command *command_find(const char *name);

/* command_nearest() - the command whose name a typing error may have meant, or NULL. */
const Command *command_nearest(const char *name);

/* command_absence() - why a command with no `main` is not in this build: "" or ": it was made without ...". */
const char *command_absence(const Command *command);

/* command_print_help() - usage, details and options of one command on stdout. */
void command_print_help(const Command *command);

/**
 * usage_error() - say on stderr what is wrong with the command line and where to read on
 * @command: name of the command, or NULL for `tidegate` itself
 * @format:  printf format of the complaint, without full stop or newline
 *
 * Return: CLI_USAGE, for `return usage_error(...)`.
 */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
