/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A start that is under way: keeper-spawn.c (a child of ours), keeper-capture.c (a process that is there already). Its thread touches the job
 * alone; all that is done to the incarnation is done in the loop.
 */
#ifndef TG_SUPERVISOR_KEEPER_SPAWN_H
#define TG_SUPERVISOR_KEEPER_SPAWN_H

#include "supervisor/keeper-internal.h"

#define N_SPAWN_FDS 6 /* spec, stdout write, stderr write, stdout read, stderr read, socket */

/* Everything the spawner thread touches; the incarnation itself is the loop's alone. */
struct SpawnJob {
        Job job;
        Incarnation *inc; /* not touched by the thread */
        SpawnOutcome outcome;
        Confine *confine; /* the keeper's; has a lock of its own */
        bool may_write_cgroups; /* the plan wants it so */
        SpawnPlan plan;
        KeeperSpec spec;
        void *spec_buffer;
        uint64_t spec_size;
        int dataflow_fd;
        char *cgroup;
        int fds[N_SPAWN_FDS];
        int cgroup_fd, events_fd; /* from the announcement on the incarnation's */
        bool made, executed; /* executed: or captured */
        int capture_fd; /* pidfd of the process to capture; -1: this is a start */
        nsec_t capture_deadline;
        Keeper *keeper;     /* the thread uses its reapers only */
        Enforcer enforcer;
        Reaper reaper;
        bool takeover;      /* the cgroup may be there, and the process in it: another keeper was at it */
        char *ours, *place; /* paths: of all cgroups of ours, of this one */
        char why[KEEPER_MSG_TEXT_MAX];
        char *limits, *missing; /* missing: what the keeper knew of controllers when the job was made */
        bool lenient, group_oom, limits_failed;
        char refused[KEEPER_MSG_LIMITS_MAX + 1];
        _Atomic bool spec_read; /* the specification may be read by the loop, for messages */
};

/* incarnation_new() - with a job that has nothing to do yet. NULL: without memory. */
Incarnation *incarnation_new(Keeper *k, const KeeperMsg *msg, const char *id, const char *limits, bool lenient);

/* incarnation_fail_unstarted() - the start fails before any thread saw it. */
void incarnation_fail_unstarted(Incarnation *inc, KeeperStage stage, int error, const char *text);

/* In the thread. The cgroup, with its limits: 0 or -errno; the step is in the outcome. */
int spawn_job_make_place(SpawnJob *j);

/* In the loop. spawn_job_place_made(): the job's on_announce. spawn_job_end(): all was told of how it went; consumes the job. */
void spawn_job_place_made(Job *job);
void incarnation_report_spawned(Incarnation *inc, pid_t pid);
void incarnation_report_failed(Incarnation *inc, KeeperStage stage, int error, const char *text);
void incarnation_report_refused(Incarnation *inc, const SpawnJob *j);
void spawn_job_end(Incarnation *inc, SpawnJob *j);

#endif
