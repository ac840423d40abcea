/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

/* A string that grows up to STRING_MAX; the first failure sticks. */
typedef struct Builder {
        Arena *arena;
        char *s;
        size_t n, room;
        int error;
} Builder;

static void builder_put(Builder *b, const char *s, size_t n)
{
        if (b->error)
                return;
        if (n > STRING_MAX - b->n) {
                b->error = TEXT_E_TOO_LONG;
                return;
        }
        if (b->n + n + 1 > b->room) {
                size_t room = MAX(2 * b->room, b->n + n + 32);
                char *p = arena_alloc(b->arena, room);

                if (!p) {
                        b->error = error_origin(-ENOMEM);
                        return;
                }
                if (b->n)
                        memcpy(p, b->s, b->n);
                b->s = p;
                b->room = room;
        }
        if (n)
                memcpy(b->s + b->n, s, n);
        b->n += n;
        b->s[b->n] = '\0';
}

/* Reads one word from *at. */
static void split_word(Builder *b, const char **at)
{
        const char *p = *at;
        char quote = '\0';

        builder_put(b, "", 0);
        for (; *p && (quote || !strchr(" \t\n\r", *p)); p++) {
                if (quote == '\'') {
                        if (*p == '\'')
                                quote = '\0';
                        else
                                builder_put(b, p, 1);
                } else if (*p == '\\') {
                        p++;
                        if (!*p) {
                                b->error = TEXT_E_UNBALANCED;
                                break;
                        }
                        if (*p == '\n')
                                continue;
                        if (quote && !strchr("\\\"$`", *p))
                                builder_put(b, "\\", 1);
                        builder_put(b, p, 1);
                } else if (*p == '"') {
                        quote = quote ? '\0' : '"';
                } else if (*p == '\'' && !quote) {
                        quote = '\'';
                } else {
                        builder_put(b, p, 1);
                }
        }
        if (quote)
                b->error = TEXT_E_UNBALANCED;
        *at = p;
}

int args_split(Arena *arena, const char *s, const char ***ret_words, size_t *ret_n)
{
        const char **words = NULL;
        size_t n = 0;

        for (;;) {
                Builder b = {.arena = arena};
                const char **slot;

                s += strspn(s, " \t\n\r");
                if (!*s)
                        break;
                split_word(&b, &s);
                if (b.error)
                        return b.error;
                slot = arena_grow(arena, &words, n, sizeof(*words));
                if (!slot)
                        return error_origin(-ENOMEM);
                *slot = b.s;
                n++;
        }
        *ret_words = words;
        *ret_n = n;
        return 0;
}

static size_t name_length(const char *s)
{
        size_t n = 0;

        while (isalnum((unsigned char)s[n]) || s[n] == '_')
                n++;
        return n;
}

/* What a $ begins: a name and perhaps a default, and where the text goes on. */
typedef struct Reference {
        const char *name;
        size_t name_size;
        const char *fallback;
        size_t fallback_size;
        const char *end;
} Reference;

/* At a $. Returns false when it begins no reference; *unbalanced when a brace is not closed. Looks no further than
 * the reference goes, so that reading a whole text stays linear. */
static bool reference_read(const char *s, bool defaults, Reference *ret, bool *unbalanced)
{
        bool brace = s[1] == '{';
        const char *close;

        *unbalanced = false;
        *ret = (Reference){.name = s + 1 + brace};
        ret->name_size = name_length(ret->name);
        ret->end = ret->name + ret->name_size;
        if (ret->name_size == 0)
                return false;
        if (!brace)
                return true;
        if (defaults && ret->end[0] == ':' && ret->end[1] == '-') {
                ret->fallback = ret->end + 2;
                close = strchr(ret->fallback, '}');
                ret->fallback_size = close ? (size_t)(close - ret->fallback) : 0;
        } else {
                close = *ret->end == '}' ? ret->end : NULL;
        }
        *unbalanced = !close;
        if (close)
                ret->end = close + 1;
        return close != NULL;
}

static const char *reference_lookup(Arena *arena, const Reference *ref, const char **ret_name)
{
        *ret_name = arena_strndup(arena, ref->name, ref->name_size);
        return *ret_name ? getenv(*ret_name) : NULL;
}

int env_expand(Arena *arena, const char *s, const char **ret, const char **ret_unknown)
{
        Builder b = {.arena = arena};

        builder_put(&b, "", 0);
        while (*s && !b.error) {
                size_t plain = strcspn(s, "$");
                Reference ref;
                bool unbalanced;
                const char *value;

                builder_put(&b, s, plain);
                s += plain;
                if (!*s)
                        break;
                if (s[1] == '$') {
                        builder_put(&b, s, 1);
                        s += 2;
                        continue;
                }
                if (!reference_read(s, true, &ref, &unbalanced)) {
                        if (unbalanced)
                                return TEXT_E_UNBALANCED;
                        builder_put(&b, s++, 1);
                        continue;
                }
                value = reference_lookup(arena, &ref, ret_unknown);
                if (!*ret_unknown)
                        return error_origin(-ENOMEM);
                if (value)
                        builder_put(&b, value, strlen(value));
                else if (ref.fallback)
                        builder_put(&b, ref.fallback, ref.fallback_size);
                else
                        return TEXT_E_UNKNOWN;
                s = ref.end;
        }
        *ret = b.s;
        return b.error;
}

