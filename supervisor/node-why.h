/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a node makes no progress, asked by the supervisor itself when it is seen to be stuck. The answer goes into the event and into status, and is said
 * again when it has to be killed while it is stuck. A bounded number of questions of a dataflow is under way; nothing is ever put off for one, but
 * the word that it is stuck, by NODE_WHY_SPAN at most.
 *
 * Also asked once when half of the grace is over that a node has to end in, if there is time enough until it is killed, and told then. Where
 * there are more than a few processes nobody is: that would take time from those who end them.
 */
#ifndef TG_SUPERVISOR_NODE_WHY_H
#define TG_SUPERVISOR_NODE_WHY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "supervisor/loop.h"

typedef struct Node Node;

#define NODE_WHY_SPAN  NSEC_PER_SEC           /* an answer that takes longer is not waited for */
#define NODE_WHYS_MAX  2                      /* of a dataflow, under way */
#define NODE_WHY_LAST_MIN   (400 * NSEC_PER_MSEC) /* before the kill, a look begins so long at the least, */
#define NODE_WHY_LAST_EARLY (150 * NSEC_PER_MSEC) /* and is over: nothing of it is left when those who kill begin */
#define NODE_WHY_LAST_AGAIN (100 * NSEC_PER_MSEC) /* until it is tried again, when others are looked at */
#define NODE_WHY_LAST_NODES 32                    /* of a dataflow: with more of them nobody is looked at who is to end */

typedef struct NodeWhy {
        char *cause, *text; /* the last answer; NULL: there was none */
        nsec_t at;
        uint64_t generation; /* whose life it is about */
        uint64_t was_stuck;  /* generation that was so when it was told to end, or ended */
        uint64_t asked;      /* the question under way; 0: none */
        bool asked_last;     /* it is that of who is to end */
        uint64_t last_of;    /* generation that last_timer is for */
        uint64_t tried_last; /* generation that was looked at, or was not to be, when it was to end ... */
        uint64_t was_late;   /* ... and of which the last answer is from then */
        char *stuck;         /* text of the event that waits for the answer; NULL */
        Timer timer, last_timer;
} NodeWhy;

void node_why_done(Node *node);

/* node_why_stuck() - it is stuck, as @text says: the event, with what is found out within NODE_WHY_SPAN. */
void node_why_stuck(Node *node, const char *text);

/* node_why_flush() - the event that waits is sent now: what follows must not come before it. */
void node_why_flush(Node *node);

/* node_why_ends() - it is not looked at any more: was it stuck? */
void node_why_ends(Node *node);

/* node_why_last() - it is to end, and its ladder is this: it will be looked at in time, if it is still there. */
void node_why_last(Node *node);

/* node_why_killed() - it is being killed: why it has not ended is said, if that is known; if it was stuck, likewise. */
void node_why_killed(Node *node);

/* node_why_said() - the answer; @report NULL: there is none. */
void node_why_said(Node *node, uint64_t asked, const json_t *report);

/* node_why_describe() - into a Node of the control interface. */
void node_why_describe(const Node *node, json_t *result);

#endif
