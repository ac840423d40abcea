/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: the process that acts for one dataflow. It does all that can block, on the supervisor's orders
 * (protocol/keeper_msg.h): makes and removes cgroups, spawns, signals, kills, looks, reads the nodes' output.
 *
 * Its loop never waits for a path, a disk or a reader; what can hang runs in a thread (supervisor/keeper-jobs.h) or
 * in the logger process. Without a supervisor it carries out no more orders but keeps reading the nodes' output until
 * the dataflow is empty; without guard and supervisor it kills and removes everything itself.
 */
#ifndef TG_SUPERVISOR_KEEPER_H
#define TG_SUPERVISOR_KEEPER_H

/**
 * keeper_main() - be the keeper; in a fresh process with one thread
 * @supervisor_fd:      SOCK_SEQPACKET, orders and reports; closed at the end, as the others are
 * @guard_fd:           SOCK_SEQPACKET, registrations; its hang-up says that the guard is gone
 * @instance_cgroup_fd: directory of the instance's cgroup, below which the dataflow's is made
 * @listen_fd:          listening, for the next daemon when supervisor and guard died together; -1: none
 *
 * Return: the exit status: 0 after END or when nobody was left to work for, 1 when it could not begin.
 */
int keeper_main(int supervisor_fd, int guard_fd, int instance_cgroup_fd, int listen_fd);

#endif
