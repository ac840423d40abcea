/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control.h"

#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/send.h"
#include "protocol/control_msg.h"
#include "supervisor/json-text.h"

#define CONTROL_READS_PER_TURN 4
#define CONTROL_ORDINARY_EVENT 16384u
#define CONTROL_LARGE_CALL     32768u /* bytes: parsed in a millisecond */
#define CONTROL_PACE           20     /* after a large call its senders' next waits for so many times what it took */

struct Control {
        Loop *loop;
        int fd;
        Source source;
        const ControlOps *ops;
        void *owner;
        const ControlLimits *limits;
        ControlQuota *quota;
        size_t charged; /* of the quota */

        Frames in;
        Timer frame_timer, pace_timer;
        char *out;
        size_t out_size, out_room, out_sent;
        Timer reading_timer;
        bool reply_waits; /* among what the peer has not taken */
        int send_fds[SEND_MAX_FDS]; /* go with the next bytes */
        size_t n_send_fds;

        bool busy;   /* a call is under way: one at a time */
        bool oneway; /* and wants no answer */
        bool ended;  /* the peer sends no more */
        uint64_t n_dropped;
        Job job; /* the next frame of several, or the news that the peer is gone */
};

static int on_job(Job *job);

/* ---- what it holds */

/* False: those who share the quota hold too much already. */
static bool control_charge(Control *control)
{
        size_t holds = control->in.room + control->out_room;

        if (!control->quota)
                return true;
        control->quota->used += holds - control->charged;
        control->charged = holds;
        return control->quota->used <= control->quota->max;
}

static bool control_may_hold(const Control *control, size_t more)
{
        return !control->quota || control->quota->used + more <= control->quota->max;
}

static void control_hang_up(Control *control)
{
        if (control->fd < 0)
                return;
        source_remove(&control->source);
        timer_disarm(&control->frame_timer);
        timer_disarm(&control->pace_timer);
        timer_disarm(&control->reading_timer);
        control->fd = fd_close(control->fd); /* a socket of ours: what the peer sent with it is dropped by the kernel */
        frames_done(&control->in);
        free(control->out);
        control->out = NULL;
        control->out_size = control->out_sent = control->out_room = 0;
        (void)control_charge(control);
        job_post_client(control->loop, &control->job, on_job);
}

/* ---- out */

/* Ours: sockets and regions that we made. */
static void drop_fds(Control *control)
{
        for (size_t i = 0; i < control->n_send_fds; i++)
                (void)fd_close(control->send_fds[i]);
        control->n_send_fds = 0;
}

static ssize_t send_some(Control *control, const char *data, size_t size)
{
        ssize_t n;

        do
                n = send_message(control->fd, data, size, control->send_fds, control->n_send_fds, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n > 0)
                drop_fds(control);
        return n;
}

/* Bytes sent; 0: no room now. Anything worse hangs up. */
static size_t control_write(Control *control, const char *data, size_t size)
{
        size_t n_sent = 0;

        while (control->fd >= 0 && n_sent < size) {
                ssize_t n = send_some(control, data + n_sent, size - n_sent);

                if (n > 0)
                        n_sent += (size_t)n;
                else if (errno == EAGAIN)
                        break;
                else
                        control_hang_up(control);
        }
        return n_sent;
}

static void control_watch(Control *control)
{
        uint32_t events = control->out_size > 0 ? EPOLLOUT : 0;

        if (control->fd < 0)
                return;
        if (!control->ended)
                events |= EPOLLRDHUP;
        if (!control->ended && !frames_has_whole(&control->in)) /* else there is nothing to read for yet */
                events |= EPOLLIN;
        (void)source_set_events(&control->source, events);
}

static int on_not_reading(Timer *timer, nsec_t now)
{
        (void)now;
        control_hang_up(container_of(timer, Control, reading_timer));
        return 0;
}

static void control_expect_reading(Control *control)
{
        timer_disarm(&control->reading_timer);
        if (control->reply_waits && control->fd >= 0)
                timer_arm(control->loop, &control->reading_timer, nsec_add(control->loop->now, control->limits->reading_span),
                        on_not_reading);
}

