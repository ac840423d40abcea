/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_raw CGROUP: the reference of `scripts/bench-stop`: what clone3() into a cgroup and cgroup.kill take by themselves, without
 * graces, journals, logs or anybody to ask. Orders come as lines, each is answered by one when it is done:
 *
 *   start NAME N PROGRAM ARGS...     one cgroup, and in it N programs, each by vfork-style clone3(); each is begun again when it ends
 *   term NAME                        SIGTERM to each of them by pidfd, until the cgroup is empty; then rmdir
 *   kill NAME                        cgroup.kill, a pidfd for whom that leaves, until it is empty; then rmdir
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PROGRAMS 1024
#define MAX_ARGS     8
#define WAIT_MS      20000

struct program {
        int pidfd; /* -1: none */
};

static struct program programs[MAX_PROGRAMS];
static int n_programs;
static int top_fd, cgroup_fd = -1, events_fd = -1;
static char *args[MAX_ARGS + 1];

static _Noreturn void fail(const char *what)
{
        fprintf(stderr, "bench_raw: %s: %s\n", what, strerror(errno));
        exit(1);
}

static int64_t now_ms(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The child shares our memory and stack until it executes, and we sleep: fork-style clone3() copies page tables. */
static int spawn(void)
{
        struct clone_args a = {
                .flags = CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP | CLONE_PIDFD,
                .exit_signal = SIGCHLD,
                .cgroup = (uint64_t)cgroup_fd,
        };
        static char stack[65536] __attribute__((aligned(16)));
        int pidfd = -1;
        long r;

        a.pidfd = (uint64_t)(uintptr_t)&pidfd;
        a.stack = (uint64_t)(uintptr_t)stack;
        a.stack_size = sizeof(stack);
#if defined(__x86_64__)
        /* A stack of its own, and not one return in the child: only system calls. */
        {
                register char **argv __asm__("r12") = args;
                register char **env __asm__("r13") = environ;

                __asm__ volatile("syscall\n\t"
                                 "test %%rax, %%rax\n\t"
                                 "jnz 1f\n\t"
                                 "mov (%%r12), %%rdi\n\t"
                                 "mov %%r12, %%rsi\n\t"
                                 "mov %%r13, %%rdx\n\t"
                                 "mov %[exec], %%eax\n\t"
                                 "syscall\n\t"
                                 "mov $127, %%edi\n\t"
                                 "mov %[leave], %%eax\n\t"
                                 "syscall\n"
                                 "1:"
                                 : "=a"(r)
                                 : "a"((long)SYS_clone3), "D"(&a), "S"(sizeof(a)), "r"(argv), "r"(env), [exec] "i"(SYS_execve),
                                 [leave] "i"(SYS_exit)
                                 : "rcx", "r11", "rdx", "memory");
        }
        if (r < 0)
                errno = (int)-r;
#else
        a.flags &= ~(uint64_t)(CLONE_VM | CLONE_VFORK);
        a.stack = a.stack_size = 0;
        r = syscall(SYS_clone3, &a, sizeof(a));
        if (r == 0) {
                execv(args[0], args);
                _exit(127);
        }
#endif
        if (r < 0)
                fail("clone3");
        return pidfd;
}

static bool populated(void)
{
        char text[256];
        ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);

        if (n < 0)
                fail("cgroup.events");
        text[n] = 0;
        return strstr(text, "populated 1") != NULL;
}

