/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Last resort: what `status`, `list`, `stop` and `down` still do when the supervisor does not answer. They read the status
 * page in the runtime directory, which asks nobody, and kill through the cgroups named there, as far as the caller's rights
 * go.
 *
 * Everything that touches cgroups or /proc happens in a forked child with a deadline: a kernel that holds it up holds up a
 * child.
 */
#ifndef TG_CLI_LAST_RESORT_H
#define TG_CLI_LAST_RESORT_H

#include "base/task.h"
#include "cli/session.h"

/* last_resort_applies() - whether this outcome of a call says that nobody decides there. */
bool last_resort_applies(int r);

typedef struct LastResortKill {
        nsec_t grace_ns;
        bool force; /* SIGKILL at once */
} LastResortKill;

#define LAST_RESORT_TASKS 3 /* a verdict fits into one write to a pipe */

typedef struct LastResortVerdict {
        unsigned n_found, n_left;
        int error;      /* errno worth telling; 0: none */
        long long ms;   /* that it took */
        bool timed_out; /* the child itself did not end */
        unsigned n_tasks;
        Task tasks[LAST_RESORT_TASKS]; /* the first of those that are left */
} LastResortVerdict;

/**
 * last_resort_kill() - end every process of the cgroup at @path
 *
 * SIGTERM and SIGCONT by pidfd to all, after half of the grace `cgroup.kill`, then SIGKILL by pidfd until `populated 0` or 2
 * s have passed. Blocks until then, at most; Ctrl-C does not stop it. @path must be on a cgroup2 file system.
 *
 * Return: 0 (*ret says what came of it) or a negative errno when no child could be made.
 */
int last_resort_kill(const char *path, const LastResortKill *kill, LastResortVerdict *ret);

/**
 * last_resort_show() - the commands `list` and `status` from the page
 * @why:   the call's outcome
 * @names: of dataflows or DATAFLOW:NODE; @n 0: all
 *
 * Return: the exit status, CLI_UNREACHABLE at best.
 */
int last_resort_show(Session *session, int why, const char *const *names, size_t n, bool with_nodes);

/**
 * last_resort_stop() - the commands `stop` and `down` from the page
 * @names: which; @n 0: all when @all, else the only one
 *
 * Return: the exit status.
 */
int last_resort_stop(Session *session, int why, const char *const *names, size_t n, bool all, const LastResortKill *kill);

/* last_resort_end_daemon() - what is left to do of `down`: SIGTERM to the guard that the page names, 10 s to leave. The exit
 * status. */
int last_resort_end_daemon(Session *session);

/* last_resort_stop_at() - one dataflow whose cgroup the supervisor had named before it fell silent. Return: the exit status.
 */
int last_resort_stop_at(Session *session, const char *name, const char *cgroup, const LastResortKill *kill);

#endif
