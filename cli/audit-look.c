/* SPDX-License-Identifier: Apache-2.0 */
/* The looks of `audit`, each in a child process: nothing here has a deadline of its own. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/place.h"
#include "base/procstat.h"
#include "base/utf8.h"
#include "cli/audit.h"
#include "protocol/node_msg.h"

#define WALK_DEPTH    24
#define WALK_MAX      100000 /* cgroups of the host */
#define PIDS_TOLD     256    /* of one instance; the rest is counted */
#define REGIONS_MAX   4096   /* of one process */
#define FDS_MAX       65536  /* of one process */
#define TEXT_MAX_READ (8u << 20)
#define AGAIN_SPAN    (150 * NSEC_PER_MSEC) /* one that was just made is locked by then, and one that is being removed is gone */

#define BASE_NAME     "tidegate"
#define DOCTOR_PREFIX "tidegate-doctor-"
#define SCOPE_PREFIX  "tidegate-"
#define REGION_PREFIX "/memfd:tidegate-"

void audit_emit(int fd, json_t *take_line)
{
        _cleanup_free_ char *text = take_line ? json_dumps(take_line, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        size_t n = text ? strlen(text) : 0, at = 0;

        json_decref(take_line);
        if (!text)
                return;
        text[n++] = '\n'; /* in place of the NUL */
        while (at < n) {
                ssize_t k = write(fd, text + at, n - at);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        _exit(1); /* nobody reads */
                at += (size_t)k;
        }
}

static void emit_at(int fd, long step)
{
        audit_emit(fd, json_pack("{sI}", "at", (json_int_t)step));
}

int audit_lock(int parent_fd, const char *name, bool file, bool alone, int *ret_fd)
{
        _cleanup_fd_ int fd = openat(parent_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (file ? 0 : O_DIRECTORY));
        struct stat there, ours;

        if (fd < 0)
                return -errno;
        if (flock(fd, (alone ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0)
                return -errno;
        if (fstatat(parent_fd, name, &there, AT_SYMLINK_NOFOLLOW) < 0 || fstat(fd, &ours) < 0 || there.st_ino != ours.st_ino)
                return -ENOENT; /* removed meanwhile: a lock on it keeps nobody out */
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static bool lock_is_free(int parent_fd, const char *name, bool file)
{
        _cleanup_fd_ int fd = -1;

        return audit_lock(parent_fd, name, file, false, &fd) == 0;
}

static void pause_for(nsec_t span)
{
        struct timespec t = {.tv_sec = (time_t)(span / NSEC_PER_SEC), .tv_nsec = (long)(span % NSEC_PER_SEC)};

        (void)nanosleep(&t, NULL);
}

/* ---- processes */

static char *read_whole(const char *path, size_t *ret_size)
{
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

        return procfs_read_whole(fd, TEXT_MAX_READ, ret_size);
}

/* Seconds of CLOCK_REALTIME at which it began; 0: not known. */
static json_int_t began(long pid)
{
        ProcStat stat;
        struct timespec boot, wall;

        if (procstat_read(&stat, (pid_t)pid) || clock_gettime(CLOCK_BOOTTIME, &boot) < 0 || clock_gettime(CLOCK_REALTIME, &wall) < 0)
                return 0;
        return (json_int_t)wall.tv_sec - (json_int_t)boot.tv_sec + (json_int_t)(stat.start_time / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* {pid, uid, comm, state, since}, or NULL when it is gone or a zombie. Takes none of its locks. */
static json_t *describe_process(long pid)
{
        _cleanup_free_ char *clean = NULL;
        char path[64];
        struct stat st;
        ProcUse use;

        (void)snprintf(path, sizeof(path), "/proc/%ld", pid);
        if (lstat(path, &st) < 0)
                return NULL;
        if (procstat_use(&use, (pid_t)pid) || use.state == 'Z' || use.state == 'X')
                return NULL;
        clean = utf8_clean(use.comm, strlen(use.comm), NULL);
        return json_pack("{sI sI ss ss# sI}", "pid", (json_int_t)pid, "uid", (json_int_t)st.st_uid, "comm", clean ? clean : "?", "state", &use.state, 1, "since",
                began(pid));
}

/* ---- cgroups */

typedef struct Tree {
        json_t *processes;
        unsigned n_processes, n_cgroups;
} Tree;

static void count_tree(Tree *tree, int dir_fd, unsigned depth)
{
        int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), procs = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        FILE *f = procs < 0 ? NULL : fdopen(procs, "re");
        const struct dirent *e;
        long pid;

        tree->n_cgroups++;
        while (f && fscanf(f, "%ld", &pid) == 1) {
                json_t *process = tree->n_processes < PIDS_TOLD ? describe_process(pid) : NULL;

                tree->n_processes++;
                if (process)
                        (void)json_array_append_new(tree->processes, process);
        }
        if (f)
                (void)fclose(f); /* read only */
        else
                (void)fd_close(procs);
        while (dir && depth < WALK_DEPTH && (e = readdir(dir))) {
                int child = e->d_type != DT_DIR || e->d_name[0] == '.' ? -1 : openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

                if (child >= 0)
                        count_tree(tree, child, depth + 1);
                (void)fd_close(child);
        }
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
}

/* "run-0123abcd", "daemon-0123abcd", "run-0123abcd.pidns" */
static bool is_instance(const char *name)
{
        const char *dash = strchr(name, '-');

        return dash && dash > name && strspn(dash + 1, "0123456789abcdef") == 8 && (dash[9] == '\0' || dash[9] == '.') && islower((unsigned char)name[0]);
}

static int add_process_of_life(pid_t pid, void *userdata)
{
        Tree *tree = userdata;
        json_t *process = tree->n_processes < PIDS_TOLD ? describe_process(pid) : NULL;

        tree->n_processes++;
        if (process)
                (void)json_array_append_new(tree->processes, process);
        return 0;
}

static int add_life(int dir_fd, void *userdata)
{
        return place_each_process(dir_fd, add_process_of_life, userdata);
}

typedef struct Walk {
        int fd; /* of the answer */
        unsigned n;
        json_t *dead; /* [[kind, parent path, name]], to be looked at again */
} Walk;

static void tell_cgroup(int fd, const char *kind, const char *parent, const char *name, int dir_fd, bool alive)
{
        Tree tree = {.processes = json_array()};
        char path[PATH_MAX + NAME_MAX + 2];
        struct stat st;

        if (!place_is_cgroup(dir_fd))
                (void)place_each_life(dir_fd, add_life, &tree); /* of a living one: its members, whom no cgroup tells */
        if (!alive)
                count_tree(&tree, dir_fd, 0);
        if (fstat(dir_fd, &st) < 0 || (!alive && geteuid() != 0 && st.st_uid != geteuid())) { /* another user's */
                json_decref(tree.processes);
                return;
        }
        (void)snprintf(path, sizeof(path), "%s/%s", parent, name);
        audit_emit(fd, json_pack("{ss ss sb sI sI sI sI so}", "kind", kind, "where", path, "alive", alive, "uid", (json_int_t)st.st_uid, "since", (json_int_t)st.st_mtime,
                                "n_processes", (json_int_t)tree.n_processes, "n_cgroups", (json_int_t)tree.n_cgroups, "processes", tree.processes));
}

static void suspect(Walk *walk, const char *kind, const char *parent, const char *name)
{
        (void)json_array_append_new(walk->dead, json_pack("[sss]", kind, parent, name));
}

/* <parent>/tidegate: its instances. One that nobody holds now may be about to be locked, or to go: it is looked at again at the end. */
static void look_at_base(Walk *walk, int base_fd, const char *parent)
{
        int copy = openat(base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        char base[PATH_MAX];
        const struct dirent *e;
        unsigned n = 0;

        (void)snprintf(base, sizeof(base), "%.4000s/" BASE_NAME, parent);
        while (dir && (e = readdir(dir))) {
                _cleanup_fd_ int fd = -1;

                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                n++;
                if (!is_instance(e->d_name) || (fd = openat(base_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
                        continue; /* another user's */
                if (lock_is_free(base_fd, e->d_name, false))
                        suspect(walk, "instance", base, e->d_name);
                else
                        tell_cgroup(walk->fd, "instance", base, e->d_name, fd, true);
        }
        if (dir && n == 0)
                suspect(walk, "base", parent, BASE_NAME);
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
}

static void walk_below(Walk *walk, int dir_fd, const char *path, unsigned depth)
{
        int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        const struct dirent *e;

        while (dir && depth < WALK_DEPTH && walk->n < WALK_MAX && (e = readdir(dir))) {
                _cleanup_fd_ int fd = e->d_type != DT_DIR || e->d_name[0] == '.' ? -1 : openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                char child[PATH_MAX];
                size_t n = strlen(e->d_name);

                if (fd < 0 || (size_t)snprintf(child, sizeof(child), "%s/%s", path, e->d_name) >= sizeof(child))
                        continue;
                emit_at(walk->fd, walk->n++);
                if (strcmp(e->d_name, BASE_NAME) == 0) {
                        look_at_base(walk, fd, path);
                        continue;
                }
                if (strncmp(e->d_name, DOCTOR_PREFIX, strlen(DOCTOR_PREFIX)) == 0 && lock_is_free(dir_fd, e->d_name, false))
                        suspect(walk, "doctor", path, e->d_name);
                else if (strncmp(e->d_name, SCOPE_PREFIX, strlen(SCOPE_PREFIX)) == 0 && n > 6 && strcmp(e->d_name + n - 6, ".scope") == 0)
                        tell_cgroup(walk->fd, "scope", path, e->d_name, fd, false);
                walk_below(walk, fd, child, depth + 1);
        }
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
}

static void look_again(Walk *walk)
{
        json_t *one;
        size_t i;

        json_array_foreach(walk->dead, i, one) {
                const char *kind = json_string_value(json_array_get(one, 0)), *parent = json_string_value(json_array_get(one, 1)),
                           *name = json_string_value(json_array_get(one, 2));
                _cleanup_fd_ int parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;

                fd = parent_fd < 0 ? -1 : openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd >= 0 && strcmp(kind, "base") == 0) {
                        struct stat st;

                        if (fstat(fd, &st) == 0 && st.st_nlink == 2) /* still without any */
                                tell_cgroup(walk->fd, kind, parent, name, fd, false);
                } else if (fd >= 0) {
                        tell_cgroup(walk->fd, kind, parent, name, fd, !lock_is_free(parent_fd, name, false));
                }
        }
}

static void look_at_cgroups(const Audit *audit, int fd)
{
        Walk walk = {.fd = fd, .dead = json_array()};
        char mount[PATH_MAX];
        int top = cgroup_mount_find(mount) == 0 ? open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

        if (top >= 0)
                walk_below(&walk, top, mount, 0);
        (void)fd_close(top);
        top = audit->cgroup_root && (!*mount || strncmp(audit->cgroup_root, mount, strlen(mount)) != 0) ? open(audit->cgroup_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (top >= 0)
                walk_below(&walk, top, audit->cgroup_root, 0);
        (void)fd_close(top);
        if (json_array_size(walk.dead) > 0) {
                pause_for(AGAIN_SPAN);
                look_again(&walk);
        }
        json_decref(walk.dead);
}

static void look_at_place(int fd, const char *path)
{
        Walk walk = {.fd = fd, .dead = json_array()};
        int top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        if (top >= 0)
                walk_below(&walk, top, path, WALK_DEPTH - 1); /* nothing but `tidegate` is of interest */
        (void)fd_close(top);
        if (json_array_size(walk.dead) > 0) {
                pause_for(AGAIN_SPAN);
                look_again(&walk);
        }
        json_decref(walk.dead);
}

static void add_path(json_t *paths, const char *path)
{
        json_t *one;
        size_t i;

        json_array_foreach(paths, i, one)
                if (strcmp(json_string_value(one), path) == 0)
                        return;
        (void)json_array_append_new(paths, json_string(path));
}

/* Guards, supervisors and keepers have their instance's directory open, wherever that was made. */
static void add_places_of(json_t *paths, const char *mount, long pid)
{
        const struct dirent *e;
        char path[64];
        DIR *dir;

        (void)snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
        dir = opendir(path);
        while (dir && (e = readdir(dir))) {
                char link[PATH_MAX], *slash;
                ssize_t size = readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);

                link[MAX(size, (ssize_t)0)] = '\0';
                slash = link[0] == '/' && (!*mount || strncmp(link, mount, strlen(mount)) != 0) ? strrchr(link, '/') : NULL;
                if (!slash || !is_instance(slash + 1))
                        continue;
                *slash = '\0';
                slash = strrchr(link, '/');
                if (!slash || slash == link || strcmp(slash + 1, BASE_NAME) != 0)
                        continue;
                *slash = '\0';
                add_path(paths, link);
        }
        if (dir)
                (void)closedir(dir);
}

/* One's own root, as root everybody's; and wherever a process of ours says. In order, for whoever goes on behind one that hangs. New reference. */
static json_t *find_places(void)
{
        static const char *const all[] = {"/run/" PLACE_ROOT_NAME, "/run/user/*/" PLACE_ROOT_NAME, "/tmp/" PLACE_ROOT_NAME "-*"};
        json_t *paths = json_array();
        char own[PATH_MAX], mount[PATH_MAX];
        DIR *dir = opendir("/proc");
        const struct dirent *e;
        glob_t found = {};

        for (size_t i = 0; geteuid() == 0 && i < ELEMENTSOF(all); i++)
                (void)glob(all[i], i > 0 ? GLOB_APPEND : 0, NULL, &found);
        for (size_t i = 0; i < found.gl_pathc; i++)
                add_path(paths, found.gl_pathv[i]);
        globfree(&found);
        if (geteuid() != 0 && place_root_find(own) == 0)
                add_path(paths, own);
        if (cgroup_mount_find(mount))
                mount[0] = '\0';
        while (dir && (e = readdir(dir))) {
                json_t *process = isdigit((unsigned char)e->d_name[0]) ? describe_process(atol(e->d_name)) : NULL;

                if (process && strncmp(json_string_value(json_object_get(process, "comm")), "tidegate-", strlen("tidegate-")) == 0)
                        add_places_of(paths, mount, atol(e->d_name));
                json_decref(process);
        }
        if (dir)
                (void)closedir(dir);
        return paths;
}

/* Each is a step: a user's directory may hang. */
static void look_at_places(int fd, long from)
{
        json_t *paths = find_places(), *path;
        size_t i;

        json_array_foreach(paths, i, path) {
                if ((long)i < from)
                        continue;
                emit_at(fd, (long)i + 1);
                look_at_place(fd, json_string_value(path));
        }
        json_decref(paths);
}

/* ---- who has what */

static bool is_region(const char *link)
{
        static const char *const kinds[] = {"ring", "pool", "cursor", "bell", "control"};

        if (strncmp(link, REGION_PREFIX, strlen(REGION_PREFIX)) != 0)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                if (strncmp(link + strlen(REGION_PREFIX), kinds[i], strlen(kinds[i])) == 0)
                        return true;
        return false; /* what a supervisor hands over, or a doctor tries, is there for a moment */
}

static void add_number(json_t *set, unsigned long long inode)
{
        char key[24];

        (void)snprintf(key, sizeof(key), "%llu", inode);
        if (json_object_size(set) < REGIONS_MAX)
                (void)json_object_set_new(set, key, json_true());
}

/* Is @path a living instance's directory, or below one? */
static bool is_of_living(const Audit *audit, const char *path)
{
        json_t *fact;
        size_t i;

        json_array_foreach(audit->facts, i, fact) {
                const char *where = json_string_value(json_object_get(fact, "where")), *kind = json_string_value(json_object_get(fact, "kind"));
                size_t n = where ? strlen(where) : 0;

                if (n > 0 && kind && strcmp(kind, "instance") == 0 && json_is_true(json_object_get(fact, "alive")) && strncmp(path, where, n) == 0 &&
                        (path[n] == '/' || path[n] == '\0'))
                        return true;
        }
        return false;
}

/* Of one without a cgroup: found as it is found to be ended. */
static bool is_member_of_place(const Audit *audit, long pid)
{
        json_t *fact, *process;
        size_t i, k;

        json_array_foreach(audit->facts, i, fact)
                json_array_foreach(json_is_true(json_object_get(fact, "alive")) ? json_object_get(fact, "processes") : NULL, k, process)
                        if (json_integer_value(json_object_get(process, "pid")) == pid)
                                return true;
        return false;
}

/* Links are read, which asks no file system; only memory of ours is looked at closer. */
static void look_at_fds(const Audit *audit, long pid, json_t *regions, bool *ret_member)
{
        char path[64];
        const struct dirent *e;
        unsigned n = 0;
        DIR *dir;

        (void)snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
        dir = opendir(path);
        while (dir && n++ < FDS_MAX && (e = readdir(dir))) {
                char link[PATH_MAX];
                ssize_t size = readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);
                struct stat st;

                if (size <= 0)
                        continue;
                link[size] = '\0';
                if (is_region(link) && fstatat(dirfd(dir), e->d_name, &st, 0) == 0)
                        add_number(regions, st.st_ino);
                else if (link[0] == '/' && is_of_living(audit, link))
                        *ret_member = true;
        }
        if (dir)
                (void)closedir(dir);
}

/* Mapped and closed. Waits for its mmap_lock. "7f00-7f10 r--s 00000000 00:01 1234  /memfd:tidegate-ring (deleted)" */
static void look_at_maps(long pid, json_t *regions)
{
        _cleanup_free_ char *text = NULL;
        char path[64], *rest;
        size_t size;

        (void)snprintf(path, sizeof(path), "/proc/%ld/maps", pid);
        text = read_whole(path, &size);
        for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
                const char *name = strstr(line, REGION_PREFIX);
                unsigned long long inode;

                if (name && is_region(name) && sscanf(line, "%*s %*s %*s %*s %llu", &inode) == 1)
                        add_number(regions, inode);
        }
}

/* Was it started as a node? A program that is started by hand has no number of a descriptor. Waits for its mmap_lock. */
static bool has_marks(long pid)
{
        _cleanup_free_ char *text = NULL;
        char path[64];
        size_t size = 0;

        (void)snprintf(path, sizeof(path), "/proc/%ld/environ", pid);
        text = read_whole(path, &size);
        for (const char *p = text; p && p < text + size; p += strlen(p) + 1)
                if (strncmp(p, NODE_MSG_FD_ENV "=", strlen(NODE_MSG_FD_ENV) + 1) == 0)
                        return true;
        return false;
}

static void look_at_process(const Audit *audit, int fd, const char *mount, long pid)
{
        json_t *process = describe_process(pid), *regions;
        char where[2 * PATH_MAX] = "", own[PATH_MAX];
        bool member, marked;

        if (!process || (geteuid() != 0 && json_integer_value(json_object_get(process, "uid")) != (json_int_t)geteuid())) {
                json_decref(process);
                return;
        }
        if (cgroup_path_of((pid_t)pid, own) == 0)
                (void)snprintf(where, sizeof(where), "%s%s", mount, own);
        member = (where[0] && is_of_living(audit, where)) || is_member_of_place(audit, pid);
        regions = json_object();
        look_at_fds(audit, pid, regions, &member);
        look_at_maps(pid, regions);
        marked = !member && has_marks(pid);
        if (json_object_size(regions) > 0 || marked) {
                (void)json_object_set_new(process, "kind", json_string("process"));
                (void)json_object_set_new(process, "where", json_string(where));
                (void)json_object_set_new(process, "member", json_boolean(member));
                (void)json_object_set_new(process, "marked", json_boolean(marked));
                (void)json_object_set(process, "regions", regions);
                audit_emit(fd, json_incref(process));
        }
        json_decref(regions);
        json_decref(process);
}

static int by_number(const void *a, const void *b)
{
        long x = *(const long *)a, y = *(const long *)b;

        return (x > y) - (x < y);
}

static void look_at_processes(const Audit *audit, int fd, long from)
{
        DIR *dir = opendir("/proc");
        const struct dirent *e;
        char mount[PATH_MAX];
        size_t n = 0, room = 0;
        long *pids = NULL;

        if (cgroup_mount_find(mount))
                mount[0] = '\0';
        while (dir && (e = readdir(dir))) {
                long pid = isdigit((unsigned char)e->d_name[0]) ? atol(e->d_name) : 0;

                if (pid <= from || pid == getpid() || pid == getppid())
                        continue;
                if (n == room) {
                        long *grown = realloc(pids, (room = room ? 2 * room : 1024) * sizeof(*pids));

                        if (!grown)
                                break;
                        pids = grown;
                }
                pids[n++] = pid;
        }
        if (dir)
                (void)closedir(dir);
        if (n > 0)
                qsort(pids, n, sizeof(*pids), by_number);
        for (size_t i = 0; i < n; i++) {
                emit_at(fd, pids[i]);
                look_at_process(audit, fd, mount, pids[i]);
        }
        free(pids);
}

/* ---- runtime directories */

static unsigned count_files(int dir_fd, bool deeper)
{
        int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = copy < 0 ? NULL : fdopendir(copy);
        const struct dirent *e;
        unsigned n = 0;

        while (dir && (e = readdir(dir))) {
                bool folder = strcmp(e->d_name, "keeper") == 0 || strcmp(e->d_name, "journal") == 0;
                _cleanup_fd_ int fd = -1;

                if (e->d_name[0] == '.' || strcmp(e->d_name, "tidegated.log") == 0)
                        continue;
                n++;
                if (deeper && folder && (fd = openat(dir_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) >= 0)
                        n += count_files(fd, false);
        }
        if (dir)
                (void)closedir(dir);
        else
                (void)fd_close(copy);
        return n;
}

static bool is_dead_runtime(int dir_fd)
{
        if (faccessat(dir_fd, "lock", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return lock_is_free(dir_fd, "lock", true);
        return faccessat(dir_fd, "control.sock", F_OK, AT_SYMLINK_NOFOLLOW) == 0 || faccessat(dir_fd, "instance", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void look_at_runtime(int fd, const char *path)
{
        _cleanup_fd_ int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), file = -1;
        char instance[64] = "";
        struct stat st;
        unsigned n;

        if (dir_fd < 0 || fstat(dir_fd, &st) < 0 || (geteuid() != 0 && st.st_uid != geteuid()) || !is_dead_runtime(dir_fd))
                return;
        pause_for(AGAIN_SPAN); /* one that begins or ends just now */
        n = count_files(dir_fd, true);
        if (!is_dead_runtime(dir_fd) || n == 0)
                return;
        file = openat(dir_fd, "instance", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (file >= 0 && read(file, instance, sizeof(instance) - 1) < 0)
                instance[0] = '\0';
        instance[strspn(instance, "abcdefghijklmnopqrstuvwxyz0123456789-")] = '\0';
        audit_emit(fd, json_pack("{ss ss sI sI sI ss}", "kind", "runtime", "where", path, "uid", (json_int_t)st.st_uid, "since", (json_int_t)st.st_mtime, "n_files",
                                (json_int_t)n, "instance", instance));
}

/* The one that is meant; as root also the usual ones of root and of every user. */
static void look_at_files(const Audit *audit, int fd, long from)
{
        const char *meant = audit->runtime_dir ? audit->runtime_dir : "";
        const struct dirent *e;
        long step = 0;
        DIR *dir;

        if (*meant && step++ >= from) {
                emit_at(fd, step);
                look_at_runtime(fd, meant);
        }
        if (geteuid() != 0 || audit->runtime_only)
                return;
        if (strcmp(meant, "/run/tidegate") != 0 && step++ >= from) {
                emit_at(fd, step);
                look_at_runtime(fd, "/run/tidegate");
        }
        dir = opendir("/run/user");
        while (dir && (e = readdir(dir))) {
                char path[PATH_MAX];

                (void)snprintf(path, sizeof(path), "/run/user/%.200s/tidegate", e->d_name);
                if (e->d_name[0] == '.' || strcmp(path, meant) == 0 || step++ < from)
                        continue;
                emit_at(fd, step);
                look_at_runtime(fd, path);
        }
        if (dir)
                (void)closedir(dir);
}

static void sweep_all(const Audit *audit, int fd, long from)
{
        json_t *fact;
        size_t i;

        json_array_foreach(audit->sweep, i, fact) {
                if ((long)i < from)
                        continue;
                emit_at(fd, (long)i + 1);
                audit_emit(fd, audit_sweep_one(fact));
        }
}

void audit_child(const Audit *audit, AuditStage stage, int fd, long from)
{
        switch (stage) {
        case AUDIT_CGROUPS:
                look_at_cgroups(audit, fd);
                break;
        case AUDIT_PLACES:
                look_at_places(fd, from);
                break;
        case AUDIT_PROCESSES:
                look_at_processes(audit, fd, from);
                break;
        case AUDIT_FILES:
                look_at_files(audit, fd, from);
                break;
        case AUDIT_SWEEP:
                sweep_all(audit, fd, from);
                break;
        case _AUDIT_STAGE_MAX:
                break;
        }
        audit_emit(fd, json_pack("{sb}", "done", true));
}
