/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small supervisor for tests: wires any graph between processes over socket pairs and speaks protocol/node_msg.h as
 * the real one does. It decides nothing by itself beyond the order of the handshake; a test kills, stops, restarts.
 *
 * Single-threaded: it works inside flow_turn(), which the FLOW_UNTIL() macro repeats until a condition holds or a
 * deadline passes. Processes of a flow tell the test things through shared memory (flow_shared()) and wake it with
 * flow_note(), so no test sleeps.
 *
 * Any broken expectation about the protocol (an ack nobody waits for, a packet that does not decode) is fatal to the
 * test. flow_close() kills what is left and asserts that no descriptor was leaked.
 */
#ifndef TG_TESTS_NODE_HARNESS_H
#define TG_TESTS_NODE_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/clock.h"
#include "protocol/node_msg.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/cursor.h"
#include "shm/ring.h"
#include "tidegate/tidegate.h"

#define FLOW_MAX_NODES 12
#define FLOW_MAX_PORTS 6
#define FLOW_MAX_LINKS 24

typedef struct Flow Flow;

/* What a node does between tg_node_open() and tg_node_close(); its return value is the process's exit status. */
typedef int (*FlowBody)(tg_node *node, void *arg);

typedef struct FlowLinkSpec {
        uint32_t queue_size; /* 0: 10 */
        bool backpressure;
        bool restartable; /* LINK_OUT says so */
        uint64_t timeout_ns; /* input_timeout */
} FlowLinkSpec;

Flow *flow_new(void);
void flow_close(Flow *flow);

/* Describing the graph, before flow_start(). Each returns a number to name it by. */
int flow_node(Flow *flow, const char *id, FlowBody body, void *arg);
void flow_wait_mode(Flow *flow, int node, NodeWaitMode mode); /* WELCOME says so; else adaptive */
int flow_command(Flow *flow, const char *id, const char *const *argv, int stdin_fd, int stdout_fd);
int flow_output(Flow *flow, int node, const char *id, uint32_t max_queue, uint64_t message_bytes, uint32_t n_chunks);
int flow_link(Flow *flow, int from, int output, int to, const char *input, FlowLinkSpec spec);
void flow_timer(Flow *flow, int node, const char *input, uint64_t interval_ns);

/* flow_start() - spawn all and go through the handshake; every node runs when it returns. 10 s at most. */
void flow_start(Flow *flow);
void flow_spawn(Flow *flow);       /* without waiting */
bool flow_running(const Flow *flow); /* every node got START */
void flow_hold_start(Flow *flow, bool hold); /* keep back START */

/* One turn: what sockets and exits have to say, at most until @deadline. False once that has passed. */
bool flow_turn(Flow *flow, nsec_t deadline);

/* What nodes have said until now is heard: for what is counted here, after news that came by shared memory. */
static inline void flow_hear(Flow *flow)
{
        (void)flow_turn(flow, 0);
}

/* What held once was there, also if it is over by now, as "blocked" is for each look of who waits for room. */
#define FLOW_UNTIL(flow, seconds, condition)                                                                           \
        ({                                                                                                             \
                nsec_t flow_deadline_ = nsec_add(clock_now(), (nsec_t)((seconds) * 1e9));                              \
                bool flow_met_, flow_more_ = true;                                                                     \
                                                                                                                       \
                while (!(flow_met_ = (bool)(condition)) && flow_more_)                                                 \
                        flow_more_ = flow_turn((flow), flow_deadline_);                                                \
                flow_met_;                                                                                             \
        })

pid_t flow_pid(const Flow *flow, int node);
bool flow_exited(const Flow *flow, int node, int *ret_status); /* waitpid's status */
void flow_stop(Flow *flow, int node, uint64_t span_ns); /* page and packet */
void flow_stop_page(Flow *flow, int node, uint64_t span_ns); /* the page alone, and nobody is woken */
void flow_kill(Flow *flow, int node); /* SIGKILL; LINK_CLOSED and DETACH follow once the exit was seen */
void flow_will_restart(Flow *flow, int node, bool will); /* LINK_CLOSED says so */
void flow_restart(Flow *flow, int node); /* after its exit was seen */
void flow_hold_verdicts(Flow *flow, bool hold); /* a death is not followed by DETACH */
void flow_without_doorbells(Flow *flow); /* as where the kernel has none: before flow_start() */
bool flow_has_doorbells(const Flow *flow); /* once it runs: whether the kernel has */
void flow_detach(Flow *flow, int link, bool restarting); /* ... but by this one */
void flow_hold_in(Flow *flow, bool hold); /* keep back LINK_IN. Let go: those that are due are sent */
void flow_set_restartable(Flow *flow, int link); /* LINK_OUT again, which says so now; the page does not tell of it */
void flow_stop_cursor(Flow *flow, int link); /* what a consumer does that closes its node */
bool flow_knows(Flow *flow, int node); /* RESUME: true once it has answered; flow_n_named() */
unsigned flow_n_named(const Flow *flow); /* consumers that the answer named */
void flow_hang_up(Flow *flow, int node); /* closes the supervisor's end of one node's socket */
void flow_send_raw(Flow *flow, int node, const void *bytes, size_t size);
void flow_send(Flow *flow, int node, const NodeMsg *msg);
void flow_repeat(Flow *flow); /* LINK_OUT and LINK_IN again with the same generations */

