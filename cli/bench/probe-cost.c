/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For `tidegate bench probe`: tidegate-bench-probe CGROUP ROUNDS CALLS
 *
 * One line a round, picoseconds a getppid(2): with nothing attached; attached, of a process that is in no node; of a node that is not
 * watched; of one that is; of two threads, with nothing attached, and watched (0 0 with one CPU); and detached again. Each is the median over
 * stretches of the CALLS, in CPU time. Or "skipped: why".
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "bpf/call-view.h"
#include "bpf/probe.h"

#define STRETCH      500u
#define STRETCHES    1000u
#define REMOVE_TRIES 1000

static const char *const places[] = {"f", "f/watched.1", "f/neighbour.1"};

static unsigned n_stretches;
static int cpus[2];

static _Noreturn void die(const char *what)
{
        (void)fprintf(stderr, "tidegate-bench-probe: %s: %s\n", what, strerror(errno));
        exit(1);
}

/* ---- the work */

static int compare(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

/* Picoseconds a call. */
static uint64_t measure(void)
{
        uint64_t took[STRETCHES];

        for (unsigned i = 0; i < n_stretches; i++) {
                nsec_t begin = clock_cpu();

                for (unsigned k = 0; k < STRETCH; k++)
                        (void)syscall(SYS_getppid);
                took[i] = clock_cpu() - begin;
        }
        qsort(took, n_stretches, sizeof(*took), compare);
        return took[n_stretches / 2] * 1000 / STRETCH;
}

static void stay_on(int cpu)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        (void)sched_setaffinity(0, sizeof(set), &set);
}

typedef struct Two {
        pthread_barrier_t begin;
        uint64_t ps[2];
} Two;

static void *measure_other(void *arg)
{
        Two *two = arg;

        stay_on(cpus[1]);
        (void)pthread_barrier_wait(&two->begin);
        two->ps[1] = measure();
        return NULL;
}

/* The slower of two at once. */
static uint64_t measure_two(void)
{
        pthread_t thread;
        Two two = {};

        if (pthread_barrier_init(&two.begin, NULL, 2) != 0 || pthread_create(&thread, NULL, measure_other, &two) != 0)
                die("thread");
        (void)pthread_barrier_wait(&two.begin);
        two.ps[0] = measure();
        (void)pthread_join(thread, NULL);
        return MAX(two.ps[0], two.ps[1]);
}

/* ---- nodes: they measure when they are told to */

typedef struct Node {
        pid_t pid;
        int socket;
} Node;

static _Noreturn void be_node(int socket)
{
        char what;

        while (recv(socket, &what, 1, 0) == 1) {
                uint64_t ps = what == '2' ? measure_two() : measure();

                (void)send(socket, &ps, sizeof(ps), MSG_NOSIGNAL);
        }
        _exit(0);
}

/* @directory: of its cgroup; NULL: ours. */
static Node start_node(const char *directory)
{
        int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, fds[2];
        struct clone_args args = {.flags = directory ? CLONE_INTO_CGROUP : 0, .exit_signal = SIGCHLD, .cgroup = directory ? (uint64_t)fd : 0};
        Node ret;

        if ((directory && fd < 0) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                die(directory ? directory : "socket");
        ret.pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        if (ret.pid < 0)
                die("clone3");
        if (ret.pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)close(fds[0]);
                be_node(fds[1]);
        }
        (void)fd_close(fd);
        (void)close(fds[1]);
        ret.socket = fds[0];
        return ret;
}

static uint64_t ask(const Node *node, char what)
{
        uint64_t ret;

        if (send(node->socket, &what, 1, 0) != 1 || recv(node->socket, &ret, sizeof(ret), 0) != (ssize_t)sizeof(ret))
                die("a node");
        return ret;
}

static void end_node(Node *node)
{
        (void)close(node->socket);
        (void)kill(node->pid, SIGKILL); /* our own child, not reaped */
        (void)waitpid(node->pid, NULL, 0);
}

