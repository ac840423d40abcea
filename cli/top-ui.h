/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the person at `tidegate top` has chosen: page, order, filter, selection; and what each key does to that. Pure: what
 * has to be done outside (quit, attach probes) is returned. The selection is a name and not a row: it stays on its node when the
 * order changes.
 */
#ifndef TG_CLI_TOP_UI_H
#define TG_CLI_TOP_UI_H

#include "cli/top-model.h"

typedef enum TopPage {
        TOP_PAGE_MAIN,
        TOP_PAGE_DETAILS, /* of the selected node or link */
        TOP_PAGE_TREE,
        TOP_PAGE_LOG,
        TOP_PAGE_WHY,
        TOP_PAGE_HELP,
        _TOP_PAGE_MAX,
} TopPage;

typedef enum TopNodeSort {
        TOP_NODES_BY_PLAN, /* as they stand in their dataflows */
        TOP_NODES_BY_NAME,
        TOP_NODES_BY_STATE, /* what needs a look first */
        TOP_NODES_BY_CPU,
        TOP_NODES_BY_MEMORY,
        TOP_NODES_BY_PRESSURE,
        TOP_NODES_BY_CALLS,
        TOP_NODES_BY_WORST, /* the longest p99 of a system call */
        TOP_NODES_BY_RESTARTS,
        TOP_NODES_BY_UPTIME,
        _TOP_NODES_BY_MAX,
} TopNodeSort;

typedef enum TopLinkSort {
        TOP_LINKS_BY_PLAN,
        TOP_LINKS_BY_NAME,
        TOP_LINKS_BY_RATE,
        TOP_LINKS_BY_DEPTH,
        TOP_LINKS_BY_DROPS,
        TOP_LINKS_BY_AGE,
        _TOP_LINKS_BY_MAX,
} TopLinkSort;

typedef enum TopAction {
        TOP_ACTION_NONE,
        TOP_ACTION_QUIT,
        TOP_ACTION_LOOK, /* now, and not when the interval is over */
        TOP_ACTION_ENDED, /* show dataflows that have ended, or do not */
        TOP_ACTION_PROBE, /* attach call probes to top_ui_dataflow(), or detach them */
} TopAction;

/* Keys that are no character. Characters are their code points. */
enum {
        TOP_KEY_UP = 0x110000,
        TOP_KEY_DOWN,
        TOP_KEY_LEFT,
        TOP_KEY_RIGHT,
        TOP_KEY_PAGE_UP,
        TOP_KEY_PAGE_DOWN,
        TOP_KEY_HOME,
        TOP_KEY_END,
        TOP_KEY_ENTER,
        TOP_KEY_ESCAPE,
        TOP_KEY_BACKSPACE,
        TOP_KEY_NONE, /* one that means nothing here */
};

typedef struct TopUi {
        TopPage page;
        bool on_links; /* the cursor is among the links */
        bool paused;
        bool can_why, can_probe; /* this build and supervisor have them */
        TopNodeSort node_sort;
        TopLinkSort link_sort;
        bool reverse;
        char filter[64]; /* in the name, in any case; "": all */
        bool typing;     /* it is being edited */
        char uuid[40], node[132];                              /* selected; "": none yet */
        char link_uuid[40], link_to[132], link_input[132];     /* selected */
        size_t node_row, link_row;                             /* where it was, should it be gone */
        size_t scroll; /* of a page of text: its first line */
        bool follow;   /* its end is shown, whatever is added */
        char message[200]; /* shown until the next key */
} TopUi;

typedef struct TopOrder { /* rows that pass the filter, in their order; indices in the model */
        size_t *nodes, *links; /* owned */
        size_t n_nodes, n_links;
} TopOrder;

#define TOP_ORDER_NULL ((TopOrder){.nodes = NULL})

/* top_order() - made anew for each picture. 0 or -ENOMEM. */
int top_order(TopOrder *ret, const TopModel *model, const TopUi *ui, nsec_t now);
void top_order_done(TopOrder *order);

/* top_ui_select() - let the selection be on a row that is there, if there is one. */
void top_ui_select(TopUi *ui, const TopModel *model, const TopOrder *order);

/* top_ui_key() - @page_rows: how far a page leads. */
TopAction top_ui_key(TopUi *ui, const TopModel *model, const TopOrder *order, unsigned key, size_t page_rows);

/* top_ui_dataflow() - uuid of that of the selected node or link; "" without one. Borrowed. */
const char *top_ui_dataflow(const TopUi *ui);

/* top_ui_sort_name() - what it is ordered by, for the screen. Static. */
const char *top_ui_sort_name(const TopUi *ui);

#endif
