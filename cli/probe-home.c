/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doctor's own cgroup, `tidegate-doctor-<number>`: found, made, locked, swept. The lock is flock(2) on the directory
 * itself; it is free exactly when the engine and all its children are gone, and then the next doctor may sweep it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <signal.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "cli/probes.h"

#define HOME_PREFIX "tidegate-doctor-"
#define HOME_TRIES  8

int probe_home_find(char *ret_path, size_t path_size, char *ret_why, size_t why_size)
{
        char path[PATH_MAX];
        int r = cgroup_root_find(path, ret_why, why_size);

        if (r)
                return r;
        if (strlen(path) >= path_size)
                return -ENAMETOOLONG;
        memcpy(ret_path, path, strlen(path) + 1);
        return 0;
}

static int write_at(int dir_fd, const char *name, const char *text)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* SIGKILL by pidfd for whoever is still listed: what cgroup.kill does not reach (see probe-cgroup.c). */
static void kill_listed(int dir_fd)
{
        _cleanup_fd_ int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        char list[4096];
        ssize_t n = fd >= 0 ? read(fd, list, sizeof(list) - 1) : 0;

        list[MAX(n, (ssize_t)0)] = '\0';
        for (char *at = list, *end; *at; at = end) {
                long pid = strtol(at, &end, 10);
                _cleanup_fd_ int pidfd = -1;

                if (end == at || pid <= 1) /* 0: a process of another PID namespace; never a number for kill */
                        break;
                pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
                if (pidfd >= 0)
                        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        }
}

static int remove_tree(int parent_fd, const char *name, nsec_t deadline);

/* Empties the cgroup: those below it, then its own processes. */
static int empty(int dir_fd, nsec_t deadline)
{
        int dup_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *dir = dup_fd >= 0 ? fdopendir(dup_fd) : NULL;
        struct dirent *e;

        if (!dir) {
                (void)fd_close(dup_fd);
                return -errno;
        }
        while ((e = readdir(dir)))
                if (e->d_type == DT_DIR && e->d_name[0] != '.')
                        r = remove_tree(dir_fd, e->d_name, deadline) ?: r;
        (void)closedir(dir);
        return r;
}

static int remove_tree(int parent_fd, const char *name, nsec_t deadline)
{
        _cleanup_fd_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        (void)write_at(fd, "cgroup.freeze", "0");
        (void)write_at(fd, "cgroup.kill", "1"); /* whatever it says, the rmdir below is the judge */
        (void)empty(fd, deadline);
        for (;;) {
                if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                        return 0;
                if (errno != EBUSY)
                        return -errno;
                if (clock_now() >= deadline)
                        return -ETIMEDOUT;
                kill_listed(fd);
                (void)poll(NULL, 0, 1); /* EBUSY outlives the last process by a moment that no event announces */
        }
}

/* Locked, and still the directory of that name: else somebody removed it between our open and our lock. */
static int lock_dir(int root_fd, const char *name, int *ret_fd)
{
        _cleanup_fd_ int fd = openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        struct stat there, ours;

        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
                return -errno;
        if (fstatat(root_fd, name, &there, AT_SYMLINK_NOFOLLOW) < 0 || fstat(fd, &ours) < 0)
                return -errno;
        if (there.st_ino != ours.st_ino)
                return -ENOENT;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static void sweep_dead_doctors(int root_fd, nsec_t deadline)
{
        int dup_fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = dup_fd >= 0 ? fdopendir(dup_fd) : NULL;
        struct dirent *e;

        if (!dir) {
                (void)fd_close(dup_fd);
                return;
        }
        while (clock_now() < deadline && (e = readdir(dir))) {
                _cleanup_fd_ int fd = -1;

                if (strncmp(e->d_name, HOME_PREFIX, strlen(HOME_PREFIX)) == 0 && lock_dir(root_fd, e->d_name, &fd) == 0)
                        (void)remove_tree(root_fd, e->d_name, deadline); /* the next one tries again */
        }
        (void)closedir(dir);
}

int probe_home_make(ProbeHome *home, const char *root, nsec_t deadline)
{
        _cleanup_fd_ int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = -EAGAIN;

        if (root_fd < 0)
                return error_origin(-errno);
        sweep_dead_doctors(root_fd, deadline);

        for (int i = 0; i < HOME_TRIES; i++) {
                char name[64];
                uint32_t number;

                if (getrandom(&number, sizeof(number), 0) != sizeof(number))
                        return error_origin(-errno);
                (void)snprintf(name, sizeof(name), HOME_PREFIX "%08x", number);
                if (mkdirat(root_fd, name, 0700) < 0) {
                        r = -errno;
                        if (r == -EEXIST)
                                continue;
                        return error_origin(r);
                }
                r = lock_dir(root_fd, name, &home->dir_fd);
                if (r == 0) {
                        (void)snprintf(home->path, sizeof(home->path), "%.4000s/%s", root, name);
                        return 0;
                }
                (void)unlinkat(root_fd, name, AT_REMOVEDIR); /* another doctor's sweep has it: take another name */
        }
        return error_origin(r);
}

int probe_home_sweep(const ProbeHome *home, nsec_t deadline)
{
        return home->dir_fd < 0 ? 0 : empty(home->dir_fd, deadline);
}

int probe_home_remove(ProbeHome *home, nsec_t deadline)
{
        int r;

        if (home->dir_fd < 0)
                return 0;
        r = remove_tree(AT_FDCWD, home->path, deadline);
        home->dir_fd = fd_close(home->dir_fd);
        return r;
}
