/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that keeps a program from starting, what is said about it, and that it delays nobody else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hung.h"
#include "keeper_fixture.h"
#include "supervisor/cgroup.h"

__attribute__((visibility("default"))) int main(int argc, char **argv)
{
        return testgroup_main(argc, argv);
}

#define ARGV(...)  ((char *[]){__VA_ARGS__, NULL})
#define SH(script) ARGV((char *)"/bin/sh", (char *)"-c", (char *)(script))

#define SLACK (3 * NSEC_PER_SEC) /* what a busy machine may add to a deadline */

static char *in_dir(Fixture *fx, const char *name)
{
        static char paths[4][256];
        static unsigned next;
        char *path = paths[next++ % 4];

        snprintf(path, sizeof(paths[0]), "%s/%s", fx->dir, name);
        return path;
}

static char *file(Fixture *fx, const char *name, const char *text, mode_t mode)
{
        char *path = in_dir(fx, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        cr_assert(fd >= 0);
        cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        cr_assert_eq(fchmod(fd, mode), 0);
        close(fd);
        return path;
}

/*
 * Spawns, and expects SPAWN_FAILED with this stage, errno and text in it; then EMPTY, and nothing left in the
 * keeper.
 */
static void expect_failure(Fixture *fx, const FxSpawn *spawn, KeeperStage stage, int error, const char *text)
{
        FxMsg *m;

        fx_spawn(fx, spawn);
        m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);
        cr_expect_eq(m->msg.spawn_failed.stage, stage, "stage %d: %s", m->msg.spawn_failed.stage,
                m->msg.spawn_failed.text);
        cr_expect_eq(m->msg.spawn_failed.error, error, "errno %d: %s", m->msg.spawn_failed.error,
                m->msg.spawn_failed.text);
        cr_expect(strstr(m->msg.spawn_failed.text, text), "%s\n  lacks: %s", m->msg.spawn_failed.text, text);
        m = fx_expect(fx, KEEPER_MSG_EMPTY);
        cr_expect_eq(m->msg.empty.removed, 1);
        fx_expect_fds(fx);
}

static void expect_exec_failure(Fixture *fx, uint32_t node, char *program, int error, const char *text)
{
        expect_failure(fx, &(FxSpawn){.node = node, .argv = ARGV(program)}, KEEPER_STAGE_EXEC, error, text);
}

Test(keeper_spawn, what_is_wrong_with_the_program_is_said, .timeout = 60)
{
        Fixture *fx = fx_new();
        char *busy;
        int fd;

        expect_exec_failure(fx, 1, in_dir(fx, "none"), ENOENT, "/none: No such file or directory");
        expect_exec_failure(fx, 2, in_dir(fx, "no/such/dir/prog"), ENOENT, "/no)");
        expect_exec_failure(fx, 3, (char *)"tidegate-no-such-program", ENOENT,
                "cannot find tidegate-no-such-program in PATH (/usr/bin:/bin)");
        expect_exec_failure(fx, 4, fx->dir, EACCES, "(it is a directory)");
        expect_exec_failure(fx, 5, file(fx, "plain", "#!/bin/sh\n", 0644), EACCES,
                "/plain: Permission denied (no execute bit)");
        expect_exec_failure(fx, 6, file(fx, "bad", "#!/usr/bin/pyton3 -u\n", 0755), ENOENT,
                "(its interpreter /usr/bin/pyton3 does not exist)");
        expect_exec_failure(fx, 7, file(fx, "crlf", "#!/bin/sh\r\necho\r\n", 0755), ENOENT, "carriage return");
        expect_exec_failure(fx, 8, file(fx, "text", "echo hello\n", 0755), ENOEXEC,
                "a script begins with a line like #!/bin/sh");
        expect_exec_failure(fx, 9, file(fx, "empty", "", 0755), ENOEXEC, "(the file is empty)");
        expect_exec_failure(fx, 10, file(fx, "elf", "\177ELF\1\1\1", 0755), ENOEXEC, "another kind of machine");
        expect_exec_failure(fx, 11, file(fx, "part", "x", 0755), ENOEXEC, "neither a program");
        expect_exec_failure(fx, 12, in_dir(fx, "part/prog"), ENOTDIR, "/part is not a directory)");
        busy = file(fx, "busy", "#!/bin/sh\n", 0755);
        fd = open(busy, O_WRONLY | O_CLOEXEC);
        expect_exec_failure(fx, 13, busy, ETXTBSY, "open for writing");
        close(fd);
        fx_close(fx);
}

