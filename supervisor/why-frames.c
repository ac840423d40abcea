/* SPDX-License-Identifier: Apache-2.0 */
/* Whose stacks are read, and with which privilege: that of whom they are of, for files that it has mapped are opened and parsed. */
#include "supervisor/why.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* By system calls: this process has one thread, and nothing of libc's need know. False: it stays what it is. */
static bool become(pid_t pid)
{
        char path[32];
        struct stat st;

        (void)snprintf(path, sizeof(path), "/proc/%d", pid);
        if (geteuid() != 0)
                return true;
        if (stat(path, &st) < 0)
                return false;
        if (st.st_uid == 0)
                return true;
        if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, st.st_gid, st.st_gid, st.st_gid) < 0 ||
                syscall(SYS_setresuid, st.st_uid, st.st_uid, st.st_uid) < 0)
                return false;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the change has cleared both */
        (void)prctl(PR_SET_DUMPABLE, 0);
        return true;
}

static void take(Why *why, const WhyThread *t)
{
        for (size_t i = 0; i < why->n_stacks; i++)
                if (why->stacks[i].tid == t->task.tid)
                        return;
        if (why->n_stacks < WHY_STACKS_MAX && t->call.known)
                why->stacks[why->n_stacks++] = (Stack){.tid = t->task.tid, .sp = t->call.sp, .pc = t->call.pc};
}

void why_read_stacks(Why *why)
{
        int at = why->blamed;
        pid_t pid = at >= 0 ? why->threads[at].task.pid : 0;

        for (unsigned n = 0; at >= 0 && n < WHY_STACKS_MAX; n++) {
                if (why->threads[at].task.pid == pid)
                        take(why, &why->threads[at]);
                at = why->threads[at].next;
        }
        if (why->n_stacks && become(pid))
                stacks_read(pid, why->stacks, why->n_stacks);
}
