/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Those of an incarnation who have left its cgroup: found, told, signalled like the others, and killed before the incarnation counts
 * as over. One pass over /proc at a time, for all incarnations that ask meanwhile; in a thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/stray.h"

#define HOMES_MAX   256                    /* of one pass; others wait for the next */
#define FOUND_MAX   64                     /* of one pass; others are found by the next */
#define ROUNDS_MAX  8                      /* of passes until nobody is found */
#define DIE_SPAN    (500 * NSEC_PER_MSEC)  /* from SIGKILL to the exits, of one round */
#define RETRY_SPAN  (200 * NSEC_PER_MSEC)  /* somebody would not die: looked at again */

typedef struct Asked {
        uint32_t node;
        uint64_t generation;
        int signo;
        bool last;
        char *place;
        unsigned n_left; /* they live after SIGKILL */
        unsigned n_killed;
} Asked;

typedef struct StrayJob {
        Job job;
        Keeper *keeper;
        size_t n;
        StrayHome homes[HOMES_MAX];
        Asked asked[HOMES_MAX];
        Stray found[ROUNDS_MAX * FOUND_MAX];
        size_t n_found;
        Stray known[FOUND_MAX]; /* of earlier passes, whom nothing but that shows any more */
        size_t n_known;
} StrayJob;

static StrayJob *stray_job_free(StrayJob *j)
{
        for (size_t i = 0; i < j->n; i++) {
                j->homes[i].cgroup_fd = fd_close(j->homes[i].cgroup_fd);
                free(j->asked[i].place);
        }
        for (size_t i = 0; i < j->n_found; i++)
                j->found[i].pidfd = fd_close(j->found[i].pidfd);
        for (size_t i = 0; i < j->n_known; i++)
                j->known[i].pidfd = fd_close(j->known[i].pidfd);
        free(j);
        return NULL;
}

char *strays_place(const Incarnation *inc)
{
        char *place;

        return inc->keeper->place && asprintf(&place, "%s/%s", inc->keeper->place, inc->cgroup) >= 0 ? place : NULL;
}

const char *strays_from(const Keeper *k, const char *place)
{
        return place + strlen(k->place) - strlen(k->uuid);
}

/* ---- in the thread */

static void send(const Stray *strays, size_t n, Asked *asked)
{
        for (size_t i = 0; i < n; i++) {
                int signo = asked[strays[i].home].signo;

                if (signo == 0 || syscall(SYS_pidfd_send_signal, strays[i].pidfd, signo, NULL, 0) < 0)
                        continue;
                asked[strays[i].home].n_killed += signo == SIGKILL;
                if (signo == SIGTERM)
                        (void)syscall(SYS_pidfd_send_signal, strays[i].pidfd, SIGCONT, NULL, 0);
        }
}

static bool has_exited(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        return poll(&p, 1, 0) == 1;
}

/* Those who got SIGKILL, one after the other: who is waited for first costs the others nothing. */
static unsigned await_exits(const Stray *strays, size_t n, const Asked *asked)
{
        nsec_t until = nsec_add(clock_now(), DIE_SPAN);
        unsigned left = 0;

        for (size_t i = 0; i < n; i++) {
                struct pollfd p = {.fd = strays[i].pidfd, .events = POLLIN};
                nsec_t span = nsec_left(until, clock_now());

                if (asked[strays[i].home].signo == SIGKILL && poll(&p, 1, (int)(span / NSEC_PER_MSEC)) != 1)
                        left++;
        }
        return left;
}

static void count_left(StrayJob *j, const Stray *strays, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (j->asked[strays[i].home].signo == SIGKILL && !has_exited(strays[i].pidfd)) {
                        j->asked[strays[i].home].n_left++;
                        look_first_at(strays[i].pid);
                }
}

static bool any_kill(const StrayJob *j)
{
        for (size_t i = 0; i < j->n; i++)
                if (j->asked[i].signo == SIGKILL)
                        return true;
        return false;
}

