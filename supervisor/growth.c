/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/growth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "shm/cursor.h"
#include "shm/region.h"
#include "supervisor/supervisor.h"

#define LAST_SEGMENTS 4 /* when so few numbers are left all that is wanted comes at once */

_Static_assert(NODE_MSG_MAX_PORTS <= 256, "an output's number takes one byte of an item's index");

/* ---- arithmetic */

uint64_t growth_bound(const GrowthNeed *need)
{
        uint64_t all = need->first + need->want * need->largest;

        return need->bound ? need->bound : MIN(MAX(all, GROWTH_BOUND_LEAST), GROWTH_BOUND_MOST);
}

bool growth_class(const GrowthNeed *need, PoolClass *ret)
{
        uint64_t bound = growth_bound(need), size = pool_roomy(need->chunk_size), room, n;

        if (need->n_segments >= NODE_MSG_MAX_SEGMENTS || bound < need->present + POOL_DATA_OFFSET)
                return false;
        room = (bound - need->present - POOL_DATA_OFFSET) / size;
        if (room < 2) { /* then exactly what is needed, to make the most of it */
                size = pool_class_for(need->chunk_size, 1).chunk_size;
                room = (bound - need->present - POOL_DATA_OFFSET) / size;
        }
        n = MAX(MAX(need->present - need->first, GROWTH_STEP) / size, UINT64_C(2)); /* one is read while the next is written */
        if (need->n_segments >= NODE_MSG_MAX_SEGMENTS - LAST_SEGMENTS)
                n = need->want;
        n = MIN(MIN(n, (uint64_t)need->want), room);
        *ret = (PoolClass){.chunk_size = (uint32_t)size, .n_chunks = (uint32_t)n};
        return n > 0;
}

bool growth_expected(uint64_t expected, uint64_t largest, uint64_t left, PoolClass *ret)
{
        uint64_t size = pool_roomy(expected), n;

        if (expected <= largest)
                return false;
        n = MIN(GROWTH_EXPECTED, left / size);
        if (n < GROWTH_EXPECTED) {
                size = pool_class_for(expected, 1).chunk_size;
                n = MIN(GROWTH_EXPECTED, left / size);
        }
        *ret = (PoolClass){.chunk_size = (uint32_t)size, .n_chunks = (uint32_t)n};
        return n > 0;
}

/* ---- segments */

static Growth *growth_of(Node *node, uint32_t output)
{
        Growth *growth = node->outputs[output].growth;

        if (growth)
                return growth;
        growth = calloc(1, sizeof(*growth));
        if (!growth)
                return NULL;
        *growth = (Growth){.node = node, .output = output};
        for (unsigned i = 0; i < ELEMENTSOF(growth->segment); i++)
                growth->segment[i].fd = -1;
        node->outputs[output].growth = growth;
        return growth;
}

void growth_drop(NodeOutput *output)
{
        Growth *growth = TAKE_PTR(output->growth);

        if (!growth)
                return;
        timer_disarm(&growth->patience);
        for (unsigned i = 0; i < ELEMENTSOF(growth->segment); i++)
                (void)fd_close(growth->segment[i].fd);
        free(growth);
}

int growth_fd(const NodeOutput *output, uint32_t number)
{
        return output->growth && number < NODE_MSG_MAX_SEGMENTS ? output->growth->segment[number].fd : -1;
}

void growth_take(Node *node, uint32_t output, uint32_t number, int take_fd)
{
        _cleanup_fd_ int fd = take_fd;
        Growth *growth = growth_of(node, output);
        struct stat st;

        if (!growth || number == 0 || number >= NODE_MSG_MAX_SEGMENTS || growth->segment[number].fd >= 0)
                return;
        if (fstat(fd, &st) < 0 || st.st_size <= 0) /* made by a supervisor of ours: a memfd, of a size that is sealed */
                return;
        growth->segment[number] = (GrowthSegment){.fd = TAKE_FD(fd), .size = (uint64_t)st.st_size};
        growth->n_segments = MAX(growth->n_segments, number);
}

