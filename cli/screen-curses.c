/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/screen.h"

#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/top-ui.h"

#define NCURSES_WIDECHAR 1
#include <curses.h> /* last: it defines many short words */

#define ESCAPE_MS 25 /* after which Escape was a key of its own, and no beginning of another */

static SCREEN *terminal;
static bool coloured;

int screen_open(bool colour)
{
        const char *name = getenv("TERM"), *move_cursor;

        if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
                return SCREEN_E_NOT_ONE;
        if (!name || !*name || strcmp(name, "dumb") == 0)
                return SCREEN_E_DUMB;
        terminal = newterm(NULL, stdout, stdin);
        if (!terminal)
                return SCREEN_E_DUMB;
        move_cursor = tigetstr("cup");
        if (!move_cursor || move_cursor == (char *)-1) {
                screen_close();
                return SCREEN_E_DUMB;
        }
        (void)cbreak();
        (void)noecho();
        (void)nonl();
        (void)intrflush(stdscr, FALSE);
        (void)keypad(stdscr, TRUE);
        (void)nodelay(stdscr, TRUE);
        (void)set_escdelay(ESCAPE_MS);
        (void)curs_set(0);
        coloured = colour && has_colors() && start_color() == OK && use_default_colors() == OK;
        if (coloured) {
                (void)init_pair(PICTURE_GOOD, COLOR_GREEN, -1);
                (void)init_pair(PICTURE_WARN, COLOR_YELLOW, -1);
                (void)init_pair(PICTURE_BAD, COLOR_RED, -1);
        }
        return 0;
}

void screen_close(void)
{
        if (!terminal)
                return;
        (void)endwin();
        delscreen(terminal);
        terminal = NULL;
}

void screen_resize(void)
{
        struct winsize size;

        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
                (void)resizeterm(size.ws_row, size.ws_col);
        (void)clearok(stdscr, TRUE); /* what the terminal made of the old picture is unknown */
}

void screen_size(int *ret_rows, int *ret_cols)
{
        getmaxyx(stdscr, *ret_rows, *ret_cols);
}

static void look_of(const PictureCell *cell, attr_t *ret_attributes, short *ret_pair)
{
        static const attr_t attributes[_PICTURE_STYLE_MAX] = {
                [PICTURE_PLAIN] = A_NORMAL,
                [PICTURE_DIM] = A_DIM,
                [PICTURE_BOLD] = A_BOLD,
                [PICTURE_TITLE] = A_REVERSE,
                [PICTURE_GOOD] = A_NORMAL,
                [PICTURE_WARN] = A_BOLD,
                [PICTURE_BAD] = A_BOLD,
        };

        *ret_attributes = cell->style < _PICTURE_STYLE_MAX ? attributes[cell->style] : A_NORMAL;
        if (cell->selected)
                *ret_attributes |= A_REVERSE;
        *ret_pair = coloured && cell->style >= PICTURE_GOOD && cell->style <= PICTURE_BAD ? (short)cell->style : 0;
}

void screen_draw(const Picture *picture)
{
        struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
        int rows, cols;

        if (poll(&p, 1, 0) < 1)
                return; /* held by Ctrl-S, or full */
        screen_size(&rows, &cols);
        (void)erase();
        for (int row = 0; row < picture->rows && row < rows; row++) {
                for (int col = 0; col < picture->cols && col < cols; col++) {
                        const PictureCell *cell = &picture->cells[row * picture->cols + col];
                        wchar_t text[2] = {cell->character, 0};
                        attr_t attributes;
                        short pair;
                        cchar_t c;

                        if (!cell->character || (cell->character == ' ' && cell->style == PICTURE_PLAIN && !cell->selected))
                                continue;
                        look_of(cell, &attributes, &pair);
                        if (setcchar(&c, text, attributes, pair, NULL) == OK)
                                (void)mvadd_wch(row, col, &c);
                }
        }
        (void)refresh();
}

void screen_suspend(void)
{
        (void)endwin();
}

void screen_resume(void)
{
        screen_resize();
        (void)refresh();
}

static unsigned name_of(wint_t key)
{
        switch (key) {
        case KEY_UP:
                return TOP_KEY_UP;
        case KEY_DOWN:
                return TOP_KEY_DOWN;
        case KEY_LEFT:
                return TOP_KEY_LEFT;
        case KEY_RIGHT:
                return TOP_KEY_RIGHT;
        case KEY_PPAGE:
                return TOP_KEY_PAGE_UP;
        case KEY_NPAGE:
                return TOP_KEY_PAGE_DOWN;
        case KEY_HOME:
                return TOP_KEY_HOME;
        case KEY_END:
                return TOP_KEY_END;
        case KEY_ENTER:
                return TOP_KEY_ENTER;
        case KEY_BACKSPACE:
                return TOP_KEY_BACKSPACE;
        default:
                return TOP_KEY_NONE;
        }
}

unsigned screen_key(void)
{
        wint_t key;
        int r = get_wch(&key);

        if (r == KEY_CODE_YES)
                return name_of(key);
        if (r != OK)
                return 0;
        if (key == '\r' || key == '\n')
                return TOP_KEY_ENTER;
        if (key == 27)
                return TOP_KEY_ESCAPE;
        if (key == 127 || key == '\b')
                return TOP_KEY_BACKSPACE;
        return key == 0 ? TOP_KEY_NONE : (unsigned)key;
}
