/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/node_msg.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "protocol/wire.h"

/*
 * One walk over the fields serves both directions, so that what is written and what is read cannot drift apart. Numbers
 * and strings are checked in both: what the other end would refuse is never sent.
 */
typedef struct Codec {
        Wire wire;
        bool writing;
        bool too_long;     /* a string over its limit */
        bool out_of_range; /* a number or string that the protocol does not allow */
} Codec;

static void walk_u8(Codec *c, uint8_t *v)
{
        if (c->writing)
                wire_put_u8(&c->wire, *v);
        else
                *v = wire_get_u8(&c->wire);
}

static void walk_u16(Codec *c, uint16_t *v)
{
        if (c->writing)
                wire_put_u16(&c->wire, *v);
        else
                *v = wire_get_u16(&c->wire);
}

static void walk_u32(Codec *c, uint32_t *v)
{
        if (c->writing)
                wire_put_u32(&c->wire, *v);
        else
                *v = wire_get_u32(&c->wire);
}

static void walk_u64(Codec *c, uint64_t *v)
{
        if (c->writing)
                wire_put_u64(&c->wire, *v);
        else
                *v = wire_get_u64(&c->wire);
}

static void check(Codec *c, bool good)
{
        if (!good)
                c->out_of_range = true;
}

static void walk_u32_in(Codec *c, uint32_t *v, uint32_t min, uint32_t max)
{
        walk_u32(c, v);
        check(c, *v >= min && *v <= max);
}

static void walk_size(Codec *c, uint64_t *v)
{
        walk_u64(c, v);
        check(c, *v > 0 && *v <= NODE_MSG_REGION_MAX);
}

static void walk_str(Codec *c, const char **s, size_t max_len)
{
        if (!c->writing) {
                *s = wire_get_str(&c->wire, max_len);
                return;
        }
        if (*s && strnlen(*s, max_len + 1) > max_len)
                c->too_long = true;
        else
                wire_put_str(&c->wire, *s);
}

/* An id names something, so it is never empty. */
static void walk_id(Codec *c, const char **s)
{
        walk_str(c, s, NODE_MSG_ID_MAX);
        check(c, *s && **s);
}

static void walk_policy(Codec *c, NodeQueuePolicy *policy)
{
        uint8_t v = (uint8_t)*policy;

        walk_u8(c, &v);
        check(c, v == NODE_QUEUE_DROP_OLDEST || v == NODE_QUEUE_BACKPRESSURE);
        *policy = (NodeQueuePolicy)v;
}

static void walk_wait(Codec *c, NodeWaitMode *mode)
{
        uint8_t v = (uint8_t)*mode;

        walk_u8(c, &v);
        check(c, v <= NODE_WAIT_SPIN);
        *mode = (NodeWaitMode)v;
}

static void walk_n_slots(Codec *c, uint32_t *n)
{
        walk_u32_in(c, n, 2, NODE_MSG_MAX_SLOTS);
        check(c, (*n & (*n - 1)) == 0);
}

static void walk_link(Codec *c, uint32_t *link, uint32_t *generation)
{
        walk_u32_in(c, link, 1, UINT32_MAX - 1); /* the last is the ring's "any link" */
        walk_u32(c, generation);
}

static void walk_uuid(Codec *c, uint8_t uuid[16])
{
        if (c->writing)
                wire_put_bytes(&c->wire, uuid, 16);
        else
                wire_get_bytes(&c->wire, uuid, 16);
}

static void walk_flag(Codec *c, uint8_t *v)
{
        walk_u8(c, v);
        check(c, *v <= 1);
}

/* Who has a dataflow has a name; who has no incarnation yet has no uuid either. */
static void walk_hello(Codec *c, NodeMsg *m)
{
        static const uint8_t nobody[16];

        walk_u16(c, &m->hello.version); /* any: the supervisor names the version it refuses */
        walk_str(c, &m->hello.library, NODE_MSG_NAME_MAX);
        if (m->hello.version < 2) {
                m->hello.dataflow = m->hello.node = "";
                return;
        }
        walk_uuid(c, m->hello.uuid);
        walk_str(c, &m->hello.dataflow, NODE_MSG_NAME_MAX);
        walk_str(c, &m->hello.node, NODE_MSG_ID_MAX);
        walk_u64(c, &m->hello.generation);
        if (!m->hello.node || !*m->hello.node)
                check(c, m->hello.generation == 0 && (!m->hello.dataflow || !*m->hello.dataflow));
        if (m->hello.generation == 0)
                check(c, memcmp(m->hello.uuid, nobody, sizeof(nobody)) == 0);
}

