/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a node's life, held against the list that docs/architecture.md shows, so that a hole is a decision. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/node-internal.h"
#include "supervisor/progress.h"
#include "supervisor/supervisor.h"

static const struct {
        NodeState state;
        NodeEvent event;
        NodeState next;
} documented[] = {
        {NODE_PENDING, NODE_EV_START, NODE_STARTING},
        {NODE_PENDING, NODE_EV_STOP, NODE_STOPPED},
        {NODE_PENDING, NODE_EV_FAIL, NODE_FAILED},
        {NODE_STARTING, NODE_EV_READY, NODE_RUNNING},
        {NODE_STARTING, NODE_EV_SPAWN_FAILED, NODE_STOPPING},
        {NODE_STARTING, NODE_EV_EXITED, NODE_STOPPING},
        {NODE_STARTING, NODE_EV_DEADLINE, NODE_STOPPING},
        {NODE_STARTING, NODE_EV_STOP, NODE_STOPPING},
        {NODE_RUNNING, NODE_EV_EXITED, NODE_STOPPING},
        {NODE_RUNNING, NODE_EV_DEADLINE, NODE_STOPPING},
        {NODE_RUNNING, NODE_EV_STOP, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_SPAWN_FAILED, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_EXITED, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_EMPTY, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_DEADLINE, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_STOP, NODE_STOPPING},
        {NODE_STOPPING, NODE_EV_RESTART, NODE_BACKOFF},
        {NODE_STOPPING, NODE_EV_DONE, NODE_STOPPED},
        {NODE_STOPPING, NODE_EV_FAIL, NODE_FAILED},
        {NODE_BACKOFF, NODE_EV_DEADLINE, NODE_STARTING},
        {NODE_BACKOFF, NODE_EV_STOP, NODE_STOPPED},
        {NODE_STOPPED, NODE_EV_START, NODE_STARTING},
        {NODE_STOPPED, NODE_EV_EMPTY, NODE_STOPPED},
        {NODE_FAILED, NODE_EV_START, NODE_STARTING},
        {NODE_FAILED, NODE_EV_EMPTY, NODE_FAILED},
};

Test(node, every_pair_of_state_and_event_does_what_is_documented_and_no_other_does_anything)
{
        for (unsigned s = 0; s < _NODE_STATE_MAX; s++) {
                for (unsigned e = 0; e < _NODE_EVENT_MAX; e++) {
                        NodeState next = _NODE_STATE_MAX, wanted = _NODE_STATE_MAX;
                        bool is = node_step(s, e, &next);

                        for (size_t i = 0; i < sizeof(documented) / sizeof(documented[0]); i++)
                                if (documented[i].state == s && documented[i].event == e)
                                        wanted = documented[i].next;
                        cr_expect_eq(is, wanted != _NODE_STATE_MAX, "%s on %s", node_state_to_string(s), node_event_to_string(e));
                        cr_expect_eq(next, wanted, "%s on %s", node_state_to_string(s), node_event_to_string(e));
                }
        }
}

Test(node, a_stop_is_understood_in_every_state_that_is_not_final)
{
        NodeState next;

        for (unsigned s = 0; s < NODE_STOPPED; s++)
                cr_expect(node_step(s, NODE_EV_STOP, &next), "%s", node_state_to_string(s));
}

Test(node, the_delay_doubles_up_to_its_maximum_and_never_wraps)
{
        PlanNode plan = {.restart_delay_ns = NSEC_PER_SEC, .max_restart_delay_ns = 10 * NSEC_PER_SEC};

        cr_assert_eq(node_backoff_ns(&plan, 0), NSEC_PER_SEC);
        cr_assert_eq(node_backoff_ns(&plan, 3), 8 * NSEC_PER_SEC);
        cr_assert_eq(node_backoff_ns(&plan, 4), 10 * NSEC_PER_SEC);
        cr_assert_eq(node_backoff_ns(&plan, UINT32_MAX), 10 * NSEC_PER_SEC);
        plan.max_restart_delay_ns = 0;
        cr_assert_eq(node_backoff_ns(&plan, 100), NSEC_PER_SEC << 16, "the exponent is at most 16");
        plan.restart_delay_ns = UINT64_MAX / 2;
        cr_assert_eq(node_backoff_ns(&plan, 16), NSEC_NEVER);
        plan.restart_delay_ns = 0;
        cr_assert_eq(node_backoff_ns(&plan, 16), 0);
}

