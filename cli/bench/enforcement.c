/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enforcement: what a keeper adds to the kernel's own time to start a program into a cgroup, and to end a tree of
 * processes. Measured by tidegate-bench-enforce, which has both sides in it, in a cgroup of ours; without one that we
 * may write there is nothing to measure.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/bench/bench.h"
#include "cli/bench/stats.h"
#include "cli/probes.h"

#define PROGRAM_SPAN (120 * NSEC_PER_SEC)
#define HOME_SPAN    (10 * NSEC_PER_SEC)
#define MAX_PAIRS    1024u

#define NOT_BUILT "this build has no program for it: it needs x86-64"

typedef struct Pairs {
        double raw[MAX_PAIRS], ours[MAX_PAIRS], ratio[MAX_PAIRS];
        size_t n;
} Pairs;

static _Noreturn void measure(char *const *argv, int out_fd)
{
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(out_fd, STDOUT_FILENO);
        (void)execv(argv[0], argv);
        _exit(127);
}

static void take_pair(void *userdata, const char *line)
{
        Pairs *pairs = userdata;
        unsigned long long raw, ours;

        if (pairs->n == MAX_PAIRS || sscanf(line, "%llu %llu", &raw, &ours) != 2 || raw == 0)
                return;
        pairs->raw[pairs->n] = (double)raw;
        pairs->ours[pairs->n] = (double)ours;
        pairs->ratio[pairs->n++] = (double)ours / (double)raw;
}

/* Until its end, or the deadline: then it is killed. */
static int read_lines(int fd, BenchTakeLine *take, void *userdata, nsec_t deadline)
{
        char text[4096];
        size_t size = 0;

        for (;;) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                char *line = text, *end;
                ssize_t n;

                if (poll(&p, 1, nsec_poll_ms(deadline, clock_now())) == 0)
                        return -ETIMEDOUT;
                n = read(fd, text + size, sizeof(text) - 1 - size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : 0;
                size += (size_t)n;
                text[size] = '\0';
                for (; (end = strchr(line, '\n')); line = end + 1) {
                        *end = '\0';
                        take(userdata, line);
                }
                size -= (size_t)(line - text);
                memmove(text, line, size);
                if (size == sizeof(text) - 1)
                        return -EPROTO;
        }
}

int bench_run_program(char *const *argv, BenchTakeLine *take, void *userdata)
{
        int pipe_fds[2], r, status = 0;
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        (void)fflush(NULL);
        pid = fork();
        if (pid == 0)
                measure(argv, pipe_fds[1]);
        (void)fd_close(pipe_fds[1]);
        r = pid < 0 ? -errno : read_lines(pipe_fds[0], take, userdata, nsec_add(clock_now(), PROGRAM_SPAN));
        (void)fd_close(pipe_fds[0]);
        if (pid < 0)
                return r;
        if (r)
                (void)kill(pid, SIGKILL); /* our own child, not reaped */
        if (waitpid(pid, &status, 0) != pid || r)
                return r ? r : -ECHILD;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int run_pairs(char *const *argv, Pairs *pairs)
{
        int r;

        pairs->n = 0;
        r = bench_run_program(argv, take_pair, pairs);
        return !r && pairs->n == 0 ? -EIO : r;
}

static double tell(Bench *bench, const char *section, const char *what, Pairs *pairs)
{
        double ratio = stats_median(pairs->ratio, pairs->n);

        bench_row(bench, section, "rows",
                json_pack("{ss sI sf sf sf}", "what", what, "n", (json_int_t)pairs->n, "raw_ms",
                        stats_median(pairs->raw, pairs->n) / 1e6, "ours_ms",
                        stats_median(pairs->ours, pairs->n) / 1e6, "ratio", ratio));
        return ratio;
}

/* No cgroup to be had, or no program for this machine: a reason, and no error. */
void bench_skip(Bench *bench, const char *section, const char *why)
{
        (void)json_object_set_new(bench_section(bench, section), "skipped", json_string(why));
}

int bench_in_cgroup(Bench *bench, const char *section, const BenchInCgroup *what)
{
        ProbeHome home = PROBE_HOME_NULL;
        char root[PATH_MAX], why[512] = "", program[PATH_MAX];
        int r = bench_program(what->program, program, sizeof(program)), removed;

        if (r) {
                bench_skip(bench, section, what->not_built);
                return 0;
        }
        r = probe_home_find(root, sizeof(root), why, sizeof(why));
        if (!r)
                r = probe_home_make(&home, root, nsec_add(clock_now(), HOME_SPAN));
        if (r) {
                bench_skip(bench, section, why[0] ? why : error_text(r));
                return 0;
        }
        r = what->run(bench, program, home.path);
        if (r && !bench->error[0])
                (void)snprintf(bench->error, sizeof(bench->error), "%.200s: %s", program,
                        r == -EIO ? "it failed, or measured nothing" : error_text(r));
        removed = probe_home_remove(&home, nsec_add(clock_now(), HOME_SPAN));
        if (removed && !r)
                (void)snprintf(bench->error, sizeof(bench->error), "%.400s cannot be removed: %s", home.path,
                        error_text(removed));
        return r ? r : removed;
}

static int spawn_in(Bench *bench, const char *program, const char *home)
{
        static Pairs pairs;
        char stamp[PATH_MAX], rounds[16], what[] = "spawn";
        char *argv[] = {(char *)program, what, (char *)home, stamp, rounds, NULL};
        int r = bench_program("tidegate-bench-stamp", stamp, sizeof(stamp));

        (void)snprintf(rounds, sizeof(rounds), "%u", bench->quick ? 10 : MIN(30 * bench->rounds, MAX_PAIRS));
        if (!r)
                r = run_pairs(argv, &pairs);
        if (!r)
                bench_goal(bench, "spawn", "a program's first instruction, to raw clone3() into a cgroup",
                        tell(bench, "spawn", "a program is started", &pairs), 1.15, false);
        return r;
}

static int stop_in(Bench *bench, const char *program, const char *home)
{
        static const struct {
                unsigned n, rounds; /* of seven */
        } trees[] = {{1, 41}, {10, 41}, {100, 13}, {1000, 5}};
        static Pairs pairs;
        int r = 0;

        for (size_t i = 0; i < (bench->quick ? 2 : ELEMENTSOF(trees)) && r == 0; i++) {
                char n[16], rounds[16], name[48], goal[96], what[] = "kill";
                char *argv[] = {(char *)program, what, (char *)home, n, rounds, NULL};

                (void)snprintf(n, sizeof(n), "%u", trees[i].n);
                (void)snprintf(rounds, sizeof(rounds), "%u",
                        bench->quick ? 3u : MAX(3u, MIN(trees[i].rounds * bench->rounds / 7, MAX_PAIRS)));
                (void)snprintf(name, sizeof(name), "a tree of %u is killed", trees[i].n);
                (void)snprintf(goal, sizeof(goal), "a tree of %u until nobody is left, to one write to cgroup.kill",
                        trees[i].n);
                bench_progress("stop: %s", name);
                r = run_pairs(argv, &pairs);
                if (!r)
                        bench_goal(bench, "stop", goal, tell(bench, "stop", name, &pairs), 1.10, false);
        }
        return r;
}

int bench_spawn(Bench *bench)
{
        bench_progress("spawn");
        return bench_in_cgroup(bench, "spawn", &(BenchInCgroup){"tidegate-bench-enforce", NOT_BUILT, spawn_in});
}

int bench_stop(Bench *bench)
{
        return bench_in_cgroup(bench, "stop", &(BenchInCgroup){"tidegate-bench-enforce", NOT_BUILT, stop_in});
}
