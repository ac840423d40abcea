/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the guard is gone. The supervisor has a copy of everything that matters, so it becomes the guard itself: same pid, same children, same
 * descriptors, another program. What is what travels in a sealed memfd (guard-state.h). And when both are gone, a later
 * supervisor finds the keepers by the names of their sockets.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/growth.h"
#include "supervisor/guard-state.h"
#include "supervisor/priority.h"
#include "supervisor/supervisor.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* Grows; a failure is remembered and shows at the end. */
typedef struct Buffer {
        char *data;
        size_t size, room;
        bool failed;
} Buffer;

static void add(Buffer *b, const void *data, size_t size)
{
        if (b->room - b->size < size) {
                size_t room = MAX(2 * b->room, b->size + size + 4096);
                char *grown = b->failed ? NULL : realloc(b->data, room);

                if (!grown) {
                        b->failed = true;
                        return;
                }
                b->data = grown;
                b->room = room;
        }
        memcpy(b->data + b->size, data, size);
        b->size += size;
}

static void keep(int fd)
{
        if (fd >= 0)
                (void)fcntl(fd, F_SETFD, 0); /* a bad number shows when it is used */
}

static void add_item(Buffer *b, const Node *node, GuardItemKind kind, size_t index, int fd)
{
        struct guard_state_item item = {.slot = node->dataflow->slot,
                .node = node->index,
                .generation = node->generation,
                .item = {.kind = kind, .index = (uint16_t)index},
                .fd = fd};

        if (fd < 0)
                return;
        keep(fd);
        add(b, &item, sizeof(item));
}

static void add_node(Buffer *items, Buffer *children, const Node *node)
{
        struct guard_state_child child = {.slot = node->dataflow->slot,
                .node = node->index,
                .generation = node->generation,
                .pid = node->pid,
                .pidfd = node->pidfd};

        add_item(items, node, GUARD_ITEM_SOCKET, 0, node->sock);
        add_item(items, node, GUARD_ITEM_CONTROL, 0, node->control_fd);
        add_item(items, node, GUARD_ITEM_BELL, 0, node->bell_fd);
        for (size_t i = 0; i < node->plan->n_outputs; i++) {
                add_item(items, node, GUARD_ITEM_RING, i, node->outputs[i].ring_fd);
                add_item(items, node, GUARD_ITEM_POOL, i, node->outputs[i].pool_fd);
                for (uint32_t k = 1; k < NODE_MSG_MAX_SEGMENTS; k++)
                        add_item(items, node, GUARD_ITEM_POOL, growth_item_index((uint32_t)i, k), growth_fd(&node->outputs[i], k));
        }
        for (size_t i = 0; i < node->plan->n_inputs; i++)
                add_item(items, node, GUARD_ITEM_CURSOR, i, node->cursor_fds[i]);
        add_item(items, node, GUARD_ITEM_STDOUT, 0, node->out_fds[0]);
        add_item(items, node, GUARD_ITEM_STDERR, 0, node->out_fds[1]);
        if (node->pidfd < 0 || node->exited)
                return;
        keep(node->pidfd);
        add(children, &child, sizeof(child));
}

static void add_escrow(Buffer *escrows, const Node *node)
{
        NodeLadder ladder = node->ordered;
        struct guard_state_escrow escrow = {.slot = node->dataflow->slot,
                .node = node->index,
                .generation = node->generation,
                .restart = node->order_pending ? node->order_restart : node->restart_wanted};

        if (node->order_pending)
                (void)node_ladder_tighten(&ladder, &node->order_ladder);
        if (!node->escrow_placed || node->resolved || ladder.kill == NSEC_NEVER)
                return;
        escrow.at_ns = nsec_add(ladder.kill, DATAFLOW_STOP_SLACK);
        escrow.until_ns = nsec_add(ladder.verdict, DATAFLOW_STOP_SLACK);
        (void)snprintf(escrow.name, sizeof(escrow.name), "%.200s.%llu", node->plan->id, (unsigned long long)node->generation);
        add(escrows, &escrow, sizeof(escrow));
}

static void add_dataflow(Buffer *slots, Buffer *items, Buffer *children, Buffer *escrows, const Dataflow *dataflow)
{
        struct guard_state_slot slot = {.slot = dataflow->slot,
                .keeper_fd = dataflow->keeper_fd,
                .keeper_pidfd = dataflow->keeper_pidfd,
                .keeper_pid = dataflow->keeper_pid,
                .at_ns = dataflow->stop_ordered ? dataflow_escrow_at(dataflow) : NSEC_NEVER,
                .until_ns = dataflow->stop_ordered ? dataflow_escrow_until(dataflow) : 0};

        (void)snprintf(slot.cgroup, sizeof(slot.cgroup), "%.4000s/%s", dataflow->supervisor->cgroup, dataflow->uuid_text);
        keep(dataflow->keeper_fd);
        keep(dataflow->keeper_pidfd);
        add(slots, &slot, sizeof(slot));
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                add_node(items, children, &dataflow->nodes[i]);
                add_escrow(escrows, &dataflow->nodes[i]);
        }
}

