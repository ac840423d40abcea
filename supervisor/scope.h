/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scope of systemd's for the nodes of a daemon that is a service: what is in the service's own cgroup dies with the service, and so with
 * the guard.
 *
 *     <slice>/tidegated.service               guard, supervisor, keepers
 *     <slice>/tidegate-<id>.scope/holder      one process (supervisor/holder.h)
 *     <slice>/tidegate-<id>.scope/tidegate/…  instance, dataflows, nodes (supervisor/instance.h)
 *
 * <id> is a hash of the runtime directory's path: the next daemon there finds the same scope. The holder is found by the socket in that
 * directory. It is made by `systemd-run`, which moves itself into the new scope and then executes the holder.
 *
 * scope_join() and scope_make() wait, up to a deadline: for the time before the guard's loop. scope_end() waits, after it. The others do not.
 * Does not know: what runs in there.
 */
#ifndef TG_SUPERVISOR_SCOPE_H
#define TG_SUPERVISOR_SCOPE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "supervisor/runtime.h"

typedef struct Scope {
        char path[PATH_MAX];         /* of its directory; "": no scope */
        char name[48];               /* of the unit, with .scope */
        char service[NAME_MAX + 1];  /* ours */
        char slice[NAME_MAX + 1];    /* the one that the service is in */
        bool user;                   /* the service manager is a user's */
        int dir_fd;                  /* its directory; -1: nodes do not live in it */
        int holder_fd;               /* connection to the holder; -1: none */
} Scope;

#define SCOPE_NULL ((Scope){.dir_fd = -1, .holder_fd = -1})

enum {
        SCOPE_E_NONE = 1, /* scope_find: this process was not started as a service; scope_join: there is nothing to join */
};

/* scope_name_for() - the name of a unit that belongs to a runtime directory, the same each time. @prefix: up to 16 letters */
void scope_name_for(const Runtime *runtime, const char *prefix, char *ret, size_t size);

/* scope_find() - is this process a service of systemd's, and which scope would be its? Nothing is made. 0 or SCOPE_E_NONE. */
int scope_find(Scope *ret, const Runtime *runtime);

/**
 * scope_join() - go on with the scope that a daemon on this runtime directory left: one with a holder, or with nodes in it
 *
 * A holder that died, or does not answer, gets company. Return: 0 or SCOPE_E_NONE.
 */
int scope_join(Scope *scope, const Runtime *runtime, nsec_t until);

/**
 * scope_make() - have systemd make it, with a holder in it
 * @program: path of this program
 * @ret_why: room for @why_size bytes, set on failure
 *
 * Return: 0 or a negative errno; then nothing of it is left but what systemd-run may have left.
 */
int scope_make(Scope *scope, const Runtime *runtime, const char *program, nsec_t until, char *ret_why, size_t why_size);

/* scope_restore() - after another program took the guard's place: is @root, where its instance lies, a scope? Then it is joined as it is. */
void scope_restore(Scope *ret, const Runtime *runtime, const char *root);

/* scope_hold() - another holder, for the last one is gone. Its answer comes over holder_fd. 0 or a negative errno: -ENOENT when the scope is gone. */
int scope_hold(Scope *scope, const Runtime *runtime);

/* scope_receive() - next word of the holder's, to be taken when holder_fd is readable. A HolderWord, 0 when there is none now, -ECONNRESET when it is gone. */
int scope_receive(Scope *scope);

/* scope_end() - send the holder away, and wait until systemd has removed the scope, or @until. Not while nodes are in it. */
void scope_end(Scope *scope, const Runtime *runtime, nsec_t until);

/* scope_done() - close; the holder takes it for the daemon's death. */
void scope_done(Scope *scope);

#endif
