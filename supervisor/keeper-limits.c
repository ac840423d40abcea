/* SPDX-License-Identifier: Apache-2.0 */
/* Limits at run time, the freezer, and what is felt of limits. Orders run in a thread of their own. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/limit-files.h"

#define WATCH_SPAN  NSEC_PER_SEC       /* between two looks at one cgroup that its files ask for, at least */
#define SAMPLE_SPAN (2 * NSEC_PER_SEC) /* between two looks at cpu.stat */

typedef struct LimitsJob {
        Job job;
        Keeper *keeper;
        KeeperMsg order;
        int dir_fd, dataflow_fd;
        char *limits; /* LIMIT */
        unsigned controllers; /* the same: those that can be used now */
        int r;
        char missing[KEEPER_MSG_LIMITS_MAX + 1], why[KEEPER_MSG_LIMITS_MAX + 1];
} LimitsJob;

/* ---- what is felt */

void watch_init(LimitsWatch *watch, Keeper *k, Incarnation *inc)
{
        *watch = (LimitsWatch){.keeper = k,
                .inc = inc,
                .memory = KEEPER_SOURCE_INIT,
                .pids = KEEPER_SOURCE_INIT,
                .memory_fd = -1,
                .pids_fd = -1,
                .due = NSEC_NEVER};
}

static KeeperMsg about(const LimitsWatch *watch, KeeperMsgType type)
{
        const Incarnation *inc = watch->inc;

        return (KeeperMsg){.type = type,
                .node = inc ? inc->entry->node : KEEPER_NODE_ALL,
                .generation = inc ? inc->generation : 0};
}

static int dir_of(const LimitsWatch *watch)
{
        return watch->inc ? watch->inc->cgroup_fd : watch->keeper->dataflow_fd;
}

void watch_felt(LimitsWatch *watch, nsec_t now)
{
        watch->due = MIN(watch->due, MAX(now, watch->next));
}

/*
 * The kernel tells of a counter up to 100 times a second. Each file is heard once and then not before the next look, which
 * arms it again (listen_again()): whoever stands at a limit costs a turn of the loop a second.
 */
static void on_memory(KeeperSource *source, uint32_t events)
{
        watch_felt(container_of(source, LimitsWatch, memory), clock_now());
}

static void on_pids(KeeperSource *source, uint32_t events)
{
        watch_felt(container_of(source, LimitsWatch, pids), clock_now());
}

static void listen_again(LimitsWatch *watch, KeeperSource *source)
{
        char text[256];

        if (source->fd < 0)
                return;
        (void)!pread(source->fd, text, sizeof(text), 0); /* from here on the kernel tells what is new */
        keeper_loop_watch(&watch->keeper->loop, source, EPOLLPRI | EPOLLONESHOT);
}

/* Without it what was felt is told at the end. */
static void watch_file(LimitsWatch *watch, int dir_fd, const char *name, KeeperSource *source, int *fd, KeeperSourceEvent on_event)
{
        char text[256];

        if (*fd >= 0)
                return;
        *fd = cgroup_open_file(dir_fd, name, O_RDONLY);
        if (*fd < 0)
                *fd = -1;
        else if (pread(*fd, text, sizeof(text), 0) < 0 || keeper_loop_add(&watch->keeper->loop, source, *fd, EPOLLPRI | EPOLLONESHOT, on_event))
                *fd = fd_close(*fd);
}

void watch_begin(LimitsWatch *watch, int dir_fd, const char *limits)
{
        const Keeper *k = watch->keeper;

        if (k->needed & k->controllers & LIMIT_CONTROLLER_MEMORY)
                watch_file(watch, dir_fd, "memory.events.local", &watch->memory, &watch->memory_fd, on_memory);
        if (k->needed & k->controllers & LIMIT_CONTROLLER_PIDS)
                watch_file(watch, dir_fd, "pids.events", &watch->pids, &watch->pids_fd, on_pids);
        if ((k->controllers & LIMIT_CONTROLLER_CPU) && strstr(limits, "cpu_max=")) {
                watch->sampled = true;
                watch->due = MIN(watch->due, nsec_add(clock_now(), WATCH_SPAN));
        }
}

void watch_end(LimitsWatch *watch)
{
        if (!watch->keeper) /* never begun */
                return;
        keeper_loop_remove(&watch->keeper->loop, &watch->memory);
        keeper_loop_remove(&watch->keeper->loop, &watch->pids);
        watch->memory_fd = fd_close(watch->memory_fd);
        watch->pids_fd = fd_close(watch->pids_fd);
        watch->sampled = false;
        watch->due = NSEC_NEVER;
        pressure_end(watch);
}

