/* SPDX-License-Identifier: Apache-2.0 */
/* An instance's directory: made, locked by whoever lives of it, swept by the next one when nobody does. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/instance.h"
#include "testgroup.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

static bool exists(const TestGroup *g, const char *name)
{
        char path[1024];

        snprintf(path, sizeof(path), "%s/tidegate/%s", g->path, name);
        return access(path, F_OK) == 0;
}

/* An owner that dies at once and leaves a process in its instance's cgroup. Returns the instance's name. */
static void make_dead(const TestGroup *g, const char *prefix, char *ret_name, size_t size)
{
        int pipefd[2], closed[2];
        pid_t pid;
        ssize_t n;

        cr_assert_eq(pipe2(pipefd, O_CLOEXEC), 0);
        cr_assert_eq(pipe2(closed, O_CLOEXEC), 0);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                Instance instance;
                char why[256];
                pid_t child;

                if (instance_make(&instance, g->path, prefix, ENFORCER_CGROUP, why, sizeof(why)))
                        _exit(1);
                child = fork();
                if (child == 0) {
                        (void)fd_close(instance.dir_fd); /* a node does not inherit the lock */
                        (void)fd_close(instance.base_fd);
                        (void)!write(closed[1], "", 1);
                        for (;;)
                                pause();
                }
                if (read(closed[0], why, 1) != 1)
                        _exit(1);
                if (dprintf(openat(instance.dir_fd, "cgroup.procs", O_WRONLY), "%d", child) < 0)
                        _exit(1);
                (void)!write(pipefd[1], instance.name, sizeof(instance.name));
                _exit(0);
        }
        (void)fd_close(pipefd[1]);
        (void)fd_close(closed[0]);
        (void)fd_close(closed[1]);
        n = read(pipefd[0], ret_name, size);
        (void)fd_close(pipefd[0]);
        cr_assert_gt(n, 0, "the owner could not make its instance");
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

Test(instance, is_private_locked_and_gone_when_removed, .timeout = 20)
{
        TestGroup g = testgroup_make();
        Instance instance = INSTANCE_NULL;
        char why[256] = "";
        struct stat st;
        int fd;

        cr_assert_eq(instance_make(&instance, g.path, "run", ENFORCER_CGROUP, why, sizeof(why)), 0, "%s", why);
        cr_assert(exists(&g, instance.name));
        cr_assert_eq(fstat(instance.dir_fd, &st), 0);
        cr_assert_eq(st.st_mode & 0777, 0700, "nobody else may open it, and so nobody else can hold its lock");
        fd = open(instance.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(fd, 0);
        cr_assert_eq(flock(fd, LOCK_EX | LOCK_NB), -1, "the lock is held");
        (void)fd_close(fd);
        cr_assert_eq(instance_remove(&instance, clock_now() + NSEC_PER_SEC), 0);
        cr_assert_not(exists(&g, ""), "the last one takes the base along");
        instance_done(&instance);
        testgroup_done(&g);
}

Test(instance, the_next_one_ends_what_a_dead_one_left, .timeout = 20)
{
        TestGroup g = testgroup_make();
        Instance next = INSTANCE_NULL;
        char dead[64] = "", why[256] = "";

        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        make_dead(&g, "dead", dead, sizeof(dead));
        cr_assert(exists(&g, dead));
        cr_assert_eq(instance_make(&next, g.path, "run", ENFORCER_CGROUP, why, sizeof(why)), 0, "%s", why);
        cr_assert_not(exists(&g, dead), "it was swept");
        cr_assert(exists(&g, next.name));
        cr_assert_eq(instance_remove(&next, clock_now() + NSEC_PER_SEC), 0);
        instance_done(&next);
        while (waitpid(-1, NULL, 0) > 0) /* the orphan came to us, ended */
                ;
        testgroup_done(&g);
}

Test(instance, a_dead_daemons_nodes_wait_for_the_next_one_unless_it_is_the_caller, .timeout = 20)
{
        TestGroup g = testgroup_make();
        char mine[64] = "", stranger[64] = "";
        int base;

        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
        make_dead(&g, "daemon", mine, sizeof(mine));
        make_dead(&g, "daemon", stranger, sizeof(stranger));
        base = openat(g.fd, "tidegate", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(base, 0);
        cr_assert_eq(instance_sweep(base, NULL, clock_now() + 3 * NSEC_PER_SEC), 0, "another runtime directory's, for all we know");
        cr_assert(exists(&g, mine) && exists(&g, stranger));
        cr_assert_eq(instance_sweep(base, mine, clock_now() + 3 * NSEC_PER_SEC), 1);
        cr_assert(exists(&g, mine));
        cr_assert_not(exists(&g, stranger));
        cr_assert_eq(instance_sweep(base, "", clock_now() + 3 * NSEC_PER_SEC), 1);
        cr_assert_not(exists(&g, mine));
        (void)fd_close(base);
        cr_assert_eq(unlinkat(g.fd, "tidegate", AT_REMOVEDIR), 0);
        while (waitpid(-1, NULL, 0) > 0) /* the orphans came to us, ended */
                ;
        testgroup_done(&g);
}

Test(instance, one_that_lives_is_left_alone, .timeout = 20)
{
        TestGroup g = testgroup_make();
        Instance one = INSTANCE_NULL, two = INSTANCE_NULL;
        char why[256] = "";

        cr_assert_eq(instance_make(&one, g.path, "run", ENFORCER_CGROUP, why, sizeof(why)), 0, "%s", why);
        cr_assert_eq(instance_make(&two, g.path, "run", ENFORCER_CGROUP, why, sizeof(why)), 0, "%s", why);
        cr_assert(exists(&g, one.name), "its lock is held");
        cr_assert(exists(&g, two.name));
        cr_assert_eq(instance_remove(&one, clock_now() + NSEC_PER_SEC), 0);
        cr_assert(exists(&g, two.name), "and the base stays while another one is there");
        cr_assert_eq(instance_remove(&two, clock_now() + NSEC_PER_SEC), 0);
        instance_done(&one);
        instance_done(&two);
        testgroup_done(&g);
}

Test(instance, a_root_that_is_no_cgroup_says_so, .timeout = 20)
{
        Instance instance = INSTANCE_NULL;
        char why[256] = "";

        cr_assert_lt(instance_make(&instance, "/proc/self/fdinfo", "run", ENFORCER_CGROUP, why, sizeof(why)), 0);
        cr_assert_not_null(strstr(why, "/proc/self/fdinfo"), "%s", why);
}
