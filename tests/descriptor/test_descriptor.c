/* SPDX-License-Identifier: Apache-2.0 */
/* What a fixture file cannot say: options, limits, texts that no editor would write, and time. */
#include <criterion/criterion.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "descriptor/descriptor.h"

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

typedef struct Result {
        int r;
        json_t *plan;
        Diagnostics diags;
} Result;

static Result parse(const char *text, size_t size, const DescriptorOptions *options)
{
        Result res = {.diags = DIAGNOSTICS_INIT};

        res.r = descriptor_parse(text, size, "/nowhere/flow.yml", options, &res.plan, &res.diags);
        cr_assert_geq(res.r, 0, "%d", res.r);
        cr_assert_eq(res.r == 0, res.plan != NULL);
        cr_assert_eq(res.r == 0, res.diags.n_errors == 0);
        return res;
}

static void result_done(Result *res)
{
        json_decref(res->plan);
        diagnostics_done(&res->diags);
}

#define _cleanup_result_ _cleanup_(result_done)

static bool says(const Result *res, const char *what)
{
        for (size_t i = 0; i < res->diags.n; i++)
                if (strstr(res->diags.items[i].message, what))
                        return true;
        return false;
}

static void expect_refused(const char *text, size_t size, const char *what)
{
        nsec_t before = clock_now();
        _cleanup_result_ Result res = parse(text, size, NULL);

        cr_expect_eq(res.r, DESCRIPTOR_E_INVALID, "%.60s", text);
        cr_expect(says(&res, what), "wanted \"%s\", got \"%s\"", what, res.diags.n ? res.diags.items[0].message
                : "nothing");
        cr_expect_lt(clock_now() - before, 20 * NSEC_PER_SEC, "%.60s", text);
}

static char *repeat(const char *before, const char *what, size_t n, const char *after)
{
        size_t size = strlen(what);
        char *s = malloc(strlen(before) + n * size + strlen(after) + 1), *p;

        cr_assert(s != NULL);
        p = stpcpy(s, before);
        for (size_t i = 0; i < n; i++)
                p = stpcpy(p, what);
        strcpy(p, after);
        return s;
}

static void expect_repeat_refused(const char *before, const char *what, size_t n, const char *after,
        const char *message)
{
        _cleanup_free_ char *s = repeat(before, what, n, after);

        expect_refused(s, strlen(s), message);
}

/* A text made by a format that is given a running number, n times. */
static char *number(const char *before, const char *format, unsigned n)
{
        char *s = NULL;
        size_t size;
        FILE *f = open_memstream(&s, &size);

        cr_assert(f != NULL);
        fputs(before, f);
        for (unsigned i = 0; i < n; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                fprintf(f, format, i, i, i);
#pragma GCC diagnostic pop
        }
        cr_assert(fclose(f) == 0);
        return s;
}

static const char *node_string(const Result *res, size_t index, const char *key)
{
        return json_string_value(json_object_get(json_array_get(json_object_get(res->plan, "nodes"), index), key));
}

Test(options, the_name_is_given_or_taken_from_the_file)
{
        static const struct {
                const char *file, *name;
        } cases[] = {{"/x/audio/dataflow.yml", "audio"}, {"/x/arm.yml", "arm"}, {"/x/arm", "arm"},
                {"/x/a.b.yaml", "a.b"},
                {"/x/.hidden", "_hidden"}, {"/x/ä b.yml", "___b"}, {"/dataflow.yml", "dataflow"},
                {"/x y/dataflow.yaml", "x_y"}};
        static const char text[] = "nodes: [{id: a, path: /b}]";

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_result_ Result res = {.diags = DIAGNOSTICS_INIT};

                cr_assert_eq(descriptor_parse(text, strlen(text), cases[i].file, NULL, &res.plan, &res.diags), 0);
                cr_expect_str_eq(json_string_value(json_object_get(res.plan, "name")), cases[i].name);
        }
}

Test(options, a_name_outside_the_grammar_is_refused)
{
        static const char *const names[] = {"", "a b", ".x", "a/b", "ä"};
        static const char text[] = "nodes: [{id: a, path: /b}]";
        DescriptorOptions good = {.name = "fine-1.0_x"};

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                DescriptorOptions options = {.name = names[i]};
                _cleanup_result_ Result res = parse(text, strlen(text), &options);

                cr_expect_eq(res.r, DESCRIPTOR_E_INVALID, "%s", names[i]);
        }
        _cleanup_result_ Result res = parse(text, strlen(text), &good);

        cr_expect_str_eq(json_string_value(json_object_get(res.plan, "name")), "fine-1.0_x");
}

