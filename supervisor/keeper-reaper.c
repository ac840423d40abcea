/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lives that have a reaper: it is forked here, tells here how the first process ended, and is waited for here. One that was killed (a node of the same
 * user can, where it is no init) leaves its orphans to us: whatever is our child and was not made by us is ended then.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "supervisor/keeper-internal.h"

#define STRAY_SPAN  (2 * NSEC_PER_SEC) /* one try; another one follows as long as somebody is left */
#define STRAY_STEP_MS 5

void keeper_reapers_init(Keeper *k)
{
        (void)pthread_mutex_init(&k->reapers.lock, NULL); /* cannot fail without attributes */
        if (k->enforcer == ENFORCER_PID1 || k->enforcer == ENFORCER_SUBREAPER)
                (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* refused by no kernel that has pidfds */
}

void keeper_reapers_done(Keeper *k)
{
        free(k->reapers.pids);
        k->reapers.pids = NULL;
}

static int reserve(Reapers *reapers)
{
        size_t room = reapers->room ? 2 * reapers->room : 16;
        pid_t *pids;

        if (reapers->n < reapers->room)
                return 0;
        pids = realloc(reapers->pids, room * sizeof(*pids));
        if (!pids)
                return -ENOMEM;
        reapers->pids = pids;
        reapers->room = room;
        return 0;
}

int keeper_reaper_fork(Keeper *k, Reaper *ret, const SpawnPlan *plan, SpawnOutcome *outcome, int place_fd)
{
        Reaper reaper = REAPER_NULL;
        siginfo_t si;
        int r;

        pthread_mutex_lock(&k->reapers.lock);
        r = reserve(&k->reapers);
        if (!r)
                r = reaper_fork(&reaper, plan, outcome, k->enforcer);
        if (!r && place_fd >= 0)
                r = place_set_reaper(place_fd, reaper.pid, reaper.is_init);
        if (!r) {
                k->reapers.pids[k->reapers.n++] = reaper.pid;
                *ret = reaper;
        } else if (reaper.pidfd >= 0) { /* it has not begun */
                reaper_kill(&reaper);
                (void)waitid(P_PIDFD, (id_t)reaper.pidfd, &si, WEXITED);
                reaper.pidfd = fd_close(reaper.pidfd);
                reaper.socket_fd = fd_close(reaper.socket_fd);
        }
        pthread_mutex_unlock(&k->reapers.lock);
        return r;
}

void keeper_on_reaper(KeeperSource *source, uint32_t events)
{
        Incarnation *inc = container_of(source, Incarnation, exit);
        int code = CLD_KILLED, status = SIGKILL, r;

        (void)events;
        r = reaper_read_exit(inc->reaper.socket_fd, &code, &status);
        if (r == REAPER_E_RUNS)
                return;
        /* Reaped by it: there is nothing left to look at. One that was killed said nothing, and what it started goes down with it. */
        inc->reaped = true;
        incarnation_exited(inc, code, status);
}

static void forget(Keeper *k, pid_t pid)
{
        Reapers *reapers = &k->reapers;

        pthread_mutex_lock(&reapers->lock);
        for (size_t i = 0; i < reapers->n; i++)
                if (reapers->pids[i] == pid)
                        reapers->pids[i] = reapers->pids[--reapers->n];
        pthread_mutex_unlock(&reapers->lock);
}

pid_t keeper_fork(Keeper *k)
{
        pid_t pid = -1;

        pthread_mutex_lock(&k->reapers.lock);
        if (reserve(&k->reapers) == 0)
                pid = fork();
        if (pid == 0)
                return 0; /* with the lock, which is nobody's there */
        if (pid > 0)
                k->reapers.pids[k->reapers.n++] = pid;
        pthread_mutex_unlock(&k->reapers.lock);
        return pid;
}

void keeper_forked_ended(Keeper *k, pid_t pid)
{
        forget(k, pid);
}

/* ---- whom a reaper that was killed left to us */

typedef struct StrayJob {
        Job job;
        Keeper *keeper;
        uint32_t node;
        uint64_t generation;
        pid_t *spared; /* the logger, and every reaper */
        size_t n_spared, n_spared_room;
        uint32_t n_found, n_left;
} StrayJob;

static bool is_spared(const StrayJob *j, pid_t pid)
{
        for (size_t i = 0; i < j->n_spared; i++)
                if (j->spared[i] == pid)
                        return true;
        return false;
}

static int reap_stray(pid_t pid, void *userdata)
{
        if (!is_spared(userdata, pid))
                (void)waitpid(pid, NULL, WNOHANG);
        return 0;
}

/* With the lock: nobody whom we do not know of yet is forked meanwhile. */
static void kill_strays(StrayJob *j)
{
        Reapers *reapers = &j->keeper->reapers;

        pthread_mutex_lock(&reapers->lock);
        j->n_spared = 0;
        if (j->keeper->feed.pid > 0)
                j->spared[j->n_spared++] = j->keeper->feed.pid;
        for (size_t i = 0; i < reapers->n && j->n_spared < j->n_spared_room; i++)
                j->spared[j->n_spared++] = reapers->pids[i];
        if (j->n_spared == j->n_spared_room) { /* more than there was room for: not now */
                j->n_left = 1;
        } else {
                for (int i = 0; i < 2; i++) {
                        PlaceResult result;

                        (void)place_signal_descendants(getpid(), j->spared, j->n_spared, i ? SIGKILL : SIGSTOP, &result);
                        j->n_left = result.n_found;
                        j->n_found = MAX(j->n_found, j->n_left);
                }
                (void)place_each_child(getpid(), reap_stray, j);
        }
        pthread_mutex_unlock(&reapers->lock);
}

static void run_strays(Job *job)
{
        StrayJob *j = container_of(job, StrayJob, job);
        nsec_t until = nsec_add(clock_now(), STRAY_SPAN);

        for (;;) {
                kill_strays(j);
                if (j->n_left == 0 || clock_now() >= until)
                        return;
                (void)poll(NULL, 0, STRAY_STEP_MS); /* they die; nothing tells of it but the next look */
        }
}

static void on_strays_done(Job *job)
{
        StrayJob *j = container_of(job, StrayJob, job);
        Keeper *k = j->keeper;
        Incarnation *inc = incarnation_find(k, j->node, j->generation);

        if (inc) {
                if (j->n_found > 0) {
                        keeper_note(k, "the reaper of %s was killed; %u processes that it left behind were killed", inc->entry->id, j->n_found);
                        incarnation_killed(inc, j->n_found, clock_now());
                }
                inc->straying = false;
                inc->reaper_killed = j->n_left > 0;
                incarnation_look_again(inc);
        }
        free(j->spared);
        free(j);
}

static bool start_strays(Incarnation *inc)
{
        Keeper *k = inc->keeper;
        StrayJob *j = calloc(1, sizeof(*j));

        if (!j)
                return false;
        pthread_mutex_lock(&k->reapers.lock);
        j->n_spared_room = 2 * k->reapers.n + 64; /* some are begun while it works */
        pthread_mutex_unlock(&k->reapers.lock);
        j->spared = calloc(j->n_spared_room, sizeof(*j->spared));
        j->keeper = k;
        j->node = inc->entry->node;
        j->generation = inc->generation;
        j->job = (Job){.run = run_strays, .on_done = on_strays_done};
        if (!j->spared || jobs_submit(&k->jobs, &j->job, JOB_WORK)) {
                free(j->spared);
                free(j);
                return false;
        }
        return true;
}

/* ---- its end */

static void on_reaper_ended(KeeperSource *source, uint32_t events)
{
        Incarnation *inc = container_of(source, Incarnation, exit);

        (void)events;
        keeper_loop_remove(&inc->keeper->loop, source);
        incarnation_look_again(inc);
}

bool incarnation_settle(Incarnation *inc)
{
        siginfo_t si = {};

        if (inc->reaper.pidfd >= 0 && !inc->reaper_ended) {
                if (waitid(P_PIDFD, (id_t)inc->reaper.pidfd, &si, WEXITED | WNOHANG) == 0 && si.si_pid == 0) { /* about to */
                        if (inc->exit.fd < 0 && keeper_loop_add(&inc->keeper->loop, &inc->exit, inc->reaper.pidfd, EPOLLIN, on_reaper_ended))
                                return true; /* no room to hear of it: it is our zombie until we end */
                        return false;
                }
                inc->reaper_ended = true;
                inc->reaper_killed = !inc->reaper.is_init && si.si_code != CLD_EXITED;
                forget(inc->keeper, inc->reaper.pid);
        }
        if (inc->straying || (inc->reaper_killed && start_strays(inc)))
                inc->straying = true;
        return !inc->straying;
}
