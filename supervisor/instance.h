/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One instance's own directory in the cgroup v2 hierarchy: found, made, locked, and swept when its owner is dead.
 *
 *     <root>/tidegate/<instance>/<dataflow uuid>/<node>.<generation>
 *
 * Without a cgroup the same tree is made of plain directories in memory (base/place.h).
 *
 * The root is our own delegated cgroup where we have one, else the root of the v2 hierarchy. The lock is flock(2) on the
 * instance's directory itself, held by guard, supervisor and keepers through one open file description: it is free exactly
 * when the last of them is gone, and then anybody who may write there may sweep it. Directories are 0700, so that no other
 * user can hold the lock.
 *
 * These functions block as cgroupfs does; they run before the guard's loop starts or in a forked child, never in a loop.
 */
#ifndef TG_SUPERVISOR_INSTANCE_H
#define TG_SUPERVISOR_INSTANCE_H

#include <limits.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/enforcer.h"

typedef struct Instance {
        int base_fd; /* <root>/tidegate */
        int dir_fd;  /* the instance's directory, flock()ed */
        char name[32];
        Enforcer enforcer;
        char path[PATH_MAX]; /* of the instance's directory, for people and for the last resort */
} Instance;

#define INSTANCE_NULL ((Instance){.base_fd = -1, .dir_fd = -1})

/**
 * instance_make() - sweep dead instances, then make and lock a new one
 * @root:     directory to use, or NULL to look for one
 * @prefix:   beginning of its name, at most 8 letters ("run")
 * @enforcer: how its nodes are to be ended; ENFORCER_AUTO: by cgroup, and where none can be made by the best of the rest. What was chosen is in the result.
 *            Without a cgroup @root is any directory, NULL for the usual one (base/place.h)
 * @ret_why:  room for @why_size bytes, set on failure
 *
 * Return: 0 or a negative errno.
 */
int instance_make(Instance *ret, const char *root, const char *prefix, Enforcer enforcer, char *ret_why, size_t why_size);

/**
 * instance_sweep() - end what instances without an owner have left below @base_fd, and remove their directories
 * @ours:  NULL: the nodes of a daemon that died are left to the next one on its runtime directory. Else whoever was here served ours, and
 *         the instance of this name is all that may stay
 * @until: absolute bound for all of it
 *
 * Return: how many were removed.
 */
unsigned instance_sweep(int base_fd, const char *ours, nsec_t until);

/**
 * instance_reopen() - take over the directory of a daemon that died
 * @root: as for instance_make()
 * @name: of the instance
 *
 * Keepers of that daemon may hold its lock; whoever holds the daemon's runtime directory may go on here all the same.
 *
 * Return: 0, -ENOENT when there is none, or another negative errno.
 */
int instance_reopen(Instance *ret, const char *root, const char *name);

/* instance_remove() - remove the empty directory, and tidegate/ if that was the last. 0 or a negative errno. */
int instance_remove(Instance *instance, nsec_t until);
void instance_done(Instance *instance);

#endif
