/* SPDX-License-Identifier: Apache-2.0 */
/* A process that somebody else started becomes a node's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/capture.h"
#include "supervisor/keeper-spawn.h"

#define BASE "/tidegate" /* what instances lie in */

static int capture_refused(SpawnJob *j, int r, const char *why)
{
        (void)snprintf(j->why, sizeof(j->why), "%s", why);
        return r;
}

/* May it be? Sets the pid. */
static int look_at_stranger(SpawnJob *j)
{
        pid_t pid = capture_pid(j->capture_fd);
        int r;

        if (pid < 0)
                return capture_refused(j, pid, pid == -ESRCH ? "it has ended, or is in another PID namespace" : error_text(pid));
        j->outcome.pid = pid;
        r = capture_check(CAPTURE_PROC, pid, j->ours, j->place, j->why, sizeof(j->why));
        if (r == CAPTURE_E_THERE)
                return j->takeover ? 0 : capture_refused(j, -EPERM, "it is part of this dataflow already");
        return r ? -EPERM : 0;
}

static int capture(SpawnJob *j)
{
        _cleanup_fd_ int fd = -1;
        int r;

        if (j->enforcer != ENFORCER_CGROUP)
                return capture_refused(j, -EOPNOTSUPP, "only the enforcer cgroup can take over a process (see docs/enforcement.md)");
        r = look_at_stranger(j);
        if (r)
                return r;
        r = spawn_job_make_place(j);
        if (!r) {
                fd = fcntl(j->cgroup_fd, F_DUPFD_CLOEXEC, 3); /* the announced one is the loop's */
                r = fd < 0 ? -errno : 0;
        }
        if (j->made)
                job_announce(&j->job);
        if (atomic_load(&j->outcome.cancel))
                return capture_refused(j, -ECANCELED, "the node was stopped");
        if (!r && clock_now() >= j->capture_deadline)
                return capture_refused(j, -ETIMEDOUT, "its keeper was held up for too long");
        if (r)
                return capture_refused(j, r, j->limits_failed ? j->refused : error_text(r));
        return capture_move(CAPTURE_PROC, j->capture_fd, j->outcome.pid, fd, j->why, sizeof(j->why)) ? -EPERM : 0;
}

static void run_capture(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        int r = capture(j);

        j->executed = r == 0;
        j->outcome.error = -r;
}

/* No child of ours: that it has ended is all that we see. */
static void on_captured_exit(KeeperSource *source, uint32_t events)
{
        Incarnation *inc = container_of(source, Incarnation, exit);
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_EXITED);

        keeper_loop_remove(&inc->keeper->loop, &inc->exit);
        inc->exited = true;
        watch_tell(&inc->limits);
        keeper_report(inc->keeper, &msg, -1);
        incarnation_look_again(inc);
}

static void on_capture_done(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        Incarnation *inc = j->inc;

        inc->job = NULL;
        inc->reaped = true; /* not ours to reap */
        if (j->executed) {
                inc->pidfd = TAKE_FD(j->capture_fd);
                inc->foreign = true;
                inc->cgroup_write = keeper_cgroup_write(inc->keeper, false);
                incarnation_report_spawned(inc, j->outcome.pid);
                incarnation_report_refused(inc, j);
                incarnation_watch(inc, &inc->exit, inc->pidfd, EPOLLIN, on_captured_exit);
        } else {
                inc->exited = true;
                incarnation_report_failed(inc, KEEPER_STAGE_CAPTURE, j->outcome.error, j->why);
        }
        spawn_job_end(inc, j);
}

/* The directory of all instances, above that of ours (instance.h), and what will be the incarnation's own. Reads two links of /proc/self/fd. */
static int find_paths(const Keeper *k, SpawnJob *j)
{
        char link[64], path[KEEPER_MSG_PATH_MAX + 1], *base;
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", k->instance_fd);
        n = readlink(link, path, sizeof(path) - 1);
        path[MAX(n, (ssize_t)0)] = '\0';
        if (path[0] != '/')
                return error_origin(-ENOENT);
        j->ours = strdup(path);
        base = j->ours ? strrchr(j->ours, '/') : NULL;
        if (base && base - j->ours >= (ssize_t)strlen(BASE) && memcmp(base - strlen(BASE), BASE, strlen(BASE)) == 0)
                *base = '\0';
        if (!j->ours || asprintf(&j->place, "%s/%s", keeper_cgroup_path(k, path, sizeof(path)), j->cgroup) < 0) {
                j->place = NULL;
                return error_origin(-ENOMEM);
        }
        return 0;
}

void keeper_capture(Keeper *k, const KeeperMsg *msg, int *fds)
{
        char text[KEEPER_MSG_TEXT_MAX];
        Incarnation *inc;
        SpawnJob *j;
        int r = 0;

        if (incarnation_find(k, msg->node, msg->generation)) {
                keeper_note(k, "an order to capture a process as generation %llu of node %s twice was refused", (unsigned long long)msg->generation, msg->capture.id);
                return; /* no answer: it would be taken for the first one's */
        }
        inc = incarnation_new(k, msg, msg->capture.id, msg->capture.limits, msg->capture.lenient);
        if (!inc) {
                keeper_refuse_spawn(k, msg, KEEPER_STAGE_CAPTURE, ENOMEM, "the keeper is out of memory");
                return;
        }
        j = inc->job;
        j->capture_fd = TAKE_FD(fds[0]);
        j->capture_deadline = msg->capture.deadline_ns;
        j->takeover = k->takeover;
        j->job = (Job){.run = run_capture, .on_announce = spawn_job_place_made, .on_done = on_capture_done};
        r = j->dataflow_fd < 0 ? -EMFILE : find_paths(k, j);
        if (!r)
                r = jobs_submit(&k->jobs, &j->job, JOB_WORK);
        if (r) {
                (void)snprintf(text, sizeof(text), "its keeper cannot do it: %s", error_text(r));
                incarnation_fail_unstarted(inc, KEEPER_STAGE_CAPTURE, -r, text);
        }
}
