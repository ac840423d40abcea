/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process from which one life of a node descends: it starts the node's first process, is parent to every orphan of its tree, tells how the
 * first one ended, and ends itself when nobody is left. So its own end is what `populated 0` is for a cgroup.
 *
 * A fork of the keeper that never executes anything: it does only system calls. When its socket to the keeper hangs up, everything below it
 * ends: lives without a cgroup do not outlive their keeper.
 *
 * As init of a PID namespace nobody below can leave it or harm it, and its death is theirs. As a mere subreaper it finds its descendants through
 * /proc, and a node of the same user can kill it: its orphans come to the keeper then, which kills them.
 *
 * Does not know: incarnations, directories, the loop.
 */
#ifndef TG_SUPERVISOR_REAPER_H
#define TG_SUPERVISOR_REAPER_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/enforcer.h"
#include "supervisor/spawn.h"

enum {
        REAPER_E_RUNS = 1, /* reaper_read_exit: nothing has been said yet */
};

typedef struct Reaper {
        pid_t pid; /* our own child, until it is waited for */
        int pidfd;
        int socket_fd; /* SEQPACKET, ours; read with reaper_read_exit() once reaper_start() has returned 0 */
        bool is_init;
} Reaper;

#define REAPER_NULL ((Reaper){.pidfd = -1, .socket_fd = -1})

/**
 * reaper_fork() - make one that waits for reaper_start()
 * @plan:    of the node's first process; it is copied by the fork. cgroup_fd: the reaper and all below it are born there; -1: nowhere
 * @outcome: in memory that is shared with children (MAP_SHARED); what the start is at can be read there meanwhile
 *
 * Call it in a thread that never exits, with every signal blocked. Return: 0 or a negative errno, and then nothing was made.
 */
int reaper_fork(Reaper *ret, const SpawnPlan *plan, SpawnOutcome *outcome, Enforcer enforcer);

/**
 * reaper_start() - have it start the first process; returns when that has executed its program, or is gone
 *
 * As spawn_run(), with the same outcome; blocks as long as the paths do. The reaper is the caller's to wait for in either case.
 */
int reaper_start(Reaper *reaper, SpawnOutcome *outcome);

/* reaper_read_exit() - how the first process ended (CLD_*): 0, REAPER_E_RUNS, or -ECONNRESET: the reaper is gone, and it was killed with it. */
int reaper_read_exit(int socket_fd, int *ret_code, int *ret_status);

/* reaper_kill() - without a word. Not waited for. */
void reaper_kill(const Reaper *reaper);

/* enforcer_probe() - does this host allow it? Tries it, but for the cgroup, which instance_make() tries. 0 or -errno; @ret_why: what was refused. */
int enforcer_probe(Enforcer enforcer, char *ret_why, size_t why_size);

/* enforcer_fallback() - the best that this host allows without a cgroup */
Enforcer enforcer_fallback(void);

#endif
