/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/picture.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/utf8.h"

#define LEVEL_GOOD 0.60
#define LEVEL_WARN 0.85

#define REPLACEMENT 0xfffd
#define ELLIPSIS    0x2026
#define FULL_BLOCK  0x2588 /* seven eighths follow it, down to one */

int picture_init(Picture *ret, int rows, int cols, bool ascii)
{
        size_t n;

        *ret = (Picture){.rows = MAX(rows, 1), .cols = MAX(cols, 1), .ascii = ascii};
        n = (size_t)ret->rows * (size_t)ret->cols;
        ret->cells = calloc(n, sizeof(*ret->cells));
        if (!ret->cells)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < n; i++)
                ret->cells[i].character = ' ';
        return 0;
}

void picture_done(Picture *picture)
{
        free(picture->cells);
        *picture = PICTURE_NULL;
}

static PictureCell *cell(const Picture *picture, int row, int col)
{
        return row < 0 || row >= picture->rows || col < 0 || col >= picture->cols
                       ? NULL
                       : &picture->cells[(size_t)row * (size_t)picture->cols + (size_t)col];
}

/* ---- text */

/* The character at @p, which has @left bytes and at least one. Return: its bytes. */
static size_t decode(const char *p, size_t left, wchar_t *ret)
{
        static const unsigned char marks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
        size_t n = utf8_sequence(p, left);
        unsigned long c;

        if (n == 0) {
                *ret = REPLACEMENT;
                return 1;
        }
        c = (unsigned char)p[0] & marks[n];
        for (size_t i = 1; i < n; i++)
                c = c << 6 | ((unsigned char)p[i] & 0x3f);
        *ret = (wchar_t)c;
        return n;
}

/* The next character as it may be shown, and its width; false at the end. */
static bool next_character(const char **p, bool ascii, wchar_t *ret, int *ret_width)
{
        while (**p) {
                size_t left = strnlen(*p, 4);
                wchar_t c;

                *p += decode(*p, left, &c);
                *ret_width = 1;
                if (c < ' ' || (ascii && c > 0x7e))
                        c = '?';
                else if (c > 0x7e)
                        *ret_width = wcwidth(c); /* -1: also of the control characters from 0x7f on */
                if (*ret_width < 0) {
                        c = '?';
                        *ret_width = 1;
                }
                *ret = c;
                if (*ret_width > 0)
                        return true;
        }
        return false;
}

int picture_width(const char *text, bool ascii)
{
        int width, sum = 0;
        wchar_t c;

        while (sum < 1 << 20 && next_character(&text, ascii, &c, &width))
                sum += width;
        return sum;
}

static void set(Picture *picture, int row, int col, wchar_t c, PictureStyle style)
{
        PictureCell *at = cell(picture, row, col);

        if (at) {
                at->character = c;
                at->style = (uint8_t)style;
        }
}

int picture_put(Picture *picture, int row, int col, int width, PictureStyle style, const char *text)
{
        int room = MIN(width, picture->cols - col), used = 0, w;
        bool cut = picture_width(text, picture->ascii) > room;
        wchar_t c;

        if (row < 0 || row >= picture->rows || col < 0 || room <= 0)
                return 0;
        while (next_character(&text, picture->ascii, &c, &w) && used + w <= room - cut) {
                set(picture, row, col + used, c, style);
                if (w == 2)
                        set(picture, row, col + used + 1, 0, style);
                used += w;
        }
        if (!cut)
                return used;
        set(picture, row, col + used++, picture->ascii ? '~' : ELLIPSIS, style);
        return used;
}

int picture_put_right(Picture *picture, int row, int col, int width, PictureStyle style, const char *text)
{
        int room = MIN(width, picture->cols - col), w = picture_width(text, picture->ascii);

        return w < room ? picture_put(picture, row, col + room - w, w, style, text) : picture_put(picture, row, col, room, style, text);
}

/* ---- bars */

PictureStyle picture_level(double share)
{
        return share <= LEVEL_GOOD ? PICTURE_GOOD : share <= LEVEL_WARN ? PICTURE_WARN : PICTURE_BAD;
}

