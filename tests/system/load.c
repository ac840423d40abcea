/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load COMMAND ARGS...: the nodes and the clocks of test_load.py. Linked statically, so that a thousand of it cost little. What
 * measures runs at a real-time priority if it may: the wait for a CPU of its own is not the daemon's.
 *
 *   burn GATE              a node: sleeps until the file's first word is 1, then burns CPU while it is
 *   gate GATE N            set that word, and wake who waits for it
 *   hello SOCKET           a node: says (pid, now) in a packet, then sleeps
 *   chatter INTERVAL-MS    a node: prints a line each
 *   call SOCKET            one call from stdin, a JSON object; prints milliseconds until its last reply, a space, and that
 *   probe SOCKET SECONDS INTERVAL-US     calls from stdin, one a line, in turn: percentiles as JSON
 *   flood SOCKET CLIENTS SECONDS         the same, each client as fast as it is answered
 *   pingpong SECONDS INTERVAL-US         probe's anchor: a byte to another process and back
 *   restarts SOCKET N      kill whoever says hello, N times: times until the next hello
 *   spawns SOCKET N PROGRAM              restarts' anchor: by one parent that does nothing else
 *   spawn N PROGRAM ARGS...              start N at a time and wait until each has executed: milliseconds
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CALLS   64
#define MAX_SAMPLES 200000
#define FRAME_MAX   (4u << 20)
#define WAIT_MS     20000

#define CHECK(x)                                                                                                                           \
        do {                                                                                                                               \
                if (!(x)) {                                                                                                                \
                        fprintf(stderr, "load: line %d: %s: %s\n", __LINE__, #x, strerror(errno));                                         \
                        exit(1);                                                                                                           \
                }                                                                                                                          \
        } while (0)

struct hello {
        int64_t pid;
        uint64_t at_ns;
};

static uint64_t now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void sleep_until(uint64_t at)
{
        struct timespec ts = {.tv_sec = (time_t)(at / 1000000000u), .tv_nsec = (long)(at % 1000000000u)};

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
                continue;
}

static void be_prompt(void)
{
        struct sched_param param = {.sched_priority = 1};

        (void)sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param); /* refused: the figures are those of an ordinary client */
}

/* ---- figures */

static uint64_t samples[MAX_SAMPLES];
static size_t n_samples;

static void sample(uint64_t ns)
{
        if (n_samples < MAX_SAMPLES)
                samples[n_samples++] = ns;
}

