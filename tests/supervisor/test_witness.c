/* SPDX-License-Identifier: Apache-2.0 */
/* The witness beside a node that moves without a pause: its program, with a probe whose records never end (helpers/endless_probe.c). */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "protocol/witness_msg.h"

#define RING 128u /* records that a ring holds at the most */

static pid_t start(int *ret_sock)
{
        char number[16], options[512];
        int pair[2];
        pid_t pid;

        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        cr_assert_eq(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 20}, sizeof(struct timeval)), 0);
        pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0) {
                int sock = dup(pair[1]); /* this one goes with it */

                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)snprintf(number, sizeof(number), "%d", sock);
                (void)snprintf(options, sizeof(options), "%s:detect_leaks=0", getenv("ASAN_OPTIONS") ?: "");
                (void)setenv("ASAN_OPTIONS", options, 1); /* that check clones a process, which a witness may not */
                (void)execl(ENDLESS_WITNESS, "witness", number, "1", NULL);
                _exit(127);
        }
        (void)close(pair[1]);
        *ret_sock = pair[0];
        return pid;
}

static WitnessMsgType hear(int sock)
{
        struct witness_record record;
        ssize_t n = recv(sock, &record, sizeof(record), 0);

        cr_assert_eq(n, (ssize_t)sizeof(record), "%zd: %s", n, strerror(errno));
        cr_assert_eq(witness_msg_check(WITNESS_SENDER_WITNESS, &record, (size_t)n), 0);
        return (WitnessMsgType)record.type;
}

Test(witness, a_look_ends_although_records_never_end, .timeout = 60)
{
        struct witness_record look = {.magic = WITNESS_MAGIC, .type = WITNESS_MSG_LOOK};
        unsigned n_moved = 0;
        int sock, status;
        pid_t pid;

        if (getuid() != 0)
                cr_skip_test("not root: a witness gives up privileges first");
        pid = start(&sock);
        cr_assert_eq(hear(sock), WITNESS_MSG_READY);
        cr_assert_eq(send(sock, &look, sizeof(look), MSG_NOSIGNAL), (ssize_t)sizeof(look));
        for (WitnessMsgType type; (type = hear(sock)) != WITNESS_MSG_LOOKED; n_moved++) {
                cr_assert_eq(type, WITNESS_MSG_MOVED);
                cr_assert_lt(n_moved, 100 * RING, "it goes on for as long as there is something");
        }
        cr_expect_geq(n_moved, RING, "all that can have been there before it is told");
        (void)close(sock);
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_expect(WIFEXITED(status), "it ends with its supervisor, by itself");
}
