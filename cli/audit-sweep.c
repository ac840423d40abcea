/* SPDX-License-Identifier: Apache-2.0 */
/* What `audit --sweep` removes, each thing under its own lock. In a child process of the command. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/audit.h"
#include "cli/last-resort.h"
#include "cli/print.h"

#define DEPTH_MAX   32
#define REMOVE_SPAN NSEC_PER_SEC /* EBUSY outlives the last process by a moment */
#define REMOVE_STEP (10 * NSEC_PER_MSEC)
#define KILL_SPAN   (2 * NSEC_PER_SEC)

static json_t *kept(const char *where, const char *why)
{
        return json_pack("{ss ss ss}", "kind", "kept", "where", where, "why", why);
}

static json_t *swept(const char *where, unsigned n_killed)
{
        return json_pack("{ss ss sI}", "kind", "swept", "where", where, "killed", (json_int_t)n_killed);
}

static json_t *kept_for(const char *where, int r)
{
        return kept(where, r == -EWOULDBLOCK ? "somebody holds its lock now" : error_text(-r));
}

/* Children first. 0 or the first -errno. */
static int remove_groups(int parent_fd, const char *name, unsigned depth)
{
        int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *e;
        int r = 0;

        if (!dir) {
                r = fd < 0 ? -errno : -ENOMEM;
                (void)fd_close(fd);
                return r == -ENOENT ? 0 : r;
        }
        while (depth < DEPTH_MAX && (e = readdir(dir)))
                if (e->d_type == DT_DIR && e->d_name[0] != '.') {
                        int one = remove_groups(dirfd(dir), e->d_name, depth + 1);

                        r = r ? r : one;
                }
        (void)place_forget(dirfd(dir)); /* a cgroup has nothing of the kind */
        (void)closedir(dir);
        if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                r = r ? r : -errno;
        return r;
}

static int remove_until(int parent_fd, const char *name, nsec_t until)
{
        int r;

        while ((r = remove_groups(parent_fd, name, 0)) == -EBUSY && clock_now() < until)
                (void)nanosleep(&(struct timespec){.tv_nsec = REMOVE_STEP}, NULL);
        return r;
}

/* The directory that a path lies in, and its name there. */
static int open_parent(const char *path, const char **ret_name)
{
        char parent[PATH_MAX];
        const char *slash = strrchr(path, '/');
        int fd;

        if (!slash || slash == path || (size_t)(slash - path) >= sizeof(parent))
                return -EINVAL;
        memcpy(parent, path, (size_t)(slash - path));
        parent[slash - path] = '\0';
        *ret_name = slash + 1;
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* A daemon that begins on its runtime directory meanwhile would adopt whom we kill: its lock is ours until we are done. */
static int lock_runtime(const char *runtime, int *ret_fd)
{
        _cleanup_fd_ int dir_fd = *runtime ? open(runtime, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        int r = dir_fd < 0 ? -ENOENT : audit_lock(dir_fd, "lock", true, true, ret_fd);

        return r == -ENOENT ? 0 : r;
}

/* `tidegate` without instances. Nothing keeps one from being made there now: then the directory is not empty, and stays. */
static json_t *sweep_base(const char *where)
{
        return rmdir(where) == 0 || errno == ENOENT || errno == EBUSY || errno == ENOTEMPTY ? swept(where, 0) : kept_for(where, -errno);
}

static int kill_all(const char *where, int dir_fd, LastResortVerdict *ret)
{
        const LastResortKill kill = {.force = true};
        PlaceResult result = {};
        int r;

        if (place_is_cgroup(dir_fd))
                return last_resort_kill(where, &kill, ret);
        r = place_end(dir_fd, nsec_add(clock_now(), KILL_SPAN), &result);
        ret->n_found = result.n_found;
        ret->n_left = result.n_left;
        return r == -ETIMEDOUT ? 0 : r;
}

static json_t *sweep_cgroup(const char *where, const char *runtime, bool instance)
{
        _cleanup_fd_ int parent_fd = -1, lock_fd = -1, runtime_fd = -1;
        LastResortVerdict verdict = {};
        const char *name = "";
        int r = parent_fd = open_parent(where, &name);

        if (r >= 0)
                r = lock_runtime(runtime, &runtime_fd);
        if (r >= 0)
                r = audit_lock(parent_fd, name, false, true, &lock_fd);
        if (r >= 0)
                r = kill_all(where, lock_fd, &verdict);
        if (r < 0)
                return r == -ENOENT ? swept(where, 0) : kept_for(where, r);
        if (verdict.n_left > 0) {
                char why[64];

                (void)snprintf(why, sizeof(why), "%u of %u processes would not die", verdict.n_left, MAX(verdict.n_found, verdict.n_left));
                return kept(where, why);
        }
        r = remove_until(parent_fd, name, nsec_add(clock_now(), REMOVE_SPAN));
        if (r < 0)
                return kept_for(where, r);
        if (instance) /* the last one out; EBUSY when it was not the last */
                (void)unlinkat(parent_fd, "../tidegate", AT_REMOVEDIR);
        return swept(where, verdict.n_found);
}

static bool is_page(const char *name)
{
        return strncmp(name, "status", 6) == 0 && (name[6] == '\0' || name[6] == '.');
}

static bool is_any(const char *name)
{
        return name[0] != '.';
}

static void remove_files(int dir_fd, const char *folder, bool (*is_ours)(const char *name))
{
        int fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *e;

        while (dir && (e = readdir(dir)))
                if (is_ours(e->d_name))
                        (void)unlinkat(fd, e->d_name, 0);
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(fd);
}

/* What a daemon makes there (docs/daemon.md); its log stays, and the directory with it, and so does whatever is not ours. */
static json_t *sweep_runtime(const char *where)
{
        static const char *const files[] = {"control.sock", "node.sock", "holder.sock", "instance", "instance.new"}, *const folders[] = {"keeper", "journal"};
        _cleanup_fd_ int dir_fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), lock_fd = -1;
        int r = dir_fd < 0 ? -errno : audit_lock(dir_fd, "lock", true, true, &lock_fd);

        if (r < 0 && !(r == -ENOENT && dir_fd >= 0))
                return kept_for(where, r);
        for (size_t i = 0; i < ELEMENTSOF(files); i++)
                (void)unlinkat(dir_fd, files[i], 0);
        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                remove_files(dir_fd, folders[i], is_any);
                (void)unlinkat(dir_fd, folders[i], AT_REMOVEDIR);
        }
        remove_files(dir_fd, ".", is_page);
        (void)unlinkat(dir_fd, "lock", 0);
        (void)rmdir(where);
        return swept(where, 0);
}

json_t *audit_sweep_one(const json_t *fact)
{
        const char *where = json_get_text(fact, "where"), *kind = json_get_text(fact, "kind");

        if (strcmp(kind, "runtime") == 0)
                return sweep_runtime(where);
        if (strcmp(kind, "base") == 0)
                return sweep_base(where);
        return sweep_cgroup(where, json_get_text(fact, "runtime"), strcmp(kind, "instance") == 0);
}
