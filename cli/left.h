/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who would not die, for people: a block for each task of a node's verdict (`tasks` of the control interface), readable in 80
 * columns. Decides nothing.
 */
#ifndef TG_CLI_LEFT_H
#define TG_CLI_LEFT_H

#include <jansson.h>

/* Gets one line at a time, without a newline; control characters are gone. */
typedef void (*LeftLine)(void *userdata, const char *line);

/* left_show() - a node of a result or of Status; nothing when nothing is left of it. @name: to call it by. */
void left_show(const json_t *node, const char *name, LeftLine line, void *userdata);

/* left_print() - the same, to stdout. */
void left_print(const json_t *node, const char *name);

/* left_print_older() - of its earlier lives, beside which it was started again. */
void left_print_older(const json_t *node, const char *name);

/* left_summary() - "unkillable-traced, 1 task left" of it, into @buffer. */
const char *left_summary(const json_t *node, char *buffer, size_t size);

#endif
