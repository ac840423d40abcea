/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"

#define N_LEVELS      (CGROUP_DEPTH_MAX + 2)
#define LISTING_SIZE  2048
#define BUSY_STEP_MAX (50 * NSEC_PER_MSEC)

/* One open directory on the way down, and where to go on reading when we come back up to it. */
typedef struct Level {
        int fd;
        off_t next;
        char name[256]; /* of the directory itself, in its parent */
} Level;

static int open_dir(int parent_fd, const char *name)
{
        int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

int cgroup_make(int parent_fd, const char *name, int *ret_fd)
{
        int fd;

        if (mkdirat(parent_fd, name, 0700) < 0)
                return errno == EEXIST ? CGROUP_E_EXISTS : error_origin(-errno);
        fd = open_dir(parent_fd, name);
        if (fd < 0) {
                (void)unlinkat(parent_fd, name, AT_REMOVEDIR); /* nobody can be in it yet */
                return error_origin(fd);
        }
        *ret_fd = fd;
        return 0;
}

int cgroup_open(int parent_fd, const char *name, int *ret_fd)
{
        int fd = open_dir(parent_fd, name);

        if (fd < 0)
                return fd; /* -ENOENT is an answer */
        *ret_fd = fd;
        return 0;
}

int cgroup_open_file(int dir_fd, const char *name, int flags)
{
        int fd = openat(dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 ? -errno : fd;
}

int cgroup_write(int dir_fd, const char *name, const char *text)
{
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, name, O_WRONLY);

        if (fd < 0)
                return fd;
        return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

#define STRINGIFY_(x) #x
#define STRINGIFY(x)  STRINGIFY_(x)

int cgroup_limit_descent(int dir_fd)
{
        int r = cgroup_write(dir_fd, "cgroup.max.depth", STRINGIFY(CGROUP_DEPTH_MAX));

        return r < 0 ? r : cgroup_write(dir_fd, "cgroup.max.descendants", STRINGIFY(CGROUP_DESCENDANTS_MAX));
}

/* Nothing to read from it: a pidfd, of a reaper, which ends when nobody is left. */
static bool is_pidfd(int error)
{
        return error == EINVAL || error == ESPIPE || error == EBADF;
}

static int pidfd_populated(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        int n = poll(&p, 1, 0);

        return n < 0 ? -errno : n == 0;
}

static int is_gone(int err)
{
        return err == -ENOENT || err == -ENODEV;
}

int cgroup_open_events(int dir_fd)
{
        int fd = cgroup_open_file(dir_fd, "cgroup.events", O_RDONLY);

        if (fd != -ENOENT || place_is_cgroup(dir_fd))
                return fd;
        if (cgroup_is_gone(dir_fd))
                return -ENOENT;
        fd = place_reaper(dir_fd, NULL, NULL);
        return fd >= 0 ? fd : open_dir(dir_fd, ".");
}

int cgroup_open_kill(int dir_fd)
{
        int fd = cgroup_open_file(dir_fd, "cgroup.kill", O_WRONLY);

        return fd != -ENOENT || place_is_cgroup(dir_fd) || cgroup_is_gone(dir_fd) ? fd : open_dir(dir_fd, ".");
}

bool cgroup_is_gone(int dir_fd)
{
        struct stat st;

        if (place_is_cgroup(dir_fd))
                return faccessat(dir_fd, "cgroup.procs", F_OK, 0) < 0 && is_gone(-errno);
        return fstat(dir_fd, &st) == 0 && st.st_nlink == 0;
}

short cgroup_events_mask(int events_fd)
{
        char byte;

        if (pread(events_fd, &byte, 1, 0) >= 0)
                return POLLPRI;
        return is_pidfd(errno) ? POLLIN : errno == EISDIR ? 0 : POLLPRI;
}

int cgroup_populated(int events_fd)
{
        static const char key[] = "populated ";
        char buf[256];
        const char *at;
        ssize_t n;

        n = pread(events_fd, buf, sizeof(buf) - 1, 0);
        if (n < 0 && errno == EISDIR)
                return place_populated(events_fd);
        if (n < 0 && is_pidfd(errno))
                return pidfd_populated(events_fd);
        if (n < 0)
                return errno == ENODEV ? 0 : -errno;
        buf[n] = '\0';
        for (at = buf; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
                if (strncmp(at, key, sizeof(key) - 1) == 0)
                        return at[sizeof(key) - 1] != '0';
        return -EPROTO;
}

/* Opens the next child directory of @level and leaves the level ready to go on behind it. 0: there are no more. */
static int next_child(Level *level, Level *ret_child)
{
        char listing[LISTING_SIZE] __attribute__((aligned(8)));
        ssize_t n;
        int fd;

        for (;;) {
                if (lseek(level->fd, level->next, SEEK_SET) < 0)
                        return -errno;
                n = getdents64(level->fd, listing, sizeof(listing));
                if (n <= 0)
                        return n < 0 && !is_gone(-errno) ? -errno : 0;
                for (ssize_t at = 0; at < n;) {
                        struct dirent64 *entry = (struct dirent64 *)(void *)(listing + at);

                        at += entry->d_reclen;
                        level->next = entry->d_off;
                        if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 ||
                                strcmp(entry->d_name, "..") == 0 || strlen(entry->d_name) >= sizeof(ret_child->name))
                                continue;
                        fd = open_dir(level->fd, entry->d_name);
                        if (is_gone(fd))
                                continue;
                        if (fd < 0)
                                return fd;
                        ret_child->fd = fd;
                        ret_child->next = 0;
                        memcpy(ret_child->name, entry->d_name, strlen(entry->d_name) + 1);
                        return 1;
                }
        }
}

int cgroup_walk(int dir_fd, CgroupVisit visit, void *userdata)
{
        Level levels[N_LEVELS], child;
        int depth = 0, deep = 0, r;

        r = visit(dir_fd, userdata);
        if (r)
                return r;
        levels[0] = (Level){.fd = open_dir(dir_fd, ".")}; /* our own position in the listing */
        if (levels[0].fd < 0)
                return is_gone(levels[0].fd) ? 0 : levels[0].fd;
        while (depth >= 0) {
                r = next_child(&levels[depth], &child);
                if (r == 1) {
                        r = visit(child.fd, userdata);
                        if (!r && depth + 1 < N_LEVELS) {
                                levels[++depth] = child;
                                continue;
                        }
                        child.fd = fd_close(child.fd);
                        deep |= !r;
                } else if (!r) {
                        levels[depth].fd = fd_close(levels[depth].fd);
                        depth--;
                }
                if (r)
                        break;
        }
        for (; depth >= 0; depth--)
                levels[depth].fd = fd_close(levels[depth].fd);
        return r ? r : deep ? CGROUP_E_DEEP : 0;
}

/* The process a thread belongs to, from /proc (status is safe to read: it takes no lock of the process). */
static pid_t thread_to_process(pid_t tid)
{
        char path[64] = "/proc/", *to = path + 6, digits[16], buf[1024], *at;
        _cleanup_fd_ int fd = -1;
        int n_digits = 0;
        pid_t pid = 0;
        ssize_t n;

        for (pid_t left = tid; left > 0 && n_digits < 15; left /= 10)
                digits[n_digits++] = (char)('0' + left % 10);
        while (n_digits > 0)
                *to++ = digits[--n_digits];
        memcpy(to, "/status", sizeof("/status"));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        n = read(fd, buf, sizeof(buf) - 1);
        if (n <= 0)
                return 0;
        buf[n] = '\0';
        at = strstr(buf, "\nTgid:\t"); /* a comm cannot forge it: its newlines are escaped */
        for (at = at ? at + 7 : NULL; at && *at >= '0' && *at <= '9'; at++)
                pid = pid * 10 + (*at - '0');
        return pid;
}

static int list_pids(int fd, int threads, CgroupPid each, void *userdata)
{
        char buf[LISTING_SIZE];
        uint64_t number = 0;
        int digits = 0, r;
        ssize_t n;

        while ((n = read(fd, buf, sizeof(buf))) > 0) {
                for (ssize_t i = 0; i < n; i++) {
                        if (buf[i] >= '0' && buf[i] <= '9') { /* a number may be cut by the buffer's end */
                                number = number * 10 + (uint64_t)(buf[i] - '0');
                                digits++;
                                continue;
                        }
                        /* 0 stands for a process outside our pid namespace: there is no name for it here */
                        if (digits && number > 0 && number <= INT32_MAX) {
                                pid_t pid = threads ? thread_to_process((pid_t)number) : (pid_t)number;

                                r = pid > 0 ? each(pid, userdata) : 0;
                                if (r)
                                        return r;
                        }
                        number = 0;
                        digits = 0;
                }
        }
        return n < 0 ? -errno : 0;
}

int cgroup_each_process(int dir_fd, CgroupPid each, void *userdata)
{
        static const char *const names[] = {"cgroup.procs", "cgroup.threads"};
        int r = 0;

        for (int threads = 0; threads < 2; threads++) {
                _cleanup_fd_ int fd = cgroup_open_file(dir_fd, names[threads], O_RDONLY);

                r = fd < 0 ? fd : list_pids(fd, threads, each, userdata);
                if (r != -EOPNOTSUPP) /* a threaded cgroup says so, and lists threads only */
                        break;
        }
        return is_gone(r) ? place_each_process(dir_fd, each, userdata) : r;
}

static int count_one(pid_t pid, void *userdata)
{
        return ++*(int *)userdata < CGROUP_COUNT_MAX ? 0 : CGROUP_E_MANY;
}

static int count_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, count_one, userdata);
}

