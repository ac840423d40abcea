/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/sample.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "base/procstat.h"
#include "supervisor/cgroup.h"

typedef struct Look {
        KeeperSample *sample;
        pid_t reaper;
} Look;

static void add_call(KeeperSample *sample, uint32_t number)
{
        for (uint32_t i = 0; i < sample->n_calls; i++) {
                if (sample->calls[i].number == number) {
                        sample->calls[i].n++;
                        return;
                }
        }
        if (sample->n_calls < KEEPER_SAMPLE_CALLS)
                sample->calls[sample->n_calls++] = (KeeperSampleCall){number, 1};
        else
                sample->n_other++;
}

void sample_add(KeeperSample *sample, const char *text)
{
        char *end;
        long number = strtol(text, &end, 10);

        sample->n_threads++;
        if (end == text || number < 0) /* "running", or off the processor for another reason: a page, a signal that stops it */
                sample->n_outside++;
        else
                add_call(sample, (uint32_t)number);
}

static void look_at_thread(Look *look, pid_t pid, const char *tid)
{
        char path[64], text[256];
        int r;

        (void)snprintf(path, sizeof(path), "/proc/%d/task/%.20s/syscall", (int)pid, tid);
        r = procfs_read(path, text, sizeof(text));
        if (r == -EPERM || r == -EACCES)
                look->sample->n_unseen++;
        else if (r == 0)
                sample_add(look->sample, text);
}

static int look_at_process(pid_t pid, void *userdata)
{
        Look *look = userdata;
        struct dirent *entry;
        char path[64];
        DIR *dir;

        if (procstat_is_executing(pid)) {
                look->sample->n_threads++;
                add_call(look->sample, SYS_execve);
                return 0;
        }
        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        dir = pid == look->reaper ? NULL : opendir(path);
        while (dir && (entry = readdir(dir)) && look->sample->n_threads + look->sample->n_unseen < SAMPLE_THREADS_MAX)
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
                        look_at_thread(look, pid, entry->d_name);
        if (dir)
                (void)closedir(dir);
        return look->sample->n_threads + look->sample->n_unseen < SAMPLE_THREADS_MAX ? 0 : CGROUP_E_MANY;
}

static int look_at_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, look_at_process, userdata);
}

int sample_read(KeeperSample *ret, int dir_fd, pid_t reaper)
{
        int r;

        *ret = (KeeperSample){};
        r = cgroup_walk(dir_fd, look_at_cgroup, &(Look){ret, reaper});
        return r < 0 ? r : 0;
}
