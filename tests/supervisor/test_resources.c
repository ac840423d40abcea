/* SPDX-License-Identifier: Apache-2.0 */
/* Limits that are set while their node ends: the keeper is the test, and no process is there. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/packet.h"
#include "supervisor/supervisor.h"

static Loop loop;
static Supervisor supervisor;
static Dataflow dataflow;
static int keeper;

static void setup(void)
{
        char text[] = "{'version':1,'name':'n','file':'/d/n.yml','dir':'/d','nodes':[{'id':'a','line':3,'kind':'program','argv':['/bin/a'],'env':{},"
                      "'cpu_affinity':[],'inputs':[],'outputs':[],'pool_size':0,'restart':{'policy':'never','max_restarts':0,'delay_ns':0,"
                      "'max_delay_ns':0,'window_ns':0},'startup_timeout_ns':1,'finish_grace_ns':0}]}";
        char why[256] = "";
        json_t *json;
        int pair[2];

        for (char *c = text; *c; c++)
                *c = *c == '\'' ? '"' : *c;
        json = json_loads(text, 0, NULL);
        cr_assert_not_null(json);
        cr_assert_eq(loop_init(&loop), 0);
        supervisor.options.listen_fd = -1;
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        keeper = pair[1];
        dataflow = (Dataflow){.supervisor = &supervisor, .loop = &loop, .nodes = calloc(1, sizeof(Node)), .keeper_fd = -1, .keeper_pidfd = -1,
                .state = DATAFLOW_RUNNING, .notes = json_array()};
        cr_assert_eq(plan_new(&dataflow.plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        cr_assert_eq(node_init(&dataflow.nodes[0], &dataflow, 0), 0);
        dataflow.nodes[0].state = NODE_RUNNING;
        dataflow.nodes[0].generation = 1;
        dataflow.nodes[0].spawned = true;
        packet_queue_init(&dataflow.keeper_out, 10);
        cr_assert_eq(keeper_link_open(&dataflow, 0, pair[0], -1), 0);
}

static void teardown(void)
{
        node_done(&dataflow.nodes[0]);
        keeper_link_close(&dataflow);
        dataflow.plan = plan_free(dataflow.plan);
        json_decref(dataflow.notes);
        free(dataflow.nodes);
        (void)close(keeper);
        loop_done(&loop);
}

TestSuite(resources, .init = setup, .fini = teardown, .timeout = 60);

/* What the keeper has been ordered since. */
static KeeperMsg ordered(void)
{
        char packet[KEEPER_MSG_MAX];
        ssize_t n = recv(keeper, packet, sizeof(packet), MSG_DONTWAIT);
        KeeperMsg msg = {};

        if (n > 0)
                cr_assert_eq(keeper_msg_decode(&msg, packet, (size_t)n), 0);
        return msg;
}

static int on_time(Timer *timer, nsec_t now)
{
        (void)timer;
        (void)now;
        loop_exit(&loop, 1);
        return 0;
}

static void report(const KeeperMsg *msg)
{
        char packet[KEEPER_MSG_MAX];
        int size = keeper_msg_encode(msg, packet, sizeof(packet));
        Timer timer = {};

        cr_assert_gt(size, 0);
        cr_assert_eq(send(keeper, packet, (size_t)size, 0), size);
        loop.stop = false; /* of the last time */
        timer_arm(&loop, &timer, clock_now() + NSEC_PER_MSEC, on_time);
        cr_assert_eq(loop_run(&loop), 1);
}

static const char *memory_max(void)
{
        return dataflow.nodes[0].resources.values[LIMIT_MEMORY_MAX];
}

static void set(void)
{
        char why[256] = "";

        cr_assert_eq(resources_order_limits(&dataflow, &dataflow.nodes[0], "memory_max=8388608\n", why, sizeof(why)), 1, "%s", why);
        cr_assert_eq(ordered().type, KEEPER_MSG_LIMIT);
        cr_assert_null(memory_max());
}

Test(resources, a_limit_holds_when_the_keeper_has_set_it_and_not_when_it_has_not)
{
        set();
        report(&(KeeperMsg){.type = KEEPER_MSG_LIMITED, .node = 0, .generation = 1, .limited = {EINVAL, "memory_max=no"}});
        cr_expect_null(memory_max());
        set();
        report(&(KeeperMsg){.type = KEEPER_MSG_LIMITED, .node = 0, .generation = 1, .limited = {0, ""}});
        cr_expect_str_eq(memory_max(), "8388608");
}

/* Less memory than a node has ends it before the kernel has answered who set it. */
Test(resources, a_limit_whose_node_ends_of_it_is_that_of_its_next_life_whatever_the_keeper_says_later)
{
        set();
        report(&(KeeperMsg){.type = KEEPER_MSG_EMPTY, .node = 0, .generation = 1, .empty = {.removed = true}});
        cr_expect_str_eq(memory_max(), "8388608");
        cr_expect_null(dataflow.nodes[0].resources.pending);
        report(&(KeeperMsg){.type = KEEPER_MSG_LIMITED, .node = 0, .generation = 1, .limited = {ENODEV, "memory_max=it is gone"}});
        cr_expect_str_eq(memory_max(), "8388608");
}
