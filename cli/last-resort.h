/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Last resort: what `status`, `list`, `stop` and `down` still do when the supervisor does not answer. They read the status page in the
 * runtime directory, which asks nobody, and kill through the cgroups named there, as far as the caller's rights go.
 *
 * Everything that touches cgroups or /proc happens in a forked child with a deadline: a kernel that holds it up holds up a child.
 */
#ifndef TG_CLI_LAST_RESORT_H
#define TG_CLI_LAST_RESORT_H

#include <limits.h>
#include <sys/types.h>

#include "cli/session.h"

typedef struct LastResortNode {
        char id[132], state[16];
        int pid;
        long long since_ms; /* CLOCK_MONOTONIC */
} LastResortNode;

typedef struct LastResortDataflow {
        char uuid[40], name[132], state[16];
        char cgroup[PATH_MAX]; /* absolute; "": not known */
        uid_t uid;
        unsigned n_nodes, n_running;
        long long since_ms;
        LastResortNode *nodes; /* owned; n_told of n_nodes */
        size_t n_told;
} LastResortDataflow;

/* What is known without asking anybody. */
typedef struct LastResortPage {
        pid_t supervisor, guard;
        char verdict[160]; /* "wedged since 12.3 s: ...", as the page's reader has it */
        char cgroup[PATH_MAX]; /* of the whole instance; "": not known */
        LastResortDataflow *dataflows; /* owned */
        size_t n_dataflows;
} LastResortPage;

/* last_resort_page() - read it. 0 or a negative errno; *ret_why then says what stood in the way (static). */
int last_resort_page(const char *runtime_dir, LastResortPage *ret, const char **ret_why);
void last_resort_page_done(LastResortPage *page);

/* last_resort_applies() - whether this outcome of a call says that nobody decides there. */
bool last_resort_applies(int r);

typedef struct LastResortKill {
        nsec_t grace_ns;
        bool force; /* SIGKILL at once */
} LastResortKill;

typedef struct LastResortVerdict {
        unsigned n_found, n_left;
        int error;      /* errno worth telling; 0: none */
        long long ms;   /* that it took */
        bool timed_out; /* the child itself did not end */
} LastResortVerdict;

/**
 * last_resort_kill() - end every process of the cgroup at @path
 *
 * SIGTERM and SIGCONT by pidfd to all, after half of the grace `cgroup.kill`, then SIGKILL by pidfd until `populated 0` or 2 s have
 * passed. Blocks until then, at most; Ctrl-C does not stop it. @path must be on a cgroup2 file system.
 *
 * Return: 0 (*ret says what came of it) or a negative errno when no child could be made.
 */
int last_resort_kill(const char *path, const LastResortKill *kill, LastResortVerdict *ret);

/* last_resort_show() - the commands `list` and `status` from the page. @why: the call's outcome. Return: the exit status. */
int last_resort_show(Session *session, int why, bool with_nodes);

/**
 * last_resort_stop() - the commands `stop` and `down` from the page
 * @names: which; @n 0: all when @all, else the only one
 *
 * Return: the exit status.
 */
int last_resort_stop(Session *session, int why, const char *const *names, size_t n, bool all, const LastResortKill *kill);

/* last_resort_stop_at() - one dataflow whose cgroup the supervisor had named before it fell silent. Return: the exit status. */
int last_resort_stop_at(Session *session, const char *name, const char *cgroup, const LastResortKill *kill);

#endif
