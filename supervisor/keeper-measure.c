/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What everybody uses, and in which system calls everybody is, at the moment: asked for by the supervisor while a client wants to know. One job for
 * all of them, nothing is watched in between.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/measure.h"
#include "supervisor/sample.h"

#define JOBS_MAX 2 /* of a kind at a time: one may hang, in a process that begins to execute a program and hangs there */

typedef struct Measured {
        uint32_t node;
        uint64_t generation;
        int dir_fd; /* its own: the life may be over before the job is. -1: there is no descriptor left for it, and it is not told of */
        pid_t reaper;
        int r;
        union {
                KeeperMeasure measure;
                KeeperSample sample;
        };
} Measured;

typedef struct MeasureJob {
        Job job;
        Keeper *keeper;
        KeeperMsgType answer; /* MEASURED or SAMPLED */
        uint64_t asked_ns;
        size_t n;
        Measured all[]; /* the last: the dataflow itself, of which nobody is sampled. It is told of in any case */
} MeasureJob;

static unsigned *n_jobs(Keeper *k, KeeperMsgType answer)
{
        return answer == KEEPER_MSG_MEASURED ? &k->n_measures : &k->n_samples;
}

static MeasureJob *measure_job_free(MeasureJob *j)
{
        for (size_t i = 0; i < j->n; i++)
                j->all[i].dir_fd = fd_close(j->all[i].dir_fd);
        free(j);
        return NULL;
}

static int measure_one(Measured *m, KeeperMsgType answer)
{
        if (m->dir_fd < 0)
                return -EBADF;
        return answer == KEEPER_MSG_MEASURED ? measure_read(&m->measure, m->dir_fd, m->reaper) : sample_read(&m->sample, m->dir_fd, m->reaper);
}

static void run_measure(Job *job)
{
        MeasureJob *j = container_of(job, MeasureJob, job);

        for (size_t i = 0; i < j->n; i++)
                j->all[i].r = measure_one(&j->all[i], j->answer);
}

static void report(Keeper *k, KeeperMsgType answer, uint64_t asked_ns, const Measured *m)
{
        KeeperMsg msg = {.type = answer, .node = m->node, .generation = m->generation};

        if (answer == KEEPER_MSG_MEASURED) {
                msg.measured.asked_ns = asked_ns;
                msg.measured.measure = m->measure;
        } else {
                msg.sampled.asked_ns = asked_ns;
                msg.sampled.sample = m->sample;
        }
        keeper_report(k, &msg, -1);
}

static void on_measured(Job *job)
{
        MeasureJob *j = container_of(job, MeasureJob, job);

        for (size_t i = 0; i < j->n; i++)
                if (j->all[i].r == 0 || j->all[i].node == KEEPER_NODE_ALL)
                        report(j->keeper, j->answer, j->asked_ns, &j->all[i]);
        --*n_jobs(j->keeper, j->answer);
        j = measure_job_free(j);
}

static bool is_measured(const Incarnation *inc)
{
        return !inc->job && !inc->over && inc->started && inc->cgroup_fd >= 0;
}

static MeasureJob *measure_job_new(Keeper *k, KeeperMsgType answer, uint64_t asked_ns)
{
        bool whole = answer == KEEPER_MSG_MEASURED && enforcer_has_cgroup(k->enforcer);
        Incarnation *inc, *next;
        MeasureJob *j;
        size_t n = 1;

        list_for_each(inc, next, &k->incarnations, link)
                n += is_measured(inc);
        j = calloc(1, sizeof(*j) + n * sizeof(j->all[0]));
        if (!j)
                return NULL;
        j->keeper = k;
        j->answer = answer;
        j->asked_ns = asked_ns;
        list_for_each(inc, next, &k->incarnations, link)
                if (is_measured(inc))
                        j->all[j->n++] = (Measured){.node = inc->entry->node, .generation = inc->generation,
                                .dir_fd = fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3), .reaper = inc->reaper.pidfd >= 0 && !inc->reaper_ended ? inc->reaper.pid : 0};
        j->all[j->n++] = (Measured){.node = KEEPER_NODE_ALL, .dir_fd = whole ? fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3) : -1};
        j->job.run = run_measure;
        j->job.on_done = on_measured;
        return j;
}

static void measure_all(Keeper *k, KeeperMsgType answer, uint64_t asked_ns)
{
        MeasureJob *j = *n_jobs(k, answer) < JOBS_MAX ? measure_job_new(k, answer, asked_ns) : NULL;

        if (j && jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0) {
                ++*n_jobs(k, answer);
                return;
        }
        report(k, answer, asked_ns, &(Measured){.node = KEEPER_NODE_ALL}); /* of nobody */
        if (j)
                j = measure_job_free(j);
}

void keeper_measure(Keeper *k, uint64_t asked_ns)
{
        measure_all(k, KEEPER_MSG_MEASURED, asked_ns);
}

void keeper_sample(Keeper *k, uint64_t asked_ns)
{
        measure_all(k, KEEPER_MSG_SAMPLED, asked_ns);
}
