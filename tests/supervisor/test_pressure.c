/* SPDX-License-Identifier: Apache-2.0 */
/* When a condition of pressure has a say, and what is told of it. No keeper, no process: a dataflow of two nodes as data. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/packet.h"
#include "supervisor/supervisor.h"

#define NODE(id)                                                                                                                       \
        "{'id':'" id "','line':3,'kind':'program','argv':['/bin/a'],'env':{},'cpu_affinity':[],'inputs':[],'outputs':[],'pool_size':0," \
        "'restart':{'policy':'never','max_restarts':0,'delay_ns':0,'max_delay_ns':0,'window_ns':0},'startup_timeout_ns':1,"             \
        "'finish_grace_ns':0,'on_pressure':[" LINES "]}"
#define LINES                                                                                                                           \
        "{'resource':'memory_some','action':'event','threshold_ns':150000000,'window_ns':1000000000,'line':7},"                         \
        "{'resource':'forks_refused','action':'event','times':10,'window_ns':10000000000,'line':8}"

static Supervisor supervisor;
static Dataflow dataflow;
static Node nodes[2];
static json_t *events;

static void on_event(Dataflow *d, json_t *event, void *owner)
{
        cr_assert(d == &dataflow && owner == &supervisor);
        (void)json_array_append(events, event);
}

static void setup(void)
{
        char text[] = "{'version':1,'name':'n','file':'/d/n.yml','dir':'/d','on_pressure':[" LINES "],'nodes':[" NODE("a") "," NODE("b") "]}";
        char why[256] = "";
        json_t *json;

        for (char *c = text; *c; c++)
                *c = *c == '\'' ? '"' : *c;
        json = json_loads(text, 0, NULL);
        cr_assert_not_null(json);
        supervisor.options.listen_fd = -1;
        dataflow = (Dataflow){.supervisor = &supervisor, .nodes = nodes, .keeper_fd = -1, .state = DATAFLOW_RUNNING, .notes = json_array(), .event_fn = on_event, .options.owner = &supervisor};
        cr_assert_eq(plan_new(&dataflow.plan, json, why, sizeof(why)), 0, "%s", why);
        json_decref(json);
        for (uint32_t i = 0; i < 2; i++)
                nodes[i] = (Node){.dataflow = &dataflow, .index = i, .plan = &dataflow.plan->nodes[i], .state = NODE_RUNNING, .generation = 1};
        events = json_array();
}

static void teardown(void)
{
        pressure_done(&dataflow.pressure);
        pressure_done(&nodes[0].pressure);
        dataflow.plan = plan_free(dataflow.plan);
        json_decref(dataflow.notes);
        json_decref(events);
}

TestSuite(pressure, .init = setup, .fini = teardown);

static void met(Node *node, uint32_t index, uint64_t measured, nsec_t over, uint16_t average)
{
        pressure_told(&dataflow, node, &(KeeperMsg){.type = KEEPER_MSG_PRESSED, .pressed = {index, measured, over, average}});
}

/* The @i-th event of pressure that was told so far; NULL: there are fewer. */
static json_t *told(size_t i)
{
        json_t *event;
        size_t k;

        json_array_foreach(events, k, event)
                if (strcmp(json_string_value(json_object_get(event, "type")), "pressure") == 0 && i-- == 0)
                        return event;
        return NULL;
}

static const char *text_of(const json_t *event, const char *key)
{
        const char *text = json_string_value(json_object_get(event, key));

        return text ? text : "";
}

Test(pressure, it_is_told_with_what_was_measured_and_what_was_allowed)
{
        met(&nodes[0], 0, 212 * NSEC_PER_MSEC, 1020 * NSEC_PER_MSEC, 1834);
        cr_assert_not_null(told(0));
        cr_expect_str_eq(text_of(told(0), "node"), "a");
        cr_expect_str_eq(text_of(told(0), "resource"), "memory_some");
        cr_expect_str_eq(text_of(told(0), "measured"), "212 ms in 1.02 s (18.34 % of the last 10 s)");
        cr_expect_str_eq(text_of(told(0), "threshold"), "150 ms in 1 s");
        cr_expect_str_eq(text_of(told(0), "action"), "event");
        cr_expect_str_eq(text_of(told(0), "text"), "memory_some 212 ms in 1.02 s (18.34 % of the last 10 s); on_pressure (line 7): event at 150 ms in 1 s");

        met(&nodes[0], 0, 0, 0, KEEPER_PRESSURE_UNKNOWN);
        cr_expect_str_eq(text_of(told(1), "measured"), "at least 150 ms in 1 s");
        met(&nodes[0], 1, 41, 900 * NSEC_PER_MSEC, KEEPER_PRESSURE_UNKNOWN);
        cr_expect_str_eq(text_of(told(2), "measured"), "41 times in 900 ms");
        cr_expect_str_eq(text_of(told(2), "threshold"), "10 times in 10 s");
        cr_expect_eq(nodes[0].pressure.n_met, 3);
        cr_expect_str_eq(nodes[0].pressure.text, text_of(told(2), "text"));

        met(NULL, 0, 0, 0, KEEPER_PRESSURE_UNKNOWN);
        cr_expect_str_eq(text_of(told(3), "node"), "", "of the whole dataflow");
        cr_expect_eq(dataflow.pressure.n_met, 1);
        met(&nodes[0], 2, 1, 1, 1);
        cr_expect_null(told(4), "there is no such condition");
}

