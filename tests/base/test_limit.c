/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/limit.h"

static void expect(LimitKey key, const char *text, const char *wanted)
{
        char canonical[LIMIT_VALUE_MAX], again[LIMIT_VALUE_MAX];

        cr_expect_eq(limit_parse(key, text, canonical), 0, "%s: %s", limit_name(key), text);
        cr_expect_str_eq(canonical, wanted);
        cr_expect_eq(limit_parse(key, canonical, again), 0, "%s: %s", limit_name(key), canonical);
        cr_expect_str_eq(again, canonical, "what is canonical stays");
}

static void refuse(LimitKey key, const char *text)
{
        char canonical[LIMIT_VALUE_MAX];

        cr_expect_eq(limit_parse(key, text, canonical), -EINVAL, "%s: %s", limit_name(key), text);
}

Test(limit, sizes_are_bytes_with_a_unit_or_max)
{
        expect(LIMIT_MEMORY_MAX, "512M", "536870912");
        expect(LIMIT_MEMORY_MAX, "1.5g", "1610612736");
        expect(LIMIT_MEMORY_HIGH, "64 KB", "65536");
        expect(LIMIT_MEMORY_HIGH, "9007199254740993", "9007199254740993");
        expect(LIMIT_MEMORY_MAX, "1T", "1099511627776");
        expect(LIMIT_MEMORY_MAX, "max", "max");
        expect(LIMIT_MEMORY_SWAP_MAX, "0", "0");
        refuse(LIMIT_MEMORY_MAX, "0");
        refuse(LIMIT_MEMORY_MAX, "");
        refuse(LIMIT_MEMORY_MAX, "-1");
        refuse(LIMIT_MEMORY_MAX, "0x1000000");
        refuse(LIMIT_MEMORY_MAX, "1P");
        refuse(LIMIT_MEMORY_MAX, "1MiB");
        refuse(LIMIT_MEMORY_MAX, "99999999999999999999");
        refuse(LIMIT_MEMORY_MAX, "4096\n");
}

Test(limit, cpu_is_cores_or_quota_and_period)
{
        expect(LIMIT_CPU_MAX, "1.5", "150000 100000");
        expect(LIMIT_CPU_MAX, "0.01", "1000 100000");
        expect(LIMIT_CPU_MAX, "50000 200000", "50000 200000");
        expect(LIMIT_CPU_MAX, "max", "max");
        expect(LIMIT_CPU_MAX, "max 100000", "max");
        expect(LIMIT_CPU_WEIGHT, "10000", "10000");
        refuse(LIMIT_CPU_MAX, "0");
        refuse(LIMIT_CPU_MAX, "0.009");
        refuse(LIMIT_CPU_MAX, "1 core");
        refuse(LIMIT_CPU_MAX, "100000 1");
        refuse(LIMIT_CPU_MAX, "9000");
        refuse(LIMIT_CPU_WEIGHT, "max");
        refuse(LIMIT_CPU_WEIGHT, "10001");
        refuse(LIMIT_CPU_WEIGHT, "1.5");
}

Test(limit, cpusets_rise)
{
        expect(LIMIT_CPUSET_CPUS, "0-3, 6", "0-3,6");
        expect(LIMIT_CPUSET_CPUS, "5", "5");
        refuse(LIMIT_CPUSET_CPUS, "");
        refuse(LIMIT_CPUSET_CPUS, "3-1");
        refuse(LIMIT_CPUSET_CPUS, "1,");
        refuse(LIMIT_CPUSET_CPUS, "1-");
        refuse(LIMIT_CPUSET_CPUS, "9999");
        refuse(LIMIT_CPUSET_CPUS, "max");
}

Test(limit, io_names_devices_and_no_paths)
{
        char many[LIMIT_VALUE_MAX] = "";

        expect(LIMIT_IO_MAX, "/dev/vda rbps=1M  wiops=5", "/dev/vda rbps=1048576 wiops=5");
        expect(LIMIT_IO_MAX, "8:0 rbps=max; 8:16 wbps=10K ;", "8:0 rbps=max;8:16 wbps=10240");
        refuse(LIMIT_IO_MAX, "/dev/vda");
        refuse(LIMIT_IO_MAX, "/dev/mapper/x rbps=1");
        refuse(LIMIT_IO_MAX, "/dev/../etc/passwd rbps=1");
        refuse(LIMIT_IO_MAX, "/dev/.. rbps=1");
        refuse(LIMIT_IO_MAX, "vda rbps=1");
        refuse(LIMIT_IO_MAX, "8:0 rbps=0");
        refuse(LIMIT_IO_MAX, "8:0 rbps=1 rbps=2");
        refuse(LIMIT_IO_MAX, "8:0 speed=2");
        refuse(LIMIT_IO_MAX, "8: rbps=1");
        refuse(LIMIT_IO_MAX, ";");
        for (int i = 0; i < LIMIT_IO_PARTS + 1; i++)
                strcat(many, "8:0 rbps=1;");
        refuse(LIMIT_IO_MAX, many);
}

Test(limit, a_text_of_limits_is_read_line_by_line_and_only_when_canonical)
{
        const char *at = "memory_max=4096\nio_max=8:0 rbps=1\n", *bad[] = {"memory_max=4K\n", "memory=4096\n", "memory_max", "=\n"};
        char value[LIMIT_VALUE_MAX];
        LimitKey key;

        cr_assert_eq(limit_next(&at, &key, value), 1);
        cr_expect_eq(key, LIMIT_MEMORY_MAX);
        cr_expect_str_eq(value, "4096");
        cr_assert_eq(limit_next(&at, &key, value), 1);
        cr_expect_eq(key, LIMIT_IO_MAX);
        cr_expect_str_eq(value, "8:0 rbps=1");
        cr_expect_eq(limit_next(&at, &key, value), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_expect_eq(limit_next(&(const char *){bad[i]}, &key, value), -EINVAL, "%s", bad[i]);
}

Test(limit, every_key_has_its_file_and_controller)
{
        for (int i = 0; i < _LIMIT_KEY_MAX; i++) {
                cr_expect_eq(limit_find(limit_name(i), strlen(limit_name(i))), i);
                cr_expect_eq(strncmp(limit_file(i), limit_controller_name(i), strlen(limit_controller_name(i))), 0);
                cr_expect(limit_controller(i) & LIMIT_CONTROLLER_ALL);
                cr_expect_gt(strlen(limit_wanted(i)), 5);
        }
        cr_expect_eq(limit_find("memory", 6), -1);
}
