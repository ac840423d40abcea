/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "descriptor/diagnostics.h"

typedef struct Fixture {
        Arena arena;
        Source *source;
        Diagnostics diags;
} Fixture;

static void fixture_open(Fixture *fx, const char *text)
{
        *fx = (Fixture){.diags = DIAGNOSTICS_INIT};
        cr_assert(source_from_memory(&fx->source, &fx->arena, "f.yml", text, strlen(text), &fx->diags) == 0);
}

static void fixture_close(Fixture *fx)
{
        diagnostics_done(&fx->diags);
        arena_done(&fx->arena);
}

static void expect_rendered(Fixture *fx, const char *wanted)
{
        _cleanup_free_ char *text = NULL;

        cr_assert(diagnostics_render(&fx->diags, false, true, &text) == 0);
        cr_expect_str_eq(text, wanted, "%s", text);
        fixture_close(fx);
}

Test(diagnostics, show_the_line_a_caret_and_what_was_meant)
{
        Fixture fx;

        fixture_open(&fx, "a: 1\n  queue_sise: 3\n");
        diagnostics_error_hint(&fx.diags, span_at(fx.source, 7, 10), "queue_size", "unknown key %s",
                QUOTE("queue_sise"));
        expect_rendered(&fx, "f.yml:2:3: error: unknown key \"queue_sise\"\n"
                             "      queue_sise: 3\n"
                             "      ^~~~~~~~~~\n"
                             "    did you mean \"queue_size\"?\n");
}

Test(diagnostics, count_characters_not_bytes)
{
        Fixture fx;

        fixture_open(&fx, "é\tü: x\n");
        diagnostics_warning(&fx.diags, span_at(fx.source, 3, 2), "w");
        expect_rendered(&fx, "f.yml:1:3: warning: w\n    é ü: x\n      ^\n");
}

Test(diagnostics, without_a_place_name_the_file_only)
{
        Fixture fx;

        fixture_open(&fx, "");
        diagnostics_error_in(&fx.diags, "other.yml", "gone");
        diagnostics_error_in(&fx.diags, NULL, "nowhere");
        expect_rendered(&fx, "other.yml: error: gone\nerror: nowhere\n");
}

Test(diagnostics, beyond_the_end_of_the_text_point_to_its_end)
{
        Fixture fx;

        fixture_open(&fx, "ab");
        diagnostics_error(&fx.diags, span_at(fx.source, 100, 5), "end");
        expect_rendered(&fx, "f.yml:1:3: error: end\n    ab\n      ^\n");
}

Test(diagnostics, make_hostile_text_harmless)
{
        Fixture fx;

        fixture_open(&fx, "x\xe2\x80\xaey\n"); /* right-to-left override */
        diagnostics_error(&fx.diags, span_at(fx.source, 0, 1), "%s", QUOTE("a\033[31m\nb\xff\xe2\x80\xae"));
        expect_rendered(&fx, "f.yml:1:1: error: \"a?[31m?b??\"\n    x?y\n    ^\n");
}

Test(diagnostics, cut_long_text)
{
        _cleanup_free_ char *text = NULL, *id = calloc(1, 10001), *line = calloc(1, 20001);
        Fixture fx;

        memset(id, 'x', 10000);
        memset(line, 'y', 20000);
        fixture_open(&fx, line);
        diagnostics_error(&fx.diags, span_at(fx.source, 10000, 5000), "%s", QUOTE(id));
        diagnostics_error_hint(&fx.diags, span_at(fx.source, 3, 1), id, "%s", id);
        cr_assert(diagnostics_render(&fx.diags, false, true, &text) == 0);
        cr_expect_lt(strlen(text), 2500, "%zu", strlen(text));
        cr_expect(strstr(text, "xxx…\"\n") != NULL && strstr(text, "\n    …yyy") != NULL);
        cr_expect(utf8_valid(text, strlen(text)));
        fixture_close(&fx);
}

Test(diagnostics, of_a_long_path_show_the_end)
{
        char path[601];

        cr_expect_str_eq(QUOTE_PATH("/a b/\n"), "\"/a b/?\"");
        memset(path, 'x', sizeof(path));
        memcpy(path, "/start", 6);
        strcpy(path + 590, "/program");
        cr_expect(strncmp(QUOTE_PATH(path), "\"…xxx", 7) == 0 && strstr(QUOTE_PATH(path), "x/program\"") != NULL);
        for (size_t i = 0; i + 2 < sizeof(path); i += 2)
                memcpy(path + i, "é", 3);
        cr_expect(utf8_valid(QUOTE_PATH(path), strlen(QUOTE_PATH(path))));
        cr_expect(utf8_valid(QUOTE_PATH(path + 2), strlen(QUOTE_PATH(path + 2))));
}