/* What cannot be read this time reads as nothing; what was counted already stays. */
static void no_less(KeeperUsage *now, const KeeperUsage *before)
{
        now->oom = MAX(now->oom, before->oom);
        now->oom_kills = MAX(now->oom_kills, before->oom_kills);
        now->forks_refused = MAX(now->forks_refused, before->forks_refused);
        now->n_throttled = MAX(now->n_throttled, before->n_throttled);
        now->throttled_us = MAX(now->throttled_us, before->throttled_us);
        now->n_high = MAX(now->n_high, before->n_high);
        now->memory_peak = MAX(now->memory_peak, before->memory_peak);
}

void watch_tell(LimitsWatch *watch)
{
        KeeperMsg msg = about(watch, KEEPER_MSG_USAGE);
        KeeperUsage before = watch->usage, now;

        if (!watch->keeper->controllers || dir_of(watch) < 0 || !limits_read_usage(dir_of(watch), &now))
                return;
        no_less(&now, &before);
        if (watch->inc && now.oom_kills != before.oom_kills)
                watch_tell(&watch->keeper->limits); /* first: at whose limit memory ran out is seen there */
        before.memory_peak = now.memory_peak; /* alone it is no news */
        watch->usage = now;
        if (memcmp(&before, &now, sizeof(now)) == 0)
                return;
        msg.usage.usage = now;
        keeper_report(watch->keeper, &msg, -1);
}

void watch_again(LimitsWatch *watch)
{
        KeeperMsg msg = about(watch, KEEPER_MSG_USAGE);
        static const KeeperUsage nothing;

        if (memcmp(&watch->usage, &nothing, sizeof(nothing)) == 0)
                return;
        msg.usage.usage = watch->usage;
        msg.usage.again = 1;
        keeper_report(watch->keeper, &msg, -1);
}

static void watch_tick(LimitsWatch *watch, nsec_t now)
{
        if (now < watch->due)
                return;
        listen_again(watch, &watch->memory); /* before the look: what comes after it is told later, and nothing is missed */
        listen_again(watch, &watch->pids);
        watch_tell(watch);
        pressure_counted(watch, &watch->usage, now);
        watch->next = nsec_add(now, WATCH_SPAN);
        watch->due = watch->sampled ? nsec_add(now, SAMPLE_SPAN) : NSEC_NEVER;
}

nsec_t watches_deadline(const Keeper *k)
{
        nsec_t deadline = MIN(k->limits.due, pressure_deadline(&k->limits));
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                deadline = MIN(deadline, MIN(inc->limits.due, pressure_deadline(&inc->limits)));
        return deadline;
}

void watches_tick(Keeper *k, nsec_t now)
{
        Incarnation *inc, *next;

        watch_tick(&k->limits, now);
        pressure_tick(&k->limits, now);
        list_for_each(inc, next, &k->incarnations, link) {
                watch_tick(&inc->limits, now);
                pressure_tick(&inc->limits, now);
        }
}

/* ---- the freezer */

void watch_frozen(LimitsWatch *watch, int events_fd)
{
        KeeperMsg msg = about(watch, KEEPER_MSG_FROZEN);
        int frozen = limits_frozen(events_fd);

        if (frozen < 0 || frozen == watch->frozen || (frozen && cgroup_populated(events_fd) != 1 && watch->inc))
                return;
        if (frozen && watch->inc && watch->keeper->n_freezing > 0)
                return; /* for a look, which is nobody's business: what stays so is told at its end */
        watch->frozen = frozen;
        msg.frozen.frozen = (uint8_t)frozen;
        keeper_report(watch->keeper, &msg, -1);
}

void watches_frozen(Keeper *k)
{
        Incarnation *inc, *next;

        if (k->phase == KEEPER_WORKING)
                watch_frozen(&k->limits, k->events_fd);
        list_for_each(inc, next, &k->incarnations, link)
                if (inc->events_fd >= 0 && !inc->job)
                        incarnation_read_events(inc);
}

/* ---- orders */

static LimitsJob *limits_job_free(LimitsJob *j)
{
        j->dir_fd = fd_close(j->dir_fd);
        j->dataflow_fd = fd_close(j->dataflow_fd);
        free(j->limits);
        free(j);
        return NULL;
}

/* Descriptors of its own: the incarnation may be over before the job is. */
static LimitsJob *limits_job_new(Keeper *k, const KeeperMsg *order, int dir_fd)
{
        LimitsJob *j = dir_fd >= 0 ? calloc(1, sizeof(*j)) : NULL;

        if (!j)
                return NULL;
        j->keeper = k;
        j->order = *order;
        j->dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 3);
        j->dataflow_fd = fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3);
        return j->dir_fd < 0 || j->dataflow_fd < 0 ? limits_job_free(j) : j;
}

