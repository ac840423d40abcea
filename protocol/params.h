/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata parameters: a small map from key to typed value that travels beside a payload.
 *
 * Encoded form (see wire.h for integers and strings): u32 count >= 1, then per entry u8 type, the key, the value. Keys
 * ascend strictly by byte order, so there is one encoding per map and no key twice. An empty map is 0 bytes. Keys and
 * strings are UTF-8 without NUL. The whole is at most PARAMS_MAX bytes.
 *
 * Decoding is strict, and expects private memory: who reads shared memory copies first. Hostile bytes cost at most a few
 * times their own size. No I/O. One Params is for one thread at a time.
 */
#ifndef TG_PROTOCOL_PARAMS_H
#define TG_PROTOCOL_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define PARAMS_MAX     65536 /* bytes, encoded */
#define PARAMS_KEY_MAX 256   /* bytes of a key, at least 1 */

typedef enum ParamType {
        PARAM_BOOL = 1,
        PARAM_INT = 2,
        PARAM_FLOAT = 3,
        PARAM_STRING = 4,
        PARAM_INTS = 5,
        PARAM_FLOATS = 6,
        PARAM_STRINGS = 7,
} ParamType;

/* Arrays and strings are borrowed: from the caller in a setter, from the Params in a getter. */
typedef struct ParamValue {
        ParamType type;
        size_t n; /* of the list types */
        union {
                bool b;
                int64_t i;
                double f;
                const char *s;
                const int64_t *ints;
                const double *floats;
                const char *const *strings;
        };
} ParamValue;

typedef struct tg_params Params; /* the public header's name: no conversion at that border */

Params *params_new(void);            /* NULL: out of memory */
Params *params_free(Params *params); /* NULL is fine. Return: NULL. */

static inline void params_freep(Params **p)
{
        *p = params_free(*p);
}

/**
 * params_set() - set one entry, replacing an older one of that key
 *
 * Copies; @key and @value may be of this map. On failure @params is as before.
 *
 * Return: 0; -EINVAL for a bad key, type or string; -EMSGSIZE when the map would grow over PARAMS_MAX; -ENOMEM.
 */
int params_set(Params *params, const char *key, const ParamValue *value);

/* params_get() - the value of @key, borrowed; NULL when there is none. A NULL map is empty, here and below. */
const ParamValue *params_get(const Params *params, const char *key);
size_t params_count(const Params *params);
/* params_at() - the entry number @index in the order of keys; NULL past the last. */
const ParamValue *params_at(const Params *params, size_t index, const char **ret_key);

size_t params_encoded_size(const Params *params); /* bytes; 0 for an empty map */

/**
 * params_encode() - write the encoded form
 * @size: of @buffer; params_encoded_size() suffices
 *
 * Return: the number of bytes, or -EMSGSIZE when they do not fit.
 */
int params_encode(const Params *params, void *buffer, size_t size);

/**
 * params_decode() - read an encoded map
 * @ret:   set on success; owned by the caller
 * @bytes: private memory; nothing of it is borrowed
 *
 * Return: 0, -EPROTO, or -ENOMEM.
 */
int params_decode(Params **ret, const void *bytes, size_t size);

#endif
