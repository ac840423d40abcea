/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FILES: shows somebody the files that the processes of a dataflow have mapped to run them, each once, as descriptors for reading. Who they are for reads
 * them as nobody; to open them by what is mapped, and to look into /proc/PID/maps at all, takes the rights that a keeper has, and its patience: all of
 * it runs in a thread, and nothing is read of the files here.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/procstat.h"
#include "protocol/queues_msg.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"

#define JOBS_MAX  2                  /* at a time: one may hang */
#define SHOW_SPAN (10 * NSEC_PER_SEC) /* then who reads is taken to be stuck */

typedef struct Mapped {
        uint64_t major, minor, inode;
} Mapped;

typedef struct FilesJob {
        Job job;
        Keeper *keeper;
        KeeperMsg answer;
        int dir_fd, to_fd;
        nsec_t until;
        size_t n;
        Mapped all[QUEUES_FILES_MAX];
} FilesJob;

static FilesJob *files_job_free(FilesJob *j)
{
        if (!j)
                return NULL;
        j->dir_fd = fd_close(j->dir_fd);
        j->to_fd = fd_close(j->to_fd);
        free(j);
        return NULL;
}

/* 0 or a negative errno; blocks, until then at the most. */
static int send_file(FilesJob *j, int fd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = {.iov_base = (char[]){0}, .iov_len = 1};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};

        *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(int));
        for (;;) {
                struct pollfd p = {.fd = j->to_fd, .events = POLLOUT};
                nsec_t now = clock_now();

                if (sendmsg(j->to_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
                        return 0;
                if (errno != EAGAIN && errno != EINTR)
                        return -errno;
                if (now >= j->until)
                        return -ETIMEDOUT;
                (void)poll(&p, 1, nsec_poll_ms(j->until, now));
        }
}

static bool is_new(FilesJob *j, Mapped file)
{
        for (size_t i = 0; i < j->n; i++)
                if (memcmp(&j->all[i], &file, sizeof(file)) == 0)
                        return false;
        return true;
}

/* A line of /proc/PID/maps: is it something to run, and not seen yet? */
static int show_mapping(FilesJob *j, pid_t pid, const char *line)
{
        unsigned long begin, end;
        unsigned long long major, minor, inode;
        _cleanup_fd_ int fd = -1;
        char rights[5], path[96];
        Mapped file;

        if (sscanf(line, "%lx-%lx %4s %*x %llx:%llx %llu", &begin, &end, rights, &major, &minor, &inode) != 6 || inode == 0 || rights[2] != 'x')
                return 0;
        file = (Mapped){major, minor, inode};
        if (!is_new(j, file))
                return 0;
        if (j->n == QUEUES_FILES_MAX)
                return -E2BIG;
        j->all[j->n++] = file;
        (void)snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", (int)pid, begin, end);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        return fd < 0 ? 0 : send_file(j, fd); /* unmapped meanwhile, or gone with its process */
}

static int show_process(pid_t pid, void *userdata)
{
        FilesJob *j = userdata;
        _cleanup_free_ char *line = NULL;
        size_t room = 0;
        char path[32];
        FILE *maps;
        int r = 0;

        if (procstat_is_executing(pid))
                return 0; /* it has no program, and may not have one for long */
        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        maps = fopen(path, "re");
        if (!maps)
                return 0; /* it has ended */
        while (r == 0 && getline(&line, &room, maps) > 0)
                r = clock_now() < j->until ? show_mapping(j, pid, line) : -ETIMEDOUT;
        (void)fclose(maps);
        return r;
}

static int show_cgroup(int dir_fd, void *userdata)
{
        return cgroup_each_process(dir_fd, show_process, userdata);
}

static void run_files(Job *job)
{
        FilesJob *j = container_of(job, FilesJob, job);
        struct stat st;
        int r;

        j->until = clock_now() + SHOW_SPAN;
        r = fstat(j->dir_fd, &st) < 0 ? -errno : 0;
        if (r == 0) {
                j->answer.files_shown.cgroup_id = st.st_ino;
                r = cgroup_walk(j->dir_fd, show_cgroup, j);
        }
        j->answer.files_shown.error = r < 0 ? -r : 0; /* one that is too deep was shown but for the deepest */
        j->to_fd = fd_close(j->to_fd);
}

static void on_files(Job *job)
{
        FilesJob *j = container_of(job, FilesJob, job);

        j->keeper->n_files_jobs--;
        keeper_report(j->keeper, &j->answer, -1);
        j = files_job_free(j);
}

static FilesJob *files_job_new(Keeper *k, uint64_t asked_ns, int take_fd)
{
        FilesJob *j = calloc(1, sizeof(*j));

        if (!j) {
                (void)fd_close(take_fd);
                return NULL;
        }
        j->keeper = k;
        j->answer = (KeeperMsg){.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {.asked_ns = asked_ns}};
        j->to_fd = take_fd;
        j->dir_fd = enforcer_has_cgroup(k->enforcer) ? fcntl(k->dataflow_fd, F_DUPFD_CLOEXEC, 3) : -1;
        j->job.run = run_files;
        j->job.on_done = on_files;
        return j;
}

void keeper_files(Keeper *k, uint64_t asked_ns, int take_fd)
{
        FilesJob *j = k->n_files_jobs < JOBS_MAX ? files_job_new(k, asked_ns, take_fd) : NULL;
        int error = ENOMEM;

        if (k->n_files_jobs >= JOBS_MAX) {
                (void)fd_close(take_fd);
                error = EAGAIN;
        }
        if (j && j->dir_fd >= 0 && jobs_submit(&k->jobs, &j->job, JOB_WORK) == 0) {
                k->n_files_jobs++;
                return;
        }
        j = files_job_free(j);
        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_FILES_SHOWN, .files_shown = {.asked_ns = asked_ns, .error = error}}, -1);
}
