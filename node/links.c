/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attaching and detaching, at any time in life. A link or peer is named by a number and a generation; what is older
 * than what we know is answered, where an answer is due, and otherwise ignored. What is the same again is answered
 * again: a new supervisor repeats every step it has no answer to.
 *
 * Regions of other nodes are the other node's word: one that is not what was promised costs that link, never this
 * node's connection. Everything here runs under node->lock.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/doorbell.h"
#include "base/hot.h"
#include "node/node-internal.h"

#define PEER_BEFORE      1024u /* bytes for messages that it published before we began to read there, while an adoption took its time */

/* -------- peers -------- */

static Peer *peer_find(tg_node *node, uint32_t id)
{
        Peer *peer, *next;

        if (id == 0)
                return &node->self;
        list_for_each(peer, next, &node->peers, link)
                if (peer->id == id && peer->current)
                        return peer;
        return NULL;
}

Peer *peer_by_serial(tg_node *node, uint64_t serial)
{
        Peer *peer, *next;

        list_for_each(peer, next, &node->peers, link)
                if (peer->serial == serial)
                        return peer;
        return NULL;
}

/* Others have the doorbell too, so to close it is not enough. */
static void peer_ignore(tg_node *node, const Peer *peer)
{
        (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
        if (peer->heard_fd >= 0)
                (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, peer->heard_fd, NULL);
}

void peer_close_fds(Peer *peer)
{
        peer->fd = fd_close(peer->fd);
        peer->heard_fd = fd_close(peer->heard_fd);
        peer->rung_fd = fd_close(peer->rung_fd);
}

static void peer_free(tg_node *node, Peer *peer)
{
        list_unlink(&peer->link);
        if (node->epoll_fd >= 0)
                peer_ignore(node, peer);
        peer_close_fds(peer);
        region_unmap(&peer->bell_map);
        free(peer);
}

static void peer_release(tg_node *node, Peer *peer)
{
        if (peer != &node->self && peer->n_refs == 0 && (!peer->current || node->closed))
                peer_free(node, peer);
}

void peer_unref(tg_node *node, Peer *peer)
{
        peer->n_refs--;
        if (peer->n_refs == 0)
                rings_mute(node, peer);
        peer_release(node, peer);
}

/* Anything else could block us or never hang up. */
static bool is_stream_socket(int fd)
{
        int domain = 0, type = 0;
        socklen_t len = sizeof(int);

        return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
                getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
}

/* Asked at once, for the edge that says so may not have been taken yet. */
static bool has_hung_up(const Peer *peer)
{
        struct pollfd pfd = {.fd = peer->fd, .events = POLLRDHUP};

        return poll(&pfd, 1, 0) == 1;
}

/* The same again is ignored, unless nobody holds the other end of what we have: the supervisor died after it had told
 * one side, and the other end with it. */
int links_peer(tg_node *node, const NodeMsg *msg, int *fds)
{
        Peer *peer, *older = peer_find(node, msg->peer.peer);
        int r;

        if (older && older->generation > msg->peer.generation)
                return 0;
        if (older && older->generation == msg->peer.generation) {
                if (!older->gone && !has_hung_up(older))
                        return 0;
                if (!older->gone)
                        peer_gone(node, older);
        }
        if (!is_stream_socket(fds[1]))
                return error_origin(-EPROTO);
        peer = calloc(1, sizeof(*peer));
        if (!peer)
                return error_origin(-ENOMEM);
        *peer = (Peer){
                .serial = ++node->last_serial,
                .id = msg->peer.peer,
                .generation = msg->peer.generation,
                .fd = TAKE_FD(fds[1]),
                .heard_fd = TAKE_FD(fds[2]), /* -1, and so the next, if it brings none */
                .rung_fd = TAKE_FD(fds[3]),
                .n_reasons = PEER_BEFORE, /* it may know of a link, and ring, long before we are told of that; each LINK_IN gives back what that took */
                .current = true,
        };
        list_append(&node->peers, &peer->link);
        r = region_map_read(&peer->bell_map, fds[0], REGION_BELL, msg->peer.bell_size);
        if (r < 0)
                return error_fold(r);
        if (r == 0 && peer->bell_map.size == bell_size())
                bell_peer_init(&peer->bell, &peer->bell_map);
        else {
                peer->gone = true; /* it spoiled its bell: nothing is linked with it, see links_out() and links_in() */
                peer->heard_fd = fd_close(peer->heard_fd); /* nor is it heard, for nobody would judge how often it rings */
                peer->rung_fd = fd_close(peer->rung_fd);
        }
        r = rings_watch_peer(node, peer);
        if (r)
                return r;
        if (older) {
                older->current = false;
                peer_release(node, older);
        }
        return 0;
}

/* -------- our outputs -------- */

void output_count_peers(Output *output)
{
        OutLink *link, *next;

        output->n_peers = output->n_backpressure = 0;
        list_for_each(link, next, &output->links, link) {
                unsigned i = 0;

                output->n_backpressure += link->policy == RING_BACKPRESSURE;
                if (!link->peer)
                        continue;
                while (i < output->n_peers && output->peers[i] != link->peer)
                        i++;
                if (i == output->n_peers)
                        output->peers[output->n_peers++] = link->peer; /* room for all: see output_add() */
        }
}

static OutLink *out_link_find(tg_node *node, uint32_t id, Output **ret_output)
{
        OutLink *link, *next;

        for (unsigned i = 0; i < node->n_outputs; i++)
                list_for_each(link, next, &node->outputs[i].links, link)
                        if (link->id == id) {
                                *ret_output = &node->outputs[i];
                                return link;
                        }
        return NULL;
}

/* The link, but not what the writer knows of it. These three under output->lock too. */
static void out_link_free(Output *output, OutLink *link)
{
        Peer *peer = link->peer;

        list_unlink(&link->link);
        output_count_peers(output);
        region_unmap(&link->cursor);
        if (peer) {
                peer->n_reasons += rings_reasons(output, link);
                peer_unref(output->node, peer);
        }
        free(link);
}

/* The consumer is gone, or will not read any more. */
static void out_link_drop(Output *output, OutLink *link)
{
        (void)ring_writer_detach(output->writer, link->id);
        out_link_free(output, link);
}

/* The consumer is gone, and another one may take its place, which is kept. False: it had none, and was dropped. */
static bool out_link_keep(Output *output, OutLink *link)
{
        Peer *peer = TAKE_PTR(link->peer);

        if (link->policy != RING_BACKPRESSURE || ring_writer_orphan(output->writer, link->id)) {
                link->peer = peer;
                out_link_drop(output, link);
                return false;
        }
        output_count_peers(output);
        region_unmap(&link->cursor);
        if (peer) {
                peer->n_reasons += rings_reasons(output, link);
                peer_unref(output->node, peer);
        }
        return true;
}

/* Somebody who only shuts its doorbell, and lives, is followed by nobody: no verdict comes, and no place is kept. */
static void links_end_unsaid(tg_node *node)
{
        nsec_t now = clock_now();
        OutLink *link, *next;

        node->unsaid = false;
        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next, &output->links, link) {
                        if (link->peer || !link->unsaid_since)
                                continue;
                        if (now < nsec_add(MAX(link->unsaid_since, node->asked_at), NODE_MSG_VERDICT_NS)) {
                                node->unsaid = true;
                                continue;
                        }
                        (void)links_violation(node, link->id, link->generation, "its doorbell hung up, and nobody says that it has ended");
                        out_link_drop(output, link);
                }
                lock_give(&output->lock);
        }
}

