/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/last-resort.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "base/procstat.h"
#include "base/stdio_null.h"

#define KILL_BUDGET (2 * NSEC_PER_SEC)
#define KILL_STEP   (50 * NSEC_PER_MSEC)
#define CHILD_SLACK NSEC_PER_SEC /* what the kernel may take for its own writes */
#define N_BATCH     64
#define DEPTH_MAX   32
#define LIST_MAX    (4u << 20) /* bytes of one cgroup.procs */

_Static_assert(sizeof(LastResortVerdict) <= PIPE_BUF, "it arrives whole");

typedef struct Sweep {
        int signo; /* 0: count only */
        unsigned n_seen;
        bool self; /* we are in it ourselves */
        LastResortVerdict *look; /* tells of the first of them; NULL */
        int error;
} Sweep;

/* ---- one pass over the tree */

static int pidfd_signal(int pidfd, int signo)
{
        return syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

static char *read_list(int dir_fd, const char *name)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        size_t size;

        return procfs_read_whole(fd, LIST_MAX, &size);
}

static bool is_listed(const char *list, pid_t pid)
{
        char *end;

        for (const char *p = list; *p; p = *end ? end + 1 : end) {
                long listed = strtol(p, &end, 10);

                if (listed == pid)
                        return true;
                if (end == p)
                        return false;
        }
        return false;
}

/* A number may be a stranger's a moment later: each becomes a pidfd, and who is still listed then is meant. */
static void signal_batch(Sweep *s, int dir_fd, const pid_t *pids, int *pidfds, unsigned n)
{
        _cleanup_free_ char *again = read_list(dir_fd, "cgroup.procs");

        for (unsigned i = 0; i < n; i++) {
                if (pidfds[i] >= 0 && again && is_listed(again, pids[i])) {
                        int r = pidfd_signal(pidfds[i], s->signo);

                        if (r == 0 && s->signo == SIGTERM)
                                (void)pidfd_signal(pidfds[i], SIGCONT); /* a stopped one cannot act on it */
                        if (r < 0 && r != -ESRCH && !s->error)
                                s->error = -r;
                }
                pidfds[i] = fd_close(pidfds[i]);
        }
}

static void sweep_one(Sweep *s, int dir_fd, pid_t self)
{
        _cleanup_free_ char *list = read_list(dir_fd, "cgroup.procs");
        pid_t pids[N_BATCH];
        int pidfds[N_BATCH];
        unsigned n = 0;
        char *end;

        for (const char *p = list ? list : ""; *p; p = *end ? end + 1 : end) {
                long pid = strtol(p, &end, 10);

                if (end == p)
                        break;
                s->n_seen++;
                s->self |= pid == self;
                if (s->signo == 0 || pid <= 0)
                        continue;
                pids[n] = (pid_t)pid;
                pidfds[n++] = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
                if (n == N_BATCH) {
                        signal_batch(s, dir_fd, pids, pidfds, n);
                        n = 0;
                }
        }
        if (n > 0)
                signal_batch(s, dir_fd, pids, pidfds, n);
}

static void look(LastResortVerdict *v, int dir_fd);

static void sweep_tree(Sweep *s, int dir_fd, pid_t self, unsigned depth)
{
        int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        const struct dirent *entry;

        sweep_one(s, dir_fd, self);
        if (s->look)
                look(s->look, dir_fd);
        while (dir && depth < DEPTH_MAX && (entry = readdir(dir))) {
                int child;

                if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
                        continue;
                child = openat(dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (child >= 0)
                        sweep_tree(s, child, self, depth + 1);
                (void)fd_close(child);
        }
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
}


/* ---- who is left */

/* As long as a line of cgroup.procs names one: its first thread, and the others when that has exited. */
static void look_at_process(LastResortVerdict *v, pid_t pid)
{
        char path[64];
        const struct dirent *entry;
        DIR *dir;

        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        dir = opendir(path);
        while (dir && v->n_tasks < LAST_RESORT_TASKS && (entry = readdir(dir)))
                if (entry->d_name[0] != '.' && task_read(&v->tasks[v->n_tasks], pid, (pid_t)atoi(entry->d_name)) == 0 &&
                        v->tasks[v->n_tasks].kind != TASK_EXITED)
                        v->n_tasks++;
        if (dir)
                (void)closedir(dir);
}

static void look(LastResortVerdict *v, int dir_fd)
{
        _cleanup_free_ char *list = read_list(dir_fd, "cgroup.procs");
        char *end;

        for (const char *p = list ? list : ""; *p && v->n_tasks < LAST_RESORT_TASKS; p = *end ? end + 1 : end) {
                long pid = strtol(p, &end, 10);

                if (end == p)
                        return;
                look_at_process(v, (pid_t)pid);
        }
}

/* ---- the child */

static bool is_populated(int events_fd)
{
        char text[256];
        ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);

        if (n <= 0)
                return false; /* removed */
        text[n] = '\0';
        return strstr(text, "populated 1") != NULL;
}

/* Return: whether it is empty, at @until at the latest. */
static bool wait_empty(int events_fd, nsec_t until)
{
        for (;;) {
                struct pollfd p = {.fd = events_fd, .events = POLLPRI};
                nsec_t now = clock_now();

                if (!is_populated(events_fd))
                        return true;
                if (now >= until)
                        return false;
                (void)poll(&p, 1, nsec_poll_ms(until, now));
        }
}

static int write_kill(int dir_fd)
{
        _cleanup_fd_ int fd = openat(dir_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);

        return fd >= 0 && write(fd, "1", 1) == 1 ? 0 : errno;
}

