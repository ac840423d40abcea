/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"

static int read_condition(Reader *reader, const YamlPair *pair, PressureKind kind, PressureSpec *ret)
{
        const char *name = pressure_names[kind];

        if (pair->value->kind != YAML_STRING) {
                wrong_kind(reader, pair->value, name, pressure_wanted(kind));
                return -EINVAL;
        }
        if (pressure_parse(kind, pair->value->text, &ret->threshold, &ret->window_ns)) {
                diagnostics_error(reader->diags, pair->value->span, "%s must be %s", name, pressure_wanted(kind));
                return -EINVAL;
        }
        ret->kind = kind;
        ret->span = pair->key->span;
        return 0;
}

/* One map: every condition in it has its action. */
static void read_conditions(Reader *reader, const YamlNode *map, PressureList *ret)
{
        PressureAction action = PRESSURE_EVENT;
        Span action_span = map->span;
        size_t n = 0;
        YamlNode *key;

        if (!check_keys(reader, map, &keys_on_pressure))
                return;
        if (yaml_get(map, "action", &key)) {
                int choice = read_choice(reader, yaml_get(map, "action", NULL), "action of on_pressure", pressure_action_names);

                action = choice < 0 ? PRESSURE_EVENT : (PressureAction)choice;
                action_span = key->span;
        }
        for (size_t i = 0; i < map->n; i++) {
                int kind = pressure_find(map->pairs[i].key->text);
                PressureSpec spec = {.action = action, .action_span = action_span};

                n += strcmp(map->pairs[i].key->text, "action") != 0;
                if (kind < 0)
                        continue; /* the action, or reported */
                if (read_condition(reader, &map->pairs[i], (PressureKind)kind, &spec))
                        continue; /* reported */
                if (ret->n == PRESSURE_CONDITIONS_MAX)
                        diagnostics_error(reader->diags, spec.span, "on_pressure holds more than %d conditions", PRESSURE_CONDITIONS_MAX);
                if (ret->n >= PRESSURE_CONDITIONS_MAX)
                        return;
                ret->items[ret->n++] = spec;
        }
        if (n == 0)
                diagnostics_error(reader->diags, map->span, "on_pressure has no condition: say memory_some, cpu_some, io_some or another, such as memory_some: 150ms/1s");
}

int read_pressure(Reader *reader, const YamlNode *map, PressureList *ret)
{
        YamlNode *key;
        const YamlNode *value = yaml_get(map, "on_pressure", &key);

        if (!value || value->kind == YAML_NULL)
                return 0;
        ret->span = key->span;
        ret->items = arena_alloc(reader->arena, PRESSURE_CONDITIONS_MAX * sizeof(*ret->items));
        if (!ret->items)
                return error_origin(-ENOMEM);
        if (value->kind != YAML_LIST) {
                read_conditions(reader, value, ret);
                return 0;
        }
        for (size_t i = 0; i < value->n; i++)
                read_conditions(reader, value->items[i], ret);
        return 0;
}
