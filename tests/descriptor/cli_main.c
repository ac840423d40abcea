/* SPDX-License-Identifier: Apache-2.0 */
/* The commands about descriptors alone, as a program: tests can hold them without the rest of the command line tool. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

int main(int argc, char **argv)
{
        if (argc > 1 && strcmp(argv[1], "validate") == 0)
                return cmd_validate(argc - 1, argv + 1);
        if (argc > 1 && strcmp(argv[1], "graph") == 0)
                return cmd_graph(argc - 1, argv + 1);
        fprintf(stderr, "usage: %s validate|graph …\n", argv[0]);
        return CLI_USAGE;
}
