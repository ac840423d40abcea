/* SPDX-License-Identifier: Apache-2.0 */
/* Those of an incarnation whom the kernel saw leave its cgroup (supervisor/witness.h): no pass over /proc, one process at a time, at once. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/keeper-internal.h"

#define TOLD_MAX 256 /* under way; beyond, a later look tells of them again */

typedef struct ToldJob {
        Job job;
        Keeper *keeper;
        uint32_t node;
        uint64_t generation, start_ns;
        bool alone;
        char *place; /* strays_place() */
        Stray stray; /* in: pid, comm, to; out, if it was found, all of it */
        bool found, killed;
} ToldJob;

static ToldJob *told_free(ToldJob *j)
{
        j->stray.pidfd = fd_close(j->stray.pidfd);
        free(j->place);
        free(j);
        return NULL;
}

/* In a thread. Whoever is to be left alone is only looked at. */
static void run_told(Job *job)
{
        ToldJob *j = container_of(job, ToldJob, job);
        Stray stray;

        j->found = stray_take(j->stray.pid, j->start_ns, j->place, &stray);
        if (!j->found)
                return;
        j->stray = stray;
        j->killed = !j->alone && syscall(SYS_pidfd_send_signal, stray.pidfd, SIGKILL, NULL, 0) == 0;
}

static void on_told(Job *job)
{
        ToldJob *j = container_of(job, ToldJob, job);
        KeeperMsg about = {.node = j->node, .generation = j->generation};
        Incarnation *inc = incarnation_find(j->keeper, j->node, j->generation);
        bool is_new = true;

        j->keeper->n_told--;
        if (inc && j->found && !j->alone)
                is_new = strays_remember(inc, &j->stray);
        if (inc)
                inc->n_told_killed += j->killed;
        if (is_new)
                strays_report(j->keeper, &about, strays_from(j->keeper, j->place), &j->stray, j->alone ? KEEPER_ESCAPED_ALONE : j->killed ? SIGKILL : j->found ? 0 : KEEPER_ESCAPED_GONE);
        j = told_free(j);
}

void strays_told(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *inc = incarnation_find(k, msg->node, msg->generation);
        ToldJob *j;

        if (!inc || k->n_told >= TOLD_MAX) /* over: then nobody of it was left */
                return;
        j = calloc(1, sizeof(*j));
        if (!j)
                return;
        j->place = strays_place(inc);
        if (!j->place) {
                free(j);
                return;
        }
        j->keeper = k;
        j->node = msg->node;
        j->generation = msg->generation;
        j->start_ns = msg->astray.start_ns;
        j->alone = msg->astray.alone;
        j->stray = (Stray){.pid = msg->astray.pid, .pidfd = -1};
        (void)snprintf(j->stray.comm, sizeof(j->stray.comm), "%s", msg->astray.comm);
        (void)snprintf(j->stray.to, sizeof(j->stray.to), "%s", msg->astray.to);
        j->job.run = run_told;
        j->job.on_done = on_told;
        k->n_told++;
        if (jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0)
                return;
        k->n_told--; /* looked for at the end, like everybody */
        j = told_free(j);
}
