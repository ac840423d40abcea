/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/capture.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/limit-files.h"

#define BASE        "/tidegate" /* what instances lie in */
#define SPARE_PROCESSES 4096u
#define N_SPAWN_FDS 6 /* spec, stdout write, stderr write, stdout read, stderr read, socket */

/* Everything the spawner thread touches; the incarnation itself is the loop's alone. */
struct SpawnJob {
        Job job;
        Incarnation *inc; /* not touched by the thread */
        SpawnOutcome outcome;
        Confine *confine; /* the keeper's; has a lock of its own */
        bool may_write_cgroups; /* the plan wants it so */
        SpawnPlan plan;
        KeeperSpec spec;
        void *spec_buffer;
        uint64_t spec_size;
        int dataflow_fd;
        char *cgroup;
        int fds[N_SPAWN_FDS];
        int cgroup_fd, events_fd; /* from the announcement on the incarnation's */
        bool made, executed; /* executed: or captured */
        int capture_fd; /* pidfd of the process to capture; -1: this is a start */
        nsec_t capture_deadline;
        Keeper *keeper;     /* the thread uses its reapers only */
        Enforcer enforcer;
        Reaper reaper;
        bool takeover;      /* the cgroup may be there, and the process in it: another keeper was at it */
        char *ours, *place; /* paths: of all cgroups of ours, of this one */
        char why[KEEPER_MSG_TEXT_MAX];
        char *limits, *missing; /* missing: what the keeper knew of controllers when the job was made */
        bool lenient, group_oom, limits_failed;
        char refused[KEEPER_MSG_LIMITS_MAX + 1];
        _Atomic bool spec_read; /* the specification may be read by the loop, for messages */
};

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

Incarnation *incarnation_find(Keeper *k, uint32_t node, uint64_t generation)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                if (inc->entry->node == node && inc->generation == generation)
                        return inc;
        return NULL;
}

static Incarnation *incarnation_free(Incarnation *inc)
{
        Keeper *k = inc->keeper;

        list_unlink(&inc->link);
        for (int i = 0; i < 2; i++)
                output_close(&inc->out[i]);
        keeper_loop_remove(&k->loop, &inc->events);
        keeper_loop_remove(&k->loop, &inc->exit);
        watch_end(&inc->limits);
        inc->events_fd = fd_close(inc->events_fd);
        inc->cgroup_fd = fd_close(inc->cgroup_fd);
        inc->pidfd = fd_close(inc->pidfd);
        inc->reaper.pidfd = fd_close(inc->reaper.pidfd);
        inc->reaper.socket_fd = fd_close(inc->reaper.socket_fd);
        strays_forget(inc);
        free(inc->fail_text);
        free(inc->refused);
        free(inc->cgroup);
        free(inc);
        return NULL;
}

static KeeperMsg about(const Incarnation *inc, KeeperMsgType type)
{
        return (KeeperMsg){.type = type, .node = inc->entry->node, .generation = inc->generation};
}

void incarnation_cancel(Incarnation *inc, nsec_t kill_until)
{
        spawn_cancel(&inc->job->outcome);
        inc->kill_until = MAX(kill_until, UINT64_C(1)); /* 0 would be: no kill was ordered */
}

/* A leader that left its cgroup is still ours, and is known by its pidfd. */
void incarnation_kill_leader(Incarnation *inc)
{
        if (inc->pidfd >= 0 && !inc->exited)
                (void)syscall(SYS_pidfd_send_signal, inc->pidfd, SIGKILL, NULL, 0);
}

void incarnation_killed(Incarnation *inc, uint32_t n, nsec_t at)
{
        inc->n_killed = MAX(inc->n_killed, n);
        if (n > 0 && (!inc->killed_at || at < inc->killed_at))
                inc->killed_at = at;
}

static void report_empty(Incarnation *inc, bool removed)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_EMPTY);

        inc->over = true;
        inc->removed = removed;
        keeper_loop_remove(&inc->keeper->loop, &inc->events);
        watch_end(&inc->limits);
        inc->events_fd = fd_close(inc->events_fd);
        inc->cgroup_fd = fd_close(inc->cgroup_fd);
        for (int i = 0; i < 2; i++)
                output_last(&inc->out[i]);
        msg.empty.removed = removed;
        msg.empty.n_killed = inc->n_killed + inc->n_told_killed;
        msg.empty.killed_at_ns = inc->killed_at;
        keeper_report(inc->keeper, &msg, -1);
}

