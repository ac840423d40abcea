/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes that connect by name to RUNTIME_DIR/node.sock: dynamic ones (`path: dynamic`), and those whose supervisor died together with its
 * guard. A connection has a few seconds to say who it is; then it is a node's socket, or it is turned away with a reason.
 *
 * Who it is is never believed: a node of ours is known by the cgroup of the process at the other end, a dynamic one by its uid.
 * One that is to be captured (`capture: true`) is told nothing before its keeper has moved it; once it was it is known by its cgroup.
 * Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_NAMED_H
#define TG_SUPERVISOR_NAMED_H

#include "supervisor/supervisor.h"

typedef struct Named Named;

int named_new(Named **ret, Supervisor *supervisor, int listen_fd); /* listen_fd: borrowed */
Named *named_free(Named *named);

#endif
