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

static void enforcer_run(GuardSlot *slot, bool remove, struct guard_result *result)
{
        SweepResult swept = {};

        if (slot->term_ns > 0 && clock_now() < slot->at) {
                (void)sweep_signal(slot->dir_fd, SIGTERM, slot->at, &swept); /* whoever it missed is killed at T */
                wait_until_empty(slot->events_fd, slot->at);
        }
        (void)sweep_kill(slot->dir_fd, slot->until, &swept);
        result->n_found = swept.n_found;
        result->n_left = swept.n_left;
        if (remove)
                (void)remove_children(slot->dir_fd, slot->until);
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
        args.pidfd = (uint64_t)(uintptr_t)&pidfd;
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                enforcer_run(slot, remove, &guard->results[i]);
                _exit(guard->results[i].n_left > 0 ? 3 : 0);
        }
        guard->enforcers[i] = (GuardEnforcer){.process = {.pid = pid, .pidfd = pidfd}, .slot = number};
        return 0;
}

/* Its keeper does that, if it lives to the end. In a child, for cgroupfs may hold us up; nobody waits for it. */
void guard_remove_dataflow(Guard *guard, GuardSlot *slot)
{
        struct clone_args args = {.exit_signal = SIGCHLD};
        char link[64], path[PATH_MAX];
        const char *name;
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", slot->dir_fd);
        n = slot->dir_fd < 0 ? -1 : readlink(link, path, sizeof(path) - 1);
        path[MAX(n, (ssize_t)0)] = '\0';
        name = strrchr(path, '/');
        if (!name || strstr(path, " (deleted)"))
                return;
        if (syscall(SYS_clone3, &args, sizeof(args)) == 0) {
                (void)cgroup_remove_tree(guard->instance.dir_fd, name + 1, nsec_add(clock_now(), NSEC_PER_SEC));
                _exit(0);
        }
}

static int on_escrow_due(Timer *timer, nsec_t now)
{
        GuardSlot *slot = container_of(timer, GuardSlot, timer);

        (void)now;
        if (slot->events_fd >= 0 && cgroup_populated(slot->events_fd) == 0 && slot->number != GUARD_SLOT_INSTANCE) {
                guard_tell_kept(slot->guard, slot->number); /* it was empty in time */
                return 0;
        }
        if (guard_enforce(slot->guard, slot->number, slot->keeper.pid == 0))
                /* No process to be had, or 64 enforcers at work: try again shortly, for an escrow is a promise. */
                timer_arm(&slot->guard->loop, &slot->timer, nsec_add(slot->guard->loop.now, 20 * NSEC_PER_MSEC), on_escrow_due);
        return 0;
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
