/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/follow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/print.h"

#define FLUSH_SPAN   NSEC_PER_SEC
#define LEDGER_SHOWN 48   /* rungs; --json has all */
#define SLACK_MS     2000 /* an event's time is one of this stop, or it is one of the clock */

/* ---- ids */

static void node_label(const Follow *follow, char *buffer, size_t size, const char *dataflow, const char *node)
{
        if (follow->many && dataflow[0])
                (void)snprintf(buffer, size, "%s:%s", dataflow, node);
        else
                (void)snprintf(buffer, size, "%s", node);
        (void)text_tame(buffer, false);
}

static int add_nodes(Follow *follow, const json_t *dataflow, json_t *to)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(dataflow, "nodes"), i, node) {
                char label[320];

                node_label(follow, label, sizeof(label), json_get_text(dataflow, "name"), json_get_text(node, "id"));
                if (json_array_append_new(to, json_pack("{ss}", "id", label)) < 0)
                        return error_origin(-ENOMEM);
        }
        return 0;
}

int follow_init(Follow *follow, const json_t *dataflows, const char *phase, bool json)
{
        size_t n = json_array_size(dataflows), i;
        json_t *nodes = json_array(), *dataflow;
        char title[320];
        int r = 0;

        *follow = (Follow){.many = n > 1, .since = clock_now()};
        if (n == 1)
                (void)snprintf(title, sizeof(title), "%s", json_get_text(json_array_get(dataflows, 0), "name"));
        else
                (void)snprintf(title, sizeof(title), "%zu dataflows", n);
        json_array_foreach(dataflows, i, dataflow)
                r = r ? r : add_nodes(follow, dataflow, nodes);
        follow->plan = json_pack("{ss so}", "name", text_tame(title, false), "nodes", nodes);
        if (!follow->plan)
                return error_origin(-ENOMEM);
        if (!r)
                r = screen_init(&follow->screen, follow->plan, json);
        if (r)
                return error_fold(r);
        screen_phase(&follow->screen, phase, follow->since);
        follow_refresh(follow, dataflows);
        return 0;
}

void follow_done(Follow *follow)
{
        unsigned long long hidden = follow->screen.n_hidden;

        screen_done(&follow->screen, nsec_add(clock_now(), FLUSH_SPAN));
        if (hidden)
                fprintf(stderr,
                        "tidegate: %llu lines were not shown: whoever reads this output is slow, or they are longer than 1 "
                        "MiB\n",
                        hidden);
        json_decref(follow->plan);
        free(follow->told);
        *follow = (Follow){};
}

void follow_refresh(Follow *follow, const json_t *dataflows)
{
        json_t *dataflow, *node;
        long long until = 0;
        size_t i, k;

        json_array_foreach(dataflows, i, dataflow) {
                until = MAX(until, json_get_number(dataflow, "stop_until_at_ms"));
                json_array_foreach(json_object_get(dataflow, "nodes"), k, node) {
                        char label[320];

                        node_label(follow, label, sizeof(label), json_get_text(dataflow, "name"), json_get_text(node, "id"));
                        (void)json_object_set_new(follow->screen.states, label, json_string(json_get_text(node, "state")));
                }
        }
        if (until > 0)
                follow->screen.stop_until = nsec_mul((nsec_t)until, NSEC_PER_MSEC);
}

nsec_t follow_until(const Follow *follow)
{
        return follow->screen.stop_until;
}

/* ---- events */

/* Ledgers count from the order. A time that cannot be one of this stop is one of the clock. */
static long long since_order(const Follow *follow, long long at_ms)
{
        nsec_t now = clock_now();

        if (at_ms <= (long long)((now - follow->since) / NSEC_PER_MSEC) + SLACK_MS)
                return at_ms;
        return MAX(at_ms - (long long)(follow->since / NSEC_PER_MSEC), 0LL);
}

static const char *dataflow_of(const json_t *event)
{
        const char *name = json_get_text(event, "name");

        return name[0] ? name : json_get_text(event, "dataflow");
}

/* What the screen shows of an event. New reference, or NULL. */
static json_t *shown_event(const Follow *follow, const json_t *event)
{
        json_t *copy = json_copy((json_t *)event); /* jansson copies what it is not to change */
        const char *node = json_get_text(event, "node"), *key;
        char label[320];
        json_t *value;

        if (!copy || follow->screen.json)
                return copy;
        json_object_foreach((json_t *)event, key, value) {
                char *text = json_is_string(value) ? strdup(json_string_value(value)) : NULL;

                if (text)
                        (void)json_object_set_new(copy, key, json_string(text_tame(text, false)));
                free(text);
        }
        if (node[0]) {
                node_label(follow, label, sizeof(label), dataflow_of(event), node);
                (void)json_object_set_new(copy, "node", json_string(label));
        }
        if (strcmp(json_get_text(event, "type"), "ledger") == 0)
                (void)json_object_set_new(copy, "at_ms", json_integer(since_order(follow, json_get_number(event, "at_ms"))));
        return copy;
}

