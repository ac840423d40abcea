/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where messages cannot be seen one by one: while somebody asks, the counters of each link are read now and then, which say how many messages wait at
 * that moment and for how long the first of them has. Looks are added up, of each link from the first one on.
 *
 * Counters are mapped: a look is no system call and asks nobody. So many links a turn, so that no dataflow is large enough to hold anybody up; one with
 * more of them has each looked at less often.
 */
#ifndef TG_SUPERVISOR_QUEUES_LOOK_H
#define TG_SUPERVISOR_QUEUES_LOOK_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "supervisor/loop.h"

typedef struct Dataflow Dataflow;
typedef struct Link Link;
typedef struct LinkLooks LinkLooks;

#define QUEUE_LOOK_SPAN  (100 * NSEC_PER_MSEC)
#define QUEUE_LOOK_LINKS 512u /* a turn */

typedef struct QueueLooks { /* of a dataflow; all zero: nobody looks */
        Timer timer;
        LinkLooks *links; /* owned, as many as the dataflow has; NULL: nobody looks */
        uint32_t next;    /* where the next turn begins */
} QueueLooks;

/* queue_looks_set() - begin, or end and forget. Without memory nobody looks. */
void queue_looks_set(Dataflow *dataflow, bool on);

/* queue_looks_describe() - as the interface has it (ProbedLink), a new reference; NULL: nobody looks. */
json_t *queue_looks_describe(const Dataflow *dataflow, const Link *link);

#endif
