/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands of `tidegate`, one file each. argv[0] is the command's own name ("run"), so getopt_long() works as in
 * main(); the arguments follow. Each returns the exit status of the program: 0 ok, 1 failed, 2 usage, 3 not running or
 * timed out with a verdict, 4 no such thing, 5 supervisor unreachable. Results go to stdout, errors to stderr.
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
int cmd_up(int argc, char **argv);
int cmd_down(int argc, char **argv);
int cmd_start(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_restart(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_node(int argc, char **argv);
int cmd_pid(int argc, char **argv);
int cmd_tail(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_clean(int argc, char **argv);
int cmd_reset(int argc, char **argv);
int cmd_set_limit(int argc, char **argv);
int cmd_why(int argc, char **argv);
int cmd_freeze(int argc, char **argv);
int cmd_thaw(int argc, char **argv);
int cmd_topic(int argc, char **argv);
int cmd_shell(int argc, char **argv);
int cmd_validate(int argc, char **argv);
int cmd_graph(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

#endif