static int by_size(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

static double percentile_ms(unsigned per_mille)
{
        return n_samples ? (double)samples[(n_samples - 1) * per_mille / 1000] / 1e6 : -1;
}

static void print_samples(void)
{
        qsort(samples, n_samples, sizeof(samples[0]), by_size);
        printf("{\"n\": %zu, \"p50\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}\n", n_samples, percentile_ms(500), percentile_ms(990),
                percentile_ms(999), percentile_ms(1000));
}

/* ---- nodes */

static _Atomic uint32_t *map_gate(const char *path, int protection)
{
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *map;

        CHECK(fd >= 0);
        map = mmap(NULL, 4096, protection, MAP_SHARED, fd, 0);
        CHECK(map != MAP_FAILED);
        close(fd);
        return map;
}

_Noreturn static void burn(const char *path)
{
        _Atomic uint32_t *gate = map_gate(path, PROT_READ);

        for (;;) {
                while (atomic_load(gate) == 0)
                        (void)syscall(SYS_futex, gate, FUTEX_WAIT, 0, NULL, NULL, 0);
                while (atomic_load(gate) != 0)
                        for (volatile int i = 0; i < 1000; i++)
                                continue;
        }
}

static int set_gate(const char *path, uint32_t value)
{
        _Atomic uint32_t *gate = map_gate(path, PROT_READ | PROT_WRITE);

        atomic_store(gate, value);
        (void)syscall(SYS_futex, gate, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
        return 0;
}

static int unix_socket(int type, const char *path, struct sockaddr_un *ret)
{
        int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

        CHECK(fd >= 0 && strlen(path) < sizeof(ret->sun_path));
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(ret->sun_path, path, strlen(path));
        return fd;
}

_Noreturn static void say_hello(const char *path)
{
        struct hello hello = {.pid = getpid(), .at_ns = now_ns()};
        struct sockaddr_un address;
        int fd = unix_socket(SOCK_DGRAM, path, &address);

        CHECK(sendto(fd, &hello, sizeof(hello), 0, (struct sockaddr *)&address, sizeof(address)) == sizeof(hello));
        for (;;)
                pause();
}

_Noreturn static void chatter(unsigned interval_ms)
{
        for (unsigned long i = 0;; i++) {
                printf("line %lu: a file system without room has to bear this\n", i);
                fflush(stdout);
                usleep(interval_ms * 1000);
        }
}

/* ---- clients */

static char *calls[MAX_CALLS];
static size_t n_calls;

static void read_calls(void)
{
        size_t room = 0;
        ssize_t n;

        while (n_calls < MAX_CALLS && (room = 0, calls[n_calls] = NULL, n = getline(&calls[n_calls], &room, stdin)) > 1) {
                if (calls[n_calls][n - 1] == '\n')
                        calls[n_calls][n - 1] = '\0';
                n_calls++;
        }
        CHECK(n_calls > 0);
}

static int connect_to(const char *path)
{
        struct sockaddr_un address;
        int fd = unix_socket(SOCK_STREAM, path, &address);

        CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
        return fd;
}

/* Sends one call and reads replies up to the one after which no other comes; returns that. */
static const char *call(int fd, const char *text)
{
        static char *buffer;
        static size_t have, used;
        size_t size = strlen(text) + 1;
        char *end;

        if (!buffer)
                buffer = malloc(FRAME_MAX);
        CHECK(buffer && send(fd, text, size, MSG_NOSIGNAL) == (ssize_t)size);
        memmove(buffer, buffer + used, have - used);
        have -= used;
        used = 0;
        for (;;) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                const char *frame = buffer + used;
                ssize_t n;

                end = memchr(frame, '\0', have - used);
                if (end) {
                        used = (size_t)(end + 1 - buffer);
                        if (!strstr(frame, "\"continues\":true"))
                                return frame;
                        continue;
                }
                memmove(buffer, buffer + used, have - used);
                have -= used;
                used = 0;
                CHECK(have < FRAME_MAX && poll(&p, 1, WAIT_MS) == 1);
                n = recv(fd, buffer + have, FRAME_MAX - have, 0);
                CHECK(n > 0);
                have += (size_t)n;
        }
}

static int call_once(const char *path)
{
        const char *reply;
        uint64_t begin;
        int fd;

        read_calls();
        be_prompt();
        begin = now_ns();
        fd = connect_to(path);
        reply = call(fd, calls[0]);
        printf("%.3f ", (double)(now_ns() - begin) / 1e6);
        puts(reply);
        return 0;
}

static int probe(const char *path, double seconds, unsigned interval_us)
{
        uint64_t end, at;
        int fd = connect_to(path);

        read_calls();
        be_prompt();
        at = now_ns();
        end = at + (uint64_t)(seconds * 1e9);
        for (size_t i = 0; at < end; i++) {
                const char *reply;
                uint64_t begin = now_ns();

                reply = call(fd, calls[i % n_calls]);
                sample(now_ns() - begin);
                if (strstr(reply, "\"error\":\"")) {
                        fprintf(stderr, "load: %s: %.300s\n", calls[i % n_calls], reply);
                        return 1;
                }
                at = now_ns() + interval_us * 1000ull;
                sleep_until(at);
        }
        print_samples();
        return 0;
}

static int flood_one(const char *path, uint64_t end, size_t first)
{
        int fd = connect_to(path);
        uint64_t n = 0;

        for (; now_ns() < end; n++)
                (void)call(fd, calls[(first + n) % n_calls]);
        printf("%llu\n", (unsigned long long)n);
        return 0;
}

static int flood(const char *path, unsigned n_clients, double seconds)
{
        uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
        int bad = 0;

        read_calls();
        for (unsigned i = 0; i < n_clients; i++) {
                pid_t pid = fork();

                CHECK(pid >= 0);
                if (pid == 0) {
                        int r = flood_one(path, end, i * n_calls / n_clients);

                        fflush(stdout);
                        _exit(r);
                }
        }
        for (unsigned i = 0; i < n_clients; i++) {
                int status;

                CHECK(wait(&status) > 0);
                bad |= status;
        }
        return bad ? 1 : 0;
}

/* Both at the same priority, so that what is measured is the kernel's way there and back on this machine, now. */
static int pingpong(double seconds, unsigned interval_us)
{
        struct sched_param param = {.sched_priority = 1};
        uint64_t at = now_ns(), end = at + (uint64_t)(seconds * 1e9);
        int pair[2];
        pid_t pid;
        char c = 0;

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        (void)sched_setscheduler(0, SCHED_RR, &param);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                close(pair[0]);
                while (recv(pair[1], &c, 1, 0) == 1)
                        (void)!send(pair[1], &c, 1, MSG_NOSIGNAL);
                _exit(0);
        }
        close(pair[1]);
        while (at < end) {
                uint64_t begin = now_ns();

                CHECK(send(pair[0], &c, 1, MSG_NOSIGNAL) == 1 && recv(pair[0], &c, 1, 0) == 1);
                sample(now_ns() - begin);
                at = now_ns() + interval_us * 1000ull;
                sleep_until(at);
        }
        close(pair[0]);
        CHECK(waitpid(pid, NULL, 0) == pid);
        print_samples();
        return 0;
}

