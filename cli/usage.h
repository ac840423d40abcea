/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage: who is in a cgroup and what they use, from cgroup.procs and by base/procstat.h (never cmdline, environ or maps,
 * which wait for locks of the process looked at). A forked child looks, because a kernel may hold it up; we wait for it until
 * a deadline.
 */
#ifndef TG_CLI_USAGE_H
#define TG_CLI_USAGE_H

#include <jansson.h>
#include <sys/types.h>

#include "base/clock.h"

/**
 * usage_read() - look at @n cgroups
 * @paths: absolute; "" and what is no cgroup of version 2 are passed over
 *
 * Return: an array with one entry a path, null or {"memory": bytes, "cpu_ms", "n", "groups": [{"path" (below it, "" for
 * itself), "processes": [{"pid", "ppid", "comm", "state", "memory", "cpu_ms"}]}]}; NULL when there was no time or no child. New
 * reference.
 */
json_t *usage_read(const char *const *paths, size_t n, nsec_t deadline);

/* The same for a loop that waits for other things, too. */
typedef struct UsageLook {
        pid_t pid; /* of the child, not reaped; 0: none */
        int fd;
        char *text;
        size_t size, room, n;
} UsageLook;

#define USAGE_LOOK_NULL ((UsageLook){.fd = -1})

enum { USAGE_E_AGAIN = 1 }; /* not all of it is there */

/* usage_look_begin() - 0 or a negative errno. The descriptor is readable when there is more. */
int usage_look_begin(UsageLook *ret, const char *const *paths, size_t n);

/* usage_look_read() - never blocks. 0 (*ret: as of usage_read(), new reference), USAGE_E_AGAIN, or -EBADMSG: nothing comes of it. */
int usage_look_read(UsageLook *look, json_t **ret);

/* usage_look_done() - a child that still looks is killed. Return: its pid if it has not died by now, and has to be waited for; else 0. */
pid_t usage_look_done(UsageLook *look);

#endif
