/* SPDX-License-Identifier: Apache-2.0 */
#include "base/procstat.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

int procstat_parse(ProcStat *ret, const char *text)
{
        const char *p = strrchr(text, ')'); /* the name before it may hold anything, parentheses too */
        ProcStat stat;

        if (!p || sscanf(p, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64, &stat.state,
                          &stat.start_time) != 2)
                return -EBADMSG;
        *ret = stat;
        return 0;
}

int procfs_read(const char *path, char *buffer, size_t size)
{
        _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, buffer, size - 1);
        if (n < 0)
                return -errno;
        buffer[n] = '\0';
        return 0;
}

int procstat_read(ProcStat *ret, pid_t pid)
{
        char path[64], text[1024];
        int r;

        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = procfs_read(path, text, sizeof(text));
        if (r == -ENOENT)
                return -ESRCH;
        return r ? r : procstat_parse(ret, text);
}

char *procfs_read_whole(int fd, size_t max, size_t *ret_size)
{
        size_t size = 0, room = 4096;
        char *text = fd < 0 ? NULL : malloc(room);

        while (text) {
                ssize_t n = read(fd, text + size, room - size - 1);

                if (n <= 0)
                        break;
                size += (size_t)n;
                if (room - size < 1024) {
                        char *grown = room < max ? realloc(text, 2 * room) : NULL;

                        if (!grown)
                                break;
                        text = grown;
                        room *= 2;
                }
        }
        if (text)
                text[size] = '\0';
        *ret_size = size;
        return text;
}

void boot_id_read(char ret[static 37])
{
        if (procfs_read("/proc/sys/kernel/random/boot_id", ret, 37))
                ret[0] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
}