Test(keeper_spawn, a_missing_elf_loader_is_told_from_a_missing_file, .timeout = 60)
{
        Fixture *fx = fx_new();
        char *buf = malloc(8 << 20), *at, *path = in_dir(fx, "alien");
        int from = open(helper_path("tree"), O_RDONLY | O_CLOEXEC), to = open(path, O_WRONLY | O_CREAT | O_CLOEXEC,
                0755);
        ssize_t n = read(from, buf, 8 << 20);

        at = memmem(buf, (size_t)n, "/ld-linux", 9);
        cr_assert(at);
        memcpy(at, "/xx-linux", 9);
        cr_assert_eq(write(to, buf, (size_t)n), n);
        close(from);
        close(to);
        free(buf);
        expect_exec_failure(fx, 1, path, ENOENT, "the loader it asks for is not");
        fx_close(fx);
}

Test(keeper_spawn, the_directory_that_bars_the_way_is_named, .timeout = 60)
{
        Fixture *fx = fx_open();

        if (getuid() != 0)
                cr_skip_test("not root");
        fx->uid = fx->gid = 65534;
        fx->log_dir[0] = '\0';
        fx_begin(fx); /* fx->dir is 0700 and root's */
        expect_exec_failure(fx, 1, file(fx, "prog", "#!/bin/sh\n", 0755), EACCES,
                "may not be searched by uid 65534)");
        expect_failure(fx, &(FxSpawn){.node = 2, .argv = SH("exit 0"), .cwd = fx->dir}, KEEPER_STAGE_CWD, EACCES,
                fx->dir);
        fx_close(fx);
}

Test(keeper_spawn, what_is_wrong_with_the_rest_is_said, .timeout = 60)
{
        Fixture *fx = fx_new();
        static char huge[200000];
        uint32_t cpu = 8000;
        int fd = -1, dataflow;

        memset(huge, 'x', sizeof(huge) - 1);
        expect_failure(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0"), .cwd = "/no/such/place"}, KEEPER_STAGE_CWD,
                ENOENT,
                "cannot enter the working directory /no/such/place: No such file or directory");
        expect_failure(fx, &(FxSpawn){.node = 2, .argv = ARGV((char *)"/bin/true", huge)}, KEEPER_STAGE_EXEC, E2BIG,
                "bytes of arguments and environment)");
        expect_failure(fx, &(FxSpawn){.node = 3, .argv = SH("exit 0"), .cpus = &cpu, .n_cpus = 1},
                KEEPER_STAGE_CREDENTIALS, EINVAL,
                "cpu_affinity");
        expect_failure(fx, &(FxSpawn){.node = 4, .argv = SH("exit 0"), .bad_spec = true}, KEEPER_STAGE_CLONE, EPROTO,
                "cannot");
        dataflow = open(fx->dataflow, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_eq(cgroup_make(dataflow, "n5.1", &fd), 0);
        fx_spawn(fx, &(FxSpawn){.node = 5, .argv = SH("exit 0")});
        {
                FxMsg *m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);

                cr_assert_eq(m->msg.spawn_failed.stage, KEEPER_STAGE_CGROUP);
                cr_assert_eq(m->msg.spawn_failed.error, EEXIST);
                (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        }
        cr_assert_eq(cgroup_remove_tree(dataflow, "n5.1", 0), 0, "a cgroup that was there before was taken");
        close(fd);
        close(dataflow);
        fx_close(fx);
}

Test(keeper_spawn, a_file_system_mounted_noexec_is_named_as_the_reason, .timeout = 60)
{
        Fixture *fx;

        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                cr_skip_test("no private mount namespace");
        fx = fx_new();
        cr_assert_eq(mkdir(in_dir(fx, "m"), 0755), 0);
        cr_assert_eq(mount("none", in_dir(fx, "m"), "tmpfs", MS_NOEXEC, "size=64k"), 0);
        expect_exec_failure(fx, 1, file(fx, "m/prog", "#!/bin/sh\n", 0755), EACCES, "mounted noexec");
        cr_assert(fx_end(fx, FX_SPAN));
        cr_assert_eq(umount(in_dir(fx, "m")), 0);
        fx_close(fx);
}

Test(keeper_spawn, without_a_guard_nothing_is_started, .timeout = 60)
{
        Fixture *fx = fx_new();

        fx->guard = fd_close(fx->guard);
        expect_failure(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0")}, KEEPER_STAGE_REGISTER, EPIPE,
                "register the process with the guard");
        fx_close(fx);
}

Test(keeper_spawn, a_keeper_out_of_descriptors_says_so_and_recovers, .timeout = 60)
{
        Fixture *fx = fx_new();
        struct rlimit before, few;
        FxMsg *m;

        cr_assert_eq(prlimit(fx->keeper_pid, RLIMIT_NOFILE, NULL, &before), 0);
        few = before;
        for (rlim_t room = 0; room < 10; room++) { /* short of one, of two ... at every step of a start */
                fx_expect_fds(fx); /* reports come before the last descriptor of a start is closed */
                few.rlim_cur = (rlim_t)fx_fds(fx) + room;
                cr_assert_eq(prlimit(fx->keeper_pid, RLIMIT_NOFILE, &few, NULL), 0);
                fx_spawn(fx, &(FxSpawn){.node = 1, .generation = 1 + room, .argv = SH("exit 0")});
                m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);
                cr_expect_eq(m->msg.spawn_failed.error, EMFILE, "room %d: %s", (int)room, m->msg.spawn_failed.text);
                (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        }
        cr_assert_eq(prlimit(fx->keeper_pid, RLIMIT_NOFILE, &before, NULL), 0);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .generation = 50, .argv = SH("exit 0")});
        (void)fx_expect(fx, KEEPER_MSG_EXITED);
        (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        fx_close(fx);
}

