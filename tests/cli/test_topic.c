/* SPDX-License-Identifier: Apache-2.0 */
/* How `tidegate topic` shows messages: what is text, where it is cut, and that nothing in it gives a terminal orders. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/topic-show.h"
#include "cli/topic-stats.h"

static bool is_text(const char *text, bool cut)
{
        return show_is_text((const uint8_t *)text, strlen(text), cut);
}

static void assert_text(char *take, const char *expected)
{
        cr_assert_not_null(take);
        cr_assert_str_eq(take, expected);
        free(take);
}

#define QUOTED(text, cut, columns) show_quoted((const uint8_t *)(text), strlen(text), cut, columns)

Test(show, text_is_utf8_without_control_characters)
{
        cr_assert(is_text("hello, world\n", false));
        cr_assert(is_text("tab\tand \xc3\xbc\xe2\x82\xac\xf0\x9f\x8c\x8a", false));
        cr_assert_not(is_text("", false), "nothing is no text");
        cr_assert_not(is_text("bell\a", false));
        cr_assert_not(is_text("red \033[31m", false));
        cr_assert_not(is_text("next line \xc2\x85", false), "a control character of two bytes");
        cr_assert_not(is_text("\xff\xfe", false));
        cr_assert_not(show_is_text((const uint8_t *)"a\0b", 3, false));
}

Test(show, a_character_may_be_missing_its_end_only_where_the_payload_was_cut)
{
        cr_assert(is_text("price \xe2\x82", true));
        cr_assert(is_text("\xf0\x9f\x8c", true));
        cr_assert_not(is_text("price \xe2\x82", false));
        cr_assert_not(is_text("price \xe2\x28", true), "that is no beginning of one");
        cr_assert_not(is_text("\x80", true));
        cr_assert_not(is_text("\xe2\x82 and more", true));
}

Test(show, quoted_text_is_escaped_and_fits_its_columns)
{
        assert_text(QUOTED("a \"b\" \\ c\r\n\td", false, SIZE_MAX), "\"a \\\"b\\\" \\\\ c\\r\\n\\td\"");
        assert_text(QUOTED("0123456789", false, 12), "\"0123456789\"");
        assert_text(QUOTED("0123456789", false, 8), "\"012345\"…");
        assert_text(QUOTED("\xc3\xbc\xc3\xbc\xc3\xbc", false, 4), "\"\xc3\xbc\xc3\xbc\"…");
        assert_text(QUOTED("12\n4", false, 5), "\"12\"…");
        assert_text(QUOTED("12", true, 80), "\"12\"…");
        assert_text(QUOTED("12\xe2\x82", true, 80), "\"12\"…");
}

#define TEXT(text, cut, columns) show_text((const uint8_t *)(text), strlen(text), cut, columns)

Test(show, json_is_shown_as_it_is_where_it_is_whole_and_fits)
{
        assert_text(TEXT("{\"move\": [1, 0.10, \"a\\n\"]}", false, SIZE_MAX), "{\"move\": [1, 0.10, \"a\\n\"]}");
        assert_text(TEXT("[1,2]", false, 5), "[1,2]");
        assert_text(TEXT("[1,2]", false, 4), "\"[1\"…");
        assert_text(TEXT("[1,2]", true, 80), "\"[1,2]\"…");
        assert_text(TEXT("[1,\n2]", false, 80), "\"[1,\\n2]\"");
        assert_text(TEXT("{move}", false, 80), "\"{move}\"");
        assert_text(TEXT("17", false, 80), "\"17\"");
}

Test(show, bytes_are_dumped_in_rows_of_sixteen)
{
        uint8_t bytes[18];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)(0x30 + i);
        assert_text(show_hex(bytes, sizeof(bytes)),
                "    00000000  30 31 32 33 34 35 36 37  38 39 3a 3b 3c 3d 3e 3f  0123456789:;<=>?\n"
                "    00000010  40 41                                             @A\n");
        assert_text(show_hex((const uint8_t *)"\033\x7f\xff", 3), "    00000000  1b 7f ff                                          ...\n");
        assert_text(show_hex(bytes, 0), "");
}

Test(show, base64_is_as_everybody_else_has_it)
{
        assert_text(show_base64((const uint8_t *)"foobar", 6), "Zm9vYmFy");
        assert_text(show_base64((const uint8_t *)"fooba", 5), "Zm9vYmE=");
        assert_text(show_base64((const uint8_t *)"foob", 4), "Zm9vYg==");
        assert_text(show_base64((const uint8_t *)"\xff\xfe\x00", 3), "//4A");
        assert_text(show_base64((const uint8_t *)"", 0), "");
}

static size_t encode(uint8_t *to, size_t size)
{
        _cleanup_(params_freep) Params *params = params_new();
        const int64_t box[] = {1, -2};
        int n;

        cr_assert_eq(params_set(params, "rate", &(ParamValue){.type = PARAM_INT, .i = 48000}), 0);
        cr_assert_eq(params_set(params, "last", &(ParamValue){.type = PARAM_BOOL, .b = true}), 0);
        cr_assert_eq(params_set(params, "gain", &(ParamValue){.type = PARAM_FLOAT, .f = -__builtin_inf()}), 0);
        cr_assert_eq(params_set(params, "name", &(ParamValue){.type = PARAM_STRING, .s = "\033[2J"}), 0);
        cr_assert_eq(params_set(params, "box", &(ParamValue){.type = PARAM_INTS, .n = 2, .ints = box}), 0);
        n = params_encode(params, to, size);
        cr_assert_gt(n, 0);
        return (size_t)n;
}

Test(show, metadata_is_json_and_of_what_is_none_nothing_is_shown)
{
        uint8_t bytes[256];
        size_t n = encode(bytes, sizeof(bytes));
        _cleanup_(json_decrefp) json_t *metadata = show_metadata(bytes, n);
        _cleanup_free_ char *text = json_dumps(metadata, JSON_SORT_KEYS | JSON_COMPACT | JSON_ENSURE_ASCII);

        cr_assert_str_eq(text, "{\"box\":[1,-2],\"gain\":\"-inf\",\"last\":true,\"name\":\"\\u001B[2J\",\"rate\":48000}");
        cr_assert_null(show_metadata(bytes, n - 1));
        cr_assert_null(show_metadata(bytes, 0));
        bytes[4] = 99;
        cr_assert_null(show_metadata(bytes, n));
}

/* The time of day is another one each time. */
static void assert_shown(const TopicMessage *message, size_t columns, size_t hex, const char *before, const char *after)
{
        Topic topic = {.name = "camera/image"};
        _cleanup_free_ char *shown = show_message(&topic, message, columns, hex);

        cr_assert_not_null(shown);
        cr_assert_eq(strncmp(shown, before, strlen(before)), 0, "%s", shown);
        cr_assert_gt(strlen(shown), strlen(before) + strlen("00:00:00.000"));
        cr_assert_str_eq(shown + strlen(before) + strlen("00:00:00.000"), after, "%s", shown);
}

