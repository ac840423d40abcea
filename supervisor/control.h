/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One control connection: frames in, replies and events out (protocol/control_msg.h), never blocking. A peer that sends
 * nonsense or too much loses its connection; one that does not read loses events, counted, but never the final reply.
 */
#ifndef TG_SUPERVISOR_CONTROL_H
#define TG_SUPERVISOR_CONTROL_H

#include <jansson.h>

#include "supervisor/supervisor.h"

int control_new(Control **ret, Supervisor *supervisor, int take_fd);
Control *control_free(Control *control);

/* control_event() - one step of a stream; dropped and counted when the peer does not read. */
void control_event(Control *control, json_t *event);

/* control_reply() - the last word of the call under way. @take_parameters is consumed. */
void control_reply(Control *control, json_t *take_parameters);
void control_error(Control *control, const char *error, const char *text);

/* control_flush() - true once everything was taken by the peer, or it is gone. */
bool control_flushed(const Control *control);

#endif
