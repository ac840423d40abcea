/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket to the supervisor: packets in, checked and given to who acts on them; packets out, kept while the socket
 * has no room. Nothing here blocks. While an answer waits for room nothing more is read, so that what is kept stays
 * bounded by what one message can ask for.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/hot.h"
#include "base/receive.h"
#include "node/node-internal.h"

#define MAX_PACKETS 4096u /* answers and CLOSE_OUTPUTs kept; more means that nobody ever reads */
#define MAX_HEARD   256u  /* other nodes that we remember to have heard of; of further ones repeats are told too */

static void set_refusal(tg_node *node, const char *text)
{
        free(node->refusal);
        node->refusal = strdup(text); /* NULL: the text is lost, the outcome is not */
}

static int on_setup_end(tg_node *node, const NodeMsg *msg, int *fds)
{
        return setup_end(node);
}

static int on_start(tg_node *node, const NodeMsg *msg, int *fds)
{
        setup_start(node);
        return 0;
}

static int on_stop(tg_node *node, const NodeMsg *msg, int *fds)
{
        if (node->state != NODE_RUNNING) {
                set_refusal(node, "stopped before it began");
                return -ECANCELED;
        }
        /* The page says the same, unless whoever sends this has lost it. Told again: the earlier deadline holds. */
        if (msg->stop.deadline_ns && msg->stop.deadline_ns < node->stop_by)
                __atomic_store_n(&node->stop_by, msg->stop.deadline_ns, __ATOMIC_RELAXED);
        __atomic_store_n(&node->told_to_stop, 1, __ATOMIC_RELEASE); /* whoever sees it sees the deadline */
        event_queue_stop(node, "MANUAL");
        return 0;
}

static int on_detach(tg_node *node, const NodeMsg *msg, int *fds)
{
        return links_detach(node, msg);
}

static int on_await(tg_node *node, const NodeMsg *msg, int *fds)
{
        return links_await(node, msg);
}

static int on_link_closed(tg_node *node, const NodeMsg *msg, int *fds)
{
        links_closed(node, msg->link_closed.link, msg->link_closed.generation, msg->link_closed.restarting);
        return 0;
}

static Heard *heard_find(tg_node *node, const char *id)
{
        Heard *it, *next;
        size_t len = strlen(id);

        list_for_each(it, next, &node->heard, link)
                if (strcmp(it->id, id) == 0)
                        return it;
        it = node->n_heard < MAX_HEARD ? calloc(1, sizeof(*it) + len + 1) : NULL;
        if (!it)
                return NULL;
        memcpy(it->id, id, len + 1);
        list_append(&node->heard, &it->link);
        node->n_heard++;
        return it;
}

/* A new supervisor may not know what its predecessor has said. Once per incarnation and kind is what the program is told. */
static int on_node_event(tg_node *node, const NodeMsg *msg, int *fds)
{
        bool failed = msg->type == NODE_MSG_NODE_FAILED;
        uint64_t generation = msg->node_event.generation;
        Heard *heard = generation ? heard_find(node, msg->node_event.node) : NULL;
        uint64_t *newest = heard ? failed ? &heard->failed : &heard->restarted : NULL;
        int r;

        if (newest && generation <= *newest)
                return 0;
        r = event_queue(node, failed ? TG_EVENT_NODE_FAILED : TG_EVENT_NODE_RESTARTED, msg->node_event.node,
                failed ? msg->node_event.text : NULL);
        if (r == 0 && newest)
                *newest = generation;
        return r;
}

static int on_abort(tg_node *node, const NodeMsg *msg, int *fds)
{
        if (node->state == NODE_RUNNING) { /* it came by name, and is not wanted there */
                socket_fail(node, msg->abort.text);
                return 0;
        }
        set_refusal(node, msg->abort.text);
        return -ECANCELED;
}

/* Tells a new supervisor what is true. Bounded by what there is: nothing more is read before all of it was sent. */
static int on_resume(tg_node *node, const NodeMsg *msg, int *fds)
{
        int r;

        node->asked_at = clock_now(); /* what it has to say of the dead it says from now on */
        r = join_hello(node);
        if (r == 0 && node->state >= NODE_READY)
                r = socket_answer(node, &(NodeMsg){.type = NODE_MSG_MAPPED});
        if (r == 0)
                r = links_report(node);
        if (r == 0)
                r = grow_report(node);
        for (unsigned i = 0; i < node->n_outputs && r == 0; i++)
                if (node->outputs[i].closed)
                        r = socket_answer(node, &(NodeMsg){.type = NODE_MSG_CLOSE_OUTPUT, .close_output = {.output = i}});
        if (r == 0)
                r = socket_answer(node, &(NodeMsg){
                        .type = NODE_MSG_RESUMED,
                        .resume = {.epoch = msg->resume.epoch, .running = node->state == NODE_RUNNING},
                });
        return r ? r : grow_ask_again(node);
}

