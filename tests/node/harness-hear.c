/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes say, and their ends. */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"

static FlowLink *link_of(Flow *flow, uint32_t link)
{
        cr_assert(link >= 1 && link <= (uint32_t)flow->n_links);
        return &flow->links[link - 1];
}

void flow_close_link(Flow *flow, FlowLink *link, bool restarting)
{
        if (link->state == LINK_DOWN || flow->nodes[link->to].exited)
                return;
        if (!restarting)
                link->state = LINK_DOWN;
        flow_send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_CLOSED, .link_closed = {
                .link = (uint32_t)(link - flow->links) + 1, .generation = link->generation,
                .restarting = restarting}}, NULL, 0);
}

void flow_say_what_ended(Flow *flow, const FlowNode *node)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                if (&flow->nodes[link->to] != node || !flow->nodes[link->from].exited || link->generation == 0)
                        continue;
                link->state = LINK_UP;
                flow_close_link(flow, link, flow->nodes[link->from].will_restart);
        }
}

void flow_growth(Flow *flow, FlowGrowth growth)
{
        flow->growth = growth;
}

void flow_grow_now(Flow *flow, int node, int output)
{
        FlowOutput *o = &flow->nodes[node].outputs[output];
        PoolClass class = {.chunk_size = (uint32_t)pool_roomy(o->asked), .n_chunks = flow->growth.n_chunks};
        unsigned number = o->n_grown + 1;

        if (o->n_grown >= flow->growth.n_segments) {
                flow_send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_GROW_REFUSED, .grow_refused = {
                        .output = (uint32_t)output, .chunk_size = pool_roomy(o->asked)}}, NULL, 0);
                return;
        }
        o->n_grown = number;
        o->grown_size[number] = pool_size(&class, 1);
        cr_assert_eq(pool_create(&class, 1, &o->grown_fd[number]), 0);
        flow_send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_SEGMENT, .segment = {
                .output = (uint32_t)output, .number = number, .size = o->grown_size[number]}}, &o->grown_fd[number], 1);
}

unsigned flow_n_grows(const Flow *flow)
{
        return flow->n_grows;
}

unsigned flow_n_segments_named(const Flow *flow)
{
        return flow->n_segments_named;
}

static void on_segment_ack(Flow *flow, FlowNode *node, const NodeMsg *m)
{
        FlowOutput *o = &node->outputs[m->segment.output];
        uint32_t number = m->segment.number;

        cr_assert_leq(number, o->n_grown);
        if (node->resuming) {
                flow->n_segments_named += m->segment.used;
                return;
        }
        cr_assert(region_is_sealed(o->grown_fd[number], REGION_POOL));
        for (int l = 0; l < flow->n_links && !flow->growth.secret; l++)
                if (&flow->nodes[flow->links[l].from].outputs[flow->links[l].output] == o && flow->links[l].state == LINK_UP)
                        flow_send_link_segment(flow, l, number);
        flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_SEGMENT_READY, .segment = {.output = m->segment.output, .number = number}}, NULL, 0);
}

