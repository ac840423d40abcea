/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probing: what `tidegate probe` has seen of a dataflow in some time, as text and as a page. Works on the object that its --json prints.
 *
 *     {"dataflow", "for_ms", "attached", "reason"?, "cost"?, "nodes": [{"node", "generation", "lost", "calls": [ProbedCall]}],
 *      "links": [ProbedLink], "queue_reason"?, "queue_cost"?}
 *     or where nothing could be counted {"node", "generation", "calls": [], "sampled": ProbedSamples}, and links of "source": "counters"
 */
#ifndef TG_CLI_PROBING_H
#define TG_CLI_PROBING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/**
 * probing_between() - what was counted between two replies of Probe (type Probes)
 * @first: NULL: since the beginning
 *
 * A life of a node that is not in @first counts from its beginning. Calls that nobody made are left out, those that somebody is in are not;
 * in the order of the time that was spent in them. Return: a new reference, NULL without memory.
 */
json_t *probing_between(const char *dataflow, long long for_ms, const json_t *first, const json_t *last);

/* probing_is_of_counters() - was this link looked at from time to time, instead of its messages? */
bool probing_is_of_counters(const json_t *link);

/* probing_print() - as text on stdout, 80 columns. @n_calls: so many of each node at the most */
void probing_print(const json_t *probing, bool utf8, size_t n_calls);

/* probing_page() - as one HTML file with everything in it: drawings as SVG, no script, nothing fetched. 0 or a negative errno. */
int probing_page(const json_t *probing, FILE *f);

#endif
