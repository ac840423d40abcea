/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/named.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/enforcer.h"
#include "base/error.h"
#include "base/log.h"
#include "base/place.h"
#include "base/uuid.h"
#include "supervisor/packet.h"
#include "supervisor/peer.h"
#include "supervisor/wiring.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define NAMED_ACCEPTS_PER_TURN 16
#define NAMED_MAX_WAITING      256 /* connections that have not said who they are */
#define NAMED_HELLO_SPAN       (5 * NSEC_PER_SEC)
#define NAMED_PAUSE_SPAN       (100 * NSEC_PER_MSEC) /* out of descriptors: the listener rests */

typedef struct Guest {
        ListLink link;
        Named *named;
        int fd;
        Source source;
        Timer timer;
} Guest;

struct Named {
        Supervisor *supervisor;
        int listen_fd;
        Source source;
        Timer pause;
        List guests;
        unsigned n_guests;
};

static void guest_free(Guest *guest)
{
        list_unlink(&guest->link);
        guest->named->n_guests--;
        timer_disarm(&guest->timer);
        source_remove(&guest->source);
        (void)fd_close(guest->fd); /* accepted from a socket of ours */
        free(guest);
}

__attribute__((format(printf, 2, 3))) static void guest_refuse(Guest *guest, const char *format, ...)
{
        char text[512], buffer[NODE_MSG_MAX];
        NodeMsg msg = {.type = NODE_MSG_ABORT, .abort = {.text = text}};
        va_list ap;
        int n;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        n = node_msg_encode(&msg, buffer, sizeof(buffer));
        if (n > 0)
                (void)packet_send(guest->fd, buffer, (size_t)n, NULL, 0); /* who does not read it sees the end */
        guest_free(guest);
}

/* ---- who is at the other end */

/* Of the process that connected, so that its number cannot be another's meanwhile. */
static int peer_pidfd(int fd, struct ucred *ret)
{
        socklen_t size = sizeof(*ret);
        int pidfd = -1;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &size) < 0)
                return -errno;
        size = sizeof(pidfd);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
                return pidfd;
        pidfd = (int)syscall(SYS_pidfd_open, ret->pid, 0);
        return pidfd < 0 ? -errno : pidfd;
}

static bool pidfd_alive(int pidfd)
{
        return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0;
}

/*
 * Is @path, as procfs has it, the cgroup of this incarnation or one below? Who may make cgroups somewhere can name them as ours are named,
 * so all of the path counts: up to the instance it is the end of the instance's own, which begins with a mount point.
 */
static bool path_is_incarnation(const char *path, const Node *node)
{
        const Supervisor *supervisor = node->dataflow->supervisor;
        char wanted[UUID_TEXT_LENGTH + NODE_MSG_ID_MAX + 64];
        size_t whole = strlen(supervisor->cgroup), upto;
        const char *at;
        int n;

        n = snprintf(wanted, sizeof(wanted), "/%s/%s.%llu", node->dataflow->uuid_text, node->plan->id, (unsigned long long)node->generation);
        at = n > 0 && (size_t)n < sizeof(wanted) ? strstr(path, wanted) : NULL;
        upto = at ? (size_t)(at - path) : 0;
        return upto > 0 && upto <= whole && memcmp(supervisor->cgroup + whole - upto, path, upto) == 0 && (at[n] == '\0' || at[n] == '/');
}

/* Without a cgroup: does it descend from the incarnation's reaper? */
static bool descends_from_reaper(pid_t pid, const Node *node)
{
        char path[PATH_MAX + 256];
        _cleanup_fd_ int fd = -1;

        (void)snprintf(path, sizeof(path), "%s/%s/%s.%llu", node->dataflow->supervisor->cgroup, node->dataflow->uuid_text, node->plan->id,
                (unsigned long long)node->generation);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW); /* ours alone, and in memory */
        return fd >= 0 && place_has(fd, pid) == 1;
}

/* Is the process in the incarnation's cgroup, or below? procfs answers from memory. */
static bool peer_is_incarnation(int fd, const Node *node)
{
        char path[64], text[8192];
        _cleanup_fd_ int pidfd = -1, file = -1;
        struct ucred peer;
        char *at;
        ssize_t n;

        pidfd = peer_pidfd(fd, &peer);
        if (!enforcer_has_cgroup(enforcer_of_name(node->dataflow->supervisor->cgroup)))
                return pidfd >= 0 && descends_from_reaper(peer.pid, node) && pidfd_alive(pidfd);
        (void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)peer.pid);
        file = pidfd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        n = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
        if (n <= 0 || !pidfd_alive(pidfd)) /* alive after the look: it was of this process */
                return false;
        text[n] = '\0';
        at = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/");
        if (!at)
                return false;
        at += *at == '\n' ? 4 : 3;
        at[strcspn(at, "\n")] = '\0';
        return path_is_incarnation(at, node);
}

/* ---- what it asks for */

