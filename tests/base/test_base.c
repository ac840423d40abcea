/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/doorbell.h"
#include "base/error.h"
#include "base/list.h"
#include "base/procstat.h"
#include "base/receive.h"
#include "base/send.h"
#include "base/stdio_null.h"
#include "base/utf8.h"

typedef struct Item {
        int value;
        ListLink link;
} Item;

Test(clock, additions_saturate_at_never)
{
        cr_assert_eq(nsec_add(NSEC_NEVER, 1), NSEC_NEVER);
        cr_assert_eq(nsec_add(NSEC_NEVER - 1, 5), NSEC_NEVER);
        cr_assert_eq(nsec_add(3, 4), 7);
        cr_assert_eq(nsec_mul(NSEC_NEVER / 2, 3), NSEC_NEVER);
}

Test(clock, a_poll_timeout_is_rounded_up_and_never_early)
{
        cr_assert_eq(nsec_poll_ms(NSEC_NEVER, 5), -1);
        cr_assert_eq(nsec_poll_ms(5, 10), 0);
        cr_assert_eq(nsec_poll_ms(1, 0), 1);
        cr_assert_eq(nsec_poll_ms(1000001, 0), 2);
}

Test(error, an_unhandled_outcome_becomes_negative_when_folded)
{
        cr_assert_eq(error_fold(3), -ENOTRECOVERABLE);
        cr_assert_eq(error_fold(-ENOENT), -ENOENT);
        cr_assert_eq(error_origin(-EPERM), -EPERM);
        cr_assert_str_eq(error_name(-ENOENT), "ENOENT");
}

Test(error, text_for_people_names_the_limit_that_was_met)
{
        struct rlimit limit;

        cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = 77;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        cr_assert_str_eq(error_text(-EMFILE), "Too many open files (RLIMIT_NOFILE is 77, see `ulimit -n`)");
        cr_assert_str_eq(error_text(ENFILE), "Too many open files in system (see fs.file-max)");
        cr_assert_str_eq(error_text(-ENOENT), "No such file or directory");
        cr_assert_str_eq(error_text(99999), "unknown error");
}

Test(list, the_current_entry_may_be_unlinked_inside_the_loop)
{
        List list;
        Item items[4], *it, *next;
        int sum = 0, left = 0;

        list_init(&list);
        for (int i = 0; i < 4; i++) {
                items[i].value = 1 << i;
                list_append(&list, &items[i].link);
        }
        list_for_each(it, next, &list, link) {
                sum += it->value;
                if (it->value & 5)
                        list_unlink(&it->link);
        }
        list_for_each(it, next, &list, link)
                left += it->value;
        cr_assert_eq(sum, 15);
        cr_assert_eq(left, 10);
        list_unlink(&items[0].link); /* unlinked already: harmless */
        cr_assert(!list_empty(&list));
}

Test(cleanup, taking_a_descriptor_leaves_the_empty_value)
{
        int fd = dup(0), taken;

        taken = TAKE_FD(fd);
        cr_assert_eq(fd, -1);
        cr_assert_geq(taken, 0);
        cr_assert_eq(fd_close(taken), -1);
        cr_assert_eq(fd_close(-1), -1);
}

