/* SPDX-License-Identifier: Apache-2.0 */
/* Who reads files for the helper that sees queues, and who asks processes: what they may, what they say, and what follows when one of them hangs or dies. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bpf/mappers.h"
#include "hung.h"
#include "shm/probe.h"
#include "supervisor/queues-apart.h"
#include "testgroup.h"

static QueuesApart apart;
static pid_t children[2]; /* reader, asker */

/* Up to n children of a process, in the order in which they were made; how many there are. */
static size_t children_of(pid_t pid, pid_t *ret, size_t n)
{
        char path[64], text[256] = "";
        _cleanup_fd_ int fd = -1;
        const char *at = text;
        size_t found = 0;
        int used;

        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        cr_assert_geq(read(fd, text, sizeof(text) - 1), 0);
        while (found < n && sscanf(at, "%d%n", &ret[found], &used) == 1) {
                at += used;
                found++;
        }
        return found;
}

static void begin(void)
{
        if (geteuid() != 0)
                cr_skip_test("not root");
        cr_assert_eq(queues_apart_begin(&apart), 0);
        cr_assert_eq(children_of(getpid(), children, 2), 2);
}

static void end(void)
{
        apart.reader = fd_close(apart.reader);
        apart.asker = fd_close(apart.asker);
        for (unsigned i = 0; i < 2; i++)
                cr_expect_eq(waitpid(children[i], NULL, 0), children[i], "it ends when its starter hangs up");
}

/* What stands behind a name in /proc/PID/status. */
static const char *status_of(pid_t pid, const char *name)
{
        static char text[4096];
        char path[64];
        _cleanup_fd_ int fd = -1;
        ssize_t n;
        char *at;

        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = read(fd, text, sizeof(text) - 1);
        cr_assert_gt(n, 0);
        text[n] = '\0';
        at = strstr(text, name);
        cr_assert_not_null(at);
        at += strlen(name) + 1;
        at[strcspn(at, "\n")] = '\0';
        return at;
}

static unsigned long long rights_of(pid_t pid)
{
        unsigned uid;

        cr_assert_eq(sscanf(status_of(pid, "\nUid:"), "%u", &uid), 1);
        cr_expect_eq(uid, 65534, "it is nobody");
        return strtoull(status_of(pid, "\nCapPrm:"), NULL, 16);
}

Test(queues_apart, the_reader_finds_what_there_is_and_both_have_no_more_rights_than_they_need, .timeout = 30)
{
        _cleanup_fd_ int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), none = open("/bin/true", O_RDONLY | O_CLOEXEC), dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        Site sites[SITES_MAX], same[SITES_MAX];
        size_t n, n_same;
        MappersHeld held;
        MappedFile file;

        if (probe_enqueue_wanted()) /* or there were none */
                probe_enqueue(0, 0, 0);
        begin();
        cr_assert_eq(sites_find(exe, sites, &n), 0);
        cr_assert_gt(n, 0);
        cr_assert_eq(queues_apart_sites(&apart, exe, same, &n_same), 0);
        cr_assert_eq(n, n_same);
        for (size_t i = 0; i < n; i++)
                cr_expect(same[i].kind == sites[i].kind && same[i].offset == sites[i].offset && same[i].semaphore == sites[i].semaphore);
        cr_expect(queues_apart_sites(&apart, none, same, &n_same) == 0 && n_same == 0);
        cr_expect(queues_apart_sites(&apart, dir, same, &n_same) == 0 && n_same == 0);
        cr_assert_eq(mapped_file(exe, &file), 0);
        cr_expect_eq(queues_apart_check(&apart, &file, 1, &held), 0, "nobody is stuck");
        cr_expect_eq(rights_of(children[0]), 0);
        cr_expect_eq(rights_of(children[1]), 1ull << 1 | 1ull << 19, "CAP_DAC_OVERRIDE, CAP_SYS_PTRACE");
        end();
}

Test(queues_apart, whoever_dies_is_missed_at_once_and_for_good, .timeout = 30)
{
        _cleanup_fd_ int exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        MappedFile file = {.inode = 1};
        Site sites[SITES_MAX];
        MappersHeld held;
        size_t n;

        begin();
        for (unsigned i = 0; i < 2; i++)
                cr_assert_eq(kill(children[i], SIGKILL), 0);
        for (unsigned i = 0; i < 2; i++) {
                cr_expect_eq(queues_apart_sites(&apart, exe, sites, &n), -EPIPE);
                cr_expect_eq(n, 0);
                cr_expect_eq(queues_apart_check(&apart, &file, 1, &held), -EPIPE);
        }
        end();
}

static void *find_sites(void *userdata)
{
        Site sites[SITES_MAX];
        static int r;
        size_t n;

        r = queues_apart_sites(&apart, *(int *)userdata, sites, &n);
        return &r;
}

static pid_t first_child_of(pid_t pid)
{
        nsec_t until = clock_now() + 10 * NSEC_PER_SEC;
        pid_t child;

        while (children_of(pid, &child, 1) == 0)
                cr_assert_lt(clock_now(), until);
        return child;
}

Test(queues_apart, a_file_that_does_not_answer_holds_up_a_child_which_may_do_nothing, .timeout = 60)
{
        _cleanup_fd_ int open_fd = -1, mapped_fd = -1;
        char dir[256], path[300];
        pthread_t thread;
        Site sites[SITES_MAX];
        Hung hung;
        size_t n;
        pid_t child, all[3];
        void *r;

        if (geteuid() != 0 || !private_mounts())
                cr_skip_test("no private mounts, or no FUSE");
        if (access(helper_path("hungfs"), X_OK) < 0)
                cr_skip_test("built without FUSE");
        (void)snprintf(dir, sizeof(dir), "/tmp/tidegate-apart-XXXXXX");
        cr_assert_not_null(mkdtemp(dir));
        hung = hung_start(dir);
        cr_assert_eq(queues_apart_begin(&apart), 0);
        cr_assert_eq(children_of(getpid(), all, 3), 3, "the file system's, and both");
        memcpy(children, all + 1, sizeof(children));
        open_fd = open(hung.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)snprintf(path, sizeof(path), "%s/mapped", hung.dir);
        mapped_fd = open(path, O_RDONLY | O_CLOEXEC);
        cr_assert(open_fd >= 0 && mapped_fd >= 0);
        cr_expect_eq(queues_apart_sites(&apart, open_fd, sites, &n), -EREMOTEIO, "the kernel would wait for a program");

        cr_assert_eq(pthread_create(&thread, NULL, find_sites, &mapped_fd), 0);
        hung_wait_asked(&hung);
        child = first_child_of(children[0]);
        cr_expect_eq(rights_of(child), 0);
        cr_expect_str_eq(status_of(child, "\nSeccomp:"), "2");
        cr_expect_str_eq(status_of(child, "\nNoNewPrivs:"), "1");
        hung_let_go(&hung);
        cr_assert_eq(pthread_join(thread, &r), 0);
        cr_expect_lt(*(int *)r, 0);
        end();
        open_fd = fd_close(open_fd);
        mapped_fd = fd_close(mapped_fd);
        hung_end(&hung);
        cr_expect_eq(rmdir(hung.dir), 0);
        cr_expect_eq(rmdir(dir), 0);
}
