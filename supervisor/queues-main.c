/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tidegate-queues: loads the kernel probe of queues and attaches it to the files that nodes run of, as it is shown them (protocol/queues_msg.h). The guard
 * starts it for a supervisor; nothing depends on it.
 *
 * It is nobody who can start no process and write no file, but has the capability that the kernel wants for probes in programs, which is a large one. So it reads nothing of
 * the files, which are the nodes', and hostile: another process does (supervisor/queues-apart.h), and is believed what lies within the file.
 *
 * To attach, and to detach, the kernel takes a lock of each process that has a file mapped, and lets nobody fork meanwhile: where one of them is stuck with it, we are, and every fork
 * of the host. So all of them are asked beforehand whether they let go of it. Whoever does not has nothing attached, or it stays attached until it does: when the supervisor hangs
 * up, and with it the guard's end, we end, but not before that.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/mappers.h"
#include "bpf/probe.h"
#include "bpf/queue.h"
#include "protocol/queues_msg.h"
#include "supervisor/nobody.h"
#include "supervisor/queues-apart.h"

#define SEEN_MAX      1024
#define PAUSE_MAX     (30 * NSEC_PER_SEC) /* between two questions to who does not let go */
#define NOT_KNOWN_MAX 5                   /* it is not known so often: then what is attached is taken out, come what may */

typedef struct Seen { /* a file that was looked at */
        dev_t dev;
        ino_t ino;
        struct timespec changed;
        MappedFile mapped;
        bool attached;
} Seen;

typedef struct Fresh { /* with sites that are to be attached to */
        int fd;
        struct stat st;
        MappedFile mapped;
        Site sites[SITES_MAX];
        size_t n_sites;
} Fresh;

