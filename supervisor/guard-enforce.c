/* SPDX-License-Identifier: Apache-2.0 */
/* Escrows and the processes that carry them out. */
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
#include <linux/sched.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/sweep.h"

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
                (void)cgroup_remove_tree(slot->guard->instance.dir_fd, name + 1, until); /* EBUSY: somebody is left, and told */
}

/*
 * Nothing else of the guard's: its lock would stay taken and its sockets would not hang up when it dies, and what its children and the
 * supervisor say would arrive nowhere without anybody noticing.
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
                        (void)syscall(SYS_close_range, from, next == UINT_MAX ? UINT_MAX : next - 1, 0); /* Linux 5.9: older than cgroup.kill */
                if (next == UINT_MAX)
                        return;
                from = next + 1;
        }
}

static void keep_slot_only(const GuardSlot *slot)
{
        int fds[GUARD_MAX_SLOTS + 2];
        size_t n = 0;

        fds[n++] = slot->events_fd;
        fds[n++] = slot->guard->instance.dir_fd;
        if (slot->number != GUARD_SLOT_INSTANCE)
                fds[n++] = slot->dir_fd;
        for (unsigned i = 0; slot->number == GUARD_SLOT_INSTANCE && i < GUARD_MAX_SLOTS; i++)
                fds[n++] = slot->guard->slots[i].dir_fd; /* it looks who lives there */
        keep_only(fds, n);
}

static void enforcer_run(GuardSlot *slot, bool remove, unsigned self, struct guard_result *result)
{
        SweepResult swept = {};

        if (slot->term_ns > 0 && clock_now() < slot->at) {
                (void)sweep_signal(slot->dir_fd, SIGTERM, slot->at, &swept); /* whoever it missed is killed at T */
                wait_until_empty(slot->events_fd, slot->at);
        }
        guard_kills_note(slot, self, result);
        (void)sweep_kill(slot->dir_fd, slot->until, &swept);
        result->n_found = swept.n_found;
        result->n_left = swept.n_left;
        if (slot->number != GUARD_SLOT_INSTANCE)
                remove_dataflow(slot, slot->until);
        else if (remove)
                (void)remove_children(slot->dir_fd, slot->until);
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

int guard_enforce(Guard *guard, uint32_t number, bool remove)
{
        struct clone_args args = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
        GuardSlot *slot = &guard->slots[number];
        unsigned i = 0;
        int pidfd = -1;
        pid_t pid;

        if (slot->dir_fd < 0)
                return 0;
        while (i < GUARD_MAX_ENFORCERS && guard->enforcers[i].process.pid > 0)
                i++;
        if (i == GUARD_MAX_ENFORCERS)
                return error_origin(-EAGAIN);
        guard->results[i] = (struct guard_result){};
        if (!slot->enforced_at)
                slot->enforced_at = MAX(slot->at, guard->loop.now);
        slot->owes_notice = true;
        guard_pump(guard); /* heard before the ends that follow from it */
        args.pidfd = (uint64_t)(uintptr_t)&pidfd;
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                keep_slot_only(slot);
                enforcer_run(slot, remove, i, &guard->results[i]);
                _exit(guard->results[i].n_left > 0 ? 3 : 0);
        }
        guard->enforcers[i] = (GuardEnforcer){.process = {.pid = pid, .pidfd = pidfd}, .slot = number};
        return 0;
}

/* The last word on an escrow is that its directory is gone: an empty one may be born into yet. A removed one has no files. */
static bool dataflow_is_gone(const GuardSlot *slot)
{
        return slot->number != GUARD_SLOT_INSTANCE && slot->dir_fd >= 0 && faccessat(slot->dir_fd, "cgroup.procs", F_OK, 0) < 0 &&
               (errno == ENOENT || errno == ENODEV);
}

/* Its keeper does that, if it lives to the end. In a child, for cgroupfs may hold us up; nobody waits for it. */
void guard_remove_dataflow(Guard *guard, GuardSlot *slot)
{
        struct clone_args args = {.exit_signal = SIGCHLD};

        if (slot->dir_fd < 0 || dataflow_is_gone(slot))
                return;
        if (syscall(SYS_clone3, &args, sizeof(args)) == 0) {
                keep_slot_only(slot);
                remove_dataflow(slot, nsec_add(clock_now(), NSEC_PER_SEC));
                _exit(0);
        }
}