Test(keeper_spawn, a_bare_name_is_looked_up_in_the_path_of_the_node, .timeout = 60)
{
        Fixture *fx = fx_new();
        char path[512], packet[LOG_MSG_MAX];
        LogMsg line;

        cr_assert_eq(mkdir(in_dir(fx, "one"), 0755), 0);
        cr_assert_eq(mkdir(in_dir(fx, "two"), 0755), 0);
        (void)file(fx, "one/tidegate-prog", "#!/bin/sh\necho wrong\n", 0644); /* not executable: the search goes on */
        (void)file(fx, "two/tidegate-prog", "#!/bin/sh\necho right\n", 0755);
        snprintf(path, sizeof(path), "PATH=/no/such:%s/one:%s/two:/bin", fx->dir, fx->dir);
        (void)fx_start(fx, &(FxSpawn){.node = 1, .argv = ARGV((char *)"tidegate-prog"), .env = ARGV(path)});
        fx_line(fx, &line, packet);
        cr_assert_str_eq(line.text, "right");
        (void)fx_expect(fx, KEEPER_MSG_EXITED);
        (void)fx_expect(fx, KEEPER_MSG_EMPTY);
        fx_reap(fx, 1);
        snprintf(path, sizeof(path), "PATH=/no/such:%s/one", fx->dir);
        expect_failure(fx, &(FxSpawn){.node = 2, .argv = ARGV((char *)"tidegate-prog"), .env = ARGV(path)},
                KEEPER_STAGE_EXEC, EACCES,
                "(no execute bit)");
        fx_close(fx);
}

/* ---- a file system that stopped answering ---- */

/* How long a start was waited for, as its keeper says it. */
static double said_seconds(const char *text)
{
        const char *at = strstr(text, "within ");
        double seconds = 0;

        cr_assert(at && sscanf(at, "within %lf s", &seconds) == 1, "%s", text);
        return seconds;
}

