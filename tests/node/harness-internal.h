/* SPDX-License-Identifier: Apache-2.0 */
/* What the harness's own files share; see harness.h. */
#ifndef TG_TESTS_NODE_HARNESS_INTERNAL_H
#define TG_TESTS_NODE_HARNESS_INTERNAL_H

#include "shm/pool.h"
#include "tests/node/harness.h"

#define MAX_KNOCKS 16
#define DATAFLOW   "test"

typedef struct FlowOutput {
        char id[32];
        uint32_t n_slots;
        PoolClass class;
        int ring_fd, pool_fd;
        uint64_t pool_size;
        int grown_fd[NODE_MSG_MAX_SEGMENTS];
        uint64_t grown_size[NODE_MSG_MAX_SEGMENTS], asked;
        unsigned n_grown;
        bool closed;
} FlowOutput;

typedef struct FlowInput {
        char id[32];
        uint64_t timer_ns;
        int link; /* -1: a timer */
} FlowInput;

typedef struct FlowNode {
        Flow *flow;
        char id[32];
        FlowBody body;
        void *arg;
        const char *const *argv;
        int stdin_fd, stdout_fd;
        FlowOutput outputs[FLOW_MAX_PORTS];
        FlowInput inputs[FLOW_MAX_PORTS];
        int n_outputs, n_inputs;

        uint32_t generation; /* of the incarnation, from 1 */
        pid_t pid;
        int pidfd, fd, control_fd, bell_fd;
        Region control;
        uint32_t peers[FLOW_MAX_NODES]; /* generation of each other node that it got PEER for */
        bool mapped, started, exited, will_restart;
        NodeWaitMode wait;
        bool dynamic;  /* connects by name from the beginning */
        bool resuming; /* it was sent RESUME and has not said RESUMED */
        int status;
} FlowNode;

typedef enum LinkState { LINK_IDLE, LINK_TOLD_PRODUCER, LINK_TOLD_CONSUMER, LINK_UP, LINK_DOWN } LinkState;

typedef struct FlowLink {
        int from, output, to, input;
        FlowLinkSpec spec;
        uint32_t generation;
        uint32_t out_generation, in_generation; /* of the incarnations it was made for */
        int cursor_fd;
        Region cursor; /* read-only, once sealed */
        Region spoil;
        LinkState state;
        uint64_t start_at;
        bool again; /* to be told anew under the same generation */
        uint32_t out_held, in_held; /* generations that the ends named to a successor */
} FlowLink;

struct Flow {
        FlowNode nodes[FLOW_MAX_NODES];
        FlowLink links[FLOW_MAX_LINKS];
        int n_nodes, n_links, n_fds_before, note_fd;
        bool barrier_open, hold_start, hold_verdicts, hold_in;
        bool no_doorbells; /* they ring by the pair's socket */
        int violated;
        char violation[200];
        unsigned n_violations, n_links_left, n_turned, n_detach_acks, n_out_acks, n_named, n_grows, n_segments_named;
        FlowGrowth growth;
        bool dead, asking;
        unsigned n_left; /* messages until it dies; 0: it does not */
        uint32_t epoch;  /* of the supervisor */
        uint32_t pairs[FLOW_MAX_NODES][FLOW_MAX_NODES]; /* how often the two were introduced anew; [lower][higher] */
        char socket_dir[32], socket_path[64];
        int listen_fd, knocks[MAX_KNOCKS];
        const char *turn_away;
        unsigned n_knocks, n_joined;
        _Atomic uint64_t *shared;
};

/* harness-spawn.c. flow_input_link(): NULL: a timer. */
void flow_fd_replace(int *fd, int by);
FlowLink *flow_input_link(Flow *flow, const FlowNode *node, int input);

/* harness-setup.c. flow_send_fds(): the descriptors stay the caller's; a dead supervisor sends nothing. */
void flow_send_fds(FlowNode *node, const NodeMsg *msg, const int *fds, int n_fds);
void flow_welcome(Flow *flow, FlowNode *node);
void flow_see_mapped(Flow *flow, FlowNode *node); /* what it has mapped */
void flow_await_consumers(Flow *flow, int node);
void flow_send_link_segment(Flow *flow, int l, unsigned number);
void flow_send_link_in(Flow *flow, int l);
void flow_wire(Flow *flow);
void flow_start_ready(Flow *flow);

/* harness-hear.c */
void flow_close_link(Flow *flow, FlowLink *link, bool restarting);
void flow_say_what_ended(Flow *flow, const FlowNode *node);
void flow_read_node(Flow *flow, FlowNode *node);
void flow_on_exit_of(Flow *flow, FlowNode *node);

/* harness-successor.c. flow_conclude(): once everybody has answered. */
void flow_conclude(Flow *flow);
void flow_on_resumed(Flow *flow, FlowNode *node);
void flow_forget_answers(Flow *flow, int node);
void flow_on_ack_to_successor(FlowNode *node, FlowLink *link, const NodeMsg *m);

/* harness-name.c */
void flow_on_knock(Flow *flow);
void flow_on_stranger(Flow *flow, int i);

#endif
