/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"
#include "descriptor/suggest.h"
#include "descriptor/text.h"

void wrong_kind(Reader *reader, const YamlNode *value, const char *what, const char *wanted)
{
        bool quotable = value->kind > YAML_NULL && value->kind < YAML_STRING && strstr(wanted, "string");

        diagnostics_error(reader->diags, value->span, "%s must be %s, not %s%s", what, wanted,
                yaml_kind_name(value->kind),
                quotable ? "; put it in quotes" : "");
}

static void report_key(Reader *reader, const YamlNode *key, const KeyTable *table)
{
        const Key *known = keys_find(table, key->text);
        Suggest suggest = SUGGEST_INIT(key->text);

        if (!known) {
                for (const Key *k = table->keys; k->name; k++)
                        if (k->status == KEY_ACCEPTED)
                                suggest_offer(&suggest, k->name);
                diagnostics_error_hint(
                        reader->diags, key->span, suggest.best, "unknown key %s of %s", QUOTE(key->text),
                        table->where);
        } else if (known->status == KEY_LATER) {
                diagnostics_error(reader->diags, key->span,
                        "key \"%s\" of %s is not supported yet by this version%s%s",
                        known->name, table->where, known->note ? ": " : "", known->note ? known->note : "");
        } else if (known->status == KEY_IGNORED) {
                diagnostics_warning(reader->diags, key->span, "key \"%s\" of %s has no effect: %s", known->name,
                        table->where,
                        known->note);
        }
}

bool check_keys(Reader *reader, const YamlNode *node, const KeyTable *table)
{
        if (node->kind != YAML_MAP) {
                wrong_kind(reader, node, table->where, "a map");
                return false;
        }
        for (size_t i = 0; i < node->n; i++)
                report_key(reader, node->pairs[i].key, table);
        return true;
}

void read_string(Reader *reader, const YamlNode *value, const char *what, Text *ret)
{
        if (!value)
                return;
        if (value->kind != YAML_STRING)
                wrong_kind(reader, value, what, "a string");
        else
                *ret = (Text){.s = value->text, .span = value->span};
}

void read_seconds(Reader *reader, const YamlNode *value, const char *what, bool zero_allowed, uint64_t *ret_ns)
{
        double v;

        if (!value)
                return;
        if (yaml_as_double(value, &v) != 0) {
                wrong_kind(reader, value, what, "a number of seconds");
        } else if (!isfinite(v) || v < 0 || v > (double)SPAN_MAX_NS / 1e9) {
                diagnostics_error(
                        reader->diags, value->span, "%s must be between 0 and 1000000000 seconds", what);
        } else if (v == 0 && !zero_allowed) {
                diagnostics_error(reader->diags, value->span, "%s must be more than 0 seconds", what);
        } else {
                /* What is not 0 does not become 0: that would mean something else. */
                *ret_ns = v > 0 && v < 1e-9 ? 1 : (uint64_t)llround(v * 1e9);
        }
}

static bool parse_size(const char *text, double *ret)
{
        static const struct {
                const char *name;
                double bytes;
        } units[] = {{"", 1}, {"B", 1}, {"K", 0x1p10}, {"KB", 0x1p10}, {"M", 0x1p20}, {"MB", 0x1p20}, {"G", 0x1p30},
                {"GB", 0x1p30}};
        char *end;
        double v;

        if (text[0] < '0' || text[0] > '9')
                return false;
        v = strtod(text, &end);
        end += strspn(end, " ");
        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                if (strcasecmp(end, units[i].name) == 0) {
                        *ret = v * units[i].bytes;
                        return true;
                }
        }
        return false;
}

void read_size(Reader *reader, const YamlNode *value, const char *what, uint64_t min, uint64_t max, uint64_t *ret)
{
        double v;

        if (!value)
                return;
        if (value->kind == YAML_INT ? yaml_as_double(value, &v) != 0
                                    : value->kind != YAML_STRING || !parse_size(value->text, &v))
                wrong_kind(reader, value, what, "a size (bytes, or a text such as 64MB)");
        else if (!(v >= (double)min && v <= (double)max))
                diagnostics_error(reader->diags, value->span, "%s must be between %llu and %llu bytes", what,
                        (unsigned long long)min,
                        (unsigned long long)max);
        else
                *ret = (uint64_t)v;
}

bool read_uint(Reader *reader, const YamlNode *value, const char *what, int64_t min, int64_t max, int64_t *ret)
{
        int64_t v;

        if (!value)
                return false;
        if (value->kind != YAML_INT) {
                wrong_kind(reader, value, what, "a whole number");
                return false;
        }
        if (yaml_as_int(value, &v) != 0 || v < min || v > max) {
                diagnostics_error(reader->diags, value->span, "%s must be between %lld and %lld", what,
                        (long long)min,
                        (long long)max);
                return false;
        }
        *ret = v;
        return true;
}

