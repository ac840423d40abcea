/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32 (IEEE 802.3, as in zip and Ethernet) over bytes in memory: finds what was torn or has rotted, not what somebody forged.
 * zlib's, so whoever includes this links zlib. No state, thread-safe.
 */
#ifndef TG_BASE_CRC32_H
#define TG_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

#include <zlib.h>

/* crc32_of() - of @size bytes; 0 for none. */
static inline uint32_t crc32_of(const void *data, size_t size)
{
        return (uint32_t)crc32_z(0, data, size);
}

#endif
