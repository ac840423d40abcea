/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/node/harness.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "shm/pool.h"

#define NODE_FD    3 /* in the child */
#define MAX_KNOCKS 16
#define DATAFLOW   "test"

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

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
        unsigned n_violations, n_detach_acks, n_out_acks, n_named, n_grows, n_segments_named;
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

static int count_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        int n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

Flow *flow_new(void)
{
        Flow *flow = calloc(1, sizeof(*flow));

        flow->n_fds_before = count_fds();
        flow->note_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        flow->listen_fd = -1;
        for (int i = 0; i < MAX_KNOCKS; i++)
                flow->knocks[i] = -1;
        flow->shared = mmap(NULL, FLOW_SHARED_WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(flow->note_fd >= 0 && flow->shared != MAP_FAILED);
        return flow;
}

_Atomic uint64_t *flow_shared(const Flow *flow)
{
        return flow->shared;
}

void flow_note(const Flow *flow)
{
        uint64_t one = 1;

        (void)!write(flow->note_fd, &one, 8);
}

/* -------- describing -------- */

void flow_wait_mode(Flow *flow, int node, NodeWaitMode mode)
{
        flow->nodes[node].wait = mode;
}

int flow_node(Flow *flow, const char *id, FlowBody body, void *arg)
{
        FlowNode *node = &flow->nodes[flow->n_nodes];

        cr_assert_lt(flow->n_nodes, FLOW_MAX_NODES);
        *node = (FlowNode){.flow = flow, .body = body, .arg = arg, .pidfd = -1, .fd = -1, .control_fd = -1, .bell_fd = -1,
                .stdin_fd = -1, .stdout_fd = -1};
        snprintf(node->id, sizeof(node->id), "%s", id);
        return flow->n_nodes++;
}

int flow_command(Flow *flow, const char *id, const char *const *argv, int stdin_fd, int stdout_fd)
{
        int n = flow_node(flow, id, NULL, NULL);

        flow->nodes[n].argv = argv;
        flow->nodes[n].stdin_fd = stdin_fd;
        flow->nodes[n].stdout_fd = stdout_fd;
        return n;
}

int flow_dynamic(Flow *flow, const char *id, FlowBody body, void *arg)
{
        int n = flow_node(flow, id, body, arg);

        flow->nodes[n].dynamic = true;
        return n;
}

int flow_dynamic_command(Flow *flow, const char *id, const char *const *argv, int stdin_fd, int stdout_fd)
{
        int n = flow_command(flow, id, argv, stdin_fd, stdout_fd);

        flow->nodes[n].dynamic = true;
        return n;
}

int flow_output(Flow *flow, int node, const char *id, uint32_t max_queue, uint64_t message_bytes, uint32_t n_chunks)
{
        FlowNode *n = &flow->nodes[node];
        FlowOutput *o = &n->outputs[n->n_outputs];

        cr_assert_lt(n->n_outputs, FLOW_MAX_PORTS);
        *o = (FlowOutput){.n_slots = ring_slots_for(max_queue), .class = pool_class_for(message_bytes, n_chunks),
                .ring_fd = -1, .pool_fd = -1};
        snprintf(o->id, sizeof(o->id), "%s", id);
        return n->n_outputs++;
}

static int add_input(Flow *flow, int node, const char *id)
{
        FlowNode *n = &flow->nodes[node];

        cr_assert_lt(n->n_inputs, FLOW_MAX_PORTS);
        n->inputs[n->n_inputs] = (FlowInput){.link = -1};
        snprintf(n->inputs[n->n_inputs].id, sizeof(n->inputs[0].id), "%s", id);
        return n->n_inputs++;
}

int flow_link(Flow *flow, int from, int output, int to, const char *input, FlowLinkSpec spec)
{
        FlowLink *link = &flow->links[flow->n_links];

        cr_assert_lt(flow->n_links, FLOW_MAX_LINKS);
        *link = (FlowLink){.from = from, .output = output, .to = to, .input = add_input(flow, to, input), .spec = spec,
                .cursor_fd = -1, .start_at = NODE_START_AT_HEAD};
        if (!link->spec.queue_size)
                link->spec.queue_size = 10;
        flow->nodes[to].inputs[link->input].link = flow->n_links;
        return flow->n_links++;
}

void flow_timer(Flow *flow, int node, const char *input, uint64_t interval_ns)
{
        int i = add_input(flow, node, input);

        flow->nodes[node].inputs[i].timer_ns = interval_ns;
}

/* -------- sending -------- */

static void send_fds(FlowNode *node, const NodeMsg *msg, const int *fds, int n_fds)
{
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control = {};
        uint8_t packet[NODE_MSG_MAX];
        int n = node_msg_encode(msg, packet, sizeof(packet));
        struct iovec iov = {.iov_base = packet, .iov_len = (size_t)n};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

        cr_assert_gt(n, 0, "%s was not encoded: %d", node_msg_name(msg->type), n);
        cr_assert_eq(n_fds, node_msg_n_fds(msg));
        if (node->fd < 0 || node->flow->dead)
                return; /* hung up on purpose */
        if (n_fds) {
                mh.msg_control = &control;
                mh.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
                CMSG_FIRSTHDR(&mh)->cmsg_level = SOL_SOCKET;
                CMSG_FIRSTHDR(&mh)->cmsg_type = SCM_RIGHTS;
                CMSG_FIRSTHDR(&mh)->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&mh)), fds, (size_t)n_fds * sizeof(int));
        }
        if (sendmsg(node->fd, &mh, MSG_NOSIGNAL) < 0)
                cr_assert(errno == EPIPE || errno == ECONNRESET, "send %s: %m", node_msg_name(msg->type));
        if (node->control.map)
                control_bump(&node->control);
        if (node->flow->n_left > 0 && --node->flow->n_left == 0)
                node->flow->dead = true;
}

