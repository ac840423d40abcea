/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "protocol/node_msg.h"

/* One valid message of every type; tests name some by their place, so new ones come last. */
static const NodeMsg samples[] = {
        {.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION, .library = "tidegate 0.1.0"}},
        {.type = NODE_MSG_MAPPED},
        {.type = NODE_MSG_LINK_OUT_ACK, .ack = {.link = 7, .generation = 3}},
        {.type = NODE_MSG_LINK_IN_ACK, .ack = {.link = 8, .generation = 4}},
        {.type = NODE_MSG_DETACH_ACK, .ack = {.link = 9, .generation = 5}},
        {.type = NODE_MSG_CLOSE_OUTPUT, .close_output = {.output = 255}},
        {.type = NODE_MSG_VIOLATION, .violation = {.link = 1, .generation = 2, .text = "head went backwards"}},
        {.type = NODE_MSG_WELCOME,
                .welcome = {.uuid = {0xde, 0xad, [15] = 0xff}, .dataflow = "audio", .node = "spectrum", .generation = 2,
                        .restart_count = 1, .n_inputs = 3, .n_outputs = 256, .control_size = 4096, .bell_size = 4096}},
        {.type = NODE_MSG_OUTPUT,
                .output = {.index = 2, .id = "frames", .n_slots = 64, .ring_size = 20480, .pool_size = 8 << 20}},
        {.type = NODE_MSG_INPUT,
                .input = {.index = 1, .id = "in", .source = "source/frames", .queue_size = 10,
                        .policy = NODE_QUEUE_BACKPRESSURE, .timeout_ns = 5, .link = 4, .cursor_size = 4096}},
        {.type = NODE_MSG_INPUT,
                .input = {.index = 0, .id = "tick", .source = "dora/timer/millis/10", .timer_ns = 10000000,
                        .queue_size = 1, .policy = NODE_QUEUE_DROP_OLDEST}},
        {.type = NODE_MSG_SETUP_END},
        {.type = NODE_MSG_PEER, .peer = {.peer = 1, .generation = 9, .node = "sink", .bell_size = 4096, .doorbells = 1}},
        {.type = NODE_MSG_LINK_OUT,
                .link_out = {.link = 4, .generation = 1, .output = 0, .peer = 0, .queue_size = 65535,
                        .policy = NODE_QUEUE_DROP_OLDEST, .cursor_size = 4096}},
        {.type = NODE_MSG_LINK_IN,
                .link_in = {.link = 4, .generation = 1, .input = 0, .peer = 3, .n_slots = 16, .ring_size = 8192,
                        .pool_size = 4096, .start_at = NODE_START_AT_HEAD}},
        {.type = NODE_MSG_START},
        {.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL, .deadline_ns = 123456789012345}},
        {.type = NODE_MSG_DETACH, .detach = {.link = 4, .generation = 1}},
        {.type = NODE_MSG_LINK_CLOSED, .link_closed = {.link = 4, .generation = 1, .restarting = 1}},
        {.type = NODE_MSG_NODE_FAILED, .node_event = {.node = "level", .text = "killed by SIGSEGV", .generation = 3}},
        {.type = NODE_MSG_NODE_RESTARTED, .node_event = {.node = "level", .text = "", .generation = 4}},
        {.type = NODE_MSG_ABORT, .abort = {.text = "node sink never connected"}},
        {.type = NODE_MSG_RESUME, .resume = {.epoch = 12}},
        {.type = NODE_MSG_RESUMED, .resume = {.epoch = 12, .running = 1}},
        {.type = NODE_MSG_LINK_OUT,
                .link_out = {.link = 4, .generation = 2, .output = 1, .peer = 7, .queue_size = 1,
                        .policy = NODE_QUEUE_BACKPRESSURE, .cursor_size = 4096, .restartable = 1}},
        {.type = NODE_MSG_DETACH, .detach = {.link = 4, .generation = 1, .restarting = 1}},
        {.type = NODE_MSG_AWAIT, .await = {.link = 4, .generation = 3, .output = 255, .queue_size = 65535}},
        {.type = NODE_MSG_GROW, .grow = {.output = 255, .chunk_size = NODE_MSG_REGION_MAX}},
        {.type = NODE_MSG_SEGMENT, .segment = {.output = 3, .number = 1, .size = 8192}},
        {.type = NODE_MSG_SEGMENT_ACK, .segment = {.output = 3, .number = 15, .size = 4096, .used = 1}},
        {.type = NODE_MSG_SEGMENT_READY, .segment = {.output = 3, .number = 1}},
        {.type = NODE_MSG_GROW_REFUSED, .grow_refused = {.output = 0, .chunk_size = 1}},
        {.type = NODE_MSG_LINK_SEGMENT, .link_segment = {.link = 4, .generation = 3, .number = 2, .size = 1 << 20}},
        {.type = NODE_MSG_TURNED},
        {.type = NODE_MSG_LINK_LEFT, .link_left = {.link = 1, .generation = 2, .text = "it has no memory"}},
        {.type = NODE_MSG_HELLO,
                .hello = {.version = 1, .library = "tidegate 0.0.9"}}, /* its version alone */
        {.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION, .library = "x", .node = "viewer"}},
        {.type = NODE_MSG_HELLO,
                .hello = {.version = NODE_MSG_VERSION, .library = "x", .uuid = {[15] = 9}, .dataflow = "audio", .node = "viewer",
                        .generation = UINT64_MAX}},
};

