/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/keeper-internal.h"
#include "supervisor/priority.h"

#define READER_AGAIN_SPAN (50 * NSEC_PER_MSEC) /* when there was no thread */
#define OUTPUT_LATE_SPAN  NSEC_PER_SEC /* for a thread that has not come back when the incarnation is over */
#define PART_IDLE 4096 /* of a line buffer that is kept between lines */

NodeEntry *keeper_node(Keeper *k, uint32_t node, const char *id)
{
        NodeEntry *e, *next;

        list_for_each(e, next, &k->nodes, link)
                if (e->node == node)
                        return e;
        e = calloc(1, sizeof(*e));
        if (!e)
                return NULL;
        e->node = node;
        e->id = strdup(id);
        if (!e->id) {
                free(e);
                return NULL;
        }
        list_append(&k->nodes, &e->link);
        return e;
}

/*
 * The log stream's text: no NUL bytes (U+FFFD for each), at most LOG_MSG_TEXT_MAX bytes. Returns how much of the
 * line it shows.
 */
static size_t screen_text(char text[static LOG_MSG_TEXT_MAX + 1], const char *line, size_t size)
{
        size_t n = 0, i;

        for (i = 0; i < size; i++) {
                size_t step = line[i] ? 1 : 3;

                if (n + step > LOG_MSG_TEXT_MAX)
                        break;
                memcpy(text + n, line[i] ? line + i : "\xef\xbf\xbd", step);
                n += step;
        }
        text[n] = '\0';
        return i;
}

/* Before a node's next line is shown, how many of its lines were not. */
static bool stream_confess(Keeper *k, NodeEntry *e)
{
        LogMsg msg = {.type = LOG_MSG_DROPPED, .node = e->node, .wall_ns = clock_wall(), .count = e->unshown};

        if (e->unshown > 0 && !stream_put(&k->stream, &msg))
                return false;
        e->unshown = 0;
        return true;
}

static void stream_line(Keeper *k, NodeEntry *e, int stream, uint64_t wall_ns, const char *line, size_t size,
        uint64_t n_cut)
{
        char text[LOG_MSG_TEXT_MAX + 1];
        LogMsg msg = {.type = LOG_MSG_LINE, .node = e->node, .stream = (uint8_t)stream, .wall_ns = wall_ns,
                .text = text};

        if (k->stream.fd < 0)
                return;
        if (!k->stream.dropping && stream_confess(k, e)) {
                msg.count = n_cut + size - screen_text(text, line, size);
                if (stream_put(&k->stream, &msg))
                        return;
        }
        e->unshown++;
}

static void on_stream_lost(void *userdata, uint32_t node, uint64_t n_lines)
{
        Keeper *k = userdata;
        NodeEntry *e, *next;

        list_for_each(e, next, &k->nodes, link)
                if (e->node == node)
                        e->unshown += n_lines;
}

static void on_stream_room(void *userdata)
{
        Keeper *k = userdata;
        NodeEntry *e, *next;

        list_for_each(e, next, &k->nodes, link)
                if (!stream_confess(k, e))
                        return;
}

static void log_line(Keeper *k, NodeEntry *e, int stream, uint64_t wall_ns, const char *line, size_t size,
        uint64_t n_cut)
{
        if (!e->announced)
                e->announced = feed_node(&k->feed, e->node, e->id);
        if (e->announced && e->unlogged && feed_lost(&k->feed, e->node, e->unlogged))
                e->unlogged = 0;
        if (!e->announced && k->feed.started) {
                k->feed.dropped++;
                e->unlogged++;
        } else if (!feed_line(&k->feed, e->node, stream, wall_ns, line, size, n_cut))
                e->unlogged++;
}

/* At the end, when the stream's reader will not hear of it any more. */
void keeper_tell_unshown(Keeper *k)
{
        NodeEntry *e, *next;
        uint64_t n = 0;

        stream_give_up(&k->stream);
        list_for_each(e, next, &k->nodes, link) {
                if (e->unshown > 0 && k->stream.lossy)
                        keeper_report(k, &(KeeperMsg){.type = KEEPER_MSG_UNSHOWN, .unshown = {e->node, e->unshown}}, -1);
                else
                        n += e->unshown;
                e->unshown = 0;
        }
        if (n > 0 && k->stream.fd >= 0)
                keeper_note(k, "%llu lines were not shown: their reader was too slow", (unsigned long long)n);
}

