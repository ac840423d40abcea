/* SPDX-License-Identifier: Apache-2.0 */
/* Sending, and the handshake as far as the supervisor says it. */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/doorbell.h"

/* -------- sending -------- */

void flow_send_fds(FlowNode *node, const NodeMsg *msg, const int *fds, int n_fds)
{
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control = {};
        uint8_t packet[NODE_MSG_MAX];
        int n = node_msg_encode(msg, packet, sizeof(packet));
        struct iovec iov = {.iov_base = packet, .iov_len = (size_t)n};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

        cr_assert_gt(n, 0, "%s was not encoded: %d", node_msg_name(msg->type), n);
        cr_assert_eq(n_fds, node_msg_n_fds(msg));
        if (node->fd < 0 || node->flow->dead)
                return; /* hung up on purpose */
        if (n_fds) {
                mh.msg_control = &control;
                mh.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
                CMSG_FIRSTHDR(&mh)->cmsg_level = SOL_SOCKET;
                CMSG_FIRSTHDR(&mh)->cmsg_type = SCM_RIGHTS;
                CMSG_FIRSTHDR(&mh)->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)), fds, (size_t)n_fds * sizeof(int));
        }
        if (sendmsg(node->fd, &mh, MSG_NOSIGNAL) < 0)
                cr_assert(errno == EPIPE || errno == ECONNRESET, "send %s: %m", node_msg_name(msg->type));
        if (node->control.map)
                control_bump(&node->control);
        if (node->flow->n_left > 0 && --node->flow->n_left == 0)
                node->flow->dead = true;
}

void flow_send(Flow *flow, int node, const NodeMsg *msg)
{
        flow_send_fds(&flow->nodes[node], msg, NULL, 0);
}