/* "a, b or c", for messages. */
static void list_choices(const char *const *names, char *buf, size_t size)
{
        buf[0] = '\0';
        for (int i = 0; names[i]; i++) {
                if (names[i][0] == '\0')
                        continue;
                if (buf[0])
                        strncat(buf, names[i + 1] ? ", " : " or ", size - strlen(buf) - 1);
                strncat(buf, names[i], size - strlen(buf) - 1);
        }
}

int read_choice(Reader *reader, const YamlNode *value, const char *what, const char *const *names)
{
        Suggest suggest = SUGGEST_INIT(value->kind == YAML_STRING ? value->text : "");
        char list[160];

        list_choices(names, list, sizeof(list));
        if (value->kind != YAML_STRING) {
                wrong_kind(reader, value, what, list);
                return -1;
        }
        for (int i = 0; names[i]; i++) {
                if (names[i][0] && strcmp(names[i], value->text) == 0)
                        return i;
                suggest_offer(&suggest, names[i]);
        }
        diagnostics_error_hint(
                reader->diags, value->span, suggest.best, "%s must be %s, not %s", what, list, QUOTE(value->text));
        return -1;
}

void read_bool(Reader *reader, const YamlNode *value, const char *what, bool *ret)
{
        if (value && yaml_as_bool(value, ret) != 0)
                wrong_kind(reader, value, what, "true or false");
}

void read_bool_off(Reader *reader, const YamlNode *value, const char *what)
{
        bool on = false;

        read_bool(reader, value, what, &on);
        if (on)
                diagnostics_error(reader->diags, value->span, "\"%s: true\" is not supported yet by this version",
                        what);
}

static bool id_ok(Diagnostics *diags, Text id, const char *what, const char *punctuation)
{
        size_t size = strlen(id.s);
        const char *s = id.s;

        if (size == 0) {
                diagnostics_error(diags, id.span, "%s is empty", what);
                return false;
        }
        if (size > ID_BYTES_MAX) {
                diagnostics_error(diags, id.span, "%s %s is %zu bytes long; at most %d are allowed", what,
                        QUOTE(id.s), size,
                        ID_BYTES_MAX);
                return false;
        }
        while ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                (*s && strchr(punctuation, *s)))
                s++;
        if (*s) {
                diagnostics_error(diags, id.span, "%s %s may only hold letters (a-z), digits and %s", what,
                        QUOTE(id.s),
                        strchr(punctuation, '/') ? "_ . - /" : "_ . -");
                return false;
        }
        return true;
}

bool node_id_ok(Diagnostics *diags, Text id, const char *what)
{
        static const char *const reserved[] = {"dora", "tidegate", MODULE_PORT};

        if (!id_ok(diags, id, what, "_.-"))
                return false;
        if (id.s[0] == '.') {
                diagnostics_error(diags, id.span, "%s %s may not begin with a dot", what, QUOTE(id.s));
                return false;
        }
        for (size_t i = 0; i < ELEMENTSOF(reserved); i++)
                if (strcmp(id.s, reserved[i]) == 0) {
                        diagnostics_error(diags, id.span, "%s \"%s\" is reserved", what, id.s);
                        return false;
                }
        return true;
}

bool data_id_ok(Diagnostics *diags, Text id, const char *what)
{
        size_t size = strlen(id.s);

        if (!id_ok(diags, id, what, "_.-/"))
                return false;
        if (id.s[0] == '.' || id.s[0] == '/' || id.s[size - 1] == '/' || strstr(id.s, "//")) {
                diagnostics_error(diags, id.span,
                        "%s %s may not begin with . or /, nor end with /, nor hold two / in a row",
                        what, QUOTE(id.s));
                return false;
        }
        return true;
}

static int text_compare(const void *a, const void *b)
{
        const Text *x = *(Text *const *)a, *y = *(Text *const *)b;
        int c = strcmp(x->s, y->s);

        return c ? c : x->span.offset < y->span.offset ? -1 : 1;
}

static int check_duplicates(Reader *reader, const TextList *list, const char *what)
{
        _cleanup_free_ Text **sorted = NULL;

        if (list->n < 2)
                return 0;
        sorted = calloc(list->n, sizeof(*sorted));
        if (!sorted)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < list->n; i++)
                sorted[i] = &list->items[i];
        qsort(sorted, list->n, sizeof(*sorted), text_compare);
        for (size_t i = 1; i < list->n; i++)
                if (strcmp(sorted[i - 1]->s, sorted[i]->s) == 0)
                        diagnostics_error(reader->diags, sorted[i]->span, "duplicate %s %s", what,
                                QUOTE(sorted[i]->s));
        return 0;
}

