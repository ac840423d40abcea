/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/diagnostics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

#define QUOTE_CHARS   64
#define PATH_CHARS    200
#define MESSAGE_CHARS 600
#define TEXT_CHARS    110 /* of a source line */
#define TEXT_BEFORE   60  /* of them before the caret when the line is longer */

const char *severity_name(Severity severity)
{
        static const char *const names[_SEVERITY_MAX] = {
                [SEVERITY_WARNING] = "warning",
                [SEVERITY_ERROR] = "error",
        };

        return names[severity];
}

/* Characters that would change how the rest of a terminal line reads: controls, and marks that reorder text. */
static bool char_is_harmful(long c)
{
        return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
                (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || c == 0x61c;
}

/* Appends at most n_chars characters of s to buf, harmless. Returns how many it read from s, in bytes. */
static size_t append_harmless(char *buf, size_t buf_size, const char *s, size_t size, unsigned n_chars)
{
        size_t at = strlen(buf), i = 0, n;

        for (; i < size && n_chars > 0; i += n, n_chars--) {
                long c = utf8_next(s + i, size - i, &n);

                if (c < 0)
                        n = 1;
                if (at + (c < 0 || char_is_harmful(c) ? 1 : n) >= buf_size)
                        break;
                if (c == '\t')
                        buf[at++] = ' ';
                else if (c < 0 || char_is_harmful(c))
                        buf[at++] = '?';
                else
                        for (size_t k = 0; k < n; k++)
                                buf[at++] = s[i + k];
                buf[at] = '\0';
        }
        return i;
}

Quoted quote(const char *s)
{
        Quoted q = {.text = "\""};
        size_t size = strlen(s);
        size_t used = append_harmless(q.text, sizeof(q.text) - 8, s, size, QUOTE_CHARS);

        strcat(q.text, used < size ? "…\"" : "\"");
        return q;
}

Quoted quote_path(const char *s)
{
        Quoted q = {.text = "\""};
        size_t size = strlen(s), skip = 0;

        if (size > PATH_CHARS) {
                skip = size - PATH_CHARS;
                while (((unsigned char)s[skip] & 0xc0) == 0x80)
                        skip++; /* not into the middle of a character */
                strcat(q.text, "…");
        }
        (void)append_harmless(q.text, sizeof(q.text) - 2, s + skip, size - skip, PATH_CHARS);
        strcat(q.text, "\"");
        return q;
}

static void diagnostic_done(Diagnostic *d)
{
        free(d->file);
        free(d->message);
        free(d->suggestion);
        free(d->text);
}

void diagnostics_done(Diagnostics *diags)
{
        for (size_t i = 0; i < diags->n; i++)
                diagnostic_done(&diags->items[i]);
        free(diags->items);
        *diags = (Diagnostics)DIAGNOSTICS_INIT;
}

static char *harmless_dup(const char *s, unsigned n_chars)
{
        size_t size = strlen(s), room = (size_t)n_chars * 4 + 8;
        char *p = calloc(1, room);

        if (p && append_harmless(p, room - 4, s, size, n_chars) < size)
                strcat(p, "…");
        return p;
}

/* The line of the place; of a long line the part around it. Sets text, caret and length. */
static bool diagnostic_take_line(Diagnostic *d, Span span)
{
        size_t size, skip = 0, room = TEXT_CHARS * 4 + 16, n, used;
        const char *line = source_line(span.source, d->line, &size);
        unsigned skipped = 0, shown;

        d->text = calloc(1, room);
        if (!d->text)
                return false;
        while (size > TEXT_CHARS && d->column - 1 - skipped > TEXT_BEFORE && skip < size) {
                if (utf8_next(line + skip, size - skip, &n) < 0)
                        n = 1;
                skip += n;
                skipped++;
        }
        if (skipped)
                strcpy(d->text, "…");
        used = append_harmless(d->text, room - 4, line + skip, size - skip, TEXT_CHARS);
        if (skip + used < size)
                strcat(d->text, "…");
        d->caret = d->column - 1 - skipped + (skipped ? 1 : 0);
        /* The underline stays within the text shown. */
        shown = 0;
        for (size_t i = 0; d->text[i]; i++)
                shown += ((unsigned char)d->text[i] & 0xc0) != 0x80;
        d->length = d->caret >= shown ? 0 : MIN(d->length, shown - d->caret);
        return true;
}

static unsigned span_characters(Span span)
{
        size_t end = MIN(span.offset + span.length, span.source->size), n;
        unsigned count = 0;

        for (size_t i = span.offset; i < end && span.source->data[i] != '\n' && count < TEXT_CHARS; i += n, count++)
                if (utf8_next(span.source->data + i, span.source->size - i, &n) < 0)
                        n = 1;
        return count;
}

static bool diagnostic_init(Diagnostic *d, Span span, const char *file, const char *suggestion, const char *message)
{
        if (span.source) {
                SourcePosition at = source_position(span.source, span.offset);

                d->line = at.line;
                d->column = at.column;
                d->length = span_characters(span);
                file = span.source->name;
        }
        d->file = harmless_dup(file ? file : "", 4096);
        d->message = harmless_dup(message, MESSAGE_CHARS);
        if (!d->file || !d->message)
                return false;
        if (suggestion) {
                d->suggestion = harmless_dup(suggestion, 160);
                if (!d->suggestion)
                        return false;
        }
        return d->line == 0 || diagnostic_take_line(d, span);
}

static unsigned long hash_text(unsigned long h, const char *s)
{
        for (; *s; s++)
                h = h * 33 + (unsigned char)*s;
        return h;
}

/* Asked before the place is computed: finding line and column costs the length of the line. */
static bool diagnostics_knows(const Diagnostics *diags, const Diagnostic *d)
{
        for (size_t i = 0; i < diags->n; i++) {
                const Diagnostic *o = &diags->items[i];

                if (o->key_source == d->key_source && o->key_offset == d->key_offset && o->key_hash == d->key_hash)
                        return true;
        }
        return false;
}

static bool diagnostics_push(Diagnostics *diags, Diagnostic *take)
{
        if (diags->n == diags->n_room) {
                size_t room = diags->n_room ? 2 * diags->n_room : 8;
                Diagnostic *items = reallocarray(diags->items, room, sizeof(*items));

                if (!items)
                        return false;
                diags->items = items;
                diags->n_room = room;
        }
        diags->items[diags->n++] = *take;
        *take = (Diagnostic){0};
        return true;
}

/* Makes room for one more; an error takes the place of the last warning. False when there is none. */
static bool diagnostics_make_room(Diagnostics *diags, Severity severity)
{
        if (diags->n < DIAGNOSTICS_MAX)
                return true;
        diags->n_dropped++;
        for (size_t i = diags->n; severity == SEVERITY_ERROR && !diagnostics_full(diags) && i-- > 0;)
                if (diags->items[i].severity == SEVERITY_WARNING) {
                        diagnostic_done(&diags->items[i]);
                        memmove(&diags->items[i], &diags->items[i + 1], (diags->n - i - 1) * sizeof(*diags->items));
                        diags->n--;
                        return true;
                }
        return false;
}

void diagnostics_add(Diagnostics *diags, Severity severity, Span span, const char *file, const char *suggestion,
        const char *format, ...)
{
        Diagnostic d = {.severity = severity, .key_source = span.source, .key_offset = span.offset};
        _cleanup_free_ char *message = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&message, format, ap);
        va_end(ap);
        if (n < 0)
                message = NULL;
        if (message)
                d.key_hash = hash_text(hash_text(5381, file && !span.source ? file : ""), message);
        if (message && diagnostics_knows(diags, &d))
                return;

        if (severity == SEVERITY_ERROR)
                diags->n_errors++;
        else
                diags->n_warnings++;
        if (!diagnostics_make_room(diags, severity))
                return;
        if (!message || !diagnostic_init(&d, span, file, suggestion, message) || !diagnostics_push(diags, &d))
                diags->out_of_memory = true;
        else if (severity == SEVERITY_ERROR)
                diags->n_kept_errors++;
        diagnostic_done(&d);
}

