/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public face of protocol/params.h: one function per type, outcomes in the public numbering.
 */
#include <errno.h>

#include "protocol/params.h"
#include "tidegate/tidegate.h"

_Static_assert((int)TG_PARAM_BOOL == PARAM_BOOL && (int)TG_PARAM_STRINGS == PARAM_STRINGS, "one numbering");

tg_params *tg_params_new(void)
{
        return params_new();
}

tg_params *tg_params_free(tg_params *params)
{
        return params_free(params);
}

int tg_params_set_bool(tg_params *params, const char *key, bool value)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_BOOL, .b = value});
}

int tg_params_set_int(tg_params *params, const char *key, int64_t value)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_INT, .i = value});
}

int tg_params_set_float(tg_params *params, const char *key, double value)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_FLOAT, .f = value});
}

int tg_params_set_string(tg_params *params, const char *key, const char *value)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_STRING, .s = value});
}

int tg_params_set_ints(tg_params *params, const char *key, const int64_t *values, size_t n)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_INTS, .n = n, .ints = values});
}

int tg_params_set_floats(tg_params *params, const char *key, const double *values, size_t n)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_FLOATS, .n = n, .floats = values});
}

int tg_params_set_strings(tg_params *params, const char *key, const char *const *values, size_t n)
{
        return params_set(params, key, &(ParamValue){.type = PARAM_STRINGS, .n = n, .strings = values});
}

size_t tg_params_count(const tg_params *params)
{
        return params_count(params);
}

int tg_params_at(const tg_params *params, size_t index, const char **ret_key, tg_param_type *ret_type)
{
        const ParamValue *value = params_at(params, index, ret_key);

        if (!value)
                return TG_E_NO_PARAM;
        *ret_type = (tg_param_type)value->type;
        return 0;
}

static const ParamValue *get(const tg_params *params, const char *key, ParamType type)
{
        const ParamValue *value = params_get(params, key);

        return value && value->type == type ? value : NULL;
}

/* One getter per type: the value's member, and the number of elements for lists. */
#define GETTER(name, ctype, kind, member)                                                                              \
        int tg_params_get_##name(const tg_params *params, const char *key, ctype *ret)                                 \
        {                                                                                                              \
                const ParamValue *value = get(params, key, kind);                                                      \
                                                                                                                       \
                if (!value)                                                                                            \
                        return TG_E_NO_PARAM;                                                                          \
                *ret = value->member;                                                                                  \
                return 0;                                                                                              \
        }

#define LIST_GETTER(name, ctype, kind, member)                                                                         \
        int tg_params_get_##name(const tg_params *params, const char *key, ctype *ret, size_t *ret_n)                  \
        {                                                                                                              \
                const ParamValue *value = get(params, key, kind);                                                      \
                                                                                                                       \
                if (!value)                                                                                            \
                        return TG_E_NO_PARAM;                                                                          \
                *ret = value->member;                                                                                  \
                *ret_n = value->n;                                                                                     \
                return 0;                                                                                              \
        }

GETTER(bool, bool, PARAM_BOOL, b)
GETTER(int, int64_t, PARAM_INT, i)
GETTER(float, double, PARAM_FLOAT, f)
GETTER(string, const char *, PARAM_STRING, s)
LIST_GETTER(ints, const int64_t *, PARAM_INTS, ints)
LIST_GETTER(floats, const double *, PARAM_FLOATS, floats)
LIST_GETTER(strings, const char *const *, PARAM_STRINGS, strings)
