/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Observe: read-only descriptors of what an output writes, for a reader of whom nobody else knows (shm/observer.h).
 *
 * What is handed out cannot be written by anybody but its producer, who has it mapped: that is what its seals say. The descriptors are
 * made anew for that, opened for reading, and the file's own mode says the same to whoever opens it again by way of procfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/send.h"
#include "protocol/control_msg.h"
#include "shm/ring.h"
#include "supervisor/growth.h"
#include "supervisor/server-internal.h"

_Static_assert(SEND_MAX_FDS >= 1 + POOL_MAX_SEGMENTS, "a ring and all segments of a pool go together");
_Static_assert(NODE_MSG_MAX_SEGMENTS <= POOL_MAX_SEGMENTS, "");

/* Nothing here can block: a memfd of ours, by a link in procfs that leads nowhere else. */
static int open_read_only(int fd)
{
        char path[40];
        int copy;

        if (fchmod(fd, 0444) < 0)
                return -errno;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        copy = open(path, O_RDONLY | O_CLOEXEC);
        return copy < 0 ? -errno : copy;
}

static int find_output(const Node *node, const char *id)
{
        for (size_t i = 0; i < node->plan->n_outputs; i++)
                if (strcmp(node->plan->outputs[i], id) == 0)
                        return (int)i;
        return -1;
}

/* Tells one ring from the next one of the same output, also to a successor of ours. 0: there is none that may be read. */
static json_int_t ring_id(const NodeOutput *output)
{
        struct stat st;

        if (output->ring_fd < 0 || region_check(output->ring_fd, REGION_RING, output->ring_size) || fstat(output->ring_fd, &st) < 0)
                return 0;
        return (json_int_t)st.st_ino;
}

static int segment_fd(const NodeOutput *output, uint32_t number)
{
        return number == 0 ? output->pool_fd : growth_fd(output, number);
}

static uint64_t segment_size(const NodeOutput *output, uint32_t number)
{
        return number == 0 ? output->pool_size : output->growth->segment[number].size;
}

/* Segments that may be read: 0 .. n - 1; of these one may be lost. */
static uint32_t count_segments(const NodeOutput *output)
{
        uint32_t n = 0;

        for (uint32_t i = 0; i < NODE_MSG_MAX_SEGMENTS; i++)
                if (segment_fd(output, i) >= 0 && !region_check(segment_fd(output, i), REGION_POOL, segment_size(output, i)))
                        n = i + 1;
        return n;
}

typedef struct Regions {
        json_t *array;
        int fds[SEND_MAX_FDS];
        size_t n_fds;
} Regions;

static int regions_add(Regions *regions, const char *kind, uint32_t number, int fd, uint64_t size)
{
        json_t *region = json_pack("{ss si sI si}", "kind", kind, "number", (int)number, "size", (json_int_t)size, "fd", (int)regions->n_fds);
        int copy = region ? open_read_only(fd) : -ENOMEM;

        if (copy < 0) {
                json_decref(region);
                return copy;
        }
        regions->fds[regions->n_fds++] = copy;
        return json_array_append_new(regions->array, region) ? -ENOMEM : 0;
}

static int regions_open(Regions *regions, const NodeOutput *output, bool ring, uint32_t from, uint32_t to)
{
        int r = ring ? regions_add(regions, "ring", 0, output->ring_fd, output->ring_size) : 0;

        for (uint32_t i = from; !r && i < to; i++)
                if (segment_fd(output, i) >= 0 && !region_check(segment_fd(output, i), REGION_POOL, segment_size(output, i)))
                        r = regions_add(regions, "pool", i, segment_fd(output, i), segment_size(output, i));
        return r;
}

static void reply_observed(Client *client, const Node *node, const NodeOutput *output, const Parameters *parameters)
{
        json_int_t ring = ring_id(output);
        bool known = ring > 0 && ring == parameters->ring;
        uint32_t n = ring > 0 ? count_segments(output) : 0;
        uint32_t from = known && parameters->segments > 0 ? (uint32_t)MIN(parameters->segments, (json_int_t)n) : 0;
        bool over = node_is_final(node) || (output->closed && node->state == NODE_RUNNING);
        Regions regions = {.array = json_array()};
        int r = !regions.array ? -ENOMEM : ring > 0 ? regions_open(&regions, output, !known, from, n) : 0;

        if (r) {
                for (size_t i = 0; i < regions.n_fds; i++)
                        (void)fd_close(regions.fds[i]);
                json_decref(regions.array);
                client_fail(client, CONTROL_E_REFUSED, "%.128s/%.128s cannot be opened for reading: %s", node->plan->id, parameters->output, error_text(r));
                return;
        }
        for (size_t i = 0; i < regions.n_fds; i++)
                control_send_fd(client->control, regions.fds[i]);
        client_reply(client, json_pack("{s{ss sI ss sb sI si so}}", "observed", "uuid", node->dataflow->uuid_text, "generation",
                                     (json_int_t)node->generation, "state", node_state_to_string(node->state), "over", over, "ring", ring, "segments", (int)n,
                                     "regions", regions.array));
}

static void observe(Client *client, const Parameters *parameters)
{
        Flow *flow = flow_resolve(client, parameters->dataflow);
        Node *node = flow ? flow_node(client, flow, parameters->node) : NULL;
        int index;

        if (!node)
                return;
        index = find_output(node, parameters->output);
        if (index < 0)
                client_fail(client, CONTROL_E_NO_OUTPUT, "node %.128s has no output %.128s", node->plan->id, parameters->output);
        else if (flow->dataflow->state >= DATAFLOW_ENDED)
                client_fail(client, CONTROL_E_NOT_RUNNING, "dataflow %.128s has ended", flow->dataflow->plan->name);
        else if (!control_is_read(client->control)) /* what lies unread in a socket keeps descriptors, of which there are not many */
                client_fail(client, CONTROL_E_QUOTA, "read the last answer before you ask for more descriptors");
        else
                reply_observed(client, node, &node->outputs[index], parameters);
}

json_t *describe_outputs(const Node *node)
{
        json_t *outputs = json_array();

        for (size_t i = 0; outputs && i < node->plan->n_outputs; i++) {
                const NodeOutput *output = &node->outputs[i];
                json_t *object = json_pack("{ss sb}", "output", node->plan->outputs[i], "closed", output->closed || node_is_final(node));
                Region map = REGION_INIT;
                RingStatus status;

                if (object && output->ring_fd >= 0 && !region_map_status(&map, output->ring_fd, REGION_RING, output->ring_size)) {
                        ring_read_status(&map, &status);
                        region_unmap(&map);
                        (void)json_object_set_new(object, "published", json_integer((json_int_t)MIN(status.head, RING_INDEX_LIMIT)));
                        (void)json_object_set_new(object, "bytes", json_integer((json_int_t)MIN(status.published_bytes, RING_INDEX_LIMIT)));
                }
                (void)json_array_append_new(outputs, object);
        }
        return outputs;
}

const Method methods_observe[] = {
        {.name = "Observe",
                .takes = {PARAM_DATAFLOW | PARAM_REQUIRED, PARAM_NODE | PARAM_REQUIRED, PARAM_OUTPUT | PARAM_REQUIRED, PARAM_RING, PARAM_SEGMENTS, PARAM_TIMEOUT_MS},
                .run = observe},
        {},
};
