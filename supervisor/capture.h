/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that somebody started by hand is moved into a cgroup of ours (`capture: true` of a dynamic node): may it be, and the move
 * itself. All of its threads move, and nobody else: children that it had before stay where they are.
 *
 * It is known by a pidfd that the kernel made of its connection. cgroupfs takes numbers only, so the number is that of the pidfd, which is
 * looked at before the write and after: a process that took the number over in between is put back.
 *
 * Blocks as procfs and cgroupfs do: for a thread of the keeper's. Reads hierarchies of version 1, and never writes there. Thread-safe.
 *
 * Does not know: nodes, incarnations, who asked.
 */
#ifndef TG_SUPERVISOR_CAPTURE_H
#define TG_SUPERVISOR_CAPTURE_H

#include <stddef.h>
#include <sys/types.h>

#define CAPTURE_PROC "/proc"

enum {
        CAPTURE_E_REFUSED = 1, /* the text says why */
        CAPTURE_E_THERE,       /* it is in that very cgroup already */
};

/* capture_pid() - the number behind a pidfd, as we see it; -ESRCH: it has ended, or is none of our PID namespace. Or another -errno. */
pid_t capture_pid(int pidfd);

/**
 * capture_check() - may this process be moved
 * @proc:    CAPTURE_PROC, or for tests a directory that looks like it: also what is mounted where, and our own namespaces, are read there
 * @pid:     of a thread group
 * @ours:    absolute path: every cgroup of this or another instance lies below it (those of other roots are known by their names)
 * @place:   absolute path of the cgroup that it is to be moved into, which need not be there yet
 * @ret_why: room for @why_size bytes, set on CAPTURE_E_REFUSED: "it has limits of its own: ..."
 *
 * Refused: kernel threads; a process without its first thread; one in another PID, cgroup, mount or user namespace (a container's); one in a
 * cgroup of ours; one whose own cgroup, of whatever version, sets limits. Limits that cgroups above it set are not its own. What
 * cannot be looked at is refused as well.
 *
 * Return: 0, CAPTURE_E_REFUSED, CAPTURE_E_THERE.
 */
int capture_check(const char *proc, pid_t pid, const char *ours, const char *place, char *ret_why, size_t why_size);

/**
 * capture_move() - into the cgroup
 * @proc:      as above
 * @pidfd:     borrowed
 * @pid:       capture_pid() of it
 * @cgroup_fd: directory of the cgroup; borrowed
 * @ret_why:   room for @why_size bytes, set on CAPTURE_E_REFUSED
 *
 * Return: 0, also when it has ended since; CAPTURE_E_REFUSED: it is not there.
 */
int capture_move(const char *proc, int pidfd, pid_t pid, int cgroup_fd, char *ret_why, size_t why_size);

/*
 * capture_put_back() - whoever has this number now is not who was meant: from the cgroup to where its parent is. 0: nobody of that number is
 * there; CAPTURE_E_REFUSED: was there, and is not any more; or a negative errno: still is.
 */
int capture_put_back(const char *proc, pid_t pid, int cgroup_fd);

#endif