void links_look_for_verdicts(tg_node *node)
{
        OutLink *link, *next;

        if (verdict_may_come(node)) {
                if (node->unsaid && node->fd >= 0)
                        links_end_unsaid(node);
                return;
        }
        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next, &output->links, link)
                        if (!link->peer)
                                out_link_drop(output, link);
                lock_give(&output->lock);
        }
}

static int output_add(Output *output, OutLink *link, uint32_t queue_size)
{
        RingLinkSpec spec = {
                .id = link->id,
                .queue_size = queue_size,
                .policy = link->policy,
                .lasting = link->policy == RING_BACKPRESSURE, /* until somebody has looked what follows: see outputs.c */
                .cursor = &link->cursor,
        };
        size_t n = 1;
        OutLink *it, *next;
        Peer **peers;
        int r;

        list_for_each(it, next, &output->links, link)
                n++;
        peers = realloc(output->peers, n * sizeof(*peers));
        if (!peers)
                return error_origin(-ENOMEM);
        output->peers = peers;
        r = rings_unmute(output->node, link->peer);
        if (r)
                return r;
        if (ring_writer_attach(output->writer, &spec))
                return error_origin(-EPROTO); /* a queue longer than the ring, or too many links: not for us to judge */
        link->first = ring_writer_head(output->writer) - MIN(ring_writer_head(output->writer), (uint64_t)queue_size);
        list_append(&output->links, &link->link);
        link->peer->n_refs++;
        output_count_peers(output);
        return 0;
}

