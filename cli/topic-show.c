/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/topic-show.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "cli/print.h"

#define HEX_ROW 16u

/* ---- text */

/* Whether what is left at the end of a piece that was cut may be the beginning of a character. */
static bool is_beginning(const uint8_t *p, size_t left)
{
        size_t want = p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;

        if (p[0] >= 0xf5 || left >= want)
                return false;
        for (size_t i = 1; i < left; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return false;
        return true;
}

/* Bytes of the character at @p; 0: it is none, or one that does not belong into a text. */
static size_t text_character(const uint8_t *p, size_t left)
{
        size_t n = utf8_sequence(p, left);
        bool control = (p[0] < ' ' && p[0] != '\t' && p[0] != '\n' && p[0] != '\r') || p[0] == 0x7f || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0);

        return control ? 0 : n;
}

bool show_is_text(const uint8_t *data, size_t size, bool cut)
{
        for (size_t i = 0; i < size;) {
                size_t n = text_character(data + i, size - i);

                if (n == 0)
                        return cut && is_beginning(data + i, size - i);
                i += n;
        }
        return size > 0;
}

static const char *escape_of(uint8_t c)
{
        switch (c) {
        case '"':
                return "\\\"";
        case '\\':
                return "\\\\";
        case '\n':
                return "\\n";
        case '\r':
                return "\\r";
        case '\t':
                return "\\t";
        default:
                return NULL;
        }
}

char *show_quoted(const uint8_t *data, size_t size, bool cut, size_t columns)
{
        char *text = malloc(2 * size + 8), *to = text;
        size_t width = 2, i = 0;

        if (!text)
                return NULL;
        *to++ = '"';
        while (i < size) {
                const char *escape = escape_of(data[i]);
                size_t n = text_character(data + i, size - i);

                if (n == 0) { /* the beginning of a character, at the end */
                        cut = true;
                        break;
                }
                if (width + (escape ? 2 : 1) > columns) {
                        cut = true;
                        break;
                }
                width += escape ? 2 : 1;
                if (escape)
                        to = stpcpy(to, escape);
                else
                        to = mempcpy(to, data + i, n);
                i += n;
        }
        *to++ = '"';
        (void)stpcpy(to, cut ? "…" : "");
        return text;
}

static bool is_json_line(const uint8_t *data, size_t size)
{
        json_t *json;
        bool is;

        if (size == 0 || (data[0] != '{' && data[0] != '['))
                return false;
        for (size_t i = 0; i < size; i++)
                if (data[i] == '\n' || data[i] == '\r' || data[i] == '\t')
                        return false;
        json = json_loadb((const char *)data, size, 0, NULL);
        is = json != NULL;
        json_decref(json);
        return is;
}

char *show_text(const uint8_t *data, size_t size, bool cut, size_t columns)
{
        if (cut || size > columns || !is_json_line(data, size))
                return show_quoted(data, size, cut, columns);
        return strndup((const char *)data, size); /* not written anew: its numbers stay as they were sent */
}

/* ---- bytes */

char *show_hex(const uint8_t *data, size_t size)
{
        size_t rows = (size + HEX_ROW - 1) / HEX_ROW, room = rows * 96 + 1;
        char *text = malloc(room), *to = text;

        if (!text)
                return NULL;
        *to = '\0';
        for (size_t at = 0; at < size; at += HEX_ROW) {
                size_t n = MIN((size_t)HEX_ROW, size - at);

                to += sprintf(to, "    %08zx ", at);
                for (size_t i = 0; i < HEX_ROW; i++)
                        to += i < n ? sprintf(to, "%s%02x", i == 8 ? "  " : " ", data[at + i]) : sprintf(to, "%s", i == 8 ? "    " : "   ");
                to = stpcpy(to, "  ");
                for (size_t i = 0; i < n; i++)
                        *to++ = data[at + i] >= ' ' && data[at + i] < 0x7f ? (char)data[at + i] : '.';
                *to++ = '\n';
                *to = '\0';
        }
        return text;
}

char *show_base64(const uint8_t *data, size_t size)
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char *text = malloc((size + 2) / 3 * 4 + 1), *to = text;

        if (!text)
                return NULL;
        for (size_t i = 0; i < size; i += 3) {
                size_t n = MIN((size_t)3, size - i);
                uint32_t bits = (uint32_t)data[i] << 16 | (n > 1 ? (uint32_t)data[i + 1] << 8 : 0) | (n > 2 ? data[i + 2] : 0);

                for (unsigned k = 0; k < 4; k++)
                        *to++ = k <= n ? digits[bits >> (18 - 6 * k) & 63] : '=';
        }
        *to = '\0';
        return text;
}

/* ---- metadata */