static int encode(const NodeMsg *m, uint8_t buf[static NODE_MSG_MAX])
{
        int n = node_msg_encode(m, buf, NODE_MSG_MAX);

        cr_assert_gt(n, 0, "%s was not encoded: %d", node_msg_name(m->type), n);
        return n;
}

Test(node_msg, every_type_has_a_sample_here_and_a_name)
{
        for (unsigned type = 0; type < 300; type++) {
                bool known = strcmp(node_msg_name((NodeMsgType)type), "?") != 0, sampled = false;
                NodeMsg m = {.type = (NodeMsgType)type};

                for (size_t i = 0; i < ELEMENTSOF(samples); i++)
                        sampled |= samples[i].type == (NodeMsgType)type;
                cr_assert_eq(known, sampled, "type %u", type);
                cr_assert_eq(node_msg_n_fds(&m) >= 0, known, "type %u", type);
        }
}

Test(node_msg, every_type_survives_the_round_trip)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                uint8_t one[NODE_MSG_MAX], two[NODE_MSG_MAX];
                int n = encode(&samples[i], one);
                NodeMsg m;

                cr_assert_eq(node_msg_decode(&m, one, (size_t)n), 0, "%s", node_msg_name(samples[i].type));
                cr_assert_eq(m.type, samples[i].type);
                cr_assert_eq(encode(&m, two), n);
                cr_assert_arr_eq(one, two, (size_t)n);
        }
}

