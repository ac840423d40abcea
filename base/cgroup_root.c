/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cgroup_root.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

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
                unescape(at);
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

int cgroup_root_find(char *ret_path, char *ret_why, size_t why_size)
{
        char mount[PATH_MAX], own[PATH_MAX], dir[2 * PATH_MAX];
        int r = cgroup_mount_find(mount);

        if (r < 0) {
                (void)snprintf(ret_why, why_size, r == -EXDEV ? "the cgroup v2 hierarchy that is mounted does not begin at our cgroup namespace (a node of another dataflow? "
                                                               "there \"cgroup_writable: true\" is needed)"
                                                             : "no cgroup v2 hierarchy is mounted (/proc/self/mountinfo)");
                return r;
        }
        if (cgroup_path_of(0, own))
                memcpy(own, "/", 2);
        (void)snprintf(dir, sizeof(dir), "%s%s", mount, own);
        if (strcmp(own, "/") != 0 && strncmp(own, "/..", 3) != 0 && strlen(dir) < PATH_MAX && is_delegated(dir)) {
                memcpy(ret_path, dir, strlen(dir) + 1);
                (void)snprintf(ret_why, why_size, "own delegated cgroup %.180s", dir);
                return 0;
        }
        if (access(mount, W_OK) < 0) {
                r = -errno;
                (void)snprintf(ret_why, why_size, "%.90s: %s; own cgroup %.90s is not delegated to us", mount, strerrordesc_np(-r), own);
                return r;
        }
        memcpy(ret_path, mount, strlen(mount) + 1);
        (void)snprintf(ret_why, why_size, "%.120s, the root of the hierarchy; own cgroup is not delegated", mount);
        return 0;
}