static void walk_welcome(Codec *c, NodeMsg *m)
{
        walk_uuid(c, m->welcome.uuid);
        walk_str(c, &m->welcome.dataflow, NODE_MSG_NAME_MAX);
        walk_id(c, &m->welcome.node);
        walk_u64(c, &m->welcome.generation);
        check(c, m->welcome.generation > 0);
        walk_u32(c, &m->welcome.restart_count);
        walk_u32_in(c, &m->welcome.n_inputs, 0, NODE_MSG_MAX_PORTS);
        walk_u32_in(c, &m->welcome.n_outputs, 0, NODE_MSG_MAX_PORTS);
        walk_size(c, &m->welcome.control_size);
        walk_size(c, &m->welcome.bell_size);
        walk_u64(c, &m->welcome.start_deadline_ns);
        walk_wait(c, &m->welcome.wait);
}

static void walk_output(Codec *c, NodeMsg *m)
{
        walk_u32_in(c, &m->output.index, 0, NODE_MSG_MAX_PORTS - 1);
        walk_id(c, &m->output.id);
        walk_n_slots(c, &m->output.n_slots);
        walk_size(c, &m->output.ring_size);
        walk_size(c, &m->output.pool_size);
}

static void walk_input(Codec *c, NodeMsg *m)
{
        walk_u32_in(c, &m->input.index, 0, NODE_MSG_MAX_PORTS - 1);
        walk_id(c, &m->input.id);
        walk_str(c, &m->input.source, NODE_MSG_NAME_MAX + 1);
        walk_u64(c, &m->input.timer_ns);
        walk_u32_in(c, &m->input.queue_size, 1, NODE_MSG_QUEUE_MAX);
        walk_policy(c, &m->input.policy);
        walk_u64(c, &m->input.timeout_ns);
        walk_u32(c, &m->input.link);
        walk_u64(c, &m->input.cursor_size);
        if (m->input.timer_ns)
                check(c, m->input.link == 0 && m->input.cursor_size == 0);
        else
                check(c, m->input.link != 0 && m->input.cursor_size > 0 &&
                                m->input.cursor_size <= NODE_MSG_REGION_MAX);
}

static void walk_peer(Codec *c, NodeMsg *m)
{
        walk_u32_in(c, &m->peer.peer, 1, UINT32_MAX);
        walk_u32(c, &m->peer.generation);
        walk_id(c, &m->peer.node);
        walk_size(c, &m->peer.bell_size);
        walk_flag(c, &m->peer.doorbells);
}

static void walk_link_out(Codec *c, NodeMsg *m)
{
        walk_link(c, &m->link_out.link, &m->link_out.generation);
        walk_u32_in(c, &m->link_out.output, 0, NODE_MSG_MAX_PORTS - 1);
        walk_u32(c, &m->link_out.peer);
        walk_u32_in(c, &m->link_out.queue_size, 1, NODE_MSG_QUEUE_MAX);
        walk_policy(c, &m->link_out.policy);
        walk_size(c, &m->link_out.cursor_size);
        walk_flag(c, &m->link_out.restartable);
}

static void walk_await(Codec *c, NodeMsg *m)
{
        walk_link(c, &m->await.link, &m->await.generation);
        walk_u32_in(c, &m->await.output, 0, NODE_MSG_MAX_PORTS - 1);
        walk_u32_in(c, &m->await.queue_size, 1, NODE_MSG_QUEUE_MAX);
}

static void walk_link_in(Codec *c, NodeMsg *m)
{
        walk_link(c, &m->link_in.link, &m->link_in.generation);
        walk_u32_in(c, &m->link_in.input, 0, NODE_MSG_MAX_PORTS - 1);
        walk_u32(c, &m->link_in.peer);
        walk_n_slots(c, &m->link_in.n_slots);
        walk_size(c, &m->link_in.ring_size);
        walk_size(c, &m->link_in.pool_size);
        walk_u64(c, &m->link_in.start_at);
}

static void walk_segment(Codec *c, NodeMsg *m)
{
        walk_u32_in(c, &m->segment.output, 0, NODE_MSG_MAX_PORTS - 1);
        walk_u32_in(c, &m->segment.number, 1, NODE_MSG_MAX_SEGMENTS - 1);
        if (m->type != NODE_MSG_SEGMENT_READY)
                walk_size(c, &m->segment.size);
        if (m->type == NODE_MSG_SEGMENT_ACK)
                walk_flag(c, &m->segment.used);
}

