/* SPDX-License-Identifier: Apache-2.0 */
/* What a node waits for, and what follows when it fails or is stuck. */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "descriptor/read.h"

const char *const until_names[_UNTIL_MAX + 1] = {
        [UNTIL_STARTED] = "started",
        [UNTIL_READY] = "ready",
        [UNTIL_COMPLETED] = "completed",
};

const char *const on_failure_names[_ON_FAILURE_MAX + 1] = {
        [ON_FAILURE_UNSET] = "",
        [ON_FAILURE_STOP] = "stop",
        [ON_FAILURE_RESTART_DOWNSTREAM] = "restart-downstream",
        [ON_FAILURE_IGNORE] = "ignore",
};

const char *const wait_mode_names[_WAIT_MODE_MAX + 1] = {
        [WAIT_ADAPTIVE] = "adaptive",
        [WAIT_BLOCK] = "block",
        [WAIT_SPIN] = "spin",
};

const char *const place_wish_names[_PLACE_WISH_MAX + 1] = {
        [PLACE_UNSET] = "",
        [PLACE_AUTO] = "auto",
        [PLACE_COLOCATE] = "colocate",
        [PLACE_SPREAD] = "spread",
        [PLACE_NONE] = "none",
};

void read_placement(Reader *reader, const YamlNode *value, PlaceWish *ret)
{
        int choice = value ? read_choice(reader, value, "placement", place_wish_names) : -1;

        if (choice > 0)
                *ret = (PlaceWish)choice;
}

void read_wait(Reader *reader, const YamlNode *value, WaitMode *ret)
{
        int choice = value ? read_choice(reader, value, "wait", wait_mode_names) : -1;

        if (choice >= 0)
                *ret = (WaitMode)choice;
}

void read_on_failure(Reader *reader, const YamlNode *value, OnFailure *ret)
{
        int choice = value ? read_choice(reader, value, "on_failure", on_failure_names) : -1;

        if (choice > 0)
                *ret = (OnFailure)choice;
}

void read_stuck_timeout(Reader *reader, const YamlNode *value, uint64_t *ret_ns)
{
        if (value && value->kind == YAML_STRING) {
                if (strcmp(value->text, "off") == 0)
                        *ret_ns = 0;
                else
                        diagnostics_error(reader->diags, value->span,
                                "stuck_timeout must be a number of seconds or off, not %s", QUOTE(value->text));
                return;
        }
        read_seconds(reader, value, "stuck_timeout", true, ret_ns);
}

/* An entry is taken even when its condition is wrong (reported): the name is worth a look all the same. */
static int add_after(Reader *reader, Text id, const YamlNode *until, NodeSpec *node)
{
        AfterSpec spec = {.id = id, .until = UNTIL_READY}, *slot;
        int choice;

        if (until && until->kind == YAML_NULL)
                diagnostics_error(reader->diags, id.span, "after does not say what it waits for: %s: started, ready or completed",
                        QUOTE(id.s));
        else if (until && (choice = read_choice(reader, until, "what after waits for", until_names)) >= 0)
                spec.until = (Until)choice;
        for (size_t i = 0; i < node->n_after; i++)
                if (strcmp(node->after[i].id.s, spec.id.s) == 0) {
                        /* of a map the parser has said so */
                        if (!until)
                                diagnostics_error(reader->diags, spec.id.span, "node %s is there twice in after",
                                        QUOTE(spec.id.s));
                        return 0;
                }
        slot = arena_grow(reader->arena, &node->after, node->n_after, sizeof(*slot));
        if (!slot)
                return error_origin(-ENOMEM);
        *slot = spec;
        node->n_after++;
        return 0;
}

int read_after(Reader *reader, const YamlNode *value, NodeSpec *node)
{
        int r = 0;

        if (!value || value->kind == YAML_NULL)
                return 0;
        if (value->kind != YAML_MAP && value->kind != YAML_LIST) {
                wrong_kind(reader, value, "after", "a map (node: started, ready or completed) or a list of nodes");
                return 0;
        }
        if (value->n > AFTER_MAX) {
                diagnostics_error(reader->diags, value->span, "%zu nodes in after; at most %d are allowed", value->n,
                        AFTER_MAX);
                return 0;
        }
        for (size_t i = 0; i < value->n && !r; i++) {
                const YamlPair *pair = value->kind == YAML_MAP ? &value->pairs[i] : NULL;
                Text id = {NULL};

                if (pair)
                        id = (Text){.s = pair->key->text, .span = pair->key->span};
                else
                        read_string(reader, value->items[i], "a node in after", &id);
                if (id.s)
                        r = add_after(reader, id, pair ? pair->value : NULL, node);
        }
        return r ? error_fold(r) : 0;
}
