/* SPDX-License-Identifier: Apache-2.0 */
/* Limits as files, in plain directories that look like cgroups: what is written where, and what is said when it cannot be. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "supervisor/limit-files.h"

static char top[64];

static void put(const char *path, const char *name, const char *text)
{
        char full[256];
        FILE *f;

        (void)snprintf(full, sizeof(full), "%s/%s/%s", top, path, name);
        f = fopen(full, "w");
        cr_assert_not_null(f, "%s", full);
        (void)fputs(text, f);
        (void)fclose(f);
}

static char *get(const char *path, const char *name, char ret[static 256])
{
        char full[256];
        FILE *f;

        (void)snprintf(full, sizeof(full), "%s/%s/%s", top, path, name);
        memset(ret, 0, 256);
        f = fopen(full, "r");
        cr_assert_not_null(f, "%s", full);
        (void)!fread(ret, 1, 255, f);
        (void)fclose(f);
        return ret;
}

static int open_place(const char *path)
{
        char full[256];
        int fd;

        (void)snprintf(full, sizeof(full), "%s/%s", top, path);
        fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(fd, 0, "%s", full);
        return fd;
}

/* ours/tidegate/instance/dataflow, each with the files that controllers are read from. */
static void setup(void)
{
        static const char *const levels[] = {"ours", "ours/tidegate", "ours/tidegate/i", "ours/tidegate/i/d"};

        strcpy(top, "/tmp/tidegate-limits-XXXXXX");
        cr_assert_not_null(mkdtemp(top));
        for (size_t i = 0; i < ELEMENTSOF(levels); i++) {
                char full[256];

                (void)snprintf(full, sizeof(full), "%s/%s", top, levels[i]);
                cr_assert_eq(mkdir(full, 0700), 0);
                put(levels[i], "cgroup.controllers", i ? "" : "cpuset cpu memory pids\n");
                put(levels[i], "cgroup.subtree_control", "");
        }
}

static void teardown(void)
{
        char command[128];

        (void)snprintf(command, sizeof(command), "rm -rf %s", top);
        cr_assert_eq(system(command), 0);
}

TestSuite(limit_files, .init = setup, .fini = teardown);

Test(limit_files, controllers_are_enabled_from_ours_down_and_the_others_are_said)
{
        _cleanup_fd_ int fd = open_place("ours/tidegate/i/d");
        char missing[2048], text[256];
        unsigned got = limits_enable(fd, LIMIT_CONTROLLER_MEMORY | LIMIT_CONTROLLER_IO, missing, sizeof(missing));

        cr_expect_eq(got, LIMIT_CONTROLLER_MEMORY);
        cr_expect_str_eq(get("ours", "cgroup.subtree_control", text), "+memory");
        cr_expect_str_eq(get("ours/tidegate/i", "cgroup.subtree_control", text), "+memory");
        cr_expect_str_eq(get("ours/tidegate/i/d", "cgroup.subtree_control", text), "+memory");
        cr_expect_not_null(strstr(missing, "io=controller io "), "%s", missing);
        cr_expect_null(strstr(missing, "cpu="), "it is offered, and was not asked for: %s", missing);
}

Test(limit_files, what_is_enabled_is_left_alone_and_can_be_used)
{
        _cleanup_fd_ int fd = open_place("ours/tidegate/i/d");
        char missing[2048], text[256];

        put("ours", "cgroup.subtree_control", "memory pids\n");
        put("ours/tidegate", "cgroup.subtree_control", "memory pids\n");
        put("ours/tidegate/i", "cgroup.subtree_control", "memory pids\n");
        put("ours/tidegate/i/d", "cgroup.subtree_control", "memory pids\n");
        cr_expect_eq(limits_enable(fd, LIMIT_CONTROLLER_MEMORY, missing, sizeof(missing)), LIMIT_CONTROLLER_MEMORY | LIMIT_CONTROLLER_PIDS);
        cr_expect_str_eq(get("ours", "cgroup.subtree_control", text), "memory pids\n");
}

Test(limit_files, a_level_that_refuses_is_named)
{
        _cleanup_fd_ int fd = open_place("ours/tidegate/i/d");
        char missing[2048], full[256];

        (void)snprintf(full, sizeof(full), "%s/ours/tidegate/i/cgroup.subtree_control", top);
        cr_assert_eq(unlink(full), 0);
        cr_expect_eq(limits_enable(fd, LIMIT_CONTROLLER_MEMORY, missing, sizeof(missing)), 0);
        cr_expect_not_null(strstr(missing, "memory=controller memory cannot be enabled in the instance's cgroup: "), "%s", missing);
}

