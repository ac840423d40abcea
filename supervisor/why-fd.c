/* SPDX-License-Identifier: Apache-2.0 */
/* What a descriptor leads to: who has the other end of a pipe or a socket, and what a wait of many descriptors is about. */
#include "supervisor/why.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"

#define FDS_MAX       32768 /* pipes and sockets of the dataflow that are known */
#define FDS_EACH_MAX  1024  /* of one process */
#define HOST_MAX      4096  /* other processes that are looked through */
#define HOLDERS_MAX   8
#define MANY_MAX      64
#define NOT_ACCEPTED  ", and has not accepted it yet"
#define NET_FILE_MAX  (1024u * 1024)

typedef struct WhyFd {
        int32_t pid;
        int fd;
        char kind; /* 'p' pipe, 's' socket, 'f' file (a fifo, perhaps): number is a hash of its name */
        uint64_t number;
} WhyFd;

struct WhyFds {
        size_t n;
        WhyFd all[FDS_MAX];
};

/* Who has one end. */
typedef struct Holders {
        struct {
                int32_t pid;
                int fd;
        } all[HOLDERS_MAX];
        size_t n;      /* others than who asks, and its process */
        bool also_own; /* and that one too */
        bool unseen;   /* of some processes it is not to be seen */
        bool of_flow;
} Holders;

/* ---- descriptors of everybody */

static uint64_t hash_of(const char *text)
{
        uint64_t hash = 14695981039346656037u;

        for (; *text; text++)
                hash = (hash ^ (unsigned char)*text) * 1099511628211u;
        return hash;
}

static bool read_link(pid_t pid, int fd, char *buffer, size_t size)
{
        char path[64];
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
        n = readlink(path, buffer, size - 1);
        buffer[MAX(n, 0)] = '\0';
        return n > 0;
}

/* False: neither pipe nor socket nor file. */
static bool kind_of(const char *target, char *ret_kind, uint64_t *ret_number)
{
        if (blame_parse_target(target, "pipe", ret_number)) {
                *ret_kind = 'p';
        } else if (blame_parse_target(target, "socket", ret_number)) {
                *ret_kind = 's';
        } else if (target[0] == '/') {
                *ret_kind = 'f';
                *ret_number = hash_of(target);
        } else {
                return false;
        }
        return true;
}

typedef bool (*EachFd)(const WhyFd *fd, void *userdata); /* false: enough */