void flow_send(Flow *flow, int node, const NodeMsg *msg)
{
        send_fds(&flow->nodes[node], msg, NULL, 0);
}

void flow_send_raw(Flow *flow, int node, const void *bytes, size_t size)
{
        cr_assert_eq(send(flow->nodes[node].fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
        control_bump(&flow->nodes[node].control);
}

/* -------- spawning -------- */

static void child(FlowNode *node, int fd)
{
        Flow *flow = node->flow;
        int note_fd, r;
        tg_node *n;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
        if (node->stdin_fd >= 0)
                (void)dup2(node->stdin_fd, STDIN_FILENO);
        if (node->stdout_fd >= 0)
                (void)dup2(node->stdout_fd, STDOUT_FILENO);
        /* Nothing of the supervisor or of other nodes: a copied doorbell would hide a death. */
        note_fd = fcntl(flow->note_fd, F_DUPFD, 100);
        if (fd >= 0)
                (void)dup2(fcntl(fd, F_DUPFD, 100), NODE_FD);
        (void)dup2(note_fd, NODE_FD + 1);
        (void)fcntl(NODE_FD + 1, F_SETFD, FD_CLOEXEC);
        (void)syscall(SYS_close_range, NODE_FD + 2, ~0u, 0);
        flow->note_fd = NODE_FD + 1;
        (void)(fd >= 0 ? setenv(NODE_MSG_FD_ENV, "3", 1) : unsetenv(NODE_MSG_FD_ENV));
        if (*flow->socket_path)
                (void)setenv(NODE_MSG_SOCKET_ENV, flow->socket_path, 1);
        (void)signal(SIGPIPE, SIG_DFL);
        if (node->argv) {
                (void)execv(node->argv[0], (char *const *)(uintptr_t)node->argv);
                _exit(127);
        }
        r = node->dynamic ? tg_node_open_as(&n, node->id, DATAFLOW) : tg_node_open(&n);
        if (r) {
                fprintf(stderr, "%s: tg_node_open: %d (%s)\n", node->id, r, tg_strerror(r));
                _exit(98);
        }
        r = node->body(n, node->arg);
        (void)tg_node_close(n);
        if (r == 0 && __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check())
                _exit(97); /* leaves by _exit(), so the sanitizer's own check at exit does not run */
        _exit(r);
}

static void fd_replace(int *fd, int by)
{
        (void)fd_close(*fd);
        *fd = by;
}

/* NULL: a timer. */
static FlowLink *node_link(Flow *flow, const FlowNode *node, int input)
{
        return node->inputs[input].link < 0 ? NULL : &flow->links[node->inputs[input].link];
}

void flow_lose_page(Flow *flow, int n)
{
        FlowNode *node = &flow->nodes[n];
        int fd = -1;

        cr_assert_eq(control_create(&fd), 0);
        fd_replace(&node->control_fd, fd);
        region_unmap(&node->control);
        cr_assert_eq(region_map_write(&node->control, fd, REGION_CONTROL, control_size()), 0);
        control_init(&node->control);
        cr_assert_eq(region_seal(fd, REGION_CONTROL), 0);
}

/* Fresh regions for everything the node writes. */
static void make_regions(Flow *flow, FlowNode *node)
{
        int fd = -1;

        flow_lose_page(flow, (int)(node - flow->nodes));
        cr_assert_eq(bell_create(&fd), 0);
        fd_replace(&node->bell_fd, fd);
        for (int i = 0; i < node->n_outputs; i++) {
                FlowOutput *o = &node->outputs[i];

                cr_assert_eq(ring_create(o->n_slots, &fd), 0);
                fd_replace(&o->ring_fd, fd);
                cr_assert_eq(pool_create(&o->class, 1, &fd), 0);
                fd_replace(&o->pool_fd, fd);
                o->pool_size = pool_size(&o->class, 1);
                o->closed = false;
                for (unsigned k = 1; k <= o->n_grown; k++)
                        fd_replace(&o->grown_fd[k], -1);
                o->n_grown = 0;
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowLink *link = node_link(flow, node, i);

                if (!link)
                        continue;
                cr_assert_eq(cursor_create(&fd), 0);
                fd_replace(&link->cursor_fd, fd);
                region_unmap(&link->cursor);
                region_unmap(&link->spoil);
                cr_assert_eq(region_map_write(&link->spoil, fd, REGION_CURSOR, cursor_size()), 0);
        }
}

static void spawn(Flow *flow, FlowNode *node)
{
        int pair[2] = {-1, -1};

        make_regions(flow, node);
        if (!node->dynamic)
                cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        fd_replace(&node->fd, pair[0]);
        node->generation++;
        node->mapped = node->started = node->exited = node->will_restart = node->resuming = false;
        memset(node->peers, 0, sizeof(node->peers));
        fflush(NULL);
        node->pid = fork();
        cr_assert_geq(node->pid, 0);
        if (node->pid == 0)
                child(node, pair[1]);
        (void)fd_close(pair[1]);
        fd_replace(&node->pidfd, (int)syscall(SYS_pidfd_open, node->pid, 0));
        cr_assert_geq(node->pidfd, 0);
}

void flow_spawn(Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++)
                spawn(flow, &flow->nodes[i]);
}

bool flow_running(const Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++)
                if (!flow->nodes[i].started)
                        return false;
        return true;
}

