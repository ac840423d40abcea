/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/wiring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/node_msg.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/cursor.h"
#include "shm/pool.h"
#include "shm/ring.h"
#include "supervisor/growth.h"
#include "supervisor/show.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

#define WIRING_QUEUE_DEFAULT  10u
#define WIRING_MSGS_PER_TURN  64
#define WIRING_MSGS_PER_SECOND 1000u
#define WIRING_LEFT_SPAN      (250 * NSEC_PER_MSEC) /* between a process's closing of its files and its end, on a busy machine */
#define WIRING_STAYS_SPAN     (5 * NSEC_PER_SEC)      /* then the process is taken for one that stays, without its node */
#define WIRING_POOL_SMALLEST  1024u
#define BROKE "broke the protocol of its socket: "

static void wiring_abort_any(Node *node, const char *text);
static void on_hello(Node *node, const NodeMsg *msg);
static void on_hang_up(Node *node);
static void link_advance(Link *link);
static void link_set_state(Link *link, LinkState state);
static void link_is_up(Link *link);
static void link_settle(Link *link);
static void on_resumed(Node *node, const NodeMsg *msg);

/* ---- sending */

static int on_node_socket(Source *source, uint32_t revents);

static void node_send(Node *node, const NodeMsg *msg, int fd0, int fd1)
{
        char buffer[NODE_MSG_MAX];
        int fds[2] = {fd0, fd1}, n, r;

        if (node->sock < 0)
                return;
        n = node_msg_encode(msg, buffer, sizeof(buffer));
        if (n < 0) {
                node_give_up(node, "cannot be sent %s: it is too long", node_msg_name(msg->type));
                return;
        }
        r = packet_queue_send(&node->out, node->sock, buffer, (size_t)n, fds, (size_t)(fd0 >= 0) + (size_t)(fd1 >= 0));
        if (r == PACKET_E_FULL)
                node_give_up(node, "does not read its socket");
        else if (r < 0)
                node_give_up(node, "cannot be sent %s: %s", node_msg_name(msg->type), error_text(r));
        if (packet_queue_pending(&node->out))
                (void)source_set_events(&node->sock_source, EPOLLIN | EPOLLOUT);
}

void wiring_send(Node *node, const NodeMsg *msg, int fd)
{
        node_send(node, msg, fd, -1);
}

/* ---- regions */

/*
 * Chunk sizes of a pool, from large to small. A larger chunk also holds a smaller message, so the memory goes to the large ones:
 * half of it to the largest message that a pool of this size promises (a quarter of its power of two), half of the rest to
 * one half as long, then on in steps of four. No size gets more than a full queue, all claims and one being written need.
 */
static unsigned pool_classes_down(uint64_t *left, uint64_t pool_size, uint32_t want, PoolClass ret[POOL_MAX_CLASSES])
{
        uint64_t size = WIRING_POOL_SMALLEST;
        unsigned n = 0;

        while (size * 8 <= pool_size)
                size *= 2;
        while (size >= WIRING_POOL_SMALLEST && n < POOL_MAX_CLASSES) {
                /* Room for the metadata beside a payload of a round size. */
                PoolClass class = pool_class_for(size <= 4096 ? size : size + 4096, 1);
                /* Two of the large ones at the least: one is read while the next is written. */
                uint64_t count = MIN((uint64_t)want, MAX(*left / 2 / class.chunk_size, n < 2 ? UINT64_C(2) : UINT64_C(1)));

                if (count * class.chunk_size <= *left) {
                        class.n_chunks = (uint32_t)count;
                        *left -= count * class.chunk_size;
                        ret[n++] = class;
                }
                size /= n == 1 ? 2 : 4;
        }
        return n;
}

static unsigned pool_classes(uint64_t budget, uint32_t max_queue, PoolClass ret[POOL_MAX_CLASSES])
{
        uint32_t want = max_queue + CURSOR_N_CLAIMS + 2;
        uint64_t left = budget > POOL_DATA_OFFSET ? budget - POOL_DATA_OFFSET : 0;
        PoolClass down[POOL_MAX_CLASSES];
        unsigned n = pool_classes_down(&left, budget, want, down);

        for (unsigned i = 0; i < n; i++) { /* what is left over makes more of the largest that fits */
                uint64_t more = MIN(left / down[i].chunk_size, (uint64_t)(want > down[i].n_chunks ? want - down[i].n_chunks : 0));

                down[i].n_chunks += (uint32_t)more;
                left -= more * down[i].chunk_size;
                ret[n - 1 - i] = down[i];
        }
        return n;
}

uint32_t wiring_max_queue(const Node *node, uint32_t output)
{
        const Dataflow *dataflow = node->dataflow;
        uint32_t max = WIRING_QUEUE_DEFAULT;

        for (uint32_t i = 0; i < dataflow->n_links; i++) {
                const Link *link = &dataflow->links[i];

                if (link->source == node && link->output == output)
                        max = MAX(max, link->target->plan->inputs[link->input].queue_size);
        }
        return max;
}

/* Outcomes of the shm room mean that our own numbers were wrong. */
static int fold_region(int r)
{
        return r > 0 ? error_origin(-EINVAL) : r;
}

