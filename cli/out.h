/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output that never holds the command up: text goes into a bounded buffer, and a thread of its own writes it. A terminal
 * stopped with Ctrl-S, or a pipe nobody reads, then delays neither signals nor deadlines.
 *
 * Threads: one writer of text; the buffer is shared with the thread only.
 */
#ifndef TG_CLI_OUT_H
#define TG_CLI_OUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"

#define OUT_ROOM (1u << 20) /* bytes that may wait */

typedef struct Out Out;

int out_new(Out **ret, int fd); /* fd: borrowed; 0 or a negative errno */

/* out_write() - all or nothing: false when there is no room, and the text is dropped. Never blocks. */
bool out_write(Out *out, const void *data, size_t size);

size_t out_backlog(Out *out); /* bytes that wait */
size_t out_written(Out *out); /* bytes that do not wait any more, in all, modulo SIZE_MAX + 1 */
int out_error(Out *out);      /* errno of the write that failed, after which everything is dropped; 0: none */

/* out_finish() - wait until everything was written or @deadline; then the thread is left behind if it still blocks. */
void out_finish(Out *out, nsec_t deadline);

#endif
