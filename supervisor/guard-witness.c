/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The witness of a supervisor: forked on its word, its socket and pidfd handed over, reaped. A successor asks for one of its own; the
 * old one leaves when its supervisor's end hangs up.
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

/* A program of its own, beside ours: who supervises needs nothing of what it is made of. */
void guard_witness_find(Guard *guard)
{
        static const char file[] = "tidegate-witness";
        char path[PATH_MAX + sizeof(file)], *slash;

        (void)snprintf(path, sizeof(path), "%.4095s", guard->options->program ? guard->options->program : "");
        slash = strrchr(path, '/');
        guard->witness_program = -ENOENT;
        if (!slash)
                return;
        memcpy(slash + 1, file, sizeof(file));
        guard->witness_program = open(path, O_PATH | O_CLOEXEC);
        if (guard->witness_program < 0)
                guard->witness_program = -errno;
}

static int fork_witness(const Guard *guard, int socket_fd, uint64_t cgroup_id, GuardProcess *ret)
{
        char sock[16], id[24], name[] = "tidegate-witness", *argv[] = {name, sock, id, NULL};
        int pidfd = -1;
        pid_t pid;

        (void)snprintf(sock, sizeof(sock), "%d", socket_fd);
        (void)snprintf(id, sizeof(id), "%llu", (unsigned long long)cgroup_id);
        pid = fork_pidfd(0, &pidfd);
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                (void)fcntl(socket_fd, F_SETFD, 0);
                (void)fcntl(guard->witness_program, F_SETFD, 0); /* a script would be read from it */
                (void)execveat(guard->witness_program, "", argv, environ, AT_EMPTY_PATH);
                _exit(127);
        }
        *ret = (GuardProcess){.pid = pid, .pidfd = pidfd};
        return 0;
}

static int start(Guard *guard)
{
        struct guard_record record = {.type = GUARD_MSG_WITNESS, .epoch = guard->epoch};
        _cleanup_fd_ int ours = -1, theirs = -1;
        GuardProcess process;
        struct stat st;
        int pair[2], r;

        if (!enforcer_has_cgroup(guard->instance.enforcer))
                return -ENOTSUP;
        if (guard->witness_program < 0)
                return guard->witness_program;
        if (fstat(guard->instance.dir_fd, &st) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        theirs = pair[1];
        r = fork_witness(guard, theirs, st.st_ino, &process);
        if (r)
                return r;
        guard_process_kill(&guard->witness);
        (void)fd_close(guard->witness.pidfd); /* reaped as a stranger */
        guard->witness = process;
        record.pid = process.pid;
        (void)guard_record_send(guard->supervisor_fd, &record, (int[]){ours, process.pidfd}, 2); /* lost: it ends, for nobody holds its other end */
        return 0;
}

void guard_witness_start(Guard *guard)
{
        int r = guard->state == GUARD_RUNNING ? start(guard) : -ESHUTDOWN;

        if (r)
                guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_WITNESS_FAILED, .error = -r});
}

bool guard_witness_on_exit(Guard *guard, const siginfo_t *si)
{
        if (si->si_pid != guard->witness.pid)
                return false;
        guard->witness.pid = 0;
        guard->witness.pidfd = fd_close(guard->witness.pidfd);
        return true;
}