/* A kill is repeated until nobody is found: who was killed may have forked. */
static void run_strays(Job *job)
{
        StrayJob *j = container_of(job, StrayJob, job);

        send(j->known, j->n_known, j->asked);
        for (unsigned round = 0; round < ROUNDS_MAX; round++) {
                Stray *found = &j->found[j->n_found];
                int n = strays_find(j->homes, j->n, found, FOUND_MAX);

                if (n <= 0)
                        break;
                j->n_found += (size_t)n;
                send(found, (size_t)n, j->asked);
                if (!any_kill(j) || await_exits(found, (size_t)n, j->asked) > 0)
                        break;
        }
        (void)await_exits(j->known, j->n_known, j->asked);
        count_left(j, j->known, j->n_known);
        count_left(j, j->found, j->n_found);
}

/* ---- in the loop */

/* By when it began; while that is not known, by its number, which is nobody else's before it has ended. */
static bool is_known_as(const KnownStray *known, const Stray *stray)
{
        if (known->pid != stray->pid)
                return false;
        return known->start_time == stray->start_time ||
                ((known->start_time == 0 || stray->start_time == 0) && known->pidfd >= 0 && !has_exited(known->pidfd));
}

bool strays_remember(Incarnation *inc, Stray *stray)
{
        for (unsigned i = 0; i < inc->n_strays; i++)
                if (is_known_as(&inc->strays[i], stray))
                        return false;
        if (inc->n_strays < STRAYS_KNOWN_MAX)
                inc->strays[inc->n_strays++] = (KnownStray){stray->pid, stray->start_time, TAKE_FD(stray->pidfd)};
        return true;
}

void strays_forget(Incarnation *inc)
{
        for (unsigned i = 0; i < inc->n_strays; i++)
                inc->strays[i].pidfd = fd_close(inc->strays[i].pidfd);
        inc->n_strays = 0;
}

void strays_report(Keeper *k, const KeeperMsg *about, const char *from, const Stray *stray, int signo)
{
        KeeperMsg msg = {.type = KEEPER_MSG_ESCAPED,
                .node = about->node,
                .generation = about->generation,
                .escaped = {.pid = stray->pid, .signo = signo, .comm = stray->comm, .from = from, .to = stray->to}};

        keeper_report(k, &msg, -1);
}

static void send_waiting(Incarnation *inc)
{
        if (!inc->signal_waits)
                return;
        inc->signal_waits = false;
        keeper_start_signal(inc->keeper, &inc->signal_order, inc->over ? -1 : inc->cgroup_fd, false);
}

static void on_strays(Job *job)
{
        StrayJob *j = container_of(job, StrayJob, job);
        Keeper *k = j->keeper;

        k->strays_busy = false;
        for (size_t i = 0; i < j->n_found; i++) {
                Asked *asked = &j->asked[j->found[i].home];
                Incarnation *inc = incarnation_find(k, asked->node, asked->generation);

                if (inc && strays_remember(inc, &j->found[i]))
                        strays_report(k, &(KeeperMsg){.node = asked->node, .generation = asked->generation}, strays_from(k, asked->place), &j->found[i], asked->signo);
        }
        for (size_t i = 0; i < j->n; i++) {
                Incarnation *inc = incarnation_find(k, j->asked[i].node, j->asked[i].generation);

                if (!inc)
                        continue;
                incarnation_killed(inc, inc->n_killed + j->asked[i].n_killed, clock_now());
                inc->stray_busy = false;
                if (j->asked[i].last && j->asked[i].n_left == 0)
                        inc->strays_gone = true;
                else if (j->asked[i].last)
                        inc->stray_at = nsec_add(clock_now(), RETRY_SPAN);
                if (!inc->stray_wanted)
                        send_waiting(inc);
                if (inc->stray_reap)
                        incarnation_reap(inc);
        }
        for (size_t i = 0; i < j->n; i++) {
                Incarnation *inc = incarnation_find(k, j->asked[i].node, j->asked[i].generation);

                if (inc)
                        incarnation_look_again(inc);
        }
        j = stray_job_free(j);
        strays_go_on(k);
}