static bool under_way(const Growth *growth)
{
        const GrowthSegment *last = &growth->segment[growth->n_segments];

        return growth->n_segments > 0 && last->fd >= 0 && !last->used;
}

static void tell_producer(const Growth *growth, uint32_t number)
{
        NodeMsg msg = {.type = NODE_MSG_SEGMENT,
                .segment = {.output = growth->output, .number = number, .size = growth->segment[number].size}};

        wiring_send(growth->node, &msg, growth->segment[number].fd);
}

static bool is_lossless_only(const Node *node, uint32_t output)
{
        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];

                if (link->source == node && link->output == output && !link->target->plan->inputs[link->input].backpressure)
                        return false;
        }
        return true;
}

/* What the segments that there are can hold: those that were added are of one class of pages. */
static uint64_t largest_message(const Growth *growth)
{
        uint64_t largest = growth->node->outputs[growth->output].pool_largest;

        for (uint32_t i = 1; i <= growth->n_segments; i++)
                if (growth->segment[i].size)
                        largest = MAX(largest, growth->segment[i].size - POOL_DATA_OFFSET);
        return largest;
}

static void say_bound(Growth *growth, const GrowthNeed *need, int r)
{
        const Node *node = growth->node;
        const char *what = is_lossless_only(node, growth->output) ? "send waits for its readers" : "messages are dropped (pool), and counted";
        uint64_t largest = largest_message(growth);
        bool never = need->chunk_size > largest, *said = never ? &growth->said_never : &growth->said;
        char text[400], refused[120];

        if (*said)
                return;
        *said = true;
        if (never) {
                (void)snprintf(refused, sizeof(refused), "it is refused, for no segment holds more than %.1f MiB (expected_message_size makes room beforehand)",
                        (double)largest / (1 << 20));
                what = refused;
        }
        if (r)
                (void)snprintf(text, sizeof(text), "the pool of output %s cannot grow: %s", node->plan->outputs[growth->output], error_text(r));
        else if (need->n_segments >= NODE_MSG_MAX_SEGMENTS && !never)
                (void)snprintf(text, sizeof(text), "the pool of output %s is full at %.1f MiB and has grown %u times, which is as often as it may: %s",
                        node->plan->outputs[growth->output], (double)need->present / (1 << 20), need->n_segments - 1, what);
        else
                (void)snprintf(text, sizeof(text),
                        "the pool of output %s is full at %.1f MiB and may not grow to hold %llu bytes more (shared_memory_pool_size: %.1f MiB): %s",
                        node->plan->outputs[growth->output], (double)need->present / (1 << 20), (unsigned long long)need->chunk_size,
                        (double)growth_bound(need) / (1 << 20),
                        what);
        dataflow_note(node->dataflow, node->plan->id, text);
}

static void refuse(Node *node, uint32_t output, uint64_t chunk_size)
{
        NodeMsg msg = {.type = NODE_MSG_GROW_REFUSED, .grow_refused = {.output = output, .chunk_size = chunk_size}};

        wiring_send(node, &msg, -1);
}

static GrowthNeed need_of(const Growth *growth, uint64_t chunk_size)
{
        const Node *node = growth->node;
        const NodeOutput *output = &node->outputs[growth->output];
        GrowthNeed need = {.bound = node->plan->pool_size,
                .present = output->pool_size,
                .first = output->pool_size,
                .largest = node->plan->expected_message ? MAX(growth->largest, pool_roomy(node->plan->expected_message)) : growth->largest,
                .chunk_size = chunk_size,
                .want = wiring_max_queue(node, growth->output) + CURSOR_N_CLAIMS + 2,
                .n_segments = 1 + growth->n_segments};

        for (uint32_t i = 1; i <= growth->n_segments; i++)
                need.present += growth->segment[i].size;
        return need;
}

