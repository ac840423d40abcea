/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says of tasks, with names that try to say something else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/procstat.h"
#include "base/task.h"

#define REST " 0 -1 2097664 1 2 3 4 5 6 7 8 9 10 11 0 4711 99\n"

Test(task, state_and_flags_are_found_behind_any_name)
{
        static const char *const names[] = {"cat", "a) R 1 (b", "x)\n) Z 9 9 9", "((((", ")", "", "D 1 2 3"};

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                uint32_t flags = 0;
                int32_t parent = 0, session = 0;
                Task task = {};
                char text[256];

                (void)snprintf(text, sizeof(text), "77 (%s) D 5 6 7" REST, names[i]);
                cr_assert(task_parse_stat(&task, text, &flags, &parent, &session), "%s", names[i]);
                cr_assert_eq(task.state, 'D');
                cr_assert_eq(parent, 5);
                cr_assert_eq(session, 7);
                cr_assert_eq(flags, 2097664);
                cr_assert_eq(task.start_time, 4711);
        }
}

Test(task, what_is_no_stat_is_refused)
{
        static const char *const texts[] = {"", "77", "77 (x", "77 (x)", "77 (x) D", "77 (x) D 5 6 7 0 -1 x", ("77 (x)D 5 6 7" REST)};
        uint32_t flags = 12;
        int32_t n = 12;

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                Task task = {.state = '?'};

                cr_assert_not(task_parse_stat(&task, texts[i], &flags, &n, &n), "%s", texts[i]);
                cr_assert_eq(task.state, '?');
                cr_assert_eq(flags, 12);
        }
}

Test(task, a_name_cannot_forge_a_line_of_status)
{
        static const char text[] = "Name:\tx\\nTracerPid:\t1\\nSigPnd:\tff\nUmask:\t0022\nState:\tt (tracing stop)\nTracerPid:\t4242\n"
                                   "SigPnd:\t0000000000000100\nShdPnd:\t0000000000004000\nvoluntary_ctxt_switches:\t7\n"
                                   "nonvoluntary_ctxt_switches:\t3\n";
        Task task = {};

        cr_assert(task_parse_status(&task, text));
        cr_assert_eq(task.tracer, 4242);
        cr_assert_eq(task.pending, UINT64_C(1) << (SIGKILL - 1));
        cr_assert_eq(task.shared_pending, UINT64_C(1) << (SIGTERM - 1));
        cr_assert_eq(task.switches, 10);
        cr_assert_not(task_parse_status(&task, "Name:\tx\nTracerPid:\t1\n"));
}

Test(task, a_call_is_named_and_its_descriptor_found)
{
        char text[128];
        Task task = {.call = -1, .fd = -1};

        (void)snprintf(text, sizeof(text), "%d 0x5 0x7ff 0x10 0x0 0x0 0x0 0x7ffd 0x7f94\n", SYS_read);
        cr_assert(task_parse_call(&task, text));
        cr_assert_str_eq(task_call_name(task.call), "read");
        cr_assert_eq(task.fd, 5);
        task = (Task){.call = -1, .fd = -1};
        (void)snprintf(text, sizeof(text), "%d 0xffffffffffffff9c 0x7ff 0x10 0x0 0x0 0x0 0x7ffd 0x7f94\n", SYS_openat);
        cr_assert(task_parse_call(&task, text));
        cr_assert_str_eq(task_call_name(task.call), "openat");
        cr_assert_eq(task.fd, -1);
        task = (Task){.call = -1, .fd = -1};
        cr_assert_not(task_parse_call(&task, "running"));
        cr_assert_not(task_parse_call(&task, "-1 0x7ffd 0x7f94"));
        cr_assert_not(task_parse_call(&task, "99999999999 0x1"));
        cr_assert_eq(task.call, -1);
        cr_assert_str_eq(task_call_name(462), "mseal"); /* not in the headers of Linux 6.1 */
        cr_assert_null(task_call_name(-1));
        cr_assert_null(task_call_name(INT32_MAX));
}

