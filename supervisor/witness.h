/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor's side of the witness (protocol/witness_msg.h): a process that sees, through a kernel probe, who leaves the cgroup of
 * its node. What it says is passed to the dataflow's keeper at once, which tells of it and ends whoever left.
 *
 * Asked for when the first dataflow begins, by root's supervisors, and looked after: loading has a deadline, and so has each answer;
 * one that dies or does not answer is replaced, after a pause that grows, and given up when that does not help. A word in the log says
 * so, and keepers look through /proc with and without it. TIDEGATE_PROBES=off in the environment: none is asked for.
 *
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_WITNESS_H
#define TG_SUPERVISOR_WITNESS_H

#include <stdint.h>

#include "supervisor/supervisor.h"

/* witness_free() - hang up; it ends. NULL is fine. Returns NULL. */
Witness *witness_free(Witness *witness);

/* witness_want() - a dataflow begins, or was adopted. Without memory there is none. */
void witness_want(Supervisor *supervisor);

/* The guard's answers. */
void witness_on_started(Supervisor *supervisor, int32_t pid, int take_sock, int take_pidfd);
void witness_on_failed(Supervisor *supervisor, int error);

#endif
