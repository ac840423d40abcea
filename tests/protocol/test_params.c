/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "protocol/params.h"

static const int64_t ints[] = {INT64_MIN, -1, 0, INT64_MAX};
static const double floats[] = {0.5, -INFINITY, 1e300};
static const char *const strings[] = {"", "größe", "three"};

static Params *sample(void)
{
        Params *p = params_new();

        cr_assert_eq(params_set(p, "z.bool", &(ParamValue){.type = PARAM_BOOL, .b = true}), 0);
        cr_assert_eq(params_set(p, "int", &(ParamValue){.type = PARAM_INT, .i = INT64_MIN}), 0);
        cr_assert_eq(params_set(p, "float", &(ParamValue){.type = PARAM_FLOAT, .f = NAN}), 0);
        cr_assert_eq(params_set(p, "string", &(ParamValue){.type = PARAM_STRING, .s = "hello"}), 0);
        cr_assert_eq(params_set(p, "ints", &(ParamValue){.type = PARAM_INTS, .n = 4, .ints = ints}), 0);
        cr_assert_eq(params_set(p, "floats", &(ParamValue){.type = PARAM_FLOATS, .n = 3, .floats = floats}), 0);
        cr_assert_eq(params_set(p, "strings", &(ParamValue){.type = PARAM_STRINGS, .n = 3, .strings = strings}), 0);
        cr_assert_eq(params_set(p, "none", &(ParamValue){.type = PARAM_INTS}), 0);
        return p;
}

static void assert_is_sample(const Params *p)
{
        cr_assert_eq(params_count(p), 8);
        cr_assert_eq(params_get(p, "z.bool")->b, true);
        cr_assert_eq(params_get(p, "int")->i, INT64_MIN);
        cr_assert(isnan(params_get(p, "float")->f));
        cr_assert_str_eq(params_get(p, "string")->s, "hello");
        cr_assert_eq(params_get(p, "ints")->n, 4);
        cr_assert_arr_eq(params_get(p, "ints")->ints, ints, sizeof(ints));
        cr_assert_arr_eq(params_get(p, "floats")->floats, floats, sizeof(floats));
        cr_assert_eq(params_get(p, "strings")->n, 3);
        for (unsigned i = 0; i < 3; i++)
                cr_assert_str_eq(params_get(p, "strings")->strings[i], strings[i]);
        cr_assert_eq(params_get(p, "none")->n, 0);
        cr_assert_null(params_get(p, "absent"));
}

static size_t encode(const Params *p, uint8_t buf[static PARAMS_MAX])
{
        int n = params_encode(p, buf, PARAMS_MAX);

        cr_assert_gt(n, 0);
        cr_assert_eq((size_t)n, params_encoded_size(p));
        return (size_t)n;
}

Test(params, every_type_survives_the_round_trip)
{
        static uint8_t buf[PARAMS_MAX], again[PARAMS_MAX];
        _cleanup_(params_freep) Params *p = sample(), *q = NULL;
        size_t n = encode(p, buf);

        assert_is_sample(p);
        cr_assert_eq(params_decode(&q, buf, n), 0);
        memset(buf, 0xee, n); /* nothing is borrowed */
        assert_is_sample(q);
        cr_assert_eq(encode(q, again), n);
}

Test(params, entries_are_in_the_order_of_their_keys)
{
        _cleanup_(params_freep) Params *p = sample();
        const char *key, *last = "";

        for (size_t i = 0; i < params_count(p); i++) {
                cr_assert_not_null(params_at(p, i, &key));
                cr_assert_gt(strcmp(key, last), 0);
                last = key;
        }
        cr_assert_null(params_at(p, params_count(p), &key));
        cr_assert_null(params_at(NULL, 0, &key));
        cr_assert_eq(params_count(NULL), 0);
}

Test(params, setting_a_key_again_replaces_it_and_its_size)
{
        _cleanup_(params_freep) Params *p = params_new();
        size_t size;

        cr_assert_eq(params_encoded_size(p), 0);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_BOOL}), 0);
        size = params_encoded_size(p);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_STRING, .s = "a long one"}), 0);
        cr_assert_gt(params_encoded_size(p), size);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_BOOL}), 0);
        cr_assert_eq(params_encoded_size(p), size);
        cr_assert_eq(params_count(p), 1);
}

Test(params, an_entry_may_be_set_to_what_the_map_itself_holds)
{
        const char *const words[] = {"one", "two"};
        _cleanup_(params_freep) Params *p = params_new();
        char key[] = "a0";
        const char *k;

        /* at every number of entries, so also where the next one makes the map move */
        for (int i = 0; i < 9; i++) {
                key[1] = (char)('0' + i);
                cr_assert_eq(params_set(p, key, &(ParamValue){.type = PARAM_STRINGS, .n = 2, .strings = words}), 0);
                for (size_t at = 0; at < params_count(p); at++) {
                        const ParamValue *v = params_at(p, at, &k);

                        cr_assert_eq(params_set(p, k, v), 0);
                        v = params_get(p, params_at(p, at, &k) ? k : "");
                        cr_assert_eq(v->n, 2);
                        cr_assert_str_eq(v->strings[0], "one");
                        cr_assert_str_eq(v->strings[1], "two");
                }
        }
        cr_assert_eq(params_count(p), 9);
        for (int i = 0; i < 9; i++) { /* a new key, the value of an old one */
                key[0] = (char)('b' + i);
                cr_assert_eq(params_set(p, key, params_at(p, 0, &k)), 0);
                cr_assert_str_eq(params_get(p, key)->strings[1], "two");
        }
}

