/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may be captured: a /proc and hierarchies made of ordinary files say what a real host can hardly be made to. And the move itself, of real
 * processes in real cgroups.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/capture.h"
#include "supervisor/cgroup.h"
#include "testgroup.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

#define PID 42

/* ---- a host made of files */

typedef struct Host {
        char dir[64];
        char proc[80];
        char why[1024];
} Host;

__attribute__((format(printf, 3, 4))) static void put(const Host *host, const char *path, const char *format, ...)
{
        char all[256], text[4096];
        va_list ap;
        FILE *f;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        snprintf(all, sizeof(all), "%s/%s", host->dir, path);
        for (char *p = all + strlen(host->dir) + 1; (p = strchr(p, '/')); *p++ = '/') {
                *p = '\0';
                (void)mkdir(all, 0700);
        }
        f = fopen(all, "we");
        cr_assert(f, "%s: %s", all, strerror(errno));
        fputs(text, f);
        fclose(f);
}

static void put_namespace(const Host *host, const char *who, const char *name, const char *inode)
{
        char path[256], text[64];

        snprintf(path, sizeof(path), "proc/%s/ns/.here", who);
        put(host, path, " ");
        snprintf(path, sizeof(path), "%s/proc/%s/ns/%s", host->dir, who, name);
        snprintf(text, sizeof(text), "%s:[%s]", name, inode);
        (void)unlink(path);
        cr_assert_eq(symlink(text, path), 0);
}

static void put_stat(const Host *host, char state, unsigned flags)
{
        put(host, "proc/42/stat", "42 (a) b) %c 7 42 42 0 -1 %u 0 0 0 0\n", state, flags);
}

/* A process like any other in a scope of its own, on a host with version 2 at h/v2 and some of version 1 beside it. */
static Host *host_new(void)
{
        static const char *const names[] = {"pid", "pid_for_children", "cgroup", "mnt", "user"};
        Host *host = calloc(1, sizeof(*host));

        snprintf(host->dir, sizeof(host->dir), "/tmp/tidegate-capture-XXXXXX");
        cr_assert(mkdtemp(host->dir));
        snprintf(host->proc, sizeof(host->proc), "%s/proc", host->dir);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                put_namespace(host, "self", names[i], "1");
                put_namespace(host, "42", names[i], "1");
        }
        put_stat(host, 'S', 0x400100);
        put(host, "proc/self/mountinfo",
                "20 1 0:1 / / rw - ext4 /dev/root rw\n"
                "30 20 0:28 / %1$s/h rw shared:1 - tmpfs tmpfs rw\n"
                "31 30 0:29 / %1$s/h/v2 rw,nosuid shared:2 master:3 - cgroup2 cgroup2 rw,nsdelegate\n"
                "32 30 0:30 / %1$s/h/memory rw - cgroup cgroup rw,memory\n"
                "33 30 0:31 / %1$s/h/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                "34 30 0:32 / %1$s/h/with\\040space rw - cgroup cgroup rw,cpuset\n"
                "35 30 0:33 /top %1$s/h/pids rw - cgroup cgroup rw,pids\n"
                "36 30 0:34 / %1$s/h/blkio rw - cgroup cgroup rw,blkio\n"
                "37 30 0:35 / %1$s/h/devices rw - cgroup cgroup rw,devices\n",
                host->dir);
        put(host, "proc/42/cgroup",
                "9:devices:/\n8:blkio:/a\n7:pids:/top/a\n6:cpuset:/a\n5:cpuacct,cpu:/a\n4:memory:/a\n3:net_cls:/\n1:name=systemd:/user/a\n0::/user/a\n");
        put(host, "h/v2/user/a/cgroup.procs", "42\n");
        put(host, "h/v2/user/a/memory.max", "max\n");
        put(host, "h/v2/user/a/memory.high", "max\n");
        put(host, "h/v2/user/a/cpu.max", "max 100000\n");
        put(host, "h/v2/user/a/pids.max", "max\n");
        put(host, "h/v2/user/a/io.max", "%s", "");
        put(host, "h/v2/user/a/cpuset.cpus", "\n");
        put(host, "h/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        put(host, "h/cpu/a/cpu.cfs_quota_us", "-1\n");
        put(host, "h/with space/cpuset.cpus", "0-3\n");
        put(host, "h/with space/a/cpuset.cpus", "0-3\n");
        put(host, "h/pids/a/pids.max", "max\n");
        put(host, "h/blkio/a/blkio.throttle.read_bps_device", "%s", "");
        put(host, "h/devices/devices.list", "a *:* rwm\n");
        return host;
}

