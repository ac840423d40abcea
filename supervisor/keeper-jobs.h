/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can block runs as a Job in a thread; what it found comes back to the loop.
 *
 * Two kinds of threads. Spawners are kept for good once made, for a thread's exit would fire the PR_SET_PDEATHSIG of
 * every node it started; at most JOBS_SPAWNERS work at a time, not counting those given up on, which hang in the
 * kernel and cost nobody anything. Workers live for one job each (kill, signal, look, remove), at most JOBS_WORKERS
 * at a time; more jobs wait.
 *
 * Threads: every function is called by the loop's thread, except job_announce() and what says otherwise.
 */
#ifndef TG_SUPERVISOR_KEEPER_JOBS_H
#define TG_SUPERVISOR_KEEPER_JOBS_H

#include <pthread.h>
#include <stdbool.h>

#include "base/list.h"
#include "supervisor/keeper-loop.h"

#define JOBS_SPAWNERS 64
#define JOBS_WORKERS  128

typedef struct Job Job;
typedef struct Jobs Jobs;

typedef enum JobKind {
        JOB_SPAWN,
        JOB_WORK,
        _JOB_KIND_MAX,
} JobKind;

struct Job {
        void (*run)(Job *job);         /* in a thread; must not touch anything that is not the job's own */
        void (*on_announce)(Job *job); /* in the loop, once, after job_announce(); may be NULL */
        void (*on_done)(Job *job);     /* in the loop, after run() returned; frees the job */

        Jobs *jobs;
        JobKind kind;
        bool started, announced, done, given_up;
        ListLink link;        /* among those that wait */
        ListLink events_link; /* among those with something to tell */
};

typedef struct JobQueue {
        List waiting;
        unsigned n_working; /* without those given up on */
        unsigned n_idle;    /* spawners without a job that nobody has called yet */
        unsigned n_called;  /* calls to idle spawners that have not been heard yet */
        pthread_cond_t wake;
} JobQueue;

struct Jobs {
        pthread_mutex_t lock;
        JobQueue queues[_JOB_KIND_MAX];
        List events;
        int event_fd;
        KeeperSource source;
        unsigned n_jobs; /* submitted and not yet dealt with */
};

int jobs_init(Jobs *jobs, KeeperLoop *loop);

/**
 * jobs_submit() - run @job as soon as a thread is free for it
 *
 * Return: 0 (the job's callbacks follow, from the loop), or -EAGAIN, -ENOMEM when no thread could be made and none
 * exists that would come to it: then nothing follows and the job is still the caller's.
 */
int jobs_submit(Jobs *jobs, Job *job, JobKind kind);

/*
 * job_give_up() - it hangs: do not count it among those at work. True when it had not started: it never will, and
 * on_done is not called.
 */
bool job_give_up(Job *job);

/* jobs_idle() - no job is waiting, at work (given up on or not), or done but not yet dealt with. */
bool jobs_idle(Jobs *jobs);

/* job_announce() - from run(): have on_announce called in the loop. Once. */
void job_announce(Job *job);

#endif
