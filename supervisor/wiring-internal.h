/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the wiring share: wiring.c (a node's socket), wiring-region.c, wiring-link.c (attachment), wiring-life.c (what a node's
 * life means for its links), wiring-adopt.c.
 */
#ifndef TG_SUPERVISOR_WIRING_INTERNAL_H
#define TG_SUPERVISOR_WIRING_INTERNAL_H

#include "supervisor/wiring.h"

#define WIRING_STAYS_SPAN (5 * NSEC_PER_SEC) /* after that a process without its socket is taken for one that stays, without its node */

/*
 * wiring.c. node_send(), node_send_all(): one message, with as many descriptors as are not -1, or with @n_fds; who does not read it is given up. wiring_listen(): to @fd, which is
 * to be node->sock. wiring_release_socket(): it may be gone already.
 */
void node_send_all(Node *node, const NodeMsg *msg, const int *fds, size_t n_fds);
void node_send(Node *node, const NodeMsg *msg, int fd0, int fd1);
void wiring_send_setup(Node *node);
int wiring_listen(Node *node, int fd);
void wiring_release_socket(Node *node);

/*
 * wiring-region.c: those of a new incarnation. Their writer seals them once it has mapped them: regions_are_sealed(). regions_are_touched(): rings and pools,
 * by their writer; cursor and bell are no larger than the page with their header. regions_store(): and its socket, to the guard.
 */
int regions_make(Node *node);
bool regions_are_sealed(const Node *node);
bool regions_are_touched(const Node *node);
void regions_store(const Node *node);

/*
 * wiring-link.c. node_comes_again(): nobody is there, but somebody was who had a place in its links, and who will be followed by another
 * incarnation, or may be.
 */
bool node_is_there(const Node *node);
bool node_comes_again(const Node *node);
bool link_is_lossless(const Link *link);
void link_set_state(Link *link, LinkState state);
void link_advance(Link *link); /* the next step of an attachment that both sides allow */
void link_tell_source(Link *link);
void link_send_in(Link *link);
void link_is_up(Link *link);
void link_on_out_ack(Node *node, const NodeMsg *msg);
void link_on_in_ack(Node *node, const NodeMsg *msg);
void wiring_close_output(Node *node, uint32_t output);

/*
 * link_await(): to the producer: its consumer is to come. If it does not after all, link_detach() follows. Who has a place keeps that.
 * link_detach(): to the producer: nobody reads there any more; @restarting: until the next incarnation does.
 * link_close(): to the consumer: nothing more comes; @restarting: of this incarnation.
 */
void link_await(Link *link);
void link_detach(Link *link, bool restarting);
void link_close(Link *link, bool restarting);

/* wiring-adopt.c. link_settle(): what both its ends have said decides; see protocol/node_msg.h. */
void link_settle(Link *link);
void wiring_on_resumed(Node *node, const NodeMsg *msg);

#endif
