/* SPDX-License-Identifier: Apache-2.0 */
#include "testgroup.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/sweep.h"

#define CGROUP2_MAGIC 0x63677270
#define RUN_ENV       "TIDEGATE_TEST_RUN"

/* Criterion's own runner loses a few bytes now and then; a leak report must mean something. */
const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void)
{
        return "leak:libcriterion\n";
}

const char *__lsan_default_options(void);
__attribute__((visibility("default"))) const char *__lsan_default_options(void)
{
        return "print_suppressions=0";
}

static const char *find_hierarchy(void)
{
        static const char *const candidates[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
        struct statfs fs;

        for (unsigned i = 0; i < ELEMENTSOF(candidates); i++)
                if (statfs(candidates[i], &fs) == 0 && fs.f_type == CGROUP2_MAGIC)
                        return candidates[i];
        return NULL;
}

static const char *why_skip(void)
{
        const char *root = find_hierarchy();
        char path[256];

        if (!root)
                return "no cgroup v2 hierarchy is mounted";
        snprintf(path, sizeof(path), "%s/tidegate-probe-%d", root, getpid());
        if (mkdir(path, 0700) < 0)
                return "the cgroup v2 hierarchy is not writable";
        (void)rmdir(path);
        return NULL;
}

/*
 * .fini does not run after a crash or a timeout: whatever groups this run made are wiped from here, by their names.
 */
static int wipe_leftovers(void)
{
        char prefix[64];
        int n = 0;
        struct dirent *entry;
        DIR *d = opendir(find_hierarchy());

        snprintf(prefix, sizeof(prefix), "tidegate-test-%s-", getenv(RUN_ENV));
        while (d && (entry = readdir(d))) {
                TestGroup g = {};

                if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
                        continue;
                snprintf(g.name, sizeof(g.name), "%s", entry->d_name);
                g.parent_fd = open(find_hierarchy(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                g.fd = openat(g.parent_fd, g.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                testgroup_wipe(&g);
                n++;
        }
        if (d)
                closedir(d);
        return n;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        return remove(path);
}

void testgroup_temp_dir(char *ret, size_t size)
{
        snprintf(ret, size, "/tmp/tidegate-test-%s-XXXXXX", getenv(RUN_ENV));
        cr_assert(mkdtemp(ret));
}

void testgroup_remove_dir(const char *path)
{
        (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void wipe_temp_dirs(void)
{
        char pattern[64];
        glob_t found = {};

        snprintf(pattern, sizeof(pattern), "/tmp/tidegate-test-%s-*", getenv(RUN_ENV));
        if (glob(pattern, 0, NULL, &found) == 0)
                for (size_t i = 0; i < found.gl_pathc; i++)
                        testgroup_remove_dir(found.gl_pathv[i]);
        globfree(&found);
}

int testgroup_main(int argc, char **argv)
{
        struct criterion_test_set *tests = criterion_initialize();
        const char *reason = why_skip();
        char run[16];
        int ok = 1;

        snprintf(run, sizeof(run), "%d", getpid());
        (void)setenv(RUN_ENV, run, 0); /* workers come through here as well, and keep it */
        if (criterion_handle_args(argc, argv, true)) {
                bool tap = false;

                for (int i = 1; i < argc; i++)
                        tap |= strncmp(argv[i], "--tap", 5) == 0;
                if (reason) {
                        printf("1..0 # SKIP %s\n", reason);
                        return tap ? 0 : 77;
                }
                ok = criterion_run_all_tests(tests);
                if (wipe_leftovers() > 0)
                        ok = 0;
                wipe_temp_dirs();
        }
        criterion_finalize(tests);
        return !ok;
}

int count_fds(void)
{
        DIR *d = opendir("/proc/self/fd");
        int n = 0;

        cr_assert(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n - 3; /* ".", ".." and the listing's own */
}

TestGroup testgroup_make(void)
{
        static atomic_int serial;
        const char *root = find_hierarchy();
        TestGroup g = {.parent_fd = -1, .fd = -1};

        cr_assert(root);
        g.n_fds = count_fds();
        g.parent_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(g.parent_fd >= 0);
        snprintf(g.name, sizeof(g.name), "tidegate-test-%s-%d-%d", getenv(RUN_ENV), getpid(),
                atomic_fetch_add(&serial, 1));
        snprintf(g.path, sizeof(g.path), "%s/%s", root, g.name);
        cr_assert_eq(cgroup_make(g.parent_fd, g.name, &g.fd), 0);
        return g;
}

void testgroup_wipe(TestGroup *g)
{
        SweepResult result;

        (void)sweep_kill(g->fd, clock_now() + 5 * NSEC_PER_SEC, &result);
        g->fd = fd_close(g->fd);
        if (cgroup_remove_tree(g->parent_fd, g->name, clock_now() + 5 * NSEC_PER_SEC) != 0)
                fprintf(stderr, "cannot remove %s\n", g->name);
        g->parent_fd = fd_close(g->parent_fd);
}

static int count_dirs(int fd, void *userdata)
{
        (*(int *)userdata)++;
        return 0;
}

void testgroup_done(TestGroup *g)
{
        int dirs = 0, processes = cgroup_count(g->fd), n_fds;

        (void)cgroup_walk(g->fd, count_dirs, &dirs);
        testgroup_wipe(g); /* before the assertions: they leave */
        cr_assert_eq(processes, 0, "%d processes left", processes);
        cr_assert_eq(dirs, 1, "%d cgroups left", dirs - 1);
        n_fds = count_fds();
        cr_assert_eq(n_fds, g->n_fds, "%d descriptors before, %d after", g->n_fds, n_fds);
}

bool wait_readable(int fd, nsec_t span)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};

        return poll(&p, 1, nsec_poll_ms(span, 0)) == 1;
}

char *helper_path(const char *name)
{
        static char paths[8][512];
        static atomic_uint next;
        char *path = paths[atomic_fetch_add(&next, 1) % 8];

        snprintf(path, sizeof(paths[0]), "%s/%s", TEST_HELPERS, name);
        return path;
}

int testgroup_spawn(int cgroup_fd, char *const argv[], pid_t *ret_pid)
{
        int out[2], pidfd = -1;
        char line[64];
        pid_t pid;
        struct clone_args args = {.flags = CLONE_PIDFD | CLONE_INTO_CGROUP,
                .exit_signal = SIGCHLD,
                .cgroup = (uint64_t)cgroup_fd,
                .pidfd = (uint64_t)(uintptr_t)&pidfd};

        cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        cr_assert(pid >= 0, "clone3: %s", strerror(errno));
        if (pid == 0) {
                (void)dup2(out[1], STDOUT_FILENO);
                execv(argv[0], argv);
                _exit(127);
        }
        close(out[1]);
        cr_assert(wait_readable(out[0], 20 * NSEC_PER_SEC), "%s did not get ready", argv[0]);
        cr_assert(read(out[0], line, sizeof(line)) > 0 && strncmp(line, "ready", 5) == 0, "%s failed", argv[0]);
        close(out[0]);
        if (ret_pid)
                *ret_pid = pid;
        return pidfd;
}