void flow_start(Flow *flow)
{
        flow_spawn(flow);
        cr_assert(FLOW_UNTIL(flow, 10, flow_running(flow)), "the flow did not start within 10 s");
}

void flow_restart(Flow *flow, int node)
{
        cr_assert(flow->nodes[node].exited);
        spawn(flow, &flow->nodes[node]);
}

/* -------- the handshake -------- */

static void welcome(Flow *flow, FlowNode *node)
{
        NodeMsg m = {.type = NODE_MSG_WELCOME, .welcome = {.uuid = {0xab}, .dataflow = DATAFLOW, .node = node->id,
                .generation = node->generation, .restart_count = node->generation - 1,
                .n_inputs = (uint32_t)node->n_inputs, .n_outputs = (uint32_t)node->n_outputs,
                .control_size = control_size(), .bell_size = bell_size(),
                .start_deadline_ns = clock_now() + 30 * NSEC_PER_SEC, .wait = node->wait}};

        send_fds(node, &m, (int[]){node->control_fd, node->bell_fd}, 2);
        for (int i = 0; i < node->n_outputs; i++) {
                FlowOutput *o = &node->outputs[i];

                m = (NodeMsg){.type = NODE_MSG_OUTPUT, .output = {.index = (uint32_t)i, .id = o->id, .n_slots = o->n_slots,
                        .ring_size = ring_size(o->n_slots), .pool_size = o->pool_size}};
                send_fds(node, &m, (int[]){o->ring_fd, o->pool_fd}, 2);
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowInput *in = &node->inputs[i];
                FlowLink *link = node_link(flow, node, i);

                m = (NodeMsg){.type = NODE_MSG_INPUT, .input = {.index = (uint32_t)i, .id = in->id, .source = "test",
                        .timer_ns = in->timer_ns, .queue_size = link ? link->spec.queue_size : 1,
                        .policy = link && link->spec.backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                        .timeout_ns = link ? link->spec.timeout_ns : 0, .link = link ? (uint32_t)in->link + 1 : 0,
                        .cursor_size = link ? cursor_size() : 0}};
                send_fds(node, &m, link ? &link->cursor_fd : NULL, link ? 1 : 0);
        }
        send_fds(node, &(NodeMsg){.type = NODE_MSG_SETUP_END}, NULL, 0);
}

static void seal_all(Flow *flow, FlowNode *node)
{
        cr_assert_eq(region_seal(node->bell_fd, REGION_BELL), 0);
        for (int i = 0; i < node->n_outputs; i++) {
                cr_assert_eq(region_seal(node->outputs[i].ring_fd, REGION_RING), 0);
                cr_assert_eq(region_seal(node->outputs[i].pool_fd, REGION_POOL), 0);
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowLink *link = node_link(flow, node, i);

                if (!link)
                        continue;
                cr_assert_eq(region_seal(link->cursor_fd, REGION_CURSOR), 0);
                if (!link->cursor.map)
                        cr_assert_eq(region_map_read(&link->cursor, link->cursor_fd, REGION_CURSOR, cursor_size()), 0);
        }
        node->mapped = true;
}

/* The doorbell of two nodes: each gets one end, nobody else keeps one. */
static void introduce(Flow *flow, int a, int b)
{
        FlowNode *na = &flow->nodes[a], *nb = &flow->nodes[b];
        int pair[2];

        if (a == b || (na->peers[b] == nb->generation && nb->peers[a] == na->generation))
                return;
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        for (int i = 0; i < 2; i++) {
                FlowNode *to = i ? nb : na, *other = i ? na : nb;
                NodeMsg m = {.type = NODE_MSG_PEER, .peer = {.peer = (uint32_t)(i ? a : b) + 1,
                        /* grows when either starts anew, or when a successor does not trust what is there */
                        .generation = (to->generation * 1000 + other->generation) * 1000 + flow->pairs[MIN(a, b)][MAX(a, b)],
                        .node = other->id, .bell_size = bell_size()}};

                send_fds(to, &m, (int[]){other->bell_fd, pair[i]}, 2);
        }
        na->peers[b] = nb->generation;
        nb->peers[a] = na->generation;
        (void)fd_close(pair[0]);
        (void)fd_close(pair[1]);
}

/* A producer that begins anew while a consumer is to come. */
static void await_consumers(Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *to = &flow->nodes[link->to];

                if (link->from != node || !link->spec.restartable || !to->exited || !to->will_restart)
                        continue;
                link->generation++;
                send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_AWAIT, .await = {.link = (uint32_t)l + 1,
                        .generation = link->generation, .output = (uint32_t)link->output,
                        .queue_size = link->spec.queue_size}}, NULL, 0);
        }
}

static void send_link_out(Flow *flow, int l)
{
        FlowLink *link = &flow->links[l];

        send_fds(&flow->nodes[link->from], &(NodeMsg){.type = NODE_MSG_LINK_OUT, .link_out = {.link = (uint32_t)l + 1,
                .generation = link->generation, .output = (uint32_t)link->output,
                .peer = link->from == link->to ? 0 : (uint32_t)link->to + 1, .queue_size = link->spec.queue_size,
                .policy = link->spec.backpressure ? NODE_QUEUE_BACKPRESSURE : NODE_QUEUE_DROP_OLDEST,
                .cursor_size = cursor_size(), .restartable = link->spec.restartable}}, &link->cursor_fd, 1);
}

