/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/parameters.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

#include "base/cleanup.h"

#define MS_MAX          ((json_int_t)7 * 24 * 3600 * 1000) /* a week */
#define TIMEOUT_MS_MAX  ((json_int_t)366 * 24 * 3600 * 1000) /* a year: of who follows a dataflow to its end (cli/start.c) */
#define NAME_LENGTH_MAX 256
#define STRINGS_MAX     4096

typedef enum ParamType {
        TYPE_BOOL,
        TYPE_INT,
        TYPE_SHARE, /* of one CPU: above 0, up to 100 */
        TYPE_STRING,
        TYPE_STRINGS,
        TYPE_OBJECT,
} ParamType;

typedef struct ParamInfo {
        const char *name;
        ParamType type;
        size_t offset;
        json_int_t min, max; /* of a number; of a string, its length */
} ParamInfo;

#define INFO(field, type_, min_, max_)                                                                                           \
        {                                                                                                                        \
                .name = #field, .type = type_, .offset = offsetof(Parameters, field), .min = min_, .max = max_                   \
        }

static const ParamInfo infos[_PARAM_MAX] = {
        [PARAM_ALL] = INFO(all, TYPE_BOOL, 0, 0),
        [PARAM_ALLOW_UNENFORCED] = INFO(allow_unenforced_limits, TYPE_BOOL, 0, 0),
        [PARAM_BUDGET] = INFO(budget, TYPE_SHARE, 0, 0),
        [PARAM_BUDGET_MS] = INFO(budget_ms, TYPE_INT, 0, MS_MAX),
        [PARAM_CALLS] = INFO(calls, TYPE_BOOL, 0, 0),
        [PARAM_DATAFLOW] = INFO(dataflow, TYPE_STRING, 1, NAME_LENGTH_MAX),
        [PARAM_DESPITE_LEFTOVER] = INFO(despite_leftover, TYPE_BOOL, 0, 0),
        [PARAM_ENVIRONMENT] = INFO(environment, TYPE_STRINGS, 0, INT_MAX),
        [PARAM_FORCE] = INFO(force, TYPE_BOOL, 0, 0),
        [PARAM_FREEZE] = INFO(freeze, TYPE_BOOL, 0, 0),
        [PARAM_GRACE_MS] = INFO(grace_ms, TYPE_INT, 0, MS_MAX),
        [PARAM_INTERFACE] = INFO(interface, TYPE_STRING, 0, NAME_LENGTH_MAX),
        [PARAM_INTERVAL_MS] = INFO(interval_ms, TYPE_INT, 100, 3600 * 1000),
        [PARAM_LIMITS] = INFO(limits, TYPE_OBJECT, 0, 0),
        [PARAM_LINKS] = INFO(links, TYPE_BOOL, 0, 0),
        [PARAM_LOG_DIR] = INFO(log_dir, TYPE_STRING, 1, PATH_MAX - 64),
        [PARAM_NAME] = INFO(name, TYPE_STRING, 1, NAME_LENGTH_MAX),
        [PARAM_NAMES] = INFO(names, TYPE_STRINGS, 1, NAME_LENGTH_MAX),
        [PARAM_NODE] = INFO(node, TYPE_STRING, 1, NAME_LENGTH_MAX),
        [PARAM_NODES] = INFO(nodes, TYPE_STRINGS, 1, NAME_LENGTH_MAX),
        [PARAM_OUTPUT] = INFO(output, TYPE_STRING, 1, NAME_LENGTH_MAX),
        [PARAM_PLAN] = INFO(plan, TYPE_OBJECT, 0, 0),
        [PARAM_QUEUES] = INFO(queues, TYPE_BOOL, 0, 0),
        [PARAM_REPLACE] = INFO(replace, TYPE_BOOL, 0, 0),
        [PARAM_RING] = INFO(ring, TYPE_INT, 0, INT64_MAX),
        [PARAM_SEGMENTS] = INFO(segments, TYPE_INT, 0, INT_MAX),
        [PARAM_SIGNAL] = INFO(signal, TYPE_INT, 1, 64),
        [PARAM_STATE] = INFO(state, TYPE_STRING, 1, NAME_LENGTH_MAX),
        [PARAM_TIMEOUT_MS] = INFO(timeout_ms, TYPE_INT, 0, TIMEOUT_MS_MAX),
        [PARAM_UMASK] = INFO(umask, TYPE_INT, 0, 0777),
        [PARAM_WAIT] = INFO(wait, TYPE_STRING, 1, NAME_LENGTH_MAX),
};

static bool is_string(const ParamInfo *info, json_t *value)
{
        size_t n = json_string_length(value);

        return json_is_string(value) && n >= (size_t)info->min && n <= (size_t)info->max && strlen(json_string_value(value)) == n;
}

static bool is_strings(const ParamInfo *info, json_t *value)
{
        if (!json_is_array(value) || json_array_size(value) > STRINGS_MAX)
                return false;
        for (size_t i = 0; i < json_array_size(value); i++)
                if (!is_string(info, json_array_get(value, i)))
                        return false;
        return true;
}

static bool take_value(const ParamInfo *info, json_t *value, Parameters *to)
{
        void *field = (char *)to + info->offset;
        json_int_t n;

        switch (info->type) {
        case TYPE_BOOL:
                *(bool *)field = json_is_true(value);
                return json_is_boolean(value);
        case TYPE_INT:
                n = *(json_int_t *)field = json_integer_value(value);
                return json_is_integer(value) && n >= info->min && n <= info->max;
        case TYPE_SHARE:
                *(double *)field = json_number_value(value);
                return json_is_number(value) && json_number_value(value) > 0 && json_number_value(value) <= 100;
        case TYPE_STRING:
                *(const char **)field = json_string_value(value);
                return is_string(info, value);
        case TYPE_STRINGS:
                *(json_t **)field = value;
                return is_strings(info, value);
        case TYPE_OBJECT:
                *(json_t **)field = value;
                return json_is_object(value);
        }
        return false;
}

static const ParamInfo *find_taken(const uint8_t *takes, const char *name)
{
        for (; *takes; takes++)
                if (strcmp(infos[*takes & ~PARAM_REQUIRED].name, name) == 0)
                        return &infos[*takes & ~PARAM_REQUIRED];
        return NULL;
}

int parameters_parse(Parameters *ret, json_t *object, const uint8_t *takes, const char **ret_bad)
{
        Parameters parameters = {.budget_ms = PARAM_ABSENT,
                .grace_ms = PARAM_ABSENT,
                .interval_ms = PARAM_ABSENT,
                .ring = PARAM_ABSENT,
                .segments = PARAM_ABSENT,
                .signal = PARAM_ABSENT,
                .timeout_ms = PARAM_ABSENT,
                .umask = PARAM_ABSENT};
        const char *key;
        json_t *value;

        json_object_foreach(object, key, value) {
                const ParamInfo *info = find_taken(takes, key);

                if (info && json_is_null(value))
                        continue; /* what may be absent may be null */
                if (!info || !take_value(info, value, &parameters)) {
                        *ret_bad = info ? info->name : key;
                        return -EINVAL;
                }
        }
        for (; *takes; takes++) {
                const ParamInfo *info = &infos[*takes & ~PARAM_REQUIRED];

                value = json_object_get(object, info->name);
                if ((*takes & PARAM_REQUIRED) && (!value || json_is_null(value))) {
                        *ret_bad = info->name;
                        return -EINVAL;
                }
        }
        *ret = parameters;
        return 0;
}
