/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of a page of `tidegate top` that is read and not a table: details, processes, log, help. The last TOP_TEXT_MAX are kept. */
#ifndef TG_CLI_TOP_TEXT_H
#define TG_CLI_TOP_TEXT_H

#include <jansson.h>
#include <stddef.h>

#include "cli/top-ui.h"

#define TOP_TEXT_MAX 2000

typedef struct TopText {
        char **lines; /* owned, and each of them */
        size_t n, room;
} TopText;

#define TOP_TEXT_NULL ((TopText){.lines = NULL})

void top_text_done(TopText *text);

/* top_text_add() - one line; without memory it is left out. */
void top_text_add(TopText *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What is known of the selected node or link; a line says so where it is gone. */
void top_text_details(TopText *text, const TopModel *model, const TopUi *ui, nsec_t now);

/* top_text_tree() - the processes of a dataflow, by node and parent. @entry: of usage_read(); @before: the one before it and
 * @span_ns in between, for CPU time; NULL: none. */
void top_text_tree(TopText *text, const json_t *entry, const json_t *before, nsec_t span_ns, bool ascii);

void top_text_help(TopText *text, const TopUi *ui);

/* Figures in few characters: "12.3M", "1.50k", "350 us", "1:02:03"; "-" for what is negative. */
const char *top_format_bytes(char *buffer, size_t size, double bytes);
const char *top_format_rate(char *buffer, size_t size, double per_second);
const char *top_format_ns(char *buffer, size_t size, double ns);
const char *top_format_uptime(char *buffer, size_t size, nsec_t since, nsec_t now);

#endif