static void send_link_segment(Flow *flow, int l, unsigned number)
{
        FlowLink *link = &flow->links[l];
        FlowOutput *o = &flow->nodes[link->from].outputs[link->output];

        send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_SEGMENT, .link_segment = {.link = (uint32_t)l + 1,
                .generation = link->generation, .number = number, .size = o->grown_size[number]}}, &o->grown_fd[number], 1);
}

static void send_link_in(Flow *flow, int l)
{
        FlowLink *link = &flow->links[l];
        FlowOutput *o = &flow->nodes[link->from].outputs[link->output];

        for (unsigned k = 1; k <= o->n_grown && !flow->growth.secret; k++)
                send_link_segment(flow, l, k);

        send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_IN, .link_in = {.link = (uint32_t)l + 1,
                .generation = link->generation, .input = (uint32_t)link->input,
                .peer = link->from == link->to ? 0 : (uint32_t)link->from + 1, .n_slots = o->n_slots,
                .ring_size = ring_size(o->n_slots), .pool_size = o->pool_size, .start_at = link->start_at}},
                (int[]){o->ring_fd, o->pool_fd}, 2);
}

/* Begins every link whose ends are both mapped and of which one is new. */
static void wire(Flow *flow)
{
        if (flow->asking)
                return; /* not before all have said what there is */
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *from = &flow->nodes[link->from], *to = &flow->nodes[link->to];

                if (!from->mapped || !to->mapped || from->exited || to->exited || from->resuming || to->resuming)
                        continue;
                if (link->out_generation == from->generation && link->in_generation == to->generation)
                        continue;
                if (link->out_generation != from->generation)
                        link->start_at = link->spec.restartable ? 0 : NODE_START_AT_HEAD;
                link->out_generation = from->generation;
                link->in_generation = to->generation;
                link->generation += !link->again;
                link->again = false;
                introduce(flow, link->from, link->to);
                send_link_out(flow, l);
                link->state = LINK_TOLD_PRODUCER;
        }
}

static bool all_up(const Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++)
                if ((node < 0 || flow->links[l].from == node || flow->links[l].to == node) &&
                    flow->links[l].state != LINK_UP && flow->links[l].state != LINK_DOWN)
                        return false;
        return true;
}

/* The first time all together, later each when its links are up. */
static void start_ready(Flow *flow)
{
        bool all = all_up(flow, -1);

        if (flow->hold_start)
                return;
        for (int i = 0; i < flow->n_nodes; i++)
                all &= flow->nodes[i].mapped;
        flow->barrier_open |= all;
        for (int i = 0; i < flow->n_nodes && flow->barrier_open; i++) {
                FlowNode *node = &flow->nodes[i];

                if (!node->mapped || node->started || node->exited || !all_up(flow, i))
                        continue;
                node->started = true;
                send_fds(node, &(NodeMsg){.type = NODE_MSG_START}, NULL, 0);
        }
}

void flow_hold_start(Flow *flow, bool hold)
{
        flow->hold_start = hold;
        start_ready(flow);
}

void flow_repeat(Flow *flow)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                send_link_out(flow, l);
                if (link->state == LINK_UP)
                        send_link_in(flow, l);
        }
}

void flow_hold_in(Flow *flow, bool hold)
{
        flow->hold_in = hold;
        for (int l = 0; l < flow->n_links && !hold; l++)
                if (flow->links[l].state == LINK_TOLD_CONSUMER)
                        send_link_in(flow, l);
}

void flow_set_restartable(Flow *flow, int link)
{
        FlowNode *from = &flow->nodes[flow->links[link].from];
        Region page = from->control;

        flow->links[link].spec.restartable = true;
        from->control = REGION_INIT;
        send_link_out(flow, link);
        from->control = page;
}

void flow_hold_verdicts(Flow *flow, bool hold)
{
        flow->hold_verdicts = hold;
}

void flow_detach(Flow *flow, int link, bool restarting)
{
        flow_send(flow, flow->links[link].from, &(NodeMsg){.type = NODE_MSG_DETACH, .detach = {.link = (uint32_t)link + 1,
                .generation = flow->links[link].generation, .restarting = restarting}});
}

bool flow_knows(Flow *flow, int node)
{
        FlowNode *n = &flow->nodes[node];

        n->resuming = true;
        flow->n_named = 0;
        flow_send(flow, node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}});
        return FLOW_UNTIL(flow, 10, !n->resuming);
}

static FlowLink *link_of(Flow *flow, uint32_t link)
{
        cr_assert(link >= 1 && link <= (uint32_t)flow->n_links);
        return &flow->links[link - 1];
}

static void close_link(Flow *flow, FlowLink *link, bool restarting)
{
        if (link->state == LINK_DOWN || flow->nodes[link->to].exited)
                return;
        if (!restarting)
                link->state = LINK_DOWN;
        send_fds(&flow->nodes[link->to], &(NodeMsg){.type = NODE_MSG_LINK_CLOSED, .link_closed = {
                .link = (uint32_t)(link - flow->links) + 1, .generation = link->generation,
                .restarting = restarting}}, NULL, 0);
}

static void say_what_ended(Flow *flow, const FlowNode *node)
{
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                if (&flow->nodes[link->to] != node || !flow->nodes[link->from].exited || link->generation == 0)
                        continue;
                link->state = LINK_UP;
                close_link(flow, link, flow->nodes[link->from].will_restart);
        }
}

