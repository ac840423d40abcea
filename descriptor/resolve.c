/* SPDX-License-Identifier: Apache-2.0 */
/* Where each input of each leaf comes from. Going up (a module's port) and then down (a module's output) ends,
 * because the way down never turns up again and both are at most MODULE_DEPTH_MAX long. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/expand.h"
#include "descriptor/suggest.h"

typedef enum Found {
        FOUND,
        FOUND_NOTHING, /* an optional port that nobody wired: the input does not exist */
        FOUND_ERROR,   /* reported */
} Found;

static Found resolve(Expander *ex, const Scope *scope, const InputSpec *input, Link *link);

static bool list_holds(const TextList *list, const char *s)
{
        for (size_t i = 0; i < list->n; i++)
                if (strcmp(list->items[i].s, s) == 0)
                        return true;
        return false;
}

/* "(it has: a, b, c, …)" */
static const char *list_some(const TextList *list, char *buf, size_t size)
{
        size_t n = 0;

        buf[0] = '\0';
        if (list->n == 0)
                return " (it has none)";
        n += (size_t)snprintf(buf, size, " (it has ");
        for (size_t i = 0; i < MIN(list->n, (size_t)5) && n < size; i++)
                n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? ", " : "", list->items[i].s);
        if (n < size)
                (void)snprintf(buf + n, size - n, "%s)", list->n > 5 ? ", …" : "");
        return buf;
}

static Found report_output(Expander *ex, const InputSpec *input, const TextList *outputs)
{
        Suggest suggest = SUGGEST_INIT(input->output);
        _cleanup_free_ char *full = NULL;
        char some[200];

        if (outputs->broken)
                return FOUND_ERROR;
        for (size_t i = 0; i < outputs->n && !diagnostics_full(ex->diags); i++)
                suggest_offer(&suggest, outputs->items[i].s);
        if (suggest.best && asprintf(&full, "%s/%s", input->node, suggest.best) < 0)
                full = NULL;
        diagnostics_error_hint(ex->diags, input->source.span, full, "node %s has no output %s%s", QUOTE(input->node),
                QUOTE(input->output), list_some(outputs, some, sizeof(some)));
        return FOUND_ERROR;
}

static Found resolve_leaf(Expander *ex, const Leaf *leaf, const InputSpec *input, Link *link)
{
        if (!list_holds(&leaf->spec->outputs, input->output))
                return report_output(ex, input, &leaf->spec->outputs);
        link->from = leaf;
        link->output = input->output;
        return FOUND;
}

/* The leaf inside a module (and the modules inside it) that has the output. */
static Found resolve_module(Expander *ex, const Scope *scope, const InputSpec *input, Link *link)
{
        for (;;) {
                const TextList *outputs = &scope->file->outputs;
                size_t i = 0, producer;

                while (i < outputs->n && strcmp(outputs->items[i].s, input->output) != 0)
                        i++;
                if (i == outputs->n)
                        return report_output(ex, input, outputs);
                producer = scope->producers[i];
                if (producer == SIZE_MAX)
                        return FOUND_ERROR;
                if (scope->leaves[producer])
                        return resolve_leaf(ex, scope->leaves[producer], input, link);
                scope = scope->children[producer];
                if (!scope)
                        return FOUND_ERROR;
        }
}

