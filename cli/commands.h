/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands: one function per command of `tidegate`, each in the file of its name. argv[0] is the command's own name, so
 * that each can read its options with getopt_long(). The result is the exit status of the program.
 */
#ifndef TG_CLI_COMMANDS_H
#define TG_CLI_COMMANDS_H

enum {
        CLI_OK = 0,
        CLI_FAILED = 1,
        CLI_USAGE = 2,
        CLI_NOT_RUNNING = 3, /* or timed out with a verdict */
        CLI_NO_SUCH = 4,
        CLI_UNREACHABLE = 5, /* the supervisor */
};

int cmd_run(int argc, char **argv);
int cmd_validate(int argc, char **argv);
int cmd_graph(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

#endif