void keeper_look_on(Keeper *k, int take_fd)
{
        NodeEntry *e, *next;

        stream_close(&k->stream);
        list_for_each(e, next, &k->nodes, link)
                e->unshown = 0; /* that was another reader's */
        if (stream_open(&k->stream, &k->loop, take_fd, &keeper_stream_ops, k) == 0) /* else its reader sees the end of it */
                k->stream.lossy = true;
}

void keeper_tell_unlogged(Keeper *k)
{
        NodeEntry *e, *next;

        list_for_each(e, next, &k->nodes, link)
                if (e->announced && e->unlogged && feed_lost(&k->feed, e->node, e->unlogged))
                        e->unlogged = 0;
}

static void emit(Output *out, const char *line, size_t size)
{
        Keeper *k = out->inc->keeper;
        NodeEntry *e = out->inc->entry;
        uint64_t now = clock_wall(), n_cut = out->n_cut;

        out->n_cut = 0;
        out->n_part = 0;
        if (size > LOG_LINE_MAX) {
                n_cut += size - LOG_LINE_MAX;
                size = LOG_LINE_MAX;
        }
        stream_line(k, e, out->stream, now, line, size, n_cut);
        log_line(k, e, out->stream, now, line, size, n_cut);
}

static void note_long(Output *out)
{
        NodeEntry *e = out->inc->entry;

        if (e->noted_long)
                return;
        e->noted_long = true;
        keeper_note(out->inc->keeper,
                "node %s printed a line of more than %d bytes to %s: of such lines the rest is counted, not kept",
                e->id, LOG_LINE_MAX, out->stream == 1 ? "stdout" : "stderr");
}

/* Keeps the beginning of a line for later; what does not fit within LOG_LINE_MAX is counted. */
static void keep_part(Output *out, const char *data, size_t size)
{
        size_t n = MIN(size, LOG_LINE_MAX - out->n_part);

        if (out->n_part + n > out->part_capacity) {
                size_t capacity = MIN((size_t)LOG_LINE_MAX, MAX((out->n_part + n) * 2, (size_t)PART_IDLE));
                char *part = realloc(out->part, capacity);

                if (part) {
                        out->part = part;
                        out->part_capacity = capacity;
                } else
                        n = out->part_capacity - out->n_part;
        }
        if (n > 0)
                memcpy(out->part + out->n_part, data, n);
        out->n_part += n;
        out->n_cut += size - n;
        if (size > n)
                note_long(out);
}

static void release_part(Output *out)
{
        if (out->n_part > 0 || out->part_capacity <= PART_IDLE)
                return;
        free(out->part);
        out->part = NULL;
        out->part_capacity = 0;
}

static void take_bytes(Output *out, const char *data, size_t size)
{
        while (size > 0) {
                const char *newline = memchr(data, '\n', size);
                size_t n = newline ? (size_t)(newline - data) : size;

                if (!newline || out->n_part > 0)
                        keep_part(out, data, n);
                if (newline && out->n_part > 0)
                        emit(out, out->part, out->n_part);
                else if (newline)
                        emit(out, data, n);
                if (newline)
                        n++;
                data += n;
                size -= n;
        }
        release_part(out);
}

void output_close(Output *out)
{
        if (out->fd < 0)
                return;
        if (out->n_part > 0)
                emit(out, out->part, out->n_part); /* its newline never came */
        keeper_loop_remove(&out->inc->keeper->loop, &out->source);
        list_unlink(&out->ready);
        if (out->reader)
                reader_forget(TAKE_PTR(out->reader)); /* and closes it */
        else
                (void)fd_close(out->fd);
        out->fd = -1;
        if (out->last)
                out->inc->keeper->n_last--;
        free(out->part);
        out->part = NULL;
        out->n_part = out->part_capacity = 0;
}

static bool is_throttled(const Keeper *k)
{
        return feed_throttles(&k->feed) || stream_throttles(&k->stream);
}

/* With a priority that is lent for something else nobody's output is read: it is there the turn after. */
static bool in_a_hurry(const Keeper *k)
{
        return k->persistent && priority_is_prompt();
}

/* When the next read may begin: 0 at once, NSEC_NEVER after something has happened. */
static nsec_t next_read(const Keeper *k)
{
        if (is_throttled(k) || readers_are_busy(&k->readers))
                return NSEC_NEVER;
        return clock_now() >= k->readers_again ? 0 : k->readers_again;
}

