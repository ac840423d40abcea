/* SPDX-License-Identifier: Apache-2.0 */
/* Who belongs to an incarnation and is elsewhere: by session, by parent, and with a name that pretends to be more. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/cgroup.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/stray.h"
#include "supervisor/sweep.h"
#include "hung.h"
#include "testgroup.h"

#define N 8

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

/* A child with a session of its own and a child of its own, which takes another session. Both live until the test kills them. */
typedef struct Family {
        pid_t parent, child;
} Family;

static Family family_new(void)
{
        Family f = {};
        int fds[2];

        cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
        f.parent = fork();
        cr_assert(f.parent >= 0);
        if (f.parent == 0) {
                pid_t child;

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)setsid();
                (void)prctl(PR_SET_NAME, "x) Z 1 1 1 (y");
                child = fork();
                if (child == 0) {
                        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                        (void)setsid();
                        child = getpid();
                        (void)!write(fds[1], &child, sizeof(child));
                }
                for (;;)
                        pause();
        }
        cr_assert_eq(read(fds[0], &f.child, sizeof(f.child)), (ssize_t)sizeof(f.child));
        close(fds[0]);
        close(fds[1]);
        return f;
}

static void family_end(Family *f)
{
        kill(f->child, SIGKILL); /* not reaped by us: it is the parent's, which is next */
        kill(f->parent, SIGKILL);
        cr_assert_eq(waitpid(f->parent, NULL, 0), f->parent);
}

/* How many are found, and whether these are among them. */
static int look(const StrayHome *home, const Family *f, bool *ret_parent, bool *ret_child)
{
        Stray found[N];
        int n = strays_find(home, 1, found, N);

        *ret_parent = *ret_child = false;
        for (int i = 0; i < n; i++) {
                cr_expect(found[i].pidfd >= 0);
                cr_expect_eq(found[i].to[0], '/', "%s", found[i].to);
                if (found[i].pid == f->parent)
                        cr_expect_str_eq(found[i].comm, "x) Z 1 1 1 (y");
                *ret_parent |= found[i].pid == f->parent;
                *ret_child |= found[i].pid == f->child;
                close(found[i].pidfd);
        }
        return n;
}

Test(stray, a_process_of_the_session_is_found_whatever_it_calls_itself, .timeout = 30)
{
        Family f = family_new();
        StrayHome home = {.leader = f.parent, .leader_held = true, .cgroup_fd = -1, .place = "/no-such-dataflow/a.1"};
        bool parent, child;

        cr_expect_eq(look(&home, &f, &parent, &child), 1);
        cr_expect(parent && !child, "another session is another's, unless parents count");
        home.by_parent = true;
        cr_expect_eq(look(&home, &f, &parent, &child), 2);
        cr_expect(parent && child);
        family_end(&f);
        cr_expect_eq(look(&home, &f, &parent, &child), 0);
}

Test(stray, a_zombie_is_nobody, .timeout = 30)
{
        Family f = family_new();
        StrayHome home = {.leader = f.parent, .leader_held = true, .cgroup_fd = -1, .place = "/no-such-dataflow/a.1"};
        siginfo_t si;
        bool parent, child;

        kill(f.child, SIGKILL);
        kill(f.parent, SIGKILL);
        cr_assert_eq(waitid(P_PID, (id_t)f.parent, &si, WEXITED | WNOWAIT), 0);
        cr_expect_eq(look(&home, &f, &parent, &child), 0);
        cr_assert_eq(waitpid(f.parent, NULL, 0), f.parent);
}

