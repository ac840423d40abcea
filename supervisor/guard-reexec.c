/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGUSR2: a newer program takes the guard's place, same pid, same children, same descriptors. It is asked first, by
 * a child with a deadline, which state it reads (--state-version): one that would not understand what it is handed
 * would leave everybody without a guard.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/log.h"
#include "supervisor/guard-internal.h"
#include "supervisor/journal-format.h"

#define PROBE_SPAN  (5 * NSEC_PER_SEC) /* to start, and to print a line */
#define REFUSAL_MAX 512

static void refuse(Guard *guard, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* To the log, and to whoever asked, who reads the lock's file. */
static void refuse(Guard *guard, const char *format, ...)
{
        char why[REFUSAL_MAX];
        va_list ap;
        int n = snprintf(why, sizeof(why), "cannot execute %.200s anew: ", guard->options->program);

        va_start(ap, format);
        (void)vsnprintf(why + n, sizeof(why) - (size_t)n, format, ap);
        va_end(ap);
        log_line("%s", why);
        if (runtime_write_refusal(&guard->runtime, ++guard->n_refusals, why))
                log_line("whoever asked for it cannot be told: %s", strerror(errno));
}

/* ---- what it leaves to itself */

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
                struct guard_state_item state = {.slot = stored->slot,
                        .node = stored->node,
                        .generation = stored->generation,
                        .item = stored->item,
                        .fd = stored->fd};

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
        if (put(fd, &h, sizeof(h)) && put_slots(guard, fd, &h) && put_items(guard, fd, &h) &&
                put_children(guard, fd, &h) && put_escrows(guard, fd, &h) && put_kills(guard, fd, &h)) {
                h.size = sizeof(h) + (uint64_t)h.n_slots * sizeof(struct guard_state_slot) +
                         (uint64_t)h.n_items * sizeof(struct guard_state_item) +
                         (uint64_t)h.n_children * sizeof(struct guard_state_child) +
                         (uint64_t)h.n_escrows * sizeof(struct guard_state_escrow) +
                         (uint64_t)h.n_kills * sizeof(struct guard_state_kill);
                if (pwrite(fd, &h, sizeof(h), 0) == sizeof(h) &&
                        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
                        return fd;
        }
        (void)fd_close(fd);
        return error_origin(-ENOSPC);
}

/* What was to be kept is closed again in whoever is forked next: a keeper with our lock would keep the next daemon
 * out. */
static void keep_nothing(void)
{
        (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC); /* all of them were born so */
}

/*
 * A newer program takes this one's place: same pid, same children, same descriptors. The supervisor is killed, as it
 * may be at any instruction: the one that the new guard forks adopts what it leaves.
 */
static void guard_reexec(Guard *guard)
{
        const GuardOptions *o = guard->options;
        char state[32], grace[48], budget[48], watchdog[48], config[PATH_MAX + 16],
                said[16] = "--said=", role[] = "--role=guard", name[] = "tidegated";
        char *argv[] = {name, role, state, grace, budget, watchdog, said, o->config ? config : NULL, NULL};
        int fd;

        fd = write_state(guard);
        if (fd < 0) {
                refuse(guard, "%s", strerror(-fd));
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
        refuse(guard, "%s", strerror(errno));
        (void)fd_close(fd); /* the supervisor was killed: another one is forked, and nothing was lost */
        keep_nothing();
}

/* ---- asked to */

static void probe_close(Guard *guard)
{
        GuardProbe *probe = &guard->probe;

        timer_disarm(&probe->timer);
        source_remove(&probe->source);
        probe->fd = fd_close(probe->fd);
        probe->process.pid = 0; /* one that hangs in the kernel is reaped as a stranger */
        probe->process.pidfd = fd_close(probe->process.pidfd);
}

static int on_probe_late(Timer *timer, nsec_t now)
{
        Guard *guard = container_of(timer, Guard, probe.timer);

        (void)now;
        guard_process_kill(&guard->probe.process);
        probe_close(guard);
        refuse(guard, "it has not said which state it reads for %u s; nothing is changed",
                (unsigned)(PROBE_SPAN / NSEC_PER_SEC));
        return 0;
}

/* What goes beyond a version is not one. */
static int on_probe_output(Source *source, uint32_t revents)
{
        GuardProbe *probe = container_of(source, GuardProbe, source);
        ssize_t n = read(probe->fd, probe->said + probe->n_said, sizeof(probe->said) - 1 - probe->n_said);

        (void)revents;
        if (n > 0)
                probe->n_said += (size_t)n;
        if (n == 0 || probe->n_said == sizeof(probe->said) - 1)
                source_remove(source);
        return 0;
}

/* Without our priority, our mask and what else is ours. It may hang in execve, or later: it has a deadline, and
 * nobody waits for it. */
static void run_probe(const char *program, int out)
{
        char name[] = "tidegated", option[] = "--state-version";
        char *argv[] = {name, option, NULL};
        struct sched_param param = {};
        sigset_t none;
        int error;

        (void)sched_setscheduler(0, SCHED_OTHER, &param);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        if (dup2(out, STDOUT_FILENO) >= 0)
                execve(program, argv, environ);
        error = errno;
        (void)!write(out, &(char[]){'!'}, 1);
        (void)!write(out, &error, sizeof(error));
        _exit(127);
}

void guard_reexec_order(Guard *guard)
{
        GuardProbe *probe = &guard->probe;
        int pidfd = -1, pair[2];
        pid_t pid;

        if (!guard->options->daemon || !guard->options->program || probe->process.pid > 0)
                return; /* being asked already */
        if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0) {
                refuse(guard, "%s", strerror(errno));
                return;
        }
        pid = fork_pidfd(0, &pidfd);
        if (pid == 0)
                run_probe(guard->options->program, pair[1]);
        (void)fd_close(pair[1]);
        if (pid < 0) {
                refuse(guard, "%s", strerror(errno));
                (void)fd_close(pair[0]);
                return;
        }
        *probe = (GuardProbe){.process = {.pid = pid, .pidfd = pidfd}, .fd = pair[0]};
        (void)source_add(&guard->loop, &probe->source, probe->fd, EPOLLIN, SOURCE_CLIENTS,
                on_probe_output); /* else its pipe has room for a version */
        timer_arm(&guard->loop, &probe->timer, nsec_add(guard->loop.now, PROBE_SPAN), on_probe_late);
}

/* It has ended, and said what it has to say. */
bool guard_reexec_on_exit(Guard *guard, const siginfo_t *si)
{
        GuardProbe *probe = &guard->probe;
        char ours[32];
        int error = 0;

        if (si->si_pid != probe->process.pid || probe->process.pid == 0)
                return false;
        (void)on_probe_output(&probe->source, 0);
        probe->said[probe->n_said] = '\0';
        probe_close(guard);
        (void)snprintf(ours, sizeof(ours), "%u.%u\n", GUARD_STATE_VERSION, JOURNAL_VERSION);
        if (probe->n_said == 1 + sizeof(error) && probe->said[0] == '!')
                memcpy(&error, probe->said + 1, sizeof(error));
        if (error) {
                refuse(guard, "%s; nothing is changed", strerror(error));
        } else if (si->si_code != CLD_EXITED) {
                refuse(guard, "asked which state it reads it was ended by SIG%s; nothing is changed",
                        sigabbrev_np(si->si_status) ?: "?");
        } else if (si->si_status != 0 || probe->said[strspn(probe->said, "0123456789.")] != '\n') {
                refuse(guard,
                        "it does not say which state it reads (--state-version: exit status %d); nothing is changed",
                        si->si_status);
        } else if (strcmp(probe->said, ours) != 0) {
                probe->said[strcspn(probe->said, "\n")] = ours[strcspn(ours, "\n")] = '\0';
                refuse(guard,
                        "it reads state %s, and this daemon has state %s: end the daemon, and start the new one; "
                        "nothing is changed",
                        probe->said, ours);
        } else {
                guard_reexec(guard);
        }
        return true;
}

/* The lock's holder is the guard, and it says there when it has become another program, or that it will not. */
int guard_ask_reexec(const char *path, char *ret_why, size_t why_size)
{
        char before[REFUSAL_MAX + 64], after[REFUSAL_MAX + 64];
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
                if (runtime_find_guard(path, &pid, after, sizeof(after), ret_why, why_size) ||
                        strcmp(before, after) == 0)
                        continue;
                if (!runtime_refusal(before, after, ret_why, why_size))
                        return 0;
                return error_origin(-ECANCELED);
        }
        (void)snprintf(ret_why, why_size, "the guard (pid %d) did not do it in time: see the daemon's log", (int)pid);
        return error_origin(-ETIMEDOUT);
}
