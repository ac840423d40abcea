/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cgroup_root.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"

#define STAT_KTHREAD UINT32_C(0x00200000) /* PF_KTHREAD, in the flags of /proc/PID/stat */

typedef enum LimitKind {
        LIMIT_WORD,  /* "max" is none; what follows is a period */
        LIMIT_EMPTY, /* any text is one */
        LIMIT_HUGE,  /* bytes; none is the largest number of whole pages */
        LIMIT_MINUS, /* -1 is none */
        LIMIT_ROOT,  /* none is what the hierarchy's root has */
} LimitKind;

typedef struct Limit {
        const char *file;
        LimitKind kind;
} Limit;

static const Limit limits_v2[] = {
        {"memory.max", LIMIT_WORD},
        {"memory.high", LIMIT_WORD},
        {"memory.swap.max", LIMIT_WORD},
        {"memory.swap.high", LIMIT_WORD},
        {"memory.zswap.max", LIMIT_WORD},
        {"cpu.max", LIMIT_WORD},
        {"pids.max", LIMIT_WORD},
        {"io.max", LIMIT_EMPTY},
        {"io.latency", LIMIT_EMPTY},
        {"cpuset.cpus", LIMIT_EMPTY},
        {"cpuset.mems", LIMIT_EMPTY},
        {"hugetlb.2MB.max", LIMIT_WORD},
        {"hugetlb.1GB.max", LIMIT_WORD},
};

static const Limit limits_v1[] = {
        {"memory.limit_in_bytes", LIMIT_HUGE},
        {"memory.memsw.limit_in_bytes", LIMIT_HUGE},
        {"memory.soft_limit_in_bytes", LIMIT_HUGE},
        {"memory.kmem.limit_in_bytes", LIMIT_HUGE},
        {"cpu.cfs_quota_us", LIMIT_MINUS},
        {"pids.max", LIMIT_WORD},
        {"cpuset.cpus", LIMIT_ROOT},
        {"cpuset.mems", LIMIT_ROOT},
        {"devices.list", LIMIT_ROOT},
        {"blkio.throttle.read_bps_device", LIMIT_EMPTY},
        {"blkio.throttle.write_bps_device", LIMIT_EMPTY},
        {"blkio.throttle.read_iops_device", LIMIT_EMPTY},
        {"blkio.throttle.write_iops_device", LIMIT_EMPTY},
};

typedef struct Check {
        const char *proc, *ours, *place;
        pid_t pid;
        char *why;
        size_t why_size;
} Check;

__attribute__((format(printf, 2, 3))) static int refuse(const Check *check, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(check->why, check->why_size, format, ap);
        va_end(ap);
        return CAPTURE_E_REFUSED;
}

/* ---- small files */

/* All of it that fits, as a string. 0 or -errno. */
static int read_at(int dir_fd, const char *name, char *buffer, size_t size)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        size_t n = 0;
        ssize_t k = 1;

        if (fd < 0)
                return -errno;
        while (n < size - 1 && (k = read(fd, buffer + n, size - 1 - n)) > 0)
                n += (size_t)k;
        if (k < 0)
                return -errno;
        buffer[n] = '\0';
        return 0;
}

static FILE *open_lines(const char *proc, const char *who, const char *name)
{
        char path[PATH_MAX];

        (void)snprintf(path, sizeof(path), "%s/%s/%s", proc, who, name);
        return fopen(path, "re");
}

static void closep(FILE **f)
{
        if (*f)
                (void)fclose(*f); /* read only */
}

/* ---- where hierarchies are mounted */

typedef struct Mount {
        char *at, *root; /* allocated */
} Mount;

static void mount_done(Mount *mount)
{
        free(mount->at);
        free(mount->root);
}