Test(utf8, well_formed_text_is_kept_and_every_other_byte_replaced)
{
        static const struct {
                const char *in, *out;
        } cases[] = {
                {"", ""},
                {"plain", "plain"},
                {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
                {"a\xff" "b", "a\xef\xbf\xbd" "b"},
                {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                         /* overlong */
                {"\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},         /* overlong */
                {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},         /* surrogate */
                {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* past U+10FFFF */
                {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},                         /* cut */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                size_t size = 0;
                char *clean = utf8_clean(cases[i].in, strlen(cases[i].in), &size);

                cr_expect_str_eq(clean, cases[i].out, "case %zu", i);
                cr_expect_eq(size, strlen(cases[i].out));
                cr_expect_eq(utf8_valid(cases[i].in, strlen(cases[i].in)), strcmp(cases[i].in, cases[i].out) == 0, "case %zu", i);
                free(clean);
        }
        cr_expect_eq(utf8_sequence("\xc3\xa9", 1), 0, "never looks past the end");
        cr_expect_eq(utf8_sequence("x", 0), 0);
}

Test(procstat, a_name_that_looks_like_the_rest_of_the_line_does_not_confuse_it)
{
        ProcStat stat = {};

        cr_assert_eq(procstat_parse(&stat, "7 (a) T 1 (b) S 2 3 4 5 -6 4194560 8 9 10 11 12 13 14 15 20 0 1 0 987654321012 17 18"), 0);
        cr_assert_eq(stat.state, 'S');
        cr_assert_eq(stat.start_time, 987654321012);
        cr_assert_eq(procstat_parse(&stat, "7 (a) S 2 3"), -EBADMSG);
        cr_assert_eq(procstat_parse(&stat, ""), -EBADMSG);
}

Test(procstat, a_process_is_told_from_none)
{
        ProcStat stat = {};
        char boot_id[37];

        cr_assert_eq(procstat_read(&stat, getpid()), 0);
        cr_assert_eq(stat.state, 'R');
        cr_assert_gt(stat.start_time, 0);
        cr_assert_eq(procstat_read(&stat, 0), -ESRCH);
        boot_id_read(boot_id);
        cr_assert_eq(strlen(boot_id), 36);
}

Test(procfs, a_file_that_does_not_say_its_size_is_read_whole_as_far_as_there_is_room)
{
        _cleanup_free_ char *text = NULL, *part = NULL;
        char line[8];
        size_t size;
        FILE *f = tmpfile();

        cr_assert_not_null(f);
        for (unsigned i = 0; i < 10000; i++)
                fprintf(f, "%06u\n", i);
        rewind(f);
        text = procfs_read_whole(fileno(f), 1u << 20, &size);
        cr_assert_eq(size, 70000);
        cr_assert_eq(strlen(text), size);
        for (unsigned i = 0; i < 10000; i++) {
                snprintf(line, sizeof(line), "%06u\n", i);
                cr_assert_eq(memcmp(text + (size_t)7 * i, line, 7), 0, "line %u", i);
        }
        rewind(f);
        part = procfs_read_whole(fileno(f), 1u << 14, &size);
        cr_assert(size < 1u << 14 && size >= (1u << 14) - 1024, "%zu", size);
        cr_assert_eq(memcmp(part, text, size), 0);
        cr_assert_eq(strlen(part), size);
        cr_assert_null(procfs_read_whole(-1, 1u << 14, &size));
        cr_assert_eq(size, 0);
        (void)fclose(f);
}

Test(send, a_message_brings_its_descriptors_and_no_more_than_there_is_room_for)
{
        int pair[2], pipes[2], fds[SEND_MAX_FDS + 1], got[SEND_MAX_FDS] = {};
        char control[CMSG_SPACE(sizeof(got))] __attribute__((aligned(8))), text[8];
        struct iovec iov = {text, sizeof(text)};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        cr_assert_eq(pipe(pipes), 0);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = pipes[1];
        cr_assert_eq(send_message(pair[0], "abc", 3, fds, SEND_MAX_FDS, MSG_DONTWAIT), 3);
        cr_assert_eq(receive_message(pair[1], &mh, MSG_DONTWAIT), 3);
        cr_assert_eq(memcmp(text, "abc", 3), 0);
        cr_assert_eq(CMSG_FIRSTHDR(&mh)->cmsg_len, CMSG_LEN(sizeof(got)));
        memcpy(got, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(got));
        for (size_t i = 0; i < ELEMENTSOF(got); i++)
                cr_assert_eq(write(got[i], "x", 1), 1);

        cr_assert_eq(send_message(pair[0], "abc", 3, fds, SEND_MAX_FDS + 1, MSG_DONTWAIT), -1);
        cr_assert_eq(errno, EINVAL);
        cr_assert_eq(send_message(pair[0], "de", 2, NULL, 0, MSG_DONTWAIT), 2);
        mh.msg_controllen = sizeof(control);
        cr_assert_eq(receive_message(pair[1], &mh, MSG_DONTWAIT), 2);
        cr_assert_null(CMSG_FIRSTHDR(&mh));
}

Test(send, to_nobody_is_an_error_and_no_signal)
{
        int pair[2];

        cr_assert_neq(signal(SIGPIPE, SIG_DFL), SIG_ERR);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        cr_assert_eq(close(pair[1]), 0);
        cr_assert_eq(send_message(pair[0], "f", 1, NULL, 0, 0), -1);
        cr_assert_eq(errno, EPIPE);
}

static int wait_for_ring(int epoll_fd, int ms)
{
        struct epoll_event ev = {};

        return epoll_wait(epoll_fd, &ev, 1, ms);
}

Test(doorbell, each_ring_is_an_event_although_nobody_reads_it, .timeout = 20)
{
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC), bell = doorbell_make();

        if (bell == -ENOTSUP)
                cr_skip_test("this kernel has no TFD_IOC_SET_TICKS");
        cr_assert(epoll_fd >= 0 && bell >= 0);
        cr_assert_eq(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, bell, &(struct epoll_event){.events = EPOLLIN | EPOLLET}), 0);
        cr_assert_eq(wait_for_ring(epoll_fd, 0), 0, "a new one is silent");
        for (unsigned i = 0; i < 100; i++) {
                cr_assert(doorbell_ring(bell));
                cr_assert_eq(wait_for_ring(epoll_fd, 10000), 1);
                cr_assert_eq(wait_for_ring(epoll_fd, 0), 0, "once");
        }
        (void)fd_close(bell);
        (void)fd_close(epoll_fd);
}

Test(doorbell, who_rang_before_anybody_listened_is_heard, .timeout = 20)
{
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC), bell = doorbell_make();

        if (bell == -ENOTSUP)
                cr_skip_test("this kernel has no TFD_IOC_SET_TICKS");
        cr_assert(doorbell_ring(bell));
        cr_assert_eq(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, bell, &(struct epoll_event){.events = EPOLLIN | EPOLLET}), 0);
        cr_assert_eq(wait_for_ring(epoll_fd, 10000), 1);
        (void)fd_close(bell);
        (void)fd_close(epoll_fd);
}

