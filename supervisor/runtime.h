/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon's runtime directory (docs/daemon.md): made, locked, its two sockets bound once, and removed at the end.
 *
 * These functions block as a local file system does; they run in the guard before its loop and after it, never in a loop.
 */
#ifndef TG_SUPERVISOR_RUNTIME_H
#define TG_SUPERVISOR_RUNTIME_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#define RUNTIME_NAME_MAX 64
#define RUNTIME_HOLDER   "holder.sock"

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

/* runtime_listen_keeper() - bind keeper/<slot>.sock for a keeper. 0 or a negative errno. */
int runtime_listen_keeper(const Runtime *runtime, unsigned slot, int *ret_fd);

/* runtime_listen_holder() - bind holder.sock for the scope's holder (supervisor/scope.h). 0 or a negative errno. */
int runtime_listen_holder(const Runtime *runtime, int *ret_fd);

/* runtime_forget_holder() - there is none. */
void runtime_forget_holder(const Runtime *runtime);

/* runtime_take_lock() - again, for a process that follows the guard that held it; waits a little for that one's death. 0, RUNTIME_E_TAKEN or
 * a negative errno. */
int runtime_take_lock(Runtime *runtime);

/* runtime_write_pid() - into the lock's file: this process holds it, since now. 0 or a negative errno. */
int runtime_write_pid(Runtime *runtime);

/*
 * runtime_write_refusal() - after that: it was asked to become another program, and will not
 * @n: how often by now. 0 or a negative errno.
 */
int runtime_write_refusal(const Runtime *runtime, unsigned n, const char *why);

/* runtime_refusal() - between these two marks the same holder has refused. True: and this is why. */
bool runtime_refusal(const char *before, const char *after, char *ret_why, size_t why_size);

/**
 * runtime_find_guard() - who holds a runtime directory
 * @ret_mark: room for @mark_size bytes: changes with every process and program that takes the lock over
 *
 * Return: 0, -ESRCH when nobody does, another negative errno; the text says which.
 */
int runtime_find_guard(const char *path, int *ret_pid, char *ret_mark, size_t mark_size, char *ret_why, size_t why_size);

/* runtime_note_instance() - write down the cgroup's name for the daemon that finds this directory after our death. */
int runtime_note_instance(const Runtime *runtime, const char *name);

/* runtime_remove() - an orderly end: remove what a daemon makes there, and the directory if nothing else is in it. */
void runtime_remove(Runtime *runtime);

/* runtime_done() - close, leave the files. */
void runtime_done(Runtime *runtime);

#endif
