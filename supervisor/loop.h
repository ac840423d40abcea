/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: one thread, epoll, one timerfd for all deadlines, a queue of posted jobs.
 *
 * A Source is embedded in its owner and borrows its fd; remove it before the fd is closed. A callback does a bounded amount
 * of work and returns 0; a non-zero return stops the loop with that value. Removing any source, timer or job from inside
 * any callback is safe: nothing is delivered to it afterwards.
 *
 * Order within a turn: ready sources by priority (exits and readiness before what they would cancel), posted jobs, then
 * deadlines that have passed. Sources of one priority, and jobs, have 4 ms of a turn each: what is left waits for the next turn, where it
 * comes first. Callbacks see the clock as of the turn's beginning: loop->now.
 *
 * Clients have a share: of the time that passes at most every second nanosecond is theirs, LOOP_CLIENTS_BURST of it at once. What they
 * ask for beyond waits, in the order in which it came, and no turn is longer for it than that and one call. So whoever
 * asks without a pause holds up nobody but other clients, and these not for long; and a loop that runs at a real-time
 * priority leaves the CPU to others.
 *
 * Pulse: "turn started" is stored after epoll_wait, "turn completed" before it, so a loop that sleeps is never taken for a
 * wedged one. The lag of a turn is how late its work was done: its duration, plus how late the earliest of its
 * deadlines was delivered. A deadline armed for the past is due when it was armed.
 *
 * Nothing here blocks but loop_run() itself, in poll. It asks two epolls, and none of them stands in another: to add anything to one
 * that does takes a lock of the whole host, which whoever lets an epoll_wait() of his own run into a page that never comes keeps for
 * as long as he likes, and the wait for it cannot be killed. So no Source is an epoll either; nor is one allowed whose poll() takes what
 * it tells (of a PSI trigger, of /proc/self/mountinfo): poll() would ask it, and epoll_wait() hear of nothing.
 */
#ifndef TG_SUPERVISOR_LOOP_H
#define TG_SUPERVISOR_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/list.h"
#include "protocol/status_page.h"

#define LOOP_CLIENTS_BURST (4 * NSEC_PER_MSEC)

typedef struct Loop Loop;
typedef struct Source Source;
typedef struct Timer Timer;
typedef struct Job Job;

typedef int (*SourceFn)(Source *source, uint32_t revents);
typedef int (*TimerFn)(Timer *timer, nsec_t now);
typedef int (*JobFn)(Job *job);

typedef enum SourcePriority {
        SOURCE_EXITS, /* keepers, guard, pidfds: what has ended or become ready */
        SOURCE_NODES, /* node sockets */
        SOURCE_CLIENTS,
        _SOURCE_PRIORITY_MAX,
} SourcePriority;

struct Source {
        Loop *loop; /* NULL: not added */
        int fd;     /* borrowed */
        SourceFn fn;
        SourcePriority priority;
        uint32_t events;
        ListLink ready; /* linked while revents wait for delivery in this turn */
        uint32_t revents;
};

struct Timer {
        Loop *loop;   /* NULL: not armed */
        nsec_t at;    /* absolute */
        nsec_t due;   /* the same, but never before it was armed */
        TimerFn fn;
        ListLink link; /* in loop->timers, sorted */
};

struct Job {
        JobFn fn;
        ListLink link; /* empty: not posted */
};

struct Loop {
        int epoll_fd, timer_fd;
        nsec_t now;       /* of this turn */
        nsec_t armed_at;  /* what the timerfd is set to */
        List timers;      /* sorted by at */
        List jobs;
        List ready[_SOURCE_PRIORITY_MAX];
        int client_epoll_fd; /* of the clients, so that not to look at any of them is not to look at it */
        List client_jobs;
        int64_t client_budget;   /* nanoseconds; below 0: they are paused until it is not */
        nsec_t client_budget_at; /* when it was that */
        Timer client_pause;
        bool client_jobs_first; /* neither they nor what came from sockets waits for the other for ever */
        struct status_pulse *pulse; /* &own_pulse, or borrowed: see loop_set_pulse() */
        struct status_pulse own_pulse;
        nsec_t late_ns; /* in this turn: of its earliest deadline */
        int exit_code;
        bool stop;
};

int loop_init(Loop *loop);
void loop_done(Loop *loop);

/* loop_run() - turn until loop_exit() or a callback returns non-zero. Return: that code, or a negative errno of epoll itself. */
int loop_run(Loop *loop);
void loop_exit(Loop *loop, int code);

/**
 * loop_set_pulse() - keep the turn words and the lag histogram elsewhere from now on, in a status page
 * @pulse: written until the next call; borrowed. NULL: the loop's own
 *
 * What was counted so far goes with it. Percentiles: status_lag_us(loop->pulse, ...).
 */
void loop_set_pulse(Loop *loop, struct status_pulse *pulse);

int source_add(Loop *loop, Source *source, int fd, uint32_t events, SourcePriority priority, SourceFn fn);
int source_set_events(Source *source, uint32_t events);
void source_remove(Source *source); /* not added: harmless */

/* timer_arm() - (re)arm; @at NSEC_NEVER disarms. O(timers armed) in the worst case, O(1) for deadlines in rising order. */
void timer_arm(Loop *loop, Timer *timer, nsec_t at, TimerFn fn);
void timer_disarm(Timer *timer);

/* job_post() - run @fn in this or the next turn; posting a posted job does nothing. */
void job_post(Loop *loop, Job *job, JobFn fn);
void job_cancel(Job *job);

/* job_post_client() - the same, of the clients' share: it may wait for that. */
void job_post_client(Loop *loop, Job *job, JobFn fn);

#endif
