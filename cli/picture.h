/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Picture: rows of cells, each a character and a style, which a terminal, a file or a test can take. Text that others wrote
 * cannot do anything to it: control characters become `?`, marks without a width are left out, what is no UTF-8 becomes
 * U+FFFD, and nothing leaves the cells that it was given, wide characters included.
 *
 * Widths are those of the locale's wcwidth(): the caller has set LC_CTYPE, or asked for ASCII. No I/O but picture_print().
 */
#ifndef TG_CLI_PICTURE_H
#define TG_CLI_PICTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <wchar.h>

typedef enum PictureStyle {
        PICTURE_PLAIN,
        PICTURE_DIM,
        PICTURE_BOLD,
        PICTURE_TITLE, /* of a column or a page: reversed */
        PICTURE_GOOD,  /* green */
        PICTURE_WARN,  /* yellow */
        PICTURE_BAD,   /* red */
        _PICTURE_STYLE_MAX,
} PictureStyle;

typedef struct PictureCell {
        wchar_t character; /* 0: the right half of the wide one before it */
        uint8_t style;     /* PictureStyle */
        bool selected;     /* its row is the one that the cursor is on */
} PictureCell;

typedef struct Picture {
        int rows, cols;
        bool ascii;
        PictureCell *cells; /* owned; row by row */
} Picture;

#define PICTURE_NULL ((Picture){.cells = NULL})

/* picture_init() - spaces; @ascii: the terminal has nothing else. 0 or -ENOMEM. Both sizes are made at least 1. */
int picture_init(Picture *ret, int rows, int cols, bool ascii);
void picture_done(Picture *picture);

/*
 * picture_put() - @text from @col on, in at most @width cells; what does not fit is cut, and its last cell says so.
 * picture_put_right() - the same at the right end of those cells. Rows and columns outside are nowhere. Return: cells used.
 */
int picture_put(Picture *picture, int row, int col, int width, PictureStyle style, const char *text);
int picture_put_right(Picture *picture, int row, int col, int width, PictureStyle style, const char *text);

/* picture_width() - cells that @text takes. */
int picture_width(const char *text, bool ascii);

/* picture_level() - green up to 60 % of @share = 1, yellow up to 85 %, red above. */
PictureStyle picture_level(double share);

/* picture_bar() - "[####    ]" in @width cells, in the colour of its level; what is not 0 is never shown as nothing. */
void picture_bar(Picture *picture, int row, int col, int width, double share);

/* picture_style_row() - the whole row, whatever is in it. */
void picture_style_row(Picture *picture, int row, PictureStyle style);
void picture_select_row(Picture *picture, int row);

/* picture_line() - a row as UTF-8 without the spaces at its end. The caller frees it; NULL: no memory. */
char *picture_line(const Picture *picture, int row);

/* picture_print() - all rows but empty ones at the end. @colour: with the terminal's. */
void picture_print(const Picture *picture, bool colour, FILE *f);

#endif
