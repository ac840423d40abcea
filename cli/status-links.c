/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate status --links: one line a link, and what became of its messages. */
#include "cli/status.h"

#include <stdio.h>
#include <string.h>

#include "cli/print.h"

static void print_dropped(const json_t *counters)
{
        const char *reason, *separator = " (";
        long long sum = 0;
        json_t *number;

        json_object_foreach(json_object_get(counters, "dropped"), reason, number)
                sum += json_integer_value(number);
        printf(", dropped %lld", sum);
        json_object_foreach(json_object_get(counters, "dropped"), reason, number) {
                char name[40];

                (void)snprintf(name, sizeof(name), "%s", reason);
                printf("%s%s %lld", separator, text_tame(name, false), (long long)json_integer_value(number));
                separator = ", ";
        }
        if (sum > 0)
                putchar(')');
}

static void print_counters(const json_t *counters)
{
        long long depth = json_get_number(counters, "depth"), age_us = json_get_number(counters, "age_us"), refused = json_get_number(counters, "refused");
        char bytes[32];

        format_bytes(bytes, sizeof(bytes), (unsigned long long)json_get_number(counters, "bytes"));
        printf("published %lld, delivered %lld (%s)", json_get_number(counters, "published"), json_get_number(counters, "delivered"), bytes);
        print_dropped(counters);
        printf(", waiting %lld", depth);
        if (depth > 0 && age_us > 0)
                printf(" (the first for %lld.%03lld ms)", age_us / 1000, age_us % 1000);
        printf(", held %lld, woken %lld times", json_get_number(counters, "holds"), json_get_number(counters, "wakes"));
        if (refused > 0)
                printf(", refused %lld", refused);
        if (json_is_true(json_object_get(counters, "still")) && json_is_false(json_object_get(counters, "adds_up")))
                printf("; these numbers do not agree with each other");
}

void status_print_link(const json_t *link)
{
        const json_t *counters = json_object_get(link, "counters");

        printf("%s, %s %lld: ", json_get_text(link, "state"), json_get_text(link, "queue_policy"), json_get_number(link, "queue_size"));
        if (counters)
                print_counters(counters);
        else
                printf("nothing was sent yet");
        putchar('\n');
}

static void print_link(const json_t *dataflow, const json_t *node, const json_t *link)
{
        char name[1024];

        (void)snprintf(name, sizeof(name), "%.200s: %.200s/%.200s -> %.200s/%.200s", json_get_text(dataflow, "name"), json_get_text(link, "source"),
                json_get_text(link, "output"), json_get_text(node, "id"), json_get_text(link, "input"));
        printf("%s  ", text_tame(name, false));
        status_print_link(link);
}

void status_print_links(const json_t *dataflows)
{
        json_t *dataflow, *node, *link;
        size_t i, k, l;

        json_array_foreach(dataflows, i, dataflow)
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node)
                        json_array_foreach(json_object_get(node, "links"), l, link)
                                print_link(dataflow, node, link);
}