Test(node_msg, fields_arrive_where_they_were_put)
{
        uint8_t buf[NODE_MSG_MAX];
        NodeMsg m;

        cr_assert_eq(node_msg_decode(&m, buf, (size_t)encode(&samples[7], buf)), 0);
        cr_assert_eq(m.welcome.uuid[0], 0xde);
        cr_assert_eq(m.welcome.uuid[15], 0xff);
        cr_assert_str_eq(m.welcome.dataflow, "audio");
        cr_assert_str_eq(m.welcome.node, "spectrum");
        cr_assert_eq(m.welcome.generation, 2);
        cr_assert_eq(m.welcome.restart_count, 1);
        cr_assert_eq(m.welcome.n_inputs, 3);
        cr_assert_eq(m.welcome.n_outputs, 256);

        cr_assert_eq(node_msg_decode(&m, buf, (size_t)encode(&samples[ELEMENTSOF(samples) - 1], buf)), 0);
        cr_assert_eq(m.hello.uuid[15], 9);
        cr_assert_str_eq(m.hello.dataflow, "audio");
        cr_assert_str_eq(m.hello.node, "viewer");
        cr_assert_eq(m.hello.generation, UINT64_MAX);

        cr_assert_eq(node_msg_decode(&m, buf, (size_t)encode(&samples[19], buf)), 0);
        cr_assert_str_eq(m.node_event.text, "killed by SIGSEGV");
        cr_assert_eq(m.node_event.generation, 3);

        cr_assert_eq(node_msg_decode(&m, buf, (size_t)encode(&samples[14], buf)), 0);
        cr_assert_eq(m.link_in.link, 4);
        cr_assert_eq(m.link_in.generation, 1);
        cr_assert_eq(m.link_in.peer, 3);
        cr_assert_eq(m.link_in.n_slots, 16);
        cr_assert_eq(m.link_in.ring_size, 8192);
        cr_assert_eq(m.link_in.pool_size, 4096);
        cr_assert_eq(m.link_in.start_at, NODE_START_AT_HEAD);
}

Test(node_msg, every_truncation_and_every_byte_too_many_is_refused)
{
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                uint8_t buf[NODE_MSG_MAX + 1] = {};
                int n = encode(&samples[i], buf);
                NodeMsg m;

                for (int cut = 0; cut < n; cut++)
                        cr_assert_eq(node_msg_decode(&m, buf, (size_t)cut), -EPROTO, "%s cut to %d of %d",
                                node_msg_name(samples[i].type), cut, n);
                cr_assert_eq(node_msg_decode(&m, buf, (size_t)n + 1), -EPROTO);
        }
}

Test(node_msg, unknown_types_are_refused_in_both_directions)
{
        for (unsigned type = 0; type < 256; type++) {
                uint8_t buf[NODE_MSG_MAX] = {(uint8_t)type};
                NodeMsg m = {.type = (NodeMsgType)type};

                if (strcmp(node_msg_name((NodeMsgType)type), "?") != 0)
                        continue;
                cr_assert_eq(node_msg_decode(&m, buf, 1), -EPROTO, "type %u", type);
                m.type = (NodeMsgType)type;
                cr_assert_eq(node_msg_encode(&m, buf, sizeof(buf)), -EINVAL, "type %u", type);
        }
}

Test(node_msg, a_packet_over_the_limit_is_refused)
{
        static uint8_t buf[NODE_MSG_MAX + 1];
        NodeMsg m;

        cr_assert_eq(node_msg_decode(&m, buf, sizeof(buf)), -EPROTO);
}

