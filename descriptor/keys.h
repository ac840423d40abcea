/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys: every key a descriptor may hold, by the place it stands in, and what this version does with it.
 *
 * The one list: the reader refuses what is not here, docs/dataflow.schema.json is held against it by a test.
 */
#ifndef TG_DESCRIPTOR_KEYS_H
#define TG_DESCRIPTOR_KEYS_H

#include <stddef.h>

typedef enum KeyStatus {
        KEY_ACCEPTED,
        KEY_IGNORED, /* of an older Dora, harmless: accepted with a warning */
        KEY_LATER,   /* means something this version cannot do yet: refused, never silently dropped */
        _KEY_STATUS_MAX,
} KeyStatus;

typedef struct Key {
        const char *name; /* NULL ends a table */
        KeyStatus status;
        const char *note; /* for messages: why ignored, or what instead; may be NULL */
} Key;

typedef struct KeyTable {
        const char *name;  /* of the table, as in the schema's $defs */
        const char *where; /* "a node", for messages */
        const Key *keys;
} KeyTable;

extern const KeyTable keys_dataflow, keys_node, keys_custom, keys_input, keys_debug, keys_resources, keys_on_pressure, keys_io_max, keys_probes,
        keys_module_file, keys_module_header;

/* All of the above, ended by NULL. */
extern const KeyTable *const keys_all[];

/* keys_find() - the entry of a key, NULL when the table has none. */
const Key *keys_find(const KeyTable *table, const char *name);

const char *key_status_name(KeyStatus status);

#endif
