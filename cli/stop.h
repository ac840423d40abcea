/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stops in flight: orders sent to the supervisor (Stop, Restart, Shutdown), their ladders on the screen, and what is done
 * when it falls silent, lies about its deadline or dies on the way: ask its successor, and at last kill through the cgroups
 * themselves.
 */
#ifndef TG_CLI_STOP_H
#define TG_CLI_STOP_H

#include "cli/follow.h"
#include "cli/session.h"

typedef struct StopOrder {
        const char *method;
        json_t *parameters; /* owned until it is sent */
        json_t *dataflows;  /* owned: an array, what it stops */
        Client client;
        bool done;
        json_t *last; /* parameters of the final reply; owned */
} StopOrder;

typedef struct Stop {
        Session *session; /* its signals are caught */
        Follow follow;
        nsec_t grace; /* as ordered; NSEC_NEVER: each dataflow's own */
        bool force, restart, shutdown, ledger;
        StopOrder *orders; /* borrowed */
        size_t n_orders;

        bool accepted; /* something came back */
        bool left;     /* by Ctrl-C */
        int status;    /* worst exit status so far */
        nsec_t begun_at, silent_at;
} Stop;

/**
 * stop_run() - send the orders and see them through
 *
 * Blocks until all have ended, until the last deadline has passed and the last resort has been tried, or until Ctrl-C, after
 * which the orders go on without us; says all of it.
 *
 * Return: the exit status. Releases what the orders own.
 */
int stop_run(Stop *stop);

#endif
