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

static int read_of(pid_t pid, const char *name, char *buffer, size_t size)
{
        char path[64];
        int r;

        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        r = procfs_read(path, buffer, size);
        return r == -ENOENT ? -ESRCH : r;
}

/* Pages in all, of them in memory, shared, of the program. Who has ended has none at all. */
static bool read_pages(pid_t pid, unsigned long long *ret_all, unsigned long long *ret_in, unsigned long long *ret_program)
{
        char text[256];

        return read_of(pid, "statm", text, sizeof(text)) == 0 && sscanf(text, "%llu %llu %*u %llu", ret_all, ret_in, ret_program) == 3;
}

bool procstat_is_executing(pid_t pid)
{
        unsigned long long all, in, program;

        return read_pages(pid, &all, &in, &program) && all > 0 && program == 0;
}

int procstat_read(ProcStat *ret, pid_t pid)
{
        char text[1024];
        int r;

        if (procstat_is_executing(pid))
                return -EBUSY;
        r = read_of(pid, "stat", text, sizeof(text));
        return r ? r : procstat_parse(ret, text);
}

static void copy_name(ProcUse *use, const char *name, size_t n)
{
        n = MIN(n, sizeof(use->comm) - 1);
        memcpy(use->comm, name, n);
        use->comm[n] = '\0';
}

static int parse_use(ProcUse *ret, const char *text)
{
        const char *name = strchr(text, '('), *p = strrchr(text, ')');
        ProcUse use = {.state = '?'};
        uint64_t user, system, waited_user, waited_system;
        int parent;

        if (!name || !p || p < name || sscanf(p, ") %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %*d %*d %" SCNu64 " %*d %*u %*u %" SCNu64,
                          &use.state, &parent, &user, &system, &waited_user, &waited_system, &use.n_threads, &use.pages) != 8)
                return -EBADMSG;
        use.parent = parent;
        use.own = user + system;
        use.waited = waited_user + waited_system;
        copy_name(&use, name + 1, (size_t)(p - name - 1));
        *ret = use;
        return 0;
}

/* From those files alone that wait for nobody. */
static int use_of_executing(ProcUse *ret, pid_t pid)
{
        unsigned long long all, in, program, ran = 0;
        const char *state, *parent;
        char text[1024];
        int r, number;

        r = read_of(pid, "status", text, sizeof(text));
        if (r)
                return r;
        state = strstr(text, "\nState:\t"); /* a name holds no line feed here */
        parent = strstr(text, "\nPPid:\t");
        *ret = (ProcUse){.n_threads = 1};
        if (!state || !parent || sscanf(state, " State: %c", &ret->state) != 1 || sscanf(parent, " PPid: %d", &number) != 1)
                return -EBADMSG;
        ret->parent = number;
        if (read_pages(pid, &all, &in, &program))
                ret->pages = in;
        if (read_of(pid, "schedstat", text, sizeof(text)) == 0 && sscanf(text, "%llu", &ran) == 1)
                ret->own = ran / (1000000000ULL / (unsigned long long)sysconf(_SC_CLK_TCK));
        if (read_of(pid, "comm", text, sizeof(text)) == 0 && text[0])
                copy_name(ret, text, strlen(text) - 1); /* a line feed behind it */
        return 0;
}

int procstat_use(ProcUse *ret, pid_t pid)
{
        char text[1024];
        int r;

        if (procstat_is_executing(pid))
                return use_of_executing(ret, pid);
        r = read_of(pid, "stat", text, sizeof(text));
        return r ? r : parse_use(ret, text);
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
