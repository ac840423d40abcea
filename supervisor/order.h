/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Order: which nodes may start now, which may be asked to stop, and who has to begin anew when one fails. Semantics:
 * docs/ordering.md.
 *
 * Pure: a plan and what is true of its nodes in, an answer out. Nothing is remembered between two calls, so that a
 * supervisor that has just adopted a dataflow decides as its predecessor would have. No clock but the one handed in.
 */
#ifndef TG_SUPERVISOR_ORDER_H
#define TG_SUPERVISOR_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "supervisor/plan.h"

/* What is true of a node, of its lives so far: what it has once reached stays true until it is begun anew (order_downstream()). */
typedef struct OrderFact {
        bool pending;   /* waits for its first start: no process was ordered yet */
        bool started;   /* its program ran; dynamic: it connected */
        bool ready;     /* its own part of the handshake is done, attached links or not; program: it started */
        bool completed; /* ended by itself, successfully, and no other life follows */
        bool final;     /* no other life follows, whyever */
} OrderFact;

typedef enum OrderAnswer {
        ORDER_WAIT,  /* for *ret_blame */
        ORDER_START,
        ORDER_NEVER, /* *ret_blame has ended, or will never start, without having come as far as it had to */
        _ORDER_ANSWER_MAX,
} OrderAnswer;

typedef struct Order Order; /* the plan's edges, the other way round */

/**
 * order_new() - prepare a plan
 * @plan: borrowed, must outlive the order
 *
 * Linear in nodes, inputs and entries of `after`. Return: 0 or -ENOMEM.
 */
int order_new(Order **ret, const Plan *plan);
Order *order_free(Order *order);

/**
 * order_may_start() - of one pending node
 * @facts:     one a node
 * @ret_blame: set unless ORDER_START: the entry of the node's `after` that says it; may be NULL
 *
 * Looks at the node's own entries only: a node that waits for one which will never start is told so once that one is
 * final. A dynamic node is ORDER_START always: it is nobody's to start.
 */
OrderAnswer order_may_start(const Plan *plan, const OrderFact *facts, uint32_t node, const PlanAfter **ret_blame);

/**
 * order_answers() - of all nodes at once
 * @answers: one a node; of those that are not pending ORDER_START
 *
 * Follows ORDER_NEVER through: whoever waits for a node that never starts never starts. Linear.
 */
void order_answers(const Plan *plan, const OrderFact *facts, OrderAnswer *answers);

/**
 * order_dependents() - the nodes that are after this one, directly: to look at again when it has changed
 * @ret_n: how many
 *
 * Return: their indices, borrowed.
 */
const uint32_t *order_dependents(const Order *order, uint32_t node, size_t *ret_n);

/**
 * order_held() - who may not be asked to stop yet, and because of whom
 * @now:      of the turn
 * @term:     when SIGTERM goes to everybody, whoever was asked: the ladder's, absolute
 * @ret_held: one a node: the index of a node that has to end first, or ORDER_FREE
 *
 * A node is free once every node that is after it, directly or not, is final or was never started; from @term on in any
 * case. So a stop runs in reverse, and nobody's deadline moves by it. Linear.
 */
#define ORDER_FREE UINT32_MAX
void order_held(const Order *order, const OrderFact *facts, nsec_t now, nsec_t term, uint32_t *ret_held);

/**
 * order_downstream() - who begins anew when a node with on_failure restart-downstream fails
 * @ret: room for plan->n_nodes indices
 *
 * All that its data or its `after` reach, directly or not, but itself; dynamic nodes (nobody can restart them) are
 * passed through and left out. In the order of starts: stop them from the last to the first, begin them from the first.
 * Those that are pending or final stay as they are; that is the caller's to look at.
 *
 * Linear; uses room of @order's own, so one thread at a time. Return: how many.
 */
size_t order_downstream(Order *order, uint32_t node, uint32_t *ret);

const char *order_answer_to_string(OrderAnswer answer);

#endif
