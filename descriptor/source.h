/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source: the text of one file, and places in it.
 *
 * Reading is for files people hand us: only regular files are opened (a FIFO or a device is refused, unopened), at
 * most SOURCE_MAX bytes are read, and the text is checked to be clean UTF-8 with lines of sensible length before any
 * parser sees it. Knows no YAML.
 */
#ifndef TG_DESCRIPTOR_SOURCE_H
#define TG_DESCRIPTOR_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/utf8.h"
#include "descriptor/arena.h"

#define SOURCE_MAX      ((size_t)1 << 20)
#define SOURCE_LINE_MAX ((size_t)65536)

typedef struct Diagnostics Diagnostics;

typedef struct Source {
        const char *name; /* as shown in messages */
        const char *data; /* size bytes and a NUL */
        size_t size;
        const size_t *lines; /* byte offset of each line's start */
        size_t n_lines;
} Source;

/* A place: length bytes at offset. source NULL: no place is known. */
typedef struct Span {
        const Source *source;
        size_t offset, length;
} Span;

typedef struct SourcePosition {
        unsigned line, column; /* from 1; columns count characters; 0 when unknown */
} SourcePosition;

/**
 * source_from_memory() - take a copy of a buffer as a source
 * @ret:   set on success; lives in @arena
 * @name:  shown in messages; copied
 * @diags: told why the text is refused: too large, UTF-16, not UTF-8, NUL or other control characters, a line too
 *         long
 *
 * Return: 0, SOURCE_E_REFUSED, or -ENOMEM.
 */
int source_from_memory(Source **ret, Arena *arena, const char *name, const void *data, size_t size,
        Diagnostics *diags);

/**
 * source_from_file() - the same from a file
 * @path: opened without following it into anything that is not a regular file
 * @name: shown in messages; copied
 * @blame: where the file was asked for, or an empty Span: a file that cannot be read is reported there
 *
 * Blocks as long as the file system does. Return: as source_from_memory().
 */
int source_from_file(
        Source **ret, Arena *arena, const char *path, const char *name, Span blame, Diagnostics *diags);

enum {
        SOURCE_E_REFUSED = 1, /* @diags holds the reason */
};

/* source_position() - line and column of a byte offset; the end of the text when it lies beyond. */
SourcePosition source_position(const Source *source, size_t offset);

/* source_line_number() - the line alone; unlike source_position() it does not depend on the line's length. */
unsigned source_line_number(const Source *source, size_t offset);

/* source_line() - the bytes of a line (from 1) without its end; "" and 0 when there is no such line. */
const char *source_line(const Source *source, unsigned line, size_t *ret_size);

/* utf8_next() - the character at s, and its length in bytes; -1 when the bytes are not UTF-8. left > 0. */
long utf8_next(const char *s, size_t left, size_t *ret_size);

static inline Span span_at(const Source *source, size_t offset, size_t length)
{
        return (Span){.source = source, .offset = offset, .length = length};
}

#endif
