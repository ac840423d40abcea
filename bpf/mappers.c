/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf/mappers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "bpf/apart.h"

#define OPEN_MS   500 /* who executes, and does not get on with that, cannot be looked at; it has nothing mapped yet */
#define STUCK_MAX 8   /* of these */

typedef struct Look {
        Apart *apart;
        pid_t stuck[STUCK_MAX];
        unsigned n_stuck;
        const MappedFile *files;
        size_t n;
        char inodes[MAPPERS_FILES_MAX][24]; /* as they stand in a line */
} Look;

typedef struct Answer {
        int32_t error;
        pid_t pid; /* who is being asked */
        uint32_t opening; /* not yet: it is only being looked for */
} Answer;

int mapped_file(int fd, MappedFile *ret)
{
        static const char deleted[] = " (deleted)";
        char path[32], target[4096];
        size_t size, skipped;
        const char *name;
        struct stat st;
        ssize_t n;

        *ret = (MappedFile){0};
        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        ret->inode = st.st_ino;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        target[MAX(n, (ssize_t)0)] = '\0';
        name = strrchr(target, '/');
        if (!name || strchr(name, '\n')) /* which is shown in another way there */
                return 0;
        size = strlen(name);
        if (size > strlen(deleted) && strcmp(name + size - strlen(deleted), deleted) == 0)
                size -= strlen(deleted);
        skipped = size - MIN(size, sizeof(ret->name) - 1);
        if (size > 1)
                memcpy(ret->name, name + skipped, size - skipped);
        return 0;
}

/* ---- in the child */

/* A line of /proc/PID/maps. The kernel looks at private mappings alone. */
static bool is_meant(const Look *look, const char *line, size_t size)
{
        const char *rights = memchr(line, ' ', size);

        if (!rights || line + size - rights < 5 || rights[4] != 'p')
                return false;
        for (size_t i = 0; i < look->n; i++)
                if (memmem(line, size, look->inodes[i], strlen(look->inodes[i])) ||
                        (look->files[i].name[0] && memmem(line, size, look->files[i].name, strlen(look->files[i].name))))
                        return true;
        return false;
}

/* Takes no lock of memory while it @opens, but one that a process has that is about to execute. */
static void step(const Look *look, uint32_t opens_ms)
{
        Answer *answer = (Answer *)(void *)look->apart->answer;

        answer->opening = opens_ms > 0;
        apart_step(look->apart, opens_ms);
}

/* 1: it has one of them mapped, 0: none, or nobody may look (some security modules keep even root from it), -ENODATA: it has no memory, or is gone. */
static int look_at_maps(const Look *look, const char *directory)
{
        static char text[32 << 10];
        _cleanup_fd_ int fd = -1;
        size_t kept = 0;
        char path[64];
        bool any = false;

        (void)snprintf(path, sizeof(path), "%s/maps", directory);
        step(look, OPEN_MS);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        step(look, 0);
        if (fd < 0)
                return errno == ENOENT || errno == ESRCH ? -ENODATA : errno == EACCES || errno == EPERM ? 0 : -errno;
        for (;;) {
                ssize_t n = read(fd, text + kept, sizeof(text) - kept);
                char *at = text, *end;

                if (n <= 0)
                        return n < 0 && errno != ESRCH ? -errno : any ? 0 : -ENODATA;
                any = true;
                kept += (size_t)n;
                while ((end = memchr(at, '\n', kept))) {
                        if (is_meant(look, at, (size_t)(end - at)))
                                return 1;
                        kept -= (size_t)(end + 1 - at);
                        at = end + 1;
                }
                if (kept == sizeof(text))
                        return -EBADMSG; /* no line is that long */
                memmove(text, at, kept);
        }
}