static Node *find_node(const Dataflow *dataflow, const char *id)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (strcmp(dataflow->plan->nodes[i].id, id) == 0)
                        return &dataflow->nodes[i];
        return NULL;
}

static bool names(const Dataflow *dataflow, const char *name)
{
        return !name || !name[0] || strcmp(dataflow->plan->name, name) == 0 || strcmp(dataflow->uuid_text, name) == 0;
}

static uid_t peer_uid(int fd)
{
        struct ucred peer = {.uid = (uid_t)-1};
        socklen_t size = sizeof(peer);

        (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size); /* fails: nobody's */
        return peer.uid;
}

static bool may_be(const Dataflow *dataflow, uid_t uid)
{
        return uid == 0 || uid == dataflow->options.uid;
}

static bool has_identity(const NodeMsg *msg)
{
        static const uint8_t none[UUID_SIZE];

        return memcmp(msg->hello.uuid, none, sizeof(none)) != 0 && msg->hello.generation > 0;
}

/* Its socket died before it was told who it is: then its cgroup says it. */
static Node *find_nameless(const Guest *guest)
{
        Dataflow *it, *next;

        list_for_each(it, next, &guest->named->supervisor->dataflows, link) {
                if (it->state == DATAFLOW_ENDED)
                        continue;
                for (size_t i = 0; i < it->plan->n_nodes; i++) {
                        Node *node = &it->nodes[i];

                        if (node->sock < 0 && node->state == NODE_STARTING && (node->plan->kind == PLAN_KIND_NODE || node->captured) &&
                                peer_is_incarnation(guest->fd, node))
                                return node;
                }
        }
        return NULL;
}

static Node *find_returning(const Guest *guest, const NodeMsg *msg)
{
        Dataflow *it, *next;

        list_for_each(it, next, &guest->named->supervisor->dataflows, link) {
                Node *node = it->state != DATAFLOW_ENDED && memcmp(it->uuid, msg->hello.uuid, UUID_SIZE) == 0 ? find_node(it, msg->hello.node) : NULL;

                if (node && node->generation == msg->hello.generation)
                        return node;
        }
        return NULL;
}

/* It was a node before its supervisor and guard died. */
static void guest_comes_back(Guest *guest, const NodeMsg *msg)
{
        struct guard_item item = {.kind = GUARD_ITEM_SOCKET};
        Node *node = has_identity(msg) ? find_returning(guest, msg) : find_nameless(guest);

        if (!node || node->plan->kind == PLAN_KIND_PROGRAM || node->exited || node_is_final(node)) {
                guest_refuse(guest, "%s is not a node of a dataflow that runs here", msg->hello.node);
                return;
        }
        if (node_is_loose(node) ? !may_be(node->dataflow, peer_uid(guest->fd)) : !peer_is_incarnation(guest->fd, node)) {
                guest_refuse(guest, "%s: this process is not the one that was started as that node", msg->hello.node);
                return;
        }
        if (node->sock >= 0) {
                guest_refuse(guest, "%s is connected already", msg->hello.node);
                return;
        }
        if (node->dataflow->adopting) { /* it asks again, when it is known what is there */
                guest_free(guest);
                return;
        }
        source_remove(&guest->source);
        timer_disarm(&node->hung_up);
        node->connected = true;
        wiring_take(node, &item, TAKE_FD(guest->fd));
        guard_store_order(node, &item, &node->sock, 1);
        log_line("node %s of %s has come back by name", node->plan->id, node->dataflow->plan->name);
        wiring_resume(node);
        guest_free(guest);
}

/* One that was captured, and hung up before it had made its part of the handshake: it is still who it was. */
static bool comes_again(const Guest *guest, const Node *node)
{
        return node->spawned && !node->mapped && peer_is_incarnation(guest->fd, node);
}

/* One that is captured is moved before it hears anything. */
static void guest_takes_place(Guest *guest, Node *node, const NodeMsg *msg)
{
        _cleanup_fd_ int pidfd = -1;
        int r;

        if (node->plan->capture && !node->captured) {
                pidfd = peer_process(guest->fd);
                if (pidfd < 0) {
                        guest_refuse(guest, "%s cannot be captured: %s", node->plan->id,
                                pidfd == -EOPNOTSUPP ? "this kernel does not say which process has connected (SO_PEERPIDFD, Linux 6.5)"
                                : pidfd == -ESRCH    ? "the process that connected has ended"
                                                     : error_text(pidfd));
                        return;
                }
        }
        source_remove(&guest->source);
        node->connected = false;
        r = pidfd >= 0 ? wiring_capture(node, TAKE_FD(guest->fd), pidfd) : wiring_connect(node, TAKE_FD(guest->fd), msg);
        if (r)
                log_line("dynamic node %s of %s cannot be served: no memory or descriptors", node->plan->id, node->dataflow->plan->name);
        guest_free(guest);
}