Test(limit_files, limits_go_into_their_files)
{
        _cleanup_fd_ int fd = open_place("ours");
        char why[512], text[256];

        put("ours", "memory.max", "");
        put("ours", "cpu.max", "");
        cr_expect_eq(limits_set_all(fd, "memory_max=4096\ncpu_max=150000 100000\n", false, "", why, sizeof(why)), 0);
        cr_expect_str_eq(get("ours", "memory.max", text), "4096");
        cr_expect_str_eq(get("ours", "cpu.max", text), "150000 100000");
        cr_expect_str_eq(why, "");
}

Test(limit_files, the_first_that_cannot_be_set_ends_it_unless_that_is_allowed)
{
        _cleanup_fd_ int fd = open_place("ours");
        char why[1024], text[256];

        put("ours", "pids.max", "");
        cr_expect_eq(limits_set_all(fd, "memory_max=4096\npids_max=9\n", false, "memory=it is elsewhere\n", why, sizeof(why)), -ENOENT);
        cr_expect_str_eq(why, "memory_max=it is elsewhere");
        cr_expect_str_eq(get("ours", "pids.max", text), "");
        cr_expect_eq(limits_set_all(fd, "memory_max=4096\npids_max=9\nio_max=/dev/nothing-of-that-name rbps=1\n", true, "", why, sizeof(why)), -ENOENT);
        cr_expect_str_eq(get("ours", "pids.max", text), "9");
        cr_expect_not_null(strstr(why, "memory_max=there is no memory.max here: controller memory is not enabled"), "%s", why);
        cr_expect_not_null(strstr(why, "\nio_max=there is no whole block device /dev/nothing-of-that-name here"), "%s", why);
}

Test(limit_files, an_order_that_is_not_canonical_is_not_carried_out)
{
        _cleanup_fd_ int fd = open_place("ours");
        char why[512], text[256];

        put("ours", "memory.max", "");
        cr_expect_eq(limits_set_all(fd, "memory_max=1G\n", true, "", why, sizeof(why)), -EINVAL);
        cr_expect_str_eq(get("ours", "memory.max", text), "");
}

Test(limit_files, what_was_felt_is_read_from_five_files)
{
        _cleanup_fd_ int fd = open_place("ours");
        KeeperUsage usage;

        cr_expect_not(limits_read_usage(fd, &usage), "nothing is there to be read");
        put("ours", "memory.events.local", "low 0\nhigh 5\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n");
        put("ours", "memory.peak", "67108864\n");
        put("ours", "pids.events", "max 41\n");
        put("ours", "cpu.stat", "usage_usec 5\nnr_periods 9\nnr_throttled 7\nthrottled_usec 1234\n");
        cr_expect(limits_read_usage(fd, &usage));
        cr_expect(usage.memory_peak == 67108864 && usage.oom == 2 && usage.oom_kills == 3 && usage.n_high == 5);
        cr_expect(usage.forks_refused == 41 && usage.n_throttled == 7 && usage.throttled_us == 1234);
        put("ours", "memory.events.local", "low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\n");
        put("ours", "pids.events", "max 0\n");
        put("ours", "cpu.stat", "nr_throttled 0\n");
        cr_expect_not(limits_read_usage(fd, &usage), "memory.max reclaims every day, and a peak alone is nothing");
}

Test(limit_files, a_freeze_that_the_kernel_does_not_confirm_ends_by_its_deadline)
{
        _cleanup_fd_ int fd = open_place("ours");
        nsec_t began = clock_now();
        char text[256];

        put("ours", "cgroup.freeze", "0\n");
        put("ours", "cgroup.events", "populated 1\nfrozen 0\n");
        cr_expect_eq(limits_freeze(fd, true, nsec_add(began, 50 * NSEC_PER_MSEC)), -ETIMEDOUT);
        cr_expect_lt(clock_now() - began, 5 * NSEC_PER_SEC);
        cr_expect_eq(get("ours", "cgroup.freeze", text)[0], '1', "the order stands");
        cr_expect(limits_freeze_ordered(fd));
        put("ours", "cgroup.events", "populated 1\nfrozen 1\n");
        cr_expect_eq(limits_freeze(fd, true, 0), 0);
}