/* Follows from the plan alone, so that a successor knows it too. */
static unsigned output_measure(Node *node, uint32_t index, PoolClass classes[POOL_MAX_CLASSES])
{
        NodeOutput *output = &node->outputs[index];
        uint32_t max_queue = wiring_max_queue(node, index);
        uint64_t bound = node->plan->pool_size ? node->plan->pool_size : GROWTH_FIRST;
        unsigned n = pool_classes(MIN(bound, GROWTH_FIRST), max_queue, classes);
        uint64_t most = node->plan->pool_size ? node->plan->pool_size : GROWTH_BOUND_MOST, first = pool_size(classes, n);

        if (n < POOL_MAX_CLASSES && most > first + POOL_DATA_OFFSET)
                n += growth_expected(node->plan->expected_message, classes[n - 1].chunk_size, most - first - POOL_DATA_OFFSET, &classes[n]);

        output->n_slots = ring_slots_for(max_queue);
        output->ring_size = ring_size(output->n_slots);
        output->pool_size = pool_size(classes, n);
        return n;
}

static int output_make(Node *node, uint32_t index)
{
        NodeOutput *output = &node->outputs[index];
        PoolClass classes[POOL_MAX_CLASSES];
        unsigned n = output_measure(node, index, classes);
        int r;

        output->ring_fd = fd_close(output->ring_fd); /* an older incarnation's: consumers have mapped it, or never will */
        output->pool_fd = fd_close(output->pool_fd);
        growth_drop(output);
        output->closed = output->pool_lost = false;
        r = fold_region(ring_create(output->n_slots, &output->ring_fd));
        return r ? r : fold_region(pool_create(classes, n, &output->pool_fd));
}

static int control_make(Node *node)
{
        int r = fold_region(control_create(&node->control_fd));

        if (!r)
                r = fold_region(region_map_write(&node->control, node->control_fd, REGION_CONTROL, control_size()));
        if (!r) {
                control_init(&node->control);
                queues_node_prepared(node);
                r = fold_region(region_seal(node->control_fd, REGION_CONTROL));
        }
        return r;
}

static int regions_make(Node *node)
{
        int r = control_make(node);

        if (!r) {
                node->bell_fd = fd_close(node->bell_fd);
                r = fold_region(bell_create(&node->bell_fd));
        }
        for (uint32_t i = 0; !r && i < node->plan->n_outputs; i++)
                r = output_make(node, i);
        for (uint32_t i = 0; !r && i < node->plan->n_inputs; i++)
                if (!node->plan->inputs[i].timer_ns)
                        r = fold_region(cursor_create(&node->cursor_fds[i]));
        return r;
}

/* A few at a time, to the guard. */
typedef struct Store {
        const Node *node;
        struct guard_item items[GUARD_MAX_ITEMS];
        int fds[GUARD_MAX_ITEMS];
        size_t n;
} Store;

static void store_flush(Store *store)
{
        if (store->n > 0)
                guard_store_order(store->node, store->items, store->fds, store->n);
        store->n = 0;
}

static void store_add(Store *store, GuardItemKind kind, uint32_t index, int fd)
{
        if (fd < 0)
                return;
        store->items[store->n] = (struct guard_item){.kind = kind, .index = (uint16_t)index};
        store->fds[store->n++] = fd;
        if (store->n == GUARD_MAX_ITEMS)
                store_flush(store);
}

static void store_all(const Node *node)
{
        Store store = {.node = node};

        store_add(&store, GUARD_ITEM_SOCKET, 0, node->sock);
        store_add(&store, GUARD_ITEM_CONTROL, 0, node->control_fd);
        store_add(&store, GUARD_ITEM_BELL, 0, node->bell_fd);
        for (uint32_t i = 0; i < node->plan->n_outputs; i++) {
                store_add(&store, GUARD_ITEM_RING, i, node->outputs[i].ring_fd);
                store_add(&store, GUARD_ITEM_POOL, i, node->outputs[i].pool_fd);
        }
        for (uint32_t i = 0; i < node->plan->n_inputs; i++)
                store_add(&store, GUARD_ITEM_CURSOR, i, node->cursor_fds[i]);
        store_flush(&store);
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
        r = source_add(node->dataflow->loop, &node->sock_source, node->sock, EPOLLIN, SOURCE_NODES, on_node_socket);
        if (r)
                return error_fold(r);
        store_all(node);
        *ret_sock = TAKE_FD(theirs);
        return 0;
}

