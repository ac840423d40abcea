/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/yaml.h"

#include <errno.h>
#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

#define OPEN_BRACKETS_MAX 1000

typedef struct Frame {
        YamlNode *node;
        YamlNode *key; /* of a map: read, its value is still to come */
        const char *anchor;
} Frame;

typedef struct Anchor {
        const char *name;
        YamlNode *node;
} Anchor;

typedef struct Builder {
        Arena *arena;
        const Source *source;
        Diagnostics *diags;
        struct fy_parser *parser;
        YamlNode *root;
        Frame frames[YAML_DEPTH_MAX];
        size_t n_frames;
        Anchor anchors[YAML_ANCHORS_MAX];
        size_t n_anchors;
        size_t n_values;
        unsigned n_documents;
        bool complete; /* the end of the stream was seen */
} Builder;

const char *yaml_kind_name(YamlKind kind)
{
        static const char *const names[_YAML_KIND_MAX] = {
                [YAML_NULL] = "empty",
                [YAML_BOOL] = "a boolean",
                [YAML_INT] = "an integer",
                [YAML_FLOAT] = "a decimal number",
                [YAML_STRING] = "a string",
                [YAML_LIST] = "a list",
                [YAML_MAP] = "a map",
        };

        return names[kind];
}

/* libfyaml marks count bytes from the text we gave it, so they are offsets into the source. */
static Span event_span(const Builder *b, struct fy_event *event)
{
        const struct fy_mark *start = fy_event_start_mark(event), *end = fy_event_end_mark(event);
        size_t from, to;

        if (!start)
                return (Span){.source = b->source};
        from = MIN(start->input_pos, b->source->size);
        to = end ? MIN(end->input_pos, b->source->size) : from;
        if (event->type == FYET_ALIAS && from > 0) {
                from--; /* the mark is of the name after the `*` */
        } else if (event->type == FYET_SCALAR && from > 0) {
                enum fy_scalar_style style = fy_token_scalar_style(event->scalar.value);

                if (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) {
                        from--; /* the quotes belong to what is underlined */
                        to = MIN(to + 1, b->source->size);
                }
        }
        return span_at(b->source, from, to > from ? to - from : 0);
}

static bool in_list(const char *s, const char *const *list)
{
        for (; *list; list++)
                if (strcmp(s, *list) == 0)
                        return true;
        return false;
}

static bool all_in(const char *s, const char *set)
{
        return *s && s[strspn(s, set)] == '\0';
}

static bool text_is_int(const char *s)
{
        if (s[0] == '0' && s[1] == 'x')
                return all_in(s + 2, "0123456789abcdefABCDEF");
        if (s[0] == '0' && s[1] == 'o')
                return all_in(s + 2, "01234567");
        if (*s == '-' || *s == '+')
                s++;
        return all_in(s, "0123456789");
}

static bool text_is_float(const char *s)
{
        static const char *const special[] = {".inf", ".Inf", ".INF", "-.inf", "-.Inf", "-.INF", "+.inf", "+.Inf",
                "+.INF", ".nan", ".NaN", ".NAN", NULL};
        size_t whole, fraction = 0;

        if (in_list(s, special))
                return true;
        if (*s == '-' || *s == '+')
                s++;
        whole = strspn(s, "0123456789");
        s += whole;
        if (*s == '.') {
                fraction = strspn(s + 1, "0123456789");
                s += 1 + fraction;
        }
        if (whole + fraction == 0)
                return false;
        if (*s == 'e' || *s == 'E') {
                s++;
                if (*s == '-' || *s == '+')
                        s++;
                return all_in(s, "0123456789");
        }
        return *s == '\0';
}

static YamlKind text_kind(const char *s)
{
        static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
        static const char *const bools[] = {"true", "True", "TRUE", "false", "False", "FALSE", NULL};

        return in_list(s, nulls) ? YAML_NULL
                : in_list(s, bools) ? YAML_BOOL
                : text_is_int(s)    ? YAML_INT
                : text_is_float(s)  ? YAML_FLOAT
                                    : YAML_STRING;
}

