/* SPDX-License-Identifier: Apache-2.0 */
/* tidegate set-limit, freeze, thaw: of a node, or of a whole dataflow; and how limits are shown. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/limit.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/session.h"
#include "cli/status.h"
#include "cli/table.h"
#include "cli/targets.h"

#define CALL_SPAN (20 * NSEC_PER_SEC) /* a lower memory_max reclaims first; a freeze may wait for somebody in an uninterruptible sleep */

/* ---- showing */

static void print_line(const char *label, int width, const char *text)
{
        _cleanup_free_ char *copy = strdup(text);

        printf("%*s: %s\n", width, label, copy ? text_tame(copy, false) : "?");
}

static void print_limit(const json_t *limit, int width, const char *label)
{
        const char *key = json_get_text(limit, "key"), *value = json_get_text(limit, "value");
        char text[1024], shown[64];
        unsigned long long quota, period;

        (void)snprintf(shown, sizeof(shown), "%.60s", value);
        if (strncmp(key, "memory", 6) == 0 && strcmp(value, "max") != 0)
                format_bytes(shown, sizeof(shown), strtoull(value, NULL, 10));
        else if (strcmp(key, "cpu_max") == 0 && sscanf(value, "%llu %llu", &quota, &period) == 2 && period > 0)
                (void)snprintf(shown, sizeof(shown), "%g cores", (double)quota / (double)period);
        (void)snprintf(text, sizeof(text), "%s %s%s%s%s", key, strcmp(key, "io_max") == 0 ? value : shown,
                json_is_true(json_object_get(limit, "set")) ? " (set at run time)" : "",
                json_is_false(json_object_get(limit, "enforced")) ? ", not enforced: " : "", json_get_text(limit, "reason"));
        print_line(label, width, text);
}

static void print_felt(const json_t *felt, int width, const char *label)
{
        char text[256], peak[32];

        if (json_get_number(felt, "oom_kills")) {
                format_bytes(peak, sizeof(peak), (unsigned long long)json_get_number(felt, "memory_peak"));
                (void)snprintf(text, sizeof(text), "oom-killed, memory peak %s", json_get_number(felt, "memory_peak") ? peak : "unknown");
                print_line(label, width, text);
        }
        if (json_get_number(felt, "memory_high_events"))
                print_line(label, width, "slowed down by memory_high");
        if (json_get_number(felt, "forks_refused")) {
                (void)snprintf(text, sizeof(text), "refused a fork by pids_max, %lld times", json_get_number(felt, "forks_refused"));
                print_line(label, width, text);
        }
        if (json_get_number(felt, "throttled_periods")) {
                (void)snprintf(text, sizeof(text), "throttled by cpu_max in %lld periods, %.1f s", json_get_number(felt, "throttled_periods"),
                        (double)json_get_number(felt, "throttled_ms") / 1000);
                print_line(label, width, text);
        }
}

void status_print_limits(const json_t *object, int width)
{
        const json_t *felt = json_object_get(object, "felt"), *pressed = json_object_get(object, "pressed");
        char text[512];
        json_t *limit;
        size_t i;

        json_array_foreach(json_object_get(object, "limits"), i, limit)
                print_limit(limit, width, width == 10 ? "Limit" : "limit");
        if (felt)
                print_felt(felt, width, width == 10 ? "Felt" : "felt");
        if (pressed) {
                (void)snprintf(text, sizeof(text), "%lld times, the last: %s", json_get_number(pressed, "count"), json_get_text(pressed, "text"));
                print_line(width == 10 ? "Pressure" : "pressure", width, text);
        }
}

void status_print_pressure(const json_t *node, int width, const char *id)
{
        static const char *const names[] = {"cpu", "memory", "io"};
        const json_t *pressure = json_object_get(json_object_get(node, "usage"), "pressure");
        char text[256] = "";
        double most = 0;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                const json_t *some = json_object_get(json_object_get(pressure, names[i]), "some");

                if (!json_is_number(some))
                        continue;
                most = MAX(most, json_number_value(some));
                (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s %.3g %%", text[0] ? ", " : id ? ": " : "", names[i], json_number_value(some));
        }
        if (text[0] && (!id || most > 0)) {
                char line[512];

                (void)snprintf(line, sizeof(line), "%s%s (some waited, of the last 10 s)", id ? id : "", text);
                print_line(id ? "Waits" : "waits", width, line);
        }
}

/* ---- arguments */

static int read_arguments(Session *session, int argc, char **argv)
{
        static const struct option options[] = {SESSION_LONG_OPTIONS, {NULL, 0, NULL, 0}};

        session_begin();
        return session_getopt(session, argc, argv, "", options) == -1 ? 0 : CLI_USAGE;
}

/* What is probably meant: a name that begins so, or the other way round. NULL: nothing. */
static const char *nearest(const char *name, size_t n)
{
        for (unsigned i = 0; i < _LIMIT_KEY_MAX; i++) {
                const char *known = limit_name(i);
                size_t same = 0;

                while (same < n && known[same] && (known[same] == name[same] || (name[same] == '.' && known[same] == '_') || (name[same] == '-' && known[same] == '_')))
                        same++;
                if (same >= 4 && (same == n || same + 2 >= strlen(known)))
                        return known;
        }
        return NULL;
}

