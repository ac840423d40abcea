/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes in on a control connection: bytes become frames (one JSON object and one NUL byte each), frames become calls.
 * Everything here is from a peer. Bounded: a frame is at most CONTROL_FRAME_MAX bytes, JSON at most 2 048 levels deep.
 *
 * Pure: no socket, no clock. An empty buffer holds no memory.
 */
#ifndef TG_SUPERVISOR_FRAMES_H
#define TG_SUPERVISOR_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

enum {
        FRAMES_E_MORE = 1, /* no whole frame is there yet */
};

typedef struct Frames {
        char *data;
        size_t size, room;
        size_t n_seen; /* bytes that are known to hold no end of a frame */
} Frames;

/**
 * frames_reserve() - room to read into
 * @ret_at, @ret_room: where, and how much; valid until the next call of anything here
 *
 * Return: 0, -EMSGSIZE when there are as many bytes as a frame may have, -ENOMEM.
 */
int frames_reserve(Frames *frames, char **ret_at, size_t *ret_room);

/* frames_added() - @n bytes were read there. Return: 0, -EMSGSIZE when the frame that is coming in is too long. */
int frames_added(Frames *frames, size_t n);

/**
 * frames_take() - take the first frame off
 * @ret: a JSON object, the caller's
 *
 * Return: 0, FRAMES_E_MORE, -EPROTO for a frame that is no JSON object, or has more values in it than any plan, -ENOMEM.
 */
int frames_take(Frames *frames, json_t **ret);

/* frames_first_size() - bytes of the first frame, its NUL included; 0: it is not whole yet. */
size_t frames_first_size(Frames *frames);
bool frames_has_whole(Frames *frames);

/* frames_is_partial() - some of a frame is there, and not all of it. */
bool frames_is_partial(Frames *frames);
void frames_done(Frames *frames);

typedef struct ControlCall {
        const char *method;    /* "interface.Method"; borrowed from the frame, as all here */
        const char *interface; /* not NUL-terminated: interface_size bytes */
        size_t interface_size;
        const char *name;   /* of the method, without its interface */
        json_t *parameters; /* an object, or NULL */
        bool more, oneway;
} ControlCall;

/* control_call_parse() - 0; or -EPROTO, for a frame that is no call: its connection is not worth keeping. */
int control_call_parse(ControlCall *ret, json_t *frame);

#endif
