/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate topic info: who sends a topic and who reads it, and what went by meanwhile. From counters in shared memory, looked at twice. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/status.h"
#include "cli/targets.h"
#include "cli/topic.h"

#define INFO_SPAN (5 * NSEC_PER_SEC)

/* Of the output that a topic names, or NULL: borrowed. */
static const json_t *output_of(const json_t *node, const char *id)
{
        json_t *output;
        size_t i;

        json_array_foreach(json_object_get(node, "outputs"), i, output)
                if (strcmp(json_get_text(output, "output"), id) == 0)
                        return output;
        return NULL;
}

static json_t *subscribers_of(const json_t *dataflow, const Topic *topic)
{
        json_t *result = json_array(), *node, *link;
        size_t i, k;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node)
                json_array_foreach(json_object_get(node, "links"), k, link) {
                        json_t *copy;

                        if (strcmp(json_get_text(link, "source"), topic->node) != 0 || strcmp(json_get_text(link, "output"), topic->output) != 0)
                                continue;
                        copy = json_copy(link);
                        if (copy)
                                (void)json_object_set_new(copy, "node", json_string(json_get_text(node, "id")));
                        (void)json_array_append_new(result, copy);
                }
        return result;
}

static int look(TopicCommand *t, const Topic *topic, json_t **ret)
{
        const char *name = topic->dataflow;
        _cleanup_(json_decrefp) json_t *dataflows = NULL;
        json_t *dataflow, *node;
        int transport, status;

        t->session.links = true;
        status = targets_status(&t->session, &name, 1, &dataflows, &transport);
        if (transport)
                return session_fail(&t->session, transport);
        if (status)
                return status;
        dataflow = json_array_get(dataflows, 0);
        node = dataflow_find_node(dataflow, topic->node);
        if (!output_of(node, topic->output)) {
                session_say(&t->session, "node %s has no output %s", topic->node, topic->output);
                return CLI_NO_SUCH;
        }
        *ret = json_incref(dataflow);
        return 0;
}

static json_t *info_of(const Topic *topic, const json_t *before, const json_t *after, double seconds)
{
        const json_t *node = dataflow_find_node(after, topic->node), *was = dataflow_find_node(before, topic->node);
        const json_t *output = output_of(node, topic->output), *then = output_of(was, topic->output);
        bool same = json_get_number(node, "generation") == json_get_number(was, "generation");
        long long published = json_get_number(output, "published"), bytes = json_get_number(output, "bytes");
        long long count = published - (same ? json_get_number(then, "published") : 0), moved = bytes - (same ? json_get_number(then, "bytes") : 0);

        return json_pack("{ss ss ss s{ss ss ss sI} sI sI sb sf sI sI sf sf so}", "topic", topic->name, "dataflow", json_get_text(after, "name"), "uuid",
                json_get_text(after, "uuid"), "publisher", "node", topic->node, "kind", json_get_text(node, "kind"), "state", json_get_text(node, "state"), "generation",
                (json_int_t)json_get_number(node, "generation"), "published", (json_int_t)published, "bytes", (json_int_t)bytes, "closed",
                json_is_true(json_object_get(output, "closed")), "seconds", seconds, "count", (json_int_t)count, "count_bytes", (json_int_t)moved, "rate_hz",
                (double)count / seconds, "bytes_per_s", (double)moved / seconds, "subscribers", subscribers_of(after, topic));
}

static void print_info(const json_t *info)
{
        const json_t *publisher = json_object_get(info, "publisher");
        json_t *subscribers = json_object_get(info, "subscribers"), *link;
        char name[512], bytes[32], rate[32], moved[32];
        size_t i;

        (void)snprintf(name, sizeof(name), "%.400s", json_get_text(info, "topic"));
        format_bytes(bytes, sizeof(bytes), (unsigned long long)json_get_number(info, "bytes"));
        format_bytes(rate, sizeof(rate), (unsigned long long)json_real_value(json_object_get(info, "bytes_per_s")));
        format_bytes(moved, sizeof(moved), (unsigned long long)json_get_number(info, "count_bytes"));
        printf("%s of dataflow %s: bytes%s\n", text_tame(name, false), json_get_text(info, "dataflow"),
                json_is_true(json_object_get(info, "closed")) ? "; nothing more will come" : "");
        printf("  publisher    %s, %s, life %lld: %lld message%s (%s)\n", json_get_text(publisher, "node"), json_get_text(publisher, "state"),
                json_get_number(publisher, "generation"), json_get_number(info, "published"), json_get_number(info, "published") == 1 ? "" : "s", bytes);
        printf("  in %-5.1f s   %lld message%s, %.1f Hz, %s, %s/s\n", json_real_value(json_object_get(info, "seconds")), json_get_number(info, "count"),
                json_get_number(info, "count") == 1 ? "" : "s", json_real_value(json_object_get(info, "rate_hz")), moved, rate);
        json_array_foreach(subscribers, i, link) {
                printf("  subscriber   %s/%s, ", json_get_text(link, "node"), json_get_text(link, "input"));
                status_print_link(link);
        }
        if (json_array_size(subscribers) == 0)
                puts("  no subscriber");
}

int topic_info(TopicCommand *t)
{
        _cleanup_(json_decrefp) json_t *before = NULL, *after = NULL, *info = NULL;
        nsec_t span = t->span ? t->span : INFO_SPAN, begun;
        struct pollfd p = {.events = POLLIN};
        Topic topic;
        int status, r;

        status = topic_find(&t->session, t->dataflow, t->topics[0], &topic);
        if (!status)
                status = look(t, &topic, &before);
        if (status)
                return status;
        r = session_catch(&t->session);
        if (r)
                return session_fail(&t->session, r);
        begun = clock_now();
        p.fd = t->session.signal_fd;
        while (clock_now() < begun + span)
                if (poll(&p, 1, nsec_poll_ms(begun + span, clock_now())) > 0 && session_signal(&t->session))
                        break; /* what there is until now, then */
        status = look(t, &topic, &after);
        if (status)
                return status;
        info = info_of(&topic, before, after, (double)(clock_now() - begun) / 1e9);
        if (t->session.json)
                return session_result(&t->session, TAKE_PTR(info));
        print_info(info);
        return CLI_OK;
}
