/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/line-edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <editline/readline.h>

#include "base/cleanup.h"

#define HISTORY_LINES 1000

/* readline's interface has no userdata. */
static struct {
        char *history;
        LineComplete complete;
        json_t *matches;
        size_t next;
} state;

static char *next_match(const char *word, int again)
{
        const char *match;

        (void)word;
        if (!again)
                state.next = 0;
        match = json_string_value(json_array_get(state.matches, state.next++));
        return match ? strdup(match) : NULL;
}

static char **complete_word(const char *word, int begin, int end)
{
        _cleanup_free_ char *before = strndup(rl_line_buffer, (size_t)begin);
        char **matches = NULL;

        (void)end;
        json_decref(state.matches);
        state.matches = before ? state.complete(before, word) : json_array();
        rl_attempted_completion_over = state.matches != NULL; /* else file names are tried */
        if (json_array_size(state.matches) > 0)
                matches = rl_completion_matches(word, next_match);
        return matches;
}

void line_edit_begin(const char *history, LineComplete complete)
{
        static char breaks[] = " \t"; /* a name has `:`, `*` and `-` in it */
        static char name[] = "tidegate";

        rl_readline_name = name;
        rl_completer_word_break_characters = breaks;
        rl_attempted_completion_function = complete_word;
        state.complete = complete;
        (void)rl_initialize();
        using_history();
        stifle_history(HISTORY_LINES);
        if (!history)
                return;
        state.history = strdup(history);
        (void)read_history(history); /* there may be none yet */
}

void line_edit_end(void)
{
        free(state.history);
        json_decref(state.matches);
        state.history = NULL;
        state.matches = NULL;
}

static void remember(const char *line)
{
        mode_t mask;

        if (!line[strspn(line, " \t")])
                return;
        (void)add_history(line);
        if (!state.history)
                return;
        mask = umask(077);
        (void)write_history(state.history); /* a home that cannot be written costs the history, and no more */
        (void)umask(mask);
}

char *line_edit_read(const char *prompt)
{
        char *line;

        if (isatty(STDIN_FILENO)) {
                line = readline(prompt);
                if (line)
                        remember(line);
                return line;
        }
        line = NULL;
        if (getline(&line, &(size_t){0}, stdin) < 0) {
                free(line);
                return NULL;
        }
        line[strcspn(line, "\n")] = '\0';
        return line;
}
