/* SPDX-License-Identifier: Apache-2.0 */
/* JSON as text that is whole or not there. */
#ifndef TG_SUPERVISOR_JSON_TEXT_H
#define TG_SUPERVISOR_JSON_TEXT_H

#include <jansson.h>

/**
 * json_text() - compact text of a value
 *
 * As json_dumps(), which leaves a key out when there is no memory for it, goes on, and returns what is no JSON any more.
 *
 * Return: NUL-terminated and the caller's to free(), or NULL: out of memory, or not an object or array. Does not block.
 */
char *json_text(const json_t *value);

#endif