static int socket_take(Node *node, int take_fd)
{
        int r = regions_make(node);

        if (!r)
                r = source_add(node->dataflow->loop, &node->sock_source, take_fd, EPOLLIN, SOURCE_NODES, on_node_socket);
        if (r) {
                (void)fd_close(take_fd); /* accepted from a socket of ours */
                return error_fold(r);
        }
        node->sock = take_fd;
        store_all(node);
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

void wiring_refuse(Node *node, const char *text)
{
        char buffer[NODE_MSG_MAX];
        NodeMsg msg = {.type = NODE_MSG_ABORT, .abort = {.text = text}};
        int n = node_msg_encode(&msg, buffer, sizeof(buffer));

        if (n > 0 && node->sock >= 0)
                (void)packet_send(node->sock, buffer, (size_t)n, NULL, 0); /* who does not read it sees the end */
        wiring_release(node);
}

void wiring_let_go(Node *node, const char *text)
{
        wiring_abort_any(node, text);
        if (node->sock >= 0)
                on_hang_up(node);
        else
                node_on_left(node);
}

static void socket_release(Node *node)
{
        source_remove(&node->sock_source);
        node->sock = fd_close(node->sock);
        node->resuming = false; /* it says no more */
        packet_queue_done(&node->out);
        growth_on_read(node);
}

void wiring_release(Node *node)
{
        socket_release(node);
        region_unmap(&node->control);
        node->control_fd = fd_close(node->control_fd);
        for (size_t i = 0; node->cursor_fds && i < node->plan->n_inputs; i++)
                node->cursor_fds[i] = fd_close(node->cursor_fds[i]);
        for (size_t i = 0; i < ELEMENTSOF(node->out_fds); i++)
                node->out_fds[i] = fd_close(node->out_fds[i]); /* its keeper reads what is left */
        /* Outputs and bell stay: consumers that are not attached yet may still read what is there. */
}

void wiring_release_outputs(Node *node)
{
        for (uint32_t i = 0; node->outputs && i < node->plan->n_outputs; i++) {
                node->outputs[i].ring_fd = fd_close(node->outputs[i].ring_fd);
                node->outputs[i].pool_fd = fd_close(node->outputs[i].pool_fd);
                growth_drop(&node->outputs[i]);
        }
        node->bell_fd = fd_close(node->bell_fd);
}

/* ---- handshake */

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

static void send_setup(Node *node)
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
        send_setup(node);
        if (node->rung != NODE_RUNG_NONE) /* it connected while it was being stopped */
                wiring_stop(node, node->ladder.kill);
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

void wiring_greet(Node *node)
{
        if (node->resuming)
                wiring_resume(node); /* what it was told by a predecessor it says itself */
        else if (node->sock >= 0 && !node->connected)
                greet(node);
}

/* One that was lost with a supervisor and its guard is handed on by nobody: what was handed on before was sealed before. */
static int seal_if_there(int fd, RegionKind kind)
{
        return fd < 0 ? 0 : region_seal(fd, kind);
}

static bool node_is_there(const Node *node)
{
        return node->mapped && node->sock >= 0 && !node->empty;
}

/*
 * Whether the death of its present incarnation may be followed by another one. If so, we say at its end which it is. In the place
 * of a dynamic node somebody may come, or nobody: not one to wait for.
 */
static bool may_come_again(const Node *node)
{
        return !node_is_dynamic(node) && !node->dataflow->stop_ordered && !node->stop_wanted &&
               (node->restart_wanted || node->plan->restart != PLAN_RESTART_NEVER);
}

static bool is_lossless(const Link *link)
{
        return link->target->plan->inputs[link->input].backpressure;
}

/* What the writer has mapped can be written by nobody else from now on. */
static int seal_all(Node *node)
{
        int r = seal_if_there(node->bell_fd, REGION_BELL);

        for (uint32_t i = 0; !r && i < node->plan->n_outputs; i++) {
                r = seal_if_there(node->outputs[i].ring_fd, REGION_RING);
                if (!r)
                        r = seal_if_there(node->outputs[i].pool_fd, REGION_POOL);
        }
        for (uint32_t i = 0; !r && i < node->plan->n_inputs; i++)
                r = seal_if_there(node->cursor_fds[i], REGION_CURSOR);
        return r;
}

/* Nobody is there, but somebody was who had a place in its links, and who will be followed by another incarnation, or may be. */
static bool comes_again(const Node *node)
{
        return !node_is_there(node) && node->was_ready && !node->finished && !node->stays && !node_is_dynamic(node) &&
               (node->state == NODE_BACKOFF || node->state == NODE_STARTING || may_come_again(node));
}

/* To the producer: its consumer is to come. If it does not after all, link_detach() follows. Who has a place keeps that. */
static void link_await(Link *link)
{
        NodeMsg msg = {.type = NODE_MSG_AWAIT, .await = {.link = link->number, .output = link->output}};

        if (!is_lossless(link) || !node_is_there(link->source))
                return;
        if (link->source_generation != link->source->generation) {
                link->generation++;
                link->source_generation = link->source->generation;
                link_journal(link);
        }
        msg.await.generation = link->generation;
        msg.await.queue_size = link->target->plan->inputs[link->input].queue_size;
        node_send(link->source, &msg, -1, -1);
}

static void on_mapped(Node *node)
{
        if (!node->connected || (node->mapped && !node->resuming)) {
                node_give_up(node, BROKE "MAPPED out of turn");
                return;
        }
        if (seal_all(node)) {
                node_give_up(node, BROKE "its shared memory could not be sealed");
                return;
        }
        node->mapped = true;
        node_journal(node);
        for (uint32_t i = 0; i < node->n_links && !node->resuming; i++) {
                Link *link = node->links[i];

                link_advance(link);
                if (link->source == node && link->state == LINK_DETACHED && comes_again(link->target))
                        link_await(link);
        }
        dataflow_kick(node->dataflow);
}

/* ---- links */

static void send_peer(Node *to, const Node *peer, uint32_t generation, int doorbell)
{
        NodeMsg msg = {.type = NODE_MSG_PEER,
                .peer = {.peer = peer->index + 1, .generation = generation, .node = peer->plan->id, .bell_size = bell_size()}};

        node_send(to, &msg, peer->bell_fd, doorbell);
}

/* One doorbell for each pair of incarnations. A dead side's end is closed at once, which is how the living one learns of it. */
static int pair_tell(Link *link)
{
        Pair *pair = link->pair;
        Node *a = pair->a, *b = pair->b;
        _cleanup_fd_ int end_a = -1, end_b = -1;
        int fds[2];

        if (a == b || (pair->generation > 0 && pair->a_generation == a->generation && pair->b_generation == b->generation))
                return 0;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return error_origin(-errno);
        end_a = fds[0];
        end_b = fds[1];
        pair->generation++;
        pair->a_generation = a->generation;
        pair->b_generation = b->generation;
        link_journal(link);
        if (node_is_there(a))
                send_peer(a, b, pair->generation, end_a);
        if (node_is_there(b))
                send_peer(b, a, pair->generation, end_b);
        return 0;
}

static uint32_t peer_number(const Link *link, const Node *peer)
{
        return link->source == link->target ? 0 : peer->index + 1;
}

static void link_tell_source(Link *link)
{
        const PlanInput *input = &link->target->plan->inputs[link->input];
        NodeMsg msg = {.type = NODE_MSG_LINK_OUT,
                .link_out = {.link = link->number,
                        .generation = link->generation,
                        .output = link->output,
                        .peer = peer_number(link, link->target),
                        .queue_size = input->queue_size,
                        .policy = input->backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                        .cursor_size = cursor_size(),
                        .restartable = may_come_again(link->target)}};

        node_send(link->source, &msg, link->target->cursor_fds[link->input], -1);
}

static void link_send_out(Link *link)
{
        link_set_state(link, LINK_WAIT_OUT);
        link_tell_source(link);
}

static void link_send_in(Link *link)
{
        Node *target = link->target;
        const NodeOutput *output = &link->source->outputs[link->output];
        NodeMsg msg = {.type = NODE_MSG_LINK_IN,
                .link_in = {.link = link->number,
                        .generation = link->generation,
                        .input = link->input,
                        .peer = peer_number(link, link->source),
                        .n_slots = output->n_slots,
                        .ring_size = output->ring_size,
                        .pool_size = output->pool_size,
                        .start_at = target->resume_at[link->input]}};

        link_set_state(link, LINK_WAIT_IN);
        growth_tell_link(link); /* before it: then no message lies in what it does not know */
        node_send(target, &msg, output->ring_fd, output->pool_fd);
}

/* To the producer: nobody reads there any more. @restarting: until the next incarnation does. */
static void link_detach(Link *link, bool restarting)
{
        NodeMsg msg = {.type = NODE_MSG_DETACH,
                .detach = {.link = link->number, .generation = link->generation, .restarting = restarting && is_lossless(link)}};

        if (link->generation > 0 && node_is_there(link->source))
                node_send(link->source, &msg, -1, -1);
}

static void link_close(Link *link, bool restarting)
{
        NodeMsg msg = {.type = NODE_MSG_LINK_CLOSED,
                .link_closed = {.link = link->number, .generation = link->generation, .restarting = restarting}};
        Node *target = link->target;
        bool all = true;

        link_set_state(link, restarting ? LINK_DETACHED : LINK_CLOSED);
        node_send(target, &msg, -1, -1);
        for (uint32_t i = 0; i < target->n_links; i++)
                if (target->links[i]->target == target)
                        all = all && target->links[i]->state == LINK_CLOSED;
        if (all)
                node_on_inputs_closed(target);
}

static void link_set_state(Link *link, LinkState state)
{
        link->state = state;
        link_journal(link);
        show_link(link);
}

/* The memory of a living node was lost with a supervisor and its guard: only another incarnation of it can be linked. */
static bool lost_memory(Node *node, bool lost)
{
        NodeLadder ladder = node_ladder(node->dataflow->loop->now, node->dataflow->options.grace_ns, node->dataflow->options.budget_ns, false);

        if (!lost)
                return false;
        if (!node->restart_wanted && !node->stop_wanted) {
                dataflow_note(node->dataflow, node->plan->id, "its shared memory was lost with the last daemon; it is restarted so that it can be linked anew");
                if (node_is_loose(node))
                        wiring_let_go(node, "the daemon died and lost its shared memory: connect again");
                else
                        (void)node_order_restart(node, &ladder); /* refused: its dataflow ends */
        }
        return true;
}

static bool link_lost_memory(Link *link)
{
        Node *source = link->source, *target = link->target;
        const NodeOutput *output = &source->outputs[link->output];
        bool source_lost = node_is_there(source) && (source->bell_fd < 0 || output->ring_fd < 0 || output->pool_fd < 0 || output->pool_lost);
        bool target_lost = target->bell_fd < 0 || target->cursor_fds[link->input] < 0;

        source_lost = lost_memory(source, source_lost);
        return lost_memory(target, target_lost) || source_lost;
}

/* The next step of an attachment that both sides allow. */
static void link_advance(Link *link)
{
        Node *source = link->source, *target = link->target;
        const NodeOutput *output = &source->outputs[link->output];
        int r = 0;

        if (link->state != LINK_DETACHED || !node_is_there(target) || target->resuming || source->resuming)
                return;
        if (!node_is_there(source) && !source->finished)
                return; /* it will come, or come again */
        if (link_lost_memory(link))
                return;
        link->generation++;
        link->source_generation = source->generation;
        if (!node_is_there(source) && (output->ring_fd < 0 || region_check(output->ring_fd, REGION_RING, output->ring_size))) {
                link_close(link, false); /* it ended before it had anything to read */
                return;
        }
        r = pair_tell(link);
        if (r) {
                node_give_up(target, "cannot be linked to %s: %s", source->plan->id, error_text(r));
                return;
        }
        if (node_is_there(source))
                link_send_out(link);
        else
                link_send_in(link); /* nobody reclaims there any more: what is left can be read without its producer */
}

static Link *link_of(Node *node, uint32_t number, uint32_t generation)
{
        Dataflow *dataflow = node->dataflow;

        if (number == 0 || number > dataflow->n_links || dataflow->links[number - 1].generation != generation)
                return NULL;
        return &dataflow->links[number - 1];
}

static void on_link_out_ack(Node *node, const NodeMsg *msg)
{
        Link *link = link_of(node, msg->ack.link, msg->ack.generation);

        if (link && link->source == node && node->resuming)
                link->named_out = true;
        else if (link && link->source == node && link->state == LINK_WAIT_OUT)
                link_send_in(link);
}

static void on_link_in_ack(Node *node, const NodeMsg *msg)
{
        Link *link = link_of(node, msg->ack.link, msg->ack.generation);

        if (link && link->target == node && node->resuming)
                link->named_in = true;
        if (!link || link->target != node || node->resuming || link->state != LINK_WAIT_IN)
                return;
        link_is_up(link);
}

static void link_is_up(Link *link)
{
        link_set_state(link, LINK_ACTIVE);
        if (link->source->finished || link->source->outputs[link->output].closed)
                link_close(link, false);
        dataflow_kick(link->target->dataflow);
}

static void output_close(Node *node, uint32_t output)
{
        if (node->outputs[output].closed)
                return;
        node->outputs[output].closed = true;
        node_journal(node);
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->source == node && link->output == output && link->state == LINK_ACTIVE)
                        link_close(link, false);
        }
}