/* Takes its lock. 0: and has let go of it, or it is gone. */
static int take_lock(const char *directory)
{
        _cleanup_fd_ int fd = -1;
        char path[64];

        (void)snprintf(path, sizeof(path), "%s/clear_refs", directory);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT || errno == ESRCH ? 0 : -errno;
        return write(fd, "5", 1) == 1 || errno == ESRCH ? 0 : -errno;
}

static int ask(const Look *look, const char *directory)
{
        int r = look_at_maps(look, directory);

        return r == 1 ? take_lock(directory) : r;
}

/* Its first thread has died, and has no memory any more; another one may be stuck with it. */
static int ask_threads(const Look *look, pid_t pid)
{
        const struct dirent *e;
        int r = -ENODATA;
        char path[64];
        DIR *tasks;

        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        tasks = opendir(path);
        if (!tasks)
                return errno == ENOENT ? 0 : -errno;
        while (r == -ENODATA && (e = readdir(tasks))) {
                const int tid = atoi(e->d_name);

                if (tid <= 0 || tid == pid)
                        continue;
                (void)snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)pid, tid);
                r = ask(look, path);
        }
        (void)closedir(tasks);
        return r == -ENODATA ? 0 : r;
}

static bool is_stuck(const Look *look, pid_t pid)
{
        for (unsigned i = 0; i < look->n_stuck; i++)
                if (look->stuck[i] == pid)
                        return true;
        return false;
}

static int ask_all(const Look *look)
{
        Answer *answer = (Answer *)(void *)look->apart->answer;
        DIR *processes = opendir("/proc");
        const struct dirent *e;
        char path[64];
        int r = 0;

        if (!processes)
                return -errno;
        while (r == 0 && (e = readdir(processes))) {
                const pid_t pid = atoi(e->d_name);

                if (pid <= 0 || is_stuck(look, pid))
                        continue;
                answer->pid = pid;
                (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
                r = ask(look, path);
                if (r == -ENODATA)
                        r = ask_threads(look, pid);
        }
        (void)closedir(processes);
        return r;
}

static void run(Apart *apart, void *userdata)
{
        Answer *answer = (Answer *)(void *)apart->answer;

        /* without CONFIG_PROC_PAGE_MONITOR, which all distributions have, nobody could be asked */
        answer->error = access("/proc/self/clear_refs", F_OK) < 0 ? -EOPNOTSUPP : ask_all(userdata);
}

/* ---- and in who asks */

static void name_of(pid_t pid, char ret[16])
{
        char path[32], text[17];
        _cleanup_fd_ int fd = -1;
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        text[MAX(n, (ssize_t)0)] = '\0';
        (void)snprintf(ret, 16, "%.*s", (int)strcspn(text, "\n"), text);
}

int mappers_check(const MappedFile *files, size_t n, nsec_t span, nsec_t until, MappersHeld *ret_held)
{
        _cleanup_(apart_freep) Apart *apart = apart_new();
        Look look = {.apart = apart, .files = files, .n = n};
        const Answer *answer;
        int r;

        *ret_held = (MappersHeld){0};
        if (!apart)
                return error_origin(-errno);
        if (n > MAPPERS_FILES_MAX)
                return error_origin(-EINVAL);
        for (size_t i = 0; i < n; i++)
                (void)snprintf(look.inodes[i], sizeof(look.inodes[i]), " %llu ", (unsigned long long)files[i].inode);
        answer = (const Answer *)(const void *)apart->answer;
        while ((r = apart_run(apart, run, &look, span, until)) == -ETIMEDOUT && answer->opening && answer->pid > 0 && look.n_stuck < STUCK_MAX && clock_now() < until)
                look.stuck[look.n_stuck++] = answer->pid;
        if (r == 0)
                return answer->error;
        if (r != -ETIMEDOUT || answer->pid == 0 || answer->opening || clock_now() >= until)
                return r; /* or there are too many to ask them all */
        ret_held->pid = answer->pid;
        name_of(answer->pid, ret_held->name);
        return MAPPERS_E_HELD;
}
