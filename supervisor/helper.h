/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a helper: a process that loads a kernel probe for the supervisor, which has the guard start it, listens to its socket, and lets go of it
 * by hanging up. Nothing depends on one.
 *
 * Starting and loading have a deadline. One that is late, dies or speaks nonsense is killed and, as often as its kind says, replaced after a pause that
 * grows; else it is given up. The guard's answers come in the order of the orders: who was started for an earlier one is not the one that is meant.
 *
 * Does not: know what a helper says, or who wants it; its owner does. Nothing here blocks.
 */
#ifndef TG_SUPERVISOR_HELPER_H
#define TG_SUPERVISOR_HELPER_H

#include <stdint.h>

#include "supervisor/supervisor.h"

#define HELPER_AGAIN_SPAN (10 * NSEC_PER_SEC) /* what was not to be had is asked for again by whoever wants it anew, not sooner */

typedef enum HelperState {
        HELPER_IDLE,    /* nobody wants it */
        HELPER_ASKED,   /* the guard was asked */
        HELPER_LOADING,
        HELPER_READY,   /* its owner says so: helper_is_ready() */
        HELPER_PAUSING, /* `why` says it; another one is asked for when the pause is over */
        HELPER_OFF,     /* not to be had, or given up: `why` says it */
} HelperState;

typedef struct HelperKind {
        GuardHelper which;
        const char *program; /* beside tidegated */
        const char *name;    /* as people are told of it */
        unsigned n_tries;    /* so many that fail in a row are the last one */
        unsigned growth;     /* from one pause to the next */
        uint32_t (*word)(const Helper *helper);          /* for GUARD_MSG_FORK_HELPER; NULL: 0 */
        SourceFn on_socket;                              /* of its `source`: something can be read from its `fd` */
        void (*ended)(Helper *helper, const char *what); /* PAUSING, for @what it did, or OFF. It is killed and hung up when that returns */
} HelperKind;

struct Helper { /* in its owner */
        const HelperKind *kind;
        Supervisor *supervisor;
        HelperState state;
        int fd, pidfd;
        int32_t pid; /* of the last one */
        Source source;
        Timer timer;       /* of ASKED, LOADING and PAUSING */
        unsigned n_orders; /* to the guard, and not answered */
        unsigned n_failures;
        nsec_t pause;
        nsec_t asked_at, ready_at, given_up_at;
        char why[224];
};

/* helper_init() - @supervisor passes the guard's answers on to it from now on; helper_done() - it ends; nobody is told. */
void helper_init(Helper *helper, const HelperKind *kind, Supervisor *supervisor);
void helper_done(Helper *helper);

/* helper_refusal() - why none is to be had from the outset, for people; NULL: it may be. */
const char *helper_refusal(void);

/* helper_ask() - IDLE: have one started; it may be OFF at once. helper_let_go() - whatever it is: it ends, nobody is told, and the next one starts afresh. */
void helper_ask(Helper *helper);
void helper_let_go(Helper *helper);

/* helper_is_ready() - LOADING: it has said so. */
void helper_is_ready(Helper *helper);

/*
 * helper_fail() - it died, wedged or speaks nonsense: @what it did, "is gone". helper_give_up() - @why there is none, and none is tried. Both end with a
 * call of ended().
 */
void helper_fail(Helper *helper, const char *what);
void helper_give_up(Helper *helper, const char *why);

/* helper_may_again() - somebody wants it anew: OFF becomes IDLE if HELPER_AGAIN_SPAN has passed since then. */
void helper_may_again(Helper *helper, nsec_t since);

/* The guard's answers. */
void helper_on_started(Supervisor *supervisor, GuardHelper which, int32_t pid, int take_sock, int take_pidfd);
void helper_on_failed(Supervisor *supervisor, GuardHelper which, int error);

#endif
