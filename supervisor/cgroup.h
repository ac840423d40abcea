/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One cgroup v2 directory as an open file descriptor: make it, read who is in it, watch it get empty, remove it.
 *
 * Where no cgroup may be written the same directories are plain ones (base/place.h), and every function here takes them as well: who is in it is then
 * who descends from its reaper, and it is empty when the reaper has ended.
 *
 * Everything is relative to a directory fd, so a path that is renamed, unmounted or forged cannot lead us elsewhere.
 * Nothing allocates, logs or uses stdio, so every function may run in a thread with a small stack (32 KiB is enough)
 * or in a child forked from a threaded process. Thread-safe. cgroupfs calls wait for the kernel's cgroup lock, which
 * a kill of a large tree holds for a quarter of a second: no caller may be a loop that must not wait, except for
 * cgroup_populated(), which takes no lock.
 *
 * Does not know: nodes, keepers, signals (supervisor/sweep.h).
 */
#ifndef TG_SUPERVISOR_CGROUP_H
#define TG_SUPERVISOR_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/clock.h"

#define CGROUP_DEPTH_MAX       32   /* levels below an incarnation's cgroup that its processes may make */
#define CGROUP_DESCENDANTS_MAX 1000 /* cgroups below an incarnation's cgroup, likewise */

enum {
        CGROUP_E_EXISTS = 1, /* cgroup_make: there is one of that name already */
        CGROUP_E_BUSY,       /* cgroup_remove_tree: still there at the deadline */
        CGROUP_E_DEEP,       /* deeper than CGROUP_DEPTH_MAX: what lies below was not visited */
        CGROUP_E_MANY,       /* counted no further */
};

/**
 * cgroup_make() - make a fresh cgroup
 * @parent_fd: directory
 * @name:      one path component
 * @ret_fd:    set on success to the new directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC; owned by the caller
 *
 * Mode 0700. Never takes over a directory that exists: a cgroup that was once killed kills what is born into it.
 *
 * Return: 0, CGROUP_E_EXISTS, or a negative errno; then nothing was made.
 */
int cgroup_make(int parent_fd, const char *name, int *ret_fd);

/* cgroup_open() - one that is there already, as cgroup_make() gives a new one. 0 or -errno. */
int cgroup_open(int parent_fd, const char *name, int *ret_fd);

/*
 * cgroup_limit_descent() - bound how many cgroups can be made below this one, so that a walk is bounded. 0 or
 * -errno.
 */
int cgroup_limit_descent(int dir_fd);

/* cgroup_open_file() - openat with O_CLOEXEC | O_NOFOLLOW; @flags is O_RDONLY or O_WRONLY. The fd or -errno. */
int cgroup_open_file(int dir_fd, const char *name, int flags);

/*
 * cgroup_open_events() - what cgroup_populated() reads and what tells of changes: cgroup.events; of a life without a cgroup the pidfd of its
 * reaper; of a plain directory above such lives a descriptor that nothing can be polled for, look again at times. The fd; -ENOENT, -ENODEV: it
 * is gone; or another -errno.
 */
int cgroup_open_events(int dir_fd);
int cgroup_open_kill(int dir_fd); /* cgroup.kill for writing; of a plain directory itself. The fd or -errno. */
short cgroup_events_mask(int events_fd); /* what to poll for: POLLPRI, of a reaper POLLIN, of a plain directory nothing */
bool cgroup_is_gone(int dir_fd); /* the directory was removed: nobody can be born there any more */

/* cgroup_write() - write @text to one of the cgroup's files. 0 or -errno. */
int cgroup_write(int dir_fd, const char *name, const char *text);

/**
 * cgroup_populated() - is any live process in this cgroup or below?
 * @events_fd: cgroup.events, open for reading; its position is not moved. Poll it for POLLPRI to hear of changes (the
 *             kernel lets at most one through per 10 ms, so read again whenever a process of it is seen to exit)
 *
 * Return: 1 or 0; 0 as well when the cgroup is gone; a negative errno when it cannot be told.
 */
int cgroup_populated(int events_fd);

/* Called for each cgroup of a tree; @dir_fd is borrowed. Non-zero ends the walk and is returned. */
typedef int (*CgroupVisit)(int dir_fd, void *userdata);

/**
 * cgroup_walk() - visit @dir_fd and every cgroup below it, parents first
 *
 * Cgroups that come or go meanwhile are visited or not. Uses at most CGROUP_DEPTH_MAX + 2 descriptors.
 *
 * Return: 0, CGROUP_E_DEEP (the rest was visited), what @visit returned, or a negative errno.
 */
int cgroup_walk(int dir_fd, CgroupVisit visit, void *userdata);

/* Called for each process; non-zero ends the listing and is returned. */
typedef int (*CgroupPid)(pid_t pid, void *userdata);

/**
 * cgroup_each_process() - list the processes of this one cgroup (not of those below)
 *
 * Lists a process whose leader has exited while another thread lives, too. In a threaded cgroup, where the kernel
 * lists only threads, each thread's process is told (once per thread). The list is a moment's: pids may have ended or
 * been recycled by the time they are seen here.
 *
 * Return: 0, what @each returned, or a negative errno; a cgroup that is gone has no processes: 0.
 */
int cgroup_each_process(int dir_fd, CgroupPid each, void *userdata);

#define CGROUP_COUNT_MAX 65536 /* a tree may fork faster than it can be counted */

/* cgroup_count() - processes in the whole tree below and at @dir_fd, CGROUP_COUNT_MAX if there are more; or -errno. */
int cgroup_count(int dir_fd);

/**
 * cgroup_remove_tree() - remove a cgroup and those that processes made below it
 * @parent_fd: directory it lies in
 * @name:      its name there
 * @until:     absolute; EBUSY outlives the last process by a moment, so it is tried again until then. In the past: one try
 *
 * Kills nobody. Return: 0 when it is gone (or was not there), CGROUP_E_BUSY, CGROUP_E_DEEP, or a negative errno.
 */
int cgroup_remove_tree(int parent_fd, const char *name, nsec_t until);

#endif
