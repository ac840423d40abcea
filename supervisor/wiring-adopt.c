/* SPDX-License-Identifier: Apache-2.0 */
/* What a supervisor died knowing: descriptors from the guard, and what each node says that it has. */
#include "supervisor/wiring-internal.h"

#include "base/cleanup.h"
#include "shm/control.h"
#include "supervisor/growth.h"
#include "supervisor/supervisor.h"

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
                if (wiring_listen(node, node->sock))
                        wiring_release_socket(node); /* no memory for it: as a node that closed its socket */
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

void link_settle(Link *link)
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
        } else if (node_comes_again(link->target)) {
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

void wiring_on_resumed(Node *node, const NodeMsg *msg)
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
                regions_store(node);
        }
        if (!node->mapped) /* its setup was cut, or had not begun */
                wiring_send_setup(node);
        if (node->rung != NODE_RUNG_NONE)
                wiring_stop(node, node->ladder.kill);
        for (uint32_t i = 0; i < node->n_links; i++)
                link_settle(node->links[i]);
        growth_on_resumed(node);
        growth_on_read(node);
        dataflow_kick(node->dataflow);
}
