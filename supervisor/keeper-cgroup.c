/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to cgroups on order: signal, kill, look, remove; each in a thread of its own. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/sweep.h"

#define KILL_LOOK_SPAN (150 * NSEC_PER_MSEC) /* whoever outlives SIGKILL for so long is looked at for the first time */

typedef struct Tally {
        uint32_t node;
        uint64_t generation;
        char *cgroup;
        uint32_t n;
} Tally;

typedef struct CgroupJob {
        Job job;
        Keeper *keeper;
        KeeperMsg order; /* what it answers */
        int dir_fd;      /* SIGNAL, KILL, LOOK: the cgroup; REMOVE: the one it lies in */
        nsec_t until;
        SweepResult result;
        int r;
        uint32_t n;    /* KILL: there at its beginning; LOOK: tasks */
        nsec_t at;     /* KILL: its beginning */
        uint32_t n_left, n_left_cgroups; /* REMOVE of the dataflow's, when it failed */
        bool quiet;    /* our own doing: no answer */
        bool answered; /* KILL: KILLING was dealt with */
        char *name;    /* REMOVE */
        KeeperRemoved removed;
        Tally *tallies; /* KILL of everybody: how many each incarnation had */
        size_t n_tallies;
        Look *look;       /* LOOK */
} CgroupJob;

static CgroupJob *cgroup_job_free(CgroupJob *j)
{
        j->dir_fd = fd_close(j->dir_fd);
        for (size_t i = 0; i < j->n_tallies; i++)
                free(j->tallies[i].cgroup);
        if (j->look)
                j->look->leader_fd = fd_close(j->look->leader_fd);
        for (unsigned i = 0; j->look && i < j->look->n_strays; i++)
                j->look->strays[i].pidfd = fd_close(j->look->strays[i].pidfd);
        free(j->look);
        free(j->tallies);
        free(j->name);
        free(j);
        return NULL;
}

static CgroupJob *cgroup_job_new(Keeper *k, const KeeperMsg *order, int dir_fd)
{
        CgroupJob *j = calloc(1, sizeof(*j));

        if (!j)
                return NULL;
        j->keeper = k;
        j->order = *order;
        j->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 3); /* its own: the incarnation may be over before the job is */
        return j->dir_fd < 0 ? cgroup_job_free(j) : j;
}

/* No thread to be had: then here and now, without any waiting, rather than not at all. */
static void submit(CgroupJob *j)
{
        if (jobs_submit(&j->keeper->jobs, &j->job, JOB_WORK) == 0)
                return;
        j->until = 0;
        list_init(&j->job.events_link);
        j->job.jobs = NULL;
        j->job.run(&j->job);
        j->job.on_done(&j->job);
}

/* Answers an order about nobody who is (still) there. */
static void answer_nobody(Keeper *k, const KeeperMsg *order, KeeperMsgType type)
{
        keeper_report(k, &(KeeperMsg){.type = type, .node = order->node, .generation = order->generation}, -1);
}

static void run_signal(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);

        j->r = sweep_signal(j->dir_fd, j->order.signal.signo, j->until, &j->result);
}

static void on_signalled(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        KeeperMsg msg = {.type = KEEPER_MSG_SIGNALLED,
                .node = j->order.node,
                .generation = j->order.generation,
                .signalled = {.n = j->result.n_found, .error = j->result.error ? j->result.error : j->r < 0 ? -j->r : 0}};

        if (!j->quiet)
                keeper_report(j->keeper, &msg, -1);
        j = cgroup_job_free(j);
}

/* The cgroup an order is about: an incarnation's, or everybody's. -1: nobody of that name, or not made yet. */
static int cgroup_of(Keeper *k, const KeeperMsg *order, Incarnation **ret_inc)
{
        *ret_inc = order->node == KEEPER_NODE_ALL ? NULL : incarnation_find(k, order->node, order->generation);
        if (order->node == KEEPER_NODE_ALL)
                return k->dataflow_fd;
        return *ret_inc && !(*ret_inc)->over ? (*ret_inc)->cgroup_fd : -1;
}

void keeper_start_signal(Keeper *k, const KeeperMsg *order, int fd, bool quiet)
{
        CgroupJob *j = fd >= 0 ? cgroup_job_new(k, order, fd) : NULL;

        if (!j) {
                if (!quiet)
                        answer_nobody(k, order, KEEPER_MSG_SIGNALLED);
                return;
        }
        j->quiet = quiet;
        j->until = nsec_add(clock_now(), NSEC_PER_SEC);
        j->job.run = run_signal;
        j->job.on_done = on_signalled;
        submit(j);
}

