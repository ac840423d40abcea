/* SPDX-License-Identifier: Apache-2.0 */
/* Processes as objects: pidfds, clone3, waiting without reaping, orphans, namespaces. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "base/cgroup_root.h"
#include "cli/probe-raw.h"
#include "cli/probes.h"

/* linux/pidfd.h of 6.15; the ioctl is extensible, this is the part that 6.13 had. */
struct raw_pidfd_info {
        uint64_t mask;
        uint64_t cgroup_id;
        uint32_t pid, tgid, ppid;
        uint32_t ids[8];
        int32_t exit_code;
};
_Static_assert(sizeof(struct raw_pidfd_info) == 64, "part of the ioctl's number");
#define RAW_PIDFD_GET_INFO  _IOWR(0xff, 11, struct raw_pidfd_info)
#define RAW_PIDFD_INFO_EXIT (UINT64_C(1) << 3)

static void try_pidfd_open(const ProbeContext *context, ProbeReport *report)
{
        int fds[2], pidfd;
        nsec_t closed;
        siginfo_t si;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0)
                return probe_no(report, errno, "pipe or fork: %m");
        if (pid == 0)
                child_wait(fds);
        (void)close(fds[0]);

        pidfd = raw_pidfd_open(pid);
        if (pidfd < 0)
                return probe_no(report, errno, "pidfd_open: %m");
        if (wait_fd(pidfd, POLLIN, 0))
                return probe_no(report, 0, "the pidfd of a living process is readable");

        closed = clock_now();
        (void)close(fds[1]);
        if (wait_pidfd(pidfd, context->deadline, &si) < 0)
                return probe_no(report, errno, "its exit does not show: %m");
        probe_yes(report, "exit seen after %s", TOOK(closed));
}

static void try_pidfd_signal(const ProbeContext *context, ProbeReport *report)
{
        siginfo_t si;
        pid_t pid = fork();
        int pidfd;

        if (pid < 0)
                return probe_no(report, errno, "fork: %m");
        if (pid == 0)
                child_stay();
        pidfd = raw_pidfd_open(pid);
        if (pidfd < 0)
                return probe_no(report, errno, "pidfd_open: %m");
        if (raw_pidfd_signal(pidfd, SIGKILL) < 0)
                return probe_no(report, errno, "pidfd_send_signal: %m");
        if (wait_pidfd(pidfd, context->deadline, &si) < 0 || si.si_code != CLD_KILLED || si.si_status != SIGKILL)
                return probe_no(report, errno, "the signal did not arrive");
        probe_yes(report, "SIGKILL by pidfd ended a process that ignores SIGTERM");
}

static void try_clone3_pidfd(const ProbeContext *context, ProbeReport *report)
{
        int pidfd = -1;
        siginfo_t si;
        pid_t pid = raw_fork(CLONE_PIDFD, -1, &pidfd);

        if (pid < 0)
                return probe_no(report, errno, "clone3: %m");
        if (pid == 0)
                _exit(7);
        if (wait_pidfd(pidfd, context->deadline, &si) < 0 || si.si_code != CLD_EXITED || si.si_status != 7)
                return probe_no(report, errno, "the child's status did not arrive");
        probe_yes(report, "born with its pidfd, exit status 7 read through it");
}

static void try_clone3_vfork(const ProbeContext *context, ProbeReport *report)
{
        int pidfd = -1;
        nsec_t begin = clock_now();
        pid_t pid = raw_vfork_exit_7(CLONE_PIDFD, -1, &pidfd);
        siginfo_t si;

        if (pid < 0)
                return probe_no(report, errno, "clone3(CLONE_VM | CLONE_VFORK): %m");
        if (wait_pidfd(pidfd, context->deadline, &si) < 0 || si.si_status != 7)
                return probe_no(report, errno, "the child's status did not arrive");
        probe_yes(report, "child started and ended in %s", TOOK(begin));
}

static void try_waitid_pidfd(const ProbeContext *context, ProbeReport *report)
{
        int pidfd = -1;
        siginfo_t si;
        pid_t pid = raw_fork(CLONE_PIDFD, -1, &pidfd);

        if (pid < 0)
                return probe_no(report, errno, "clone3: %m");
        if (pid == 0)
                _exit(7);
        if (!wait_fd(pidfd, POLLIN, context->deadline))
                return probe_no(report, ETIMEDOUT, "the pidfd never becomes readable");

        /* Looked at twice, then reaped: an exit may be written down before it is forgotten by the kernel. */
        for (int i = 0; i < 3; i++) {
                si = (siginfo_t){0};
                if (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | (i < 2 ? WNOWAIT : 0)) < 0)
                        return probe_no(report, errno, "waitid(P_PIDFD), time %d: %m", i + 1);
                if (si.si_pid != pid || si.si_status != 7)
                        return probe_no(report, 0, "time %d says pid %d, status %d", i + 1, si.si_pid, si.si_status);
        }
        if (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG) == 0 || errno != ECHILD)
                return probe_no(report, errno, "still there after it was reaped");
        probe_yes(report, "status looked at twice with WNOWAIT, then reaped once");
}

