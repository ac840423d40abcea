/* SPDX-License-Identifier: Apache-2.0 */
/* When a keeper is asked what its nodes use: the keeper is the test, and no process is there. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#include "supervisor/packet.h"
#include "supervisor/supervisor.h"

static Supervisor supervisor;
static Dataflow dataflow;
static int keeper;

static void setup(void)
{
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        keeper = pair[1];
        dataflow = (Dataflow){.supervisor = &supervisor, .keeper_fd = pair[0]};
        packet_queue_init(&dataflow.keeper_out, 10);
}

static void teardown(void)
{
        usage_forget(&dataflow);
        packet_queue_done(&dataflow.keeper_out);
        (void)close(dataflow.keeper_fd);
        (void)close(keeper);
}

TestSuite(usage, .init = setup, .fini = teardown);

/* The question that has come; 0: none has. */
static uint64_t asked(void)
{
        char packet[KEEPER_MSG_MAX];
        ssize_t n = recv(keeper, packet, sizeof(packet), MSG_DONTWAIT);
        KeeperMsg msg;

        if (n <= 0)
                return 0;
        cr_assert_eq(keeper_msg_decode(&msg, packet, (size_t)n), 0);
        cr_assert_eq(msg.type, KEEPER_MSG_MEASURE);
        return msg.measure.asked_ns;
}

Test(usage, there_is_one_question_at_a_time_and_one_that_is_not_answered_for_five_seconds_is_asked_again)
{
        uint64_t first;

        cr_assert_eq(usage_ask(&dataflow), 0);
        first = asked();
        cr_expect_gt(first, 0);
        cr_assert_eq(usage_ask(&dataflow), 0);
        cr_expect_eq(asked(), 0, "its answer is everybody's");
        dataflow.usage.asked -= 5 * NSEC_PER_SEC;
        cr_assert_eq(usage_ask(&dataflow), 0);
        cr_expect_gt(asked(), first, "the keeper hangs in the first one");
}
