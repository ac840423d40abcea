/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a dataflow share: dataflow.c (made, begun, released, advanced, unmade), dataflow-events.c, dataflow-stop.c,
 * dataflow-end.c, dataflow-keeper.c, dataflow-result.c.
 */
#ifndef TG_SUPERVISOR_DATAFLOW_INTERNAL_H
#define TG_SUPERVISOR_DATAFLOW_INTERNAL_H

#include "supervisor/dataflow.h"

#define DATAFLOW_CONFIRM_SPAN (200 * NSEC_PER_MSEC) /* the guard answers in microseconds */
#define DATAFLOW_END_SPAN     (2 * NSEC_PER_SEC)    /* the keeper flushes logs and removes directories */
#define DATAFLOW_END_SLACK    (500 * NSEC_PER_MSEC)
#define DATAFLOW_DEAF_SPAN    NSEC_PER_SEC          /* the keeper hears of an exit when the guard does */

/* dataflow.c */
void dataflow_set_state(Dataflow *dataflow, DataflowState state); /* written down and told */
bool dataflow_is_final(const Dataflow *dataflow);                 /* every node is */

/* dataflow-events.c */
void dataflow_emit(Dataflow *dataflow, json_t *take_event); /* NULL: none, for want of memory */

/* dataflow-stop.c. dataflow_stop_nodes(): the guard holds the deadline, or had its time. The other: of `timer`, when it has. */
void dataflow_stop_nodes(Dataflow *dataflow);
int dataflow_on_unconfirmed(Timer *timer, nsec_t now);

/* dataflow-end.c. dataflow_end(): every node is final. dataflow_on_end_late(): of `timer`, when the keeper has not left. */
void dataflow_end(Dataflow *dataflow);
int dataflow_on_end_late(Timer *timer, nsec_t now);
bool dataflow_may_watch(const Dataflow *dataflow); /* its keeper may stay with who is left */
void dataflow_look_at_watch(Dataflow *dataflow);

/* dataflow-keeper.c */
void dataflow_order_keeper(Dataflow *dataflow); /* its first one */
bool dataflow_may_replace(const Dataflow *dataflow);

#endif