/* Whatever of it was sent may have arrived on one side only. */
static void doubt_pair(Flow *flow, const FlowLink *of)
{
        int a = MIN(of->from, of->to), b = MAX(of->from, of->to);

        flow->pairs[a][b]++;
        flow->nodes[a].peers[b] = flow->nodes[b].peers[a] = 0;
}

static bool pair_is_up(const Flow *flow, const FlowLink *of)
{
        for (int l = 0; l < flow->n_links; l++) {
                const FlowLink *link = &flow->links[l];

                if (((link->from == of->from && link->to == of->to) || (link->from == of->to && link->to == of->from)) &&
                    link->generation > 0 && link->out_held == link->generation && link->in_held == link->generation)
                        return true;
        }
        return false;
}

/* Everybody has said what there is. */
static void conclude(Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++)
                if (flow->nodes[i].resuming && !flow->nodes[i].exited)
                        return;
        flow->asking = false;
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];
                FlowNode *from = &flow->nodes[link->from], *to = &flow->nodes[link->to];

                if (from->exited || to->exited)
                        continue;
                if (pair_is_up(flow, link)) {
                        from->peers[link->to] = to->generation;
                        to->peers[link->from] = from->generation;
                } else
                        doubt_pair(flow, link);
                if (link->generation == 0 || link->out_held != link->generation || link->in_held != link->generation)
                        continue;
                link->state = LINK_UP;
                link->out_generation = from->generation;
                link->in_generation = to->generation;
        }
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (!node->exited && !node->mapped)
                        welcome(flow, node);
                else if (!node->exited)
                        say_what_ended(flow, node);
        }
        wire(flow);
}

static void on_resumed(Flow *flow, FlowNode *node)
{
        cr_assert(node->resuming);
        node->resuming = false;
        if (flow->asking)
                conclude(flow);
        else { /* it came by name */
                flow->n_joined++;
                say_what_ended(flow, node);
        }
}

/* What was said to the dead one may not be so any more: the answer begins here. */
static void forget_answers(Flow *flow, int node)
{
        for (int l = 0; l < flow->n_links; l++) {
                if (flow->links[l].from == node)
                        flow->links[l].out_held = 0;
                if (flow->links[l].to == node)
                        flow->links[l].in_held = 0;
        }
}

static void on_ack_to_successor(FlowNode *node, FlowLink *link, const NodeMsg *m)
{
        cr_assert_leq(m->ack.generation, link->generation);
        if (m->type == NODE_MSG_LINK_OUT_ACK)
                link->out_held = m->ack.generation;
        else
                link->in_held = m->ack.generation;
}

void flow_growth(Flow *flow, FlowGrowth growth)
{
        flow->growth = growth;
}

void flow_grow_now(Flow *flow, int node, int output)
{
        FlowOutput *o = &flow->nodes[node].outputs[output];
        PoolClass class = {.chunk_size = (uint32_t)pool_roomy(o->asked), .n_chunks = flow->growth.n_chunks};
        unsigned number = o->n_grown + 1;

        if (o->n_grown >= flow->growth.n_segments) {
                send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_GROW_REFUSED, .grow_refused = {
                        .output = (uint32_t)output, .chunk_size = pool_roomy(o->asked)}}, NULL, 0);
                return;
        }
        o->n_grown = number;
        o->grown_size[number] = pool_size(&class, 1);
        cr_assert_eq(pool_create(&class, 1, &o->grown_fd[number]), 0);
        send_fds(&flow->nodes[node], &(NodeMsg){.type = NODE_MSG_SEGMENT, .segment = {
                .output = (uint32_t)output, .number = number, .size = o->grown_size[number]}}, &o->grown_fd[number], 1);
}

unsigned flow_n_grows(const Flow *flow)
{
        return flow->n_grows;
}

unsigned flow_n_segments_named(const Flow *flow)
{
        return flow->n_segments_named;
}

static void on_segment_ack(Flow *flow, FlowNode *node, const NodeMsg *m)
{
        FlowOutput *o = &node->outputs[m->segment.output];
        uint32_t number = m->segment.number;

        cr_assert_leq(number, o->n_grown);
        if (node->resuming) {
                flow->n_segments_named += m->segment.used;
                return;
        }
        cr_assert_eq(region_seal(o->grown_fd[number], REGION_POOL), 0);
        for (int l = 0; l < flow->n_links && !flow->growth.secret; l++)
                if (&flow->nodes[flow->links[l].from].outputs[flow->links[l].output] == o && flow->links[l].state == LINK_UP)
                        send_link_segment(flow, l, number);
        send_fds(node, &(NodeMsg){.type = NODE_MSG_SEGMENT_READY, .segment = {.output = m->segment.output, .number = number}}, NULL, 0);
}