void flow_send_raw(Flow *flow, int node, const void *bytes, size_t size)
{
        cr_assert_eq(send(flow->nodes[node].fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
        control_bump(&flow->nodes[node].control);
}

/* -------- the handshake -------- */

void flow_welcome(Flow *flow, FlowNode *node)
{
        NodeMsg m = {.type = NODE_MSG_WELCOME, .welcome = {.uuid = {0xab}, .dataflow = DATAFLOW, .node = node->id,
                .generation = node->generation, .restart_count = node->generation - 1,
                .n_inputs = (uint32_t)node->n_inputs, .n_outputs = (uint32_t)node->n_outputs,
                .control_size = control_size(), .bell_size = bell_size(),
                .start_deadline_ns = clock_now() + 30 * NSEC_PER_SEC, .wait = node->wait}};

        flow_send_fds(node, &m, (int[]){node->control_fd, node->bell_fd}, 2);
        for (int i = 0; i < node->n_outputs; i++) {
                FlowOutput *o = &node->outputs[i];

                m = (NodeMsg){.type = NODE_MSG_OUTPUT, .output = {.index = (uint32_t)i, .id = o->id, .n_slots = o->n_slots,
                        .ring_size = ring_size(o->n_slots), .pool_size = o->pool_size}};
                flow_send_fds(node, &m, (int[]){o->ring_fd, o->pool_fd}, 2);
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowInput *in = &node->inputs[i];
                FlowLink *link = flow_input_link(flow, node, i);

                m = (NodeMsg){.type = NODE_MSG_INPUT, .input = {.index = (uint32_t)i, .id = in->id, .source = "test",
                        .timer_ns = in->timer_ns, .queue_size = link ? link->spec.queue_size : 1,
                        .policy = link && link->spec.backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                        .timeout_ns = link ? link->spec.timeout_ns : 0, .link = link ? (uint32_t)in->link + 1 : 0,
                        .cursor_size = link ? cursor_size() : 0}};
                flow_send_fds(node, &m, link ? &link->cursor_fd : NULL, link ? 1 : 0);
        }
        flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
}

void flow_see_mapped(Flow *flow, FlowNode *node)
{
        cr_assert(region_is_sealed(node->bell_fd, REGION_BELL));
        for (int i = 0; i < node->n_outputs; i++) {
                cr_assert(region_is_sealed(node->outputs[i].ring_fd, REGION_RING));
                cr_assert(region_is_sealed(node->outputs[i].pool_fd, REGION_POOL));
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowLink *link = flow_input_link(flow, node, i);

                if (!link)
                        continue;
                cr_assert(region_is_sealed(link->cursor_fd, REGION_CURSOR));
                if (!link->cursor.map)
                        cr_assert_eq(region_map_read(&link->cursor, link->cursor_fd, REGION_CURSOR, cursor_size()), 0);
        }
        node->mapped = true;
}

/* The socket and the doorbells of two nodes: each gets what is its, nobody else keeps any. */
static void introduce(Flow *flow, int a, int b)
{
        FlowNode *na = &flow->nodes[a], *nb = &flow->nodes[b];
        int pair[2], doorbell[2] = {-1, -1};

        if (a == b || (na->peers[b] == nb->generation && nb->peers[a] == na->generation))
                return;
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        for (int i = 0; i < 2 && !flow->no_doorbells; i++) {
                doorbell[i] = doorbell_make();
                cr_assert(doorbell[i] >= 0 || doorbell[i] == -ENOTSUP);
                flow->no_doorbells = doorbell[i] < 0;
        }
        for (int i = 0; i < 2; i++) {
                FlowNode *to = i ? nb : na, *other = i ? na : nb;
                NodeMsg m = {.type = NODE_MSG_PEER, .peer = {.peer = (uint32_t)(i ? a : b) + 1,
                        /* grows when either starts anew, or when a successor does not trust what is there */
                        .generation = (to->generation * 1000 + other->generation) * 1000 + flow->pairs[MIN(a, b)][MAX(a, b)],
                        .node = other->id, .bell_size = bell_size(), .doorbells = !flow->no_doorbells}};

                flow_send_fds(to, &m, (int[]){other->bell_fd, pair[i], doorbell[i], doorbell[!i]}, node_msg_n_fds(&m));
        }
        na->peers[b] = nb->generation;
        nb->peers[a] = na->generation;
        (void)fd_close(pair[0]);
        (void)fd_close(pair[1]);
        (void)fd_close(doorbell[0]);
        (void)fd_close(doorbell[1]);
}

void flow_without_doorbells(Flow *flow)
{
        flow->no_doorbells = true;
}

bool flow_has_doorbells(const Flow *flow)
{
        return !flow->no_doorbells;
}

/* A producer that begins anew while a consumer is to come. */
void flow_await_consumers(Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *to = &flow->nodes[link->to];

                if (link->from != node || !link->spec.restartable || !to->exited || !to->will_restart)
                        continue;
                link->generation++;
                flow_send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_AWAIT, .await = {.link = (uint32_t)l + 1,
                        .generation = link->generation, .output = (uint32_t)link->output,
                        .queue_size = link->spec.queue_size}}, NULL, 0);
        }
}

static void send_link_out(Flow *flow, int l)
{
        FlowLink *link = &flow->links[l];

        flow_send_fds(&flow->nodes[link->from], &(NodeMsg){.type = NODE_MSG_LINK_OUT, .link_out = {.link = (uint32_t)l + 1,
                .generation = link->generation, .output = (uint32_t)link->output,
                .peer = link->from == link->to ? 0 : (uint32_t)link->to + 1, .queue_size = link->spec.queue_size,
                .policy = link->spec.backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                .cursor_size = cursor_size(), .restartable = link->spec.restartable}}, &link->cursor_fd, 1);
}

void flow_send_link_segment(Flow *flow, int l, unsigned number)
{
        FlowLink *link = &flow->links[l];
        FlowOutput *o = &flow->nodes[link->from].outputs[link->output];

        flow_send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_SEGMENT, .link_segment = {.link = (uint32_t)l + 1,
                .generation = link->generation, .number = number, .size = o->grown_size[number]}}, &o->grown_fd[number], 1);
}

