/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-feed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define PIPE_SIZE   (256 * 1024)
#define BUFFER_IDLE (64 * 1024)   /* kept when empty */
#define BUFFER_MAX  (2048 * 1024) /* more than one turn can gather: a turn reads one chunk after the pipe is found full */

static void close_pipe(Feed *feed)
{
        keeper_loop_remove(feed->loop, &feed->pipe);
        feed->pipe_fd = fd_close(feed->pipe_fd);
        feed->at = feed->size = 0;
}

static void set_blocked(Feed *feed, bool blocked)
{
        feed->blocked = blocked;
        feed->stuck &= blocked;
        keeper_loop_watch(feed->loop, &feed->pipe, blocked ? EPOLLOUT : 0);
}

/* No logger from here on: every further line is dropped and counted. */
static void abandon(Feed *feed)
{
        set_blocked(feed, false);
        close_pipe(feed);
        feed->failed |= !feed->closing;
}

static void on_writable(KeeperSource *source, uint32_t events)
{
        Feed *feed = container_of(source, Feed, pipe);

        feed_flush(feed);
        if (feed->pipe_fd >= 0 && !feed->blocked && (events & EPOLLERR))
                abandon(feed); /* the logger closed its end: on_exit tells why */
}

static void on_report(KeeperSource *source, uint32_t events)
{
        Feed *feed = container_of(source, Feed, report);
        struct logger_report report;
        ssize_t n = recv(feed->report_fd, &report, sizeof(report), MSG_DONTWAIT);

        if (n == (ssize_t)sizeof(report)) {
                report.text[sizeof(report.text) - 1] = '\0';
                feed->lost = report.lost;
                if (report.text[0])
                        feed->ops->note(feed->userdata, report.text);
        } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
                keeper_loop_remove(feed->loop, &feed->report);
                feed->report_fd = fd_close(feed->report_fd);
        }
}

