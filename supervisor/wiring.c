/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of a node: what is said to it, what it says, and its end. */
#include "supervisor/wiring-internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/cursor.h"
#include "supervisor/growth.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

#define MSGS_PER_TURN   64
#define MSGS_PER_SECOND 1000u
#define LEFT_SPAN (250 * NSEC_PER_MSEC) /* between a process's closing of its files and its end, on a busy machine */
#define BROKE "broke the protocol of its socket: "
#define CROWD "has a crowd wait at its socket: each packet takes the supervisor far too long"
#define HEAVY_NS      (200 * NSEC_PER_USEC) /* CPU time of one packet; of a node of ours 2 to 30 us, with 1 000 epolls at its end 50 more */
#define VERY_HEAVY_NS (2 * NSEC_PER_MSEC)   /* counts for four */
#define HEAVY_PACKETS 16u                   /* more than others, until we are sure */

/* Each packet, either way, calls on all who wait at the other end, one after the other, and a node may have as many of them as it likes. */
static bool is_crowded(Node *node, nsec_t begin)
{
        nsec_t ns = clock_cpu() - begin;

        if (ns > HEAVY_NS)
                node->n_heavy += ns > VERY_HEAVY_NS ? 4 : 1;
        else if (node->n_heavy > 0)
                node->n_heavy--;
        return node->n_heavy >= HEAVY_PACKETS;
}

/* ---- sending */

void node_send_all(Node *node, const NodeMsg *msg, const int *fds, size_t n_fds)
{
        char buffer[NODE_MSG_MAX];
        nsec_t begin;
        int n, r;

        if (node->sock < 0)
                return;
        n = node_msg_encode(msg, buffer, sizeof(buffer));
        if (n < 0) {
                node_give_up(node, "cannot be sent %s: it is too long", node_msg_name(msg->type));
                return;
        }
        begin = clock_cpu();
        r = packet_queue_send(&node->out, node->sock, buffer, (size_t)n, fds, n_fds);
        if (r == 0 && !packet_queue_pending(&node->out) && is_crowded(node, begin))
                node_give_up(node, CROWD);
        if (r == PACKET_E_FULL)
                node_give_up(node, "does not read its socket");
        else if (r < 0)
                node_give_up(node, "cannot be sent %s: %s", node_msg_name(msg->type), error_text(r));
        if (packet_queue_pending(&node->out))
                (void)source_set_events(&node->sock_source, EPOLLIN | EPOLLOUT);
}

void node_send(Node *node, const NodeMsg *msg, int fd0, int fd1)
{
        node_send_all(node, msg, (int[]){fd0, fd1}, (size_t)(fd0 >= 0) + (size_t)(fd1 >= 0));
}

void wiring_send(Node *node, const NodeMsg *msg, int fd)
{
        node_send(node, msg, fd, -1);
}

static void send_outputs(Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_outputs; i++) {
                const NodeOutput *output = &node->outputs[i];
                NodeMsg msg = {.type = NODE_MSG_OUTPUT,
                        .output = {.index = i,
                                .id = node->plan->outputs[i],
                                .n_slots = output->n_slots,
                                .ring_size = output->ring_size,
                                .pool_size = output->pool_size}};

                node_send(node, &msg, output->ring_fd, output->pool_fd);
        }
}

static const Link *find_link(const Node *target, uint32_t input)
{
        for (uint32_t i = 0; i < target->n_links; i++)
                if (target->links[i]->target == target && target->links[i]->input == input)
                        return target->links[i];
        return NULL;
}

static void send_inputs(Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_inputs; i++) {
                const PlanInput *input = &node->plan->inputs[i];
                const Link *link = find_link(node, i);
                char source[2 * NODE_MSG_ID_MAX + 2] = "timer";
                NodeMsg msg = {.type = NODE_MSG_INPUT,
                        .input = {.index = i,
                                .id = input->id,
                                .source = source,
                                .timer_ns = input->timer_ns,
                                .queue_size = input->queue_size,
                                .policy = input->backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                                .timeout_ns = input->timeout_ns,
                                .link = link ? link->number : 0,
                                .cursor_size = link ? cursor_size() : 0}};

                if (link)
                        (void)snprintf(source, sizeof(source), "%s/%s", link->source->plan->id, link->source->plan->outputs[link->output]);
                node_send(node, &msg, node->cursor_fds[i], -1);
        }
}

