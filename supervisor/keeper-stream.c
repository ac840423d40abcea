/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/keeper-stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"

#define SOCKET_BUFFER (2 * 1024 * 1024)  /* twice that in kernel memory: some 5000 short lines at 768 bytes each */
#define LAST_BUFFER   (16 * 1024 * 1024) /* what is left in a few pipes */
#define BACKLOG_MAX   (2 * 1024 * 1024)  /* more than one turn can gather: a turn reads one chunk after the socket is full */
#define BACKLOG_IDLE  (64 * 1024)        /* kept when empty */

bool stream_throttles(const Stream *stream)
{
        return stream->full && !stream->dropping;
}

static void set_state(Stream *stream, bool full, bool dropping)
{
        stream->full = full;
        stream->dropping = dropping;
        keeper_loop_watch(stream->loop, &stream->source, full ? EPOLLOUT : 0);
}

/* 0, -EAGAIN when the reader has no room now, or -EPIPE for a reader that is gone, which is forgotten. */
static int send_packet(Stream *stream, const void *packet, size_t size)
{
        if (send(stream->fd, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
                return 0;
        if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM)
                return -EAGAIN;
        stream_close(stream);
        return -EPIPE;
}

static bool reserve(Stream *stream, size_t n)
{
        size_t need = stream->size - stream->at + n;
        uint8_t *buf;

        if (need > BACKLOG_MAX)
                return false;
        if (stream->size + n <= stream->capacity)
                return true;
        if (stream->at > 0)
                memmove(stream->buf, stream->buf + stream->at, stream->size - stream->at);
        stream->size -= stream->at;
        stream->at = 0;
        if (need <= stream->capacity)
                return true;
        need = MAX(need + need / 2, (size_t)BACKLOG_IDLE);
        buf = realloc(stream->buf, need);
        if (!buf)
                return false;
        stream->buf = buf;
        stream->capacity = need;
        return true;
}

static bool put_backlog(Stream *stream, const void *packet, uint32_t size)
{
        if (!reserve(stream, sizeof(size) + size))
                return false;
        memcpy(stream->buf + stream->size, &size, sizeof(size));
        memcpy(stream->buf + stream->size + sizeof(size), packet, size);
        stream->size += sizeof(size) + size;
        return true;
}

/* The next packet of the backlog, or NULL. */
static void *next_packet(const Stream *stream, uint32_t *ret_size)
{
        if (stream->at == stream->size)
                return NULL;
        memcpy(ret_size, stream->buf + stream->at, sizeof(*ret_size));
        return stream->buf + stream->at + sizeof(*ret_size);
}

static void empty_backlog(Stream *stream)
{
        stream->at = stream->size = 0;
        if (stream->capacity <= BACKLOG_IDLE)
                return;
        free(stream->buf);
        stream->buf = NULL;
        stream->capacity = 0;
}

/* Until the socket is full again, or all is out: then the nodes may be read. */
static void flush(Stream *stream)
{
        uint32_t size;
        void *packet;

        while ((packet = next_packet(stream, &size))) {
                if (send_packet(stream, packet, size) < 0)
                        return; /* no room, or nobody */
                stream->at += sizeof(size) + size;
                stream->moved_at = clock_now();
        }
        empty_backlog(stream);
        set_state(stream, false, false);
}

/* Whoever counts must know what was taken for nothing: once for each run of lines of one node. */
static void drop_backlog(Stream *stream)
{
        uint32_t size, node = 0;
        uint64_t n_lines = 0;
        void *packet;
        LogMsg msg;

        while ((packet = next_packet(stream, &size))) {
                stream->at += sizeof(size) + size;
                if (log_msg_decode(&msg, packet, size) < 0)
                        continue; /* cannot be: it was encoded here */
                if (n_lines > 0 && msg.node != node) {
                        stream->ops->lost(stream->userdata, node, n_lines);
                        n_lines = 0;
                }
                node = msg.node;
                n_lines += msg.type == LOG_MSG_LINE ? 1 : msg.count;
        }
        if (n_lines > 0)
                stream->ops->lost(stream->userdata, node, n_lines);
        empty_backlog(stream);
}

static void on_stream(KeeperSource *source, uint32_t events)
{
        Stream *stream = container_of(source, Stream, source);
        bool was_dropping = stream->dropping;

        if (events & (EPOLLHUP | EPOLLERR)) {
                stream_close(stream);
                return;
        }
        flush(stream);
        if (was_dropping && stream->fd >= 0 && !stream->full)
                stream->ops->room(stream->userdata);
}

/* Without the privilege it is as much as the system allows: then nodes are throttled sooner. */
static void set_buffer(int fd, int size)
{
        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int stream_open(Stream *stream, KeeperLoop *loop, int take_fd, const StreamOps *ops, void *userdata)
{
        int r;

        *stream = (Stream){.ops = ops, .userdata = userdata, .loop = loop, .fd = take_fd, .source = KEEPER_SOURCE_INIT,
                .last_until = NSEC_NEVER};
        set_buffer(take_fd, SOCKET_BUFFER); /* short bursts throttle nobody */
        r = keeper_loop_add(loop, &stream->source, stream->fd, 0, on_stream);
        if (r)
                stream_close(stream);
        return r;
}

void stream_close(Stream *stream)
{
        if (stream->fd < 0)
                return;
        keeper_loop_remove(stream->loop, &stream->source);
        stream->fd = fd_close(stream->fd);
        free(stream->buf);
        stream->buf = NULL;
        stream->at = stream->size = stream->capacity = 0;
        stream->full = stream->dropping = false;
}

bool stream_put(Stream *stream, const LogMsg *msg)
{
        char packet[LOG_MSG_MAX];
        int n, r;

        if (stream->fd < 0)
                return true;
        if (stream->dropping)
                return false;
        n = log_msg_encode(msg, packet, sizeof(packet));
        if (n < 0)
                return false;
        if (!stream->full) {
                r = send_packet(stream, packet, (size_t)n);
                if (r != -EAGAIN)
                        return true;
                stream->moved_at = clock_now();
                set_state(stream, true, stream->lossy);
                if (stream->lossy)
                        return false;
        }
        return put_backlog(stream, packet, (uint32_t)n);
}

nsec_t stream_deadline(const Stream *stream)
{
        return stream_throttles(stream) ? MIN(nsec_add(stream->moved_at, STREAM_STUCK_SPAN), stream->last_until) : NSEC_NEVER;
}

void stream_tick(Stream *stream, nsec_t now)
{
        if (now < stream_deadline(stream))
                return;
        /*
         * The socket says that it has room once three quarters of it are free. A slow reader may not get that far in
         * time, but has taken something if anything can be sent.
         */
        flush(stream);
        if (now >= stream_deadline(stream))
                stream_give_up(stream);
}

void stream_give_up(Stream *stream)
{
        if (!stream_throttles(stream))
                return;
        set_state(stream, true, true);
        drop_backlog(stream);
}

void stream_last(Stream *stream, nsec_t deadline)
{
        if (stream->fd < 0)
                return;
        set_buffer(stream->fd, LAST_BUFFER); /* that there is room now is an event, as always */
        stream->last_until = deadline - MIN(deadline, STREAM_DROP_SPAN);
}
