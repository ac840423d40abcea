/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a plan that a client sent: refused with a reason, or taken; and then every question about its order has an
 * answer, whatever is said to be true of its nodes. A first line that begins with # is not part of the JSON.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/order.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(what)                                                                                                     \
        do {                                                                                                           \
                if (!(what))                                                                                           \
                        abort();                                                                                       \
        } while (0)

/* Starts whoever may start, and lets it end well or badly, until nothing changes: everybody has come to an end or waits for none. */
static void run(const Plan *plan, OrderFact *facts, OrderAnswer *answers, unsigned seed)
{
        size_t n_changed;

        for (size_t i = 0; i < plan->n_nodes; i++)
                facts[i] = (OrderFact){.pending = true};
        do {
                n_changed = 0;
                order_answers(plan, facts, answers);
                for (size_t i = 0; i < plan->n_nodes; i++) {
                        bool good = (seed >> i % 31 & 1) != 0;

                        if (!facts[i].pending || answers[i] == ORDER_WAIT)
                                continue;
                        n_changed++;
                        facts[i] = (OrderFact){.final = true};
                        if (answers[i] == ORDER_START)
                                facts[i] = (OrderFact){.started = true, .ready = good, .completed = good, .final = true};
                }
        } while (n_changed > 0);
        for (size_t i = 0; i < plan->n_nodes; i++)
                MUST(facts[i].final);
}

/* Everybody runs; whoever is free is stopped: all are, in at most as many rounds as there are nodes. */
static void stop(const Order *order, const Plan *plan, OrderFact *facts, uint32_t *held)
{
        size_t left = plan->n_nodes;

        for (size_t i = 0; i < plan->n_nodes; i++)
                facts[i] = (OrderFact){.started = true, .ready = true};
        while (left > 0) {
                size_t before = left;

                order_held(order, facts, 0, 1, held);
                for (size_t i = 0; i < plan->n_nodes; i++) {
                        MUST(held[i] == ORDER_FREE || held[i] < plan->n_nodes);
                        if (facts[i].final || held[i] != ORDER_FREE)
                                continue;
                        facts[i].final = true;
                        left--;
                }
                MUST(left < before);
        }
}

static void ask(const Plan *plan, unsigned seed)
{
        OrderAnswer *answers = calloc(plan->n_nodes, sizeof(*answers));
        OrderFact *facts = calloc(plan->n_nodes, sizeof(*facts));
        uint32_t *nodes = calloc(plan->n_nodes, sizeof(*nodes));
        Order *order = NULL;

        MUST(answers && facts && nodes && order_new(&order, plan) == 0);
        run(plan, facts, answers, seed);
        stop(order, plan, facts, nodes);
        for (uint32_t i = 0; i < plan->n_nodes && i < 64; i++)
                MUST(order_downstream(order, i, nodes) < plan->n_nodes);
        (void)order_free(order);
        free(nodes);
        free(facts);
        free(answers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const uint8_t *line = size > 0 && data[0] == '#' ? memchr(data, '\n', size) : NULL;
        size_t skip = line ? (size_t)(line - data) : 0;
        json_t *json = json_loadb((const char *)data + skip, size - skip, 0, NULL);
        char why[256] = "";
        Plan *plan = NULL;

        if (plan_new(&plan, json, why, sizeof(why)) == 0) {
                ask(plan, (unsigned)size * 2654435761u);
                (void)plan_free(plan);
        } else {
                MUST(why[0] && memchr(why, '\0', sizeof(why)));
        }
        json_decref(json);
        return 0;
}
