/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: what any process may send to the control socket. Bytes arrive in pieces of any size; frames, calls and parameters
 * that are taken must keep what their readers rely on. The first bytes say how the rest is cut and which parameters are taken.
 */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/control_msg.h"
#include "supervisor/frames.h"
#include "supervisor/parameters.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int good)
{
        if (!good)
                abort();
}

static void require_text(const char *text, size_t max)
{
        require(!text || (strlen(text) >= 1 && strlen(text) <= max));
}

static void require_number(json_int_t n, json_int_t min, json_int_t max)
{
        require(n == PARAM_ABSENT || (n >= min && n <= max));
}

static void require_strings(json_t *array)
{
        require(!array || json_is_array(array));
        for (size_t i = 0; i < json_array_size(array); i++)
                require(json_is_string(json_array_get(array, i)));
}

static void one_call(json_t *frame, const uint8_t *takes)
{
        Parameters p;
        ControlCall call;
        const char *bad = NULL;

        if (control_call_parse(&call, frame))
                return;
        require(call.method && call.name && call.interface_size < strlen(call.method) + 1);
        require(!call.parameters || json_is_object(call.parameters));
        if (parameters_parse(&p, call.parameters, takes, &bad)) {
                require(bad != NULL);
                return;
        }
        require_text(p.dataflow, 256);
        require_text(p.node, 256);
        require_text(p.log_dir, PATH_MAX - 64);
        require_number(p.umask, 0, 0777);
        require_number(p.signal, 1, 64);
        require_number(p.timeout_ms, 0, INT64_MAX / 1000000);
        require_number(p.grace_ms, 0, INT64_MAX / 1000000);
        require(!p.plan || json_is_object(p.plan));
        require_strings(p.environment);
        require_strings(p.names);
        require_strings(p.nodes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        uint8_t takes[PARAMS_MAX] = {};
        Frames frames = {};
        size_t piece;

        if (size < PARAMS_MAX + 1)
                return 0;
        for (unsigned i = 0; i + 1 < PARAMS_MAX; i++)
                takes[i] = (uint8_t)((data[i] & PARAM_REQUIRED) | (1 + data[i] % (_PARAM_MAX - 1)));
        piece = 1 + data[PARAMS_MAX];
        data += PARAMS_MAX + 1;
        size -= PARAMS_MAX + 1;
        while (size > 0) {
                json_t *frame = NULL;
                char *at;
                size_t room, n;
                int r = frames_reserve(&frames, &at, &room);

                if (r) {
                        require(r == -EMSGSIZE || r == -ENOMEM);
                        break;
                }
                require(room > 0 && frames.room <= CONTROL_FRAME_MAX);
                n = piece < size ? piece : size;
                n = n < room ? n : room;
                memcpy(at, data, n);
                if (frames_added(&frames, n)) {
                        require(frames.size >= CONTROL_FRAME_MAX);
                        break;
                }
                data += n;
                size -= n;
                while ((r = frames_take(&frames, &frame)) == 0) {
                        one_call(frame, takes);
                        json_decref(frame);
                        frame = NULL;
                }
                if (r != FRAMES_E_MORE)
                        break; /* its connection would be closed */
                require(!frames_has_whole(&frames));
                require(frames_is_partial(&frames) == (frames.size > 0));
        }
        frames_done(&frames);
        return 0;
}
