/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/usage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/place.h"
#include "base/utf8.h"

#define DEPTH_MAX     16
#define PROCESSES_MAX 20000 /* of all paths; more are counted in nothing */
#define ANSWER_MAX    (16u << 20)

typedef struct Look {
        json_t *groups;
        long long memory, cpu_ms;
        unsigned n;
} Look;

/* ---- in the child */

static ssize_t read_file(const char *path, char *buffer, size_t size)
{
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);

        buffer[n > 0 ? n : 0] = '\0';
        return n;
}

/* "123 (a b) S 1 ...": fields 14 and 15 are user and system time in ticks. */
static bool parse_stat(char *text, char **ret_comm, char *ret_state, unsigned long long *ret_ticks)
{
        char *open_ = strchr(text, '('), *close_ = strrchr(text, ')');
        unsigned long long user, system;

        if (!open_ || !close_ || close_ < open_ ||
                sscanf(close_ + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", ret_state, &user, &system) != 3)
                return false;
        *close_ = '\0';
        *ret_comm = open_ + 1;
        *ret_ticks = user + system;
        return true;
}

static json_t *look_at_process(Look *look, long pid)
{
        char path[64], text[1024], *comm, state[2] = "";
        _cleanup_free_ char *clean = NULL;
        unsigned long long ticks, pages = 0;
        long long cpu_ms, memory;

        (void)snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
        if (read_file(path, text, sizeof(text)) <= 0 || !parse_stat(text, &comm, state, &ticks))
                return NULL; /* gone meanwhile */
        clean = utf8_clean(comm, strlen(comm), NULL);
        cpu_ms = (long long)(ticks * 1000 / (unsigned long long)sysconf(_SC_CLK_TCK));
        (void)snprintf(path, sizeof(path), "/proc/%ld/statm", pid);
        if (read_file(path, text, sizeof(text)) > 0)
                (void)sscanf(text, "%*u %llu", &pages);
        memory = (long long)(pages * (unsigned long long)sysconf(_SC_PAGESIZE));
        look->memory += memory;
        look->cpu_ms += cpu_ms;
        look->n++;
        return json_pack("{sI ss ss sI sI}", "pid", (json_int_t)pid, "comm", clean ? clean : "?", "state", state, "memory",
                (json_int_t)memory, "cpu_ms", (json_int_t)cpu_ms);
}

typedef struct PlaceLook {
        Look *look;
        json_t *processes;
        unsigned *budget;
} PlaceLook;

static int look_at_descendant(pid_t pid, void *userdata)
{
        PlaceLook *l = userdata;
        json_t *process = *l->budget > 0 ? look_at_process(l->look, pid) : NULL;

        if (process) {
                (void)json_array_append_new(l->processes, process);
                (*l->budget)--;
        }
        return 0;
}

static json_t *look_at_group(Look *look, int dir_fd, unsigned *budget)
{
        json_t *processes = json_array();
        int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
        long pid;

        while (f && *budget > 0 && fscanf(f, "%ld", &pid) == 1) {
                json_t *process = look_at_process(look, pid);

                if (process)
                        (void)json_array_append_new(processes, process);
                (*budget)--;
        }
        if (f)
                (void)fclose(f); /* read only */
        else
                (void)fd_close(fd);
        if (fd < 0) /* a life without a cgroup, or nobody's */
                (void)place_each_process(dir_fd, look_at_descendant, &(PlaceLook){look, processes, budget});
        return processes;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_group(const struct dirent *entry)
{
        return entry->d_type == DT_DIR && entry->d_name[0] != '.';
}

static void look_below(Look *look, int dir_fd, const char *name, unsigned depth, unsigned *budget)
{
        struct dirent **entries = NULL;
        int n = depth < DEPTH_MAX ? scandirat(dir_fd, ".", &entries, is_group, by_name) : 0;

        (void)json_array_append_new(
                look->groups, json_pack("{ss so}", "path", name, "processes", look_at_group(look, dir_fd, budget)));
        for (int i = 0; i < n; i++) {
                int child = openat(dir_fd, entries[i]->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                char path[4096];

                if (child >= 0 && (size_t)snprintf(path, sizeof(path), "%s%s%s", name, name[0] ? "/" : "",
                                          entries[i]->d_name) < sizeof(path))
                        look_below(look, child, path, depth + 1, budget);
                (void)fd_close(child);
                free(entries[i]);
        }
        free(entries);
}

static json_t *look_at(const char *path, unsigned *budget)
{
        _cleanup_fd_ int fd = path[0] == '/' ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        Look look = {};
        struct statfs fs;

        if (fd < 0 || fstatfs(fd, &fs) < 0 || (fs.f_type != CGROUP2_SUPER_MAGIC && !place_is_below(path)))
                return json_null();
        look.groups = json_array();
        look_below(&look, fd, "", 0, budget);
        return json_pack("{sI sI si so}", "memory", (json_int_t)look.memory, "cpu_ms", (json_int_t)look.cpu_ms, "n",
                (int)look.n, "groups", look.groups);
}

static _Noreturn void child(int fd, const char *const *paths, size_t n)
{
        json_t *all = json_array();
        unsigned budget = PROCESSES_MAX;

        (void)signal(SIGPIPE, SIG_DFL);
        for (size_t i = 0; i < n; i++)
                (void)json_array_append_new(all, look_at(paths[i], &budget));
        _exit(json_dumpfd(all, fd, JSON_COMPACT) == 0 ? 0 : 1);
}

/* ---- in the command */

/* Everything until the child closes its end. The caller frees it; NULL at the deadline. */
static char *read_answer(int fd, nsec_t deadline, size_t *ret_size)
{
        size_t size = 0, room = 65536;
        _cleanup_free_ char *text = malloc(room);

        while (text) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                nsec_t now = clock_now();
                ssize_t n;

                if (now >= deadline)
                        return NULL;
                if (poll(&p, 1, nsec_poll_ms(deadline, now)) < 1)
                        continue;
                n = read(fd, text + size, room - size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break;
                size += (size_t)n;
                if (size == room) {
                        char *grown = room < ANSWER_MAX ? realloc(text, 2 * room) : NULL;

                        if (!grown)
                                return NULL;
                        text = grown;
                        room *= 2;
                }
        }
        *ret_size = size;
        return TAKE_PTR(text);
}

json_t *usage_read(const char *const *paths, size_t n, nsec_t deadline)
{
        _cleanup_free_ char *text = NULL;
        json_t *all = NULL;
        size_t size = 0;
        int pipe_fds[2];
        pid_t pid;

        (void)fflush(stdout); /* or the child has it, too */
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return NULL;
        pid = fork();
        if (pid == 0) {
                (void)fd_close(pipe_fds[0]);
                child(pipe_fds[1], paths, n);
        }
        (void)fd_close(pipe_fds[1]);
        if (pid > 0)
                text = read_answer(pipe_fds[0], deadline, &size);
        (void)fd_close(pipe_fds[0]);
        if (text) {
                (void)waitpid(pid, NULL, 0); /* it closed the pipe by ending */
                all = json_loadb(text, size, 0, NULL);
        } else if (pid > 0) {
                (void)kill(pid, SIGKILL); /* our own child, not reaped: the number is its */
        }
        if (json_is_array(all) && json_array_size(all) == n)
                return all;
        json_decref(all);
        return NULL;
}
