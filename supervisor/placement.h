/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which nodes share a CPU. A consumer that sleeps is woken several times as fast on the CPU on which its producer runs as on another one;
 * but there they take turns. So who takes little time for a message is placed beside its producer, if that helps, and only as long as it
 * does. docs/waiting.md has the rules for people.
 *
 * A consumer's producer is the source of its first input that is a link. Who is placed beside somebody belongs to the group of that one, and
 * a group has one CPU. Everybody else is left to the scheduler.
 *
 * What nodes say of themselves (shm/bell.h) decides about nobody but their own group; values that nobody honest stores count as nothing said.
 * Pure, but for the mappings: whoever calls carries out what it says.
 */
#ifndef TG_SUPERVISOR_PLACEMENT_H
#define TG_SUPERVISOR_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "shm/bell.h"

typedef enum PlacementWish {
        PLACEMENT_AUTO,     /* as the rules say */
        PLACEMENT_COLOCATE, /* always beside its producer */
        PLACEMENT_SPREAD,   /* never; others may be placed beside it */
        PLACEMENT_NONE,     /* neither */
        _PLACEMENT_WISH_MAX,
} PlacementWish;

#define PLACEMENT_NOBODY       UINT32_MAX
#define PLACEMENT_PERIOD       (500 * NSEC_PER_MSEC) /* between two looks */
#define PLACEMENT_PERIOD_CALM  (4 * NSEC_PER_SEC)    /* when nothing has changed for PLACEMENT_CALM looks */
#define PLACEMENT_CALM         20u
#define PLACEMENT_VOTES        2u                    /* looks in a row that have to agree */
#define PLACEMENT_WAKES        5u                    /* in one look: fewer say nothing */
#define PLACEMENT_WAKE_LEAST   (10 * NSEC_PER_USEC)  /* quicker ones need no help */
#define PLACEMENT_SERVICE_JOIN (60 * NSEC_PER_USEC)  /* CPU time of a message, at most */
#define PLACEMENT_SERVICE_MAX  (90 * NSEC_PER_USEC)  /* more: it leaves */
#define PLACEMENT_LOAD_JOIN    500u                  /* of a group, per mille of a CPU, at most */
#define PLACEMENT_LOAD_MAX     800u                  /* more: it leaves */
#define PLACEMENT_AGAIN        (8 * NSEC_PER_SEC)    /* before it is tried once more; doubles each time */
#define PLACEMENT_AGAIN_MAX    (512 * NSEC_PER_SEC)

typedef struct PlacementSpec {
        PlacementWish wish;
        uint32_t producer; /* index; PLACEMENT_NOBODY */
        bool fixed;        /* it has a cpu_affinity, or is no process of ours: never moved */
        int fixed_cpu;     /* the only one it may run on; -1 */
} PlacementSpec;

typedef struct Placement Placement;

/* @cpus: those that may be used; @seed: where to begin with them. Both are copied. Return: 0, -ENOMEM. */
int placement_new(Placement **ret, const PlacementSpec *specs, uint32_t n_nodes, const int *cpus, size_t n_cpus, uint32_t seed);
Placement *placement_free(Placement *placement); /* NULL: harmless */

/* placement_begin() - a new incarnation runs, wherever the scheduler likes. @bell_fd: borrowed; not mapped: nothing is said of it. */
void placement_begin(Placement *placement, uint32_t node, int bell_fd);
void placement_end(Placement *placement, uint32_t node);

/* placement_refused() - it could not be moved, or moves itself: this incarnation is left alone. */
void placement_refused(Placement *placement, uint32_t node, const char *why);

/* Told of each node that is to move: to @cpu, or with -1 to wherever it was born to run. @why: for people. */
typedef void (*PlacementFn)(uint32_t node, int cpu, const char *why, void *userdata);

/* placement_look() - read what nodes say, and decide. placement_judge(): the same with what they said given, for tests; n_nodes of them. */
void placement_look(Placement *placement, nsec_t now, PlacementFn fn, void *userdata);
void placement_judge(Placement *placement, const BellCounters *said, nsec_t now, PlacementFn fn, void *userdata);

/* placement_next() - when to look again; NSEC_NEVER: nobody runs who could be placed. */
nsec_t placement_next(const Placement *placement, nsec_t now);

typedef struct PlacementState { /* for status */
        PlacementWish wish;
        int cpu;              /* -1: the scheduler's choice */
        uint32_t beside;      /* producer; PLACEMENT_NOBODY */
        const char *why;      /* of the last change; NULL: there was none */
} PlacementState;

PlacementState placement_state(const Placement *placement, uint32_t node);

#endif
