/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "protocol/wire.h"

Test(wire, what_is_put_is_got)
{
        uint8_t buf[128], raw[3];
        Wire w = wire_init(buf, sizeof(buf)), r;

        wire_put_u8(&w, 7);
        wire_put_u16(&w, 0xbeef);
        wire_put_u32(&w, 0xdeadbeef);
        wire_put_u64(&w, UINT64_MAX - 1);
        wire_put_bytes(&w, "abc", 3);
        wire_put_str(&w, "hello");
        wire_put_str(&w, NULL);
        cr_assert(!w.bad);

        r = wire_init(buf, w.at);
        cr_assert_eq(wire_get_u8(&r), 7);
        cr_assert_eq(wire_get_u16(&r), 0xbeef);
        cr_assert_eq(wire_get_u32(&r), 0xdeadbeef);
        cr_assert_eq(wire_get_u64(&r), UINT64_MAX - 1);
        wire_get_bytes(&r, raw, 3);
        cr_assert_arr_eq(raw, "abc", 3);
        cr_assert_str_eq(wire_get_str(&r, 5), "hello");
        cr_assert_str_eq(wire_get_str(&r, 5), "");
        cr_assert_eq(wire_done(&r), 0);
}

Test(wire, every_truncation_is_refused)
{
        uint8_t buf[64];
        Wire w = wire_init(buf, sizeof(buf));

        wire_put_u32(&w, 5);
        wire_put_str(&w, "name");
        for (size_t n = 0; n < w.at; n++) {
                Wire r = wire_init(buf, n);

                (void)wire_get_u32(&r);
                (void)wire_get_str(&r, 64);
                cr_assert_neq(wire_done(&r), 0, "%zu of %zu bytes were taken for a message", n, w.at);
        }
}

Test(wire, strings_over_their_limit_and_with_inner_nuls_are_refused)
{
        uint8_t buf[64];
        Wire w = wire_init(buf, sizeof(buf)), r;

        wire_put_str(&w, "12345");
        r = wire_init(buf, w.at);
        cr_assert_str_eq(wire_get_str(&r, 4), "");
        cr_assert(r.bad);

        buf[5] = '\0';
        r = wire_init(buf, w.at);
        (void)wire_get_str(&r, 64);
        cr_assert(r.bad);
}

Test(wire, a_length_near_the_limit_does_not_wrap)
{
        uint8_t buf[8] = {0xff, 0xff, 0xff, 0xff, 'a', 0};
        Wire r = wire_init(buf, sizeof(buf));

        (void)wire_get_str(&r, SIZE_MAX);
        cr_assert(r.bad);
}

Test(wire, a_full_buffer_is_sticky)
{
        uint8_t buf[4];
        Wire w = wire_init(buf, sizeof(buf));

        wire_put_u64(&w, 1);
        wire_put_u8(&w, 1);
        cr_assert(w.bad);
        cr_assert_eq(w.at, 0);
}

Test(wire, bytes_left_over_are_refused)
{
        uint8_t buf[2] = {1, 2};
        Wire r = wire_init(buf, sizeof(buf));

        (void)wire_get_u8(&r);
        cr_assert_eq(wire_done(&r), -EPROTO);
}