static int builder_refuse(Builder *b, Span span, const char *what)
{
        diagnostics_error(b->diags, span, "%s", what);
        return YAML_E_INVALID;
}

/* Sets *ret to the tag's meaning: "" for none, else str, map or seq. */
static int builder_tag(Builder *b, struct fy_event *event, Span span, const char **ret)
{
        static const char *const known[] = {"str", "map", "seq"};
        struct fy_token *token = event->type == FYET_ALIAS ? NULL : fy_event_get_tag_token(event);
        const char *text, *prefix = "tag:yaml.org,2002:";
        size_t size = 0;

        *ret = "";
        if (!token)
                return 0;
        text = fy_token_get_text(token, &size);
        if (!text)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < ELEMENTSOF(known); i++) {
                bool full = size == strlen(prefix) + 3 && memcmp(text, prefix, strlen(prefix)) == 0 &&
                        memcmp(text + strlen(prefix), known[i], 3) == 0;

                if (full || (size == 5 && memcmp(text, "!!", 2) == 0 && memcmp(text + 2, known[i], 3) == 0)) {
                        *ret = known[i];
                        return 0;
                }
        }
        return builder_refuse(b, span, "YAML tags other than !!str, !!map and !!seq are not supported");
}

static int builder_new_node(Builder *b, YamlKind kind, Span span, YamlNode **ret)
{
        YamlNode *node;

        if (++b->n_values > YAML_VALUES_MAX) {
                diagnostics_error(b->diags, span, "the file holds more than %d values", YAML_VALUES_MAX);
                return YAML_E_INVALID;
        }
        node = arena_alloc(b->arena, sizeof(*node));
        if (!node)
                return error_origin(-ENOMEM);
        *node = (YamlNode){.kind = kind, .span = span, .height = 1, .weight = 1};
        *ret = node;
        return 0;
}

static int builder_anchor_name(Builder *b, struct fy_event *event, const char **ret)
{
        struct fy_token *token = fy_event_get_anchor_token(event);
        const char *text;
        size_t size = 0;

        *ret = NULL;
        if (!token)
                return 0;
        text = fy_token_get_text(token, &size);
        if (!text)
                return error_origin(-ENOMEM);
        *ret = arena_strndup(b->arena, text, size);
        return *ret ? 0 : error_origin(-ENOMEM);
}

static int builder_remember(Builder *b, const char *anchor, YamlNode *node)
{
        if (!anchor)
                return 0;
        if (b->n_anchors == YAML_ANCHORS_MAX)
                return builder_refuse(b, node->span, "the file holds more than 1000 anchors");
        b->anchors[b->n_anchors++] = (Anchor){.name = anchor, .node = node};
        return 0;
}

static int pair_compare(const void *a, const void *b)
{
        const YamlPair *x = a, *y = b;
        int c = strcmp(x->key->text, y->key->text);

        return c ? c : x->key->span.offset < y->key->span.offset ? -1 : 1;
}

static int builder_check_keys(Builder *b, const YamlNode *map)
{
        _cleanup_free_ YamlPair *sorted = NULL;

        if (map->n < 2)
                return 0;
        sorted = malloc(map->n * sizeof(*sorted));
        if (!sorted)
                return error_origin(-ENOMEM);
        memcpy(sorted, map->pairs, map->n * sizeof(*sorted));
        qsort(sorted, map->n, sizeof(*sorted), pair_compare);
        for (size_t i = 1; i < map->n; i++)
                if (strcmp(sorted[i - 1].key->text, sorted[i].key->text) == 0) {
                        unsigned line = source_position(b->source, sorted[i - 1].key->span.offset).line;

                        diagnostics_error(b->diags, sorted[i].key->span, "duplicate key %s (first in line %u)",
                                QUOTE(sorted[i].key->text), line);
                }
        return 0;
}

