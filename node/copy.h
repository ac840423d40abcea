/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy of a payload into its chunk: memcpy(), or stores that go past the cache, so that the memory that is written need not be
 * read first. Those take 1.5 times as long while both sides are in a cache, and 0.7 of the time when neither is: what is larger than caches
 * are, and what was last written so long ago that others have had the cache since. Whoever then reads all of it gains, too.
 *
 * The C library chooses by the size alone, from one on that it takes from what the processor says of its caches; in a virtual machine
 * that may be many times what there is.
 */
#ifndef TG_NODE_COPY_H
#define TG_NODE_COPY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"

#define COPY_STREAM_MIN ((size_t)16 << 20)  /* bytes; source and destination fill a large cache */
#define COPY_COLD_MIN   ((size_t)256 << 10) /* bytes; less is not worth it */
#define COPY_COLD_NS    (2 * NSEC_PER_MSEC) /* since the last message; about 1 ms is where it begins to pay */

/* copy_is_cold() - whether a payload goes past the cache. @idle_ns: since the last one of that output was copied. */
bool copy_is_cold(size_t size, nsec_t idle_ns);

/* copy_payload() - memcpy() of memory that does not overlap. Visible to whoever sees what is stored with release after it. */
void copy_payload(void *to, const void *from, size_t size, bool cold);

/* copy_past_cache() - the same, past the cache whatever the size. memcpy() where the processor has no such stores. */
void copy_past_cache(void *to, const void *from, size_t size);

#endif
