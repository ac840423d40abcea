/* SPDX-License-Identifier: Apache-2.0 */
/* What is read of a life: from counters where a kernel has them, and from its processes where it has not. Directories that look like cgroups. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "supervisor/measure.h"

#define TICK (NSEC_PER_SEC / 100)

static char top[64];
static int dir_fd;

static void put(const char *name, const char *text)
{
        char full[256];
        FILE *f;

        (void)snprintf(full, sizeof(full), "%s/%s", top, name);
        f = fopen(full, "we");
        cr_assert_not_null(f, "%s", full);
        (void)fputs(text, f);
        (void)fclose(f);
}

static void put_pid(const char *name, pid_t pid, pid_t other)
{
        char text[64];

        (void)snprintf(text, sizeof(text), other ? "%d\n%d\n" : "%d\n", (int)pid, (int)other);
        put(name, text);
}

static void setup(void)
{
        strcpy(top, "/tmp/tidegate-measure-XXXXXX");
        cr_assert_not_null(mkdtemp(top));
        dir_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(dir_fd, 0);
}

static void teardown(void)
{
        char command[128];

        dir_fd = fd_close(dir_fd);
        (void)snprintf(command, sizeof(command), "rm -rf %s", top);
        cr_assert_eq(system(command), 0);
}

TestSuite(measure, .init = setup, .fini = teardown);

static void burn(nsec_t span)
{
        struct timespec now;

        do
                (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        while ((nsec_t)now.tv_sec * NSEC_PER_SEC + (nsec_t)now.tv_nsec < span);
}

static nsec_t used(int who)
{
        struct rusage u;

        cr_assert_eq(getrusage(who, &u), 0);
        return (nsec_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NSEC_PER_SEC + (nsec_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

Test(measure, counters_of_the_kernel_are_told_as_they_are)
{
        KeeperMeasure m;

        put("cpu.stat", "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\nnr_periods 7\nnr_throttled 3\nthrottled_usec 250\n");
        put("memory.current", "67108864\n");
        put("memory.peak", "70000000\n");
        put("pids.current", "12\n");
        put_pid("cgroup.procs", 4000001, 4000002); /* nobody looks at them */
        put("memory.pressure", "some avg10=12.34 avg60=5.00 avg300=1.00 total=99\nfull avg10=100.00 avg60=5.00 avg300=1.00 total=99\n");
        cr_assert_eq(measure_read(&m, dir_fd, 0), 0);
        cr_expect_eq(m.cpu_ns, 1500000000);
        cr_expect_eq(m.throttled_ns, 250000);
        cr_expect_eq(m.memory, 67108864);
        cr_expect_eq(m.memory_peak, 70000000);
        cr_expect_eq(m.n_processes, 2);
        cr_expect_eq(m.n_threads, 12);
        cr_expect_eq(m.summed, 0);
        cr_expect_eq(m.pressure[KEEPER_PRESSURE_MEMORY_SOME], 1234);
        cr_expect_eq(m.pressure[KEEPER_PRESSURE_MEMORY_FULL], 10000);
        cr_expect_eq(m.pressure[KEEPER_PRESSURE_CPU_SOME], KEEPER_PRESSURE_UNKNOWN);
        cr_expect_eq(m.pressure[KEEPER_PRESSURE_IO_FULL], KEEPER_PRESSURE_UNKNOWN);
}

Test(measure, a_reaper_is_no_process_of_the_node)
{
        KeeperMeasure m;

        put("cpu.stat", "usage_usec 1\n");
        put("memory.current", "1\n");
        put("pids.current", "3\n");
        put_pid("cgroup.procs", 4000001, 4000002);
        cr_assert_eq(measure_read(&m, dir_fd, 4000002), 0);
        cr_expect_eq(m.n_processes, 1);
        cr_expect_eq(m.n_threads, 2);
        cr_expect_eq(m.throttled_ns, UINT64_MAX, "nobody has a cpu_max here");
        put("pids.current", "0\n");
        put("cgroup.procs", "");
        cr_assert_eq(measure_read(&m, dir_fd, 4000002), 0);
        cr_expect_eq(m.n_threads, 0, "it has just ended, too");
}

static void *wait_for_end(void *arg)
{
        (void)pthread_mutex_lock(arg);
        (void)pthread_mutex_unlock(arg);
        return NULL;
}

