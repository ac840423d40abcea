/* SPDX-License-Identifier: Apache-2.0 */
/* What a supervisor tells the guard, and what it hands to itself when it becomes the guard: the same. No process is
 * made. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "supervisor/guard-state.h"
#include "supervisor/packet.h"
#include "supervisor/supervisor.h"

typedef struct Fixture {
        Supervisor supervisor;
        Dataflow *dataflow;
        int guard_fd; /* the guard's end */
        void *state;
        size_t state_size;
} Fixture;

static Plan *plan_of_two(void)
{
        json_t *json =
                json_pack("{si ss ss ss s[]}", "version", 1, "name", "n", "file", "/d/n.yml", "dir", "/d", "nodes");
        static const char *const ids[] = {"first", "second"};
        Plan *plan = NULL;
        char why[256] = "";

        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                (void)json_array_append_new(json_object_get(json, "nodes"),
                        json_pack("{ss si ss s[s] s{} s[] s[] s[] si s{ss si si si si} si si s[]}", "id", ids[i],
                                "line", 0, "kind", "program", "argv", "/b", "env", "cpu_affinity", "inputs",
                                "outputs", "pool_size", 65536, "restart", "policy", "never", "max_restarts", 0,
                                "delay_ns", 0, "max_delay_ns", 0, "window_ns", 0, "startup_timeout_ns", 1,
                                "finish_grace_ns", 0, "after"));
        cr_assert_eq(plan_new(&plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        return plan;
}

/* A daemon's dataflow in slot 7, both of whose nodes run. */
static Fixture *fixture_new(void)
{
        static Fixture fx;
        static const uint8_t uuid[16] = {1};
        DataflowOptions options = {.grace_ns = 2 * NSEC_PER_SEC, .budget_ns = NSEC_PER_SEC, .log_fd = -1};
        int pair[2];

        fx = (Fixture){
                .supervisor = {
                        .signal_fd = -1, .guard_pidfd = -1, .journal = JOURNAL_NULL, .epoch = 5, .cgroup = "/c"}};
        fx.supervisor.options = (SupervisorOptions){.listen_fd = -1, .node_listen_fd = -1, .lock_fd = -1};
        fx.supervisor.options.runtime_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fx.supervisor.options.listen_fd =
                fcntl(fx.supervisor.options.runtime_fd, F_DUPFD_CLOEXEC, 3); /* any: it is what makes a daemon's */
        cr_assert_eq(loop_init(&fx.supervisor.loop), 0);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fx.supervisor.guard_fd = pair[0];
        fx.guard_fd = pair[1];
        packet_queue_init(&fx.supervisor.guard_out, 100);
        list_init(&fx.supervisor.dataflows);
        cr_assert_eq(dataflow_make(&fx.dataflow, &fx.supervisor, plan_of_two(), &options, uuid, NULL), 0);
        list_append(&fx.supervisor.dataflows, &fx.dataflow->link);
        fx.dataflow->slot = 7;
        fx.supervisor.slots[7] = fx.dataflow;
        fx.dataflow->state = DATAFLOW_RUNNING;
        for (size_t i = 0; i < 2; i++) {
                fx.dataflow->nodes[i].state = NODE_RUNNING;
                fx.dataflow->nodes[i].generation = 3;
        }
        return &fx;
}

static void fixture_done(Fixture *fx)
{
        if (fx->state)
                (void)munmap(fx->state, fx->state_size);
        (void)dataflow_free(fx->dataflow);
        packet_queue_done(&fx->supervisor.guard_out);
        (void)fd_close(fx->supervisor.guard_fd);
        (void)fd_close(fx->guard_fd);
        (void)fd_close(fx->supervisor.options.listen_fd);
        (void)fd_close(fx->supervisor.options.runtime_fd);
        loop_done(&fx->supervisor.loop);
}

/* The next record that the guard gets, of which it approves. */
static struct guard_record told(Fixture *fx)
{
        struct guard_record record = {};
        size_t size = 0;

        cr_assert_eq(packet_recv(fx->guard_fd, &record, sizeof(record), &size, NULL, 0, NULL), 0, "nothing was told");
        cr_assert_eq(guard_msg_check(GUARD_SENDER_SUPERVISOR, &record, size, 0), 0, "type %u", record.type);
        cr_assert_eq(record.epoch, fx->supervisor.epoch);
        return record;
}

static GuardStateView state_of(Fixture *fx)
{
        _cleanup_fd_ int fd = heir_state(&fx->supervisor);
        GuardStateView view = {};
        struct stat st;

        cr_assert_geq(fd, 0);
        cr_assert_eq(fstat(fd, &st), 0);
        fx->state_size = (size_t)st.st_size;
        fx->state = mmap(NULL, fx->state_size, PROT_READ, MAP_PRIVATE, fd, 0);
        cr_assert_neq(fx->state, MAP_FAILED);
        cr_assert_eq(guard_state_view(&view, fx->state, fx->state_size), 0, "the guard would not take it");
        return view;
}

Test(heir, the_escrow_of_a_stop_is_the_one_that_the_guard_had)
{
        Fixture *fx = fixture_new();
        struct guard_record record;
        GuardStateView view;

        dataflow_stop(fx->dataflow, NSEC_NEVER, false, "a test");
        record = told(fx);
        cr_assert_eq(record.type, GUARD_MSG_ESCROW);
        cr_expect_eq(record.at_ns, fx->dataflow->ladder.kill + DATAFLOW_STOP_SLACK);
        cr_expect_eq(record.until_ns, fx->dataflow->ladder.verdict + DATAFLOW_STOP_SLACK);
        view = state_of(fx);
        cr_assert_eq(view.header->n_slots, 1);
        cr_expect_eq(view.slots[0].slot, 7);
        cr_expect_eq(view.slots[0].at_ns, record.at_ns);
        cr_expect_eq(view.slots[0].until_ns, record.until_ns);
        fixture_done(fx);
}

Test(heir, without_a_stop_there_is_no_escrow)
{
        Fixture *fx = fixture_new();
        GuardStateView view = state_of(fx);

        cr_expect_eq(view.slots[0].at_ns, NSEC_NEVER);
        cr_expect_eq(view.header->n_escrows, 0);
        fixture_done(fx);
}

Test(heir, the_escrow_of_a_node_goes_with_it_whether_confirmed_or_not)
{
        Fixture *fx = fixture_new();
        Node *node = &fx->dataflow->nodes[1];
        NodeLadder ladder = node_ladder(fx->supervisor.loop.now, NSEC_PER_SEC, NSEC_PER_SEC, false);
        struct guard_record record;
        GuardStateView view;

        cr_assert(node_order_in_escrow(node, true, &ladder), "it waits for the guard");
        record = told(fx);
        cr_assert_eq(record.type, GUARD_MSG_ESCROW);
        cr_expect_str_eq(record.text, "second.3");
        cr_expect_eq(record.at_ns, ladder.kill + DATAFLOW_STOP_SLACK);
        cr_expect_not(node->restart_wanted, "nobody has heard of it yet");
        for (unsigned confirmed = 0; confirmed < 2; confirmed++) {
                view = state_of(fx);
                cr_assert_eq(view.header->n_escrows, 1);
                cr_expect_eq(view.escrows[0].slot, 7);
                cr_expect_eq(view.escrows[0].node, 1);
                cr_expect_eq(view.escrows[0].generation, 3);
                cr_expect_eq(view.escrows[0].at_ns, record.at_ns);
                cr_expect_eq(view.escrows[0].until_ns, record.until_ns);
                cr_expect_eq(view.escrows[0].restart, 1);
                cr_expect_str_eq(view.escrows[0].name, record.text);
                (void)munmap(fx->state, fx->state_size);
                fx->state = NULL;
                node_on_escrow_answer(node, 0);
        }
        cr_expect(node->restart_wanted);
        fixture_done(fx);
}

Test(node_escrow, an_order_that_the_guard_refuses_was_never_given)
{
        Fixture *fx = fixture_new();
        Node *node = &fx->dataflow->nodes[0];
        NodeLadder ladder = node_ladder(fx->supervisor.loop.now, NSEC_PER_SEC, NSEC_PER_SEC, false);

        cr_assert(node_order_in_escrow(node, false, &ladder));
        node_on_escrow_answer(node, ENOSPC);
        cr_expect_not(node->stop_wanted);
        cr_expect_not(node->order_pending);
        cr_expect_eq(node->ordered.kill, NSEC_NEVER);
        fixture_done(fx);
}

Test(node_escrow, of_several_orders_in_a_row_the_last_answer_counts)
{
        Fixture *fx = fixture_new();
        Node *node = &fx->dataflow->nodes[0];
        nsec_t now = fx->supervisor.loop.now;
        NodeLadder late = node_ladder(now, 9 * NSEC_PER_SEC, NSEC_PER_SEC, false),
                   soon = node_ladder(now, NSEC_PER_SEC, NSEC_PER_SEC, false);

        cr_assert(node_order_in_escrow(node, false, &soon));
        cr_assert(node_order_in_escrow(node, true, &late));
        node_on_escrow_answer(node, ENOSPC);
        cr_expect(node->order_pending, "the other one is on its way");
        node_on_escrow_answer(node, 0);
        cr_expect(node->restart_wanted);
        cr_expect_eq(node->ordered.kill, soon.kill, "the earliest end, and the last word");
        fixture_done(fx);
}

Test(node_escrow, one_that_ended_meanwhile_and_began_again_is_asked_for_again)
{
        Fixture *fx = fixture_new();
        Node *node = &fx->dataflow->nodes[0];
        NodeLadder ladder = node_ladder(fx->supervisor.loop.now, NSEC_PER_SEC, NSEC_PER_SEC, false);

        cr_assert(node_order_in_escrow(node, false, &ladder));
        cr_expect_str_eq(told(fx).text, "first.3");
        node->generation = 4;
        node_on_escrow_answer(node, 0);
        cr_expect_str_eq(told(fx).text, "first.4");
        cr_expect_not(node->stop_wanted);
        node_on_escrow_answer(node, 0);
        cr_expect(node->stop_wanted);
        fixture_done(fx);
}

Test(node_escrow, nobody_to_end_needs_none)
{
        Fixture *fx = fixture_new();
        Node *node = &fx->dataflow->nodes[0];
        NodeLadder ladder = node_ladder(fx->supervisor.loop.now, NSEC_PER_SEC, NSEC_PER_SEC, false);
        struct guard_record record;
        size_t size;

        node->state = NODE_BACKOFF;
        cr_expect_not(node_order_in_escrow(node, false, &ladder));
        cr_expect(node->stop_wanted);
        cr_expect_eq(packet_recv(fx->guard_fd, &record, sizeof(record), &size, NULL, 0, NULL), PACKET_E_AGAIN);
        fixture_done(fx);
}