Test(options, shell_nodes_run_only_when_allowed)
{
        static const char text[] = "nodes: [{id: a, path: shell, args: \"echo 'x  y' | cat $HOME\"}]";
        DescriptorOptions options = {.allow_shell_nodes = true};
        _cleanup_result_ Result refused = parse(text, strlen(text), NULL),
                allowed = parse(text, strlen(text), &options);
        _cleanup_(json_decrefp) json_t *wanted = json_pack("[s, s, s]", "/bin/sh", "-c", "echo 'x  y' | cat $HOME");

        cr_expect(says(&refused, "--allow-shell-nodes"));
        cr_assert_eq(allowed.r, 0);
        cr_expect(json_equal(json_object_get(json_array_get(json_object_get(allowed.plan, "nodes"), 0), "argv"),
                wanted));
}

Test(options, the_command_lines_environment_lies_between_root_and_node)
{
        static const char text[] = "env: {A: root, B: root}\nnodes: [{id: a, path: /b, env: {B: node}}]";
        const char *env[] = {"A=cli", "B=cli", "C=a=b"};
        DescriptorOptions options = {.env = env, .n_env = 3};
        _cleanup_result_ Result res = parse(text, strlen(text), &options);
        _cleanup_(json_decrefp) json_t *wanted = json_pack("{s:s, s:s, s:s}", "A", "cli", "B", "node", "C", "a=b");

        cr_assert_eq(res.r, 0);
        cr_expect(json_equal(json_object_get(json_array_get(json_object_get(res.plan, "nodes"), 0), "env"), wanted));
}

Test(options, wrong_environment_on_the_command_line_is_an_error)
{
        static const char *const wrong[] = {"A", "=x", "LD_PRELOAD=x", "TIDEGATE_NODE_FD=3", "A=$HOME", "A B=c",
                "A=\xff"};
        static const char text[] = "nodes: [{id: a, path: /b}]";

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                DescriptorOptions options = {.env = &wrong[i], .n_env = 1};
                _cleanup_result_ Result res = parse(text, strlen(text), &options);

                cr_expect_eq(res.r, DESCRIPTOR_E_INVALID, "%s", wrong[i]);
        }
}

static ProgramState probe(const char *path, bool is_script, void *userdata)
{
        ++*(unsigned *)userdata;
        return strstr(path, "missing") ? PROGRAM_MISSING
                : strstr(path, "folder") ? PROGRAM_DIRECTORY
                : strstr(path, "text")   ? PROGRAM_NOT_EXECUTABLE
                : strstr(path, "hung")   ? PROGRAM_SILENT
                : is_script              ? PROGRAM_MISSING
                                         : PROGRAM_OK;
}

Test(options, what_the_probe_finds_becomes_a_warning)
{
        static const char text[] = "nodes: [{id: a, path: /missing}, {id: b, path: /folder}, {id: c, path: /text},\n"
                                   " {id: d, path: /hung}, {id: e, path: /fine}, {id: f, path: x.py}, {id: g, path: "
                                   "tg-no-such}]";
        unsigned n = 0;
        DescriptorOptions options = {.probe = probe, .userdata = &n};
        _cleanup_result_ Result res = parse(text, strlen(text), &options);

        cr_expect_eq(res.r, 0);
        cr_expect_eq(res.diags.n_warnings, 6);
        cr_expect(says(&res, "does not exist") && says(&res, "is a directory") && says(&res, "not executable") &&
                says(&res, "does not answer") && says(&res, "nor in $PATH"));
        cr_expect_eq(n, 6, "a bare name is not probed");
}

Test(options, cpus_that_the_machine_does_not_have_become_a_warning)
{
        static const char text[] = "nodes: [{id: a, path: /b, cpu_affinity: [7, 0]},\n"
                                   " {id: b, path: /b, cpu_affinity: [3]}]";

        for (unsigned n = 0; n <= 8; n += 4) {
                DescriptorOptions options = {.n_cpus = n};
                _cleanup_result_ Result res = parse(text, strlen(text), &options);

                cr_expect_eq(res.r, 0);
                cr_expect_eq(res.diags.n_warnings, n == 4, "with %u CPUs", n);
                cr_expect_eq(says(&res, "no CPU 7"), n == 4, "with %u CPUs", n);
        }
}

