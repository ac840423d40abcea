/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <gnu/libc-version.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "cli/commands.h"
#include "cli/table.h"

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

typedef struct Part {
        const char *name;
        const char *version; /* NULL: not in this build */
} Part;

static const char *built_with(const char *version)
{
        return version[0] ? version : NULL;
}

static int print_json(const struct utsname *uts, const Part *parts, size_t n_parts)
{
        json_t *libraries = json_object(), *root;
        _cleanup_free_ char *text = NULL;

        for (size_t i = 0; i < n_parts; i++)
                (void)json_object_set_new(libraries, parts[i].name,
                        parts[i].version ? json_string(parts[i].version) : json_null());
        root = json_pack("{s:s, s:s, s:o, s:{s:s, s:s, s:s}}", "version", TIDEGATE_VERSION, "compiler", COMPILER,
                "libraries", libraries, "kernel", "name", uts->sysname, "release", uts->release, "machine",
                uts->machine);
        if (root)
                text = json_dumps(root, JSON_INDENT(2));
        json_decref(root);
        if (!text) {
                fputs("tidegate version: out of memory\n", stderr);
                return 1;
        }
        puts(text);
        return 0;
}

int cmd_version(int argc, char **argv)
{
        static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {0}};
        const Part parts[] = {
                {"glibc", gnu_get_libc_version()},
                {"jansson", jansson_version_str()},
                {"libfyaml", built_with(FYAML_VERSION)},
                {"libbpf", built_with(LIBBPF_VERSION)},
        };
        struct utsname uts;
        bool json = false;
        int c;

        optind = 0; /* argv is not the one of main(): start afresh */
        opterr = 0;
        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (c != 'j')
                        return usage_error("version", "unknown option `%s`", argv[optind - 1]);
                json = true;
        }
        if (optind < argc)
                return usage_error("version", "unexpected argument `%s`", argv[optind]);

        if (uname(&uts) < 0)
                uts = (struct utsname){.sysname = "?", .release = "?", .machine = "?"};
        if (json)
                return print_json(&uts, parts, ELEMENTSOF(parts));

        printf("tidegate  %s\ncompiler  %s\n", TIDEGATE_VERSION, COMPILER);
        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                printf("%-9s %s\n", parts[i].name, parts[i].version ? parts[i].version : "not in this build");
        printf("kernel    %s %s %s\n", uts.sysname, uts.release, uts.machine);
        return 0;
}