static void on_message(Flow *flow, FlowNode *node, const NodeMsg *m)
{
        int index = (int)(node - flow->nodes);
        FlowLink *link;

        switch (m->type) {
        case NODE_MSG_HELLO:
                cr_assert_eq(m->hello.version, NODE_MSG_VERSION);
                cr_assert(m->hello.generation == 0 || m->hello.generation == node->generation);
                if (node->resuming)
                        forget_answers(flow, index);
                else
                        welcome(flow, node);
                break;
        case NODE_MSG_MAPPED:
                seal_all(flow, node);
                await_consumers(flow, index);
                wire(flow);
                break;
        case NODE_MSG_LINK_OUT_ACK:
                link = link_of(flow, m->ack.link);
                cr_assert_eq(link->from, index);
                flow->n_out_acks++;
                flow->n_named += node->resuming;
                if (node->resuming)
                        on_ack_to_successor(node, link, m);
                else if (m->ack.generation == link->generation && link->state == LINK_TOLD_PRODUCER) {
                        link->state = LINK_TOLD_CONSUMER;
                        if (!flow->hold_in)
                                send_link_in(flow, (int)(link - flow->links));
                }
                break;
        case NODE_MSG_LINK_IN_ACK:
                link = link_of(flow, m->ack.link);
                cr_assert_eq(link->to, index);
                if (node->resuming)
                        on_ack_to_successor(node, link, m);
                else if (m->ack.generation == link->generation && link->state == LINK_TOLD_CONSUMER)
                        link->state = LINK_UP;
                break;
        case NODE_MSG_DETACH_ACK:
                flow->n_detach_acks++;
                break;
        case NODE_MSG_CLOSE_OUTPUT:
                cr_assert_lt(m->close_output.output, (uint32_t)node->n_outputs);
                node->outputs[m->close_output.output].closed = true;
                for (int l = 0; l < flow->n_links; l++)
                        if (flow->links[l].from == index && flow->links[l].output == (int)m->close_output.output)
                                close_link(flow, &flow->links[l], false);
                break;
        case NODE_MSG_VIOLATION:
                flow->n_violations++;
                break;
        case NODE_MSG_GROW:
                cr_assert_lt(m->grow.output, (uint32_t)node->n_outputs);
                flow->n_grows++;
                node->outputs[m->grow.output].asked = m->grow.chunk_size;
                if (!flow->growth.silent)
                        flow_grow_now(flow, index, (int)m->grow.output);
                break;
        case NODE_MSG_SEGMENT_ACK:
                on_segment_ack(flow, node, m);
                break;
        case NODE_MSG_RESUMED:
                cr_assert(!m->resume.running || flow->barrier_open);
                if (m->resume.epoch == flow->epoch) /* else it is for a dead one */
                        on_resumed(flow, node);
                break;
        default:
                cr_assert_fail("%s from a node", node_msg_name(m->type));
        }
        start_ready(flow);
}

static void read_node(Flow *flow, FlowNode *node)
{
        uint8_t packet[NODE_MSG_MAX + 1];
        ssize_t n = 1;
        NodeMsg m;

        while (!flow->dead && (n = recv(node->fd, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
                cr_assert_eq(node_msg_decode(&m, packet, (size_t)n), 0, "%zd bytes from %s do not decode", n, node->id);
                cr_assert(node_msg_from_node(m.type));
                on_message(flow, node, &m);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != ECONNRESET))
                node->fd = fd_close(node->fd);
}

/* What the supervisor does when the node's cgroup is empty. */
static void on_exit_of(Flow *flow, FlowNode *node)
{
        int index = (int)(node - flow->nodes);

        if (node->fd >= 0)
                read_node(flow, node); /* what it said before */
        cr_assert_eq(waitpid(node->pid, &node->status, 0), node->pid);
        node->exited = true;
        node->mapped = false;
        node->pidfd = fd_close(node->pidfd);
        node->fd = fd_close(node->fd);
        if (flow->asking)
                conclude(flow);
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                if (link->from == index)
                        close_link(flow, link, node->will_restart);
                if (link->to == index && !flow->nodes[link->from].exited && link->cursor.map) {
                        CursorStatus status;

                        cursor_read(&link->cursor, &status);
                        if (!link->spec.backpressure)
                                link->start_at = NODE_START_AT_HEAD;
                        else if (status.attachment == link->generation) /* else it never began: as it was */
                                link->start_at = status.tail;
                        if (!flow->hold_verdicts)
                                flow_detach(flow, l, node->will_restart && link->spec.backpressure);
                }
        }
}

/* -------- who comes by name -------- */

static void on_knock(Flow *flow)
{
        int fd = accept4(flow->listen_fd, NULL, NULL, SOCK_CLOEXEC), i = 0;

        cr_assert_geq(fd, 0);
        flow->n_knocks++;
        if (flow->turn_away && !*flow->turn_away) {
                (void)fd_close(fd);
                return;
        }
        while (i < MAX_KNOCKS && flow->knocks[i] >= 0)
                i++;
        cr_assert_lt(i, MAX_KNOCKS);
        flow->knocks[i] = fd;
}

static FlowNode *who_is_it(Flow *flow, const NodeMsg *hello)
{
        for (int i = 0; i < flow->n_nodes; i++)
                if (strcmp(flow->nodes[i].id, hello->hello.node) == 0)
                        return &flow->nodes[i];
        cr_assert_fail("nobody of that name: %s", hello->hello.node);
        abort();
}

static void let_in(Flow *flow, int fd, const NodeMsg *hello)
{
        FlowNode *node = who_is_it(flow, hello);

        cr_assert_str_eq(hello->hello.dataflow, DATAFLOW);
        fd_replace(&node->fd, fd);
        if (flow->turn_away) {
                send_fds(node, &(NodeMsg){.type = NODE_MSG_ABORT, .abort = {.text = flow->turn_away}}, NULL, 0);
                return;
        }
        if (hello->hello.generation == 0) {
                cr_assert(node->dynamic);
                flow->n_joined++;
                welcome(flow, node);
                return;
        }
        cr_assert_eq(hello->hello.generation, node->generation);
        cr_assert_eq(hello->hello.uuid[0], 0xab);
        node->resuming = true;
        send_fds(node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}}, NULL, 0);
}

