/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each fixtures/NAME.yml is a case: NAME.txt is what is said about it (missing: nothing), NAME.plan the plan
 * (missing: the file is refused). The first line of both is the licence. Absolute paths of the fixtures are written
 * /DIR there.
 *
 * TIDEGATE_UPDATE_FIXTURES=1 writes what comes out instead of comparing; look at the difference before you keep it.
 */
#include <criterion/criterion.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "descriptor/descriptor.h"

#define LICENCE "# SPDX-License-Identifier: Apache-2.0\n"

static char *read_all(const char *path)
{
        FILE *f = fopen(path, "r");
        char *text;
        size_t n;

        if (!f)
                return NULL;
        text = calloc(1, 1 << 20);
        n = fread(text, 1, (1 << 20) - 1, f);
        text[n] = '\0';
        (void)fclose(f);
        return text;
}

/* NULL when there is no such file. The licence is cut off. */
static char *read_expected(const char *name, const char *suffix)
{
        _cleanup_free_ char *path = NULL, *text = NULL;

        cr_assert(asprintf(&path, "%s%s", name, suffix) > 0);
        text = read_all(path);
        if (!text)
                return NULL;
        cr_assert(strncmp(text, LICENCE, strlen(LICENCE)) == 0, "%s: the licence line", path);
        return strdup(text + strlen(LICENCE));
}

static void write_expected(const char *name, const char *suffix, const char *text)
{
        _cleanup_free_ char *path = NULL;
        FILE *f;

        cr_assert(asprintf(&path, "%s%s", name, suffix) > 0);
        if (!*text) {
                (void)unlink(path);
                return;
        }
        f = fopen(path, "w");
        cr_assert(f != NULL);
        fprintf(f, "%s%s", LICENCE, text);
        cr_assert(fclose(f) == 0);
}

static char *without_dir(char *text, const char *dir)
{
        size_t n = strlen(dir);

        for (char *p = text; (p = strstr(p, dir));) {
                memcpy(p, "/DIR", 4);
                memmove(p + 4, p + n, strlen(p + n) + 1);
        }
        return text;
}

static void compare(const char *file, const char *what, const char *got, const char *wanted)
{
        cr_expect(strcmp(got, wanted) == 0, "%s: %s differ\n--- wanted\n%s--- got\n%s---", file, what, wanted, got);
}

static void check(const char *file, const char *dir, bool update)
{
        _cleanup_(diagnostics_done) Diagnostics diags = DIAGNOSTICS_INIT;
        _cleanup_(json_decrefp) json_t *plan = NULL;
        _cleanup_free_ char *name = strndup(file, strlen(file) - 4), *said = NULL, *planned = NULL;
        _cleanup_free_ char *want_said = NULL, *want_plan = NULL;
        int r;

        r = descriptor_load(file, NULL, &plan, &diags);
        cr_expect((r == 0) == (plan != NULL) && (r == 0) == (diags.n_errors == 0) && r >= 0, "%s: %d", file, r);
        cr_assert(diagnostics_render(&diags, false, true, &said) == 0);
        planned = plan ? json_dumps(plan, JSON_INDENT(1) | JSON_SORT_KEYS) : strdup("");
        (void)without_dir(planned, dir);
        if (*planned) {
                planned = realloc(planned, strlen(planned) + 2);
                strcat(planned, "\n");
        }
        if (update) {
                write_expected(name, ".txt", said);
                write_expected(name, ".plan", planned);
                return;
        }
        want_said = read_expected(name, ".txt");
        want_plan = read_expected(name, ".plan");
        compare(file, "messages", said, want_said ? want_said : "");
        compare(file, "plans", planned, want_plan ? want_plan : "");
}

Test(fixtures, each_file_gets_its_messages_and_its_plan)
{
        bool update = getenv("TIDEGATE_UPDATE_FIXTURES") != NULL;
        struct dirent *entry;
        char dir[4096];
        unsigned n = 0;
        DIR *d;

        cr_assert(chdir(FIXTURES) == 0 && getcwd(dir, sizeof(dir)));
        setenv("TG_TEST_SET", "set", 1);
        unsetenv("TG_TEST_UNSET");
        setenv("PATH", "relative:/bin", 1);
        setenv("TIDEGATE_PYTHON", "/usr/bin/python3", 1);
        d = opendir(".");
        cr_assert(d != NULL);
        while ((entry = readdir(d))) {
                size_t size = strlen(entry->d_name);

                if (size < 5 || strcmp(entry->d_name + size - 4, ".yml") != 0)
                        continue;
                check(entry->d_name, dir, update);
                n++;
        }
        (void)closedir(d);
        cr_assert(n > 30, "%u fixtures found", n);
}
