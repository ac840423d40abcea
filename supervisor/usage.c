/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/usage.h"

#include <errno.h>

#include "base/error.h"
#include "supervisor/server.h"
#include "supervisor/supervisor.h"

#define PATIENCE (5 * NSEC_PER_SEC) /* then it hangs in somebody, and another one is asked, who may not */

int usage_ask(Dataflow *dataflow)
{
        Usage *u = &dataflow->usage;
        int r;

        if (u->asked && clock_now() < nsec_add(u->asked, PATIENCE))
                return 0;
        usage_forget(dataflow);
        u->nodes = json_array();
        u->asked = clock_now();
        r = u->nodes ? keeper_order_measure(dataflow, u->asked) : error_origin(-ENOMEM);
        if (r)
                usage_forget(dataflow);
        return r;
}

static void set_average(json_t *to, const char *name, uint16_t hundredths)
{
        if (hundredths != KEEPER_PRESSURE_UNKNOWN)
                (void)json_object_set_new(to, name, json_real(hundredths / 100.0));
}

/* NULL: this kernel says nothing, or there is no cgroup. */
static json_t *describe_pressure(const KeeperMeasure *m)
{
        static const char *const names[] = {"cpu", "memory", "io"};
        json_t *all = json_object();

        for (unsigned i = 0; i < 3; i++) {
                json_t *one = json_object();

                set_average(one, "some", m->pressure[2 * i]);
                set_average(one, "full", m->pressure[2 * i + 1]);
                if (json_object_size(one) > 0)
                        (void)json_object_set(all, names[i], one);
                json_decref(one);
        }
        if (json_object_size(all) > 0)
                return all;
        json_decref(all);
        return NULL;
}

static json_t *describe_measure(const Node *node, const KeeperMeasure *m)
{
        json_t *object = json_pack("{ss sI sI sI sI sI sI ss}", "node", node->plan->id, "generation", (json_int_t)node->generation, "at_ms",
                (json_int_t)(m->at_ns / NSEC_PER_MSEC), "cpu_ns", (json_int_t)m->cpu_ns, "memory_bytes", (json_int_t)m->memory, "processes",
                (json_int_t)m->n_processes, "threads", (json_int_t)m->n_threads, "source", m->summed ? "proc" : "cgroup");
        json_t *pressure = describe_pressure(m);

        if (m->memory_peak)
                (void)json_object_set_new(object, "memory_peak_bytes", json_integer((json_int_t)m->memory_peak));
        if (m->throttled_ns != UINT64_MAX)
                (void)json_object_set_new(object, "throttled_ns", json_integer((json_int_t)m->throttled_ns));
        if (pressure)
                (void)json_object_set_new(object, "pressure", pressure);
        return object;
}

void usage_told(Dataflow *dataflow, const Node *node, const KeeperMsg *msg)
{
        Usage *u = &dataflow->usage;
        json_t *nodes;

        if (!u->asked || msg->measured.asked_ns != u->asked)
                return; /* the answer to a predecessor */
        if (node) {
                (void)json_array_append_new(u->nodes, describe_measure(node, &msg->measured.measure));
                return;
        }
        nodes = json_incref(u->nodes);
        usage_forget(dataflow);
        server_measured(dataflow->supervisor->server, dataflow, nodes);
        json_decref(nodes);
}

void usage_forget(Dataflow *dataflow)
{
        json_decref(dataflow->usage.nodes);
        dataflow->usage = (Usage){};
}
