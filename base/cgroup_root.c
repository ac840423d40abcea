/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cgroup_root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

void mountinfo_unescape(char *s)
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

int cgroup_mount_find(char *ret_path)
{
        FILE *f = fopen("/proc/self/mountinfo", "re");
        char line[2 * PATH_MAX], root[PATH_MAX], at[PATH_MAX], type[64];
        int found = -ENOENT;

        if (!f)
                return -errno;
        while (found < 0 && fgets(line, sizeof(line), f)) {
                char *dash = strstr(line, " - ");

                if (!dash || sscanf(dash + 3, "%63s", type) != 1 || strcmp(type, "cgroup2") != 0)
                        continue;
                if (sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2)
                        continue;
                if (strcmp(root, "/") != 0) {
                        found = found == -ENOENT && strncmp(root, "/..", 3) == 0 ? -EXDEV : found; /* unless another shows it */
                        continue;
                }
                mountinfo_unescape(at);
                memcpy(ret_path, at, strlen(at) + 1);
                found = 0;
        }
        (void)fclose(f); /* read only */
        return found;
}

int cgroup_path_of(pid_t pid, char *ret_path)
{
        char name[64], line[PATH_MAX + 8];
        int r = -ENOENT;
        FILE *f;

        (void)snprintf(name, sizeof(name), pid > 0 ? "/proc/%d/cgroup" : "/proc/self/cgroup", (int)pid);
        f = fopen(name, "re");
        if (!f)
                return -errno;
        while (fgets(line, sizeof(line), f)) {
                if (strncmp(line, "0::/", 4) != 0)
                        continue;
                line[strcspn(line, "\n")] = '\0';
                if (strlen(line + 3) >= PATH_MAX)
                        continue;
                memcpy(ret_path, line + 3, strlen(line + 3) + 1);
                r = 0;
        }
        (void)fclose(f); /* read only */
        return r;
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

/*
 * What we see of the hierarchy: the top of the first mount that shows our own cgroup, and where in it that is. The mount may begin below the
 * hierarchy's root: a container's that has no cgroup namespace begins at the container's own cgroup.
 */
static int find_view(const char *own, char *ret_top, char *ret_own)
{
        FILE *f = fopen("/proc/self/mountinfo", "re");
        char line[2 * PATH_MAX], root[PATH_MAX], at[PATH_MAX], type[64];
        int r = -ENOENT;

        if (!f)
                return -errno;
        while (r && fgets(line, sizeof(line), f)) {
                char *dash = strstr(line, " - ");
                size_t n;

                if (!dash || sscanf(dash + 3, "%63s", type) != 1 || strcmp(type, "cgroup2") != 0 ||
                        sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2)
                        continue;
                mountinfo_unescape(root);
                mountinfo_unescape(at);
                n = strcmp(root, "/") == 0 ? 0 : strlen(root);
                if (strncmp(root, "/..", 3) == 0 || strncmp(own, root, n) != 0 || (n > 0 && own[n] != '/' && own[n] != '\0'))
                        continue;
                if (strlen(at) + strlen(own + n) >= PATH_MAX)
                        continue;
                memcpy(ret_top, at, strlen(at) + 1);
                (void)snprintf(ret_own, PATH_MAX, "%.2000s%.2000s", at, strcmp(own + n, "/") == 0 ? "" : own + n);
                r = 0;
        }
        (void)fclose(f); /* read only */
        return r;
}

int cgroup_own_find(char *ret_path)
{
        char own[PATH_MAX], top[PATH_MAX];
        int r = cgroup_path_of(0, own);

        return r ? r : strncmp(own, "/..", 3) == 0 ? -EXDEV : find_view(own, top, ret_path);
}

/* Every cgroup but the root of the hierarchy has a type. */
static bool is_inner(const char *path)
{
        char name[PATH_MAX + 16];

        (void)snprintf(name, sizeof(name), "%s/cgroup.type", path);
        return access(name, F_OK) == 0;
}

static bool has_text(int dir_fd, const char *name)
{
        int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        char c;
        bool found = fd >= 0 && read(fd, &c, 1) == 1 && c != '\n';

        (void)fd_close(fd);
        return found;
}

/* The folder of the program that a process runs, 0: this one; and whether its name is one of ours. */
static bool program_of(pid_t pid, char *ret_folder)
{
        char name[64], *slash;
        ssize_t n;

        (void)snprintf(name, sizeof(name), pid > 0 ? "/proc/%d/exe" : "/proc/self/exe", (int)pid);
        n = readlink(name, ret_folder, PATH_MAX - 1);
        if (n < 0)
                return false;
        ret_folder[n] = '\0';
        slash = strrchr(ret_folder, '/');
        if (!slash)
                return false;
        *slash = '\0';
        return strncmp(slash + 1, "tidegate", strlen("tidegate")) == 0;
}

/* `tidegate` and `tidegated` lie in one folder. */
static bool is_our_program(pid_t pid)
{
        char theirs[PATH_MAX], ours[PATH_MAX];

        (void)program_of(0, ours);
        return program_of(pid, theirs) && strcmp(theirs, ours) == 0;
}

int cgroup_count_others(const char *path, pid_t also)
{
        _cleanup_fd_ int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int fd, pid, n = 0;
        FILE *f;

        /* The root of the hierarchy may have processes and controllers below. */
        if (dir_fd < 0 || !is_inner(path) || !has_text(dir_fd, "cgroup.controllers"))
                return 0;
        fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        f = fd >= 0 ? fdopen(fd, "re") : NULL;
        if (!f) {
                (void)fd_close(fd);
                return 0;
        }
        while (fscanf(f, "%d", &pid) == 1) /* 0: of another PID namespace */
                n += pid <= 0 || (pid != getpid() && pid != also && !is_our_program(pid));
        (void)fclose(f); /* read only */
        return n;
}

static void say_others(const char *path, char *why, size_t why_size)
{
        size_t n = strlen(why);
        int others = cgroup_count_others(path, 0);

        if (others > 0 && n < why_size)
                (void)snprintf(why + n, why_size - n, "; no limits below it, for %d other process%s %s in it", others, others == 1 ? "" : "es", others == 1 ? "is" : "are");
}

int cgroup_root_find(char *ret_path, char *ret_why, size_t why_size)
{
        char top[PATH_MAX], own[PATH_MAX], dir[PATH_MAX], *last;
        int r;

        if (cgroup_path_of(0, own) || strncmp(own, "/..", 3) == 0)
                memcpy(own, "/", 2);
        last = strrchr(own, '/');
        if (strcmp(last, "/" CGROUP_SELF) == 0)
                last[last == own] = '\0';
        r = find_view(own, top, dir);
        if (r < 0) {
                r = cgroup_mount_find(top);
                (void)snprintf(ret_why, why_size, r == -EXDEV ? "the cgroup v2 hierarchy that is mounted does not begin at our cgroup namespace (a node of another dataflow? "
                                                               "there \"cgroup_writable: true\" is needed)"
                                                             : "no cgroup v2 hierarchy is mounted (/proc/self/mountinfo)");
                return r < 0 ? r : -ENOENT;
        }
        if (strcmp(dir, top) != 0 && is_delegated(dir)) {
                memcpy(ret_path, dir, strlen(dir) + 1);
                (void)snprintf(ret_why, why_size, "own delegated cgroup %.180s", dir);
                say_others(dir, ret_why, why_size);
                return 0;
        }
        if (access(top, W_OK) < 0) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "%.90s: %s; own cgroup %.90s is not delegated to us", top, strerrordesc_np(-r), own);
                return r;
        }
        memcpy(ret_path, top, strlen(top) + 1);
        if (strcmp(dir, top) == 0 && is_inner(top))
                (void)snprintf(ret_why, why_size, "%.120s, the top of what this container sees", top);
        else
                (void)snprintf(ret_why, why_size, "%.120s, the root of the hierarchy; own cgroup is not delegated", top);
        say_others(top, ret_why, why_size);
        return 0;
}