void picture_bar(Picture *picture, int row, int col, int width, double share)
{
        PictureStyle style = picture_level(share);
        int inside = width - 2, steps = picture->ascii ? 1 : 8, filled;

        if (inside < 1)
                return;
        share = share > 0 ? MIN(share, 1.0) : 0; /* not a number: nothing */
        filled = (int)lround(share * inside * steps);
        if (filled == 0 && share > 0)
                filled = 1;
        set(picture, row, col, '[', PICTURE_PLAIN);
        for (int i = 0; i < inside; i++) {
                int here = MIN(MAX(filled - i * steps, 0), steps);

                if (here > 0)
                        set(picture, row, col + 1 + i, picture->ascii ? '#' : FULL_BLOCK + 8 - here, style);
                else
                        set(picture, row, col + 1 + i, ' ', PICTURE_PLAIN);
        }
        set(picture, row, col + 1 + inside, ']', PICTURE_PLAIN);
}

/* ---- rows */

void picture_style_row(Picture *picture, int row, PictureStyle style)
{
        for (int col = 0; col < picture->cols; col++) {
                PictureCell *at = cell(picture, row, col);

                if (at)
                        at->style = (uint8_t)style;
        }
}

void picture_select_row(Picture *picture, int row)
{
        for (int col = 0; col < picture->cols; col++) {
                PictureCell *at = cell(picture, row, col);

                if (at)
                        at->selected = true;
        }
}

/* Columns up to the last that is not a plain space. */
static int used_cols(const Picture *picture, int row)
{
        int n = picture->cols;

        while (n > 0 && cell(picture, row, n - 1)->character == ' ')
                n--;
        return n;
}

static size_t encode(wchar_t wide, char *to)
{
        unsigned long c = (unsigned long)wide;

        if (c < 0x80) {
                to[0] = (char)c;
                return 1;
        }
        if (c < 0x800) {
                to[0] = (char)(0xc0 | c >> 6);
                to[1] = (char)(0x80 | (c & 0x3f));
                return 2;
        }
        if (c < 0x10000) {
                to[0] = (char)(0xe0 | c >> 12);
                to[1] = (char)(0x80 | (c >> 6 & 0x3f));
                to[2] = (char)(0x80 | (c & 0x3f));
                return 3;
        }
        to[0] = (char)(0xf0 | c >> 18);
        to[1] = (char)(0x80 | (c >> 12 & 0x3f));
        to[2] = (char)(0x80 | (c >> 6 & 0x3f));
        to[3] = (char)(0x80 | (c & 0x3f));
        return 4;
}

char *picture_line(const Picture *picture, int row)
{
        int n = row < 0 || row >= picture->rows ? 0 : used_cols(picture, row);
        char *text = malloc(4 * (size_t)n + 1), *p = text;

        for (int col = 0; text && col < n; col++)
                if (cell(picture, row, col)->character)
                        p += encode(cell(picture, row, col)->character, p);
        if (text)
                *p = '\0';
        return text;
}

static const char *code(unsigned style)
{
        static const char *const codes[_PICTURE_STYLE_MAX] = {
                [PICTURE_PLAIN] = "0",
                [PICTURE_DIM] = "0;2",
                [PICTURE_BOLD] = "0;1",
                [PICTURE_TITLE] = "0;7",
                [PICTURE_GOOD] = "0;32",
                [PICTURE_WARN] = "0;33",
                [PICTURE_BAD] = "0;31",
        };

        return style < _PICTURE_STYLE_MAX ? codes[style] : "0";
}

static void print_row(const Picture *picture, int row, bool colour, FILE *f)
{
        int n = used_cols(picture, row);
        unsigned style = PICTURE_PLAIN;

        for (int col = 0; col < n; col++) {
                const PictureCell *at = cell(picture, row, col);
                char text[4];

                if (colour && at->style != style)
                        fprintf(f, "\033[%sm", code(style = at->style));
                if (at->character)
                        (void)fwrite(text, 1, encode(at->character, text), f);
        }
        fputs(colour && style != PICTURE_PLAIN ? "\033[0m\n" : "\n", f);
}

void picture_print(const Picture *picture, bool colour, FILE *f)
{
        int rows = picture->rows;

        while (rows > 0 && used_cols(picture, rows - 1) == 0)
                rows--;
        for (int row = 0; row < rows; row++)
                print_row(picture, row, colour, f);
}
