/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one life of a node uses at a moment: the counters of its cgroup, and where the kernel has none (a hybrid host, no cgroup at all) a sum over
 * the processes in it.
 *
 * CPU time is that of everybody who ever lived there. Without a cgroup those who have ended are in their parents' account, and at the top in the
 * reaper's, once they were waited for. Memory that is summed is what is resident, so pages that several of them share count for each.
 *
 * Reads files of cgroups and, of each process, what base/procstat.h reads: for a thread, which may hang.
 */
#ifndef TG_SUPERVISOR_MEASURE_H
#define TG_SUPERVISOR_MEASURE_H

#include <sys/types.h>

#include "protocol/keeper_msg.h"

/**
 * measure_read() - of the cgroup (or plain directory of a life) @dir_fd
 * @reaper: its reaper, which is no process of the node's; 0: there is none
 *
 * What cannot be read is unknown. Return: 0, or -ENOENT: nothing could be measured there.
 */
int measure_read(KeeperMeasure *ret, int dir_fd, pid_t reaper);

/* measure_parse_pressure() - "avg10=" of the lines "some" and "full" of a file of pressure, in hundredths of a percent. */
void measure_parse_pressure(const char *text, uint16_t *ret_some, uint16_t *ret_full);

#endif
