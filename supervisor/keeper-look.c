/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is still there, and why (base/task.h). State D is no proof of anything: a process that was killed may show it on its way
 * out. So what is told is who outlived a kill, what it does, and for how long it has done nothing else; and who merely takes its
 * time is looked at again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/place.h"
#include "protocol/task_msg.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"

#define SEEN_MAX      256
#define LOOK_MAX      4096 /* tasks that are read; beyond they are counted, and so are those after the first ones when the time is over */
#define AGAIN_SPAN    (40 * NSEC_PER_MSEC)
/* Our reaper waits for everybody at once. Whom it cannot wait for for so long somebody traces whom we do not see, from another PID namespace. */
#define UNSEEN_TRACER_SPAN (100 * NSEC_PER_MSEC)

/* ---- for how long it has not run */

typedef struct Seen {
        int32_t tid;
        char state;
        int32_t call;
        uint64_t start_time, switches;
        nsec_t since;
} Seen;

/* Shared by the threads that look. What is forgotten, for there are too many, was looked at once. */
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;
static Seen seen[SEEN_MAX];
static unsigned seen_next;

static void compare_with_seen(Task *task, nsec_t now)
{
        Seen *s = NULL;

        (void)pthread_mutex_lock(&seen_lock);
        for (unsigned i = 0; i < SEEN_MAX && !s; i++)
                if (seen[i].tid == task->tid && seen[i].start_time == task->start_time)
                        s = &seen[i];
        if (!s)
                s = &seen[seen_next++ % SEEN_MAX];
        if (s->tid == task->tid && s->start_time == task->start_time && s->switches == task->switches && s->state == task->state &&
                s->call == task->call)
                task->still_ns = now - s->since;
        else
                *s = (Seen){task->tid, task->state, task->call, task->start_time, task->switches, now};
        (void)pthread_mutex_unlock(&seen_lock);
}

/* ---- one look */

typedef struct Walk {
        Look *look; /* NULL: only remembered */
        uint32_t n, n_unreaped;
        nsec_t until;
        bool frozen; /* the cgroup that is being visited */
        bool leader_seen;
        bool final; /* somebody is there who does not just take its time */
        Wire wire;
} Walk;

static void tell(Walk *w, const Task *task)
{
        Look *look = w->look;

        look->kind = MAX(look->kind, task->kind);
        /* Others than those on their way out, which run or have exited. */
        w->final = w->final || (task->kind != TASK_EXITED && task->state != 'R');
        if (look->n_tasks < LOOK_TASKS && task_msg_put(&w->wire, task))
                look->n_tasks++;
}

static int look_at_task(Walk *w, pid_t pid, pid_t tid)
{
        nsec_t now = clock_now();
        Task task;

        /* No more than counted. To find them can take all the time there is on a machine that is full: some are named all the same. */
        if (w->n >= LOOK_MAX || (now >= w->until && w->n >= LOOK_TASKS)) {
                w->n++;
                return w->n < CGROUP_COUNT_MAX ? 0 : -ETIMEDOUT;
        }
        if (task_read(&task, pid, tid))
                return 0; /* gone meanwhile */
        w->n++;
        task.frozen = task.frozen || w->frozen;
        compare_with_seen(&task, now);
        if (w->look)
                tell(w, &task);
        return 0;
}

static int look_at_process(pid_t pid, void *userdata)
{
        Walk *w = userdata;
        struct dirent *entry;
        char path[64];
        int r = 0;
        DIR *d;

        w->leader_seen = w->leader_seen || (w->look && pid == w->look->leader);
        (void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
        d = opendir(path);
        while (d && r == 0 && (entry = readdir(d)))
                if (entry->d_name[0] != '.')
                        r = look_at_task(w, pid, (pid_t)atoi(entry->d_name));
        if (d)
                (void)closedir(d);
        return r;
}

static bool is_frozen(int dir_fd)
{
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, "cgroup.events", O_RDONLY);
        char text[256] = {};

        return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strstr(text, "frozen 1");
}