static bool enforcing(const Guard *guard, uint32_t slot)
{
        for (unsigned i = 0; i < GUARD_MAX_ENFORCERS; i++)
                if (guard->enforcers[i].process.pid > 0 && guard->enforcers[i].slot == slot)
                        return true;
        return false;
}

/* Half of the budget has gone by: whoever was sent may be stopped, or held up in a write. Another does no harm. */
static int on_enforcer_late(Timer *timer, nsec_t now)
{
        GuardSlot *slot = container_of(timer, GuardSlot, timer);

        (void)now;
        if (enforcing(slot->guard, slot->number))
                (void)guard_enforce(slot->guard, slot->number, slot->keeper.pid == 0);
        return 0;
}

static int on_escrow_due(Timer *timer, nsec_t now)
{
        GuardSlot *slot = container_of(timer, GuardSlot, timer);

        if (dataflow_is_gone(slot)) {
                guard_tell_kept(slot->guard, slot->number); /* in time */
                return 0;
        }
        timer_arm(&slot->guard->loop, timer, MAX(nsec_add(slot->at, (slot->until - slot->at) / 2), nsec_add(now, NSEC_PER_MSEC)), on_enforcer_late);
        if (guard_enforce(slot->guard, slot->number, slot->keeper.pid == 0))
                /* No process to be had, or 64 enforcers at work: try again shortly, for an escrow is a promise. */
                timer_arm(&slot->guard->loop, &slot->timer, nsec_add(slot->guard->loop.now, 20 * NSEC_PER_MSEC), on_escrow_due);
        return 0;
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
        struct guard_record record = {.type = GUARD_MSG_ENFORCED, .count = result->n_found, .left = result->n_left, .at_ns = result->at, .n_named = result->n_named};
        GuardSlot *slot;

        if (!enforcer)
                return false;
        slot = enforcer->slot < GUARD_MAX_SLOTS ? &guard->slots[enforcer->slot] : NULL;
        enforcer->process.pid = 0;
        enforcer->process.pidfd = fd_close(enforcer->process.pidfd);
        guard_kills_settle(guard, i);
        if (!slot)
                return true; /* it outlived the dataflow whose number that was */
        if (si->si_code != CLD_EXITED && (slot->number != GUARD_SLOT_INSTANCE || guard->state == GUARD_RUNNING)) { /* somebody killed it at its work */
                timer_arm(&guard->loop, &slot->timer, nsec_add(guard->loop.now, NSEC_PER_MSEC), on_escrow_due);
                return true;
        }
        record.slot = slot->number;
        if (slot->number == GUARD_SLOT_INSTANCE) {
                guard->n_left = record.left;
                if (guard->state == GUARD_RUNNING) /* everything has been ended: the supervisor has nothing left to do but leave */
                        timer_arm(&guard->loop, &guard->phase_timer, nsec_add(guard->loop.now, GUARD_LINGER_SPAN), on_supervisor_lingers);
        }
        if (record.count > 0 || record.left > 0) {
                struct guard_record copy = record;

                (void)guard_record_send(guard->client_fd, &copy, NULL, 0);
        }
        guard_tell_supervisor(guard, record);
        return true;
}

void guard_enforce_overdue(Guard *guard, uint32_t number)
{
        GuardSlot *slot = &guard->slots[number];

        if (number == GUARD_SLOT_INSTANCE || slot->at > guard->loop.now || slot->timer.loop || enforcing(guard, number))
                return;
        slot->until = MAX(slot->until, nsec_add(guard->loop.now, NSEC_PER_SEC));
        (void)on_escrow_due(&slot->timer, guard->loop.now);
}

int guard_escrow(Guard *guard, uint32_t number, nsec_t at, nsec_t until, nsec_t term_ns)
{
        GuardSlot *slot;
        nsec_t start;

        if (number >= GUARD_MAX_SLOTS)
                return error_origin(-EINVAL);
        slot = &guard->slots[number];
        if (at >= slot->at)
                return 0; /* irrevocable: it only ever moves earlier */
        slot->at = at;
        slot->until = MAX(until, at);
        slot->term_ns = term_ns;
        start = term_ns > 0 ? at - MIN(at, term_ns) : at;
        timer_arm(&guard->loop, &slot->timer, start, on_escrow_due);
        return 0;
}