static int ack(tg_node *node, NodeMsgType type, uint32_t link, uint32_t generation)
{
        return socket_answer(node, &(NodeMsg){.type = type, .ack = {.link = link, .generation = generation}});
}

int links_violation(tg_node *node, uint32_t link, uint32_t generation, const char *text)
{
        return socket_send(node, &(NodeMsg){
                .type = NODE_MSG_VIOLATION,
                .violation = {.link = link, .generation = generation, .text = text},
        });
}

/* Maps what another node wrote. 0, NODE_E_NOTHING when it spoiled it (reported), or a negative errno. */
int links_map_other(tg_node *node, Region *ret, int fd, RegionKind kind, uint64_t size, uint32_t link, uint32_t generation)
{
        char text[80];
        int r;

        r = region_map_read(ret, fd, kind, size);
        if (r <= 0)
                return r ? error_fold(r) : 0;
        (void)snprintf(text, sizeof(text), "its region %d does not have its %s", (int)kind,
                r == REGION_E_SEALS ? "seals" : r == REGION_E_SIZE ? "size" : "header");
        r = links_violation(node, link, generation, text);
        return r ? error_fold(r) : NODE_E_NOTHING;
}

/* The older consumer is gone: no new one starts before that. Its place passes from one to the other. */
static int output_replace(Output *output, OutLink *older, OutLink *link, uint32_t queue_size)
{
        int r;

        if (older && out_link_keep(output, older))
                out_link_free(output, older); /* the writer has the place, under the same id */
        r = output_add(output, link, queue_size);
        if (r)
                (void)ring_writer_detach(output->writer, link->id);
        return r;
}

/* The same attachment once more. What is said of a restart was said of the living, even if it is dead by now. Returns what there
 * is of the link. */
static OutLink *out_link_again(tg_node *node, Output *output, OutLink *link, const NodeMsg *msg)
{
        lock_take(&output->lock);
        link->restartable = msg->link_out.restartable;
        lock_give(&output->lock);
        if (!link->peer || link->peer == &node->self || !has_hung_up(link->peer))
                return link;
        peer_gone(node, link->peer); /* its edge was not taken yet; whoever takes it would end the link after our answer */
        return out_link_find(node, msg->link_out.link, &output);
}

