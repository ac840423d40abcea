/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left of a dataflow, or of one incarnation, once it has ended: counted, and put into the ledger as "killed 200, left 0, 61 ms".
 *
 * Processes and cgroups the keeper counts, where its removal of the dataflow's cgroup failed. Memory, sockets and pipes are counted in our
 * tables once everything was let go of, and the guard confirms that it has let go of its copies, or is said not to have. What no table knows is
 * looked for in /proc/self/fd. Files are those that a dataflow has in the runtime directory for its life; its journal stays until it is forgotten.
 *
 * Nothing here blocks: /proc/self/fd is read without touching any file, and only while it is short; the guard is waited for by a timer.
 */
#ifndef TG_SUPERVISOR_AUDIT_H
#define TG_SUPERVISOR_AUDIT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

typedef struct Dataflow Dataflow;
typedef struct Node Node;
struct guard_record;

typedef struct Audit {
        uint32_t n_killed;    /* processes that needed SIGKILL */
        uint32_t n_processes; /* the others: what is left */
        uint32_t n_cgroups;
        uint32_t n_memfds;
        uint32_t n_sockets; /* and pipes */
        uint32_t n_files;
        nsec_t killed_ns; /* from the first SIGKILL of the stop (without a stop: the last one) until nobody was left; 0: nobody was killed, or not known */
} Audit;

/* audit_is_clean() - nothing is left. */
bool audit_is_clean(const Audit *audit);

/* audit_text() - "killed 200, left 0, 61 ms" or "killed 0, left 1 process, 2 cgroups". Returns @buffer; 256 bytes are enough. */
const char *audit_text(const Audit *audit, char *buffer, size_t size);

/* audit_json() - {killed, left_processes, left_cgroups, left_memfds, left_sockets, left_files, ms}; ms only when it is known. New reference. */
json_t *audit_json(const Audit *audit);

/**
 * audit_dataflow() - of one whose nodes are final and whose keeper is gone: let go of what is ours, count, put it into the ledger
 *
 * The first call asks the guard; it is to be called again after its answer, or after 200 ms (dataflow_kick()).
 *
 * Return: true once it is done; dataflow->audit is set then. Further calls do nothing.
 */
bool audit_dataflow(Dataflow *dataflow);

/* audit_on_forgotten() - the guard's answer. */
void audit_on_forgotten(Dataflow *dataflow, const struct guard_record *record);

/* audit_note_kill() - somebody of this incarnation is about to be killed, or was @at. */
void audit_note_kill(Node *node, nsec_t at);

/* audit_note_killed() - so many were, and nobody is left. */
void audit_note_killed(Node *node, uint32_t n_killed);

/* audit_node() - of an incarnation that was stopped or restarted alone, when it is over or was given up. Into the ledger. */
void audit_node(Node *node);

/* audit_remove_files() - of its keeper, unless that stays. How many could not be removed. */
uint32_t audit_remove_files(const Dataflow *dataflow);

#endif