/* Puts a finished value where it belongs: document, list, key or value. */
static int builder_place(Builder *b, YamlNode *node, Span span)
{
        Frame *f = b->n_frames ? &b->frames[b->n_frames - 1] : NULL;
        YamlNode **item;
        YamlPair *pair;

        if (!f) {
                b->root = node;
                return 0;
        }
        f->node->weight += node->weight;
        f->node->height = MAX(f->node->height, node->height + 1);
        if (f->node->weight > YAML_VALUES_MAX)
                return builder_refuse(b, span, "the aliases up to here stand for more than 100000 values");
        if (b->n_frames - 1 + f->node->height > YAML_DEPTH_MAX)
                return builder_refuse(b, span, "nested deeper than 64 levels");

        if (f->node->kind == YAML_LIST) {
                item = arena_grow(b->arena, &f->node->items, f->node->n, sizeof(YamlNode *));
                if (!item)
                        return error_origin(-ENOMEM);
                *item = node;
                f->node->n++;
                return 0;
        }
        if (!f->key) {
                if (node->kind >= YAML_LIST)
                        return builder_refuse(b, span, "a key must be a plain text, not a list or a map");
                if (strcmp(node->text, "<<") == 0)
                        return builder_refuse(b, span, "merge keys (<<) are not supported; repeat the keys");
                f->key = node;
                return 0;
        }
        pair = arena_grow(b->arena, &f->node->pairs, f->node->n, sizeof(YamlPair));
        if (!pair)
                return error_origin(-ENOMEM);
        *pair = (YamlPair){.key = TAKE_PTR(f->key), .value = node};
        f->node->n++;
        return 0;
}

static int builder_scalar(Builder *b, struct fy_event *event)
{
        Span span = event_span(b, event);
        const char *tag, *anchor, *text = "";
        YamlNode *node;
        size_t size = 0;
        int r;

        r = builder_tag(b, event, span, &tag);
        if (r)
                return r;
        if (strcmp(tag, "map") == 0 || strcmp(tag, "seq") == 0)
                return builder_refuse(b, span, "the tag does not fit the value");
        r = builder_new_node(b, YAML_STRING, span, &node);
        if (r)
                return r;
        if (event->scalar.value) {
                text = fy_token_get_text(event->scalar.value, &size);
                if (!text)
                        return error_origin(-ENOMEM);
        }
        /* Escapes of quoted scalars can still make what the file itself may not hold. */
        if (memchr(text, 0, size) || !utf8_valid(text, size))
                return builder_refuse(b, span, "the text holds a NUL or an invalid character");
        node->text = arena_strndup(b->arena, text, size);
        if (!node->text)
                return error_origin(-ENOMEM);
        if (*tag == '\0' && (!event->scalar.value || fy_token_scalar_style(event->scalar.value) == FYSS_PLAIN))
                node->kind = text_kind(node->text);
        r = builder_anchor_name(b, event, &anchor);
        if (!r)
                r = builder_remember(b, anchor, node);
        return r ? r : builder_place(b, node, span);
}

static int builder_open(Builder *b, struct fy_event *event, YamlKind kind)
{
        Span span = event_span(b, event);
        Frame frame = {0};
        const char *tag;
        int r;

        r = builder_tag(b, event, span, &tag);
        if (r)
                return r;
        if (*tag && strcmp(tag, kind == YAML_MAP ? "map" : "seq") != 0)
                return builder_refuse(b, span, "the tag does not fit the value");
        if (b->n_frames == YAML_DEPTH_MAX)
                return builder_refuse(b, span, "nested deeper than 64 levels");
        span.length = 1;
        r = builder_new_node(b, kind, span, &frame.node);
        if (!r)
                r = builder_anchor_name(b, event, &frame.anchor);
        if (r)
                return r;
        b->frames[b->n_frames++] = frame;
        return 0;
}

static int builder_close(Builder *b)
{
        Frame *f;
        int r;

        if (b->n_frames == 0)
                return error_origin(-EPROTO); /* events out of balance: the library's fault */
        f = &b->frames[--b->n_frames];
        if (f->node->kind == YAML_MAP) {
                r = builder_check_keys(b, f->node);
                if (r)
                        return error_fold(r);
        }
        r = builder_remember(b, f->anchor, f->node);
        return r ? r : builder_place(b, f->node, f->node->span);
}