typedef struct Queues {
        int sock;
        QueueProbe *probe;
        QueuesApart apart;
        Fresh fresh[MAPPERS_FILES_MAX];
        size_t n_fresh;
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

static void remember(Queues *q, const struct stat *st, const MappedFile *attached)
{
        size_t kept = 0;

        if (q->n_seen == SEEN_MAX) {
                for (size_t i = 0; i < q->n_seen; i++)
                        if (q->seen[i].attached)
                                q->seen[kept++] = q->seen[i];
                q->n_seen = MIN(kept, SEEN_MAX - 1u);
        }
        q->seen[q->n_seen++] = (Seen){.dev = st->st_dev, .ino = st->st_ino, .changed = st->st_ctim, .attached = attached, .mapped = attached ? *attached : (MappedFile){0}};
}

/* The first one counts. */
static void complain(struct queues_record *done, int error, const char *text)
{
        if (done->error)
                return;
        done->error = error ? error : EIO;
        (void)snprintf(done->text, sizeof(done->text), "%s", text);
}

static void say_held(char *to, size_t size, const MappersHeld *held, int error)
{
        if (error < 0)
                (void)snprintf(to, size, "it is not known whether each process that runs of it lets go of its memory: %s", error == -EPIPE ? "nobody is left to ask" : strerror(-error));
        else
                (void)snprintf(to, size, "process %d (%s) does not let go of its memory: to attach would stop every fork of the host", (int)held->pid, held->name);
}

/* 0: none of those who have one of the fresh files mapped is stuck with the lock that attaching takes. */
static int check_fresh(Queues *q, struct queues_record *done)
{
        MappedFile files[MAPPERS_FILES_MAX];
        MappersHeld held;
        char text[QUEUES_TEXT_SIZE];
        int r;

        for (size_t i = 0; i < q->n_fresh; i++)
                files[i] = q->fresh[i].mapped;
        r = queues_apart_check(&q->apart, files, q->n_fresh, &held);
        if (r == 0)
                return 0;
        say_held(text, sizeof(text), &held, r);
        complain(done, r == MAPPERS_E_HELD ? EBUSY : -r, text);
        return r;
}

/* All at once, for all processes of the host are looked at for it. */
static void attach_fresh(Queues *q, struct queues_record *done)
{
        const bool may = q->n_fresh > 0 && check_fresh(q, done) == 0;

        for (size_t i = 0; i < q->n_fresh; i++) {
                Fresh *it = &q->fresh[i];
                ProbeReason reason = {};
                int r = may ? queue_probe_attach_sites(q->probe, it->fd, it->sites, it->n_sites, &reason) : 0;

                if (r)
                        complain(done, reason.err ? reason.err : r < 0 ? -r : EIO, reason.text[0] ? reason.text : strerror(reason.err ? reason.err : -r));
                if (may && r == 0) { /* or another time it may be better */
                        remember(q, &it->st, &it->mapped);
                        done->n_files++;
                }
                it->fd = fd_close(it->fd);
        }
        q->n_fresh = 0;
}

static const char *why_unread(int r)
{
        switch (-r) {
        case EBADMSG:
        case E2BIG:
        case EPROTO:
                return "the file's notes of probe sites do not hold together";
        case EREMOTEIO:
                return "the file lies on a file system that is a program's (FUSE): the kernel would wait for it";
        case ETIMEDOUT:
                return "the file cannot be read: its file system does not answer";
        case EIO:
                return "the file has ended its reader";
        case EPIPE:
                return "nobody reads files any more";
        default:
                return strerror(-r);
        }
}

static void look_at_file(Queues *q, int take_fd, struct queues_record *done)
{
        Fresh *fresh = &q->fresh[q->n_fresh];
        _cleanup_fd_ int fd = take_fd;
        const Seen *seen;
        int r;

        if (fstat(fd, &fresh->st) < 0 || !S_ISREG(fresh->st.st_mode))
                return;
        seen = find_seen(q, &fresh->st);
        if (seen) {
                done->n_files += seen->attached;
                return;
        }
        for (size_t i = 0; i < q->n_fresh; i++)
                if (q->fresh[i].st.st_dev == fresh->st.st_dev && q->fresh[i].st.st_ino == fresh->st.st_ino)
                        return;
        r = queues_apart_sites(&q->apart, fd, fresh->sites, &fresh->n_sites);
        if (r == 0 && fresh->n_sites > 0)
                r = mapped_file(fd, &fresh->mapped);
        if (r)
                complain(done, -r, why_unread(r));
        else if (fresh->n_sites == 0)
                remember(q, &fresh->st, NULL);
        else {
                fresh->fd = TAKE_FD(fd);
                q->n_fresh++;
        }
        if (q->n_fresh == MAPPERS_FILES_MAX)
                attach_fresh(q, done);
}

static int look_at_files(Queues *q, int from)
{
        struct queues_record done = {.type = QUEUES_MSG_DONE};
        uint8_t byte;
        size_t n_fds;
        int fd;

        for (unsigned i = 0; i < QUEUES_FILES_MAX && hear(from, &byte, 1, &fd, &n_fds) > 0; i++)
                if (fd >= 0)
                        look_at_file(q, fd, &done);
        attach_fresh(q, &done);
        return say(q->sock, &done, NULL, 0);
}

/* ---- the end */

/* 0: whoever has one of the attached files mapped lets go of it; otherwise as mappers_check(). */
static int check_attached(Queues *q, MappersHeld *ret_held)
{
        MappedFile files[MAPPERS_FILES_MAX];
        int r = 0;

        for (size_t i = 0, n = 0; i < q->n_seen && r == 0; i++) {
                if (q->seen[i].attached)
                        files[n++] = q->seen[i].mapped;
                if (n > 0 && (n == MAPPERS_FILES_MAX || i + 1 == q->n_seen)) {
                        r = queues_apart_check(&q->apart, files, n, ret_held);
                        n = 0;
                }
        }
        return r;
}

/* As long as somebody is stuck, all stays attached: that costs its nodes next to nothing, for they are told to tell of no message. */
static void leave(Queues *q)
{
        nsec_t pause = NSEC_PER_SEC;
        unsigned n_not_known = 0;
        MappersHeld held;
        char name[16];
        int r;

        while ((r = check_attached(q, &held)) != 0 && r != -EPIPE && n_not_known < NOT_KNOWN_MAX) {
                n_not_known += r < 0;
                (void)snprintf(name, sizeof(name), r == MAPPERS_E_HELD ? "queues/%d" : "queues/?", (int)held.pid);
                (void)prctl(PR_SET_NAME, name); /* who looks why it is still there sees for whom it waits */
                (void)poll(NULL, 0, (int)(pause / NSEC_PER_MSEC));
                pause = MIN(2 * pause, PAUSE_MAX);
        }
        /* and by our end it is taken out */
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

/* What it costs is measured on a site of this program, which others may have mapped, too. */
static int check_ourselves(Queues *q, struct queues_record *record)
{
        _cleanup_fd_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        MappersHeld held;
        MappedFile ours;
        int r = fd < 0 ? -errno : mapped_file(fd, &ours);

        if (r == 0)
                r = queues_apart_check(&q->apart, &ours, 1, &held);
        if (r)
                say_held(record->text, sizeof(record->text), &held, r);
        return r;
}

static int be_queues(int sock, uint64_t cgroup_id, uint32_t n_links)
{
        static Queues q;
        struct queues_record record = {.type = QUEUES_MSG_READY};
        nsec_t begin = clock_now();
        ProbeReason reason = {};
        char why[128];
        int r = queues_apart_begin(&q.apart);

        q.sock = sock;
        if (r == 0)
                r = nobody_become_attacher();
        if (r) {
                (void)snprintf(why, sizeof(why), "tidegate-queues cannot give up its privileges: %s", strerror(-r));
                return refuse(sock, -r, why);
        }
        r = check_ourselves(&q, &record);
        if (r)
                return refuse(sock, r < 0 ? -r : EBUSY, record.text);
        r = queue_probe_new(&q.probe, &(QueueProbeSpec){.cgroup_id = cgroup_id, .n_links = n_links}, &reason);
        if (r) {
                (void)snprintf(why, sizeof(why), "%s", strerror(r < 0 ? -r : reason.err));
                return refuse(sock, reason.err ? reason.err : r < 0 ? -r : 0, reason.text[0] ? reason.text : why);
        }
        (void)malloc_trim(0);
        record.hit_ns = queue_probe_cost(q.probe);
        record.load_ms = (uint32_t)((clock_now() - begin) / NSEC_PER_MSEC);
        r = say(sock, &record, (int[]){queue_probe_fd(q.probe, QUEUE_PROBE_FD_WATCHED), queue_probe_fd(q.probe, QUEUE_PROBE_FD_LINKS)}, _QUEUES_FD_MAX);
        if (r == 0)
                r = serve(&q);
        leave(&q);
        return r;
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
        (void)signal(SIGTERM, SIG_IGN); /* sent to all of a service: we end when our supervisor has */
        (void)signal(SIGINT, SIG_IGN);
        (void)signal(SIGHUP, SIG_IGN);
        return be_queues(STDIN_FILENO, strtoull(argv[2], NULL, 10), (uint32_t)n_links) ? 1 : 0;
}