static void try_pidfd_info(const ProbeContext *context, ProbeReport *report)
{
        struct raw_pidfd_info info = {.mask = RAW_PIDFD_INFO_EXIT};
        int pidfd = -1;
        siginfo_t si;
        pid_t pid = raw_fork(CLONE_PIDFD, -1, &pidfd);

        if (pid < 0)
                return probe_no(report, errno, "clone3: %m");
        if (pid == 0)
                _exit(7);
        if (wait_pidfd(pidfd, context->deadline, &si) < 0)
                return probe_no(report, errno, "the child's exit did not arrive");
        if (ioctl(pidfd, RAW_PIDFD_GET_INFO, &info) < 0)
                return probe_no(report, errno, "ioctl(PIDFD_GET_INFO): %m");
        if (!(info.mask & RAW_PIDFD_INFO_EXIT))
                return probe_no(report, 0, "PIDFD_GET_INFO works, but without exit information");
        if (info.exit_code != 7 << 8)
                return probe_no(report, 0, "exit code %#x instead of 0x700", (unsigned)info.exit_code);
        probe_yes(report, "exit status 7 read after the process was reaped");
}

static void try_subreaper(const ProbeContext *context, ProbeReport *report)
{
        int fds[2], status;
        pid_t middle, orphan = 0;
        siginfo_t si = {0};

        if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return probe_no(report, errno, "prctl: %m");
        if (pipe2(fds, O_CLOEXEC) < 0 || (middle = fork()) < 0)
                return probe_no(report, errno, "pipe or fork: %m");
        if (middle == 0) {
                orphan = fork();
                if (orphan == 0)
                        child_stay();
                _exit(write(fds[1], &orphan, sizeof(orphan)) == sizeof(orphan) ? 0 : 1);
        }
        if (waitpid(middle, &status, 0) != middle || read(fds[0], &orphan, sizeof(orphan)) != sizeof(orphan) || orphan <= 0)
                return probe_no(report, errno, "the orphan could not be made");

        /* Ours to wait for: so it is our child now, and this pid cannot be a stranger's. */
        if (waitid(P_PID, (id_t)orphan, &si, WEXITED | WNOHANG | WNOWAIT) < 0)
                return probe_no(report, errno, "the orphan did not come to us: %m");
        (void)kill(orphan, SIGKILL);
        (void)waitid(P_PID, (id_t)orphan, &si, WEXITED);
        probe_yes(report, "a grandchild whose parent ended came to us");
}

/*
 * An init with a grandchild in a PID namespace of its own: when the init is killed, the kernel kills the rest before it
 * lets go of the pipe's last write end.
 */
static void try_namespaces(uint64_t flags, const char *what, const ProbeContext *context, ProbeReport *report)
{
        int fds[2], pidfd = -1;
        siginfo_t si;
        pid_t pid;
        char byte;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return probe_no(report, errno, "pipe: %m");
        pid = raw_fork(flags | CLONE_PIDFD, -1, &pidfd);
        if (pid < 0)
                return probe_no(report, errno, "clone3(%s): %m", what);
        if (pid == 0) {
                /* by system call: the C library may remember the number from before the clone */
                byte = syscall(SYS_getpid) == 1 ? 'y' : 'n';
                if (fork() == 0)
                        child_stay();
                if (write(fds[1], &byte, 1) == 1)
                        child_stay();
                _exit(1);
        }
        (void)close(fds[1]);
        if (!wait_fd(fds[0], POLLIN, context->deadline) || read(fds[0], &byte, 1) != 1 || byte != 'y')
                return probe_no(report, 0, "its first process is not PID 1 in it");
        if (raw_pidfd_signal(pidfd, SIGKILL) < 0)
                return probe_no(report, errno, "pidfd_send_signal: %m");
        if (wait_pidfd(pidfd, context->deadline, &si) < 0)
                return probe_no(report, errno, "its init cannot be killed: %m");
        if (!wait_fd(fds[0], POLLIN, context->deadline) || read(fds[0], &byte, 1) != 0)
                return probe_no(report, 0, "a process outlived its namespace's init");
        probe_yes(report, "killing its init ended every process in it");
}

static void try_pidns(const ProbeContext *context, ProbeReport *report)
{
        try_namespaces(CLONE_NEWPID, "CLONE_NEWPID", context, report);
}