/* "KEY=VALUE ..." NULL: a usage error was said. */
static json_t *read_limits(char **words, size_t n)
{
        json_t *limits = json_object();
        char value[LIMIT_VALUE_MAX];

        for (size_t i = 0; i < n; i++) {
                const char *equals = strchr(words[i], '=');
                size_t length = equals ? (size_t)(equals - words[i]) : strlen(words[i]);
                int key = limit_find(words[i], length);

                if (key < 0 || !equals) {
                        const char *meant = key < 0 ? nearest(words[i], length) : NULL;

                        (void)usage_error("set-limit", key < 0 ? "`%.*s` is no limit%s%s" : "`%.*s` has no value (KEY=VALUE)%s%s", (int)length, words[i],
                                meant ? "; did you mean " : "", meant ? meant : "");
                        json_decref(limits);
                        return NULL;
                }
                if (limit_parse((LimitKey)key, equals + 1, value)) {
                        (void)usage_error("set-limit", "%s must be %s, not `%s`", limit_name((LimitKey)key), limit_wanted((LimitKey)key), equals + 1);
                        json_decref(limits);
                        return NULL;
                }
                (void)json_object_set_new(limits, limit_name((LimitKey)key), json_string(value));
        }
        return limits;
}

/* ---- calling */

static json_t *parameters(const char *dataflow, const char *node, const json_t *limits)
{
        json_t *p = json_pack("{ss sI}", "dataflow", dataflow, "timeout_ms", (json_int_t)(CALL_SPAN / NSEC_PER_MSEC));

        if (p && node[0])
                (void)json_object_set_new(p, "node", json_string(node));
        if (p && limits)
                (void)json_object_set_new(p, "limits", json_deep_copy(limits));
        return p;
}

static int call(Session *session, const char *method, const char *dataflow, const char *node, const json_t *limits, Reply *ret)
{
        session->patient = true;
        session->until = nsec_add(clock_now(), nsec_add(CALL_SPAN, 2 * NSEC_PER_SEC));
        (void)snprintf(session->waits_for, sizeof(session->waits_for), "%.70s%s%.70s", dataflow, node[0] ? ":" : "", node);
        return session_try(session, method, parameters(dataflow, node, limits), ret);
}

/*
 * A word without a colon is a dataflow, or else the id of a node.
 *
 * Return: 0 or the exit status, said. @name: how to speak of it.
 */
static int order(Session *session, const char *method, const char *word, const json_t *limits, Reply *ret, char *name, size_t size)
{
        _cleanup_(json_decrefp) json_t *dataflow = NULL, *node = NULL;
        Target target;
        int r;

        if (!target_parse(&target, word) || strcmp(target.node, "*") == 0)
                return usage_error(session->command, "`%s` is neither NAME nor DATAFLOW:NODE", word);
        (void)snprintf(name, size, "%s", word);
        r = call(session, method, target.dataflow, target.node, limits, ret);
        if (!r && ret->error && !target.node[0] && strcmp(ret->error, "NoSuchDataflow") == 0) {
                reply_done(ret);
                *ret = (Reply){};
                r = targets_node(session, NULL, word, &dataflow, &node);
                if (r)
                        return r;
                (void)snprintf(name, size, "%s:%s", json_get_text(dataflow, "name"), json_get_text(node, "id"));
                r = call(session, method, json_get_text(dataflow, "uuid"), json_get_text(node, "id"), limits, ret);
        }
        if (r)
                return session_fail(session, r);
        return ret->error ? session_refused(session, ret) : 0;
}

/* ---- the commands */

int cmd_set_limit(int argc, char **argv)
{
        Session session = SESSION_INIT("set-limit");
        json_t *limits, *limit;
        Reply reply = {};
        char name[320];
        size_t i;
        int status = read_arguments(&session, argc, argv);

        if (status)
                return status;
        if (argc - optind < 2)
                return usage_error("set-limit", "%s", argc == optind ? "of which node or dataflow?" : "which limits? (KEY=VALUE)");
        limits = read_limits(argv + optind + 1, (size_t)(argc - optind - 1));
        if (!limits)
                return CLI_USAGE;
        status = session_locate(&session);
        if (!status)
                status = order(&session, "SetLimit", argv[optind], limits, &reply, name, sizeof(name));
        if (!status && session.json) {
                status = session_result(&session, json_incref(reply.parameters));
        } else if (!status) {
                printf("%s:\n", text_tame(name, false));
                json_array_foreach(json_object_get(reply.parameters, "limits"), i, limit)
                        print_limit(limit, 12, "limit");
        }
        reply_done(&reply);
        json_decref(limits);
        session_done(&session);
        return status;
}

static int freeze_or_thaw(Session *session, const char *method, const char *done, int argc, char **argv)
{
        Reply reply = {};
        char name[320];
        int status = read_arguments(session, argc, argv);

        if (status)
                return status;
        if (argc - optind != 1)
                return usage_error(session->command, "%s", argc == optind ? "which node or dataflow?" : "one node or dataflow only");
        status = session_locate(session);
        if (!status)
                status = order(session, method, argv[optind], NULL, &reply, name, sizeof(name));
        if (!status && session->json)
                status = session_result(session, json_incref(reply.parameters));
        else if (!status)
                printf("%s: %s\n", text_tame(name, false), done);
        reply_done(&reply);
        session_done(session);
        return status;
}

int cmd_freeze(int argc, char **argv)
{
        Session session = SESSION_INIT("freeze");

        return freeze_or_thaw(&session, "Freeze", "frozen", argc, argv);
}

int cmd_thaw(int argc, char **argv)
{
        Session session = SESSION_INIT("thaw");

        return freeze_or_thaw(&session, "Thaw", "thawed", argc, argv);
}
