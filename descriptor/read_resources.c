/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"
#include "descriptor/text.h"

/* A scalar as limit_parse() reads it; NULL: it is none. Numbers in the decimal form, however they are written. */
static int scalar_text(Reader *reader, const YamlNode *value, const char **ret)
{
        int64_t whole;
        double number;

        *ret = NULL;
        if (value->kind == YAML_STRING) {
                *ret = value->text;
                return 0;
        }
        if (value->kind == YAML_INT && yaml_as_int(value, &whole) == 0)
                *ret = arena_printf(reader->arena, "%lld", (long long)whole);
        else if (value->kind == YAML_FLOAT && yaml_as_double(value, &number) == 0)
                *ret = double_to_text(reader->arena, number);
        else
                return 0;
        return *ret ? 0 : error_origin(-ENOMEM);
}

static int append(Reader *reader, const char **text, const char *separator, const char *more)
{
        *text = arena_printf(reader->arena, "%s%s%s", *text, **text ? separator : "", more);
        return *text ? 0 : error_origin(-ENOMEM);
}

/* A list of CPU numbers and spans: as they would stand in one text. */
static int cpus_text(Reader *reader, const YamlNode *list, const char **ret)
{
        *ret = "";
        for (size_t i = 0; i < MIN(list->n, (size_t)LIMIT_VALUE_MAX); i++) {
                const char *one;
                int r = scalar_text(reader, list->items[i], &one);

                if (!r)
                        r = append(reader, ret, ",", one ? one : "?");
                if (r)
                        return r;
        }
        return 0;
}

/* {device, rbps, wbps, riops, wiops} as the text "DEVICE key=value ...". */
static int io_entry_text(Reader *reader, const YamlNode *map, const char **ret)
{
        static const char *const keys[] = {"rbps", "wbps", "riops", "wiops"};
        const YamlNode *device = yaml_get(map, "device", NULL);
        const char *one;
        int r;

        *ret = "";
        if (!check_keys(reader, map, &keys_io_max))
                return 0;
        if (!device)
                diagnostics_error(reader->diags, map->span, "the entry of io_max has no device");
        else if (device->kind != YAML_STRING)
                wrong_kind(reader, device, "device", "a string (/dev/NAME or \"MAJOR:MINOR\")");
        else if ((r = append(reader, ret, "", device->text)))
                return r;
        for (size_t i = 0; i < ELEMENTSOF(keys) && **ret; i++) {
                const YamlNode *value = yaml_get(map, keys[i], NULL);

                if (!value)
                        continue;
                r = scalar_text(reader, value, &one);
                if (!r)
                        r = append(reader, ret, " ", keys[i]);
                if (!r)
                        r = append(reader, ret, "=", one && !strchr(one, ' ') ? one : "?");
                if (r)
                        return r;
        }
        return 0;
}

/* What was reported of an entry is not reported once more of the whole: *ret_reported. */
static int io_text(Reader *reader, const YamlNode *list, const char **ret, bool *ret_reported)
{
        unsigned errors = reader->diags->n_errors;
        char canonical[LIMIT_VALUE_MAX];
        int r;

        *ret = "";
        for (size_t i = 0; i < MIN(list->n, (size_t)LIMIT_IO_PARTS + 1); i++) {
                const YamlNode *item = list->items[i];
                unsigned before = reader->diags->n_errors;
                const char *one;

                r = item->kind == YAML_MAP ? io_entry_text(reader, item, &one) : scalar_text(reader, item, &one);
                if (!r && reader->diags->n_errors == before && (!one || strchr(one, ';') || limit_parse(LIMIT_IO_MAX, one, canonical)))
                        diagnostics_error(reader->diags, item->span,
                                "an entry of io_max must be a map {device: /dev/NAME, rbps, wbps, riops, wiops}, or %s", limit_wanted(LIMIT_IO_MAX));
                if (!r)
                        r = append(reader, ret, ";", one ? one : "?");
                if (r)
                        return r;
        }
        *ret_reported = reader->diags->n_errors != errors;
        return 0;
}

static int read_limit(Reader *reader, const YamlPair *pair, LimitKey key, LimitsSpec *ret)
{
        const YamlNode *value = pair->value;
        char canonical[LIMIT_VALUE_MAX];
        bool reported = false;
        const char *text;
        int r;

        if (value->kind == YAML_LIST && key == LIMIT_IO_MAX)
                r = io_text(reader, value, &text, &reported);
        else if (value->kind == YAML_LIST && key == LIMIT_CPUSET_CPUS)
                r = cpus_text(reader, value, &text);
        else
                r = scalar_text(reader, value, &text);
        if (r || reported)
                return r;
        if (!text) {
                wrong_kind(reader, value, limit_name(key), limit_wanted(key));
                return 0;
        }
        if (limit_parse(key, text, canonical)) {
                diagnostics_error(reader->diags, value->span, "%s must be %s", limit_name(key), limit_wanted(key));
                return 0;
        }
        ret->values[key] = (Text){.s = arena_printf(reader->arena, "%s", canonical), .span = pair->key->span};
        ret->n++;
        return ret->values[key].s ? 0 : error_origin(-ENOMEM);
}

int read_resources(Reader *reader, const YamlNode *map, LimitsSpec *ret)
{
        YamlNode *key;
        const YamlNode *value = yaml_get(map, "resources", &key);

        if (!value || value->kind == YAML_NULL || !check_keys(reader, value, &keys_resources))
                return 0;
        ret->span = key->span;
        for (size_t i = 0; i < value->n; i++) {
                const char *name = value->pairs[i].key->text;
                int k = limit_find(name, strlen(name)), r;

                if (k < 0)
                        continue; /* reported */
                r = read_limit(reader, &value->pairs[i], (LimitKey)k, ret);
                if (r)
                        return error_fold(r);
        }
        return 0;
}
