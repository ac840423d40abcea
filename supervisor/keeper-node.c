/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"

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

KeeperMsg incarnation_about(const Incarnation *inc, KeeperMsgType type)
{
        return (KeeperMsg){.type = type, .node = inc->entry->node, .generation = inc->generation};
}

void incarnation_report_home(Incarnation *inc)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_HOME);
        struct stat st;

        if (inc->cgroup_fd < 0 || !enforcer_has_cgroup(inc->keeper->enforcer) || fstat(inc->cgroup_fd, &st) < 0)
                return;
        msg.home.cgroup_id = st.st_ino;
        keeper_report(inc->keeper, &msg, -1);
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

void incarnation_report_empty(Incarnation *inc, bool removed)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_EMPTY);

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

void incarnation_read_events(Incarnation *inc)
{
        watch_frozen(&inc->limits, inc->events_fd); /* reading arms the next notification */
        if (cgroup_populated(inc->events_fd) == 0 && inc->started && !inc->exited)
                strays_look(inc, 0); /* its first process lives, and not here */
        incarnation_look_again(inc);
}

static void on_events(KeeperSource *source, uint32_t events)
{
        incarnation_read_events(container_of(source, Incarnation, events));
}

/* It would never hear of it: better that another keeper looks at what is there. Without one the supervisor's deadlines tell. */
void incarnation_watch(Incarnation *inc, KeeperSource *source, int fd, uint32_t events, KeeperSourceEvent on_event)
{
        if (keeper_loop_add(&inc->keeper->loop, source, fd, events, on_event) && inc->keeper->persistent)
                _exit(1);
}

void incarnation_watch_events(Incarnation *inc)
{
        uint32_t mask = inc->events_fd >= 0 ? (uint32_t)cgroup_events_mask(inc->events_fd) : 0;

        if (mask)
                incarnation_watch(inc, &inc->events, inc->events_fd, mask, on_events);
}

static void on_removed(Keeper *k, const KeeperMsg *whom, int r)
{
        Incarnation *inc = incarnation_find(k, whom->node, whom->generation);

        if (inc && r != 0 && inc->events_fd >= 0 && cgroup_populated(inc->events_fd) == 1) {
                inc->removing = false; /* somebody moved in meanwhile: it is not empty after all */
                incarnation_watch_events(inc);
                incarnation_look_again(inc); /* it may have left again before */
        } else if (inc)
                incarnation_report_empty(inc, r == 0);
}

/*
 * Empty means: nobody in the cgroup, the start is not under way, and the leader has exited, wherever it went. A dead
 * leader that nobody has reaped does not count as somebody.
 */
void incarnation_look_again(Incarnation *inc)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_EMPTY);

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
                incarnation_report_empty(inc, false);
}

void incarnation_on_exit(KeeperSource *source, uint32_t events)
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
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_EXITED);

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
                        incarnation_give_up(inc, now);
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
