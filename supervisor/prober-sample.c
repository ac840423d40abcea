/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/prober-sample.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/task.h"
#include "supervisor/dataflow.h"

static int on_sample(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, sampler.timer);
        Sampler *s = &dataflow->sampler;

        timer_arm(dataflow->loop, timer, nsec_add(now, SAMPLE_SPAN), on_sample);
        if (s->asked && now < nsec_add(s->asked, SAMPLE_PATIENCE))
                return 0;
        s->asked = clock_now();
        if (keeper_order_sample(dataflow, s->asked))
                s->asked = 0; /* it is being replaced, or has gone */
        return 0;
}

static void forget(Dataflow *dataflow)
{
        for (size_t i = 0; dataflow->nodes && i < dataflow->plan->n_nodes; i++) {
                free(dataflow->nodes[i].samples);
                dataflow->nodes[i].samples = NULL;
        }
}

void sampler_set(Dataflow *dataflow, bool on)
{
        Sampler *s = &dataflow->sampler;

        if (s->on == on)
                return;
        s->on = on;
        s->asked = 0;
        forget(dataflow);
        if (on)
                timer_arm(dataflow->loop, &s->timer, dataflow->loop->now, on_sample);
        else
                timer_disarm(&s->timer);
}

static void add_call(Samples *s, const KeeperSampleCall *call)
{
        for (uint32_t i = 0; i < s->n_calls; i++) {
                if (s->calls[i].number == call->number) {
                        s->calls[i].n += call->n;
                        return;
                }
        }
        if (s->n_calls == ELEMENTSOF(s->calls)) {
                s->n_other += call->n;
                return;
        }
        s->calls[s->n_calls].number = call->number;
        s->calls[s->n_calls++].n = call->n;
}

void sampler_told(Dataflow *dataflow, Node *node, const KeeperMsg *msg)
{
        const KeeperSample *sample = &msg->sampled.sample;
        Samples *s;

        if (!dataflow->sampler.on || msg->sampled.asked_ns != dataflow->sampler.asked)
                return; /* the answer to somebody else */
        if (!node) {
                dataflow->sampler.asked = 0;
                return;
        }
        if (!node->samples)
                node->samples = calloc(1, sizeof(*node->samples));
        s = node->samples;
        if (!s)
                return; /* one look less */
        if (s->generation != msg->generation)
                *s = (Samples){.generation = msg->generation};
        s->n_looks++;
        s->n_threads += sample->n_threads;
        s->n_outside += sample->n_outside;
        s->n_unseen += sample->n_unseen;
        s->n_other += sample->n_other;
        for (uint32_t i = 0; i < sample->n_calls; i++)
                add_call(s, &sample->calls[i]);
}

json_t *sampler_describe(const Node *node)
{
        const Samples *s = node->samples;
        json_t *calls;

        if (!s)
                return NULL;
        calls = json_array();
        for (uint32_t i = 0; calls && i < s->n_calls; i++) {
                const char *name = task_call_name((int32_t)s->calls[i].number);
                char unnamed[24];

                (void)snprintf(unnamed, sizeof(unnamed), "call-%u", s->calls[i].number);
                (void)json_array_append_new(calls, json_pack("{ss sI sI}", "call", name ? name : unnamed, "number", (json_int_t)s->calls[i].number, "samples",
                        (json_int_t)s->calls[i].n));
        }
        return json_pack("{sI sI sI sI sI so}", "looks", (json_int_t)s->n_looks, "threads", (json_int_t)s->n_threads, "outside", (json_int_t)s->n_outside,
                "unseen", (json_int_t)s->n_unseen, "other", (json_int_t)s->n_other, "calls", calls);
}
