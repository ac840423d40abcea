/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <mntent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "base/error.h"

#define LEVELS_MAX 64 /* from an incarnation up to the root of the hierarchy */

/* ---- who may write */

static bool may_write(const struct stat *st, uid_t uid, gid_t gid, const gid_t *groups, uint32_t n_groups)
{
        if (uid == 0)
                return true;
        if (st->st_uid == uid)
                return true; /* whatever the mode: it is the owner's to change */
        if (st->st_mode & S_IWOTH)
                return true;
        if (!(st->st_mode & S_IWGRP))
                return false;
        for (uint32_t i = 0; i < n_groups; i++)
                if (groups[i] == st->st_gid)
                        return true;
        return st->st_gid == gid;
}

void confine_init(Confine *confine, int dir_fd, uid_t uid, gid_t gid, const gid_t *groups, uint32_t n_groups)
{
        _cleanup_fd_ int at = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct stat first, st;

        confine->writable = true; /* unless it is seen that it is not */
        if (at < 0 || fstat(at, &first) < 0)
                return;
        for (unsigned i = 0; i < LEVELS_MAX; i++) {
                int up;

                if (fstatat(at, "cgroup.procs", &st, AT_SYMLINK_NOFOLLOW) < 0) {
                        confine->writable = errno != ENOENT || i == 0;
                        return; /* above the root of the mount */
                }
                if (may_write(&st, uid, gid, groups, n_groups))
                        return;
                up = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (up < 0)
                        return;
                (void)fd_close(at);
                at = up;
                if (fstat(at, &st) < 0)
                        return;
                if (st.st_dev != first.st_dev)
                        break;
        }
        confine->writable = false;
}

void confine_done(Confine *confine)
{
        confine->mnt_fd = fd_close(confine->mnt_fd);
}

/* ---- the namespace */

typedef struct Mounts {
        char **paths;
        size_t n;
} Mounts;

static void mounts_done(Mounts *mounts)
{
        for (size_t i = 0; i < mounts->n; i++)
                free(mounts->paths[i]);
        free(mounts->paths);
}

/* Of our own namespace: those of the copy have the same paths. */
static int find_mounts(Mounts *ret)
{
        FILE *f = setmntent("/proc/self/mounts", "re");
        char buffer[2 * PATH_MAX];
        struct mntent entry;
        int r = 0;

        if (!f)
                return -errno;
        while (!r && getmntent_r(f, &entry, buffer, sizeof(buffer))) {
                char **paths;

                if (strcmp(entry.mnt_type, "cgroup2") != 0 && strcmp(entry.mnt_type, "cgroup") != 0)
                        continue;
                paths = reallocarray(ret->paths, ret->n + 1, sizeof(*paths));
                if (paths)
                        ret->paths = paths;
                if (paths && (ret->paths[ret->n] = strdup(entry.mnt_dir)))
                        ret->n++;
                else
                        r = -ENOMEM;
        }
        (void)endmntent(f); /* read only */
        return r;
}

/* By a descriptor: what else may be mounted over it there is not ours to change. */
static int make_one_read_only(const char *path)
{
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
        _cleanup_fd_ int fd = open(path, O_PATH | O_CLOEXEC | O_NOFOLLOW);
        struct statfs fs;

        if (fd < 0 || fstatfs(fd, &fs) < 0)
                return -errno;
        if ((unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC && (unsigned long)fs.f_type != CGROUP_SUPER_MAGIC)
                return -ENOENT;
        return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

static int make_read_only(const Mounts *mounts)
{
        unsigned n = 0;

        for (size_t i = 0; i < mounts->n; i++) {
                int r = make_one_read_only(mounts->paths[i]);

                if (r == 0)
                        n++;
                else if (r != -ENOENT && r != -EINVAL) /* gone, or covered by another mount: nobody reaches it by that path */
                        return r;
        }
        return n > 0 ? 0 : -ENOENT;
}

typedef struct Making {
        Mounts mounts;
        int r; /* the descriptor, or -errno */
} Making;

/* unshare() and setns() are about the calling thread alone, and what it holds ends with it but for the descriptor. */
static void *make_in_thread(void *userdata)
{
        Making *making = userdata;
        struct stat before, after;
        int fd;

        if (stat("/", &before) < 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
                making->r = -errno;
                return NULL;
        }
        making->r = make_read_only(&making->mounts);
        if (making->r)
                return NULL;
        fd = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
                making->r = -errno;
                return NULL;
        }
        /* Whoever enters begins at its root: is that where we are? */
        if (setns(fd, CLONE_NEWNS) < 0 || stat("/", &after) < 0)
                making->r = -errno;
        else if (before.st_dev != after.st_dev || before.st_ino != after.st_ino)
                making->r = -EXDEV;
        else
                making->r = TAKE_FD(fd);
        (void)fd_close(fd);
        return NULL;
}

int confine_make_namespace(void)
{
        Making making = {};
        pthread_t thread;
        int r = find_mounts(&making.mounts);

        if (!r)
                r = -pthread_create(&thread, NULL, make_in_thread, &making);
        if (!r) {
                (void)pthread_join(thread, NULL);
                r = making.r;
        }
        mounts_done(&making.mounts);
        return r;
}

int confine_namespace(Confine *confine)
{
        int r;

        if (!confine->writable || geteuid() != 0)
                return -1;
        (void)pthread_mutex_lock(&confine->lock);
        if (!confine->tried) {
                r = confine_make_namespace();
                confine->tried = true;
                if (r >= 0)
                        confine->mnt_fd = r;
                else
                        confine->error = -r;
        }
        r = confine->mnt_fd;
        (void)pthread_mutex_unlock(&confine->lock);
        return r;
}

bool confine_is_apart(pid_t pid)
{
        char name[64], ours[64], theirs[64];
        ssize_t n, m;

        if (procstat_is_executing(pid))
                return false;
        (void)snprintf(name, sizeof(name), "/proc/%d/ns/mnt", (int)pid);
        n = readlink("/proc/self/ns/mnt", ours, sizeof(ours));
        m = readlink(name, theirs, sizeof(theirs));
        return n > 0 && m > 0 && (n != m || memcmp(ours, theirs, (size_t)n) != 0);
}
