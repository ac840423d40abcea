/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leftover: what a kill did not end, of one incarnation of a node. It stays in its cgroup, which is watched until it is empty; until
 * then no other incarnation of the node begins, unless somebody asks for that by name.
 *
 * Does not know: who looked, what follows.
 */
#ifndef TG_SUPERVISOR_LEFTOVER_H
#define TG_SUPERVISOR_LEFTOVER_H

#include <stdint.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/task.h"
#include "protocol/keeper_msg.h"

typedef struct Leftover {
        uint64_t generation; /* 0: nothing is left */
        nsec_t since;        /* when the verdict fell */
        TaskKind kind;       /* the verdict; 0: nobody could look */
        uint32_t n;          /* tasks that are left */
        char *text;          /* a line for each that was told of; NULL: not known */
        json_t *tasks;       /* array of objects; NULL: not known (a predecessor's) */
} Leftover;

/* leftover_take() - what a keeper has seen there (KEEPER_MSG_LEFT). What was known before goes. */
void leftover_take(Leftover *leftover, const KeeperMsg *msg);
void leftover_done(Leftover *leftover);

/* leftover_verdict() - "unkillable-traced" and so on; "unknown" when nobody could look. */
const char *leftover_verdict(const Leftover *leftover);

/* leftover_first() - the first line of its text, into @buffer. */
const char *leftover_first(const Leftover *leftover, char *buffer, size_t size);

/* leftover_brief() - the same up to what it is about: "pid 12 (cp) state D for 1.8 s or more in read of 3 (/mnt/x)". */
const char *leftover_brief(const Leftover *leftover, char *buffer, size_t size);

/* leftover_show() - into @object, of a node or of its own: left_since_at_ms, n_tasks, tasks, left. */
void leftover_show(const Leftover *leftover, json_t *object);

#endif