int path_expand(Arena *arena, const char *s, const char **ret, const char **ret_unknown)
{
        static const char *const names[] = {"HOME", "USER", "PWD", "DORA_WORKSPACE", "CARGO_MANIFEST_DIR"};
        Builder b = {.arena = arena};

        builder_put(&b, "", 0);
        while (*s && !b.error) {
                size_t plain = strcspn(s, "$");
                bool unbalanced, known = false;
                const char *value;
                Reference ref;

                builder_put(&b, s, plain);
                s += plain;
                if (!*s)
                        break;
                if (reference_read(s, false, &ref, &unbalanced))
                        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                                known = known || (strlen(names[i]) == ref.name_size &&
                                                         memcmp(names[i], ref.name, ref.name_size) == 0);
                if (!known) {
                        builder_put(&b, s++, 1);
                        continue;
                }
                value = reference_lookup(arena, &ref, ret_unknown);
                if (!*ret_unknown)
                        return error_origin(-ENOMEM);
                if (!value)
                        return TEXT_E_UNKNOWN;
                builder_put(&b, value, strlen(value));
                s = ref.end;
        }
        *ret = b.s;
        return b.error;
}

static const char *param_find(const EnvList *params, const char *name, size_t size, bool capitals)
{
        for (size_t i = 0; i < params->n; i++) {
                const EnvItem *item = &params->items[i];
                bool same = strlen(item->name) == size;

                for (size_t k = 0; same && k < size; k++)
                        same = name[k] == (capitals ? toupper((unsigned char)item->name[k]) : item->name[k]);
                if (same)
                        return item->value;
        }
        return NULL;
}

/* At a $: is this a parameter? Sets the name, and whether it is in capitals, and where the text goes on. */
static bool param_read(const char *s, const char **ret_name, size_t *ret_size, bool *ret_capitals,
        const char **ret_end)
{
        Reference ref;
        bool unbalanced;

        if (strncmp(s, "${_param.", 9) == 0) {
                *ret_name = s + 9;
                *ret_size = name_length(s + 9);
                *ret_capitals = false;
                *ret_end = s + 9 + *ret_size + 1;
                return *ret_size > 0 && s[9 + *ret_size] == '}';
        }
        if (!reference_read(s, false, &ref, &unbalanced) || ref.name_size <= 6 || strncmp(ref.name, "PARAM_", 6) != 0)
                return false;
        *ret_name = ref.name + 6;
        *ret_size = ref.name_size - 6;
        *ret_capitals = true;
        *ret_end = ref.end;
        return true;
}

int params_substitute(Arena *arena, const char *s, const EnvList *params, const char **ret, const char **ret_unknown)
{
        Builder b = {.arena = arena};

        *ret_unknown = NULL;
        builder_put(&b, "", 0);
        while (*s && !b.error) {
                size_t plain = strcspn(s, "$"), size;
                const char *name, *end, *value;
                bool capitals;

                builder_put(&b, s, plain);
                s += plain;
                if (!*s)
                        break;
                if (!param_read(s, &name, &size, &capitals, &end)) {
                        builder_put(&b, s++, 1);
                        continue;
                }
                value = param_find(params, name, size, capitals);
                if (value) {
                        builder_put(&b, value, strlen(value));
                } else {
                        builder_put(&b, s, (size_t)(end - s));
                        if (!*ret_unknown)
                                *ret_unknown = arena_strndup(arena, name, size);
                }
                s = end;
        }
        *ret = b.s;
        return b.error;
}

const char *double_to_text(Arena *arena, double v)
{
        char digits[40], out[400], *e;
        int precision, exponent, n, at = 0;

        if (isnan(v))
                return "NaN";
        if (isinf(v))
                return v < 0 ? "-inf" : "inf";
        for (precision = 0; precision < 17; precision++) {
                (void)snprintf(digits, sizeof(digits), "%.*e", precision, v);
                if (strtod(digits, NULL) == v)
                        break;
        }
        e = strchr(digits, 'e');
        exponent = e ? atoi(e + 1) : 0;
        if (e)
                *e = '\0';
        if (digits[0] == '-')
                out[at++] = '-';
        /* digits: d.ddd; the point moves by the exponent (at most 308 places) */
        n = 0;
        for (char *p = digits; *p; p++)
                if (isdigit((unsigned char)*p))
                        digits[n++] = *p;
        while (n > 1 && digits[n - 1] == '0')
                n--;
        if (exponent < 0) {
                at += snprintf(out + at, sizeof(out) - (size_t)at, "0.%0*d", -exponent - 1, 0);
                if (exponent == -1)
                        at--; /* %00d still prints one zero */
                for (int i = 0; i < n; i++)
                        out[at++] = digits[i];
        } else {
                for (int i = 0; i < MAX(n, exponent + 1); i++) {
                        if (i == exponent + 1)
                                out[at++] = '.';
                        out[at++] = i < n ? digits[i] : '0';
                }
        }
        return arena_strndup(arena, out, (size_t)at);
}
