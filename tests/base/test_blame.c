/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc and the kernel say of whom a task waits for. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/blame.h"
#include "base/cleanup.h"

Test(blame, every_cause_has_a_name_of_its_own)
{
        for (int i = 0; i < _BLAME_CAUSE_MAX; i++)
                for (int k = 0; k < i; k++)
                        cr_assert_str_neq(blame_cause_to_string(i), blame_cause_to_string(k));
        cr_assert_str_eq(blame_cause_to_string(BLAME_PIPE_FULL), "pipe-full");
        cr_assert_str_eq(blame_cause_to_string(_BLAME_CAUSE_MAX), "unknown");
}

Test(blame, a_call_has_its_arguments_and_a_task_outside_of_one_its_place)
{
        BlameCall call = {};

        cr_assert(blame_parse_call("202 0x7f01 0x189 0x2 0x0 0x0 0xffffffff 0x7ffc10 0x7f0242\n", &call));
        cr_assert(call.known);
        cr_assert_eq(call.number, 202);
        cr_assert_eq(call.args[0], 0x7f01);
        cr_assert_eq(call.args[5], 0xffffffff);
        cr_assert_eq(call.sp, 0x7ffc10);
        cr_assert_eq(call.pc, 0x7f0242);
        cr_assert(blame_parse_call("-1 0x7ffc10 0x7f0242\n", &call));
        cr_assert_eq(call.number, -1);
        cr_assert_eq(call.pc, 0x7f0242);
        cr_assert_not(blame_parse_call("running\n", &call));
        cr_assert_not(blame_parse_call("202 0x7f01 0x189\n", &call));
        cr_assert_not(blame_parse_call("", &call));
}

Test(blame, stat_is_read_behind_any_name)
{
        static const char text[] = "77 (a) S 1 (b) R 5 6 7 8 9 4 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 3 50 1 39 40\n";
        BlameStat stat = {};

        cr_assert(blame_parse_stat(text, &stat));
        cr_assert_eq(stat.parent, 5);
        cr_assert(stat.exiting);
        cr_assert_eq(stat.processor, 3);
        cr_assert_eq(stat.priority, 50);
        cr_assert_eq(stat.policy, 1);
        cr_assert_not(blame_parse_stat("77 (a) R 5 6 7", &stat));
}

Test(blame, signals_are_masks_of_status)
{
        BlameSignals signals = {};

        cr_assert(blame_parse_signals("Name:\tx\nSigQ:\t1/2\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000200\nSigBlk:\t4\nSigIgn:\t0\nSigCgt:\t0000000180000200\n", &signals));
        cr_assert_eq(signals.pending, 0x201);
        cr_assert_eq(signals.blocked, 4);
        cr_assert_eq(signals.caught, 0x180000200);
        cr_assert_not(blame_parse_signals("Name:\tx\nSigPnd:\t1\n", &signals));
}

Test(blame, of_a_lock_the_holder_is_found_for_its_waiter)
{
        static const char text[] = "1: POSIX  ADVISORY  READ  11 08:02:33 128 128\n"
                                   "2: FLOCK  ADVISORY  WRITE 42 00:19:777 0 EOF\n"
                                   "2: -> FLOCK  ADVISORY  WRITE 43 00:19:777 0 EOF\n"
                                   "2:  -> FLOCK  ADVISORY  WRITE 44 00:19:777 0 EOF\n"
                                   "3: OFDLCK ADVISORY  WRITE -1 00:19:778 0 EOF\n"
                                   "3: -> OFDLCK ADVISORY  WRITE 45 00:19:778 0 EOF\n";
        BlameLock lock;

        cr_assert(blame_parse_lock(text, 43, &lock));
        cr_assert_eq(lock.holder, 42);
        cr_assert_str_eq(lock.kind, "FLOCK");
        cr_assert_eq(lock.inode, 777);
        cr_assert(blame_parse_lock(text, 44, &lock), "one who waits behind another");
        cr_assert_eq(lock.holder, 42);
        cr_assert(blame_parse_lock(text, 45, &lock));
        cr_assert_eq(lock.holder, -1);
        cr_assert_not(blame_parse_lock(text, 42, &lock), "who holds one waits for none");
        cr_assert_not(blame_parse_lock("", 42, &lock));
}

Test(blame, addresses_of_tcp_are_those_of_people)
{
        BlameTcp tcp;

        cr_assert(blame_parse_tcp("   0: 0100007F:1F90 0200007F:C350 02 00000001:00000000 01:00000064 00000001     0        0 4711 2 0\n", false, &tcp));
        if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
                cr_assert_str_eq(tcp.local, "127.0.0.1:8080");
        cr_assert(strstr(tcp.remote, ":50000"));
        cr_assert_eq(tcp.state, TCP_SYN_SENT);
        cr_assert_eq(tcp.inode, 4711);
        cr_assert(blame_parse_tcp("   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 99 1", true, &tcp));
        if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
                cr_assert_str_eq(tcp.local, "[::1]:22");
        cr_assert_eq(tcp.state, TCP_LISTEN);
        cr_assert_not(blame_parse_tcp("  sl  local_address rem_address   st", false, &tcp));
        cr_assert_not(blame_parse_tcp("   0: 0100007F:1F90 0200007F:C350 02 0:0 0:0 0 0 0 1", true, &tcp), "an address of the other kind");
}

