/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/procstat.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* Those in which a process sees or is held to something else than we do; and the request to its pidfd for it, since Linux 6.11. */
static const struct {
        const char *name;
        unsigned request;
} namespaces[] = {{"user", _IO(0xFF, 9)}, {"mnt", _IO(0xFF, 3)}, {"pid", _IO(0xFF, 5)}, {"net", _IO(0xFF, 4)}};

/* What /proc/PID/status says about how confined somebody is. */
typedef struct Confinement {
        long no_new_privs, seccomp, seccomp_filters;
} Confinement;

int peer_init(Peer *ret, int sock)
{
        struct ucred cred = {};
        socklen_t size = sizeof(cred);
        int pidfd = -1;

        if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
                return error_origin(-errno);
        size = sizeof(pidfd);
        /* Kernels that give no pidfd by the socket: now, before its number can well be another's. Others: when it is needed. */
        if (cred.uid != 0 && getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0 && errno == ENOPROTOOPT)
                pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
        else
                pidfd = fd_close(pidfd);
        *ret = (Peer){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid, .pidfd = pidfd};
        return 0;
}

void peer_done(Peer *peer)
{
        peer->pidfd = fd_close(peer->pidfd);
}

int peer_process(int sock)
{
        int pidfd = -1;
        socklen_t size = sizeof(pidfd);

        if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
                return pidfd;
        return errno == ENOPROTOOPT ? -EOPNOTSUPP : errno == EINVAL || errno == ENODATA ? -ESRCH : -errno;
}

static bool is_alive(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        return poll(&p, 1, 0) == 0;
}

static int peer_pidfd(const Peer *peer, int sock)
{
        int pidfd = -1;
        socklen_t size = sizeof(pidfd);

        if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
                return pidfd;
        if (errno != ENOPROTOOPT)
                return -1;
        return peer->pidfd >= 0 ? fcntl(peer->pidfd, F_DUPFD_CLOEXEC, 3) : (int)syscall(SYS_pidfd_open, peer->pid, 0);
}

