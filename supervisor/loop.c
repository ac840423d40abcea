/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/loop.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/error.h"

#define LOOP_EVENTS_PER_TURN 64
#define LOOP_CLIENTS_SHARE   2 /* every second nanosecond */
#define LOOP_CLASS_SPAN      (4 * NSEC_PER_MSEC) /* of a turn, for the sources of one priority, and for jobs */

int loop_init(Loop *loop)
{
        struct epoll_event ev = {.events = EPOLLIN};
        _cleanup_fd_ int epoll_fd = -1, client_epoll_fd = -1, timer_fd = -1;

        *loop = (Loop){.epoll_fd = -1, .client_epoll_fd = -1, .timer_fd = -1, .armed_at = NSEC_NEVER, .client_budget = LOOP_CLIENTS_BURST};
        list_init(&loop->timers);
        list_init(&loop->jobs);
        list_init(&loop->client_jobs);
        for (unsigned i = 0; i < _SOURCE_PRIORITY_MAX; i++)
                list_init(&loop->ready[i]);

        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (epoll_fd < 0)
                return error_origin(-errno);
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (timer_fd < 0)
                return error_origin(-errno);
        ev.data.ptr = NULL; /* the timerfd: deadlines are looked at every turn anyway */
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &ev) < 0)
                return error_origin(-errno);
        client_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (client_epoll_fd < 0)
                return error_origin(-errno);

        loop->epoll_fd = TAKE_FD(epoll_fd);
        loop->client_epoll_fd = TAKE_FD(client_epoll_fd);
        loop->timer_fd = TAKE_FD(timer_fd);
        loop->now = clock_now();
        loop->pulse = &loop->own_pulse;
        return 0;
}

void loop_done(Loop *loop)
{
        loop->timer_fd = fd_close(loop->timer_fd);
        loop->client_epoll_fd = fd_close(loop->client_epoll_fd);
        loop->epoll_fd = fd_close(loop->epoll_fd);
}

void loop_exit(Loop *loop, int code)
{
        loop->stop = true;
        loop->exit_code = code;
}

void loop_set_pulse(Loop *loop, struct status_pulse *pulse)
{
        struct status_pulse *from = loop->pulse;

        loop->pulse = pulse ? pulse : &loop->own_pulse;
        for (size_t i = 0; loop->pulse != from && i < sizeof(*from) / sizeof(uint64_t); i++) /* others may be reading */
                __atomic_store_n((uint64_t *)loop->pulse + i, ((const uint64_t *)from)[i], __ATOMIC_RELEASE);
}

static int loop_epoll_fd(const Loop *loop, SourcePriority priority)
{
        return priority == SOURCE_CLIENTS ? loop->client_epoll_fd : loop->epoll_fd;
}

int source_add(Loop *loop, Source *source, int fd, uint32_t events, SourcePriority priority, SourceFn fn)
{
        struct epoll_event ev = {.events = events, .data.ptr = source};

        if (epoll_ctl(loop_epoll_fd(loop, priority), EPOLL_CTL_ADD, fd, &ev) < 0)
                return error_origin(-errno);
        *source = (Source){.loop = loop, .fd = fd, .fn = fn, .priority = priority, .events = events};
        list_init(&source->ready);
        return 0;
}

int source_set_events(Source *source, uint32_t events)
{
        struct epoll_event ev = {.events = events, .data.ptr = source};

        if (!source->loop || source->events == events)
                return 0;
        if (epoll_ctl(loop_epoll_fd(source->loop, source->priority), EPOLL_CTL_MOD, source->fd, &ev) < 0)
                return error_origin(-errno);
        source->events = events;
        return 0;
}

void source_remove(Source *source)
{
        if (!source->loop)
                return;
        (void)epoll_ctl(loop_epoll_fd(source->loop, source->priority), EPOLL_CTL_DEL, source->fd, NULL); /* fails only for an fd closed too early */
        list_unlink(&source->ready);
        source->loop = NULL;
}