static void on_events(KeeperSource *source, uint32_t events)
{
        Incarnation *inc = container_of(source, Incarnation, events);

        watch_frozen(&inc->limits, inc->events_fd); /* reading arms the next notification */
        if (cgroup_populated(inc->events_fd) == 0 && inc->started && !inc->exited)
                strays_look(inc, 0); /* its first process lives, and not here */
        incarnation_look_again(inc);
}

/* It would never hear of it: better that another keeper looks at what is there. Without one the supervisor's deadlines tell. */
static void watch_or_leave(Incarnation *inc, KeeperSource *source, int fd, uint32_t events, KeeperSourceEvent on_event)
{
        if (keeper_loop_add(&inc->keeper->loop, source, fd, events, on_event) && inc->keeper->persistent)
                _exit(1);
}

static void watch_events(Incarnation *inc)
{
        uint32_t mask = inc->events_fd >= 0 ? (uint32_t)cgroup_events_mask(inc->events_fd) : 0;

        if (mask)
                watch_or_leave(inc, &inc->events, inc->events_fd, mask, on_events);
}

static void on_removed(Keeper *k, const KeeperMsg *whom, int r)
{
        Incarnation *inc = incarnation_find(k, whom->node, whom->generation);

        if (inc && r != 0 && inc->events_fd >= 0 && cgroup_populated(inc->events_fd) == 1) {
                inc->removing = false; /* somebody moved in meanwhile: it is not empty after all */
                watch_events(inc);
        } else if (inc)
                report_empty(inc, r == 0);
}

/*
 * Empty means: nobody in the cgroup, the start is not under way, and the leader has exited, wherever it went. A dead
 * leader that nobody has reaped does not count as somebody.
 */
void incarnation_look_again(Incarnation *inc)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_EMPTY);

        if (inc->over || inc->removing || inc->job || !inc->exited)
                return;
        if (inc->events_fd >= 0 && cgroup_populated(inc->events_fd) != 0)
                return;
        if (!incarnation_settle(inc) || !strays_are_gone(inc))
                return;
        inc->removing = true;
        watch_tell(&inc->limits); /* while it is there to be read */
        watch_end(&inc->limits);
        keeper_loop_remove(&inc->keeper->loop, &inc->events); /* the file of a removed cgroup is ready for ever */
        if (!keeper_start_remove(inc->keeper, &msg, inc->keeper->dataflow_fd, inc->cgroup,
                nsec_add(clock_now(), REMOVE_SPAN), on_removed))
                report_empty(inc, false);
}

static void on_exit_(KeeperSource *source, uint32_t events)
{
        Incarnation *inc = container_of(source, Incarnation, exit);
        siginfo_t si = {};

        /*
         * Only looked at: it is reaped once the supervisor has written it down. One that was given up nobody waits
         * for.
         */
        if (waitid(P_PIDFD, (id_t)inc->pidfd, &si, WEXITED | WNOHANG | (inc->started || inc->keeper->persistent ? WNOWAIT : 0)) < 0 ||
                si.si_pid == 0)
                return;
        inc->reaped = !inc->started && !inc->keeper->persistent;
        incarnation_exited(inc, si.si_code, si.si_status);
}

void incarnation_exited(Incarnation *inc, int code, int status)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_EXITED);

        keeper_loop_remove(&inc->keeper->loop, &inc->exit);
        inc->exited = true;
        inc->unasked = inc->stray_signo == 0 && !inc->stray_last;
        inc->exit_code = msg.exited.code = code;
        inc->exit_status = msg.exited.status = status;
        if (inc->started)
                watch_tell(&inc->limits); /* before: it may be why */
        if (inc->started)
                keeper_report(inc->keeper, &msg, -1);
        if (inc->events_fd >= 0 && cgroup_populated(inc->events_fd) == 1)
                strays_look(inc, 0);
        incarnation_look_again(inc);
}

void keeper_reap(Keeper *k, const KeeperMsg *msg)
{
        Incarnation *inc = incarnation_find(k, msg->node, msg->generation);

        if (inc)
                inc->released = true;
        if (!inc || !inc->exited || inc->reaped)
                return;
        if (inc->stray_busy)
                inc->stray_reap = true; /* its number is its session's, and must not become another's meanwhile */
        else
                incarnation_reap(inc);
}