Test(show, a_message_is_a_line_with_its_metadata_and_bytes_below_it)
{
        uint8_t meta[256];
        size_t n = encode(meta, sizeof(meta));
        TopicMessage text = {.index = 7, .size = 5, .payload = (const uint8_t *)"hello", .n_payload = 5};
        TopicMessage bytes = {.index = 8, .size = 4096, .payload = (const uint8_t *)"\0\1\2\3", .n_payload = 4, .meta = meta, .n_meta = n};
        TopicMessage none = {.index = 9, .size = 0};

        assert_shown(&text, 0, 64, "camera/image #7 ", " 5 B \"hello\"\n");
        text.size = 4096;
        assert_shown(&text, 0, 64, "camera/image #7 ", " 4.0 KiB \"hello\"…\n");
        text.meta = meta;
        text.n_meta = n - 1;
        assert_shown(&text, 20, 64, "camera/image #7 ", " 4.0 KiB \"hello\"…\n");
        assert_shown(&bytes, 80, 2, "camera/image #8 ",
                " 4.0 KiB {\"box\": [1, -2], \"gain\": \"-inf\", \"last\": true, \"name\": \"\\u001B[2J\", \"rate\": 48000}\n"
                "    00000000  00 01                                             ..\n"
                "    … 4094 bytes more\n");
        assert_shown(&none, 80, 64, "camera/image #9 ", " 0 B\n");
}

