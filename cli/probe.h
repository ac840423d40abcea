/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probe: look at a program's file without being caught by a file system that does not answer: a child looks, we wait
 * for it PROBE_WAIT_MS at most. A child that hangs is killed and left to die when it can.
 */
#ifndef TG_CLI_PROBE_H
#define TG_CLI_PROBE_H

#include "descriptor/descriptor.h"

#define PROBE_WAIT_MS    500
#define PROBE_SILENT_MAX 4 /* after so many that hung, nothing more is looked at (and nothing said) */

typedef struct Probe {
        unsigned n_silent;
} Probe;

#define PROBE_INIT {.n_silent = 0}

/* probe_program() - for DescriptorOptions.probe; userdata is a Probe. Forks: single-threaded callers only. */
ProgramState probe_program(const char *path, bool is_script, void *userdata);

#endif
