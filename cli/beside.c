/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/beside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

int find_tidegated(char *ret, size_t size)
{
        ssize_t n = readlink("/proc/self/exe", ret, size - 1);
        char *slash;

        if (n < 0)
                return error_origin(-errno);
        ret[n] = '\0';
        slash = strrchr(ret, '/');
        if (!slash || (size_t)(slash - ret) + sizeof("/tidegated") > size)
                return error_origin(-ENAMETOOLONG);
        memcpy(slash, "/tidegated", sizeof("/tidegated"));
        return access(ret, X_OK) < 0 ? -errno : 0;
}