void keeper_signal(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *only, *inc, *next;
        int fd = cgroup_of(k, msg, &only);

        /* A child that is being born meanwhile must not be passed by. */
        list_for_each(inc, next, &k->incarnations, link) {
                if (inc != only && msg->node != KEEPER_NODE_ALL)
                        continue;
                if (inc->job && !inc->given_up)
                        inc->pending_signo = msg->signal.signo;
                else if (!only && msg->signal.signo == SIGTERM)
                        strays_look(inc, SIGTERM);
        }
        if (!only || !strays_first(only, msg))
                keeper_start_signal(k, msg, fd, false);
        list_for_each(inc, next, &k->incarnations, link)
                if (inc == only || msg->node == KEEPER_NODE_ALL)
                        incarnation_look_again(inc); /* whether somebody is left may have been read for that */
}

static uint32_t count(int dir_fd)
{
        int n = cgroup_count(dir_fd);

        return n > 0 ? (uint32_t)n : 0;
}

static void run_kill(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        SweepResult first;

        j->at = clock_now();
        for (size_t i = 0; i < j->n_tallies; i++) {
                Tally *t = &j->tallies[i];
                _cleanup_fd_ int fd = openat(j->dir_fd, t->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

                t->n = fd < 0 ? 0 : count(fd);
        }
        j->n = count(j->dir_fd);
        if (job->jobs)
                job_announce(job);
        j->r = sweep_kill(j->dir_fd, MIN(j->until, nsec_add(clock_now(), KILL_LOOK_SPAN)), &j->result);
        if (j->r != SWEEP_E_LEFT || clock_now() >= j->until)
                return;
        first = j->result;
        look_first(j->dir_fd); /* whoever is still doing that when the verdict falls has not moved since */
        j->r = sweep_kill(j->dir_fd, j->until, &j->result);
        sweep_add(&j->result, &first);
}

static void note_killed(Keeper *k, uint32_t node, uint64_t generation, uint32_t n, nsec_t at)
{
        Incarnation *inc = incarnation_find(k, node, generation);

        if (inc)
                incarnation_killed(inc, n, at);
}

static void on_killing(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        KeeperMsg msg = {.type = KEEPER_MSG_KILLING,
                .node = j->order.node,
                .generation = j->order.generation,
                .signalled = {.n = j->n, .at_ns = j->at}};

        note_killed(j->keeper, j->order.node, j->order.generation, j->n, j->at);
        for (size_t i = 0; i < j->n_tallies; i++)
                note_killed(j->keeper, j->tallies[i].node, j->tallies[i].generation, j->tallies[i].n, j->at);
        j->answered = true;
        if (!j->quiet)
                keeper_report(j->keeper, &msg, -1);
}

static void on_killed(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        Keeper *k = j->keeper;
        Incarnation *inc, *next;

        if (!j->answered)
                on_killing(job);
        list_for_each(inc, next, &k->incarnations, link) {
                if (j->order.node != KEEPER_NODE_ALL &&
                        (inc->entry->node != j->order.node || inc->generation != j->order.generation))
                        continue;
                if (j->order.node != KEEPER_NODE_ALL)
                        incarnation_killed(inc, j->result.n_found, j->at);
                if (!inc->job)
                        incarnation_kill_leader(inc);
                incarnation_look_again(inc);
        }
        if (k->phase == KEEPER_ALONE && j->order.node == KEEPER_NODE_ALL) /* and not one that was ordered before, about one of them */
                k->kill_done = true;
        j = cgroup_job_free(j);
}

/* A kill of everybody counts each incarnation before; one that cannot be remembered is killed uncounted. */
static void make_tallies(CgroupJob *j)
{
        Incarnation *inc, *next;
        size_t n = 0;

        list_for_each(inc, next, &j->keeper->incarnations, link)
                n++;
        j->tallies = calloc(n + 1, sizeof(*j->tallies));
        if (!j->tallies)
                return;
        list_for_each(inc, next, &j->keeper->incarnations, link) {
                Tally *t = &j->tallies[j->n_tallies];

                *t = (Tally){.node = inc->entry->node, .generation = inc->generation, .cgroup = strdup(inc->cgroup)};
                if (!inc->over && t->cgroup)
                        j->n_tallies++;
                else
                        free(t->cgroup);
        }
}

void keeper_start_kill(Keeper *k, const KeeperMsg *order, int fd, nsec_t until, bool quiet)
{
        CgroupJob *j = fd >= 0 ? cgroup_job_new(k, order, fd) : NULL;

        if (!j) {
                if (!quiet)
                        answer_nobody(k, order, KEEPER_MSG_KILLING);
                return;
        }
        if (order->node == KEEPER_NODE_ALL)
                make_tallies(j);
        j->quiet = quiet;
        j->until = until;
        j->job.run = run_kill;
        j->job.on_announce = on_killing;
        j->job.on_done = on_killed;
        submit(j);
}

void keeper_kill(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *only, *inc, *next;
        int fd = cgroup_of(k, msg, &only);

        list_for_each(inc, next, &k->incarnations, link) {
                if (inc != only && msg->node != KEEPER_NODE_ALL)
                        continue;
                if (inc->job)
                        incarnation_cancel(inc, msg->kill.until_ns);
                else
                        strays_look(inc, SIGKILL);
        }
        keeper_start_kill(k, msg, fd, msg->kill.until_ns, false);
}

static void run_look(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);

        j->look->dir_fd = j->dir_fd;
        j->look->until = job->jobs ? nsec_add(clock_now(), LOOK_SPAN) : 0;
        look_now(j->look);
}

