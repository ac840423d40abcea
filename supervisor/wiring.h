/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wiring: the regions of an incarnation, its handshake, and the attachment of links between two incarnations
 * (protocol/node_msg.h has the messages, in their order).
 *
 * The supervisor makes every region and socket, seals what its writer has mapped, and hands it on. It keeps no end of a
 * doorbell, so that its hang-up means that the peer is gone.
 */
#ifndef TG_SUPERVISOR_WIRING_H
#define TG_SUPERVISOR_WIRING_H

#include "protocol/guard_msg.h"
#include "protocol/node_msg.h"
#include "shm/counters.h"
#include "supervisor/dataflow.h"

typedef enum LinkState {
        LINK_DETACHED,  /* one side or both are not there */
        LINK_WAIT_OUT,  /* the producer was given the cursor */
        LINK_WAIT_IN,   /* the consumer was given the ring */
        LINK_ACTIVE,
        LINK_CLOSED,    /* nothing more will come for this incarnation of the consumer */
} LinkState;

typedef struct Pair { /* two nodes that share a link, in either direction: one doorbell for both */
        Node *a, *b;
        uint32_t generation; /* grows with every new doorbell */
        uint64_t a_generation, b_generation; /* the incarnations that have it */
        bool renewed; /* while adopting: introduced anew already */
} Pair;

struct Link {
        uint32_t number; /* from 1 */
        Node *source, *target;
        uint32_t output, input; /* indices */
        uint32_t generation;    /* of the attachment */
        uint64_t source_generation; /* incarnation that the present attachment reads from */
        LinkState state;
        Pair *pair;
        bool named_out, named_in; /* while adopting: its ends said that they have it */
        bool settled;             /* and what that means was decided */
        bool counted;             /* last holds what was counted in the last life of its consumer */
        LinkCounters last;
};

int wiring_init(Dataflow *dataflow); /* makes dataflow->links from the plan */

/* wiring_prepare() - make the regions and the socket of a new incarnation; *ret_sock is the node's end, owned by the caller. */
int wiring_prepare(Node *node, int *ret_sock);

/*
 * What a supervisor died knowing (adopt.c). wiring_restore(): sizes, which follow from the plan. wiring_take(): a descriptor from the
 * guard's store, consumed. wiring_resume(): ask a node what it has; its links are settled once both their ends have answered, and
 * one that never answers keeps what it had.
 */
void wiring_restore(Node *node);
void wiring_take(Node *node, const struct guard_item *item, int take_fd);
void wiring_resume(Node *node);

/* For growth.c: wiring_send() - one message, with a descriptor if @fd is not -1. wiring_max_queue() - the longest queue that an output feeds. */
void wiring_send(Node *node, const NodeMsg *msg, int fd);
uint32_t wiring_max_queue(const Node *node, uint32_t output);

/* wiring_release() - drop the present incarnation's socket and regions; outputs that consumers still read stay. */
void wiring_release(Node *node);

/* wiring_release_outputs() - those, too: the dataflow has ended. */
void wiring_release_outputs(Node *node);

/* wiring_is_ready() - handshake done and every link that can be attached is. */
bool wiring_is_ready(const Node *node);

/* wiring_start() - release from the barrier. wiring_stop() - stop event and stop flag. wiring_abort() - the start was given up. */
void wiring_start(Node *node);
void wiring_stop(Node *node, nsec_t deadline);
void wiring_abort(Node *node, const char *text);

/* wiring_node_ended() - nobody of the incarnation is left: tell its peers. @restarting: another incarnation will come; if it
 * does not after all, say it again without. */
void wiring_node_ended(Node *node, bool restarting);

/* wiring_may_begin() - adopted before START reached it: whoever reads from it without loss has a place, from its first message on. */
bool wiring_may_begin(const Node *node);

/* wiring_awaits() - whose next incarnation, which may be there and not linked yet, it waits for, in a send that is blocked on a dead
 * one's place; NULL: nobody's. */
const Node *wiring_awaits(const Node *node);

/* wiring_waits_for_others() - some link of it waits for a node that has not made its own part of the handshake. */
bool wiring_waits_for_others(const Node *node);

/**
 * wiring_connect() - a dynamic node: a process has asked to be it, and may be
 * @take_fd: its connection, consumed
 * @hello:   what it said
 *
 * Return: 0 or a negative errno.
 */
int wiring_connect(Node *node, int take_fd, const NodeMsg *hello);

/*
 * wiring_capture() - the same, of one that captures: nothing is said to the process before it was moved. wiring_greet(): it was.
 * wiring_refuse(): it was not; a last word, and its connection ends.
 */
int wiring_capture(Node *node, int take_fd, int pidfd);
void wiring_greet(Node *node);
void wiring_refuse(Node *node, const char *text);

/* wiring_let_go() - a dynamic node: end the connection, after a last word. Nobody is killed. */
void wiring_let_go(Node *node, const char *text);

/* wiring_will_restart() - it is about to be ended for another incarnation, whatever its policy says. */
void wiring_will_restart(Node *node);

/* wiring_reopen() - a node that had ended for good begins again: its links attach as if it had been restarted. */
void wiring_reopen(Node *node);

/* wiring_close_outputs() - nothing more will come from it, of this or any other incarnation. */
void wiring_close_outputs(Node *node);
void wiring_tell_failed(Node *node, const char *text);
void wiring_tell_restarted(Node *node);

#endif