/* A pipe or an eventfd would block here: it is full, or its count is at the end. */
Test(doorbell, whoever_has_it_cannot_make_a_ring_wait, .timeout = 20)
{
        const struct itimerspec often = {{.tv_nsec = 1}, {.tv_nsec = 1}};
        int bell = doorbell_make();

        if (bell == -ENOTSUP)
                cr_skip_test("this kernel has no TFD_IOC_SET_TICKS");
        cr_assert_eq(fcntl(bell, F_SETFL, 0), 0);
        cr_assert_eq(timerfd_settime(bell, 0, &often, NULL), 0);
        for (unsigned i = 0; i < 100000; i++)
                cr_assert(doorbell_ring(bell));
        (void)fd_close(bell);
}

Test(doorbell, what_is_none_says_so, .timeout = 20)
{
        int pair[2];

        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        errno = 7;
        cr_assert(!doorbell_ring(pair[0]));
        cr_assert(!doorbell_ring(-1));
        cr_assert_eq(errno, 7);
        (void)fd_close(pair[0]);
        (void)fd_close(pair[1]);
}

Test(stdio_null, who_reads_our_output_hears_its_end_while_the_child_lives, .timeout = 20)
{
        struct pollfd reader = {.events = POLLIN};
        int out[2];
        pid_t pid;

        cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
        pid = fork();
        if (pid == 0) {
                for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                        (void)dup2(out[1], fd);
                (void)fd_close(out[1]);
                if (stdio_to_null() == 0)
                        (void)pause();
                _exit(1);
        }
        out[1] = fd_close(out[1]);
        reader.fd = out[0];
        cr_assert_eq(poll(&reader, 1, 10000), 1);
        cr_expect(reader.revents & POLLHUP);
        cr_expect_eq(waitpid(pid, NULL, WNOHANG), 0, "it lives");
        cr_assert(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
        (void)fd_close(out[0]);
}
