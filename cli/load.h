/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load: what the commands that read a descriptor share: the options about it, and how its errors are shown.
 */
#ifndef TG_CLI_LOAD_H
#define TG_CLI_LOAD_H

#include <stdbool.h>
#include <stdio.h>

#include "cli/print.h"
#include "descriptor/descriptor.h"

typedef struct LoadOptions {
        DescriptorOptions descriptor;
        const char **env; /* owned; points into argv */
} LoadOptions;

#define LOAD_OPTIONS_INIT {.env = NULL}

/* For getopt_long(): the options below, whose values load_option() takes. */
#define LOAD_LONG_OPTIONS                                                                                            \
        {"name", required_argument, NULL, 'N'}, {"env", required_argument, NULL, 'E'},                               \
        {                                                                                                            \
                "allow-shell-nodes", no_argument, NULL, 'S'                                                          \
        }

/* Their lines for the table of commands. */
#define LOAD_OPTIONS_HELP                                                                                            \
        "  --name N             name of the dataflow, default the file's\n"                                          \
        "  --env KEY=VALUE      set a variable for every node; a node's own env wins; repeatable\n"                  \
        "  --allow-shell-nodes  accept nodes with `path: shell`\n"

/* load_option() - take one of LOAD_LONG_OPTIONS. Return: 0, 1 when it is none of them, or -ENOMEM. */
int load_option(LoadOptions *options, int option, char *value);
void load_options_done(LoadOptions *options);

/* cpus_here() - how many CPUs this machine has, whoever may use them; 0 when that cannot be told. */
unsigned cpus_here(void);

/* print_diagnostics() - errors, and warnings where wanted, to f. */
void print_diagnostics(FILE *f, const Diagnostics *diags, bool warnings);

#endif