static int make_segment(Growth *growth, const PoolClass *class)
{
        uint32_t number = growth->n_segments + 1;
        GrowthSegment *segment = &growth->segment[number];
        int r = pool_create(class, 1, &segment->fd);

        if (r)
                return r > 0 ? error_origin(-EINVAL) : r;
        segment->size = pool_size(class, 1);
        segment->mapped = segment->told = segment->used = false;
        growth->n_segments = number;
        guard_store_order(growth->node, &(struct guard_item){.kind = GUARD_ITEM_POOL, .index = growth_item_index(growth->output, number)},
                &segment->fd, 1); /* before anybody has it */
        return 0;
}

/* ---- what is asked for */

void growth_on_grow(Node *node, const NodeMsg *msg)
{
        uint32_t output = msg->grow.output;
        PoolClass class;
        GrowthNeed need;
        Growth *growth;
        int r = 0;

        if (!node->mapped || output >= node->plan->n_outputs) {
                node_give_up(node, "broke the protocol of its socket: it wants a pool to grow that it does not have");
                return;
        }
        growth = growth_of(node, output);
        if (!growth) { /* no memory for the book: the sender goes on with what there is */
                refuse(node, output, pool_roomy(msg->grow.chunk_size));
                return;
        }
        if (++growth->n_asked > NODE_MSG_MAX_GROWS) {
                node_give_up(node, "broke the protocol of its socket: it wants the pool of output %s to grow without end", node->plan->outputs[output]);
                return;
        }
        if (node->resuming) /* which numbers it uses follows, and then it asks again */
                return;
        if (under_way(growth))
                return;
        growth->largest = MAX(growth->largest, pool_roomy(msg->grow.chunk_size));
        need = need_of(growth, msg->grow.chunk_size);
        if (!node->outputs[output].closed && growth_class(&need, &class)) {
                r = make_segment(growth, &class);
                if (!r) {
                        tell_producer(growth, growth->n_segments);
                        return;
                }
        }
        say_bound(growth, &need, r);
        refuse(node, output, pool_roomy(need.chunk_size));
}

/* ---- what follows */

static bool reads(const Link *link, const Growth *growth)
{
        return link->source == growth->node && link->output == growth->output && link->target->sock >= 0 &&
                (link->state == LINK_WAIT_IN || link->state == LINK_ACTIVE);
}

static void tell_consumer(Link *link, const Growth *growth, uint32_t number)
{
        NodeMsg msg = {.type = NODE_MSG_LINK_SEGMENT,
                .link_segment = {.link = link->number,
                        .generation = link->generation,
                        .number = number,
                        .size = growth->segment[number].size}};

        wiring_send(link->target, &msg, growth->segment[number].fd);
}

static int on_patience(Timer *timer, nsec_t now)
{
        Growth *growth = container_of(timer, Growth, patience);
        Node *node = growth->node;

        (void)now;
        for (uint32_t i = 0; i < node->n_links; i++)
                if (reads(node->links[i], growth) && packet_queue_pending(&node->links[i]->target->out))
                        node_give_up(node->links[i]->target, "does not read its socket");
        return 0;
}

/* Lost with a guard, and expected back by name: until it has its socket, or is given up, it cannot be told. */
static bool is_awaited(const Link *link, const Growth *growth)
{
        return link->source == growth->node && link->output == growth->output && link->target->away && !link->target->stays &&
                (link->state == LINK_WAIT_IN || link->state == LINK_ACTIVE);
}

