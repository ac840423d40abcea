/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's control server: accepts connections, knows who is at the other end, serves the interface
 * protocol/dev.tidegate.Supervisor.varlink. The listening socket is bound once for the life of the daemon, by the guard.
 *
 * Nothing here blocks. Trouble with one client is that client's.
 */
#ifndef TG_SUPERVISOR_SERVER_H
#define TG_SUPERVISOR_SERVER_H

#include "supervisor/supervisor.h"

int server_new(Server **ret, Supervisor *supervisor, int listen_fd); /* listen_fd: borrowed */
Server *server_free(Server *server);

/* What the supervisor tells it. */
void server_dataflow_ended(Server *server, Dataflow *dataflow);

void server_adopted(Server *server); /* what the last supervisor left has been taken over */
DataflowEventFn server_event_fn(Server *server); /* for dataflows that no client of ours started; owner NULL */

bool server_flushed(const Server *server); /* every client has what was sent to it */
unsigned server_n_clients(const Server *server);

#endif
