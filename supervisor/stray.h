/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of an incarnation that are in another cgroup, found in one pass over /proc for any number of incarnations.
 *
 * Or one that somebody else has seen to leave (stray_take()).
 *
 * A process belongs to an incarnation if it is of its first process's session, which its spawner made and which keeps its
 * number as long as anybody is in it; or if one that belongs to it is its parent. A daemon that has taken a session of its own
 * and whose parent has ended is known by neither: it is found only while its parent lives.
 *
 * Reads status and cgroup of /proc/PID, which wait for nobody; of those who are found, and of their parents up to the incarnation, stat, too, but not
 * while they are in the middle of execve() (base/procstat.h). Allocates; blocks as /proc and cgroupfs do: for a thread. Nobody is signalled here.
 */
#ifndef TG_SUPERVISOR_STRAY_H
#define TG_SUPERVISOR_STRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct StrayHome {
        pid_t leader;      /* first process, and session */
        bool leader_held;  /* it lives, or is a zombie of ours: its number is nobody else's */
        bool by_parent;    /* children count, whatever their session */
        int cgroup_fd;     /* its cgroup, whose processes are not looked at; borrowed; -1: gone */
        const char *place; /* the cgroup's whole path, as stray_place() gives it */
} StrayHome;

typedef struct Stray {
        size_t home; /* index */
        pid_t pid;
        uint64_t start_time; /* 0: not known, it is in the middle of execve() */
        int pidfd; /* the caller's */
        char comm[65];
        char to[256]; /* where it is: path in the hierarchy, cut if it is longer */
} Stray;

/**
 * stray_place() - the path of a cgroup's directory as /proc/PID/cgroup has it: from the mount point on
 * @ret: the caller frees it; untouched on failure
 *
 * True of a hierarchy that is mounted from the root of our cgroup namespace, as it is where anything of ours is made (base/cgroup_root.h).
 * Return: 0, or a negative errno: -ENOENT when the directory is gone.
 */
int stray_place(int dir_fd, char **ret);

/**
 * strays_find() - who of them is elsewhere
 * @ret: room for @max; more are not told, and found by a later call
 *
 * Zombies are nobody. Return: how many there are in @ret, or a negative errno.
 */
int strays_find(const StrayHome *homes, size_t n_homes, Stray *ret, size_t max);

/**
 * stray_take() - that process, if it lives and is elsewhere than at @place
 * @start_ns: CLOCK_BOOTTIME: when it began; another one with its number is not it
 * @place:    as in StrayHome
 *
 * One in the middle of execve() is waited for, 0.2 s at the most. Return: true: @ret is filled, home is 0. False: it is gone or back, or cannot be
 * looked at, or hangs there.
 */
bool stray_take(pid_t pid, uint64_t start_ns, const char *place, Stray *ret);

#endif
