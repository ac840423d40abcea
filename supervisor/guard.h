/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: parent of supervisor and keepers, child subreaper, and the one who ends everything by its deadline.
 *
 * It decides nothing. It forks on the supervisor's word, reaps what comes to it, holds the cgroup directories and the
 * pidfds of every child, and enforces escrows: from T on one forked enforcer kills and sweeps the slot's cgroup, so that a
 * write that blocks delays no other. It parses fixed-size records only, and allocates nothing once it runs.
 *
 * A private instance (`tidegate run`) also watches its client: when that is gone, or the supervisor is, everything ends.
 */
#ifndef TG_SUPERVISOR_GUARD_H
#define TG_SUPERVISOR_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/enforcer.h"

enum { /* letters of --said, by which a guard tells itself what the first command line said */
        GUARD_SAID_GRACE = 'g',
        GUARD_SAID_BUDGET = 'b',
        GUARD_SAID_WATCHDOG = 'w',
        GUARD_SAID_ENFORCER = 'e',
};

typedef struct GuardOptions {
        bool daemon;             /* outlives its starter, and supervisors that die are replaced */
        const char *runtime_dir; /* daemon: NULL for the usual one */
        nsec_t watchdog_ns;      /* daemon: a turn of the supervisor's loop that takes longer ends it; 0: never */
        const char *config;      /* daemon: configuration file; NULL: CONFIG_PATH */
        bool has_grace, has_budget, has_watchdog, has_enforcer; /* the command line said so (GUARD_SAID_*): the file does not change it */
        const char *program;     /* daemon: what SIGUSR2 executes in this process's place; NULL: nothing */
        int state_fd;            /* daemon: what the supervisor whose guard died hands to itself (guard-state.h); consumed; -1: a fresh start */
        int client_fd;     /* SEQPACKET, records to and from the client; consumed */
        int client_pidfd;  /* consumed */
        int control_fds[2]; /* stream sockets for the supervisor's control server; consumed */
        nsec_t grace_ns;   /* of a stop that the guard orders itself */
        nsec_t budget_ns;  /* kill budget */
        const char *cgroup_root; /* NULL: find one */
        Enforcer enforcer;       /* ENFORCER_AUTO: find one */
} GuardOptions;

/**
 * guard_main() - run an instance until it has ended
 *
 * Takes over the process: blocks signals, becomes session leader and subreaper. Return: the exit status of the process: 0
 * when the instance ended empty, 3 when something would not die, 1 when it could not be set up.
 */
int guard_main(const GuardOptions *options);

/**
 * guard_ask_reexec() - have the daemon of a runtime directory execute its program anew, in place
 * @path:    as for --runtime-dir
 * @ret_why: room for @why_size bytes, set on failure
 *
 * Waits until the daemon's guard has done it, at most 10 s. Return: 0 or a negative errno.
 */
int guard_ask_reexec(const char *path, char *ret_why, size_t why_size);

#endif
