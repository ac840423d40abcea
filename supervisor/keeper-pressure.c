/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conditions of pressure, of one incarnation or of the dataflow (base/pressure.h): triggers of PSI, which the kernel tells of at most once a window;
 * throttling, which has no notification and is looked at once a window; and counters that keeper-limits.c is told of. A trigger is made by writing to a file
 * of the cgroup, which waits for the kernel's cgroup lock: in a job.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/cgroup-text.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/limit-files.h"
#include "supervisor/measure.h"

#define PRESSURE_FILE_SIZE 256

typedef struct PressureTrigger {
        KeeperSource source;
        LimitsWatch *watch;
        PressureCondition condition;
        int fd;     /* -1: it is looked at, or could not be made */
        int error;  /* why not */
        nsec_t at;      /* when it was last read (counted: when its window began), and ... */
        uint64_t waited_us; /* ... how much had been waited then since the cgroup was made (counted: how often it was felt) */
        nsec_t looked_at;   /* counted: when, and ... */
        uint64_t looked;    /* ... what was found */
        nsec_t due; /* looked at; NSEC_NEVER */
} PressureTrigger;

struct PressureSet {
        char *text;
        size_t n;
        PressureTrigger triggers[PRESSURE_CONDITIONS_MAX];
};

typedef struct PressureJob {
        Job job;
        Keeper *keeper;
        uint32_t node;
        uint64_t generation;
        int dir_fd;
        PressureSet *set;
} PressureJob;

static PressureSet *set_free(PressureSet *set)
{
        if (!set)
                return NULL;
        for (size_t i = 0; i < set->n; i++)
                set->triggers[i].fd = fd_close(set->triggers[i].fd);
        free(set->text);
        free(set);
        return NULL;
}

static PressureSet *set_new(const char *text)
{
        PressureSet *set = calloc(1, sizeof(*set));
        const char *at = text;

        if (!set || !(set->text = strdup(text)))
                return set_free(set);
        while (set->n < PRESSURE_CONDITIONS_MAX) {
                PressureTrigger *t = &set->triggers[set->n];

                *t = (PressureTrigger){.source = KEEPER_SOURCE_INIT, .fd = -1, .due = NSEC_NEVER};
                if (pressure_next(&at, &t->condition) <= 0) /* what is no condition is not one that can be met */
                        break;
                set->n++;
        }
        return set;
}

void pressure_end(LimitsWatch *watch)
{
        for (size_t i = 0; watch->pressure && i < watch->pressure->n; i++)
                keeper_loop_remove(&watch->keeper->loop, &watch->pressure->triggers[i].source);
        watch->pressure = set_free(watch->pressure);
}

/* ---- reading */

/* Microseconds that were waited since the cgroup was made. Not there: 0, as before there is a cpu_max. */
static uint64_t counter_of(PressureKind kind, const KeeperUsage *usage)
{
        return kind == PRESSURE_MEMORY_HIGH ? usage->n_high : usage->forks_refused;
}

/* 0, or why it cannot be read: for want of a descriptor, or because the cgroup goes. */
static int read_waited(const PressureTrigger *t, int dir_fd, uint64_t *ret, uint16_t *ret_average)
{
        const char *file = pressure_file(t->condition.kind), *line, *total;
        char text[4096];
        uint16_t some, full;
        int r;

        *ret_average = KEEPER_PRESSURE_UNKNOWN;
        *ret = 0;
        if (pressure_counts(t->condition.kind)) {
                KeeperUsage usage;

                (void)limits_read_usage(dir_fd, &usage);
                *ret = counter_of(t->condition.kind, &usage);
                return 0;
        }
        r = cgroup_read_text(dir_fd, file ? file : "cpu.stat", text, sizeof(text));
        if (r)
                return r;
        if (!file) {
                *ret = cgroup_text_number(text, "throttled_usec");
                return 0;
        }
        measure_parse_pressure(text, &some, &full);
        line = pressure_line(t->condition.kind);
        *ret_average = strcmp(line, "some") == 0 ? some : full;
        line = cgroup_text_find(text, line);
        total = line ? strstr(line, "total=") : NULL;
        *ret = total ? strtoull(total + 6, NULL, 10) : 0;
        return 0;
}

/* ---- making a trigger */

/* Who has no CAP_SYS_RESOURCE is refused with EINVAL for its window, or is not let in at all. */
static int open_trigger(PressureTrigger *t, int dir_fd)
{
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, pressure_file(t->condition.kind), O_RDWR | O_NONBLOCK);
        char text[64];
        int n;

        if (fd < 0)
                return fd;
        n = snprintf(text, sizeof(text), "%s %" PRIu64 " %" PRIu64, pressure_line(t->condition.kind), t->condition.threshold / NSEC_PER_USEC,
                t->condition.window_ns / NSEC_PER_USEC);
        if (write(fd, text, (size_t)n + 1) < 0)
                return -errno;
        t->fd = TAKE_FD(fd);
        return 0;
}

