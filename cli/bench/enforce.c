/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For `tidegate bench` spawn and stop:
 *
 * enforce kill CGROUP N ROUNDS - a tree of N is killed, in turn by one write and a poll in C, and by sweep_kill(), which the kill rung is
 * enforce spawn CGROUP STAMP ROUNDS - a program is started into a cgroup, in turn by clone3() alone and by spawn_run(), which keepers do
 * One line a pair: "RAW OURS", nanoseconds: from before the write to `populated 0` seen; from before the call to the first instruction of STAMP.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "supervisor/cgroup.h"
#include "supervisor/spawn.h"
#include "supervisor/sweep.h"

static int n_cgroups;

static void die(const char *what)
{
        (void)fprintf(stderr, "enforce: %s: %s\n", what, strerror(errno));
        exit(1);
}

/* A fresh one each time: nobody is to be cloned into one that was killed. */
static int make_cgroup(int home_fd, char *name, size_t size)
{
        int fd = -1;

        (void)snprintf(name, size, "b%d", n_cgroups++);
        if (mkdirat(home_fd, name, 0755) < 0 || (fd = openat(home_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
                die(name);
        return fd;
}

static void remove_cgroup(int home_fd, const char *name)
{
        while (waitpid(-1, NULL, 0) > 0)
                ;
        for (int i = 0; unlinkat(home_fd, name, AT_REMOVEDIR) < 0; i++) {
                if (errno != EBUSY || i == 1000)
                        die(name);
                (void)usleep(1000);
        }
}

static void plant(int cgroup_fd, int n)
{
        struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup_fd};

        for (int i = 0; i < n; i++) {
                long pid = syscall(SYS_clone3, &args, sizeof(args));

                if (pid < 0)
                        die("clone3");
                while (pid == 0)
                        pause();
        }
}

static nsec_t kill_raw(int cgroup_fd)
{
        _cleanup_fd_ int events_fd = openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC), kill_fd = -1;
        struct pollfd p = {.fd = events_fd, .events = POLLPRI};
        nsec_t begin = clock_now();
        char text[256];
        ssize_t n;

        kill_fd = openat(cgroup_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
        if (kill_fd < 0 || write(kill_fd, "1", 1) != 1)
                die("cgroup.kill");
        for (;;) {
                n = pread(events_fd, text, sizeof(text) - 1, 0);
                text[n > 0 ? n : 0] = 0;
                if (strstr(text, "populated 0"))
                        return clock_now() - begin;
                (void)poll(&p, 1, 1000);
        }
}

static nsec_t kill_ours(int cgroup_fd)
{
        SweepResult result;

        if (sweep_kill(cgroup_fd, clock_now() + 30 * NSEC_PER_SEC, &result) != 0)
                die("sweep_kill");
        return clock_now() - result.killed_at;
}

static void bench_kill(int home_fd, int n, int rounds)
{
        for (int i = 0; i < rounds; i++) {
                nsec_t took[2];

                for (int k = 0; k < 2; k++) {
                        int ours = (i + k) % 2;
                        char name[32];
                        _cleanup_fd_ int fd = make_cgroup(home_fd, name, sizeof(name));

                        plant(fd, n);
                        (void)usleep(15000); /* the kernel tells of a change of cgroup.events at most every 10 ms */
                        took[ours] = ours ? kill_ours(fd) : kill_raw(fd);
                        remove_cgroup(home_fd, name);
                }
                (void)printf("%" PRIu64 " %" PRIu64 "\n", took[0], took[1]);
        }
}

/* ---- spawn */

typedef struct Start {
        const char *program;
        int out_fd;
} Start;

static int child_raw(void *arg)
{
        const Start *s = arg;
        char *argv[] = {(char *)s->program, NULL}, *env[] = {NULL};

        (void)dup2(s->out_fd, STDOUT_FILENO);
        (void)execve(s->program, argv, env);
        _exit(127);
}

/* clone3() on the same stack is vfork(): glibc's own cannot place a child in a cgroup, so it is written into the struct. */
static __attribute__((noinline)) long vfork_into(int cgroup_fd, int *pidfd, Start *start)
{
        struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP,
                .exit_signal = SIGCHLD,
                .pidfd = (uint64_t)(uintptr_t)pidfd,
                .cgroup = (uint64_t)cgroup_fd};
        static char stack[65536] __attribute__((aligned(16)));
        register void *fn __asm__("r8") = (void *)child_raw;
        register void *arg __asm__("r9") = start;
        long r;

        args.stack = (uint64_t)(uintptr_t)stack;
        args.stack_size = sizeof(stack);
        __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r9, %%rdi\n\tcall *%%r8\n\tud2\n1:"
                : "=a"(r)
                : "a"((long)SYS_clone3), "D"(&args), "S"(sizeof(args)), "r"(fn), "r"(arg)
                : "rcx", "r11", "memory", "cc");
        return r;
}