/* ---- receiving */

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

/* What one with so many links and outputs can have to say in a second, many times over. */
static bool says_too_much(Node *node)
{
        nsec_t now = node->dataflow->loop->now;

        if (now - node->said_since > NSEC_PER_SEC) {
                node->said_since = now;
                node->n_said = 0;
        }
        return ++node->n_said > WIRING_MSGS_PER_SECOND + 16 * (node->n_links + node->plan->n_outputs);
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
                on_link_out_ack(node, msg);
                break;
        case NODE_MSG_LINK_IN_ACK:
                on_link_in_ack(node, msg);
                break;
        case NODE_MSG_CLOSE_OUTPUT:
                if (msg->close_output.output < node->plan->n_outputs)
                        output_close(node, msg->close_output.output);
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
                on_resumed(node, msg);
                break;
        case NODE_MSG_VIOLATION:
                on_violation(node, msg);
                break;
        case NODE_MSG_LINK_LEFT:
                on_link_left(node, msg);
                break;
        default: /* DETACH_ACK: nothing waits for it */
                break;
        }
}

void wiring_close_outputs(Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_outputs; i++)
                output_close(node, i);
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

        socket_release(node);
        for (uint32_t i = 0; i < node->n_links && resuming; i++)
                link_settle(node->links[i]); /* this is its answer */
        dataflow_kick(node->dataflow);
        if (node_is_loose(node)) {
                node_on_left(node);
                return;
        }
        if (node->captured && !node->spawned) /* the keeper says what became of it */
                return;
        timer_arm(node->dataflow->loop, &node->hung_up, nsec_add(node->dataflow->loop->now, WIRING_LEFT_SPAN), on_left);
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
        for (unsigned i = 0; i < WIRING_MSGS_PER_TURN && node->sock >= 0; i++) {
                char buffer[NODE_MSG_MAX];
                size_t size = 0;
                NodeMsg msg;
                int r = packet_recv(node->sock, buffer, sizeof(buffer), &size, NULL, 0, NULL);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r == PACKET_E_CLOSED) {
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

/* ---- what the node's life means for its links */

bool wiring_is_ready(const Node *node)
{
        if (!node->mapped || node->resuming)
                return false;
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];

                if (link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN)
                        return false;
                if (link->state == LINK_DETACHED && !node->dataflow->released && node_holds_barrier(link->source == node ? link->target : link->source))
                        return false;
        }
        return true;
}

