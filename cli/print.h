/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Print: what several commands need to put text and JSON on the screen. Text that others wrote (supervisors, nodes, file
 * names) is tamed before it reaches a terminal: it may colour, but not move the cursor or set the title.
 */
#ifndef TG_CLI_PRINT_H
#define TG_CLI_PRINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"

/* color_wanted() - whether f is a terminal that wants colours (NO_COLOR, TERM=dumb). */
bool color_wanted(FILE *f);

/* print_json() - one JSON value and a newline on stdout, keys sorted. Return: 0 or a negative errno (nothing was
 * said). */
int print_json(const json_t *json);

/* print_json_line() - the same on one line, for streams; flushed. */
int print_json_line(const json_t *json);
int print_json_line_new(json_t *take_json); /* NULL: out of memory */

/* text_tame() - in place: control characters become `?`, but for tabs, and for colours where @colors. Returns text. */
char *text_tame(char *text, bool colors);

/* Fields of an object that somebody sent: "" and 0 where there is none of that type. Borrowed. */
const char *json_get_text(const json_t *object, const char *key);
long long json_get_number(const json_t *object, const char *key);

/* A span as people read it: uptime "1 day, 0:02:35" as supervisorctl has it; ago "3min 12s". */
void format_uptime(char *buffer, size_t size, long long ms);
void format_span(char *buffer, size_t size, long long ms);
void format_bytes(char *buffer, size_t size, unsigned long long bytes);

/* wall_ms() - CLOCK_REALTIME in ms of a moment of CLOCK_MONOTONIC in ms, by today's difference of the two. */
long long wall_ms(long long monotonic_ms);

/* now_ms() - CLOCK_MONOTONIC. */
long long now_ms(void);

#endif
