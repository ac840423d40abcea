/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/instance.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "supervisor/cgroup.h"
#include "supervisor/reaper.h"
#include "supervisor/sweep.h"

#define INSTANCE_BASE       "tidegate"
#define INSTANCE_DAEMON     "daemon-"
#define INSTANCE_TRIES      16
#define INSTANCE_SWEEP_SPAN (3 * NSEC_PER_SEC)

static int open_base(const char *root)
{
        _cleanup_fd_ int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int fd;

        if (root_fd < 0)
                return -errno;
        /* Nobody else may list it, as the runtime directory: see close_to_listing(). */
        if (mkdirat(root_fd, INSTANCE_BASE, 0711) < 0 && errno != EEXIST)
                return -errno;
        fd = openat(root_fd, INSTANCE_BASE, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
                fd = -errno;
                (void)unlinkat(root_fd, INSTANCE_BASE, AT_REMOVEDIR); /* EBUSY when others are there */
        }
        return fd;
}

/* A lock that somebody took on a directory that was then removed is worthless: is it still the one of that name? */
static int is_still_there(int base_fd, const char *name, int dir_fd)
{
        struct stat there, ours;

        return fstatat(base_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(dir_fd, &ours) == 0 &&
               there.st_ino == ours.st_ino;
}

/* 0: *ret_fd is locked and ours to sweep. Somebody else's or gone: -EWOULDBLOCK, -ENOENT, -EACCES. */
static int lock_dir(int base_fd, const char *name, int *ret_fd)
{
        _cleanup_fd_ int fd = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return -errno;
        if (!is_still_there(base_fd, name, fd))
                return -ENOENT;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static bool is_populated(int dir_fd)
{
        _cleanup_fd_ int fd = cgroup_open_events(dir_fd);

        return fd >= 0 && cgroup_populated(fd) != 0;
}

unsigned instance_sweep(int base_fd, const char *ours, nsec_t until)
{
        int dup_fd = openat(base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = dup_fd >= 0 ? fdopendir(dup_fd) : NULL;
        unsigned n = 0;
        struct dirent *e;

        if (!dir) {
                (void)fd_close(dup_fd);
                return 0;
        }
        while (clock_now() < until && (e = readdir(dir))) {
                _cleanup_fd_ int fd = -1;
                SweepResult result;

                if (e->d_type != DT_DIR || e->d_name[0] == '.' || (ours && strcmp(e->d_name, ours) == 0) || lock_dir(base_fd, e->d_name, &fd))
                        continue;
                if (!ours && strncmp(e->d_name, INSTANCE_DAEMON, strlen(INSTANCE_DAEMON)) == 0 && is_populated(fd))
                        continue; /* its nodes wait for the next daemon on its runtime directory, which adopts them */
                (void)sweep_kill(fd, until, &result); /* whoever stays is tried again by the next command */
                if (cgroup_remove_tree(base_fd, e->d_name, until) == 0)
                        n++;
        }
        (void)closedir(dir);
        return n;
}

static int make_one(Instance *instance, const char *prefix)
{
        uint32_t number;
        int r;

        if (getrandom(&number, sizeof(number), 0) != sizeof(number))
                return error_origin(-errno);
        (void)snprintf(instance->name, sizeof(instance->name), "%.8s-%08x%.13s", prefix, number, enforcer_suffix(instance->enforcer));
        if (mkdirat(instance->base_fd, instance->name, 0700) < 0)
                return -errno; /* ENOENT: another instance's end just removed the base */
        r = lock_dir(instance->base_fd, instance->name, &instance->dir_fd);
        if (r)
                (void)unlinkat(instance->base_fd, instance->name, AT_REMOVEDIR); /* the sweeper that holds it does the same */
        return r;
}

/* Where it is to be made. */
static int find_root(Enforcer enforcer, char ret_path[static PATH_MAX], char *ret_why, size_t why_size)
{
        char why[256] = "";
        int r;

        if (enforcer_has_cgroup(enforcer)) {
                r = cgroup_root_find(ret_path, why, sizeof(why));
                if (r)
                        (void)snprintf(ret_why, why_size, "no cgroup v2 directory to run in: %s", why);
                return r;
        }
        r = place_root_make(ret_path);
        if (r)
                (void)snprintf(ret_why, why_size, "cannot use %.200s: %s", ret_path,
                        r == -EPERM ? "it is a link, or belongs to somebody else" : strerror(-r));
        return r;
}

/* The root is nothing that outlives the last instance in it. */
static void remove_root(const char *path)
{
        char root[PATH_MAX], *slash;

        (void)snprintf(root, sizeof(root), "%s", path);
        for (int i = 0; i < 2; i++) { /* <root>/tidegate/<instance> */
                slash = strrchr(root, '/');
                if (!slash)
                        return;
                *slash = '\0';
        }
        slash = strrchr(root, '/');
        if (slash && strncmp(slash + 1, PLACE_ROOT_NAME, strlen(PLACE_ROOT_NAME)) == 0)
                (void)rmdir(root); /* ENOTEMPTY: others are there */
}

static int make_below(Instance *ret, const char *root, const char *prefix, Enforcer enforcer, char *ret_why, size_t why_size)
{
        Instance instance = INSTANCE_NULL;
        char found[PATH_MAX];
        int r = enforcer_probe(enforcer, ret_why, why_size);

        if (r)
                return r;
        if (!root) {
                r = find_root(enforcer, found, ret_why, why_size);
                if (r)
                        return r;
                root = found;
        }
        r = -EAGAIN;
        instance.enforcer = enforcer;
        for (unsigned i = 0; i < INSTANCE_TRIES; i++) {
                instance_done(&instance);
                r = instance.base_fd = open_base(root);
                if (r < 0)
                        break;
                if (place_is_cgroup(instance.base_fd) != enforcer_has_cgroup(enforcer)) {
                        r = -EINVAL;
                        break;
                }
                if (i == 0)
                        (void)instance_sweep(instance.base_fd, NULL, nsec_add(clock_now(), INSTANCE_SWEEP_SPAN));
                r = make_one(&instance, prefix);
                if (r != -ENOENT && r != -EEXIST && r != -EWOULDBLOCK)
                        break;
        }
        if (r) {
                if (instance.base_fd >= 0) /* made for nothing; EBUSY when others are there */
                        (void)unlinkat(instance.base_fd, "../" INSTANCE_BASE, AT_REMOVEDIR);
                if (r == -EINVAL)
                        (void)snprintf(ret_why, why_size, "%.200s is %s, and the enforcer is %s", root, enforcer_has_cgroup(enforcer) ? "no cgroup v2 directory" : "a cgroup",
                                enforcer_name(enforcer));
                else
                        (void)snprintf(ret_why, why_size, "cannot make a %s below %s/" INSTANCE_BASE, enforcer_has_cgroup(enforcer) ? "cgroup" : "directory", root);
                instance_done(&instance);
                return error_origin(r);
        }
        (void)snprintf(instance.path, sizeof(instance.path), "%.3900s/" INSTANCE_BASE "/%s", root, instance.name);
        *ret = instance;
        return 0;
}

int instance_make(Instance *ret, const char *root, const char *prefix, Enforcer enforcer, char *ret_why, size_t why_size)
{
        char why[256];
        int r = make_below(ret, root, prefix, enforcer == ENFORCER_AUTO ? ENFORCER_CGROUP : enforcer, ret_why, why_size);

        if (!r || enforcer != ENFORCER_AUTO || root) /* a directory that was named is the one that is meant */
                return r;
        return make_below(ret, NULL, prefix, enforcer_fallback(), why, sizeof(why)) ? r : 0;
}

int instance_reopen(Instance *ret, const char *root, const char *name)
{
        Instance instance = INSTANCE_NULL;
        char found[PATH_MAX], base[PATH_MAX + 16], why[256];
        int r = root ? 0 : enforcer_has_cgroup(enforcer_of_name(name)) ? cgroup_root_find(found, why, sizeof(why)) : place_root_find(found);

        if (r)
                return r;
        root = root ? root : found;
        (void)snprintf(base, sizeof(base), "%s/" INSTANCE_BASE, root);
        instance.base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (instance.base_fd >= 0)
                instance.dir_fd = openat(instance.base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (instance.dir_fd < 0) {
                r = -errno;
                instance_done(&instance);
                return r;
        }
        (void)flock(instance.dir_fd, LOCK_EX | LOCK_NB); /* its keepers may have it */
        (void)snprintf(instance.name, sizeof(instance.name), "%.31s", name);
        instance.enforcer = enforcer_of_instance(instance.dir_fd);
        (void)snprintf(instance.path, sizeof(instance.path), "%.3900s/" INSTANCE_BASE "/%s", root, instance.name);
        *ret = instance;
        return 0;
}

int instance_remove(Instance *instance, nsec_t until)
{
        int r = cgroup_remove_tree(instance->base_fd, instance->name, until);

        if (r == 0) { /* the last one out removes the base; EBUSY when it was not the last */
                (void)unlinkat(instance->base_fd, "../" INSTANCE_BASE, AT_REMOVEDIR);
                remove_root(instance->path);
        }
        return r > 0 ? -EBUSY : r;
}

void instance_done(Instance *instance)
{
        instance->dir_fd = fd_close(instance->dir_fd);
        instance->base_fd = fd_close(instance->base_fd);
}