void timer_arm(Loop *loop, Timer *timer, nsec_t at, TimerFn fn)
{
        ListLink *before;

        timer_disarm(timer);
        if (at == NSEC_NEVER)
                return;
        timer->loop = loop;
        timer->at = at;
        timer->due = MAX(at, loop->now);
        timer->fn = fn;
        list_init(&timer->link);
        /* From the back: most deadlines are later than those already armed. */
        for (before = loop->timers.prev; before != &loop->timers; before = before->prev)
                if (container_of(before, Timer, link)->at <= at)
                        break;
        list_append(before->next, &timer->link);
}

void timer_disarm(Timer *timer)
{
        if (!timer->loop)
                return;
        list_unlink(&timer->link);
        timer->loop = NULL;
}

static void job_post_to(List *jobs, Job *job, JobFn fn)
{
        if (!job->link.next)
                list_init(&job->link);
        if (!list_empty(&job->link))
                return;
        job->fn = fn;
        list_append(jobs, &job->link);
}

void job_post(Loop *loop, Job *job, JobFn fn)
{
        job_post_to(&loop->jobs, job, fn);
}

void job_post_client(Loop *loop, Job *job, JobFn fn)
{
        job_post_to(&loop->client_jobs, job, fn);
}

void job_cancel(Job *job)
{
        if (job->link.next)
                list_unlink(&job->link);
}

static int loop_set_timer(Loop *loop)
{
        Timer *first = list_first(&loop->timers, Timer, link);
        nsec_t at = first ? first->at : NSEC_NEVER;
        struct itimerspec its = {};

        if (at == loop->armed_at)
                return 0;
        if (at != NSEC_NEVER)
                its.it_value = nsec_to_timespec(at ? at : 1);
        if (timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &its, NULL) < 0)
                return error_origin(-errno);
        loop->armed_at = at;
        return 0;
}

/* ---- the clients' share */

static bool clients_paused(const Loop *loop)
{
        return loop->client_pause.loop != NULL;
}

static int on_client_pause(Timer *timer, nsec_t now)
{
        return 0; /* they are looked at again, for it is not armed any more */
}

static void clients_charge(Loop *loop, nsec_t begin)
{
        nsec_t now = clock_now();
        int64_t earned = (int64_t)((now - loop->client_budget_at) / LOOP_CLIENTS_SHARE);

        loop->client_budget = MIN(loop->client_budget + earned, (int64_t)LOOP_CLIENTS_BURST) - (int64_t)(now - begin);
        loop->client_budget_at = now;
        if (loop->client_budget >= 0 || clients_paused(loop))
                return;
        timer_arm(loop, &loop->client_pause, nsec_add(now, (nsec_t)-loop->client_budget * LOOP_CLIENTS_SHARE), on_client_pause);
}

/* ---- a turn */

/* Something is to be done without anybody's call for it. */
static bool loop_has_work(const Loop *loop)
{
        return !list_empty(&loop->jobs) || !list_empty(&loop->ready[SOURCE_EXITS]) || !list_empty(&loop->ready[SOURCE_NODES]) ||
               (!clients_paused(loop) && (!list_empty(&loop->client_jobs) || !list_empty(&loop->ready[SOURCE_CLIENTS])));
}

static int loop_collect_from(Loop *loop, int epoll_fd)
{
        struct epoll_event events[LOOP_EVENTS_PER_TURN];
        int n = epoll_wait(epoll_fd, events, LOOP_EVENTS_PER_TURN, 0);

        if (n < 0)
                return errno == EINTR ? 0 : error_origin(-errno);
        for (int i = 0; i < n; i++) {
                Source *source = events[i].data.ptr;

                if (!source) {
                        uint64_t ticks;

                        (void)!read(loop->timer_fd, &ticks, sizeof(ticks));
                        loop->armed_at = NSEC_NEVER;
                } else {
                        source->revents = events[i].events;
                        if (list_empty(&source->ready)) /* else it still waits, where it stands */
                                list_append(&loop->ready[source->priority], &source->ready);
                }
        }
        return 0;
}