Test(keeper_spawn, a_program_on_a_hung_file_system_delays_nobody_and_the_keeper_ends, .timeout = 90)
{
        Fixture *fx;
        KeeperMsg look = {.type = KEEPER_MSG_LOOK, .node = 1, .generation = 1};
        char program[512];
        nsec_t start, asked, took;
        double said;
        Hung h;
        FxMsg *m;

        if (!private_mounts())
                cr_skip_test("no private mount namespace or no FUSE");
        fx = fx_new();
        h = hung_start(fx->dir);
        snprintf(program, sizeof(program), "%s/prog", h.dir);
        start = clock_now();
        fx_spawn(fx, &(FxSpawn){.node = 1, .argv = ARGV(program), .span = 1500 * NSEC_PER_MSEC});
        hung_wait_asked(&h);
        asked = clock_now(); /* its keeper had the order before, and counts from when it had it */
        (void)fx_start(fx, &(FxSpawn){.node = 2, .argv = SH("exit 3")});
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_EXITED)->msg.exited.status, 3);
        cr_assert_eq(fx_expect(fx, KEEPER_MSG_EMPTY)->msg.node, 2); /* all of its life, while the other hangs */
        m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);
        took = clock_now() - start;
        cr_assert_eq(m->msg.spawn_failed.stage, KEEPER_STAGE_DEADLINE);
        cr_assert(strstr(m->msg.spawn_failed.text, program), "%s", m->msg.spawn_failed.text);
        said = said_seconds(m->msg.spawn_failed.text); /* with one digit; who is late says so, and was so for no longer than we waited */
        cr_assert(said >= 1.5 - (double)(asked - start) / 1e9 - 0.05 && said <= (double)took / 1e9 + 0.05, "%s, after %.3f s",
                m->msg.spawn_failed.text, (double)took / 1e9);
        cr_assert(took >= 1500 * NSEC_PER_MSEC && took < 1500 * NSEC_PER_MSEC + SLACK, "%d ms", (int)(took / NSEC_PER_MSEC));
        start = clock_now();
        do { /* it may be seen on its way from one sleep, which the kill ended, to the other */
                cr_assert(clock_now() - start < FX_SPAN, "state D is never seen");
                fx_order(fx, &look, NULL, 0);
                m = fx_expect(fx, KEEPER_MSG_LEFT);
                cr_assert_eq(m->msg.left.n, 1, "%s", fx_left(m));
        } while (!strstr(fx_left(m), "state D"));
        start = clock_now();
        cr_assert(!fx_end(fx, 300 * NSEC_PER_MSEC), "clean although somebody hangs");
        took = clock_now() - start;
        cr_assert(took < 300 * NSEC_PER_MSEC + SLACK, "the keeper took %d ms to end", (int)(took / NSEC_PER_MSEC));
        hung_end(&h);
        cr_assert_eq(cgroup_remove_tree(fx->group.fd, "u-1", clock_now() + FX_SPAN), 0);
        cr_assert_eq(waitid(P_ALL, 0, &(siginfo_t){}, WEXITED), 0); /* the orphan comes to us */
        fx_close(fx);
}

Test(keeper_spawn, a_quarantined_start_is_reported_empty_when_the_file_system_wakes_up, .timeout = 90)
{
        Fixture *fx;
        char cwd[512];
        Hung h;
        FxMsg *m;

        if (!private_mounts())
                cr_skip_test("no private mount namespace or no FUSE");
        fx = fx_new();
        h = hung_start(fx->dir);
        snprintf(cwd, sizeof(cwd), "%s/cwd", h.dir);
        fx_spawn(fx, &(FxSpawn){.node = 1, .argv = SH("exit 0"), .cwd = cwd, .span = 1500 * NSEC_PER_MSEC}); /* it gets there in time */
        m = fx_expect(fx, KEEPER_MSG_SPAWN_FAILED);
        cr_assert_eq(m->msg.spawn_failed.stage, KEEPER_STAGE_DEADLINE);
        cr_assert(strstr(m->msg.spawn_failed.text, cwd), "%s", m->msg.spawn_failed.text);
        hung_end(&h);
        m = fx_expect(fx, KEEPER_MSG_EMPTY);
        cr_assert_eq(m->msg.node, 1);
        cr_assert_eq(m->msg.empty.removed, 1);
        fx_expect_fds(fx);
        fx_close(fx);
}

