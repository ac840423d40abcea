/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node socket: what supervisor and node library say to each other.
 *
 * Transport: one SOCK_SEQPACKET unix socket pair per incarnation, made by the supervisor; the node inherits its end and finds
 * the number in the environment variable TIDEGATE_NODE_FD. A node of a daemon also finds TIDEGATE_NODE_SOCKET, a path where it
 * connects by name if that pair hangs up; a dynamic node has nothing but such a path. One packet is one message of at most
 * NODE_MSG_MAX bytes. File descriptors travel from the supervisor to the node only (SCM_RIGHTS, at most NODE_MSG_MAX_FDS, in
 * the order of the message's comment). The supervisor never gives its receive call room for descriptors.
 *
 * The start of an incarnation:
 *
 *   node                         supervisor
 *   HELLO                  ──►
 *                          ◄──   WELCOME (control page, own bell)
 *                          ◄──   OUTPUT, one per output (ring, pool: mapped and touched for writing)
 *                          ◄──   INPUT, one per input (cursor: mapped and touched for writing; none for a timer)
 *                          ◄──   SETUP_END
 *   MAPPED                 ──►   and sealed FUTURE_WRITE | SEAL; the supervisor sees that it was, and that ring and pool were touched
 *                          ◄──   PEER, once per pair of nodes that share a link (the peer's bell, our end of the pair's socket, doorbells)
 *                          ◄──   LINK_OUT to the producer (the consumer's cursor)
 *   LINK_OUT_ACK           ──►   producer has mapped the cursor and scans its claims
 *                          ◄──   LINK_IN to the consumer (ring, pool), after both ends' PEER
 *   LINK_IN_ACK            ──►   consumer is ACTIVE
 *                          ◄──   START: every node got this far; tg_node_open() returns
 *
 * A link is known by (link, generation): the generation grows with every new attachment, and messages about an older one
 * are ignored, not errors. The same holds for (peer, generation).
 *
 * The death of a consumer. The producer may hear of it before the supervisor does, by the hang-up of their socket, and then does
 * not know whether another incarnation will follow. Under backpressure that makes the difference between a place that is to
 * be kept and a wait without end, so LINK_OUT says whether one may (`restartable`), and it is the supervisor who decides:
 *
 *   producer                     supervisor
 *   hang-up: drops the claims, keeps the dead one's last position and goes on gating there; `send` waits
 *                          ◄──   DETACH, restarting: dead, and another one will come: the same, if there was no hang-up
 *   DETACH_ACK             ──►
 *                          ◄──   LINK_OUT, higher generation: the heir. The old position gates until its cursor is active
 *                        or
 *                          ◄──   DETACH: nobody comes. The link is forgotten, `send` goes on
 *
 * A producer that begins anew while such a consumer is not there is told so before its START, by AWAIT: it keeps a place at its
 * first message.
 *
 * The verdict always comes: with the end of the node's cgroup at first, and again when a restart that was announced is given up.
 * A producer without a supervisor, and without a successor NODE_MSG_VERDICT_NS after its socket hung up, decides for itself that
 * nobody comes. A link that is not restartable is forgotten with the hang-up. What the heir finds gone all the same, it counts
 * as consumer_dead.
 *
 * The growth of a pool. OUTPUT brings its first segment, number 0; what a burst needs beyond is asked for:
 *
 *   producer                     supervisor
 *   GROW (bytes of a chunk) ──►  a new segment within the output's bound, or GROW_REFUSED
 *                          ◄──   SEGMENT (to be mapped and touched for writing)
 *   SEGMENT_ACK            ──►   and sealed; the supervisor sees that it was, and touched
 *                                LINK_SEGMENT to each consumer of the output: in its socket before the next step
 *                          ◄──   SEGMENT_READY: from now on messages may lie in it
 *
 * So a descriptor that names a segment which the consumer has not heard of, while its socket is empty, breaks the protocol. A consumer
 * that is attached later hears of grown segments right before its LINK_IN, under the generation of that. A GROW that comes while
 * another one of that output is under way is ignored; more than NODE_MSG_MAX_GROWS of an output are a breach. Of a message that it refuses
 * for good without having asked for so much a producer says GROW once as well, so that the supervisor can tell why.
 *
 * Supervisors die, and a successor takes over the same socket. It may repeat whatever it has no record of an answer to:
 *
 *   WELCOME .. SETUP_END   a node that has not said MAPPED starts over; one that has keeps what it mapped, takes the control page
 *                          (which may be a new one) and says MAPPED again. Another dataflow, node or generation is -EPROTO
 *   PEER                   the same (peer, generation) is ignored, unless the socket that the node has was hung up: then the
 *                          new one takes its place
 *   LINK_OUT, LINK_IN,     answered again; a LINK_OUT may say something else of `restartable`, which then holds
 *   DETACH
 *   START, STOP,           change nothing; a STOP with an earlier deadline moves the deadline
 *   LINK_CLOSED
 *   SEGMENT                answered again by who has mapped it, and mapped anew by who has not used it
 *   SEGMENT_READY,         change nothing
 *   LINK_SEGMENT
 *   NODE_FAILED,           told to the program once per incarnation, if the message names the incarnation
 *   NODE_RESTARTED
 *
 * or it asks:
 *
 *                          ◄──   RESUME
 *   HELLO                  ──►   who the node is, as far as it was told
 *   MAPPED                 ──►   if it is
 *   LINK_OUT_ACK           ──►   one for each consumer that it has; none for one whose place is all that it has
 *   LINK_IN_ACK            ──►   one for each input that is attached and not closed
 *   CLOSE_OUTPUT           ──►   one for each output that was closed
 *   SEGMENT_ACK            ──►   one for each segment that is mapped beyond the first, and whether it is used
 *   RESUMED                ──►   that was all; and whether START came
 *
 * and a GROW again behind it, if one has not been answered. Of the segments that its guard has lost a successor knows what the
 * producer says. It never gives the number of one to another, for consumers may have mapped it; so numbers may be left out, and what a
 * producer has mapped below the number that READY names, and was not told to use, it never uses.
 *
 * The answer is what stands between RESUMED with the epoch of the question and the last HELLO before it; all that is in the
 * socket ahead of that was said to a predecessor, another RESUMED too. A link that both its ends name in their answers is up,
 * and so is the pair's socket, with its doorbells, below it. Of a consumer that has ended for good the producer is told by DETACH, again perhaps:
 * it may keep its place. For any other link the successor cannot know whether both ends have their socket,
 * or whether one end's hang-up was taken for a death already: it attaches the link anew, under a higher generation, and
 * introduces the pair anew too unless another link of it is up. So never two sockets between two nodes that use the first.
 *
 * A node whose socket hung up and that knows a path connects there and says HELLO with what it knows. What it had to say in
 * between is not kept: the supervisor asks it by RESUME. ABORT in place of an answer turns it away for good.
 *
 * Decoding is strict: unknown types, trailing bytes, strings over their limit and numbers outside their range are -EPROTO, and
 * cost the sender its connection. No I/O here.
 */
#ifndef TG_PROTOCOL_NODE_MSG_H
#define TG_PROTOCOL_NODE_MSG_H

#include <stddef.h>
#include <stdint.h>

#define NODE_MSG_VERSION    11
#define NODE_MSG_MAX        8192
#define NODE_MSG_MAX_FDS    4
#define NODE_MSG_ID_MAX     128 /* bytes of a node, input or output id */
#define NODE_MSG_NAME_MAX   256
#define NODE_MSG_TEXT_MAX   4096
#define NODE_MSG_MAX_PORTS  256
#define NODE_MSG_QUEUE_MAX  65535
#define NODE_MSG_MAX_SLOTS  65536u
#define NODE_MSG_REGION_MAX (UINT64_C(1) << 30) /* bytes of one shared region */
#define NODE_MSG_MAX_SEGMENTS 16u /* of one pool */
#define NODE_MSG_MAX_GROWS  256u /* of one output in one incarnation */
#define NODE_MSG_FD_ENV     "TIDEGATE_NODE_FD"
#define NODE_MSG_SOCKET_ENV "TIDEGATE_NODE_SOCKET"

typedef enum NodeMsgType {
        /* node to supervisor */
        NODE_MSG_HELLO = 1,
        NODE_MSG_MAPPED = 2,
        NODE_MSG_LINK_OUT_ACK = 3,
        NODE_MSG_LINK_IN_ACK = 4,
        NODE_MSG_DETACH_ACK = 5,
        NODE_MSG_CLOSE_OUTPUT = 6,
        NODE_MSG_VIOLATION = 7,
        NODE_MSG_RESUMED = 8,
        NODE_MSG_GROW = 9,
        NODE_MSG_SEGMENT_ACK = 10,
        NODE_MSG_LINK_LEFT = 11,
        NODE_MSG_TURNED = 12, /* no body. It is rung for nothing, cannot tell by whom, and hears no doorbells for a while, only sockets */
        /* supervisor to node */
        NODE_MSG_WELCOME = 32,
        NODE_MSG_OUTPUT = 33,
        NODE_MSG_INPUT = 34,
        NODE_MSG_SETUP_END = 35,
        NODE_MSG_PEER = 36,
        NODE_MSG_LINK_OUT = 37,
        NODE_MSG_LINK_IN = 38,
        NODE_MSG_START = 39,
        NODE_MSG_STOP = 40,
        NODE_MSG_DETACH = 41,
        NODE_MSG_LINK_CLOSED = 42,
        NODE_MSG_NODE_FAILED = 43,
        NODE_MSG_NODE_RESTARTED = 44,
        NODE_MSG_ABORT = 45,
        NODE_MSG_RESUME = 46,
        NODE_MSG_AWAIT = 47,
        NODE_MSG_SEGMENT = 48,
        NODE_MSG_SEGMENT_READY = 49,
        NODE_MSG_GROW_REFUSED = 50,
        NODE_MSG_LINK_SEGMENT = 51,
} NodeMsgType;

typedef enum NodeQueuePolicy {
        NODE_QUEUE_DROP_OLDEST = 1,
        NODE_QUEUE_BACKPRESSURE = 2,
} NodeQueuePolicy;

typedef enum NodeWaitMode { /* how a node waits for messages, and for room */
        NODE_WAIT_ADAPTIVE = 0, /* looks again for as long as a sleep costs, if that promises something */
        NODE_WAIT_BLOCK = 1,    /* sleeps at once */
        NODE_WAIT_SPIN = 2,     /* never sleeps */
} NodeWaitMode;

typedef enum NodeStopCause {
        NODE_STOP_MANUAL = 1,
        NODE_STOP_ALL_INPUTS_CLOSED = 2, /* made by the node library itself, never sent */
} NodeStopCause;

#define NODE_START_AT_HEAD UINT64_MAX
#define NODE_MSG_VERDICT_NS UINT64_C(5000000000) /* how long a producer whose socket hung up waits for a successor's verdict */

/* Strings are borrowed: from the caller when encoding, from the packet's buffer when decoding. */
typedef struct NodeMsg {
        NodeMsgType type;
        union {
                struct { /* HELLO. Below version 2 it ended after the library's name; it decodes, so that it can be refused */
                        uint16_t version; /* NODE_MSG_VERSION */
                        const char *library; /* "tidegate 0.1.0" */
                        /* As WELCOME said, once it came. Before that: zero and empty on an inherited socket; node, and perhaps
                         * dataflow, of a process that asks to be that dynamic node. Never believed without a look at the
                         * peer's credentials. */
                        uint8_t uuid[16];
                        const char *dataflow; /* its name; of one that asks also the uuid as text, or "" */
                        const char *node;     /* id */
                        uint64_t generation;
                } hello;
                struct { /* LINK_OUT_ACK, LINK_IN_ACK, DETACH_ACK: the one it answers */
                        uint32_t link, generation;
                } ack;
                struct { /* CLOSE_OUTPUT: nothing more will be published there; head is final */
                        uint32_t output;
                } close_output;
                struct { /* VIOLATION: the library proved that the peer on this link broke the protocol, and dropped the link */
                        uint32_t link, generation;
                        const char *text;
                } violation;
                struct { /* LINK_LEFT: the library dropped the link for want of something of its own; the peer did nothing wrong */
                        uint32_t link, generation;
                        const char *text; /* of what */
                } link_left;
                struct { /* RESUME; RESUMED: everything that RESUME asked for was said */
                        uint64_t epoch;  /* of the supervisor that asks; the answer's is that of its question */
                        uint8_t running; /* RESUMED alone: START came */
                } resume;
                struct { /* GROW: a message wants a chunk of so many bytes, and there is none */
                        uint32_t output;
                        uint64_t chunk_size;
                } grow;
                struct { /* SEGMENT; fds: pool segment (write). SEGMENT_ACK: it is mapped; used: SEGMENT_READY came. SEGMENT_READY */
                        uint32_t output;
                        uint32_t number; /* from 1; 0 came with OUTPUT */
                        uint64_t size;   /* SEGMENT, SEGMENT_ACK: bytes of the region */
                        uint8_t used;    /* SEGMENT_ACK alone */
                } segment;
                struct { /* GROW_REFUSED: the pool is as large as it may be, for chunks of that size and larger ones */
                        uint32_t output;
                        uint64_t chunk_size;
                } grow_refused;
                struct { /* LINK_SEGMENT, to the consumer; fds: pool segment (read) */
                        uint32_t link, generation;
                        uint32_t number;
                        uint64_t size;
                } link_segment;
                struct { /* WELCOME; fds: control page (read), bell (write) */
                        uint8_t uuid[16];
                        const char *dataflow; /* name */
                        const char *node;     /* id */
                        uint64_t generation;  /* of this incarnation, from 1 */
                        uint32_t restart_count;
                        uint32_t n_inputs, n_outputs;
                        uint64_t control_size, bell_size; /* bytes of the two regions */
                        uint64_t start_deadline_ns; /* CLOCK_MONOTONIC: START or ABORT comes by then; 0: no bound is known */
                        NodeWaitMode wait;
                } welcome;
                struct { /* OUTPUT; fds: ring (write), pool (write) */
                        uint32_t index;
                        const char *id;
                        uint32_t n_slots;              /* power of two */
                        uint64_t ring_size, pool_size; /* bytes of the two regions */
                } output;
                struct { /* INPUT; fds: cursor (write), none when timer_ns is not 0 */
                        uint32_t index;
                        const char *id;
                        const char *source; /* "node/output", for messages to people */
                        uint64_t timer_ns;  /* interval of a timer (then link and cursor_size are 0); 0 for a link */
                        uint32_t queue_size;
                        NodeQueuePolicy policy;
                        uint64_t timeout_ns; /* input_timeout, 0 for none */
                        uint32_t link;       /* the link this input belongs to; 0 for a timer */
                        uint64_t cursor_size;
                } input;
                struct { /* PEER; fds: the peer's bell (read), our end of the pair's socket (stream), whose hang-up tells that the peer is
                          * gone; with doorbells the one that we hear and the one that we ring (base/doorbell.h), else a byte through the socket rings */
                        uint32_t peer, generation;
                        const char *node;
                        uint64_t bell_size;
                        uint8_t doorbells;
                } peer;
                struct { /* LINK_OUT; fds: the consumer's cursor (read) */
                        uint32_t link, generation;
                        uint32_t output; /* index */
                        uint32_t peer;   /* who consumes; 0 is this node itself (a node may feed itself) */
                        uint32_t queue_size;
                        NodeQueuePolicy policy;
                        uint64_t cursor_size;
                        uint8_t restartable; /* another incarnation may follow its death: its place is kept until DETACH */
                } link_out;
                struct { /* AWAIT, to the producer: the consumer of this backpressure link will be back. Its place is at the present
                          * head; LINK_OUT of a higher generation or DETACH follow. Not answered */
                        uint32_t link, generation;
                        uint32_t output; /* index */
                        uint32_t queue_size;
                } await;
                struct { /* LINK_IN; fds: ring (read), pool (read) */
                        uint32_t link, generation;
                        uint32_t input; /* index */
                        uint32_t peer;  /* who produces */
                        uint32_t n_slots;
                        uint64_t ring_size, pool_size;
                        uint64_t start_at; /* message to begin with, clamped by the reader; NODE_START_AT_HEAD */
                } link_in;
                struct { /* STOP; the control page says the same, and was written before */
                        NodeStopCause cause;
                        uint64_t deadline_ns;
                } stop;
                struct { /* DETACH, to the producer: this consumer is dead or will not read any more; answer DETACH_ACK. Forget
                          * it, unless `restarting`: then a LINK_OUT of a higher generation will follow, and its place is kept */
                        uint32_t link, generation;
                        uint8_t restarting;
                } detach;
                struct { /* LINK_CLOSED, to the consumer: read to the final head, then the input is closed, unless `restarting`:
                          * then a LINK_IN with a higher generation will follow and the input stays open */
                        uint32_t link, generation;
                        uint8_t restarting;
                } link_closed;
                struct { /* NODE_FAILED, NODE_RESTARTED */
                        const char *node;
                        const char *text; /* the reason; "" for NODE_RESTARTED */
                        uint64_t generation; /* of the incarnation that failed or began: a repeat is told by it. 0: not known */
                } node_event;
                struct { /* ABORT: the start was given up, or a node that came by name is not wanted */
                        const char *text;
                } abort;
        };
} NodeMsg;

/**
 * node_msg_encode() - write one message into @buffer
 *
 * Return: the number of bytes; -EMSGSIZE when it does not fit or a string is over its limit; -EINVAL for what the
 * other end would refuse: an unknown type, a number outside its range, an empty id.
 */
int node_msg_encode(const NodeMsg *msg, void *buffer, size_t size);

/**
 * node_msg_decode() - read one packet
 * @msg:    set on success; strings point into @packet
 *
 * Return: 0, or -EPROTO.
 */
int node_msg_decode(NodeMsg *msg, void *packet, size_t size);

/* node_msg_n_fds() - how many descriptors a message carries; -1 for an unknown type. INPUT: 0 for a timer, else 1; PEER: 4 with doorbells, else 2. */
int node_msg_n_fds(const NodeMsg *msg);

/* node_msg_from_node() - true for what a node may send. */
int node_msg_from_node(NodeMsgType type);

const char *node_msg_name(NodeMsgType type); /* "HELLO"; "?" when unknown */

#endif
