/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `on_pressure` as the supervisor sees it: circuit breakers on conditions that the keeper watches for (supervisor/keeper-pressure.c). A node's are
 * watched for from where it runs, in each of its lives anew; a dataflow's from where all of it has started. What a user sees: docs/limits.md.
 *
 * Where a node may be NULL the dataflow itself is meant. Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_PRESSURE_H
#define TG_SUPERVISOR_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/keeper_msg.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;

typedef struct Pressure {
        uint32_t noted;  /* a bit for each condition that was noted in this life */
        uint64_t n_met;  /* how often one was met, in all lives under this supervisor */
        char *text;      /* the last of them, for people; NULL: none */
        uint32_t unwatched; /* a bit for each that this host cannot watch for */
} Pressure;

void pressure_done(Pressure *pressure);

/* pressure_is_asked() - does any condition need the kernel's triggers? */
bool pressure_is_asked(const Dataflow *dataflow);

/*
 * pressure_check() - the keeper has said what this host can do; @missing: as in BEGUN. True: go on (what is not watched for was noted, for that is
 * allowed); false: the dataflow has failed with the reason.
 */
bool pressure_check(Dataflow *dataflow, const char *missing);

/* pressure_watch() - it runs from now on, or does still, with a new keeper or supervisor. */
void pressure_watch(Dataflow *dataflow, Node *node);
void pressure_watch_all(Dataflow *dataflow, const char *missing); /* likewise, after an adoption; missing: as in RESUMED */

/* The keeper's reports. */
void pressure_told(Dataflow *dataflow, Node *node, const KeeperMsg *msg);
void pressure_told_unwatched(Dataflow *dataflow, Node *node, const char *text);

#endif
