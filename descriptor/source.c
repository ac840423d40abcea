/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/diagnostics.h"

long utf8_next(const char *s, size_t left, size_t *ret_size)
{
        static const long least[] = {0, 0, 0x80, 0x800, 0x10000};
        unsigned char c = (unsigned char)s[0];
        size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
        long code = n <= 1 ? c : c & (0x7f >> n);

        if (n == 0 || n > left)
                return -1;
        for (size_t i = 1; i < n; i++) {
                if (((unsigned char)s[i] & 0xc0) != 0x80)
                        return -1;
                code = code << 6 | ((unsigned char)s[i] & 0x3f);
        }
        if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
                return -1;
        *ret_size = n;
        return code;
}

/* A line ends at LF, CR LF or a lone CR, as YAML sees it. */
static int source_index_lines(Source *source, Arena *arena)
{
        size_t *lines = NULL, n = 0;
        bool start = true;

        for (size_t i = 0; i <= source->size; i++) {
                if (start) {
                        size_t *line = arena_grow(arena, &lines, n, sizeof(*lines));

                        if (!line)
                                return error_origin(-ENOMEM);
                        *line = i;
                        n++;
                }
                start = i < source->size && (source->data[i] == '\n' ||
                                                    (source->data[i] == '\r' && source->data[i + 1] != '\n'));
        }
        source->lines = lines;
        source->n_lines = n;
        return 0;
}

static const char *source_name_encoding(const Source *source)
{
        const unsigned char *p = (const unsigned char *)source->data;

        if (source->size >= 2 && ((p[0] == 0xff && p[1] == 0xfe) || (p[0] == 0xfe && p[1] == 0xff)))
                return "UTF-16";
        if (source->size >= 2 && (p[0] == 0 || p[1] == 0) && p[0] + p[1] != 0)
                return "UTF-16 or binary data";
        return NULL;
}

/* What YAML calls printable, plus nothing. The parser below us is not asked to cope with anything else. */
static bool char_is_printable(long c)
{
        if (c < 0x20)
                return c == '\t' || c == '\n' || c == '\r';
        if (c >= 0x7f && c < 0xa0)
                return c == 0x85;
        return c != 0xfeff && (c & 0xfffe) != 0xfffe;
}

static int source_check_text(const Source *source, Diagnostics *diags)
{
        const char *encoding = source_name_encoding(source);
        size_t n;

        if (encoding) {
                diagnostics_error(diags, span_at(source, 0, 1), "the file is %s, not UTF-8 text", encoding);
                return SOURCE_E_REFUSED;
        }
        for (size_t i = 0; i < source->size; i += n) {
                long c = utf8_next(source->data + i, source->size - i, &n);

                if (c < 0) {
                        diagnostics_error(diags, span_at(source, i, 1), "byte 0x%02x is not UTF-8 text",
                                (unsigned char)source->data[i]);
                        return SOURCE_E_REFUSED;
                }
                if (!char_is_printable(c)) {
                        diagnostics_error(diags, span_at(source, i, n), "character U+%04lX is not allowed in YAML%s",
                                c,
                                c == 0 ? " (is this a binary file?)" : "");
                        return SOURCE_E_REFUSED;
                }
        }
        return 0;
}

static int source_check_lines(const Source *source, Diagnostics *diags)
{
        for (size_t i = 0; i < source->n_lines; i++) {
                size_t end = i + 1 < source->n_lines ? source->lines[i + 1] : source->size;

                if (end - source->lines[i] > SOURCE_LINE_MAX + 2) {
                        diagnostics_error(diags, span_at(source, source->lines[i], 0),
                                "the line is longer than %zu bytes",
                                SOURCE_LINE_MAX);
                        return SOURCE_E_REFUSED;
                }
        }
        return 0;
}

static int source_finish(Source **ret, Source *source, Arena *arena, Diagnostics *diags)
{
        int r;

        /* A byte order mark is no part of the text. */
        if (source->size >= 3 && memcmp(source->data, "\xef\xbb\xbf", 3) == 0) {
                source->data += 3;
                source->size -= 3;
        }
        r = source_index_lines(source, arena);
        if (r)
                return error_fold(r);
        if (source->size > SOURCE_MAX) {
                diagnostics_error(diags, (Span){.source = source}, "the file is larger than %zu bytes", SOURCE_MAX);
                return SOURCE_E_REFUSED;
        }
        r = source_check_text(source, diags);
        if (!r)
                r = source_check_lines(source, diags);
        if (r)
                return r;
        *ret = source;
        return 0;
}