static void on_message(Flow *flow, FlowNode *node, const NodeMsg *m)
{
        int index = (int)(node - flow->nodes);
        FlowLink *link;

        switch (m->type) {
        case NODE_MSG_HELLO:
                cr_assert_eq(m->hello.version, NODE_MSG_VERSION);
                cr_assert(m->hello.generation == 0 || m->hello.generation == node->generation);
                if (node->resuming)
                        flow_forget_answers(flow, index);
                else
                        flow_welcome(flow, node);
                break;
        case NODE_MSG_MAPPED:
                flow_see_mapped(flow, node);
                flow_await_consumers(flow, index);
                flow_wire(flow);
                break;
        case NODE_MSG_LINK_OUT_ACK:
                link = link_of(flow, m->ack.link);
                cr_assert_eq(link->from, index);
                flow->n_out_acks++;
                flow->n_named += node->resuming;
                if (node->resuming)
                        flow_on_ack_to_successor(node, link, m);
                else if (m->ack.generation == link->generation && link->state == LINK_TOLD_PRODUCER) {
                        link->state = LINK_TOLD_CONSUMER;
                        if (!flow->hold_in)
                                flow_send_link_in(flow, (int)(link - flow->links));
                }
                break;
        case NODE_MSG_LINK_IN_ACK:
                link = link_of(flow, m->ack.link);
                cr_assert_eq(link->to, index);
                if (node->resuming)
                        flow_on_ack_to_successor(node, link, m);
                else if (m->ack.generation == link->generation && link->state == LINK_TOLD_CONSUMER)
                        link->state = LINK_UP;
                break;
        case NODE_MSG_DETACH_ACK:
                flow->n_detach_acks++;
                break;
        case NODE_MSG_CLOSE_OUTPUT:
                cr_assert_lt(m->close_output.output, (uint32_t)node->n_outputs);
                node->outputs[m->close_output.output].closed = true;
                for (int l = 0; l < flow->n_links; l++)
                        if (flow->links[l].from == index && flow->links[l].output == (int)m->close_output.output)
                                flow_close_link(flow, &flow->links[l], false);
                break;
        case NODE_MSG_VIOLATION:
                flow->n_violations++;
                flow->violated = (int)m->violation.link - 1;
                (void)snprintf(flow->violation, sizeof(flow->violation), "%s", m->violation.text);
                break;
        case NODE_MSG_LINK_LEFT:
                flow->n_links_left++;
                break;
        case NODE_MSG_TURNED:
                flow->n_turned++;
                break;
        case NODE_MSG_GROW:
                cr_assert_lt(m->grow.output, (uint32_t)node->n_outputs);
                flow->n_grows++;
                node->outputs[m->grow.output].asked = m->grow.chunk_size;
                if (!flow->growth.silent)
                        flow_grow_now(flow, index, (int)m->grow.output);
                break;
        case NODE_MSG_SEGMENT_ACK:
                on_segment_ack(flow, node, m);
                break;
        case NODE_MSG_RESUMED:
                cr_assert(!m->resume.running || flow->barrier_open);
                if (m->resume.epoch == flow->epoch) /* else it is for a dead one */
                        flow_on_resumed(flow, node);
                break;
        default:
                cr_assert_fail("%s from a node", node_msg_name(m->type));
        }
        flow_start_ready(flow);
}

void flow_read_node(Flow *flow, FlowNode *node)
{
        uint8_t packet[NODE_MSG_MAX + 1];
        ssize_t n = 1;
        NodeMsg m;

        while (!flow->dead && (n = recv(node->fd, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
                cr_assert_eq(node_msg_decode(&m, packet, (size_t)n), 0, "%zd bytes from %s do not decode", n, node->id);
                cr_assert(node_msg_from_node(m.type));
                on_message(flow, node, &m);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != ECONNRESET))
                node->fd = fd_close(node->fd);
}

/* What the supervisor does when the node's cgroup is empty. */
void flow_on_exit_of(Flow *flow, FlowNode *node)
{
        int index = (int)(node - flow->nodes);

        if (node->fd >= 0)
                flow_read_node(flow, node); /* what it said before */
        cr_assert_eq(waitpid(node->pid, &node->status, 0), node->pid);
        node->exited = true;
        node->mapped = false;
        node->pidfd = fd_close(node->pidfd);
        node->fd = fd_close(node->fd);
        if (flow->asking)
                flow_conclude(flow);
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                if (link->from == index)
                        flow_close_link(flow, link, node->will_restart);
                if (link->to == index && !flow->nodes[link->from].exited && link->cursor.map) {
                        CursorStatus status;

                        cursor_read(&link->cursor, &status);
                        if (!link->spec.backpressure)
                                link->start_at = NODE_START_AT_HEAD;
                        else if (status.attachment == link->generation) /* else it never began: as it was */
                                link->start_at = status.tail;
                        if (!flow->hold_verdicts)
                                flow_detach(flow, l, node->will_restart && link->spec.backpressure);
                }
        }
}