static char *chain(unsigned n, const char *first)
{
        char *s = NULL;
        size_t size;
        FILE *f = open_memstream(&s, &size);

        cr_assert(f != NULL);
        fprintf(f, "nodes:\n- {id: n0, path: /b, after: [%s]}\n", first);
        for (unsigned i = 1; i < n; i++)
                fprintf(f, "- {id: n%u, path: /b, after: {n%u: completed}}\n", i, i - 1);
        cr_assert(fclose(f) == 0);
        return s;
}

Test(order, of_thousands_is_sorted_without_deep_recursion, .timeout = 60)
{
        _cleanup_free_ char *line = chain(2000, ""), *ring = chain(4096, "n4095");
        struct rlimit stack = {.rlim_cur = 256 << 10, .rlim_max = 256 << 10};
        _cleanup_result_ Result res = {.r = 0};

        if (!SANITIZED)
                (void)setrlimit(RLIMIT_STACK, &stack);
        res = parse(line, strlen(line), NULL);
        cr_expect_eq(res.r, 0);
        expect_refused(ring, strlen(ring), "\"n0\" (line 2) is after \"n4095\" (line 4097), that after \"n4094\"");
}

Test(values, from_the_environment_must_be_text)
{
        static const char text[] = "nodes: [{id: a, path: /b, env: {A: $TG_BYTES}}]";

        setenv("TG_BYTES", "\xff", 1);
        expect_refused(text, strlen(text), "not UTF-8");
        setenv("HOME", "/\xff", 1);
        expect_refused("nodes: [{id: a, path: $HOME/b}]", 31, "not UTF-8");
}

Test(limits, hostile_nesting_and_numbers_are_refused_in_bounded_time, .timeout = 120)
{
        expect_repeat_refused("", "[", 60000, "", "deeper than 64");
        expect_repeat_refused("", "[\n", 1 << 19, "", "deeper than 64");
        expect_repeat_refused("", "- ", 1 << 15, "", "deeper than 64");
        expect_repeat_refused("", "? ", 1 << 15, "", "deeper than 64");
        expect_repeat_refused("", "{a: ", 65, "", "deeper than 64");
        expect_repeat_refused("[", ",\n", 500000, "]", "not valid YAML");
        expect_repeat_refused("[", "a,\n", 300000, "]", "more than 100000 values");
        expect_repeat_refused("a: &a x\nb: [", " *a,\n", 200000, "]", "more than 100000 values");
        expect_repeat_refused("", "#\n", 1 << 19, "", "the file is empty");
        expect_repeat_refused("", "\n", 1 << 20, "", "the file is empty");
        expect_repeat_refused("", "%TAG !a! tag:x\n", 60000, "--- a", "%TAG");
        expect_repeat_refused("", "x", 60000, ": b", "unknown key");
        expect_repeat_refused("", "x", 1 << 20, "", "longer than 65536 bytes");
        expect_repeat_refused("", "x", (1 << 20) + 1, "", "larger than 1048576 bytes");
}

Test(limits, of_a_level_are_exact)
{
        _cleanup_free_ char *deep = repeat("nodes: [{id: a, path: /b, env: {A: ", "[", 60, ""),
                            *deepest = repeat(deep, "]", 60, "}}]"),
                            *deeper = repeat("nodes: [{id: a, path: /b, env: {A: [", "[", 60, ""),
                            *too_deep = repeat(deeper, "]", 61, "}}]");

        expect_refused(deepest, strlen(deepest), "the value of an environment variable must be");
        expect_refused(too_deep, strlen(too_deep), "deeper than 64");
}

Test(limits, more_errors_than_anyone_reads_are_found_in_bounded_time, .timeout = 120)
{
        _cleanup_free_ char *unknown = number("nodes:\n",
                "- {id: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx%u, path: /b, inputs: {a: "
                                                          "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxy%u/o}}\n",
                                    4096);
        _cleanup_result_ Result res = parse(unknown, strlen(unknown), NULL);

        cr_expect_eq(res.r, DESCRIPTOR_E_INVALID);
        cr_expect_eq(res.diags.n, DIAGNOSTICS_MAX);
        cr_expect_eq(res.diags.n_errors, 4096 + 1, "and the plan is too large");
}