static void host_close(Host *host)
{
        char command[128];

        snprintf(command, sizeof(command), "rm -rf '%s'", host->dir);
        cr_assert_eq(system(command), 0);
        free(host);
}

static int check(Host *host)
{
        char ours[128], place[256];

        snprintf(ours, sizeof(ours), "%s/h/v2/tidegate", host->dir);
        snprintf(place, sizeof(place), "%s/daemon-1/uuid/viewer.1", ours);
        host->why[0] = '\0';
        return capture_check(host->proc, PID, ours, place, host->why, sizeof(host->why));
}

static void expect_refused(Host *host, const char *why)
{
        cr_expect_eq(check(host), CAPTURE_E_REFUSED, "not refused: %s", why);
        cr_expect(strstr(host->why, why), "\"%s\" does not say \"%s\"", host->why, why);
}

Test(capture_check, lets_a_process_without_limits_pass, .timeout = 30)
{
        Host *host = host_new();

        cr_expect_eq(check(host), 0, "%s", host->why);
        host_close(host);
}

Test(capture_check, lets_a_process_at_the_root_of_every_hierarchy_pass, .timeout = 30)
{
        Host *host = host_new();

        put(host, "proc/42/cgroup", "6:cpuset:/\n4:memory:/\n0::/\n");
        cr_expect_eq(check(host), 0, "%s", host->why);
        host_close(host);
}

Test(capture_check, refuses_each_kind_of_limit_of_its_own_cgroup, .timeout = 60)
{
        static const struct {
                const char *file, *text, *none;
        } all[] = {
                {"h/v2/user/a/memory.max", "1073741824\n", "max\n"},
                {"h/v2/user/a/memory.high", "0\n", "max\n"},
                {"h/v2/user/a/memory.swap.max", "0\n", "max\n"},
                {"h/v2/user/a/memory.swap.high", "4096\n", "max\n"},
                {"h/v2/user/a/memory.zswap.max", "4096\n", "max\n"},
                {"h/v2/user/a/cpu.max", "50000 100000\n", "max 20000\n"},
                {"h/v2/user/a/pids.max", "4915\n", "max\n"},
                {"h/v2/user/a/io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=max\n", "\n"},
                {"h/v2/user/a/io.latency", "8:0 target=50\n", ""},
                {"h/v2/user/a/cpuset.cpus", "0\n", "\n"},
                {"h/v2/user/a/cpuset.mems", "0\n", "\n"},
                {"h/v2/user/a/hugetlb.2MB.max", "0\n", "max\n"},
                {"h/v2/user/a/hugetlb.1GB.max", "0\n", "max\n"},
                {"h/memory/a/memory.limit_in_bytes", "1073741824\n", "9223372036854771712\n"},
                {"h/memory/a/memory.memsw.limit_in_bytes", "1073741824\n", "9223372036854771712\n"},
                {"h/memory/a/memory.soft_limit_in_bytes", "1073741824\n", "9223372036854771712\n"},
                {"h/memory/a/memory.kmem.limit_in_bytes", "1073741824\n", "9223372036854771712\n"},
                {"h/cpu/a/cpu.cfs_quota_us", "50000\n", "-1\n"},
                {"h/with space/a/cpuset.cpus", "0\n", "0-3\n"},
                {"h/pids/a/pids.max", "100\n", "max\n"},
                {"h/blkio/a/blkio.throttle.read_bps_device", "8:0 1048576\n", ""},
                {"h/blkio/a/blkio.throttle.write_bps_device", "8:0 1048576\n", ""},
                {"h/blkio/a/blkio.throttle.read_iops_device", "8:0 100\n", ""},
                {"h/blkio/a/blkio.throttle.write_iops_device", "8:0 100\n", ""},
        };
        Host *host = host_new();

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                char wanted[512];

                put(host, all[i].file, "%s", all[i].text);
                snprintf(wanted, sizeof(wanted), "it has limits of its own: %s is \"%.*s\" in %s/h/", strrchr(all[i].file, '/') + 1,
                        (int)strcspn(all[i].text, "\n"), all[i].text, host->dir);
                expect_refused(host, wanted);
                put(host, all[i].file, "%s", all[i].none);
                cr_expect_eq(check(host), 0, "%s with \"%s\": %s", all[i].file, all[i].none, host->why);
        }
        host_close(host);
}