int read_ids(Reader *reader, const YamlNode *value, const char *what, TextList *ret)
{
        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_LIST) {
                diagnostics_error(reader->diags, value->span, "%ss must be a list, not %s", what,
                        yaml_kind_name(value->kind));
                ret->broken = true;
                return 0;
        }
        if (value->n > PORTS_MAX) {
                diagnostics_error(reader->diags, value->span, "%zu %ss; at most %d are allowed", value->n, what,
                        PORTS_MAX);
                ret->broken = true;
                return 0;
        }
        for (size_t i = 0; i < value->n; i++) {
                Text id = {NULL}, *slot;

                read_string(reader, value->items[i], what, &id);
                if (!id.s || !data_id_ok(reader->diags, id, what)) {
                        ret->broken = true;
                        continue;
                }
                slot = arena_grow(reader->arena, &ret->items, ret->n, sizeof(Text));
                if (!slot)
                        return error_origin(-ENOMEM);
                *slot = id;
                ret->n++;
        }
        return check_duplicates(reader, ret, what);
}

bool env_name_ok(Diagnostics *diags, Severity severity, Span span, const char *name)
{
        /* Names by which runtimes hand things to a node, and names that change what program runs at all. */
        static const char *const reserved[] = {"DORA_NODE_CONFIG", "DORA_RUNTIME_CONFIG", "DORA_ZENOH_LISTEN",
                "DORA_ZENOH_LISTEN_EXTRA", "DORA_ZENOH_CONNECT", "DORA_ZENOH_MULTICAST", "DORA_RUN_PARENT_PID",
                "ZENOH_CONFIG",
                "DORA_ZENOH_CONFIG_OVERLAY", "DORA_AUTH_TOKEN", "DORA_ALLOW_SHELL_NODES", "LD_PRELOAD", "LD_AUDIT",
                "LD_LIBRARY_PATH", NULL};
        static const char *const prefixes[] = {"DYLD_", "TIDEGATE_", NULL};
        const char *why = NULL;

        if (!*name)
                why = "the name is empty";
        else if (strpbrk(name, "= \t\n\r\v\f"))
                why = "a name may not hold = or blanks";
        for (size_t i = 0; reserved[i] && !why; i++)
                if (strcmp(name, reserved[i]) == 0)
                        why = "the name is reserved";
        for (size_t i = 0; prefixes[i] && !why; i++)
                if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
                        why = "the name is reserved";
        if (why)
                diagnostics_add(diags, severity, span, NULL, NULL, "environment variable %s %s: %s", QUOTE(name),
                        severity == SEVERITY_ERROR ? "cannot be set" : "is dropped", why);
        return !why;
}

static int read_env_value(Reader *reader, const YamlNode *value, const char **ret)
{
        const char *unknown = NULL;
        int64_t whole;
        double number;
        int r;

        switch (value->kind) {
        case YAML_BOOL:
                *ret = value->text[0] == 't' || value->text[0] == 'T' ? "true" : "false";
                return 0;
        case YAML_INT:
                *ret = yaml_as_int(value, &whole) == 0 ? arena_printf(reader->arena, "%lld", (long long)whole)
                        : value->text;
                return *ret ? 0 : error_origin(-ENOMEM);
        case YAML_FLOAT:
                (void)yaml_as_double(value, &number); /* it is one */
                *ret = double_to_text(reader->arena, number);
                return *ret ? 0 : error_origin(-ENOMEM);
        case YAML_STRING:
                break;
        default:
                wrong_kind(reader, value, "the value of an environment variable", "a string, a number or a boolean");
                return 0;
        }
        r = env_expand(reader->arena, value->text, ret, &unknown);
        if (r < 0)
                return error_fold(r);
        if (r)
                *ret = NULL;
        if (r == TEXT_E_UNKNOWN)
                diagnostics_error(reader->diags, value->span,
                        "environment variable %s is not set (write ${%.64s:-default} for a default, $$ for a dollar)",
                        QUOTE(unknown), unknown);
        else if (r == TEXT_E_UNBALANCED)
                diagnostics_error(reader->diags, value->span, "${ without its } (write $$ for a dollar)");
        else if (r)
                diagnostics_error(reader->diags, value->span, "the value is longer than %d bytes", STRING_MAX);
        return 0;
}

int read_env(Reader *reader, const YamlNode *value, EnvList *ret)
{
        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_MAP) {
                wrong_kind(reader, value, "env", "a map");
                return 0;
        }
        for (size_t i = 0; i < value->n; i++) {
                const YamlPair *pair = &value->pairs[i];
                EnvItem item = {.name = pair->key->text, .span = pair->value->span}, *slot;
                int r;

                if (!env_name_ok(reader->diags, SEVERITY_WARNING, pair->key->span, item.name))
                        continue;
                r = read_env_value(reader, pair->value, &item.value);
                if (r)
                        return r;
                if (!item.value)
                        continue;
                slot = arena_grow(reader->arena, &ret->items, ret->n, sizeof(EnvItem));
                if (!slot)
                        return error_origin(-ENOMEM);
                *slot = item;
                ret->n++;
        }
        return 0;
}
