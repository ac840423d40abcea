/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The terminal as one picture after another, and keys: ncurses where this was built with it (screen-curses.c), else nothing
 * (screen-none.c). There is one terminal, so there is no handle.
 *
 * screen_key() never waits; the caller polls STDIN_FILENO, and tells of a changed size itself (SIGWINCH is its signal).
 * Drawing may wait for the terminal.
 */
#ifndef TG_CLI_SCREEN_H
#define TG_CLI_SCREEN_H

#include <stdbool.h>

#include "cli/picture.h"

enum {
        SCREEN_E_ABSENT = 1, /* this build has no ncurses */
        SCREEN_E_NOT_ONE,    /* input or output is no terminal */
        SCREEN_E_DUMB,       /* a terminal that cannot move its cursor, or that nobody knows */
};

/* screen_open() - take the terminal over; @colour: use its colours, if it has any. 0 or SCREEN_E_*. */
int screen_open(bool colour);

/* screen_close() - give it back as it was. Also when it is not open. */
void screen_close(void);

/* screen_resize() - look how large the terminal is now. */
void screen_resize(void);
void screen_size(int *ret_rows, int *ret_cols);

/* screen_draw() - show @picture, which may be smaller or larger than the terminal. Not where that takes nothing at the moment. */
void screen_draw(const Picture *picture);

/* screen_suspend() - give it back for as long as we are stopped; screen_resume() takes it again. */
void screen_suspend(void);
void screen_resume(void);

/* screen_key() - the next key that was pressed: a code point or TOP_KEY_*; 0: none. */
unsigned screen_key(void);

#endif
