/* SPDX-License-Identifier: Apache-2.0 */
/* The attachment of links: the steps that protocol/node_msg.h has, each as soon as both ends allow it. */
#include "supervisor/wiring-internal.h"

#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/doorbell.h"
#include "base/error.h"
#include "shm/bell.h"
#include "shm/cursor.h"
#include "shm/ring.h"
#include "supervisor/growth.h"
#include "supervisor/show.h"

#define DOORBELL_LINKS 64u /* a node with more rings by its peers' sockets: it has only so many descriptors, and needs three for each peer otherwise */

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

bool node_is_there(const Node *node)
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

bool node_comes_again(const Node *node)
{
        return !node_is_there(node) && node->was_ready && !node->finished && !node->stays && !node_is_dynamic(node) &&
               (node->state == NODE_BACKOFF || node->state == NODE_STARTING || may_come_again(node));
}

bool link_is_lossless(const Link *link)
{
        return link->target->plan->inputs[link->input].backpressure;
}

static void send_peer(Node *to, const Node *peer, uint32_t generation, int sock, int heard, int rung)
{
        NodeMsg msg = {.type = NODE_MSG_PEER,
                .peer = {.peer = peer->index + 1, .generation = generation, .node = peer->plan->id, .bell_size = bell_size(), .doorbells = heard >= 0 && rung >= 0}};
        const int fds[] = {peer->bell_fd, sock, heard, rung};

        node_send_all(to, &msg, fds, (size_t)node_msg_n_fds(&msg));
}

/*
 * One socket and two doorbells for each pair of incarnations. A dead side's end of the socket is closed at once, which is how the living one
 * learns of it.
 */
static int pair_tell(Link *link)
{
        Pair *pair = link->pair;
        Node *a = pair->a, *b = pair->b;
        _cleanup_fd_ int end_a = -1, end_b = -1, heard_by_a = -1, heard_by_b = -1;
        int fds[2];

        if (a == b || (pair->generation > 0 && pair->a_generation == a->generation && pair->b_generation == b->generation))
                return 0;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return error_origin(-errno);
        end_a = fds[0];
        end_b = fds[1];
        if (a->n_links <= DOORBELL_LINKS && b->n_links <= DOORBELL_LINKS) {
                heard_by_a = doorbell_make(); /* not both: they ring by a byte through the socket, too */
                heard_by_b = doorbell_make();
        }
        pair->generation++;
        pair->a_generation = a->generation;
        pair->b_generation = b->generation;
        link_journal(link);
        if (node_is_there(a))
                send_peer(a, b, pair->generation, end_a, heard_by_a, heard_by_b);
        if (node_is_there(b))
                send_peer(b, a, pair->generation, end_b, heard_by_b, heard_by_a);
        return 0;
}

static uint32_t peer_number(const Link *link, const Node *peer)
{
        return link->source == link->target ? 0 : peer->index + 1;
}

void link_set_state(Link *link, LinkState state)
{
        link->state = state;
        link_journal(link);
        show_link(link);
}

void link_tell_source(Link *link)
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

void link_send_in(Link *link)
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

void link_await(Link *link)
{
        NodeMsg msg = {.type = NODE_MSG_AWAIT, .await = {.link = link->number, .output = link->output}};

        if (!link_is_lossless(link) || !node_is_there(link->source))
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

void link_detach(Link *link, bool restarting)
{
        NodeMsg msg = {.type = NODE_MSG_DETACH,
                .detach = {.link = link->number, .generation = link->generation, .restarting = restarting && link_is_lossless(link)}};

        if (link->generation > 0 && node_is_there(link->source))
                node_send(link->source, &msg, -1, -1);
}

void link_close(Link *link, bool restarting)
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

void link_advance(Link *link)
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

void link_on_out_ack(Node *node, const NodeMsg *msg)
{
        Link *link = link_of(node, msg->ack.link, msg->ack.generation);

        if (link && link->source == node && node->resuming)
                link->named_out = true;
        else if (link && link->source == node && link->state == LINK_WAIT_OUT)
                link_send_in(link);
}

void link_is_up(Link *link)
{
        link_set_state(link, LINK_ACTIVE);
        if (link->source->finished || link->source->outputs[link->output].closed)
                link_close(link, false);
        dataflow_kick(link->target->dataflow);
}

void link_on_in_ack(Node *node, const NodeMsg *msg)
{
        Link *link = link_of(node, msg->ack.link, msg->ack.generation);

        if (link && link->target == node && node->resuming)
                link->named_in = true;
        if (!link || link->target != node || node->resuming || link->state != LINK_WAIT_IN)
                return;
        link_is_up(link);
}

void wiring_close_output(Node *node, uint32_t output)
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

void wiring_close_outputs(Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_outputs; i++)
                wiring_close_output(node, i);
}
