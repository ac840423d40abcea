/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "descriptor/program.h"
#include "descriptor/suggest.h"
#include "descriptor/text.h"

/* Words joined by |, or the outcome as a number. */
static char *split(const char *s)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        const char **words;
        char *out = calloc(1, 4 * strlen(s) + 64);
        size_t n;
        int r = args_split(&arena, s, &words, &n);

        cr_assert(out != NULL);
        if (r)
                sprintf(out, "%d", r);
        for (size_t i = 0; !r && i < n; i++)
                sprintf(out + strlen(out), "%s%s", i ? "|" : "", words[i]);
        return out;
}

static void expect_split(const char *s, const char *wanted)
{
        _cleanup_free_ char *got = split(s);

        cr_expect_str_eq(got, wanted, "%s: %s", s, got);
}

Test(args, are_split_as_a_shell_would_but_nothing_is_expanded)
{
        expect_split("", "");
        expect_split("  \t\n ", "");
        expect_split("a b\tc\nd", "a|b|c|d");
        expect_split("'a b' c", "a b|c");
        expect_split("a'b'c\"d\"e", "abcde");
        expect_split("'' \"\"", "|");
        expect_split("'\\n' \"\\n\" \"\\\\ \\\" \\$ \\`\"", "\\n|\\n|\\ \" $ `");
        expect_split("a\\ b \\' \\\\", "a b|'|\\");
        expect_split("$HOME ~ * `x` #c", "$HOME|~|*|`x`|#c");
        expect_split("a\\\nb \"c\\\nd\"", "ab|cd");
        expect_split("\"it's\" 'say \"hi\"'", "it's|say \"hi\"");
}

Test(args, with_an_unfinished_quote_or_backslash_are_refused)
{
        expect_split("'a", "2");
        expect_split("\"a", "2");
        expect_split("a\\", "2");
        expect_split("\"a\\", "2");
}

Test(args, of_more_bytes_than_the_kernel_takes_in_one_string_are_refused)
{
        _cleanup_free_ char *s = calloc(1, STRING_MAX + 2);

        memset(s, 'x', STRING_MAX);
        expect_split(s, s);
        s[STRING_MAX] = 'x';
        expect_split(s, "1");
}

static char *expanded(const char *s, int wanted)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        const char *out = NULL, *unknown = NULL;
        int r = env_expand(&arena, s, &out, &unknown);

        cr_expect_eq(r, wanted, "%s: %d", s, r);
        return strdup(r == 0 ? out : r == TEXT_E_UNKNOWN ? unknown : "");
}

static void expect_expanded(const char *s, int outcome, const char *wanted)
{
        _cleanup_free_ char *got = expanded(s, outcome);

        cr_expect_str_eq(got, wanted, "%s: %s", s, got);
}

Test(env, strings_are_expanded_from_the_callers_environment)
{
        setenv("TG_A", "one", 1);
        setenv("TG_E", "", 1);
        unsetenv("TG_U");
        expect_expanded("", 0, "");
        expect_expanded("plain", 0, "plain");
        expect_expanded("$TG_A", 0, "one");
        expect_expanded("$TG_A/${TG_A}s", 0, "one/ones");
        expect_expanded("$TG_E|", 0, "|");
        expect_expanded("${TG_U:-d e}|${TG_A:-d}|${TG_U:-}", 0, "d e|one|");
        expect_expanded("$$TG_A $$$TG_A", 0, "$TG_A $one");
        expect_expanded("a$ b$/ $", 0, "a$ b$/ $");
        expect_expanded("${}", 0, "${}");
        expect_expanded("$TG_U", TEXT_E_UNKNOWN, "TG_U");
        expect_expanded("x${TG_U}y", TEXT_E_UNKNOWN, "TG_U");
        expect_expanded("${TG_A", TEXT_E_UNBALANCED, "");
        expect_expanded("${TG_A:-x", TEXT_E_UNBALANCED, "");
        expect_expanded("${TG_A:x}", TEXT_E_UNBALANCED, "");
}

