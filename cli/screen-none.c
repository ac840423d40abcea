/* SPDX-License-Identifier: Apache-2.0 */
/* A build without ncurses. */
#include "cli/screen.h"

int screen_open(bool colour)
{
        (void)colour;
        return SCREEN_E_ABSENT;
}

void screen_close(void)
{
}

void screen_resize(void)
{
}

void screen_size(int *ret_rows, int *ret_cols)
{
        *ret_rows = 24;
        *ret_cols = 80;
}

void screen_draw(const Picture *picture)
{
        (void)picture;
}

void screen_suspend(void)
{
}

void screen_resume(void)
{
}

unsigned screen_key(void)
{
        return 0;
}
