/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

#define RUNTIME_GROUP   "tidegate"
#define RUNTIME_BACKLOG 4096 /* the kernel cuts it to somaxconn */
#define RUNTIME_LOCK_SPAN (2 * NSEC_PER_SEC) /* from the hang-up of a dying process to its last close */

static const char *const folders[] = {"keeper", "journal"};

static int default_path(char *ret, size_t size)
{
        const char *xdg = getenv("XDG_RUNTIME_DIR");
        int n;

        if (geteuid() == 0)
                n = snprintf(ret, size, "/run/tidegate");
        else if (xdg && xdg[0] == '/')
                n = snprintf(ret, size, "%s/tidegate", xdg);
        else
                return -ENOENT;
        return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* A lock on a file that its holder has removed since we opened it keeps nobody else out. */
static bool lock_is_there(const Runtime *runtime)
{
        struct stat there, ours;

        return fstatat(runtime->dir_fd, "lock", &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(runtime->lock_fd, &ours) == 0 &&
               there.st_ino == ours.st_ino;
}

static int try_lock(Runtime *runtime, char *ret_why, size_t why_size)
{
        char pid[32] = "";

        runtime->lock_fd = fd_close(runtime->lock_fd);
        /* Whoever may open it may lock it, and keep the next daemon from its start when this one has died. */
        runtime->lock_fd = openat(runtime->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (runtime->lock_fd < 0) {
                (void)snprintf(ret_why, why_size, "cannot make %.200s/lock: %s", runtime->path, strerror(errno));
                return error_origin(-errno);
        }
        (void)fchmod(runtime->lock_fd, 0600); /* of an older version, or another mask */
        if (flock(runtime->lock_fd, LOCK_EX | LOCK_NB) == 0)
                return 0;
        if (errno != EWOULDBLOCK)
                return error_origin(-errno);
        if (pread(runtime->lock_fd, pid, sizeof(pid) - 1, 0) < 0)
                pid[0] = '\0';
        pid[strspn(pid, "0123456789")] = '\0';
        (void)snprintf(ret_why, why_size, "another tidegated (pid %s) runs in %.200s", pid[0] ? pid : "unknown", runtime->path);
        return RUNTIME_E_TAKEN;
}

int runtime_write_pid(Runtime *runtime)
{
        char text[64];
        int n = snprintf(text, sizeof(text), "%d\n%llu\n", (int)getpid(), (unsigned long long)clock_now());

        if (ftruncate(runtime->lock_fd, 0) < 0 || pwrite(runtime->lock_fd, text, (size_t)n, 0) != n)
                return error_origin(-errno);
        return 0;
}

/* "pid\nsince\n", and once it has refused "n\nwhy\n". */
static size_t holder_length(const char *mark)
{
        const char *end = strchr(mark, '\n');

        end = end ? strchr(end + 1, '\n') : NULL;
        return end ? (size_t)(end + 1 - mark) : strlen(mark);
}

/* Written over what is there and cut then: whoever reads meanwhile still finds the pid. */
int runtime_write_refusal(const Runtime *runtime, unsigned n, const char *why)
{
        char text[1024] = "";
        ssize_t size = pread(runtime->lock_fd, text, 64, 0);
        size_t at;
        int length;

        text[MAX(size, (ssize_t)0)] = '\0';
        at = holder_length(text);
        length = snprintf(text, sizeof(text), "%u\n%.800s\n", n, why);
        if (size <= 0 || pwrite(runtime->lock_fd, text, (size_t)length, (off_t)at) != length || ftruncate(runtime->lock_fd, (off_t)at + length) < 0)
                return error_origin(size <= 0 ? -EIO : -errno);
        return 0;
}

bool runtime_refusal(const char *before, const char *after, char *ret_why, size_t why_size)
{
        size_t n = holder_length(after);
        const char *why = strchr(after + n, '\n');

        if (holder_length(before) != n || strncmp(before, after, n) != 0 || !why)
                return false;
        (void)snprintf(ret_why, why_size, "%.*s", (int)strcspn(why + 1, "\n"), why + 1);
        return true;
}

int runtime_find_guard(const char *path, int *ret_pid, char *ret_mark, size_t mark_size, char *ret_why, size_t why_size)
{
        _cleanup_fd_ int fd = -1;
        char chosen[PATH_MAX + 8];
        ssize_t n;
        int r = 0;

        if (path)
                (void)snprintf(chosen, PATH_MAX, "%s", path);
        else
                r = default_path(chosen, PATH_MAX);
        if (!r) {
                memcpy(chosen + strlen(chosen), "/lock", sizeof("/lock"));
                fd = open(chosen, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
                n = fd < 0 ? -1 : pread(fd, ret_mark, mark_size - 1, 0);
                ret_mark[MAX(n, (ssize_t)0)] = '\0';
                *ret_pid = atoi(ret_mark);
        }
        if (!r && (*ret_pid <= 0 || flock(fd, LOCK_SH | LOCK_NB) == 0)) /* ours for a moment: nobody holds it */
                r = -ESRCH;
        if (r)
                (void)snprintf(ret_why, why_size, "no daemon runs in %.200s", r == -ESRCH ? chosen : "the usual place");
        return r;
}

static int take_lock(Runtime *runtime, char *ret_why, size_t why_size)
{
        int r;

        do {
                r = try_lock(runtime, ret_why, why_size);
                if (r)
                        return r;
        } while (!lock_is_there(runtime));
        r = runtime_write_pid(runtime);
        if (r) {
                (void)snprintf(ret_why, why_size, "cannot write %.200s/lock: %s", runtime->path, strerror(-r));
                (void)unlinkat(runtime->dir_fd, "lock", 0); /* it is ours, and useless */
        }
        return r;
}

/* Who may connect is decided by the file's mode; what they may do, by their credentials. No such group: everybody may connect. */
static int open_to(const Runtime *runtime, const char *name, mode_t for_group, mode_t for_all)
{
        struct group *group = geteuid() == 0 ? getgrnam(RUNTIME_GROUP) : NULL;

        if (geteuid() != 0)
                return fchmodat(runtime->dir_fd, name, 0600, 0) < 0 ? -errno : 0;
        if (group && fchownat(runtime->dir_fd, name, 0, group->gr_gid, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        return fchmodat(runtime->dir_fd, name, group ? for_group : for_all, 0) < 0 ? -errno : 0;
}

/*
 * Bound through /proc/self/fd, so that a long path does not matter, and by a name of its own: only when it listens and may be connected
 * to has it the name by which it is found, in place of a predecessor's. We hold the lock.
 */
static int listen_at(const Runtime *runtime, const char *name, int type, bool rights, mode_t for_group, mode_t for_all, int *ret)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        char fresh[40];
        int off = 0, r;

        if (fd < 0)
                return error_origin(-errno);
        if (!rights) /* accepted sockets inherit it; older kernels: no room is given for descriptors */
                (void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
        (void)snprintf(fresh, sizeof(fresh), "%s.new", name);
        if (unlinkat(runtime->dir_fd, fresh, 0) < 0 && errno != ENOENT)
                return error_origin(-errno);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", runtime->dir_fd, fresh);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return error_origin(-errno);
        r = open_to(runtime, fresh, for_group, for_all);
        if (r == 0 && (listen(fd, RUNTIME_BACKLOG) < 0 || renameat(runtime->dir_fd, fresh, runtime->dir_fd, name) < 0))
                r = error_origin(-errno);
        if (r) {
                (void)unlinkat(runtime->dir_fd, fresh, 0);
                return r;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int make_sockets(Runtime *runtime, char *ret_why, size_t why_size)
{
        int r = listen_at(runtime, "control.sock", SOCK_STREAM, false, 0660, 0666, &runtime->control_fd);

        if (!r)
                r = listen_at(runtime, "node.sock", SOCK_SEQPACKET, false, 0666, 0666, &runtime->node_fd);
        if (r)
                (void)snprintf(ret_why, why_size, "cannot make the sockets in %.200s: %s", runtime->path, strerror(-r));
        return r;
}

static int make_folders(Runtime *runtime, char *ret_why, size_t why_size)
{
        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                if (mkdirat(runtime->dir_fd, folders[i], 0700) < 0 && errno != EEXIST) {
                        (void)snprintf(ret_why, why_size, "cannot make %.200s/%s: %s", runtime->path, folders[i], strerror(errno));
                        return error_origin(-errno);
                }
        }
        return 0;
}

/*
 * Nobody else may list it: who lists a directory into a page that never comes keeps its lock meanwhile, and whoever makes, removes or
 * renames anything in there waits for that in the kernel, without an end. To connect is to know the name.
 */
static void close_to_listing(const Runtime *runtime)
{
        struct stat st;

        if (fstat(runtime->dir_fd, &st) == 0 && (st.st_mode & 044))
                (void)fchmod(runtime->dir_fd, st.st_mode & 07777 & ~044u); /* refused: as it was */
}

/* Nobody else may put files there, or have put it there: everything in it is believed. */
static int check_owner(const Runtime *runtime, char *ret_why, size_t why_size)
{
        struct stat st;

        if (fstat(runtime->dir_fd, &st) < 0)
                return error_origin(-errno);
        if (st.st_uid == geteuid() && !(st.st_mode & 022))
                return 0;
        (void)snprintf(ret_why, why_size, "%.200s belongs to uid %u with mode %03o; it must be ours, and writable by nobody else", runtime->path,
                (unsigned)st.st_uid, (unsigned)(st.st_mode & 0777));
        return error_origin(-EPERM);
}

static void read_instance(Runtime *runtime)
{
        _cleanup_fd_ int fd = openat(runtime->dir_fd, "instance", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n = fd < 0 ? -1 : read(fd, runtime->instance, sizeof(runtime->instance) - 1);

        runtime->instance[MAX(n, (ssize_t)0)] = '\0';
        runtime->instance[strspn(runtime->instance, "abcdefghijklmnopqrstuvwxyz0123456789-+.")] = '\0';
        if (runtime->instance[0] == '.')
                runtime->instance[0] = '\0';
}

int runtime_open(Runtime *ret, const char *path, char *ret_why, size_t why_size)
{
        Runtime runtime = RUNTIME_NULL;
        char chosen[PATH_MAX];
        bool locked;
        int r;

        r = path ? (strlen(path) < sizeof(chosen) ? (memcpy(chosen, path, strlen(path) + 1), 0) : -ENAMETOOLONG) : default_path(chosen, sizeof(chosen));
        if (r) {
                (void)snprintf(ret_why, why_size, path ? "--runtime-dir is too long" : "XDG_RUNTIME_DIR is not set; say --runtime-dir DIR");
                return r;
        }
        if (mkdir(chosen, 0711) < 0 && errno != EEXIST) {
                (void)snprintf(ret_why, why_size, "cannot make %.200s: %s", chosen, strerror(errno));
                return error_origin(-errno);
        }
        runtime.dir_fd = open(chosen, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (runtime.dir_fd < 0 || !realpath(chosen, runtime.path)) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "cannot open %.200s: %s", chosen, strerror(errno));
        }
        if (!r)
                r = check_owner(&runtime, ret_why, why_size);
        if (!r) {
                close_to_listing(&runtime);
                r = take_lock(&runtime, ret_why, why_size);
        }
        locked = r == 0;
        if (!r)
                read_instance(&runtime);
        if (!r)
                r = make_folders(&runtime, ret_why, why_size);
        if (!r)
                r = make_sockets(&runtime, ret_why, why_size);
        if (r) {
                if (locked && !runtime.instance[0]) /* else a dead daemon's dataflows live there: the next try adopts them */
                        runtime_remove(&runtime);
                else
                        runtime_done(&runtime);
                return r;
        }
        *ret = runtime;
        return 0;
}

int runtime_listen_keeper(const Runtime *runtime, unsigned slot, int *ret_fd)
{
        char name[32];

        (void)snprintf(name, sizeof(name), "keeper/%u.sock", slot);
        return listen_at(runtime, name, SOCK_SEQPACKET, true, 0600, 0600, ret_fd); /* orders to a keeper carry descriptors */
}

int runtime_listen_holder(const Runtime *runtime, int *ret_fd)
{
        return listen_at(runtime, RUNTIME_HOLDER, SOCK_SEQPACKET, true, 0600, 0600, ret_fd);
}

void runtime_forget_holder(const Runtime *runtime)
{
        (void)unlinkat(runtime->dir_fd, RUNTIME_HOLDER, 0); /* a stale name leads nobody astray: connecting is refused */
}

/* The kernel closes a dead process's files in no order: its socket may hang up before its lock is free. */
int runtime_take_lock(Runtime *runtime)
{
        nsec_t until = nsec_add(clock_now(), RUNTIME_LOCK_SPAN);
        char why[512];
        int r;

        while ((r = take_lock(runtime, why, sizeof(why))) == RUNTIME_E_TAKEN && clock_now() < until)
                (void)nanosleep(&(struct timespec){.tv_nsec = NSEC_PER_MSEC}, NULL);
        return r;
}

int runtime_note_instance(const Runtime *runtime, const char *name)
{
        _cleanup_fd_ int fd = openat(runtime->dir_fd, "instance.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

        if (fd < 0 || write(fd, name, strlen(name)) != (ssize_t)strlen(name))
                return error_origin(fd < 0 ? -errno : -ENOSPC);
        return renameat(runtime->dir_fd, "instance.new", runtime->dir_fd, "instance") < 0 ? error_origin(-errno) : 0;
}

static bool is_no_dot(const char *name)
{
        return name[0] != '.';
}

static bool is_page(const char *name)
{
        return strncmp(name, "status", 6) == 0 && (name[6] == '\0' || name[6] == '.');
}

/* Plain files and sockets. Needs no memory: the lack of it may be why the daemon ends. What stays is found by the next one. */
static void remove_files(int dir_fd, const char *folder, bool (*is_ours)(const char *name))
{
        char listing[4096] __attribute__((aligned(8)));
        _cleanup_fd_ int fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n;

        while (fd >= 0 && (n = getdents64(fd, listing, sizeof(listing))) > 0)
                for (ssize_t at = 0; at < n;) {
                        const struct dirent64 *e = (const struct dirent64 *)(const void *)(listing + at);

                        at += e->d_reclen;
                        if (is_ours(e->d_name))
                                (void)unlinkat(fd, e->d_name, 0);
                }
}

void runtime_remove(Runtime *runtime)
{
        static const char *const files[] = {
                "control.sock", "node.sock", RUNTIME_HOLDER, "instance", "control.sock.new", "node.sock.new", RUNTIME_HOLDER ".new", "instance.new"};

        if (runtime->dir_fd < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(files); i++)
                (void)unlinkat(runtime->dir_fd, files[i], 0);
        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                remove_files(runtime->dir_fd, folders[i], is_no_dot);
                (void)unlinkat(runtime->dir_fd, folders[i], AT_REMOVEDIR);
        }
        remove_files(runtime->dir_fd, ".", is_page);
        /* The log stays for whoever wants to know, and so does the directory then. The lock's file goes last. */
        (void)unlinkat(runtime->dir_fd, "lock", 0);
        (void)rmdir(runtime->path);
        runtime_done(runtime);
}

void runtime_done(Runtime *runtime)
{
        runtime->control_fd = fd_close(runtime->control_fd);
        runtime->node_fd = fd_close(runtime->node_fd);
        runtime->lock_fd = fd_close(runtime->lock_fd);
        runtime->dir_fd = fd_close(runtime->dir_fd);
}