void incarnation_reap(Incarnation *inc)
{
        siginfo_t si;

        inc->stray_reap = false;
        if (inc->pidfd >= 0)
                (void)waitid(P_PIDFD, (id_t)inc->pidfd, &si, WEXITED | WNOHANG);
        inc->pidfd = fd_close(inc->pidfd);
        inc->reaped = true;
}

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

/* 0 or -errno; the step is in the outcome. */
static int make_place(SpawnJob *j)
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
        _cleanup_fd_ int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
        char text[128], *slash;
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        unsigned long long threads;

        text[MAX(n, (ssize_t)0)] = '\0';
        slash = strchr(text, '/'); /* 0.20 0.18 0.12 1/80 11206 */
        threads = slash ? strtoull(slash + 1, NULL, 10) : 0;
        return threads ? threads + SPARE_PROCESSES : 0;
}

static void run_spawn(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        bool has_reaper = enforcer_has_reaper(j->enforcer);
        int r = make_place(j);

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

/* The cgroup is made and the clone is about to happen: from here on it can be killed, looked at and watched. */
static void on_place_made(Job *job)
{
        SpawnJob *j = container_of(job, SpawnJob, job);
        Incarnation *inc = j->inc;

        inc->cgroup_fd = TAKE_FD(j->cgroup_fd);
        inc->events_fd = TAKE_FD(j->events_fd);
        watch_events(inc);
        watch_begin(&inc->limits, inc->cgroup_fd, j->limits);
}

static void report_spawn_failed(Incarnation *inc, KeeperStage stage, int error, const char *text)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_SPAWN_FAILED);

        msg.spawn_failed.stage = inc->fail_stage = stage;
        msg.spawn_failed.error = inc->fail_error = error;
        msg.spawn_failed.text = text;
        free(inc->fail_text);
        inc->fail_text = strdup(text); /* NULL: a successor hears the stage alone */
        keeper_report(inc->keeper, &msg, -1);
}

static void report_spawned(Incarnation *inc, pid_t pid)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_SPAWNED);

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

static KeeperCgroupWrite cgroup_write_of(const Keeper *k, bool confined)
{
        if (!k->confine.writable)
                return KEEPER_CGROUP_WRITE_NO;
        return confined ? KEEPER_CGROUP_WRITE_READ_ONLY : KEEPER_CGROUP_WRITE_POSSIBLE;
}

/* It runs without these. */
static void report_refused(Incarnation *inc, const SpawnJob *j)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_REFUSED);

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
        KeeperMsg order = about(inc, KEEPER_MSG_SIGNAL);

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

/* Consumes the job. */
static void end_job(Incarnation *inc, SpawnJob *j)
{
        if (!j->made)
                report_empty(inc, true); /* none was made */
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
                inc->cgroup_write = cgroup_write_of(inc->keeper, j->outcome.confined);
                note_unconfined(inc->keeper, j);
                /* Also when it was given up: then its end is awaited without a word. */
                if (!inc->given_up) {
                        report_spawned(inc, j->outcome.pid);
                        report_refused(inc, j);
                } else
                        incarnation_kill_leader(inc);
                if (inc->reaper.socket_fd >= 0)
                        watch_or_leave(inc, &inc->exit, inc->reaper.socket_fd, EPOLLIN, keeper_on_reaper);
                else
                        watch_or_leave(inc, &inc->exit, inc->pidfd, EPOLLIN, on_exit_);
        } else {
                inc->pidfd = fd_close(inc->pidfd); /* reaped in the thread */
                inc->exited = inc->reaped = true;
                stage = spawn_explain(&j->outcome, j->spec_read ? &j->spec : NULL, j->plan.uid, j->plan.gid, text,
                        sizeof(text));
                if (!inc->given_up && j->limits_failed)
                        report_spawn_failed(inc, KEEPER_STAGE_LIMITS, j->outcome.error, j->refused);
                else if (!inc->given_up)
                        report_spawn_failed(inc, stage, j->outcome.error, text);
        }
        end_job(inc, j);
}

/* With a job that has nothing to do yet. NULL: without memory. */
static Incarnation *incarnation_new(Keeper *k, const KeeperMsg *msg, const char *id, const char *limits, bool lenient)
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
        j->job = (Job){.run = run_spawn, .on_announce = on_place_made, .on_done = on_spawn_done};
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