void flow_send_link_in(Flow *flow, int l)
{
        FlowLink *link = &flow->links[l];
        FlowOutput *o = &flow->nodes[link->from].outputs[link->output];

        for (unsigned k = 1; k <= o->n_grown && !flow->growth.secret; k++)
                flow_send_link_segment(flow, l, k);

        flow_send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_IN, .link_in = {.link = (uint32_t)l + 1,
                .generation = link->generation, .input = (uint32_t)link->input,
                .peer = link->from == link->to ? 0 : (uint32_t)link->from + 1, .n_slots = o->n_slots,
                .ring_size = ring_size(o->n_slots), .pool_size = o->pool_size, .start_at = link->start_at}},
                (int[]){o->ring_fd, o->pool_fd}, 2);
}

/* Begins every link whose ends are both mapped and of which one is new. */
void flow_wire(Flow *flow)
{
        if (flow->asking)
                return; /* not before all have said what there is */
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *from = &flow->nodes[link->from], *to = &flow->nodes[link->to];

                if (!from->mapped || !to->mapped || from->exited || to->exited || from->resuming || to->resuming)
                        continue;
                if (link->out_generation == from->generation && link->in_generation == to->generation)
                        continue;
                if (link->out_generation != from->generation)
                        link->start_at = link->spec.restartable ? 0 : NODE_START_AT_HEAD;
                link->out_generation = from->generation;
                link->in_generation = to->generation;
                link->generation += !link->again;
                link->again = false;
                introduce(flow, link->from, link->to);
                send_link_out(flow, l);
                link->state = LINK_TOLD_PRODUCER;
        }
}

static bool all_up(const Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++)
                if ((node < 0 || flow->links[l].from == node || flow->links[l].to == node) &&
                    flow->links[l].state != LINK_UP && flow->links[l].state != LINK_DOWN)
                        return false;
        return true;
}

/* The first time all together, later each when its links are up. */
void flow_start_ready(Flow *flow)
{
        bool all = all_up(flow, -1);

        if (flow->hold_start)
                return;
        for (int i = 0; i < flow->n_nodes; i++)
                all &= flow->nodes[i].mapped;
        flow->barrier_open |= all;
        for (int i = 0; i < flow->n_nodes && flow->barrier_open; i++) {
                FlowNode *node = &flow->nodes[i];

                if (!node->mapped || node->started || node->exited || !all_up(flow, i))
                        continue;
                node->started = true;
                flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
        }
}

void flow_hold_start(Flow *flow, bool hold)
{
        flow->hold_start = hold;
        flow_start_ready(flow);
}

void flow_repeat(Flow *flow)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                send_link_out(flow, l);
                if (link->state == LINK_UP)
                        flow_send_link_in(flow, l);
        }
}

void flow_hold_in(Flow *flow, bool hold)
{
        flow->hold_in = hold;
        for (int l = 0; l < flow->n_links && !hold; l++)
                if (flow->links[l].state == LINK_TOLD_CONSUMER)
                        flow_send_link_in(flow, l);
}

void flow_set_restartable(Flow *flow, int link)
{
        FlowNode *from = &flow->nodes[flow->links[link].from];
        Region page = from->control;

        flow->links[link].spec.restartable = true;
        from->control = REGION_INIT;
        send_link_out(flow, link);
        from->control = page;
}

void flow_hold_verdicts(Flow *flow, bool hold)
{
        flow->hold_verdicts = hold;
}

void flow_detach(Flow *flow, int link, bool restarting)
{
        flow_send(flow, flow->links[link].from, &(NodeMsg){.type = NODE_MSG_DETACH, .detach = {.link = (uint32_t)link + 1,
                .generation = flow->links[link].generation, .restarting = restarting}});
}