static int look_at_one_cgroup(int dir_fd, void *userdata)
{
        Walk *w = userdata;

        w->frozen = is_frozen(dir_fd);
        return cgroup_each_process(dir_fd, look_at_process, w);
}

/* ---- those that are elsewhere */

static void look_at_stranger(Walk *w, pid_t pid)
{
        Task task;

        if (task_read(&task, pid, pid) || task.kind == TASK_EXITED)
                return;
        if (task.state != 'D' && task.state != 't') /* else that is why, wherever it is */
                task.kind = TASK_ESCAPED;
        task_read_cgroup(&task);
        compare_with_seen(&task, clock_now());
        w->n++;
        tell(w, &task);
}

/* Also one that executed a program of another user's, whom we may not signal. */
static bool lives(int pidfd)
{
        return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

/* The first process is ours wherever it goes: it is known by its pidfd. */
static void look_for_leader(Walk *w)
{
        Look *look = w->look;

        if (w->leader_seen || look->leader <= 0 || !lives(look->leader_fd))
                return;
        look_at_stranger(w, look->leader);
}

static void look_for_strays(Walk *w)
{
        for (unsigned i = 0; w->look && i < w->look->n_strays; i++) {
                const KnownStray *stray = &w->look->strays[i];

                if (stray->pid != w->look->leader && lives(stray->pidfd))
                        look_at_stranger(w, stray->pid);
        }
}

/* Somebody who traces it from outside has to wait for it before its parent, our reaper, can: only then that life is over. */
static int look_at_unreaped(pid_t pid, void *userdata)
{
        Walk *w = userdata;
        Task task;

        if (w->n >= LOOK_MAX || task_read(&task, pid, pid) || (w->n > w->n_unreaped && task.tracer <= 0))
                return 0; /* beside others one that is merely not waited for yet is no reason */
        compare_with_seen(&task, clock_now());
        if (task.tracer > 0 || task.still_ns >= UNSEEN_TRACER_SPAN)
                task.kind = TASK_TRACED;
        w->n_unreaped++;
        task.leader_exited = false; /* and everybody else of it */
        w->n++;
        tell(w, &task);
        return 0;
}

static void look_once(Look *look, Walk *w)
{
        *w = (Walk){.look = look, .until = look->until ? look->until : nsec_add(clock_now(), LOOK_SPAN / 5),
                .wire = wire_init(look->tasks, sizeof(look->tasks))};
        look->n_tasks = 0;
        look->kind = 0;
        (void)cgroup_walk(look->dir_fd, look_at_one_cgroup, w); /* what could be seen is told */
        look_for_leader(w);
        look_for_strays(w);
        if (look->reaper > 0)
                (void)place_each_unreaped(look->reaper, look_at_unreaped, w);
        look->n = w->n;
        look->size = w->wire.at;
        if (look->kind == TASK_EXITED) /* its other threads are about to be seen, or gone */
                look->kind = TASK_UNINTERRUPTIBLE;
}

void look_now(Look *look)
{
        Walk w;

        look_once(look, &w);
        while (look->n > 0 && !w.final && nsec_add(clock_now(), 2 * AGAIN_SPAN) < look->until) {
                (void)poll(NULL, 0, (int)(AGAIN_SPAN / NSEC_PER_MSEC));
                look_once(look, &w);
        }
}

void look_compare(Task *task)
{
        compare_with_seen(task, clock_now());
}

void look_first_at(pid_t pid)
{
        Task task;

        if (task_read(&task, pid, pid) == 0)
                compare_with_seen(&task, clock_now());
}

void look_first(int dir_fd)
{
        Walk w = {.until = nsec_add(clock_now(), LOOK_SPAN)};

        (void)cgroup_walk(dir_fd, look_at_one_cgroup, &w);
}