static int out_reserve(Control *control, size_t size)
{
        size_t room = MAX(control->out_room, (size_t)4096);
        char *grown;

        if (control->out_sent > 0) {
                memmove(control->out, control->out + control->out_sent, control->out_size - control->out_sent);
                control->out_size -= control->out_sent;
                control->out_sent = 0;
        }
        while (room < control->out_size + size)
                room *= 2;
        if (room == control->out_room)
                return 0;
        grown = realloc(control->out, room);
        if (!grown)
                return error_origin(-ENOMEM);
        control->out = grown;
        control->out_room = room;
        (void)control_charge(control);
        return 0;
}

/* Whole or not at all. Whether the peer reads or not, we never wait for it. */
static int control_put(Control *control, const char *text, size_t size, size_t max)
{
        size_t unread = control->out_size - control->out_sent, n = 0;

        if (control->fd < 0)
                return 0;
        if (unread > 0 && (unread + size > max || !control_may_hold(control, size)))
                return -ENOBUFS;
        if (unread == 0) {
                if (size > max)
                        return -ENOBUFS;
                n = control_write(control, text, size);
        }
        if (control->fd < 0 || n == size)
                return 0;
        if (out_reserve(control, size - n)) {
                control_hang_up(control); /* half of it is out: the stream is broken */
                return 0;
        }
        memcpy(control->out + control->out_size, text + n, size - n);
        control->out_size += size - n;
        control_watch(control);
        return 0;
}

static int control_put_json(Control *control, json_t *take_message, size_t max)
{
        char *text = take_message ? json_text(take_message) : NULL;
        int r = text ? control_put(control, text, strlen(text) + 1, max) : -ENOMEM;

        json_decref(take_message);
        free(text);
        return r;
}

char *control_event_encode(json_t *event, size_t *ret_size)
{
        json_t *message = json_pack("{sb s{sO}}", "continues", 1, "parameters", "event", event);
        char *text = message ? json_text(message) : NULL;

        json_decref(message);
        *ret_size = text ? strlen(text) + 1 : 0;
        return text;
}

static void control_confess(Control *control, size_t max)
{
        json_t *gap;

        if (control->n_dropped == 0)
                return;
        gap = json_pack("{sb s{s{ss sI sI}}}", "continues", 1, "parameters", "event", "type", "dropped", "at_ms",
                (json_int_t)(control->loop->now / NSEC_PER_MSEC), "count", (json_int_t)control->n_dropped);
        if (control_put_json(control, gap, max) == 0)
                control->n_dropped = 0;
}

static void control_flush(Control *control)
{
        size_t n = control_write(control, control->out + control->out_sent, control->out_size - control->out_sent);

        if (control->fd < 0)
                return;
        control->out_sent += n;
        if (control->out_sent == control->out_size) {
                free(control->out);
                control->out = NULL;
                control->out_sent = control->out_size = control->out_room = 0;
                control->reply_waits = false;
                (void)control_charge(control);
                if (control->ended) {
                        control_hang_up(control);
                        return;
                }
                if (control->busy)
                        control_confess(control, control->limits->events_max);
        }
        if (n > 0)
                control_expect_reading(control);
        control_watch(control);
        if (n > 0 && control->ops->room)
                control->ops->room(control->owner);
}

void control_event_text(Control *control, const char *text, size_t size)
{
        if (control->oneway)
                return;
        control_confess(control, control->limits->events_max);
        if (control->n_dropped > 0 || control_put(control, text, size, control->limits->events_max))
                control->n_dropped++;
}

void control_event(Control *control, json_t *event)
{
        size_t size;
        char *text = control_event_encode(event, &size);

        if (text)
                control_event_text(control, text, size);
        else
                control->n_dropped++;
        free(text);
}

bool control_continue(Control *control, json_t *take_parameters)
{
        if (control->oneway) {
                json_decref(take_parameters);
                return true;
        }
        return control_put_json(control, json_pack("{sb so}", "continues", 1, "parameters", take_parameters),
                       control->limits->events_max) == 0;
}

