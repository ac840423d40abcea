/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handshake's first half: who we are, and the regions that we write. The second half (links) can also come at any
 * later time and is links.c. All of it may come again, from a supervisor that does not know how far its predecessor got:
 * until MAPPED was said it begins anew, after that what is mapped stays.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "node/node-internal.h"

_Static_assert(NODE_MSG_MAX_SLOTS == RING_MAX_SLOTS && NODE_MSG_QUEUE_MAX == RING_MAX_QUEUE, "said in two rooms");
_Static_assert(NODE_MSG_REGION_MAX == REGION_MAX_SIZE, "said in two rooms");

/* A region the supervisor made for us: if it is not what was announced, the supervisor is at fault. *@fd is kept until it is sealed. */
static int map_own(tg_node *node, Region *ret, int *fd, RegionKind kind, uint64_t size)
{
        struct Unsealed *more = realloc(node->unsealed, (node->n_unsealed + 1) * sizeof(*more));
        int r;

        if (!more)
                return error_origin(-ENOMEM);
        node->unsealed = more;
        r = region_map_write(ret, *fd, kind, size);
        if (r == -EPERM) /* sealed against writing already */
                r = REGION_E_SEALS;
        if (r)
                return r > 0 ? error_origin(-EPROTO) : error_fold(r);
        more[node->n_unsealed++] = (struct Unsealed){TAKE_FD(*fd), kind};
        return 0;
}

static void forget_unsealed(tg_node *node)
{
        while (node->n_unsealed > 0)
                (void)fd_close(node->unsealed[--node->n_unsealed].fd);
        free(node->unsealed);
        node->unsealed = NULL;
}

/* All of them at once, behind the last: until then a successor may send them again, and what is sealed cannot be mapped for writing any more. */
static int seal_own(tg_node *node)
{
        for (unsigned i = 0; i < node->n_unsealed; i++)
                if (region_seal(node->unsealed[i].fd, node->unsealed[i].kind))
                        return error_origin(-EPROTO);
        forget_unsealed(node);
        return 0;
}

static int copy_text(char **ret, const char *text)
{
        *ret = strdup(text);
        return *ret ? 0 : error_origin(-ENOMEM);
}

static void print_uuid(char ret[37], const uint8_t uuid[16])
{
        char *at = ret;

        for (unsigned i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        *at++ = '-';
                at += snprintf(at, 3, "%02x", uuid[i]);
        }
}

static int make_ports(tg_node *node, unsigned n_inputs, unsigned n_outputs)
{
        node->inputs = calloc(n_inputs + 1, sizeof(*node->inputs));
        node->outputs = calloc(n_outputs + 1, sizeof(*node->outputs));
        if (!node->inputs || !node->outputs)
                return error_origin(-ENOMEM);
        for (unsigned i = 0; i < n_inputs; i++)
                node->inputs[i] = (Input){.node = node, .timeout_at = NSEC_NEVER};
        for (unsigned i = 0; i < n_outputs; i++) {
                node->outputs[i] = (Output){.node = node};
                list_init(&node->outputs[i].links);
        }
        node->n_inputs = n_inputs;
        node->n_outputs = n_outputs;
        return 0;
}

static void output_free(Output *output)
{
        output->writer = ring_writer_free(output->writer);
        region_unmap(&output->ring);
        region_unmap(&output->pool);
        for (unsigned i = 0; i < ELEMENTSOF(output->grown); i++)
                region_unmap(&output->grown[i]);
        free(output->peers);
        free(output->id);
}

