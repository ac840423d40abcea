/* SPDX-License-Identifier: Apache-2.0 */
/* One command line, already cut into words: by main(), or by the shell in a process of its own. */
#ifndef TG_CLI_DISPATCH_H
#define TG_CLI_DISPATCH_H

/* command_dispatch() - find the command in the table and run it. Return: the exit status. */
int command_dispatch(int argc, char **argv);

/* command_finish() - what was printed has arrived, or it is said that it has not. Return: the exit status. */
int command_finish(int status);

#endif