/* One that is too large is replaced by a word that says so; if even that does not fit, nobody is reading. */
static void control_finish(Control *control, char *take_text)
{
        bool oneway = control->oneway;
        json_t *refusal;

        control->busy = control->oneway = false;
        if (oneway) {
                drop_fds(control); /* or the next answer would have them */
        } else {
                control_confess(control, control->limits->replies_max);
                control->n_dropped = 0; /* if it could not be said: the next call's stream is another one */
                if (!take_text || control_put(control, take_text, strlen(take_text) + 1, control->limits->replies_max)) {
                        refusal = json_pack("{ss s{ss}}", "error", CONTROL_E_QUOTA, "parameters", "text",
                                "the reply does not fit into what may wait for you; read faster, or ask for less");
                        if (control_put_json(control, refusal, SIZE_MAX))
                                control_hang_up(control);
                }
        }
        free(take_text);
        control->reply_waits = control->out_size > 0;
        control_expect_reading(control);
        if (frames_has_whole(&control->in)) /* the next one, a turn later: others come first */
                job_post_client(control->loop, &control->job, on_job);
        control_watch(control);
}

static void control_finish_json(Control *control, json_t *take_message)
{
        char *text = take_message && !control->oneway ? json_text(take_message) : NULL;

        json_decref(take_message);
        control_finish(control, text);
}

void control_reply(Control *control, json_t *take_parameters)
{
        control_finish_json(control, json_pack("{so}", "parameters", take_parameters));
}

void control_reply_text(Control *control, char *take_text)
{
        control_finish(control, take_text);
}

void control_error(Control *control, const char *error, json_t *take_parameters)
{
        control_finish_json(control, json_pack("{ss so}", "error", error, "parameters", take_parameters));
}

void control_error_text(Control *control, const char *error, const char *text)
{
        control_error(control, error, json_pack("{ss}", "text", text));
}

void control_send_fd(Control *control, int take_fd)
{
        if (control->n_send_fds < SEND_MAX_FDS)
                control->send_fds[control->n_send_fds++] = take_fd;
        else
                (void)fd_close(take_fd);
}

bool control_has_room(const Control *control)
{
        return control->fd < 0 || (control->n_dropped == 0 && control->out_size - control->out_sent + CONTROL_ORDINARY_EVENT <=
                                                                      control->limits->events_max / 2);
}

bool control_is_read(const Control *control)
{
        int n = 0;

        return control_flushed(control) && (control->fd < 0 || (ioctl(control->fd, SIOCOUTQ, &n) == 0 && n == 0));
}

bool control_flushed(const Control *control)
{
        return control->fd < 0 || control->out_size == 0;
}

int control_fd(const Control *control)
{
        return control->fd;
}

/* ---- in */

static int on_half_frame(Timer *timer, nsec_t now)
{
        (void)now;
        control_hang_up(container_of(timer, Control, frame_timer));
        return 0;
}

static void control_expect_frame(Control *control)
{
        if (!frames_is_partial(&control->in))
                timer_disarm(&control->frame_timer);
        else if (!control->frame_timer.loop)
                timer_arm(control->loop, &control->frame_timer, nsec_add(control->loop->now, control->limits->frame_span),
                        on_half_frame);
}

static int on_pace(Timer *timer, nsec_t now);

/* Time that one user's large calls take is time that all others wait: a twentieth of it is all they get. */
static bool control_is_paced(Control *control, bool large)
{
        if (!large || !control->quota || control->quota->paced_until <= control->loop->now)
                return false;
        timer_arm(control->loop, &control->pace_timer, control->quota->paced_until, on_pace);
        return true;
}

static void control_take_call(Control *control)
{
        bool large = frames_first_size(&control->in) > CONTROL_LARGE_CALL;
        json_t *frame = NULL;
        ControlCall call;
        nsec_t began;
        int r;

        if (control->busy || control->fd < 0 || control->pace_timer.loop || control_is_paced(control, large))
                return;
        began = clock_cpu(); /* what others took from us meanwhile is not this user's doing */
        r = frames_take(&control->in, &frame);
        if (r == FRAMES_E_MORE)
                return;
        (void)control_charge(control);
        if (r || control_call_parse(&call, frame)) {
                control_hang_up(control);
        } else {
                control->busy = true;
                control->oneway = call.oneway;
                control->ops->call(control->owner, &call);
        }
        json_decref(frame);
        if (large && control->quota)
                control->quota->paced_until = nsec_add(control->loop->now, nsec_mul(clock_cpu() - began, CONTROL_PACE));
}

