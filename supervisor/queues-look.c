/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/queues-look.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "bpf/queue.h"
#include "supervisor/dataflow.h"
#include "supervisor/progress.h"
#include "supervisor/queues.h"
#include "supervisor/wiring.h"

struct LinkLooks {
        uint64_t n, n_empty;
        uint64_t depth, age_ns; /* at the last one */
        uint64_t depth_log2[QUEUE_DEPTH_BUCKETS], age_log2_ns[QUEUE_AGE_BUCKETS];
};

static unsigned bucket_of(uint64_t value, unsigned n_buckets)
{
        unsigned bucket = value > 1 ? 63u - (unsigned)__builtin_clzll(value) : 0;

        return MIN(bucket, n_buckets - 1);
}

static void look_at(const Dataflow *dataflow, const Link *link, LinkLooks *looks, nsec_t now)
{
        LinkCounters counters;

        if (link->state != LINK_ACTIVE || !dataflow->progress || !progress_counters(dataflow->progress, link->number - 1, now, &counters))
                return;
        looks->n++;
        looks->n_empty += counters.depth == 0;
        looks->depth = counters.depth;
        looks->age_ns = counters.age_ns;
        looks->depth_log2[bucket_of(counters.depth, QUEUE_DEPTH_BUCKETS)]++;
        if (counters.age_ns > 0)
                looks->age_log2_ns[bucket_of(counters.age_ns, QUEUE_AGE_BUCKETS)]++;
}

static int on_look(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, queue_looks.timer);
        QueueLooks *q = &dataflow->queue_looks;

        timer_arm(dataflow->loop, timer, nsec_add(now, QUEUE_LOOK_SPAN), on_look);
        for (uint32_t i = 0; i < MIN(dataflow->n_links, QUEUE_LOOK_LINKS); i++) {
                look_at(dataflow, &dataflow->links[q->next], &q->links[q->next], now);
                q->next = (q->next + 1) % dataflow->n_links;
        }
        return 0;
}

void queue_looks_set(Dataflow *dataflow, bool on)
{
        QueueLooks *q = &dataflow->queue_looks;

        if ((q->links != NULL) == on)
                return;
        timer_disarm(&q->timer);
        free(q->links);
        *q = (QueueLooks){.links = on ? calloc(dataflow->n_links, sizeof(*q->links)) : NULL};
        if (q->links)
                timer_arm(dataflow->loop, &q->timer, dataflow->loop->now, on_look);
}

json_t *queue_looks_describe(const Dataflow *dataflow, const Link *link)
{
        const LinkLooks *looks = dataflow->queue_looks.links ? &dataflow->queue_looks.links[link->number - 1] : NULL;

        if (!looks)
                return NULL;
        return json_pack("{ss ss ss ss ss sI sI sI so so sI sI sI}", "from", link->source->plan->id, "output", link->source->plan->outputs[link->output], "to",
                link->target->plan->id, "input", link->target->plan->inputs[link->input].id, "source", "counters", "sampled", (json_int_t)looks->n, "taken", (json_int_t)0,
                "one_in", (json_int_t)0, "depth_log2", queues_describe_buckets(looks->depth_log2, QUEUE_DEPTH_BUCKETS), "age_log2_ns",
                queues_describe_buckets(looks->age_log2_ns, QUEUE_AGE_BUCKETS), "empty", (json_int_t)looks->n_empty, "depth", (json_int_t)looks->depth, "age_ns",
                (json_int_t)looks->age_ns);
}
