/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growth of pools; the steps are in protocol/node_msg.h. The producer asks when a chunk is not to be had without giving up what somebody
 * may still read, maps and touches what comes, and uses it once every consumer has been told.
 */
#include <errno.h>

#include "base/hot.h"
#include "node/node-internal.h"

_Static_assert(NODE_MSG_MAX_SEGMENTS == POOL_MAX_SEGMENTS, "said in two rooms");

/* -------- of our outputs -------- */

static int ack(tg_node *node, uint32_t output, uint32_t number)
{
        return socket_answer(node, &(NodeMsg){
                .type = NODE_MSG_SEGMENT_ACK,
                .segment = {.output = output,
                        .number = number,
                        .size = node->outputs[output].grown[number].size,
                        .used = number < node->outputs[output].n_segments},
        });
}

int grow_segment(tg_node *node, const NodeMsg *msg, int *fds)
{
        Region region = REGION_INIT;
        Output *output;
        uint32_t number = msg->segment.number;
        int r;

        if (msg->segment.output >= node->n_outputs)
                return error_origin(-EPROTO);
        output = &node->outputs[msg->segment.output];
        if (number < output->n_segments && !output->grown[number].map)
                return error_origin(-EPROTO); /* one that was left out */
        if (number < output->n_segments)
                return ack(node, msg->segment.output, number);
        r = region_map_write(&region, fds[0], REGION_POOL, msg->segment.size);
        if (r == -EPERM && output->grown[number].map) /* sealed: it is the one that we have */
                return ack(node, msg->segment.output, number);
        if (r == -ENOMEM) { /* it lives on with what it has, and does not ask again */
                lock_take(&output->lock);
                output->grow_refused = 1;
                output->grow_asked = 0;
                output->grow_late = false;
                lock_give(&output->lock);
                return 0;
        }
        if (r)
                return r > 0 || r == -EPERM ? error_origin(-EPROTO) : error_fold(r);
        if (region_seal(fds[0], REGION_POOL)) {
                region_unmap(&region);
                return error_origin(-EPROTO);
        }
        region_unmap(&output->grown[number]);
        output->grown[number] = region;
        return ack(node, msg->segment.output, number);
}

int grow_ready(tg_node *node, const NodeMsg *msg, int *fds)
{
        Output *output;
        uint32_t number = msg->segment.number;
        int r = 0;

        if (msg->segment.output >= node->n_outputs)
                return error_origin(-EPROTO);
        output = &node->outputs[msg->segment.output];
        if (number < output->n_segments)
                return 0;
        if (!output->grown[number].map)
                return error_origin(-EPROTO);
        lock_take(&output->lock);
        while (r == 0 && output->n_segments < number) { /* lost with a supervisor and its guard before it was used */
                r = ring_writer_skip_segment(output->writer);
                region_unmap(&output->grown[output->n_segments]);
                output->n_segments += r == 0;
        }
        if (r == 0)
                r = ring_writer_add_segment(output->writer, &output->grown[number]);
        output->n_segments += r == 0;
        output->grow_asked = 0;
        output->grow_late = false;
        lock_give(&output->lock);
        return r > 0 ? error_origin(-EPROTO) : r ? error_fold(r) : 0;
}

int grow_refused(tg_node *node, const NodeMsg *msg, int *fds)
{
        Output *output;

        if (msg->grow_refused.output >= node->n_outputs)
                return error_origin(-EPROTO);
        output = &node->outputs[msg->grow_refused.output];
        lock_take(&output->lock);
        output->grow_refused = output->grow_refused ? MIN(output->grow_refused, msg->grow_refused.chunk_size) : msg->grow_refused.chunk_size;
        output->grow_asked = 0;
        output->grow_late = false;
        lock_give(&output->lock);
        return 0;
}

int grow_report(tg_node *node)
{
        int r = 0;

        for (uint32_t i = 0; i < node->n_outputs; i++)
                for (uint32_t k = 1; r == 0 && k < ELEMENTSOF(node->outputs[i].grown); k++)
                        r = node->outputs[i].grown[k].map ? ack(node, i, k) : 0;
        return r;
}

static int ask(tg_node *node, Output *output)
{
        return socket_answer(node, &(NodeMsg){
                .type = NODE_MSG_GROW,
                .grow = {.output = (uint32_t)(output - node->outputs), .chunk_size = output->grow_asked},
        });
}

int grow_ask_again(tg_node *node)
{
        int r = 0;

        for (unsigned i = 0; r == 0 && i < node->n_outputs; i++)
                if (node->outputs[i].grow_asked)
                        r = ask(node, &node->outputs[i]);
        return r;
}

HOT bool grow_may(const Output *output, uint64_t chunk_size)
{
        return output->n_segments < POOL_MAX_SEGMENTS && chunk_size <= REGION_MAX_SIZE / 2 &&
                (!output->grow_refused || pool_roomy(chunk_size) < output->grow_refused);
}