/* The start fails before any thread saw it. */
static void fail_unstarted(Incarnation *inc, KeeperStage stage, int error, const char *text)
{
        inc->job = spawn_job_free(inc->job);
        inc->exited = inc->reaped = true;
        report_spawn_failed(inc, stage, error, text);
        report_empty(inc, true);
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
                fail_unstarted(inc, KEEPER_STAGE_FDS, -r, text);
                return;
        }
        r = jobs_submit(&k->jobs, &inc->job->job, JOB_SPAWN);
        if (r)
                fail_unstarted(inc, KEEPER_STAGE_CLONE, -r,
                        "cannot start the node: the keeper cannot make a thread for it");
}

/* ---- a process that somebody else started ---- */

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
        r = make_place(j);
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
        KeeperMsg msg = about(inc, KEEPER_MSG_EXITED);

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
                inc->cgroup_write = cgroup_write_of(inc->keeper, false);
                report_spawned(inc, j->outcome.pid);
                report_refused(inc, j);
                watch_or_leave(inc, &inc->exit, inc->pidfd, EPOLLIN, on_captured_exit);
        } else {
                inc->exited = true;
                report_spawn_failed(inc, KEEPER_STAGE_CAPTURE, j->outcome.error, j->why);
        }
        end_job(inc, j);
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
        j->job = (Job){.run = run_capture, .on_announce = on_place_made, .on_done = on_capture_done};
        r = j->dataflow_fd < 0 ? -EMFILE : find_paths(k, j);
        if (!r)
                r = jobs_submit(&k->jobs, &j->job, JOB_WORK);
        if (r) {
                (void)snprintf(text, sizeof(text), "its keeper cannot do it: %s", error_text(r));
                fail_unstarted(inc, KEEPER_STAGE_CAPTURE, -r, text);
        }
}

/* ---- supervisors and keepers that follow others ---- */

static void report_incarnation(Incarnation *inc, nsec_t asked)
{
        KeeperMsg msg = about(inc, KEEPER_MSG_INCARNATION);
        int fd = inc->started && inc->pidfd >= 0 ? fcntl(inc->pidfd, F_DUPFD_CLOEXEC, 3) : -1;

        msg.incarnation.asked_ns = asked;
        msg.incarnation.has_pidfd = fd >= 0;
        msg.incarnation.starting = inc->job && !inc->given_up;
        msg.incarnation.spawned = inc->started;
        msg.incarnation.failed = inc->fail_error != 0;
        msg.incarnation.exited = inc->started && inc->exited && !inc->adopted;
        msg.incarnation.over = inc->over;
        msg.incarnation.removed = inc->removed;
        msg.incarnation.pid = inc->pid;
        msg.incarnation.cgroup_write = inc->cgroup_write;
        msg.incarnation.code = inc->exit_code;
        msg.incarnation.status = inc->exit_status;
        msg.incarnation.error = inc->fail_error;
        msg.incarnation.n_killed = inc->n_killed + inc->n_told_killed;
        msg.incarnation.killed_at_ns = inc->killed_at;
        msg.incarnation.stage = inc->fail_stage;
        msg.incarnation.text = inc->fail_text ? inc->fail_text : "";
        msg.incarnation.frozen = inc->limits.frozen;
        msg.incarnation.refused = inc->refused;
        keeper_report(inc->keeper, &msg, fd);
        watch_again(&inc->limits);
}

void keeper_resume(Keeper *k, nsec_t asked)
{
        char path[KEEPER_MSG_PATH_MAX + 1];
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                report_incarnation(inc, asked);
        watch_again(&k->limits);
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_RESUMED, .resumed = {k->begun, k->begun && k->takeover, k->begun ? keeper_cgroup_path(k, path, sizeof(path)) : "",
                .controllers = k->controllers, .missing = k->missing, .refused = k->refused,
                .frozen = k->begun && limits_freeze_ordered(k->dataflow_fd), .asked_ns = asked}}, -1);
}

static int first_pid(pid_t pid, void *userdata)
{
        return pid;
}

