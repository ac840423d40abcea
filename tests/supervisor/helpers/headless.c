/* SPDX-License-Identifier: Apache-2.0 */
/* headless - the first thread exits while another lives on: cgroup.kill passes such a process by. Says "ready" before. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *body(void *arg)
{
        char path[64], stat[256], *at;
        FILE *f;

        signal(SIGTERM, SIG_IGN);
        for (;;) { /* "ready" must mean that the leader is gone: ask the kernel until it says Z */
                snprintf(path, sizeof(path), "/proc/%d/stat", getpid());
                f = fopen(path, "re");
                if (!f || !fgets(stat, sizeof(stat), f))
                        _exit(2);
                fclose(f);
                for (at = stat; *at; at++)
                        if (at[0] == ')' && at[1] == ' ' && at[2] == 'Z')
                                goto gone;
                usleep(1000);
        }
gone:
        puts("ready");
        fflush(stdout);
        for (;;)
                pause();
        return arg;
}

int main(void)
{
        pthread_t t;

        if (pthread_create(&t, NULL, body, NULL) != 0)
                return 1;
        syscall(SYS_exit, 0); /* this thread only */
        return 1;
}
