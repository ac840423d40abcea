/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/logger-json.h"
#include "supervisor/json-text.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

static void format_time(char *buf, size_t size, uint64_t wall_ns)
{
        time_t seconds = (time_t)(wall_ns / NSEC_PER_SEC);
        struct tm tm;
        size_t n;

        (void)gmtime_r(&seconds, &tm);
        n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
        (void)snprintf(buf + n, size - n, ".%09lluZ", (unsigned long long)(wall_ns % NSEC_PER_SEC));
}

/* The level of a record in lower case; NULL when it is none that we know. */
static const char *known_level(const json_t *value)
{
        static const char *const levels[][2] = {{"trace", "trace"}, {"debug", "debug"}, {"info", "info"},
                {"warn", "warn"},
                {"warning", "warn"}, {"error", "error"}, {"critical", "error"}, {"fatal", "error"}};

        for (size_t i = 0; json_is_string(value) && i < ELEMENTSOF(levels); i++)
                if (strcasecmp(json_string_value(value), levels[i][0]) == 0)
                        return levels[i][1];
        return NULL;
}

static json_t *parse_record(const char *data, size_t size)
{
        json_t *record = NULL;

        if (size < 2 || data[0] != '{' || json_parse(&record, data, size, 0))
                return NULL;
        if (json_is_object(record) && known_level(json_object_get(record, "level")) &&
                json_is_string(json_object_get(record, "message")))
                return record;
        json_decref(record);
        return NULL;
}

/* A record's fields, joined by whatever else it carries. New reference. */
static json_t *record_fields(json_t *record)
{
        static const char *const ours[] = {"timestamp", "level", "node_id", "message", "target", "fields"};
        json_t *given = json_object_get(record, "fields"), *fields, *value;
        const char *key;

        fields = json_is_object(given) ? json_copy(given) : json_object();
        if (given && !json_is_object(given) && !json_is_null(given))
                (void)json_object_set(fields, "fields", given);
        json_object_foreach(record, key, value) {
                bool is_ours = false;

                for (size_t i = 0; i < ELEMENTSOF(ours); i++)
                        is_ours |= strcmp(key, ours[i]) == 0;
                if (!is_ours)
                        (void)json_object_set(fields, key, value);
        }
        return fields;
}

static char *dump(json_t *take_line, size_t *ret_size)
{
        char *text = json_text(take_line), *with_newline;
        size_t n;

        json_decref(take_line);
        if (!text)
                return NULL;
        n = strlen(text);
        with_newline = realloc(text, n + 2);
        if (!with_newline) {
                free(text);
                return NULL;
        }
        memcpy(with_newline + n, "\n", 2);
        *ret_size = n + 1;
        return with_newline;
}

/* Plain lines are nearly all there are, so they are written directly: no object is built for them. */
typedef struct Text {
        char *data;
        size_t n;
} Text;

static void put(Text *t, const char *s, size_t n)
{
        memcpy(t->data + t->n, s, n);
        t->n += n;
}

static void put_str(Text *t, const char *s)
{
        put(t, s, strlen(s));
}

/* As the inside of a JSON string; at most six bytes for each of @data. */
static void put_escaped(Text *t, const char *data, size_t size)
{
        static const char hex[] = "0123456789abcdef";
        const unsigned char *p = (const unsigned char *)data;

        for (size_t i = 0, k; i < size; i += k) {
                k = utf8_sequence(p + i, size - i);
                if (k == 0) {
                        put(t, REPLACEMENT, 3);
                        k = 1;
                } else if (p[i] == '"' || p[i] == '\\') {
                        t->data[t->n++] = '\\';
                        t->data[t->n++] = (char)p[i];
                } else if (p[i] < ' ') {
                        put(t, "\\u00", 4);
                        t->data[t->n++] = hex[p[i] >> 4];
                        t->data[t->n++] = hex[p[i] & 15];
                } else
                        put(t, data + i, k);
        }
}

static char *plain_line(const char *id, int stream, const char *timestamp, const char *data, size_t size,
        uint64_t truncated, size_t *ret_size)
{
        char fields[64] = "null";
        Text t = {.data = malloc(6 * (size + strlen(id)) + 256)};

        if (!t.data)
                return NULL;
        if (truncated)
                (void)snprintf(fields, sizeof(fields), "{\"truncated_bytes\":%llu}", (unsigned long long)truncated);
        put_str(&t, "{\"timestamp\":\"");
        put_str(&t, timestamp);
        put_str(&t, stream == 1 ? "\",\"level\":\"stdout\",\"node_id\":\"" : "\",\"level\":\"stderr\",\"node_id\":\"");
        put_escaped(&t, id, strlen(id));
        put_str(&t, "\",\"message\":\"");
        put_escaped(&t, data, size);
        put_str(&t, "\",\"target\":null,\"fields\":");
        put_str(&t, fields);
        put(&t, "}\n", 3);
        *ret_size = t.n - 1;
        return t.data;
}

static char *record_line(const char *id, const char *timestamp, json_t *record, size_t *ret_size)
{
        json_t *line = json_object(), *fields = record_fields(record), *target = json_object_get(record, "target");

        (void)json_object_set_new(line, "timestamp", json_string(timestamp));
        (void)json_object_set_new(line, "level", json_string(known_level(json_object_get(record, "level"))));
        (void)json_object_set_new(line, "node_id", json_string(id));
        (void)json_object_set(line, "message", json_object_get(record, "message"));
        (void)json_object_set_new(line, "target", json_is_string(target) ? json_incref(target) : json_null());
        (void)json_object_set_new(line, "fields", json_object_size(fields) > 0 ? json_incref(fields) : json_null());
        json_decref(fields);
        if (json_object_size(line) != 6) { /* one of the setters had no memory */
                json_decref(line);
                return NULL;
        }
        return dump(line, ret_size);
}

char *logger_json_line(const char *id, int stream, uint64_t wall_ns, const char *data, size_t size,
        uint64_t truncated, size_t *ret_size)
{
        json_t *record = stream == 1 && truncated == 0 ? parse_record(data, size) : NULL;
        char timestamp[64], *line;

        format_time(timestamp, sizeof(timestamp), wall_ns);
        if (!record)
                return plain_line(id, stream, timestamp, data, size, truncated, ret_size);
        line = record_line(id, timestamp, record, ret_size);
        json_decref(record);
        return line;
}

int logger_json_lost(char *buf, size_t size, const char *id, uint64_t wall_ns, uint64_t n_lines, int error)
{
        char timestamp[64];
        int n;

        format_time(timestamp, sizeof(timestamp), wall_ns);
        n = snprintf(buf, size,
                "{\"timestamp\":\"%s\",\"level\":\"warn\",\"node_id\":\"%s\",\"message\":\"%llu lines are missing here: %s\","
                "\"target\":\"tidegate\",\"fields\":{\"lost_lines\":%llu}}\n",
                timestamp, id, (unsigned long long)n_lines,
                error == ETIMEDOUT ? "writing log files took too long" : strerror(error),
                        (unsigned long long)n_lines);
        return n > 0 && (size_t)n < size ? n : -1;
}
