/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "protocol/control_msg.h"
#include "supervisor/json-text.h"

#define FRAMES_FIRST_ROOM 4096u
#define FRAMES_MAX_VALUES (1u << 17)

int frames_reserve(Frames *frames, char **ret_at, size_t *ret_room)
{
        size_t room = frames->room ? frames->room : FRAMES_FIRST_ROOM;
        char *grown;

        if (frames->size >= CONTROL_FRAME_MAX)
                return -EMSGSIZE;
        if (frames->size == frames->room) {
                room = frames->room ? MIN(2 * room, (size_t)CONTROL_FRAME_MAX) : room;
                grown = realloc(frames->data, room);
                if (!grown)
                        return error_origin(-ENOMEM);
                frames->data = grown;
                frames->room = room;
        }
        *ret_at = frames->data + frames->size;
        *ret_room = frames->room - frames->size;
        return 0;
}

int frames_added(Frames *frames, size_t n)
{
        frames->size += n;
        return frames->size >= CONTROL_FRAME_MAX && !frames_has_whole(frames) ? -EMSGSIZE : 0;
}

bool frames_has_whole(Frames *frames)
{
        const char *end =
                frames->size > frames->n_seen ? memchr(frames->data + frames->n_seen, '\0', frames->size - frames->n_seen) : NULL;

        frames->n_seen = end ? (size_t)(end - frames->data) : frames->size;
        return end != NULL;
}

bool frames_is_partial(Frames *frames)
{
        return frames->size > 0 && !frames_has_whole(frames);
}

size_t frames_first_size(Frames *frames)
{
        return frames_has_whole(frames) ? frames->n_seen + 1 : 0;
}

/* Values cost a hundred times what bytes do. What separates them is counted, in strings too: never too few. */
static bool has_too_many_values(const char *data, size_t size)
{
        size_t n = 0;

        for (size_t i = 0; i < size; i++)
                n += data[i] == ',' || data[i] == '[' || data[i] == '{';
        return n > FRAMES_MAX_VALUES;
}

int frames_take(Frames *frames, json_t **ret)
{
        json_t *frame = NULL;
        size_t size;
        int r;

        if (!frames_has_whole(frames)) {
                if (frames->size == 0)
                        frames_done(frames);
                return FRAMES_E_MORE;
        }
        size = frames->n_seen + 1;
        r = has_too_many_values(frames->data, size) ? -EPROTO : json_parse(&frame, frames->data, size - 1, JSON_REJECT_DUPLICATES);
        memmove(frames->data, frames->data + size, frames->size - size);
        frames->size -= size;
        frames->n_seen = 0;
        if (!json_is_object(frame)) {
                json_decref(frame);
                return r == -ENOMEM ? r : -EPROTO;
        }
        *ret = frame;
        return 0;
}

void frames_done(Frames *frames)
{
        free(frames->data);
        *frames = (Frames){};
}

/* JSON's NUL is refused by the parser, so a string is what its bytes say. */
int control_call_parse(ControlCall *ret, json_t *frame)
{
        json_t *method = json_object_get(frame, "method"), *parameters = json_object_get(frame, "parameters");
        ControlCall call = {.method = json_string_value(method)};
        const char *dot = call.method ? strrchr(call.method, '.') : NULL;

        if (!call.method || (parameters && !json_is_object(parameters) && !json_is_null(parameters)))
                return -EPROTO;
        call.interface = call.method;
        call.interface_size = dot ? (size_t)(dot - call.method) : 0;
        call.name = dot ? dot + 1 : call.method;
        call.parameters = json_is_object(parameters) ? parameters : NULL;
        call.more = json_is_true(json_object_get(frame, "more"));
        call.oneway = json_is_true(json_object_get(frame, "oneway"));
        *ret = call;
        return 0;
}
