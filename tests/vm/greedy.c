/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node that wants more than it may have, or is where it may not be. Static: it starts in a moment in an emulated guest.
 *
 *   greedy memory MIB [two]   touches so much memory, says "has", and stays; `two`: beside a child that wants nothing
 *   greedy cpu                turns
 *   greedy nothing            ends at once
 *   greedy fork N             N children, says "forked A refused B", and stays
 *   greedy forks              a child every 10 ms, for ever
 *   greedy leave PROCS        becomes its owner whole (with the set-user-ID bit), moves itself by that cgroup.procs, and stays
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stay(void)
{
        for (;;)
                (void)pause();
}

static void take_memory(size_t mib)
{
        char *memory = malloc(mib << 20);

        for (size_t at = 0; memory && at < mib << 20; at += 4096)
                memory[at] = 1;
        printf("has %zu\n", mib);
}

static void make_children(int n)
{
        int forked = 0, refused = 0;

        for (int i = 0; i < n; i++) {
                pid_t pid = fork();

                if (pid == 0)
                        stay();
                forked += pid > 0;
                refused += pid < 0;
        }
        printf("forked %d refused %d\n", forked, refused);
}

static void make_more_children(void)
{
        for (;;) {
                if (fork() == 0)
                        stay();
                (void)usleep(10000);
        }
}

static int leave(const char *procs)
{
        FILE *f;

        if (setgid(getegid()) < 0 || setuid(geteuid()) < 0 || !(f = fopen(procs, "we")) || fputs("0", f) < 0 || fclose(f) < 0) {
                perror(procs);
                return 1;
        }
        stay();
        return 0;
}

int main(int argc, char **argv)
{
        if (argc < 2)
                return 2;
        if (strcmp(argv[1], "cpu") == 0)
                for (volatile unsigned i = 0;; i++)
                        ;
        if (strcmp(argv[1], "nothing") == 0)
                return 0;
        if (strcmp(argv[1], "forks") == 0)
                make_more_children();
        if (strcmp(argv[1], "leave") == 0 && argc > 2)
                return leave(argv[2]);
        if (argc > 3 && fork() == 0)
                stay();
        if (strcmp(argv[1], "memory") == 0 && argc > 2)
                take_memory(strtoul(argv[2], NULL, 10));
        else if (strcmp(argv[1], "fork") == 0 && argc > 2)
                make_children(atoi(argv[2]));
        else
                return 2;
        (void)fflush(stdout);
        stay();
}
