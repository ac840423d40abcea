/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/reaper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fork.h"
#include "base/place.h"
#include "base/receive.h"
#include "base/send.h"
#include "supervisor/capture.h"

#define AGAIN_MS 20 /* between two looks for descendants that are being killed */

typedef enum ReaperWord { REAPER_STARTED = 1, REAPER_FAILED, REAPER_EXITED } ReaperWord;

struct reaper_record { /* between two forks of one program */
        uint32_t word; /* ReaperWord */
        int32_t code, status;
};

/* ---- in the reaper: system calls only */

static _Noreturn void leave(int status)
{
        (void)syscall(SYS_exit_group, status);
        __builtin_unreachable();
}

/* The keeper's sockets would not hang up, and its locks stay taken, if we had them too. */
static void close_others(const int *keep, size_t n)
{
        unsigned from = STDERR_FILENO + 1;

        for (;;) {
                unsigned next = UINT_MAX;

                for (size_t i = 0; i < n; i++)
                        if (keep[i] >= 0 && (unsigned)keep[i] >= from)
                                next = MIN(next, (unsigned)keep[i]);
                if (next > from)
                        (void)syscall(SYS_close_range, from, next == UINT_MAX ? UINT_MAX : next - 1, 0);
                if (next == UINT_MAX)
                        return;
                from = next + 1;
        }
}

static void say(int socket_fd, struct reaper_record record, int fd)
{
        (void)send_message(socket_fd, &record, sizeof(record), &fd, fd >= 0, MSG_DONTWAIT); /* two small records in all: there is room, or nobody reads */
}

/* The keeper is gone. A namespace ends with us; else all that descend are stopped and killed, until there are none. */
static _Noreturn void end_all(bool is_init, int signal_fd)
{
        struct signalfd_siginfo si[8];

        if (is_init)
                leave(1);
        for (;;) {
                struct pollfd p = {.fd = signal_fd, .events = POLLIN};
                const pid_t self = (pid_t)syscall(SYS_getpid);
                PlaceResult result;
                pid_t pid;

                (void)place_signal_descendants(self, NULL, 0, SIGSTOP, &result);
                (void)place_signal_descendants(self, NULL, 0, SIGKILL, &result);
                while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
                        continue;
                if (pid < 0 && errno == ECHILD)
                        leave(1);
                (void)poll(&p, 1, AGAIN_MS);
                (void)!read(signal_fd, si, sizeof(si));
        }
}

/* Until nobody is left. */
static _Noreturn void reap(int socket_fd, int signal_fd, bool is_init, pid_t first)
{
        struct signalfd_siginfo info[8];

        for (;;) {
                struct pollfd p[2] = {{.fd = signal_fd, .events = POLLIN}, {.fd = socket_fd, .events = POLLIN}};
                siginfo_t si = {};
                int r;

                while ((r = waitid(P_ALL, 0, &si, WEXITED | WNOHANG)) == 0 && si.si_pid > 0) {
                        if (si.si_pid == first)
                                say(socket_fd, (struct reaper_record){.word = REAPER_EXITED, .code = si.si_code, .status = si.si_status}, -1);
                        si.si_pid = 0;
                }
                if (r < 0 && errno == ECHILD)
                        leave(0);
                if (poll(p, 2, -1) < 0)
                        continue;
                if (p[0].revents)
                        (void)!read(signal_fd, info, sizeof(info));
                if (p[1].revents)
                        end_all(is_init, signal_fd);
        }
}

/*
 * What the nodes see under /proc is their own namespace where the kernel lets us mount it, else everybody. From the mount namespace with
 * read-only cgroups, if there is one for them (supervisor/confine.h).
 */