Test(show, as_json_it_is_text_or_base64_and_says_what_is_missing)
{
        Topic topic = {.name = "camera/image", .dataflow = "uuid", .generation = 2};
        TopicMessage message = {.index = 7, .time_ns = 99, .size = 5, .payload = (const uint8_t *)"hello", .n_payload = 5, .passed = 3};
        _cleanup_(json_decrefp) json_t *text = show_message_json(&topic, &message), *bytes = NULL;
        _cleanup_free_ char *first = json_dumps(text, JSON_SORT_KEYS | JSON_COMPACT), *second = NULL;

        cr_assert_str_eq(first, "{\"cut\":false,\"dataflow\":\"uuid\",\"generation\":2,\"index\":7,\"metadata\":{},\"passed\":3,\"size\":5,\"text\":\"hello\","
                                "\"time_ns\":99,\"topic\":\"camera/image\"}");
        message.payload = (const uint8_t *)"\xff\0\0";
        message.n_payload = 3;
        bytes = show_message_json(&topic, &message);
        second = json_dumps(bytes, JSON_SORT_KEYS | JSON_COMPACT);
        cr_assert_str_eq(second, "{\"base64\":\"/wAA\",\"cut\":true,\"dataflow\":\"uuid\",\"generation\":2,\"index\":7,\"metadata\":{},\"passed\":3,\"size\":5,"
                                 "\"time_ns\":99,\"topic\":\"camera/image\"}");
}

/* ---- how often */

#define MS NSEC_PER_MSEC

static TopicStats stats; /* of one test at a time */

static TopicRate rate_at(nsec_t now)
{
        TopicRate r;

        stats_look(&stats, now, &r);
        return r;
}

#define assert_near(a, b) cr_assert_float_eq(a, b, 1e-6, "%f, not %f", (double)(a), (double)(b))

Test(stats, a_steady_topic_has_one_interval_and_no_deviation)
{
        TopicRate r;

        stats_init(&stats, 10 * NSEC_PER_SEC);
        for (uint64_t i = 0; i < 50; i++)
                stats_add(&stats, i, 20 * NSEC_PER_SEC + i * 20 * MS, 0);
        r = rate_at(21 * NSEC_PER_SEC);
        cr_assert_eq(r.count, 50);
        cr_assert_eq(r.seen, 50);
        assert_near(r.hz, 50);
        assert_near(r.average, 0.02);
        assert_near(r.shortest, 0.02);
        assert_near(r.longest, 0.02);
        assert_near(r.deviation, 0);
        cr_assert_eq(r.silent, 20 * MS);
}

Test(stats, intervals_are_of_messages_that_were_seen_one_after_the_other)
{
        TopicRate r;

        stats_init(&stats, 10 * NSEC_PER_SEC);
        stats_add(&stats, 10, 1000 * MS, 0);
        stats_add(&stats, 11, 1010 * MS, 0);
        stats_add(&stats, 21, 1130 * MS, 9); /* nine have passed */
        stats_add(&stats, 22, 1160 * MS, 0);
        r = rate_at(1160 * MS);
        cr_assert_eq(r.count, 13);
        cr_assert_eq(r.seen, 4);
        assert_near(r.average, 0.160 / 12);
        assert_near(r.hz, 12 / 0.160);
        assert_near(r.shortest, 0.010);
        assert_near(r.longest, 0.030);
        assert_near(r.deviation, 0.010);
}