Test(diagnostics, say_the_same_thing_once)
{
        Fixture fx;

        fixture_open(&fx, "ab");
        for (int i = 0; i < 3; i++)
                diagnostics_error(&fx.diags, span_at(fx.source, 0, 1), "once");
        diagnostics_error(&fx.diags, span_at(fx.source, 1, 1), "once");
        cr_expect_eq(fx.diags.n, 2);
        cr_expect_eq(fx.diags.n_errors, 2);
        fixture_close(&fx);
}

Test(diagnostics, are_sorted_by_place_with_files_in_order_of_mention)
{
        Diagnostics diags = DIAGNOSTICS_INIT;
        Arena arena = ARENA_INIT(0);
        Source *a, *b;

        cr_assert(source_from_memory(&a, &arena, "a", "x\ny\nz", 5, &diags) == 0);
        cr_assert(source_from_memory(&b, &arena, "b", "x\ny\nz", 5, &diags) == 0);
        diagnostics_error(&diags, span_at(b, 2, 1), "b2");
        diagnostics_error(&diags, span_at(a, 4, 1), "a3");
        diagnostics_error(&diags, span_at(b, 0, 1), "b1");
        diagnostics_error(&diags, span_at(a, 0, 1), "a1 first");
        diagnostics_error(&diags, span_at(a, 0, 1), "a1 second");
        diagnostics_sort(&diags);
        cr_expect_str_eq(diags.items[0].message, "b1");
        cr_expect_str_eq(diags.items[1].message, "b2");
        cr_expect_str_eq(diags.items[2].message, "a1 first");
        cr_expect_str_eq(diags.items[3].message, "a1 second");
        cr_expect_str_eq(diags.items[4].message, "a3");
        diagnostics_done(&diags);
        arena_done(&arena);
}

Test(diagnostics, beyond_a_hundred_are_counted_and_errors_go_before_warnings)
{
        Fixture fx;

        fixture_open(&fx, "x");
        for (int i = 0; i < 150; i++)
                diagnostics_warning(&fx.diags, span_at(fx.source, 0, 1), "warning %d", i);
        for (int i = 0; i < 150; i++)
                diagnostics_error(&fx.diags, span_at(fx.source, 0, 1), "error %d", i);
        cr_expect_eq(fx.diags.n, DIAGNOSTICS_MAX);
        cr_expect_eq(fx.diags.n_errors, 150);
        cr_expect_eq(fx.diags.n_warnings, 150);
        cr_expect_eq(fx.diags.n_dropped, 200);
        for (size_t i = 0; i < fx.diags.n; i++)
                cr_expect_eq(fx.diags.items[i].severity, SEVERITY_ERROR);
        cr_expect_str_eq(fx.diags.items[0].message, "error 0");
        fixture_close(&fx);
}

Test(diagnostics, as_json_hold_what_is_known)
{
        _cleanup_(json_decrefp) json_t *got = NULL, *wanted = NULL;
        Fixture fx;

        fixture_open(&fx, "abc");
        diagnostics_error_hint(&fx.diags, span_at(fx.source, 1, 1), "x", "m");
        diagnostics_error_in(&fx.diags, "g", "n");
        got = diagnostics_to_json(&fx.diags);
        wanted = json_pack("[{s:s,s:s,s:i,s:i,s:s,s:s,s:s},{s:s,s:s,s:i,s:i,s:s}]", "severity", "error", "file",
                "f.yml", "line",
                1, "column", 2, "message", "m", "suggestion", "x", "text", "abc", "severity", "error", "file", "g",
                "line", 0,
                "column", 0, "message", "n");
        cr_expect(json_equal(got, wanted));
        fixture_close(&fx);
}

/* What a text of size bytes is refused with, "" when it is not. */
static char *refusal(const void *data, size_t size)
{
        Diagnostics diags = DIAGNOSTICS_INIT;
        Arena arena = ARENA_INIT(0);
        Source *source;
        char *text;
        int r = source_from_memory(&source, &arena, "f", data, size, &diags);

        cr_expect_eq(r == 0, diags.n == 0);
        text = strdup(diags.n ? diags.items[0].message : "");
        if (r == 0)
                cr_expect_eq(source->lines[0], 0);
        diagnostics_done(&diags);
        arena_done(&arena);
        return text;
}

static void expect_refusal(const char *data, size_t size, const char *wanted)
{
        _cleanup_free_ char *got = refusal(data, size);

        cr_expect(*wanted ? strstr(got, wanted) != NULL : !*got, "wanted %s, got %s", wanted, got);
}

