/* SPDX-License-Identifier: Apache-2.0 */
/* Supervisors and keepers that follow others. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/limit-files.h"

static void report_incarnation(Incarnation *inc, nsec_t asked)
{
        KeeperMsg msg = incarnation_about(inc, KEEPER_MSG_INCARNATION);
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
        incarnation_report_home(inc);
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

                inc->cgroup_write = pid > 0 ? keeper_cgroup_write(k, confine_is_apart(pid)) : KEEPER_CGROUP_WRITE_UNKNOWN;
        }
        incarnation_watch_events(inc);
        if (inc->events_fd >= 0) {
                watch_begin(&inc->limits, inc->cgroup_fd, msg->adopt.limits);
                inc->limits.frozen = limits_frozen(inc->events_fd) == 1;
        }
        incarnation_look_again(inc); /* gone or empty already: EMPTY follows */
}