Test(task, every_call_that_this_program_knows_has_its_name)
{
        static const struct {
                int32_t number;
                const char *name;
        } calls[] = {{SYS_exit_group, "exit_group"}, {SYS_futex, "futex"}, {SYS_close, "close"}, {SYS_execve, "execve"}, {SYS_clone3, "clone3"},
                {SYS_pidfd_send_signal, "pidfd_send_signal"}, {SYS_newfstatat, "newfstatat"}};

        for (size_t i = 0; i < ELEMENTSOF(calls); i++)
                cr_assert_str_eq(task_call_name(calls[i].number), calls[i].name);
}

Test(task, the_innermost_frames_are_kept)
{
        Task task = {};

        task_parse_stack(&task, "[<0>] request_wait_answer+0x12f/0x210 [fuse]\n[<0>] __fuse_simple_request+0x5/0x2\n[<0>] 0xffffffff81000000\n"
                                "garbage\n[<0>] c+0x1/0x2\n[<0>] d+0x1/0x2\n[<0>] e+0x1/0x2\n[<0>] f+0x1/0x2\n[<0>] g+0x1/0x2");
        cr_assert_str_eq(task.stack[0], "request_wait_answer");
        cr_assert_str_eq(task.stack[1], "__fuse_simple_request");
        cr_assert_str_eq(task.stack[2], "c");
        cr_assert_str_eq(task.stack[5], "f");
        task = (Task){};
        task_parse_stack(&task, "");
        cr_assert_str_eq(task.stack[0], "");
}

Test(task, signals_are_named_and_those_without_a_name_numbered)
{
        char text[64];

        cr_assert_str_eq(task_signals((UINT64_C(1) << (SIGTERM - 1)) | (UINT64_C(1) << (SIGKILL - 1)), text, sizeof(text)), "KILL TERM");
        cr_assert_str_eq(task_signals(UINT64_C(1) << 63, text, sizeof(text)), "64");
        cr_assert_str_eq(task_signals(0, text, sizeof(text)), "");
        cr_assert_lt(strlen(task_signals(UINT64_MAX, text, sizeof(text))), sizeof(text));
}

/* A child that waits in a read of a pipe, under a name that is meant to mislead. */
Test(task, a_task_that_waits_is_read_whole, .timeout = 20)
{
        char c, link[64], target[64] = "", line[512];
        int fds[2], ready[2];
        Task task = {};
        pid_t pid;

        cr_assert_eq(pipe(fds), 0);
        cr_assert_eq(pipe(ready), 0);
        pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)prctl(PR_SET_NAME, "a) Z\n(\x1b[1m");
                (void)!write(ready[1], "x", 1);
                (void)!read(fds[0], &c, 1);
                _exit(0);
        }
        cr_assert_eq(read(ready[0], &c, 1), 1);
        for (int i = 0; i < 10000 && (task.call != SYS_read || task.state != 'S'); i++) {
                cr_assert_eq(task_read(&task, pid, pid), 0);
                (void)usleep(1000);
        }
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fds[0]);
        cr_assert_gt(readlink(link, target, sizeof(target) - 1), 0);
        cr_assert_eq(task.state, 'S');
        cr_assert_str_eq(task.comm, "a) Z?(?[1m");
        cr_assert_eq(task.fd, fds[0]);
        cr_assert_str_eq(task.target, target);
        cr_assert_eq(task.tracer, 0);
        cr_assert_not(task.leader_exited);
        cr_assert_lt(task.age_ns, 60 * NSEC_PER_SEC);
        (void)task_line(&task, line, sizeof(line));
        cr_assert(strstr(line, " in read of ") && strstr(line, "(pipe:["), "%s", line);
        cr_assert_lt(strlen(task_line(&task, line, 20)), 20);
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        cr_assert_eq(task_read(&task, pid, pid), -ESRCH);
        close(fds[0]);
        close(fds[1]);
        close(ready[0]);
        close(ready[1]);
}

Test(task, a_thread_of_the_kernel_is_known_for_one)
{
        Task task = {};

        if (task_read(&task, 2, 2) != 0 || strcmp(task.comm, "kthreadd") != 0)
                cr_skip_test("process 2 is not the kernel's here");
        cr_assert_eq(task.kind, TASK_KERNEL_THREAD);
        cr_assert_str_eq(task_kind_to_string(task.kind), "kernel-thread");
}
