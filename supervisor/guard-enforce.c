/* SPDX-License-Identifier: Apache-2.0 */
/* The processes that carry out what was promised (guard-escrow.c). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/place.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/sweep.h"

#define FORK_SPAN (200 * NSEC_PER_MSEC) /* what forks usually wait for at the most: that a probe has been attached */

/* Until the cgroup is empty or @at. The kernel tells at most one change per 10 ms, so look again at that pace. */
static void wait_until_empty(int events_fd, nsec_t at)
{
        while (cgroup_populated(events_fd) != 0) {
                nsec_t now = clock_now();
                struct pollfd p = {.fd = events_fd, .events = POLLPRI};

                if (now >= at)
                        return;
                (void)poll(&p, 1, MIN(nsec_poll_ms(at, now), 10));
        }
}

/* Removes what lies below @dir_fd: the dataflows' directories of an instance, or the incarnations' of a dataflow. */
static int remove_children(int dir_fd, nsec_t until)
{
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *e;
        int r = 0;

        if (!dir) {
                (void)fd_close(fd);
                return -errno;
        }
        while ((e = readdir(dir)))
                if (e->d_type == DT_DIR && e->d_name[0] != '.' && cgroup_remove_tree(dir_fd, e->d_name, until))
                        r = -EBUSY;
        (void)closedir(dir);
        return r;
}

/* rmdir is the fence: what a keeper that slept through it all still wants to start has no place to be born. */
static void remove_dataflow(const GuardSlot *slot, nsec_t until)
{
        char link[64], path[PATH_MAX];
        const char *name;
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", slot->dir_fd);
        n = readlink(link, path, sizeof(path) - 1);
        path[MAX(n, (ssize_t)0)] = '\0';
        name = strrchr(path, '/');
        if (name && !strstr(path, " (deleted)"))
                (void)cgroup_remove_tree(
                        slot->guard->instance.dir_fd, name + 1, until); /* EBUSY: somebody is left, and told */
}

/*
 * Nothing else of the guard's: its lock would stay taken and its sockets would not hang up when it dies, and what its
 * children and the supervisor say would arrive nowhere without anybody noticing.
 */
static void keep_only(const int *fds, size_t n)
{
        unsigned from = STDERR_FILENO + 1;

        for (;;) {
                unsigned next = UINT_MAX;

                for (size_t i = 0; i < n; i++)
                        if (fds[i] >= 0 && (unsigned)fds[i] >= from)
                                next = MIN(next, (unsigned)fds[i]);
                if (next > from)
                        (void)syscall(SYS_close_range, from, next == UINT_MAX ? UINT_MAX : next - 1,
                                0); /* Linux 5.9: older than cgroup.kill */
                if (next == UINT_MAX)
                        return;
                from = next + 1;
        }
}

static void keep_slot_only(const GuardSlot *slot, int leader)
{
        int fds[GUARD_MAX_SLOTS + 3];
        size_t n = 0;

        fds[n++] = leader;
        fds[n++] = slot->events_fd;
        fds[n++] = slot->guard->instance.dir_fd;
        if (slot->number != GUARD_SLOT_INSTANCE)
                fds[n++] = slot->dir_fd;
        for (unsigned i = 0; slot->number == GUARD_SLOT_INSTANCE && i < GUARD_MAX_SLOTS; i++)
                fds[n++] = slot->guard->slots[i].dir_fd; /* it looks who lives there */
        keep_only(fds, n);
}

/*
 * Without a cgroup: whoever has killed its reaper, and lost its keeper, has come to the guard. Nobody of ours is left by now, so all below the
 * guard but this enforcer are strays. Only below the guard that made us: when it is gone our parent is somebody to whom half the host may belong.
 */
static void end_strays(pid_t guard, nsec_t until, struct guard_result *result)
{
        const pid_t self = getpid();
        PlaceResult found;

        for (;;) {
                if (getppid() != guard || place_signal_descendants(guard, &self, 1, SIGKILL, &found))
                        return;
                result->n_found = MAX(result->n_found, found.n_found);
                if (found.n_found == 0 || clock_now() >= until)
                        break;
                (void)poll(NULL, 0, 5); /* they die and the guard reaps them; the next look tells */
        }
        result->n_left += found.n_found;
}

