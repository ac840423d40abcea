/* SPDX-License-Identifier: Apache-2.0 */
/* What a node gets before it runs, and its process. */
#include "tests/node/harness-internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

#define NODE_FD 3 /* in the child */

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

/* Whatever has libcriterion in its stack is passed over (tests/lsan.supp), and a node's process is forked below it: stacks end before that. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
        return "malloc_context_size=4";
}

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

void flow_fd_replace(int *fd, int by)
{
        (void)fd_close(*fd);
        *fd = by;
}

FlowLink *flow_input_link(Flow *flow, const FlowNode *node, int input)
{
        return node->inputs[input].link < 0 ? NULL : &flow->links[node->inputs[input].link];
}

void flow_lose_page(Flow *flow, int n)
{
        FlowNode *node = &flow->nodes[n];
        int fd = -1;

        cr_assert_eq(control_create(&fd), 0);
        flow_fd_replace(&node->control_fd, fd);
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
        flow_fd_replace(&node->bell_fd, fd);
        for (int i = 0; i < node->n_outputs; i++) {
                FlowOutput *o = &node->outputs[i];

                cr_assert_eq(ring_create(o->n_slots, &fd), 0);
                flow_fd_replace(&o->ring_fd, fd);
                cr_assert_eq(pool_create(&o->class, 1, &fd), 0);
                flow_fd_replace(&o->pool_fd, fd);
                o->pool_size = pool_size(&o->class, 1);
                o->closed = false;
                for (unsigned k = 1; k <= o->n_grown; k++)
                        flow_fd_replace(&o->grown_fd[k], -1);
                o->n_grown = 0;
        }
        for (int i = 0; i < node->n_inputs; i++) {
                FlowLink *link = flow_input_link(flow, node, i);

                if (!link)
                        continue;
                cr_assert_eq(cursor_create(&fd), 0);
                flow_fd_replace(&link->cursor_fd, fd);
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
        flow_fd_replace(&node->fd, pair[0]);
        node->generation++;
        node->mapped = node->started = node->exited = node->will_restart = node->resuming = false;
        memset(node->peers, 0, sizeof(node->peers));
        fflush(NULL);
        node->pid = fork();
        cr_assert_geq(node->pid, 0);
        if (node->pid == 0)
                child(node, pair[1]);
        (void)fd_close(pair[1]);
        flow_fd_replace(&node->pidfd, (int)syscall(SYS_pidfd_open, node->pid, 0));
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
