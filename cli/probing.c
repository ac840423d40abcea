/* SPDX-License-Identifier: Apache-2.0 */
/* What was counted between two looks. */
#include "cli/probing.h"

#include <string.h>

#include "base/cleanup.h"
#include "cli/histogram.h"
#include "cli/print.h"

static const json_t *find_node(const json_t *probes, const json_t *node)
{
        json_t *it;
        size_t i;

        json_array_foreach(json_object_get(probes, "nodes"), i, it)
                if (strcmp(json_get_text(it, "node"), json_get_text(node, "node")) == 0 && json_get_number(it, "generation") == json_get_number(node, "generation"))
                        return it;
        return NULL;
}

static const json_t *find_call(const json_t *node, long long number)
{
        json_t *it;
        size_t i;

        json_array_foreach(json_object_get(node, "calls"), i, it)
                if (json_get_number(it, "number") == number)
                        return it;
        return NULL;
}

static long long less(const json_t *call, const json_t *before, const char *key)
{
        long long n = json_get_number(call, key) - json_get_number(before, key);

        return n > 0 ? n : 0;
}

/* NULL: nobody made it, and nobody is in it. */
static json_t *call_between(const json_t *call, const json_t *before)
{
        Histogram histogram, earlier;
        json_t *between;

        histogram_read(&histogram, json_object_get(call, "log2_ns"));
        histogram_read(&earlier, json_object_get(before, "log2_ns"));
        histogram_minus(&histogram, &earlier);
        if (histogram.sum == 0 && json_get_number(call, "now") <= 0)
                return NULL;
        between = json_pack("{ss sI sI sI sI so}", "call", json_get_text(call, "call"), "number", (json_int_t)json_get_number(call, "number"), "count",
                (json_int_t)histogram.sum, "errors", (json_int_t)less(call, before, "errors"), "total_ns", (json_int_t)less(call, before, "total_ns"), "log2_ns",
                histogram_json(&histogram));
        if (between && json_get_number(call, "now") > 0) {
                (void)json_object_set_new(between, "now", json_integer(json_get_number(call, "now")));
                (void)json_object_set_new(between, "now_longest_ns", json_integer(json_get_number(call, "now_longest_ns")));
        }
        return between;
}

/* Before those in which less time was spent. What somebody is still in has cost that time, too. */
static void insert(json_t *calls, json_t *take_call)
{
        long long spent = json_get_number(take_call, "total_ns");
        size_t i = 0;

        while (i < json_array_size(calls) && json_get_number(json_array_get(calls, i), "total_ns") >= spent)
                i++;
        (void)json_array_insert_new(calls, i, take_call);
}

static long long samples_of(const json_t *calls, long long number)
{
        json_t *it;
        size_t i;

        json_array_foreach(calls, i, it)
                if (json_get_number(it, "number") == number)
                        return json_get_number(it, "samples");
        return 0;
}

/* NULL: nobody looked. */
static json_t *samples_between(const json_t *samples, const json_t *before)
{
        const json_t *earlier = json_object_get(before, "calls");
        json_t *calls = json_array(), *it;
        size_t i, k;

        if (!json_is_object(samples) || !calls) {
                json_decref(calls);
                return NULL;
        }
        json_array_foreach(json_object_get(samples, "calls"), i, it) {
                long long number = json_get_number(it, "number"), n = json_get_number(it, "samples") - samples_of(earlier, number);

                for (k = 0; k < json_array_size(calls) && json_get_number(json_array_get(calls, k), "samples") >= n; k++)
                        ;
                if (n > 0)
                        (void)json_array_insert_new(calls, k, json_pack("{ss sI sI}", "call", json_get_text(it, "call"), "number", (json_int_t)number, "samples", (json_int_t)n));
        }
        return json_pack("{sI sI sI sI sI so}", "looks", (json_int_t)less(samples, before, "looks"), "threads", (json_int_t)less(samples, before, "threads"), "outside",
                (json_int_t)less(samples, before, "outside"), "other", (json_int_t)less(samples, before, "other"), "unseen", (json_int_t)less(samples, before, "unseen"), "calls", calls);
}