int cgroup_count(int dir_fd)
{
        int n = 0, r;

        if (!place_is_cgroup(dir_fd))
                return place_count(dir_fd);
        r = cgroup_walk(dir_fd, count_cgroup, &n);
        return r < 0 ? r : n;
}

/*
 * One pass: removes what it can below @dir_fd, children first. What is still busy stays, and is tried in the next
 * pass.
 */
static int remove_below(int dir_fd)
{
        Level levels[N_LEVELS];
        int depth = 0, deep = 0, r;

        levels[0] = (Level){.fd = open_dir(dir_fd, ".")};
        if (levels[0].fd < 0)
                return is_gone(levels[0].fd) ? 0 : levels[0].fd;
        for (;;) {
                Level *level = &levels[depth];

                if (depth + 1 < N_LEVELS) {
                        r = next_child(level, level + 1);
                        if (r < 0)
                                break;
                        if (r > 0) {
                                depth++;
                                continue;
                        }
                } else
                        deep = 1;
                (void)place_forget(level->fd); /* a cgroup has nothing of the kind; whoever lives there keeps the directory */
                level->fd = fd_close(level->fd);
                if (depth-- == 0)
                        return deep ? CGROUP_E_DEEP : 0;
                (void)unlinkat(levels[depth].fd, level->name, AT_REMOVEDIR); /* EBUSY: the parent's rmdir will tell */
        }
        for (; depth >= 0; depth--)
                levels[depth].fd = fd_close(levels[depth].fd);
        return r;
}