static const char *why_not(int error, nsec_t window)
{
        if (error == -ENOENT || error == -EOPNOTSUPP)
                return "this kernel counts no pressure (PSI): it was built without it, or booted with psi=0";
        if (error == -EINVAL && window % PRESSURE_UNPRIVILEGED)
                return "the kernel watches for a user without CAP_SYS_RESOURCE in windows of 2s, 4s, ... alone";
        return error_text(error);
}

static int try_window(int dir_fd, PressureKind kind, nsec_t window)
{
        PressureTrigger t = {.condition = {.kind = kind, .threshold = window / 2, .window_ns = window}, .fd = -1};
        int r = open_trigger(&t, dir_fd);

        t.fd = fd_close(t.fd);
        return r;
}

void pressure_try(int dir_fd, char *missing, size_t size)
{
        size_t n = strlen(missing);
        nsec_t window = NSEC_PER_SEC;
        int r = 0;

        for (int kind = 0; kind < _PRESSURE_KIND_MAX && !r; kind++)
                if (pressure_file(kind) && kind != PRESSURE_CPU_FULL) /* which 5.13 has brought; who asks for it is told then */
                        r = try_window(dir_fd, kind, window);
        if (r == -EINVAL && try_window(dir_fd, PRESSURE_CPU_SOME, PRESSURE_UNPRIVILEGED) == 0)
                (void)snprintf(missing + n, size - n, "pressure_window=%s\n", why_not(r, window));
        else if (r)
                (void)snprintf(missing + n, size - n, "pressure=%s\n", why_not(r, PRESSURE_UNPRIVILEGED));
}

/* ---- what is met */

static int dir_of(const LimitsWatch *watch)
{
        return watch->inc ? watch->inc->cgroup_fd : watch->keeper->dataflow_fd;
}

static void report(PressureTrigger *t, uint64_t measured, nsec_t over_ns, uint16_t average)
{
        const Incarnation *inc = t->watch->inc;
        KeeperMsg msg = {.type = KEEPER_MSG_PRESSED,
                .node = inc ? inc->entry->node : KEEPER_NODE_ALL,
                .generation = inc ? inc->generation : 0,
                .pressed = {t->condition.index, measured, over_ns, average}};

        keeper_report(t->watch->keeper, &msg, -1);
}

/*
 * The kernel says that the condition was met, and not by how much. With an earlier reading that is not much older than the window that is known,
 * too.
 */
static void on_trigger(KeeperSource *source, uint32_t events)
{
        PressureTrigger *t = container_of(source, PressureTrigger, source);
        nsec_t now = clock_now(), span = now - t->at;
        uint64_t waited, before = t->waited_us;
        uint16_t average;

        if (!(events & EPOLLPRI) || (events & EPOLLERR)) { /* the cgroup goes: nothing will be told any more, and this for ever */
                keeper_loop_remove(&t->watch->keeper->loop, source);
                return;
        }
        if (read_waited(t, dir_of(t->watch), &waited, &average) || waited < before) {
                report(t, 0, 0, KEEPER_PRESSURE_UNKNOWN);
                return;
        }
        t->at = now;
        t->waited_us = waited;
        if (span <= 2 * t->condition.window_ns && (waited - before) * NSEC_PER_USEC >= t->condition.threshold)
                report(t, (waited - before) * NSEC_PER_USEC, span, average);
        else
                report(t, 0, 0, average);
}

/* Late is late: what was waited is held against the time that it took. */
static void look(PressureTrigger *t, nsec_t now)
{
        nsec_t span = now - t->at;
        uint16_t average;
        uint64_t waited, more;

        if (now < t->due)
                return;
        t->due = nsec_add(now, t->condition.window_ns);
        if (read_waited(t, dir_of(t->watch), &waited, &average) || waited < t->waited_us)
                return; /* the next look is about this window, too */
        more = (waited - t->waited_us) * NSEC_PER_USEC;
        t->at = now;
        t->waited_us = waited;
        if ((double)more * (double)t->condition.window_ns >= (double)t->condition.threshold * (double)span)
                report(t, more, span, average);
}

/*
 * The kernel tells of the first time after a look at once, and of others a second after that look. So what is new now has come since then: a window that
 * is over begins anew there, and not when nothing happened.
 */
static void count(PressureTrigger *t, uint64_t value, nsec_t now)
{
        if (now - t->at > t->condition.window_ns) {
                t->at = MAX(t->looked_at, now - NSEC_PER_SEC);
                t->waited_us = t->looked;
        }
        t->looked_at = now;
        t->looked = value;
        if (value - t->waited_us < t->condition.threshold)
                return;
        report(t, value - t->waited_us, now - t->at, KEEPER_PRESSURE_UNKNOWN);
        t->at = now;
        t->waited_us = value;
}