static void on_exit_(KeeperSource *source, uint32_t events)
{
        Feed *feed = container_of(source, Feed, exit);
        siginfo_t si = {};

        if (waitid(P_PIDFD, (id_t)feed->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
                return;
        while (feed->report_fd >= 0) /* its last words; the other end is closed, so this ends */
                on_report(&feed->report, EPOLLIN);
        keeper_loop_remove(feed->loop, &feed->exit);
        feed->pidfd = fd_close(feed->pidfd);
        if (!feed->closing || si.si_code != CLD_EXITED || si.si_status > 1)
                feed->ops->note(feed->userdata, si.si_code == CLD_EXITED && si.si_status == 2 ?
                        "the logger could not take the caller's credentials: there are no log files" :
                        "the logger died: there are no more log files");
        feed->failed |= si.si_code != CLD_EXITED || si.si_status != 0;
        abandon(feed);
}

int feed_start(Feed *feed, KeeperLoop *loop, const LoggerConfig *config, const FeedOps *ops, void *userdata)
{
        _cleanup_fd_ int feed_read = -1, feed_write = -1, report_read = -1, report_write = -1;
        int fds[2], r;
        pid_t pid;

        *feed = FEED_NULL;
        feed->ops = ops;
        feed->userdata = userdata;
        feed->loop = loop;
        if (!*config->log_dir)
                return 0;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_origin(-errno);
        feed_read = fds[0];
        feed_write = fds[1];
        (void)fcntl(feed_write, F_SETPIPE_SZ, PIPE_SIZE); /* the default does as well */
        if (fcntl(feed_write, F_SETFL, O_NONBLOCK) < 0)
                return error_origin(-errno);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                return error_origin(-errno);
        report_read = fds[0];
        report_write = fds[1];
        pid = fork();
        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                LoggerConfig logger = *config;

                logger.feed_fd = feed_read;
                logger.report_fd = report_write;
                _exit(logger_main(&logger));
        }
        feed->pid = pid;
        /* Our child and not reaped: the pid is certainly its. */
        feed->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (feed->pidfd < 0)
                return error_origin(-errno); /* its feed closes behind us, and it ends */
        feed->pipe_fd = TAKE_FD(feed_write);
        feed->report_fd = TAKE_FD(report_read);
        feed->started = true;
        r = keeper_loop_add(loop, &feed->pipe, feed->pipe_fd, 0, on_writable);
        if (!r)
                r = keeper_loop_add(loop, &feed->report, feed->report_fd, EPOLLIN, on_report);
        if (!r)
                r = keeper_loop_add(loop, &feed->exit, feed->pidfd, EPOLLIN, on_exit_);
        return r ? error_fold(r) : 0;
}

static bool reserve(Feed *feed, size_t n)
{
        size_t need = feed->size - feed->at + n;
        uint8_t *buf;

        if (feed->pipe_fd < 0 || need > BUFFER_MAX)
                return false;
        if (feed->size + n <= feed->capacity)
                return true;
        if (feed->at > 0)
                memmove(feed->buf, feed->buf + feed->at, feed->size - feed->at);
        feed->size -= feed->at;
        feed->at = 0;
        if (need <= feed->capacity)
                return true;
        need = MAX(need + need / 2, (size_t)BUFFER_IDLE);
        buf = realloc(feed->buf, need);
        if (!buf)
                return false;
        feed->buf = buf;
        feed->capacity = need;
        return true;
}

static bool put_frame(Feed *feed, const struct logger_frame *frame, const void *data)
{
        if (!reserve(feed, sizeof(*frame) + frame->size))
                return false;
        memcpy(feed->buf + feed->size, frame, sizeof(*frame));
        if (data && frame->size > 0)
                memcpy(feed->buf + feed->size + sizeof(*frame), data, frame->size);
        feed->size += sizeof(*frame) + frame->size;
        return true;
}

bool feed_node(Feed *feed, uint32_t node, const char *id)
{
        struct logger_frame frame = {.type = LOGGER_FRAME_NODE, .node = node, .size = (uint32_t)strlen(id)};

        return put_frame(feed, &frame, id);
}

bool feed_line(Feed *feed, uint32_t node, int stream, uint64_t wall_ns, const void *line, size_t size,
        uint64_t truncated)
{
        struct logger_frame frame = {.type = LOGGER_FRAME_LINE,
                .stream = (uint8_t)stream,
                .node = node,
                .size = (uint32_t)size,
                .wall_ns = wall_ns,
                .count = truncated};

        if (!feed->started)
                return true; /* nobody wants log files */
        if (!feed->stuck && put_frame(feed, &frame, line))
                return true;
        feed->dropped++;
        return false;
}

bool feed_lost(Feed *feed, uint32_t node, uint64_t n_lines)
{
        struct logger_frame frame = {.type = LOGGER_FRAME_LOST, .node = node, .count = n_lines};

        return !feed->stuck && put_frame(feed, &frame, NULL);
}

/* Everything went into the pipe. */
static void unblock(Feed *feed)
{
        bool was_stuck = feed->stuck;
        char text[160];

        set_blocked(feed, false);
        if (!was_stuck)
                return;
        snprintf(text, sizeof(text), "log files are written again; %llu lines were dropped",
                (unsigned long long)feed->dropped);
        feed->ops->note(feed->userdata, text);
}

void feed_flush(Feed *feed)
{
        while (feed->pipe_fd >= 0 && feed->at < feed->size) {
                ssize_t n = write(feed->pipe_fd, feed->buf + feed->at, feed->size - feed->at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN) {
                        if (!feed->blocked) {
                                feed->moved_at = clock_now();
                                set_blocked(feed, true);
                        }
                        return;
                }
                if (n < 0) {
                        abandon(feed);
                        return;
                }
                feed->at += (size_t)n;
                feed->moved_at = clock_now();
        }
        feed->at = feed->size = 0;
        if (feed->capacity > BUFFER_IDLE) {
                free(feed->buf);
                feed->buf = NULL;
                feed->capacity = 0;
        }
        if (feed->blocked)
                unblock(feed);
        if (feed->closing)
                close_pipe(feed);
}

bool feed_throttles(const Feed *feed)
{
        return feed->blocked && !feed->stuck;
}

nsec_t feed_deadline(const Feed *feed)
{
        return feed_throttles(feed) ? nsec_add(feed->moved_at, FEED_STUCK_SPAN) : NSEC_NEVER;
}

void feed_tick(Feed *feed, nsec_t now)
{
        if (now < feed_deadline(feed))
                return;
        feed_flush(feed); /* it may be us who were held up, and the pipe has had room since */
        if (now < feed_deadline(feed))
                return;
        feed->stuck = true;
        feed->ops->note(feed->userdata, "log files cannot be written: the logger makes no progress (a hung disk?); "
                                        "nodes go on, lines are dropped and counted until it does");
}

void feed_close(Feed *feed)
{
        feed->closing = true;
        feed_flush(feed);
}

void feed_kill(Feed *feed)
{
        if (feed->pidfd >= 0)
                (void)syscall(SYS_pidfd_send_signal, feed->pidfd, SIGKILL, NULL, 0);
}

bool feed_ended(const Feed *feed)
{
        return feed->pidfd < 0;
}

bool feed_clean(const Feed *feed)
{
        return !feed->failed && feed->dropped == 0 && feed->lost == 0;
}

void feed_done(Feed *feed)
{
        if (!feed->loop)
                return;
        close_pipe(feed);
        keeper_loop_remove(feed->loop, &feed->report);
        keeper_loop_remove(feed->loop, &feed->exit);
        feed->report_fd = fd_close(feed->report_fd);
        feed->pidfd = fd_close(feed->pidfd);
        free(feed->buf);
        feed->buf = NULL;
}
