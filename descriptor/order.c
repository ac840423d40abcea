/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which node waits for which: the names in `after` looked up, and what could never start refused.
 *
 * Bounded: at most LINKS_MAX entries in all, before and after modules are expanded; one walk without recursion finds
 * the cycles, in time linear in nodes and entries; who waits for whose completion is a set of bits a node.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/expand.h"
#include "descriptor/suggest.h"

#define CYCLE_NAMES 6 /* of a cycle, in a message */

typedef struct Order {
        Expander *ex;
        size_t n_entries; /* of all leaves so far */
        bool full;
} Order;

/* One entry of one `after`, on its way to one leaf. */
typedef struct Entry {
        const AfterSpec *spec;
        Leaf *to;
        unsigned line;
        size_t n_before; /* entries of the leaf that came from other lists */
} Entry;

static void report_unknown(Expander *ex, const Scope *scope, const AfterSpec *spec)
{
        Suggest suggest = SUGGEST_INIT(spec->id.s);

        for (size_t i = 0; i < scope->file->n_by_id && !diagnostics_full(ex->diags); i++)
                suggest_offer(&suggest, scope->file->by_id[i]->id.s);
        diagnostics_error_hint(ex->diags, spec->id.span, suggest.best, "there is no node %s to be after",
                QUOTE(spec->id.s));
}

/* What cannot be waited for, whoever waits. */
static bool target_ok(const Order *o, const Entry *e, const Leaf *target)
{
        Diagnostics *diags = o->ex->diags;
        const RestartSpec *restart = &target->spec->restart;
        Span span = e->spec->id.span;

        if (target == e->to) {
                diagnostics_error(diags, span, "node %s cannot be after itself", QUOTE(target->id));
                return false;
        }
        if (target->spec->detach) {
                diagnostics_error(diags, span, "node %s is detached: it has no place in the order, for it may run since long before",
                        QUOTE(target->id));
                return false;
        }
        if (e->spec->until != UNTIL_COMPLETED)
                return true;
        if (target->spec->is_dynamic) {
                diagnostics_error(diags, span,
                        "node %s is dynamic: nobody sees how its process ends, so nothing can wait until it has "
                        "completed",
                        QUOTE(target->id));
                return false;
        }
        if (restart->policy == RESTART_ALWAYS && restart->max_restarts == 0)
                diagnostics_warning(diags, span,
                        "node %s has restart_policy always without max_restarts: it may never have completed",
                        QUOTE(target->id));
        return true;
}

static int add_target(Order *o, const Entry *e, const Leaf *target)
{
        const After entry = {.leaf = target, .until = e->spec->until, .span = e->spec->id.span, .line = e->line};
        Leaf *leaf = e->to;
        After *slot;

        if (o->full || !target_ok(o, e, target))
                return 0;
        for (size_t i = 0; i < leaf->n_after; i++) {
                After *known = &leaf->after[i];

                if (known->leaf != target)
                        continue;
                if (i >= e->n_before)
                        diagnostics_error(o->ex->diags, e->spec->id.span, "node %s is there twice in after",
                                QUOTE(target->id));
                if (known->until < e->spec->until) /* the stronger condition includes the other */
                        *known = entry;
                return 0;
        }
        if (leaf->n_after == AFTER_MAX) {
                diagnostics_error(o->ex->diags, e->spec->id.span,
                        "node %s is after more than %d nodes once the modules are expanded", QUOTE(leaf->id),
                        AFTER_MAX);
                return 0;
        }
        if (++o->n_entries > LINKS_MAX) {
                o->full = true;
                diagnostics_error(o->ex->diags, e->spec->id.span,
                        "more than %d entries of after once the modules are expanded", LINKS_MAX);
                return 0;
        }
        slot = arena_grow(o->ex->arena, &leaf->after, leaf->n_after, sizeof(*slot));
        if (!slot)
                return error_origin(-ENOMEM);
        *slot = entry;
        leaf->n_after++;
        return 0;
}

/* To be after a module is to be after each of its nodes. */
static int add_module(Order *o, const Entry *e, const Scope *scope)
{
        int r = 0;

        for (size_t i = 0; i < scope->file->n_nodes && !r && !o->full; i++) {
                if (scope->leaves[i] && scope->leaves[i]->spec->detach)
                        continue;
                if (scope->leaves[i])
                        r = add_target(o, e, scope->leaves[i]);
                else if (scope->children[i])
                        r = add_module(o, e, scope->children[i]);
        }
        return r;
}

