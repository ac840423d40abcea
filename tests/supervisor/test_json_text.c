/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/json-text.h"

/* Linked with --wrap=realloc and --wrap=malloc: json_text() and json_parse() meet the end of memory where a test wants it. */
void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);

static unsigned n_reallocs, fail_at = UINT32_MAX;

void *__wrap_realloc(void *p, size_t size)
{
        return n_reallocs++ == fail_at ? NULL : __real_realloc(p, size);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

static unsigned n_mallocs, fail_malloc_at = UINT32_MAX;

void *__wrap_malloc(size_t size)
{
        return n_mallocs++ == fail_malloc_at ? NULL : __real_malloc(size);
}

static json_t *many_keys(void)
{
        json_t *object = json_object();
        char key[32];

        for (int i = 0; i < 2000; i++) {
                (void)snprintf(key, sizeof(key), "key-%d", i);
                json_object_set_new(object, key, json_integer(i));
        }
        return object;
}

Test(json_text, is_what_the_library_writes)
{
        json_t *object = many_keys();
        char *text = json_text(object), *theirs = json_dumps(object, JSON_COMPACT);

        cr_assert_str_eq(text, theirs);
        free(text);
        free(theirs);
        json_decref(object);
}

Test(json_text, is_not_there_rather_than_in_part_wherever_memory_ends)
{
        json_t *object = many_keys();
        unsigned n;
        char *text;

        n_reallocs = 0;
        free(json_text(object));
        n = n_reallocs;
        cr_assert_geq(n, 4);
        for (fail_at = 0; fail_at < n; fail_at++) {
                n_reallocs = 0;
                text = json_text(object);
                cr_assert_null(text, "realloc %u of %u failed, and this is said to be the whole: %.60s", fail_at, n, text);
        }
        json_decref(object);
}

Test(json_text, of_a_value_that_is_no_document_is_not_there)
{
        json_t *number = json_integer(7);

        cr_assert_null(json_text(NULL));
        cr_assert_null(json_text(number));
        json_decref(number);
}

static const char call[] = "{\"method\":\"dev.tidegate.Supervisor.Stop\",\"parameters\":{\"dataflow\":\"a name that is longer than what is at hand, for that "
                           "needs more memory in the middle of it\",\"force\":false,\"list\":[1,2.5,null,\"\\u00e9\"]}}";

Test(json_parse, is_the_whole_or_an_error_wherever_memory_ends)
{
        json_t *whole = json_loads(call, 0, NULL), *value;
        unsigned n, n_failed = 0;

        n_mallocs = 0;
        cr_assert_eq(json_parse(&value, call, strlen(call), 0), 0);
        n = n_mallocs;
        cr_assert(json_equal(value, whole));
        json_decref(value);
        cr_assert_geq(n, 10);
        for (fail_malloc_at = 0; fail_malloc_at < n; fail_malloc_at++) {
                int r;

                n_mallocs = 0;
                value = NULL;
                r = json_parse(&value, call, strlen(call), 0);
                cr_assert(r == -ENOMEM || (r == 0 && json_equal(value, whole)), "malloc %u of %u failed, and it is %d", fail_malloc_at, n, r);
                n_failed += r == -ENOMEM;
                json_decref(value);
        }
        cr_assert_geq(n_failed, n - 1);
        fail_malloc_at = UINT32_MAX;
        cr_assert_eq(json_parse(&value, call, strlen(call) - 1, 0), -EBADMSG);
        json_decref(whole);
}