static void kill_hard(int dir_fd, int events_fd, LastResortVerdict *v)
{
        nsec_t until = nsec_add(clock_now(), KILL_BUDGET);
        int error = write_kill(dir_fd);

        v->error = v->error ? v->error : error;
        while (!wait_empty(events_fd, MIN(until, nsec_add(clock_now(), KILL_STEP))) && clock_now() < until) {
                Sweep s = {.signo = SIGKILL}; /* for whom cgroup.kill does not reach */

                sweep_tree(&s, dir_fd, -1, 0);
        }
}

/* The directory of a cgroup that is not the root of its hierarchy: -ENOTSUP; -ENOENT: it is gone. */
static int open_cgroup(const char *path, int *ret_events_fd)
{
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct statfs fs;

        if (fd < 0)
                return -errno;
        if (fstatfs(fd, &fs) < 0)
                return -errno;
        if (fs.f_type != CGROUP2_SUPER_MAGIC)
                return -ENOTSUP;
        *ret_events_fd = openat(fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
        if (*ret_events_fd >= 0)
                return TAKE_FD(fd);
        if (errno == ENOENT && access(path, F_OK) == 0) /* only the root has none */
                return -ENOTSUP;
        return -errno;
}

/* How many are left; and who. */
static unsigned count(LastResortVerdict *v, int dir_fd)
{
        Sweep s = {.look = v};

        sweep_tree(&s, dir_fd, -1, 0);
        return s.n_seen;
}

/* ---- lives without a cgroup */

static int has_command(int dir_fd, void *userdata)
{
        return place_has(dir_fd, *(pid_t *)userdata) == 1;
}

static bool wait_gone(int dir_fd, nsec_t until)
{
        while (place_populated(dir_fd) != 0) {
                if (clock_now() >= until)
                        return false;
                (void)poll(NULL, 0, 20); /* a plain directory tells of nothing */
        }
        return true;
}

static void end_places(const char *path, const LastResortKill *kill, pid_t command, LastResortVerdict *v)
{
        _cleanup_fd_ int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        nsec_t begin = clock_now();
        PlaceResult result = {};
        int n = dir_fd < 0 ? 0 : place_count(dir_fd);

        v->n_found = (unsigned)MAX(n, 0);
        if (dir_fd < 0) {
                v->error = errno == ENOENT ? 0 : errno; /* gone: nobody is left there */
                v->n_left = v->error ? 1 : 0;
                return;
        }
        if (place_each_life(dir_fd, has_command, &command) == 1) {
                v->error = EDEADLK;
                v->n_left = v->n_found;
                return;
        }
        if (!kill->force)
                (void)place_signal(dir_fd, SIGTERM, &result);
        if (kill->force || !wait_gone(dir_fd, nsec_add(begin, kill->grace_ns / 2))) {
                (void)place_end(dir_fd, nsec_add(clock_now(), KILL_BUDGET), &result);
                v->n_found = MAX(v->n_found, result.n_found);
                v->n_left = result.n_left;
        }
        v->error = result.error;
        v->ms = (long long)((clock_now() - begin) / NSEC_PER_MSEC);
}

static void child(const char *path, const LastResortKill *kill, pid_t command, LastResortVerdict *v)
{
        _cleanup_fd_ int events_fd = -1, dir_fd = open_cgroup(path, &events_fd);
        nsec_t begin = clock_now();
        Sweep s = {.signo = 0};

        if (dir_fd < 0) {
                v->error = dir_fd == -ENOENT || dir_fd == -ENODEV ? 0 : -dir_fd; /* gone: nobody is left there */
                v->n_left = v->error ? 1 : 0;
                return;
        }
        sweep_tree(&s, dir_fd, command, 0);
        v->n_found = s.n_seen;
        if (s.self) { /* no page of ours says so: it is not a dataflow's */
                v->error = EDEADLK;
                v->n_left = s.n_seen;
                return;
        }
        if (!kill->force) {
                s = (Sweep){.signo = SIGTERM};
                sweep_tree(&s, dir_fd, -1, 0);
                v->error = s.error;
        }
        if (kill->force || !wait_empty(events_fd, nsec_add(begin, kill->grace_ns / 2)))
                kill_hard(dir_fd, events_fd, v);
        v->n_left = is_populated(events_fd) ? MAX(count(v, dir_fd), 1u) : 0;
        v->ms = (long long)((clock_now() - begin) / NSEC_PER_MSEC);
}

int last_resort_kill(const char *path, const LastResortKill *kill, LastResortVerdict *ret)
{
        nsec_t begin = clock_now(),
               until = nsec_add(nsec_add(begin, kill->force ? 0 : kill->grace_ns / 2), KILL_BUDGET + CHILD_SLACK);
        pid_t command = getpid(), pid;
        int pipe_fds[2];
        struct pollfd p = {.events = POLLIN};

        *ret = (LastResortVerdict){};
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        pid = fork();
        if (pid == 0) {
                LastResortVerdict v = {};

                (void)setsid(); /* Ctrl-C ends the command that waits, and not the kill */
                (void)stdio_to_null();
                if (place_is_below(path))
                        end_places(path, kill, command, &v);
                else
                        child(path, kill, command, &v);
                (void)!write(pipe_fds[1], &v, sizeof(v)); /* nobody may be left to read it */
                _exit(0);
        }
        (void)fd_close(pipe_fds[1]);
        p.fd = pipe_fds[0];
        while (pid > 0 && clock_now() < until && poll(&p, 1, nsec_poll_ms(until, clock_now())) < 1)
                ;
        if (pid > 0 && p.revents && read(p.fd, ret, sizeof(*ret)) == sizeof(*ret))
                (void)waitpid(pid, NULL, 0); /* it has nothing left to do but to exit */
        else
                *ret = (LastResortVerdict){.timed_out = true, .n_left = 1};
        (void)fd_close(pipe_fds[0]);
        return pid < 0 ? error_origin(-EAGAIN) : 0;
}
