/* SPDX-License-Identifier: Apache-2.0 */
/* In which system calls everybody is at the moment, asked for by the supervisor while a client wants to know: one job for all of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/sample.h"

#define JOBS_MAX 2 /* at a time: one may hang, in a process that hangs where it executes a program */

typedef struct Sampled {
        uint32_t node;
        uint64_t generation;
        int dir_fd; /* its own: the life may be over before the job is. -1: there is no descriptor left for it, and it is not told of */
        pid_t reaper;
        int r;
        KeeperSample sample;
} Sampled;

typedef struct SampleJob {
        Job job;
        Keeper *keeper;
        uint64_t asked_ns;
        size_t n;
        Sampled all[];
} SampleJob;

static SampleJob *sample_job_free(SampleJob *j)
{
        for (size_t i = 0; i < j->n; i++)
                j->all[i].dir_fd = fd_close(j->all[i].dir_fd);
        free(j);
        return NULL;
}

static void run_sample(Job *job)
{
        SampleJob *j = container_of(job, SampleJob, job);

        for (size_t i = 0; i < j->n; i++)
                j->all[i].r = j->all[i].dir_fd < 0 ? -EBADF : sample_read(&j->all[i].sample, j->all[i].dir_fd, j->all[i].reaper);
}

static void report(Keeper *k, const Sampled *s, uint64_t asked_ns)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_SAMPLED, .node = s->node, .generation = s->generation, .sampled = {asked_ns, s->sample}}, -1);
}

static void report_end(Keeper *k, uint64_t asked_ns)
{
        report(k, &(Sampled){.node = KEEPER_NODE_ALL}, asked_ns);
}

static void on_sampled(Job *job)
{
        SampleJob *j = container_of(job, SampleJob, job);

        for (size_t i = 0; i < j->n; i++)
                if (j->all[i].r == 0)
                        report(j->keeper, &j->all[i], j->asked_ns);
        report_end(j->keeper, j->asked_ns);
        j->keeper->n_samples--;
        j = sample_job_free(j);
}

static bool is_sampled(const Incarnation *inc)
{
        return !inc->job && !inc->over && inc->started && inc->cgroup_fd >= 0;
}

static SampleJob *sample_job_new(Keeper *k, uint64_t asked_ns)
{
        Incarnation *inc, *next;
        SampleJob *j;
        size_t n = 0;

        list_for_each(inc, next, &k->incarnations, link)
                n += is_sampled(inc);
        j = calloc(1, sizeof(*j) + n * sizeof(j->all[0]));
        if (!j)
                return NULL;
        j->keeper = k;
        j->asked_ns = asked_ns;
        list_for_each(inc, next, &k->incarnations, link)
                if (is_sampled(inc))
                        j->all[j->n++] = (Sampled){.node = inc->entry->node, .generation = inc->generation,
                                .dir_fd = fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3), .reaper = inc->reaper.pidfd >= 0 && !inc->reaper_ended ? inc->reaper.pid : 0};
        j->job.run = run_sample;
        j->job.on_done = on_sampled;
        return j;
}

void keeper_sample(Keeper *k, uint64_t asked_ns)
{
        SampleJob *j = k->n_samples < JOBS_MAX ? sample_job_new(k, asked_ns) : NULL;

        if (j && jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0) {
                k->n_samples++;
                return;
        }
        report_end(k, asked_ns);
        if (j)
                j = sample_job_free(j);
}
