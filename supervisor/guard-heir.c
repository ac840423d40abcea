/* SPDX-License-Identifier: Apache-2.0 */
/* What a guard that died has left: keepers that are not our children, their cgroups, and what its store held. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/guard-state.h"

/* ---- keepers */

/* Somebody else reaps it: how it ended is not ours to know. */
static int on_keeper_pidfd(Source *source, uint32_t revents)
{
        GuardSlot *slot = container_of(source, GuardSlot, keeper_exit_source);

        (void)revents;
        guard_on_keeper_exit(slot->guard, slot, &(siginfo_t){});
        guard_advance(slot->guard); /* no SIGCHLD follows */
        return 0;
}

static void open_cgroup(GuardSlot *slot, const char *path)
{
        if (path[0] != '/' || slot->dir_fd >= 0)
                return;
        slot->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (slot->dir_fd < 0)
                return; /* its keeper says where it is, once it talks to us */
        slot->kill_fd = cgroup_open_kill(slot->dir_fd);
        slot->events_fd = cgroup_open_events(slot->dir_fd);
}

int guard_adopt_keeper(Guard *guard, GuardSlot *slot, pid_t pid, int take_socket, int take_pidfd, const char *cgroup)
{
        _cleanup_fd_ int socket_fd = take_socket, pidfd = take_pidfd;
        int pair[2], r;

        if (slot->number == GUARD_SLOT_INSTANCE || slot->keeper.pid > 0)
                return error_origin(-EBUSY);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        r = guard_keeper_watch(slot, pair[0]);
        if (!r) {
                r = source_add(&guard->loop, &slot->keeper_exit_source, pidfd, EPOLLIN, SOURCE_EXITS, on_keeper_pidfd);
                if (r) {
                        source_remove(&slot->keeper_source);
                        slot->keeper_fd = fd_close(slot->keeper_fd);
                }
        }
        if (r) {
                (void)fd_close(pair[1]);
                return error_fold(r);
        }
        slot->keeper_guard_fd = pair[1];
        slot->keeper = (GuardProcess){.pid = pid, .pidfd = TAKE_FD(pidfd)};
        slot->keeper_peer_fd = TAKE_FD(socket_fd);
        slot->owes_gone = false;
        slot->inherited = true;
        open_cgroup(slot, cgroup);
        return 0;
}

/* ---- all of it at once */

static int own(int fd)
{
        return fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
}

static void restore_slot(Guard *guard, const struct guard_state_slot *state)
{
        GuardSlot *slot = &guard->slots[state->slot];
        int socket_fd = own(state->keeper_fd), pidfd = own(state->keeper_pidfd);

        open_cgroup(slot, state->cgroup);
        if (state->keeper_pid > 0 && socket_fd >= 0 && pidfd >= 0)
                (void)guard_adopt_keeper(guard, slot, state->keeper_pid, socket_fd, pidfd, state->cgroup); /* not adopted: dead, to the supervisor */
        if (state->at_ns != NSEC_NEVER)
                (void)guard_escrow(guard, slot->number, state->at_ns, state->until_ns, state->term_ns);
        slot->escrow.enforced_at = state->enforced_at_ns;
}

static void restore_escrow(Guard *guard, const struct guard_state_escrow *state)
{
        struct guard_record record = {.slot = state->slot,
                .node = state->node,
                .generation = state->generation,
                .at_ns = state->at_ns,
                .until_ns = state->until_ns,
                .status = (int32_t)state->restart};
        GuardEscrow *escrow;

        (void)snprintf(record.text, sizeof(record.text), "%s", state->name);
        (void)guard_escrow_node(guard, &record); /* there is room: it comes from a table of that size */
        escrow = guard_escrow_find(guard, state->slot, state->node, state->generation);
        if (escrow)
                escrow->enforced_at = state->enforced_at_ns;
}

static void restore_item(Guard *guard, const struct guard_state_item *state)
{
        struct guard_record record = {.slot = state->slot, .node = state->node, .generation = state->generation, .count = 1};
        int fd = own(state->fd);

        record.items[0] = state->item;
        if (fd >= 0)
                guard_store(guard, &record, &fd, 1);
        (void)fd_close(fd);
}

