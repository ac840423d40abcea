/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For `tidegate bench probe`: tidegate-bench-sites CGROUP ROUNDS MESSAGES
 *
 * One line a round, picoseconds a message of 64 bytes that is sent and taken by one thread: by tidegate-bench-no-sites, which is the same code without probe
 * sites (TG_NO_PROBES); with sites, and nothing attached; attached, and each message told of at both ends; attached, and none is; detached again. Each is the
 * median over stretches of the MESSAGES, in CPU time. Or "skipped: why".
 *
 * Both programs are nodes of it: run as "NAME node", they measure whenever a byte comes by their standard input, which is a socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "shm/reader.h"
#include "shm/writer.h"
#ifndef TG_NO_PROBES
#include "bpf/probe.h"
#include "bpf/queue-view.h"
#include "shm/probe.h"
#endif

#define STRETCH      500u
#define STRETCHES    1000u
#define N_SLOTS      64u
#define QUEUE        32u
#define REMOVE_TRIES 1000

static _Noreturn void die(const char *what)
{
        (void)fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
        exit(1);
}

/* ---- a node */

typedef struct Flow { /* both ends of one link, mapped as its two nodes have it */
        RingWriter *writer;
        RingReader reader;
        Region ring_rw, ring_ro, cursor_rw, cursor_ro;
        uint64_t mask;
} Flow;

static void map_both(int fd, RegionKind kind, uint64_t size, Region *rw, Region *ro)
{
        if (region_map_write(rw, fd, kind, size) || region_seal(fd, kind) || region_map_read(ro, fd, kind, size))
                die("shared memory");
        (void)fd_close(fd);
}

static void flow_open(Flow *flow)
{
        int ring, cursor;

        if (ring_create(N_SLOTS, &ring) || cursor_create(&cursor))
                die("shared memory");
        map_both(ring, REGION_RING, ring_size(N_SLOTS), &flow->ring_rw, &flow->ring_ro);
        map_both(cursor, REGION_CURSOR, cursor_size(), &flow->cursor_rw, &flow->cursor_ro);
        if (ring_writer_new(&flow->writer, &flow->ring_rw, 1) || ring_reader_init(&flow->reader, &flow->ring_ro, &flow->cursor_rw, 1, QUEUE, RING_BACKPRESSURE) ||
                ring_writer_attach(flow->writer, &(RingLinkSpec){.id = 1, .queue_size = QUEUE, .policy = RING_BACKPRESSURE, .cursor = &flow->cursor_ro}) ||
                ring_reader_start(&flow->reader))
                die("a link");
        ring_writer_set_probe_mask(flow->writer, &flow->mask);
        ring_reader_set_probe_mask(&flow->reader, &flow->mask);
}

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

/* Picoseconds a message. */
static uint64_t measure(Flow *flow, unsigned n_stretches)
{
        static uint64_t took[STRETCHES], bytes[8];
        RingPost post = {.payload = bytes, .payload_len = sizeof(bytes), .time_ns = clock_now()};
        RingMessage msg;
        bool ring;

        for (unsigned i = 0; i < n_stretches; i++) {
                nsec_t begin = clock_cpu();

                for (unsigned k = 0; k < STRETCH; k++) {
                        if (ring_writer_publish(flow->writer, &post, NULL, NULL))
                                die("a message");
                        (void)ring_writer_flush(flow->writer);
                        if (ring_reader_take(&flow->reader, &msg, &ring))
                                die("a message");
                }
                took[i] = clock_cpu() - begin;
        }
        qsort(took, n_stretches, sizeof(*took), compare);
        return took[n_stretches / 2] * 1000 / STRETCH;
}

/* What is asked: 'a', each message may be told of; 'n', none may. */
static int be_node(unsigned n_stretches)
{
        Flow flow = {};
        char what;

        flow_open(&flow);
        while (recv(STDIN_FILENO, &what, 1, 0) == 1) {
                uint64_t ps;

                flow.mask = what == 'n' ? UINT64_MAX : 0;
                ps = measure(&flow, n_stretches);
                (void)send(STDIN_FILENO, &ps, sizeof(ps), MSG_NOSIGNAL);
        }
        return 0;
}

#ifdef TG_NO_PROBES

int main(int argc, char **argv)
{
        if (argc != 3 || strcmp(argv[1], "node") != 0)
                die("is a part of tidegate-bench-sites");
        return be_node(MIN(MAX((unsigned)atoi(argv[2]) / STRETCH, 1u), STRETCHES));
}

#else

/* ---- its nodes */

