/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command of `tidegate` whose output is shown in a page of `top`: it may wait for files or for the supervisor as long as it
 * likes, and we do not. Its lines come through a pipe, standard error with them.
 */
#ifndef TG_CLI_TOP_CHILD_H
#define TG_CLI_TOP_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "cli/top-text.h"

typedef struct TopChild {
        pid_t pid; /* not reaped; 0: none */
        int fd;    /* readable when there are lines, or its end; -1: none */
        char line[4096];
        size_t size;
} TopChild;

#define TOP_CHILD_NULL ((TopChild){.fd = -1})

/* top_child_begin() - run `tidegate ARGV[1]...`. 0 or a negative errno. */
int top_child_begin(TopChild *ret, const char *const argv[]);

/* top_child_read() - add what it has printed since to @text, a bounded amount. Never blocks. At its end fd is -1. */
void top_child_read(TopChild *child, TopText *text);

/* top_child_done() - SIGKILL to it. Return: its pid if it has to be waited for; else 0. */
pid_t top_child_done(TopChild *child);

#endif