static void on_looked(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        KeeperMsg msg = {.type = KEEPER_MSG_LEFT,
                .node = j->order.node,
                .generation = j->order.generation,
                .left = {.n = j->look->n, .kind = (uint8_t)j->look->kind, .n_tasks = j->look->n_tasks, .tasks = j->look->tasks, .tasks_size = (uint32_t)j->look->size}};

        keeper_report(j->keeper, &msg, -1);
        j = cgroup_job_free(j);
}

void keeper_look(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *inc;
        int fd = cgroup_of(k, msg, &inc);
        CgroupJob *j = fd >= 0 ? cgroup_job_new(k, msg, fd) : NULL;

        if (j)
                j->look = calloc(1, sizeof(*j->look));
        if (!j || !j->look) {
                j = j ? cgroup_job_free(j) : NULL;
                answer_nobody(k, msg, KEEPER_MSG_LEFT);
                return;
        }
        j->look->leader_fd = inc && inc->pidfd >= 0 && !inc->exited ? fcntl(inc->pidfd, F_DUPFD_CLOEXEC, 3) : -1;
        j->look->leader = j->look->leader_fd >= 0 ? inc->pid : 0;
        j->look->reaper = inc && inc->reaper.pidfd >= 0 && !inc->reaper_ended ? inc->reaper.pid : 0;
        for (unsigned i = 0; inc && i < inc->n_strays; i++) {
                int stray = inc->strays[i].pidfd < 0 ? -1 : fcntl(inc->strays[i].pidfd, F_DUPFD_CLOEXEC, 3);

                if (stray >= 0)
                        j->look->strays[j->look->n_strays++] = (KnownStray){inc->strays[i].pid, inc->strays[i].start_time, stray};
        }
        j->job.run = run_look;
        j->job.on_done = on_looked;
        submit(j);
}

static void run_remove(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);

        j->r = cgroup_remove_tree(j->dir_fd, j->name, j->until);
}

static void on_removed(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);

        j->removed(j->keeper, &j->order, j->r);
        j = cgroup_job_free(j);
}

bool keeper_start_remove(Keeper *k, const KeeperMsg *about, int dir_fd, const char *name, nsec_t until,
        KeeperRemoved removed)
{
        CgroupJob *j = cgroup_job_new(k, about, dir_fd);

        if (!j)
                return false;
        j->name = strdup(name);
        if (!j->name) {
                j = cgroup_job_free(j);
                return false;
        }
        j->until = until;
        j->removed = removed;
        j->job.run = run_remove;
        j->job.on_done = on_removed;
        submit(j);
        return true;
}

static int count_cgroup(int dir_fd, void *userdata)
{
        (*(uint32_t *)userdata)++;
        return 0;
}

static int count_here(pid_t pid, void *userdata)
{
        (void)pid;
        ++*(uint32_t *)userdata;
        return 0;
}

/* No node is left, so whoever is still there has moved up from a node's cgroup, as a node of root's can. */
static void run_remove_dataflow(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        _cleanup_fd_ int fd = openat(j->dir_fd, j->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_fd_ int events = fd < 0 ? -1 : cgroup_open_events(fd);

        if (events >= 0 && cgroup_populated(events) == 1) {
                (void)cgroup_each_process(fd, count_here, &j->n); /* a node that would not die is in one below */
                (void)sweep_kill(fd, j->until, &j->result);       /* what is left is told by the removal that fails */
        }
        j->r = cgroup_remove_tree(j->dir_fd, j->name, j->until);
        if (j->r == 0 || fd < 0)
                return;
        j->n_left = count(fd);
        (void)cgroup_walk(fd, count_cgroup, &j->n_left_cgroups); /* those that can be seen */
}

static void on_dataflow_removed(Job *job)
{
        CgroupJob *j = container_of(job, CgroupJob, job);
        Keeper *k = j->keeper;

        if (j->n > 0)
                keeper_note(k, "%u processes had left the cgroups of their nodes for the dataflow's, and were killed", j->n);
        k->removed = j->r == 0;
        k->n_left = j->n_left;
        k->n_left_cgroups = j->n_left_cgroups;
        k->remove_done = true;
        j = cgroup_job_free(j);
}

void keeper_remove_dataflow(Keeper *k, nsec_t until)
{
        KeeperMsg all = {.type = KEEPER_MSG_KILL, .node = KEEPER_NODE_ALL};

        CgroupJob *j = k->begun ? cgroup_job_new(k, &all, k->instance_fd) : NULL;

        if (j)
                j->name = strdup(k->uuid);
        if (!j || !j->name) {
                j = j ? cgroup_job_free(j) : NULL;
                k->remove_done = true;
                k->removed = !k->begun;
                return;
        }
        j->until = until;
        j->job.run = run_remove_dataflow;
        j->job.on_done = on_dataflow_removed;
        submit(j);
}
