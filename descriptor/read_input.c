/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "descriptor/read.h"
#include "descriptor/suggest.h"

const char *const queue_policy_names[_QUEUE_POLICY_MAX + 1] = {
        [QUEUE_POLICY_UNSET] = "",
        [QUEUE_POLICY_DROP_OLDEST] = "drop_oldest",
        [QUEUE_POLICY_BACKPRESSURE] = "backpressure",
};

typedef struct TimerUnit {
        const char *name;
        uint64_t ns; /* 0: the number is a frequency */
} TimerUnit;

static const TimerUnit timer_units[] = {
        {"secs", NSEC_PER_SEC},
        {"millis", NSEC_PER_MSEC},
        {"micros", NSEC_PER_USEC},
        {"nanos", 1},
        {"hz", 0},
};

/* Whole intervals of 1 ns to SPAN_MAX_NS. */
static bool timer_interval(const TimerUnit *unit, const char *number, uint64_t *ret_ns)
{
        unsigned long long n;
        double hz;
        char *end;

        errno = 0;
        if (unit->ns) {
                if (!*number || number[strspn(number, "0123456789")] != '\0')
                        return false;
                n = strtoull(number, &end, 10);
                if (errno || n == 0 || n > SPAN_MAX_NS / unit->ns)
                        return false;
                *ret_ns = n * unit->ns;
                return true;
        }
        if (!*number || number[strspn(number, "0123456789.eE+-")] != '\0')
                return false;
        hz = strtod(number, &end);
        if (*end || !isfinite(hz) || hz <= 0 || 1e9 / hz < 1 || 1e9 / hz > (double)SPAN_MAX_NS)
                return false;
        *ret_ns = (uint64_t)llround(1e9 / hz);
        return true;
}

/* After "timer/": unit/number. */
static void read_timer(Reader *reader, InputSpec *input, const char *rest)
{
        const char *slash = strchr(rest, '/');
        size_t size = slash ? (size_t)(slash - rest) : strlen(rest);
        char name[16] = "";
        Suggest suggest = SUGGEST_INIT(name);

        memcpy(name, rest, MIN(size, sizeof(name) - 1));
        for (size_t i = 0; i < ELEMENTSOF(timer_units); i++) {
                const TimerUnit *unit = &timer_units[i];

                suggest_offer(&suggest, unit->name);
                if (strlen(unit->name) != size || memcmp(unit->name, rest, size) != 0)
                        continue;
                if (timer_interval(unit, slash ? slash + 1 : "", &input->timer_ns))
                        input->kind = INPUT_TIMER;
                else if (unit->ns)
                        diagnostics_error(reader->diags, input->source.span,
                                "a timer in %s needs a whole number above 0 (up to 1000000000 s in all), not %s",
                                unit->name,
                                QUOTE(slash ? slash + 1 : ""));
                else
                        diagnostics_error(reader->diags, input->source.span,
                                "a timer in hz needs a number from 0.000000001 to 1000000000, not %s",
                                QUOTE(slash ? slash + 1 : ""));
                return;
        }
        diagnostics_error_hint(reader->diags, input->source.span, suggest.best,
                "unknown unit %s of a timer; there are secs, millis, micros, nanos and hz", QUOTE(name));
}

/* Something else than timer/ or logs: perhaps timer/, misspelt. */
static void report_builtin(Reader *reader, const InputSpec *input, const char *rest)
{
        const char *slash = strchrnul(rest, '/');
        char name[16] = "";
        Suggest suggest = SUGGEST_INIT(name);
        _cleanup_free_ char *full = NULL;

        memcpy(name, rest, MIN((size_t)(slash - rest), sizeof(name) - 1));
        suggest_offer(&suggest, "timer");
        if (suggest.best && *slash
                && asprintf(&full, "%.*s%s%s", (int)(rest - input->source.s), input->source.s, suggest.best, slash) < 0)
                full = NULL;
        diagnostics_error_hint(reader->diags, input->source.span, full,
                "unknown source %s; the built-in sources are timers: tidegate/timer/millis/100",
                QUOTE(input->source.s));
}

/* "dora/…" and "tidegate/…" are sources of the runtime itself. */
static void read_builtin(Reader *reader, InputSpec *input, const char *rest)
{
        if (strncmp(rest, "timer/", 6) == 0)
                read_timer(reader, input, rest + 6);
        else if (strcmp(rest, "logs") == 0 || strncmp(rest, "logs/", 5) == 0)
                diagnostics_error(reader->diags, input->source.span,
                        "source %s is not supported yet by this version: logs as an input", QUOTE(input->source.s));
        else
                report_builtin(reader, input, rest);
}