int links_out(tg_node *node, const NodeMsg *msg, int *fds)
{
        uint32_t id = msg->link_out.link, generation = msg->link_out.generation;
        Peer *peer = peer_find(node, msg->link_out.peer);
        Output *output = NULL;
        OutLink *link, *older;
        int r;

        if (msg->link_out.output >= node->n_outputs || !peer)
                return error_origin(-EPROTO);
        link = out_link_find(node, id, &output);
        if (link && output != &node->outputs[msg->link_out.output])
                return error_origin(-EPROTO);
        if (link && link->generation > generation)
                return 0;
        if (link && link->generation == generation)
                link = out_link_again(node, output, link, msg);
        if ((link && link->generation == generation && link->peer) || peer->gone)
                return ack(node, NODE_MSG_LINK_OUT_ACK, id, generation); /* the dead need no room */

        older = link;
        link = calloc(1, sizeof(*link));
        if (!link)
                return error_origin(-ENOMEM);
        *link = (OutLink){.id = id, .generation = generation, .peer = peer, .restartable = msg->link_out.restartable};
        link->policy = msg->link_out.policy == NODE_QUEUE_BACKPRESSURE ? RING_BACKPRESSURE : RING_DROP_OLDEST;
        r = links_map_other(node, &link->cursor, fds[0], REGION_CURSOR, msg->link_out.cursor_size, id, generation);
        if (r == 0) {
                output = &node->outputs[msg->link_out.output];
                lock_take(&output->lock);
                r = output_replace(output, older, link, msg->link_out.queue_size);
                lock_give(&output->lock);
        }
        if (r) {
                region_unmap(&link->cursor);
                free(link);
                return r == NODE_E_NOTHING ? 0 : r;
        }
        return ack(node, NODE_MSG_LINK_OUT_ACK, id, generation);
}

int links_detach(tg_node *node, const NodeMsg *msg)
{
        uint32_t id = msg->detach.link, generation = msg->detach.generation;
        Output *output;
        OutLink *link = out_link_find(node, id, &output);

        if (link && link->generation > generation)
                return 0;
        if (link) {
                lock_take(&output->lock);
                if (msg->detach.restarting) {
                        if (out_link_keep(output, link))
                                link->unsaid_since = 0;
                } else
                        out_link_drop(output, link);
                lock_give(&output->lock);
        }
        return ack(node, NODE_MSG_DETACH_ACK, id, generation); /* unknown: its hang-up was quicker */
}

int links_await(tg_node *node, const NodeMsg *msg)
{
        Output *output;
        OutLink *link;
        RingLinkSpec spec = {
                .id = msg->await.link,
                .queue_size = msg->await.queue_size,
                .policy = RING_BACKPRESSURE,
        };
        int r;

        if (msg->await.output >= node->n_outputs)
                return error_origin(-EPROTO);
        if (out_link_find(node, msg->await.link, &output))
                return 0; /* somebody is there, or has a place already */
        link = calloc(1, sizeof(*link));
        if (!link)
                return error_origin(-ENOMEM);
        *link = (OutLink){.id = spec.id, .generation = msg->await.generation, .policy = spec.policy, .restartable = true};
        output = &node->outputs[msg->await.output];
        lock_take(&output->lock);
        r = ring_writer_attach(output->writer, &spec);
        if (r == 0) {
                list_append(&output->links, &link->link);
                output_count_peers(output);
        } else
                free(link);
        lock_give(&output->lock);
        return r ? error_origin(-EPROTO) : 0; /* as in output_add() */
}

/* -------- our inputs -------- */

HOT Source *source_unref(tg_node *node, Source *source)
{
        if (--source->n_refs > 0)
                return NULL;
        list_unlink(&source->link);
        if (source->reader.ring)
                source->peer->n_reasons += ring_reader_n_published(&source->reader) + 2;
        region_unmap(&source->ring);
        region_unmap(&source->pool);
        for (unsigned i = 0; i < ELEMENTSOF(source->grown); i++)
                region_unmap(&source->grown[i]);
        peer_unref(node, source->peer);
        free(source);
        return NULL;
}

