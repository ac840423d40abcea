/* SPDX-License-Identifier: Apache-2.0 */
/* What was counted, as text. */
#include "cli/probing.h"

#include <stdio.h>

#include "cli/histogram.h"
#include "cli/print.h"

#define NAME_ROOM 200

static const char *tamed(const json_t *object, const char *key, char *buffer)
{
        (void)snprintf(buffer, NAME_ROOM, "%.*s", NAME_ROOM - 1, json_get_text(object, key));
        return text_tame(buffer, false);
}

static void print_call(const json_t *call, bool utf8)
{
        char name[NAME_ROOM], p50[16], p99[16], max[16], total[16], line[3 * HISTOGRAM_COLUMNS + 1];
        long long now = json_get_number(call, "now");
        Histogram histogram;

        histogram_read(&histogram, json_object_get(call, "log2_ns"));
        printf("  %-15.15s%8lld%7lld%8s%8s%8s%8s %s\n", tamed(call, "call", name), json_get_number(call, "count"), json_get_number(call, "errors"),
                histogram.sum ? histogram_format_ns(histogram_quantile(&histogram, 0.5), p50, sizeof(p50)) : "-",
                histogram.sum ? histogram_format_ns(histogram_quantile(&histogram, 0.99), p99, sizeof(p99)) : "-",
                histogram.sum ? histogram_format_ns(histogram_quantile(&histogram, 1), max, sizeof(max)) : "-",
                histogram_format_ns((uint64_t)json_get_number(call, "total_ns"), total, sizeof(total)), histogram_line(&histogram, utf8, line, sizeof(line)));
        if (now > 0)
                printf("    in it now: %lld thread%s, the longest for %s\n", now, now == 1 ? "" : "s",
                        histogram_format_ns((uint64_t)json_get_number(call, "now_longest_ns"), p50, sizeof(p50)));
}

static void print_node(const json_t *node, bool utf8, size_t n_calls)
{
        const json_t *calls = json_object_get(node, "calls");
        long long lost = json_get_number(node, "lost");
        char name[NAME_ROOM];
        json_t *call;
        size_t i;

        printf("\n%s, generation %lld\n  %-15s%8s%7s%8s%8s%8s%8s %s\n", tamed(node, "node", name), json_get_number(node, "generation"), "call", "count", "errors", "p50", "p99",
                "max", "total", histogram_scale());
        json_array_foreach(calls, i, call)
                if (i < n_calls)
                        print_call(call, utf8);
        if (json_array_size(calls) > n_calls)
                printf("  and %zu more, with less time in each (--all)\n", json_array_size(calls) - n_calls);
        if (json_array_size(calls) == 0)
                printf("  none: it has returned from no call and entered none since it was watched\n");
        if (lost > 0)
                printf("  %lld calls could not be counted, for want of memory\n", lost);
}

/* "at most 7 wait": the upper end of a bucket, which is no part of it. */
static const char *depth(const Histogram *histogram, double part, char *buffer, size_t size)
{
        (void)snprintf(buffer, size, "%llu", (unsigned long long)histogram_quantile(histogram, part) - 1);
        return histogram->sum ? buffer : "-";
}

static const char *age(const Histogram *histogram, double part, char *buffer, size_t size)
{
        return histogram->sum ? histogram_format_ns(histogram_quantile(histogram, part), buffer, size) : "-";
}

static void print_link(const json_t *link, bool utf8)
{
        char from[NAME_ROOM], output[NAME_ROOM], to[NAME_ROOM], input[NAME_ROOM], p50[24], p99[24], max[24], line[3 * HISTOGRAM_COLUMNS + 1];
        long long one_in = json_get_number(link, "one_in");
        bool counters = probing_is_of_counters(link);
        Histogram histogram;

        printf("\n%s/%s -> %s/%s", tamed(link, "from", from), tamed(link, "output", output), tamed(link, "to", to), tamed(link, "input", input));
        if (one_in > 1)
                printf(", of one message in %lld", one_in);
        if (counters)
                printf(": %lld looks, nothing waited in %lld", json_get_number(link, "sampled"), json_get_number(link, "empty"));
        histogram_read(&histogram, json_object_get(link, "depth_log2"));
        printf("\n  %-15s%8s%7s%8s%8s%8s%8s %s\n  %-15s%8llu%7s%8s%8s%8s\n", "", "count", "", "p50", "p99", "max", "", histogram_scale(), "were waiting",
                (unsigned long long)histogram.sum, "", depth(&histogram, 0.5, p50, sizeof(p50)), depth(&histogram, 0.99, p99, sizeof(p99)), depth(&histogram, 1, max, sizeof(max)));
        histogram_read(&histogram, json_object_get(link, "age_log2_ns"));
        printf("  %-15s%8llu%7s%8s%8s%8s%8s %s\n", counters ? "age of first" : "age when taken", (unsigned long long)histogram.sum, "", age(&histogram, 0.5, p50, sizeof(p50)),
                age(&histogram, 0.99, p99, sizeof(p99)), age(&histogram, 1, max, sizeof(max)), "", histogram_line(&histogram, utf8, line, sizeof(line)));
}

