/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_subject MODE FIFO [N]: what `scripts/bench-stop` has supervisors start and stop. Static and small, so that it costs little.
 *
 *   coop FIFO        ends at SIGTERM, by a handler: it may be the first process of a PID namespace, which has no default actions
 *   deaf FIFO        ignores SIGTERM, as all below do
 *   tree FIFO N      N processes: a quarter in sessions of their own, a quarter double-forked
 *   headless FIFO    its thread-group leader has exited, another thread lives
 *   bomb FIFO N      forks for as long as fewer than about N live, whoever is killed meanwhile
 *
 * All of them hold the writing end of the FIFO, which nobody can take from them: who has it in /proc is a subject, and its hang-up
 * says that none is left. A record (struct record) goes there when a program begins and when it is as it shall be.
 * Each process ends by itself after LIFE_S seconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIFE_S    180
#define BOMB_MAX  1000
#define BOMB_LOOK 4   /* slots that a process of the bomb tries in a turn, of so many ms: longer while there is no room, so that */
#define BOMB_MIN  2   /* it does not take all of the processor from those that shall end it, as it would in an emulated machine */
#define BOMB_LONG 128

enum { RECORD_STARTED = 1, RECORD_READY = 2 };

struct record { /* also read by tests/bench/mark.py */
        int32_t pid;
        uint32_t what;
        uint64_t at_ns; /* CLOCK_MONOTONIC */
};

static int fifo = -1;

static void say(uint32_t what)
{
        struct record r = {.pid = getpid(), .what = what};
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        r.at_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
        if (write(fifo, &r, sizeof(r)) != sizeof(r))
                _exit(3); /* nobody measures any more */
}

static void end(int sig)
{
        _exit(sig == SIGTERM ? 0 : 4);
}

/* After every fork(), which takes the alarm away. */
static void limit_life(void)
{
        signal(SIGALRM, end);
        alarm(LIFE_S);
}

static _Noreturn void live(void)
{
        limit_life();
        for (;;)
                pause();
}

static void be_deaf(void)
{
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        signal(SIGQUIT, SIG_IGN);
}

static void tree(int n)
{
        int up[2];
        char c;

        if (pipe(up) < 0)
                exit(2);
        for (int i = 1; i < n; i++) {
                pid_t pid = fork();

                if (pid < 0)
                        exit(2);
                if (pid > 0) {
                        if (i % 4 == 1 && waitpid(pid, NULL, 0) != pid)
                                exit(2);
                        continue;
                }
                if (i % 4 == 0)
                        setsid();
                if (i % 4 == 1 && fork() != 0)
                        _exit(0); /* the grandchild is nobody's then */
                if (write(up[1], "u", 1) != 1)
                        _exit(2);
                live();
        }
        for (int i = 1; i < n; i++)
                if (read(up[0], &c, 1) != 1)
                        exit(2);
}

static void *headless(void *arg)
{
        char path[64], stat[256], *at;

        snprintf(path, sizeof(path), "/proc/%d/stat", getpid());
        for (;;) { /* until the kernel says of the leader that it is gone */
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = fd < 0 ? -1 : read(fd, stat, sizeof(stat) - 1);

                if (n <= 0)
                        _exit(2);
                close(fd);
                stat[n] = 0;
                at = strrchr(stat, ')');
                if (at && at[1] == ' ' && at[2] == 'Z')
                        break;
                usleep(1000);
        }
        say(RECORD_READY);
        live();
        return arg;
}

/* The bomb's table: a slot is free if it is 0 or names somebody who is gone. Shared by all, who may be killed at any instruction. */
struct bomb {
        _Atomic int32_t said;
        _Atomic int32_t slot[BOMB_MAX];
};

static bool gone(int32_t pid)
{
        return pid == 0 || (kill(pid, 0) < 0 && errno == ESRCH);
}

static _Noreturn void bomb(struct bomb *b, int n, int mine)
{
        unsigned seed, pause_ms;
        time_t until;

again: /* as a new process */
        seed = (unsigned)getpid() * 2654435761u;
        until = time(NULL) + LIFE_S;
        pause_ms = BOMB_MIN;
        limit_life();
        if (getpid() % 4 == 0)
                setsid();
        for (;;) {
                int full = 0;

                for (int i = 0; i < BOMB_LOOK; i++) {
                        int at = rand_r(&seed) % n;
                        int32_t holder = atomic_load(&b->slot[at]);
                        pid_t pid;

                        if (at == mine || !gone(holder)) {
                                full++;
                                continue;
                        }
                        if (!atomic_compare_exchange_strong(&b->slot[at], &holder, getpid()))
                                continue;
                        pid = fork();
                        if (pid == 0) {
                                atomic_store(&b->slot[at], getpid());
                                mine = at;
                                goto again;
                        }
                        if (pid < 0)
                                atomic_store(&b->slot[at], 0);
                }
                if (full == BOMB_LOOK && !atomic_load(&b->said)) {
                        int live = 0, zero = 0;

                        for (int i = 0; i < n; i++)
                                live += !gone(atomic_load(&b->slot[i]));
                        if (live >= n && atomic_compare_exchange_strong(&b->said, &zero, 1))
                                say(RECORD_READY);
                }
                if (time(NULL) > until)
                        _exit(4);
                pause_ms = full < BOMB_LOOK ? BOMB_MIN : pause_ms < BOMB_LONG ? pause_ms * 2 : BOMB_LONG;
                usleep(pause_ms * 1000);
        }
}

int main(int argc, char **argv)
{
        const char *mode = argc > 1 ? argv[1] : "";
        int n = argc > 3 ? atoi(argv[3]) : 1;

        if (argc < 3 || n < 1 || n > BOMB_MAX) {
                fprintf(stderr, "usage: bench_subject coop|deaf|tree|headless|bomb FIFO [N]\n");
                return 2;
        }
        fifo = open(argv[2], O_WRONLY | O_NONBLOCK);
        if (fifo < 0) {
                perror(argv[2]);
                return 2;
        }
        limit_life();
        if (strcmp(mode, "coop") == 0)
                signal(SIGTERM, end);
        else
                be_deaf();
        say(RECORD_STARTED);
        if (strcmp(mode, "coop") == 0 || strcmp(mode, "deaf") == 0) {
                say(RECORD_READY);
                live();
        } else if (strcmp(mode, "tree") == 0) {
                tree(n);
                say(RECORD_READY);
                live();
        } else if (strcmp(mode, "headless") == 0) {
                pthread_t t;

                if (pthread_create(&t, NULL, headless, NULL) != 0)
                        return 2;
                syscall(SYS_exit, 0); /* this thread only */
        } else if (strcmp(mode, "bomb") == 0) {
                struct bomb *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

                if (b == MAP_FAILED)
                        return 2;
                signal(SIGCHLD, SIG_IGN); /* dead children are not kept: a slot is free at once */
                atomic_store(&b->slot[0], getpid());
                bomb(b, n, 0);
        }
        return 2;
}
