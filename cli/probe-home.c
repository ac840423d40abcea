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
#include <sys/xattr.h>
#include <signal.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/probes.h"

#define HOME_PREFIX "tidegate-doctor-"
#define HOME_TRIES  8

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
        char *to = s;

        for (; *s; s++) {
                if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
                        *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
                        s += 3;
                } else {
                        *to++ = *s;
                }
        }
        *to = '\0';
}

/* The first cgroup2 mount that shows its hierarchy from the root (that of our cgroup namespace). */
static int find_mount(char *ret_path, size_t size)
{
        FILE *f = fopen("/proc/self/mountinfo", "re");
        char line[2 * PATH_MAX], root[PATH_MAX], at[PATH_MAX], type[64];
        int found = -ENOENT;

        if (!f)
                return -errno;
        while (found && fgets(line, sizeof(line), f)) {
                char *dash = strstr(line, " - ");

                if (!dash || sscanf(dash + 3, "%63s", type) != 1 || strcmp(type, "cgroup2") != 0)
                        continue;
                if (sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2 || strcmp(root, "/") != 0)
                        continue;
                unescape(at);
                found = (size_t)snprintf(ret_path, size, "%s", at) < size ? 0 : -ENAMETOOLONG;
        }
        (void)fclose(f); /* read only */
        return found;
}

/* The path behind "0::" of /proc/self/cgroup, "/" if there is none. */
static void find_own(char *ret_path, size_t size)
{
        FILE *f = fopen("/proc/self/cgroup", "re");
        char line[PATH_MAX + 8];

        (void)snprintf(ret_path, size, "/");
        while (f && fgets(line, sizeof(line), f)) {
                if (strncmp(line, "0::/", 4) != 0)
                        continue;
                line[strcspn(line, "\n")] = '\0';
                if (strlen(line + 3) < size)
                        memcpy(ret_path, line + 3, strlen(line + 3) + 1);
        }
        if (f)
                (void)fclose(f); /* read only */
}

/* Root may write everywhere, so for root a directory is its own only where systemd says so (Delegate=). */
static bool is_delegated(const char *path)
{
        static const char *const names[] = {"trusted.delegate", "user.delegate"};
        char value[4];

        if (geteuid() != 0)
                return access(path, W_OK) == 0;
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (getxattr(path, names[i], value, sizeof(value)) == 1 && value[0] == '1')
                        return true;
        return false;
}

int probe_home_find(char *ret_path, size_t path_size, char *ret_why, size_t why_size)
{
        char mount[PATH_MAX], own[PATH_MAX], dir[2 * PATH_MAX];
        int r = find_mount(mount, sizeof(mount));

        if (r < 0) {
                (void)snprintf(ret_why, why_size, "no cgroup v2 hierarchy is mounted (/proc/self/mountinfo)");
                return r;
        }
        find_own(own, sizeof(own));
        (void)snprintf(dir, sizeof(dir), "%s%s", mount, own);
        if (strcmp(own, "/") != 0 && strncmp(own, "/..", 3) != 0 && strlen(dir) < path_size && is_delegated(dir)) {
                memcpy(ret_path, dir, strlen(dir) + 1);
                (void)snprintf(ret_why, why_size, "own delegated cgroup %.180s", dir);
                return 0;
        }
        if (access(mount, W_OK) < 0) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "%.90s: %s; own cgroup %.90s is not delegated to us", mount,
                        strerrordesc_np(-r), own);
                return r;
        }
        if (strlen(mount) >= path_size)
                return -ENAMETOOLONG;
        memcpy(ret_path, mount, strlen(mount) + 1);
        (void)snprintf(ret_why, why_size, "%.120s, the root of the hierarchy; own cgroup is not delegated", mount);
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
