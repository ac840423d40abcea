/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Follow: the events of a start or a stop on the screen (run-screen.h), for one dataflow of the daemon's or several at once,
 * then the results with their ledgers. Decides nothing; waits for nothing.
 */
#ifndef TG_CLI_FOLLOW_H
#define TG_CLI_FOLLOW_H

#include "cli/run-screen.h"
#include "cli/session.h"

typedef struct Follow {
        Screen screen;
        json_t *plan; /* what the screen shows: {"name", "nodes": [{"id"}]} */
        bool many;    /* several dataflows: nodes are told as DATAFLOW:NODE */
        nsec_t since; /* of the order: ledgers count from here */
        int status;   /* the worst exit status of the results so far */
        unsigned n_results;
        char *told; /* the last error that an event brought: a result does not say it again */
} Follow;

/**
 * follow_init() - @dataflows: an array of Dataflow objects with their nodes; copied
 * @phase: "starting" or "stopping"
 *
 * Return: 0 or a negative errno. Call follow_done() in any case.
 */
int follow_init(Follow *follow, const json_t *dataflows, const char *phase, bool json);
void follow_done(Follow *follow);

void follow_event(Follow *follow, const json_t *event);

/* follow_refresh() - states and deadlines as @dataflows (of a Status) has them. */
void follow_refresh(Follow *follow, const json_t *dataflows);

/* follow_line() - a LogLine of the Logs stream. */
void follow_line(Follow *follow, const json_t *line);

/* follow_result() - how it ended; @ledger: also rung by rung. */
void follow_result(Follow *follow, json_t *result, bool ledger);

/* follow_until() - when the dataflows being stopped have ended at the latest; NSEC_NEVER: not known. */
nsec_t follow_until(const Follow *follow);

#endif