bool wiring_may_begin(const Node *node)
{
        if (!node->mapped || node->sock < 0 || node->resuming)
                return false;
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                const Node *target = link->target;

                if (link->source == node && is_lossless(link) &&
                        (target->resuming || (target->away && !target->stays) || link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN))
                        return false;
        }
        return true;
}

/* By its own word: for a hint, and to its own advantage or harm. */
static bool is_blocked_on(const Link *link)
{
        const NodeOutput *output = &link->source->outputs[link->output];
        Region map = REGION_INIT;
        RingStatus status;

        if (output->ring_fd < 0 || region_map_status(&map, output->ring_fd, REGION_RING, output->ring_size))
                return false;
        ring_read_status(&map, &status);
        region_unmap(&map);
        return status.blocked && status.blocked_link == link->number;
}

const Node *wiring_awaits(const Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];

                bool coming = link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN || (link->state == LINK_DETACHED && comes_again(link->target));

                if (link->source == node && coming && is_lossless(link) && is_blocked_on(link))
                        return link->target;
        }
        return NULL;
}

bool wiring_waits_for_others(const Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                const Node *other = link->source == node ? link->target : link->source;

                if (link->state == LINK_DETACHED && !other->mapped && !node_is_final(other))
                        return true;
        }
        return false;
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

/* Both its ends died: what the consumer had left there nobody will read. */
static void link_count_lost(Link *link, uint64_t from)
{
        const Node *source = link->source;
        const NodeOutput *output = &source->outputs[link->output];
        Region map = REGION_INIT;
        RingStatus status;
        char text[400];

        if (!is_lossless(link) || output->ring_fd < 0 || region_map_status(&map, output->ring_fd, REGION_RING, output->ring_size))
                return;
        ring_read_status(&map, &status);
        region_unmap(&map);
        if (status.head <= from) /* also: it had not begun to read anywhere */
                return;
        (void)snprintf(text, sizeof(text),
                "%llu messages of %s/%s are lost (consumer_dead): both nodes died before they were taken",
                (unsigned long long)(status.head - from), source->plan->id, source->plan->outputs[link->output]);
        dataflow_note(link->target->dataflow, link->target->plan->id, text);
}

