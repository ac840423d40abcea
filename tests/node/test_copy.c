/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy of a payload: every byte of it, and none beside it, however it lies.
 */
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "node/copy.h"

#define ROOM  1024u
#define GUARD 0xa5

static void check(size_t size, size_t to_at, size_t from_at, void (*copy)(void *, const void *, size_t))
{
        static uint8_t from[ROOM], to[ROOM] __attribute__((aligned(64)));

        for (size_t i = 0; i < ROOM; i++)
                from[i] = (uint8_t)(i * 31 + 7);
        memset(to, GUARD, sizeof(to));
        copy(to + to_at, from + from_at, size);
        cr_assert_arr_eq(to + to_at, from + from_at, size, "%zu bytes from +%zu to +%zu", size, from_at, to_at);
        for (size_t i = 0; i < ROOM; i++)
                cr_assert((i >= to_at && i < to_at + size) || to[i] == GUARD, "%zu bytes from +%zu to +%zu wrote at +%zu", size, from_at, to_at, i);
}

Test(copy, past_the_cache_goes_every_byte_and_none_beside_it)
{
        for (size_t size = 0; size < 300; size++)
                for (size_t at = 0; at < 80; at += 13) {
                        check(size, 64, at, copy_past_cache);
                        check(size, 64 + at, 64, copy_past_cache);
                }
}

Test(copy, a_payload_is_whole_either_way)
{
        for (int cold = 0; cold < 2; cold++) {
                uint8_t from[777], to[777] = {};

                for (size_t i = 0; i < sizeof(from); i++)
                        from[i] = (uint8_t)(i ^ 0x5a);
                copy_payload(to, from, sizeof(from), cold);
                cr_assert_arr_eq(to, from, sizeof(from));
        }
}

Test(copy, what_no_cache_holds_or_what_others_have_had_the_cache_since_goes_past_it)
{
        cr_assert(copy_is_cold(COPY_STREAM_MIN, 0));
        cr_assert_not(copy_is_cold(COPY_STREAM_MIN - 1, COPY_COLD_NS - 1));
        cr_assert(copy_is_cold(COPY_COLD_MIN, COPY_COLD_NS));
        cr_assert_not(copy_is_cold(COPY_COLD_MIN - 1, NSEC_NEVER));
        cr_assert_not(copy_is_cold(0, NSEC_NEVER));
}
