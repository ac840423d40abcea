/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/json-text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct Text {
        char *data;
        size_t size, room;
        bool failed; /* the library does not look at the result for every piece */
} Text;

static int text_add(const char *data, size_t size, void *userdata)
{
        Text *text = userdata;

        if (text->room - text->size < size) {
                size_t room = MAX(2 * text->room, text->size + size + 512);
                char *grown = text->failed ? NULL : realloc(text->data, room);

                if (!grown) {
                        text->failed = true;
                        return -1;
                }
                text->data = grown;
                text->room = room;
        }
        memcpy(text->data + text->size, data, size);
        text->size += size;
        return 0;
}

char *json_text(const json_t *value)
{
        Text text = {};

        if (json_dump_callback(value, text_add, &text, JSON_COMPACT) == 0 && !text.failed && text_add("", 1, &text) == 0)
                return text.data;
        free(text.data);
        return NULL;
}

static _Thread_local unsigned n_failed; /* allocations of the library's */

static void *counted_malloc(size_t size)
{
        void *p = malloc(size);

        n_failed += !p;
        return p;
}

int json_parse(json_t **ret, const char *text, size_t size, size_t flags)
{
        json_t *value;

        json_set_alloc_funcs(counted_malloc, free); /* what it has allocated before was malloc()'s too */
        n_failed = 0;
        value = json_loadb(text, size, flags, NULL);
        if (n_failed > 0) {
                json_decref(value);
                return error_origin(-ENOMEM);
        }
        if (!value)
                return -EBADMSG;
        *ret = value;
        return 0;
}
