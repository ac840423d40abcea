/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/procstat.h"
#include "supervisor/cgroup.h"
#include "supervisor/limit-files.h"

#define SPARE_PROCESSES 4096u

static SpawnJob *spawn_job_free(SpawnJob *j)
{
        for (int i = 0; i < N_SPAWN_FDS; i++)
                j->fds[i] = fd_close(j->fds[i]);
        j->cgroup_fd = fd_close(j->cgroup_fd);
        j->events_fd = fd_close(j->events_fd);
        j->dataflow_fd = fd_close(j->dataflow_fd);
        j->capture_fd = fd_close(j->capture_fd);
        keeper_spec_done(&j->spec);
        free(j->spec_buffer);
        free(j->ours);
        free(j->place);
        free(j->limits);
        free(j->missing);
        free(j->cgroup);
        (void)munmap(j, sizeof(*j));
        return NULL;
}

/* Shared with children: a reaper writes down in it how far its start is. */
static SpawnJob *spawn_job_new(void)
{
        SpawnJob *j = mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        return j == MAP_FAILED ? NULL : j;
}

void incarnation_cancel(Incarnation *inc, nsec_t kill_until)
{
        spawn_cancel(&inc->job->outcome);
        inc->kill_until = MAX(kill_until, UINT64_C(1)); /* 0 would be: no kill was ordered */
}

/* ---- in the thread ---- */

static int read_spec(SpawnJob *j)
{
        size_t n = 0;

        j->spec_buffer = malloc(j->spec_size);
        if (!j->spec_buffer)
                return -ENOMEM;
        while (n < j->spec_size) {
                ssize_t k = pread(j->fds[0], (char *)j->spec_buffer + n, j->spec_size - n, (off_t)n);

                if (k <= 0)
                        return k < 0 ? -errno : -EPROTO;
                n += (size_t)k;
        }
        return keeper_spec_decode(&j->spec, j->spec_buffer, j->spec_size);
}

/* Before anybody is born there. */
static int place_limits(SpawnJob *j)
{
        int r;

        if (j->group_oom)
                limits_group_oom(j->cgroup_fd);
        r = limits_set_all(j->cgroup_fd, j->limits, j->lenient, j->missing, j->refused, sizeof(j->refused));
        if (!r || j->lenient)
                return 0;
        j->limits_failed = true;
        return r;
}

int spawn_job_make_place(SpawnJob *j)
{
        int r;

        atomic_store(&j->outcome.step, SPAWN_STEP_CGROUP);
        if (atomic_load(&j->outcome.cancel))
                return -ECANCELED;
        r = cgroup_make(j->dataflow_fd, j->cgroup, &j->cgroup_fd);
        if (r == CGROUP_E_EXISTS && j->takeover)
                r = cgroup_open(j->dataflow_fd, j->cgroup, &j->cgroup_fd);
        if (r)
                return r == CGROUP_E_EXISTS ? -EEXIST : r;
        j->made = true;
        j->events_fd = cgroup_open_events(j->cgroup_fd);
        if (j->events_fd < 0)
                return j->events_fd;
        /* A bound for hostile trees; a kernel without it only lacks the bound */
        (void)cgroup_limit_descent(j->cgroup_fd);
        return place_limits(j);
}

/* Before the life is announced: without a cgroup there is nothing to watch or to kill but its reaper. */
static int make_reaper(SpawnJob *j)
{
        bool has_cgroup = enforcer_has_cgroup(j->enforcer);
        int r;

        atomic_store(&j->outcome.step, SPAWN_STEP_CLONE);
        r = keeper_reaper_fork(j->keeper, &j->reaper, &j->plan, &j->outcome, has_cgroup ? -1 : j->cgroup_fd);
        if (r || has_cgroup)
                return r;
        j->events_fd = fd_close(j->events_fd);
        j->events_fd = fcntl(j->reaper.pidfd, F_DUPFD_CLOEXEC, 3);
        return j->events_fd < 0 ? -errno : 0;
}

static int read_spec_first(SpawnJob *j)
{
        int r = read_spec(j);

        j->spec_read = !r;
        return r;
}

/*
 * Without a cgroup a fork bomb is stopped process by process, and its end must be in sight: what runs on the host now, whosever it is, and so many
 * more. 0: it cannot be known.
 */
static uint64_t processes_max(void)
{
        char text[128], *slash;
        unsigned long long threads;

        if (procfs_read("/proc/loadavg", text, sizeof(text)))
                return 0;
        slash = strchr(text, '/'); /* 0.20 0.18 0.12 1/80 11206 */
        threads = slash ? strtoull(slash + 1, NULL, 10) : 0;
        return threads ? threads + SPARE_PROCESSES : 0;
}