static void add(StrayJob *j, Incarnation *inc)
{
        Asked *asked = &j->asked[j->n];

        inc->stray_wanted = false;
        *asked = (Asked){.node = inc->entry->node, .generation = inc->generation, .signo = inc->stray_signo, .last = inc->stray_last};
        asked->place = strays_place(inc);
        if (!asked->place) {
                inc->strays_gone = true; /* without memory nobody is looked for */
                return;
        }
        inc->stray_busy = true;
        j->homes[j->n] = (StrayHome){.leader = inc->pid,
                .leader_held = !inc->reaped,
                .by_parent = !inc->cgroup_writable,
                .cgroup_fd = inc->cgroup_fd >= 0 ? fcntl(inc->cgroup_fd, F_DUPFD_CLOEXEC, 3) : -1,
                .place = asked->place};
        for (unsigned i = 0; asked->last && i < inc->n_strays && j->n_known < FOUND_MAX; i++)
                if (inc->strays[i].pidfd >= 0 && !has_exited(inc->strays[i].pidfd))
                        j->known[j->n_known++] = (Stray){.home = j->n, .pid = inc->strays[i].pid, .pidfd = fcntl(inc->strays[i].pidfd, F_DUPFD_CLOEXEC, 3)};
        j->n++;
}

/* Nobody can look: then as if nobody was there, for an incarnation must end. */
static void give_up(Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link) {
                if (!inc->stray_wanted)
                        continue;
                inc->stray_wanted = false;
                inc->strays_gone = inc->stray_last;
                send_waiting(inc);
                incarnation_look_again(inc);
        }
}

void strays_go_on(Keeper *k)
{
        Incarnation *inc, *next;
        bool wanted = false;
        StrayJob *j;

        list_for_each(inc, next, &k->incarnations, link)
                wanted = wanted || inc->stray_wanted;
        if (k->strays_busy || !wanted)
                return;
        j = calloc(1, sizeof(*j));
        if (!j) {
                give_up(k);
                return;
        }
        j->keeper = k;
        list_for_each(inc, next, &k->incarnations, link)
                if (inc->stray_wanted && j->n < HOMES_MAX)
                        add(j, inc);
        j->job.run = run_strays;
        j->job.on_done = on_strays;
        k->strays_busy = true;
        if (jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0)
                return;
        k->strays_busy = false;
        for (size_t i = 0; i < j->n; i++) {
                inc = incarnation_find(k, j->asked[i].node, j->asked[i].generation);
                inc->stray_busy = false;
                inc->stray_wanted = true;
        }
        j = stray_job_free(j);
        give_up(k);
}

/*
 * Ended before anybody asked it to, nobody is left in its cgroup, and cgroups were read-only for it: a pass over all of /proc, on a host that may
 * have no time for it, is not worth it.
 */
static bool is_above_suspicion(const Incarnation *inc)
{
        return inc->unasked && inc->cgroup_write == KEEPER_CGROUP_WRITE_READ_ONLY && inc->n_strays == 0 && inc->events_fd >= 0 &&
                cgroup_populated(inc->events_fd) == 0;
}

/* Only where the uid does not keep it in, of those whose first process we know, and who do not end with a reaper wherever they are. */
static bool may_stray(const Incarnation *inc)
{
        return inc->keeper->confine.writable && !enforcer_has_reaper(inc->keeper->enforcer) && inc->started && !inc->adopted && !inc->foreign && inc->pid > 0 && !is_above_suspicion(inc);
}

void strays_look(Incarnation *inc, int signo)
{
        if (!may_stray(inc) || inc->over || inc->stray_last)
                return;
        inc->stray_signo = signo == SIGKILL || inc->stray_signo == SIGKILL ? SIGKILL : signo ? signo : inc->stray_signo;
        inc->stray_wanted = true;
        strays_go_on(inc->keeper);
}

bool strays_first(Incarnation *inc, const KeeperMsg *order)
{
        send_waiting(inc); /* answers come in the order of orders */
        if (order->signal.signo != SIGTERM || !may_stray(inc) || inc->over || inc->job)
                return false;
        inc->signal_waits = true;
        inc->signal_order = *order;
        strays_look(inc, SIGTERM);
        if (!inc->stray_wanted && !inc->stray_busy)
                send_waiting(inc);
        return true;
}

bool strays_are_gone(Incarnation *inc)
{
        if (inc->strays_gone || !may_stray(inc))
                return true;
        if (inc->stray_wanted || inc->stray_busy || inc->stray_at)
                return false;
        inc->stray_last = inc->stray_wanted = true;
        inc->stray_signo = SIGKILL;
        strays_go_on(inc->keeper);
        return inc->strays_gone;
}

void strays_tick(Incarnation *inc, nsec_t now)
{
        if (!inc->stray_at || now < inc->stray_at)
                return;
        inc->stray_at = 0;
        incarnation_look_again(inc);
}
