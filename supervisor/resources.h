/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits and the freezer as the supervisor sees them: what the plan says, what was set since, what cannot be enforced, what was felt,
 * and who stands still. The keeper writes the files (supervisor/limit-files.h). What a user sees of it: docs/limits.md.
 *
 * Where a node may be NULL the dataflow's own cgroup is meant. Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_RESOURCES_H
#define TG_SUPERVISOR_RESOURCES_H

#include <stdbool.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/limit.h"
#include "protocol/keeper_msg.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;

typedef struct Resources {
        char *values[_LIMIT_KEY_MAX]; /* set at run time, journalled; NULL: the plan's */
        char *refused;                /* a line "KEY=reason" for each that does not hold; NULL: none */
        KeeperUsage usage;            /* of the present incarnation */
        bool frozen;                  /* the kernel says so */
        char *pending;                /* limits that the keeper is setting; NULL: none */
        bool freezing;                /* the keeper is freezing or thawing */
} Resources;

void resources_done(Resources *resources);

/* resources_begin() - of a new incarnation: what was said of the last one does not hold for it. */
void resources_begin(Resources *resources);

/* resources_text() - all limits that hold for it, as the keeper takes them; cut, whole lines, to KEEPER_MSG_LIMITS_MAX. */
const char *resources_text(const Dataflow *dataflow, const Node *node, char ret[static KEEPER_MSG_LIMITS_MAX + 1]);

/* resources_controllers() - LIMIT_CONTROLLER_*: those that some limit of the dataflow or of its nodes needs. */
uint32_t resources_controllers(const Dataflow *dataflow);

/**
 * resources_check() - the keeper has said what this host can enforce
 * @missing, @refused: as in BEGUN
 *
 * Remembers it. Return: true: go on (what cannot be enforced was noted, for that is allowed); false: the plan asks for a limit that
 * cannot be, and the dataflow has failed with the reason.
 */
bool resources_check(Dataflow *dataflow, uint32_t controllers, const char *missing, const char *refused);

/* resources_told_*() - the keeper's reports. */
void resources_told_refused(Node *node, const char *text, bool again);
void resources_told_usage(Dataflow *dataflow, Node *node, const KeeperUsage *usage, bool again);
void resources_told_frozen(Dataflow *dataflow, Node *node, bool frozen);
void resources_told_limited(Dataflow *dataflow, Node *node, int error, const char *text);
void resources_told_freeze(Dataflow *dataflow, Node *node, bool frozen, int error);

/* resources_ended() - its cgroup is empty: limits that are being set, whose end can be just that, are those of its next life, as of a node that
 * does not run. What the keeper still says of them is about a life that is over. */
void resources_ended(Node *node);

/* resources_forget_orders() - another keeper, or another supervisor: what was under way is not answered any more. */
void resources_forget_orders(Dataflow *dataflow);

/* resources_explain_oom() - "was oom-killed, peak 64M of 64M". False: it was not. */
bool resources_explain_oom(const Node *node, char *buffer, size_t size);

/* resources_explain_failure() - of a limit that hindered a start: with the line where it is asked for. */
void resources_explain_failure(const Node *node, const char *text, char *buffer, size_t size);

/**
 * resources_order_limits() - set limits now, and for every life that follows
 * @limits: a text of canonical lines
 * @ret_why: room for @why_size bytes, set on failure
 *
 * With somebody there the keeper is asked, and server_limited() tells how that went; else they are only remembered.
 *
 * Return: 1 the keeper is asked, 0 remembered, or a negative errno.
 */
int resources_order_limits(Dataflow *dataflow, Node *node, const char *limits, char *ret_why, size_t why_size);

/* resources_order_freeze() - the keeper is asked, server_frozen() tells. 1, 0 it is so already, or a negative errno with @ret_why. */
int resources_order_freeze(Dataflow *dataflow, Node *node, bool frozen, nsec_t until, char *ret_why, size_t why_size);

/* resources_thaw() - a ladder begins: who stands still cannot hear of it. Harmless for others. */
void resources_thaw(Dataflow *dataflow, Node *node);

/* resources_is_frozen() - its deadlines do not run: it, or everybody, stands still. */
bool resources_is_frozen(const Node *node);

/* resources_describe() - "frozen", "limits", "felt" into the object that describes it. */
void resources_describe(json_t *object, const Dataflow *dataflow, const Node *node);

/* The journal's: run-time values of everybody as text, lines "INDEX KEY=VALUE" ("-" for the dataflow). NULL: none, or no memory. */
char *resources_to_text(const Dataflow *dataflow);
void resources_from_text(Dataflow *dataflow, const char *text); /* what is not understood is left out */

#endif