static int read_source(Reader *reader, InputSpec *input)
{
        const char *s = input->source.s, *slash = strchr(s, '/');
        Text node = {.span = input->source.span}, output = {.span = input->source.span};

        if (!slash) {
                diagnostics_error(reader->diags, input->source.span,
                        "source %s must be <node>/<output>, or a timer like tidegate/timer/millis/100", QUOTE(s));
                return 0;
        }
        node.s = arena_strndup(reader->arena, s, (size_t)(slash - s));
        output.s = slash + 1;
        if (!node.s)
                return error_origin(-ENOMEM);
        if (strcmp(node.s, "dora") == 0 || strcmp(node.s, "tidegate") == 0) {
                read_builtin(reader, input, output.s);
                return 0;
        }
        if (strcmp(node.s, MODULE_PORT) == 0 && !reader->is_module) {
                diagnostics_error(reader->diags, input->source.span, "%s: %s/ means something in a module file only",
                        QUOTE(s), MODULE_PORT);
                return 0;
        }
        if (strcmp(node.s, MODULE_PORT) != 0 && !node_id_ok(reader->diags, node, "the source's node"))
                return 0;
        if (!data_id_ok(reader->diags, output, "the source's output"))
                return 0;
        input->node = node.s;
        input->output = output.s;
        input->kind = strcmp(node.s, MODULE_PORT) == 0 ? INPUT_PORT : INPUT_NODE;
        return 0;
}

static void read_link_options(Reader *reader, const YamlNode *map, LinkOptions *ret)
{
        const YamlNode *size = yaml_get(map, "queue_size", NULL), *policy = yaml_get(map, "queue_policy", NULL);
        int64_t n;
        int choice;

        if (read_uint(reader, size, "queue_size", 0, QUEUE_SIZE_MAX, &n)) {
                if (n == 0)
                        diagnostics_warning(reader->diags, size->span, "queue_size 0 means 1");
                ret->queue_size = (unsigned)MAX(n, 1);
        }
        if (policy) {
                choice = read_choice(reader, policy, "queue_policy", queue_policy_names);
                if (choice > 0)
                        ret->queue_policy = (QueuePolicy)choice;
        }
        read_seconds(reader, yaml_get(map, "input_timeout", NULL), "input_timeout", false, &ret->timeout_ns);
}

static int read_input(Reader *reader, const YamlPair *pair, InputSpec *ret)
{
        const YamlNode *value = pair->value, *source = value;

        ret->id = (Text){.s = pair->key->text, .span = pair->key->span};
        (void)data_id_ok(reader->diags, ret->id, "the input"); /* reported; its source is still worth a look */
        if (value->kind == YAML_MAP) {
                (void)check_keys(reader, value, &keys_input);
                read_link_options(reader, value, &ret->options);
                source = yaml_get(value, "source", NULL);
                if (!source) {
                        diagnostics_error(reader->diags, pair->key->span, "input %s has no source", QUOTE(ret->id.s));
                        return 0;
                }
                read_string(reader, source, "source", &ret->source);
        } else if (value->kind != YAML_STRING) {
                wrong_kind(reader, value, "an input", "a string (<node>/<output>) or a map");
        } else {
                ret->source = (Text){.s = source->text, .span = source->span};
        }
        return ret->source.s ? read_source(reader, ret) : 0;
}

int read_inputs(Reader *reader, const YamlNode *value, NodeSpec *node)
{
        int r;

        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_MAP) {
                wrong_kind(reader, value, "inputs", "a map");
                return 0;
        }
        if (value->n > PORTS_MAX) {
                diagnostics_error(reader->diags, value->span, "%zu inputs; at most %d are allowed", value->n,
                        PORTS_MAX);
                return 0;
        }
        node->inputs = arena_alloc(reader->arena, value->n * sizeof(*node->inputs));
        if (!node->inputs)
                return error_origin(-ENOMEM);
        node->n_inputs = value->n;
        for (size_t i = 0; i < value->n; i++) {
                r = read_input(reader, &value->pairs[i], &node->inputs[i]);
                if (r)
                        return error_fold(r);
        }
        return 0;
}