static void reap(void)
{
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

static void write_file(int dir, const char *name, const char *text)
{
        int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                fail(name);
        close(fd);
}

/* cgroup.kill passes by a process whose leader has exited. */
static void sweep(void)
{
        int fd = openat(cgroup_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
        int pid;

        if (!f)
                fail("cgroup.procs");
        while (fscanf(f, "%d", &pid) == 1) {
                int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

                if (pidfd >= 0) {
                        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0); /* ESRCH: gone meanwhile */
                        close(pidfd);
                }
        }
        fclose(f);
}

/* Until nobody is left. The notifications of cgroup.events are at most one in 10 ms: each exit that we see is a reason to look, too. */
static void stop(const char *name, bool ask)
{
        struct pollfd waits[MAX_PROGRAMS + 1];
        int64_t until = now_ms() + WAIT_MS;

        if (ask) {
                for (int i = 0; i < n_programs; i++)
                        (void)syscall(SYS_pidfd_send_signal, programs[i].pidfd, SIGTERM, NULL, 0); /* ESRCH: gone meanwhile */
        } else {
                write_file(cgroup_fd, "cgroup.kill", "1");
        }
        for (int i = 0; i < n_programs; i++)
                waits[i + 1] = (struct pollfd){.fd = programs[i].pidfd, .events = POLLIN};
        for (int64_t swept = now_ms(); populated();) {
                waits[0] = (struct pollfd){.fd = events_fd, .events = POLLPRI};
                if (poll(waits, (nfds_t)n_programs + 1, 2) < 0 && errno != EINTR)
                        fail("poll");
                for (int i = 1; i <= n_programs; i++)
                        if (waits[i].revents)
                                waits[i].fd = -1;
                if (!ask && now_ms() - swept >= 1) {
                        sweep();
                        swept = now_ms();
                }
                if (now_ms() > until) {
                        errno = ETIMEDOUT;
                        fail(name);
                }
        }
        for (int i = 0; i < n_programs; i++)
                close(programs[i].pidfd);
        n_programs = 0;
        reap();
        close(events_fd);
        close(cgroup_fd);
        events_fd = cgroup_fd = -1;
        while (unlinkat(top_fd, name, AT_REMOVEDIR) < 0) /* EBUSY may outlive the last process by a moment */
                if (errno != EBUSY || now_ms() > until)
                        fail(name);
}

static void start(char *name, int n)
{
        if (n < 1 || n > MAX_PROGRAMS || n_programs > 0) {
                errno = EINVAL;
                fail("start");
        }
        if (mkdirat(top_fd, name, 0755) < 0)
                fail(name);
        cgroup_fd = openat(top_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        events_fd = cgroup_fd < 0 ? -1 : openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
        if (events_fd < 0)
                fail(name);
        while (n_programs < n)
                programs[n_programs++].pidfd = spawn();
}

static void order(char *line)
{
        static char kept[4096];
        char *words[MAX_ARGS + 4], *save = NULL;
        int n = 0;

        snprintf(kept, sizeof(kept), "%s", line);
        for (char *w = strtok_r(kept, " \n", &save); w && n < MAX_ARGS + 3; w = strtok_r(NULL, " \n", &save))
                words[n++] = w;
        if (n >= 4 && strcmp(words[0], "start") == 0) {
                int k = 0;

                for (int i = 3; i < n; i++)
                        args[k++] = words[i];
                args[k] = NULL;
                start(words[1], atoi(words[2]));
        } else if (n == 2 && (strcmp(words[0], "term") == 0 || strcmp(words[0], "kill") == 0)) {
                stop(words[1], words[0][0] == 't');
        } else {
                errno = EINVAL;
                fail(line);
        }
        puts("done");
        fflush(stdout);
}

int main(int argc, char **argv)
{
        struct pollfd waits[MAX_PROGRAMS + 1];
        char line[4096];

        top_fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (top_fd < 0) {
                fprintf(stderr, "usage: bench_raw CGROUP\n");
                return 2;
        }
        setvbuf(stdin, NULL, _IONBF, 0); /* what poll() says must be all there is */
        for (;;) {
                waits[0] = (struct pollfd){.fd = 0, .events = POLLIN};
                for (int i = 0; i < n_programs; i++)
                        waits[i + 1] = (struct pollfd){.fd = programs[i].pidfd, .events = POLLIN};
                if (poll(waits, (nfds_t)n_programs + 1, -1) < 0 && errno != EINTR)
                        fail("poll");
                for (int i = 0; i < n_programs; i++)
                        if (waits[i + 1].revents) {
                                close(programs[i].pidfd);
                                programs[i].pidfd = spawn();
                        }
                reap();
                if (waits[0].revents) {
                        if (!fgets(line, sizeof(line), stdin))
                                return 0;
                        order(line);
                }
        }
}