static void runtime_path(const Supervisor *supervisor, char *ret, size_t size)
{
        char link[64];
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", supervisor->options.runtime_fd);
        n = readlink(link, ret, size - 1);
        ret[MAX(n, (ssize_t)0)] = '\0';
}

int heir_state(Supervisor *supervisor)
{
        const SupervisorOptions *o = &supervisor->options;
        struct guard_state_header header = {.magic = GUARD_STATE_MAGIC,
                .version = GUARD_STATE_VERSION,
                .epoch = supervisor->epoch,
                .nofile_soft = o->nofile.rlim_cur,
                .nofile_hard = o->nofile.rlim_max,
                .instance_fd = o->lock_fd,
                .runtime_fd = o->runtime_fd,
                .control_fd = o->listen_fd,
                .node_fd = o->node_listen_fd,
                .lock_fd = -1,
                .stop_ordered = supervisor->ending};
        Buffer slots = {}, items = {}, children = {}, escrows = {};
        Dataflow *it, *next;
        int fd, r = 0;

        runtime_path(supervisor, header.runtime_path, sizeof(header.runtime_path));
        list_for_each(it, next, &supervisor->dataflows, link)
                if (it->state != DATAFLOW_ENDED || it->watched)
                        add_dataflow(&slots, &items, &children, &escrows, it);
        header.n_slots = (uint32_t)(slots.size / sizeof(struct guard_state_slot));
        header.n_items = (uint32_t)(items.size / sizeof(struct guard_state_item));
        header.n_children = (uint32_t)(children.size / sizeof(struct guard_state_child));
        header.n_escrows = (uint32_t)(escrows.size / sizeof(struct guard_state_escrow));
        header.size = sizeof(header) + slots.size + items.size + children.size + escrows.size;
        fd = memfd_create("tidegate-state", MFD_ALLOW_SEALING);
        if (fd < 0)
                r = -errno;
        else if (slots.failed || items.failed || children.failed || escrows.failed)
                r = -ENOMEM;
        else if (write(fd, &header, sizeof(header)) != sizeof(header) || write(fd, slots.data, slots.size) != (ssize_t)slots.size ||
                 write(fd, items.data, items.size) != (ssize_t)items.size || write(fd, children.data, children.size) != (ssize_t)children.size ||
                 write(fd, escrows.data, escrows.size) != (ssize_t)escrows.size ||
                 fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                r = -ENOSPC;
        free(slots.data);
        free(items.data);
        free(children.data);
        free(escrows.data);
        if (r) {
                (void)fd_close(fd);
                return error_origin(r);
        }
        return fd;
}

void heir_become_guard(Supervisor *supervisor)
{
        const SupervisorOptions *o = &supervisor->options;
        char state[32], grace[48], budget[48], watchdog[48], config[PATH_MAX + 16], said[16], role[] = "--role=guard", name[] = "tidegated";
        char *argv[] = {name, role, state, grace, budget, watchdog, said, o->config ? config : NULL, NULL};
        int fd;

        log_line("the guard is gone: this process becomes the guard");
        fd = heir_state(supervisor);
        if (fd < 0) {
                log_line("it cannot: %s; everything is stopped instead", strerror(-fd));
                return;
        }
        keep(o->lock_fd);
        keep(o->runtime_fd);
        keep(o->listen_fd);
        keep(o->node_listen_fd);
        (void)snprintf(said, sizeof(said), "--said=%.7s", o->said ? o->said : "");
        (void)snprintf(config, sizeof(config), "--config=%.4095s", o->config ? o->config : "");
        (void)snprintf(state, sizeof(state), "--state-fd=%d", fd);
        (void)snprintf(grace, sizeof(grace), "--grace-ns=%llu", (unsigned long long)o->grace_ns);
        (void)snprintf(budget, sizeof(budget), "--budget-ns=%llu", (unsigned long long)o->budget_ns);
        (void)snprintf(watchdog, sizeof(watchdog), "--watchdog=%lluns", (unsigned long long)o->watchdog_ns);
        priority_leave_supervisor();
        execve("/proc/self/exe", argv, environ);
        log_line("it cannot: %s; everything is stopped instead", strerror(errno));
        (void)fd_close(fd);
}

/* ---- by name */

/* Of the very process that listens there, not of whoever has its number by now. */
static int peer_pidfd(int fd, pid_t *ret_pid)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);
        int pidfd = -1;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
                return -EPERM;
        *ret_pid = peer.pid;
        size = sizeof(pidfd);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
                return pidfd;
        pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
        return pidfd < 0 ? -errno : pidfd;
}

bool heir_find_keeper(Dataflow *dataflow)
{
        const Supervisor *supervisor = dataflow->supervisor;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), pidfd = -1;
        char cgroup[PATH_MAX + 64];
        pid_t pid = 0;

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/keeper/%u.sock", supervisor->options.runtime_fd, dataflow->slot);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return false;
        pidfd = peer_pidfd(fd, &pid);
        if (pidfd < 0)
                return false;
        (void)snprintf(cgroup, sizeof(cgroup), "%s/%s", supervisor->cgroup, dataflow->uuid_text);
        guard_found_order(dataflow->supervisor, dataflow->slot, pid, (const int[]){fd, pidfd}, cgroup);
        return true;
}
