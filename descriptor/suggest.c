/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/suggest.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>

#include "base/cleanup.h"

#define NAME_MAX_BYTES 48

static char fold(char c)
{
        return c == '-' || c == ' ' ? '_' : (char)tolower((unsigned char)c);
}

unsigned edit_distance(const char *a, const char *b)
{
        unsigned char rows[3][NAME_MAX_BYTES + 1];
        size_t n = strnlen(a, NAME_MAX_BYTES + 1), m = strnlen(b, NAME_MAX_BYTES + 1);
        unsigned char *before = rows[0], *last = rows[1], *row = rows[2], *t;

        if (n > NAME_MAX_BYTES || m > NAME_MAX_BYTES)
                return UINT_MAX;
        for (size_t j = 0; j <= m; j++)
                last[j] = (unsigned char)j;
        for (size_t i = 1; i <= n; i++) {
                row[0] = (unsigned char)i;
                for (size_t j = 1; j <= m; j++) {
                        int same = fold(a[i - 1]) == fold(b[j - 1]);
                        unsigned best = MIN(last[j], row[j - 1]) + 1u;

                        best = MIN(best, last[j - 1] + (same ? 0u : 1u));
                        if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]))
                                best = MIN(best, before[j - 2] + 1u);
                        row[j] = (unsigned char)best;
                }
                t = before;
                before = last;
                last = row;
                row = t;
        }
        return last[m];
}

void suggest_offer(Suggest *s, const char *name)
{
        size_t n = strnlen(s->wrong, NAME_MAX_BYTES + 1);
        unsigned d;

        if (s->n_offered++ >= SUGGEST_OFFERS_MAX || n > NAME_MAX_BYTES)
                return;
        if (strcmp(s->wrong, name) == 0)
                return;
        d = edit_distance(s->wrong, name);
        /* A third of the letters may differ, at least one, at most four; a guess that replaces all letters is no guess. */
        if (d > MIN(MAX(n / 3, 1u), 4u) || d >= MAX(n, strlen(name)))
                return;
        if (s->best && d >= s->distance)
                return;
        s->best = name;
        s->distance = d;
}
