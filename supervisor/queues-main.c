/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-queues: loads the kernel probe of queues and attaches it to the files that nodes run of, as it is shown them (protocol/queues_msg.h). The guard
 * starts it for a supervisor; nothing depends on it.
 *
 * The files are the nodes', and hostile, and so may be what holds them: they are read here, by nobody, who can start no process and write no file, but has the
 * capability that the kernel wants for probes in programs, which is a large one: so little is read of them (bpf/sites.h). To attach, the kernel takes a lock of each process that has a file mapped: where one of them is stuck with it, so are we, and the supervisor, whose word has a
 * deadline, goes on without us. All of it ends when we do: when the supervisor hangs up, and with the guard.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/probe.h"
#include "bpf/queue.h"
#include "protocol/queues_msg.h"
#include "supervisor/nobody.h"

#define SEEN_MAX 1024

typedef struct Seen { /* a file that was looked at */
        dev_t dev;
        ino_t ino;
        struct timespec changed;
        bool attached;
} Seen;

typedef struct Queues {
        int sock;
        QueueProbe *probe;
        Seen seen[SEEN_MAX]; /* the oldest are forgotten, but for those that are attached to */
        size_t n_seen;
} Queues;

static int say(int sock, struct queues_record *record, const int *fds, size_t n_fds)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(_QUEUES_FD_MAX * sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = record, .iov_len = sizeof(*record)};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

        record->magic = QUEUES_MAGIC;
        if (n_fds > 0) {
                msg.msg_control = control.space;
                msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n_fds * sizeof(int));
        }
        return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof(*record) ? 0 : -errno;
}

/* Waits. The bytes that came, 0: the end; with at most one descriptor. */
static ssize_t hear(int sock, void *to, size_t size, int *ret_fd, size_t *ret_n_fds)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {.iov_base = to, .iov_len = size};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
        struct cmsghdr *c;
        ssize_t n;

        *ret_fd = -1;
        *ret_n_fds = 0;
        do
                n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int))) {
                memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
                *ret_n_fds = 1;
        }
        return n;
}

static int refuse(int sock, int error, const char *text)
{
        struct queues_record record = {.type = QUEUES_MSG_UNAVAILABLE, .error = error};

        (void)snprintf(record.text, sizeof(record.text), "%s", text);
        return say(sock, &record, NULL, 0);
}

/* ---- files */

static Seen *find_seen(Queues *q, const struct stat *st)
{
        for (size_t i = 0; i < q->n_seen; i++)
                if (q->seen[i].dev == st->st_dev && q->seen[i].ino == st->st_ino && q->seen[i].changed.tv_sec == st->st_ctim.tv_sec &&
                        q->seen[i].changed.tv_nsec == st->st_ctim.tv_nsec)
                        return &q->seen[i];
        return NULL;
}

static void remember(Queues *q, const struct stat *st, bool attached)
{
        size_t kept = 0;

        if (q->n_seen == SEEN_MAX) {
                for (size_t i = 0; i < q->n_seen; i++)
                        if (q->seen[i].attached)
                                q->seen[kept++] = q->seen[i];
                q->n_seen = MIN(kept, SEEN_MAX - 1u);
        }
        q->seen[q->n_seen++] = (Seen){.dev = st->st_dev, .ino = st->st_ino, .changed = st->st_ctim, .attached = attached};
}

static void look_at_file(Queues *q, int fd, struct queues_record *done)
{
        ProbeReason reason = {};
        struct stat st;
        const Seen *seen;
        size_t n = 0;
        int r;

        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return;
        seen = find_seen(q, &st);
        if (seen) {
                done->n_files += seen->attached;
                return;
        }
        r = queue_probe_attach(q->probe, fd, &n, &reason);
        if (r && !done->error) {
                done->error = reason.err ? reason.err : r < 0 ? -r : EIO;
                (void)snprintf(done->text, sizeof(done->text), "%s", reason.text[0] ? reason.text : strerror(done->error));
        }
        if (r == 0) /* another time it may be better */
                remember(q, &st, n > 0);
        done->n_files += r == 0 && n > 0;
}

static int look_at_files(Queues *q, int from)
{
        struct queues_record done = {.type = QUEUES_MSG_DONE};
        uint8_t byte;
        size_t n_fds;
        int fd;

        for (unsigned i = 0; i < QUEUES_FILES_MAX && hear(from, &byte, 1, &fd, &n_fds) > 0; i++) {
                if (fd >= 0)
                        look_at_file(q, fd, &done);
                (void)fd_close(fd);
        }
        return say(q->sock, &done, NULL, 0);
}

static int serve(Queues *q)
{
        struct queues_record record;
        size_t n_fds;
        ssize_t n;
        int fd, r = 0;

        while (r == 0 && (n = hear(q->sock, &record, sizeof(record), &fd, &n_fds)) > 0) {
                r = queues_msg_check(1, &record, (size_t)n, n_fds);
                if (r == 0)
                        r = look_at_files(q, fd);
                (void)fd_close(fd);
        }
        return r;
}

static int be_queues(int sock, uint64_t cgroup_id, uint32_t n_links)
{
        static Queues q;
        struct queues_record record = {.type = QUEUES_MSG_READY};
        nsec_t begin = clock_now();
        ProbeReason reason = {};
        char why[128];
        int r = nobody_become_attacher();

        q.sock = sock;
        if (r) {
                (void)snprintf(why, sizeof(why), "tidegate-queues cannot give up its privileges: %s", strerror(-r));
                return refuse(sock, -r, why);
        }
        r = queue_probe_new(&q.probe, &(QueueProbeSpec){.cgroup_id = cgroup_id, .n_links = n_links}, &reason);
        if (r) {
                (void)snprintf(why, sizeof(why), "%s", strerror(r < 0 ? -r : reason.err));
                return refuse(sock, reason.err ? reason.err : r < 0 ? -r : 0, reason.text[0] ? reason.text : why);
        }
        (void)malloc_trim(0);
        record.hit_ns = queue_probe_cost(q.probe);
        record.load_ms = (uint32_t)((clock_now() - begin) / NSEC_PER_MSEC);
        r = say(sock, &record, (int[]){queue_probe_fd(q.probe, QUEUE_PROBE_FD_WATCHED), queue_probe_fd(q.probe, QUEUE_PROBE_FD_LINKS)}, _QUEUES_FD_MAX);
        return r ? r : serve(&q);
}

int main(int argc, char **argv)
{
        int sock = argc == 4 ? atoi(argv[1]) : -1;
        unsigned long n_links = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;

        if (sock <= STDERR_FILENO || n_links < 1 || n_links > QUEUE_LINKS_MAX) {
                fprintf(stderr, "tidegate-queues is started by tidegated\n");
                return 2;
        }
        if (nobody_begin("tidegate-queues", sock))
                return 1;
        return be_queues(STDIN_FILENO, strtoull(argv[2], NULL, 10), (uint32_t)n_links) ? 1 : 0;
}
