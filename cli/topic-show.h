/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a message is shown: text as text, anything else as a hex dump; its metadata. Bytes of others, tamed: nothing of them reaches a
 * terminal as a command. Pure.
 */
#ifndef TG_CLI_TOPIC_SHOW_H
#define TG_CLI_TOPIC_SHOW_H

#include <jansson.h>

#include "cli/topic-source.h"

/* show_is_text() - UTF-8 without control characters but for tabs and ends of lines; @cut: its last character may be missing its end. */
bool show_is_text(const uint8_t *data, size_t size, bool cut);

/**
 * show_quoted() - text in quotation marks, escaped as in JSON, in at most @columns columns; "…" where it is cut
 *
 * Return: NUL-terminated, the caller frees it; NULL: out of memory.
 */
char *show_quoted(const uint8_t *data, size_t size, bool cut, size_t columns);

/*
 * show_text() - an object or an array in JSON on one line as it is, if it is all there and fits; any other text quoted. Return: as above.
 */
char *show_text(const uint8_t *data, size_t size, bool cut, size_t columns);

/* show_hex() - lines "    00000010  61 62 ..  ab", each ended by a newline. Return: as above. */
char *show_hex(const uint8_t *data, size_t size);

/* show_metadata() - an object with a value for each parameter; NULL: there is none, or it is none. */
json_t *show_metadata(const uint8_t *meta, size_t size);

/* show_base64() - NUL-terminated, the caller frees it; NULL: out of memory. */
char *show_base64(const uint8_t *data, size_t size);

/* show_message() - one message as people read it, with a newline. @columns: of the terminal; 0: as long as it takes. @hex: bytes of one that is
 * no text. Return: as above. */
char *show_message(const Topic *topic, const TopicMessage *message, size_t columns, size_t hex);

/* show_message_json() - the same as JSON. */
json_t *show_message_json(const Topic *topic, const TopicMessage *message);

#endif