static json_t *value_json(const ParamValue *value)
{
        json_t *list = value->type >= PARAM_INTS ? json_array() : NULL;

        switch (value->type) {
        case PARAM_BOOL:
                return json_boolean(value->b);
        case PARAM_INT:
                return json_integer(value->i);
        case PARAM_FLOAT: /* JSON has no infinity and no NaN */
                return json_real(value->f) ?: json_string(value->f > 0 ? "inf" : value->f < 0 ? "-inf" : "nan");
        case PARAM_STRING:
                return json_string(value->s);
        case PARAM_INTS:
        case PARAM_FLOATS:
        case PARAM_STRINGS:
                for (size_t i = 0; i < value->n; i++) {
                        ParamValue one = value->type == PARAM_INTS     ? (ParamValue){.type = PARAM_INT, .i = value->ints[i]}
                                         : value->type == PARAM_FLOATS ? (ParamValue){.type = PARAM_FLOAT, .f = value->floats[i]}
                                                                       : (ParamValue){.type = PARAM_STRING, .s = value->strings[i]};

                        (void)json_array_append_new(list, value_json(&one));
                }
                return list;
        }
        return NULL;
}

json_t *show_metadata(const uint8_t *meta, size_t size)
{
        _cleanup_(params_freep) Params *params = NULL;
        const ParamValue *value;
        const char *key;
        json_t *object;

        if (size == 0 || params_decode(&params, meta, size))
                return NULL;
        object = json_object();
        for (size_t i = 0; (value = params_at(params, i, &key)); i++)
                (void)json_object_set_new(object, key, value_json(value));
        return object;
}

/* ---- a message */

static void format_clock(char *buffer, size_t size, uint64_t time_ns)
{
        long long ms = wall_ms((long long)(time_ns / NSEC_PER_MSEC));
        time_t seconds = (time_t)(ms / 1000);
        struct tm tm;
        size_t n = localtime_r(&seconds, &tm) ? strftime(buffer, size, "%H:%M:%S", &tm) : 0;

        (void)snprintf(buffer + n, size - n, ".%03lld", ((ms % 1000) + 1000) % 1000);
}

char *show_message(const Topic *topic, const TopicMessage *message, size_t columns, size_t hex)
{
        bool cut = message->n_payload < message->size, text = show_is_text(message->payload, message->n_payload, cut);
        _cleanup_(json_decrefp) json_t *metadata = show_metadata(message->meta, message->n_meta);
        _cleanup_free_ char *meta = metadata ? json_dumps(metadata, JSON_SORT_KEYS | JSON_ENSURE_ASCII) : NULL, *body = NULL;
        char head[600], size[32], clock[40], more[80] = "";
        char *result = NULL;
        size_t used;

        format_clock(clock, sizeof(clock), message->time_ns);
        format_bytes(size, sizeof(size), message->size);
        (void)snprintf(head, sizeof(head), "%s #%llu %s %s", topic->name, (unsigned long long)message->index, clock, size);
        used = strlen(head) + 1;
        if (text)
                body = show_text(message->payload, message->n_payload, cut, columns == 0 ? SIZE_MAX : columns > used + 13 ? columns - used - 1 : 12);
        else if (message->n_payload > 0)
                body = show_hex(message->payload, MIN(hex, message->n_payload));
        else
                body = strdup("");
        if (!text && message->size > MIN(hex, message->n_payload))
                (void)snprintf(more, sizeof(more), "    … %llu bytes more\n", (unsigned long long)(message->size - MIN(hex, message->n_payload)));
        if (!body || asprintf(&result, "%s%s%s%s%s%s%s%s", head, text ? " " : "", text ? body : "", meta ? (text ? "\n    " : " ") : "", meta ? meta : "", "\n",
                            text ? "" : body, more) < 0)
                return NULL;
        return result;
}

json_t *show_message_json(const Topic *topic, const TopicMessage *message)
{
        bool cut = message->n_payload < message->size, text = show_is_text(message->payload, message->n_payload, false);
        _cleanup_free_ char *base64 = text || message->n_payload == 0 ? NULL : show_base64(message->payload, message->n_payload);
        json_t *metadata = show_metadata(message->meta, message->n_meta);
        json_t *object = json_pack("{ss ss sI sI sI sI sI sb}", "topic", topic->name, "dataflow", topic->dataflow, "generation", (json_int_t)topic->generation,
                "index", (json_int_t)message->index, "time_ns", (json_int_t)message->time_ns, "size", (json_int_t)message->size, "passed",
                (json_int_t)message->passed, "cut", cut);

        if (object && base64)
                (void)json_object_set_new(object, "base64", json_string(base64));
        else if (object)
                (void)json_object_set_new(object, "text", json_stringn((const char *)message->payload, message->n_payload));
        if (object)
                (void)json_object_set_new(object, "metadata", metadata ? metadata : json_object());
        else
                json_decref(metadata);
        return object;
}
