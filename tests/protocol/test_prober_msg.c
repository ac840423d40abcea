/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "protocol/prober_msg.h"

static struct prober_record record_of(ProberMsgType type)
{
        return (struct prober_record){.magic = PROBER_MAGIC, .type = (uint16_t)type, .text = "why"};
}

static int check(struct prober_record record, size_t n_fds)
{
        return prober_msg_check(&record, sizeof(record), n_fds);
}

Test(prober_msg, what_was_loaded_comes_with_every_descriptor_and_a_refusal_with_none)
{
        for (size_t n = 0; n <= _PROBER_FD_MAX + 1; n++) {
                cr_expect_eq(check(record_of(PROBER_MSG_READY), n), n == _PROBER_FD_MAX ? 0 : -EPROTO, "%zu", n);
                cr_expect_eq(check(record_of(PROBER_MSG_UNAVAILABLE), n), n == 0 ? 0 : -EPROTO, "%zu", n);
        }
}

Test(prober_msg, no_part_of_a_record_and_no_other_type_is_one)
{
        struct prober_record record = record_of(PROBER_MSG_UNAVAILABLE);

        for (size_t size = 0; size < sizeof(record); size++)
                cr_expect_eq(prober_msg_check(&record, size, 0), -EPROTO);
        record.magic++;
        cr_expect_eq(check(record, 0), -EPROTO);
        for (unsigned type = 0; type < 256; type++)
                if (type != PROBER_MSG_READY && type != PROBER_MSG_UNAVAILABLE)
                        cr_expect_eq(check(record_of((ProberMsgType)type), 0), -EPROTO, "%u", type);
}

Test(prober_msg, a_reason_without_an_end_is_refused)
{
        struct prober_record record = record_of(PROBER_MSG_UNAVAILABLE);

        memset(record.text, 'x', sizeof(record.text));
        cr_expect_eq(check(record, 0), -EPROTO);
}
