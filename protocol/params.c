/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hot.h"
#include "protocol/params.h"

#include <errno.h>
#include <string.h>

#include "base/utf8.h"
#include "protocol/wire.h"

#define STR_OVERHEAD 5 /* length and NUL of an encoded string */

typedef struct Param {
        ParamValue value;
        const char *key;
        size_t encoded_size;
        void *block; /* key and value's bytes, one allocation */
} Param;

struct tg_params {
        Param *entries; /* ascending by key */
        size_t n, n_allocated;
        size_t encoded_size; /* of all entries, without the count */
};

Params *params_new(void)
{
        return calloc(1, sizeof(Params));
}

Params *params_free(Params *params)
{
        if (!params)
                return NULL;
        for (size_t i = 0; i < params->n; i++)
                free(params->entries[i].block);
        free(params->entries);
        free(params);
        return NULL;
}

static bool text_valid(const char *s)
{
        return utf8_valid(s, strlen(s));
}

/* Bytes of the value on the wire; 0 when it is not a legal value. Saturates above PARAMS_MAX. */
static size_t value_encoded_size(const ParamValue *v)
{
        size_t sum = 4;

        switch (v->type) {
        case PARAM_BOOL:
                return 1;
        case PARAM_INT:
        case PARAM_FLOAT:
                return 8;
        case PARAM_STRING:
                return v->s && text_valid(v->s) ? STR_OVERHEAD + strlen(v->s) : 0;
        case PARAM_INTS:
        case PARAM_FLOATS:
                return v->n > PARAMS_MAX ? PARAMS_MAX + 1 : 4 + 8 * v->n;
        case PARAM_STRINGS:
                for (size_t i = 0; i < v->n && sum <= PARAMS_MAX; i++) {
                        if (!v->strings[i] || !text_valid(v->strings[i]))
                                return 0;
                        sum += STR_OVERHEAD + strlen(v->strings[i]);
                }
                return sum;
        }
        return 0;
}

/* Bytes of private memory behind the value: first what needs alignment, then characters. */
static size_t value_block_size(const ParamValue *v)
{
        size_t sum;

        switch (v->type) {
        case PARAM_STRING:
                return strlen(v->s) + 1;
        case PARAM_INTS:
        case PARAM_FLOATS:
                return 8 * v->n;
        case PARAM_STRINGS:
                sum = v->n * sizeof(char *);
                for (size_t i = 0; i < v->n; i++)
                        sum += strlen(v->strings[i]) + 1;
                return sum;
        default:
                return 0;
        }
}

static char *put_str(char *to, const char *s)
{
        return (char *)memcpy(to, s, strlen(s) + 1) + strlen(s) + 1;
}

/* Points the copied value into @block. Return: the first byte after it. */
static char *value_move_into(ParamValue *v, void *block)
{
        const char *const *strings = v->strings;
        const char **copies = block;
        char *at;

        switch (v->type) {
        case PARAM_STRING:
                at = put_str(block, v->s);
                v->s = block;
                return at;
        case PARAM_INTS:
        case PARAM_FLOATS:
                if (v->n)
                        memcpy(block, v->ints, 8 * v->n); /* both members are one pointer, both elements 8 bytes */
                v->ints = block;
                return (char *)block + 8 * v->n;
        case PARAM_STRINGS:
                at = (char *)(copies + v->n);
                for (size_t i = 0; i < v->n; i++) {
                        copies[i] = at;
                        at = put_str(at, strings[i]);
                }
                v->strings = copies;
                return at;
        default:
                return block;
        }
}

static int param_init(Param *param, const char *key, const ParamValue *value)
{
        size_t key_len = key ? strnlen(key, PARAMS_KEY_MAX + 1) : 0, value_size = value_encoded_size(value);

        if (key_len == 0 || key_len > PARAMS_KEY_MAX || !text_valid(key) || value_size == 0)
                return -EINVAL;
        if (value_size > PARAMS_MAX)
                return -EMSGSIZE;
        *param = (Param){.value = *value, .encoded_size = 1 + STR_OVERHEAD + key_len + value_size};
        param->block = malloc(value_block_size(value) + key_len + 1);
        if (!param->block)
                return -ENOMEM;
        param->key = memcpy(value_move_into(&param->value, param->block), key, key_len + 1);
        return 0;
}

