/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read: the YAML tree of one file into the model. Checks everything that can be said of a file by itself: keys,
 * types, ranges, grammar of ids and sources, duplicates. Looks no name up and opens no file. Inside the room only.
 *
 * All functions report to the reader's diagnostics and go on; the return value only tells whether memory sufficed (0
 * or -ENOMEM), except where said.
 */
#ifndef TG_DESCRIPTOR_READ_H
#define TG_DESCRIPTOR_READ_H

#include "descriptor/keys.h"
#include "descriptor/model.h"
#include "descriptor/yaml.h"

typedef struct Reader {
        Arena *arena;
        Diagnostics *diags;
        const Source *source;
        bool is_module; /* the file is a module's */
        bool allow_shell_nodes;
} Reader;

/* read_file() - a whole descriptor or module file. */
int read_file(Reader *reader, FileSpec **ret);

/* read_node() - one entry of `nodes`. */
int read_node(Reader *reader, const YamlNode *map, NodeSpec *ret);

/* read_inputs() - the `inputs` of a node. */
int read_inputs(Reader *reader, const YamlNode *value, NodeSpec *node);

/* read_after() - the `after` of a node: a map of ids to what must have happened, or a list of ids. */
int read_after(Reader *reader, const YamlNode *value, NodeSpec *node);

/* read_on_failure(), read_stuck_timeout() - of a node or of the whole dataflow. */
void read_placement(Reader *reader, const YamlNode *value, PlaceWish *ret); /* of a node or of the whole dataflow */
void read_wait(Reader *reader, const YamlNode *value, WaitMode *ret); /* of a node alone */
void read_on_failure(Reader *reader, const YamlNode *value, OnFailure *ret);
void read_stuck_timeout(Reader *reader, const YamlNode *value, uint64_t *ret_ns);

/* read_resources() - the `resources` of a node or of the whole dataflow. */
int read_resources(Reader *reader, const YamlNode *map, LimitsSpec *ret);

/* read_pressure() - the `on_pressure` of a node or of the whole dataflow: a map, or a list of maps. */
int read_pressure(Reader *reader, const YamlNode *map, PressureList *ret);

/* read_env() - a map of environment variables; strings are expanded, reserved names dropped with a warning. */
int read_env(Reader *reader, const YamlNode *value, EnvList *ret);

/* Values. A missing key (NULL) leaves *ret alone. */

/* check_keys() - that a map holds only keys of the table. False when the node is no map at all (reported). */
bool check_keys(Reader *reader, const YamlNode *node, const KeyTable *table);
void read_string(Reader *reader, const YamlNode *value, const char *what, Text *ret);
void read_seconds(Reader *reader, const YamlNode *value, const char *what, bool zero_allowed, uint64_t *ret_ns);
/* read_size() - bytes, or a text such as "64MB": B, K, KB, M, MB, G, GB in either case, powers of 1024, fractions
 * allowed. */
void read_size(Reader *reader, const YamlNode *value, const char *what, uint64_t min, uint64_t max, uint64_t *ret);
/* read_uint() - true when *ret was set. */
bool read_uint(Reader *reader, const YamlNode *value, const char *what, int64_t min, int64_t max, int64_t *ret);
/* read_choice() - the index of the string in names (ended by NULL); -1 when it is none of them (reported). */
int read_choice(Reader *reader, const YamlNode *value, const char *what, const char *const *names);
void read_bool(Reader *reader, const YamlNode *value, const char *what, bool *ret);
/* read_bool_off() - a flag that may only be false in this version. */
void read_bool_off(Reader *reader, const YamlNode *value, const char *what);
/* read_ids() - a list of port names without duplicates. */
int read_ids(Reader *reader, const YamlNode *value, const char *what, TextList *ret);

/* wrong_kind() - report that a value is not what it should be. */
void wrong_kind(Reader *reader, const YamlNode *value, const char *what, const char *wanted);

/* node_id_ok(), data_id_ok() - the grammar; reported when wrong. */
bool node_id_ok(Diagnostics *diags, Text id, const char *what);
bool data_id_ok(Diagnostics *diags, Text id, const char *what);

/* env_name_ok() - whether a node may be given this variable; when not, a warning (or error) says why. */
bool env_name_ok(Diagnostics *diags, Severity severity, Span span, const char *name);

#endif
