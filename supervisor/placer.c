/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/placer.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/placement.h"
#include "supervisor/wiring.h"
#include "supervisor/supervisor.h"

static void placer_arm(Dataflow *dataflow);

/* Of the first input that is a link, and not from itself. */
static uint32_t producer_of(const PlanNode *plan, uint32_t index)
{
        for (size_t i = 0; i < plan->n_inputs; i++)
                if (plan->inputs[i].timer_ns == 0 && plan->inputs[i].source_node != index)
                        return plan->inputs[i].source_node;
        return PLACEMENT_NOBODY;
}

static PlacementSpec spec_of(const Plan *plan, uint32_t index)
{
        const PlanNode *node = &plan->nodes[index];

        return (PlacementSpec){.wish = node->placement,
                .producer = producer_of(node, index),
                .fixed = node->n_cpus > 0 || node->kind != PLAN_KIND_NODE,
                .fixed_cpu = node->n_cpus == 1 ? (int)node->cpus[0] : -1};
}

/* Those that nodes are born to run on: ours, which the keeper has from the same place. */
static size_t usable_cpus(int ret[CPU_SETSIZE])
{
        cpu_set_t set;
        size_t n = 0;

        if (sched_getaffinity(0, sizeof(set), &set) < 0)
                return 0;
        for (int cpu = 0; cpu <= KEEPER_MSG_MAX_CPU; cpu++)
                if (CPU_ISSET(cpu, &set))
                        ret[n++] = cpu;
        return n;
}

bool placer_is_one_of_many(const Node *node)
{
        int cpus[CPU_SETSIZE];
        size_t n_cpus = usable_cpus(cpus);

        for (uint32_t i = 0; i < node->n_links; i++) {
                const Link *link = node->links[i];
                const Node *source = link->source;
                size_t n = 0;

                if (link->target != node)
                        continue;
                for (uint32_t k = 0; k < source->n_links; k++)
                        n += source->links[k]->source == source && source->links[k]->output == link->output;
                if (n > n_cpus)
                        return true;
        }
        return false;
}

int placer_init(Dataflow *dataflow)
{
        uint32_t n = (uint32_t)dataflow->plan->n_nodes;
        PlacementSpec *specs = calloc(MAX(n, 1u), sizeof(*specs));
        int cpus[CPU_SETSIZE], r;
        size_t n_cpus;

        if (!specs)
                return error_origin(-ENOMEM);
        for (uint32_t i = 0; i < n; i++)
                specs[i] = spec_of(dataflow->plan, i);
        n_cpus = usable_cpus(cpus);
        r = placement_new(&dataflow->placement, specs, n, cpus, n_cpus, dataflow->uuid[0]);
        free(specs);
        return r;
}

void placer_done(Dataflow *dataflow)
{
        timer_disarm(&dataflow->placement_timer);
        dataflow->placement = placement_free(dataflow->placement);
}

/* -------- looks -------- */

static void on_move(uint32_t index, int cpu, const char *why, void *userdata)
{
        Dataflow *dataflow = userdata;
        Node *node = &dataflow->nodes[index];
        PlacementState state = placement_state(dataflow->placement, index);
        char text[300];

        if (keeper_order_place(node, cpu)) {
                placement_refused(dataflow->placement, index, "its keeper did not take the order");
                return;
        }
        node->placed_generation = node->generation;
        if (cpu >= 0)
                (void)snprintf(text, sizeof(text), "runs on CPU %d%s%s: %s", cpu, state.beside == PLACEMENT_NOBODY ? "" : ", beside ",
                        state.beside == PLACEMENT_NOBODY ? "" : dataflow->plan->nodes[state.beside].id, why);
        else
                (void)snprintf(text, sizeof(text), "runs where the scheduler likes: %s", why);
        dataflow_health_event(dataflow, node, "placement", text);
}

static int on_look(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, placement_timer);

        placement_look(dataflow->placement, now, on_move, dataflow);
        placer_arm(dataflow);
        return 0;
}

static void placer_arm(Dataflow *dataflow)
{
        timer_arm(dataflow->loop, &dataflow->placement_timer, placement_next(dataflow->placement, dataflow->loop->now), on_look);
}

void placer_node_runs(Node *node)
{
        Dataflow *dataflow = node->dataflow;

        placement_begin(dataflow->placement, node->index, node->bell_fd);
        if (!spec_of(dataflow->plan, node->index).fixed && node->placed_generation == node->generation)
                (void)keeper_order_place(node, -1); /* it was placed before it was frozen, or by a predecessor of ours */
        placer_arm(dataflow);
}

void placer_node_ends(Node *node)
{
        placement_end(node->dataflow->placement, node->index);
        placer_arm(node->dataflow);
}

void placer_on_placed(Node *node, const KeeperMsg *msg)
{
        if (msg->generation != node->generation || (msg->placed.error == 0 && msg->placed.n_own == 0))
                return;
        placement_refused(node->dataflow->placement, node->index,
                msg->placed.error == ESRCH ? "its first process has ended"
                : msg->placed.error        ? "the kernel would not have it there"
                                           : "it has chosen its CPUs itself");
        if (msg->placed.error != ESRCH && node->placed_generation == node->generation) {
                node->placed_generation = 0; /* once: the answer to this comes here, too */
                (void)keeper_order_place(node, -1); /* those of its threads that were moved; the others are left alone */
        }
        placer_arm(node->dataflow);
}

void placer_describe(const Node *node, json_t *object)
{
        PlacementState state = placement_state(node->dataflow->placement, node->index);
        const char *beside = state.beside == PLACEMENT_NOBODY ? NULL : node->dataflow->plan->nodes[state.beside].id;
        json_t *result = json_pack("{ss ss* ss*}", "wish", placement_wish_names[state.wish], "beside", beside, "why", state.why);

        if (result && state.cpu >= 0)
                (void)json_object_set_new(result, "cpu", json_integer(state.cpu));
        if (result)
                (void)json_object_set_new(object, "placement", result);
}
