/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that wait for each other: cycles of links that all have queue_policy backpressure. Tarjan's strongly
 * connected components; the recursion is at most NODES_MAX deep and its frame is small. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/expand.h"

typedef struct Visit {
        unsigned number; /* 0: not yet visited */
        unsigned low;
        bool on_stack;
} Visit;

typedef struct Search {
        Expander *ex;
        Visit *visits;
        const Leaf **stack;
        size_t n_stack;
        unsigned counter;
} Search;

static bool link_waits(const Link *link)
{
        return link->from && link->options.queue_policy == QUEUE_POLICY_BACKPRESSURE;
}

/* Out of line: its text buffers would otherwise be in every frame of the recursion. */
__attribute__((noinline)) static void warn(const Search *s, const Leaf *const *members, size_t n)
{
        char names[400];
        size_t used = 0;
        const Link *place = NULL;

        for (size_t i = 0; i < MIN(n, (size_t)6) && used < sizeof(names); i++)
                used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
                        quote(members[n - 1 - i]->id).text);
        for (size_t i = 0; i < members[0]->n_links && !place; i++)
                if (link_waits(&members[0]->links[i]))
                        place = &members[0]->links[i];
        diagnostics_warning(s->ex->diags, place ? place->input->source.span : members[0]->spec->id.span,
                "a cycle of links that all have queue_policy backpressure: once every queue is full, %s%s wait%s for "
                "%s for ever",
                names, n > 6 ? ", …" : "", n == 1 ? "s" : "", n == 1 ? "itself" : "each other");
}

static void visit(Search *s, const Leaf *leaf)
{
        Visit *v = &s->visits[leaf->index];
        bool loop = false;
        size_t n = 0;

        v->number = v->low = ++s->counter;
        v->on_stack = true;
        s->stack[s->n_stack++] = leaf;
        for (size_t i = 0; i < leaf->n_links; i++) {
                const Leaf *from = leaf->links[i].from;
                Visit *w;

                if (!link_waits(&leaf->links[i]))
                        continue;
                w = &s->visits[from->index];
                loop = loop || from == leaf;
                if (!w->number)
                        visit(s, from);
                if (w->on_stack)
                        v->low = MIN(v->low, w->low);
        }
        if (v->low != v->number)
                return;
        do {
                n++;
                s->visits[s->stack[s->n_stack - n]->index].on_stack = false;
        } while (s->stack[s->n_stack - n] != leaf);
        s->n_stack -= n;
        if (n > 1 || loop)
                warn(s, &s->stack[s->n_stack], n);
}

int warn_of_cycles(Expander *ex)
{
        Search s = {.ex = ex};

        s.visits = arena_alloc(ex->arena, ex->n_leaves * sizeof(*s.visits));
        s.stack = arena_alloc(ex->arena, ex->n_leaves * sizeof(*s.stack));
        if (!s.visits || !s.stack)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < ex->n_leaves; i++)
                if (!s.visits[i].number)
                        visit(&s, ex->leaves[i]);
        return 0;
}
