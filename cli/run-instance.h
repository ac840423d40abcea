/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The private instance behind `tidegate run`, as the command sees it: a guard that it started, two control connections, the
 * log stream, and its own last resort. Nothing here waits.
 */
#ifndef TG_CLI_RUN_INSTANCE_H
#define TG_CLI_RUN_INSTANCE_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/clock.h"
#include "protocol/guard_msg.h"

typedef struct RunInstance {
        pid_t guard_pid; /* our child, not reaped before the end */
        int guard_pidfd;
        int guard_fd;       /* records */
        int control_fds[2]; /* [0] the run and its events, [1] orders */
        int log_fd;         /* lines of the nodes; -1 until the run was accepted, and after its end */
        char cgroup[PATH_MAX]; /* the instance's directory; "" until the guard is ready */
        char *in;              /* unparsed bytes of control_fds[0] */
        size_t in_size, in_room;
} RunInstance;

#define RUN_INSTANCE_NULL ((RunInstance){.guard_pid = -1, .guard_pidfd = -1, .guard_fd = -1, .control_fds = {-1, -1}, .log_fd = -1})

typedef struct RunInstanceOptions {
        nsec_t grace_ns, budget_ns;
        const char *cgroup_root; /* NULL: look for one */
        const char *enforcer;    /* name; NULL: the first that works */
} RunInstanceOptions;

/* run_instance_start() - start tidegated beside us. 0 or a negative errno; *ret_why then says what could not be done (static). */
int run_instance_start(RunInstance *ret, const RunInstanceOptions *options, const char **ret_why);
void run_instance_done(RunInstance *instance);

/* Orders. A socket that takes nothing is a supervisor that does not answer: the escrow holds all the same. */
int run_instance_run(RunInstance *instance, json_t *take_parameters);
void run_instance_stop(RunInstance *instance, nsec_t grace_ns, bool force);
void run_instance_escrow(RunInstance *instance, nsec_t at, nsec_t until);

enum {
        RUN_E_AGAIN = 1, /* nothing complete is there */
        RUN_E_CLOSED,    /* the other side is gone */
};

/* run_instance_record() / run_instance_message() - one record of the guard / one reply of the run; 0, RUN_E_*, or a negative errno. */
int run_instance_record(RunInstance *instance, struct guard_record *ret);
int run_instance_message(RunInstance *instance, json_t **ret);
bool run_instance_holds_message(const RunInstance *instance); /* one was read that has not been returned yet: its socket does not tell of it again */

/* run_instance_abort() - the last resort: kill the instance's cgroup ourselves. Bounded by one write to cgroupfs in a child that we
 * wait for until @deadline. */
void run_instance_abort(RunInstance *instance, nsec_t deadline);

/* run_instance_remove() - a guard that was killed leaves its empty directory behind: remove it, bounded like the abort. */
void run_instance_remove(RunInstance *instance, nsec_t deadline);

#endif