/* After every change of what came in. */
static void control_digest(Control *control)
{
        control_take_call(control);
        if (control->fd < 0)
                return;
        if (control->in.size == 0) {
                frames_done(&control->in);
                (void)control_charge(control);
        }
        control_expect_frame(control);
        control_watch(control);
}

static int on_pace(Timer *timer, nsec_t now)
{
        Control *control = container_of(timer, Control, pace_timer);

        (void)now;
        control_digest(control);
        if (control->ended && !control->pace_timer.loop) /* it was gone meanwhile: what it had asked for is done */
                control_hang_up(control);
        return 0;
}

static int on_job(Job *job)
{
        Control *control = container_of(job, Control, job);

        if (control->fd >= 0)
                control_digest(control);
        else if (control->ops->gone)
                control->ops->gone(control->owner);
        return 0;
}

/* It sends no more: what it asked for is over, but it may still read what waits for it. */
static void control_end_of_calls(Control *control)
{
        control->ended = true;
        if (control->busy || control_flushed(control))
                control_hang_up(control);
        else
                control_watch(control);
}

static void control_read(Control *control)
{
        for (unsigned i = 0; i < CONTROL_READS_PER_TURN && control->fd >= 0; i++) {
                char *at;
                size_t room;
                ssize_t n;

                if (frames_reserve(&control->in, &at, &room) || !control_charge(control)) {
                        control_hang_up(control);
                        return;
                }
                n = recv(control->fd, at, room, MSG_DONTWAIT);
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n <= 0) {
                        control_end_of_calls(control);
                        return;
                }
                if (frames_added(&control->in, (size_t)n)) { /* now: more may never come to tell us so */
                        control_hang_up(control);
                        return;
                }
                if ((size_t)n < room || frames_has_whole(&control->in))
                        return;
        }
}

static int on_control_socket(Source *source, uint32_t revents)
{
        Control *control = container_of(source, Control, source);

        if (revents & EPOLLOUT)
                control_flush(control);
        if (control->fd < 0)
                return 0;
        if (control->pace_timer.loop && (revents & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))) {
                source_remove(source); /* it would be ready for ever, until the timer takes what was asked for */
                control->ended = true;
                return 0;
        }
        if ((revents & (EPOLLHUP | EPOLLERR)) && !(revents & EPOLLIN) && (control->busy || !frames_has_whole(&control->in))) {
                control_hang_up(control);
                return 0;
        }
        /* Behind a call that waits its turn there may be an end that is not read yet. */
        if ((revents & EPOLLRDHUP) && control->busy && frames_has_whole(&control->in)) {
                control_end_of_calls(control);
                return 0;
        }
        if (!frames_has_whole(&control->in) && (revents & (EPOLLIN | EPOLLRDHUP)))
                control_read(control);
        if (control->fd >= 0)
                control_digest(control);
        return 0;
}

int control_new(Control **ret, Loop *loop, int take_fd, const ControlOps *ops, void *owner, const ControlLimits *limits,
        ControlQuota *quota)
{
        Control *control = calloc(1, sizeof(*control));
        int r;

        if (!control)
                return error_origin(-ENOMEM);
        *control = (Control){
                .loop = loop, .fd = take_fd, .ops = ops, .owner = owner, .limits = limits, .quota = quota};
        r = source_add(loop, &control->source, take_fd, EPOLLIN | EPOLLRDHUP, SOURCE_CLIENTS, on_control_socket);
        if (r) {
                free(control);
                return error_fold(r);
        }
        *ret = control;
        return 0;
}

Control *control_free(Control *control)
{
        if (!control)
                return NULL;
        control_hang_up(control);
        job_cancel(&control->job);
        drop_fds(control);
        free(control);
        return NULL;
}