void wiring_send_setup(Node *node)
{
        NodeMsg welcome = {.type = NODE_MSG_WELCOME,
                .welcome = {.dataflow = node->dataflow->plan->name,
                        .node = node->plan->id,
                        .generation = node->generation,
                        .restart_count = node->n_restarts,
                        .n_inputs = (uint32_t)node->plan->n_inputs,
                        .n_outputs = (uint32_t)node->plan->n_outputs,
                        .control_size = control_size(),
                        .bell_size = bell_size(),
                        .wait = node->plan->wait}};
        NodeMsg end = {.type = NODE_MSG_SETUP_END};

        memcpy(welcome.welcome.uuid, node->dataflow->uuid, 16);
        node_send(node, &welcome, node->control_fd, node->bell_fd);
        send_outputs(node);
        send_inputs(node);
        node_send(node, &end, -1, -1);
}

void wiring_start(Node *node)
{
        NodeMsg msg = {.type = NODE_MSG_START};

        if (node->started)
                return;
        node->started = true;
        node_journal(node);
        node_send(node, &msg, -1, -1);
        queues_node_started(node);
}

void wiring_stop(Node *node, nsec_t deadline)
{
        NodeMsg msg = {.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL, .deadline_ns = deadline}};

        if (node->control.map)
                control_stop(&node->control, NODE_STOP_MANUAL, deadline);
        node_send(node, &msg, -1, -1);
}

static void wiring_abort_any(Node *node, const char *text)
{
        char cut[NODE_MSG_TEXT_MAX];
        NodeMsg msg = {.type = NODE_MSG_ABORT, .abort = {.text = cut}};

        char buffer[NODE_MSG_MAX];
        int n;

        (void)snprintf(cut, sizeof(cut), "%s", text);
        n = node->sock < 0 ? -1 : node_msg_encode(&msg, buffer, sizeof(buffer));
        if (n < 0)
                return;
        /* Not by node_send(), which gives up whoever does not read: one that is given up may be let go of by this. */
        (void)packet_queue_send(&node->out, node->sock, buffer, (size_t)n, NULL, 0); /* full: it sees the end */
        if (packet_queue_pending(&node->out))
                (void)source_set_events(&node->sock_source, EPOLLIN | EPOLLOUT);
}

void wiring_abort(Node *node, const char *text)
{
        if (!node->started)
                wiring_abort_any(node, text);
}

void wiring_refuse(Node *node, const char *text)
{
        char buffer[NODE_MSG_MAX];
        NodeMsg msg = {.type = NODE_MSG_ABORT, .abort = {.text = text}};
        int n = node_msg_encode(&msg, buffer, sizeof(buffer));

        if (n > 0 && node->sock >= 0)
                (void)packet_send(node->sock, buffer, (size_t)n, NULL, 0); /* who does not read it sees the end */
        wiring_release(node);
}

/* ---- receiving */

/* Told to both: its layouts are others, so not one message more would be understood. */
static void refuse_version(Node *node, const NodeMsg *msg)
{
        char text[NODE_MSG_TEXT_MAX];

        (void)snprintf(text, sizeof(text), "speaks version %u of the node protocol (%s), and tidegated version %u: link it with the libtidegate of this tidegated",
                msg->hello.version, msg->hello.library, NODE_MSG_VERSION);
        if (!node_is_loose(node)) /* who is let go of is told by that */
                wiring_abort_any(node, text);
        node_give_up(node, "%s", text);
}

static void greet(Node *node)
{
        node->connected = true;
        node_journal(node);
        wiring_send_setup(node);
        if (node->rung != NODE_RUNG_NONE) /* it connected while it was being stopped */
                wiring_stop(node, node->ladder.kill);
}

void wiring_greet(Node *node)
{
        if (node->resuming)
                wiring_resume(node); /* what it was told by a predecessor it says itself */
        else if (node->sock >= 0 && !node->connected)
                greet(node);
}

static void on_hello(Node *node, const NodeMsg *msg)
{
        if (node->resuming && msg->hello.version == NODE_MSG_VERSION) {
                node->connected = true; /* what it still needs is sent once it has said all */
                node->mapped = false;   /* what was said before this was said to a predecessor */
                for (uint32_t i = 0; i < node->n_links; i++) {
                        node->links[i]->named_out = node->links[i]->named_out && node->links[i]->source != node;
                        node->links[i]->named_in = node->links[i]->named_in && node->links[i]->target != node;
                }
                return;
        }
        if (msg->hello.version != NODE_MSG_VERSION) {
                refuse_version(node, msg);
                return;
        }
        if (node->connected || (node->captured && !node->spawned)) {
                node_give_up(node, BROKE "HELLO twice");
                return;
        }
        greet(node);
}

