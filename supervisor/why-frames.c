/* SPDX-License-Identifier: Apache-2.0 */
/* Whose stacks are read: of who is blamed, and of others of its process whom it waits for. */
#include "supervisor/why.h"

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
        if (why->n_stacks && why_confine(why, pid))
                stacks_read(pid, why->stacks, why->n_stacks);
}