Test(params, every_truncation_and_every_byte_too_many_is_refused)
{
        static uint8_t buf[PARAMS_MAX];
        _cleanup_(params_freep) Params *p = sample(), *q = NULL;
        size_t n = encode(p, buf);

        for (size_t cut = 0; cut < n; cut++)
                cr_assert_eq(params_decode(&q, buf, cut), -EPROTO, "%zu of %zu bytes", cut, n);
        cr_assert_eq(params_decode(&q, buf, n + 1), -EPROTO);
        cr_assert_null(q);
}

Test(params, what_is_accepted_has_one_representation, .timeout = 60)
{
        static uint8_t buf[PARAMS_MAX], again[PARAMS_MAX];
        _cleanup_(params_freep) Params *p = sample();
        size_t n = encode(p, buf), refused = 0;

        for (size_t at = 0; at < n; at++) {
                uint8_t was = buf[at];

                for (unsigned v = 0; v < 256; v++) {
                        _cleanup_(params_freep) Params *q = NULL;

                        buf[at] = (uint8_t)v;
                        if (params_decode(&q, buf, n)) {
                                refused++;
                                continue;
                        }
                        cr_assert_eq(encode(q, again), n);
                        cr_assert_eq(memcmp(buf, again, n), 0);
                }
                buf[at] = was;
        }
        cr_assert_gt(refused, 1000);
}

Test(params, keys_out_of_order_or_twice_are_refused)
{
        static uint8_t buf[PARAMS_MAX];
        _cleanup_(params_freep) Params *p = params_new(), *q = NULL;
        size_t n;

        cr_assert_eq(params_set(p, "a", &(ParamValue){.type = PARAM_BOOL}), 0);
        cr_assert_eq(params_set(p, "b", &(ParamValue){.type = PARAM_BOOL}), 0);
        n = encode(p, buf); /* count, then twice: type, length, key, NUL, value */
        buf[9] = 'b';
        cr_assert_eq(params_decode(&q, buf, n), -EPROTO);
        buf[9] = 'c';
        cr_assert_eq(params_decode(&q, buf, n), -EPROTO);
        buf[9] = 'a';
        cr_assert_eq(params_decode(&q, buf, n), 0);
}

Test(params, a_list_longer_than_the_bytes_that_are_left_is_refused_before_anything_is_allocated)
{
        uint8_t buf[64] = {1, 0, 0, 0, PARAM_INTS, 1, 0, 0, 0, 'k', 0, 0xff, 0xff, 0xff, 0xff};
        _cleanup_(params_freep) Params *q = NULL;

        cr_assert_eq(params_decode(&q, buf, sizeof(buf)), -EPROTO);
        buf[4] = PARAM_STRINGS;
        cr_assert_eq(params_decode(&q, buf, sizeof(buf)), -EPROTO);
}

Test(params, bad_keys_and_strings_are_refused)
{
        static const char *const bad[] = {"\xff", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3",
                "\x80", "ab\xf8\x88\x80\x80\x80"};
        _cleanup_(params_freep) Params *p = params_new();
        ParamValue good = {.type = PARAM_BOOL};
        char key[PARAMS_KEY_MAX + 2];

        memset(key, 'k', sizeof(key));
        key[PARAMS_KEY_MAX + 1] = '\0';
        cr_assert_eq(params_set(p, key, &good), -EINVAL);
        key[PARAMS_KEY_MAX] = '\0';
        cr_assert_eq(params_set(p, key, &good), 0);
        cr_assert_eq(params_set(p, "", &good), -EINVAL);
        cr_assert_eq(params_set(p, NULL, &good), -EINVAL);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_STRING}), -EINVAL);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = (ParamType)8}), -EINVAL);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                cr_expect_eq(params_set(p, bad[i], &good), -EINVAL, "key %zu", i);
                cr_expect_eq(params_set(p, "k", &(ParamValue){.type = PARAM_STRING, .s = bad[i]}), -EINVAL, "%zu", i);
                cr_expect_eq(params_set(p, "k", &(ParamValue){.type = PARAM_STRINGS, .n = 1, .strings = &bad[i]}),
                        -EINVAL, "%zu", i);
        }
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_STRING, .s = "\xf0\x9f\x8c\x8a ~ \xc3\xbc"}), 0);
        cr_assert_eq(params_count(p), 2);
}

Test(params, the_map_never_grows_over_its_limit)
{
        static uint8_t buf[PARAMS_MAX];
        static int64_t many[PARAMS_MAX / 8];
        _cleanup_(params_freep) Params *p = params_new(), *q = NULL;
        size_t most = (PARAMS_MAX - 4 - 1 - 6 - 4) / 8;

        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_INTS, .n = most, .ints = many}), 0);
        cr_assert_leq(encode(p, buf), PARAMS_MAX);
        cr_assert_eq(params_decode(&q, buf, params_encoded_size(p)), 0);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_INTS, .n = most + 1, .ints = many}), -EMSGSIZE);
        cr_assert_eq(params_set(p, "k", &(ParamValue){.type = PARAM_INTS, .n = SIZE_MAX / 8, .ints = many}), -EMSGSIZE);
        cr_assert_eq(params_set(p, "l", &(ParamValue){.type = PARAM_INT}), -EMSGSIZE);
        cr_assert_eq(params_count(p), 1);
        cr_assert_eq(params_encode(p, buf, 16), -EMSGSIZE);
}
