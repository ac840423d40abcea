/* SPDX-License-Identifier: Apache-2.0 */
/*
 * undying PATH - makes a process that SIGKILL does not end while this one lives: a tracee stopped at its exit by
 * PTRACE_O_TRACEEXIT. The tracee moves itself to the cgroup whose cgroup.procs is PATH. Says "ready" when it is there.
 * undying --trace PID - the same for a process that exists.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

static void body(const char *path, int up_fd)
{
        int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, "0", 1) != 1 || write(up_fd, "u", 1) != 1)
                _exit(1);
        close(fd);
        for (;;)
                pause();
}

int main(int argc, char **argv)
{
        pid_t pid;
        int up[2];
        char c;

        if (argc == 3 && strcmp(argv[1], "--trace") == 0)
                pid = atoi(argv[2]);
        else if (argc != 2 || pipe(up) < 0 || (pid = fork()) < 0)
                return 1;
        else if (pid == 0)
                body(argv[1], up[1]);
        else if (read(up[0], &c, 1) != 1)
                return 1;
        if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)PTRACE_O_TRACEEXIT) < 0)
                return 2;
        puts("ready");
        fflush(stdout);
        for (;;)
                pause();
}
