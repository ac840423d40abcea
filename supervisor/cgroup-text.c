/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/cgroup-text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"

int cgroup_read_text(int dir_fd, const char *name, char *ret, size_t size)
{
        _cleanup_fd_ int fd = cgroup_open_file(dir_fd, name, O_RDONLY);
        ssize_t n;

        ret[0] = '\0';
        if (fd < 0)
                return fd;
        n = read(fd, ret, size - 1);
        if (n < 0)
                return -errno;
        ret[n] = '\0';
        return 0;
}

const char *cgroup_text_find(const char *text, const char *key)
{
        size_t n = strlen(key);

        for (const char *at = text; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
                if (strncmp(at, key, n) == 0 && at[n] == ' ')
                        return at + n + 1;
        return NULL;
}

uint64_t cgroup_text_number(const char *text, const char *key)
{
        const char *at = cgroup_text_find(text, key);

        return at ? strtoull(at, NULL, 10) : 0;
}
