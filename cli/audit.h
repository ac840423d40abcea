/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Audit: what is left on this host of instances that nobody holds any more. Needs no daemon.
 *
 * An instance lives while somebody holds the lock on its cgroup directory, a daemon's runtime directory while somebody holds the lock on its file
 * `lock`. Everything else is told from that: whoever is in a living instance's cgroup or holds its directory open belongs to it, and so does
 * all shared memory that one of these has. The rest is a stray.
 *
 * Each look runs in a child process (audit-look.c) that writes what it finds line by line: a process whose memory cannot be read, or a directory
 * that hangs, costs a second and is named, and the rest is looked at by another child.
 */
#ifndef TG_CLI_AUDIT_H
#define TG_CLI_AUDIT_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/clock.h"

typedef enum AuditStage {
        AUDIT_CGROUPS,   /* instances, scopes, what `doctor` left */
        AUDIT_PLACES,    /* instances without cgroups (base/place.h) */
        AUDIT_PROCESSES, /* who has shared memory or the marks of a node; needs the facts of the stages before */
        AUDIT_FILES,     /* runtime directories */
        AUDIT_SWEEP,     /* removes what `sweep` lists */
        _AUDIT_STAGE_MAX,
} AuditStage;

typedef struct Audit {
        const char *runtime_dir; /* NULL: none is known */
        bool runtime_only;       /* it was named: no other one is looked at */
        const char *cgroup_root; /* absolute; only what is below it is told and removed; NULL: all */
        json_t *facts;           /* array of what the children found */
        json_t *unlooked;        /* array of {what, why} */
        json_t *sweep;           /* array of facts to be removed */
        bool incomplete;         /* a stage did not get to its end */
} Audit;

/* audit_child() - carry out a stage in this process and write {"at": N} before each step and {"kind": ...} for each find, a line each, to @fd.
 * @from: begin behind this step (pid, or number in the list). */
void audit_child(const Audit *audit, AuditStage stage, int fd, long from);

/* audit_emit() - one line. Consumes @take_line. */
void audit_emit(int fd, json_t *take_line);

/* audit_sweep_one() - remove one dead instance, left directory or runtime directory; it is locked and looked at again before. New reference to
 * {"kind": "swept", "where", "killed"} or {"kind": "kept", "where", "why"}. */
json_t *audit_sweep_one(const json_t *fact);

/* audit_lock() - of the directory @name below @parent_fd, or of the file if @file: *ret_fd is its descriptor, locked shared (or alone). 0; -EWOULDBLOCK: somebody
 * holds it; -ENOENT; another negative errno. */
int audit_lock(int parent_fd, const char *name, bool file, bool alone, int *ret_fd);

#endif