void setup_undo(tg_node *node)
{
        for (unsigned i = 0; i < node->n_outputs; i++)
                output_free(&node->outputs[i]);
        for (unsigned i = 0; i < node->n_inputs; i++) {
                region_unmap(&node->inputs[i].cursor);
                grow_forget(&node->inputs[i]);
                free(node->inputs[i].id);
        }
        free(node->inputs);
        free(node->outputs);
        node->inputs = NULL;
        node->outputs = NULL;
        node->n_inputs = node->n_outputs = node->n_links_in = node->n_open_in = 0;
        node->timed = false;
        region_unmap(&node->control);
        region_unmap(&node->bell_map);
        forget_unsealed(node);
        node->bell = (Bell){};
        node->self.bell = (BellPeer){};
}

/* Any thread may be looking at the page, so a new one is moved to where the old one is: there is no moment without. */
static int take_control(tg_node *node, int fd, uint64_t size)
{
        Region page = REGION_INIT;
        int r;

        r = region_map_read(&page, fd, REGION_CONTROL, size);
        if (r)
                return r > 0 ? error_origin(-EPROTO) : error_fold(r);
        if (page.size != control_size())
                r = error_origin(-EPROTO);
        else if (!node->control.map) {
                node->control = page;
                return 0;
        } else if (mremap(page.map, page.size, page.size, MREMAP_MAYMOVE | MREMAP_FIXED, node->control.map) == MAP_FAILED)
                r = error_origin(-errno);
        else
                return 0;
        region_unmap(&page);
        return r;
}

static int take_identity(tg_node *node, const NodeMsg *msg)
{
        _cleanup_free_ char *id = NULL, *dataflow = NULL;
        int r;

        r = copy_text(&id, msg->welcome.node);
        if (r == 0)
                r = copy_text(&dataflow, msg->welcome.dataflow);
        if (r)
                return r;
        free(node->id);
        free(node->dataflow);
        node->id = TAKE_PTR(id);
        node->dataflow = TAKE_PTR(dataflow);
        memcpy(node->uuid, msg->welcome.uuid, sizeof(node->uuid));
        print_uuid(node->uuid_text, node->uuid);
        node->generation = msg->welcome.generation;
        return 0;
}

static bool is_our_welcome(const tg_node *node, const NodeMsg *msg)
{
        if (node->state == NODE_GREETING) /* who asked to be a node is that one or none */
                return !node->id || strcmp(node->id, msg->welcome.node) == 0;
        return memcmp(node->uuid, msg->welcome.uuid, sizeof(node->uuid)) == 0 && strcmp(node->id, msg->welcome.node) == 0 &&
                node->generation == msg->welcome.generation;
}

static int welcome_anew(tg_node *node, const NodeMsg *msg, int *fds)
{
        int r;

        setup_undo(node);
        node->state = NODE_SETTING_UP;
        r = take_control(node, fds[0], msg->welcome.control_size);
        if (r == 0)
                r = map_own(node, &node->bell_map, &fds[1], REGION_BELL, msg->welcome.bell_size);
        if (r)
                return r;
        if (node->bell_map.size != bell_size())
                return error_origin(-EPROTO);
        bell_init(&node->bell, &node->bell_map);
        bell_peer_init(&node->self.bell, &node->bell_map);
        r = take_identity(node, msg);
        return r ? r : make_ports(node, msg->welcome.n_inputs, msg->welcome.n_outputs);
}

static int welcome_again(tg_node *node, const NodeMsg *msg, int *fds)
{
        if (msg->welcome.n_inputs != node->n_inputs || msg->welcome.n_outputs != node->n_outputs)
                return error_origin(-EPROTO);
        return take_control(node, fds[0], msg->welcome.control_size);
}

int setup_welcome(tg_node *node, const NodeMsg *msg, int *fds)
{
        int r;

        if (!is_our_welcome(node, msg))
                return error_origin(-EPROTO);
        r = node->state >= NODE_READY ? welcome_again(node, msg, fds) : welcome_anew(node, msg, fds);
        if (r)
                return r;
        if (node->state == NODE_RUNNING)
                return 0;
        node->wait_mode = msg->welcome.wait;
        node->restart_count = msg->welcome.restart_count;
        node->start_deadline = msg->welcome.start_deadline_ns ? msg->welcome.start_deadline_ns : NSEC_NEVER;
        return 0;
}

