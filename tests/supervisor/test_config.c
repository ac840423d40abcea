/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: what it may say, and how it is told that it is wrong. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "supervisor/config.h"

static int read_text(Config *ret, const char *text, size_t size, char why[256])
{
        int fd = memfd_create("config", 0), r;
        char path[64];

        cr_assert_eq(write(fd, text, size), (ssize_t)size);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = config_read(ret, path, why, 256);
        close(fd);
        return r;
}

static int read_string(Config *ret, const char *text, char why[256])
{
        return read_text(ret, text, strlen(text), why);
}

Test(config, settings_comments_and_empty_lines_are_read)
{
        Config config;
        char why[256] = "";

        cr_assert_eq(read_string(&config, "# all of it\n\n  grace_duration = 1.5s  # short\nkill_budget=500ms\nwatchdog =\t0\nenforcer = cgroup+pidns # ours", why), 0, "%s", why);
        cr_expect(config.has_grace && config.has_budget && config.has_watchdog);
        cr_expect_eq(config.grace_ns, 1500 * NSEC_PER_MSEC);
        cr_expect_eq(config.budget_ns, 500 * NSEC_PER_MSEC);
        cr_expect_eq(config.watchdog_ns, 0);
        cr_expect(config.has_enforcer && config.enforcer == ENFORCER_CGROUP_PIDNS);
        cr_assert_eq(read_string(&config, "", why), 0);
        cr_expect_not(config.has_grace || config.has_budget || config.has_watchdog || config.has_enforcer || config.enforcer != ENFORCER_AUTO);
}

Test(config, what_is_wrong_is_told_with_its_line_and_nothing_is_changed)
{
        static const struct {
                const char *text, *says;
        } cases[] = {
                {"\nwatchdoc = 1s\n", ":2: `watchdoc` is no setting"},
                {"watchdog\n", ":1: `watchdog` has no value"},
                {"watchdog = soon\n", ":1: `watchdog` wants a time"},
                {"watchdog = 2h\n", ":1: `watchdog` wants a time up to 1h"},
                {"watchdog = -1s\n", ":1: `watchdog` wants a time"},
                {"kill_budget = 1ms\n", ":1: `kill_budget` wants at least 100ms"},
                {"watchdog = 1s\nwatchdog = 2s\n", ":2: `watchdog` is there twice"},
                {"watchdog = 1s\nenforcer = magic\n", ":2: `enforcer` wants one of auto, cgroup, cgroup+pidns, pidns, pid1, subreaper"},
                {"enforcer =\n", ":1: `enforcer` wants one of"},
                {"enforcer = pidns\nenforcer = pidns\n", ":2: `enforcer` is there twice"},
                {"= 1s\n", ":1: `` is no setting"},
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Config config = {.has_grace = true, .grace_ns = 7};
                char why[256] = "";

                cr_expect_eq(read_string(&config, cases[i].text, why), -EINVAL, "%s", cases[i].text);
                cr_expect(strstr(why, cases[i].says), "%s says %s", cases[i].text, why);
                cr_expect(config.has_grace && config.grace_ns == 7, "%s", cases[i].text);
        }
}

Test(config, files_that_are_none_are_refused)
{
        static char large[70000];
        Config config;
        char why[256] = "";

        memset(large, ' ', sizeof(large));
        cr_expect_eq(read_text(&config, large, sizeof(large), why), -EINVAL);
        cr_expect(strstr(why, "larger than 64 KiB"), "%s", why);
        cr_expect_eq(read_text(&config, "watchdog = 1s\0\n", 15, why), -EINVAL);
        cr_expect(strstr(why, "it is no text"), "%s", why);
        cr_expect_eq(config_read(&config, "/no/such/file", why, sizeof(why)), -ENOENT);
        cr_expect_eq(config_read(&config, "/", why, sizeof(why)), -EISDIR);
}