/* As for the source of an input: the own file first, then the dataflow's nodes and the expanded ids. */
static int add_entry(Order *o, const Entry *e, const Scope *scope)
{
        const Scope *where = scope;
        const NodeSpec *node = file_find_node(where->file, e->spec->id.s);
        const Leaf *leaf;
        size_t index;

        if (!node) {
                where = o->ex->root;
                node = file_find_node(where->file, e->spec->id.s);
        }
        if (!node) {
                leaf = expander_find_leaf(o->ex, e->spec->id.s);
                if (leaf)
                        return add_target(o, e, leaf);
                report_unknown(o->ex, scope, e->spec);
                return 0;
        }
        index = (size_t)(node - where->file->nodes);
        if (where->leaves[index])
                return add_target(o, e, where->leaves[index]);
        return where->children[index] ? add_module(o, e, where->children[index]) : 0; /* unusable: reported */
}

static int add_list(Order *o, Leaf *leaf, const NodeSpec *spec, const Scope *scope)
{
        Entry e = {.to = leaf, .n_before = leaf->n_after};
        int r = 0;

        for (size_t i = 0; i < spec->n_after && !r && !o->full; i++) {
                e.spec = &spec->after[i];
                e.line = scope->parent ? leaf->line : source_line_number(scope->file->source, e.spec->id.span.offset);
                r = add_entry(o, &e, scope);
        }
        return r;
}

static int after_compare(const void *a, const void *b)
{
        return strcmp(((const After *)a)->leaf->id, ((const After *)b)->leaf->id);
}

/* What the user of a module is after, all nodes inside are after; but nobody can make wait what is started by hand, or runs on its own. */
static int resolve_leaf(Order *o, Leaf *leaf)
{
        int r;

        if (leaf->spec->is_dynamic || leaf->spec->detach)
                return 0;
        r = add_list(o, leaf, leaf->spec, leaf->scope);
        for (const Scope *s = leaf->scope; s->parent && !r; s = s->parent)
                r = add_list(o, leaf, s->user, s->parent);
        if (leaf->n_after > 1)
                qsort(leaf->after, leaf->n_after, sizeof(*leaf->after), after_compare);
        return r;
}

static size_t count_entries(const Leaf *leaf)
{
        size_t n = leaf->spec->n_after;

        for (const Scope *s = leaf->scope; s->parent; s = s->parent)
                n += s->user->n_after;
        return n;
}

typedef struct Visit {
        enum { NEW, OPEN, CLOSED } state;
        size_t next; /* entry of the leaf to look at next */
} Visit;

typedef struct Walk {
        Expander *ex;
        Visit *visits;
        const Leaf **stack;
        size_t n_stack;
        const Leaf **sorted; /* whoever is waited for comes before who waits */
        size_t n_sorted;
        bool cyclic;
} Walk;

/* The leaves from `from` on the stack to its top wait each for the next, and the last for the first. */
static void report_cycle(Walk *w, size_t from, Span span)
{
        size_t n = w->n_stack - from, shown = MIN(n, (size_t)CYCLE_NAMES), used = 0;
        char names[CYCLE_NAMES * 200];

        w->cyclic = true;
        for (size_t i = 0; i < shown && used < sizeof(names); i++)
                used += (size_t)snprintf(names + used, sizeof(names) - used, "%s (line %u)%s",
                        QUOTE(w->stack[from + i]->id), w->stack[from + i]->line,
                        i == 0 ? " is after " : ", that after ");
        diagnostics_error(w->ex->diags, span, "a cycle, in which no node could ever start: %s%s%s", names,
                n > shown ? "…, that after " : "", QUOTE(w->stack[from]->id));
}