Test(node_msg, the_longest_strings_fit_and_longer_ones_are_not_sent)
{
        char text[NODE_MSG_TEXT_MAX + 2], id[NODE_MSG_ID_MAX + 2];
        uint8_t buf[NODE_MSG_MAX];
        NodeMsg m = {.type = NODE_MSG_NODE_FAILED}, back;

        memset(text, 't', sizeof(text));
        memset(id, 'i', sizeof(id));
        text[NODE_MSG_TEXT_MAX] = '\0';
        id[NODE_MSG_ID_MAX] = '\0';
        m.node_event.node = id;
        m.node_event.text = text;
        cr_assert_eq(node_msg_decode(&back, buf, (size_t)encode(&m, buf)), 0);
        cr_assert_str_eq(back.node_event.node, id);
        cr_assert_str_eq(back.node_event.text, text);

        text[NODE_MSG_TEXT_MAX] = 't';
        text[NODE_MSG_TEXT_MAX + 1] = '\0';
        cr_assert_eq(node_msg_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
        text[5] = '\0';
        id[NODE_MSG_ID_MAX] = 'i';
        id[NODE_MSG_ID_MAX + 1] = '\0';
        cr_assert_eq(node_msg_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
        id[3] = '\0';
        cr_assert_eq(node_msg_encode(&m, buf, 4), -EMSGSIZE); /* no room */
}

Test(node_msg, strings_over_their_limit_are_refused_when_they_arrive)
{
        uint8_t buf[NODE_MSG_MAX] = {NODE_MSG_ABORT};
        uint32_t n = NODE_MSG_TEXT_MAX + 1;
        NodeMsg m;

        memset(buf + 5, 'x', n);
        memcpy(buf + 1, &n, 4);
        cr_assert_eq(node_msg_decode(&m, buf, 5 + (size_t)n + 1), -EPROTO);
        n--;
        memcpy(buf + 1, &n, 4);
        buf[5 + n] = '\0';
        cr_assert_eq(node_msg_decode(&m, buf, 5 + (size_t)n + 1), 0);
}

#define BAD(name, type_, ...) {name, {.type = type_, __VA_ARGS__}}

typedef struct Bad {
        const char *what;
        NodeMsg msg;
} Bad;

#define GOOD_OUTPUT .id = "o", .ring_size = 4096, .pool_size = 4096
#define GOOD_INPUT .id = "i", .queue_size = 1, .policy = NODE_QUEUE_DROP_OLDEST
#define GOOD_WELCOME .dataflow = "d", .control_size = 4096, .bell_size = 4096

static const Bad bad[] = {
        BAD("no node id", NODE_MSG_WELCOME, .welcome = {GOOD_WELCOME, .generation = 1}),
        BAD("generation 0", NODE_MSG_WELCOME, .welcome = {GOOD_WELCOME, .node = "n"}),
        BAD("257 inputs", NODE_MSG_WELCOME, .welcome = {GOOD_WELCOME, .node = "n", .generation = 1, .n_inputs = 257}),
        BAD("no bell", NODE_MSG_WELCOME, .welcome = {.node = "n", .generation = 1, .control_size = 1}),
        BAD("output 256", NODE_MSG_OUTPUT, .output = {GOOD_OUTPUT, .index = 256, .n_slots = 2}),
        BAD("no slots", NODE_MSG_OUTPUT, .output = {GOOD_OUTPUT, .n_slots = 0}),
        BAD("3 slots", NODE_MSG_OUTPUT, .output = {GOOD_OUTPUT, .n_slots = 3}),
        BAD("2^21 slots", NODE_MSG_OUTPUT, .output = {GOOD_OUTPUT, .n_slots = 1u << 21}),
        BAD("a pool of 2^41", NODE_MSG_OUTPUT,
                .output = {.id = "o", .ring_size = 1, .n_slots = 2, .pool_size = UINT64_C(1) << 41}),
        BAD("no policy", NODE_MSG_INPUT, .input = {.id = "i", .queue_size = 1, .link = 1, .cursor_size = 1}),
        BAD("policy 3", NODE_MSG_INPUT,
                .input = {.id = "i", .queue_size = 1, .link = 1, .cursor_size = 1, .policy = (NodeQueuePolicy)3}),
        BAD("queue_size 0", NODE_MSG_INPUT,
                .input = {.id = "i", .policy = NODE_QUEUE_DROP_OLDEST, .link = 1, .cursor_size = 1}),
        BAD("queue_size 65536", NODE_MSG_INPUT,
                .input = {.id = "i", .queue_size = 65536, .policy = NODE_QUEUE_DROP_OLDEST, .link = 1, .cursor_size = 1}),
        BAD("a link input without link", NODE_MSG_INPUT, .input = {GOOD_INPUT, .cursor_size = 4096}),
        BAD("a link input without cursor", NODE_MSG_INPUT, .input = {GOOD_INPUT, .link = 4}),
        BAD("a timer with a link", NODE_MSG_INPUT, .input = {GOOD_INPUT, .timer_ns = 5, .link = 4}),
        BAD("a timer with a cursor", NODE_MSG_INPUT, .input = {GOOD_INPUT, .timer_ns = 5, .cursor_size = 4}),
        BAD("peer 0", NODE_MSG_PEER, .peer = {.node = "p", .bell_size = 4096}),
        BAD("link 0", NODE_MSG_LINK_OUT,
                .link_out = {.queue_size = 1, .policy = NODE_QUEUE_DROP_OLDEST, .cursor_size = 4096}),
        BAD("await 0", NODE_MSG_AWAIT, .await = {.queue_size = 1}),
        BAD("await without a queue", NODE_MSG_AWAIT, .await = {.link = 1}),
        BAD("await of output 256", NODE_MSG_AWAIT, .await = {.link = 1, .output = 256, .queue_size = 1}),
        BAD("link_in 0", NODE_MSG_LINK_IN, .link_in = {.n_slots = 2, .ring_size = 1, .pool_size = 1}),
        BAD("ack of link 0", NODE_MSG_LINK_IN_ACK, .ack = {.generation = 1}),
        BAD("restarting 2", NODE_MSG_LINK_CLOSED, .link_closed = {.link = 1, .restarting = 2}),
        BAD("detached and restarting 2", NODE_MSG_DETACH, .detach = {.link = 1, .restarting = 2}),
        BAD("restartable 2", NODE_MSG_LINK_OUT,
                .link_out = {.link = 1, .queue_size = 1, .policy = NODE_QUEUE_DROP_OLDEST, .cursor_size = 1, .restartable = 2}),
        BAD("a cause that is never sent", NODE_MSG_STOP, .stop = {.cause = NODE_STOP_ALL_INPUTS_CLOSED}),
        BAD("no cause", NODE_MSG_STOP, .stop = {}),
        BAD("failed node without id", NODE_MSG_NODE_FAILED, .node_event = {.text = "x"}),
        BAD("an incarnation of nobody", NODE_MSG_HELLO, .hello = {.version = 2, .library = "x", .generation = 1}),
        BAD("somebody of a dataflow", NODE_MSG_HELLO, .hello = {.version = 2, .library = "x", .dataflow = "d"}),
        BAD("a uuid without incarnation", NODE_MSG_HELLO,
                .hello = {.version = 2, .library = "x", .uuid = {1}, .dataflow = "d", .node = "n"}),
        BAD("running 2", NODE_MSG_RESUMED, .resume = {.running = 2}),
        BAD("a pool of output 256", NODE_MSG_GROW, .grow = {.output = 256, .chunk_size = 1}),
        BAD("growth by nothing", NODE_MSG_GROW, .grow = {.output = 0}),
        BAD("growth by more than there can be", NODE_MSG_GROW, .grow = {.chunk_size = NODE_MSG_REGION_MAX + 1}),
        BAD("the first segment", NODE_MSG_SEGMENT, .segment = {.number = 0, .size = 4096}),
        BAD("segment 16", NODE_MSG_SEGMENT_READY, .segment = {.number = 16}),
        BAD("a segment without bytes", NODE_MSG_SEGMENT, .segment = {.number = 1}),
        BAD("used 2", NODE_MSG_SEGMENT_ACK, .segment = {.number = 1, .size = 4096, .used = 2}),
        BAD("a mapped segment without bytes", NODE_MSG_SEGMENT_ACK, .segment = {.number = 1, .used = 1}),
        BAD("a segment of link 0", NODE_MSG_LINK_SEGMENT, .link_segment = {.number = 1, .size = 1}),
        BAD("output 256 closed", NODE_MSG_CLOSE_OUTPUT, .close_output = {.output = 256}),
};

Test(node_msg, what_the_other_end_would_refuse_is_never_sent)
{
        uint8_t buf[NODE_MSG_MAX];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_expect_eq(node_msg_encode(&bad[i].msg, buf, sizeof(buf)), -EINVAL, "%s", bad[i].what);
}

/* Every single byte of every sample set to every value: whatever is accepted encodes back to the same bytes, so there
 * is one representation only and no byte that is ignored. */
Test(node_msg, what_is_accepted_has_one_representation, .timeout = 60)
{
        uint8_t buf[NODE_MSG_MAX], again[NODE_MSG_MAX];
        unsigned refused = 0;

        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                int n = encode(&samples[i], buf);

                for (int at = 0; at < n; at++) {
                        uint8_t was = buf[at];

                        for (unsigned v = 0; v < 256; v++) {
                                NodeMsg m;

                                buf[at] = (uint8_t)v;
                                if (node_msg_decode(&m, buf, (size_t)n)) {
                                        refused++;
                                        continue;
                                }
                                cr_assert_eq(node_msg_encode(&m, again, sizeof(again)), n);
                                cr_assert_eq(memcmp(buf, again, (size_t)n), 0);
                        }
                        buf[at] = was;
                }
        }
        cr_assert_gt(refused, 1000);
}

/* An older library is told apart from noise, and whatever a newer one may add is refused with it. */
Test(node_msg, a_greeting_of_another_version_shows_its_version)
{
        uint8_t buf[NODE_MSG_MAX + 1] = {};
        NodeMsg m;
        int n = encode(&(NodeMsg){.type = NODE_MSG_HELLO, .hello = {.version = 1, .library = "old"}}, buf);

        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), 0);
        cr_assert_eq(m.hello.version, 1);
        cr_assert_str_eq(m.hello.library, "old");
        cr_assert_eq(m.hello.generation, 0);
        buf[1] = NODE_MSG_VERSION; /* and lacks what that has */
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), -EPROTO);
        n = encode(&(NodeMsg){.type = NODE_MSG_HELLO, .hello = {.version = NODE_MSG_VERSION + 1, .library = "", .node = "n"}}, buf);
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), 0);
        cr_assert_eq(m.hello.version, NODE_MSG_VERSION + 1);
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n + 1), -EPROTO);
}

