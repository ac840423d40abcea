/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "supervisor/logger-json.h"

static json_t *line_of(int stream, const char *data, size_t size, uint64_t truncated)
{
        size_t n = 0;
        char *text = logger_json_line("cam", stream, UINT64_C(1700000000123456789), data, size, truncated, &n);
        json_t *json;

        cr_assert(text);
        cr_assert_eq(strlen(text), n);
        cr_assert_eq(text[n - 1], '\n');
        cr_assert_eq(memchr(text, '\n', n), text + n - 1, "more than one line");
        json = json_loads(text, JSON_ALLOW_NUL, NULL);
        cr_assert(json, "%s", text);
        free(text);
        return json;
}

static const char *get(json_t *json, const char *key)
{
        const char *s = json_string_value(json_object_get(json, key));

        return s ? s : "(none)";
}

Test(logger_json, a_plain_line_has_the_six_keys_in_order)
{
        size_t n;
        char *text = logger_json_line("cam", 1, UINT64_C(1700000000123456789), "hello", 5, 0, &n);

        cr_assert_str_eq(text,
                "{\"timestamp\":\"2023-11-14T22:13:20.123456789Z\",\"level\":\"stdout\",\"node_id\":\"cam\","
                               "\"message\":\"hello\",\"target\":null,\"fields\":null}\n");
        free(text);
}

Test(logger_json, stderr_has_its_level_and_is_never_parsed)
{
        json_t *j = line_of(2, "{\"level\":\"info\",\"message\":\"m\"}", 30, 0);

        cr_assert_str_eq(get(j, "level"), "stderr");
        cr_assert_str_eq(get(j, "message"), "{\"level\":\"info\",\"message\":\"m\"}");
        json_decref(j);
}

Test(logger_json, a_record_on_stdout_gives_level_message_target_and_fields)
{
        static const char text[] = "{\"timestamp\":\"x\",\"level\":\"WARNING\",\"message\":\"hot\",\"target\":\"a::b\",\"fields\":{\"t\":1},\"pid\":7}";
        json_t *j = line_of(1, text, sizeof(text) - 1, 0), *fields = json_object_get(j, "fields");

        cr_assert_str_eq(get(j, "level"), "warn");
        cr_assert_str_eq(get(j, "message"), "hot");
        cr_assert_str_eq(get(j, "target"), "a::b");
        cr_assert_str_eq(get(j, "timestamp"), "2023-11-14T22:13:20.123456789Z");
        cr_assert_eq(json_integer_value(json_object_get(fields, "t")), 1);
        cr_assert_eq(json_integer_value(json_object_get(fields, "pid")), 7);
        cr_assert_eq(json_object_size(fields), 2);
        json_decref(j);
}

Test(logger_json, what_only_looks_like_a_record_stays_a_line)
{
        static const char *const lines[] = {"{", "{}", "{\"level\":\"info\"}",
                "{\"level\":\"loud\",\"message\":\"m\"}",
                "{\"level\":1,\"message\":\"m\"}", "{\"level\":\"info\",\"message\":1}", "[1]",
                        "{\"level\":\"info\",\"message\":\"m\"} x"};

        for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
                json_t *j = line_of(1, lines[i], strlen(lines[i]), 0);

                cr_assert_str_eq(get(j, "level"), "stdout");
                cr_assert_str_eq(get(j, "message"), lines[i]);
                json_decref(j);
        }
}

Test(logger_json, deep_nesting_is_a_line_like_any_other)
{
        static char deep[60000];
        json_t *j;

        memset(deep, '[', sizeof(deep));
        memcpy(deep, "{\"message\":\"m\",\"level\":\"info\",\"fields\":", 40);
        j = line_of(1, deep, sizeof(deep), 0);
        cr_assert_str_eq(get(j, "level"), "stdout");
        json_decref(j);
}

Test(logger_json, bytes_that_are_not_utf8_are_replaced_and_nul_is_kept)
{
        json_t *j = line_of(1, "a\xff\0b\xc3\xa4\xe2\x82", 8, 0);
        json_t *m = json_object_get(j, "message");

        cr_assert_eq(json_string_length(m), 1 + 3 + 1 + 1 + 2 + 3 + 3);
        cr_assert_eq(memcmp(json_string_value(m), "a\xef\xbf\xbd\0b\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd", 14), 0);
        json_decref(j);
}

Test(logger_json, forbidden_utf8_forms_are_replaced)
{
        static const char *const bad[] = {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                "\xf8\x88\x80\x80", "\x80"};
        static const char *const good[] = {"\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf", "\x7f"};

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                json_t *j = line_of(1, bad[i], strlen(bad[i]), 0);

                cr_assert_eq(strlen(get(j, "message")), 3 * strlen(bad[i]), "case %zu", i);
                json_decref(j);
        }
        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                json_t *j = line_of(1, good[i], strlen(good[i]), 0);

                cr_assert_str_eq(get(j, "message"), good[i]);
                json_decref(j);
        }
}

Test(logger_json, every_byte_below_a_space_quotes_and_backslashes_are_escaped)
{
        char all[34];
        json_t *j;

        for (int i = 0; i < 32; i++)
                all[i] = (char)i;
        all[32] = '"';
        all[33] = '\\';
        j = line_of(2, all, sizeof(all), 0);
        cr_assert_eq(json_string_length(json_object_get(j, "message")), sizeof(all));
        cr_assert_eq(memcmp(get(j, "message"), all, sizeof(all)), 0);
        json_decref(j);
}

Test(logger_json, a_cut_line_says_how_much_is_missing_and_is_not_parsed)
{
        static const char text[] = "{\"level\":\"info\",\"message\":\"m\"}";
        json_t *j = line_of(1, text, sizeof(text) - 1, 12345);

        cr_assert_str_eq(get(j, "level"), "stdout");
        cr_assert_eq(json_integer_value(json_object_get(json_object_get(j, "fields"), "truncated_bytes")), 12345);
        json_decref(j);
}

Test(logger_json, lost_lines_are_a_record_of_their_own)
{
        char buf[512];
        int n = logger_json_lost(buf, sizeof(buf), "cam", 0, 17, ENOSPC);
        json_t *j;

        cr_assert(n > 0);
        j = json_loads(buf, 0, NULL);
        cr_assert(j);
        cr_assert_eq(json_integer_value(json_object_get(json_object_get(j, "fields"), "lost_lines")), 17);
        cr_assert(strstr(get(j, "message"), "No space left on device"));
        cr_assert_eq(json_object_size(j), 6);
        json_decref(j);
}
