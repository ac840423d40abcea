/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy of a payload into its chunk: memcpy(), and for what no cache holds stores that go past the cache, so that the
 * memory that is written need not be read first. The C library would do so by itself, but from a size on that it takes from what the
 * processor says of its caches, and in a virtual machine that may be many times what there is.
 */
#ifndef TG_NODE_COPY_H
#define TG_NODE_COPY_H

#include <stddef.h>

/* Source and destination together are as large as a large last-level cache. Below it both may be in a cache, where memcpy() takes two thirds
 * of the time; from here on it takes longer, and so does whoever then reads all of it. */
#define COPY_STREAM_MIN ((size_t)16 << 20)

/* copy_payload() - memcpy() of memory that does not overlap. Visible to whoever sees what is stored with release after it. */
void copy_payload(void *to, const void *from, size_t size);

/* copy_past_cache() - the same, past the cache whatever the size. memcpy() where the processor has no such stores. */
void copy_past_cache(void *to, const void *from, size_t size);

#endif