static Source *source_new(Arena *arena, const char *name)
{
        Source *source = arena_alloc(arena, sizeof(*source));

        if (source)
                source->name = arena_strndup(arena, name, strlen(name));
        return source && source->name ? source : NULL;
}

int source_from_memory(Source **ret, Arena *arena, const char *name, const void *data, size_t size,
        Diagnostics *diags)
{
        Source *source = source_new(arena, name);

        if (!source)
                return error_origin(-ENOMEM);
        /* One byte more than allowed is enough to refuse it. */
        source->size = MIN(size, SOURCE_MAX + 1);
        source->data = arena_strndup(arena, data, source->size);
        if (!source->data)
                return error_origin(-ENOMEM);
        return source_finish(ret, source, arena, diags);
}

static int source_refuse(const char *name, Span blame, Diagnostics *diags, const char *what, const char *why)
{
        if (!blame.source)
                diagnostics_error_in(diags, name, "%s%s", what, why);
        else
                diagnostics_error(diags, blame, "%s: %s%s", QUOTE_PATH(name), what, why);
        return SOURCE_E_REFUSED;
}

static const char *mode_name(mode_t mode)
{
        switch (mode & S_IFMT) {
        case S_IFDIR:
                return "a directory";
        case S_IFIFO:
                return "a FIFO";
        case S_IFSOCK:
                return "a socket";
        case S_IFCHR:
        case S_IFBLK:
                return "a device";
        default:
                return "something else";
        }
}

/* Opening some devices does things (a watchdog starts to run), hence the look before the open; the second look
 * closes the race. O_NONBLOCK: a FIFO that took the file's place must not hang us. */
static int source_open(const char *path, const char *name, Span blame, Diagnostics *diags)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;

        if (stat(path, &st) < 0)
                return -source_refuse(name, blame, diags, "cannot be read: ", strerror(errno));
        if (S_ISREG(st.st_mode)) {
                fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
                if (fd < 0 || fstat(fd, &st) < 0)
                        return -source_refuse(name, blame, diags, "cannot be read: ", strerror(errno));
        }
        if (!S_ISREG(st.st_mode))
                return -source_refuse(name, blame, diags, "is not a file but ", mode_name(st.st_mode));
        return TAKE_FD(fd);
}

int source_from_file(Source **ret, Arena *arena, const char *path, const char *name, Span blame, Diagnostics *diags)
{
        Source *source = source_new(arena, name);
        _cleanup_free_ char *data = malloc(SOURCE_MAX + 1);
        _cleanup_fd_ int fd = -1;
        ssize_t n;

        if (!source || !data)
                return error_origin(-ENOMEM);
        fd = source_open(path, name, blame, diags);
        if (fd < 0)
                return SOURCE_E_REFUSED;
        /* Files of /proc say size 0 and others grow: read until the end or one byte beyond what is allowed. */
        while (source->size <= SOURCE_MAX) {
                n = read(fd, data + source->size, SOURCE_MAX + 1 - source->size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return source_refuse(name, blame, diags, "cannot be read: ", strerror(errno));
                if (n == 0)
                        break;
                source->size += (size_t)n;
        }
        source->data = arena_strndup(arena, data, source->size);
        if (!source->data)
                return error_origin(-ENOMEM);
        return source_finish(ret, source, arena, diags);
}

unsigned source_line_number(const Source *source, size_t offset)
{
        size_t low = 0, high = source->n_lines;

        while (high - low > 1) {
                size_t mid = low + (high - low) / 2;

                if (source->lines[mid] <= offset)
                        low = mid;
                else
                        high = mid;
        }
        return (unsigned)low + 1;
}

SourcePosition source_position(const Source *source, size_t offset)
{
        SourcePosition at = {.line = source_line_number(source, offset), .column = 1};
        size_t n;

        offset = MIN(offset, source->size);
        for (size_t i = source->lines[at.line - 1]; i < offset; i += n, at.column++)
                if (utf8_next(source->data + i, source->size - i, &n) < 0)
                        n = 1;
        return at;
}

const char *source_line(const Source *source, unsigned line, size_t *ret_size)
{
        const char *start;
        size_t end;

        *ret_size = 0;
        if (line == 0 || line > source->n_lines)
                return "";
        start = source->data + source->lines[line - 1];
        end = line < source->n_lines ? source->lines[line] : source->size;
        while (end > source->lines[line - 1] && (source->data[end - 1] == '\n' || source->data[end - 1] == '\r'))
                end--;
        *ret_size = end - source->lines[line - 1];
        return start;
}