/* The input lets go of a source that was read to its end, or will not be. Events may still point into it. */
void input_retire(tg_node *node, Input *input, Source **source)
{
        Source *s = *source;
        bool ring = false;

        if (!s)
                return;
        node->usual = NULL;
        ring_reader_stop(&s->reader, &ring); /* gates nobody; claims of events that are still held stay */
        if (ring)
                peer_send(node, s->peer);
        input_count(input, &s->reader);
        *source = source_unref(node, s);
}

/* A dead producer's ring is read on without the cursor, which its successor is to see free of the past. */
static void source_part_from_cursor(Source *source)
{
        struct cursor_shared *shared = source->reader.cursor;

        source->reader.cursor = &source->scratch;
        __atomic_store_n(&shared->state, CURSOR_INACTIVE, __ATOMIC_SEQ_CST);
        for (unsigned k = 0; k < CURSOR_N_CLAIMS; k++)
                __atomic_store_n(&shared->claim[k], 0, __ATOMIC_SEQ_CST); /* as every store of a claim */
}

/* Makes place for a new source: the present one becomes the old one, which is read first. */
static void input_make_way(tg_node *node, Input *input)
{
        Source *it, *next;
        bool ring;

        if (input->now && input->old) { /* at most one old set is held */
                (void)ring_reader_discard(&input->old->reader, DROP_RESTARTED, &ring);
                input_retire(node, input, &input->old);
        }
        list_for_each(it, next, &node->sources, link) /* those too that only events still hold */
                if (it->input == input && it->reader.cursor == input->cursor.map)
                        source_part_from_cursor(it);
        if (!input->now)
                return;
        ring_reader_drain(&input->now->reader);
        input->old = TAKE_PTR(input->now);
}

static int source_map(tg_node *node, Source *source, const NodeMsg *msg, int *fds)
{
        Input *input = source->input;
        int r;

        r = links_map_other(node, &source->ring, fds[0], REGION_RING, msg->link_in.ring_size, msg->link_in.link,
                msg->link_in.generation);
        if (r == 0)
                r = links_map_other(node, &source->pool, fds[1], REGION_POOL, msg->link_in.pool_size, msg->link_in.link,
                        msg->link_in.generation);
        if (r)
                return r;
        if (msg->link_in.ring_size != ring_size(msg->link_in.n_slots) ||
            ring_reader_init(&source->reader, &source->ring, &input->cursor, msg->link_in.link, input->queue_size,
                    input->policy) ||
            ring_reader_add_segment(&source->reader, 0, &source->pool))
                return error_origin(-EPROTO);
        ring_reader_set_probe_mask(&source->reader, control_probe_mask(&node->control));
        return grow_attach(input, source, msg->link_in.generation);
}

/* At the head, or in place of a dead consumer: what is not there any more from its position on, the reader counts. */
static int source_start(Source *source, uint64_t start_at)
{
        int r;

        r = start_at == NODE_START_AT_HEAD ? ring_reader_start(&source->reader)
                                           : ring_reader_start_at(&source->reader, start_at);
        if (r == 0) {
                ring_reader_name(&source->reader, source->input->generation);
                if (ring_reader_must_ring(&source->reader))
                        peer_send(source->input->node, source->peer);
        }
        if (source->peer->gone || source->input->node->stopping)
                ring_reader_drain(&source->reader);
        return r;
}

static void input_open_again(Input *input)
{
        if (input->closed)
                input->node->n_open_in++;
        input->closed = input->closing = false; /* said_closed stays: the first message says "recovered" */
}

Input *input_by_link(tg_node *node, uint32_t link)
{
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (node->inputs[i].link == link)
                        return &node->inputs[i];
        return NULL;
}

