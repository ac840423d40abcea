/* SPDX-License-Identifier: Apache-2.0 */
#include "base/enforcer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/place.h"

static const char *const names[_ENFORCER_MAX] = {
        [ENFORCER_AUTO] = "auto",
        [ENFORCER_CGROUP] = "cgroup",
        [ENFORCER_CGROUP_PIDNS] = "cgroup+pidns",
        [ENFORCER_PIDNS] = "pidns",
        [ENFORCER_PID1] = "pid1",
        [ENFORCER_SUBREAPER] = "subreaper",
};

static const char *const suffixes[_ENFORCER_MAX] = {
        [ENFORCER_AUTO] = "",
        [ENFORCER_CGROUP] = "",
        [ENFORCER_CGROUP_PIDNS] = ".cgroup+pidns",
        [ENFORCER_PIDNS] = ".pidns",
        [ENFORCER_PID1] = ".pid1",
        [ENFORCER_SUBREAPER] = ".subreaper",
};

const char *enforcer_name(Enforcer enforcer)
{
        return names[enforcer];
}

const char *enforcer_suffix(Enforcer enforcer)
{
        return suffixes[enforcer];
}

int enforcer_parse(const char *text, Enforcer *ret)
{
        for (Enforcer e = ENFORCER_AUTO; e < _ENFORCER_MAX; e++)
                if (strcmp(text, names[e]) == 0) {
                        *ret = e;
                        return 0;
                }
        return -EINVAL;
}

bool enforcer_has_cgroup(Enforcer enforcer)
{
        return enforcer == ENFORCER_CGROUP || enforcer == ENFORCER_CGROUP_PIDNS;
}

bool enforcer_has_pidns(Enforcer enforcer)
{
        return enforcer == ENFORCER_PIDNS || enforcer == ENFORCER_CGROUP_PIDNS;
}

bool enforcer_has_reaper(Enforcer enforcer)
{
        return enforcer > ENFORCER_CGROUP;
}

Enforcer enforcer_of_name(const char *name)
{
        const char *dot = strrchr(name, '.');

        for (Enforcer e = ENFORCER_CGROUP_PIDNS; dot && e < _ENFORCER_MAX; e++)
                if (strcmp(dot, suffixes[e]) == 0)
                        return e;
        return ENFORCER_CGROUP;
}

Enforcer enforcer_of_instance(int dir_fd)
{
        char link[64], path[PATH_MAX];
        Enforcer enforcer;
        ssize_t n;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
        n = readlink(link, path, sizeof(path) - 1);
        path[n > 0 ? n : 0] = '\0';
        enforcer = enforcer_of_name(path);
        return enforcer_has_cgroup(enforcer) && !place_is_cgroup(dir_fd) ? ENFORCER_SUBREAPER : enforcer;
}
