/* SPDX-License-Identifier: Apache-2.0 */
/* Starting ourselves in another role: the child has the descriptors it is meant to have and nothing else of the guard. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/guard-internal.h"
#include "supervisor/guard-spawn.h"

static int guard_fork_role(char *const argv[], const int *fds, size_t n_fds, GuardProcess *ret)
{
        int pidfd = -1;
        pid_t pid = guard_spawn(-1, argv, fds, n_fds, &pidfd);

        if (pid < 0)
                return error_origin(pid);
        *ret = (GuardProcess){.pid = pid, .pidfd = pidfd};
        return 0;
}

void guard_said(const GuardOptions *options, char ret[8])
{
        if (options->has_grace)
                *ret++ = GUARD_SAID_GRACE;
        if (options->has_budget)
                *ret++ = GUARD_SAID_BUDGET;
        if (options->has_watchdog)
                *ret++ = GUARD_SAID_WATCHDOG;
        if (options->has_enforcer)
                *ret++ = GUARD_SAID_ENFORCER;
        *ret = '\0';
}

int guard_fork_supervisor(Guard *guard, int socket_fd, GuardProcess *ret)
{
        const GuardOptions *o = guard->options;
        const int fds[] = {socket_fd, o->control_fds[0], o->control_fds[1], guard->instance.dir_fd, guard->runtime.control_fd, guard->runtime.node_fd,
                guard->runtime.dir_fd};
        char sock[32], control0[32], control1[32], lock[32], nofile[64], listen[32], nodes[32], runtime[32], epoch[40], watchdog[48], grace[48], budget[48], config[PATH_MAX + 16], said[16] = "--said=";
        char role[] = "--role=supervisor", name[] = "tidegated";
        char *argv_private[] = {name, role, sock, lock, nofile, epoch, control0, control1, NULL};
        char *argv_daemon[] = {name, role, sock, lock, nofile, epoch, listen, nodes, runtime, watchdog, grace, budget, said, o->config ? config : NULL, NULL};

        guard_said(o, said + strlen(said));
        (void)snprintf(config, sizeof(config), "--config=%.4095s", o->config ? o->config : "");
        (void)snprintf(sock, sizeof(sock), "--guard-fd=%d", socket_fd);
        (void)snprintf(control0, sizeof(control0), "--control-fd=%d", o->control_fds[0]);
        (void)snprintf(control1, sizeof(control1), "--control-fd=%d", o->control_fds[1]);
        (void)snprintf(listen, sizeof(listen), "--listen-fd=%d", guard->runtime.control_fd);
        (void)snprintf(nodes, sizeof(nodes), "--node-listen-fd=%d", guard->runtime.node_fd);
        (void)snprintf(runtime, sizeof(runtime), "--runtime-fd=%d", guard->runtime.dir_fd);
        (void)snprintf(epoch, sizeof(epoch), "--epoch=%llu", (unsigned long long)guard->epoch);
        (void)snprintf(grace, sizeof(grace), "--grace-ns=%llu", (unsigned long long)guard->grace_ns);
        (void)snprintf(budget, sizeof(budget), "--budget-ns=%llu", (unsigned long long)guard->budget_ns);
        (void)snprintf(watchdog, sizeof(watchdog), "--watchdog=%lluns", (unsigned long long)guard->watchdog_ns);
        (void)snprintf(lock, sizeof(lock), "--lock-fd=%d", guard->instance.dir_fd);
        (void)snprintf(nofile, sizeof(nofile), "--nofile=%llu:%llu", (unsigned long long)guard->nofile.rlim_cur,
                (unsigned long long)guard->nofile.rlim_max);
        return guard_fork_role(o->daemon ? argv_daemon : argv_private, fds, ELEMENTSOF(fds), ret);
}

int guard_fork_keeper(Guard *guard, int supervisor_fd, int guard_fd, int listen_fd, GuardProcess *ret)
{
        const int fds[] = {supervisor_fd, guard_fd, guard->instance.dir_fd, listen_fd};
        char sup[40], sock[32], dir[32], listen[32], role[] = "--role=keeper", name[] = "tidegated";
        char *argv[] = {name, role, sup, sock, dir, listen_fd >= 0 ? listen : NULL, NULL};

        (void)snprintf(sup, sizeof(sup), "--supervisor-fd=%d", supervisor_fd);
        (void)snprintf(sock, sizeof(sock), "--guard-fd=%d", guard_fd);
        (void)snprintf(dir, sizeof(dir), "--lock-fd=%d", guard->instance.dir_fd);
        (void)snprintf(listen, sizeof(listen), "--listen-fd=%d", listen_fd);
        return guard_fork_role(argv, fds, ELEMENTSOF(fds), ret);
}

void guard_process_kill(GuardProcess *process)
{
        if (process->pid > 0 && process->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0); /* ESRCH: it is gone already */
}