const Leaf *expander_find_leaf(const Expander *ex, const char *id)
{
        size_t low = 0, high = ex->n_leaves;

        while (low < high) {
                size_t mid = low + (high - low) / 2;
                int c = strcmp(ex->by_id[mid]->id, id);

                if (c == 0)
                        return ex->by_id[mid];
                if (c < 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        return NULL;
}

static Found resolve_in_file(Expander *ex, const Scope *scope, const NodeSpec *node, const InputSpec *input,
        Link *link)
{
        size_t index = (size_t)(node - scope->file->nodes);

        if (scope->leaves[index])
                return resolve_leaf(ex, scope->leaves[index], input, link);
        if (scope->children[index])
                return resolve_module(ex, scope->children[index], input, link);
        return FOUND_ERROR; /* a module that could not be used: reported */
}

static Found report_node(Expander *ex, const Scope *scope, const InputSpec *input)
{
        Suggest suggest = SUGGEST_INIT(input->node);
        _cleanup_free_ char *full = NULL;

        for (size_t i = 0; i < scope->file->n_by_id && !diagnostics_full(ex->diags); i++)
                suggest_offer(&suggest, scope->file->by_id[i]->id.s);
        if (strncmp(input->output, "timer/", 6) == 0) {
                suggest_offer(&suggest, "tidegate");
                suggest_offer(&suggest, "dora");
        }
        if (suggest.best && asprintf(&full, "%s/%s", suggest.best, input->output) < 0)
                full = NULL;
        diagnostics_error_hint(ex->diags, input->source.span, full, "there is no node %s", QUOTE(input->node));
        return FOUND_ERROR;
}

/* The own file first; then, as Dora has it, the dataflow's nodes and the expanded ids. */
static Found resolve_node(Expander *ex, const Scope *scope, const InputSpec *input, Link *link)
{
        const NodeSpec *node = file_find_node(scope->file, input->node);
        const Leaf *leaf;

        if (node)
                return resolve_in_file(ex, scope, node, input, link);
        node = file_find_node(ex->root->file, input->node);
        if (node)
                return resolve_in_file(ex, ex->root, node, input, link);
        leaf = expander_find_leaf(ex, input->node);
        if (leaf)
                return resolve_leaf(ex, leaf, input, link);
        return report_node(ex, scope, input);
}

static Found report_port(Expander *ex, const Scope *scope, const InputSpec *input)
{
        const TextList *lists[] = {&scope->file->inputs, &scope->file->inputs_optional};
        Suggest suggest = SUGGEST_INIT(input->output);
        _cleanup_free_ char *full = NULL;

        for (size_t k = 0; k < ELEMENTSOF(lists); k++)
                for (size_t i = 0; i < lists[k]->n; i++)
                        suggest_offer(&suggest, lists[k]->items[i].s);
        if (suggest.best && asprintf(&full, "%s/%s", MODULE_PORT, suggest.best) < 0)
                full = NULL;
        diagnostics_error_hint(
                ex->diags, input->source.span, full, "the module declares no input %s", QUOTE(input->output));
        return FOUND_ERROR;
}

/* What the node says of the link wins over what the module's user says of the port. */
static void inherit_options(LinkOptions *options, const LinkOptions *outer)
{
        if (!options->queue_size)
                options->queue_size = outer->queue_size;
        if (options->queue_policy == QUEUE_POLICY_UNSET)
                options->queue_policy = outer->queue_policy;
        if (!options->timeout_ns)
                options->timeout_ns = outer->timeout_ns;
}

static Found resolve_port(Expander *ex, const Scope *scope, const InputSpec *input, Link *link)
{
        bool required = list_holds(&scope->file->inputs, input->output);
        Found found;

        if (!required && !list_holds(&scope->file->inputs_optional, input->output))
                return report_port(ex, scope, input);
        for (size_t i = 0; i < scope->user->n_inputs; i++) {
                const InputSpec *wired = &scope->user->inputs[i];

                if (strcmp(wired->id.s, input->output) != 0)
                        continue;
                inherit_options(&link->options, &wired->options);
                found = resolve(ex, scope->parent, wired, link);
                if (found == FOUND_NOTHING && required) {
                        diagnostics_error(ex->diags, wired->source.span,
                                "input %s of the module is required, but this optional input is not wired",
                                QUOTE(wired->id.s));
                        return FOUND_ERROR;
                }
                return found;
        }
        return required ? FOUND_ERROR : FOUND_NOTHING; /* a missing required one was reported with its user */
}

static Found resolve(Expander *ex, const Scope *scope, const InputSpec *input, Link *link)
{
        switch (input->kind) {
        case INPUT_TIMER:
                link->timer_ns = input->timer_ns;
                return FOUND;
        case INPUT_NODE:
                return resolve_node(ex, scope, input, link);
        case INPUT_PORT:
                return resolve_port(ex, scope, input, link);
        default:
                return FOUND_ERROR;
        }
}

/* Wires of a module's user that no node inside takes are looked up too: a wrong name is wrong all the same. */
static void check_wires(Expander *ex, const Scope *scope)
{
        for (size_t i = 0; i < scope->file->n_nodes; i++) {
                const NodeSpec *node = &scope->file->nodes[i];

                for (size_t k = 0; node->module.s && k < node->n_inputs; k++) {
                        Link unused = {.input = &node->inputs[k]};

                        (void)resolve(ex, scope, &node->inputs[k], &unused);
                }
                if (scope->children[i])
                        check_wires(ex, scope->children[i]);
        }
}

int resolve_links(Expander *ex)
{
        size_t n = 0;

        for (size_t i = 0; i < ex->n_leaves; i++)
                n += ex->leaves[i]->spec->n_inputs;
        if (n > LINKS_MAX) {
                diagnostics_error(ex->diags, (Span){.source = ex->root->file->source},
                        "%zu inputs; at most %d are allowed", n,
                        LINKS_MAX);
                return 0;
        }
        for (size_t i = 0; i < ex->n_leaves; i++) {
                Leaf *leaf = ex->leaves[i];

                leaf->links = arena_alloc(ex->arena, leaf->spec->n_inputs * sizeof(*leaf->links));
                if (!leaf->links)
                        return error_origin(-ENOMEM);
                for (size_t k = 0; k < leaf->spec->n_inputs; k++) {
                        const InputSpec *input = &leaf->spec->inputs[k];
                        Link link = {.input = input, .options = input->options};

                        if (resolve(ex, leaf->scope, input, &link) == FOUND)
                                leaf->links[leaf->n_links++] = link;
                }
        }
        check_wires(ex, ex->root);
        return 0;
}