/*
 * Where the next incarnation goes on reading: only a lossless link cares. One that died before it had begun leaves the place
 * that it was to begin at. So does one whose position is of a ring that is gone.
 */
static void link_remember(Link *link, bool restarting)
{
        Node *source = link->source, *target = link->target;
        Region map = REGION_INIT;
        CursorStatus status;

        if (!is_lossless(link) || target->cursor_fds[link->input] < 0 ||
                region_map_read(&map, target->cursor_fds[link->input], REGION_CURSOR, cursor_size()))
                return;
        cursor_read(&map, &status);
        region_unmap(&map);
        if (status.attachment != link->generation)
                return;
        if (link->source_generation == source->generation)
                target->resume_at[link->input] = status.tail;
        else if (restarting && source->state == NODE_BACKOFF) /* its ring was being read to the end, and is not made anew yet */
                link_count_lost(link, status.tail);
}

static void link_lose_target(Link *link, bool restarting)
{
        bool awaited = restarting && !node_is_dynamic(link->target);

        show_link_ends(link);
        link_remember(link, restarting);
        link_detach(link, awaited);
        if (awaited)
                link_await(link); /* the producer may have heard of the death too early, or of the life too late */
        link_set_state(link, restarting ? LINK_DETACHED : LINK_CLOSED);
}

/* Positions of the new ring begin anew. A consumer that is not there yet is to count what it comes too late for. */
static void link_begin_anew(Link *link)
{
        link->target->resume_at[link->input] = is_lossless(link) ? 0 : NODE_START_AT_HEAD;
        link->source_generation = 0;
        link_journal(link);
}

static void link_lose_source(Link *link, bool restarting)
{
        if (link->state == LINK_WAIT_OUT && restarting) {
                link_send_in(link); /* nobody reclaims there any more: what is left can be read without its producer */
                link_close(link, true);
        } else if (link->state == LINK_ACTIVE || link->state == LINK_WAIT_IN)
                link_close(link, restarting);
        else if (link->state == LINK_WAIT_OUT)
                link_set_state(link, LINK_DETACHED);
        else if (link->state == LINK_DETACHED && restarting && link->source_generation == link->source->generation)
                link_count_lost(link, link->target->resume_at[link->input]);
        if (restarting) {
                link_begin_anew(link);
                return;
        }
        if (!link->source_generation) /* what is left there was handed over at its end, to be read without a successor */
                link->target->resume_at[link->input] = NODE_START_AT_HEAD;
        link_advance(link);
}

void wiring_node_ended(Node *node, bool restarting)
{
        node->finished = !restarting;
        node->away = node->stays = false;
        timer_disarm(&node->hung_up);
        socket_release(node);
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                link->named_out = link->named_out && link->source != node; /* its word dies with it */
                link->named_in = link->named_in && link->target != node;
                if (link->target == node)
                        link_lose_target(link, restarting);
                else
                        link_lose_source(link, restarting);
        }
}