void follow_event(Follow *follow, const json_t *event)
{
        _cleanup_(json_decrefp) json_t *shown = json_is_object(event) ? shown_event(follow, event) : NULL;
        const char *type = json_get_text(event, "type");

        if (!shown)
                return;
        if (follow->many && !follow->screen.json && strcmp(type, "dataflow") == 0) { /* the phase is that of all of them */
                if (strcmp(json_get_text(shown, "state"), "ended") == 0)
                        screen_say(&follow->screen, false, "%s has ended", dataflow_of(shown));
                return;
        }
        if (!follow->screen.json && strcmp(type, "dropped") == 0)
                screen_say(&follow->screen, false, "(%lld events not shown here: this terminal is slow)",
                        json_get_number(event, "count"));
        if (strcmp(type, "error") == 0) {
                free(follow->told);
                follow->told = strdup(json_get_text(event, "text")); /* NULL: it may be said twice */
        }
        screen_event(&follow->screen, shown, clock_now());
}

void follow_line(Follow *follow, const json_t *line)
{
        _cleanup_free_ char *text = NULL;
        json_t *value = json_object_get(line, "line");
        char label[320];

        node_label(follow, label, sizeof(label), "", json_get_text(line, "node"));
        if (json_is_string(value)) {
                text = strdup(json_string_value(value));
                if (!text)
                        return;
                if (follow->screen.tty)
                        (void)text_tame(text, true);
        }
        screen_line(&follow->screen,
                &(ScreenLine){.id = label,
                        .stream = (int)json_get_number(line, "stream"),
                        .wall_ns = nsec_mul((nsec_t)MAX(json_get_number(line, "time_ms"), 0LL), NSEC_PER_MSEC),
                        .count = (uint64_t)MAX(json_get_number(line, "dropped"), 0LL),
                        .text = text});
}

/* ---- results */

static void show_rung(Follow *follow, const json_t *entry)
{
        long long ms = since_order(follow, json_get_number(entry, "at_ms"));
        json_t *count = json_object_get(entry, "count");
        char label[320], who[32] = "";

        node_label(follow, label, sizeof(label), "", json_get_text(entry, "node"));
        if (json_is_integer(count) && strcmp(json_get_text(entry, "rung"), "verdict") == 0)
                (void)snprintf(who, sizeof(who), "%lld task%s", json_get_number(entry, "count"),
                        json_get_number(entry, "count") == 1 ? "" : "s");
        else if (json_is_integer(count))
                (void)snprintf(who, sizeof(who), "%lld process%s", json_get_number(entry, "count"),
                        json_get_number(entry, "count") == 1 ? "" : "es");
        screen_say(&follow->screen, false, "  +%.3f s  %-8s %-20s %-14s %s", (double)ms / 1000, json_get_text(entry, "rung"),
                label, who, json_get_text(entry, "result"));
}

static void show_ledger(Follow *follow, const json_t *result)
{
        json_t *ledger = json_object_get(result, "ledger"), *entry;
        size_t i, n = json_array_size(ledger);

        if (n == 0)
                return;
        screen_say(&follow->screen, false, "ledger of %s:", json_get_text(result, "name"));
        json_array_foreach(ledger, i, entry) {
                if (i == LEDGER_SHOWN && n > LEDGER_SHOWN + 1)
                        break;
                show_rung(follow, entry);
        }
        if (i < n)
                screen_say(&follow->screen, false, "  and %zu rungs more: --json has them all", n - i);
}

static void show_failed_nodes(Follow *follow, const json_t *result)
{
        json_t *node;
        size_t i;

        json_array_foreach(json_object_get(result, "nodes"), i, node) {
                const char *error = json_get_text(node, "error");

                if (error[0])
                        screen_say(&follow->screen, true, "node %s (line %lld): %s", json_get_text(node, "id"),
                                json_get_number(node, "line"), error);
        }
}

void follow_result(Follow *follow, json_t *result, bool ledger)
{
        int status = json_get_number(result, "left") > 0                ? CLI_NOT_RUNNING
                     : json_is_true(json_object_get(result, "success")) ? CLI_OK
                                                                        : CLI_FAILED;

        follow->n_results++;
        follow->status = MAX(follow->status, status);
        if (!follow->screen.json) {
                if (ledger)
                        show_ledger(follow, result);
                show_failed_nodes(follow, result);
                if (json_get_text(result, "error")[0] && !(follow->told && strcmp(follow->told, json_get_text(result, "error")) == 0))
                        screen_say(&follow->screen, true, "%s", json_get_text(result, "error"));
        }
        screen_result(&follow->screen, result);
}
