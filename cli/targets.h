/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Targets: which dataflows and nodes the words on the command line mean. A dataflow is named by its name, its uuid or a
 * beginning of it (the supervisor decides); a node by DATAFLOW:NODE, or by its id alone where only one dataflow has it.
 */
#ifndef TG_CLI_TARGETS_H
#define TG_CLI_TARGETS_H

#include "cli/session.h"

typedef struct Target {
        char dataflow[160]; /* "": not said */
        char node[160];     /* "": the dataflow itself; "*": all of its nodes */
} Target;

/* target_parse() - "DATAFLOW", "DATAFLOW:NODE" or "DATAFLOW:*". False when it is too long or a part is empty. */
bool target_parse(Target *ret, const char *text);

/**
 * targets_status() - Dataflow objects with their nodes
 * @names: of dataflows; each once; @n 0: all of the caller's
 * @ret:   an array; on success
 * @ret_transport: set to the CLIENT_E_* code (or negative errno) when the supervisor could not be asked; nothing was said
 * then
 *
 * Unknown names are said, and the others are still returned.
 *
 * Return: 0 or the exit status.
 */
int targets_status(Session *session, const char *const *names, size_t n, json_t **ret, int *ret_transport);

/*
 * targets_usage() - "usage" into each node of @dataflow that lives: what it uses at the moment (NodeUsage). Says nothing; whoever cannot be asked in a
 * second is not waited for.
 */
void targets_usage(Session *session, json_t *dataflow);

/* targets_live() - those of @dataflows that have not ended. New reference. */
json_t *targets_live(const json_t *dataflows);

/* targets_the_one() - the only dataflow that runs; else the others are said. Return: 0 (borrowed from @dataflows) or the exit
 * status. */
int targets_the_one(Session *session, const json_t *dataflows, json_t **ret);

/**
 * targets_node() - find one node
 * @text:     "DATAFLOW:NODE" or "NODE"
 * @dataflow: of -d, or NULL
 *
 * Return: 0 or the exit status, said. New references.
 */
int targets_node(Session *session, const char *dataflow, const char *text, json_t **ret_dataflow, json_t **ret_node);

/*
 * targets_detached() - the dataflow that node @id of @dataflow has become by `detach: true`, one that lives first. Says nothing.
 * New reference, or NULL: it has not, or the supervisor could not be asked.
 */
json_t *targets_detached(Session *session, const json_t *dataflow, const char *id);

bool dataflow_has_ended(const json_t *dataflow);
json_t *dataflow_find_node(const json_t *dataflow, const char *id); /* borrowed, or NULL */

#endif
