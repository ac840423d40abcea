/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/misbehaviour.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "supervisor/wiring.h"

#define SAID_MAX 96 /* bytes of an accusation that are shown */

/* "a/out -> b/in" */
static void name_link(char *ret, size_t size, const Link *link)
{
        (void)snprintf(ret, size, "%s/%s -> %s/%s", link->source->plan->id, link->source->plan->outputs[link->output],
                link->target->plan->id, link->target->plan->inputs[link->input].id);
}

void misbehaviour_left(const Link *link, Node *by, const char *text)
{
        Misbehaviour *m = &by->misbehaviour;
        _cleanup_free_ char *clean = NULL;
        char name[sizeof(m->text)], note[sizeof(name) + 5 * SAID_MAX];

        m->n_left++;
        if (m->n_left & (m->n_left - 1))
                return;
        clean = utf8_clean(text, strnlen(text, SAID_MAX), NULL);
        name_link(name, sizeof(name), link);
        (void)snprintf(note, sizeof(note), "let go of %s: %s", name, clean ? clean : "?");
        dataflow_note(by->dataflow, by->plan->id, note);
}

void misbehaviour_found(const Link *link, const Node *by, const char *text)
{
        Node *who = link->source == by ? link->target : link->source;
        Misbehaviour *m = &who->misbehaviour;
        _cleanup_free_ char *clean = utf8_clean(text, strnlen(text, SAID_MAX), NULL);
        char note[sizeof(m->text) + 64];

        (void)snprintf(m->text, sizeof(m->text), "%s/%s -> %s/%s: %s, says %s", link->source->plan->id, link->source->plan->outputs[link->output],
                link->target->plan->id, link->target->plan->inputs[link->input].id, clean ? clean : "?", by->plan->id);
        m->count++;
        node_journal(who);
        if (m->count & (m->count - 1))
                return;
        (void)snprintf(note, sizeof(note), "broke the protocol (%llu time%s): %s", (unsigned long long)m->count, m->count == 1 ? "" : "s", m->text);
        dataflow_note(who->dataflow, who->plan->id, note);
}

void misbehaviour_describe(json_t *result, const Misbehaviour *of)
{
        _cleanup_free_ char *clean = of->count ? utf8_clean(of->text, strlen(of->text), NULL) : NULL; /* it may have been cut inside a character */

        if (result && of->count)
                (void)json_object_set_new(result, "violations", json_pack("{sI ss}", "count", (json_int_t)of->count, "text", clean ? clean : ""));
}
