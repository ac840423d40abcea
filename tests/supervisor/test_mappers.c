/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has a file mapped, and does not let go of the lock of its memory, is found out in time and told by its pid. Processes are stuck in page faults on a file system that does
 * not answer; no probe is attached anywhere, for that would stop every fork of this host.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bpf/apart.h"
#include "bpf/mappers.h"
#include "hung.h"
#include "testgroup.h"

/*
 * That a process may take to let go; nobody needs more than some microseconds of a processor, when there is one. Less than MAPPERS_ONE_SPAN: whoever asks all
 * processes beside this test (test_queues_apart.c) waits behind us where we wait for one.
 */
#define SPAN  (1500 * NSEC_PER_MSEC)
#define STILL (100 * NSEC_PER_MSEC) /* of who does not get on by itself */

static struct {
        char dir[64], file[80];
        Hung hung;
        MappedFile mapped;
} f;

static void open_fixture(void)
{
        _cleanup_fd_ int fd = -1;

        if (geteuid() != 0 || !private_mounts())
                cr_skip_test("no private mounts, or no FUSE");
        if (access(helper_path("hungfs"), X_OK) < 0)
                cr_skip_test("built without FUSE");
        (void)snprintf(f.dir, sizeof(f.dir), "/tmp/tidegate-mappers-XXXXXX");
        cr_assert_not_null(mkdtemp(f.dir));
        (void)snprintf(f.file, sizeof(f.file), "%s/library", f.dir);
        fd = open(f.file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        cr_assert_eq(write(fd, "x", 1), 1);
        cr_assert_eq(mapped_file(fd, &f.mapped), 0);
        f.hung = hung_start(f.dir);
}

static void close_fixture(void)
{
        hung_end(&f.hung);
        cr_expect_eq(rmdir(f.hung.dir), 0);
        cr_expect_eq(unlink(f.file), 0);
        cr_expect_eq(rmdir(f.dir), 0);
}

TestSuite(mappers, .timeout = 60);

/* A process that has the file mapped and reads what does not answer. */
static pid_t begin(const char *file, const char *leave)
{
        char path[300];
        pid_t pid;

        (void)snprintf(path, sizeof(path), "%s/mapped", f.hung.dir);
        pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)execl(helper_path("memlocked"), "memlocked", path, file, leave, NULL);
                _exit(127);
        }
        cr_assert_gt(pid, 0);
        hung_wait_asked(&f.hung);
        return pid;
}

/* Now with the lock. */
static void make_it_stick(void)
{
        for (unsigned i = 0; i < 2; i++) {
                hung_let_go(&f.hung);
                hung_wait_asked(&f.hung);
        }
}

