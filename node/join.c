/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining: HELLO on a fresh socket, and the socket of a supervisor that is found by its path. Who had a socket and lost it
 * tries again in calls that the program makes anyway, at growing intervals, and is woken for it by the node's timer
 * while it sleeps. connect() to a unix socket that does not block ends at once, one way or the other.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "node/node-internal.h"

#define SYSTEM_DIR "/run/tidegate"

int join_watch(tg_node *node, int fd, uint32_t events, uint64_t tag)
{
        struct epoll_event ev = {.events = events | EPOLLET, .data.u64 = tag};

        return epoll_ctl(node->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? error_origin(-errno) : 0;
}

int join_hello(tg_node *node)
{
        NodeMsg msg = {
                .type = NODE_MSG_HELLO,
                .hello = {
                        .version = NODE_MSG_VERSION,
                        .library = "tidegate " TIDEGATE_VERSION,
                        .dataflow = node->dataflow,
                        .node = node->id,
                        .generation = node->generation,
                },
        };

        memcpy(msg.hello.uuid, node->uuid, sizeof(node->uuid));
        return socket_send(node, &msg);
}

int join_socket(tg_node *node, int take_fd)
{
        int r;

        node->fd = take_fd;
        r = join_watch(node, node->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, NODE_TAG_SOCKET);
        return r ? r : join_hello(node);
}

/* 0, -EAGAIN when many wait to be let in, -ENOENT or -ECONNREFUSED when nobody is there, or another negative errno. */
static int connect_to(int *ret_fd, const char *path)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = -1;

        if (strlen(path) >= sizeof(addr.sun_path))
                return error_origin(-ENAMETOOLONG);
        memcpy(addr.sun_path, path, strlen(path) + 1);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_origin(-errno);
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* The next attempt, after one that failed or a hang-up; never two within JOIN_SPAN_MIN. */
void join_later(tg_node *node)
{
        if (!node->socket_path || node->closed)
                return;
        node->join_at = nsec_add(clock_now(), node->join_span);
        node->join_span = MIN(2 * node->join_span, JOIN_SPAN_MAX);
}

int join_by_name(tg_node *node)
{
        int fd = -1, r;

        r = connect_to(&fd, node->socket_path);
        if (r == 0) {
                r = join_socket(node, fd);
                if (r)
                        socket_lost(node);
        } else
                join_later(node);
        return r;
}

void join_if_due(tg_node *node)
{
        if (socket_is_awaited(node) && clock_now() >= node->join_at)
                (void)join_by_name(node); /* why not is of no use to anybody: it goes on until it works */
}

/* -------- where -------- */

static int join_path(char **ret, const char *dir, const char *rest)
{
        return asprintf(ret, "%s/%s", dir, rest) < 0 ? error_origin(-ENOMEM) : 0;
}

int join_find_path(char **ret)
{
        const char *path = getenv(NODE_MSG_SOCKET_ENV), *dir = getenv("TIDEGATE_RUNTIME_DIR");

        if (path && *path) {
                *ret = strdup(path);
                return *ret ? 0 : error_origin(-ENOMEM);
        }
        if (dir && *dir)
                return join_path(ret, dir, "node.sock");
        if (geteuid() == 0 || access(SYSTEM_DIR "/node.sock", F_OK) == 0)
                return join_path(ret, SYSTEM_DIR, "node.sock");
        dir = getenv("XDG_RUNTIME_DIR");
        return dir && *dir ? join_path(ret, dir, "tidegate/node.sock") : -ENOTCONN;
}
