/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds-checked encoding of small messages: fixed-width little-endian integers and length-prefixed byte strings.
 *
 * A Wire is a cursor over a caller's buffer. Errors are sticky: after the first one every put is ignored and every get
 * returns zero values, so a codec checks once, at its end. Nothing is allocated; strings taken out are borrowed from
 * the buffer and NUL-terminated there (the terminator travels), free of inner NULs.
 *
 * Does no I/O. Not thread-safe per Wire.
 */
#ifndef TG_PROTOCOL_WIRE_H
#define TG_PROTOCOL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Wire {
        uint8_t *data;
        size_t size; /* of the buffer when writing, of the message when reading */
        size_t at;
        bool bad;
} Wire;

static inline Wire wire_init(void *data, size_t size)
{
        return (Wire){.data = data, .size = size};
}

void wire_put_u8(Wire *w, uint8_t v);
void wire_put_u16(Wire *w, uint16_t v);
void wire_put_u32(Wire *w, uint32_t v);
void wire_put_u64(Wire *w, uint64_t v);
void wire_put_bytes(Wire *w, const void *p, size_t n);
void wire_put_str(Wire *w, const char *s); /* u32 length without the NUL, bytes, NUL; NULL is written as "" */

uint8_t wire_get_u8(Wire *w);
uint16_t wire_get_u16(Wire *w);
uint32_t wire_get_u32(Wire *w);
uint64_t wire_get_u64(Wire *w);
void wire_get_bytes(Wire *w, void *ret, size_t n);
const char *wire_get_str(Wire *w, size_t max_len); /* "" when bad; longer than max_len is bad */

/* wire_done() - a reader's last word: 0 when nothing went wrong and every byte was used, -EPROTO otherwise. */
int wire_done(const Wire *w);

#endif