typedef struct Node {
        pid_t pid;
        int socket;
} Node;

/* In that cgroup, which it joins before it becomes the program. */
static Node start_node(const char *program, const char *directory, char *messages)
{
        char path[PATH_MAX];
        int fds[2];
        Node ret;

        (void)snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                die("socket");
        ret.pid = fork();
        if (ret.pid < 0)
                die("fork");
        if (ret.pid == 0) {
                int fd = open(path, O_WRONLY | O_CLOEXEC);

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (fd < 0 || write(fd, "0", 1) != 1 || dup2(fds[1], STDIN_FILENO) < 0)
                        die(path);
                (void)execl(program, program, "node", messages, (char *)NULL);
                die(program);
        }
        (void)close(fds[1]);
        ret.socket = fds[0];
        return ret;
}

static uint64_t ask(const Node *node, char what)
{
        uint64_t ret;

        if (send(node->socket, &what, 1, MSG_NOSIGNAL) != 1 || recv(node->socket, &ret, sizeof(ret), 0) != (ssize_t)sizeof(ret))
                die("a node");
        return ret;
}

static void end_node(Node *node)
{
        (void)close(node->socket);
        (void)waitpid(node->pid, NULL, 0); /* the end of its socket is its own */
}

/* ---- rounds */

static QueueProbe *attach(const char *home, uint64_t id, uint64_t flow_id, QueueView *view)
{
        _cleanup_fd_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        QueueProbe *probe = NULL;
        ProbeReason reason = {};
        size_t n;
        int r = queue_probe_new(&probe, &(QueueProbeSpec){.cgroup_id = id, .n_links = 1}, &reason);

        if (!r)
                r = queue_probe_attach(probe, fd, &n, &reason);
        if (r == PROBE_E_UNAVAILABLE) {
                (void)printf("skipped: %s\n", reason.text);
                return queue_probe_free(probe);
        }
        if (!r)
                r = queue_view_open(view, queue_probe_fd(probe, QUEUE_PROBE_FD_WATCHED), queue_probe_fd(probe, QUEUE_PROBE_FD_LINKS));
        if (!r)
                r = queue_view_watch(view, flow_id, 1);
        if (r) {
                errno = r < 0 ? -r : EPROTO;
                die(home);
        }
        return probe;
}

/* False: there is no probe to be had. */
static bool measure_round(const char *home, uint64_t id, uint64_t flow_id, const Node *with, const Node *without)
{
        uint64_t bare = ask(without, 'a'), idle = ask(with, 'a'), told, untold;
        QueueView view = QUEUE_VIEW_INIT;
        QueueProbe *probe = attach(home, id, flow_id, &view);
        struct queue_count count = {};

        if (!probe)
                return false;
        told = ask(with, 'a');
        untold = ask(with, 'n');
        (void)queue_view_read(&view, flow_id, 1, &count);
        queue_view_close(&view);
        probe = queue_probe_free(probe);
        if (count.enqueued == 0 || count.enqueued != count.dequeued) {
                errno = EPROTO;
                die("messages were not counted");
        }
        (void)printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", bare, idle, told, untold, ask(with, 'a'));
        (void)fflush(stdout);
        return true;
}

static void remove_place(const char *path)
{
        for (int k = 0; rmdir(path) < 0 && errno == EBUSY && k < REMOVE_TRIES; k++)
                (void)usleep(1000);
}

int main(int argc, char **argv)
{
        char self[PATH_MAX] = "", other[PATH_MAX + 32], flow[PATH_MAX];
        struct stat home, st;
        Node with, without;
        char *slash;

        if (argc == 3 && strcmp(argv[1], "node") == 0)
                return be_node(MIN(MAX((unsigned)atoi(argv[2]) / STRETCH, 1u), STRETCHES));
        if (argc != 4 || stat(argv[1], &home) < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
                die("CGROUP ROUNDS MESSAGES");
        slash = strrchr(self, '/');
        (void)snprintf(other, sizeof(other), "%.*s/tidegate-bench-no-sites", slash ? (int)(slash - self) : 0, self);
        (void)snprintf(flow, sizeof(flow), "%s/flow", argv[1]);
        if (mkdir(flow, 0755) < 0 || stat(flow, &st) < 0)
                die(flow);
        with = start_node(self, flow, argv[3]);
        without = start_node(other, flow, argv[3]);
        for (int i = 0; i < atoi(argv[2]) && measure_round(argv[1], home.st_ino, st.st_ino, &with, &without); i++)
                ;
        end_node(&with);
        end_node(&without);
        remove_place(flow);
        return 0;
}

#endif