Test(node_msg, ranges_are_checked_when_they_arrive)
{
        uint8_t buf[NODE_MSG_MAX];
        NodeMsg m;
        int n;

        n = encode(&samples[16], buf); /* STOP: type, cause, deadline */
        buf[1] = NODE_STOP_ALL_INPUTS_CLOSED;
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), -EPROTO);

        n = encode(&samples[8], buf); /* OUTPUT: type, index, id (4 + 6 + 1), n_slots */
        buf[16] = 65;
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), -EPROTO);

        n = encode(&samples[18], buf); /* LINK_CLOSED ends with `restarting` */
        buf[n - 1] = 2;
        cr_assert_eq(node_msg_decode(&m, buf, (size_t)n), -EPROTO);
}

Test(node_msg, descriptors_are_counted_as_the_header_says)
{
        cr_assert_eq(node_msg_n_fds(&samples[7]), 2);
        cr_assert_eq(node_msg_n_fds(&(NodeMsg){.type = NODE_MSG_PEER, .peer = {.doorbells = 1}}), 4);
        cr_assert_eq(node_msg_n_fds(&(NodeMsg){.type = NODE_MSG_PEER}), 2);
        cr_assert_eq(node_msg_n_fds(&samples[9]), 1);
        cr_assert_eq(node_msg_n_fds(&samples[10]), 0); /* a timer */
        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                cr_assert_leq(node_msg_n_fds(&samples[i]), NODE_MSG_MAX_FDS);
                if (node_msg_from_node(samples[i].type))
                        cr_assert_eq(node_msg_n_fds(&samples[i]), 0, "a node sends no descriptor");
        }
        cr_assert(node_msg_from_node(NODE_MSG_HELLO) && node_msg_from_node(NODE_MSG_RESUMED));
        cr_assert(!node_msg_from_node(NODE_MSG_WELCOME) && !node_msg_from_node(NODE_MSG_RESUME));
}