Test(env, a_string_that_grows_beyond_what_the_kernel_takes_is_refused)
{
        _cleanup_free_ char *big = calloc(1, STRING_MAX / 2 + 2);

        memset(big, 'x', STRING_MAX / 2 + 1);
        setenv("TG_BIG", big, 1);
        expect_expanded("$TG_BIG", 0, big);
        expect_expanded("$TG_BIG$TG_BIG", TEXT_E_TOO_LONG, "");
}

Test(path, only_a_few_variables_are_expanded)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        const char *out, *unknown = NULL;

        setenv("HOME", "/home/x", 1);
        setenv("TG_A", "one", 1);
        unsetenv("DORA_WORKSPACE");
        cr_expect_eq(path_expand(&arena, "$HOME/a ${HOME} $TG_A ${TG_A} $ ${HOME:-x}", &out, &unknown), 0);
        cr_expect_str_eq(out, "/home/x/a /home/x $TG_A ${TG_A} $ ${HOME:-x}");
        cr_expect_eq(path_expand(&arena, "$DORA_WORKSPACE/a", &out, &unknown), TEXT_E_UNKNOWN);
        cr_expect_str_eq(unknown, "DORA_WORKSPACE");
}

Test(params, are_put_into_args_by_either_name)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        EnvItem items[] = {{.name = "speed", .value = "2.0"}, {.name = "Mode_2", .value = "a b"},
                {.name = "speed", .value = "outer"}};
        EnvList params = {.items = items, .n = 3};
        const char *out, *unknown;

        cr_expect_eq(params_substitute(&arena, "${_param.speed} $PARAM_SPEED ${PARAM_MODE_2} ${_param.Mode_2}x",
                &params, &out,
                             &unknown),
                0);
        cr_expect_str_eq(out, "2.0 2.0 a b a bx");
        cr_expect_null(unknown);

        cr_expect_eq(params_substitute(&arena, "$PARAM_SPEEDY ${_param.none} $HOME ${_param.} $PARAM_ $", &params,
                &out, &unknown), 0);
        cr_expect_str_eq(out, "$PARAM_SPEEDY ${_param.none} $HOME ${_param.} $PARAM_ $");
        cr_expect_str_eq(unknown, "SPEEDY");
}

Test(numbers, become_the_shortest_text_that_reads_back_the_same)
{
        static const struct {
                double v;
                const char *text;
        } cases[] = {{0, "0"}, {1, "1"}, {-1.5, "-1.5"}, {0.1, "0.1"}, {1e3, "1000"},
                {1e21, "1000000000000000000000"},
                {1.25e-3, "0.00125"}, {123456.789, "123456.789"}, {1.0 / 3, "0.3333333333333333"}, {-0.5, "-0.5"},
                {__builtin_inf(), "inf"}, {-__builtin_inf(), "-inf"}, {__builtin_nan(""), "NaN"}};
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                cr_expect_str_eq(double_to_text(&arena, cases[i].v), cases[i].text);
        cr_expect_eq(strtod(double_to_text(&arena, 1.7976931348623157e308), NULL), 1.7976931348623157e308);
        cr_expect_eq(strtod(double_to_text(&arena, 5e-324), NULL), 5e-324);
}

Test(suggest, counts_edits_up_to_a_limit)
{
        static const struct {
                const char *a, *b;
                unsigned distance;
        } cases[] = {{"", "", 0}, {"abc", "abc", 0}, {"ABC", "abc", 0}, {"queue-size", "queue_size", 0},
                {"abc", "abd", 1},
                {"abc", "ab", 1}, {"abc", "abcd", 1}, {"abc", "acb", 1}, {"abcd", "badc", 2},
                {"kitten", "sitting", 3},
                {"", "abc", 3}, {"abcd", "wxyz", 4}, {"abcdef", "uvwxyz", 5}, {"a", "abcdefg", 5}};
        char longer[60];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                cr_expect_eq(edit_distance(cases[i].a, cases[i].b, 4), cases[i].distance, "%s %s", cases[i].a,
                        cases[i].b);
                cr_expect_eq(edit_distance(cases[i].b, cases[i].a, 4), cases[i].distance, "%s %s", cases[i].b,
                        cases[i].a);
        }
        memset(longer, 'x', sizeof(longer) - 1);
        longer[sizeof(longer) - 1] = '\0';
        cr_expect_eq(edit_distance(longer, longer, 4), 5, "too long to be considered");
}

