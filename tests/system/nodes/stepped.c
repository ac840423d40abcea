/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stepped FILE PROGRAM [ARGUMENT...]: the program, traced from its first packet to the supervisor on. Each system call has two steps, before and after it. One
 * life is counted alone; of the next ones each is held for a while at one step, and lives to its end, or is killed there. FILE is shared memory with
 * whoever looks: the number of steps of the life that was counted, the step of the next strike (from 1), what that is (0: held, 1: killed), how far it is from
 * one step to the next that is struck, lives that were held, lives that were killed, lives that ended by themselves, and of these how many in a row had
 * fewer steps.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

enum { STEPS, STEP, KILLS, STRIDE, HELD, KILLED, ENDED, SHORT, WORDS };

static volatile uint64_t *words;

static bool sends(pid_t pid)
{
        struct __ptrace_syscall_info info;

        return ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY &&
                (info.entry.nr == SYS_sendto || info.entry.nr == SYS_sendmsg);
}

/* Noted before it is done: whoever comes next may be there at once. */
static void strike(pid_t pid)
{
        bool kills = words[KILLS];

        words[STEP] += kills ? words[STRIDE] : 0;
        words[KILLS] = !kills;
        words[kills ? KILLED : HELD]++;
        words[SHORT] = 0;
        if (kills)
                (void)kill(pid, SIGKILL); /* traced, so it is nobody else */
        else
                (void)nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
}

static void trace(pid_t pid)
{
        bool began = false;
        uint64_t step = 0, at = words[STEPS] ? words[STEP] : 0;
        int status = W_EXITCODE(1, 0); /* no wait at all is not the end of a life */

        while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
                int sig = WSTOPSIG(status);

                if (sig == (SIGTRAP | 0x80)) {
                        began = began || sends(pid);
                        step += began;
                        if (began && step == at)
                                strike(pid);
                        sig = 0;
                } else if (status >> 16)
                        sig = 0; /* of ptrace */
                (void)ptrace(PTRACE_SYSCALL, pid, NULL, sig);
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
                words[ENDED]++;
                words[SHORT] += step < at;
                words[STEPS] = words[STEPS] ? words[STEPS] : step;
        }
}

int main(int argc, char **argv)
{
        pid_t pid = getpid();
        int fd, go[2];
        char byte;

        if (argc < 3)
                DIE("usage: stepped FILE PROGRAM [ARGUMENT...]");
        fd = open(argv[1], O_RDWR | O_CLOEXEC);
        words = mmap(NULL, WORDS * sizeof(*words), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || words == MAP_FAILED || pipe2(go, O_CLOEXEC) < 0)
                DIE("%s: %s", argv[1], strerror(errno));
        (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
        switch (fork()) {
        case -1:
                DIE("fork: %s", strerror(errno));
        case 0:
                if (ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACESYSGOOD) < 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
                        _exit(1);
                (void)!write(go[1], "", 1);
                (void)close_range(3, ~0u, 0);
                trace(pid);
                _exit(0);
        }
        (void)close(go[1]);
        if (read(go[0], &byte, 1) != 1)
                DIE("it cannot be traced");
        (void)execv(argv[2], argv + 2);
        DIE("%s: %s", argv[2], strerror(errno));
}