Test(limits, of_ids_nodes_and_ports)
{
        _cleanup_free_ char *id = repeat("nodes: [{id: ", "x", 10000, ", path: /b}]"),
                            *nodes = number("nodes:\n", "- {id: n%u, path: /b}\n", 4097),
                            *inputs = number("nodes:\n- id: a\n  path: /b\n  inputs:\n",
                            "    i%u: dora/timer/secs/1\n", 257),
                            *outputs = number("nodes:\n- id: a\n  path: /b\n  outputs:\n", "  - o%u\n", 257);

        expect_refused(id, strlen(id), "is 10000 bytes long; at most 128");
        expect_refused(nodes, strlen(nodes), "1 to 4096 nodes, not 4097");
        expect_refused(inputs, strlen(inputs), "257 inputs; at most 256");
        expect_refused(outputs, strlen(outputs), "257 outputs; at most 256");
}

Test(limits, of_after_hold_for_a_node_and_for_all_together)
{
        _cleanup_free_ char *own = number("nodes:\n- id: a\n  path: /b\n  after:\n", "    n%u: ready\n", 257),
                            *nodes = number("nodes:\n", "- {id: n%u, path: /b}\n", 200),
                            *list = number("", "n%u,", 200), *all = NULL;
        size_t size;
        FILE *f;

        expect_refused(own, strlen(own), "257 nodes in after; at most 256");
        f = open_memstream(&all, &size);
        cr_assert(f != NULL);
        fputs(nodes, f);
        for (unsigned i = 0; i < 61; i++)
                fprintf(f, "- {id: m%u, path: /b, after: [%s]}\n", i, list);
        cr_assert(fclose(f) == 0);
        expect_refused(all, strlen(all), "12200 entries of after; at most 12000");
}

Test(limits, of_the_plan_hold_for_an_environment_that_every_node_inherits)
{
        _cleanup_free_ char *env = number("env:\n", "  k%u: xxxxxxxxxxxxxxxxxxxx\n", 5000),
                            *nodes = number("nodes:\n", "- {id: n%u, path: /b}\n", 4000), *text = NULL;

        cr_assert(asprintf(&text, "%s%s", env, nodes) > 0);
        expect_refused(text, strlen(text), "the plan would be larger than 1048576 bytes");
}

Test(limits, of_the_plan_do_not_count_what_is_overridden)
{
        static const char text[] = "env: {A: $TG_BIG, B: $TG_BIG, C: $TG_BIG, D: $TG_BIG, E: $TG_BIG, F: $TG_BIG}\n"
                                   "nodes: [{id: a, path: /b, env: {A: $TG_BIG, B: $TG_BIG, C: $TG_BIG, D: x, E: x, "
                                   "F: x}},\n"
                                   " {id: c, path: /d, env: {A: 1, B: 1, C: 1, D: 1, E: 1, F: 1}}]";
        _cleanup_free_ char *big = repeat("", "x", 130000, "");

        setenv("TG_BIG", big, 1);
        _cleanup_result_ Result res = parse(text, strlen(text), NULL);

        cr_expect_eq(res.r, 0);
        cr_expect_eq(json_object_size(json_object_get(json_array_get(json_object_get(res.plan, "nodes"), 1), "env")),
                6);
}

Test(limits, a_megabyte_of_brackets_does_not_cost_hundreds)
{
        _cleanup_free_ char *brackets = NULL;
        struct rlimit limit, tight;

        if (SANITIZED)
                cr_skip_test("the sanitizer's own memory is beyond measure");
        brackets = repeat("", "[\n", 1 << 19, "");
        cr_assert(getrlimit(RLIMIT_DATA, &limit) == 0);
        tight = (struct rlimit){.rlim_cur = 64 << 20, .rlim_max = limit.rlim_max};
        cr_assert(setrlimit(RLIMIT_DATA, &tight) == 0);
        expect_refused(brackets, strlen(brackets), "deeper than 64");
        cr_assert(setrlimit(RLIMIT_DATA, &limit) == 0);
}

Test(limits, an_id_of_128_bytes_is_fine_and_of_129_is_not)
{
        _cleanup_free_ char *longest = repeat("nodes: [{id: ", "x", 128, ", path: /b}]"),
                            *longer = repeat("nodes: [{id: ", "x", 129, ", path: /b}]");
        _cleanup_result_ Result res = parse(longest, strlen(longest), NULL);

        cr_expect_eq(res.r, 0);
        cr_expect_eq(strlen(node_string(&res, 0, "id")), 128);
        expect_refused(longer, strlen(longer), "129 bytes");
}

typedef struct Folder {
        char path[64];
} Folder;

