/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits and the freezer, as files of a cgroup: what the keeper writes and reads there. Names and values: base/limit.h.
 *
 * Blocking: a write may wait for the kernel (a lower memory.max reclaims first), and limits_freeze() waits for it on
 * purpose; so all of this runs in a thread of the keeper, but limits_read_usage() and limits_frozen(), which read counters.
 */
#ifndef TG_SUPERVISOR_LIMIT_FILES_H
#define TG_SUPERVISOR_LIMIT_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/limit.h"
#include "protocol/keeper_msg.h"

/**
 * limits_enable() - have the controllers for a dataflow's cgroup and for those below it
 * @dataflow_fd: its directory, three levels below the one that is ours (base/tidegate/instance/dataflow)
 * @wanted:      LIMIT_CONTROLLER_*
 * @ret_missing: a line "CONTROLLER=reason" for each of the five that cannot be had, and that was wanted or is not offered
 *
 * What somebody has enabled already is used as it is; nothing is ever disabled. A controller that cannot be had does not
 * hinder the others: EBUSY means that processes live in a directory on the way.
 *
 * Return: LIMIT_CONTROLLER_* that limits of the dataflow and of its nodes can use.
 */
unsigned limits_enable(int dataflow_fd, unsigned wanted, char *ret_missing, size_t missing_size);

/* limits_missing() - all five are missing, for one reason; as limits_enable() says it. */
void limits_missing(const char *reason, char *ret_missing, size_t missing_size);

/**
 * limits_set() - write one limit
 * @value:   canonical
 * @missing: what limits_enable() said; "": nothing
 * @ret_why: in words, on failure
 *
 * Return: 0, or a negative errno.
 */
int limits_set(int dir_fd, LimitKey key, const char *value, const char *missing, char *ret_why, size_t why_size);

/**
 * limits_set_all() - a text of limits (limit_next()), one after the other
 * @lenient: go on after one that cannot be set; else the first one ends it
 * @ret_why: a line "KEY=reason" for each that could not be
 *
 * Return: 0, or the negative errno of the first one, also when lenient.
 */
int limits_set_all(int dir_fd, const char *limits, bool lenient, const char *missing, char *ret_why, size_t why_size);

/* limits_group_oom() - the out-of-memory killer takes all of this cgroup or nobody. Without the controller nothing. */
void limits_group_oom(int dir_fd);

/* limits_read_usage() - what was felt so far. What cannot be read counts as 0. True: something has been felt. */
bool limits_read_usage(int dir_fd, KeeperUsage *ret);

/*
 * limits_freeze() - freeze or thaw, and wait until the kernel says so
 *
 * Return: 0, -ETIMEDOUT (what was ordered stands, and may still come), or another negative errno.
 */
int limits_freeze(int dir_fd, bool frozen, nsec_t until);

/* limits_frozen() - of an open cgroup.events: 1 everybody in it stands still, 0 not, or a negative errno. */
int limits_frozen(int events_fd);

/* limits_freeze_ordered() - cgroup.freeze of this cgroup itself, whatever those above it say. */
bool limits_freeze_ordered(int dir_fd);

#endif
