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
#include "base/procstat.h"
#include "base/stdio_null.h"
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

static json_t *look_at_process(Look *look, pid_t pid)
{
        _cleanup_free_ char *clean = NULL;
        long long cpu_ms, memory;
        char state[2] = "";
        ProcUse use;

        if (procstat_use(&use, pid))
                return NULL; /* gone meanwhile */
        state[0] = use.state;
        clean = utf8_clean(use.comm, strlen(use.comm), NULL);
        cpu_ms = (long long)(use.own * 1000 / (uint64_t)sysconf(_SC_CLK_TCK));
        memory = (long long)(use.pages * (uint64_t)sysconf(_SC_PAGESIZE));
        look->memory += memory;
        look->cpu_ms += cpu_ms;
        look->n++;
        return json_pack("{sI si ss ss sI sI}", "pid", (json_int_t)pid, "ppid", (int)use.parent, "comm", clean ? clean : "?", "state", state, "memory",
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
                json_t *process = look_at_process(look, (pid_t)pid);

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

int usage_look_begin(UsageLook *ret, const char *const *paths, size_t n)
{
        int pipe_fds[2];
        pid_t pid;

        (void)fflush(stdout); /* or the child has it, too */
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid == 0) {
                (void)fd_close(pipe_fds[0]);
                (void)stdio_to_null();
                child(pipe_fds[1], paths, n);
        }
        (void)fd_close(pipe_fds[1]);
        if (pid < 0 || fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) < 0) {
                int r = -errno;

                (void)fd_close(pipe_fds[0]); /* the child, if there is one, ends by it */
                return r;
        }
        *ret = (UsageLook){.pid = pid, .fd = pipe_fds[0], .n = n};
        return 0;
}

static bool grow(UsageLook *look)
{
        size_t room = look->room ? 2 * look->room : 65536;
        char *grown;

        if (look->size < look->room)
                return true;
        grown = room <= ANSWER_MAX ? realloc(look->text, room) : NULL;
        if (!grown)
                return false;
        look->text = grown;
        look->room = room;
        return true;
}

static int parse_answer(UsageLook *look, json_t **ret)
{
        json_t *all = json_loadb(look->text, look->size, 0, NULL);

        (void)waitpid(look->pid, NULL, 0); /* it closed the pipe by ending */
        look->pid = 0;
        if (json_is_array(all) && json_array_size(all) == look->n) {
                *ret = all;
                return 0;
        }
        json_decref(all);
        return -EBADMSG;
}

int usage_look_read(UsageLook *look, json_t **ret)
{
        while (grow(look)) {
                ssize_t n = read(look->fd, look->text + look->size, look->room - look->size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return USAGE_E_AGAIN;
                if (n <= 0)
                        return parse_answer(look, ret);
                look->size += (size_t)n;
        }
        return -EBADMSG;
}

pid_t usage_look_done(UsageLook *look)
{
        pid_t left = 0;

        if (look->pid > 0) {
                (void)kill(look->pid, SIGKILL); /* our own child, not reaped: the number is its */
                left = waitpid(look->pid, NULL, WNOHANG) == 0 ? look->pid : 0;
        }
        (void)fd_close(look->fd);
        free(look->text);
        *look = USAGE_LOOK_NULL;
        return left;
}

json_t *usage_read(const char *const *paths, size_t n, nsec_t deadline)
{
        UsageLook look = USAGE_LOOK_NULL;
        json_t *all = NULL;
        int r = usage_look_begin(&look, paths, n);

        while (!r && (r = usage_look_read(&look, &all)) == USAGE_E_AGAIN) {
                struct pollfd p = {.fd = look.fd, .events = POLLIN};
                nsec_t now = clock_now();

                if (now >= deadline)
                        break;
                (void)poll(&p, 1, nsec_poll_ms(deadline, now));
                r = 0;
        }
        (void)usage_look_done(&look); /* who does not die at once is left to init */
        return all;
}
