/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a descriptor: a plan that the supervisor takes, or at least one error; never a crash, a leak or a long
 * wait. What follows a line "%%%%" in the input is the module file mod.yml beside it.
 *
 *   fuzz_descriptor -dict=tests/fuzz/descriptor.dict -timeout=10 -rss_limit_mb=1024 CORPUS
 *   tests/fuzz/corpus/fuzz_descriptor
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "descriptor/descriptor.h"
#include "descriptor/graph.h"
#include "supervisor/plan.h"

static char dir[] = "/tmp/fuzz-descriptor-XXXXXX";
static char module_path[sizeof(dir) + 16], file_path[sizeof(dir) + 16];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libfyaml 0.7.12 leaks 4 KiB in fy_token_get_text() for a single-quoted scalar that holds five quotes in a row:
 * small, bounded by the size of the file, and not ours to free. */
const char *__lsan_default_suppressions(void)
{
        return "leak:libfyaml.so";
}

static void clean(void)
{
        (void)unlink(module_path);
        (void)rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
        if (!mkdtemp(dir))
                abort();
        (void)snprintf(module_path, sizeof(module_path), "%s/mod.yml", dir);
        (void)snprintf(file_path, sizeof(file_path), "%s/dataflow.yml", dir);
        (void)setenv("FUZZ", "value", 1);
        (void)setenv("PATH", "/usr/bin", 1);
        (void)atexit(clean);
        return 0;
}

static void write_module(const uint8_t *data, size_t size)
{
        FILE *f = fopen(module_path, "w");

        if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0)
                abort();
}

static void draw(const json_t *plan)
{
        char *text = NULL;

        if (graph_mermaid(plan, &text) != 0)
                abort();
        free(text);
        if (graph_dot(plan, &text) != 0)
                abort();
        free(text);
}

static void hand_over(json_t *json)
{
        char why[256] = "";
        Plan *plan = NULL;

        if (plan_new(&plan, json, why, sizeof(why)) != 0) {
                fprintf(stderr, "the supervisor refuses the plan: %s\n", why);
                abort();
        }
        (void)plan_free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const uint8_t *cut = memmem(data, size, "\n%%%%\n", 6);
        DescriptorOptions options = {.allow_shell_nodes = size % 2};
        Diagnostics diags = DIAGNOSTICS_INIT;
        json_t *plan = NULL;
        char *text = NULL;
        int r;

        if (cut)
                write_module(cut + 6, size - (size_t)(cut + 6 - data));
        r = descriptor_parse(data, cut ? (size_t)(cut - data) : size, file_path, &options, &plan, &diags);
        if (r < 0 || (r == 0) != (plan != NULL) || (r == 0) != (diags.n_errors == 0))
                abort();
        if (diagnostics_render(&diags, true, true, &text) != 0 || !utf8_valid(text, strlen(text)))
                abort();
        free(text);
        if (plan) {
                draw(plan);
                hand_over(plan);
        }
        json_decref(plan);
        json_decref(diagnostics_to_json(&diags));
        diagnostics_done(&diags);
        if (cut)
                (void)unlink(module_path);
        return 0;
}