Test(stats, what_is_older_than_the_window_counts_no_more_and_silence_slows_the_rate)
{
        TopicRate r;

        stats_init(&stats, NSEC_PER_SEC);
        for (uint64_t i = 0; i < 200; i++)
                stats_add(&stats, i, 5 * NSEC_PER_SEC + i * 10 * MS, 0);
        r = rate_at(7 * NSEC_PER_SEC);
        assert_near(r.hz, 100);
        cr_assert(r.count >= 97 && r.count <= 101, "%lu", r.count);
        cr_assert_lt(rate_at(7500 * MS).hz, 60);
        r = rate_at(9 * NSEC_PER_SEC);
        cr_assert_eq(r.count, 0);
        cr_assert_eq(r.silent, NSEC_NEVER);
        cr_assert_eq(r.hz, 0);
        cr_assert_not(r.has_intervals);
}

Test(stats, another_life_begins_without_an_interval_to_the_one_before)
{
        TopicRate r;

        stats_init(&stats, 10 * NSEC_PER_SEC);
        stats_add(&stats, 7, 1000 * MS, 0);
        stats_add(&stats, 8, 1010 * MS, 0);
        stats_begin_life(&stats);
        stats_add(&stats, 9, 3000 * MS, 0);
        cr_assert_not(rate_at(3000 * MS).has_intervals);
        stats_add(&stats, 10, 3005 * MS, 0);
        r = rate_at(3005 * MS);
        cr_assert_eq(r.count, 4);
        assert_near(r.longest, 0.005);
        assert_near(r.hz, 200);
}

Test(stats, one_message_has_a_count_and_no_rate)
{
        TopicRate r;

        stats_init(&stats, NSEC_PER_SEC);
        cr_assert_eq(rate_at(NSEC_PER_SEC).count, 0);
        stats_add(&stats, 0, 5 * NSEC_PER_SEC, 0);
        r = rate_at(5 * NSEC_PER_SEC);
        cr_assert_eq(r.count, 1);
        cr_assert_eq(r.hz, 0);
        cr_assert_not(r.has_intervals);
}

Test(stats, more_messages_than_are_remembered_are_counted_all_the_same)
{
        TopicRate r;

        stats_init(&stats, NSEC_PER_SEC);
        for (uint64_t i = 0; i < 3 * STATS_SEEN; i++)
                stats_add(&stats, i, 5 * NSEC_PER_SEC + i * 10 * NSEC_PER_USEC, 0);
        r = rate_at(5 * NSEC_PER_SEC + 3 * STATS_SEEN * 10 * NSEC_PER_USEC);
        cr_assert_eq(r.count, 3 * STATS_SEEN);
        cr_assert_eq(r.seen, STATS_SEEN);
        cr_assert_float_eq(r.hz, 100000, 1);
}

Test(stats, the_plot_has_the_present_at_its_right_and_as_many_columns_as_it_may)
{
        char plot[3 * STATS_SLOTS + 1];

        stats_init(&stats, 60 * NSEC_PER_SEC); /* a second each */
        stats_add(&stats, 0, 90 * NSEC_PER_SEC, 0);
        for (uint64_t i = 0; i < 8; i++)
                stats_add(&stats, 1 + i, 92 * NSEC_PER_SEC, 0);
        stats_add(&stats, 9, 93 * NSEC_PER_SEC, 3);
        stats_plot(&stats, 94 * NSEC_PER_SEC, 6, true, plot);
        cr_assert_str_eq(plot, " . @= ");
        stats_plot(&stats, 94 * NSEC_PER_SEC, 6, false, plot);
        cr_assert_str_eq(plot, " ▁ █▄ ");
        stats_plot(&stats, 94 * NSEC_PER_SEC, 1000, false, plot);
        cr_assert_eq(strlen(plot), STATS_SLOTS - 3 + 9);
        stats_plot(&stats, 94 * NSEC_PER_SEC, 0, false, plot);
        cr_assert_str_eq(plot, "");
        stats_plot(&stats, 994 * NSEC_PER_SEC, 4, true, plot);
        cr_assert_str_eq(plot, "    ", "all of it is past");
}
