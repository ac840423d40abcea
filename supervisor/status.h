/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer of the status pages (protocol/status_page.h): one per supervisor.
 *
 *   status        0644. The supervisor's own: pulse, header, no rows. Mapped, so that the loop's words cost two stores a turn.
 *   status.<uid>  the rows of that user's dataflows. Readable by that user and the daemon's, and by nobody else, writable by
 *                 nobody. Of a daemon that runs as that user: 0400. Else: owned by the daemon with an entry for the user in
 *                 its access list, for the owner of a file could truncate it under our mapping (SIGBUS), or hold our next
 *                 fault up for as long as he likes (a hole punched, a huge fallocate).
 *
 * A page is written in place and never truncated. A predecessor's page of the same layout is taken over, the same inode, so
 * mappings of readers stay valid; rows it left are shown on until they are put again or status_settle() says that
 * those who were not are gone. Any other file of that name is replaced by a rename. When the daemon ends in order,
 * whoever removes the runtime directory removes the pages with it.
 *
 * Files are sparse: a row's page is allocated before the first store to it, so a full disk or memory limit is an error here
 * and no SIGBUS; the row is then counted as not shown. Trouble with a page costs that page, never more. Nothing here
 * blocks, given that the runtime directory is a tmpfs.
 */
#ifndef TG_SUPERVISOR_STATUS_H
#define TG_SUPERVISOR_STATUS_H

#include <sys/types.h>

#include "protocol/status_page.h"

#define STATUS_DEFAULT_DATAFLOWS 256u
#define STATUS_DEFAULT_NODES     4096u

typedef struct Status Status;

typedef struct StatusOptions {
        int dir_fd; /* the runtime directory; borrowed until status_free() */
        uint64_t epoch;
        pid_t guard_pid;
        const char *instance, *cgroup; /* the cgroup is that of the instance */
        nsec_t started_at, stale_after_ns; /* 0: STATUS_STALE_NS */
        uint32_t n_dataflows, n_nodes;     /* capacity of each user's page; 0: the defaults */
} StatusOptions;

/**
 * status_open() - make or take over the supervisor's page, and take over those of users
 * @ret: set on success; release with status_free()
 *
 * Call loop_set_pulse(loop, status_pulse(status)) right after it. What could not be had is told by status_trouble().
 *
 * Return: 0 or -ENOMEM; a page that cannot be made is no error.
 */
int status_open(Status **ret, const StatusOptions *options);

/* status_free() - unmap. The files stay, for a successor or for whoever wants to know. Take the pulse off before:
 * loop_set_pulse(loop, NULL). NULL: harmless. */
Status *status_free(Status *status);

/* status_pulse() - for the loop; NULL without a page. */
struct status_pulse *status_pulse(Status *status);

/* status_trouble() - what went wrong since the last call, for one line in the log; NULL: nothing new. Static until the next
 * call. */
const char *status_trouble(Status *status);

void status_set_state(Status *status, StatusState state);
void status_set_guard(Status *status, pid_t guard_pid, StatusGuard guard);
void status_set_adopted(Status *status, uint32_t adopted, uint32_t lost, uint32_t duplicated);

/* What the supervisor knows of a dataflow; text is borrowed for the call. Times 0: none. */
typedef struct StatusDataflow {
        const char *uuid; /* the key, with uid */
        const char *name;
        const char *cgroup; /* NULL: not there yet */
        uid_t uid;
        StatusDataflowState state;
        StatusWanted wanted;
        StatusResult result;
        StatusHealth health;
        nsec_t started_at, since, stop_until, stuck_since;
        uint32_t n_nodes, n_running, n_failed, n_stuck;
        bool frozen;
} StatusDataflow;

typedef struct StatusNode {
        const char *uuid; /* of its dataflow, which was put before; with index: the key */
        uint32_t index;   /* in the plan */
        const char *id;
        StatusNodeKind kind;
        StatusNodeState state;
        StatusWanted wanted;
        StatusHealth health;
        uint64_t generation;
        nsec_t since, stuck_since;
        uint32_t waiting, restarts;
        bool frozen;
        uint32_t waits_for; /* index of the node in whose queue it waits for room; STATUS_NONE */
        pid_t pid;
        int exit_code, exit_status;
} StatusNode;

/* status_put_*() - show a row, or what changed in it. A row that says what is shown already costs a comparison and no store. */
void status_put_dataflow(Status *status, const StatusDataflow *row);
void status_put_node(Status *status, const StatusNode *row);

/* status_remove_dataflow() - and its nodes. Not shown: harmless. */
void status_remove_dataflow(Status *status, const char *uuid);

/* status_settle() - adoption is over: rows that a predecessor left and nobody has put since are of dataflows that are gone. */
void status_settle(Status *status);

#endif