/* False: they may not be seen. */
static bool each_fd(pid_t pid, EachFd each, void *userdata)
{
        struct dirent *entry;
        char path[64], target[512];
        unsigned n = 0;
        DIR *d;

        if (procstat_is_executing(pid))
                return false;
        (void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
        d = opendir(path);
        if (!d)
                return errno != EACCES && errno != EPERM;
        while ((entry = readdir(d)) && n++ < FDS_EACH_MAX) {
                WhyFd fd = {.pid = pid, .fd = atoi(entry->d_name)};

                if (entry->d_name[0] != '.' && read_link(pid, fd.fd, target, sizeof(target)) && kind_of(target, &fd.kind, &fd.number) && !each(&fd, userdata))
                        break;
        }
        (void)closedir(d);
        return true;
}

static bool add_fd(const WhyFd *fd, void *userdata)
{
        WhyFds *fds = userdata;

        if (fds->n < FDS_MAX)
                fds->all[fds->n++] = *fd;
        return fds->n < FDS_MAX;
}

static const WhyFds *all_fds(Why *why)
{
        if (!why->fds) {
                why->fds = malloc(sizeof(*why->fds));
                if (!why->fds)
                        return NULL;
                why->fds->n = 0;
                for (size_t i = 0; i < why->n_processes; i++)
                        (void)each_fd(why->processes[i].pid, add_fd, why->fds);
        }
        return why->fds;
}

void why_fds_done(Why *why)
{
        free(why->fds);
        why->fds = NULL;
        if (why->diag_fd >= 0)
                (void)close(why->diag_fd);
        why->diag_fd = -1;
}

/* How it was opened: O_RDONLY, O_WRONLY or O_RDWR; -1: not to be seen. */
static int mode_of(pid_t pid, int fd)
{
        char name[48], text[1024];
        const char *flags;

        (void)snprintf(name, sizeof(name), "fdinfo/%d", fd);
        flags = why_slurp(pid, 0, name, text, sizeof(text)) ? strstr(text, "flags:") : NULL;
        return flags ? (int)(strtol(flags + 6, NULL, 8) & O_ACCMODE) : -1;
}

typedef struct Search {
        Holders *holders;
        pid_t own;
        char kind;
        uint64_t number;
        int not_mode; /* that end does not count; -1: each does */
} Search;

static bool take_holder(const WhyFd *fd, void *userdata)
{
        Search *s = userdata;
        Holders *h = s->holders;
        int mode;

        if (fd->kind != s->kind || fd->number != s->number)
                return true;
        mode = s->not_mode < 0 ? -1 : mode_of(fd->pid, fd->fd);
        if (mode >= 0 && mode == s->not_mode)
                return true;
        if (fd->pid == s->own) {
                h->also_own = true;
                return true;
        }
        for (size_t i = 0; i < h->n; i++)
                if (h->all[i].pid == fd->pid)
                        return true;
        h->all[h->n].pid = fd->pid;
        h->all[h->n++].fd = fd->fd;
        return h->n < HOLDERS_MAX;
}

static void search_host(Why *why, Search *s)
{
        struct dirent *entry;
        unsigned n = 0;
        DIR *d = opendir("/proc");

        while (d && (entry = readdir(d)) && s->holders->n == 0) {
                pid_t pid = (pid_t)atoi(entry->d_name);

                if (pid <= 0 || pid == getpid() || why_node_of(why, pid) >= 0)
                        continue;
                if (n++ >= HOST_MAX || clock_now() >= why->until) {
                        s->holders->unseen = true;
                        break;
                }
                if (!each_fd(pid, take_holder, s))
                        s->holders->unseen = true;
        }
        if (d)
                (void)closedir(d);
}

/* Who else has it, in the dataflow, else on the host. @not_mode: as above. */
static Holders holders_of(Why *why, pid_t own, char kind, uint64_t number, int not_mode)
{
        Holders holders = {};
        Search search = {&holders, own, kind, number, not_mode};
        const WhyFds *fds = all_fds(why);

        for (size_t i = 0; fds && i < fds->n; i++)
                if (!take_holder(&fds->all[i], &search))
                        break;
        holders.of_flow = holders.n > 0;
        if (!holders.n)
                search_host(why, &search);
        return holders;
}

static void point_at(Why *why, WhyThread *t, const Holders *h)
{
        char comm[64] = "";

        t->target_pid = h->all[0].pid;
        t->target_node = why_node_of(why, t->target_pid);
        t->definite = h->n == 1 && h->of_flow && !h->also_own;
        if (why_slurp(t->target_pid, 0, "comm", comm, sizeof(comm)))
                comm[strcspn(comm, "\n")] = '\0';
        (void)snprintf(t->target_comm, sizeof(t->target_comm), "%s", comm);
}

static const char *others(const Holders *h, char buffer[static 32])
{
        buffer[0] = '\0';
        if (h->n > 1)
                (void)snprintf(buffer, 32, " and %zu more", h->n - 1);
        return buffer;
}

/* ---- pipes */

static void blame_pipe(Why *why, WhyThread *t, int fd, char kind, uint64_t number, bool writes)
{
        Holders h = holders_of(why, t->task.pid, kind, number, writes ? O_WRONLY : O_RDONLY);
        const char *full = writes ? "for room in the full pipe" : "for data from the pipe", *does = writes ? "reads" : "writes";
        char name[WHY_NAME_MAX], more[32];

        if (h.n) {
                point_at(why, t, &h);
                why_say(t, writes ? BLAME_PIPE_FULL : BLAME_PIPE_EMPTY, "waits %s on fd %d that %s%s %s", full, fd,
                        why_name(why, t->target_node, t->target_pid, t->target_comm, name, sizeof(name)), others(&h, more), does);
        } else if (h.unseen) {
                why_say(t, writes ? BLAME_PIPE_FULL : BLAME_PIPE_EMPTY, "waits %s on fd %d; who %s it is not to be seen", full, fd, does);
        } else {
                why_say(t, BLAME_PEER_DEAD, "waits %s on fd %d, and nobody else %s it%s", full, fd, does, h.also_own ? ": its other end only the process itself has" : "");
        }
}

/* ---- sockets */

/* NETLINK_SOCK_DIAG in the network namespace of that process. -1: not to be had. */
static int diag_for(Why *why, pid_t pid)
{
        char own[64], its[64], path[64];
        ssize_t n, m;

        (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
        n = readlink("/proc/self/ns/net", own, sizeof(own));
        m = readlink(path, its, sizeof(its));
        if (n > 0 && m > 0 && (n != m || memcmp(own, its, (size_t)n) != 0)) {
                _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

                if (why->diag_fd >= 0)
                        (void)close(why->diag_fd);
                why->diag_fd = -1;
                if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) /* this process does nothing else */
                        return -1;
        }
        if (why->diag_fd < 0)
                why->diag_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
        return why->diag_fd;
}

/* A TCP socket by inode, or the one at the other end of @of. */
static bool find_tcp(pid_t pid, uint64_t inode, const BlameTcp *of, BlameTcp *ret)
{
        _cleanup_free_ char *text = malloc(NET_FILE_MAX);

        for (int v6 = 0; text && v6 < 2; v6++) {
                if (!why_slurp(pid, 0, v6 ? "net/tcp6" : "net/tcp", text, NET_FILE_MAX))
                        continue;
                for (char *line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
                        BlameTcp tcp;

                        if (!blame_parse_tcp(line + 1, v6, &tcp))
                                continue;
                        if (of ? strcmp(tcp.local, of->remote) == 0 && strcmp(tcp.remote, of->local) == 0 : tcp.inode == inode) {
                                *ret = tcp;
                                return true;
                        }
                }
        }
        return false;
}

/* The socket that listens at @address, of TCP. */
static uint64_t find_tcp_listener(pid_t pid, const char *address)
{
        _cleanup_free_ char *text = malloc(NET_FILE_MAX);
        const char *port = strrchr(address, ':');
        uint64_t inode = 0;

        for (int v6 = 0; text && port && v6 < 2; v6++) {
                if (!why_slurp(pid, 0, v6 ? "net/tcp6" : "net/tcp", text, NET_FILE_MAX))
                        continue;
                for (char *line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
                        BlameTcp tcp;

                        if (!blame_parse_tcp(line + 1, v6, &tcp) || tcp.state != TCP_LISTEN)
                                continue;
                        if (strcmp(tcp.local, address) == 0)
                                return tcp.inode;
                        if (strcmp(strrchr(tcp.local, ':'), port) == 0 && (strncmp(tcp.local, "0.0.0.0:", 8) == 0 || strncmp(tcp.local, "[::]:", 5) == 0))
                                inode = tcp.inode; /* unless somebody has that very address */
                }
        }
        return inode;
}

/* One of the loopback interface, or @local's own. */
static bool is_here(const char *remote, const char *local)
{
        const char *port = strrchr(remote, ':');

        return strncmp(remote, "127.", 4) == 0 || strncmp(remote, "[::1]:", 6) == 0 ||
                (port && local[0] && strncmp(remote, local, (size_t)(port - remote) + 1) == 0);
}

static void say_socket(Why *why, WhyThread *t, int fd, const Holders *h, bool writes, const char *where, const char *more_of_it)
{
        const char *wants = writes ? "for room to send to" : "for data from";
        char name[WHY_NAME_MAX], more[32];

        if (h->n) {
                point_at(why, t, h);
                why_say(t, BLAME_PEER_SILENT, "waits %s %s%s, the peer of the socket on fd %d%s, which %s%s", wants,
                        why_name(why, t->target_node, t->target_pid, t->target_comm, name, sizeof(name)), others(h, more), fd, where, writes ? "takes nothing" : "sends nothing", more_of_it);
        } else if (h->unseen) {
                why_say(t, BLAME_PEER_SILENT, "waits %s the peer of the socket on fd %d%s; who that is cannot be seen", wants, fd, where);
        } else {
                why_say(t, BLAME_PEER_DEAD, "waits %s the peer of the socket on fd %d%s, and nobody has that end%s", wants, fd, where, h->also_own ? " but the process itself" : "");
        }
}

static void blame_tcp(Why *why, WhyThread *t, int fd, const BlameTcp *tcp, bool writes)
{
        BlameTcp other;
        char where[160];

        (void)snprintf(t->object, sizeof(t->object), "%s", tcp->remote);
        (void)snprintf(where, sizeof(where), " (TCP %s to %s, %s)", tcp->local, tcp->remote, blame_tcp_state(tcp->state));
        if (tcp->state == TCP_SYN_SENT) {
                why_say(t, BLAME_CONNECT, "waits for its connection to %s: nobody answers", tcp->remote);
        } else if (tcp->state == TCP_LISTEN) {
                why_say(t, BLAME_WAITING, "waits for a connection to %s", tcp->local);
        } else if (find_tcp(t->task.pid, 0, tcp, &other)) {
                bool waits = !other.inode && other.state == TCP_ESTABLISHED;
                uint64_t inode = waits ? find_tcp_listener(t->task.pid, other.local) : other.inode;
                Holders h = {};

                if (inode)
                        h = holders_of(why, t->task.pid, 's', inode, -1);

                say_socket(why, t, fd, &h, writes, where, waits ? NOT_ACCEPTED : "");
        } else if (is_here(tcp->remote, tcp->local)) {
                why_say(t, BLAME_PEER_DEAD, "waits for the peer of the socket on fd %d%s, which is gone without a word", fd, where);
        } else {
                why_say(t, tcp->state == TCP_ESTABLISHED ? BLAME_PEER_SILENT : BLAME_PEER_DEAD, "waits for %s of the socket on fd %d%s, which is not on this host, or has ended", "the peer", fd, where);
        }
}

static void blame_socket(Why *why, WhyThread *t, int fd, uint64_t inode, bool writes)
{
        int diag = diag_for(why, t->task.pid);
        uint64_t listener;
        BlameUnix is;
        BlameTcp tcp;
        Holders h = {};
        char where[140] = "";

        if (diag >= 0 && blame_unix_peer(diag, inode, &is)) {
                if (is.name[0])
                        (void)snprintf(where, sizeof(where), " (%.120s)", is.name);
                (void)snprintf(t->object, sizeof(t->object), "%s", is.name);
                if (is.state == TCP_LISTEN) {
                        why_say(t, BLAME_WAITING, "waits for a connection to %s", is.name[0] ? is.name : "its socket");
                } else if (is.peer) {
                        h = holders_of(why, t->task.pid, 's', is.peer, -1);
                        say_socket(why, t, fd, &h, writes, where, "");
                } else if (is.gone && !is.dead && is.type != SOCK_DGRAM && (listener = blame_unix_listener(diag, inode))) {
                        h = holders_of(why, t->task.pid, 's', listener, -1);
                        say_socket(why, t, fd, &h, writes, where, NOT_ACCEPTED);
                } else if (is.type == SOCK_DGRAM && !is.gone) {
                        why_say(t, BLAME_PEER_SILENT, "waits for a datagram on fd %d%s, from anybody", fd, where);
                } else {
                        why_say(t, BLAME_PEER_DEAD, "waits for the peer of the socket on fd %d%s, which is gone", fd, where);
                }
        } else if (find_tcp(t->task.pid, inode, NULL, &tcp)) {
                blame_tcp(why, t, fd, &tcp, writes);
        } else {
                why_say(t, BLAME_PEER_SILENT, "waits for the socket on fd %d; what it is connected to is not to be seen", fd);
        }
}

/* The process that listens at @address. */
static pid_t find_listener(Why *why, pid_t own, const char *address)
{
        _cleanup_free_ char *text = malloc(NET_FILE_MAX);
        size_t length = strlen(address);

        if (!text || !why_slurp(own, 0, "net/unix", text, NET_FILE_MAX))
                return 0;
        for (char *line = strchr(text, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
                unsigned long long inode;
                unsigned flags;
                int at = 0;

                if (sscanf(line + 1, "%*x: %*x %*x %x %*x %*x %llu %n", &flags, &inode, &at) < 2 || !at || !(flags & 0x10000)) /* __SO_ACCEPTCON */
                        continue;
                if (strncmp(line + 1 + at, address, length) == 0 && line[1 + at + (int)length] == '\n') {
                        Holders h = holders_of(why, own, 's', inode, -1);

                        return h.n ? h.all[0].pid : h.also_own ? own : 0;
                }
        }
        return 0;
}

void why_blame_connect(Why *why, WhyThread *t)
{
        char address[160] = "", raw[128], name[160];
        size_t size = MIN((size_t)t->call.args[2], sizeof(raw)), n = why->deep ? why_peek(t->task.pid, t->call.args[1], raw, size) : 0;
        uint64_t listener;
        Holders h = {};

        if (n)
                (void)blame_address(raw, n, address, sizeof(address));
        (void)snprintf(t->object, sizeof(t->object), "%s", address);
        if (n && (address[0] == '/' || address[0] == '@'))
                h.all[0].pid = find_listener(why, t->task.pid, address);
        else if (n && is_here(address, "") && (listener = find_tcp_listener(t->task.pid, address)))
                h = holders_of(why, t->task.pid, 's', listener, -1);
        h.n = h.all[0].pid != 0;
        if (h.n) {
                point_at(why, t, &h);
                why_say(t, BLAME_CONNECT, "waits for its connection to %s: %s listens there, and takes nobody", address,
                        why_name(why, t->target_node, t->target_pid, t->target_comm, name, sizeof(name)));
        } else {
                why_say(t, BLAME_CONNECT, "waits for its connection%s%s: nobody answers", address[0] ? " to " : "", address);
        }
}

/* ---- one, or many */

static bool is_fifo(pid_t pid, int fd)
{
        char path[64];
        struct stat st;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
        return stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
}

static bool blame_anonymous(WhyThread *t, int fd, const char *target)
{
        static const struct {
                const char *name;
                BlameCause cause;
                const char *text;
        } known[] = {
                {"anon_inode:[eventfd]", BLAME_WAITING, "for its eventfd: whoever has that is to wake it"},
                {"anon_inode:[timerfd]", BLAME_SLEEPING, "for its timer (timerfd)"},
                {"anon_inode:[signalfd]", BLAME_SLEEPING, "for a signal (signalfd)"},
                {"anon_inode:inotify", BLAME_WAITING, "for a change in the file system (inotify)"},
                {"anon_inode:[userfaultfd]", BLAME_WAITING, "for page faults of whomever it serves (userfaultfd)"},
                {"anon_inode:[pidfd]", BLAME_CHILD, "for a process to end (pidfd)"},
                {"/dev/tty", BLAME_WAITING, "for its terminal"},
                {"/dev/pts/", BLAME_WAITING, "for its terminal"},
        };

        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (strncmp(target, known[i].name, strlen(known[i].name)) == 0) {
                        why_say(t, known[i].cause, "waits %s, on fd %d", known[i].text, fd);
                        return true;
                }
        return false;
}

void why_blame_fd(Why *why, WhyThread *t, int fd, bool writes)
{
        char target[512] = "", kind = 0;
        const char *call = task_call_name(t->call.number);
        uint64_t number = 0;

        if (!read_link(t->task.pid, fd, target, sizeof(target))) {
                why_say(t, BLAME_WAITING, "waits in %s for fd %d; what that is may not be seen", call ? call : "a system call", fd);
                return;
        }
        if (blame_anonymous(t, fd, target))
                return;
        if (!why->deep || !kind_of(target, &kind, &number)) {
                if (strncmp(target, "pipe:", 5) == 0)
                        why_say(t, writes ? BLAME_PIPE_FULL : BLAME_PIPE_EMPTY, "waits %s the pipe on fd %d", writes ? "for room in" : "for data from", fd);
                else if (strncmp(target, "socket:", 7) == 0)
                        why_say(t, BLAME_PEER_SILENT, "waits for the socket on fd %d", fd);
                else
                        why_say(t, BLAME_WAITING, "waits in %s for fd %d (%.150s)", call ? call : "a system call", fd, target);
                return;
        }
        if (kind == 'p' || (kind == 'f' && is_fifo(t->task.pid, fd)))
                blame_pipe(why, t, fd, kind, number, writes);
        else if (kind == 's')
                blame_socket(why, t, fd, number, writes);
        else
                why_say(t, t->task.state == 'D' ? BLAME_FILE_SYSTEM : BLAME_WAITING, "waits in %s for %.150s (fd %d)", call ? call : "a system call", target, fd);
        if (!t->object[0])
                (void)snprintf(t->object, sizeof(t->object), "%.190s", target);
}

typedef struct Watched {
        int fd;
        bool writes;
} Watched;

static size_t watched_by_poll(const WhyThread *t, Watched *ret)
{
        struct pollfd fds[MANY_MAX];
        size_t n = MIN((size_t)t->call.args[1], (size_t)MANY_MAX), k = 0;

        n = why_peek(t->task.pid, t->call.args[0], fds, n * sizeof(fds[0])) / sizeof(fds[0]);
        for (size_t i = 0; i < n; i++)
                if (fds[i].fd >= 0 && fds[i].events)
                        ret[k++] = (Watched){fds[i].fd, !(fds[i].events & POLLIN)};
        return k;
}

static size_t watched_by_select(const WhyThread *t, Watched *ret)
{
        int n_fds = (int)MIN(t->call.args[0], (uint64_t)FD_SETSIZE);
        size_t n = 0;

        for (int set = 1; set <= 2; set++) {
                fd_set fds;

                FD_ZERO(&fds);
                (void)why_peek(t->task.pid, t->call.args[set], &fds, sizeof(fds));
                for (int fd = 0; fd < n_fds && n < MANY_MAX; fd++)
                        if (FD_ISSET(fd, &fds))
                                ret[n++] = (Watched){fd, set == 2};
        }
        return n;
}

static size_t watched_by_epoll(pid_t pid, int epoll_fd, Watched *ret, unsigned depth)
{
        char name[48], text[16384], target[64];
        int fds[MANY_MAX];
        size_t n, k = 0;

        (void)snprintf(name, sizeof(name), "fdinfo/%d", epoll_fd);
        n = why_slurp(pid, 0, name, text, sizeof(text)) ? blame_parse_epoll(text, fds, MANY_MAX) : 0;
        for (size_t i = 0; i < n && k < MANY_MAX; i++) {
                if (depth == 0 && read_link(pid, fds[i], target, sizeof(target)) && strncmp(target, "anon_inode:[eventpoll]", 22) == 0) {
                        Watched inner[MANY_MAX];
                        size_t m = watched_by_epoll(pid, fds[i], inner, 1);

                        for (size_t j = 0; j < m && k < MANY_MAX; j++)
                                ret[k++] = inner[j];
                } else {
                        ret[k++] = (Watched){fds[i], false};
                }
        }
        return k;
}

static bool is_poll(int32_t number)
{
        return number == SYS_ppoll
#ifdef SYS_poll
                || number == SYS_poll
#endif
                ;
}

static bool is_select(int32_t number)
{
        return number == SYS_pselect6
#ifdef SYS_select
                || number == SYS_select
#endif
                ;
}

static size_t watched_by(const Why *why, const WhyThread *t, Watched *ret)
{
        if (is_poll(t->call.number))
                return why->deep ? watched_by_poll(t, ret) : 0;
        if (is_select(t->call.number))
                return why->deep ? watched_by_select(t, ret) : 0;
        if (why->first_only)
                return 0; /* that is told under a lock */
        return watched_by_epoll(t->task.pid, t->task.fd, ret, 0);
}

static bool is_ours(const Why *why, pid_t pid)
{
        char comm[64];

        return why_node_of(why, pid) < 0 && why_slurp(pid, 0, "comm", comm, sizeof(comm)) && strncmp(comm, "tidegate", 8) == 0;
}

/* The library waits for its supervisor, too, whatever else it waits for. A program's own wait is for something else. */
bool why_watches_links(Why *why, const WhyThread *t)
{
        Watched watched[MANY_MAX];
        size_t n = watched_by(why, t, watched);
        int diag = why->deep && n ? diag_for(why, t->task.pid) : -1;

        for (size_t i = 0; diag >= 0 && i < n; i++) {
                char target[64], kind = 0;
                uint64_t inode = 0;
                BlameUnix is;
                Holders h;

                if (!read_link(t->task.pid, watched[i].fd, target, sizeof(target)) || !kind_of(target, &kind, &inode) || kind != 's' || !blame_unix_peer(diag, inode, &is) || !is.peer ||
                        is.type != SOCK_SEQPACKET)
                        continue;
                h = holders_of(why, t->task.pid, 's', is.peer, -1);
                for (size_t k = 0; k < h.n; k++)
                        if (is_ours(why, h.all[k].pid))
                                return true;
        }
        return diag < 0; /* it is not to be seen */
}

/* What it waits for most probably: of pipes and sockets the first with somebody at the other end, else the first of all. */
void why_blame_many(Why *why, WhyThread *t)
{
        Watched watched[MANY_MAX];
        WhyThread best = *t;
        size_t n = 0;
        char call[160];

        n = watched_by(why, t, watched);
        (void)snprintf(call, sizeof(call), "%s", task_call_name(t->call.number) ? task_call_name(t->call.number) : "a system call");
        if (n == 0) {
                bool none = is_poll(t->call.number) ? t->call.args[1] == 0 : is_select(t->call.number) && t->call.args[0] == 0;

                if (none)
                        why_say(t, BLAME_SLEEPING, "sleeps for a time (%s of nothing)", call);
                else
                        why_say(t, BLAME_WAITING, "waits in %s for one of its descriptors", call);
                return;
        }
        for (size_t i = 0; i < n; i++) {
                WhyThread one = *t;

                why_blame_fd(why, &one, watched[i].fd, watched[i].writes);
                one.definite = one.definite && n == 1;
                if (i == 0 || (one.cause > best.cause && one.cause != BLAME_CHILD))
                        best = one;
        }
        *t = best;
        if (n > 1) {
                size_t length = strlen(t->text);

                (void)snprintf(t->text + length, sizeof(t->text) - length, ", or for %zu other descriptor%s (%s)", n - 1, n > 2 ? "s" : "", call);
        }
}