static void run_spawn(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        bool has_reaper = enforcer_has_reaper(j->enforcer);
        int r = spawn_job_make_place(j);

        if (!r && enforcer_has_cgroup(j->enforcer)) {
                j->plan.cgroup_fd = fcntl(j->cgroup_fd, F_DUPFD_CLOEXEC, 3); /* the announced ones are the loop's */
                r = j->plan.cgroup_fd < 0 ? -errno : 0;
        }
        if (!enforcer_has_cgroup(j->enforcer) && j->plan.uid != 0) /* the kernel does not count root's */
                j->plan.processes_max = processes_max();
        if (!r && !j->may_write_cgroups)
                j->plan.mnt_fd = confine_namespace(j->confine);
        if (!r && has_reaper) { /* a fork: it has to be able to read the specification */
                r = read_spec_first(j);
                if (!r)
                        r = make_reaper(j);
        }
        if (j->made)
                job_announce(job);
        if (!r && !has_reaper) {
                atomic_store(&j->outcome.step, SPAWN_STEP_CLONE);
                r = read_spec_first(j);
        }
        if (r && j->reaper.pidfd >= 0)
                reaper_kill(&j->reaper); /* it waits for a word that does not come */
        if (r)
                j->outcome.error = -r;
        else if (has_reaper)
                j->executed = reaper_start(&j->reaper, &j->outcome) == 0;
        else
                j->executed = spawn_run(&j->plan, &j->outcome) == 0;
        j->plan.cgroup_fd = fd_close(j->plan.cgroup_fd);
}

/* ---- in the loop ---- */

/* The cgroup is made and the clone is about to happen: from here on it can be killed, looked at and watched. */
void spawn_job_place_made(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        Incarnation *inc = j->inc;

        inc->cgroup_fd = TAKE_FD(j->cgroup_fd);
        inc->events_fd = TAKE_FD(j->events_fd);
        incarnation_watch_events(inc);
        incarnation_report_home(inc);
        watch_begin(&inc->limits, inc->cgroup_fd, j->limits);
}

void incarnation_report_failed(Incarnation *inc, KeeperStage stage, int error, const char *text)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_SPAWN_FAILED);

        msg.spawn_failed.stage = inc->fail_stage = stage;
        msg.spawn_failed.error = inc->fail_error = error;
        msg.spawn_failed.text = text;
        free(inc->fail_text);
        inc->fail_text = strdup(text); /* NULL: a successor hears the stage alone */
        keeper_report(inc->keeper, &msg, -1);
}

void incarnation_report_spawned(Incarnation *inc, pid_t pid)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_SPAWNED);

        msg.spawned.pid = inc->pid = pid;
        msg.spawned.cgroup_write = inc->cgroup_write;
        inc->started = true;
        keeper_report(inc->keeper, &msg, fcntl(inc->pidfd, F_DUPFD_CLOEXEC, 3));
        if (inc->events_fd >= 0 && cgroup_populated(inc->events_fd) == 0)
                strays_look(inc, 0); /* it left before we knew of it, and nothing will change there any more */
}

/* What was meant for it, and could not be, is told once for all. */
static void note_unconfined(Keeper *k, const SpawnJob *j)
{
        int error = j->outcome.confine_error ? j->outcome.confine_error : j->plan.mnt_fd < 0 ? k->confine.error : 0;

        if (!k->confine.writable || j->may_write_cgroups || k->confine.told || error == 0)
                return;
        k->confine.told = true;
        keeper_note(k, "nodes can write the files of cgroups: no mount namespace of their own could be made (%s)", error_text(error));
}

KeeperCgroupWrite keeper_cgroup_write(const Keeper *k, bool confined)
{
        if (!k->confine.writable)
                return KEEPER_CGROUP_WRITE_NO;
        return confined ? KEEPER_CGROUP_WRITE_READ_ONLY : KEEPER_CGROUP_WRITE_POSSIBLE;
}

/* It runs without these. */
void incarnation_report_refused(Incarnation *inc, const SpawnJob *j)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_REFUSED);

        if (!j->refused[0])
                return;
        free(inc->refused);
        inc->refused = strdup(j->refused); /* NULL: a successor does not hear of it */
        msg.refused.text = j->refused;
        keeper_report(inc->keeper, &msg, -1);
}

