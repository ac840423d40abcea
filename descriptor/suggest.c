/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/suggest.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"

#define NAME_MAX_BYTES 48

typedef struct Name {
        char s[NAME_MAX_BYTES];
        size_t n;
} Name;

/* False when it is too long. */
static bool name_fold(Name *name, const char *s)
{
        for (name->n = 0; s[name->n]; name->n++) {
                char c = s[name->n];

                if (name->n == NAME_MAX_BYTES)
                        return false;
                name->s[name->n] = c == '-' || c == ' ' ? '_' : c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
        return true;
}

/* Only cells within limit of the diagonal can matter: the band makes it linear in the length. */
unsigned edit_distance(const char *a, const char *b, unsigned limit)
{
        unsigned rows[3][NAME_MAX_BYTES + 2], *before = rows[0], *last = rows[1], *row = rows[2], *t;
        Name x, y;

        if (!name_fold(&x, a) || !name_fold(&y, b) || MAX(x.n, y.n) - MIN(x.n, y.n) > limit)
                return limit + 1;
        for (size_t j = 0; j < ELEMENTSOF(rows[0]); j++) {
                before[j] = row[j] = limit + 1;
                last[j] = (unsigned)j;
        }
        for (size_t i = 1; i <= x.n; i++) {
                size_t from = i > limit ? i - limit : 1, to = MIN(y.n, i + limit);

                row[from - 1] = from == 1 ? (unsigned)i : limit + 1;
                for (size_t j = from; j <= to; j++) {
                        unsigned best = MIN(last[j], row[j - 1]) + 1;

                        best = MIN(best, last[j - 1] + (x.s[i - 1] != y.s[j - 1]));
                        if (i > 1 && j > 1 && x.s[i - 1] == y.s[j - 2] && x.s[i - 2] == y.s[j - 1])
                                best = MIN(best, before[j - 2] + 1);
                        row[j] = best;
                }
                row[to + 1] = limit + 1;
                t = before;
                before = last;
                last = row;
                row = t;
        }
        return MIN(last[y.n], limit + 1);
}

void suggest_offer(Suggest *s, const char *name)
{
        size_t n = strlen(s->wrong), m;
        unsigned d, limit = (unsigned)MIN(MAX(n / 3, (size_t)1), (size_t)4);

        if (s->n_offered++ >= SUGGEST_OFFERS_MAX || strcmp(s->wrong, name) == 0)
                return;
        /* A third of the letters may differ, at least one, at most four; a guess that replaces all letters is no
         * guess. */
        d = edit_distance(s->wrong, name, limit);
        m = strlen(name);
        if (d > limit || d >= MAX(n, m) || (s->best && d >= s->distance))
                return;
        s->best = name;
        s->distance = d;
}