/* ---- lives */

static struct hello hear_hello(int fd)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        struct hello hello;

        CHECK(poll(&p, 1, WAIT_MS) == 1 && recv(fd, &hello, sizeof(hello), 0) == sizeof(hello));
        return hello;
}

static int hello_socket(const char *path)
{
        struct sockaddr_un address;
        int fd = unix_socket(SOCK_DGRAM, path, &address);

        (void)unlink(path);
        CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
        return fd;
}

/* The socket is made before the node is started, which is what the caller does at our "ready". */
static int restarts(const char *path, unsigned n)
{
        int fd = hello_socket(path);
        struct hello last;

        puts("ready");
        fflush(stdout);
        last = hear_hello(fd);
        be_prompt();
        for (unsigned i = 0; i < n; i++) {
                int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)last.pid, 0);
                uint64_t begin;

                CHECK(pidfd >= 0);
                sleep_until(now_ns() + 30000000u); /* its start is over for everybody */
                begin = now_ns();
                CHECK(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0);
                last = hear_hello(fd);
                sample(last.at_ns - begin);
                close(pidfd);
        }
        print_samples();
        return 0;
}

/* Returns once it has executed, as a spawn of the daemon's does. */
static pid_t spawn_raw(char *const argv[])
{
        pid_t pid = vfork();

        CHECK(pid >= 0);
        if (pid == 0) {
                execv(argv[0], argv);
                _exit(127);
        }
        return pid;
}

static int spawns(const char *path, unsigned n, char *program)
{
        char name[] = "hello";
        char *argv[] = {program, name, (char *)(uintptr_t)path, NULL};
        int fd = hello_socket(path);
        pid_t pid;

        be_prompt();
        pid = spawn_raw(argv);
        (void)hear_hello(fd);
        for (unsigned i = 0; i <= n; i++) {
                uint64_t begin = now_ns();

                CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
                if (i == n)
                        break;
                pid = spawn_raw(argv);
                sample(hear_hello(fd).at_ns - begin);
        }
        print_samples();
        return 0;
}

static int spawn_many(unsigned n, char *const argv[])
{
        pid_t *pids = calloc(n, sizeof(*pids));
        uint64_t begin;

        CHECK(pids);
        be_prompt();
        begin = now_ns();
        for (unsigned i = 0; i < n; i++)
                pids[i] = spawn_raw(argv);
        printf("%.3f\n", (double)(now_ns() - begin) / 1e6);
        for (unsigned i = 0; i < n; i++)
                CHECK(kill(pids[i], SIGKILL) == 0 && waitpid(pids[i], NULL, 0) == pids[i]);
        free(pids);
        return 0;
}

static int usage(void)
{
        fputs("load: see the top of load.c\n", stderr);
        return 2;
}

int main(int argc, char **argv)
{
        const char *what = argc > 1 ? argv[1] : "";
        char **a = argv + 2;

        if (argc == 3 && strcmp(what, "burn") == 0)
                burn(a[0]);
        if (argc == 4 && strcmp(what, "gate") == 0)
                return set_gate(a[0], (uint32_t)atoi(a[1]));
        if (argc == 3 && strcmp(what, "hello") == 0)
                say_hello(a[0]);
        if (argc == 3 && strcmp(what, "chatter") == 0)
                chatter((unsigned)atoi(a[0]));
        if (argc == 3 && strcmp(what, "call") == 0)
                return call_once(a[0]);
        if (argc == 5 && strcmp(what, "probe") == 0)
                return probe(a[0], atof(a[1]), (unsigned)atoi(a[2]));
        if (argc == 5 && strcmp(what, "flood") == 0)
                return flood(a[0], (unsigned)atoi(a[1]), atof(a[2]));
        if (argc == 4 && strcmp(what, "pingpong") == 0)
                return pingpong(atof(a[0]), (unsigned)atoi(a[1]));
        if (argc == 4 && strcmp(what, "restarts") == 0)
                return restarts(a[0], (unsigned)atoi(a[1]));
        if (argc == 5 && strcmp(what, "spawns") == 0)
                return spawns(a[0], (unsigned)atoi(a[1]), a[2]);
        if (argc >= 4 && strcmp(what, "spawn") == 0)
                return spawn_many((unsigned)atoi(a[0]), a + 1);
        return usage();
}