/* What was ordered while the child was on its way reaches it now. */
static void catch_up(Incarnation *inc)
{
        KeeperMsg order = incarnation_about(inc, KEEPER_MSG_SIGNAL);

        if (inc->pending_signo) {
                order.signal.signo = inc->pending_signo;
                keeper_start_signal(inc->keeper, &order, inc->cgroup_fd, true);
        }
        if (inc->kill_until) {
                order.type = KEEPER_MSG_KILL;
                keeper_start_kill(inc->keeper, &order, inc->cgroup_fd,
                        MAX(inc->kill_until, nsec_add(clock_now(), NSEC_PER_SEC)), true);
        }
}

void spawn_job_end(Incarnation *inc, SpawnJob *j)
{
        if (!j->made)
                incarnation_report_empty(inc, true); /* none was made */
        else
                catch_up(inc);
        j = spawn_job_free(j);
        incarnation_look_again(inc);
}

static void on_spawn_done(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        Incarnation *inc = j->inc;
        char text[KEEPER_MSG_TEXT_MAX];
        KeeperStage stage;

        inc->job = NULL;
        inc->pidfd = atomic_load(&j->outcome.pidfd);
        inc->reaper = j->reaper;
        j->reaper = REAPER_NULL;
        if (j->executed) {
                inc->cgroup_write = keeper_cgroup_write(inc->keeper, j->outcome.confined);
                note_unconfined(inc->keeper, j);
                /* Also when it was given up: then its end is awaited without a word. */
                if (!inc->given_up) {
                        incarnation_report_spawned(inc, j->outcome.pid);
                        incarnation_report_refused(inc, j);
                } else
                        incarnation_kill_leader(inc);
                if (inc->reaper.socket_fd >= 0)
                        incarnation_watch(inc, &inc->exit, inc->reaper.socket_fd, EPOLLIN, keeper_on_reaper);
                else
                        incarnation_watch(inc, &inc->exit, inc->pidfd, EPOLLIN, incarnation_on_exit);
        } else {
                inc->pidfd = fd_close(inc->pidfd); /* reaped in the thread */
                inc->exited = inc->reaped = true;
                stage = spawn_explain(&j->outcome, j->spec_read ? &j->spec : NULL, j->plan.uid, j->plan.gid, text,
                        sizeof(text));
                if (!inc->given_up && j->limits_failed)
                        incarnation_report_failed(inc, KEEPER_STAGE_LIMITS, j->outcome.error, j->refused);
                else if (!inc->given_up)
                        incarnation_report_failed(inc, stage, j->outcome.error, text);
        }
        spawn_job_end(inc, j);
}

Incarnation *incarnation_new(Keeper *k, const KeeperMsg *msg, const char *id, const char *limits, bool lenient)
{
        Incarnation *inc = calloc(1, sizeof(*inc));
        SpawnJob *j = spawn_job_new();
        NodeEntry *entry = keeper_node(k, msg->node, id);

        if (!inc || !j || !entry ||
                asprintf(&inc->cgroup, "%s.%llu", id, (unsigned long long)msg->generation) < 0 ||
                !(j->cgroup = strdup(inc->cgroup)) || !(j->limits = strdup(limits)) || !(j->missing = strdup(k->missing))) {
                if (inc)
                        free(inc->cgroup);
                free(inc);
                if (j) {
                        free(j->cgroup);
                        free(j->limits);
                        (void)munmap(j, sizeof(*j));
                }
                return NULL;
        }
        inc->keeper = k;
        inc->entry = entry;
        inc->generation = msg->generation;
        inc->released = !k->persistent;
        inc->job = j;
        inc->spawn_began = clock_now();
        inc->spawn_deadline = NSEC_NEVER;
        watch_init(&inc->limits, k, inc);
        j->lenient = lenient;
        j->group_oom = k->controllers & LIMIT_CONTROLLER_MEMORY;
        inc->cgroup_fd = inc->events_fd = inc->pidfd = -1;
        inc->reaper = REAPER_NULL;
        inc->events = inc->exit = KEEPER_SOURCE_INIT;
        output_init(&inc->out[0], inc, 1);
        output_init(&inc->out[1], inc, 2);
        list_append(&k->incarnations, &inc->link);

        j->keeper = k;
        j->enforcer = k->enforcer;
        j->reaper = REAPER_NULL;
        spawn_outcome_init(&j->outcome);
        j->inc = inc;
        j->cgroup_fd = j->events_fd = j->capture_fd = -1;
        j->dataflow_fd = fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3);
        for (int i = 0; i < N_SPAWN_FDS; i++)
                j->fds[i] = -1;
        return inc;
}