void wiring_reopen(Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->source == node)
                        link_begin_anew(link);
                if (link->state == LINK_CLOSED)
                        link_set_state(link, LINK_DETACHED);
        }
}

void wiring_will_restart(Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->target == node && is_lossless(link) && link->state != LINK_DETACHED && link->state != LINK_CLOSED &&
                        node_is_there(link->source) && node->cursor_fds[link->input] >= 0)
                        link_tell_source(link);
        }
}

static void tell_downstream(Node *node, NodeMsgType type, const char *text)
{
        NodeMsg msg = {.type = type, .node_event = {.node = node->plan->id, .text = text, .generation = node->generation}};
        const Node *last = NULL;

        /* Links are in the order of their targets, so a target with several is told once. */
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->source != node || link->target == node || link->target == last || !node_is_connected(link->target))
                        continue;
                last = link->target;
                node_send(link->target, &msg, -1, -1);
        }
}

void wiring_tell_failed(Node *node, const char *text)
{
        char cut[NODE_MSG_TEXT_MAX];

        (void)snprintf(cut, sizeof(cut), "%s", text);
        tell_downstream(node, NODE_MSG_NODE_FAILED, cut);
}

void wiring_tell_restarted(Node *node)
{
        tell_downstream(node, NODE_MSG_NODE_RESTARTED, "");
}

/* ---- what a supervisor died knowing */

void wiring_restore(Node *node)
{
        PoolClass classes[POOL_MAX_CLASSES];

        for (uint32_t i = 0; i < node->plan->n_outputs; i++)
                (void)output_measure(node, i, classes);
}

void wiring_take(Node *node, const struct guard_item *item, int take_fd)
{
        uint32_t of = item->index & 0xff, segment = item->index >> 8; /* growth_item_index() */
        bool output = item->index < node->plan->n_outputs, input = item->index < node->plan->n_inputs;
        int *place = item->kind == GUARD_ITEM_CONTROL          ? &node->control_fd
                     : item->kind == GUARD_ITEM_BELL           ? &node->bell_fd
                     : item->kind == GUARD_ITEM_RING && output ? &node->outputs[item->index].ring_fd
                     : item->kind == GUARD_ITEM_POOL && output ? &node->outputs[item->index].pool_fd
                     : item->kind == GUARD_ITEM_CURSOR && input ? &node->cursor_fds[item->index]
                     : item->kind == GUARD_ITEM_STDOUT         ? &node->out_fds[0]
                     : item->kind == GUARD_ITEM_STDERR         ? &node->out_fds[1]
                                                               : NULL;

        if (item->kind == GUARD_ITEM_SOCKET && node->sock < 0) {
                node->away = node->stays = false;
                for (uint32_t i = 0; i < node->n_links; i++)
                        node->links[i]->settled = false; /* without its word */
                node->sock = take_fd;
                node->resuming = true; /* what lies in it was said to a predecessor, until it has been asked by us */
                if (source_add(node->dataflow->loop, &node->sock_source, node->sock, EPOLLIN, SOURCE_NODES, on_node_socket))
                        socket_release(node); /* no memory for it: as a node that closed its socket */
                return;
        }
        if (item->kind == GUARD_ITEM_POOL && segment > 0 && of < node->plan->n_outputs) {
                growth_take(node, of, segment, take_fd);
                return;
        }
        if (!place || *place >= 0) {
                (void)fd_close(take_fd); /* from our own guard: made by a supervisor of ours */
                return;
        }
        *place = take_fd;
        if (item->kind == GUARD_ITEM_CONTROL && region_map_write(&node->control, node->control_fd, REGION_CONTROL, control_size()) == 0)
                queues_node_prepared(node); /* else: stop comes by packet alone */
}

/* It lives, and may do so without its node: no place is kept for that. If it comes all the same its links are settled then. */
static int on_did_not_come(Timer *timer, nsec_t now)
{
        Node *node = container_of(timer, Node, hung_up);

        (void)now;
        node->stays = true;
        for (uint32_t i = 0; i < node->n_links; i++)
                link_settle(node->links[i]);
        growth_on_read(node);
        dataflow_kick(node->dataflow);
        return 0;
}

void wiring_resume(Node *node)
{
        NodeMsg msg = {.type = NODE_MSG_RESUME, .resume = {.epoch = node->dataflow->supervisor->epoch}};

        if (node->sock < 0) { /* lost with a guard */
                node->away = node->connected && !node->exited && !node_is_dynamic(node);
                if (node->away)
                        timer_arm(node->dataflow->loop, &node->hung_up, nsec_add(node->dataflow->loop->now, WIRING_STAYS_SPAN), on_did_not_come);
                return;
        }
        node->resuming = true;
        node_send(node, &msg, -1, -1);
}

/* Both ends have it, or its other end needs nothing any more. */
static bool link_holds(const Link *link)
{
        return link->named_in && (link->named_out || !node_is_there(link->source));
}

