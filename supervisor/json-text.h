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

/**
 * json_parse() - the value that a text stands for
 * @flags: JSON_*, of the library
 *
 * As json_loadb(), which leaves a character out of a string when there is no memory for it, and goes on: "Stop" of "camera2" becomes
 * that of "camera". Makes the library allocate through us, once and for all, to hear of that. Does not block.
 *
 * Return: 0 and a new reference; -EBADMSG: no JSON; -ENOMEM.
 */
int json_parse(json_t **ret, const char *text, size_t size, size_t flags);

#endif
