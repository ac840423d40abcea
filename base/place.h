/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the lives of nodes are written down on a host without a writable cgroup: a plain directory in memory for each, in the same tree as the
 * cgroups would be (<root>/tidegate/<instance>/<uuid>/<node>.<generation>). A life has a reaper, a process of ours from which
 * everything in it descends; the directory's symbolic link "reaper" names it by pid and start time. Whoever finds the directory, with or without
 * us, can tell who belongs to that life, whether anybody does, and end it.
 *
 * Nothing allocates or uses stdio: usable in a thread (stack of 32 KiB) and in a child forked from a threaded process. Thread-safe. Reads only
 * files of /proc that wait for nobody (base/procstat.h); threads of one process that look at the same time share what one of them reads.
 *
 * Does not know: nodes, who asked.
 */
#ifndef TG_BASE_PLACE_H
#define TG_BASE_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/clock.h"

#define PLACE_ROOT_NAME "tidegate-places"

/* place_is_cgroup() - does the directory lie in a cgroup v2 hierarchy? */
bool place_is_cgroup(int dir_fd);

/**
 * place_root_make() - the directory below which instances without cgroups are made
 * @ret_path: room for PATH_MAX bytes
 *
 * /run/tidegate-places of root's, $XDG_RUNTIME_DIR/tidegate-places of others', else /tmp/tidegate-places-<uid>; 0700, and never one that
 * belongs to another or is a link. Return: 0 or a negative errno.
 */
int place_root_make(char ret_path[static PATH_MAX]);

/* place_is_below() - is @path of a dataflow, an instance or a life that may lie outside of any cgroup hierarchy: "...-1a2b3c4d.pidns/..." */
bool place_is_below(const char *path);

/* place_root_find() - the same, without making it; -ENOENT: there is none. */
int place_root_find(char ret_path[static PATH_MAX]);

/**
 * place_set_reaper() - write down who the reaper is, once
 * @pid:     a child of ours that is not reaped meanwhile
 * @is_init: of a PID namespace: its death is that of everybody in it
 *
 * Return: 0, or a negative errno: -ENOENT when the directory has been removed, and then nobody may be born there.
 */
int place_set_reaper(int dir_fd, pid_t pid, bool is_init);

/**
 * place_reaper() - of a directory
 * @ret_is_init: may be NULL
 * @ret_pid:     may be NULL
 *
 * Return: a pidfd, the caller's; -ESRCH: it is gone; -ENOENT: none was ever named here (this is no life's directory, or it has not begun).
 */
int place_reaper(int dir_fd, bool *ret_is_init, pid_t *ret_pid);

/* place_forget() - take the name of a reaper that is gone out of the directory, so that it can be removed. 0, or -EBUSY: it lives. */
int place_forget(int dir_fd);

/* Called for each process; non-zero ends the listing and is returned. */
typedef int (*PlacePid)(pid_t pid, void *userdata);

/**
 * place_each_descendant() - everybody who descends from @root, without it, dead ones, and the @n_spared with those below them
 *
 * One pass over /proc: a moment's list, as cgroup_each_process() gives it. Return: 0, what @each returned, or a negative errno.
 */
int place_each_descendant(pid_t root, const pid_t *spared, size_t n_spared, PlacePid each, void *userdata);

/* place_each_child() - the children of @parent, dead ones too. As above. */
int place_each_child(pid_t parent, PlacePid each, void *userdata);

/* place_each_process() - of a life: everybody but its reaper. Of any other directory, or of one that is over: nobody. */
int place_each_process(int dir_fd, PlacePid each, void *userdata);

/* place_each_unreaped() - the dead below a reaper whom nobody has waited for yet: it cannot end before that. As above. */
int place_each_unreaped(pid_t reaper, PlacePid each, void *userdata);

/* place_has() - does @pid descend from the reaper of that life (or is it it)? 1, 0, or a negative errno. */
int place_has(int dir_fd, pid_t pid);

/* Called for each life's directory at or below another; @dir_fd is borrowed. Non-zero ends the walk and is returned. */
typedef int (*PlaceLife)(int dir_fd, void *userdata);
int place_each_life(int dir_fd, PlaceLife visit, void *userdata);

/* place_populated() - does anybody of a life live, or of any below a directory? 1, 0, or a negative errno. */
int place_populated(int dir_fd);

int place_count(int dir_fd); /* processes of all of them, without reapers; or -errno */

typedef struct PlaceResult {
        unsigned n_found;  /* the most that were seen at one look, without reapers */
        unsigned n_sent;   /* signals that were delivered */
        unsigned n_rounds; /* place_end: kills of all who were found */
        unsigned n_left;   /* place_end: 0 when it returned 0, else at least 1 */
        int error;         /* first errno worth telling, or 0 */
} PlaceResult;

/* place_signal_descendants() - @signo to everybody whom place_each_descendant() lists, by pidfd, and to nobody who got the number since. @ret's
 * n_found, n_sent and error are set. 0 or -errno. */
int place_signal_descendants(pid_t root, const pid_t *spared, size_t n_spared, int signo, PlaceResult *ret);

/* place_signal() - @signo to every process of every life at and below, by pidfd; SIGTERM is followed by SIGCONT. 0 or -errno. */
int place_signal(int dir_fd, int signo, PlaceResult *ret);

/**
 * place_end() - end every life at and below a directory
 * @until: absolute; even when it has passed, everybody who is found is killed once
 *
 * An init is killed, and takes its namespace along. Everybody else is stopped, looked for again until nobody runs any more, and then killed, again
 * until no reaper is left. Blocks until then or @until at most. Return: 0, -ETIMEDOUT: somebody is left, or another negative errno.
 */
int place_end(int dir_fd, nsec_t until, PlaceResult *ret);

#endif
