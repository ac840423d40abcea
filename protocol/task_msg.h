/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks (base/task.h) in messages: one after the other, each at most TASK_MSG_MAX bytes, so that a packet holds the first of many and
 * says how many there are. Decoding is strict. No I/O.
 */
#ifndef TG_PROTOCOL_TASK_MSG_H
#define TG_PROTOCOL_TASK_MSG_H

#include "base/task.h"
#include "protocol/wire.h"

#define TASK_MSG_MAX 1536

/* task_msg_put() - append one. False: no room, and nothing was written. */
bool task_msg_put(Wire *w, const Task *task);

/* task_msg_get() - the next one. False: there is none that is well-formed. */
bool task_msg_get(Wire *w, Task *ret);

#endif