static void walk_link_segment(Codec *c, NodeMsg *m)
{
        walk_link(c, &m->link_segment.link, &m->link_segment.generation);
        walk_u32_in(c, &m->link_segment.number, 1, NODE_MSG_MAX_SEGMENTS - 1);
        walk_size(c, &m->link_segment.size);
}

static void walk_stop(Codec *c, NodeMsg *m)
{
        uint8_t cause = (uint8_t)m->stop.cause;

        walk_u8(c, &cause);
        check(c, cause == NODE_STOP_MANUAL); /* ALL_INPUTS_CLOSED is made by the library, never sent */
        m->stop.cause = (NodeStopCause)cause;
        walk_u64(c, &m->stop.deadline_ns);
}

static void walk_body(Codec *c, NodeMsg *m)
{
        switch (m->type) {
        case NODE_MSG_HELLO:
                walk_hello(c, m);
                break;
        case NODE_MSG_LINK_OUT_ACK:
        case NODE_MSG_LINK_IN_ACK:
        case NODE_MSG_DETACH_ACK:
                walk_link(c, &m->ack.link, &m->ack.generation);
                break;
        case NODE_MSG_CLOSE_OUTPUT:
                walk_u32_in(c, &m->close_output.output, 0, NODE_MSG_MAX_PORTS - 1);
                break;
        case NODE_MSG_VIOLATION:
                walk_link(c, &m->violation.link, &m->violation.generation);
                walk_str(c, &m->violation.text, NODE_MSG_TEXT_MAX);
                break;
        case NODE_MSG_LINK_LEFT:
                walk_link(c, &m->link_left.link, &m->link_left.generation);
                walk_str(c, &m->link_left.text, NODE_MSG_TEXT_MAX);
                break;
        case NODE_MSG_GROW:
                walk_u32_in(c, &m->grow.output, 0, NODE_MSG_MAX_PORTS - 1);
                walk_size(c, &m->grow.chunk_size);
                break;
        case NODE_MSG_GROW_REFUSED:
                walk_u32_in(c, &m->grow_refused.output, 0, NODE_MSG_MAX_PORTS - 1);
                walk_size(c, &m->grow_refused.chunk_size);
                break;
        case NODE_MSG_SEGMENT:
        case NODE_MSG_SEGMENT_ACK:
        case NODE_MSG_SEGMENT_READY:
                walk_segment(c, m);
                break;
        case NODE_MSG_LINK_SEGMENT:
                walk_link_segment(c, m);
                break;
        case NODE_MSG_RESUMED:
                walk_u64(c, &m->resume.epoch);
                walk_flag(c, &m->resume.running);
                break;
        case NODE_MSG_RESUME:
                walk_u64(c, &m->resume.epoch);
                break;
        case NODE_MSG_WELCOME:
                walk_welcome(c, m);
                break;
        case NODE_MSG_OUTPUT:
                walk_output(c, m);
                break;
        case NODE_MSG_INPUT:
                walk_input(c, m);
                break;
        case NODE_MSG_PEER:
                walk_peer(c, m);
                break;
        case NODE_MSG_LINK_OUT:
                walk_link_out(c, m);
                break;
        case NODE_MSG_AWAIT:
                walk_await(c, m);
                break;
        case NODE_MSG_LINK_IN:
                walk_link_in(c, m);
                break;
        case NODE_MSG_STOP:
                walk_stop(c, m);
                break;
        case NODE_MSG_DETACH:
                walk_link(c, &m->detach.link, &m->detach.generation);
                walk_flag(c, &m->detach.restarting);
                break;
        case NODE_MSG_LINK_CLOSED:
                walk_link(c, &m->link_closed.link, &m->link_closed.generation);
                walk_flag(c, &m->link_closed.restarting);
                break;
        case NODE_MSG_NODE_FAILED:
        case NODE_MSG_NODE_RESTARTED:
                walk_id(c, &m->node_event.node);
                walk_str(c, &m->node_event.text, m->type == NODE_MSG_NODE_FAILED ? NODE_MSG_TEXT_MAX : 0);
                walk_u64(c, &m->node_event.generation);
                break;
        case NODE_MSG_ABORT:
                walk_str(c, &m->abort.text, NODE_MSG_TEXT_MAX);
                break;
        case NODE_MSG_MAPPED:
        case NODE_MSG_TURNED:
        case NODE_MSG_SETUP_END:
        case NODE_MSG_START:
                break;
        }
}

