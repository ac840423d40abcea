/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "protocol/witness_msg.h"

static struct witness_record record_of(WitnessMsgType type)
{
        return (struct witness_record){
                .magic = WITNESS_MAGIC, .type = type, .self = 1, .pid = 4711, .mover = 4711, .comm = "sh", .dataflow = "uuid", .node = "a.1", .to = "/x"};
}

static int check(struct witness_record record)
{
        return witness_msg_check(WITNESS_SENDER_WITNESS, &record, sizeof(record));
}

Test(witness_msg, each_side_may_send_its_own_and_nothing_else)
{
        for (unsigned type = 0; type < 256; type++) {
                struct witness_record record = record_of((WitnessMsgType)type);

                cr_expect(eq(int, witness_msg_check(WITNESS_SENDER_SUPERVISOR, &record, sizeof(record)), type == WITNESS_MSG_LOOK ? 0 : -EPROTO), "%u", type);
                cr_expect(eq(int, check(record), type >= WITNESS_MSG_READY && type <= WITNESS_MSG_LOOKED ? 0 : -EPROTO), "%u", type);
        }
}

Test(witness_msg, a_record_is_whole_and_of_this_layout)
{
        struct witness_record record = record_of(WITNESS_MSG_MOVED);

        cr_expect(eq(int, witness_msg_check(WITNESS_SENDER_WITNESS, &record, sizeof(record) - 1), -EPROTO));
        cr_expect(eq(int, witness_msg_check(WITNESS_SENDER_WITNESS, &record, sizeof(record) + 1), -EPROTO));
        cr_expect(eq(int, witness_msg_check(WITNESS_SENDER_WITNESS, NULL, 0), -EPROTO));
        record.magic++;
        cr_expect(eq(int, check(record), -EPROTO));
}

Test(witness_msg, every_text_ends_within_its_room)
{
        const struct {
                size_t at, size;
        } texts[] = {
                {offsetof(struct witness_record, comm), WITNESS_COMM_SIZE},
                {offsetof(struct witness_record, mover_comm), WITNESS_COMM_SIZE},
                {offsetof(struct witness_record, dataflow), WITNESS_NAME_SIZE},
                {offsetof(struct witness_record, node), WITNESS_NAME_SIZE},
                {offsetof(struct witness_record, to), WITNESS_PATH_SIZE},
        };

        for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
                struct witness_record record = record_of(WITNESS_MSG_MOVED);

                memset((char *)&record + texts[i].at, 'x', texts[i].size);
                cr_expect(eq(int, check(record), -EPROTO), "text %zu", i);
                ((char *)&record)[texts[i].at + texts[i].size - 1] = '\0';
                cr_expect(eq(int, check(record), 0), "text %zu", i);
        }
}

Test(witness_msg, whoever_left_is_a_process_of_an_incarnation)
{
        static const char *const bad[] = {"", ".", "..", ".x", "a/b", "/a"};
        struct witness_record record;

        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                record = record_of(WITNESS_MSG_FOUND);
                strcpy(record.dataflow, bad[i]);
                cr_expect(eq(int, check(record), -EPROTO), "%s", bad[i]);
                record = record_of(WITNESS_MSG_FOUND);
                strcpy(record.node, bad[i]);
                cr_expect(eq(int, check(record), -EPROTO), "%s", bad[i]);
        }
        record = record_of(WITNESS_MSG_BORN);
        record.pid = 0;
        cr_expect(eq(int, check(record), -EPROTO));
        record = record_of(WITNESS_MSG_BORN);
        record.mover = -1;
        cr_expect(eq(int, check(record), -EPROTO));
        record = record_of(WITNESS_MSG_BORN);
        record.self = 2;
        cr_expect(eq(int, check(record), -EPROTO));
}
