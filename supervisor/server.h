/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's control server: accepts connections, knows who is at the other end, serves the interface
 * protocol/dev.tidegate.Supervisor.varlink. The listening socket is bound once for the life of the daemon, by the guard.
 *
 * Nothing here blocks. Trouble with one client is that client's; what one user's clients hold is bounded by quotas.
 */
#ifndef TG_SUPERVISOR_SERVER_H
#define TG_SUPERVISOR_SERVER_H

#include "supervisor/supervisor.h"

int server_new(Server **ret, Supervisor *supervisor, int listen_fd); /* listen_fd: borrowed */
Server *server_free(Server *server);

/* server_on_event() - what a daemon's dataflows are made with: DataflowEventFn. Without an owner nobody hears anything. */
void server_on_event(Dataflow *dataflow, json_t *event, void *owner);

/* server_adopt() - show and serve a dataflow that no client of ours started: it becomes the owner. 0 or a negative errno. */
int server_adopt(Server *server, Dataflow *dataflow);

/* What the supervisor tells it. */
void server_dataflow_ended(Server *server, Dataflow *dataflow);
void server_adopted(Server *server); /* what the last supervisor left has been taken over */

/* server_signalled() - the keeper has answered the oldest order to signal a node. True: a client had asked for it.
 * @server may be NULL. */
bool server_signalled(Server *server, Node *node, uint32_t n, int error);

/* server_node_refused() - the guard would not hold the deadline of an order: nothing was ordered. @server may be NULL. */
void server_node_refused(Server *server, Node *node);

/* resources.c: the keeper has answered an order about limits or the freezer; @node NULL: of the dataflow. @server may be NULL. */
void server_limited(Server *server, const Dataflow *dataflow, const Node *node, int error, const char *text);
void server_frozen(Server *server, const Dataflow *dataflow, const Node *node, bool frozen, int error);
/* usage.c: what the nodes of a dataflow use, as the interface has it; borrowed. */
void server_measured(Server *server, const Dataflow *dataflow, json_t *nodes);
void server_look_again(Server *server); /* something that status shows has changed */

/* methods-probe.c: calls that see it do not wish for it any more. @server may be NULL. */
void server_forget_probes(Server *server, const Dataflow *dataflow);

/* server_unshown() - lines of a node that no reader got will not come any more. */
void server_unshown(Dataflow *dataflow, uint32_t node, uint64_t n_lines);

bool server_flushed(const Server *server); /* every client has what was sent to it */
unsigned server_n_clients(const Server *server);

#endif
