/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon's runtime directory (docs/daemon.md): made, locked, its two sockets bound once, and removed at the end.
 *
 * These functions block as a local file system does; they run in the guard before its loop and after it, never in a loop.
 */
#ifndef TG_SUPERVISOR_RUNTIME_H
#define TG_SUPERVISOR_RUNTIME_H

#include <limits.h>
#include <stddef.h>

#define RUNTIME_NAME_MAX 64

typedef struct Runtime {
        int dir_fd;     /* the directory */
        int lock_fd;    /* flock()ed for the guard's life; -1 in everybody else */
        int control_fd; /* listening */
        int node_fd;    /* listening */
        char path[PATH_MAX];
        char instance[RUNTIME_NAME_MAX]; /* name of the cgroup that a dead daemon left here; "": none */
} Runtime;

#define RUNTIME_NULL ((Runtime){.dir_fd = -1, .lock_fd = -1, .control_fd = -1, .node_fd = -1})

enum {
        RUNTIME_E_TAKEN = 1, /* another daemon lives there; its guard's pid is in the text */
};

/**
 * runtime_open() - make the directory if it is not there, lock it, bind the sockets
 * @path:    absolute or relative; NULL: /run/tidegate for root, else $XDG_RUNTIME_DIR/tidegate
 * @ret_why: room for @why_size bytes, set on failure: what stood in the way
 *
 * Return: 0, RUNTIME_E_TAKEN, or a negative errno.
 */
int runtime_open(Runtime *ret, const char *path, char *ret_why, size_t why_size);

/* runtime_note_instance() - write down the cgroup's name for the daemon that finds this directory after our death. */
int runtime_note_instance(const Runtime *runtime, const char *name);

/* runtime_remove() - an orderly end: remove what a daemon makes there, and the directory if nothing else is in it. */
void runtime_remove(Runtime *runtime);

/* runtime_done() - close, leave the files. */
void runtime_done(Runtime *runtime);

#endif
