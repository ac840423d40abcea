/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where `tidegate top` has it from: the status pages and /proc, which are read; the supervisor, which is asked; cgroups,
 * which a child looks at. Nothing here waits: what is asked is taken when it comes, has a deadline, and is given up at it.
 * The descriptors and the deadline are for the caller's poll().
 */
#ifndef TG_CLI_TOP_FEED_H
#define TG_CLI_TOP_FEED_H

#include <poll.h>

#include "cli/client.h"
#include "cli/top-child.h"
#include "cli/top-model.h"
#include "cli/usage.h"

enum { TOP_FEED_CONTROL, TOP_FEED_PROBE, TOP_FEED_LOOK, _TOP_FEED_POLL_MAX };

typedef struct TopFeed {
        const char *runtime_dir; /* borrowed */
        TopModel *model;         /* borrowed */
        nsec_t patience;         /* with a supervisor that says nothing, and a look that does not end */
        bool always_look;        /* also where the supervisor says what is used: its processes are wanted */

        Client control;
        const char *asked; /* the method under way; NULL: none */
        nsec_t asked_until;
        bool no_usage;     /* this supervisor has no such method */
        nsec_t usage_at;   /* when it was last answered */
        bool no_probe;     /* it has no probes, or may not have any */
        Client probe;      /* keeps probes attached for as long as it is open */
        char probed[40];   /* uuid; "": none */
        nsec_t interval, probe_until; /* of its stream; when its next word is late */
        char probe_said[300]; /* what was told of it last: the same is not told again */
        char told[300];    /* for the person who asked for them; taken by the caller */
        json_t *uuids;     /* shown; owned */
        size_t next_usage, next_probe; /* whom of these to ask for next */
        char refused[256]; /* what it answered instead of what was asked for */

        UsageLook look;
        json_t *look_uuids; /* whose it is, in order; owned */
        nsec_t look_until;
        json_t *seen, *seen_before; /* {uuid: entry} of usage_read(); owned */
        nsec_t seen_at, seen_before_at;

        pid_t left[16]; /* children that were killed, and have not died */
} TopFeed;

#define TOP_FEED_NULL ((TopFeed){.control = {.fd = -1}, .probe = {.fd = -1}, .look = {.fd = -1}})

/* top_feed_look() - read pages and begin to ask for the rest. What is still under way is not asked for again. 0 or -ENOMEM. */
int top_feed_look(TopFeed *feed, nsec_t now);

/* top_feed_probe() - have the system calls of a dataflow counted, until it is another or NULL. What becomes of it is in told. */
void top_feed_probe(TopFeed *feed, const char *uuid, nsec_t now);

/* top_feed_poll() - what to wait for; descriptors may be -1. Return: until when, at most. */
nsec_t top_feed_poll(const TopFeed *feed, struct pollfd p[static _TOP_FEED_POLL_MAX]);

/* top_feed_take() - what has come, and what is late. */
void top_feed_take(TopFeed *feed, nsec_t now);

/* top_feed_is_done() - nothing is under way. */
bool top_feed_is_done(const TopFeed *feed);

/* top_feed_leave() - a child that was killed is waited for, some time. */
void top_feed_leave(TopFeed *feed, pid_t pid);

void top_feed_done(TopFeed *feed);

#endif