/* ---- rounds */

typedef struct Nodes {
        Node outside, neighbour, watched;
} Nodes;

static void measure_round(const char *home, const Nodes *nodes, uint64_t id, uint64_t watched_id)
{
        uint64_t alone = ask(&nodes->outside, '1'), two_alone = cpus[0] == cpus[1] ? 0 : ask(&nodes->watched, '2'), other, of_neighbour, of_watched, two_watched;
        CallProbe *probe = NULL;
        CallView view = CALL_VIEW_INIT;
        ProbeReason reason = {};
        int r = call_probe_new(&probe, &(CallProbeSpec){.cgroup_id = id, .n_slots = 1}, &reason);

        if (r == PROBE_E_UNAVAILABLE) {
                (void)printf("skipped: %s\n", reason.text);
                return;
        }
        if (!r)
                r = call_view_open(&view, call_probe_fd(probe, CALL_PROBE_FD_WATCHED), call_probe_fd(probe, CALL_PROBE_FD_SLOTS));
        if (!r)
                r = call_view_watch(&view, 0, watched_id);
        if (r) {
                errno = r < 0 ? -r : EPROTO;
                die(home);
        }
        of_watched = ask(&nodes->watched, '1');
        other = ask(&nodes->outside, '1');
        of_neighbour = ask(&nodes->neighbour, '1');
        two_watched = cpus[0] == cpus[1] ? 0 : ask(&nodes->watched, '2');
        call_view_close(&view);
        probe = call_probe_free(probe);
        (void)printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", alone, other, of_neighbour, of_watched,
                two_alone, two_watched, ask(&nodes->outside, '1'));
        (void)fflush(stdout);
}

static uint64_t make_place(const char *home, const char *name, char *ret, size_t size)
{
        struct stat st;

        (void)snprintf(ret, size, "%s/%s", home, name);
        if (mkdir(ret, 0755) < 0 || stat(ret, &st) < 0)
                die(ret);
        return st.st_ino;
}

static void remove_places(const char *home)
{
        char path[PATH_MAX];

        for (size_t i = ELEMENTSOF(places); i-- > 0;) {
                (void)snprintf(path, sizeof(path), "%s/%s", home, places[i]);
                for (int k = 0; rmdir(path) < 0 && errno == EBUSY && k < REMOVE_TRIES; k++)
                        (void)usleep(1000);
        }
}

static void find_cpus(void)
{
        cpu_set_t set;

        CPU_ZERO(&set);
        (void)sched_getaffinity(0, sizeof(set), &set);
        cpus[0] = -1;
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
                if (CPU_ISSET(cpu, &set)) {
                        cpus[1] = cpu;
                        if (cpus[0] < 0)
                                cpus[0] = cpu;
                }
        cpus[0] = MAX(cpus[0], 0);
}

int main(int argc, char **argv)
{
        char path[PATH_MAX];
        struct stat st;
        Nodes nodes;
        uint64_t id;

        if (argc != 4 || stat(argv[1], &st) < 0)
                die("CGROUP ROUNDS CALLS");
        n_stretches = MIN(MAX((unsigned)atoi(argv[3]) / STRETCH, 1u), STRETCHES);
        find_cpus();
        stay_on(cpus[0]);
        nodes.outside = start_node(NULL);
        (void)make_place(argv[1], places[0], path, sizeof(path));
        (void)make_place(argv[1], places[2], path, sizeof(path));
        nodes.neighbour = start_node(path);
        id = make_place(argv[1], places[1], path, sizeof(path));
        nodes.watched = start_node(path);
        for (int i = 0; i < atoi(argv[2]); i++)
                measure_round(argv[1], &nodes, st.st_ino, id);
        end_node(&nodes.outside);
        end_node(&nodes.neighbour);
        end_node(&nodes.watched);
        remove_places(argv[1]);
        return 0;
}
