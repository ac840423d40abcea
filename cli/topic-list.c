/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate topic list: outputs, who reads them, and how often they send. From the counters that status shows, looked at twice. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/targets.h"
#include "cli/topic.h"

#define LIST_SPAN 300 /* ms between both looks */

/* "NODE/INPUT" of each link that an output feeds. */
static json_t *subscribers_of(const json_t *dataflow, const char *node, const char *output)
{
        json_t *result = json_array(), *other, *link;
        size_t i, k;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, other)
                json_array_foreach(json_object_get(other, "links"), k, link)
                        if (strcmp(json_get_text(link, "source"), node) == 0 && strcmp(json_get_text(link, "output"), output) == 0)
                                (void)json_array_append_new(result, json_sprintf("%s/%s", json_get_text(other, "id"), json_get_text(link, "input")));
        return result;
}

static const json_t *find_output(const json_t *dataflows, const char *uuid, const char *node, long long generation, const char *output)
{
        json_t *dataflow, *object;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow) {
                const json_t *found = strcmp(json_get_text(dataflow, "uuid"), uuid) == 0 ? dataflow_find_node(dataflow, node) : NULL;

                if (found && json_get_number(found, "generation") == generation)
                        json_array_foreach(json_object_get(found, "outputs"), k, object)
                                if (strcmp(json_get_text(object, "output"), output) == 0)
                                        return object;
        }
        return NULL;
}

static json_t *topics_of(const json_t *before, const json_t *after, double seconds)
{
        json_t *topics = json_array(), *dataflow, *node, *output;
        size_t i, k, l;

        json_array_foreach(after, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        json_array_foreach(json_object_get(node, "outputs"), l, output) {
                                const char *id = json_get_text(output, "output"), *uuid = json_get_text(dataflow, "uuid");
                                const json_t *then = find_output(before, uuid, json_get_text(node, "id"), json_get_number(node, "generation"), id);
                                json_t *published = json_object_get(output, "published");
                                json_t *topic = json_pack("{so ss ss ss ss so sb}", "topic", json_sprintf("%s/%s", json_get_text(node, "id"), id), "dataflow",
                                        json_get_text(dataflow, "name"), "uuid", uuid, "node", json_get_text(node, "id"), "output", id, "subscribers",
                                        subscribers_of(dataflow, json_get_text(node, "id"), id), "closed", json_is_true(json_object_get(output, "closed")));

                                if (topic && published) {
                                        (void)json_object_set(topic, "published", published);
                                        (void)json_object_set(topic, "bytes", json_object_get(output, "bytes"));
                                }
                                if (topic && published && then && json_object_get(then, "published"))
                                        (void)json_object_set_new(topic, "rate_hz",
                                                json_real((double)(json_integer_value(published) - json_get_number(then, "published")) / seconds));
                                (void)json_array_append_new(topics, topic);
                        }
        return topics;
}

static void print_topic(const json_t *topic, int width)
{
        json_t *subscribers = json_object_get(topic, "subscribers"), *name;
        char label[512], rate[40] = "-";
        size_t i;

        (void)snprintf(label, sizeof(label), "%.200s:%.280s", json_get_text(topic, "dataflow"), json_get_text(topic, "topic"));
        if (json_is_true(json_object_get(topic, "closed")))
                (void)snprintf(rate, sizeof(rate), "closed");
        else if (json_object_get(topic, "rate_hz"))
                (void)snprintf(rate, sizeof(rate), "%.1f Hz", json_real_value(json_object_get(topic, "rate_hz")));
        printf("%-*s  %10lld sent  %12s", width, text_tame(label, false), json_get_number(topic, "published"), rate);
        json_array_foreach(subscribers, i, name)
                printf("%s%s", i == 0 ? "  -> " : ", ", json_string_value(name));
        putchar('\n');
}

static void print_names(const json_t *topics)
{
        json_t *topic;
        char label[512];
        size_t i;

        json_array_foreach(topics, i, topic) {
                (void)snprintf(label, sizeof(label), "%.200s:%.280s", json_get_text(topic, "dataflow"), json_get_text(topic, "topic"));
                puts(text_tame(label, false));
        }
}

static void print_topics(const json_t *topics)
{
        json_t *topic;
        int width = 0;
        size_t i;

        json_array_foreach(topics, i, topic)
                width = MAX(width, (int)(strlen(json_get_text(topic, "dataflow")) + strlen(json_get_text(topic, "topic")) + 1));
        json_array_foreach(topics, i, topic)
                print_topic(topic, MIN(width, 60));
}

int topic_list(TopicCommand *t)
{
        _cleanup_(json_decrefp) json_t *before = NULL, *after = NULL, *live = NULL, *topics = NULL;
        const char *name = t->n ? t->topics[0] : t->dataflow;
        nsec_t begun = clock_now();
        int status, transport;

        t->session.links = true;
        status = targets_status(&t->session, &name, name ? 1 : 0, &before, &transport);
        if (transport)
                return session_fail(&t->session, transport);
        if (status)
                return status;
        if (t->quiet) {
                after = json_incref(before);
        } else {
                (void)poll(NULL, 0, LIST_SPAN);
                status = targets_status(&t->session, &name, name ? 1 : 0, &after, &transport);
        }
        if (transport)
                return session_fail(&t->session, transport);
        if (status)
                return status;
        live = targets_live(after);
        topics = topics_of(before, live, (double)(clock_now() - begun) / 1e9);
        if (t->session.json)
                return session_result(&t->session, json_pack("{sO}", "topics", topics));
        if (t->quiet)
                print_names(topics);
        else
                print_topics(topics);
        return CLI_OK;
}
