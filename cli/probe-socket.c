/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets: descriptors handed out, none taken in, peers known by what the kernel says of them; and the event loop. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "base/send.h"
#include "cli/probe-raw.h"
#include "cli/probes.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static int send_fd(int socket_fd, int fd)
{
        return send_message(socket_fd, "f", 1, &fd, 1, 0) == 1 ? 0 : -errno;
}

/* The descriptor that came with the next message, -1 if none did, or another negative errno. */
static int receive_fd(int socket_fd)
{
        union {
                char room[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {0};
        char byte;
        struct iovec iov = {.iov_base = &byte, .iov_len = 1};
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.room)};
        struct cmsghdr *cmsg;
        int fd = -1;

        if (recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
                return errno == EPERM ? -EACCES : -errno; /* EPERM is 1: that would say "none" */
        cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
                memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
        return fd;
}

static void try_scm_rights(const ProbeContext *context, ProbeReport *report)
{
        int pair[2], sent = memfd_create("tidegate-doctor", MFD_CLOEXEC), got, r;
        struct stat a, b;

        if (sent < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return probe_no(report, errno, "memfd_create or socketpair: %m");
        r = send_fd(pair[0], sent);
        if (r < 0)
                return probe_no(report, -r, "sendmsg: %m");
        got = receive_fd(pair[1]);
        if (got < 0)
                return probe_no(report, got == -1 ? 0 : -got, "no descriptor arrived");
        if (fstat(sent, &a) < 0 || fstat(got, &b) < 0 || a.st_ino != b.st_ino || !(fcntl(got, F_GETFD) & FD_CLOEXEC))
                return probe_no(report, 0, "another descriptor arrived, or not close-on-exec");
        probe_yes(report, "SOCK_SEQPACKET, close-on-exec on arrival");
}

static void try_passrights(const ProbeContext *context, ProbeReport *report)
{
        int pair[2], sent = memfd_create("tidegate-doctor", MFD_CLOEXEC), got, r;

        if (sent < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return probe_no(report, errno, "memfd_create or socketpair: %m");
        if (setsockopt(pair[1], SOL_SOCKET, SO_PASSRIGHTS, &(int){0}, sizeof(int)) < 0)
                return probe_no(report, errno, "setsockopt(SO_PASSRIGHTS): %m");
        r = send_fd(pair[0], sent);
        if (r < 0)
                return probe_yes(report, "the sender gets %s", strerrorname_np(-r));
        got = receive_fd(pair[1]);
        if (got >= 0)
                return probe_no(report, 0, "a descriptor arrived all the same");
        probe_yes(report, "the descriptor does not arrive");
}

static void try_peercred(const ProbeContext *context, ProbeReport *report)
{
        struct ucred cred;
        socklen_t size = sizeof(cred), groups_size = 0;
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return probe_no(report, errno, "socketpair: %m");
        if (getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
                return probe_no(report, errno, "SO_PEERCRED: %m");
        if (cred.uid != geteuid() || cred.gid != getegid())
                return probe_no(report, 0, "SO_PEERCRED says uid %u, gid %u", cred.uid, cred.gid);
        /* with no room it only says how much it needs */
        if (getsockopt(pair[0], SOL_SOCKET, SO_PEERGROUPS, NULL, &groups_size) < 0 && errno != ERANGE)
                return probe_no(report, errno, "SO_PEERGROUPS: %m");
        probe_yes(report, "uid, gid and %zu groups", groups_size / sizeof(gid_t));
}

static void try_peerpidfd(const ProbeContext *context, ProbeReport *report)
{
        char path[64], info[512] = "", expected[32];
        int pair[2], pidfd = -1, fd;
        socklen_t size = sizeof(pidfd);

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return probe_no(report, errno, "socketpair: %m");
        if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0)
                return probe_no(report, errno, "SO_PEERPIDFD: %m");
        (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, info, sizeof(info) - 1) < 0)
                return probe_no(report, errno, "%s: %m", path);
        (void)snprintf(expected, sizeof(expected), "\nPid:\t%d\n", (int)getpid());
        if (!strstr(info, expected))
                return probe_no(report, 0, "it names another process");
        probe_yes(report, "a pidfd of the peer");
}

/* One epoll set as the supervisor has it: each kind of source must wake it, once. */
static void try_loop(const ProbeContext *context, ProbeReport *report)
{
        static const char *const names[] = {"timerfd", "signalfd", "eventfd", "pidfd"};
        struct itimerspec spec = {.it_value = nsec_to_timespec(in_ms(5))};
        int loop = epoll_create1(EPOLL_CLOEXEC), fds[4], seen = 0;
        sigset_t set;
        pid_t pid;

        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGUSR1);
        (void)sigprocmask(SIG_BLOCK, &set, NULL);
        pid = fork();
        if (pid == 0)
                _exit(0);
        fds[0] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        fds[1] = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        fds[2] = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        fds[3] = pid > 0 ? raw_pidfd_open(pid) : -1;
        for (uint32_t i = 0; i < ELEMENTSOF(fds); i++)
                if (epoll_ctl(loop, EPOLL_CTL_ADD, fds[i], &(struct epoll_event){.events = EPOLLIN | EPOLLET, .data.u32 = i}) < 0)
                        return probe_no(report, errno, "%s in epoll: %m", names[i]);
        if (timerfd_settime(fds[0], TFD_TIMER_ABSTIME, &spec, NULL) < 0 || raise(SIGUSR1) != 0)
                return probe_no(report, errno, "timerfd_settime or raise: %m");

        while (seen != 0xf) {
                struct epoll_event event;
                int r = epoll_wait(loop, &event, 1, nsec_poll_ms(context->deadline, clock_now()));

                if (r < 0 && errno != EINTR)
                        return probe_no(report, errno, "epoll_wait: %m");
                if (r == 0)
                        return probe_no(report, ETIMEDOUT, "%s never woke epoll", names[__builtin_ctz(~(unsigned)seen)]);
                if (r == 1 && seen & 1 << event.data.u32)
                        return probe_no(report, 0, "%s woke epoll twice", names[event.data.u32]);
                if (r == 1)
                        seen |= 1 << event.data.u32;
        }
        probe_yes(report, "epoll woken by timerfd (absolute), signalfd, eventfd, pidfd");
}

static const Probe probes[] = {
        {
                .id = "event_loop",
                .title = "epoll, timerfd, signalfd, pidfd",
                .needed_for = "a supervisor that waits for everything at once and for nothing too long",
                .without = "`run` refuses to start",
                .promises = P(1) | P(3),
                .weight = PROBE_REQUIRED,
                .attempt = try_loop,
        },
        {
                .id = "scm_rights",
                .title = "descriptors over unix sockets",
                .needed_for = "regions, doorbells and the guard's copies are handed out",
                .without = "`run` refuses to start",
                .promises = P(4) | P(5),
                .weight = PROBE_REQUIRED,
                .attempt = try_scm_rights,
        },
        {
                .id = "so_peercred",
                .title = "SO_PEERCRED, SO_PEERGROUPS",
                .needed_for = "knowing who asks",
                .without = "no caller can be told from another: `run` refuses to start",
                .promises = P(6),
                .weight = PROBE_REQUIRED,
                .attempt = try_peercred,
        },
        {
                .id = "so_peerpidfd",
                .title = "SO_PEERPIDFD",
                .needed_for = "a node that connects by name is known by its pidfd and its cgroup",
                .without = "SO_PEERCRED's number, turned into a pidfd and checked against the cgroup",
                .promises = P(6),
                .weight = PROBE_BETTER,
                .attempt = try_peerpidfd,
        },
        {
                .id = "so_passrights",
                .title = "SO_PASSRIGHTS=0",
                .needed_for = "no descriptor of a stranger's, whose close may block for ever, gets in",
                .without = "a watchdog signal interrupts a receive that such a descriptor blocks",
                .promises = P(3),
                .weight = PROBE_BETTER,
                .attempt = try_passrights,
        },
};

const ProbeGroup socket_probes = {"sockets and the loop", probes, ELEMENTSOF(probes)};
