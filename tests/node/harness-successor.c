/* SPDX-License-Identifier: Apache-2.0 */
/* The death of the supervisor, and the one that follows it. */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

bool flow_knows(Flow *flow, int node)
{
        FlowNode *n = &flow->nodes[node];

        n->resuming = true;
        flow->n_named = 0;
        flow_send(flow, node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}});
        return FLOW_UNTIL(flow, 10, !n->resuming);
}

/* Whatever of it was sent may have arrived on one side only. */
static void doubt_pair(Flow *flow, const FlowLink *of)
{
        int a = MIN(of->from, of->to), b = MAX(of->from, of->to);

        flow->pairs[a][b]++;
        flow->nodes[a].peers[b] = flow->nodes[b].peers[a] = 0;
}

static bool pair_is_up(const Flow *flow, const FlowLink *of)
{
        for (int l = 0; l < flow->n_links; l++) {
                const FlowLink *link = &flow->links[l];

                if (((link->from == of->from && link->to == of->to) || (link->from == of->to && link->to == of->from)) &&
                    link->generation > 0 && link->out_held == link->generation && link->in_held == link->generation)
                        return true;
        }
        return false;
}

void flow_conclude(Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++)
                if (flow->nodes[i].resuming && !flow->nodes[i].exited)
                        return;
        flow->asking = false;
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *from = &flow->nodes[link->from], *to = &flow->nodes[link->to];

                if (from->exited || to->exited)
                        continue;
                if (pair_is_up(flow, link)) {
                        from->peers[link->to] = to->generation;
                        to->peers[link->from] = from->generation;
                } else
                        doubt_pair(flow, link);
                if (link->generation == 0 || link->out_held != link->generation || link->in_held != link->generation)
                        continue;
                link->state = LINK_UP;
                link->out_generation = from->generation;
                link->in_generation = to->generation;
        }
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (!node->exited && !node->mapped)
                        flow_welcome(flow, node);
                else if (!node->exited)
                        flow_say_what_ended(flow, node);
        }
        flow_wire(flow);
}

void flow_on_resumed(Flow *flow, FlowNode *node)
{
        cr_assert(node->resuming);
        node->resuming = false;
        if (flow->asking)
                flow_conclude(flow);
        else { /* it came by name */
                flow->n_joined++;
                flow_say_what_ended(flow, node);
        }
}

/* What was said to the dead one may not be so any more: the answer begins here. */
void flow_forget_answers(Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++) {
                if (flow->links[l].from == node)
                        flow->links[l].out_held = 0;
                if (flow->links[l].to == node)
                        flow->links[l].in_held = 0;
        }
}

void flow_on_ack_to_successor(FlowNode *node, FlowLink *link, const NodeMsg *m)
{
        cr_assert_leq(m->ack.generation, link->generation);
        if (m->type == NODE_MSG_LINK_OUT_ACK)
                link->out_held = m->ack.generation;
        else
                link->in_held = m->ack.generation;
}

void flow_die_after(Flow *flow, unsigned n)
{
        flow->n_left = n;
}

bool flow_is_dead(const Flow *flow)
{
        return flow->dead;
}

static void forget(Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                memset(node->peers, 0, sizeof(node->peers));
                if (!node->exited)
                        node->mapped = node->started = node->resuming = false;
        }
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                link->out_held = link->in_held = link->out_generation = link->in_generation = 0;
                link->state = flow->nodes[link->from].exited || flow->nodes[link->to].exited ? LINK_DOWN : LINK_IDLE;
        }
}

static void lose_what_was_said(FlowNode *node)
{
        uint8_t packet[NODE_MSG_MAX + 1];

        while (recv(node->fd, packet, sizeof(packet), MSG_DONTWAIT) > 0)
                ;
}

void flow_succeed(Flow *flow, FlowSuccessor how)
{
        flow->dead = false;
        flow->asking = how == FLOW_ASKS || how == FLOW_ASKS_WITH_LOSS;
        flow->epoch++;
        forget(flow);
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (node->exited)
                        continue;
                if (how == FLOW_REPEATS_WITH_LOSS || how == FLOW_ASKS_WITH_LOSS)
                        lose_what_was_said(node);
                node->resuming = flow->asking;
        }
        for (int l = 0; l < flow->n_links; l++)
                flow->links[l].again = !flow->asking && flow->links[l].generation > 0;
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (node->exited)
                        continue;
                if (flow->asking)
                        flow_send_fds(node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}}, NULL, 0);
                else
                        flow_welcome(flow, node);
        }
        for (int i = 0; i < flow->n_nodes && !flow->asking; i++)
                if (!flow->nodes[i].exited && flow->barrier_open)
                        flow_say_what_ended(flow, &flow->nodes[i]);
}
