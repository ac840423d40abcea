/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helpers of a supervisor: programs that load kernel probes for it. Forked on its word, socket and pidfd handed over, reaped. A successor asks
 * for its own; those of a dead one leave when their supervisor's end hangs up.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fork.h"
#include "supervisor/guard-internal.h"

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
        pid = fork_pidfd(0, &pidfd);
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                (void)fcntl(socket_fd, F_SETFD, 0);
                (void)fcntl(program, F_SETFD, 0); /* a script would be read from it */
                (void)execveat(program, "", argv, environ, AT_EMPTY_PATH);
                _exit(127);
        }
        *ret = (GuardProcess){.pid = pid, .pidfd = pidfd};
        return 0;
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
        guard_process_kill(last);
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
                guard_process_kill(&guard->helpers[i].process);
}

bool guard_helpers_are_gone(const Guard *guard)
{
        for (unsigned i = 0; i < _GUARD_HELPER_MAX; i++)
                if (guard->helpers[i].process.pid > 0)
                        return false;
        return true;
}