Test(measure, where_memory_and_threads_have_no_counters_they_are_summed_over_the_processes)
{
        static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
        enum { SIZE = 32 << 20 };
        void *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0); /* clang leaves out a memset() of what nobody reads, and its malloc() */
        pthread_t threads[2];
        KeeperMeasure m;

        cr_assert_neq(memory, MAP_FAILED);
        (void)pthread_mutex_lock(&held);
        for (int i = 0; i < 2; i++)
                cr_assert_eq(pthread_create(&threads[i], NULL, wait_for_end, &held), 0);
        put("cpu.stat", "usage_usec 77\n");
        put_pid("cgroup.procs", getpid(), 4000001); /* one that is gone meanwhile */
        cr_assert_eq(measure_read(&m, dir_fd, 0), 0);
        (void)pthread_mutex_unlock(&held);
        for (int i = 0; i < 2; i++)
                (void)pthread_join(threads[i], NULL);
        cr_expect_eq(m.cpu_ns, 77000, "the cgroup's, in which those who have ended are, too");
        cr_expect_eq(m.summed, 1);
        cr_expect_eq(m.n_processes, 1);
        cr_expect_geq(m.n_threads, 3);
        cr_expect(m.memory >= SIZE && m.memory < 8 * (uint64_t)SIZE, "%llu bytes", (unsigned long long)m.memory);
        cr_expect_eq(m.memory_peak, 0);
        (void)munmap(memory, SIZE);
}

Test(measure, without_a_cgroup_cpu_time_is_that_of_the_processes_and_of_those_they_have_waited_for)
{
        KeeperMeasure m;
        nsec_t before, after;
        pid_t child = fork();

        if (child == 0) {
                burn(200 * NSEC_PER_MSEC);
                _exit(0);
        }
        cr_assert_eq(waitpid(child, NULL, 0), child);
        burn(100 * NSEC_PER_MSEC);
        put_pid("cgroup.procs", getpid(), 0);
        before = used(RUSAGE_SELF) + used(RUSAGE_CHILDREN);
        cr_assert_eq(measure_read(&m, dir_fd, 0), 0);
        after = used(RUSAGE_SELF) + used(RUSAGE_CHILDREN);
        cr_expect_geq(before, 300 * NSEC_PER_MSEC);
        cr_expect(m.cpu_ns + 4 * TICK >= before && m.cpu_ns <= after + TICK, "%llu ns, of %llu to %llu", (unsigned long long)m.cpu_ns,
                (unsigned long long)before, (unsigned long long)after);

        put("cgroup.procs", "");
        cr_assert_eq(measure_read(&m, dir_fd, getpid()), 0);
        cr_expect(m.cpu_ns + 4 * TICK >= 200 * NSEC_PER_MSEC && m.cpu_ns <= used(RUSAGE_CHILDREN) + TICK, "what its reaper has waited for, without the reaper");
        cr_expect_eq(m.n_processes, 0);
}

Test(measure, a_dead_process_that_nobody_has_waited_for_counts_for_its_time_alone)
{
        KeeperMeasure m;
        siginfo_t si;
        pid_t child = fork();

        if (child == 0) {
                burn(100 * NSEC_PER_MSEC);
                _exit(0);
        }
        cr_assert_eq(waitid(P_PID, (id_t)child, &si, WEXITED | WNOWAIT), 0);
        put_pid("cgroup.procs", child, 0);
        cr_assert_eq(measure_read(&m, dir_fd, 0), 0);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        cr_expect_geq(m.cpu_ns, 100 * NSEC_PER_MSEC - 4 * TICK);
        cr_expect(m.n_processes == 0 && m.n_threads == 0 && m.memory == 0);
}

Test(measure, what_is_gone_cannot_be_measured)
{
        KeeperMeasure m;

        char pid[32];

        /* A file in the place of a directory: nothing can be listed there. */
        (void)snprintf(pid, sizeof(pid), "/proc/%d/stat", (int)getpid());
        dir_fd = fd_close(dir_fd);
        dir_fd = open(pid, O_RDONLY | O_CLOEXEC);
        cr_assert_geq(dir_fd, 0);
        cr_expect_eq(measure_read(&m, dir_fd, 0), -ENOENT);
}

Test(measure, a_pressure_that_cannot_be_read_is_unknown)
{
        static const char *const bad[] = {"", "some", "some \n", "some avg60=1.00\n", "some avg10=x\n", "some avg10=1\n", "awesome avg10=1.00\n", "some avg10=101.00\n"};
        uint16_t some, full;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                measure_parse_pressure(bad[i], &some, &full);
                cr_expect(some == KEEPER_PRESSURE_UNKNOWN && full == KEEPER_PRESSURE_UNKNOWN, "\"%s\"", bad[i]);
        }
        measure_parse_pressure("some avg10=0.07 avg60=0.00 avg300=0.00 total=0\n", &some, &full);
        cr_expect(some == 7 && full == KEEPER_PRESSURE_UNKNOWN, "kernels before 5.13 have no full of cpu");
}
