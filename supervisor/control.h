/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One control connection: calls in, replies and events out (protocol/control_msg.h), never blocking; one call at a time. A peer
 * that sends nonsense, too much, or half a message for too long loses its connection. One that does not read loses events,
 * counted; it is hung up on when it takes nothing for too long while a reply waits.
 *
 * Does not know what a method means or who is at the other end. A daemon's clients and the command of a private instance are
 * served by the same code.
 */
#ifndef TG_SUPERVISOR_CONTROL_H
#define TG_SUPERVISOR_CONTROL_H

#include "supervisor/frames.h"
#include "supervisor/loop.h"

typedef struct Control Control;

typedef struct ControlOps {
        /* A call has come. It is under way until control_reply() or control_error(), which may be called at once. */
        void (*call)(void *owner, const ControlCall *call);
        /* The peer is gone, or was hung up on. From a job of the loop: control_free() is allowed. May be NULL. */
        void (*gone)(void *owner);
        /* The peer has taken something, so there is room for events again. May be NULL. */
        void (*room)(void *owner);
} ControlOps;

typedef struct ControlLimits {
        size_t events_max;   /* bytes that a peer may leave unread before events are dropped */
        size_t replies_max;  /* the same, with its reply */
        nsec_t frame_span;   /* for the rest of a frame that has begun to come; NSEC_NEVER */
        nsec_t reading_span; /* for a peer to take anything while a reply waits; NSEC_NEVER */
} ControlLimits;

/* What several connections may have together: bytes, of what they sent and of what waits for them; and our time for large calls.
 */
typedef struct ControlQuota {
        size_t used, max;
        nsec_t paced_until; /* no large call is looked at before */
} ControlQuota;

/**
 * control_new() - serve a connection
 * @take_fd: a connected stream socket, non-blocking or not; consumed on success
 * @limits:  borrowed for the connection's life
 * @quota:   the same; NULL: none
 *
 * Return: 0 or a negative errno.
 */
int control_new(Control **ret, Loop *loop, int take_fd, const ControlOps *ops, void *owner, const ControlLimits *limits,
        ControlQuota *quota);
Control *control_free(Control *control);

/* control_event() - one step of a stream: {"event": @event}. Dropped and counted when the peer does not read. */
void control_event(Control *control, json_t *event);

/* control_event_text() - the same, of a frame that is encoded already, its NUL included; for many peers. */
void control_event_text(Control *control, const char *text, size_t size);

/* control_continue() - the same, of any parameters, which are consumed. False: there is no room; nothing was counted. */
bool control_continue(Control *control, json_t *take_parameters);

/* control_event_encode() - for control_event_text(); the caller frees it. NULL without memory. */
char *control_event_encode(json_t *event, size_t *ret_size);

/* control_reply() - the last word of the call under way. @take_parameters is consumed. */
void control_reply(Control *control, json_t *take_parameters);
void control_reply_text(Control *control, char *take_text); /* the whole message, encoded; NULL: there was no memory for it */
void control_error(Control *control, const char *error, json_t *take_parameters);
void control_error_text(Control *control, const char *error, const char *text);

/* control_send_fd() - goes with the next bytes; several, up to SEND_MAX_FDS, go together. One that does not fit is closed. */
void control_send_fd(Control *control, int take_fd);

/* control_is_read() - the peer has taken all that was sent to it, out of the kernel's buffer, too. */
bool control_is_read(const Control *control);

/* control_has_room() - an event of ordinary size would not be dropped. */
bool control_has_room(const Control *control);

/* control_flushed() - everything was taken by the peer, or it is gone. */
bool control_flushed(const Control *control);

/* control_fd() - to ask who is at the other end; -1 when nobody is any more. */
int control_fd(const Control *control);

#endif
