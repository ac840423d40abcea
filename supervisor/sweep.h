/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals to every process of a cgroup and of those below it, and the kill that does not give up before it is empty.
 *
 * A pid read from cgroup.procs may belong to a stranger a moment later. So each one is turned into a pidfd first, the
 * list is read again, and only who is still on it is signalled, through the pidfd. No pid is ever passed to kill(2).
 *
 * Nothing allocates or uses stdio: usable in a thread (stack of 64 KiB or more) and in a child forked from a threaded
 * process. Thread-safe. Uses up to about 120 descriptors for a moment; short of them it goes on in smaller steps.
 *
 * Does not know: nodes, incarnations, who asked.
 */
#ifndef TG_SUPERVISOR_SWEEP_H
#define TG_SUPERVISOR_SWEEP_H

#include <stdint.h>

#include "base/clock.h"

enum {
        SWEEP_E_LEFT = 1, /* sweep_kill: the deadline passed with somebody left */
};

typedef struct SweepResult {
        uint32_t n_found;  /* processes there at the first look (sweep_kill: the most that were seen at one look) */
        uint32_t n_sent;   /* signals that were delivered by pidfd, over all rounds */
        uint32_t n_rounds; /* sweep_kill: sweeps by pidfd that were needed after cgroup.kill; usually 0 */
        uint32_t n_left;   /* sweep_kill: processes there at the last look; 0 when it returned 0 */
        nsec_t killed_at;  /* sweep_kill: just before the first write to cgroup.kill; 0: there was none */
        int error;         /* first errno worth telling (EPERM from a pidfd, EOPNOTSUPP from cgroup.kill), or 0 */
} SweepResult;

/**
 * sweep_signal() - send @signo once to every process of the tree, by pidfd
 * @cgroup_dirfd: its directory; borrowed
 * @signo:        SIGTERM is followed by SIGCONT, so that stopped processes can act on it
 * @until:        absolute: a tree that forks faster than we can list it is left alone then
 * @ret:          always set
 *
 * Blocks only as cgroupfs does.
 *
 * Return: 0 when the list was walked to its end, -ETIMEDOUT at @until, or a negative errno when it cannot be read.
 */
int sweep_signal(int cgroup_dirfd, int signo, nsec_t until, SweepResult *ret);

/**
 * sweep_kill() - cgroup.kill, then SIGKILL by pidfd for whoever is still listed, again until nobody is
 * @cgroup_dirfd: its directory; borrowed
 * @until:        absolute; even when it has passed, one cgroup.kill and one sweep are done
 * @ret:          always set
 *
 * Blocks until `populated 0` or @until, woken by cgroup.events and by the exits of those it waits for. The write to
 * cgroup.kill itself is the kernel's and has no deadline (66 ms for 200 processes, 256 ms for 1 000). Who has not died of
 * it at once is throttled no more: `cpu.max` of the cgroup and of those below it is taken away, for good. A cgroup that
 * is gone already counts as empty. A cgroup that was ever killed must not have children cloned into it again.
 *
 * Return: 0 when empty, SWEEP_E_LEFT, or a negative errno when the cgroup cannot be read at all.
 */
int sweep_kill(int cgroup_dirfd, nsec_t until, SweepResult *ret);

/* sweep_add() - @earlier was a part of the same kill: what it found and did counts too. */
void sweep_add(SweepResult *result, const SweepResult *earlier);

#endif