static void begin_read(Output *out)
{
        Keeper *k = out->inc->keeper;

        if (readers_read(&k->readers, out->fd, out, &out->reader) == 0) {
                out->asked_last = out->last;
                list_unlink(&out->ready);
        } else
                k->readers_again = nsec_add(clock_now(), READER_AGAIN_SPAN);
}

static void on_readable(KeeperSource *source, uint32_t events)
{
        Output *out = container_of(source, Output, source);

        if (!out->reader && list_empty(&out->ready))
                list_append(&out->inc->keeper->readable, &out->ready);
}

static void on_read(void *what, const char *data, ssize_t n)
{
        Output *out = what;
        Keeper *k = out->inc->keeper;

        out->reader = NULL;
        out->late = false;
        if (n > 0) {
                take_bytes(out, data, (size_t)n);
                out->n_last += out->asked_last ? (size_t)n : 0;
                feed_flush(&k->feed);
        }
        /* A pipe gives all it has: less than was asked for means that it is empty now, if it was asked since nobody writes any more. */
        if (n == 0 || (n < 0 && n != -EINTR && n != -EAGAIN) || (out->asked_last && (n < READER_SIZE || out->n_last >= OUTPUT_LAST_MAX)))
                output_close(out);
        else
                keeper_loop_watch(&k->loop, &out->source, EPOLLIN | EPOLLONESHOT);
}

static void on_late(void *what)
{
        Output *out = what;

        out->late = true;
}

static void on_hung(void *what)
{
        Output *out = what;

        keeper_note(out->inc->keeper, "node %s: whoever writes its %s keeps that from being read, and does not go on (a page of a file system that hangs?)", out->inc->entry->id,
                out->stream == 1 ? "stdout" : "stderr");
}

const ReadersOps keeper_readers_ops = {.done = on_read, .late = on_late, .hung = on_hung};

void output_init(Output *out, Incarnation *inc, int stream)
{
        *out = (Output){.inc = inc, .source = KEEPER_SOURCE_INIT, .fd = -1, .stream = stream};
        list_init(&out->ready);
}

int output_open(Output *out, int take_fd)
{
        int flags = fcntl(take_fd, F_GETFL);

        out->fd = take_fd;
        if (flags < 0 || fcntl(take_fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return error_origin(-errno);
        return keeper_loop_add(&out->inc->keeper->loop, &out->source, out->fd, EPOLLIN | EPOLLONESHOT, on_readable);
}

void output_last(Output *out)
{
        if (out->fd < 0 || out->last)
                return;
        out->last = true;
        out->last_until = nsec_add(clock_now(), OUTPUT_LATE_SPAN);
        out->inc->keeper->n_last++;
}

/* One whose writers have ended is read whether it says that there is something or not, and then closed. */
static Output *next_last(Keeper *k, nsec_t *ret_deadline)
{
        nsec_t now = clock_now();
        Incarnation *inc, *next;
        Output *ret = NULL;

        list_for_each(inc, next, &k->incarnations, link)
                for (int i = 0; i < 2; i++) {
                        Output *out = &inc->out[i];

                        if (!out->last || out->fd < 0)
                                continue;
                        if (out->late && now >= out->last_until) {
                                on_hung(out);
                                output_close(out);
                                *ret_deadline = 0; /* that may have been the last one */
                        } else if (out->late)
                                *ret_deadline = MIN(*ret_deadline, out->last_until);
                        else if (!out->reader)
                                ret = ret ? ret : out;
                }
        return ret;
}

nsec_t outputs_read(Keeper *k)
{
        nsec_t deadline = NSEC_NEVER, at = next_read(k);
        Output *last = k->n_last > 0 ? next_last(k, &deadline) : NULL;
        Output *out = last ? last : list_first(&k->readable, Output, ready);

        if (!out)
                return deadline;
        if (at > 0 || in_a_hurry(k))
                return MIN(deadline, at);
        begin_read(out);
        return MIN(deadline, next_read(k));
}

bool output_is_open(const Output *out)
{
        return out->fd >= 0;
}

static void note(void *userdata, const char *text)
{
        keeper_note(userdata, "%s", text);
}

const FeedOps keeper_feed_ops = {.note = note};
const StreamOps keeper_stream_ops = {.lost = on_stream_lost, .room = on_stream_room};