static int builder_alias(Builder *b, struct fy_event *event)
{
        Span span = event_span(b, event);
        _cleanup_free_ char *name = NULL;
        const char *text;
        size_t size = 0;

        text = fy_token_get_text(event->alias.anchor, &size);
        name = text ? strndup(text, size) : NULL;
        if (!name)
                return error_origin(-ENOMEM);
        for (size_t i = b->n_anchors; i-- > 0;)
                if (strcmp(b->anchors[i].name, name) == 0)
                        return builder_place(b, b->anchors[i].node, span);
        for (size_t i = 0; i < b->n_frames; i++)
                if (b->frames[i].anchor && strcmp(b->frames[i].anchor, name) == 0)
                        return builder_refuse(b, span,
                                "the alias stands for something that contains the alias itself");
        diagnostics_error(b->diags, span, "no anchor %s before this alias", QUOTE(name));
        return YAML_E_INVALID;
}

static int builder_event(Builder *b, struct fy_event *event)
{
        switch (event->type) {
        case FYET_DOCUMENT_START:
                if (++b->n_documents > 1)
                        return builder_refuse(b, event_span(b, event),
                                "only one document per file: remove what begins here");
                return 0;
        case FYET_SCALAR:
                return builder_scalar(b, event);
        case FYET_ALIAS:
                return builder_alias(b, event);
        case FYET_MAPPING_START:
                return builder_open(b, event, YAML_MAP);
        case FYET_SEQUENCE_START:
                return builder_open(b, event, YAML_LIST);
        case FYET_MAPPING_END:
        case FYET_SEQUENCE_END:
                return builder_close(b);
        case FYET_STREAM_END:
                b->complete = true;
                return 0;
        default:
                return 0;
        }
}

static size_t offset_of(const Source *source, int line, int column)
{
        size_t size, at = 0, n;
        const char *text;

        if (line < 1 || (size_t)line > source->n_lines)
                return source->size;
        text = source_line(source, (unsigned)line, &size);
        for (int i = 1; i < column && at < size; i++, at += n)
                if (utf8_next(text + at, size - at, &n) < 0)
                        n = 1;
        return source->lines[line - 1] + at;
}

/* The library's own words for an error of syntax; ours where its words do not help. */
static int builder_report_syntax(Builder *b, struct fy_diag *diag)
{
        struct fy_diag_error *e;
        void *state = NULL;

        e = fy_diag_errors_iterate(diag, &state);
        if (!e || !e->msg) {
                diagnostics_error_in(b->diags, b->source->name, "not valid YAML");
                return YAML_E_INVALID;
        }
        diagnostics_error(b->diags, span_at(b->source, offset_of(b->source, e->line, e->column), 1),
                "not valid YAML: %s",
                e->msg);
        return YAML_E_INVALID;
}

/*
 * What libfyaml is not asked to cope with: it reads all opening brackets there are before it gives out the first (350
 * MB for a megabyte of them), and looks through all %TAG directives for each new one (a minute for a megabyte).
 * Brackets in quotes and comments count too; nobody has a thousand of them there that are never closed.
 */
static int builder_prefilter(Builder *b)
{
        const Source *source = b->source;
        size_t depth = 0;

        for (size_t i = 0; i < source->size; i++) {
                char c = source->data[i];

                if (c == '[' || c == '{')
                        depth++;
                else if ((c == ']' || c == '}') && depth > 0)
                        depth--;
                if (depth > OPEN_BRACKETS_MAX)
                        return builder_refuse(b, span_at(source, i, 1), "nested deeper than 64 levels");
        }
        for (size_t i = 0; i < source->n_lines; i++)
                if (source->size - source->lines[i] >= 4 && memcmp(source->data + source->lines[i], "%TAG", 4) == 0)
                        return builder_refuse(b, span_at(source, source->lines[i], 4),
                                "%TAG directives are not supported");
        return 0;
}