static bool pair_is_up(const Link *link)
{
        const Dataflow *dataflow = link->source->dataflow;

        for (uint32_t i = 0; i < dataflow->n_links; i++)
                if (dataflow->links[i].pair == link->pair && dataflow->links[i].named_in && dataflow->links[i].named_out)
                        return true;
        return false;
}

/* What both its ends have said decides; see protocol/node_msg.h. */
static void link_settle(Link *link)
{
        if (link->settled || link->source->resuming || link->target->resuming)
                return;
        if (link->target->away) { /* alive for all we know, and attached if its producer says so */
                if (link->target->stays && !link->named_out) {
                        link_detach(link, false);
                        link_set_state(link, LINK_DETACHED);
                }
                return;
        }
        link->settled = true;
        if (link->target->finished) { /* said again: the word may have died with who said it */
                link_detach(link, false);
        } else if (comes_again(link->target)) {
                link_detach(link, true);
                link_await(link);
        }
        if (link->state == LINK_CLOSED) {
                link_close(link, false); /* said again: it changes nothing for who heard it */
        } else if (link->state != LINK_DETACHED && link_holds(link)) {
                growth_tell_link(link); /* again, perhaps */
                link_is_up(link);
        } else {
                if (!link->pair->renewed && !pair_is_up(link))
                        link->pair->a_generation = link->pair->b_generation = 0; /* of no incarnation: introduced anew */
                link->pair->renewed = true;
                link_set_state(link, LINK_DETACHED);
                link_advance(link);
        }
}

static void on_resumed(Node *node, const NodeMsg *msg)
{
        if (!node->resuming || msg->resume.epoch != node->dataflow->supervisor->epoch)
                return;
        node->resuming = false;
        node->started = msg->resume.running;
        if (!node->mapped && (node->bell_fd < 0 || node->control_fd < 0)) { /* lost before it had mapped anything */
                if (regions_make(node)) {
                        node_give_up(node, "cannot be given shared memory");
                        return;
                }
                store_all(node);
        }
        if (!node->mapped) /* its setup was cut, or had not begun */
                send_setup(node);
        if (node->rung != NODE_RUNG_NONE)
                wiring_stop(node, node->ladder.kill);
        for (uint32_t i = 0; i < node->n_links; i++)
                link_settle(node->links[i]);
        growth_on_resumed(node);
        growth_on_read(node);
        dataflow_kick(node->dataflow);
}

/* ---- from the plan */

static Pair *pair_of(Dataflow *dataflow, uint32_t n_links, Node *source, Node *target)
{
        for (uint32_t i = 0; i < n_links; i++) {
                const Link *other = &dataflow->links[i];

                if (other->source == source && other->target == target)
                        return other->pair;
                if (other->source == target && other->target == source)
                        return other->pair;
        }
        dataflow->pairs[n_links].a = source;
        dataflow->pairs[n_links].b = target;
        return &dataflow->pairs[n_links];
}

/* Each node's own links, in the order of the dataflow's. */
static int index_links(Dataflow *dataflow)
{
        for (size_t k = 0; k < dataflow->plan->n_nodes; k++) {
                Node *node = &dataflow->nodes[k];
                uint32_t n = 0;

                for (uint32_t i = 0; i < dataflow->n_links; i++)
                        n += dataflow->links[i].source == node || dataflow->links[i].target == node;
                node->links = calloc(n + 1, sizeof(*node->links));
                if (!node->links)
                        return error_origin(-ENOMEM);
                for (uint32_t i = 0; i < dataflow->n_links; i++)
                        if (dataflow->links[i].source == node || dataflow->links[i].target == node)
                                node->links[node->n_links++] = &dataflow->links[i];
        }
        return 0;
}

int wiring_init(Dataflow *dataflow)
{
        uint32_t n = 0;

        for (size_t k = 0; k < dataflow->plan->n_nodes; k++)
                for (size_t i = 0; i < dataflow->plan->nodes[k].n_inputs; i++)
                        dataflow->n_links += !dataflow->plan->nodes[k].inputs[i].timer_ns;
        dataflow->links = calloc(dataflow->n_links + 1, sizeof(*dataflow->links));
        dataflow->pairs = calloc(dataflow->n_links + 1, sizeof(*dataflow->pairs));
        if (!dataflow->links || !dataflow->pairs)
                return error_origin(-ENOMEM);
        for (size_t k = 0; k < dataflow->plan->n_nodes; k++) {
                for (uint32_t i = 0; i < dataflow->plan->nodes[k].n_inputs; i++) {
                        const PlanInput *input = &dataflow->plan->nodes[k].inputs[i];

                        if (input->timer_ns)
                                continue;
                        dataflow->links[n] = (Link){.number = n + 1,
                                .source = &dataflow->nodes[input->source_node],
                                .target = &dataflow->nodes[k],
                                .output = input->source_output,
                                .input = i};
                        dataflow->links[n].pair = pair_of(dataflow, n, dataflow->links[n].source, dataflow->links[n].target);
                        n++;
                }
        }
        return index_links(dataflow);
}
