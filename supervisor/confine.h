/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What keeps a node in its cgroup: its uid alone, or a mount namespace in which every cgroup hierarchy is read-only.
 *
 * Who owns the files of the cgroups decides. An ordinary user under root's daemon can write none of them, and nothing more is
 * needed. Root can write all of them. Its nodes get a mount namespace, one for all nodes of a dataflow, which the keeper makes
 * once and each child enters before it drops credentials. It is a copy of ours in which what is mounted or unmounted later
 * still arrives (where the host's mounts propagate at all). Root can undo it: against accidents it is complete, against
 * intent it is nothing, and `status` says so. Nodes of an unprivileged daemon's own user cannot be given one.
 *
 * Does not know: nodes, incarnations, the loop.
 */
#ifndef TG_SUPERVISOR_CONFINE_H
#define TG_SUPERVISOR_CONFINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One a keeper. Shared by its threads: what is under the lock is set once. */
typedef struct Confine {
        bool writable; /* the nodes' user may write these cgroups; set by confine_init() */
        pthread_mutex_t lock;
        bool tried, told;
        int error;  /* why there is no namespace; 0: there is one, or none is needed */
        int mnt_fd; /* of the namespace; -1: none */
} Confine;

#define CONFINE_NULL ((Confine){.lock = PTHREAD_MUTEX_INITIALIZER, .mnt_fd = -1})

/**
 * confine_init() - may this user leave the cgroup @dir_fd for any one above it?
 * @dir_fd: the dataflow's directory; borrowed
 *
 * Reads the owners of cgroup.procs up to the root of the mount; blocks as cgroupfs does.
 */
void confine_init(Confine *confine, int dir_fd, uid_t uid, gid_t gid, const gid_t *groups, uint32_t n_groups);
void confine_done(Confine *confine);

/**
 * confine_namespace() - the mount namespace for a node, made when it is asked for first
 *
 * Blocks: for a thread. Others who ask meanwhile wait.
 *
 * Return: its descriptor, borrowed for the life of @confine, or -1: the uid keeps the node where it is, or there is none
 * (confine->error).
 */
int confine_namespace(Confine *confine);

/**
 * confine_make_namespace() - a copy of our mount namespace with every cgroup hierarchy in it read-only
 *
 * Made by a thread of its own, so that the caller stays where it is. Return: a descriptor (O_CLOEXEC) that the caller owns,
 * or -EPERM without the privilege, -EXDEV when we do not run at the root of our namespace (a chroot), another negative errno.
 */
int confine_make_namespace(void);

/* confine_is_apart() - does this process live in another mount namespace than we do? False also when it is gone, or in the middle of execve(). Reads two
 * links of /proc. */
bool confine_is_apart(pid_t pid);

#endif
