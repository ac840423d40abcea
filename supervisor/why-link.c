/* SPDX-License-Identifier: Apache-2.0 */
/* What libtidegate waits for: room in a consumer's queue, or a message. The supervisor knows the links, and has read their counters. */
#include "supervisor/why.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

void why_read_context(Why *why)
{
        json_t *links, *link;
        size_t i;

        if (why->context_fd < 0)
                return;
        why->context = json_loadfd(why->context_fd, 0, NULL);
        links = json_object_get(why->context, "links");
        why->links = calloc(json_array_size(links) + 1, sizeof(*why->links));
        json_array_foreach(links, i, link) {
                if (!why->links)
                        return;
                why->links[why->n_links++] = (WhyLink){.from = (uint32_t)json_integer_value(json_object_get(link, "from")),
                        .to = (uint32_t)json_integer_value(json_object_get(link, "to")),
                        .output = json_string_value(json_object_get(link, "output")),
                        .input = json_string_value(json_object_get(link, "input")),
                        .depth = (uint64_t)json_integer_value(json_object_get(link, "depth")),
                        .active = json_is_true(json_object_get(link, "active")),
                        .wants_room = json_is_true(json_object_get(link, "wants_room"))};
        }
}

static int node_with(const Why *why, uint32_t number)
{
        for (size_t i = 0; i < why->n_nodes; i++)
                if (why->nodes[i].node == number)
                        return (int)i;
        return -1;
}

const char *why_id(const Why *why, uint32_t node)
{
        const char *id = json_string_value(json_array_get(json_object_get(why->context, "ids"), node));

        return id ? id : "?";
}

static void blame_link(const Why *why, WhyThread *t, const WhyLink *link)
{
        uint32_t other = link->wants_room ? link->to : link->from;

        t->link = true;
        t->target_node = node_with(why, other);
        t->target_pid = t->target_node >= 0 ? why->nodes[t->target_node].leader : 0;
        t->definite = link->wants_room;
        (void)snprintf(t->object, sizeof(t->object), "%.64s:%.64s -> %.64s:%.64s", why_id(why, link->from), link->output, why_id(why, link->to), link->input);
}

bool why_blame_links(Why *why, WhyThread *t)
{
        uint32_t own = why->nodes[t->node].node;
        const WhyLink *input = NULL;
        bool linked = false;
        unsigned n = 0;

        if (t->task.pid != why->nodes[t->node].leader && why->nodes[t->node].leader > 0)
                return false; /* a node's library lives in its first process */
        for (size_t i = 0; i < why->n_links; i++) {
                const WhyLink *link = &why->links[i];

                if (!link->output || !link->input)
                        continue;
                linked = linked || link->from == own || link->to == own;
                if (link->from == own && link->wants_room) {
                        blame_link(why, t, link);
                        if (t->target_node >= 0)
                                why_say(t, BLAME_BACKPRESSURE, "waits for room in `%.64s`", link->output);
                        else
                                why_say(t, BLAME_BACKPRESSURE, "waits for room in `%.64s`: consumer %.128s does not run now", link->output, why_id(why, link->to));
                        return true;
                }
                if (link->to == own && link->active) {
                        input = input ? input : link;
                        n++;
                }
        }
        if (!linked || t->call.number < 0 || !why_watches_links(why, t))
                return false;
        if (!input) {
                why_say(t, BLAME_SLEEPING, "waits in libtidegate for a time, or to be stopped: no input of it is open");
                return true;
        }
        blame_link(why, t, input);
        if (n > 1) {
                t->link = false;
                t->target_pid = 0; /* any of them could end it */
                why_say(t, BLAME_INPUT, "waits for messages of its %u inputs; the first is `%.64s` from %.128s", n, input->input, why_id(why, input->from));
        } else {
                why_say(t, BLAME_INPUT, "waits for messages of input `%.64s` from %.128s", input->input, why_id(why, input->from));
        }
        return true;
}