/* It closes a file as it executes a program, and is not answered: Linux 6.18 has whoever reads its stat wait for it. */
Test(stray, a_stranger_that_hangs_in_execve_holds_up_nobody, .timeout = 30)
{
        char dir[] = "/tmp/tidegate-stray-XXXXXX";
        StrayHome home = {.leader_held = true, .by_parent = true, .cgroup_fd = -1, .place = "/no-such-dataflow/a.1"};
        bool parent, child;
        pid_t stranger;
        Family f;
        Hung h;

        if (!private_mounts())
                cr_skip_test("no private mount namespace, or no FUSE");
        cr_assert_not_null(mkdtemp(dir));
        h = hung_start(dir);
        stranger = hung_execute(&h);
        f = family_new();
        home.leader = f.parent;
        cr_expect_eq(look(&home, &f, &parent, &child), 2);
        cr_expect(parent && child);
        family_end(&f);
        kill(stranger, SIGKILL);
        hung_end(&h);
        cr_assert_eq(waitpid(stranger, NULL, 0), stranger);
        cr_expect_eq(rmdir(h.dir), 0);
        cr_expect_eq(rmdir(dir), 0);
}

static char *place_of(int cgroup_fd)
{
        char *place;

        cr_assert_eq(stray_place(cgroup_fd, &place), 0);
        return place;
}

Test(stray, whoever_is_where_it_belongs_or_below_is_not_astray, .timeout = 30)
{
        TestGroup g = testgroup_make();
        Family f = family_new();
        char *place, shorter[PATH_MAX], pid[32];
        StrayHome home = {.leader = f.parent, .leader_held = true, .by_parent = true, .cgroup_fd = -1};
        bool parent, child;
        int below;

        place = place_of(g.fd);
        snprintf(pid, sizeof(pid), "%d", (int)f.parent);
        cr_assert_eq(cgroup_write(g.fd, "cgroup.procs", pid), 0);
        cr_assert_eq(cgroup_make(g.fd, "below", &below), 0);
        snprintf(pid, sizeof(pid), "%d", (int)f.child);
        cr_assert_eq(cgroup_write(below, "cgroup.procs", pid), 0);
        home.place = place;
        cr_expect_eq(look(&home, &f, &parent, &child), 0);
        home.cgroup_fd = g.fd; /* listed instead of looked at */
        cr_expect_eq(look(&home, &f, &parent, &child), 0);
        home.cgroup_fd = -1;
        snprintf(shorter, sizeof(shorter), "%.*s", (int)strlen(place) - 1, place);
        home.place = shorter; /* a name that only begins like it */
        cr_expect_eq(look(&home, &f, &parent, &child), 2);
        below = fd_close(below);
        free(place);
        family_end(&f);
        cr_assert_eq(cgroup_remove_tree(g.fd, "below", clock_now() + 10 * NSEC_PER_SEC), 0);
        testgroup_done(&g);
}

static void move(int cgroup_fd, pid_t pid)
{
        char text[32];

        snprintf(text, sizeof(text), "%d", (int)pid);
        cr_assert_eq(cgroup_write(cgroup_fd, "cgroup.procs", text), 0);
}

Test(stray, a_cgroup_that_is_named_like_its_own_is_another_one, .timeout = 30)
{
        static const char *const all[] = {"uuid", "uuid/a.1", "uuid/a.1 (deleted)", "elsewhere", "elsewhere/uuid", "elsewhere/uuid/a.1", "uuid/a.10"};
        static const char *const lies[] = {"uuid/a.1 (deleted)", "elsewhere/uuid/a.1", "uuid/a.10", "uuid"};
        TestGroup g = testgroup_make();
        Family f = family_new();
        StrayHome home = {.leader = f.parent, .leader_held = true, .cgroup_fd = -1};
        bool parent, child;
        char *place = NULL;
        int fd;

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                cr_assert_eq(cgroup_make(g.fd, all[i], &fd), 0);
                if (i == 1) {
                        home.place = place = place_of(fd);
                        move(fd, f.parent);
                        cr_expect_eq(look(&home, &f, &parent, &child), 0, "it is there, and nowhere else");
                }
                close(fd);
        }
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                cr_assert_eq(cgroup_open(g.fd, lies[i], &fd), 0);
                move(fd, f.parent);
                close(fd);
                cr_expect_eq(look(&home, &f, &parent, &child), 1, "in %s", lies[i]);
        }
        family_end(&f);
        for (size_t i = ELEMENTSOF(all); i-- > 0;)
                cr_assert_eq(unlinkat(g.fd, all[i], AT_REMOVEDIR), 0, "%s", all[i]);
        free(place);
        testgroup_done(&g);
}