static bool is_below(const char *path, const char *dir)
{
        size_t n = strlen(dir);

        while (n > 0 && dir[n - 1] == '/')
                n--;
        return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* Is @word one of the comma-separated @list? */
static bool has_word(const char *list, const char *word, size_t n)
{
        for (const char *at = list; *at; at += strcspn(at, ",\n"), at += *at != '\0')
                if (strcspn(at, ",\n") == n && memcmp(at, word, n) == 0)
                        return true;
        return false;
}

/* One line of mountinfo: is it the hierarchy of that controller (NULL: version 2)? It is cut into its fields. */
static bool line_is(char *line, const char *controller, size_t n_controller, char **ret_root, char **ret_at)
{
        char *dash = strstr(line, " - "), *save = NULL, *type, *options, *field = NULL;

        if (!dash)
                return false;
        *dash = '\0';
        type = strtok_r(dash + 3, " \n", &save);
        (void)strtok_r(NULL, " \n", &save); /* source */
        options = strtok_r(NULL, " \n", &save);
        if (!type || !options || strcmp(type, controller ? "cgroup" : "cgroup2") != 0 || (controller && !has_word(options, controller, n_controller)))
                return false;
        save = NULL;
        for (unsigned i = 0; i < 5; i++) { /* id, parent, device, root, mount point */
                field = strtok_r(i == 0 ? line : NULL, " ", &save);
                if (i == 3)
                        *ret_root = field;
        }
        *ret_at = field;
        if (!*ret_root || !field)
                return false;
        mountinfo_unescape(*ret_root);
        mountinfo_unescape(field);
        return true;
}

/*
 * The mount that shows the cgroup @path of that hierarchy, preferably one that shows our own cgroups too. 0, -ENOENT, another -errno.
 */
static int find_mount(const Check *check, const char *controller, size_t n_controller, const char *path, Mount *ret)
{
        _cleanup_(closep) FILE *f = open_lines(check->proc, "self", "mountinfo");
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        Mount found = {};

        if (!f)
                return -errno;
        while (getline(&line, &size, f) > 0) {
                char *root = NULL, *at = NULL;

                if (!line_is(line, controller, n_controller, &root, &at) || !is_below(path, root) || (found.at && !is_below(check->ours, at)))
                        continue;
                mount_done(&found);
                found = (Mount){.at = strdup(at), .root = strdup(root)};
                if (!found.at || !found.root) {
                        mount_done(&found);
                        return -ENOMEM;
                }
        }
        if (!found.at)
                return feof(f) ? -ENOENT : -EIO;
        *ret = found;
        return 0;
}

/* The directory of a cgroup; false: it does not fit. */
static bool directory_of(const Mount *mount, const char *path, char ret[static PATH_MAX])
{
        const char *rest = strcmp(mount->root, "/") == 0 ? path : path + strlen(mount->root);
        int n = snprintf(ret, PATH_MAX, "%s%s", mount->at, strcmp(rest, "/") == 0 ? "" : rest);

        return n > 0 && n < PATH_MAX;
}

/* ---- one process's cgroups */

typedef struct Membership {
        bool v2, named;         /* named: a hierarchy without controllers */
        const char *controller; /* the first one, of version 1 */
        size_t n_controller;
        const char *path;
} Membership;

/* "4:cpu,cpuacct:/a/b", "1:name=systemd:/", "0::/a/b" */
static bool parse_membership(char *line, Membership *ret)
{
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

        if (!path || path[1] != '/')
                return false;
        path[strcspn(path, "\n")] = '\0';
        list++;
        *ret = (Membership){.v2 = list == path, .named = strncmp(list, "name=", 5) == 0, .controller = list, .n_controller = strcspn(list, ",:"), .path = path + 1};
        return true;
}

static bool is_outside(const char *path)
{
        return strstr(path, "/../") || (strlen(path) >= 3 && strcmp(path + strlen(path) - 3, "/..") == 0);
}

/* Its directory in the version 2 hierarchy. 0 or -errno. */
static int find_v2(const Check *check, char ret[static PATH_MAX])
{
        char who[16];
        _cleanup_(closep) FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        size_t size = 0;

        (void)snprintf(who, sizeof(who), "%d", (int)check->pid);
        f = open_lines(check->proc, who, "cgroup");
        if (!f)
                return -errno;
        while (getline(&line, &size, f) > 0) {
                Mount mount = {};
                Membership is;
                int r;

                if (!parse_membership(line, &is) || !is.v2)
                        continue;
                if (is_outside(is.path))
                        return -EXDEV;
                r = find_mount(check, NULL, 0, is.path, &mount);
                if (!r && !directory_of(&mount, is.path, ret))
                        r = -ENAMETOOLONG;
                mount_done(&mount);
                return r;
        }
        return feof(f) ? -ENOENT : -EIO; /* it ended meanwhile, or memory did */
}

/* ---- limits */

static bool is_none(const Limit *limit, const char *text, const char *root)
{
        size_t n = strcspn(text, " \t\n");

        switch (limit->kind) {
        case LIMIT_WORD:
                return n == 3 && memcmp(text, "max", 3) == 0;
        case LIMIT_EMPTY:
                return text[strspn(text, " \t\n")] == '\0';
        case LIMIT_HUGE:
                return strtoull(text, NULL, 10) >= UINT64_C(1) << (sizeof(long) == 8 ? 60 : 40);
        case LIMIT_MINUS:
                return n == 2 && memcmp(text, "-1", 2) == 0;
        default:
                return strcmp(text, root) == 0;
        }
}

static int check_limit(const Check *check, const Limit *limit, const char *dir, int dir_fd, int root_fd)
{
        char text[4096], root[4096] = "";
        int r = read_at(dir_fd, limit->file, text, sizeof(text));

        if (r == -ENOENT || r == -EOPNOTSUPP) /* not set up here, or switched off */
                return 0;
        if (!r && limit->kind == LIMIT_ROOT)
                r = read_at(root_fd, limit->file, root, sizeof(root));
        if (r)
                return refuse(check, "its limits cannot be looked at: %.200s/%s: %s", dir, limit->file, strerror(-r));
        if (is_none(limit, text, root))
                return 0;
        text[strcspn(text, "\n")] = '\0';
        return refuse(check, "it has limits of its own: %s is \"%.60s\" in %.200s", limit->file, text, dir);
}

static int check_limits(const Check *check, const Membership *is)
{
        const Limit *limits = is->v2 ? limits_v2 : limits_v1;
        size_t n = is->v2 ? ELEMENTSOF(limits_v2) : ELEMENTSOF(limits_v1);
        _cleanup_fd_ int fd = -1, root_fd = -1;
        char dir[PATH_MAX];
        Mount mount = {};
        int r;

        if (is_outside(is->path))
                return refuse(check, "its cgroup (%.200s) is outside of what this daemon sees", is->path);
        r = find_mount(check, is->v2 ? NULL : is->controller, is->n_controller, is->path, &mount);
        if (r == -ENOENT && !is->v2 && strcmp(is->path, "/") == 0)
                return 0; /* not mounted here; its root sets no limits */
        if (!r && !directory_of(&mount, is->path, dir))
                r = -ENAMETOOLONG;
        if (!r) {
                fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                root_fd = open(mount.at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                r = fd < 0 || root_fd < 0 ? -errno : 0;
        }
        mount_done(&mount);
        if (r)
                return refuse(check, "its cgroup (%.200s of %.*s) cannot be looked at: %s", is->path, is->v2 ? 9 : (int)is->n_controller,
                        is->v2 ? "version 2" : is->controller, strerror(-r));
        for (size_t i = 0; i < n && !r; i++)
                r = check_limit(check, &limits[i], dir, fd, root_fd);
        return r;
}

/* Before its namespaces are looked at: nodes of root have some of their own, and belong to no container. */
static int check_dataflows(const Check *check)
{
        char dir[PATH_MAX];

        if (find_v2(check, dir))
                return 0; /* check_cgroups() says why */
        if (strcmp(dir, check->place) == 0)
                return CAPTURE_E_THERE;
        if (is_below(dir, check->ours) || strstr(dir, "/tidegate/daemon-") || strstr(dir, "/tidegate/run-"))
                return refuse(check, "it is part of a dataflow already (%.300s)", dir);
        return 0;
}

static int check_cgroups(const Check *check)
{
        char who[16], dir[PATH_MAX];
        _cleanup_(closep) FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        int r;

        r = find_v2(check, dir);
        if (r)
                return refuse(check, "its cgroup cannot be found: %s", r == -EXDEV ? "it is outside of what this daemon sees" : strerror(-r));
        (void)snprintf(who, sizeof(who), "%d", (int)check->pid);
        f = open_lines(check->proc, who, "cgroup");
        if (!f)
                return refuse(check, "its cgroups cannot be looked at: %s", strerror(errno));
        while (getline(&line, &size, f) > 0) {
                Membership is;

                if (!parse_membership(line, &is))
                        return refuse(check, "its cgroups cannot be understood");
                r = is.named ? 0 : check_limits(check, &is);
                if (r)
                        return r;
        }
        return feof(f) ? 0 : refuse(check, "its cgroups could not be looked at to the end");
}

/* ---- what kind of process it is */

typedef struct Stat {
        char state;
        pid_t parent;
        unsigned flags;
} Stat;

static int read_stat(const char *proc, pid_t pid, Stat *ret)
{
        char path[PATH_MAX], text[1024];
        const char *at;
        int parent, r;

        (void)snprintf(path, sizeof(path), "%s/%d/stat", proc, (int)pid);
        r = read_at(AT_FDCWD, path, text, sizeof(text));
        if (r)
                return r;
        at = strrchr(text, ')'); /* the name may hold anything */
        if (!at || sscanf(at, ") %c %d %*d %*d %*d %*d %u", &ret->state, &parent, &ret->flags) != 3)
                return -EBADMSG;
        ret->parent = parent;
        return 0;
}

static int check_kind(const Check *check)
{
        Stat stat;
        int r = read_stat(check->proc, check->pid, &stat);

        if (r == -ENOENT || r == -ESRCH)
                return refuse(check, "it has ended");
        if (r)
                return refuse(check, "it cannot be looked at: %s", strerror(-r));
        if (stat.flags & STAT_KTHREAD)
                return refuse(check, "it is a kernel thread");
        if (stat.state == 'Z' || stat.state == 'X')
                return refuse(check, "its first thread has ended");
        return 0;
}

static ssize_t read_namespace(const char *proc, const char *who, const char *name, char *buffer, size_t size)
{
        char path[PATH_MAX];
        ssize_t n;

        (void)snprintf(path, sizeof(path), "%s/%s/ns/%s", proc, who, name);
        n = readlink(path, buffer, size - 1);
        buffer[n > 0 ? n : 0] = '\0';
        return n < 0 ? -errno : n;
}

static int check_namespaces(const Check *check)
{
        static const struct {
                const char *file, *name;
        } all[] = {{"pid", "PID"}, {"pid_for_children", "PID (for its children)"}, {"cgroup", "cgroup"}, {"mnt", "mount"}, {"user", "user"}};
        char who[16], ours[64], theirs[64];

        (void)snprintf(who, sizeof(who), "%d", (int)check->pid);
        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                ssize_t n = read_namespace(check->proc, "self", all[i].file, ours, sizeof(ours));

                if (n == -ENOENT) /* a kernel without that kind */
                        continue;
                if (n > 0)
                        n = read_namespace(check->proc, who, all[i].file, theirs, sizeof(theirs));
                if (n <= 0)
                        return refuse(check, "its namespaces cannot be looked at: %s", strerror((int)-n));
                if (strcmp(ours, theirs) != 0)
                        return refuse(check, "it belongs to a container: its %s namespace is not the daemon's", all[i].name);
        }
        return 0;
}

int capture_check(const char *proc, pid_t pid, const char *ours, const char *place, char *ret_why, size_t why_size)
{
        Check check = {.proc = proc, .pid = pid, .ours = ours, .place = place, .why = ret_why, .why_size = why_size};
        int r = check_kind(&check);

        if (!r)
                r = check_dataflows(&check);
        if (!r)
                r = check_namespaces(&check);
        return r ? r : check_cgroups(&check);
}

/* ---- the move */

pid_t capture_pid(int pidfd)
{
        char path[64], text[1024];
        const char *at;
        long pid;
        int r;

        (void)snprintf(path, sizeof(path), CAPTURE_PROC "/self/fdinfo/%d", pidfd);
        r = read_at(AT_FDCWD, path, text, sizeof(text));
        if (r)
                return r;
        at = strstr(text, "\nPid:");
        pid = at ? strtol(at + strlen("\nPid:"), NULL, 10) : 0;
        if (!at)
                return -EBADF;
        return pid > 0 && pid <= INT_MAX ? (pid_t)pid : -ESRCH; /* -1: ended; 0: not of our namespace */
}

/* Not reaped, so that its number is nobody else's. */
static bool is_there(int pidfd)
{
        return syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

static int match_pid(pid_t pid, void *userdata)
{
        return pid == *(const pid_t *)userdata;
}

static int write_pid(int cgroup_fd, pid_t pid)
{
        char text[16];

        (void)snprintf(text, sizeof(text), "%d", (int)pid);
        return cgroup_write(cgroup_fd, "cgroup.procs", text);
}

/* It was forked a moment ago, for the number was another's then: where its parent is is where it came from. */
int capture_put_back(const char *proc, pid_t pid, int cgroup_fd)
{
        char dir[PATH_MAX];
        _cleanup_fd_ int fd = -1;
        Stat stat;
        int r;

        if (cgroup_each_process(cgroup_fd, match_pid, &pid) != 1)
                return 0;
        r = read_stat(proc, pid, &stat);
        if (!r)
                r = find_v2(&(Check){.proc = proc, .pid = stat.parent, .ours = "/"}, dir);
        if (r)
                return r == -ENOENT && cgroup_each_process(cgroup_fd, match_pid, &pid) != 1 ? CAPTURE_E_REFUSED : r;
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = fd < 0 ? -errno : write_pid(fd, pid);
        return r && r != -ESRCH ? r : CAPTURE_E_REFUSED;
}

/* Its number was free between the write and now, or before: was it moved and ended then, or was somebody else moved? */
static int look_who_was_moved(const Check *check, int cgroup_fd)
{
        int r = capture_put_back(check->proc, check->pid, cgroup_fd);

        if (r < 0)
                return refuse(check, "it has ended, and process %d, which has its number now, cannot be put back: %s", (int)check->pid, strerror(-r));
        return r ? refuse(check, "it has ended") : 0;
}

int capture_move(const char *proc, int pidfd, pid_t pid, int cgroup_fd, char *ret_why, size_t why_size)
{
        Check check = {.proc = proc, .pid = pid, .why = ret_why, .why_size = why_size};
        int r;

        if (!is_there(pidfd))
                return refuse(&check, "it has ended");
        r = write_pid(cgroup_fd, pid);
        if (r == -ESRCH)
                return refuse(&check, "it has ended");
        if (r)
                return refuse(&check, "it cannot be moved: %s", strerror(-r));
        /* From here on nothing may fail: it is there. */
        return is_there(pidfd) ? 0 : look_who_was_moved(&check, cgroup_fd);
}
