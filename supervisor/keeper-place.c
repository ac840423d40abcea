/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the threads of an incarnation may run: on one CPU, or wherever they were born to. In a thread of its own, for the list of a cgroup may
 * take its time. A thread that runs where neither we have put it nor it was born is somebody else's business, and left alone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"

#define PLACE_ROUNDS 4u /* threads are born meanwhile, where who makes them is */

typedef struct PlaceJob {
        Job job;
        Keeper *keeper;
        KeeperMsg order;
        int dir_fd; /* -1: there is no cgroup, and the first process is all that is known */
        pid_t leader;
        int before;   /* where we had put it: number + 1; 0: nowhere */
        bool unknown; /* a keeper before us may have */
        cpu_set_t born; /* ours: nodes with a cpu_affinity of their own are never placed */
        cpu_set_t wanted;
        int error;
        uint32_t n_own, n_moved;
} PlaceJob;

static PlaceJob *place_job_free(PlaceJob *j)
{
        j->dir_fd = fd_close(j->dir_fd);
        free(j);
        return NULL;
}

static bool is_ours(const PlaceJob *j, const cpu_set_t *now)
{
        if (CPU_EQUAL(now, &j->born))
                return true;
        if (CPU_COUNT(now) != 1)
                return false;
        return j->unknown || (j->before > 0 && CPU_ISSET(j->before - 1, now));
}

static void place_thread(PlaceJob *j, pid_t tid)
{
        cpu_set_t now;

        if (sched_getaffinity(tid, sizeof(now), &now) < 0 || CPU_EQUAL(&now, &j->wanted))
                return; /* gone, or there already */
        if (!is_ours(j, &now)) {
                j->n_own++;
                return;
        }
        if (sched_setaffinity(tid, sizeof(j->wanted), &j->wanted) == 0)
                j->n_moved++;
        else if (errno != ESRCH && j->error == 0)
                j->error = errno;
}

static int place_process(pid_t pid, void *userdata)
{
        PlaceJob *j = userdata;
        struct dirent *entry;
        char path[64];
        DIR *d;

        (void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
        d = opendir(path);
        while (d && (entry = readdir(d)))
                if (entry->d_name[0] != '.')
                        place_thread(j, (pid_t)atoi(entry->d_name));
        if (d)
                (void)closedir(d);
        return 0;
}

static int place_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, place_process, userdata);
}

static void run_place(Job *job)
{
        PlaceJob *j = container_of(job, PlaceJob, job);

        for (unsigned i = 0; i < PLACE_ROUNDS; i++) {
                j->n_moved = j->n_own = 0;
                if (j->dir_fd >= 0)
                        (void)cgroup_walk(j->dir_fd, place_cgroup, j); /* what could be seen is placed */
                else
                        (void)place_process(j->leader, j);
                if (j->n_moved == 0 || j->error)
                        break;
        }
}

static void answer(Keeper *k, const KeeperMsg *order, int error, uint32_t n_own)
{
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_PLACED, .node = order->node, .generation = order->generation, .placed = {error, n_own}}, -1);
}

static void on_placed(Job *job)
{
        PlaceJob *j = container_of(job, PlaceJob, job);

        answer(j->keeper, &j->order, j->error, j->n_own);
        j = place_job_free(j);
}

static PlaceJob *place_job_new(Keeper *k, const KeeperMsg *order, const Incarnation *inc)
{
        PlaceJob *j = calloc(1, sizeof(*j));

        if (!j)
                return NULL;
        j->keeper = k;
        j->order = *order;
        j->leader = inc->pid;
        j->before = inc->placed_cpu;
        j->unknown = inc->adopted;
        j->dir_fd = inc->cgroup_fd >= 0 ? fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3) : -1;
        if ((inc->cgroup_fd >= 0 && j->dir_fd < 0) || sched_getaffinity(0, sizeof(j->born), &j->born) < 0)
                return place_job_free(j);
        j->wanted = j->born;
        if (order->place.cpu > 0) {
                CPU_ZERO(&j->wanted);
                CPU_SET(order->place.cpu - 1, &j->wanted);
        }
        j->job.run = run_place;
        j->job.on_done = on_placed;
        return j;
}

void keeper_place(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *inc = incarnation_find(k, msg->node, msg->generation);
        bool there = inc && !inc->over && !inc->job && !inc->exited && (inc->cgroup_fd >= 0 || inc->pid > 0);
        PlaceJob *j = there ? place_job_new(k, msg, inc) : NULL;

        if (!j) {
                answer(k, msg, there ? ENOMEM : ESRCH, 0);
                return;
        }
        if (jobs_submit(&k->jobs, &j->job, JOB_WORK)) {
                answer(k, msg, EAGAIN, 0);
                j = place_job_free(j);
                return;
        }
        inc->placed_cpu = (int)msg->place.cpu;
}