static nsec_t first_instruction(int fd)
{
        nsec_t at = 0;

        if (read(fd, &at, sizeof(at)) != sizeof(at))
                die("the program said nothing");
        return at;
}

static nsec_t spawn_raw(int cgroup_fd, Start *start, int in_fd)
{
        nsec_t begin = clock_now();
        int pidfd = -1;

        if (vfork_into(cgroup_fd, &pidfd, start) < 0)
                die("clone3");
        (void)close(pidfd);
        return first_instruction(in_fd) - begin;
}

static nsec_t spawn_ours(int cgroup_fd, const Start *start, int in_fd)
{
        static SpawnOutcome outcome;
        char *argv[] = {(char *)start->program, NULL}, *env[] = {NULL}, record[512];
        KeeperSpec spec = {.argv = argv, .env = env, .cwd = "/", .umask = 022, .nofile_soft = 1024, .nofile_hard = 4096};
        static uint64_t default_signals;
        int guard[2];
        nsec_t begin, at;

        if (!default_signals)
                default_signals = spawn_default_signals(); /* as a keeper, once */
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, guard) < 0)
                die("socketpair");
        {
                SpawnPlan plan = {.spec = &spec, .cgroup_fd = cgroup_fd, .guard_fd = guard[0], .stdout_fd = start->out_fd,
                        .stderr_fd = start->out_fd, .socket_fd = -1, .mnt_fd = -1, .generation = 1, .uid = getuid(), .gid = getgid(),
                        .default_signals = default_signals};

                spawn_outcome_init(&outcome);
                begin = clock_now();
                if (spawn_run(&plan, &outcome) != 0)
                        die("spawn_run");
                at = first_instruction(in_fd);
        }
        (void)close(outcome.pidfd);
        (void)read(guard[1], record, sizeof(record)); /* the child's own pidfd goes with it: never received */
        (void)close(guard[0]);
        (void)close(guard[1]);
        return at - begin;
}

static void bench_spawn(int home_fd, const char *program, int rounds)
{
        char name[32];
        _cleanup_fd_ int fd = make_cgroup(home_fd, name, sizeof(name));
        Start start = {.program = program};
        int pipe_fds[2];

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                die("pipe");
        start.out_fd = pipe_fds[1];
        for (int i = 0; i < rounds; i++) {
                nsec_t took[2];

                for (int k = 0; k < 2; k++) {
                        int ours = (i + k) % 2;

                        took[ours] = ours ? spawn_ours(fd, &start, pipe_fds[0]) : spawn_raw(fd, &start, pipe_fds[0]);
                        while (waitpid(-1, NULL, 0) > 0)
                                ;
                }
                (void)printf("%" PRIu64 " %" PRIu64 "\n", took[0], took[1]);
        }
        remove_cgroup(home_fd, name);
}

int main(int argc, char **argv)
{
        _cleanup_fd_ int home_fd = argc == 5 ? open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

        if (home_fd < 0) {
                (void)fputs("usage: enforce kill CGROUP N ROUNDS | enforce spawn CGROUP STAMP ROUNDS\n", stderr);
                return 2;
        }
        if (strcmp(argv[1], "kill") == 0)
                bench_kill(home_fd, atoi(argv[3]), atoi(argv[4]));
        else
                bench_spawn(home_fd, argv[3], atoi(argv[4]));
        return 0;
}
