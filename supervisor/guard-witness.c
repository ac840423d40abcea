/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The witness of a supervisor: forked on its word, its socket and pidfd handed over, reaped. A successor asks for one of its own; the
 * old one leaves when its supervisor's end hangs up.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/guard-internal.h"

static int start(Guard *guard)
{
        struct guard_record record = {.type = GUARD_MSG_WITNESS, .epoch = guard->epoch};
        _cleanup_fd_ int ours = -1, theirs = -1;
        GuardProcess process;
        struct stat st;
        int pair[2], r;

        if (!enforcer_has_cgroup(guard->instance.enforcer))
                return -ENOTSUP;
        if (fstat(guard->instance.dir_fd, &st) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        ours = pair[0];
        theirs = pair[1];
        r = guard_fork_witness(guard, theirs, st.st_ino, &process);
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