static Folder folder_open(void)
{
        Folder folder = {"/tmp/tg-modules-XXXXXX"};

        cr_assert(mkdtemp(folder.path) != NULL);
        return folder;
}

static void folder_write(const Folder *folder, const char *name, const char *text)
{
        char path[128];
        FILE *f;

        (void)snprintf(path, sizeof(path), "%s/%s", folder->path, name);
        f = fopen(path, "w");
        cr_assert(f != NULL && fputs(text, f) != EOF && fclose(f) == 0);
}

static Result folder_load(const Folder *folder)
{
        Result res = {.diags = DIAGNOSTICS_INIT};
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/dataflow.yml", folder->path);
        res.r = descriptor_load(path, NULL, &res.plan, &res.diags);
        return res;
}

static void folder_close(const Folder *folder)
{
        char command[128];

        (void)snprintf(command, sizeof(command), "rm -r '%s'", folder->path);
        cr_expect(system(command) == 0);
}

/* A chain of modules, each using the next; the last holds a node. */
static void folder_write_chain(const Folder *folder, unsigned n)
{
        char name[32], text[128];

        folder_write(folder, "dataflow.yml", "nodes: [{id: m, module: m1.yml}]");
        for (unsigned i = 1; i <= n; i++) {
                (void)snprintf(name, sizeof(name), "m%u.yml", i);
                (void)snprintf(text, sizeof(text), i < n ? "module: {name: m}\nnodes: [{id: m, module: m%u.yml}]" :
                                "module: {name: m}\nnodes: [{id: x, path: /b}]", i + 1);
                folder_write(folder, name, text);
        }
}

Test(modules, may_be_eight_deep_and_no_deeper)
{
        Folder folder = folder_open();

        folder_write_chain(&folder, 8);
        {
                _cleanup_result_ Result res = folder_load(&folder);

                cr_assert_eq(res.r, 0);
                cr_expect_str_eq(node_string(&res, 0, "id"), "m.m.m.m.m.m.m.m.x");
        }
        folder_write_chain(&folder, 9);
        {
                _cleanup_result_ Result res = folder_load(&folder);

                cr_expect(says(&res, "nested deeper than 8"));
        }
        folder_close(&folder);
}

Test(modules, that_use_each_other_are_refused)
{
        Folder folder = folder_open();

        folder_write(&folder, "dataflow.yml", "nodes: [{id: m, module: a.yml}]");
        folder_write(&folder, "a.yml", "module: {name: a}\nnodes: [{id: b, module: b.yml}]");
        folder_write(&folder, "b.yml", "module: {name: b}\nnodes: [{id: a, module: a.yml}]");
        _cleanup_result_ Result res = folder_load(&folder);

        cr_expect(says(&res, "uses itself"));
        folder_close(&folder);
}

Test(modules, that_multiply_are_refused_in_bounded_time, .timeout = 60)
{
        Folder folder = folder_open();
        char name[32];

        for (unsigned d = 0; d <= 8; d++) {
                _cleanup_free_ char *text = NULL;
                char format[64];

                (void)snprintf(format, sizeof(format), d < 8 ? "- {id: m%%u, module: m%u.yml}\n"
                        : "- {id: x%%u, path: /b}\n", d + 1);
                (void)snprintf(name, sizeof(name), d ? "m%u.yml" : "dataflow.yml", d);
                text = number(d ? "module: {name: m}\nnodes:\n" : "nodes:\n", format, 10);
                folder_write(&folder, name, text);
        }
        _cleanup_result_ Result res = folder_load(&folder);

        cr_expect_eq(res.r, DESCRIPTOR_E_INVALID);
        cr_expect(says(&res, "more than 4096"));
        folder_close(&folder);
}

Test(modules, that_multiply_what_is_after_what_are_refused_in_bounded_time, .timeout = 60)
{
        Folder folder = folder_open();
        _cleanup_free_ char *inside = number("module: {name: m}\nnodes:\n", "- {id: x%u, path: /b}\n", 200);
        _cleanup_result_ Result few = {.r = 0}, many = {.r = 0};

        folder_write(&folder, "m.yml", inside);
        folder_write(&folder, "dataflow.yml",
                "nodes: [{id: m, module: m.yml}, {id: a, path: /b, after: {m: completed}}, {id: k, module: m.yml, after: [a]}]");
        few = folder_load(&folder);
        cr_expect_eq(few.r, 0);
        cr_expect_eq(json_array_size(json_object_get(json_array_get(json_object_get(few.plan, "nodes"), 200), "after")), 200);
        /* 200 nodes, each after 200 and one */
        folder_write(&folder, "dataflow.yml",
                "nodes: [{id: m, module: m.yml}, {id: k, module: m.yml, after: [m]}, {id: l, path: /b, after: [m, k]}]");
        many = folder_load(&folder);
        cr_expect(says(&many, "more than 12000 entries of after"));
        folder_write(&folder, "dataflow.yml",
                "nodes: [{id: m, module: m.yml}, {id: k, module: m.yml}, {id: l, path: /b, after: [m, k]}]");
        result_done(&many);
        many = folder_load(&folder);
        cr_expect(says(&many, "node \"l\" is after more than 256 nodes"));
        folder_close(&folder);
}

