/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two connections of a private instance (`tidegate run`): methods Run and Stop of protocol/control_msg.h. Whoever holds the
 * other ends is the instance's owner: nothing here asks who it is.
 */
#ifndef TG_SUPERVISOR_PRIVATE_H
#define TG_SUPERVISOR_PRIVATE_H

#include "supervisor/supervisor.h"

/* private_new() - serve @take_fd; consumed on success. 0 or a negative errno. */
int private_new(Private **ret, Supervisor *supervisor, int take_fd);
Private *private_free(Private *private);

/* private_ended() - the last word of Run. @take_result is consumed. */
void private_ended(Private *private, json_t *take_result);
bool private_flushed(const Private *private);

#endif