#define IN(state)     (1u << (state))
#define WITH_LINKS    (IN(NODE_READY) | IN(NODE_RUNNING))
#define WELCOMED      (IN(NODE_SETTING_UP) | WITH_LINKS)
#define ALWAYS        (IN(NODE_GREETING) | WELCOMED)

/* What may come when: each for the first time or again. What is not listed is what only nodes say: -EPROTO. */
static const struct {
        unsigned states;
        int (*act)(tg_node *node, const NodeMsg *msg, int *fds);
} handlers[] = {
        [NODE_MSG_WELCOME] = {ALWAYS, setup_welcome},
        [NODE_MSG_OUTPUT] = {WELCOMED, setup_output},
        [NODE_MSG_INPUT] = {WELCOMED, setup_input},
        [NODE_MSG_SETUP_END] = {WELCOMED, on_setup_end},
        [NODE_MSG_PEER] = {WITH_LINKS, links_peer},
        [NODE_MSG_LINK_OUT] = {WITH_LINKS, links_out},
        [NODE_MSG_LINK_IN] = {WITH_LINKS, links_in},
        [NODE_MSG_START] = {WITH_LINKS, on_start},
        [NODE_MSG_STOP] = {ALWAYS, on_stop},
        [NODE_MSG_DETACH] = {WITH_LINKS, on_detach},
        [NODE_MSG_LINK_CLOSED] = {WITH_LINKS, on_link_closed},
        [NODE_MSG_NODE_FAILED] = {WITH_LINKS, on_node_event},
        [NODE_MSG_NODE_RESTARTED] = {WITH_LINKS, on_node_event},
        [NODE_MSG_ABORT] = {ALWAYS, on_abort},
        [NODE_MSG_RESUME] = {ALWAYS, on_resume},
        [NODE_MSG_AWAIT] = {WITH_LINKS, on_await},
        [NODE_MSG_SEGMENT] = {WITH_LINKS, grow_segment},
        [NODE_MSG_SEGMENT_READY] = {WITH_LINKS, grow_ready},
        [NODE_MSG_GROW_REFUSED] = {WITH_LINKS, grow_refused},
        [NODE_MSG_LINK_SEGMENT] = {WITH_LINKS, grow_link},
};

static int dispatch(tg_node *node, size_t size, int fds[NODE_MSG_MAX_FDS], int n_fds, bool lost_fds)
{
        NodeMsg msg;
        int r;

        r = node_msg_decode(&msg, node->packet, size);
        if (r)
                return error_origin(r);
        if ((size_t)msg.type >= ELEMENTSOF(handlers) || !(handlers[msg.type].states & IN(node->state)))
                return error_origin(-EPROTO);
        if (n_fds < node_msg_n_fds(&msg) && lost_fds)
                return error_origin(-EMFILE); /* the kernel found no number for it here */
        if (n_fds != node_msg_n_fds(&msg) || lost_fds)
                return error_origin(-EPROTO);
        return handlers[msg.type].act(node, &msg, fds);
}

/* All descriptors of one packet, whatever else is wrong with it: what is not taken out here stays open for ever. */
static int collect_fds(struct msghdr *mh, int fds[NODE_MSG_MAX_FDS])
{
        int n = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
                size_t n_here;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n_here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n_here; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (n < NODE_MSG_MAX_FDS)
                                fds[n++] = fd;
                        else
                                (void)fd_close(fd);
                }
        }
        return n;
}

/* One packet. NODE_E_NOTHING: none is there. -ENOTCONN: nobody is at the other end any more. */
static int read_one(tg_node *node)
{
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(NODE_MSG_MAX_FDS * sizeof(int))];
        } control;
        struct iovec iov = {.iov_base = node->packet, .iov_len = sizeof(node->packet)};
        struct msghdr mh = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control),
        };
        int fds[NODE_MSG_MAX_FDS] = {-1, -1, -1, -1}, n_fds, r;
        ssize_t n;

        n = receive_message(node->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? NODE_E_NOTHING : -ENOTCONN;
        n_fds = collect_fds(&mh, fds);
        if (n == 0)
                r = -ENOTCONN;
        else if (mh.msg_flags & MSG_TRUNC)
                r = error_origin(-EPROTO);
        else
                r = dispatch(node, (size_t)n, fds, n_fds, mh.msg_flags & MSG_CTRUNC);
        if (r == 0 && node->fd >= 0) { /* somebody is there who knows us, and was not lost while we answered */
                node->join_span = JOIN_SPAN_MIN;
                node->verdict_by = NSEC_NEVER;
        }
        for (int i = 0; i < NODE_MSG_MAX_FDS; i++)
                (void)fd_close(fds[i]); /* mapped, taken (-1 then), or not wanted */
        return r;
}

