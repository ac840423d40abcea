/* SPDX-License-Identifier: Apache-2.0 */
/* What everybody uses at the moment, asked for by the supervisor when a client wants to know: one job for all of them, nothing is sampled. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/measure.h"

#define JOBS_MAX 2 /* at a time: one may hang, in a process that hangs where it executes a program */

typedef struct Measured {
        uint32_t node;
        uint64_t generation;
        int dir_fd; /* its own: the life may be over before the job is. -1: there is no descriptor left for it, and it is not told of */
        pid_t reaper;
        int r;
        KeeperMeasure measure;
} Measured;

typedef struct MeasureJob {
        Job job;
        Keeper *keeper;
        uint64_t asked_ns;
        size_t n;
        Measured all[]; /* the last: the dataflow itself */
} MeasureJob;

static MeasureJob *measure_job_free(MeasureJob *j)
{
        for (size_t i = 0; i < j->n; i++)
                j->all[i].dir_fd = fd_close(j->all[i].dir_fd);
        free(j);
        return NULL;
}

static void run_measure(Job *job)
{
        MeasureJob *j = container_of(job, MeasureJob, job);

        for (size_t i = 0; i < j->n; i++)
                j->all[i].r = j->all[i].dir_fd < 0 ? -EBADF : measure_read(&j->all[i].measure, j->all[i].dir_fd, j->all[i].reaper);
}

static void report(Keeper *k, const Measured *m, uint64_t asked_ns)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_MEASURED, .node = m->node, .generation = m->generation, .measured = {asked_ns, m->measure}}, -1);
}

static void on_measured(Job *job)
{
        MeasureJob *j = container_of(job, MeasureJob, job);

        for (size_t i = 0; i < j->n; i++)
                if (j->all[i].r == 0 || j->all[i].node == KEEPER_NODE_ALL)
                        report(j->keeper, &j->all[i], j->asked_ns);
        j->keeper->n_measures--;
        j = measure_job_free(j);
}

static bool is_measured(const Incarnation *inc)
{
        return !inc->job && !inc->over && inc->started && inc->cgroup_fd >= 0;
}

static MeasureJob *measure_job_new(Keeper *k, uint64_t asked_ns)
{
        Incarnation *inc, *next;
        MeasureJob *j;
        size_t n = 1;

        list_for_each(inc, next, &k->incarnations, link)
                n += is_measured(inc);
        j = calloc(1, sizeof(*j) + n * sizeof(j->all[0]));
        if (!j)
                return NULL;
        j->keeper = k;
        j->asked_ns = asked_ns;
        list_for_each(inc, next, &k->incarnations, link)
                if (is_measured(inc))
                        j->all[j->n++] = (Measured){.node = inc->entry->node, .generation = inc->generation,
                                .dir_fd = fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3), .reaper = inc->reaper.pidfd >= 0 && !inc->reaper_ended ? inc->reaper.pid : 0};
        j->all[j->n++] = (Measured){.node = KEEPER_NODE_ALL,
                .dir_fd = enforcer_has_cgroup(k->enforcer) ? fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3) : -1};
        j->job.run = run_measure;
        j->job.on_done = on_measured;
        return j;
}

void keeper_measure(Keeper *k, uint64_t asked_ns)
{
        MeasureJob *j = k->n_measures < JOBS_MAX ? measure_job_new(k, asked_ns) : NULL;

        if (j && jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0) {
                k->n_measures++;
                return;
        }
        report(k, &(Measured){.node = KEEPER_NODE_ALL}, asked_ns); /* of nobody */
        if (j)
                j = measure_job_free(j);
}