static int open_proc(pid_t pid)
{
        char path[32];

        (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
        return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static long status_number(const char *status, const char *key)
{
        const char *at = strstr(status, key);

        return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static int read_confinement(int proc_fd, Confinement *ret)
{
        _cleanup_fd_ int fd = openat(proc_fd, "status", O_RDONLY | O_CLOEXEC);
        char status[8192];
        ssize_t n = fd < 0 ? -1 : read(fd, status, sizeof(status) - 1);

        if (n <= 0)
                return -ESRCH;
        status[n] = '\0';
        *ret = (Confinement){.no_new_privs = status_number(status, "\nNoNewPrivs:"),
                .seccomp = status_number(status, "\nSeccomp:"),
                .seccomp_filters = status_number(status, "\nSeccomp_filters:")};
        return 0;
}

/* The link waits for one that hangs in execve(), which a caller may arrange; its pidfd does not. */
static int look_at_namespace(const Peer *peer, int pidfd, int proc_fd, const char *path, unsigned request, struct stat *ret)
{
        _cleanup_fd_ int fd = ioctl(pidfd, request, 0);

        if (fd >= 0)
                return fstat(fd, ret) < 0 ? -errno : 0;
        if (errno != ENOTTY && errno != EINVAL)
                return -errno;
        if (procstat_is_executing(peer->pid))
                return -EBUSY;
        return fstatat(proc_fd, path, ret, 0) < 0 ? -errno : 0;
}

static const char *look_at_namespaces(const Peer *peer, int pidfd, int proc_fd, int self_fd)
{
        for (size_t i = 0; i < ELEMENTSOF(namespaces); i++) {
                struct stat ours, theirs;
                char path[16];

                (void)snprintf(path, sizeof(path), "ns/%s", namespaces[i].name);
                if (fstatat(self_fd, path, &ours, 0) < 0)
                        continue; /* a kernel without it: there is only one */
                if (look_at_namespace(peer, pidfd, proc_fd, path, namespaces[i].request, &theirs))
                        return "its namespaces cannot be read";
                if (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev)
                        return namespaces[i].name;
        }
        return NULL;
}

/* Why not, or NULL. A sandbox that we are in as well is none that we could lead out of. */
static const char *look_at_confinement(int proc_fd, int self_fd)
{
        Confinement theirs, ours;

        if (read_confinement(proc_fd, &theirs) || read_confinement(self_fd, &ours))
                return "its status cannot be read";
        if (theirs.no_new_privs > ours.no_new_privs)
                return "it may not gain privileges (NoNewPrivs)";
        if (theirs.seccomp > ours.seccomp || theirs.seccomp_filters > ours.seccomp_filters)
                return "it is confined by seccomp";
        return NULL;
}

static rlim_t limit_of(const char *text, char **ret_end)
{
        text += strspn(text, " ");
        if (strncmp(text, "unlimited", 9) == 0) {
                *ret_end = (char *)(uintptr_t)text + 9;
                return RLIM_INFINITY;
        }
        return strtoull(text, ret_end, 10);
}

/* As the kernel tells everybody; prlimit() is for those with a capability that we may not have. */
static int read_nofile(int proc_fd, struct rlimit *ret)
{
        static const char key[] = "\nMax open files";
        _cleanup_fd_ int fd = openat(proc_fd, "limits", O_RDONLY | O_CLOEXEC);
        char limits[4096], *at;
        ssize_t n = fd < 0 ? -1 : read(fd, limits, sizeof(limits) - 1);

        if (n <= 0)
                return -ESRCH;
        limits[n] = '\0';
        at = strstr(limits, key);
        if (!at)
                return -EPROTO;
        ret->rlim_cur = limit_of(at + sizeof(key) - 1, &at);
        ret->rlim_max = limit_of(at, &at);
        return 0;
}

static int refuse(char *ret_why, size_t size, const char *what)
{
        (void)snprintf(ret_why, size, "the caller is refused: %s; nodes started here would not be confined as it is", what);
        return PEER_E_REFUSED;
}

static int look_for_sandbox(const Peer *peer, int pidfd, int proc_fd, char *ret_why, size_t why_size)
{
        _cleanup_fd_ int self_fd = open_proc(getpid());
        const char *what;
        char text[96];

        what = self_fd < 0 ? "our own namespaces cannot be read" : look_at_namespaces(peer, pidfd, proc_fd, self_fd);
        if (what && strlen(what) <= 4) {
                (void)snprintf(text, sizeof(text), "it lives in another %s namespace", what);
                what = text;
        }
        if (!what)
                what = look_at_confinement(proc_fd, self_fd);
        return what ? refuse(ret_why, why_size, what) : 0;
}

static int take_groups(int sock, PeerFacts *facts, char *ret_why, size_t why_size)
{
        socklen_t size = sizeof(facts->groups);

        facts->n_groups = 0;
        if (geteuid() != 0)
                return 0; /* not ours to give: nodes have the daemon's, who is the same user */
        if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, facts->groups, &size) < 0) {
                (void)snprintf(ret_why, why_size,
                        errno == ERANGE ? "the caller is in more than %zu groups" : "the caller's groups are not known",
                        ELEMENTSOF(facts->groups));
                return PEER_E_REFUSED;
        }
        facts->n_groups = (uint32_t)(size / sizeof(facts->groups[0]));
        return 0;
}

int peer_examine(const Peer *peer, int sock, const struct rlimit *nofile, PeerFacts *ret, char *ret_why, size_t why_size)
{
        _cleanup_fd_ int pidfd = peer_pidfd(peer, sock), proc_fd = pidfd < 0 ? -1 : open_proc(peer->pid);
        PeerFacts facts = {.nofile = *nofile};
        struct rlimit limit;
        int r = 0;

        if (proc_fd >= 0 && peer->uid != 0)
                r = look_for_sandbox(peer, pidfd, proc_fd, ret_why, why_size);
        if (!r && proc_fd >= 0) {
                r = read_nofile(proc_fd, &limit);
                if (r) {
                        (void)snprintf(ret_why, why_size, "the caller's limits cannot be read: %s", strerror(-r));
                        r = PEER_E_REFUSED;
                }
        }
        if (!r && proc_fd >= 0) {
                facts.nofile.rlim_max = MIN(limit.rlim_max, nofile->rlim_max);
                facts.nofile.rlim_cur = MIN(limit.rlim_cur, facts.nofile.rlim_max);
        }
        /* It lives: so its number was its own all the while, and what was read is about it. */
        if (proc_fd < 0 || !is_alive(pidfd)) {
                (void)snprintf(ret_why, why_size, "the process that connected is gone; nothing is known about it");
                return PEER_E_REFUSED;
        }
        if (!r)
                r = take_groups(sock, &facts, ret_why, why_size);
        if (!r)
                *ret = facts;
        return r;
}