/* What its producer has mapped is sealed; it is told to all, and used once that is in their sockets. */
static void advance(Growth *growth, uint32_t number)
{
        GrowthSegment *segment = &growth->segment[number];
        NodeMsg msg = {.type = NODE_MSG_SEGMENT_READY, .segment = {.output = growth->output, .number = number}};
        Node *node = growth->node;
        bool pending = false;

        if (!segment->mapped || segment->used || node->resuming)
                return;
        for (uint32_t i = 0; i < node->n_links; i++)
                if (is_awaited(node->links[i], growth))
                        return; /* growth_on_read() follows */
        for (uint32_t i = 0; i < node->n_links; i++) {
                Link *link = node->links[i];

                if (!reads(link, growth))
                        continue;
                if (!segment->told)
                        tell_consumer(link, growth, number);
                pending = pending || (link->target->sock >= 0 && packet_queue_pending(&link->target->out));
        }
        segment->told = true;
        if (pending) {
                if (!growth->patience.loop)
                        timer_arm(node->dataflow->loop, &growth->patience, nsec_add(node->dataflow->loop->now, GROWTH_PATIENCE), on_patience);
                return;
        }
        timer_disarm(&growth->patience);
        segment->used = true;
        wiring_send(node, &msg, -1);
}

void growth_on_read(Node *consumer)
{
        for (uint32_t i = 0; i < consumer->n_links; i++) {
                const Link *link = consumer->links[i];
                Growth *growth = link->target == consumer && link->source->outputs ? link->source->outputs[link->output].growth : NULL; /* no outputs: its dataflow is being freed */

                if (growth && under_way(growth))
                        advance(growth, growth->n_segments);
        }
}

/*
 * The readers may have been told of it, and go on with what they have: so its number names nothing else, even if it is not used. What
 * its producer has in use counts.
 */
static void take_for_lost(Node *node, const NodeMsg *msg)
{
        Growth *growth = growth_of(node, msg->segment.output);

        node->outputs[msg->segment.output].pool_lost |= msg->segment.used;
        if (!growth) {
                node_give_up(node, "there is no memory to take it over");
                return;
        }
        growth->segment[msg->segment.number].size = msg->segment.used ? msg->segment.size : 0;
        growth->n_segments = MAX(growth->n_segments, msg->segment.number);
}

void growth_on_ack(Node *node, const NodeMsg *msg)
{
        uint32_t number = msg->segment.number;
        Growth *growth = msg->segment.output < node->plan->n_outputs ? node->outputs[msg->segment.output].growth : NULL;
        GrowthSegment *segment = growth && growth->segment[number].fd >= 0 ? &growth->segment[number] : NULL;

        if (!segment) {
                if (!node->resuming || msg->segment.output >= node->plan->n_outputs)
                        node_give_up(node, "broke the protocol of its socket: it has mapped what it was not given");
                else
                        take_for_lost(node, msg);
                return;
        }
        if (!segment->mapped && !region_is_sealed(segment->fd, REGION_POOL)) {
                node_give_up(node, "broke the protocol of its socket: it says that it has sealed what it has not");
                return;
        }
        if (!segment->mapped && !region_is_touched(segment->fd, REGION_POOL)) {
                node_give_up(node, "broke the protocol of its socket: it says that it has touched what it has not");
                return;
        }
        segment->mapped = true;
        segment->used = segment->used || (node->resuming && msg->segment.used); /* whoever said READY had told all */
        advance(growth, number);
}

void growth_on_resumed(Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_outputs; i++) {
                Growth *growth = node->outputs[i].growth;

                for (uint32_t k = 1; growth && k <= growth->n_segments; k++) {
                        if (growth->segment[k].fd < 0)
                                continue; /* lost: take_for_lost() */
                        if (!growth->segment[k].mapped)
                                tell_producer(growth, k);
                        else
                                advance(growth, k);
                }
        }
}

void growth_tell_link(Link *link)
{
        const Growth *growth = link->source->outputs[link->output].growth;

        for (uint32_t k = 1; growth && k <= growth->n_segments; k++)
                if (growth->segment[k].fd >= 0 && !region_check(growth->segment[k].fd, REGION_POOL, growth->segment[k].size)) /* sealed: its producer has it */
                        tell_consumer(link, growth, k);
}
