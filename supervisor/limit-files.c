/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/limit-files.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/cgroup-text.h"

#define N_LEVELS    4 /* dataflow, instance, tidegate, ours */
#define FILE_SIZE   4096
#define FREEZE_STEP (10 * NSEC_PER_MSEC) /* notifications of cgroup.events come no closer than that */

/* ---- text */

__attribute__((format(printf, 3, 4))) static void append(char *text, size_t size, const char *format, ...)
{
        size_t n = strlen(text);
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text + n, size - n, format, ap);
        va_end(ap);
}

/* ---- controllers */

static unsigned controllers_in(int dir_fd, const char *file)
{
        char text[FILE_SIZE], *save = NULL;
        unsigned found = 0;

        if (cgroup_read_text(dir_fd, file, text, sizeof(text)))
                return 0;
        for (char *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
                for (unsigned i = 0; limit_controller_names[i]; i++)
                        if (strcmp(word, limit_controller_names[i]) == 0)
                                found |= 1u << i;
        return found;
}

/* Why a controller is not in the cgroup.controllers of our own directory: read from /proc/cgroups, which every kernel has that has v1. */
static void why_not_offered(const char *name, char *text, size_t size)
{
        FILE *f = fopen("/proc/cgroups", "re");
        char line[256];

        while (f && fgets(line, sizeof(line), f)) {
                char subsystem[64];
                unsigned hierarchy, n, enabled;

                if (sscanf(line, "%63s %u %u %u", subsystem, &hierarchy, &n, &enabled) != 4 || strcmp(subsystem, limit_controller_v1(name)) != 0)
                        continue;
                if (!enabled)
                        append(text, size, "%s=the kernel was booted without controller %s\n", name, name);
                else if (hierarchy != 0)
                        append(text, size, "%s=controller %s belongs to a cgroup v1 hierarchy on this host\n", name, name);
                else
                        append(text, size, "%s=controller %s is not delegated to the cgroup that is ours\n", name, name);
                (void)fclose(f);
                return;
        }
        if (f)
                (void)fclose(f);
        append(text, size, "%s=controller %s is not offered here: the kernel lacks it, or it is not delegated to the cgroup that is ours\n", name, name);
}

void limits_missing(const char *reason, char *ret_missing, size_t missing_size)
{
        ret_missing[0] = '\0';
        for (unsigned i = 0; limit_controller_names[i]; i++)
                append(ret_missing, missing_size, "%s=%s\n", limit_controller_names[i], reason);
}

/* Every cgroup but the root of the hierarchy has a type. */
static bool is_inner_with_processes(int dir_fd)
{
        char pid;
        _cleanup_fd_ int fd = -1;

        if (faccessat(dir_fd, "cgroup.type", F_OK, 0) < 0)
                return false;
        fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        return fd >= 0 && read(fd, &pid, 1) != 0;
}

/* The kernel itself refuses memory and io only. Others, as cpu and pids, would make a threaded cgroup of it: nobody could be born below. */
static int enable(int dir_fd, const char *name)
{
        char text[16];

        if (is_inner_with_processes(dir_fd))
                return -EBUSY;
        (void)snprintf(text, sizeof(text), "+%s", name);
        return cgroup_write(dir_fd, "cgroup.subtree_control", text);
}

/* One controller, from the top down. 0, or a negative errno; *ret_level: of the directory that refused it. */
static int enable_down(const int *levels, unsigned bit, const char *name, unsigned *ret_level)
{
        for (unsigned i = N_LEVELS; i-- > 0;) {
                int r;

                *ret_level = i;
                if (controllers_in(levels[i], "cgroup.subtree_control") & bit)
                        continue;
                r = enable(levels[i], name);
                if (r)
                        return r;
        }
        return 0;
}

static void why_not_enabled(const char *name, int error, unsigned level, char *text, size_t size)
{
        static const char *const whats[N_LEVELS] = {"the dataflow's cgroup", "the instance's cgroup", "cgroup tidegate", "the cgroup that is ours"};

        if (error == -EBUSY)
                append(text, size, "%s=controller %s cannot be enabled: processes live in %s itself\n", name, name, whats[level]);
        else
                append(text, size, "%s=controller %s cannot be enabled in %s: %s\n", name, name, whats[level], error_text(error));
}

unsigned limits_enable(int dataflow_fd, unsigned wanted, char *ret_missing, size_t missing_size)
{
        static const char *const paths[N_LEVELS] = {".", "..", "../..", "../../.."};
        int levels[N_LEVELS], r = 0;
        unsigned offered, enabled = 0;

        ret_missing[0] = '\0';
        for (unsigned i = 0; i < N_LEVELS; i++) {
                levels[i] = openat(dataflow_fd, paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                r = levels[i] < 0 && !r ? -errno : r;
        }
        offered = r ? 0 : controllers_in(levels[N_LEVELS - 1], "cgroup.controllers");
        for (unsigned i = 0; limit_controller_names[i]; i++) {
                const char *name = limit_controller_names[i];
                unsigned level = 0;
                int e;

                if (r)
                        append(ret_missing, missing_size, "%s=the cgroups above cannot be opened: %s\n", name, error_text(r));
                else if (!(offered & 1u << i))
                        why_not_offered(name, ret_missing, missing_size);
                else if (wanted & 1u << i) {
                        e = enable_down(levels, 1u << i, name, &level);
                        if (e)
                                why_not_enabled(name, e, level, ret_missing, missing_size);
                        else
                                enabled |= 1u << i;
                } else if (controllers_in(levels[0], "cgroup.subtree_control") & 1u << i)
                        enabled |= 1u << i;
        }
        for (unsigned i = 0; i < N_LEVELS; i++)
                levels[i] = fd_close(levels[i]);
        return enabled;
}

/* ---- writing */

/* "/dev/NAME" to "MAJOR:MINOR", by sysfs, which answers from memory; the device itself is not touched. */
static int device_number(const char *device, char ret[static 32])
{
        char path[128], text[32] = "";
        _cleanup_fd_ int fd = -1;

        if (strncmp(device, "/dev/", 5) != 0) {
                (void)snprintf(ret, 32, "%s", device);
                return 0;
        }
        (void)snprintf(path, sizeof(path), "/sys/class/block/%s/dev", device + 5);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
                return -ENODEV;
        text[strcspn(text, "\n")] = '\0';
        (void)snprintf(ret, 32, "%s", text);
        return 0;
}

/* The kernel takes one device a write. */
static int set_io_max(int dir_fd, const char *value, char *ret_why, size_t why_size)
{
        char copy[LIMIT_VALUE_MAX], *save = NULL;

        (void)snprintf(copy, sizeof(copy), "%s", value);
        for (char *part = strtok_r(copy, ";", &save); part; part = strtok_r(NULL, ";", &save)) {
                char *rest = strchr(part, ' '), number[32], line[LIMIT_VALUE_MAX + 32];
                int r;

                if (!rest)
                        return -EINVAL;
                *rest = '\0';
                r = device_number(part, number);
                if (!r) {
                        (void)snprintf(line, sizeof(line), "%s %s", number, rest + 1);
                        r = cgroup_write(dir_fd, "io.max", line);
                }
                if (r) {
                        if (r == -ENODEV)
                                (void)snprintf(ret_why, why_size, "there is no whole block device %s here", part);
                        else if (r != -ENOENT)
                                (void)snprintf(ret_why, why_size, "the kernel refused io.max of device %s: %s", part, error_text(r));
                        return r;
                }
        }
        return 0;
}

/* The reason behind "CONTROLLER=", up to the line's end; 0 bytes: none. */
static const char *reason_of(const char *missing, const char *controller, size_t *ret_n)
{
        size_t n = strlen(controller);

        for (const char *at = missing; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
                if (strncmp(at, controller, n) == 0 && at[n] == '=') {
                        *ret_n = strcspn(at + n + 1, "\n");
                        return at + n + 1;
                }
        *ret_n = 0;
        return "";
}

int limits_set(int dir_fd, LimitKey key, const char *value, const char *missing, char *ret_why, size_t why_size)
{
        const char *file = limit_file(key), *reason;
        size_t n;
        int r;

        ret_why[0] = '\0';
        if (key == LIMIT_IO_MAX)
                r = set_io_max(dir_fd, value, ret_why, why_size);
        else
                r = cgroup_write(dir_fd, file, value);
        reason = reason_of(missing, limit_controller_name(key), &n);
        if (r == -ENOENT && n > 0)
                (void)snprintf(ret_why, why_size, "%.*s", (int)n, reason);
        else if (r == -ENOENT)
                (void)snprintf(ret_why, why_size, "there is no %s here: controller %s is not enabled, or this kernel has no such limit", file,
                        limit_controller_name(key));
        else if (r && !ret_why[0])
                (void)snprintf(ret_why, why_size, "the kernel refused %s \"%s\": %s", file, value, error_text(r));
        return r;
}

int limits_set_all(int dir_fd, const char *limits, bool lenient, const char *missing, char *ret_why, size_t why_size)
{
        char value[LIMIT_VALUE_MAX], why[512];
        int r, first = 0;
        LimitKey key;

        ret_why[0] = '\0';
        while ((r = limit_next(&limits, &key, value)) > 0) {
                r = limits_set(dir_fd, key, value, missing, why, sizeof(why));
                if (!r)
                        continue;
                append(ret_why, why_size, "%s%s=%s", ret_why[0] ? "\n" : "", limit_name(key), why);
                first = first ? first : r;
                if (!lenient)
                        return first;
        }
        if (r < 0 && !first) {
                append(ret_why, why_size, "resources=the order is damaged");
                first = r;
        }
        return first;
}

void limits_group_oom(int dir_fd)
{
        (void)cgroup_write(dir_fd, "memory.oom.group", "1"); /* no such file: no controller, and nothing to group */
}

/* ---- reading */

bool limits_read_usage(int dir_fd, KeeperUsage *ret)
{
        char text[FILE_SIZE];

        *ret = (KeeperUsage){};
        if (cgroup_read_text(dir_fd, "memory.events.local", text, sizeof(text)) == 0 || cgroup_read_text(dir_fd, "memory.events", text, sizeof(text)) == 0) {
                ret->oom = cgroup_text_number(text, "oom");
                ret->oom_kills = cgroup_text_number(text, "oom_kill");
                ret->n_high = cgroup_text_number(text, "high");
        }
        if (cgroup_read_text(dir_fd, "memory.peak", text, sizeof(text)) == 0)
                ret->memory_peak = strtoull(text, NULL, 10);
        if (cgroup_read_text(dir_fd, "pids.events", text, sizeof(text)) == 0)
                ret->forks_refused = cgroup_text_number(text, "max");
        if (cgroup_read_text(dir_fd, "cpu.stat", text, sizeof(text)) == 0) {
                ret->n_throttled = cgroup_text_number(text, "nr_throttled");
                ret->throttled_us = cgroup_text_number(text, "throttled_usec");
        }
        return ret->oom_kills || ret->oom || ret->forks_refused || ret->n_throttled || ret->n_high;
}

/* ---- the freezer */

int limits_frozen(int events_fd)
{
        char text[256];
        ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);

        if (n < 0)
                return errno == ENODEV ? 0 : -errno;
        text[n] = '\0';
        return cgroup_text_number(text, "frozen") != 0;
}

bool limits_freeze_ordered(int dir_fd)
{
        char text[FILE_SIZE];

        return cgroup_read_text(dir_fd, "cgroup.freeze", text, sizeof(text)) == 0 && text[0] == '1';
}

int limits_freeze(int dir_fd, bool frozen, nsec_t until)
{
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, "cgroup.events", O_RDONLY);
        int r;

        if (fd < 0)
                return fd;
        r = cgroup_write(dir_fd, "cgroup.freeze", frozen ? "1" : "0");
        while (!r) {
                struct pollfd p = {.fd = fd, .events = POLLPRI};
                nsec_t now;

                r = limits_frozen(fd);
                if (r < 0 || r == frozen)
                        return MIN(r, 0);
                now = clock_now();
                if (now >= until)
                        return -ETIMEDOUT;
                (void)poll(&p, 1, nsec_poll_ms(MIN(nsec_add(now, FREEZE_STEP), until), now));
                r = 0;
        }
        return r;
}