Test(pressure, the_first_of_each_life_is_a_note_too)
{
        for (int i = 0; i < 3; i++)
                met(&nodes[0], 0, 0, 0, 0);
        met(&nodes[0], 1, 0, 0, 0);
        cr_expect_eq(json_array_size(dataflow.notes), 2, "one a condition");
        pressure_watch(&dataflow, &nodes[0]); /* its next life; no keeper hears of it */
        met(&nodes[0], 0, 0, 0, 0);
        cr_expect_eq(json_array_size(dataflow.notes), 3);
}

Test(pressure, who_starts_ends_or_stands_still_has_no_say)
{
        static const NodeState not[] = {NODE_PENDING, NODE_STARTING, NODE_STOPPING, NODE_BACKOFF, NODE_STOPPED, NODE_FAILED};
        Node *n = &nodes[0];
        bool *const flags[] = {&n->exited, &n->stop_wanted, &n->restart_wanted, &n->resources.frozen, &dataflow.stop_ordered, &dataflow.frozen_all};
        char error[] = "was ended for its pressure";

        for (size_t i = 0; i < ELEMENTSOF(not); i++) {
                n->state = not[i];
                met(n, 0, 0, 0, 0);
                cr_expect_null(told(0), "%s", node_state_to_string(not[i]));
        }
        n->state = NODE_RUNNING;
        for (size_t i = 0; i < ELEMENTSOF(flags); i++) {
                *flags[i] = true;
                met(n, 0, 0, 0, 0);
                if (i >= 4) /* of all of it */
                        met(NULL, 0, 0, 0, 0);
                *flags[i] = false;
                cr_expect_null(told(0), "flag %zu", i);
        }
        n->error = error;
        met(n, 0, 0, 0, 0);
        n->error = NULL;
        for (int state = 0; state < _DATAFLOW_STATE_MAX; state++) {
                dataflow.state = state;
                if (state != DATAFLOW_RUNNING)
                        met(NULL, 0, 0, 0, 0);
        }
        dataflow.state = DATAFLOW_RUNNING;
        cr_expect_null(told(0));
        met(n, 0, 0, 0, 0);
        cr_expect_not_null(told(0));
}

Test(pressure, what_is_not_watched_for_after_all_is_noted_by_name)
{
        pressure_told_unwatched(&dataflow, &nodes[1], "1=no descriptor is left\n0=the kernel refused it\n7=of nobody\nnonsense\n");
        cr_assert_eq(json_array_size(dataflow.notes), 2);
        cr_expect_str_eq(text_of(json_array_get(dataflow.notes, 0), "text"), "on_pressure: forks_refused is not watched: no descriptor is left");
        cr_expect_str_eq(text_of(json_array_get(dataflow.notes, 0), "node"), "b");
        cr_expect_str_eq(text_of(json_array_get(dataflow.notes, 1), "text"), "on_pressure: memory_some is not watched: the kernel refused it");
}

/* ---- stop, which is in the guard's hands first */

/* The condition at index 0 of node a ends it for good; returns the guard's end. */
static int make_it_stop(void)
{
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        supervisor.guard_fd = pair[0];
        packet_queue_init(&supervisor.guard_out, 10);
        supervisor.journal = JOURNAL_NULL;
        cr_assert_eq(loop_init(&supervisor.loop), 0);
        supervisor.loop.now = clock_now();
        dataflow.loop = &supervisor.loop;
        dataflow.options.grace_ns = 2 * NSEC_PER_SEC;
        dataflow.options.budget_ns = NSEC_PER_SEC;
        dataflow.plan->nodes[0].pressure[0].action = PRESSURE_STOP;
        return pair[1];
}

static void expect_escrow(int guard)
{
        struct guard_record record = {};
        size_t size = 0;

        cr_assert_eq(packet_recv(guard, &record, sizeof(record), &size, NULL, 0, NULL), 0, "the guard has heard of it");
        cr_expect_eq(record.type, GUARD_MSG_ESCROW);
        cr_expect_eq(record.generation, 1);
        cr_expect_geq(record.at_ns, supervisor.loop.now + 3 * NSEC_PER_SEC, "its grace, and half of that");
        cr_expect_lt(record.at_ns, supervisor.loop.now + 4 * NSEC_PER_SEC);
}

Test(pressure, a_stop_is_in_the_guards_hands_before_it_begins)
{
        int guard = make_it_stop();

        met(&nodes[0], 0, 0, 0, KEEPER_PRESSURE_UNKNOWN);
        expect_escrow(guard);
        cr_expect_not(nodes[0].stop_wanted, "not before it has said so");
        met(&nodes[0], 0, 0, 0, KEEPER_PRESSURE_UNKNOWN);
        cr_expect_eq(nodes[0].pressure.n_met, 1, "once is enough");
        node_on_escrow_answer(&nodes[0], 0);
        cr_expect(nodes[0].stop_wanted);
        cr_expect(nodes[0].error && strncmp(nodes[0].error, "was stopped for its pressure: memory_some ", 42) == 0);
        (void)close(guard);
}

Test(pressure, a_guard_that_holds_no_more_deadlines_does_not_keep_it_from_being_stopped)
{
        int guard = make_it_stop();

        met(&nodes[0], 0, 0, 0, KEEPER_PRESSURE_UNKNOWN);
        expect_escrow(guard);
        node_on_escrow_answer(&nodes[0], ENOSPC);
        cr_expect(nodes[0].stop_wanted, "nobody is there who could order it again");
        (void)close(guard);
}