/* Index of @key, or of the entry it would stand before. */
static size_t find(const Params *params, const char *key, bool *ret_found)
{
        size_t low = 0, high = params->n;

        while (low < high) {
                size_t mid = low + (high - low) / 2;
                int d = strcmp(params->entries[mid].key, key);

                if (d == 0) {
                        *ret_found = true;
                        return mid;
                }
                if (d < 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        *ret_found = false;
        return low;
}

static int reserve(Params *params)
{
        size_t n = params->n_allocated ? 2 * params->n_allocated : 4;
        Param *entries;

        if (params->n < params->n_allocated)
                return 0;
        entries = realloc(params->entries, n * sizeof(*entries));
        if (!entries)
                return -ENOMEM;
        params->entries = entries;
        params->n_allocated = n;
        return 0;
}

int params_set(Params *params, const char *key, const ParamValue *value)
{
        size_t at, without;
        bool found = false;
        Param param;
        int r;

        r = param_init(&param, key, value); /* before an entry moves: key and value may be of this map */
        if (r)
                return r;
        at = find(params, param.key, &found);
        without = params->encoded_size - (found ? params->entries[at].encoded_size : 0);
        if (4 + without + param.encoded_size > PARAMS_MAX)
                r = -EMSGSIZE;
        else if (!found)
                r = reserve(params);
        if (r) {
                free(param.block);
                return r;
        }
        if (found) {
                free(params->entries[at].block);
        } else {
                memmove(params->entries + at + 1, params->entries + at, (params->n - at) * sizeof(Param));
                params->n++;
        }
        params->entries[at] = param;
        params->encoded_size = without + param.encoded_size;
        return 0;
}

const ParamValue *params_get(const Params *params, const char *key)
{
        bool found = false;
        size_t at;

        if (!params || !key)
                return NULL;
        at = find(params, key, &found);
        return found ? &params->entries[at].value : NULL;
}

size_t params_count(const Params *params)
{
        return params ? params->n : 0;
}

const ParamValue *params_at(const Params *params, size_t index, const char **ret_key)
{
        if (index >= params_count(params))
                return NULL;
        *ret_key = params->entries[index].key;
        return &params->entries[index].value;
}

HOT size_t params_encoded_size(const Params *params)
{
        return params_count(params) ? 4 + params->encoded_size : 0;
}

static void put_value(Wire *w, const ParamValue *v)
{
        uint64_t bits;

        switch (v->type) {
        case PARAM_BOOL:
                wire_put_u8(w, v->b);
                break;
        case PARAM_INT:
                wire_put_u64(w, (uint64_t)v->i);
                break;
        case PARAM_FLOAT:
                memcpy(&bits, &v->f, 8);
                wire_put_u64(w, bits);
                break;
        case PARAM_STRING:
                wire_put_str(w, v->s);
                break;
        case PARAM_INTS:
        case PARAM_FLOATS:
                wire_put_u32(w, (uint32_t)v->n);
                for (size_t i = 0; i < v->n; i++) {
                        memcpy(&bits, v->ints + i, 8);
                        wire_put_u64(w, bits);
                }
                break;
        case PARAM_STRINGS:
                wire_put_u32(w, (uint32_t)v->n);
                for (size_t i = 0; i < v->n; i++)
                        wire_put_str(w, v->strings[i]);
                break;
        }
}

int params_encode(const Params *params, void *buffer, size_t size)
{
        Wire w = wire_init(buffer, size);

        if (params_count(params) == 0)
                return 0;
        wire_put_u32(&w, (uint32_t)params->n);
        for (size_t i = 0; i < params->n; i++) {
                wire_put_u8(&w, (uint8_t)params->entries[i].value.type);
                wire_put_str(&w, params->entries[i].key);
                put_value(&w, &params->entries[i].value);
        }
        return w.bad ? -EMSGSIZE : (int)w.at;
}

/* A list's elements, in memory of their own. The count is held against the bytes that are left before it is used. */
static int get_list(Wire *w, ParamValue *v, void **ret_block)
{
        size_t n = wire_get_u32(w), element = v->type == PARAM_STRINGS ? STR_OVERHEAD : 8;
        uint64_t *words;

        if (w->bad || n > (w->size - w->at) / element)
                return -EPROTO;
        words = malloc(n * 8 + 1);
        if (!words)
                return -ENOMEM;
        *ret_block = words;
        v->n = n;
        if (v->type == PARAM_STRINGS) {
                const char **strings = *ret_block;

                for (size_t i = 0; i < n; i++)
                        strings[i] = wire_get_str(w, PARAMS_MAX);
                v->strings = strings;
        } else {
                for (size_t i = 0; i < n; i++)
                        words[i] = wire_get_u64(w);
                v->ints = *ret_block;
        }
        return 0;
}

static int get_value(Wire *w, ParamValue *v, void **ret_block)
{
        uint64_t bits;
        uint8_t b;

        switch (v->type) {
        case PARAM_BOOL:
                b = wire_get_u8(w);
                v->b = b;
                return b <= 1 ? 0 : -EPROTO;
        case PARAM_INT:
                v->i = (int64_t)wire_get_u64(w);
                return 0;
        case PARAM_FLOAT:
                bits = wire_get_u64(w);
                memcpy(&v->f, &bits, 8);
                return 0;
        case PARAM_STRING:
                v->s = wire_get_str(w, PARAMS_MAX);
                return 0;
        case PARAM_INTS:
        case PARAM_FLOATS:
        case PARAM_STRINGS:
                return get_list(w, v, ret_block);
        }
        return -EPROTO;
}

static int get_entry(Wire *w, Params *params)
{
        _cleanup_free_ void *block = NULL;
        ParamValue value = {};
        const char *key;
        int r;

        value.type = (ParamType)wire_get_u8(w);
        key = wire_get_str(w, PARAMS_KEY_MAX);
        r = get_value(w, &value, &block);
        if (r)
                return r;
        if (w->bad || (params->n && strcmp(params->entries[params->n - 1].key, key) >= 0))
                return -EPROTO;
        r = params_set(params, key, &value);
        return r == -ENOMEM ? r : r ? -EPROTO : 0;
}

int params_decode(Params **ret, const void *bytes, size_t size)
{
        Wire w = wire_init((void *)(uintptr_t)bytes, size); /* only read */
        _cleanup_(params_freep) Params *params = NULL;
        uint32_t n;
        int r;

        if (size > PARAMS_MAX)
                return -EPROTO;
        params = params_new();
        if (!params)
                return -ENOMEM;
        n = wire_get_u32(&w);
        if (n == 0)
                return -EPROTO;
        for (uint32_t i = 0; i < n && !w.bad; i++) {
                r = get_entry(&w, params);
                if (r)
                        return r;
        }
        r = wire_done(&w);
        if (r)
                return r;
        *ret = TAKE_PTR(params);
        return 0;
}
