/* SPDX-License-Identifier: Apache-2.0 */
/* Who comes by name. */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"

void flow_on_knock(Flow *flow)
{
        int fd = accept4(flow->listen_fd, NULL, NULL, SOCK_CLOEXEC), i = 0;

        cr_assert_geq(fd, 0);
        flow->n_knocks++;
        if (flow->turn_away && !*flow->turn_away) {
                (void)fd_close(fd);
                return;
        }
        while (i < MAX_KNOCKS && flow->knocks[i] >= 0)
                i++;
        cr_assert_lt(i, MAX_KNOCKS);
        flow->knocks[i] = fd;
}

static FlowNode *who_is_it(Flow *flow, const NodeMsg *hello)
{
        for (int i = 0; i < flow->n_nodes; i++)
                if (strcmp(flow->nodes[i].id, hello->hello.node) == 0)
                        return &flow->nodes[i];
        cr_assert_fail("nobody of that name: %s", hello->hello.node);
        abort();
}

static void let_in(Flow *flow, int fd, const NodeMsg *hello)
{
        FlowNode *node = who_is_it(flow, hello);

        cr_assert_str_eq(hello->hello.dataflow, DATAFLOW);
        flow_fd_replace(&node->fd, fd);
        if (flow->turn_away) {
                flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = flow->turn_away}}, NULL, 0);
                return;
        }
        if (hello->hello.generation == 0) {
                cr_assert(node->dynamic);
                flow->n_joined++;
                flow_welcome(flow, node);
                return;
        }
        cr_assert_eq(hello->hello.generation, node->generation);
        cr_assert_eq(hello->hello.uuid[0], 0xab);
        node->resuming = true;
        flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}}, NULL, 0);
}

void flow_on_stranger(Flow *flow, int i)
{
        uint8_t packet[NODE_MSG_MAX + 1];
        ssize_t n = recv(flow->knocks[i], packet, sizeof(packet), MSG_DONTWAIT);
        NodeMsg m;

        if (n <= 0) {
                flow->knocks[i] = fd_close(flow->knocks[i]);
                return;
        }
        cr_assert(node_msg_decode(&m, packet, (size_t)n) == 0 && m.type == NODE_MSG_HELLO);
        let_in(flow, TAKE_FD(flow->knocks[i]), &m);
}

void flow_by_name(Flow *flow)
{
        (void)snprintf(flow->socket_dir, sizeof(flow->socket_dir), "/tmp/tidegate-flow-XXXXXX");
        cr_assert(mkdtemp(flow->socket_dir));
        (void)snprintf(flow->socket_path, sizeof(flow->socket_path), "%s/node.sock", flow->socket_dir);
}

const char *flow_socket_path(const Flow *flow)
{
        return flow->socket_path;
}

void flow_listen(Flow *flow, bool listens)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};

        flow->listen_fd = fd_close(flow->listen_fd);
        (void)unlink(flow->socket_path);
        if (!listens)
                return;
        memcpy(addr.sun_path, flow->socket_path, sizeof(flow->socket_path));
        flow->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        cr_assert_eq(bind(flow->listen_fd, (const struct sockaddr *)&addr, sizeof(addr)), 0, "%m");
        cr_assert_eq(listen(flow->listen_fd, MAX_KNOCKS), 0);
}

void flow_turn_away(Flow *flow, const char *text)
{
        flow->turn_away = text;
}

unsigned flow_n_knocks(const Flow *flow)
{
        return flow->n_knocks;
}

unsigned flow_n_joined(const Flow *flow)
{
        return flow->n_joined;
}
