/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/cleanup.h"

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
                        flow_read_node(flow, &flow->nodes[i]);
                if (pfds[2 * i + 1].revents && flow->nodes[i].pidfd >= 0 && !flow->dead)
                        flow_on_exit_of(flow, &flow->nodes[i]);
        }
        for (int i = 0; i < MAX_KNOCKS; i++)
                if (pfds[first_knock + i].revents && flow->knocks[i] >= 0)
                        flow_on_stranger(flow, i);
        if (pfds[first_knock - 1].revents)
                flow_on_knock(flow);
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

unsigned flow_n_turned(const Flow *flow)
{
        return flow->n_turned;
}

unsigned flow_n_links_left(const Flow *flow)
{
        return flow->n_links_left;
}

unsigned flow_n_violations(const Flow *flow)
{
        return flow->n_violations;
}

const char *flow_violation(const Flow *flow, int *ret_link)
{
        *ret_link = flow->violated;
        return flow->violation;
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