static int loop_collect(Loop *loop)
{
        struct pollfd ready[] = {
                {.fd = loop->epoll_fd, .events = POLLIN},
                {.fd = clients_paused(loop) ? -1 : loop->client_epoll_fd, .events = POLLIN},
        };
        int r = 0;

        if (poll(ready, ELEMENTSOF(ready), loop_has_work(loop) ? 0 : -1) < 0)
                return errno == EINTR ? 0 : error_origin(-errno);
        if (ready[0].revents)
                r = loop_collect_from(loop, loop->epoll_fd);
        if (!r && ready[1].revents)
                r = loop_collect_from(loop, loop->client_epoll_fd);
        return r;
}

static int loop_deliver(Loop *loop, SourcePriority priority)
{
        bool of_clients = priority == SOURCE_CLIENTS;
        nsec_t until = nsec_add(clock_now(), LOOP_CLASS_SPAN);

        while (!loop->stop && !list_empty(&loop->ready[priority])) {
                Source *source = list_first(&loop->ready[priority], Source, ready);
                nsec_t begin = clock_now();
                int r;

                if (of_clients ? clients_paused(loop) : begin > until)
                        break;
                list_unlink(&source->ready);
                r = source->fn(source, source->revents);
                if (r)
                        return r;
                if (of_clients)
                        clients_charge(loop, begin);
        }
        return 0;
}

static int loop_run_jobs(Loop *loop, List *jobs)
{
        bool of_clients = jobs == &loop->client_jobs;
        nsec_t until = nsec_add(clock_now(), LOOP_CLASS_SPAN);
        List batch;

        /* Only what is posted now: a job that posts itself again waits for the next turn. */
        list_init(&batch);
        while (!list_empty(jobs)) {
                ListLink *link = jobs->next;

                list_unlink(link);
                list_append(&batch, link);
        }
        while (!loop->stop && !list_empty(&batch)) {
                Job *job = list_first(&batch, Job, link);
                nsec_t begin = clock_now();
                int r;

                if (of_clients ? clients_paused(loop) : begin > until)
                        break;
                list_unlink(&job->link);
                r = job->fn(job);
                if (r)
                        return r;
                if (of_clients)
                        clients_charge(loop, begin);
        }
        while (!list_empty(&batch)) { /* in front of what was posted meanwhile */
                ListLink *link = batch.prev;

                list_unlink(link);
                list_append(jobs->next, link);
        }
        return 0;
}

/* In turn: where the share ends one time, it begins with the other the next. */
static int loop_serve_clients(Loop *loop)
{
        bool jobs_first = loop->client_jobs_first;
        int r;

        if (clients_paused(loop))
                return 0;
        r = jobs_first ? loop_run_jobs(loop, &loop->client_jobs) : loop_deliver(loop, SOURCE_CLIENTS);
        if (!r)
                r = jobs_first ? loop_deliver(loop, SOURCE_CLIENTS) : loop_run_jobs(loop, &loop->client_jobs);
        loop->client_jobs_first = clients_paused(loop) ? !jobs_first : jobs_first;
        return r;
}

static int loop_work(Loop *loop)
{
        int r = 0;

        for (SourcePriority i = 0; i < SOURCE_CLIENTS && !r; i++)
                r = loop_deliver(loop, i);
        if (!r)
                r = loop_serve_clients(loop);
        return r ? r : loop_run_jobs(loop, &loop->jobs);
}

static int loop_run_timers(Loop *loop)
{
        while (!loop->stop && !list_empty(&loop->timers)) {
                Timer *timer = list_first(&loop->timers, Timer, link);
                int r;

                if (timer->at > loop->now)
                        return 0;
                timer_disarm(timer);
                loop->late_ns = MAX(loop->late_ns, loop->now - timer->due);
                r = timer->fn(timer, loop->now);
                if (r)
                        return r;
        }
        return 0;
}

int loop_run(Loop *loop)
{
        int r = 0;

        while (!loop->stop) {
                nsec_t end;

                r = loop_set_timer(loop);
                if (!r)
                        r = loop_collect(loop);
                if (r)
                        return error_fold(r);
                loop->now = clock_now();
                loop->late_ns = 0;
                status_pulse_begin(loop->pulse, loop->now);
                if ((r = loop_work(loop)) || (r = loop_run_timers(loop)))
                        return r;
                end = clock_now();
                status_pulse_end(loop->pulse, end, end - loop->now + loop->late_ns);
        }
        return loop->exit_code;
}