Test(source, takes_utf8_text_only)
{
        expect_refusal("a: b\r\n\tc\n", 9, "");
        expect_refusal("\xef\xbb\xbf" "a", 4, "");
        expect_refusal("a\xc2\x85" "b\xe2\x82\xac\xf0\x9f\x8c\x8a", 11, "");
        expect_refusal("", 0, "");
        expect_refusal("a\0b", 3, "binary data");
        expect_refusal("ab\0", 3, "U+0000");
        expect_refusal("a\033", 2, "U+001B");
        expect_refusal("a\x7f", 2, "U+007F");
        expect_refusal("a\xc2\x80", 3, "U+0080");
        expect_refusal("a\xef\xbf\xbe", 4, "U+FFFE");
        expect_refusal("a\xff", 2, "0xff");
        expect_refusal("a\xc0\xaf", 3, "0xc0");         /* overlong */
        expect_refusal("a\xe0\x80\xaf", 4, "0xe0");
        expect_refusal("a\xf0\x80\x80\xaf", 5, "0xf0");
        expect_refusal("a\xed\xa0\x80", 4, "0xed");     /* surrogate */
        expect_refusal("a\xf4\x90\x80\x80", 5, "0xf4"); /* beyond Unicode */
        expect_refusal("a\xe2\x82", 3, "0xe2");         /* cut short */
        expect_refusal("\xff\xfe" "a\0", 4, "UTF-16");
        expect_refusal("a\0b\0", 4, "UTF-16 or binary");
}

Test(source, has_a_limit_for_the_file_and_for_a_line)
{
        _cleanup_free_ char *text = malloc(SOURCE_MAX + 1);

        memset(text, '\n', SOURCE_MAX + 1);
        expect_refusal(text, SOURCE_MAX, "");
        expect_refusal(text, SOURCE_MAX + 1, "larger than 1048576 bytes");
        memset(text + 10, 'x', SOURCE_LINE_MAX);
        expect_refusal(text, SOURCE_MAX, "");
        memset(text + 10, 'x', SOURCE_LINE_MAX + 2);
        expect_refusal(text, SOURCE_MAX, "line is longer");
}

Test(source, knows_lines_by_any_line_end)
{
        Fixture fx;
        size_t size;

        fixture_open(&fx, "a\nb\r\nc\rd");
        cr_expect_eq(fx.source->n_lines, 4);
        cr_expect_eq(source_position(fx.source, 5).line, 3);
        cr_expect_eq(source_position(fx.source, 7).line, 4);
        cr_expect(*source_line(fx.source, 2, &size) == 'b' && size == 1);
        cr_expect(*source_line(fx.source, 9, &size) == '\0' && size == 0);
        fixture_close(&fx);
}

static void expect_unreadable(const char *path, const char *wanted)
{
        Diagnostics diags = DIAGNOSTICS_INIT;
        Arena arena = ARENA_INIT(0);
        nsec_t before = clock_now();
        Source *source;

        cr_expect_eq(source_from_file(&source, &arena, path, "shown", (Span){0}, &diags), SOURCE_E_REFUSED);
        cr_expect_lt(clock_now() - before, NSEC_PER_SEC);
        cr_assert_eq(diags.n, 1);
        cr_expect_str_eq(diags.items[0].file, "shown");
        cr_expect(strstr(diags.items[0].message, wanted) != NULL, "%s", diags.items[0].message);
        diagnostics_done(&diags);
        arena_done(&arena);
}

Test(source, is_a_regular_file_or_nothing, .timeout = 10)
{
        char dir[] = "/tmp/tg-source-XXXXXX", path[64];

        cr_assert(mkdtemp(dir) != NULL);
        expect_unreadable("/nonexistent/x", "No such file");
        expect_unreadable(dir, "a directory");
        expect_unreadable("/dev/zero", "a device");
        expect_unreadable("/dev/tty", "a device");
        sprintf(path, "%s/fifo", dir);
        cr_assert(mkfifo(path, 0600) == 0);
        expect_unreadable(path, "a FIFO");
        (void)unlink(path);
        (void)rmdir(dir);
}

Test(arena, gives_zeroed_memory_and_fails_at_its_budget)
{
        Arena arena = ARENA_INIT(100000);
        unsigned *numbers = NULL;

        for (unsigned i = 0; i < 1000; i++) {
                unsigned *slot = arena_grow(&arena, &numbers, i, sizeof(unsigned));

                cr_assert(slot != NULL && *slot == 0);
                *slot = i;
        }
        for (unsigned i = 0; i < 1000; i++)
                cr_assert_eq(numbers[i], i);
        cr_expect_not_null(arena_alloc(&arena, 50000));
        cr_expect_not(arena.failed);
        cr_expect_null(arena_alloc(&arena, 50000));
        cr_expect_null(arena_alloc(&arena, SIZE_MAX));
        cr_expect(arena.failed);
        arena_done(&arena);
}