int links_in(tg_node *node, const NodeMsg *msg, int *fds)
{
        uint32_t generation = msg->link_in.generation;
        Input *input = input_by_link(node, msg->link_in.link);
        Peer *peer = peer_find(node, msg->link_in.peer);
        Source *source;
        int r;

        if (!input || input != &node->inputs[msg->link_in.input] || !peer)
                return error_origin(-EPROTO);
        if (input->attached && generation < input->generation)
                return 0;
        if (input->attached && generation == input->generation)
                return ack(node, NODE_MSG_LINK_IN_ACK, input->link, generation);
        r = rings_unmute(node, peer);
        if (r)
                return r;
        source = calloc(1, sizeof(*source));
        if (!source)
                return error_origin(-ENOMEM);
        *source = (Source){.input = input, .peer = peer, .n_refs = 1};
        list_init(&source->link);
        peer->n_refs++;
        r = source_map(node, source, msg, fds);
        if (r) {
                (void)source_unref(node, source);
                return r == NODE_E_NOTHING ? 0 : r;
        }
        input_make_way(node, input);
        input_open_again(input);
        input->now = source;
        list_append(&node->sources, &source->link);
        input->attached = true;
        input->generation = generation;
        (void)source_start(source, msg->link_in.start_at); /* a violation: the first take says so and reports it */
        peer->n_reasons += MIN(source->reader.start, PEER_BEFORE);
        return ack(node, NODE_MSG_LINK_IN_ACK, input->link, generation);
}

void links_closed(tg_node *node, uint32_t link, uint32_t generation, bool restarting)
{
        Input *input = input_by_link(node, link);

        if (!input || generation < input->generation)
                return;
        if (input->now)
                ring_reader_drain(&input->now->reader);
        input->closing = !restarting;
}

/* -------- what there is -------- */

int links_report(tg_node *node)
{
        OutLink *link, *next;
        int r = 0;

        for (unsigned i = 0; i < node->n_outputs && r == 0; i++)
                list_for_each(link, next, &node->outputs[i].links, link)
                        if (r == 0 && link->peer)
                                r = ack(node, NODE_MSG_LINK_OUT_ACK, link->id, link->generation);
        for (unsigned i = 0; i < node->n_inputs && r == 0; i++)
                if (node->inputs[i].attached && !node->inputs[i].closed)
                        r = ack(node, NODE_MSG_LINK_IN_ACK, node->inputs[i].link, node->inputs[i].generation);
        if (r == 0 && node->turned && node->trial.in_vain)
                r = socket_answer(node, &(NodeMsg){.type = NODE_MSG_TURNED});
        return r;
}

/* -------- the end of a peer -------- */

void peer_gone(tg_node *node, Peer *peer)
{
        bool keep = verdict_may_come(node);
        OutLink *link, *next;

        peer->gone = true;
        peer_ignore(node, peer);
        rings_peer_gone(node);
        peer->n_refs++; /* until we are through */
        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next, &output->links, link) {
                        if (link->peer != peer)
                                continue;
                        if (keep && link->restartable) {
                                if (out_link_keep(output, link)) {
                                        link->unsaid_since = clock_now();
                                        node->unsaid = true;
                                }
                        } else
                                out_link_drop(output, link);
                }
                lock_give(&output->lock);
        }
        for (unsigned i = 0; i < node->n_inputs; i++) {
                Input *input = &node->inputs[i];

                if (input->now && input->now->peer == peer)
                        ring_reader_drain(&input->now->reader);
        }
        peer_unref(node, peer);
}

/* At the node's end. Sources that events point into, and their peers, live on. */
void node_drop_links(tg_node *node)
{
        OutLink *link, *next_link;
        Peer *peer, *next;

        for (unsigned i = 0; i < node->n_outputs; i++) {
                Output *output = &node->outputs[i];

                lock_take(&output->lock);
                list_for_each(link, next_link, &output->links, link)
                        out_link_drop(output, link);
                lock_give(&output->lock);
        }
        for (unsigned i = 0; i < node->n_inputs; i++) {
                input_retire(node, &node->inputs[i], &node->inputs[i].old);
                input_retire(node, &node->inputs[i], &node->inputs[i].now);
        }
        list_for_each(peer, next, &node->peers, link)
                peer_release(node, peer);
}
