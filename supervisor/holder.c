/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/packet.h"

#define N_DAEMONS 4 /* one, and for a moment its successor */

typedef struct Holder {
        int daemon_fds[N_DAEMONS]; /* the oldest first; -1: none */
        int dir_fd;                /* the scope's */
        int events_fd;             /* of the nodes' cgroup, while somebody is in it and no daemon there */
        int signal_fd;
        bool done;
} Holder;

static void say(int fd, HolderWord type)
{
        struct holder_word word = {.magic = HOLDER_MAGIC, .type = type};

        (void)packet_send(fd, &word, sizeof(word), NULL, 0); /* who does not read it is dead or wedged: that shows otherwise */
}

static bool has_daemon(const Holder *h)
{
        for (unsigned i = 0; i < N_DAEMONS; i++)
                if (h->daemon_fds[i] >= 0)
                        return true;
        return false;
}

static void take_daemon(Holder *h, int take_fd)
{
        unsigned i = 0;

        while (i < N_DAEMONS && h->daemon_fds[i] >= 0)
                i++;
        if (i == N_DAEMONS) { /* the oldest one's time is over */
                (void)fd_close(h->daemon_fds[0]);
                for (i = 0; i + 1 < N_DAEMONS; i++)
                        h->daemon_fds[i] = h->daemon_fds[i + 1];
        }
        h->daemon_fds[i] = take_fd;
}

static void on_listen(Holder *h)
{
        int fd = accept4(STDIN_FILENO, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct ucred peer = {.uid = (uid_t)-1};
        socklen_t size = sizeof(peer);

        if (fd < 0)
                return;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid())
                take_daemon(h, fd);
        else
                (void)fd_close(fd);
}

static void on_daemon(Holder *h, unsigned i)
{
        struct holder_word word = {};
        size_t size = 0, n_fds = 0;
        int fd = -1, r;

        r = packet_recv(h->daemon_fds[i], &word, sizeof(word), &size, &fd, 1, &n_fds);
        if (r == PACKET_E_AGAIN)
                return;
        if (r || size != sizeof(word) || word.magic != HOLDER_MAGIC) { /* dead, or no daemon of ours */
                h->daemon_fds[i] = fd_close(h->daemon_fds[i]);
        } else if (word.type == HOLDER_HELLO) {
                if (n_fds == 1) {
                        (void)fd_close(h->dir_fd);
                        h->dir_fd = TAKE_FD(fd);
                }
                say(h->daemon_fds[i], HOLDER_READY);
        } else if (word.type == HOLDER_END) {
                h->done = true;
        }
        (void)fd_close(fd);
}

static void on_signal(Holder *h)
{
        struct signalfd_siginfo info;

        while (read(h->signal_fd, &info, sizeof(info)) == sizeof(info)) {
                if (info.ssi_signo != SIGTERM)
                        continue;
                h->done |= !has_daemon(h);
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        if (h->daemon_fds[i] >= 0)
                                say(h->daemon_fds[i], HOLDER_STOP);
        }
}

/*
 * Whether somebody lives below the scope. Its cgroup.events is kept open only then: a cgroup that is removed wakes poll() for ever, and
 * into an empty one nobody is born without a daemon.
 */
static bool has_nodes(Holder *h)
{
        if (h->events_fd < 0 && h->dir_fd >= 0)
                h->events_fd = openat(h->dir_fd, HOLDER_NODES "/cgroup.events", O_RDONLY | O_CLOEXEC);
        if (h->events_fd >= 0 && cgroup_populated(h->events_fd) == 1)
                return true;
        h->events_fd = fd_close(h->events_fd);
        return false;
}

static int holder_run(Holder *h, nsec_t linger_ns)
{
        nsec_t leave_at = NSEC_NEVER;

        while (!h->done) {
                struct pollfd p[3 + N_DAEMONS] = {{.fd = h->signal_fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}, {.fd = -1, .events = POLLPRI}};
                nsec_t now = clock_now();
                int n;

                if (has_daemon(h)) {
                        h->events_fd = fd_close(h->events_fd);
                        leave_at = NSEC_NEVER;
                } else if (has_nodes(h)) {
                        leave_at = NSEC_NEVER;
                } else {
                        leave_at = MIN(leave_at, nsec_add(now, linger_ns));
                        if (now >= leave_at)
                                break;
                }
                p[2].fd = h->events_fd;
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        p[3 + i] = (struct pollfd){.fd = h->daemon_fds[i], .events = POLLIN};
                n = poll(p, ELEMENTSOF(p), nsec_poll_ms(leave_at, now));
                if (n < 0 && errno != EINTR)
                        return 1;
                if (n <= 0)
                        continue;
                for (unsigned i = 0; i < N_DAEMONS; i++)
                        if (p[3 + i].revents)
                                on_daemon(h, i);
                if (p[0].revents)
                        on_signal(h);
                if (p[1].revents)
                        on_listen(h);
        }
        return 0;
}

int holder_main(nsec_t linger_ns)
{
        static Holder h = {.daemon_fds = {STDOUT_FILENO, -1, -1, -1}, .dir_fd = -1, .events_fd = -1};
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        sigset_t all;

        sigfillset(&all);
        (void)setsid(); /* EPERM: we lead one already */
        if (sigprocmask(SIG_SETMASK, &all, NULL) < 0 || null < 0 || dup2(null, STDERR_FILENO) < 0 || chdir("/") < 0)
                return 1; /* its starter's log is not held open, nor its directory */
        (void)close_range(STDERR_FILENO + 1, ~0U, 0);
        h.signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (h.signal_fd < 0 || listen(STDIN_FILENO, N_DAEMONS) < 0) /* again, by us: whoever connects sees the credentials of who called this */
                return 1;
        return holder_run(&h, linger_ns);
}
