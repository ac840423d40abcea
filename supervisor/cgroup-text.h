/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a cgroup as text: read whole, and numbers found in them. Nothing allocates; thread-safe; the files are the kernel's, and reading
 * one waits for it alone.
 */
#ifndef TG_SUPERVISOR_CGROUP_TEXT_H
#define TG_SUPERVISOR_CGROUP_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* cgroup_read_text() - the file's first @size - 1 bytes and a NUL. 0, or a negative errno with @ret empty. */
int cgroup_read_text(int dir_fd, const char *name, char *ret, size_t size);

/* cgroup_text_find() - what follows "KEY " at the beginning of a line; NULL: there is none. */
const char *cgroup_text_find(const char *text, const char *key);

/* cgroup_text_number() - the number there; 0: there is none. */
uint64_t cgroup_text_number(const char *text, const char *key);

#endif