static int builder_run(Builder *b, struct fy_diag *diag)
{
        struct fy_event *event;
        int r;

        r = builder_prefilter(b);
        if (r)
                return r;
        if (fy_parser_set_string(b->parser, b->source->data, b->source->size) < 0)
                return error_origin(-ENOMEM);
        while (r == 0 && (event = fy_parser_parse(b->parser))) {
                r = builder_event(b, event);
                fy_parser_event_free(b->parser, event);
        }
        if (r == 0 && (fy_parser_get_stream_error(b->parser) || b->n_frames > 0 || !b->complete))
                r = builder_report_syntax(b, diag);
        return r;
}

int yaml_parse(YamlNode **ret, Arena *arena, const Source *source, Diagnostics *diags)
{
        struct fy_diag_cfg diag_config;
        struct fy_parse_cfg config = {.flags = FYPCF_QUIET | FYPCF_DEFAULT_VERSION_1_2 | FYPCF_JSON_NONE};
        _cleanup_free_ Builder *b = calloc(1, sizeof(*b));
        struct fy_diag *diag;
        int r = -ENOMEM;

        if (!b)
                return error_origin(-ENOMEM);
        *ret = NULL;
        /* fy_parser_set_string() takes an empty string for one that ends in a NUL. */
        if (source->size == 0)
                return 0;
        *b = (Builder){.arena = arena, .source = source, .diags = diags};
        fy_diag_cfg_default(&diag_config);
        diag_config.fp = NULL;
        diag_config.colorize = false;
        diag_config.level = FYET_ERROR;
        diag = fy_diag_create(&diag_config);
        if (!diag)
                return error_origin(-ENOMEM);
        fy_diag_set_collect_errors(diag, true);
        config.diag = diag;
        b->parser = fy_parser_create(&config);
        if (b->parser)
                r = builder_run(b, diag);
        fy_parser_destroy(b->parser);
        fy_diag_destroy(diag);
        if (r < 0)
                return error_fold(r);
        if (r == 0)
                *ret = b->root;
        return r;
}

YamlNode *yaml_get(const YamlNode *map, const char *key, YamlNode **ret_key)
{
        if (map->kind != YAML_MAP)
                return NULL;
        for (size_t i = 0; i < map->n; i++)
                if (strcmp(map->pairs[i].key->text, key) == 0) {
                        if (ret_key)
                                *ret_key = map->pairs[i].key;
                        return map->pairs[i].value;
                }
        return NULL;
}

int yaml_as_bool(const YamlNode *node, bool *ret)
{
        if (node->kind != YAML_BOOL)
                return YAML_E_INVALID;
        *ret = node->text[0] == 't' || node->text[0] == 'T';
        return 0;
}

int yaml_as_int(const YamlNode *node, int64_t *ret)
{
        const char *s = node->text;
        long long v;
        char *end;

        if (node->kind != YAML_INT)
                return YAML_E_INVALID;
        errno = 0;
        if (s[0] == '0' && (s[1] == 'x' || s[1] == 'o'))
                v = strtoll(s + 2, &end, s[1] == 'x' ? 16 : 8);
        else
                v = strtoll(s, &end, 10);
        if (errno || *end)
                return YAML_E_INVALID;
        *ret = v;
        return 0;
}

int yaml_as_double(const YamlNode *node, double *ret)
{
        const char *s = node->text;
        int64_t whole;
        char *end;

        if (node->kind == YAML_INT && yaml_as_int(node, &whole) == 0) {
                *ret = (double)whole;
                return 0;
        }
        if (node->kind != YAML_FLOAT && node->kind != YAML_INT)
                return YAML_E_INVALID;
        if (strpbrk(s, "nN")) {
                *ret = strpbrk(s, "aA") ? __builtin_nan("") : *s == '-' ? -__builtin_inf() : __builtin_inf();
                return 0;
        }
        *ret = strtod(s, &end);
        return *end ? YAML_E_INVALID : 0;
}
