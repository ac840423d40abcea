/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where this process may make cgroups: its own delegated cgroup v2 directory where it has one, else the root of the v2 hierarchy
 * (/sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1), or what a container sees as that. Looks only; touches no hierarchy of version 1.
 *
 * Reads /proc and one extended attribute; blocks as they do. Thread-safe.
 */
#ifndef TG_BASE_CGROUP_ROOT_H
#define TG_BASE_CGROUP_ROOT_H

#include <stddef.h>
#include <sys/types.h>

/* The leaf of a delegated cgroup in which our own processes are: one with processes of its own could have no controllers below. Whoever is in it
 * has its parent as own cgroup. */
#define CGROUP_SELF "tidegate-self"

/* mountinfo_unescape() - in place: /proc/self/mountinfo writes space, tab, newline and backslash as \ooo. */
void mountinfo_unescape(char *s);

/* cgroup_mount_find() - the first cgroup2 mount that shows its hierarchy from the root (that of our cgroup namespace). 0 or a negative errno, -EXDEV when
 * only others are mounted, from above it; @ret_path: room for PATH_MAX bytes. */
int cgroup_mount_find(char *ret_path);

/* cgroup_path_of() - where in that hierarchy a process is ("/a/b"); 0: this one. 0 or a negative errno; @ret_path: room for PATH_MAX bytes. */
int cgroup_path_of(pid_t pid, char *ret_path);

/* cgroup_own_find() - the directory of the cgroup that this process is in. 0 or a negative errno: -ENOENT, -EXDEV when no mount shows it;
 * @ret_path: room for PATH_MAX bytes. */
int cgroup_own_find(char *ret_path);

/* cgroup_count_others() - how many in that directory keep controllers from being enabled below it: processes, but for us, for @also (0: nobody), and for
 * those that run a program of ours: they move out of the way, or leave. 0 where that does not matter: the hierarchy's root, or no controllers to enable. */
int cgroup_count_others(const char *path, pid_t also);

/**
 * cgroup_root_find() - the directory below which everything of ours is made
 * @ret_path: room for PATH_MAX bytes
 * @ret_why:  room for @why_size bytes: why this one, or what was looked at and what stood in the way
 *
 * Return: 0, -ENOENT when no cgroup v2 is mounted, -EXDEV when none shows our own cgroups, -EACCES or -EROFS when there is none that we may write, another negative errno.
 */
int cgroup_root_find(char *ret_path, char *ret_why, size_t why_size);

#endif