Test(modules, outside_the_folder_are_not_reached_by_a_link)
{
        Folder folder = folder_open(), other = folder_open();
        char from[128], to[128];

        folder_write(&other, "m.yml", "module: {name: m}\nnodes: [{id: x, path: /b}]");
        folder_write(&folder, "dataflow.yml", "nodes: [{id: m, module: link.yml}]");
        (void)snprintf(from, sizeof(from), "%s/link.yml", folder.path);
        (void)snprintf(to, sizeof(to), "%s/m.yml", other.path);
        cr_assert(symlink(to, from) == 0);
        _cleanup_result_ Result res = folder_load(&folder);

        cr_expect(says(&res, "outside the folder"));
        folder_close(&folder);
        folder_close(&other);
}

Test(modules, that_are_a_fifo_hang_nobody, .timeout = 10)
{
        Folder folder = folder_open();
        char path[128];

        folder_write(&folder, "dataflow.yml", "nodes: [{id: m, module: m.yml}]");
        (void)snprintf(path, sizeof(path), "%s/m.yml", folder.path);
        cr_assert(mkfifo(path, 0600) == 0);
        _cleanup_result_ Result res = folder_load(&folder);

        cr_expect(says(&res, "a FIFO"));
        folder_close(&folder);
}

Test(load, a_file_that_cannot_be_read_is_a_message)
{
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        json_t *plan = NULL;

        cr_expect_eq(descriptor_load("/nonexistent/x.yml", NULL, &plan, &diags), DESCRIPTOR_E_INVALID);
        cr_expect_eq(descriptor_load("/", NULL, &plan, &diags), DESCRIPTOR_E_INVALID);
        cr_expect_eq(descriptor_load("", NULL, &plan, &diags), DESCRIPTOR_E_INVALID);
        cr_expect_eq(diags.n_errors, 3);
        cr_expect_null(plan);
}

Test(load, leaves_no_descriptor_open)
{
        Folder folder = folder_open();
        int before = dup(0), after;

        (void)close(before);
        folder_write_chain(&folder, 3);
        _cleanup_result_ Result res = folder_load(&folder);

        cr_expect_eq(res.r, 0);
        after = dup(0);
        (void)close(after);
        cr_expect_eq(before, after);
        folder_close(&folder);
}

Test(load, without_memory_is_an_error_and_no_crash)
{
        _cleanup_free_ char *text = NULL;
        struct rlimit limit;
        unsigned failed = 0, fine = 0;

        if (SANITIZED)
                cr_skip_test("the sanitizer's allocator does not answer NULL");
        text = number("nodes:\n", "- {id: n%u, path: /b, env: {A: xxxxxxxxxxxxxxxxxxx}}\n", 2000);
        Result whole = parse(text, strlen(text), NULL);

        cr_assert(getrlimit(RLIMIT_DATA, &limit) == 0);
        for (rlim_t mib = 1; mib < 64; mib += 3) {
                Result res = {.diags = DIAGNOSTICS_INIT};
                struct rlimit tight = {.rlim_cur = mib << 20, .rlim_max = limit.rlim_max};

                cr_assert(setrlimit(RLIMIT_DATA, &tight) == 0);
                res.r = descriptor_parse(text, strlen(text), "/nowhere/flow.yml", NULL, &res.plan, &res.diags);
                cr_assert(setrlimit(RLIMIT_DATA, &limit) == 0);
                failed += res.r != 0;
                fine += res.r == 0;
                cr_expect(res.r != 0 || json_equal(res.plan, whole.plan), "never half a plan");
                result_done(&res);
        }
        result_done(&whole);
        cr_expect(failed > 0 && fine > 0, "failed %u, fine %u", failed, fine);
}