static void restore_child(Guard *guard, const struct guard_state_child *state)
{
        struct guard_record record = {.slot = state->slot, .node = state->node, .generation = state->generation, .pid = state->pid};
        int fd = own(state->pidfd);

        if (fd >= 0)
                guard_add_child(guard, &record, &fd);
        if (state->ours) /* it has been reaped, and its end not been written down */
                guard_set_child_end(guard, &record, state->code, state->status);
        (void)fd_close(fd);
}

static int restore_header(Guard *guard, const struct guard_state_header *h)
{
        ssize_t n;
        char link[64];
        int r;

        guard->epoch = h->epoch;
        guard->stop_ordered = h->stop_ordered;
        guard->nofile = (struct rlimit){.rlim_cur = h->nofile_soft, .rlim_max = h->nofile_hard};
        guard->runtime.dir_fd = own(h->runtime_fd);
        guard->runtime.control_fd = own(h->control_fd);
        guard->runtime.node_fd = own(h->node_fd);
        guard->instance.dir_fd = own(h->instance_fd);
        if (guard->runtime.dir_fd < 0 || guard->runtime.control_fd < 0 || guard->runtime.node_fd < 0 || guard->instance.dir_fd < 0)
                return error_origin(-EBADF);
        (void)snprintf(guard->runtime.path, sizeof(guard->runtime.path), "%.4095s", h->runtime_path);
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", guard->instance.dir_fd);
        n = readlink(link, guard->instance.path, sizeof(guard->instance.path) - 1);
        guard->instance.path[MAX(n, (ssize_t)0)] = '\0';
        if (n <= 0 || !strrchr(guard->instance.path, '/'))
                return error_origin(-ENOENT);
        (void)snprintf(guard->instance.name, sizeof(guard->instance.name), "%.31s", strrchr(guard->instance.path, '/') + 1);
        guard->instance.enforcer = enforcer_of_instance(guard->instance.dir_fd);
        guard->instance.base_fd = openat(guard->instance.dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (guard->instance.base_fd < 0)
                return error_origin(-errno);
        guard->runtime.lock_fd = h->lock_fd >= 0 ? own(h->lock_fd) : -1;
        r = guard->runtime.lock_fd >= 0 ? runtime_write_pid(&guard->runtime) : runtime_take_lock(&guard->runtime);
        if (r) /* another daemon was quicker: it adopts all this, and two of us would fight over it */
                return error_origin(r > 0 ? -EBUSY : r);
        guard_scope_restore(guard);
        return guard_open_instance_files(guard);
}

static const void *map_state(int fd, size_t *ret_size)
{
        struct stat st;
        void *map;

        if (fstat(fd, &st) < 0 || st.st_size <= 0)
                return NULL;
        *ret_size = (size_t)st.st_size;
        map = mmap(NULL, *ret_size, PROT_READ, MAP_PRIVATE, fd, 0);
        return map == MAP_FAILED ? NULL : map;
}

static int restore(Guard *guard, const GuardStateView *v)
{
        const struct guard_state_header *h = v->header;
        int r = restore_header(guard, h);

        if (r)
                return error_fold(r);
        for (uint32_t i = 0; i < h->n_slots; i++)
                restore_slot(guard, &v->slots[i]);
        for (uint32_t i = 0; i < h->n_items; i++)
                restore_item(guard, &v->items[i]);
        for (uint32_t i = 0; i < h->n_children; i++)
                restore_child(guard, &v->children[i]);
        for (uint32_t i = 0; i < h->n_escrows; i++)
                restore_escrow(guard, &v->escrows[i]);
        for (uint32_t i = 0; i < h->n_kills; i++)
                guard_kills_restore(guard, &v->kills[i]);
        log_line("this process is the guard now: %u slots, %u descriptors, %u children", h->n_slots, h->n_items, h->n_children);
        return 0;
}

int guard_restore(Guard *guard, int state_fd)
{
        GuardStateView view;
        size_t size = 0;
        const void *map = map_state(state_fd, &size);
        int r;

        (void)fd_close(state_fd);
        if (!map)
                return error_origin(-EBADMSG);
        r = guard_state_view(&view, map, size);
        if (r)
                log_line("what was handed over is no state of version %u", GUARD_STATE_VERSION);
        else
                r = restore(guard, &view);
        (void)munmap((void *)(uintptr_t)map, size);
        return r ? error_fold(r) : 0;
}
