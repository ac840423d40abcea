/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Graph: a plan as a picture, in the text of Mermaid or of Graphviz. Deterministic: the same plan gives the same
 * text.
 *
 * Nodes are boxes (programs without links rounded, dynamic nodes slanted), each distinct timer a shape of its own; an
 * edge is labelled with the output, the input when it is called otherwise, and the queue where it is not the default.
 * What a node is after leads to it dashed, labelled with how far that must have come. Pure.
 */
#ifndef TG_DESCRIPTOR_GRAPH_H
#define TG_DESCRIPTOR_GRAPH_H

#include <jansson.h>

/**
 * graph_mermaid(), graph_dot() - render a plan
 * @plan: as docs/plan.md; what does not look like it is left out
 * @ret:  set on success; malloc'ed
 *
 * Return: 0 or -ENOMEM.
 */
int graph_mermaid(const json_t *plan, char **ret);
int graph_dot(const json_t *plan, char **ret);

#endif
