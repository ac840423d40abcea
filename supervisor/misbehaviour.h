/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who broke the protocol: told to people, counted, and shown by `status`. What a node does in memory that it shares with others the
 * supervisor does not see. The library of whoever is at the other end of the link proves it, ends the link and says so; this is
 * that node's word, so its name stands beside what it says.
 */
#ifndef TG_SUPERVISOR_MISBEHAVIOUR_H
#define TG_SUPERVISOR_MISBEHAVIOUR_H

#include <jansson.h>

#include <stdint.h>

typedef struct Link Link;
typedef struct Node Node;

typedef struct Misbehaviour { /* of one node, in all its lives; count and text are journalled */
        uint64_t count;
        uint64_t n_left; /* links that it let go of, as it says itself: no misbehaviour */
        char text[256]; /* the last: what, on which link, by whose word */
} Misbehaviour;

/**
 * misbehaviour_found() - @by says that the node at the other end of @link broke the protocol
 * @text: in its words; any bytes
 *
 * A note names the offender the first time, then when the count has doubled: whoever accuses without end is not heard without end.
 */
void misbehaviour_found(const Link *link, const Node *by, const char *text);

/**
 * misbehaviour_left() - @by says that it let go of @link because of itself: a note of @by's, the first time and when the count has doubled
 * @text: in its words; any bytes
 */
void misbehaviour_left(const Link *link, Node *by, const char *text);

/* misbehaviour_describe() - `violations` of a node, if there is any. */
void misbehaviour_describe(json_t *result, const Misbehaviour *of);

#endif