int cgroup_remove_tree(int parent_fd, const char *name, nsec_t until)
{
        _cleanup_fd_ int dir_fd = -1, events_fd = -1;
        struct pollfd p = {};
        nsec_t step = NSEC_PER_MSEC;
        int r = 0;

        for (;;) {
                nsec_t now;

                if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                        return 0;
                if (errno != EBUSY && errno != ENOTEMPTY)
                        return error_origin(-errno);
                now = clock_now();
                if (r > 0 && now >= until)
                        return r;
                if (dir_fd < 0) {
                        dir_fd = open_dir(parent_fd, name);
                        if (dir_fd < 0)
                                return is_gone(dir_fd) ? 0 : error_origin(dir_fd);
                        events_fd = cgroup_open_events(dir_fd); /* none: the steps alone */
                        p.events = events_fd >= 0 ? cgroup_events_mask(events_fd) : 0;
                }
                if (events_fd >= 0)
                        (void)cgroup_populated(events_fd); /* arms POLLPRI for what changes from here on */
                r = remove_below(dir_fd);
                if (r < 0)
                        return error_origin(r);
                if (r == 0 && unlinkat(parent_fd, name, AT_REMOVEDIR) == 0)
                        return 0;
                if (r == 0)
                        r = CGROUP_E_BUSY;
                if (now >= until)
                        return r;
                p.fd = events_fd; /* poll ignores a negative fd */
                (void)poll(&p, 1, nsec_poll_ms(MIN(nsec_add(now, step), until), now));
                step = MIN(step * 2, BUSY_STEP_MAX);
        }
}
