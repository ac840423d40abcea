/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/line-edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void line_edit_begin(const char *history, LineComplete complete)
{
        (void)history; /* this build edits no lines */
        (void)complete;
}

void line_edit_end(void)
{
}

char *line_edit_read(const char *prompt)
{
        char *line = NULL;
        size_t room = 0;

        fputs(prompt, stdout);
        (void)fflush(stdout);
        if (getline(&line, &room, stdin) < 0) {
                free(line);
                return NULL;
        }
        line[strcspn(line, "\n")] = '\0';
        return line;
}
