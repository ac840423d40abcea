/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quiet GATE COUNT: send COUNT numbers as text on output `out`, 50 us apart, once the file GATE is there. While it sends it may make none of the
 * system calls that wake, wait or tell anybody: it is killed by SIGSYS if it does.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

#define NR_UPROBE 336 /* newer than the headers may be: what the kernel makes of a site that is attached to */

/*
 * What may be: the look around that the library takes now and then, whoever is there; a look at the clock; its end. And what it makes when somebody
 * else on this host attaches to the sites of this same library meanwhile, as another test does.
 */
static void be_quiet(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                ALLOW(recvmsg),
                ALLOW(recvfrom),
                ALLOW(epoll_wait),
                ALLOW(epoll_pwait),
                ALLOW(epoll_pwait2),
                ALLOW(clock_gettime),
                ALLOW(getcpu),
                ALLOW(mmap),
                ALLOW(madvise),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NR_UPROBE, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                ALLOW(exit_group),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        struct sock_fprog program = {.len = sizeof(code) / sizeof(*code), .filter = code};

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
                DIE("seccomp: %s", strerror(errno));
}

static uint64_t now_ns(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int main(int argc, char **argv)
{
        unsigned long long count;
        tg_node *node;
        char text[32];

        if (argc != 3)
                DIE("usage: quiet GATE COUNT");
        count = number(argv[2]);
        node = open_node();
        while (access(argv[1], F_OK) < 0 && !tg_should_stop(node)) {
                tg_event *ev;

                if (tg_next(node, &ev, 5000000) == 0)
                        tg_event_free(ev);
        }
        be_quiet();
        for (unsigned long long i = 0; i < count; i++) {
                uint64_t until = now_ns() + 50000;

                send_or_die(node, "out", text, (size_t)snprintf(text, sizeof(text), "%llu", i), NULL);
                while (now_ns() < until)
                        ;
        }
        _exit(0);
}