Test(stray, a_number_that_another_has_got_meanwhile_is_not_believed, .timeout = 30)
{
        Family f = family_new();
        StrayHome home = {.leader = f.parent, .leader_held = false, .cgroup_fd = -1, .place = "/no-such-dataflow/a.1"};
        bool parent, child;

        cr_expect_eq(look(&home, &f, &parent, &child), 0, "it was reaped, so whoever has its number now is a stranger");
        family_end(&f);
}

Test(look, who_is_left_is_named_however_late_it_is, .timeout = 60)
{
        static Look l;
        TestGroup g = testgroup_make();
        SweepResult swept;
        int pidfd = testgroup_spawn(g.fd, (char *[]){helper_path("tree"), (char *)"40", NULL}, NULL);

        l = (Look){.dir_fd = g.fd, .leader_fd = -1, .until = 1};
        look_now(&l);
        cr_expect_eq(l.n, 40, "%u", l.n);
        cr_expect_eq(l.n_tasks, LOOK_TASKS, "%u are told of", l.n_tasks);
        cr_expect_eq(sweep_kill(g.fd, clock_now() + 20 * NSEC_PER_SEC, &swept), 0);
        cr_expect_eq(waitid(P_PIDFD, (id_t)pidfd, &(siginfo_t){}, WEXITED), 0);
        (void)close(pidfd);
        testgroup_done(&g);
}

static uint64_t start_ns_of(pid_t pid)
{
        char path[64], text[1024] = "";
        unsigned long long ticks = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        f = fopen(path, "re");
        cr_assert(f && fread(text, 1, sizeof(text) - 1, f) > 0);
        fclose(f);
        cr_assert_eq(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks), 1);
        return ticks * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

Test(stray, whoever_was_seen_to_leave_is_taken_for_itself_alone, .timeout = 30)
{
        uint64_t tick = NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK);
        TestGroup g = testgroup_make();
        Family f = family_new();
        uint64_t start = start_ns_of(f.child);
        char *place = place_of(g.fd), pid[32];
        siginfo_t si;
        Stray stray;

        cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        cr_assert(stray_take(f.child, start + tick - 1, place, &stray), "it began within that tick of the clock");
        cr_expect_eq(stray.pid, f.child);
        cr_expect_neq(stray.to[0], '\0');
        cr_expect_eq(syscall(SYS_pidfd_send_signal, stray.pidfd, 0, NULL, 0), 0);
        stray.pidfd = fd_close(stray.pidfd);
        cr_expect(!stray_take(f.child, start + tick, place, &stray), "another one, which began later");
        cr_expect(!stray_take(f.child, start - 1, place, &stray), "another one, which began earlier");

        snprintf(pid, sizeof(pid), "%d", (int)f.child);
        cr_assert_eq(cgroup_write(g.fd, "cgroup.procs", pid), 0);
        cr_expect(!stray_take(f.child, start, place, &stray), "it is where it belongs");

        start = start_ns_of(f.parent);
        kill(f.parent, SIGKILL);
        cr_assert_eq(waitid(P_PID, (id_t)f.parent, &si, WEXITED | WNOWAIT), 0);
        cr_expect(!stray_take(f.parent, start, place, &stray), "a zombie");
        family_end(&f);
        cr_expect(!stray_take(f.parent, start, place, &stray), "nobody");
        cr_assert_eq(waitpid(f.child, NULL, 0), f.child, "an orphan, and ours");
        free(place);
        testgroup_done(&g);
}