Test(keeper_spawn, a_kill_reaches_a_start_that_hangs_and_those_that_wait_behind_it, .timeout = 90)
{
        Fixture *fx;
        char program[512];
        unsigned failed = 0, over = 0;
        nsec_t start, took;
        FxMsg m = {.fd = -1};
        bool ran = false;
        Hung h;

        if (!private_mounts())
                cr_skip_test("no private mount namespace or no FUSE");
        fx = fx_new();
        h = hung_start(fx->dir);
        snprintf(program, sizeof(program), "%s/prog", h.dir);
        for (uint32_t i = 0; i < 66; i++) /* more than there are spawner threads */
                fx_spawn(fx, &(FxSpawn){.node = i, .argv = ARGV(program), .span = 800 * NSEC_PER_MSEC});
        start = clock_now();
        fx_spawn(fx, &(FxSpawn){.node = 100, .argv = SH("exit 0")});
        while (failed < 66 || !ran) {
                cr_assert(fx_receive(fx, &m, FX_SPAN));
                failed += m.msg.type == KEEPER_MSG_SPAWN_FAILED;
                over += m.msg.type == KEEPER_MSG_EMPTY; /* those that waited are over when they are given up, if they waited until then */
                if (m.msg.type == KEEPER_MSG_EMPTY && m.msg.node == 100) {
                        ran = true;
                        took = clock_now() - start;
                        cr_assert(took < 800 * NSEC_PER_MSEC + SLACK, "the one that could run waited %d ms",
                                (int)(took / NSEC_PER_MSEC));
                }
        }
        hung_end(&h);
        for (; over < 67; over += m.msg.type == KEEPER_MSG_EMPTY)
                cr_assert(fx_receive(fx, &m, FX_SPAN), "only %u are reported empty", over);
        m.fd = fd_close(m.fd);
        fx_close(fx);
}

static bool until_populated(int events_fd)
{
        nsec_t stop = nsec_add(clock_now(), FX_SPAN);
        struct pollfd p = {.fd = events_fd, .events = POLLPRI};

        while (cgroup_populated(events_fd) != 1 && clock_now() < stop)
                (void)poll(&p, 1, 20);
        return cgroup_populated(events_fd) == 1;
}

/* Born into a frozen cgroup it is there, and has not done a single step. */
Test(keeper_spawn, one_that_is_killed_before_its_first_step_is_reported_as_any, .timeout = 60)
{
        Fixture *fx = fx_new();
        int fd = open(fx->dataflow, O_RDONLY | O_DIRECTORY | O_CLOEXEC), events = cgroup_open_file(fd, "cgroup.events", O_RDONLY);
        FxMsg *m;

        cr_assert_eq(cgroup_write(fd, "cgroup.freeze", "1"), 0);
        fx_spawn(fx, &(FxSpawn){.node = 1, .argv = SH("exec sleep 1000")});
        cr_assert(until_populated(events));
        fx_kill(fx, 1, FX_SPAN);
        m = fx_wait(fx, KEEPER_MSG_SPAWNED); /* with its pidfd: the fixture asserts that */
        cr_assert_gt(m->msg.spawned.pid, 0);
        m = fx_wait(fx, KEEPER_MSG_EXITED);
        cr_assert_eq(m->msg.exited.status, SIGKILL);
        (void)fx_wait(fx, KEEPER_MSG_EMPTY);
        close(events);
        close(fd);
        fx_close(fx);
}

Test(keeper_spawn, a_kill_during_a_start_calls_it_off, .timeout = 60)
{
        Fixture *fx = fx_new();
        unsigned over = 0, called_off = 0;
        FxMsg m = {.fd = -1};

        for (uint32_t i = 0; i < 100; i++) {
                fx_spawn(fx, &(FxSpawn){.node = i, .argv = SH("exec sleep 1000")});
                fx_kill(fx, i, FX_SPAN); /* at whatever point the start has reached */
        }
        while (over < 100) {
                cr_assert(fx_receive(fx, &m, FX_SPAN), "%u of 100 ended", over);
                over += m.msg.type == KEEPER_MSG_EMPTY;
                if (m.msg.type == KEEPER_MSG_SPAWN_FAILED) {
                        cr_assert_eq(m.msg.spawn_failed.error, ECANCELED, "%s", m.msg.spawn_failed.text);
                        called_off++;
                }
        }
        m.fd = fd_close(m.fd);
        cr_assert_gt(called_off, 0);
        fx_close(fx);
}