/* A process that somebody started by hand. What its uid may not see does not exist. */
static void guest_joins(Guest *guest, const NodeMsg *msg)
{
        Supervisor *supervisor = guest->named->supervisor;
        uid_t uid = peer_uid(guest->fd);
        Dataflow *it, *next;
        Node *node = NULL;
        unsigned n = 0;

        list_for_each(it, next, &supervisor->dataflows, link) {
                Node *found = it->state < DATAFLOW_STOPPING && may_be(it, uid) && names(it, msg->hello.dataflow) ? find_node(it, msg->hello.node) : NULL;

                if (found && node_is_dynamic(found)) {
                        node = found;
                        n++;
                }
        }
        if (n == 0) {
                guest_refuse(guest, "no dataflow that runs here has a dynamic node \"%s\"", msg->hello.node);
        } else if (n > 1) {
                guest_refuse(guest, "several dataflows have a dynamic node \"%s\": name one", msg->hello.node);
        } else if (node->sock >= 0) {
                guest_refuse(guest, "%s is connected already", msg->hello.node);
        } else if (node->captured && !node->empty && !comes_again(guest, node)) {
                guest_refuse(guest, "the place of %s is taken: the process that was captured has not ended", msg->hello.node);
        } else if (node->state != NODE_STARTING || node->dataflow->adopting) {
                guest_refuse(guest, "%s cannot be connected just now: try again", msg->hello.node);
        } else {
                guest_takes_place(guest, node, msg);
        }
}

static int on_guest(Source *source, uint32_t revents)
{
        Guest *guest = container_of(source, Guest, source);
        char buffer[NODE_MSG_MAX];
        size_t size = 0;
        NodeMsg msg;
        int r = packet_recv(guest->fd, buffer, sizeof(buffer), &size, NULL, 0, NULL);

        (void)revents;
        if (r == PACKET_E_AGAIN)
                return 0;
        if (r || node_msg_decode(&msg, buffer, size) || msg.type != NODE_MSG_HELLO)
                guest_free(guest);
        else if (msg.hello.version != NODE_MSG_VERSION)
                guest_refuse(guest, "speaks version %u of the node protocol (%s), and tidegated version %u", msg.hello.version, msg.hello.library,
                        NODE_MSG_VERSION);
        else if (has_identity(&msg) || !msg.hello.node || !msg.hello.node[0])
                guest_comes_back(guest, &msg);
        else
                guest_joins(guest, &msg);
        return 0;
}

static int on_guest_late(Timer *timer, nsec_t now)
{
        (void)now;
        guest_free(container_of(timer, Guest, timer));
        return 0;
}

/* ---- the listener */

static int on_pause_over(Timer *timer, nsec_t now);

static int on_connection(Source *source, uint32_t revents)
{
        Named *named = container_of(source, Named, source);

        (void)revents;
        for (unsigned i = 0; i < NAMED_ACCEPTS_PER_TURN; i++) {
                Loop *loop = &named->supervisor->loop;
                Guest *guest;
                int fd;

                if (named->n_guests >= NAMED_MAX_WAITING)
                        guest_free(list_first(&named->guests, Guest, link)); /* the one that has been silent for longest */
                fd = accept4(named->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                        source_remove(source); /* level-triggered: without a rest it would turn for ever */
                        timer_arm(loop, &named->pause, nsec_add(loop->now, NAMED_PAUSE_SPAN), on_pause_over);
                }
                if (fd < 0)
                        return 0;
                guest = calloc(1, sizeof(*guest));
                if (!guest || source_add(loop, &guest->source, fd, EPOLLIN, SOURCE_CLIENTS, on_guest)) {
                        free(guest);
                        (void)fd_close(fd);
                        continue;
                }
                guest->named = named;
                guest->fd = fd;
                list_append(&named->guests, &guest->link);
                named->n_guests++;
                timer_arm(loop, &guest->timer, nsec_add(loop->now, NAMED_HELLO_SPAN), on_guest_late);
        }
        return 0;
}

static int on_pause_over(Timer *timer, nsec_t now)
{
        Named *named = container_of(timer, Named, pause);

        if (source_add(&named->supervisor->loop, &named->source, named->listen_fd, EPOLLIN, SOURCE_CLIENTS, on_connection))
                timer_arm(&named->supervisor->loop, timer, nsec_add(now, NAMED_PAUSE_SPAN), on_pause_over);
        return 0;
}

int named_new(Named **ret, Supervisor *supervisor, int listen_fd)
{
        Named *named = calloc(1, sizeof(*named));
        int r;

        if (!named)
                return error_origin(-ENOMEM);
        named->supervisor = supervisor;
        named->listen_fd = listen_fd;
        list_init(&named->guests);
        r = source_add(&supervisor->loop, &named->source, listen_fd, EPOLLIN, SOURCE_CLIENTS, on_connection);
        if (r) {
                free(named);
                return error_fold(r);
        }
        *ret = named;
        return 0;
}

Named *named_free(Named *named)
{
        Guest *it, *next;

        if (!named)
                return NULL;
        timer_disarm(&named->pause);
        source_remove(&named->source);
        list_for_each(it, next, &named->guests, link)
                guest_free(it);
        free(named);
        return NULL;
}
