/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "protocol/queues_msg.h"

static struct queues_record record_of(unsigned type)
{
        return (struct queues_record){.magic = QUEUES_MAGIC, .type = (uint16_t)type, .text = "why"};
}

static int check(int to_helper, struct queues_record record, size_t n_fds)
{
        return queues_msg_check(to_helper, &record, sizeof(record), n_fds);
}

Test(queues_msg, each_type_goes_one_way_and_comes_with_its_descriptors)
{
        static const struct {
                unsigned type, n_fds;
                int to_helper;
        } rules[] = {{QUEUES_MSG_READY, 2, 0}, {QUEUES_MSG_UNAVAILABLE, 0, 0}, {QUEUES_MSG_FILES, 1, 1}, {QUEUES_MSG_DONE, 0, 0}};

        for (unsigned type = 0; type < 256; type++)
                for (size_t n_fds = 0; n_fds < 4; n_fds++)
                        for (int to_helper = 0; to_helper < 2; to_helper++) {
                                int expected = -EPROTO;

                                for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
                                        if (rules[i].type == type && rules[i].n_fds == n_fds && rules[i].to_helper == to_helper)
                                                expected = 0;
                                cr_expect_eq(check(to_helper, record_of(type), n_fds), expected, "type %u, %zu descriptors, %d", type, n_fds, to_helper);
                        }
}

Test(queues_msg, a_record_that_is_not_whole_is_none)
{
        struct queues_record record = record_of(QUEUES_MSG_DONE);

        for (size_t size = 0; size < sizeof(record); size++)
                cr_expect_eq(queues_msg_check(0, &record, size, 0), -EPROTO);
        record.magic++;
        cr_expect_eq(check(0, record, 0), -EPROTO);
        record = record_of(QUEUES_MSG_DONE);
        record.reserved = 1;
        cr_expect_eq(check(0, record, 0), -EPROTO);
        record = record_of(QUEUES_MSG_DONE);
        record.n_files = QUEUES_FILES_MAX + 1;
        cr_expect_eq(check(0, record, 0), -EPROTO);
        record = record_of(QUEUES_MSG_DONE);
        memset(record.text, 'x', sizeof(record.text));
        cr_expect_eq(check(0, record, 0), -EPROTO);
}
