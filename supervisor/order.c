/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/order.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

/* Who follows whom: of node i the entries first[i] to first[i + 1] of nodes. */
typedef struct Edges {
        uint32_t *first, *nodes;
} Edges;

struct Order {
        const Plan *plan;
        Edges dependents; /* by after */
        Edges consumers;  /* by links */
        bool *marks;      /* of order_downstream() */
};

/* ---- edges, the other way round */

typedef enum EdgeKind { EDGE_AFTER, EDGE_LINK } EdgeKind;

static size_t edge_count(const PlanNode *node, EdgeKind kind)
{
        return kind == EDGE_AFTER ? node->n_after : node->n_inputs;
}

/* False for an input that no node feeds. */
static bool edge_source(const PlanNode *node, EdgeKind kind, size_t i, uint32_t *ret)
{
        if (kind == EDGE_AFTER)
                *ret = node->after[i].node;
        else
                *ret = node->inputs[i].source_node;
        return kind == EDGE_AFTER || !node->inputs[i].timer_ns;
}

static int edges_build(Edges *edges, const Plan *plan, EdgeKind kind)
{
        size_t n = 0;
        uint32_t from;

        for (size_t i = 0; i < plan->n_nodes; i++)
                n += edge_count(&plan->nodes[i], kind);
        /* One more than boundaries: while filling, first[i + 1] is where the next edge of i goes. */
        edges->first = calloc(plan->n_nodes + 2, sizeof(*edges->first));
        edges->nodes = calloc(n + 1, sizeof(*edges->nodes));
        if (!edges->first || !edges->nodes)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < plan->n_nodes; i++)
                for (size_t k = 0; k < edge_count(&plan->nodes[i], kind); k++)
                        if (edge_source(&plan->nodes[i], kind, k, &from))
                                edges->first[from + 2]++;
        for (size_t i = 2; i < plan->n_nodes + 2; i++)
                edges->first[i] += edges->first[i - 1];
        for (size_t i = 0; i < plan->n_nodes; i++)
                for (size_t k = 0; k < edge_count(&plan->nodes[i], kind); k++)
                        if (edge_source(&plan->nodes[i], kind, k, &from))
                                edges->nodes[edges->first[from + 1]++] = (uint32_t)i;
        return 0;
}

static const uint32_t *edges_of(const Edges *edges, uint32_t node, size_t *ret_n)
{
        *ret_n = edges->first[node + 1] - edges->first[node];
        return &edges->nodes[edges->first[node]];
}

int order_new(Order **ret, const Plan *plan)
{
        Order *order = calloc(1, sizeof(*order));
        int r;

        if (!order)
                return error_origin(-ENOMEM);
        order->plan = plan;
        order->marks = calloc(plan->n_nodes, sizeof(*order->marks));
        r = order->marks ? edges_build(&order->dependents, plan, EDGE_AFTER) : error_origin(-ENOMEM);
        if (!r)
                r = edges_build(&order->consumers, plan, EDGE_LINK);
        if (r) {
                (void)order_free(order);
                return error_fold(r);
        }
        *ret = order;
        return 0;
}

Order *order_free(Order *order)
{
        if (!order)
                return NULL;
        free(order->dependents.first);
        free(order->dependents.nodes);
        free(order->consumers.first);
        free(order->consumers.nodes);
        free(order->marks);
        free(order);
        return NULL;
}

const uint32_t *order_dependents(const Order *order, uint32_t node, size_t *ret_n)
{
        return edges_of(&order->dependents, node, ret_n);
}

/* ---- starting */

static bool fact_is(const OrderFact *fact, PlanUntil until)
{
        switch (until) {
        case PLAN_UNTIL_STARTED:
                return fact->started || fact->ready || fact->completed;
        case PLAN_UNTIL_READY:
                return fact->ready || fact->completed;
        default:
                return fact->completed;
        }
}

/* @answers: of the nodes this one is after, when they are known; or NULL. */
static OrderAnswer look_at(const Plan *plan, const OrderFact *facts, const OrderAnswer *answers, uint32_t index,
        const PlanAfter **ret_blame)
{
        const PlanNode *node = &plan->nodes[index];
        OrderAnswer worst = ORDER_START;

        for (size_t i = 0; i < node->n_after && worst != ORDER_NEVER; i++) {
                const PlanAfter *after = &node->after[i];
                const OrderFact *fact = &facts[after->node];
                bool never = fact->final || (answers && fact->pending && answers[after->node] == ORDER_NEVER);

                if (fact_is(fact, after->until) || (worst == ORDER_WAIT && !never))
                        continue;
                worst = never ? ORDER_NEVER : ORDER_WAIT;
                if (ret_blame)
                        *ret_blame = after;
        }
        return worst;
}

OrderAnswer order_may_start(const Plan *plan, const OrderFact *facts, uint32_t node, const PlanAfter **ret_blame)
{
        return look_at(plan, facts, NULL, node, ret_blame);
}

void order_answers(const Plan *plan, const OrderFact *facts, OrderAnswer *answers)
{
        for (size_t i = 0; i < plan->n_nodes; i++) {
                uint32_t node = plan->sorted[i];

                answers[node] = facts[node].pending ? look_at(plan, facts, answers, node, NULL) : ORDER_START;
        }
}

/* ---- stopping */

void order_held(const Order *order, const OrderFact *facts, nsec_t now, nsec_t term, uint32_t *ret_held)
{
        const Plan *plan = order->plan;

        for (size_t i = plan->n_nodes; i-- > 0;) {
                uint32_t node = plan->sorted[i];
                const uint32_t *dependents;
                size_t n;

                dependents = order_dependents(order, node, &n);
                ret_held[node] = ORDER_FREE;
                for (size_t k = 0; k < n && ret_held[node] == ORDER_FREE && now < term; k++) {
                        const OrderFact *fact = &facts[dependents[k]];

                        /* Behind one that is gone may be others that are not: whom it waits for, we wait for. */
                        ret_held[node] = fact->final || fact->pending ? ret_held[dependents[k]] : dependents[k];
                }
        }
}

/* ---- failing */

size_t order_downstream(Order *order, uint32_t node, uint32_t *ret)
{
        const Plan *plan = order->plan;
        const Edges *const edges[] = {&order->dependents, &order->consumers};
        size_t n = 0, n_kept = 0;

        memset(order->marks, 0, plan->n_nodes * sizeof(*order->marks));
        order->marks[node] = true;
        ret[n++] = node;
        for (size_t i = 0; i < n; i++)
                for (size_t e = 0; e < ELEMENTSOF(edges); e++) {
                        size_t n_next;
                        const uint32_t *next = edges_of(edges[e], ret[i], &n_next);

                        for (size_t k = 0; k < n_next; k++)
                                if (!order->marks[next[k]]) {
                                        order->marks[next[k]] = true;
                                        ret[n++] = next[k];
                                }
                }
        order->marks[node] = false;
        for (size_t i = 0; i < plan->n_nodes; i++) {
                uint32_t index = plan->sorted[i];

                if (order->marks[index] && plan->nodes[index].kind != PLAN_KIND_DYNAMIC)
                        ret[n_kept++] = index;
        }
        return n_kept;
}

const char *order_answer_to_string(OrderAnswer answer)
{
        static const char *const names[_ORDER_ANSWER_MAX] = {
                [ORDER_WAIT] = "wait",
                [ORDER_START] = "start",
                [ORDER_NEVER] = "never",
        };

        return names[answer];
}
