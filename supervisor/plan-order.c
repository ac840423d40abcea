/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who waits for whom: no cycle, no link between two nodes of which one has ended when the other starts, and who is late.
 *
 * One walk without recursion, linear in nodes and entries of `after`; the sets of completed nodes are rows of bits, at
 * most 4096 x 4096 of them, and live only as long as the check.
 */
#include "supervisor/plan.h"

#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct Visit {
        enum { NEW, OPEN, CLOSED } state;
        uint32_t next; /* entry of `after` to look at next */
} Visit;

/* Plan.sorted is filled from the front and is the walk's stack, from the end, at once: a node is on one of them at most. */
typedef struct Walk {
        Plan *plan;
        Visit *visits;
        size_t n_sorted, top; /* the stack is sorted[top .. n_nodes - 1] */
} Walk;

static void push(Walk *w, uint32_t node)
{
        w->visits[node].state = OPEN;
        w->plan->sorted[--w->top] = node;
}

/* Return: the node that closes a cycle, or UINT32_MAX. */
static uint32_t walk_from(Walk *w, uint32_t start)
{
        const Plan *plan = w->plan;

        push(w, start);
        while (w->top < plan->n_nodes) {
                uint32_t index = plan->sorted[w->top], next;
                const PlanNode *node = &plan->nodes[index];
                Visit *v = &w->visits[index];

                if (v->next == node->n_after) {
                        v->state = CLOSED;
                        w->top++;
                        plan->sorted[w->n_sorted++] = index;
                        continue;
                }
                next = node->after[v->next++].node;
                if (w->visits[next].state == OPEN)
                        return index;
                if (w->visits[next].state == NEW)
                        push(w, next);
        }
        return UINT32_MAX;
}

static int sort_nodes(Plan *plan, char *ret_why, size_t why_size)
{
        _cleanup_free_ Visit *visits = calloc(plan->n_nodes, sizeof(*visits));
        Walk w = {.plan = plan, .visits = visits, .top = plan->n_nodes};

        plan->sorted = calloc(plan->n_nodes, sizeof(*plan->sorted));
        if (!visits || !plan->sorted)
                return error_origin(-ENOMEM);
        for (uint32_t i = 0; i < plan->n_nodes; i++) {
                uint32_t bad;

                if (visits[i].state != NEW)
                        continue;
                bad = walk_from(&w, i);
                if (bad == UINT32_MAX)
                        continue;
                (void)snprintf(ret_why, why_size, "node %.128s: \"after\" is a cycle: it would wait for itself",
                        plan->nodes[bad].id);
                return error_origin(-EINVAL);
        }
        return 0;
}

/* What waits for an end, for a stranger, or for one of those cannot hold up the barrier of the others. */
static bool find_late(Plan *plan)
{
        bool completed = false;

        for (size_t i = 0; i < plan->n_nodes; i++) {
                PlanNode *node = &plan->nodes[plan->sorted[i]];

                node->late = node->kind == PLAN_KIND_DYNAMIC;
                for (size_t k = 0; k < node->n_after; k++) {
                        bool end = node->after[k].until == PLAN_UNTIL_COMPLETED;

                        completed = completed || end;
                        node->late = node->late || end || plan->nodes[node->after[k].node].late;
                }
        }
        return completed;
}

static void fill_row(const Plan *plan, uint64_t *bits, size_t n_words, uint32_t index)
{
        const PlanNode *node = &plan->nodes[index];
        uint64_t *row = &bits[index * n_words];

        for (size_t k = 0; k < node->n_after; k++) {
                uint32_t first = node->after[k].node;

                for (size_t j = 0; j < n_words; j++)
                        row[j] |= bits[first * n_words + j];
                if (node->after[k].until == PLAN_UNTIL_COMPLETED)
                        row[first / 64] |= UINT64_C(1) << first % 64;
        }
}

static int check_links(const Plan *plan, char *ret_why, size_t why_size)
{
        size_t n_words = (plan->n_nodes + 63) / 64;
        _cleanup_free_ uint64_t *bits = calloc(plan->n_nodes * n_words, sizeof(*bits));

        if (!bits)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < plan->n_nodes; i++)
                fill_row(plan, bits, n_words, plan->sorted[i]);
        for (size_t to = 0; to < plan->n_nodes; to++) {
                const PlanNode *node = &plan->nodes[to];

                for (size_t k = 0; k < node->n_inputs; k++) {
                        size_t from = node->inputs[k].source_node;

                        if (node->inputs[k].timer_ns ||
                                !((bits[to * n_words + from / 64] >> from % 64 & 1) ||
                                        (bits[from * n_words + to / 64] >> to % 64 & 1)))
                                continue;
                        (void)snprintf(ret_why, why_size,
                                "node %.128s: input %.128s: of the two nodes one has ended when the other starts",
                                node->id, node->inputs[k].id);
                        return error_origin(-EINVAL);
                }
        }
        return 0;
}

int plan_check_order(Plan *plan, char *ret_why, size_t why_size)
{
        int r = sort_nodes(plan, ret_why, why_size);

        if (!r && find_late(plan))
                r = check_links(plan, ret_why, why_size);
        return r ? error_fold(r) : 0;
}