static void try_userns_pidns(const ProbeContext *context, ProbeReport *report)
{
        try_namespaces(CLONE_NEWUSER | CLONE_NEWPID, "CLONE_NEWUSER | CLONE_NEWPID", context, report);
}

/* As supervisor/confine.c does it, in this child that ends with it. */
static void try_read_only_cgroups(const ProbeContext *context, ProbeReport *report)
{
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
        char at[PATH_MAX], path[PATH_MAX + 32];
        int r = cgroup_mount_find(at), fd;

        if (r)
                return probe_skip(report, "no cgroup v2 hierarchy is mounted");
        if (unshare(CLONE_NEWNS) < 0)
                return probe_no(report, errno, "unshare(CLONE_NEWNS): %m");
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                return probe_no(report, errno, "mount(MS_SLAVE): %m");
        if (syscall(SYS_mount_setattr, AT_FDCWD, at, AT_SYMLINK_NOFOLLOW, &attr, sizeof(attr)) < 0)
                return probe_no(report, errno, "mount_setattr(%.100s): %m", at);
        (void)snprintf(path, sizeof(path), "%s/cgroup.procs", at);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0 || errno != EROFS) {
                (void)close(fd);
                return probe_no(report, 0, "%.100s can be opened for writing all the same", path);
        }
        probe_yes(report, "%.100s is read-only there", at);
}

static const Probe probes[] = {
        {
                .id = "pidfd_open",
                .title = "pidfd_open, exits by poll",
                .needed_for = "a process is a descriptor, never a number that may become a stranger's",
                .without = "no safe way to signal or to wait: `run` refuses to start",
                .promises = P(1) | P(2) | P(3),
                .weight = PROBE_REQUIRED,
                .attempt = try_pidfd_open,
        },
        {
                .id = "pidfd_send_signal",
                .title = "signals by pidfd",
                .needed_for = "the stop ladder's SIGTERM, and SIGKILL for what cgroup.kill does not reach",
                .without = "no safe way to signal: `run` refuses to start",
                .promises = P(1) | P(2),
                .weight = PROBE_REQUIRED,
                .attempt = try_pidfd_signal,
        },
        {
                .id = "clone3_pidfd",
                .title = "clone3 with CLONE_PIDFD",
                .needed_for = "no moment in which a node lives without its pidfd",
                .without = "`run` refuses to start",
                .promises = P(1) | P(4),
                .weight = PROBE_REQUIRED,
                .attempt = try_clone3_pidfd,
        },
        {
                .id = "clone3_vfork",
                .title = "clone3 with CLONE_VM, CLONE_VFORK",
                .needed_for = "starting a node without copying the keeper's page tables",
                .without = "plain clone3: slower, the same otherwise",
                .weight = PROBE_BETTER,
                .attempt = try_clone3_vfork,
        },
        {
                .id = "waitid_pidfd",
                .title = "waitid(P_PIDFD) with WNOWAIT",
                .needed_for = "an exit is written to the journal before the kernel forgets it",
                .without = "a crash between reaping and writing loses an exit status",
                .promises = P(4) | P(7),
                .weight = PROBE_REQUIRED,
                .attempt = try_waitid_pidfd,
        },
        {
                .id = "pidfd_info_exit",
                .title = "exit status from a pidfd after reaping",
                .needed_for = "the status of a node that ended while nobody was its parent",
                .without = "guard is the subreaper and keeps the status; a node that ends between the two counts as unknown",
                .promises = P(7),
                .weight = PROBE_BETTER,
                .attempt = try_pidfd_info,
        },
        {
                .id = "subreaper",
                .title = "child subreaper",
                .needed_for = "the guard inherits nodes of a keeper that died, with their exit status",
                .without = "they go to init: exit status unknown after a crash of the keeper",
                .promises = P(4) | P(7),
                .weight = PROBE_REQUIRED,
                .attempt = try_subreaper,
        },
        {
                .id = "read_only_cgroups",
                .title = "cgroups read-only in a mount namespace",
                .needed_for = "nodes of root cannot leave their cgroup by accident",
                .without = "they can; those of other users under root's daemon never could (docs/enforcement.md)",
                .weight = PROBE_BETTER,
                .attempt = try_read_only_cgroups,
        },
        {
                .id = "pidns",
                .title = "PID namespace, as we are",
                .needed_for = "the `pidns` backend with privilege",
                .without = "not used by this version",
                .weight = PROBE_LATER,
                .attempt = try_pidns,
        },
        {
                .id = "userns_pidns",
                .title = "user and PID namespace, unprivileged",
                .needed_for = "the `pidns` backend: nodes of one user kept from signalling or leaving us",
                .without = "not used by this version",
                .weight = PROBE_LATER,
                .attempt = try_userns_pidns,
        },
};

const ProbeGroup process_probes = {"processes", probes, ELEMENTSOF(probes)};
