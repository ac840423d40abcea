/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Line edit: one line from the user, with completion and history where this build has libedit (line-edit-libedit.c) and stdin is a
 * terminal; else the line as it comes (line-edit-plain.c).
 *
 * One user at a time; not for threads.
 */
#ifndef TG_CLI_LINE_EDIT_H
#define TG_CLI_LINE_EDIT_H

#include <jansson.h>

/* An array of words that begin with @word, @before being the line up to it; NULL: a file name is expected. New reference. */
typedef json_t *(*LineComplete)(const char *before, const char *word);

/* line_edit_begin() - @history: file of earlier lines, NULL: none; kept up to date line by line, readable by its owner only. */
void line_edit_begin(const char *history, LineComplete complete);
void line_edit_end(void);

/* line_edit_read() - the next line without its newline; the caller frees it. NULL: the end of the input. */
char *line_edit_read(const char *prompt);

#endif