static const char *const type_names[] = {
        [NODE_MSG_HELLO] = "HELLO",
        [NODE_MSG_MAPPED] = "MAPPED",
        [NODE_MSG_LINK_OUT_ACK] = "LINK_OUT_ACK",
        [NODE_MSG_LINK_IN_ACK] = "LINK_IN_ACK",
        [NODE_MSG_DETACH_ACK] = "DETACH_ACK",
        [NODE_MSG_CLOSE_OUTPUT] = "CLOSE_OUTPUT",
        [NODE_MSG_VIOLATION] = "VIOLATION",
        [NODE_MSG_RESUMED] = "RESUMED",
        [NODE_MSG_GROW] = "GROW",
        [NODE_MSG_SEGMENT_ACK] = "SEGMENT_ACK",
        [NODE_MSG_LINK_LEFT] = "LINK_LEFT",
        [NODE_MSG_TURNED] = "TURNED",
        [NODE_MSG_WELCOME] = "WELCOME",
        [NODE_MSG_OUTPUT] = "OUTPUT",
        [NODE_MSG_INPUT] = "INPUT",
        [NODE_MSG_SETUP_END] = "SETUP_END",
        [NODE_MSG_PEER] = "PEER",
        [NODE_MSG_LINK_OUT] = "LINK_OUT",
        [NODE_MSG_LINK_IN] = "LINK_IN",
        [NODE_MSG_START] = "START",
        [NODE_MSG_STOP] = "STOP",
        [NODE_MSG_DETACH] = "DETACH",
        [NODE_MSG_LINK_CLOSED] = "LINK_CLOSED",
        [NODE_MSG_NODE_FAILED] = "NODE_FAILED",
        [NODE_MSG_NODE_RESTARTED] = "NODE_RESTARTED",
        [NODE_MSG_ABORT] = "ABORT",
        [NODE_MSG_RESUME] = "RESUME",
        [NODE_MSG_AWAIT] = "AWAIT",
        [NODE_MSG_SEGMENT] = "SEGMENT",
        [NODE_MSG_SEGMENT_READY] = "SEGMENT_READY",
        [NODE_MSG_GROW_REFUSED] = "GROW_REFUSED",
        [NODE_MSG_LINK_SEGMENT] = "LINK_SEGMENT",
};

static bool type_known(unsigned type)
{
        return type < sizeof(type_names) / sizeof(type_names[0]) && type_names[type];
}

int node_msg_encode(const NodeMsg *msg, void *buffer, size_t size)
{
        Codec c = {.wire = wire_init(buffer, size < NODE_MSG_MAX ? size : NODE_MSG_MAX), .writing = true};
        NodeMsg copy = *msg; /* the walk takes fields by address in both directions */

        if (!type_known(msg->type))
                return -EINVAL;
        wire_put_u8(&c.wire, (uint8_t)msg->type);
        walk_body(&c, &copy);
        if (c.too_long || c.wire.bad)
                return -EMSGSIZE;
        return c.out_of_range ? -EINVAL : (int)c.wire.at;
}

int node_msg_decode(NodeMsg *msg, void *packet, size_t size)
{
        Codec c = {.wire = wire_init(packet, size)};
        NodeMsg m = {};
        uint8_t type;

        if (size > NODE_MSG_MAX)
                return -EPROTO;
        type = wire_get_u8(&c.wire);
        if (!type_known(type))
                return -EPROTO;
        m.type = (NodeMsgType)type;
        walk_body(&c, &m);
        if (c.out_of_range || wire_done(&c.wire))
                return -EPROTO;
        *msg = m;
        return 0;
}

int node_msg_n_fds(const NodeMsg *msg)
{
        switch (msg->type) {
        case NODE_MSG_WELCOME:
        case NODE_MSG_OUTPUT:
        case NODE_MSG_LINK_IN:
                return 2;
        case NODE_MSG_PEER:
                return msg->peer.doorbells ? 4 : 2;
        case NODE_MSG_LINK_OUT:
        case NODE_MSG_SEGMENT:
        case NODE_MSG_LINK_SEGMENT:
                return 1;
        case NODE_MSG_INPUT:
                return msg->input.timer_ns ? 0 : 1;
        default:
                return type_known(msg->type) ? 0 : -1;
        }
}

int node_msg_from_node(NodeMsgType type)
{
        return type >= NODE_MSG_HELLO && type <= NODE_MSG_TURNED;
}

const char *node_msg_name(NodeMsgType type)
{
        return type_known(type) ? type_names[type] : "?";
}
