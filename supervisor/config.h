/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's configuration file: a line a setting, `name = value`, `#` begins a comment.
 *
 *     grace_duration = 10s    # of a stop that says nothing else
 *     kill_budget = 2s        # from SIGKILL to the verdict
 *     watchdog = 5s           # what a turn of the supervisor's loop may take; 0: anything
 *     enforcer = pidns        # what nodes are ended with (base/enforcer.h); of a daemon that starts
 *
 * What the command line says comes first, and stays. Read at the start, and again at SIGHUP, by a process of its own: a file system
 * may hold whoever opens a file there.
 */
#ifndef TG_SUPERVISOR_CONFIG_H
#define TG_SUPERVISOR_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/enforcer.h"

#define CONFIG_PATH "/etc/tidegate/tidegated.conf"

typedef struct Config {
        bool has_grace, has_budget, has_watchdog, has_enforcer;
        nsec_t grace_ns, budget_ns, watchdog_ns;
        Enforcer enforcer; /* ENFORCER_AUTO where there is none */
} Config;

/**
 * config_read() - read a file
 * @path:    of at most 64 KiB; no such file at CONFIG_PATH is an empty one
 * @ret_why: room for @why_size bytes, set on failure: file, line and what is wrong with it
 *
 * Blocks as the file system does. Return: 0, or a negative errno; @ret is not touched then.
 */
int config_read(Config *ret, const char *path, char *ret_why, size_t why_size);

#endif
