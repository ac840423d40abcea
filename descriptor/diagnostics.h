/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Diagnostics: what is wrong with a descriptor, said once per place, for people and as JSON.
 *
 *   dataflow.yml:7:9: error: unknown key "queue_sise" of an input
 *           queue_sise: 3
 *           ^~~~~~~~~~
 *           did you mean "queue_size"?
 *
 * Text that comes from the file is shown with control and bidirectional characters replaced, and cut to a sensible
 * length; a message never contains a line break. At most DIAGNOSTICS_MAX are kept, errors before warnings; the rest
 * are counted. Does no output itself.
 *
 * Not thread-safe per Diagnostics.
 */
#ifndef TG_DESCRIPTOR_DIAGNOSTICS_H
#define TG_DESCRIPTOR_DIAGNOSTICS_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "descriptor/source.h"

#define DIAGNOSTICS_MAX 100

typedef enum Severity {
        SEVERITY_WARNING,
        SEVERITY_ERROR,
        _SEVERITY_MAX,
} Severity;

typedef struct Diagnostic {
        Severity severity;
        char *file;
        unsigned line, column; /* from 1, columns count characters; 0: no place known */
        unsigned length;       /* characters, for the underline; 0 or 1: a caret only */
        char *message;
        char *suggestion; /* what was probably meant, or NULL */
        char *text;       /* the line (or the part of it around the column), or NULL */
        unsigned caret;   /* characters of text before the caret */
        const void *key_source; /* with the next two: to know it again; never followed */
        size_t key_offset;
        unsigned long key_hash;
} Diagnostic;

struct Diagnostics {
        Diagnostic *items;
        size_t n, n_room;
        unsigned n_errors, n_warnings; /* including those not kept */
        unsigned n_dropped, n_kept_errors;
        bool out_of_memory; /* something could not be recorded */
};

#define DIAGNOSTICS_INIT {.items = NULL}

/* diagnostics_done() - release what is kept and make the list empty. */
void diagnostics_done(Diagnostics *diags);

/**
 * diagnostics_add() - record one thing about one place
 * @span:       where; {} or a span of length 0 are fine
 * @file:       shown when @span has no source; may be NULL then too
 * @suggestion: what was probably meant, or NULL
 *
 * The same message about the same place is recorded once. Never fails: without memory it only counts.
 */
void diagnostics_add(Diagnostics *diags, Severity severity, Span span, const char *file, const char *suggestion,
        const char *format, ...) __attribute__((format(printf, 6, 7)));

#define diagnostics_error(d, span, ...)    diagnostics_add((d), SEVERITY_ERROR, (span), NULL, NULL, __VA_ARGS__)
#define diagnostics_error_in(d, file, ...) diagnostics_add((d), SEVERITY_ERROR, (Span){0}, (file), NULL, __VA_ARGS__)
#define diagnostics_warning(d, span, ...)  diagnostics_add((d), SEVERITY_WARNING, (span), NULL, NULL, __VA_ARGS__)
#define diagnostics_error_hint(d, span, hint, ...) \
        diagnostics_add((d), SEVERITY_ERROR, (span), NULL, (hint), __VA_ARGS__)

/* diagnostics_full() - whether the next error would only be counted: then it need not be a good one. */
static inline bool diagnostics_full(const Diagnostics *diags)
{
        return diags->n_kept_errors >= DIAGNOSTICS_MAX;
}

/* diagnostics_sort() - by place, the file that was mentioned first before the others. */
void diagnostics_sort(Diagnostics *diags);

/**
 * diagnostics_render() - as text for a terminal
 * @color:    with ANSI colours
 * @warnings: include warnings
 * @ret:      set on success; malloc'ed, "" when there is nothing to say
 *
 * Return: 0 or -ENOMEM.
 */
int diagnostics_render(const Diagnostics *diags, bool color, bool warnings, char **ret);

/* diagnostics_to_json() - an array of {severity, file, line, column, message, suggestion, text}; NULL without
 * memory. */
json_t *diagnostics_to_json(const Diagnostics *diags);

const char *severity_name(Severity severity);

/*
 * quote() - a piece of the user's text for use inside a message: in double quotes, made harmless, cut at 64
 * characters.
 * quote_path() - the same for a path: up to 200 characters, and of a longer one the end.
 * The result is a value: QUOTE(s) is valid until the end of the full expression it stands in.
 */
typedef struct Quoted {
        char text[816];
} Quoted;

Quoted quote(const char *s);
Quoted quote_path(const char *s);
#define QUOTE(s)      (quote(s).text)
#define QUOTE_PATH(s) (quote_path(s).text)

#endif