static void print_links(const json_t *probing, bool utf8)
{
        bool counters = probing_is_of_counters(json_array_get(json_object_get(probing, "links"), 0));
        char why[NAME_ROOM];
        json_t *link;
        size_t i;

        if (counters)
                printf("\nQueues were looked at ten times a second, not message by message. What is lost:\n"
                       "how deep each message found its queue, and how old it was when it was taken.\n");
        json_array_foreach(json_object_get(probing, "links"), i, link)
                print_link(link, utf8);
        if (json_get_text(probing, "queue_reason")[0])
                printf("\n%s: %s\n", counters ? "Messages are not seen" : "Queues are not seen", tamed(probing, "queue_reason", why));
}

#define SHARE_COLUMNS 30

static void print_share(const char *name, long long n, long long all, bool utf8)
{
        int columns = (int)((double)n / (double)all * SHARE_COLUMNS + 0.5);

        printf("  %-22.22s%7.1f %%  ", name, 100 * (double)n / (double)all);
        for (int i = 0; i < columns && i < SHARE_COLUMNS; i++)
                printf("%s", utf8 ? "█" : "#");
        putchar('\n');
}

static void print_sampled(const json_t *node, bool utf8, size_t n_calls)
{
        const json_t *sampled = json_object_get(node, "sampled"), *calls = json_object_get(sampled, "calls");
        long long threads = json_get_number(sampled, "threads"), unseen = json_get_number(sampled, "unseen"), looks = json_get_number(sampled, "looks");
        char name[NAME_ROOM];
        json_t *call;
        size_t i;

        printf("\n%s, generation %lld: where its threads were in %lld looks\n", tamed(node, "node", name), json_get_number(node, "generation"), looks);
        json_array_foreach(calls, i, call)
                if (i < n_calls && threads > 0)
                        print_share(tamed(call, "call", name), json_get_number(call, "samples"), threads, utf8);
        if (threads > 0 && json_get_number(sampled, "other") > 0)
                print_share("in another call", json_get_number(sampled, "other"), threads, utf8);
        if (threads > 0 && json_get_number(sampled, "outside") > 0)
                print_share("in none", json_get_number(sampled, "outside"), threads, utf8);
        if (unseen > 0)
                printf("  of %lld threads it may not be known\n", unseen);
}

static void print_nodes(const json_t *probing, bool utf8, size_t n_calls)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(probing, "nodes"), i, node)
                if (json_object_get(node, "sampled"))
                        print_sampled(node, utf8, n_calls);
                else
                        print_node(node, utf8, n_calls);
}

void probing_print(const json_t *probing, bool utf8, size_t n_calls)
{
        const json_t *cost = json_object_get(probing, "cost");
        char name[NAME_ROOM];

        printf("%s: system calls in %.1f s\n", tamed(probing, "dataflow", name), (double)json_get_number(probing, "for_ms") / 1000);
        if (cost)
                printf("Counting took %.2f %% of a CPU (budget %.4g %%): %lld ns a call, and %lld ns of one of anybody else's.\n",
                        100 * json_number_value(json_object_get(cost, "share")), 100 * json_number_value(json_object_get(cost, "budget")), json_get_number(cost, "call_ns"),
                        json_get_number(cost, "other_call_ns"));
        else
                printf("Looked at ten times a second instead of counted. What is lost: how many calls were\n"
                       "made, how many failed, how long each took; a call that is short is seldom seen.\n");
        print_nodes(probing, utf8, n_calls);
        print_links(probing, utf8);
        if (cost)
                printf("\np50, p99 and max: at most so long, for times are counted in steps of two.\nThe bars: how many took ns, us, ms, s.\n");
}