static void on_stranger(Flow *flow, int i)
{
        uint8_t packet[NODE_MSG_MAX + 1];
        ssize_t n = recv(flow->knocks[i], packet, sizeof(packet), MSG_DONTWAIT);
        NodeMsg m;

        if (n <= 0) {
                flow->knocks[i] = fd_close(flow->knocks[i]);
                return;
        }
        cr_assert(node_msg_decode(&m, packet, (size_t)n) == 0 && m.type == NODE_MSG_HELLO);
        let_in(flow, TAKE_FD(flow->knocks[i]), &m);
}

void flow_by_name(Flow *flow)
{
        (void)snprintf(flow->socket_dir, sizeof(flow->socket_dir), "/tmp/tidegate-flow-XXXXXX");
        cr_assert(mkdtemp(flow->socket_dir));
        (void)snprintf(flow->socket_path, sizeof(flow->socket_path), "%s/node.sock", flow->socket_dir);
}

const char *flow_socket_path(const Flow *flow)
{
        return flow->socket_path;
}

void flow_listen(Flow *flow, bool listens)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};

        flow->listen_fd = fd_close(flow->listen_fd);
        (void)unlink(flow->socket_path);
        if (!listens)
                return;
        memcpy(addr.sun_path, flow->socket_path, sizeof(flow->socket_path));
        flow->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        cr_assert_eq(bind(flow->listen_fd, (const struct sockaddr *)&addr, sizeof(addr)), 0, "%m");
        cr_assert_eq(listen(flow->listen_fd, MAX_KNOCKS), 0);
}

void flow_turn_away(Flow *flow, const char *text)
{
        flow->turn_away = text;
}

unsigned flow_n_knocks(const Flow *flow)
{
        return flow->n_knocks;
}

unsigned flow_n_joined(const Flow *flow)
{
        return flow->n_joined;
}

/* -------- the death of the supervisor -------- */

void flow_die_after(Flow *flow, unsigned n)
{
        flow->n_left = n;
}

bool flow_is_dead(const Flow *flow)
{
        return flow->dead;
}

static void forget(Flow *flow)
{
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                memset(node->peers, 0, sizeof(node->peers));
                if (!node->exited)
                        node->mapped = node->started = node->resuming = false;
        }
        for (int l = 0; l < flow->n_links; l++) {
                FlowLink *link = &flow->links[l];

                link->out_held = link->in_held = link->out_generation = link->in_generation = 0;
                link->state = flow->nodes[link->from].exited || flow->nodes[link->to].exited ? LINK_DOWN : LINK_IDLE;
        }
}

static void lose_what_was_said(FlowNode *node)
{
        uint8_t packet[NODE_MSG_MAX + 1];

        while (recv(node->fd, packet, sizeof(packet), MSG_DONTWAIT) > 0)
                ;
}

void flow_succeed(Flow *flow, FlowSuccessor how)
{
        flow->dead = false;
        flow->asking = how == FLOW_ASKS || how == FLOW_ASKS_WITH_LOSS;
        flow->epoch++;
        forget(flow);
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (node->exited)
                        continue;
                if (how == FLOW_REPEATS_WITH_LOSS || how == FLOW_ASKS_WITH_LOSS)
                        lose_what_was_said(node);
                node->resuming = flow->asking;
        }
        for (int l = 0; l < flow->n_links; l++)
                flow->links[l].again = !flow->asking && flow->links[l].generation > 0;
        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (node->exited)
                        continue;
                if (flow->asking)
                        send_fds(node, &(NodeMsg){.type = NODE_MSG_RESUME, .resume = {.epoch = flow->epoch}}, NULL, 0);
                else
                        welcome(flow, node);
        }
        for (int i = 0; i < flow->n_nodes && !flow->asking; i++)
                if (!flow->nodes[i].exited && flow->barrier_open)
                        say_what_ended(flow, &flow->nodes[i]);
}

/* -------- the loop -------- */

bool flow_turn(Flow *flow, nsec_t deadline)
{
        struct pollfd pfds[2 * FLOW_MAX_NODES + 2 + MAX_KNOCKS];
        int n = 0, first_knock;
        uint64_t count;

        for (int i = 0; i < flow->n_nodes; i++) {
                pfds[n++] = (struct pollfd){.fd = flow->dead ? -1 : flow->nodes[i].fd, .events = POLLIN};
                pfds[n++] = (struct pollfd){.fd = flow->dead ? -1 : flow->nodes[i].pidfd, .events = POLLIN};
        }
        pfds[n++] = (struct pollfd){.fd = flow->note_fd, .events = POLLIN};
        pfds[n++] = (struct pollfd){.fd = flow->listen_fd, .events = POLLIN};
        first_knock = n;
        for (int i = 0; i < MAX_KNOCKS; i++)
                pfds[n++] = (struct pollfd){.fd = flow->knocks[i], .events = POLLIN};
        /* Conditions on shared memory come without an event: look at them every few milliseconds too. */
        if (poll(pfds, (nfds_t)n, MIN(nsec_poll_ms(deadline, clock_now()), 5)) <= 0)
                return clock_now() < deadline;
        for (int i = 0; i < flow->n_nodes; i++) {
                if (pfds[2 * i].revents && flow->nodes[i].fd >= 0 && !flow->dead)
                        read_node(flow, &flow->nodes[i]);
                if (pfds[2 * i + 1].revents && flow->nodes[i].pidfd >= 0 && !flow->dead)
                        on_exit_of(flow, &flow->nodes[i]);
        }
        for (int i = 0; i < MAX_KNOCKS; i++)
                if (pfds[first_knock + i].revents && flow->knocks[i] >= 0)
                        on_stranger(flow, i);
        if (pfds[first_knock - 1].revents)
                on_knock(flow);
        (void)!read(flow->note_fd, &count, 8);
        return true;
}