void pressure_counted(LimitsWatch *watch, const KeeperUsage *usage, nsec_t now)
{
        for (size_t i = 0; watch->pressure && i < watch->pressure->n; i++) {
                PressureTrigger *t = &watch->pressure->triggers[i];

                if (pressure_counts(t->condition.kind))
                        count(t, counter_of(t->condition.kind, usage), now);
        }
}

void pressure_tick(LimitsWatch *watch, nsec_t now)
{
        for (size_t i = 0; watch->pressure && i < watch->pressure->n; i++)
                look(&watch->pressure->triggers[i], now);
}

nsec_t pressure_deadline(const LimitsWatch *watch)
{
        nsec_t deadline = NSEC_NEVER;

        for (size_t i = 0; watch->pressure && i < watch->pressure->n; i++)
                deadline = MIN(deadline, watch->pressure->triggers[i].due);
        return deadline;
}

/* ---- the order */

/* NULL: of nobody who is (still) there. */
static LimitsWatch *watch_of(Keeper *k, uint32_t node, uint64_t generation)
{
        Incarnation *inc;

        if (node == KEEPER_NODE_ALL)
                return &k->limits;
        inc = incarnation_find(k, node, generation);
        return inc && !inc->over && !inc->removing && !inc->job && inc->cgroup_fd >= 0 ? &inc->limits : NULL;
}

static void run_pressure(Job *job)
{
        PressureJob *j = container_of(job, PressureJob, job);

        for (size_t i = 0; i < j->set->n; i++) {
                PressureTrigger *t = &j->set->triggers[i];
                uint16_t average;

                if (pressure_file(t->condition.kind))
                        t->error = open_trigger(t, j->dir_fd);
                if (!t->error) /* against nothing that is known nothing can be held */
                        t->error = read_waited(t, j->dir_fd, &t->waited_us, &average);
                t->at = t->looked_at = clock_now();
                t->looked = t->waited_us;
                if (t->error)
                        t->fd = fd_close(t->fd);
                else if (!pressure_file(t->condition.kind) && !pressure_counts(t->condition.kind))
                        t->due = nsec_add(t->at, t->condition.window_ns);
        }
}

/* What cannot be watched for is told, a line each. */
static void begin(LimitsWatch *watch, PressureSet *set)
{
        char why[KEEPER_MSG_LIMITS_MAX + 1] = "";
        const Incarnation *inc = watch->inc;
        size_t n = 0;

        pressure_end(watch);
        watch->pressure = set;
        for (size_t i = 0; i < set->n; i++) {
                PressureTrigger *t = &set->triggers[i];

                t->watch = watch;
                if (pressure_counts(t->condition.kind))
                        t->waited_us = t->looked = MAX(t->looked, counter_of(t->condition.kind, &watch->usage));
                if (t->fd >= 0 && keeper_loop_add(&watch->keeper->loop, &t->source, t->fd, EPOLLPRI, on_trigger))
                        t->error = -ENOMEM;
                if (t->error && n < sizeof(why))
                        n += (size_t)snprintf(why + n, sizeof(why) - n, "%" PRIu32 "=%s\n", t->condition.index,
                                pressure_file(t->condition.kind) ? why_not(t->error, t->condition.window_ns) : error_text(t->error));
        }
        if (n > 0)
                keeper_report(watch->keeper, &(KeeperMsg){.type = KEEPER_MSG_UNWATCHED, .node = inc ? inc->entry->node : KEEPER_NODE_ALL,
                        .generation = inc ? inc->generation : 0, .unwatched = {why}}, -1);
}

static PressureJob *pressure_job_free(PressureJob *j)
{
        j->dir_fd = fd_close(j->dir_fd);
        j->set = set_free(j->set);
        free(j);
        return NULL;
}

static void on_pressure_done(Job *job)
{
        PressureJob *j = container_of(job, PressureJob, job);
        LimitsWatch *watch = j->keeper->phase == KEEPER_WORKING ? watch_of(j->keeper, j->node, j->generation) : NULL;

        if (watch)
                begin(watch, TAKE_PTR(j->set));
        j = pressure_job_free(j);
}

void keeper_pressure(Keeper *k, const KeeperMsg *msg)
{
        LimitsWatch *watch = watch_of(k, msg->node, msg->generation);
        PressureJob *j;

        if (!watch || (watch->pressure && strcmp(watch->pressure->text, msg->pressure.conditions) == 0))
                return; /* over; or another supervisor says the same again */
        j = calloc(1, sizeof(*j));
        if (j) {
                *j = (PressureJob){.job = {.run = run_pressure, .on_done = on_pressure_done}, .keeper = k, .node = msg->node, .generation = msg->generation};
                j->dir_fd = fcntl(dir_of(watch), F_DUPFD_CLOEXEC, 3);
                j->set = set_new(msg->pressure.conditions);
        }
        if (j && j->dir_fd >= 0 && j->set && jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0)
                return;
        keeper_note(k, "the pressure of %s is not watched: its keeper has no memory, descriptor or thread for it", watch->inc ? watch->inc->cgroup : "the dataflow");
        if (j)
                j = pressure_job_free(j);
}
