/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree N - N processes that ignore SIGTERM (and SIGHUP, SIGINT), every fourth in a session of its own, every fourth
 * double-forked, the rest a chain of plain children. Says "ready" once all are up, then waits to be killed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void live(int up_fd)
{
        if (up_fd >= 0 && write(up_fd, "u", 1) != 1)
                _exit(1);
        for (;;)
                pause();
}

int main(int argc, char **argv)
{
        int n = argc > 1 ? atoi(argv[1]) : 1, up[2];
        char c;

        signal(SIGTERM, SIG_IGN); /* inherited by all */
        signal(SIGHUP, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        if (pipe(up) < 0)
                return 1;
        for (int i = 1; i < n; i++) {
                pid_t pid = fork();

                if (pid < 0)
                        return 2;
                if (pid == 0) {
                        if (i % 4 == 1)
                                (void)setsid();
                        close(up[0]);
                        if (i % 4 != 2 || fork() == 0)
                                live(up[1]);
                        _exit(0);
                }
                if (i % 4 == 2)
                        (void)waitpid(pid, NULL, 0);
        }
        for (int i = 1; i < n; i++)
                if (read(up[0], &c, 1) != 1)
                        return 3;
        close(up[0]);
        puts("ready");
        fflush(stdout);
        close(up[1]);
        live(-1);
}