/* Not our child, and we have no pidfd: its cgroup tells when it is over, and the guard how its first process ended. */
void keeper_adopt(Keeper *k, const KeeperMsg *msg, int *fds)
{
        Incarnation *inc = incarnation_find(k, msg->node, msg->generation) ? NULL : calloc(1, sizeof(*inc));
        NodeEntry *entry = keeper_node(k, msg->node, msg->adopt.id);

        if (!inc || !entry || asprintf(&inc->cgroup, "%s.%llu", msg->adopt.id, (unsigned long long)msg->generation) < 0) {
                if (inc)
                        inc->cgroup = NULL;
                free(inc);
                return; /* twice, or without memory: the supervisor misses it in what RESUME brings */
        }
        inc->keeper = k;
        inc->entry = entry;
        inc->generation = msg->generation;
        inc->cgroup_fd = inc->events_fd = inc->pidfd = -1;
        inc->reaper = REAPER_NULL;
        inc->events = inc->exit = KEEPER_SOURCE_INIT;
        inc->started = inc->exited = inc->reaped = inc->adopted = true;
        watch_init(&inc->limits, k, inc);
        output_init(&inc->out[0], inc, 1);
        output_init(&inc->out[1], inc, 2);
        list_append(&k->incarnations, &inc->link);
        for (int i = 0; i < 2; i++)
                if (output_open(&inc->out[i], TAKE_FD(fds[i])))
                        keeper_note(k, "output of %s cannot be read any more: out of descriptors or memory", inc->cgroup);
        if (cgroup_open(k->dataflow_fd, inc->cgroup, &inc->cgroup_fd) == 0)
                inc->events_fd = cgroup_open_events(inc->cgroup_fd);
        if (inc->cgroup_fd >= 0) {
                pid_t pid = cgroup_each_process(inc->cgroup_fd, first_pid, NULL);

                inc->cgroup_write = pid > 0 ? cgroup_write_of(k, confine_is_apart(pid)) : KEEPER_CGROUP_WRITE_UNKNOWN;
        }
        watch_events(inc);
        if (inc->events_fd >= 0) {
                watch_begin(&inc->limits, inc->cgroup_fd, msg->adopt.limits);
                inc->limits.frozen = limits_frozen(inc->events_fd) == 1;
        }
        incarnation_look_again(inc); /* gone or empty already: EMPTY follows */
}

/* It did not come back in time: no more waiting, whatever becomes of it is killed; its cgroup tells who is left. */
static void give_up(Incarnation *inc, nsec_t now)
{
        SpawnJob *j = inc->job;
        char text[KEEPER_MSG_TEXT_MAX];
        KeeperMsg order = about(inc, KEEPER_MSG_KILL);
        KeeperStage stage;
        bool waiting;

        spawn_cancel(&j->outcome);
        stage = spawn_explain_deadline(&j->outcome, j->spec_read ? &j->spec : NULL, now - inc->spawn_began, text,
                sizeof(text));
        waiting = job_give_up(&j->job);
        if (waiting) {
                fail_unstarted(inc, stage, ETIMEDOUT, text);
                return;
        }
        inc->given_up = true;
        report_spawn_failed(inc, stage, ETIMEDOUT, text);
        inc->kill_until = nsec_add(now, NSEC_PER_SEC);
        if (inc->cgroup_fd >= 0)
                keeper_start_kill(inc->keeper, &order, inc->cgroup_fd, inc->kill_until, true);
}

bool incarnations_over(const Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                if (!inc->over)
                        return false;
        return true;
}

bool incarnations_starting(const Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                if (inc->job && !inc->given_up)
                        return true;
        return false;
}

nsec_t incarnations_deadline(const Keeper *k)
{
        nsec_t deadline = NSEC_NEVER;
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link) {
                if (inc->job && !inc->given_up)
                        deadline = MIN(deadline, inc->spawn_deadline);
                if (inc->stray_at)
                        deadline = MIN(deadline, inc->stray_at);
        }
        return deadline;
}

void incarnations_tick(Keeper *k, nsec_t now)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link) {
                if (inc->job && !inc->given_up && now >= inc->spawn_deadline)
                        give_up(inc, now);
                strays_tick(inc, now);
                if (inc->over && inc->reaped && inc->released && !inc->job && !inc->stray_busy && !inc->signal_waits && !output_is_open(&inc->out[0]) &&
                        !output_is_open(&inc->out[1]))
                        inc = incarnation_free(inc);
        }
}

void incarnations_done(Keeper *k)
{
        Incarnation *inc, *next;

        list_for_each(inc, next, &k->incarnations, link)
                inc = incarnation_free(inc);
}