Test(capture_check, refuses_devices_that_are_not_those_of_the_root, .timeout = 30)
{
        Host *host = host_new();

        put(host, "proc/42/cgroup", "9:devices:/box\n0::/user/a\n");
        put(host, "h/devices/box/devices.list", "c 1:3 rwm\n");
        expect_refused(host, "devices.list is \"c 1:3 rwm\"");
        host_close(host);
}

Test(capture_check, does_not_count_limits_of_cgroups_above, .timeout = 30)
{
        Host *host = host_new();

        put(host, "h/v2/user/pids.max", "4915\n");
        put(host, "h/v2/user/memory.max", "4096\n");
        cr_expect_eq(check(host), 0, "%s", host->why);
        host_close(host);
}

Test(capture_check, refuses_a_limit_that_cannot_be_read, .timeout = 30)
{
        Host *host = host_new();
        char path[256];

        snprintf(path, sizeof(path), "%s/h/v2/user/a/memory.swap.max", host->dir);
        cr_assert_eq(mkdir(path, 0700), 0); /* EISDIR */
        expect_refused(host, "its limits cannot be looked at");
        host_close(host);
}

Test(capture_check, refuses_a_cgroup_that_it_cannot_see, .timeout = 30)
{
        static const struct {
                const char *cgroup, *why;
        } all[] = {
                {"0::/nowhere\n", "its cgroup (/nowhere of version 2) cannot be looked at"},
                {"4:memory:/nowhere\n0::/user/a\n", "its cgroup (/nowhere of memory) cannot be looked at"},
                {"3:net_cls:/a\n0::/user/a\n", "its cgroup (/a of net_cls) cannot be looked at"}, /* not mounted */
                {"7:pids:/elsewhere\n0::/user/a\n", "its cgroup (/elsewhere of pids) cannot be looked at"}, /* only /top is */
                {"0::/../other\n", "outside of what this daemon sees"},
                {"0::/..\n", "outside of what this daemon sees"},
                {"4:memory:/../x\n0::/user/a\n", "outside of what this daemon sees"},
                {"4:memory:/a\n", "its cgroup cannot be found"},
                {"", "its cgroup cannot be found"},
                {"rubbish\n0::/user/a\n", "its cgroups cannot be understood"},
        };
        Host *host = host_new();

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                put(host, "proc/42/cgroup", "%s", all[i].cgroup);
                expect_refused(host, all[i].why);
        }
        host_close(host);
}

Test(capture_check, refuses_each_namespace_that_is_not_the_daemon_s, .timeout = 30)
{
        static const struct {
                const char *file, *name;
        } all[] = {{"pid", "PID"}, {"pid_for_children", "PID (for its children)"}, {"cgroup", "cgroup"}, {"mnt", "mount"}, {"user", "user"}};
        Host *host = host_new();

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                char wanted[128], path[256];

                put_namespace(host, "42", all[i].file, "2");
                snprintf(wanted, sizeof(wanted), "it belongs to a container: its %s namespace", all[i].name);
                expect_refused(host, wanted);
                snprintf(path, sizeof(path), "%s/42/ns/%s", host->proc, all[i].file);
                cr_assert_eq(unlink(path), 0);
                expect_refused(host, "its namespaces cannot be looked at");
                put_namespace(host, "42", all[i].file, "1");
        }
        cr_expect_eq(check(host), 0, "%s", host->why);
        host_close(host);
}

