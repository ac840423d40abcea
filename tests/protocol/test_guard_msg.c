/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "protocol/guard_msg.h"

static struct guard_record record_of(GuardMsgType type)
{
        return (struct guard_record){
                .magic = GUARD_MAGIC, .type = type, .slot = 1, .node = 2, .generation = 3, .pid = 4, .text = "id.3"};
}

static int check(GuardSender from, struct guard_record record, size_t n_fds)
{
        return guard_msg_check(from, &record, sizeof(record), n_fds);
}

Test(guard_msg, what_each_sender_may_send_is_accepted_from_no_other)
{
        static const struct {
                GuardMsgType type;
                GuardSender from;
                size_t n_fds;
        } cases[] = {
                {GUARD_MSG_HELLO, GUARD_SENDER_SUPERVISOR, 0},
                {GUARD_MSG_REAP, GUARD_SENDER_SUPERVISOR, 0},
                {GUARD_MSG_ASK_KILLED, GUARD_SENDER_SUPERVISOR, 0},
                {GUARD_MSG_CGROUP, GUARD_SENDER_KEEPER, 3},
                {GUARD_MSG_CHILD, GUARD_SENDER_KEEPER, 1},
                {GUARD_MSG_SLOT, GUARD_SENDER_GUARD, 2},
                {GUARD_MSG_KILLED, GUARD_SENDER_GUARD, 0},
                {GUARD_MSG_ESCROWED, GUARD_SENDER_GUARD, 0},
                {GUARD_MSG_FORGET, GUARD_SENDER_SUPERVISOR, 0},
                {GUARD_MSG_FORGOTTEN, GUARD_SENDER_GUARD, 0},
                {GUARD_MSG_FORK_HELPER, GUARD_SENDER_SUPERVISOR, 0},
                {GUARD_MSG_HELPER, GUARD_SENDER_GUARD, 2},
                {GUARD_MSG_HELPER_FAILED, GUARD_SENDER_GUARD, 0},
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
                for (GuardSender from = GUARD_SENDER_SUPERVISOR; from <= GUARD_SENDER_GUARD; from++)
                        cr_expect(eq(int, check(from, record_of(cases[i].type), cases[i].n_fds),
                                          from == cases[i].from ? 0 : -EPROTO),
                                "type %d from %d", (int)cases[i].type, (int)from);
}

Test(guard_msg, a_slot_that_there_is_not_is_refused_in_every_type)
{
        for (uint16_t type = 0; type < 256; type++)
                for (GuardSender from = GUARD_SENDER_SUPERVISOR; from <= GUARD_SENDER_GUARD; from++)
                        for (size_t n_fds = 0; n_fds <= GUARD_MAX_ITEMS + 1; n_fds++) {
                                struct guard_record record = record_of((GuardMsgType)type);

                                record.slot = GUARD_MAX_SLOTS;
                                cr_expect(ne(int, check(from, record, n_fds), 0), "type %u", type);
                        }
}

Test(guard_msg, a_dataflow_s_record_does_not_mean_the_instance)
{
        struct guard_record record = record_of(GUARD_MSG_KILL_KEEPER);

        record.slot = GUARD_SLOT_INSTANCE;
        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 0), -EPROTO));
        record = record_of(GUARD_MSG_SLOT);
        record.slot = GUARD_SLOT_INSTANCE;
        cr_expect(eq(int, check(GUARD_SENDER_GUARD, record, 0), -EPROTO));
}

Test(guard_msg, a_client_s_escrow_is_of_its_instance)
{
        struct guard_record record = record_of(GUARD_MSG_ESCROW);

        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 0), 0));
        cr_expect(eq(int, check(GUARD_SENDER_CLIENT, record, 0), -EPROTO));
        record.generation = 0;
        cr_expect(eq(int, check(GUARD_SENDER_CLIENT, record, 0), -EPROTO));
        record.slot = GUARD_SLOT_INSTANCE;
        cr_expect(eq(int, check(GUARD_SENDER_CLIENT, record, 0), 0));
}

Test(guard_msg, the_name_of_a_cgroup_is_one_component_and_of_that_generation)
{
        static const char *const bad[] = {
                "", ".3", "id.2", "id.33", "id3", "a/id.3", "../x.3", "..3", "id.3 ", "id.03x"};
        char longest[GUARD_NAME_MAX + 2];

        cr_expect(guard_name_is_of("id.3", 5, 3));
        cr_expect(guard_name_is_of("a.b.18446744073709551615", 64, UINT64_MAX));
        cr_expect(not(guard_name_is_of("id.3", 4, 3)), "without an end");
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                struct guard_record record = record_of(GUARD_MSG_ESCROW);

                (void)snprintf(record.text, sizeof(record.text), "%s", bad[i]);
                cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 0), -EPROTO), "\"%s\"", bad[i]);
        }
        memset(longest, 'x', sizeof(longest));
        memcpy(longest + GUARD_NAME_MAX - 3, ".3", 3);
        cr_expect(guard_name_is_of(longest, sizeof(longest), 3));
        memset(longest, 'x', sizeof(longest));
        memcpy(longest + GUARD_NAME_MAX - 2, ".3", 3);
        cr_expect(not(guard_name_is_of(longest, sizeof(longest), 3)), "too long for our tables");
}

Test(guard_msg, items_have_a_kind_and_a_descriptor_each)
{
        struct guard_record record = record_of(GUARD_MSG_STORE);

        record.items[0] = (struct guard_item){.kind = GUARD_ITEM_RING, .index = 7};
        record.items[1] = (struct guard_item){.kind = GUARD_ITEM_POOL, .index = 7};
        record.count = 2;
        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 2), 0));
        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 1), -EPROTO));
        record.items[1].kind = _GUARD_ITEM_MAX;
        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 2), -EPROTO));
        record.count = UINT32_MAX;
        cr_expect(eq(int, check(GUARD_SENDER_SUPERVISOR, record, 2), -EPROTO));
}

Test(guard_msg, a_record_is_whole_and_ours)
{
        struct guard_record record = record_of(GUARD_MSG_HELLO);

        cr_expect(eq(int, guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, sizeof(record) - 1, 0), -EPROTO));
        cr_expect(eq(int, guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, sizeof(record), 1), -EPROTO),
                "a descriptor too many");
        record.magic++;
        cr_expect(eq(int, guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, sizeof(record), 0), -EPROTO));
}
