/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a node share: node.c (the table, and how events are applied), node-start.c, node-ladder.c, node-end.c,
 * node-left.c, node-order.c. Actions run from the table alone, unless another action ends in them.
 */
#ifndef TG_SUPERVISOR_NODE_INTERNAL_H
#define TG_SUPERVISOR_NODE_INTERNAL_H

#include <stdarg.h>

#include "supervisor/node.h"

/* node.c. The one deadline of its state, and node_set_error() for whoever has the arguments as a list. */
void node_set_deadline(Node *node, nsec_t at);
__attribute__((format(printf, 2, 0))) void node_set_error_va(Node *node, const char *format, va_list ap);

/* node-start.c: actions. */
void node_spawn(Node *node);
void node_spawn_again(Node *node);
void node_on_ready(Node *node);
void node_on_spawn_failed(Node *node);

/* node-ladder.c: actions. node_end_now(): the ladder begins with its second rung, at once. */
void node_on_early_exit(Node *node);
void node_on_startup_timeout(Node *node);
void node_on_exit(Node *node);
void node_on_finish_timeout(Node *node);
void node_begin_ladder(Node *node);
void node_next_rung(Node *node);
void node_end_now(Node *node, NodeEnd end);

/* node-left.c. node_quarantine(): the verdict, of who did not end. node_nothing(): the action of an end that changes no state. */
void node_quarantine(Node *node, bool in_exec);
void node_nothing(Node *node);

/* node-end.c: actions. node_tell_end(): its links and consumers hear of it. */
void node_resolve(Node *node);
void node_back_off(Node *node);
void node_on_final(Node *node);
void node_on_no_restart(Node *node);
void node_tell_end(Node *node, bool restart, bool failed);

#endif
