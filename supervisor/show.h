/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people see without asking: rows of the status pages, and the progress of nodes. Called at each change; costs stores into
 * mapped memory, and no system call but a row's first.
 */
#ifndef TG_SUPERVISOR_SHOW_H
#define TG_SUPERVISOR_SHOW_H

#include "shm/counters.h"
#include "supervisor/supervisor.h"

/* A private instance has no pages: nothing happens. */
void show_dataflow(Dataflow *dataflow);
void show_node(Node *node);
void show_all(Dataflow *dataflow);

/* Progress: a node is looked at while it runs behind the barrier, a link while it is active. */
void show_node_runs(Node *node);
void show_node_ends(Node *node);
void show_link(Link *link); /* its state has changed */
void show_link_ends(Link *link); /* its consumer has ended: what was counted is kept in link->last */
bool show_link_counters(const Link *link, LinkCounters *ret); /* now, or at its consumer's last end. False: nothing is known */

#endif
