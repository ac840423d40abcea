/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How dataflows and their nodes are shown, from the objects of the control interface or of the status page: supervisorctl's
 * columns for nodes, Dora's for dataflows.
 */
#ifndef TG_CLI_STATUS_H
#define TG_CLI_STATUS_H

#include <jansson.h>

#include "cli/session.h"

/* status_print_lines() - one line a node: `dataflow:node  STATE  description`. */
void status_print_lines(const json_t *dataflows);

/* status_print_links() - one line a link: `dataflow: node/output -> node/input  state, policy queue: counters`. */
void status_print_links(const json_t *dataflows);
void status_print_link(const json_t *link); /* its state and counters, without its name */

/* status_print_block() - what systemctl would show of one dataflow, by its processes and its log files. */
void status_print_block(const json_t *dataflow);

/* list_print_table() - one line a dataflow. @usage: of usage_read(), entry by entry; NULL: not known. */
void list_print_table(const json_t *dataflows, const json_t *usage);

/* dataflow_word() - "running", "finished", "failed", ...: Dora's word for its state. */
const char *dataflow_word(const json_t *dataflow);

/* node_word() - its state in capitals, static. */
const char *node_word(const json_t *node);

/* protection_describe() - how a node is held: "cgroup; cgroups are mounted read-only". Not yet tame. */
void protection_describe(char *buffer, size_t size, const json_t *node);

/*
 * protection_next() - a line for those of @nodes that run and are held alike: "3 nodes: ..."; begin with @at 0. Return: the next
 * @at, or 0 when there is no more. Not yet tame.
 */
size_t protection_next(const json_t *nodes, size_t at, char *buffer, size_t size);

/* status_print_limits() - a line for each limit, and for what was felt of them; of a node or a dataflow. */
void status_print_limits(const json_t *object, int width);

/* status_print_pressure() - a line of a node's "usage": "cpu 17.9 %, memory 3 %, io 0 % (some waited, of the last 10 s)". Nothing where none is known, and
 * with @id, which begins the line, where nobody waits. */
void status_print_pressure(const json_t *node, int width, const char *id);

/* dataflows_usage() - usage_read() for an array of them. New reference or NULL. */
json_t *dataflows_usage(const json_t *dataflows);

#endif
