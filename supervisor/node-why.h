/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a node makes no progress, asked by the supervisor itself when it is seen to be stuck. The answer goes into the event and into status, and is said
 * again when it has to be killed while it is stuck. A bounded number of questions of a dataflow is under way; nothing is ever put off for one, but
 * the word that it is stuck, by NODE_WHY_SPAN at most. At a stop nobody is looked at: that would take time from those who end it.
 */
#ifndef TG_SUPERVISOR_NODE_WHY_H
#define TG_SUPERVISOR_NODE_WHY_H

#include <jansson.h>

#include "supervisor/loop.h"

typedef struct Node Node;

#define NODE_WHY_SPAN  NSEC_PER_SEC           /* an answer that takes longer is not waited for */
#define NODE_WHYS_MAX  2                      /* of a dataflow, under way */

typedef struct NodeWhy {
        char *cause, *text; /* the last answer; NULL: there was none */
        nsec_t at;
        uint64_t generation; /* whose life it is about */
        uint64_t was_stuck;  /* generation that was so when it was told to end, or ended */
        uint64_t asked;      /* the question under way; 0: none */
        char *stuck;         /* text of the event that waits for the answer; NULL */
        Timer timer;
} NodeWhy;

void node_why_done(Node *node);

/* node_why_stuck() - it is stuck, as @text says: the event, with what is found out within NODE_WHY_SPAN. */
void node_why_stuck(Node *node, const char *text);

/* node_why_flush() - the event that waits is sent now: what follows must not come before it. */
void node_why_flush(Node *node);

/* node_why_ends() - it is not looked at any more: was it stuck? */
void node_why_ends(Node *node);

/* node_why_killed() - it is being killed: if it was stuck, why is said again. */
void node_why_killed(Node *node);

/* node_why_said() - the answer; @report NULL: there is none. */
void node_why_said(Node *node, uint64_t asked, const json_t *report);

/* node_why_describe() - into a Node of the control interface. */
void node_why_describe(const Node *node, json_t *result);

#endif