/* Consumes the descriptors. */
static void prepare_spawn(Incarnation *inc, const KeeperMsg *msg, int *fds)
{
        Keeper *k = inc->keeper;
        SpawnJob *j = inc->job;

        inc->spawn_deadline = msg->spawn.deadline_ns;
        j->spec_size = msg->spawn.spec_size;
        for (int i = 0; i < keeper_msg_n_fds(msg); i++)
                j->fds[i] = TAKE_FD(fds[i]);
        j->plan = (SpawnPlan){.spec = &j->spec,
                .cgroup_fd = -1,
                .guard_fd = k->guard_fd,
                .stdout_fd = j->fds[1],
                .stderr_fd = j->fds[2],
                .socket_fd = j->fds[5],
                .mnt_fd = -1,
                .slot = k->slot,
                .node = msg->node,
                .generation = msg->generation,
                .uid = k->uid,
                .gid = k->gid,
                .groups = k->groups,
                .n_groups = k->n_groups,
                .reset_oom = k->reset_oom,
                .default_signals = k->default_signals};
        j->confine = &k->confine;
        j->may_write_cgroups = inc->cgroup_writable = msg->spawn.cgroup_writable;
        j->job = (Job){.run = run_spawn, .on_announce = spawn_job_place_made, .on_done = on_spawn_done};
}

void keeper_refuse_spawn(Keeper *k, const KeeperMsg *msg, KeeperStage stage, int error, const char *text)
{
        KeeperMsg answer = {.type = KEEPER_MSG_SPAWN_FAILED,
                .node = msg->node,
                .generation = msg->generation,
                .spawn_failed = {stage, error, text}};

        keeper_report(k, &answer, -1);
        answer = (KeeperMsg){.type = KEEPER_MSG_EMPTY, .node = msg->node, .generation = msg->generation,
                .empty = {1, 0}};
        keeper_report(k, &answer, -1);
}

void incarnation_fail_unstarted(Incarnation *inc, KeeperStage stage, int error, const char *text)
{
        inc->job = spawn_job_free(inc->job);
        inc->exited = inc->reaped = true;
        incarnation_report_failed(inc, stage, error, text);
        incarnation_report_empty(inc, true);
}

void keeper_spawn(Keeper *k, const KeeperMsg *msg, int *fds)
{
        char text[KEEPER_MSG_TEXT_MAX];
        Incarnation *inc;
        int r = 0;

        if (incarnation_find(k, msg->node, msg->generation)) {
                keeper_note(k, "an order to start generation %llu of node %s twice was refused",
                        (unsigned long long)msg->generation, msg->spawn.id);
                return; /* no answer: it would be taken for the first one's */
        }
        inc = incarnation_new(k, msg, msg->spawn.id, msg->spawn.limits, msg->spawn.lenient);
        if (!inc) {
                keeper_refuse_spawn(k, msg, KEEPER_STAGE_CLONE, ENOMEM,
                        "cannot start the node: the keeper is out of memory");
                return;
        }
        prepare_spawn(inc, msg, fds);
        for (int i = 0; i < 2 && !r; i++)
                r = output_open(&inc->out[i], TAKE_FD(inc->job->fds[3 + i]));
        if (!r && inc->job->dataflow_fd < 0)
                r = -EMFILE;
        if (r) {
                snprintf(text, sizeof(text), "cannot read the node's output: %s", error_text(r));
                incarnation_fail_unstarted(inc, KEEPER_STAGE_FDS, -r, text);
                return;
        }
        r = jobs_submit(&k->jobs, &inc->job->job, JOB_SPAWN);
        if (r)
                incarnation_fail_unstarted(inc, KEEPER_STAGE_CLONE, -r,
                        "cannot start the node: the keeper cannot make a thread for it");
}

/* It did not come back in time: no more waiting, whatever becomes of it is killed; its cgroup tells who is left. */
void incarnation_give_up(Incarnation *inc, nsec_t now)
{
        SpawnJob *j = inc->job;
        char text[KEEPER_MSG_TEXT_MAX];
        KeeperMsg order = incarnation_about(inc, KEEPER_MSG_KILL);
        KeeperStage stage;
        bool waiting;

        spawn_cancel(&j->outcome);
        stage = spawn_explain_deadline(&j->outcome, j->spec_read ? &j->spec : NULL, now - inc->spawn_began, text,
                sizeof(text));
        waiting = job_give_up(&j->job);
        if (waiting) {
                incarnation_fail_unstarted(inc, stage, ETIMEDOUT, text);
                return;
        }
        inc->given_up = true;
        incarnation_report_failed(inc, stage, ETIMEDOUT, text);
        inc->kill_until = nsec_add(now, NSEC_PER_SEC);
        if (inc->cgroup_fd >= 0)
                keeper_start_kill(inc->keeper, &order, inc->cgroup_fd, inc->kill_until, true);
}