Test(suggest, takes_the_nearest_name_and_none_that_is_far)
{
        Suggest s = SUGGEST_INIT("queue_sise"), none = SUGGEST_INIT("xyz");

        suggest_offer(&s, "source");
        suggest_offer(&s, "queue_policy");
        suggest_offer(&s, "queue_size");
        suggest_offer(&s, "queue_sizes");
        cr_expect_str_eq(s.best, "queue_size");
        suggest_offer(&none, "abc");
        suggest_offer(&none, "x");
        cr_expect_null(none.best);
}

Test(program, of_a_module_may_not_climb_out_of_the_folder)
{
        cr_expect(path_stays_below("x", "/a/b/c", "/a/b"));
        cr_expect(path_stays_below("../x", "/a/b/c", "/a/b"));
        cr_expect(path_stays_below("./../c/./x", "/a/b/c", "/a/b"));
        cr_expect(!path_stays_below("../../x", "/a/b/c", "/a/b"));
        cr_expect(!path_stays_below("../../b/x", "/a/b/c", "/a/b"));
        cr_expect(!path_stays_below("..", "/a", "/a"));
        cr_expect(path_stays_below("x", "/", "/"));
        cr_expect(!path_stays_below("../x", "/", "/"));
}

Test(program, is_found_beside_the_descriptor_then_in_path_then_nowhere)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);
        char dir[] = "/tmp/tg-program-XXXXXX", path[64], link[64], sub[64];
        FILE *f;

        cr_assert(mkdtemp(dir) != NULL);
        sprintf(path, "%s/sh", dir);
        sprintf(link, "%s/dangling", dir);
        sprintf(sub, "%s/folder", dir);
        setenv("PATH", "relative::/nonexistent:/bin", 1);

        cr_expect_str_eq(program_find(&arena, "sh", dir), "/bin/sh");
        f = fopen(path, "w");
        cr_assert(f != NULL && fclose(f) == 0);
        cr_expect_str_eq(program_find(&arena, "sh", dir), path);
        cr_assert(symlink("/nowhere", link) == 0);
        cr_expect_str_eq(program_find(&arena, "dangling", dir), link, "a link is not followed");
        cr_expect_str_eq(program_find(&arena, "no-such-program", dir), "no-such-program");
        cr_expect_str_eq(program_find(&arena, "/x/../y", dir), "/x/../y");
        cr_expect_str_eq(program_find(&arena, ".//./a/b", "/top"), "/top/a/b");
        cr_expect_str_eq(program_find(&arena, "../a", "/"), "/../a");
        cr_expect_str_eq(program_find(&arena, "no-such.py", "/top"), "/top/no-such.py");
        unsetenv("PATH");
        cr_expect_str_eq(program_find(&arena, "ls", dir), "ls");
        (void)unlink(path);
        (void)unlink(link);
        (void)rmdir(dir);
}

Test(program, python_is_the_one_that_was_asked_for)
{
        _cleanup_(arena_done) Arena arena = ARENA_INIT(0);

        setenv("PATH", "/nonexistent", 1);
        setenv("TIDEGATE_PYTHON", "/opt/python", 1);
        cr_expect_str_eq(program_find_python(&arena), "/opt/python");
        setenv("TIDEGATE_PYTHON", "", 1);
        cr_expect_str_eq(program_find_python(&arena), "python3");
        setenv("TIDEGATE_PYTHON", "venv/bin/python", 1);
        cr_expect_eq(program_find_python(&arena)[0], '/');
        setenv("PATH", "/bin", 1);
        setenv("TIDEGATE_PYTHON", "sh", 1);
        cr_expect_str_eq(program_find_python(&arena), "/bin/sh");
        cr_expect(program_is_python("a/b.py") && !program_is_python(".py") && !program_is_python("a.pyc"));
}
