/* SPDX-License-Identifier: Apache-2.0 */
/* Conditions of pressure as people write them, and as they travel. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/pressure.h"

Test(pressure, a_condition_is_a_time_in_a_window_of_time)
{
        uint64_t threshold;
        nsec_t window;

        cr_assert_eq(pressure_parse(PRESSURE_MEMORY_SOME, "150ms/1s", &threshold, &window), 0);
        cr_expect(threshold == 150 * NSEC_PER_MSEC && window == NSEC_PER_SEC);
        cr_assert_eq(pressure_parse(PRESSURE_IO_FULL, "0.5/.5", &threshold, &window), 0);
        cr_expect(threshold == NSEC_PER_SEC / 2 && window == NSEC_PER_SEC / 2, "bare numbers are seconds, and all of a window may be asked for");
        cr_expect_eq(pressure_parse(PRESSURE_CPU_SOME, "1us/10s", &threshold, &window), 0);
        cr_expect_eq(pressure_parse(PRESSURE_CPU_THROTTLED, "1s/1s", &threshold, &window), 0);
}

Test(pressure, what_is_counted_is_a_number_of_times_in_a_window)
{
        static const char *const bad[] = {"", "/1s", "0/1s", "-1/1s", "1.5/1s", "100ms/1s", "1/999ms", "1/11s", "1000000001/1s", "99999999999999999999/1s", "0x1/1s", " 1/1s"};
        uint64_t threshold;
        nsec_t window;

        cr_assert_eq(pressure_parse(PRESSURE_MEMORY_HIGH, "100/1s", &threshold, &window), 0);
        cr_expect(threshold == 100 && window == NSEC_PER_SEC);
        cr_assert_eq(pressure_parse(PRESSURE_FORKS_REFUSED, "1/10s", &threshold, &window), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_expect_eq(pressure_parse(PRESSURE_FORKS_REFUSED, bad[i], &threshold, &window), -EINVAL, "\"%s\"", bad[i]);
}

Test(pressure, what_the_kernel_would_not_take_is_none)
{
        static const char *const bad[] = {"", "/", "150ms", "150ms/", "/1s", "150ms/1s/1s", "-1ms/1s", "150ms / 1s", "150 ms/1s", "0/1s", "1ns/1s", "1500ns/1s",
                "150ms/499ms", "150ms/10.1s", "2s/1s", "150ms/1x", "00000000000000000000000000000000000150ms/1s", "1ms/nan", "150ms/500000001ns"};
        uint64_t threshold;
        nsec_t window;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_expect_eq(pressure_parse(PRESSURE_MEMORY_SOME, bad[i], &threshold, &window), -EINVAL, "\"%s\"", bad[i]);
        cr_expect_eq(pressure_parse(PRESSURE_CPU_THROTTLED, "100ms/999ms", &threshold, &window), -EINVAL, "it is looked at once a second at most");
        cr_expect_eq(pressure_parse(PRESSURE_CPU_SOME, "100ms/999ms", &threshold, &window), 0);
}

Test(pressure, each_kind_has_its_name_and_its_line_in_its_file)
{
        for (int i = 0; i < _PRESSURE_KIND_MAX; i++) {
                const char *name = pressure_names[i], *file = pressure_file(i);

                cr_expect_eq(pressure_find(name), i);
                if (i >= PRESSURE_CPU_THROTTLED) { /* these are looked at */
                        cr_expect_null(file);
                        continue;
                }
                cr_expect_eq(strncmp(name, file, strcspn(file, ".")), 0, "%s: %s", name, file);
                cr_expect_str_eq(strchr(name, '_') + 1, pressure_line(i));
        }
        cr_expect_eq(pressure_find("memory"), -1);
        cr_expect_eq(pressure_find(""), -1);
}

Test(pressure, conditions_arrive_as_they_were_sent_and_as_many_as_fit)
{
        char text[PRESSURE_TEXT_MAX] = "", small[40] = "";
        PressureCondition c;
        const char *at = text;

        for (uint32_t i = 0; i < PRESSURE_CONDITIONS_MAX; i++)
                cr_assert(pressure_put(text, sizeof(text), &(PressureCondition){UINT32_MAX - i, i % PRESSURE_MEMORY_HIGH, 9 * NSEC_PER_SEC + i * NSEC_PER_USEC, 10 * NSEC_PER_SEC}));
        for (uint32_t i = 0; i < PRESSURE_CONDITIONS_MAX; i++) {
                cr_assert_eq(pressure_next(&at, &c), 1);
                cr_expect(c.index == UINT32_MAX - i && c.kind == i % PRESSURE_MEMORY_HIGH && c.threshold == 9 * NSEC_PER_SEC + i * NSEC_PER_USEC && c.window_ns == 10 * NSEC_PER_SEC);
        }
        cr_expect_eq(pressure_next(&at, &c), 0);
        cr_expect(pressure_put(small, sizeof(small), &(PressureCondition){0, PRESSURE_CPU_SOME, NSEC_PER_SEC, NSEC_PER_SEC}));
        cr_expect(!pressure_put(small, sizeof(small), &(PressureCondition){1, PRESSURE_CPU_SOME, NSEC_PER_SEC, NSEC_PER_SEC}));
        cr_expect_str_eq(small, "0 cpu_some 1000000000 1000000000\n", "half a line is none");
}

Test(pressure, what_was_not_made_here_is_no_condition)
{
        static const char *const bad[] = {"0", "0 cpu_some 1000000000 1000000000", "x cpu_some 1000000000 1000000000\n", "0 cpu 1000000000 1000000000\n",
                "0 cpu_some 0 1000000000\n", "0 cpu_some 1000000000 1\n", "0 cpu_some 1000000000 1000000000 7\n", "\n"};
        PressureCondition c;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                const char *at = bad[i];

                cr_expect_eq(pressure_next(&at, &c), -EINVAL, "\"%s\"", bad[i]);
        }
}