/* Insertion sort: stable, and the list is short. Files keep the order of their first mention. */
void diagnostics_sort(Diagnostics *diags)
{
        size_t first[DIAGNOSTICS_MAX], rank[DIAGNOSTICS_MAX];

        for (size_t i = 0; i < diags->n; i++) {
                first[i] = i;
                for (size_t j = 0; j < i; j++)
                        if (strcmp(diags->items[i].file, diags->items[j].file) == 0) {
                                first[i] = first[j];
                                break;
                        }
        }
        memcpy(rank, first, sizeof(rank));
        for (size_t i = 1; i < diags->n; i++) {
                Diagnostic d = diags->items[i];
                size_t r = rank[i], j = i;

                for (; j > 0; j--) {
                        const Diagnostic *o = &diags->items[j - 1];

                        if (rank[j - 1] < r || (rank[j - 1] == r && (o->line < d.line ||
                                                       (o->line == d.line && o->column <= d.column))))
                                break;
                        diags->items[j] = *o;
                        rank[j] = rank[j - 1];
                }
                diags->items[j] = d;
                rank[j] = r;
        }
}

static void render_one(FILE *f, const Diagnostic *d, bool color)
{
        static const char *const colors[_SEVERITY_MAX] = {
                [SEVERITY_WARNING] = "\033[1;35m",
                [SEVERITY_ERROR] = "\033[1;31m",
        };
        const char *tint = color ? colors[d->severity] : "";
        const char *bold = color ? "\033[1m" : "", *off = color ? "\033[0m" : "";

        if (d->file[0])
                fprintf(f, "%s%s:", bold, d->file);
        if (d->line)
                fprintf(f, "%u:%u:", d->line, d->column);
        fprintf(f, "%s%s%s%s:%s %s\n", off, d->file[0] ? " " : "", tint, severity_name(d->severity), off, d->message);
        if (d->text && d->text[0]) {
                fprintf(f, "    %s\n    %*s%s^", d->text, (int)d->caret, "", tint);
                for (unsigned i = 1; i < d->length; i++)
                        fputc('~', f);
                fprintf(f, "%s\n", off);
        }
        if (d->suggestion)
                fprintf(f, "    did you mean \"%s\"?\n", d->suggestion);
}

int diagnostics_render(const Diagnostics *diags, bool color, bool warnings, char **ret)
{
        _cleanup_free_ char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < diags->n; i++)
                if (warnings || diags->items[i].severity == SEVERITY_ERROR)
                        render_one(f, &diags->items[i], color);
        if (diags->n_dropped)
                fprintf(f, "and %u more\n", diags->n_dropped);
        if (diags->out_of_memory)
                fprintf(f, "out of memory: some messages are missing\n");
        if (fclose(f) != 0 || !text)
                return error_origin(-ENOMEM);
        *ret = TAKE_PTR(text);
        return 0;
}

json_t *diagnostics_to_json(const Diagnostics *diags)
{
        json_t *array = json_array();

        for (size_t i = 0; array && i < diags->n; i++) {
                const Diagnostic *d = &diags->items[i];
                json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:s, s:s*, s:s*}", "severity", severity_name(d->severity),
                        "file", d->file, "line", (int)d->line, "column", (int)d->column, "message", d->message,
                        "suggestion", d->suggestion, "text", d->text);

                if (!o || json_array_append_new(array, o) < 0) {
                        json_decref(array);
                        array = NULL;
                }
        }
        return array;
}
