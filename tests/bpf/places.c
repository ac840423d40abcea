/* SPDX-License-Identifier: Apache-2.0 */
#include "places.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define PATIENCE (5 * NSEC_PER_SEC)

static struct {
        char root[128];
        const char *const *names;
        size_t n;
} places;

const char *place(const char *name, const char *file)
{
        static char path[PATH_MAX];

        (void)snprintf(path, sizeof(path), "%s/%s%s%s", places.root, name, file[0] ? "/" : "", file);
        return path;
}

uint64_t place_id(const char *name)
{
        struct stat st;

        cr_assert_eq(stat(place(name, ""), &st), 0);
        return st.st_ino;
}

/* EBUSY outlives the last process by a moment. */
static bool remove_place(const char *path, nsec_t deadline)
{
        while (rmdir(path) < 0) {
                if (errno != EBUSY || clock_now() >= deadline)
                        return false;
                (void)waitpid(-1, NULL, WNOHANG);
                (void)sched_yield();
        }
        return true;
}

/* All below that directory, with whoever is there. */
static bool remove_places(const char *root)
{
        nsec_t deadline = clock_now() + PATIENCE;
        char path[PATH_MAX];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/cgroup.kill", root);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void)!write(fd, "1", 1);
        (void)fd_close(fd);
        for (size_t i = places.n; i-- > 0;) {
                (void)snprintf(path, sizeof(path), "%s/%s", root, places.names[i]);
                (void)remove_place(path, deadline);
        }
        return remove_place(root, deadline);
}

/* A test that crashed never came to its end: the next one cleans up after it. */
static void sweep_dead_tests(const char *root, const char *kind)
{
        DIR *dir = opendir(root);
        struct dirent *e;
        char path[PATH_MAX], prefix[64];
        int n = snprintf(prefix, sizeof(prefix), "tidegate-test-%s-", kind);

        while (dir && (e = readdir(dir))) {
                if (strncmp(e->d_name, prefix, (size_t)n) != 0)
                        continue;
                (void)snprintf(path, sizeof(path), "/proc/%s", e->d_name + n);
                if (access(path, F_OK) == 0)
                        continue;
                (void)snprintf(path, sizeof(path), "%s/%s", root, e->d_name);
                (void)remove_places(path);
        }
        if (dir)
                (void)closedir(dir);
}

void places_open(const char *kind, const char *const *names, size_t n)
{
        const char *root = access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";

        places.names = names;
        places.n = n;
        sweep_dead_tests(root, kind);
        (void)snprintf(places.root, sizeof(places.root), "%s/tidegate-test-%s-%d", root, kind, (int)getpid());
        if (mkdir(places.root, 0755) < 0) {
                places.root[0] = '\0';
                cr_skip_test("no cgroup can be made below %s", root);
        }
        for (size_t i = 0; i < n; i++)
                cr_assert_eq(mkdir(place(names[i], ""), 0755), 0);
}

void places_close(void)
{
        if (places.root[0])
                cr_expect(remove_places(places.root), "the test's cgroups are left over");
        places.root[0] = '\0';
}

pid_t place_fork(const char *name)
{
        int fd = open(place(name, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)fd};
        pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

        (void)fd_close(fd);
        return pid;
}