static void enforce_slot(GuardSlot *slot, bool remove, pid_t guard, unsigned self, struct guard_result *result)
{
        const GuardEscrow *escrow = &slot->escrow;
        SweepResult swept = {};

        if (escrow->term_ns > 0 && clock_now() < escrow->at) {
                (void)sweep_signal(slot->dir_fd, SIGTERM, escrow->at, &swept); /* whoever it missed is killed at T */
                wait_until_empty(slot->events_fd, escrow->at);
        }
        guard_kills_note(escrow, self, result);
        (void)sweep_kill(slot->dir_fd, escrow->until, &swept);
        result->n_found = swept.n_found;
        result->n_left = swept.n_left;
        if (slot->number != GUARD_SLOT_INSTANCE)
                remove_dataflow(slot, escrow->until);
        else if (remove) {
                if (slot->guard->state == GUARD_CLEANING && !enforcer_has_cgroup(slot->guard->instance.enforcer))
                        end_strays(guard, escrow->until, result);
                (void)remove_children(slot->dir_fd, escrow->until);
        }
}

/* Its cgroup is one life's, and no other ever gets that name. */
static void enforce_incarnation(
        const GuardSlot *slot, const GuardEscrow *escrow, int leader, unsigned self, struct guard_result *result)
{
        _cleanup_fd_ int fd = openat(slot->dir_fd, escrow->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        SweepResult swept = {};

        if (fd >= 0) {
                guard_kills_note(escrow, self, result);
                (void)sweep_kill(fd, escrow->until, &swept);
                result->n_found = swept.n_found;
                result->n_left = swept.n_left;
        }
        if (leader >= 0) /* one of root's may have left it */
                (void)syscall(SYS_pidfd_send_signal, leader, SIGKILL, NULL, 0);
        (void)cgroup_remove_tree(slot->dir_fd, escrow->name,
                escrow->until); /* a keeper that slept through it all starts nobody there */
}

static int on_supervisor_lingers(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, phase_timer);

        (void)now;
        guard_process_kill(&guard->supervisor);
        return 0;
}

void guard_forget_enforcers(const GuardSlot *slot)
{
        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (slot->guard->enforcers[i].slot == slot->number)
                        slot->guard->enforcers[i].slot = GUARD_MAX_SLOTS;
        guard_kills_drop(slot->guard, slot->number, NULL);
}

bool guard_enforcing(const Guard *guard)
{
        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (guard->enforcers[i].process.pid > 0)
                        return true;
        return false;
}

bool guard_enforcing_escrow(const GuardEscrow *escrow)
{
        const GuardEnforcer *enforcers = escrow->guard->enforcers;

        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (enforcers[i].process.pid > 0 && enforcers[i].slot == escrow->slot &&
                        enforcers[i].node == escrow->node && enforcers[i].generation == escrow->generation)
                        return true;
        return false;
}

/* The pidfd of an incarnation's first process, which lives; -1: none is known. */
static int leader_of(const GuardEscrow *escrow)
{
        const GuardChild *children = escrow->guard->children;

        for (unsigned i = 0; escrow->generation > 0 && i < GUARD_MAX_CHILDREN; i++)
                if (children[i].pidfd >= 0 && !children[i].ended && children[i].slot == escrow->slot &&
                        children[i].node == escrow->node && children[i].generation == escrow->generation)
                        return children[i].pidfd;
        return -1;
}

/*
 * Without a process, when it has waited for one long enough: all of it is killed with one write, if the kernel has cgroup.kill. Nobody is counted, told or removed; that is for the
 * enforcer, who comes when there can be one.
 */
static void kill_without_enforcer(GuardEscrow *escrow)
{
        const GuardSlot *slot = &escrow->guard->slots[escrow->slot];
        char path[GUARD_NAME_MAX + 16];
        _cleanup_fd_ int fd = -1;

        if (clock_now() < nsec_add(escrow->at, MIN(FORK_SPAN, (escrow->until - escrow->at) / 4)))
                return;
        if (!escrow->enforced_at) {
                escrow->enforced_at = MAX(escrow->at, escrow->guard->loop.now);
                escrow->owes_notice = true;
                guard_pump(escrow->guard); /* heard before the ends that follow from it */
        }
        if (escrow->name) {
                (void)snprintf(path, sizeof(path), "%s/cgroup.kill", escrow->name);
                fd = openat(slot->dir_fd, path, O_WRONLY | O_CLOEXEC);
        }
        (void)!write(escrow->name ? fd : slot->kill_fd, "1", 1); /* EBADF, EISDIR: it has none */
}