Test(node, states_events_and_rungs_have_names)
{
        for (unsigned s = 0; s < _NODE_STATE_MAX; s++)
                cr_expect_not_null(node_state_to_string(s));
        for (unsigned e = 0; e < _NODE_EVENT_MAX; e++)
                cr_expect_not_null(node_event_to_string(e));
        for (unsigned r = 0; r < _NODE_RUNG_MAX; r++)
                cr_expect_not_null(node_rung_to_string(r));
        cr_expect_str_eq(node_state_to_string(99), "?");
}

Test(node, a_later_order_only_ever_moves_a_stop_earlier)
{
        NodeLadder ladder = NODE_LADDER_NEVER, slow = node_ladder(1000, 100, 10, false), fast = node_ladder(1010, 20, 10, false),
                   now = node_ladder(1020, 100, 10, true);

        cr_expect(node_ladder_tighten(&ladder, &slow));
        cr_expect_eq(ladder.term, 1100);
        cr_expect_eq(ladder.kill, 1150);
        cr_expect_eq(ladder.verdict, 1160);
        cr_expect(node_ladder_tighten(&ladder, &fast));
        cr_expect_eq(ladder.kill, 1040);
        cr_expect_not(node_ladder_tighten(&ladder, &slow));
        cr_expect_eq(ladder.verdict, 1050);
        cr_expect(node_ladder_tighten(&ladder, &now), "force begins with the kill");
        cr_expect_eq(ladder.term, 1020);
        cr_expect_eq(ladder.kill, 1020);
}

/* Asked of a node that was killed while it was stuck; @generation: of which life the answer is. What status tells of it then: owned, NULL: nothing. */
static json_t *told_of(uint64_t generation)
{
        Dataflow dataflow = {.n_whys = 1};
        Node node = {.dataflow = &dataflow, .generation = 2, .killed = true, .why = {.asked = 7, .was_stuck = 2}};
        json_t *report = json_pack("{sI ss ss}", "generation", (json_int_t)generation, "cause", "sleeping", "text", "n sleeps"), *result = json_object(), *why;

        dataflow.loop = &(Loop){.now = 1};
        cr_assert_eq(progress_new(&dataflow.progress, 1, 0), 0);
        node_why_said(&node, 7, report);
        node_why_describe(&node, result);
        cr_expect_eq(dataflow.n_whys, 0);
        why = json_incref(json_object_get(result, "why"));
        node_why_done(&node);
        dataflow.progress = progress_free(dataflow.progress);
        json_decref(report);
        json_decref(result);
        return why;
}

Test(node, what_is_said_of_a_life_that_is_over_is_not_taken_for_the_next_ones)
{
        json_t *why = told_of(2);

        cr_expect_str_eq(json_string_value(json_object_get(why, "text")), "n sleeps");
        json_decref(why);
        cr_expect_null(told_of(1));
}

/* When the verdict falls, of a node that was killed in vain, if who is left is asked for at @now. */
static nsec_t verdict_of_who_asks_at(nsec_t now)
{
        const PlanNode plan = {.id = (char[]){"n"}, .kind = PLAN_KIND_PROGRAM};
        Loop loop;
        Dataflow dataflow = {.loop = &loop, .keeper_fd = -1};
        Node node = {.dataflow = &dataflow, .plan = &plan, .spawned = true, .rung = NODE_RUNG_KILL, .foreseen = true};
        nsec_t at;

        node.ladder = (NodeLadder){.term = NSEC_PER_SEC, .kill = 2 * NSEC_PER_SEC, .verdict = 3 * NSEC_PER_SEC};
        cr_assert_eq(loop_init(&loop), 0);
        loop.now = now;
        node_next_rung(&node);
        cr_expect_eq(node.rung, NODE_RUNG_VERDICT);
        at = node.deadline.at;
        timer_disarm(&node.deadline);
        loop_done(&loop);
        return at;
}

Test(node, who_slept_beyond_the_verdict_hears_the_answer_as_well)
{
        cr_expect_eq(verdict_of_who_asks_at(2600 * NSEC_PER_MSEC), 3100 * NSEC_PER_MSEC);
        cr_expect_eq(verdict_of_who_asks_at(9000 * NSEC_PER_MSEC), 9100 * NSEC_PER_MSEC);
}