/*
 * The death of the supervisor. After @n more messages it is dead: it says nothing, hears nothing, and what it still had in its
 * hands is closed. The nodes' sockets stay, as they do in the guard's store. A successor knows what a journal would tell it (the
 * graph, the generations, exits, whether the barrier was opened) and nothing of what was answered.
 */
typedef enum FlowSuccessor {
        FLOW_REPEATS,            /* every step from the beginning, with the same generations */
        FLOW_REPEATS_WITH_LOSS,  /* what the nodes said and nobody acted upon was read by the dead one, and is lost */
        FLOW_ASKS,               /* RESUME; repeats what is missing, attaches anew what is in doubt */
        FLOW_ASKS_WITH_LOSS,
        _FLOW_SUCCESSOR_MAX,
} FlowSuccessor;
void flow_die_after(Flow *flow, unsigned n);
bool flow_is_dead(const Flow *flow);
void flow_succeed(Flow *flow, FlowSuccessor how);
void flow_lose_page(Flow *flow, int node); /* a new control page, which the next WELCOME brings */

/* Nodes that come by name. flow_by_name(): before flow_spawn(); the nodes know a path, where nobody listens yet. */
void flow_by_name(Flow *flow);
const char *flow_socket_path(const Flow *flow);
void flow_listen(Flow *flow, bool listen);
void flow_turn_away(Flow *flow, const char *text); /* whoever comes gets ABORT, or with "" just a hang-up */
unsigned flow_n_knocks(const Flow *flow); /* connections that came */
unsigned flow_n_joined(const Flow *flow); /* of those, that became a node's socket; one that had been set up answered RESUME */
int flow_dynamic(Flow *flow, const char *id, FlowBody body, void *arg); /* has no socket: tg_node_open_as() */
int flow_dynamic_command(Flow *flow, const char *id, const char *const *argv, int stdin_fd, int stdout_fd);

/* Growth of pools. By default each GROW is refused. */
typedef struct FlowGrowth {
        unsigned n_segments; /* so many more of each output, then it is refused */
        uint32_t n_chunks;   /* in each */
        bool silent;         /* GROW is not answered, until flow_grow_now() */
        bool secret;         /* consumers are not told */
} FlowGrowth;
void flow_growth(Flow *flow, FlowGrowth growth);
void flow_grow_now(Flow *flow, int node, int output); /* answers what was asked for */
unsigned flow_n_grows(const Flow *flow); /* GROW messages that came */
unsigned flow_n_segments_named(const Flow *flow); /* SEGMENT_ACK in answers to RESUME that said "used" */

unsigned flow_n_violations(const Flow *flow);
const char *flow_violation(const Flow *flow, int *ret_link); /* what the last one was, and of which link; "": there was none */
unsigned flow_n_links_left(const Flow *flow);
unsigned flow_n_turned(const Flow *flow); /* nodes that hear sockets alone, and do not know by whose doing */
unsigned flow_n_detach_acks(const Flow *flow);
unsigned flow_n_out_acks(const Flow *flow);
bool flow_output_closed(const Flow *flow, int node, int output); /* CLOSE_OUTPUT came */
CursorStatus flow_cursor(const Flow *flow, int link);
bool flow_cursor_active(const Flow *flow, int link); /* false also before it is mapped */
BellCounters flow_bell(const Flow *flow, int node); /* it lives, or has ended */
RingStatus flow_ring(const Flow *flow, int node, int output);
void flow_spoil_cursor(Flow *flow, int link); /* what a hostile consumer would store: a tail beyond the head */

/* Shared between the test and all processes, zeroed; made by flow_new(). */
#define FLOW_SHARED_WORDS 512
_Atomic uint64_t *flow_shared(const Flow *flow);
void flow_note(const Flow *flow); /* from a node's process: look again */

/* In a node's process: an assertion whose failure ends it with status 99 and a line on stderr. */
#define NODE_CHECK(condition)                                                                                          \
        do {                                                                                                           \
                if (!(condition)) {                                                                                    \
                        fprintf(stderr, "%s:%d: %s does not hold (errno %d)\n", __FILE__, __LINE__, #condition,        \
                                errno);                                                                                \
                        _exit(99);                                                                                     \
                }                                                                                                      \
        } while (0)

#endif