static void end(pid_t pid)
{
        cr_assert_eq(kill(pid, SIGKILL), 0);
        close_fixture();
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

static int check(const MappedFile *file, MappersHeld *held)
{
        return mappers_check(file, 1, SPAN, nsec_add(clock_now(), MAPPERS_SPAN), held);
}

Test(mappers, who_does_not_let_go_of_its_memory_is_named)
{
        MappersHeld held;
        pid_t pid;

        open_fixture();
        cr_assert_eq(check(&f.mapped, &held), 0, "nobody has it mapped");
        pid = begin(f.file, NULL);
        cr_assert_eq(check(&f.mapped, &held), 0, "it waits, but without the lock");
        make_it_stick();
        cr_assert_eq(check(&f.mapped, &held), MAPPERS_E_HELD);
        cr_expect_eq(held.pid, pid, "%d, not %d", (int)held.pid, (int)pid);
        cr_expect_str_eq(held.name, "memlocked");
        end(pid);
        cr_assert_eq(check(&f.mapped, &held), 0, "it is gone");
}

Test(mappers, by_its_name_as_well_and_even_if_its_first_thread_has_died)
{
        MappedFile by_name = {.name = "/library"}, other = {.inode = UINT64_MAX, .name = "/nobody-has-this-name"};
        MappersHeld held;
        pid_t pid;

        open_fixture();
        pid = begin(f.file, "leave");
        make_it_stick();
        cr_assert_eq(check(&other, &held), 0, "it has another file mapped");
        cr_assert_eq(check(&by_name, &held), MAPPERS_E_HELD);
        cr_expect_eq(held.pid, pid, "%d, not %d", (int)held.pid, (int)pid);
        end(pid);
}

Test(mappers, a_file_is_known_by_its_number_and_the_last_part_of_its_name)
{
        char path[] = "/tmp/tidegate-mappers-with-a-name-that-is-longer-than-any-name-is-kept-here-XXXXXX";
        _cleanup_fd_ int fd = mkstemp(path), pipes = -1;
        MappedFile file;
        int pair[2];

        cr_assert_geq(fd, 0);
        cr_assert_eq(mapped_file(fd, &file), 0);
        cr_expect_neq(file.inode, 0);
        cr_expect_eq(strlen(file.name), sizeof(file.name) - 1);
        cr_expect_str_eq(file.name, path + strlen(path) - strlen(file.name), "its end");
        cr_assert_eq(unlink(path), 0);
        cr_assert_eq(mapped_file(fd, &file), 0);
        cr_expect_str_eq(file.name, path + strlen(path) - strlen(file.name), "as it was called");
        cr_assert_eq(pipe2(pair, O_CLOEXEC), 0);
        cr_assert_eq(mapped_file(pair[0], &file), 0);
        cr_expect_str_eq(file.name, "");
        cr_assert_lt(mapped_file(-1, &file), 0);
        pipes = pair[0];
        (void)close(pair[1]);
}

/* ---- the child that does it */

/* Its time begins with its first step: to come that far takes a processor. */
static void stand_still(Apart *apart, void *userdata)
{
        apart->answer[0] = 'x';
        apart_step(apart, STILL / NSEC_PER_MSEC);
        for (;;)
                (void)pause();
        (void)userdata;
}

static void get_on(Apart *apart, void *userdata)
{
        for (unsigned i = 0; i < 4; i++) {
                (void)poll(NULL, 0, 100);
                atomic_fetch_add(&apart->n_steps, 1);
        }
        apart->answer[0] = *(const char *)userdata;
}

static void die(Apart *apart, void *userdata)
{
        (void)apart;
        (void)userdata;
        (void)raise(SIGKILL);
}

static void never_end(Apart *apart, void *userdata)
{
        (void)userdata;
        for (;;) {
                (void)poll(NULL, 0, 1);
                atomic_fetch_add(&apart->n_steps, 1);
        }
}

#define STALL (5 * SPAN / 3)

static volatile sig_atomic_t stalled;

/* In who waits: the machine stands still, with the child. */
static void on_stall(int signo, siginfo_t *si, void *context)
{
        (void)signo;
        (void)context;
        (void)waitid(P_PID, (id_t)si->si_pid, &(siginfo_t){}, WSTOPPED | WNOWAIT);
        (void)poll(NULL, 0, STALL / NSEC_PER_MSEC);
        stalled = 1;
        (void)kill(si->si_pid, SIGCONT);
}

static void stall(Apart *apart, void *userdata)
{
        (void)kill(getppid(), SIGUSR1);
        (void)raise(SIGSTOP);
        (void)poll(NULL, 0, 50); /* it goes on, but has not yet when it is looked for again */
        apart->answer[0] = 'z';
        (void)userdata;
}

Test(apart, time_in_which_nobody_looked_does_not_count, .timeout = 60)
{
        _cleanup_(apart_freep) Apart *apart = apart_new();
        struct sigaction action = {.sa_sigaction = on_stall, .sa_flags = SA_SIGINFO};

        cr_assert_not_null(apart);
        cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
        cr_expect_eq(apart_run(apart, stall, NULL, SPAN, clock_now() + 40 * NSEC_PER_SEC), 0);
        cr_expect(stalled && apart->answer[0] == 'z');
        while (waitpid(-1, NULL, 0) > 0) {}
}

Test(apart, who_stands_still_is_killed_and_who_gets_on_is_waited_for, .timeout = 60)
{
        _cleanup_(apart_freep) Apart *apart = apart_new();
        nsec_t begin = clock_now();
        char c = 'y';

        cr_assert_not_null(apart);
        cr_expect_eq(apart_run(apart, stand_still, NULL, 20 * NSEC_PER_SEC, begin + 30 * NSEC_PER_SEC), -ETIMEDOUT);
        cr_expect_eq(apart->answer[0], 'x', "what it wrote until then");
        cr_expect_lt(clock_now() - begin, 20 * NSEC_PER_SEC);
        cr_expect_eq(apart_run(apart, get_on, &c, 20 * NSEC_PER_SEC, clock_now() + 40 * NSEC_PER_SEC), 0);
        cr_expect_eq(apart->answer[0], 'y');
        cr_expect_eq(apart_run(apart, die, NULL, 20 * NSEC_PER_SEC, clock_now() + 40 * NSEC_PER_SEC), -EIO);
        cr_expect_eq(apart->answer[0], 0, "nothing of whoever was before it");
        cr_expect_eq(apart_run(apart, never_end, NULL, 20 * NSEC_PER_SEC, clock_now() + STILL), -ETIMEDOUT, "the time for all of it is over");
        while (waitpid(-1, NULL, 0) > 0) {} /* whom the machine took long for */
        cr_expect_eq(errno, ECHILD, "nobody is left");
}
