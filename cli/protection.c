/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/status.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/print.h"

void protection_describe(char *buffer, size_t size, const json_t *node)
{
        static const char *const words[][2] = {{"no", "cgroups are another user's"}, {"read-only mounts", "cgroups are mounted read-only"},
                {"possible", "it may write cgroups"}};
        const json_t *protection = json_object_get(node, "protection");
        const char *write = json_get_text(protection, "cgroup_write"), *said = "";

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strcmp(write, words[i][0]) == 0)
                        said = words[i][1];
        (void)snprintf(buffer, size, "%s%s%s", json_get_text(protection, "backend"), said[0] ? "; " : "", said);
}

static bool is_held(const json_t *node)
{
        const json_t *protection = json_object_get(node, "protection");

        return json_get_text(protection, "cgroup_write")[0] ||
                (strstr(json_get_text(protection, "backend"), "cgroup") == NULL && json_integer_value(json_object_get(node, "pid")) > 0);
}

/* The first of several nodes that are held alike speaks for all of them. */
static bool is_first(const json_t *nodes, size_t at, const char *text)
{
        char other[256];

        for (size_t i = 0; i < at; i++) {
                protection_describe(other, sizeof(other), json_array_get(nodes, i));
                if (strcmp(other, text) == 0)
                        return false;
        }
        return true;
}

static size_t count_alike(const json_t *nodes, const char *text)
{
        char other[256];
        json_t *node;
        size_t i, n = 0;

        json_array_foreach(nodes, i, node) {
                protection_describe(other, sizeof(other), node);
                n += strcmp(other, text) == 0;
        }
        return n;
}

size_t protection_next(const json_t *nodes, size_t at, char *buffer, size_t size)
{
        for (; at < json_array_size(nodes); at++) {
                json_t *node = json_array_get(nodes, at);
                char text[256];
                size_t n;

                protection_describe(text, sizeof(text), node);
                if (!is_held(node) || !is_first(nodes, at, text))
                        continue;
                n = count_alike(nodes, text);
                if (n > 1)
                        (void)snprintf(buffer, size, "%zu nodes: %s", n, text);
                else
                        (void)snprintf(buffer, size, "%s: %s", json_get_text(node, "id"), text);
                return at + 1;
        }
        return 0;
}
