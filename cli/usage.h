/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage: who is in a cgroup and what they use, from cgroup.procs and /proc/PID/{stat,statm} (never cmdline, environ or maps,
 * which wait for locks of the process looked at). A forked child looks, because a kernel may hold it up; we wait for it until
 * a deadline.
 */
#ifndef TG_CLI_USAGE_H
#define TG_CLI_USAGE_H

#include <jansson.h>

#include "base/clock.h"

/**
 * usage_read() - look at @n cgroups
 * @paths: absolute; "" and what is no cgroup of version 2 are passed over
 *
 * Return: an array with one entry a path, null or {"memory": bytes, "cpu_ms", "n", "groups": [{"path" (below it, "" for
 * itself), "processes": [{"pid", "comm", "state", "memory", "cpu_ms"}]}]}; NULL when there was no time or no child. New
 * reference.
 */
json_t *usage_read(const char *const *paths, size_t n, nsec_t deadline);

#endif