int socket_read(tg_node *node)
{
        int r = 0;

        node->usual = NULL;
        if (node->control.map)
                __atomic_store_n(&node->control_seen, control_epoch(&node->control), __ATOMIC_RELAXED); /* before reading */
        __atomic_store_n(&node->glanced_at, clock_now(), __ATOMIC_RELAXED); /* senders look at both without the lock */
        socket_flush(node);
        while (node->fd >= 0 && list_empty(&node->packets) && r == 0)
                r = read_one(node);
        if (r == 0 || r == NODE_E_NOTHING)
                return 0;
        if (r == -ENOTCONN) {
                socket_lost(node);
                return 0;
        }
        if (node->state != NODE_RUNNING)
                return error_fold(r);
        socket_fail(node, r == -EPROTO ? "the supervisor broke the protocol" : strerrordesc_np(-r));
        return 0;
}

HOT bool socket_worth_a_glance(tg_node *node, nsec_t now)
{
        return control_epoch(&node->control) != __atomic_load_n(&node->control_seen, __ATOMIC_RELAXED) ||
                now - __atomic_load_n(&node->glanced_at, __ATOMIC_RELAXED) > NODE_GLANCE_NS;
}

static nsec_t clock_coarse(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
        return (nsec_t)ts.tv_sec * NSEC_PER_SEC + (nsec_t)ts.tv_nsec;
}

HOT bool socket_glance_is_due(tg_node *node)
{
        return socket_worth_a_glance(node, MAX(clock_coarse(), node->glanced_at));
}

HOT void socket_glance(tg_node *node)
{
        nsec_t now = MAX(clock_coarse(), node->glanced_at); /* coarse time lags the clock that was read then */

        if (control_epoch(&node->control) != node->control_seen) {
                (void)socket_read(node); /* running: trouble became an event */
        } else if (now - node->glanced_at > NODE_GLANCE_NS) {
                __atomic_store_n(&node->glanced_at, now, __ATOMIC_RELAXED);
                if (now - node->bell.counters.cpu_at > NODE_CPU_SPAN) {
                        node->bell.counters.cpu_ns = clock_process();
                        node->bell.counters.cpu_at = now;
                        node->bell.counters.n_taken = node->n_taken;
                        bell_tell(&node->bell);
                }
                node_look_around(node); /* the socket, and peers that hung up */
        }
        if (!node->stop_queued && control_stopping(&node->control))
                event_queue_stop(node, "MANUAL"); /* the word on the page is enough if the packet never comes */
}

void socket_flush(tg_node *node)
{
        Packet *packet;

        while (node->fd >= 0 && (packet = list_first(&node->packets, Packet, link))) {
                ssize_t n = send(node->fd, packet->bytes, packet->size, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
                        return;
                if (n < 0) {
                        socket_lost(node);
                        return;
                }
                list_unlink(&packet->link);
                node->n_packets--;
                free(packet);
        }
}

static int packet_send(tg_node *node, const NodeMsg *msg, unsigned max_packets)
{
        uint8_t bytes[NODE_MSG_MAX];
        Packet *packet;
        int n;

        if (node->fd < 0)
                return 0; /* nobody is left to be told */
        n = node_msg_encode(msg, bytes, sizeof(bytes));
        if (n < 0)
                return error_origin(n);
        if (node->n_packets >= max_packets)
                return error_origin(-ENOBUFS);
        packet = malloc(sizeof(*packet) + (size_t)n);
        if (!packet)
                return error_origin(-ENOMEM);
        packet->size = (size_t)n;
        memcpy(packet->bytes, bytes, (size_t)n);
        list_append(&node->packets, &packet->link);
        node->n_packets++;
        socket_flush(node);
        return 0;
}

int socket_send(tg_node *node, const NodeMsg *msg)
{
        return packet_send(node, msg, MAX_PACKETS);
}

int socket_answer(tg_node *node, const NodeMsg *msg)
{
        return packet_send(node, msg, UINT_MAX);
}

void socket_lost(tg_node *node)
{
        Packet *packet, *next;

        node->usual = NULL;
        list_for_each(packet, next, &node->packets, link)
                free(packet);
        list_init(&node->packets);
        node->n_packets = 0;
        if (node->fd >= 0) /* not by closing alone: a process we forked may hold a copy, and epoll would go on */
                (void)epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, node->fd, NULL);
        node->fd = fd_close(node->fd);
        if (node->verdict_by == NSEC_NEVER) /* not anew for each who accepts and says nothing */
                node->verdict_by = nsec_add(clock_now(), NODE_MSG_VERDICT_NS);
        join_later(node);
}

void socket_fail(tg_node *node, const char *text)
{
        socket_lost(node);
        free(node->socket_path);
        node->socket_path = NULL;
        (void)event_queue(node, TG_EVENT_ERROR, NULL, text); /* no memory for the news: then as if it had gone */
}