Test(capture_check, refuses_kernel_threads_and_who_has_no_first_thread, .timeout = 30)
{
        Host *host = host_new();
        char path[256];

        put_stat(host, 'S', 0x00200040);
        expect_refused(host, "it is a kernel thread");
        put_stat(host, 'Z', 0x400100);
        expect_refused(host, "its first thread has ended");
        put(host, "proc/42/stat", "42 (a");
        expect_refused(host, "it cannot be looked at");
        snprintf(path, sizeof(path), "%s/42/stat", host->proc);
        cr_assert_eq(unlink(path), 0);
        expect_refused(host, "it has ended");
        host_close(host);
}

Test(capture_check, refuses_who_is_in_a_cgroup_of_ours_and_knows_its_own_place, .timeout = 30)
{
        Host *host = host_new();

        put(host, "proc/42/cgroup", "0::/tidegate/daemon-1/uuid/other.1\n");
        expect_refused(host, "it is part of a dataflow already");
        put(host, "proc/42/cgroup", "0::/tidegate/run-2/uuid/viewer.1\n");
        expect_refused(host, "it is part of a dataflow already"); /* another instance's */
        put(host, "proc/42/cgroup", "0::/root/tidegate/daemon-1234abcd/uuid/other.1\n");
        expect_refused(host, "it is part of a dataflow already"); /* with a --cgroup-root of its own */
        put(host, "proc/42/cgroup", "0::/tidegate-like\n");
        put(host, "h/v2/tidegate-like/cgroup.procs", "%s", "");
        cr_expect_eq(check(host), 0, "%s", host->why);
        put(host, "proc/42/cgroup", "0::/tidegate/daemon-1/uuid/viewer.1\n");
        cr_expect_eq(check(host), CAPTURE_E_THERE);
        host_close(host);
}

/* ---- the move */

/* A child that waits in the test's own cgroup. */
static pid_t wait_child(int *ret_pidfd, pid_t wanted)
{
        struct clone_args args = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)ret_pidfd, .exit_signal = SIGCHLD};
        pid_t pid;

        if (wanted > 0) {
                args.set_tid = (uint64_t)(uintptr_t)&wanted;
                args.set_tid_size = 1;
        }
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        if (pid == 0)
                for (;;)
                        pause();
        return pid;
}

static void end_child(pid_t pid, int pidfd)
{
        cr_assert_eq(kill(pid, SIGKILL), 0); /* ours, and not reaped */
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        close(pidfd);
}