static void on_mapped(Node *node)
{
        if (!node->connected || (node->mapped && !node->resuming)) {
                node_give_up(node, BROKE "MAPPED out of turn");
                return;
        }
        if (!regions_are_sealed(node)) { /* by us it is not: see region.h */
                node_give_up(node, BROKE "it says that it has sealed what it has not");
                return;
        }
        if (!regions_are_touched(node)) { /* its readers would pay for it */
                node_give_up(node, BROKE "it says that it has touched what it has not");
                return;
        }
        node->mapped = true;
        node_journal(node);
        for (uint32_t i = 0; i < node->n_links && !node->resuming; i++) {
                Link *link = node->links[i];

                link_advance(link);
                if (link->source == node && link->state == LINK_DETACHED && node_comes_again(link->target))
                        link_await(link);
        }
        dataflow_kick(node->dataflow);
}

/* Of a present attachment or of one that is over: who was at its other end is named either way. */
static void on_violation(Node *node, const NodeMsg *msg)
{
        Dataflow *dataflow = node->dataflow;
        const Link *link = msg->violation.link > 0 && msg->violation.link <= dataflow->n_links ? &dataflow->links[msg->violation.link - 1] : NULL;

        if (link && (link->source == node || link->target == node))
                misbehaviour_found(link, node, msg->violation.text);
        else
                node_give_up(node, BROKE "it accuses a node that it has no link with");
}

static void on_link_left(Node *node, const NodeMsg *msg)
{
        Dataflow *dataflow = node->dataflow;
        const Link *link = msg->link_left.link > 0 && msg->link_left.link <= dataflow->n_links ? &dataflow->links[msg->link_left.link - 1] : NULL;

        if (link && (link->source == node || link->target == node))
                misbehaviour_left(link, node, msg->link_left.text);
        else
                node_give_up(node, BROKE "it lets go of a link that it does not have");
}

static void on_turned(Node *node)
{
        if (node->turned)
                return;
        node->turned = true;
        dataflow_note(node->dataflow, node->plan->id,
                "is woken again and again for nothing by one of those it shares a link with, and cannot tell by which: it hears them by sockets for a while");
}

/* What one with so many links and outputs can have to say in a second, many times over. */
static bool says_too_much(Node *node)
{
        nsec_t now = node->dataflow->loop->now;

        if (now - node->said_since > NSEC_PER_SEC) {
                node->said_since = now;
                node->n_said = 0;
        }
        return ++node->n_said > MSGS_PER_SECOND + 16 * (node->n_links + node->plan->n_outputs);
}

static void on_message(Node *node, const NodeMsg *msg)
{
        switch (msg->type) {
        case NODE_MSG_HELLO:
                on_hello(node, msg);
                break;
        case NODE_MSG_MAPPED:
                on_mapped(node);
                break;
        case NODE_MSG_LINK_OUT_ACK:
                link_on_out_ack(node, msg);
                break;
        case NODE_MSG_LINK_IN_ACK:
                link_on_in_ack(node, msg);
                break;
        case NODE_MSG_CLOSE_OUTPUT:
                if (msg->close_output.output < node->plan->n_outputs)
                        wiring_close_output(node, msg->close_output.output);
                else
                        node_give_up(node, BROKE "it closes an output that it does not have");
                break;
        case NODE_MSG_GROW:
                growth_on_grow(node, msg);
                break;
        case NODE_MSG_SEGMENT_ACK:
                growth_on_ack(node, msg);
                break;
        case NODE_MSG_RESUMED:
                wiring_on_resumed(node, msg);
                break;
        case NODE_MSG_VIOLATION:
                on_violation(node, msg);
                break;
        case NODE_MSG_LINK_LEFT:
                on_link_left(node, msg);
                break;
        case NODE_MSG_TURNED:
                on_turned(node);
                break;
        default: /* DETACH_ACK: nothing waits for it */
                break;
        }
}

/* It may end yet, slowly, and be followed by another incarnation: until then its place in lossless links was kept. */
static int on_stays(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, hung_up);

        (void)now;
        node->stays = !node->exited;
        for (uint32_t i = 0; i < node->n_links && node->stays; i++)
                if (node->links[i]->target == node)
                        link_detach(node->links[i], false);
        return 0;
}

static int on_left(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, hung_up);
        struct pollfd p = {.fd = node->pidfd, .events = POLLIN};

        if (node->exited || (node->pidfd >= 0 && poll(&p, 1, 0) == 1))
                return 0;
        wiring_close_outputs(node); /* it closed its node, and goes on with other things */
        timer_arm(node->dataflow->loop, timer, nsec_add(now, WIRING_STAYS_SPAN), on_stays);
        return 0;
}

/*
 * Its socket is closed. Mostly because it has ended: then what follows, and what its consumers are to hear (that it failed, that it
 * will be back, that nothing more comes), is known only with its exit status, from the keeper.
 */
