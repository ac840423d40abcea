/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor's side of the witness (protocol/witness_msg.h): a process that sees, through a kernel probe, who leaves the cgroup of
 * its node. What it says is passed to the dataflow's keeper at once, which tells of it and ends whoever left.
 *
 * Asked for when the first dataflow begins, by root's supervisors, and looked after (supervisor/helper.h): each answer has a deadline, too. A word in
 * the log says when there is none, and keepers look through /proc with and without it. TIDEGATE_PROBES=off in the environment: none is asked for.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_WITNESS_H
#define TG_SUPERVISOR_WITNESS_H

#include "supervisor/supervisor.h"

/* witness_free() - hang up; it ends. NULL is fine. Returns NULL. */
Witness *witness_free(Witness *witness);

/* witness_want() - a dataflow begins, or was adopted. Without memory there is none. */
void witness_want(Supervisor *supervisor);

#endif