/* Its directory in version 2, below the mount point. */
static void own_cgroup(pid_t pid, char ret[static 512])
{
        char path[64], line[512];
        FILE *f;

        ret[0] = '\0';
        snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        f = fopen(path, "re");
        cr_assert(f);
        while (fgets(line, sizeof(line), f))
                if (strncmp(line, "0::", 3) == 0)
                        snprintf(ret, 512, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
        fclose(f);
}

static void make_place(const TestGroup *group, int *ret_fd, char place[static PATH_MAX])
{
        char link[64];
        ssize_t n;

        cr_assert_eq(cgroup_make(group->fd, "place", ret_fd), 0);
        snprintf(link, sizeof(link), "/proc/self/fd/%d", *ret_fd);
        n = readlink(link, place, PATH_MAX - 1);
        cr_assert_gt(n, 0);
        place[n] = '\0';
}

static void end_place(TestGroup *group, int cgroup_fd)
{
        close(cgroup_fd);
        cr_assert_eq(cgroup_remove_tree(group->fd, "place", clock_now() + NSEC_PER_SEC), 0);
        testgroup_done(group);
}

static int count_pid(pid_t pid, void *userdata)
{
        (void)pid;
        ++*(int *)userdata;
        return 0;
}

static int n_in(int cgroup_fd)
{
        int n = 0;

        cr_assert_eq(cgroup_each_process(cgroup_fd, count_pid, &n), 0);
        return n;
}

Test(capture_move, moves_one_process_and_says_its_number, .timeout = 60)
{
        TestGroup group;
        char place[PATH_MAX], why[512] = "", here[512];
        int cgroup_fd = -1, pidfd = -1;
        pid_t pid;

        group = testgroup_make();
        make_place(&group, &cgroup_fd, place);
        pid = wait_child(&pidfd, 0);
        cr_assert_eq(capture_pid(pidfd), pid);
        cr_assert_eq(capture_move(CAPTURE_PROC, pidfd, pid, cgroup_fd, why, sizeof(why)), 0, "%s", why);
        own_cgroup(pid, here);
        cr_expect(strlen(place) > strlen(here) && strcmp(place + strlen(place) - strlen(here), here) == 0, "%s is not %s", here, place);
        cr_expect_eq(n_in(cgroup_fd), 1);
        end_child(pid, pidfd);
        end_place(&group, cgroup_fd);
}

Test(capture_move, never_moves_whoever_has_the_number_of_one_that_ended, .timeout = 60)
{
        TestGroup group;
        char place[PATH_MAX], why[512] = "";
        int cgroup_fd = -1, pidfd = -1, other_fd = -1;
        pid_t pid, other;

        group = testgroup_make();
        make_place(&group, &cgroup_fd, place);
        pid = wait_child(&pidfd, 0);
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        other = wait_child(&other_fd, pid);
        if (other < 0)
                cr_skip_test("a process cannot be given a number here: %s", strerror(errno));
        cr_assert_eq(other, pid);
        cr_expect_eq(capture_pid(pidfd), -ESRCH);
        cr_expect_eq(capture_move(CAPTURE_PROC, pidfd, pid, cgroup_fd, why, sizeof(why)), CAPTURE_E_REFUSED);
        cr_expect_str_eq(why, "it has ended");
        cr_expect_eq(n_in(cgroup_fd), 0);
        close(pidfd);
        end_child(other, other_fd);
        end_place(&group, cgroup_fd);
}

Test(capture_move, puts_a_stranger_back_to_where_its_parent_is, .timeout = 60)
{
        TestGroup group;
        char place[PATH_MAX], before[512], after[512], text[16];
        int cgroup_fd = -1, pidfd = -1;
        pid_t pid;

        group = testgroup_make();
        make_place(&group, &cgroup_fd, place);
        pid = wait_child(&pidfd, 0);
        cr_expect_eq(capture_put_back(CAPTURE_PROC, pid, cgroup_fd), 0, "it is not there");
        own_cgroup(pid, before);
        snprintf(text, sizeof(text), "%d", (int)pid);
        cr_assert_eq(cgroup_write(cgroup_fd, "cgroup.procs", text), 0);
        cr_expect_eq(capture_put_back(CAPTURE_PROC, pid, cgroup_fd), CAPTURE_E_REFUSED);
        own_cgroup(pid, after);
        cr_expect_str_eq(after, before);
        cr_expect_eq(n_in(cgroup_fd), 0);
        end_child(pid, pidfd);
        end_place(&group, cgroup_fd);
}

Test(capture_move, says_why_it_could_not, .timeout = 60)
{
        TestGroup group;
        char place[PATH_MAX], why[512] = "";
        int cgroup_fd = -1, pidfd = -1;
        pid_t pid;

        group = testgroup_make();
        make_place(&group, &cgroup_fd, place);
        cr_assert_eq(unlinkat(group.fd, "place", AT_REMOVEDIR), 0);
        pid = wait_child(&pidfd, 0);
        cr_expect_eq(capture_move(CAPTURE_PROC, pidfd, pid, cgroup_fd, why, sizeof(why)), CAPTURE_E_REFUSED);
        cr_expect(strstr(why, "it cannot be moved: "), "%s", why);
        end_child(pid, pidfd);
        end_place(&group, cgroup_fd);
}
