/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scope of the user's service manager (systemd --user): a cgroup of version 2 that belongs to the user and is delegated. An ordinary user's
 * login session lies in a cgroup of root's, where he may make none.
 *
 * One method call over the manager's private socket, $XDG_RUNTIME_DIR/systemd/private: no program is started, no bus is needed for it. The manager
 * moves the processes, for we may not.
 *
 * Waits, up to a deadline: not for a loop. Thread-safe.
 */
#ifndef TG_BASE_USER_SCOPE_H
#define TG_BASE_USER_SCOPE_H

#include <stddef.h>
#include <sys/types.h>

#include "base/clock.h"

#define USER_SCOPE_PIDS 4u

/**
 * user_scope_enter() - be put into a scope of that name: a new one, or the one that is there
 * @name:        of the unit, with .scope
 * @description: what people see of it
 * @pids:        1 to USER_SCOPE_PIDS processes of this user, the calling one first
 * @until:       absolute
 * @ret_why:     room for @why_size bytes, set on failure
 *
 * The scope is removed by the manager once nobody is in it. Return: 0 when the calling process is in it; -ENOENT when no manager of this user's
 * runs, -ETIMEDOUT, or another negative errno.
 */
int user_scope_enter(const char *name, const char *description, const pid_t *pids, size_t n_pids, nsec_t until, char *ret_why, size_t why_size);

#endif
