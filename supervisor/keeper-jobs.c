/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-jobs.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/priority.h"

#if defined(__SANITIZE_ADDRESS__)
#define STACK_SIZE (1024 * 1024)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STACK_SIZE (1024 * 1024)
#endif
#endif
#ifndef STACK_SIZE
#define STACK_SIZE (256 * 1024) /* untouched pages cost nothing; a walk of a cgroup tree takes 10 KiB of it */
#endif

static const unsigned max_working[_JOB_KIND_MAX] = {[JOB_SPAWN] = JOBS_SPAWNERS, [JOB_WORK] = JOBS_WORKERS};

/* With the lock held. */
static void tell(Jobs *jobs, Job *job)
{
        uint64_t one = 1;

        if (list_empty(&job->events_link))
                list_append(&jobs->events, &job->events_link);
        (void)!write(jobs->event_fd, &one, sizeof(one)); /* full means that it is readable already */
}

void job_announce(Job *job)
{
        Jobs *jobs = job->jobs;

        pthread_mutex_lock(&jobs->lock);
        job->announced = true;
        tell(jobs, job);
        pthread_mutex_unlock(&jobs->lock);
}

/* Takes the next job of the queue if it may be worked on now. With the lock held. */
static Job *take_job(JobQueue *q, JobKind kind)
{
        Job *job = list_first(&q->waiting, Job, link);

        if (!job || q->n_working >= max_working[kind])
                return NULL;
        list_unlink(&job->link);
        job->started = true;
        q->n_working++;
        return job;
}

static void *thread_main(void *arg)
{
        Job *job = arg;
        Jobs *jobs = job->jobs;
        JobKind kind = job->kind;
        JobQueue *q = &jobs->queues[kind];

        for (;;) {
                job->run(job);
                pthread_mutex_lock(&jobs->lock);
                if (!job->given_up)
                        q->n_working--;
                job->done = true;
                tell(jobs, job); /* from here on the job is the loop's, and may be gone */
                while (!(job = take_job(q, kind))) {
                        if (kind != JOB_SPAWN) {
                                pthread_mutex_unlock(&jobs->lock);
                                return NULL;
                        }
                        q->n_idle++;
                        while (q->n_called == 0)
                                pthread_cond_wait(&q->wake, &jobs->lock);
                        q->n_called--;
                }
                pthread_mutex_unlock(&jobs->lock);
        }
}

/*
 * Counted here and not where it wakes up: two jobs in a row must not both rely on one idle thread. With the lock
 * held.
 */
static bool call_idle(JobQueue *q)
{
        if (q->n_idle == 0)
                return false;
        q->n_idle--;
        q->n_called++;
        pthread_cond_signal(&q->wake);
        return true;
}

static int make_thread(Job *job)
{
        pthread_attr_t attr;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attr);
        if (r)
                return -r;
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        (void)pthread_attr_setstacksize(&attr, STACK_SIZE);
        r = pthread_create(&thread, &attr, thread_main, job);
        (void)pthread_attr_destroy(&attr);
        return -r;
}

/* A thread for the job that has waited longest, if there may be one more. With the lock held. */
static int engage(JobQueue *q, JobKind kind)
{
        Job *job;
        int r;

        if (list_empty(&q->waiting) || call_idle(q))
                return 0;
        job = take_job(q, kind);
        if (!job)
                return 0; /* enough are at work, and will come to it */
        r = make_thread(job);
        if (r) {
                q->n_working--;
                job->started = false;
                list_append(q->waiting.next, &job->link); /* in front, where it came from */
        }
        return r;
}

int jobs_submit(Jobs *jobs, Job *job, JobKind kind)
{
        JobQueue *q = &jobs->queues[kind];
        int r;

        job->jobs = jobs;
        job->kind = kind;
        list_init(&job->link);
        list_init(&job->events_link);
        pthread_mutex_lock(&jobs->lock);
        list_append(&q->waiting, &job->link);
        r = engage(q, kind);
        if (r && q->n_working == 0 && !job->started)
                list_unlink(&job->link);
        else {
                r = 0; /* those at work will come to it */
                jobs->n_jobs++;
        }
        pthread_mutex_unlock(&jobs->lock);
        return r ? error_origin(r) : 0;
}

bool job_give_up(Job *job)
{
        Jobs *jobs = job->jobs;
        JobQueue *q = &jobs->queues[job->kind];
        bool waiting;

        pthread_mutex_lock(&jobs->lock);
        waiting = !job->started;
        if (waiting) {
                list_unlink(&job->link);
                jobs->n_jobs--;
        } else if (!job->done && !job->given_up) {
                job->given_up = true;
                q->n_working--;
                (void)engage(q, job->kind); /* no thread now: the next job's submission tries again */
        }
        pthread_mutex_unlock(&jobs->lock);
        return waiting;
}

bool jobs_idle(Jobs *jobs)
{
        bool idle;

        pthread_mutex_lock(&jobs->lock);
        idle = jobs->n_jobs == 0;
        pthread_mutex_unlock(&jobs->lock);
        return idle;
}

static void on_event(KeeperSource *source, uint32_t events)
{
        Jobs *jobs = container_of(source, Jobs, source);
        uint64_t n;
        Job *job;

        (void)!read(jobs->event_fd, &n, sizeof(n)); /* only resets it */
        for (;;) {
                bool announced, done;

                pthread_mutex_lock(&jobs->lock);
                job = list_first(&jobs->events, Job, events_link);
                if (job)
                        list_unlink(&job->events_link);
                announced = job && job->announced;
                if (announced)
                        job->announced = false;
                done = job && job->done;
                jobs->n_jobs -= done;
                pthread_mutex_unlock(&jobs->lock);
                if (!job)
                        return;
                if (announced && job->on_announce)
                        job->on_announce(job);
                if (done)
                        job->on_done(job);
        }
}

int jobs_init(Jobs *jobs, KeeperLoop *loop)
{
        *jobs = (Jobs){.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .source = KEEPER_SOURCE_INIT};
        if (jobs->event_fd < 0)
                return error_origin(-errno);
        priority_lock_init(&jobs->lock);
        list_init(&jobs->events);
        for (int i = 0; i < _JOB_KIND_MAX; i++) {
                list_init(&jobs->queues[i].waiting);
                (void)pthread_cond_init(&jobs->queues[i].wake, NULL);
        }
        return keeper_loop_add(loop, &jobs->source, jobs->event_fd, EPOLLIN, on_event);
}