Test(blame, fields_and_targets_are_exact)
{
        uint64_t value = 0;
        int fds[2];

        cr_assert(blame_field("low 1\noom 2\noom_kill 3\n", "oom_kill", &value));
        cr_assert_eq(value, 3);
        cr_assert(blame_field("low 1\noom 2\noom_kill 3\n", "oom", &value));
        cr_assert_eq(value, 2);
        cr_assert_not(blame_field("xoom 2\n", "oom", &value));
        cr_assert_not(blame_field("high max\n", "high", &value));
        cr_assert(blame_parse_target("pipe:[12]", "pipe", &value));
        cr_assert_eq(value, 12);
        cr_assert_not(blame_parse_target("pipe:[12]x", "pipe", &value));
        cr_assert_not(blame_parse_target("/tmp/pipe:[12]", "pipe", &value));
        cr_assert_eq(blame_parse_epoll("pos:\t0\nflags:\t02\ntfd:        5 events: 1\ntfd:        7 events: 1\ntfd: 9\n", fds, 2), 2);
        cr_assert_eq(fds[0], 5);
        cr_assert_eq(fds[1], 7);
}

Test(blame, a_socket_address_is_told_in_words)
{
        struct sockaddr_un unix_address = {.sun_family = AF_UNIX, .sun_path = "/run/x\n.sock"}, abstract = {.sun_family = AF_UNIX, .sun_path = "\0name"};
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(80), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        char text[64];

        cr_assert_str_eq(blame_address(&unix_address, sizeof(unix_address), text, sizeof(text)), "/run/x?.sock");
        cr_assert_str_eq(blame_address(&abstract, offsetof(struct sockaddr_un, sun_path) + 5, text, sizeof(text)), "@name");
        cr_assert_str_eq(blame_address(&in, sizeof(in), text, sizeof(text)), "127.0.0.1:80");
        cr_assert_str_eq(blame_address(&in, 4, text, sizeof(text)), "?");
        cr_assert_str_eq(blame_address(&in, 1, text, sizeof(text)), "?");
}

Test(blame, the_kernel_tells_the_other_end_of_a_unix_socket, .timeout = 20)
{
        int diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), pair[2];
        struct stat ends[2];
        BlameUnix is;

        cr_assert_geq(diag, 0);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        cr_assert_eq(fstat(pair[0], &ends[0]) + fstat(pair[1], &ends[1]), 0);
        if (!blame_unix_peer(diag, ends[0].st_ino, &is))
                cr_skip("this kernel has no unix_diag");
        cr_assert_eq(is.peer, ends[1].st_ino);
        cr_assert_eq(is.type, SOCK_STREAM);
        (void)close(pair[1]);
        cr_assert(blame_unix_peer(diag, ends[0].st_ino, &is));
        cr_assert_eq(is.peer, 0, "it is gone");
        cr_assert(is.gone);
        (void)close(pair[0]);
        cr_assert_not(blame_unix_peer(diag, ends[0].st_ino, &is));
        cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
        (void)close(pair[1]);
        cr_assert_eq(fstat(pair[0], &ends[0]), 0);
        cr_assert(blame_unix_peer(diag, ends[0].st_ino, &is));
        cr_assert(is.gone, "of datagrams it is not otherwise to be seen");
        (void)close(pair[0]);
        (void)close(diag);
}

Test(blame, who_has_not_accepted_a_connection_is_found, .timeout = 20)
{
        int diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd, accepted;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct stat st, listener;
        socklen_t size = sizeof(address);
        BlameUnix is;

        cr_assert_eq(bind(listening, (struct sockaddr *)&address, sizeof(sa_family_t)), 0, "a name that nobody else has");
        cr_assert_eq(getsockname(listening, (struct sockaddr *)&address, &size), 0);
        cr_assert_eq(listen(listening, 4), 0);
        for (int i = 0; i < 3; i++) {
                fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                cr_assert_eq(connect(fd, (struct sockaddr *)&address, size), 0);
        }
        cr_assert_eq(fstat(fd, &st) + fstat(listening, &listener), 0);
        if (!blame_unix_peer(diag, st.st_ino, &is))
                cr_skip("this kernel has no unix_diag");
        cr_assert(is.gone && !is.dead);
        cr_assert_eq(blame_unix_listener(diag, st.st_ino), listener.st_ino);
        cr_assert_eq(blame_unix_listener(diag, listener.st_ino), 0);
        for (int i = 0; i < 3; i++) {
                accepted = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
                cr_assert_geq(accepted, 0);
        }
        cr_assert_eq(blame_unix_listener(diag, st.st_ino), 0, "now it has");
        cr_assert_eq(fstat(accepted, &listener), 0);
        cr_assert(blame_unix_peer(diag, st.st_ino, &is));
        cr_assert_eq(is.peer, listener.st_ino);
        cr_assert_not(is.gone);
}

Test(blame, a_number_in_a_namespace_of_its_own_is_the_last_one)
{
        cr_assert_eq(blame_parse_inner("Name:\tx\nNStgid:\t4711\t2\nNSpid:\t4712\t17\t3\nNSpgid:\t1\t9\n"), 3);
        cr_assert_eq(blame_parse_inner("Name:\tx\nNSpid:\t4712\nNSpgid:\t1\n"), 0, "it has none");
        cr_assert_eq(blame_parse_inner("Name:\tx\nNSpid:\t4712\t17"), 0, "that is no whole line");
        cr_assert_eq(blame_parse_inner("Name:\tNSpid:\n"), 0);
}