static void on_hang_up(Node *node)
{
        bool resuming = node->resuming;

        wiring_release_socket(node);
        for (uint32_t i = 0; i < node->n_links && resuming; i++)
                link_settle(node->links[i]); /* this is its answer */
        dataflow_kick(node->dataflow);
        if (node_is_loose(node)) {
                node_on_left(node);
                return;
        }
        if (node->captured && !node->spawned) /* the keeper says what became of it */
                return;
        timer_arm(node->dataflow->loop, &node->hung_up, nsec_add(node->dataflow->loop->now, LEFT_SPAN), on_left);
}

void wiring_let_go(Node *node, const char *text)
{
        wiring_abort_any(node, text);
        if (node->sock >= 0)
                on_hang_up(node);
        else
                node_on_left(node);
}

static int on_node_socket(Source *source, uint32_t revents)
{
        Node *node = container_of(source, Node, sock_source);

        if (revents & EPOLLOUT) {
                (void)packet_queue_flush(&node->out, node->sock);
                if (!packet_queue_pending(&node->out)) {
                        (void)source_set_events(source, EPOLLIN);
                        growth_on_read(node);
                }
        }
        for (unsigned i = 0; i < MSGS_PER_TURN && node->sock >= 0; i++) {
                char buffer[NODE_MSG_MAX];
                size_t size = 0;
                NodeMsg msg;
                nsec_t begin = clock_cpu();
                int r = packet_recv(node->sock, buffer, sizeof(buffer), &size, NULL, 0, NULL);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r == PACKET_E_CLOSED) {
                        on_hang_up(node);
                        return 0;
                }
                if (!r && is_crowded(node, begin)) {
                        node_give_up(node, CROWD);
                        on_hang_up(node);
                        return 0;
                }
                if (!r && says_too_much(node)) {
                        node_give_up(node, "floods its socket");
                        on_hang_up(node);
                        return 0;
                }
                if (r || node_msg_decode(&msg, buffer, size) || !node_msg_from_node(msg.type) ||
                        (msg.type != NODE_MSG_HELLO && !node->connected)) {
                        node_give_up(node, BROKE "%s", r ? error_text(r) : "a message that cannot be understood");
                        on_hang_up(node);
                        return 0;
                }
                on_message(node, &msg);
        }
        return 0;
}

/* ---- its begin and end */

int wiring_listen(Node *node, int fd)
{
        return source_add(node->dataflow->loop, &node->sock_source, fd, EPOLLIN, SOURCE_NODES, on_node_socket);
}

void wiring_release_socket(Node *node)
{
        source_remove(&node->sock_source);
        node->sock = fd_close(node->sock);
        node->resuming = false; /* it says no more */
        packet_queue_done(&node->out);
        growth_on_read(node);
}

int wiring_prepare(Node *node, int *ret_sock)
{
        _cleanup_fd_ int theirs = -1;
        int pair[2], off = 0, r;

        r = regions_make(node);
        if (r)
                return error_fold(r);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        node->sock = pair[0];
        theirs = pair[1];
        /* No descriptor from a node, not even to be dropped; where the kernel has no such switch we give no room for one. */
        (void)setsockopt(node->sock, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
        r = wiring_listen(node, node->sock);
        if (r)
                return error_fold(r);
        regions_store(node);
        *ret_sock = TAKE_FD(theirs);
        return 0;
}

static int socket_take(Node *node, int take_fd)
{
        int r = regions_make(node);

        if (!r)
                r = wiring_listen(node, take_fd);
        if (r) {
                (void)fd_close(take_fd); /* accepted from a socket of ours */
                return error_fold(r);
        }
        node->sock = take_fd;
        regions_store(node);
        return 0;
}

int wiring_connect(Node *node, int take_fd, const NodeMsg *hello)
{
        int r = socket_take(node, take_fd);

        if (r)
                return error_fold(r);
        node_on_connected(node);
        on_hello(node, hello);
        return 0;
}

int wiring_capture(Node *node, int take_fd, int pidfd)
{
        int r = socket_take(node, take_fd);

        if (r)
                return error_fold(r);
        node_on_joining(node, pidfd);
        return 0;
}

void wiring_release(Node *node)
{
        wiring_release_socket(node);
        region_unmap(&node->control);
        node->control_fd = fd_close(node->control_fd);
        for (size_t i = 0; node->cursor_fds && i < node->plan->n_inputs; i++)
                node->cursor_fds[i] = fd_close(node->cursor_fds[i]);
        for (size_t i = 0; i < ELEMENTSOF(node->out_fds); i++)
                node->out_fds[i] = fd_close(node->out_fds[i]); /* its keeper reads what is left */
        /* Outputs and bell stay: consumers that are not attached yet may still read what is there. */
}
