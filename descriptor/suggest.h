/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suggest: the name somebody probably meant. Edit distance with transpositions, over whatever names the caller
 * offers.
 */
#ifndef TG_DESCRIPTOR_SUGGEST_H
#define TG_DESCRIPTOR_SUGGEST_H

#define SUGGEST_OFFERS_MAX 1000

typedef struct Suggest {
        const char *wrong;
        const char *best; /* borrowed from the caller; NULL while nothing is near */
        unsigned distance;
        unsigned n_offered; /* after SUGGEST_OFFERS_MAX no more are considered */
} Suggest;

#define SUGGEST_INIT(w) {.wrong = (w)}

/* suggest_offer() - consider a name. Names of more than 48 bytes, or far from the wrong one, are not considered. */
void suggest_offer(Suggest *s, const char *name);

/**
 * edit_distance() - insertions, deletions, replacements and swaps of neighbours that make one name of the other
 * @limit: above it the exact number does not matter
 *
 * Case is ignored, and - is the same as _. Return: the distance; limit + 1 when it is larger, or a name is longer
 * than 48 bytes.
 */
unsigned edit_distance(const char *a, const char *b, unsigned limit);

#endif