int guard_enforce(GuardEscrow *escrow, bool remove)
{
        Guard *guard = escrow->guard;
        GuardSlot *slot = &guard->slots[escrow->slot];
        int pidfd = -1, leader = leader_of(escrow);
        const pid_t self = getpid();
        unsigned i = 0;
        pid_t pid;

        if (slot->dir_fd < 0)
                return 0;
        while (i < GUARD_MAX_ENFORCERS && guard->enforcers[i].process.pid > 0)
                i++;
        if (i == GUARD_MAX_ENFORCERS)
                return error_origin(-EAGAIN);
        if (guard_forks_may_hang(guard)) {
                kill_without_enforcer(escrow);
                return -EAGAIN;
        }
        guard->results[i] = (struct guard_result){};
        if (!escrow->enforced_at)
                escrow->enforced_at = MAX(escrow->at, guard->loop.now);
        escrow->owes_notice = true;
        guard_pump(guard); /* heard before the ends that follow from it */
        pid = fork_pidfd(0, &pidfd);
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                keep_slot_only(slot, leader);
                if (escrow->name)
                        enforce_incarnation(slot, escrow, leader, i, &guard->results[i]);
                else
                        enforce_slot(slot, remove, self, i, &guard->results[i]);
                _exit(guard->results[i].n_left > 0 ? 3 : 0);
        }
        guard->enforcers[i] = (GuardEnforcer){.process = {.pid = pid, .pidfd = pidfd},
                .slot = escrow->slot,
                .node = escrow->node,
                .generation = escrow->generation};
        return 0;
}

/* Its keeper does that, if it lives to the end. In a child, for cgroupfs may hold us up; nobody waits for it. */
void guard_remove_dataflow(Guard *guard, GuardSlot *slot)
{
        if (slot->dir_fd < 0 || guard_slot_is_gone(slot) || guard_forks_may_hang(guard))
                return;
        if (fork_pidfd(0, NULL) == 0) {
                keep_slot_only(slot, -1);
                remove_dataflow(slot, nsec_add(clock_now(), NSEC_PER_SEC));
                _exit(0);
        }
}

static GuardEnforcer *find_enforcer(Guard *guard, pid_t pid)
{
        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (guard->enforcers[i].process.pid == pid)
                        return &guard->enforcers[i];
        return NULL;
}

bool guard_on_enforcer_exit(Guard *guard, const siginfo_t *si)
{
        GuardEnforcer *enforcer = find_enforcer(guard, si->si_pid);
        unsigned i = enforcer ? (unsigned)(enforcer - guard->enforcers) : 0;
        const struct guard_result *result = &guard->results[i];
        struct guard_record record = {.type = GUARD_MSG_ENFORCED,
                .count = result->n_found,
                .left = result->n_left,
                .at_ns = result->at,
                .n_named = result->n_named};
        GuardEscrow *escrow;

        if (!enforcer)
                return false;
        enforcer->process.pid = 0;
        enforcer->process.pidfd = fd_close(enforcer->process.pidfd);
        guard_kills_settle(guard, i);
        escrow = guard_escrow_find(guard, enforcer->slot, enforcer->node, enforcer->generation);
        if (!escrow)
                return true; /* it outlived the incarnation, or the dataflow whose number that was */
        if (si->si_code != CLD_EXITED &&
                (escrow->slot != GUARD_SLOT_INSTANCE ||
                        guard->state == GUARD_RUNNING)) { /* somebody killed it at its work */
                guard_escrow_again(escrow);
                return true;
        }
        record.slot = escrow->slot;
        record.node = escrow->node;
        record.generation = escrow->generation;
        if (escrow->slot == GUARD_SLOT_INSTANCE) {
                guard->n_left = record.left;
                if (guard->state == GUARD_RUNNING) /* everything has been ended: the supervisor has nothing left to do
                                                      but leave */
                        timer_arm(&guard->loop, &guard->phase_timer, nsec_add(guard->loop.now, GUARD_LINGER_SPAN),
                                on_supervisor_lingers);
        }
        if (record.count > 0 || record.left > 0) {
                struct guard_record copy = record;

                (void)guard_record_send(guard->client_fd, &copy, NULL, 0);
        }
        guard_tell_supervisor(guard, record);
        return true;
}
