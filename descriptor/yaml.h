/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Yaml: one YAML document as a tree whose every value knows its place, built from libfyaml's events.
 *
 * Bounded on purpose: depth (YAML_DEPTH_MAX, aliases included), number of values as written and as expanded
 * (YAML_VALUES_MAX), anchors. Aliases share the tree they name, so a bomb costs nothing before it is refused.
 * Refused: a second document, tags other than !!str !!map !!seq, keys that are not scalars, duplicate keys, merge
 * keys.
 *
 * Knows nothing of dataflows. Scalars are kept as written; the yaml_as_*() functions read them by the YAML 1.2 core
 * schema.
 */
#ifndef TG_DESCRIPTOR_YAML_H
#define TG_DESCRIPTOR_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "descriptor/arena.h"
#include "descriptor/diagnostics.h"
#include "descriptor/source.h"

#define YAML_DEPTH_MAX   64
#define YAML_VALUES_MAX  100000
#define YAML_ANCHORS_MAX 1000

typedef enum YamlKind {
        YAML_NULL,
        YAML_BOOL,
        YAML_INT,
        YAML_FLOAT,
        YAML_STRING,
        YAML_LIST,
        YAML_MAP,
        _YAML_KIND_MAX,
} YamlKind;

typedef struct YamlNode YamlNode;

typedef struct YamlPair {
        YamlNode *key, *value;
} YamlPair;

struct YamlNode {
        YamlKind kind;
        Span span;
        const char *text; /* scalars: NUL-terminated UTF-8 without inner NUL, as written (unquoted, escapes undone) */
        size_t n;         /* items or pairs */
        union {
                YamlNode **items;
                YamlPair *pairs;
        };
        unsigned height; /* 1 for a scalar */
        uint64_t weight; /* values in it, aliases counted as what they stand for */
};

/**
 * yaml_parse() - read one document
 * @ret:   set on success; NULL when the text holds no document (empty, comments only)
 * @diags: told what is wrong: the first error of syntax, any number of duplicate keys
 *
 * Everything lives in @arena. Return: 0 (also when only duplicate keys were reported), YAML_E_INVALID, or -ENOMEM.
 */
int yaml_parse(YamlNode **ret, Arena *arena, const Source *source, Diagnostics *diags);

enum {
        YAML_E_INVALID = 1,
};

/* yaml_kind_name() - "a string", "a map", ... for messages. */
const char *yaml_kind_name(YamlKind kind);

/* yaml_get() - the value of a key of a map, NULL when there is none (or the node is no map). ret_key may be NULL. */
YamlNode *yaml_get(const YamlNode *map, const char *key, YamlNode **ret_key);

/* yaml_as_bool() etc. - the value of a scalar of that kind. An integer beyond int64_t is YAML_E_INVALID;
 * yaml_as_double() also takes integers. Return: 0 or YAML_E_INVALID. */
int yaml_as_bool(const YamlNode *node, bool *ret);
int yaml_as_int(const YamlNode *node, int64_t *ret);
int yaml_as_double(const YamlNode *node, double *ret);

#endif
