/* SPDX-License-Identifier: Apache-2.0 */
/* What the life of a node means for its links, and for whoever waits at their other ends. */
#include "supervisor/wiring-internal.h"

#include <stdio.h>

#include "shm/cursor.h"
#include "shm/ring.h"
#include "supervisor/show.h"

bool wiring_is_ready(const Node *node)
{
        if (!node->mapped || node->resuming)
                return false;
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];

                if (link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN)
                        return false;
                if (link->state == LINK_DETACHED && !node->dataflow->released && node_holds_barrier(link->source == node ? link->target : link->source))
                        return false;
        }
        return true;
}

bool wiring_may_begin(const Node *node)
{
        if (!node->mapped || node->sock < 0 || node->resuming)
                return false;
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                const Node *target = link->target;

                if (link->source == node && link_is_lossless(link) &&
                        (target->resuming || (target->away && !target->stays) || link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN))
                        return false;
        }
        return true;
}

/* By its own word: for a hint, and to its own advantage or harm. */
static bool is_blocked_on(const Link *link)
{
        const NodeOutput *output = &link->source->outputs[link->output];
        Region map = REGION_INIT;
        RingStatus status;

        if (output->ring_fd < 0 || region_map_status(&map, output->ring_fd, REGION_RING, output->ring_size))
                return false;
        ring_read_status(&map, &status);
        region_unmap(&map);
        return status.blocked && status.blocked_link == link->number;
}

const Node *wiring_awaits(const Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];

                bool coming = link->state == LINK_WAIT_OUT || link->state == LINK_WAIT_IN || (link->state == LINK_DETACHED && node_comes_again(link->target));

                if (link->source == node && coming && link_is_lossless(link) && is_blocked_on(link))
                        return link->target;
        }
        return NULL;
}

bool wiring_waits_for_others(const Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                const Node *other = link->source == node ? link->target : link->source;

                if (link->state == LINK_DETACHED && !other->mapped && !node_is_final(other))
                        return true;
        }
        return false;
}

/* Both its ends died: what the consumer had left there nobody will read. */
static void link_count_lost(Link *link, uint64_t from)
{
        const Node *source = link->source;
        const NodeOutput *output = &source->outputs[link->output];
        Region map = REGION_INIT;
        RingStatus status;
        char text[400];

        if (!link_is_lossless(link) || output->ring_fd < 0 || region_map_status(&map, output->ring_fd, REGION_RING, output->ring_size))
                return;
        ring_read_status(&map, &status);
        region_unmap(&map);
        if (status.head <= from) /* also: it had not begun to read anywhere */
                return;
        (void)snprintf(text, sizeof(text),
                "%llu messages of %s/%s are lost (consumer_dead): both nodes died before they were taken",
                (unsigned long long)(status.head - from), source->plan->id, source->plan->outputs[link->output]);
        dataflow_note(link->target->dataflow, link->target->plan->id, text);
}

/*
 * Where the next incarnation goes on reading: only a lossless link cares. One that died before it had begun leaves the place
 * that it was to begin at. So does one whose position is of a ring that is gone.
 */
static void link_remember(Link *link, bool restarting)
{
        Node *source = link->source, *target = link->target;
        Region map = REGION_INIT;
        CursorStatus status;

        if (!link_is_lossless(link) || target->cursor_fds[link->input] < 0 ||
                region_map_read(&map, target->cursor_fds[link->input], REGION_CURSOR, cursor_size()))
                return;
        cursor_read(&map, &status);
        region_unmap(&map);
        if (status.attachment != link->generation)
                return;
        if (link->source_generation == source->generation)
                target->resume_at[link->input] = status.tail;
        else if (restarting && source->state == NODE_BACKOFF) /* its ring was being read to the end, and is not made anew yet */
                link_count_lost(link, status.tail);
}

static void link_lose_target(Link *link, bool restarting)
{
        bool awaited = restarting && !node_is_dynamic(link->target);

        show_link_ends(link);
        link_remember(link, restarting);
        link_detach(link, awaited);
        if (awaited)
                link_await(link); /* the producer may have heard of the death too early, or of the life too late */
        link_set_state(link, restarting ? LINK_DETACHED : LINK_CLOSED);
}

/* Positions of the new ring begin anew. A consumer that is not there yet is to count what it comes too late for. */
static void link_begin_anew(Link *link)
{
        link->target->resume_at[link->input] = link_is_lossless(link) ? 0 : NODE_START_AT_HEAD;
        link->source_generation = 0;
        link_journal(link);
}

static void link_lose_source(Link *link, bool restarting)
{
        if (link->state == LINK_WAIT_OUT && restarting) {
                link_send_in(link); /* nobody reclaims there any more: what is left can be read without its producer */
                link_close(link, true);
        } else if (link->state == LINK_ACTIVE || link->state == LINK_WAIT_IN)
                link_close(link, restarting);
        else if (link->state == LINK_WAIT_OUT)
                link_set_state(link, LINK_DETACHED);
        else if (link->state == LINK_DETACHED && restarting && link->source_generation == link->source->generation)
                link_count_lost(link, link->target->resume_at[link->input]);
        if (restarting) {
                link_begin_anew(link);
                return;
        }
        if (!link->source_generation) /* what is left there was handed over at its end, to be read without a successor */
                link->target->resume_at[link->input] = NODE_START_AT_HEAD;
        link_advance(link);
}

void wiring_node_ended(Node *node, bool restarting)
{
        node->finished = !restarting;
        node->away = node->stays = false;
        timer_disarm(&node->hung_up);
        wiring_release_socket(node);
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                link->named_out = link->named_out && link->source != node; /* its word dies with it */
                link->named_in = link->named_in && link->target != node;
                if (link->target == node)
                        link_lose_target(link, restarting);
                else
                        link_lose_source(link, restarting);
        }
}

void wiring_reopen(Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->source == node)
                        link_begin_anew(link);
                if (link->state == LINK_CLOSED)
                        link_set_state(link, LINK_DETACHED);
        }
}

void wiring_will_restart(Node *node)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->target == node && link_is_lossless(link) && link->state != LINK_DETACHED && link->state != LINK_CLOSED &&
                        node_is_there(link->source) && node->cursor_fds[link->input] >= 0)
                        link_tell_source(link);
        }
}

static void tell_downstream(Node *node, NodeMsgType type, const char *text)
{
        NodeMsg msg = {.type = type, .node_event = {.node = node->plan->id, .text = text, .generation = node->generation}};
        const Node *last = NULL;

        /* Links are in the order of their targets, so a target with several is told once. */
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (link->source != node || link->target == node || link->target == last || !node_is_connected(link->target))
                        continue;
                last = link->target;
                node_send(link->target, &msg, -1, -1);
        }
}

void wiring_tell_failed(Node *node, const char *text)
{
        char cut[NODE_MSG_TEXT_MAX];

        (void)snprintf(cut, sizeof(cut), "%s", text);
        tell_downstream(node, NODE_MSG_NODE_FAILED, cut);
}

void wiring_tell_restarted(Node *node)
{
        tell_downstream(node, NODE_MSG_NODE_RESTARTED, "");
}
