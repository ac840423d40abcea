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
#include "supervisor/guard-internal.h"
#include "supervisor/guard-state.h"

/* ---- keepers */

/* Somebody else reaps it: how it ended is not ours to know. */
static int on_keeper_pidfd(Source *source, uint32_t revents)
{
        GuardSlot *slot = container_of(source, GuardSlot, keeper_exit_source);

        (void)revents;
        guard_on_keeper_exit(slot->guard, slot, &(siginfo_t){});
        return 0;
}

static void open_cgroup(GuardSlot *slot, const char *path)
{
        if (path[0] != '/' || slot->dir_fd >= 0)
                return;
        slot->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (slot->dir_fd < 0)
                return; /* its keeper says where it is, once it talks to us */
        slot->kill_fd = openat(slot->dir_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
        slot->events_fd = openat(slot->dir_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
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
        guard->instance.base_fd = openat(guard->instance.dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (guard->instance.base_fd < 0)
                return error_origin(-errno);
        guard->runtime.lock_fd = h->lock_fd >= 0 ? own(h->lock_fd) : -1;
        r = guard->runtime.lock_fd >= 0 ? runtime_write_pid(&guard->runtime) : runtime_take_lock(&guard->runtime);
        if (r) /* another daemon was quicker: it adopts all this, and two of us would fight over it */
                return error_origin(r > 0 ? -EBUSY : r);
        return guard_open_instance_files(guard);
}

/* ---- becoming another program */

static bool put(int fd, const void *data, size_t size)
{
        return write(fd, data, size) == (ssize_t)size; /* memory: all or ENOSPC */
}

static void keep(int fd)
{
        if (fd >= 0)
                (void)fcntl(fd, F_SETFD, 0);
}

static bool put_slots(const Guard *guard, int fd, struct guard_state_header *h)
{
        for (uint32_t i = GUARD_SLOT_INSTANCE; i < GUARD_MAX_SLOTS; i++) {
                const GuardSlot *slot = &guard->slots[i];
                struct guard_state_slot state = {.slot = i,
                        .keeper_pid = slot->keeper.pid,
                        .keeper_fd = slot->keeper_peer_fd,
                        .keeper_pidfd = slot->keeper.pidfd,
                        .at_ns = slot->escrow.at,
                        .until_ns = slot->escrow.until,
                        .term_ns = slot->escrow.term_ns,
                        .enforced_at_ns = slot->escrow.enforced_at};
                char link[64];
                ssize_t n;

                if (slot->dir_fd < 0 && slot->keeper.pid <= 0)
                        continue;
                (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", slot->dir_fd);
                n = slot->dir_fd < 0 ? 0 : readlink(link, state.cgroup, sizeof(state.cgroup) - 1);
                state.cgroup[MAX(n, (ssize_t)0)] = '\0';
                keep(slot->keeper_peer_fd);
                keep(slot->keeper.pidfd);
                if (!put(fd, &state, sizeof(state)))
                        return false;
                h->n_slots++;
        }
        return true;
}

static bool put_items(const Guard *guard, int fd, struct guard_state_header *h)
{
        for (unsigned i = 0; i < guard->stored_top; i++) {
                const GuardStored *stored = &guard->stored[i];
                struct guard_state_item state = {.slot = stored->slot, .node = stored->node, .generation = stored->generation, .item = stored->item, .fd = stored->fd};

                if (stored->fd < 0)
                        continue;
                keep(stored->fd);
                if (!put(fd, &state, sizeof(state)))
                        return false;
                h->n_items++;
        }
        return true;
}

static bool put_children(const Guard *guard, int fd, struct guard_state_header *h)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) {
                const GuardChild *child = &guard->children[i];
                struct guard_state_child state = {.slot = child->slot,
                        .node = child->node,
                        .generation = child->generation,
                        .pid = child->pid,
                        .pidfd = child->pidfd,
                        .ours = child->ours,
                        .code = child->code,
                        .status = child->status};

                if (child->pidfd < 0)
                        continue;
                keep(child->pidfd);
                if (!put(fd, &state, sizeof(state)))
                        return false;
                h->n_children++;
        }
        return true;
}

static bool put_escrows(const Guard *guard, int fd, struct guard_state_header *h)
{
        for (unsigned i = 0; i < guard->escrows_top; i++) {
                const GuardEscrow *escrow = &guard->escrows[i].escrow;
                struct guard_state_escrow state = {.slot = escrow->slot,
                        .node = escrow->node,
                        .generation = escrow->generation,
                        .at_ns = escrow->at,
                        .until_ns = escrow->until,
                        .enforced_at_ns = escrow->enforced_at,
                        .restart = escrow->restart};

                if (escrow->generation == 0)
                        continue;
                (void)snprintf(state.name, sizeof(state.name), "%s", escrow->name);
                if (!put(fd, &state, sizeof(state)))
                        return false;
                h->n_escrows++;
        }
        return true;
}

static bool put_kills(const Guard *guard, int fd, struct guard_state_header *h)
{
        for (uint32_t i = 0; i < GUARD_MAX_KILLS; i++) {
                const struct guard_kill *kill = guard_kills_at(guard, i);
                struct guard_state_kill state = {};

                if (!kill)
                        continue;
                state.slot = kill->slot;
                state.count = kill->count;
                state.at_ns = kill->at;
                (void)snprintf(state.name, sizeof(state.name), "%s", kill->name);
                if (!put(fd, &state, sizeof(state)))
                        return false;
                h->n_kills++;
        }
        return true;
}

static int write_state(Guard *guard)
{
        struct guard_state_header h = {.magic = GUARD_STATE_MAGIC,
                .version = GUARD_STATE_VERSION,
                .epoch = guard->epoch,
                .nofile_soft = guard->nofile.rlim_cur,
                .nofile_hard = guard->nofile.rlim_max,
                .instance_fd = guard->instance.dir_fd,
                .runtime_fd = guard->runtime.dir_fd,
                .control_fd = guard->runtime.control_fd,
                .node_fd = guard->runtime.node_fd,
                .lock_fd = guard->runtime.lock_fd,
                .stop_ordered = guard->stop_ordered};
        int fd = memfd_create("tidegate-state", MFD_ALLOW_SEALING);

        if (fd < 0)
                return error_origin(-errno);
        (void)snprintf(h.runtime_path, sizeof(h.runtime_path), "%s", guard->runtime.path);
        keep(h.instance_fd);
        keep(h.runtime_fd);
        keep(h.control_fd);
        keep(h.node_fd);
        keep(h.lock_fd);
        if (put(fd, &h, sizeof(h)) && put_slots(guard, fd, &h) && put_items(guard, fd, &h) && put_children(guard, fd, &h) && put_escrows(guard, fd, &h) &&
                put_kills(guard, fd, &h)) {
                h.size = sizeof(h) + (uint64_t)h.n_slots * sizeof(struct guard_state_slot) + (uint64_t)h.n_items * sizeof(struct guard_state_item) +
                         (uint64_t)h.n_children * sizeof(struct guard_state_child) + (uint64_t)h.n_escrows * sizeof(struct guard_state_escrow) +
                         (uint64_t)h.n_kills * sizeof(struct guard_state_kill);
                if (pwrite(fd, &h, sizeof(h), 0) == sizeof(h) && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
                        return fd;
        }
        (void)fd_close(fd);
        return error_origin(-ENOSPC);
}

/* What was to be kept is closed again in whoever is forked next: a keeper with our lock would keep the next daemon out. */
static void keep_nothing(void)
{
        (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC); /* all of them were born so */
}

/*
 * A newer program takes this one's place: same pid, same children, same descriptors. The supervisor is killed, as it may be at any
 * instruction: the one that the new guard forks adopts what it leaves.
 */
void guard_reexec(Guard *guard)
{
        const GuardOptions *o = guard->options;
        char state[32], grace[48], budget[48], watchdog[48], config[PATH_MAX + 16], said[16] = "--said=", role[] = "--role=guard", name[] = "tidegated";
        char *argv[] = {name, role, state, grace, budget, watchdog, said, o->config ? config : NULL, NULL};
        int fd;

        if (!o->daemon || !o->program)
                return;
        if (access(o->program, X_OK) < 0) {
                log_line("cannot execute %s anew: %s", o->program, strerror(errno));
                return;
        }
        fd = write_state(guard);
        if (fd < 0) {
                log_line("cannot execute %s anew: %s", o->program, strerror(-fd));
                keep_nothing();
                return;
        }
        log_line("executing %s anew: %u descriptors, %u children", o->program, guard->n_stored, guard->n_children);
        guard_process_kill(&guard->supervisor);
        guard_said(o, said + strlen(said));
        (void)snprintf(config, sizeof(config), "--config=%.4095s", o->config ? o->config : "");
        (void)snprintf(state, sizeof(state), "--state-fd=%d", fd);
        (void)snprintf(grace, sizeof(grace), "--grace-ns=%llu", (unsigned long long)guard->grace_ns);
        (void)snprintf(budget, sizeof(budget), "--budget-ns=%llu", (unsigned long long)guard->budget_ns);
        (void)snprintf(watchdog, sizeof(watchdog), "--watchdog=%lluns", (unsigned long long)guard->watchdog_ns);
        execve(o->program, argv, environ);
        log_line("cannot execute %s anew: %s", o->program, strerror(errno));
        (void)fd_close(fd); /* the supervisor was killed: another one is forked, and nothing was lost */
        keep_nothing();
}

/* The lock's holder is the guard, and it says when it has become another program: the lock's file is written anew. */
int guard_ask_reexec(const char *path, char *ret_why, size_t why_size)
{
        char before[64], after[64];
        nsec_t until = nsec_add(clock_now(), 10 * NSEC_PER_SEC);
        _cleanup_fd_ int pidfd = -1;
        pid_t pid = 0;
        int r = runtime_find_guard(path, &pid, before, sizeof(before), ret_why, why_size);

        if (r)
                return r;
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGUSR2, NULL, 0) < 0) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "cannot signal the guard (pid %d): %s", (int)pid, strerror(errno));
                return r;
        }
        while (clock_now() < until) {
                struct pollfd p = {.fd = pidfd, .events = POLLIN};

                if (poll(&p, 1, 20) == 1) {
                        (void)snprintf(ret_why, why_size, "the guard (pid %d) has ended", (int)pid);
                        return error_origin(-ESRCH);
                }
                if (runtime_find_guard(path, &pid, after, sizeof(after), ret_why, why_size) == 0 && strcmp(before, after) != 0)
                        return 0;
        }
        (void)snprintf(ret_why, why_size, "the guard (pid %d) did not do it in time: see the daemon's log", (int)pid);
        return error_origin(-ETIMEDOUT);
}

/* ---- all of it at once */

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
