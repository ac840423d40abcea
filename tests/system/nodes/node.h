/* SPDX-License-Identifier: Apache-2.0 */
/* What the test nodes share: open or exit, the next event or the end, and a death that says why. */
#ifndef TEST_NODE_H
#define TEST_NODE_H

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tidegate/tidegate.h"

#define DIE(...)                                                                                                       \
        do {                                                                                                           \
                fprintf(stderr, __VA_ARGS__);                                                                          \
                fputc('\n', stderr);                                                                                   \
                exit(1);                                                                                               \
        } while (0)

static inline tg_node *open_node(void)
{
        tg_node *node;
        int r = tg_node_open(&node);

        if (r)
                DIE("tg_node_open: %s", tg_strerror(r));
        return node;
}

/* NULL at the end of the stream. */
static inline tg_event *next_event(tg_node *node)
{
        tg_event *ev;
        int r;

        do
                r = tg_next(node, &ev, TG_FOREVER);
        while (r == -EINTR);
        if (r == TG_E_END)
                return NULL;
        if (r)
                DIE("tg_next: %s", tg_strerror(r));
        return ev;
}

static inline void send_or_die(tg_node *node, const char *output, const void *data, size_t size, const tg_params *params)
{
        int r = tg_send(node, output, data, size, params);

        if (r)
                DIE("tg_send(%s, %zu bytes): %s", output, size, tg_strerror(r));
}

static inline unsigned long long number(const char *s)
{
        char *end;
        unsigned long long v = strtoull(s, &end, 10);

        if (end == s || *end)
                DIE("`%s` is no number", s);
        return v;
}

#endif