int setup_output(tg_node *node, const NodeMsg *msg, int *fds)
{
        Output *output;
        int r;

        if (msg->output.index >= node->n_outputs)
                return error_origin(-EPROTO);
        output = &node->outputs[msg->output.index];
        if (node->state >= NODE_READY)
                return strcmp(output->id, msg->output.id) == 0 && output->ring.size == msg->output.ring_size &&
                                output->pool.size == msg->output.pool_size ? 0 : error_origin(-EPROTO);
        if (output->writer)
                return error_origin(-EPROTO);
        r = map_own(node, &output->ring, &fds[0], REGION_RING, msg->output.ring_size);
        if (r == 0)
                r = map_own(node, &output->pool, &fds[1], REGION_POOL, msg->output.pool_size);
        if (r)
                return r;
        if (msg->output.ring_size != ring_size(msg->output.n_slots))
                return error_origin(-EPROTO);
        r = copy_text(&output->id, msg->output.id);
        if (r)
                return r;
        r = ring_writer_new(&output->writer, &output->ring, NODE_MAX_LINKS);
        if (r == 0)
                r = ring_writer_add_segment(output->writer, &output->pool);
        if (r == 0)
                ring_writer_set_probe_mask(output->writer, control_probe_mask(&node->control)); /* a new page comes to stand there, too */
        output->n_segments = r == 0;
        return r > 0 ? error_origin(-EPROTO) : r ? error_fold(r) : 0;
}

int setup_input(tg_node *node, const NodeMsg *msg, int *fds)
{
        Input *input;
        int r;

        if (msg->input.index >= node->n_inputs)
                return error_origin(-EPROTO);
        input = &node->inputs[msg->input.index];
        if (node->state >= NODE_READY)
                return strcmp(input->id, msg->input.id) == 0 && input->link == msg->input.link ? 0 : error_origin(-EPROTO);
        if (input->known)
                return error_origin(-EPROTO);
        r = copy_text(&input->id, msg->input.id);
        if (r)
                return r;
        input->queue_size = msg->input.queue_size;
        input->policy = msg->input.policy == NODE_QUEUE_BACKPRESSURE ? RING_BACKPRESSURE : RING_DROP_OLDEST;
        input->timer_ns = msg->input.timer_ns;
        input->timeout_ns = msg->input.timeout_ns;
        node->timed |= input->timer_ns || input->timeout_ns;
        if (!input->timer_ns) {
                r = map_own(node, &input->cursor, &fds[0], REGION_CURSOR, msg->input.cursor_size);
                if (r)
                        return r;
                if (input->cursor.size != cursor_size())
                        return error_origin(-EPROTO);
                input->link = msg->input.link;
                node->n_links_in++;
                node->n_open_in++;
        }
        input->known = true;
        return 0;
}

int setup_end(tg_node *node)
{
        int r;

        if (node->state >= NODE_READY)
                return socket_send(node, &(NodeMsg){.type = NODE_MSG_MAPPED});
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (!node->inputs[i].known)
                        return error_origin(-EPROTO);
        for (unsigned i = 0; i < node->n_outputs; i++)
                if (!node->outputs[i].writer)
                        return error_origin(-EPROTO);
        r = seal_own(node);
        if (r)
                return r;
        node->state = NODE_READY;
        return socket_send(node, &(NodeMsg){.type = NODE_MSG_MAPPED});
}

void setup_start(tg_node *node)
{
        nsec_t now = clock_now();

        if (node->state == NODE_RUNNING)
                return;
        for (unsigned i = 0; i < node->n_inputs; i++)
                if (node->inputs[i].timer_ns)
                        node->inputs[i].tick_at = nsec_add(now, node->inputs[i].timer_ns);
        node->state = NODE_RUNNING;
}