static void walk_from(Walk *w, const Leaf *leaf)
{
        w->stack[w->n_stack++] = leaf;
        w->visits[leaf->index].state = OPEN;
        while (w->n_stack > 0) {
                const Leaf *top = w->stack[w->n_stack - 1];
                Visit *v = &w->visits[top->index];
                const After *after;
                size_t from;

                if (v->next == top->n_after) {
                        v->state = CLOSED;
                        w->sorted[w->n_sorted++] = top;
                        w->n_stack--;
                        continue;
                }
                after = &top->after[v->next++];
                switch (w->visits[after->leaf->index].state) {
                case NEW:
                        w->stack[w->n_stack++] = after->leaf;
                        w->visits[after->leaf->index].state = OPEN;
                        break;
                case OPEN:
                        for (from = w->n_stack - 1; w->stack[from] != after->leaf;)
                                from--;
                        report_cycle(w, from, after->span);
                        break;
                default:
                        break;
                }
        }
}

static int find_cycles(Walk *w)
{
        size_t n = w->ex->n_leaves + 1;

        w->visits = arena_alloc(w->ex->arena, n * sizeof(*w->visits));
        w->stack = arena_alloc(w->ex->arena, n * sizeof(*w->stack));
        w->sorted = arena_alloc(w->ex->arena, n * sizeof(*w->sorted));
        if (!w->visits || !w->stack || !w->sorted)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < w->ex->n_leaves; i++)
                if (w->visits[i].state == NEW)
                        walk_from(w, w->ex->leaves[i]);
        return 0;
}

/* For each leaf the set of those that must have completed before it starts: a row of bits. */
typedef struct Completed {
        uint64_t *bits;
        size_t n_words; /* of a row */
} Completed;

static bool has_completed(const Completed *c, const Leaf *who, const Leaf *whom)
{
        return c->bits[who->index * c->n_words + whom->index / 64] >> whom->index % 64 & 1;
}

static int fill_completed(const Walk *w, Completed *ret)
{
        ret->n_words = (w->ex->n_leaves + 63) / 64;
        ret->bits = arena_alloc(w->ex->arena, w->ex->n_leaves * ret->n_words * sizeof(*ret->bits));
        if (!ret->bits)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < w->n_sorted; i++) {
                const Leaf *leaf = w->sorted[i];
                uint64_t *row = &ret->bits[leaf->index * ret->n_words];

                for (size_t k = 0; k < leaf->n_after; k++) {
                        size_t index = leaf->after[k].leaf->index;

                        for (size_t j = 0; j < ret->n_words; j++)
                                row[j] |= ret->bits[index * ret->n_words + j];
                        if (leaf->after[k].until == UNTIL_COMPLETED)
                                row[index / 64] |= UINT64_C(1) << index % 64;
                }
        }
        return 0;
}

/* Two nodes of which one has ended when the other starts cannot talk to each other. */
static int check_links(const Walk *w)
{
        Completed c;
        int r = fill_completed(w, &c);

        if (r)
                return error_fold(r);
        for (size_t i = 0; i < w->ex->n_leaves; i++) {
                const Leaf *to = w->ex->leaves[i];

                for (size_t k = 0; k < to->n_links; k++) {
                        const Leaf *from = to->links[k].from;
                        bool late = from && has_completed(&c, to, from);

                        if (!late && !(from && has_completed(&c, from, to)))
                                continue;
                        diagnostics_error(w->ex->diags, to->links[k].input->source.span,
                                "node %s starts only once %s has completed (after), so nothing can go from %s to %s",
                                QUOTE(late ? to->id : from->id), QUOTE(late ? from->id : to->id), QUOTE(from->id),
                                QUOTE(to->id));
                }
        }
        return 0;
}

int resolve_order(Expander *ex)
{
        Order o = {.ex = ex};
        Walk w = {.ex = ex};
        bool completed = false;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < ex->n_leaves; i++)
                n += count_entries(ex->leaves[i]);
        if (n == 0)
                return 0;
        if (n > LINKS_MAX) {
                diagnostics_error(ex->diags, (Span){.source = ex->root->file->source},
                        "%zu entries of after; at most %d are allowed", n, LINKS_MAX);
                return 0;
        }
        for (size_t i = 0; i < ex->n_leaves; i++) {
                r = resolve_leaf(&o, ex->leaves[i]);
                if (r)
                        return error_fold(r);
                for (size_t k = 0; k < ex->leaves[i]->n_after; k++)
                        completed = completed || ex->leaves[i]->after[k].until == UNTIL_COMPLETED;
        }
        r = find_cycles(&w);
        if (!r && completed && !w.cyclic)
                r = check_links(&w);
        return r ? error_fold(r) : 0;
}