static void mount_proc(SpawnPlan *plan, SpawnOutcome *outcome)
{
        if (plan->mnt_fd >= 0) {
                if (setns(plan->mnt_fd, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0) {
                        outcome->confine_error = errno;
                } else {
                        outcome->confined = true;
                        (void)unshare(CLONE_NEWCGROUP);
                }
                plan->mnt_fd = fd_close(plan->mnt_fd);
        }
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0)
                (void)mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* For whoever looks at a list of processes: the arguments are those of the keeper that we are a fork of. */
static void show_role(void)
{
        static const char theirs[] = "--role=keeper", ours[] = "--role=reaper";
        char *role = program_invocation_name + strlen(program_invocation_name) + 1;

        if (strncmp(role, theirs, sizeof(theirs)) == 0)
                memcpy(role, ours, sizeof(ours));
}

static _Noreturn void reaper_main(const SpawnPlan *plan, SpawnOutcome *outcome, int socket_fd, bool is_init)
{
        const int keep[] = {socket_fd, plan->guard_fd, plan->stdout_fd, plan->stderr_fd, plan->socket_fd, plan->mnt_fd};
        SpawnPlan inside = *plan;
        sigset_t child;
        int signal_fd, r;
        pid_t first;
        char go;

        close_others(keep, ELEMENTSOF(keep));
        (void)prctl(PR_SET_NAME, "tidegate-reaper");
        show_role();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* while the start hangs nobody listens to the socket */
        (void)syscall(SYS_setsid);
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
        if (signal_fd < 0 || (!is_init && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) || read(socket_fd, &go, 1) != 1)
                leave(1);
        if (is_init)
                mount_proc(&inside, outcome);
        inside.cgroup_fd = -1; /* we are in it, and so is whoever we start */
        r = spawn_run(&inside, outcome);
        first = r ? -1 : outcome->pid; /* as we number it: the keeper is about to write its own number there */
        say(socket_fd, (struct reaper_record){.word = r ? REAPER_FAILED : REAPER_STARTED}, r ? -1 : atomic_load(&outcome->pidfd));
        close_others((const int[]){socket_fd, signal_fd}, 2);
        if (!r)
                (void)!read(socket_fd, &go, 1); /* until then it is not reaped, so that its pidfd has a number */
        (void)prctl(PR_SET_DUMPABLE, 0); /* now that the child has its own memory: nobody of its user may trace us or look into us */
        if (!is_init)
                (void)prctl(PR_SET_PDEATHSIG, 0); /* the hang-up is told to somebody who can still do something about it */
        reap(socket_fd, signal_fd, is_init, first);
}

/* ---- in the keeper */

static int write_file(pid_t pid, const char *name, const char *text)
{
        char path[64];
        _cleanup_fd_ int fd = -1;

        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* Everybody stays who they are. */
static int write_maps(pid_t pid)
{
        char map[64];
        int r = write_file(pid, "setgroups", "deny");

        (void)snprintf(map, sizeof(map), "%u %u 1", (unsigned)geteuid(), (unsigned)geteuid());
        if (!r)
                r = write_file(pid, "uid_map", map);
        (void)snprintf(map, sizeof(map), "%u %u 1", (unsigned)getegid(), (unsigned)getegid());
        return r ? r : write_file(pid, "gid_map", map);
}

static uint64_t namespace_flags(void)
{
        return CLONE_NEWPID | CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
}

void reaper_kill(const Reaper *reaper)
{
        if (reaper->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, reaper->pidfd, SIGKILL, NULL, 0);
}

static void wait_for(int pidfd)
{
        siginfo_t si;

        while (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED) < 0 && errno == EINTR)
                continue;
}

static pid_t fork_into(int cgroup_fd, uint64_t flags, int *ret_pidfd)
{
        struct clone_args args = {.flags = flags | CLONE_PIDFD | CLONE_INTO_CGROUP,
                .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
                .exit_signal = SIGCHLD,
                .cgroup = (uint64_t)cgroup_fd};

        return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

int reaper_fork(Reaper *ret, const SpawnPlan *plan, SpawnOutcome *outcome, Enforcer enforcer)
{
        Reaper reaper = {.pidfd = -1, .socket_fd = -1, .is_init = enforcer_has_pidns(enforcer)};
        uint64_t flags = reaper.is_init ? namespace_flags() : 0;
        _cleanup_fd_ int theirs = -1;
        int pair[2], r = 0;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        reaper.socket_fd = pair[0];
        theirs = pair[1];
        outcome->foreign = true;
        reaper.pid = plan->cgroup_fd >= 0 ? fork_into(plan->cgroup_fd, flags, &reaper.pidfd) : fork_pidfd(flags, &reaper.pidfd);
        if (reaper.pid == 0)
                reaper_main(plan, outcome, theirs, reaper.is_init);
        if (reaper.pid < 0)
                r = -errno;
        else if (flags & CLONE_NEWUSER)
                r = write_maps(reaper.pid);
        if (r) {
                reaper.socket_fd = fd_close(reaper.socket_fd);
                if (reaper.pid > 0) {
                        reaper_kill(&reaper);
                        wait_for(reaper.pidfd);
                        reaper.pidfd = fd_close(reaper.pidfd);
                }
                return error_origin(r);
        }
        *ret = reaper;
        return 0;
}

static ssize_t hear(int socket_fd, struct reaper_record *ret, int *ret_fd, int flags)
{
        char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
        struct iovec iov = {ret, sizeof(*ret)};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t n;

        do
                n = receive_message(socket_fd, &msg, MSG_CMSG_CLOEXEC | flags);
        while (n < 0 && errno == EINTR);
        for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL; c; c = CMSG_NXTHDR(&msg, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                        memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
        return n;
}

int reaper_start(Reaper *reaper, SpawnOutcome *outcome)
{
        struct reaper_record record = {};
        ssize_t n = send(reaper->socket_fd, "", 1, MSG_NOSIGNAL);
        int pidfd = -1;

        if (n == 1)
                n = hear(reaper->socket_fd, &record, &pidfd, 0);
        atomic_store(&outcome->pidfd, pidfd); /* ours from here on; what stood there was a number of the reaper's */
        outcome->foreign = false;
        if (n == sizeof(record) && record.word == REAPER_STARTED && pidfd >= 0) {
                pid_t pid = capture_pid(pidfd); /* as we number it */

                (void)send(reaper->socket_fd, "", 1, MSG_NOSIGNAL);
                if (pid > 0) {
                        outcome->pid = pid;
                        return 0;
                }
                record.word = REAPER_FAILED; /* the reaper was killed meanwhile */
        }
        if (!outcome->error)
                outcome->error = atomic_load(&outcome->cancel) ? ECANCELED : ECHILD;
        return SPAWN_E_FAILED;
}

int reaper_read_exit(int socket_fd, int *ret_code, int *ret_status)
{
        struct reaper_record record = {};
        int fd = -1;
        ssize_t n = hear(socket_fd, &record, &fd, MSG_DONTWAIT);

        (void)fd_close(fd);
        if (n < 0 && errno == EAGAIN)
                return REAPER_E_RUNS;
        if (n != sizeof(record) || record.word != REAPER_EXITED)
                return -ECONNRESET;
        *ret_code = record.code;
        *ret_status = record.status;
        return 0;
}

/* Makes a PID namespace (and a user namespace, for others than root) and ends it. */
static int probe_pidns(void)
{
        int pidfd = -1, r = 0, pair[2];
        pid_t pid;
        char go;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_origin(-errno);
        pid = fork_pidfd(namespace_flags(), &pidfd);
        if (pid == 0) {
                (void)close(pair[0]);
                leave(read(pair[1], &go, 1) == 1 ? 0 : 1);
        }
        if (pid < 0)
                r = -errno;
        else if (namespace_flags() & CLONE_NEWUSER)
                r = write_maps(pid);
        (void)close(pair[0]);
        (void)close(pair[1]);
        if (pid > 0)
                wait_for(pidfd);
        (void)fd_close(pidfd);
        return r;
}

/* ---- which */

int enforcer_probe(Enforcer enforcer, char *ret_why, size_t why_size)
{
        int r = 0;

        if (enforcer_has_pidns(enforcer)) {
                r = probe_pidns();
                if (r)
                        (void)snprintf(ret_why, why_size, "no PID namespace can be made here: %s%s", strerror(-r),
                                geteuid() == 0 ? "" : " (an ordinary user needs user namespaces)");
        } else if (enforcer == ENFORCER_PID1 && getpid() != 1) {
                r = -EINVAL;
                (void)snprintf(ret_why, why_size, "this is process %d, and pid1 is for the first process of a container", (int)getpid());
        }
        return r;
}

Enforcer enforcer_fallback(void)
{
        char why[256];

        for (Enforcer e = ENFORCER_PIDNS; e < ENFORCER_SUBREAPER; e++)
                if (enforcer_probe(e, why, sizeof(why)) == 0)
                        return e;
        return ENFORCER_SUBREAPER;
}
