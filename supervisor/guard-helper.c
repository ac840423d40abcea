/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helpers of a supervisor: programs that load kernel probes for it. Forked on its word, socket and pidfd handed over, reaped. A successor asks
 * for its own; those of a dead one leave when their supervisor's end hangs up.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "supervisor/guard-internal.h"
#include "supervisor/guard-spawn.h"

/* Programs of their own, beside ours: who supervises needs nothing of what they are made of. */
static const char *const names[_GUARD_HELPER_MAX] = {
        [GUARD_HELPER_WITNESS] = "tidegate-witness",
        [GUARD_HELPER_PROBER] = "tidegate-prober",
        [GUARD_HELPER_QUEUES] = "tidegate-queues",
};

static int find(const char *ours, const char *name)
{
        char path[PATH_MAX + 32];
        const char *slash = strrchr(ours, '/');
        int fd;

        if (!slash)
                return -ENOENT;
        (void)snprintf(path, sizeof(path), "%.*s%s", (int)MIN(slash + 1 - ours, PATH_MAX), ours, name);
        fd = open(path, O_PATH | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

void guard_helpers_find(Guard *guard)
{
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                guard->helpers[i].program = find(guard->options->program ? guard->options->program : "", names[i]);
}

/* NAME SOCKET CGROUP-ID WORD */
static int fork_helper(const Guard *guard, GuardHelper which, int socket_fd, uint64_t cgroup_id, uint32_t word, GuardProcess *ret)
{
        char name[32], sock[16], id[24], last[16], *argv[] = {name, sock, id, last, NULL};
        int pidfd = -1, program = guard->helpers[which].program;
        pid_t pid;

        (void)snprintf(name, sizeof(name), "%s", names[which]);
        (void)snprintf(sock, sizeof(sock), "%d", socket_fd);
        (void)snprintf(id, sizeof(id), "%llu", (unsigned long long)cgroup_id);
        (void)snprintf(last, sizeof(last), "%u", word);
        pid = guard_spawn(program, argv, &socket_fd, 1, &pidfd);
        if (pid < 0)
                return pid;
        *ret = (GuardProcess){.pid = pid, .pidfd = pidfd};
        return 0;
}

/*
 * One that has attached to programs takes that out with care, and then ends (supervisor/queues-main.c): its supervisor's end has hung up, which is all it has to hear. Killed, it
 * might stop every fork of the host, ours among them.
 */
static void end(Guard *guard, GuardHelper which)
{
        const GuardProcess *process = &guard->helpers[which].process;

        if (which != GUARD_HELPER_QUEUES)
                guard_process_kill(&guard->helpers[which].process);
        else if (process->pid > 0 && process->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, process->pidfd, SIGCONT, NULL, 0); /* ESRCH: it is gone already */
}

/* It is nobody's any more, and may still hold up forks: guard_forks_may_hang(). The oldest is not watched any more where there are too many. */
static void retire(Guard *guard, GuardProcess *take)
{
        GuardProcess *place = &guard->retired[0];

        for (size_t i = 0; i < ELEMENTSOF(guard->retired) && place->pid > 0; i++)
                place = &guard->retired[i];
        *place = *take;
        place->pidfd = fd_close(place->pidfd);
        *take = (GuardProcess){.pidfd = -1};
}

static int start(Guard *guard, GuardHelper which, uint32_t word)
{
        struct guard_record record = {.type = GUARD_MSG_HELPER, .epoch = guard->epoch, .count = which};
        _cleanup_fd_ int ours = -1, theirs = -1;
        GuardProcess *last = &guard->helpers[which].process, process;
        struct stat st;
        int pair[2], r;

        if (!enforcer_has_cgroup(guard->instance.enforcer))
                return -ENOTSUP;
        if (guard->helpers[which].program < 0)
                return guard->helpers[which].program;
        if (fstat(guard->instance.dir_fd, &st) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        theirs = pair[1];
        r = fork_helper(guard, which, theirs, st.st_ino, word, &process);
        if (r)
                return r;
        end(guard, which);
        if (which == GUARD_HELPER_QUEUES && last->pid > 0)
                retire(guard, last);
        (void)fd_close(last->pidfd); /* reaped as a stranger */
        *last = process;
        record.pid = process.pid;
        (void)guard_record_send(guard->supervisor_fd, &record, (int[]){ours, process.pidfd}, 2); /* lost: it ends, for nobody holds its other end */
        return 0;
}

void guard_helper_start(Guard *guard, GuardHelper which, uint32_t word)
{
        int r = guard->state == GUARD_RUNNING ? start(guard, which, word) : -ESHUTDOWN;

        if (r)
                guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_HELPER_FAILED, .count = which, .error = -r});
}

bool guard_helper_on_exit(Guard *guard, const siginfo_t *si)
{
        for (size_t i = 0; i < ELEMENTSOF(guard->retired); i++)
                if (si->si_pid == guard->retired[i].pid) {
                        guard->retired[i].pid = 0;
                        return true;
                }
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++) {
                if (si->si_pid != guard->helpers[i].process.pid)
                        continue;
                guard->helpers[i].process.pid = 0;
                guard->helpers[i].process.pidfd = fd_close(guard->helpers[i].process.pidfd);
                return true;
        }
        return false;
}

void guard_helpers_kill(Guard *guard)
{
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                end(guard, i);
}

/* It has nothing but its descriptors left: the kernel takes out what was attached, which takes longer. */
static bool is_ending(pid_t pid)
{
        char path[32], text[2] = "";
        _cleanup_fd_ int fd = -1;

        (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd >= 0 && read(fd, text, sizeof(text)) == sizeof(text) && memcmp(text, "0 ", 2) == 0;
}

bool guard_helpers_are_gone(const Guard *guard)
{
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                if (guard->helpers[i].process.pid > 0 && !(i == GUARD_HELPER_QUEUES && is_ending(guard->helpers[i].process.pid)))
                        return false;
        return true;
}

/*
 * Attaching and detaching are what it sleeps uninterruptibly for: now for other processors, when forks get in between, and now for the lock of some memory. Where the
 * kernel does not tell, it may be that. Neither answer takes a lock of its own memory.
 */
static bool waits_for_memory(pid_t pid)
{
        char path[32], text[256];
        _cleanup_fd_ int fd = -1;
        const char *name;
        ssize_t n;

        if (pid <= 0 || procstat_is_executing(pid)) /* so far it has attached nothing, and to look at it may take for ever */
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return false;
        text[n] = '\0';
        name = strrchr(text, ')');
        if (!name || strncmp(name, ") D", 3) != 0)
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/wchan", (int)pid);
        fd = fd_close(fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        text[MAX(n, (ssize_t)0)] = '\0';
        return !strstr(text, "rcu");
}

bool guard_forks_may_hang(const Guard *guard)
{
        if (waits_for_memory(guard->helpers[GUARD_HELPER_QUEUES].process.pid))
                return true;
        for (size_t i = 0; i < ELEMENTSOF(guard->retired); i++)
                if (waits_for_memory(guard->retired[i].pid))
                        return true;
        return false;
}
