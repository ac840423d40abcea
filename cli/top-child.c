/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top-child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define READ_MAX 65536 /* a turn */

static int spawn(pid_t *ret, int write_fd, const char *const argv[])
{
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        sigset_t none, usual;
        int r;

        sigemptyset(&none);
        sigemptyset(&usual);
        sigaddset(&usual, SIGPIPE);
        (void)posix_spawn_file_actions_init(&actions);
        (void)posix_spawnattr_init(&attr);
        (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
        (void)posix_spawnattr_setsigmask(&attr, &none);
        (void)posix_spawnattr_setsigdefault(&attr, &usual);
        (void)posix_spawnattr_setpgroup(&attr, 0); /* Ctrl-C is ours */
        r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        r = r ? r : posix_spawn_file_actions_adddup2(&actions, write_fd, STDOUT_FILENO);
        r = r ? r : posix_spawn_file_actions_adddup2(&actions, write_fd, STDERR_FILENO);
        r = r ? r : posix_spawn(ret, "/proc/self/exe", &actions, &attr, (char *const *)(uintptr_t)argv, environ);
        (void)posix_spawnattr_destroy(&attr);
        (void)posix_spawn_file_actions_destroy(&actions);
        return r ? error_origin(-r) : 0;
}

int top_child_begin(TopChild *ret, const char *const argv[])
{
        _cleanup_fd_ int read_fd = -1, write_fd = -1;
        int fds[2], r;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        read_fd = fds[0];
        write_fd = fds[1];
        if (fcntl(read_fd, F_SETFL, O_NONBLOCK) < 0)
                return error_origin(-errno);
        r = spawn(&pid, write_fd, argv);
        if (r)
                return r;
        *ret = (TopChild){.pid = pid, .fd = TAKE_FD(read_fd)};
        return 0;
}

/* Whole lines; one that is too long is cut into several. */
static void take_lines(TopChild *child, TopText *text, bool all)
{
        size_t at = 0;

        while (at < child->size) {
                char *end = memchr(child->line + at, '\n', child->size - at);
                size_t n = end ? (size_t)(end - child->line) - at : child->size - at;

                if (!end && !all && !(at == 0 && child->size == sizeof(child->line)))
                        break;
                top_text_add(text, "%.*s", (int)n, child->line + at);
                at += n + (end != NULL);
        }
        child->size -= at;
        memmove(child->line, child->line + at, child->size);
}

void top_child_read(TopChild *child, TopText *text)
{
        size_t sum = 0;

        while (child->fd >= 0 && sum < READ_MAX) {
                ssize_t n = read(child->fd, child->line + child->size, sizeof(child->line) - child->size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        take_lines(child, text, true);
                        child->fd = fd_close(child->fd);
                        return;
                }
                child->size += (size_t)n;
                sum += (size_t)n;
                take_lines(child, text, false);
        }
}

pid_t top_child_done(TopChild *child)
{
        pid_t left = 0;

        if (child->pid > 0) {
                (void)kill(child->pid, SIGKILL); /* our own child, not reaped: the number is its */
                left = waitpid(child->pid, NULL, WNOHANG) == 0 ? child->pid : 0;
        }
        (void)fd_close(child->fd);
        *child = TOP_CHILD_NULL;
        return left;
}
