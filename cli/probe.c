/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

static ProgramState look(const char *path, bool is_script)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? PROGRAM_MISSING : PROGRAM_OK;
        if (S_ISDIR(st.st_mode))
                return PROGRAM_DIRECTORY;
        return is_script || access(path, X_OK) == 0 ? PROGRAM_OK : PROGRAM_NOT_EXECUTABLE;
}

/* Never returns. Holds nothing but its end of the pipe: whoever reads our output must not wait for a child that
 * hangs. */
static void child(int fd, const char *path, bool is_script)
{
        unsigned char answer;

        if (fd > 0)
                (void)close_range(0, (unsigned)fd - 1, 0);
        (void)close_range((unsigned)fd + 1, ~0u, 0);
        answer = (unsigned char)look(path, is_script);
        _exit(write(fd, &answer, 1) == 1 ? 0 : 1);
}

/* The child's answer, -1 when it gives none in time. */
static int await_answer(int fd)
{
        nsec_t deadline = clock_now() + PROBE_WAIT_MS * NSEC_PER_MSEC;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        unsigned char answer;
        int n;

        do
                n = poll(&p, 1, nsec_poll_ms(deadline, clock_now()));
        while (n < 0 && errno == EINTR);
        return n == 1 && read(fd, &answer, 1) == 1 ? answer : -1;
}

ProgramState probe_program(const char *path, bool is_script, void *userdata)
{
        Probe *probe = userdata;
        _cleanup_fd_ int r = -1, w = -1;
        int fds[2], answer;
        pid_t pid;

        if (probe->n_silent >= PROBE_SILENT_MAX || pipe2(fds, O_CLOEXEC) < 0)
                return PROGRAM_OK; /* cannot tell: say nothing */
        r = fds[0];
        w = fds[1];
        pid = fork();
        if (pid < 0)
                return PROGRAM_OK;
        if (pid == 0)
                child(w, path, is_script);
        w = fd_close(w);
        answer = await_answer(r);
        if (answer >= 0) {
                (void)waitpid(pid, NULL, 0); /* it has answered and only exits */
                return (ProgramState)answer;
        }
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, WNOHANG); /* not waited for: it may be in a call that cannot be interrupted */
        probe->n_silent++;
        return PROGRAM_SILENT;
}