/* Sooner or later; else the supervisor is lost for good. */
static bool somebody_answers(const tg_node *node)
{
        return node->fd >= 0 || socket_is_awaited(node);
}

/* What was refused for a smaller one is not asked for: so it is news to the supervisor. */
void grow_tell(Output *output, uint64_t chunk_size)
{
        tg_node *node = output->node;

        if (output->grow_told || chunk_size <= output->grow_largest || chunk_size > REGION_MAX_SIZE / 2)
                return;
        lock_take(&node->lock);
        if (node->fd >= 0 && !output->grow_asked) {
                output->grow_told = true;
                (void)socket_answer(node, &(NodeMsg){ /* running: trouble became an event */
                        .type = NODE_MSG_GROW,
                        .grow = {.output = (uint32_t)(output - node->outputs), .chunk_size = chunk_size},
                });
        }
        lock_give(&node->lock);
}

/* Only the thread that has the output's turn is here, so one at a time asks. */
int grow_wait(Output *output, uint64_t chunk_size, nsec_t span, nsec_t deadline)
{
        tg_node *node = output->node;
        nsec_t until = MIN(nsec_add(clock_now(), span), deadline);
        unsigned n;
        bool mapped = false;
        int r = 0;

        lock_take(&node->lock);
        n = output->n_segments; /* written under both locks, as what grow_may() reads */
        if (!grow_may(output, chunk_size)) {
                lock_give(&node->lock);
                return 1;
        }
        if (!output->grow_asked && somebody_answers(node)) {
                lock_take(&output->lock);
                output->grow_asked = chunk_size;
                lock_give(&output->lock);
                output->grow_largest = MAX(output->grow_largest, chunk_size);
                r = ask(node, output);
        }
        while (r == 0 && output->grow_asked && somebody_answers(node) && !__atomic_load_n(&output->closed, __ATOMIC_RELAXED) && !node_told_to_stop(node) && clock_now() < until) {
                r = node_wait(node, node->pulse, MIN(until, nsec_add(clock_now(), NODE_RELOOK_NS))); /* a new supervisor does not ring, nor the page */
                if (!mapped && output->grown[n].map) { /* half way: to touch it may have taken long */
                        mapped = true;
                        until = MIN(nsec_add(clock_now(), span), deadline);
                }
        }
        lock_take(&output->lock);
        if ((r && r != -EINTR) || !somebody_answers(node))
                output->grow_asked = 0;
        output->grow_late = output->grow_asked != 0;
        lock_give(&output->lock);
        lock_give(&node->lock);
        return r == -EINTR ? r : output->n_segments != n;
}

/* -------- of our inputs -------- */

static int source_add(Source *source, uint32_t number, Region *take)
{
        if (ring_reader_add_segment(&source->reader, number, take))
                return error_origin(-EPROTO);
        source->grown[number] = *take;
        *take = REGION_INIT;
        source->n_grown++;
        source->lacks_segment = false; /* or it is said again */
        return 0;
}

void grow_forget(Input *input)
{
        for (unsigned i = 0; i < ELEMENTSOF(input->coming); i++)
                region_unmap(&input->coming[i]);
        input->coming_generation = 0;
}

int grow_attach(Input *input, Source *source, uint32_t generation)
{
        int r = 0;

        for (uint32_t i = 1; r == 0 && i < ELEMENTSOF(input->coming); i++)
                if (input->coming[i].map && input->coming_generation == generation)
                        r = source_add(source, i, &input->coming[i]);
        grow_forget(input);
        return r;
}

int grow_link(tg_node *node, const NodeMsg *msg, int *fds)
{
        uint32_t generation = msg->link_segment.generation, number = msg->link_segment.number;
        Input *input = input_by_link(node, msg->link_segment.link);
        bool here = input && input->attached && generation == input->generation;
        Region region = REGION_INIT;
        int r;

        if (!input)
                return error_origin(-EPROTO);
        if ((input->attached && generation < input->generation) || (here && (!input->now || input->now->grown[number].map)))
                return 0;
        if (!here && generation == input->coming_generation && input->coming[number].map)
                return 0;
        r = links_map_other(node, &region, fds[0], REGION_POOL, msg->link_segment.size, msg->link_segment.link, generation);
        if (r == -ENOMEM) { /* it costs what lies in there (source_lacks_segment()), and not the node its connection */
                input->short_of_memory = generation;
                return 0;
        }
        if (r)
                return r == NODE_E_NOTHING ? 0 : r;
        if (here) {
                r = source_add(input->now, number, &region);
                region_unmap(&region);
                return r;
        }
        if (generation != input->coming_generation)
                grow_forget(input);
        input->coming_generation = generation;
        input->coming[number] = region;
        return 0;
}