static json_t *node_between(const json_t *node, const json_t *before)
{
        json_t *sampled = samples_between(json_object_get(node, "sampled"), json_object_get(before, "sampled"));
        json_t *calls = json_array(), *it;
        size_t i;

        json_array_foreach(json_object_get(node, "calls"), i, it) {
                json_t *call = calls ? call_between(it, find_call(before, json_get_number(it, "number"))) : NULL;

                if (call)
                        insert(calls, call);
        }
        if (sampled)
                return json_pack("{ss sI so so}", "node", json_get_text(node, "node"), "generation", (json_int_t)json_get_number(node, "generation"), "calls", calls, "sampled", sampled);
        return json_pack("{ss sI sI so}", "node", json_get_text(node, "node"), "generation", (json_int_t)json_get_number(node, "generation"), "lost",
                (json_int_t)less(node, before, "lost"), "calls", calls);
}

bool probing_is_of_counters(const json_t *link)
{
        return strcmp(json_get_text(link, "source"), "counters") == 0;
}

static const json_t *find_link(const json_t *probes, const json_t *link)
{
        static const char *const keys[] = {"from", "output", "to", "input"};
        json_t *it;
        size_t i, k;

        json_array_foreach(json_object_get(probes, "links"), i, it) {
                for (k = 0; k < ELEMENTSOF(keys) && strcmp(json_get_text(it, keys[k]), json_get_text(link, keys[k])) == 0; k++)
                        ;
                if (k == ELEMENTSOF(keys))
                        return it;
        }
        return NULL;
}

static json_t *buckets_between(const json_t *link, const json_t *before, const char *key)
{
        Histogram histogram, earlier;

        histogram_read(&histogram, json_object_get(link, key));
        histogram_read(&earlier, json_object_get(before, key));
        histogram_minus(&histogram, &earlier);
        return histogram_json(&histogram);
}

static json_t *link_between(const json_t *link, const json_t *before)
{
        bool counters = probing_is_of_counters(link);
        json_t *between;

        if (probing_is_of_counters(before) != counters)
                before = NULL;
        between = json_pack("{ss ss ss ss ss sI sI so so}", "from", json_get_text(link, "from"), "output", json_get_text(link, "output"), "to", json_get_text(link, "to"), "input",
                json_get_text(link, "input"), "source", counters ? "counters" : "probe", "sampled", (json_int_t)less(link, before, "sampled"), "one_in",
                (json_int_t)json_get_number(link, "one_in"), "depth_log2", buckets_between(link, before, "depth_log2"), "age_log2_ns", buckets_between(link, before, "age_log2_ns"));
        if (!between || !counters)
                return between;
        (void)json_object_set_new(between, "empty", json_integer(less(link, before, "empty")));
        (void)json_object_set(between, "depth", json_object_get(link, "depth"));
        (void)json_object_set(between, "age_ns", json_object_get(link, "age_ns"));
        return between;
}

json_t *probing_between(const char *dataflow, long long for_ms, const json_t *first, const json_t *last)
{
        static const char *const passed_on[] = {"cost", "reason", "queue_cost", "queue_reason"};
        json_t *links = json_array(), *nodes = json_array(), *it, *probing;
        size_t i;

        json_array_foreach(json_object_get(last, "nodes"), i, it)
                (void)json_array_append_new(nodes, node_between(it, find_node(first, it)));
        json_array_foreach(json_object_get(last, "links"), i, it)
                (void)json_array_append_new(links, link_between(it, find_link(first, it)));
        probing = json_pack("{ss sI sb so so}", "dataflow", dataflow, "for_ms", (json_int_t)for_ms, "attached", json_is_true(json_object_get(last, "attached")), "nodes",
                nodes, "links", links);
        for (i = 0; probing && i < ELEMENTSOF(passed_on); i++)
                if (json_object_get(last, passed_on[i]))
                        (void)json_object_set(probing, passed_on[i], json_object_get(last, passed_on[i]));
        return probing;
}