/* Of whom the order is. -1: of nobody who is there. */
static int place_of(Keeper *k, const KeeperMsg *order, LimitsWatch **ret)
{
        Incarnation *inc;

        if (order->node == KEEPER_NODE_ALL) {
                *ret = &k->limits;
                return k->dataflow_fd;
        }
        inc = incarnation_find(k, order->node, order->generation);
        *ret = inc ? &inc->limits : NULL;
        return inc && !inc->over && !inc->job ? inc->cgroup_fd : -1;
}

static void answer_limited(Keeper *k, const KeeperMsg *order, int error, const char *text)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_LIMITED, .node = order->node, .generation = order->generation,
                .limited = {error, text}}, -1);
}

static unsigned controllers_of(const char *limits)
{
        char value[LIMIT_VALUE_MAX];
        unsigned all = 0;
        LimitKey key;

        while (limit_next(&limits, &key, value) > 0)
                all |= limit_controller(key);
        return all;
}

static void run_limit(Job *job)
{
        LimitsJob *j = container_of(job, LimitsJob, job);

        if (!j->missing[0])
                j->controllers = limits_enable(j->dataflow_fd, controllers_of(j->limits), j->missing, sizeof(j->missing));
        j->r = limits_set_all(j->dir_fd, j->limits, false, j->missing, j->why, sizeof(j->why));
}

static void on_limited(Job *job)
{
        LimitsJob *j = container_of(job, LimitsJob, job);
        Keeper *k = j->keeper;
        LimitsWatch *watch;
        int fd;

        k->controllers |= j->controllers;
        k->needed |= controllers_of(j->limits);
        fd = place_of(k, &j->order, &watch);
        if (fd >= 0 && !j->r)
                watch_begin(watch, fd, j->limits);
        answer_limited(k, &j->order, -j->r, j->why);
        j = limits_job_free(j);
}

void keeper_limit(Keeper *k, const KeeperMsg *msg)
{
        LimitsWatch *watch;
        LimitsJob *j = limits_job_new(k, msg, place_of(k, msg, &watch));

        if (j)
                j->limits = strdup(msg->limit.limits);
        if (j && !enforcer_has_cgroup(k->enforcer))
                memcpy(j->missing, k->missing, sizeof(j->missing)); /* nothing can change that */
        if (!j || !j->limits) {
                answer_limited(k, msg, watch ? EAGAIN : ESRCH, "resources=it is being started, or has just ended");
                j = j ? limits_job_free(j) : NULL;
                return;
        }
        j->job.run = run_limit;
        j->job.on_done = on_limited;
        if (jobs_submit(&k->jobs, &j->job, JOB_WORK)) {
                answer_limited(k, msg, EAGAIN, "resources=its keeper cannot make a thread for it");
                j = limits_job_free(j);
        }
}

static void answer_freeze(Keeper *k, const KeeperMsg *order, bool frozen, int error)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_FREEZE_DONE, .node = order->node, .generation = order->generation,
                .freeze_done = {frozen, error}}, -1);
}

static void run_freeze(Job *job)
{
        LimitsJob *j = container_of(job, LimitsJob, job);

        j->r = limits_freeze(j->dir_fd, j->order.freeze.frozen, j->order.freeze.deadline_ns);
}

static void on_frozen(Job *job)
{
        LimitsJob *j = container_of(job, LimitsJob, job);
        Keeper *k = j->keeper;
        LimitsWatch *watch;

        k->n_freezes--;
        (void)place_of(k, &j->order, &watch);
        watches_frozen(k);
        answer_freeze(k, &j->order, watch && watch->frozen, -j->r);
        j = limits_job_free(j);
}

/* A child that is frozen between its birth and execve would hold its start until the deadline. */
void keeper_freeze(Keeper *k, const KeeperMsg *msg)
{
        LimitsWatch *watch;
        int fd = place_of(k, msg, &watch);
        bool none = !enforcer_has_cgroup(k->enforcer);
        bool busy = msg->freeze.frozen && (k->n_freezing > 0 || /* what a look has frozen runs again at its end: it must not be somebody else's */
                                                  (msg->node == KEEPER_NODE_ALL && incarnations_starting(k)));
        LimitsJob *j = busy || none ? NULL : limits_job_new(k, msg, fd);

        if (!j && none) {
                answer_freeze(k, msg, false, EOPNOTSUPP);
                return;
        }
        if (!j) {
                answer_freeze(k, msg, false, busy || (watch && watch->inc && watch->inc->job) ? EAGAIN : ESRCH);
                return;
        }
        j->job.run = run_freeze;
        j->job.on_done = on_frozen;
        if (jobs_submit(&k->jobs, &j->job, JOB_WORK)) {
                answer_freeze(k, msg, watch->frozen, EAGAIN);
                j = limits_job_free(j);
                return;
        }
        k->n_freezes++;
}