/* -------- acting -------- */

pid_t flow_pid(const Flow *flow, int node)
{
        return flow->nodes[node].pid;
}

bool flow_exited(const Flow *flow, int node, int *ret_status)
{
        if (flow->nodes[node].exited && ret_status)
                *ret_status = flow->nodes[node].status;
        return flow->nodes[node].exited;
}

void flow_stop_page(Flow *flow, int node, uint64_t span_ns)
{
        control_stop(&flow->nodes[node].control, NODE_STOP_MANUAL, clock_now() + span_ns);
}

void flow_stop(Flow *flow, int node, uint64_t span_ns)
{
        flow_stop_page(flow, node, span_ns);
        flow_send(flow, node, &(NodeMsg){.type = NODE_MSG_STOP, .stop = {.cause = NODE_STOP_MANUAL,
                .deadline_ns = clock_now() + span_ns}});
}

void flow_kill(Flow *flow, int node)
{
        cr_assert_eq(kill(flow->nodes[node].pid, SIGKILL), 0);
}

void flow_will_restart(Flow *flow, int node, bool will)
{
        flow->nodes[node].will_restart = will;
}

void flow_hang_up(Flow *flow, int node)
{
        flow->nodes[node].fd = fd_close(flow->nodes[node].fd);
}

unsigned flow_n_violations(const Flow *flow)
{
        return flow->n_violations;
}

unsigned flow_n_detach_acks(const Flow *flow)
{
        return flow->n_detach_acks;
}

unsigned flow_n_out_acks(const Flow *flow)
{
        return flow->n_out_acks;
}

unsigned flow_n_named(const Flow *flow)
{
        return flow->n_named;
}

bool flow_output_closed(const Flow *flow, int node, int output)
{
        return flow->nodes[node].outputs[output].closed;
}

CursorStatus flow_cursor(const Flow *flow, int link)
{
        CursorStatus status;

        cursor_read(&flow->links[link].cursor, &status);
        return status;
}

bool flow_cursor_active(const Flow *flow, int link)
{
        return flow->links[link].cursor.map && flow_cursor(flow, link).active;
}

BellCounters flow_bell(const Flow *flow, int node)
{
        BellCounters counters;
        Region map = REGION_INIT;

        cr_assert_eq(region_map_read(&map, flow->nodes[node].bell_fd, REGION_BELL, bell_size()), 0);
        bell_read(&map, &counters);
        region_unmap(&map);
        return counters;
}

RingStatus flow_ring(const Flow *flow, int node, int output)
{
        const FlowOutput *o = &flow->nodes[node].outputs[output];
        Region map = REGION_INIT;
        RingStatus status;

        cr_assert_eq(region_map_read(&map, o->ring_fd, REGION_RING, ring_size(o->n_slots)), 0);
        ring_read_status(&map, &status);
        region_unmap(&map);
        return status;
}

void flow_stop_cursor(Flow *flow, int link)
{
        struct cursor_shared *cursor = flow->links[link].spoil.map;

        __atomic_store_n(&cursor->state, CURSOR_INACTIVE, __ATOMIC_SEQ_CST);
}

void flow_spoil_cursor(Flow *flow, int link)
{
        struct cursor_shared *cursor = flow->links[link].spoil.map;

        __atomic_store_n(&cursor->tail, UINT64_C(1) << 40, __ATOMIC_SEQ_CST);
}

void flow_close(Flow *flow)
{
        int n_fds = flow->n_fds_before;

        for (int i = 0; i < flow->n_nodes; i++) {
                FlowNode *node = &flow->nodes[i];

                if (node->pid > 0 && !node->exited) {
                        (void)kill(node->pid, SIGKILL);
                        (void)waitpid(node->pid, NULL, 0);
                }
                (void)fd_close(node->fd);
                (void)fd_close(node->pidfd);
                (void)fd_close(node->control_fd);
                (void)fd_close(node->bell_fd);
                region_unmap(&node->control);
                for (int o = 0; o < node->n_outputs; o++) {
                        (void)fd_close(node->outputs[o].ring_fd);
                        (void)fd_close(node->outputs[o].pool_fd);
                        for (unsigned k = 1; k <= node->outputs[o].n_grown; k++)
                                (void)fd_close(node->outputs[o].grown_fd[k]);
                }
        }
        for (int l = 0; l < flow->n_links; l++) {
                (void)fd_close(flow->links[l].cursor_fd);
                region_unmap(&flow->links[l].cursor);
                region_unmap(&flow->links[l].spoil);
        }
        (void)fd_close(flow->note_fd);
        for (int i = 0; i < MAX_KNOCKS; i++)
                (void)fd_close(flow->knocks[i]);
        if (*flow->socket_dir) {
                flow_listen(flow, false);
                (void)rmdir(flow->socket_dir);
        }
        (void)munmap(flow->shared, FLOW_SHARED_WORDS * 8);
        free(flow);
        cr_assert_eq(count_fds(), n_fds, "descriptors were leaked");
}
