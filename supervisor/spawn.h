/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program started into a cgroup: raw clone3(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP), with every
 * reason for which it can fail told in words.
 *
 * The child shares our memory until execve and does nothing but system calls. It registers itself with the guard
 * before it touches anything of the user's, drops to the caller's credentials, and only then looks at user paths:
 * working directory, program, and after a failed execve the facts that explain it. So only the calling thread can
 * ever hang on such a path.
 *
 * Does not know: the loop, deadlines (spawn_cancel() is what a deadline uses), reports.
 */
#ifndef TG_SUPERVISOR_SPAWN_H
#define TG_SUPERVISOR_SPAWN_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "protocol/keeper_msg.h"

#define SPAWN_NODE_FD 3 /* where a node finds its socket */

enum {
        SPAWN_E_FAILED = 1, /* the outcome says at which step, why, and with which facts */
};

/* Finer than KeeperStage; in the order in which they happen. */
typedef enum SpawnStep {
        SPAWN_STEP_QUEUED,
        SPAWN_STEP_CGROUP,
        SPAWN_STEP_CLONE,
        SPAWN_STEP_REGISTER,
        SPAWN_STEP_SESSION,
        SPAWN_STEP_AFFINITY,
        SPAWN_STEP_CREDENTIALS,
        SPAWN_STEP_CWD,
        SPAWN_STEP_FDS,
        SPAWN_STEP_LIMITS,
        SPAWN_STEP_EXEC,
        _SPAWN_STEP_MAX,
} SpawnStep;

typedef struct SpawnPlan {
        const KeeperSpec *spec;
        int cgroup_fd; /* -1: where we are ourselves */
        int guard_fd; /* SOCK_SEQPACKET, for the child's GUARD_MSG_CHILD */
        int stdout_fd, stderr_fd;
        int socket_fd; /* -1: none */
        int mnt_fd;    /* mount namespace to enter (supervisor/confine.h); -1: none */
        uint32_t slot, node;
        uint64_t generation;
        uid_t uid; /* dropped to when they are not ours already */
        gid_t gid;
        const gid_t *groups; /* supplementary; none: ours if uid and gid are ours, else none */
        uint32_t n_groups;
        uint64_t processes_max; /* soft and hard RLIMIT_NPROC, where ours is not lower; 0: ours */
        bool reset_oom; /* our own oom_score_adj is not the node's */
        uint64_t default_signals; /* bit signo - 1: known to have its default action here (spawn_default_signals()), not set again */
} SpawnPlan;

/* What is shared with the child, and what other threads may read while it is under way. Zero, then pidfd = -1. */
typedef struct SpawnOutcome {
        _Atomic int pidfd;  /* of the child from its first instant on; -1 before, and when none was born */
        _Atomic int cancel; /* set by spawn_cancel(): a child that is not born yet will not be, or ends by itself */
        _Atomic int step;   /* SpawnStep reached */
        _Atomic bool foreign; /* a reaper runs it, and pidfd is a number in that one's table */
        pid_t pid;
        bool confined;     /* it is in the mount namespace, and in a cgroup namespace of its own where the kernel gives one */
        int confine_error; /* why not; 0 */
        _Atomic int error; /* errno of the step that failed; 0: execve succeeded (or something killed the child) */

        /* After a failed execve, seen by the child with the caller's credentials. */
        int stat_error; /* errno of stat(program), 0 if it exists */
        mode_t mode;
        bool noexec;          /* it lies on a mount that forbids execution */
        /* errno met at `prefix`, the first directory of the path that cannot be passed; 0: none */
        int prefix_error;
        char prefix[PATH_MAX];
        char program[PATH_MAX]; /* the path tried last */
        int n_head;             /* bytes of head */
        char head[256];         /* how the file begins */
} SpawnOutcome;

/**
 * spawn_run() - start the program; returns when execve has succeeded or the child is gone
 * @plan:    borrowed for the call
 * @outcome: prepared by spawn_outcome_init(). The pidfd in it is the caller's, also after a failure: it must be closed where
 *           no spawn_cancel() can be under way
 *
 * Blocks for as long as the path does: for ever on a hung file system. Call it in a thread of its own that has every
 * signal blocked and that never exits while the child lives (a thread's exit would fire the child's
 * PR_SET_PDEATHSIG). The stack of the child is made here; nothing is left behind on failure, the child is reaped.
 *
 * Return: 0, or SPAWN_E_FAILED.
 */
int spawn_run(const SpawnPlan *plan, SpawnOutcome *outcome);

void spawn_outcome_init(SpawnOutcome *outcome);

/* spawn_default_signals() - those that have their default action in this process, for a process that will not change them. */
uint64_t spawn_default_signals(void);

/*
 * spawn_cancel() - from another thread: do not start it any more; kills the child by its pidfd if there is one.
 * Never blocks.
 */
void spawn_cancel(SpawnOutcome *outcome);

/**
 * spawn_explain() - what went wrong, for a person
 * @spec: may be NULL when it could not even be read
 *
 * Pure. Return: the stage to report.
 */
KeeperStage spawn_explain(const SpawnOutcome *outcome, const KeeperSpec *spec, uid_t uid, gid_t gid, char *text,
        size_t size);

/* spawn_explain_deadline() - the same for a start that was given up after @waited_ns. */
KeeperStage spawn_explain_deadline(const SpawnOutcome *outcome, const KeeperSpec *spec, nsec_t waited_ns, char *text,
        size_t size);

#endif
