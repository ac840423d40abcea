/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/pressure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/pressure.h"
#include "supervisor/supervisor.h"

typedef struct Conditions {
        const PlanPressure *all;
        size_t n;
} Conditions;

static Conditions conditions_of(const Dataflow *dataflow, const Node *node)
{
        return node ? (Conditions){node->plan->pressure, node->plan->n_pressure} : (Conditions){dataflow->plan->pressure, dataflow->plan->n_pressure};
}

static Pressure *held(Dataflow *dataflow, Node *node)
{
        return node ? &node->pressure : &dataflow->pressure;
}

void pressure_done(Pressure *pressure)
{
        free(pressure->text);
        *pressure = (Pressure){};
}

static bool asks(const Conditions *c)
{
        for (size_t i = 0; i < c->n; i++)
                if (pressure_file(c->all[i].kind))
                        return true;
        return false;
}

bool pressure_is_asked(const Dataflow *dataflow)
{
        Conditions c = conditions_of(dataflow, NULL);
        bool any = asks(&c);

        for (size_t i = 0; i < dataflow->plan->n_nodes && !any; i++) {
                c = conditions_of(dataflow, &dataflow->nodes[i]);
                any = asks(&c);
        }
        return any;
}

/* ---- what this host can do */

/* The reason in lines "KEY=reason"; NULL: none. */
static const char *line_of(const char *text, const char *key, int *ret_n)
{
        size_t n = strlen(key);

        for (const char *at = text; at && *at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
                if (strncmp(at, key, n) == 0 && at[n] == '=') {
                        *ret_n = (int)strcspn(at + n + 1, "\n");
                        return at + n + 1;
                }
        return NULL;
}

static const char *why_not(const PlanPressure *p, const char *missing, int *ret_n)
{
        const char *reason = pressure_file(p->kind) ? line_of(missing, "pressure", ret_n) : NULL;

        if (!reason && pressure_file(p->kind) && p->window_ns % PRESSURE_UNPRIVILEGED)
                reason = line_of(missing, "pressure_window", ret_n);
        return reason;
}

/* What was asked for and cannot be had is told once, or fails the start. False: that. */
static bool check_one(Dataflow *dataflow, Node *node, const char *missing)
{
        Conditions c = conditions_of(dataflow, node);
        const char *id = node ? node->plan->id : NULL, *name, *reason;
        char text[512];
        int n;

        for (size_t i = 0; i < c.n; i++) {
                reason = why_not(&c.all[i], missing, &n);
                if (!reason)
                        continue;
                name = pressure_names[c.all[i].kind];
                if (!dataflow->options.allow_unenforced) {
                        dataflow->failed_start = true;
                        dataflow_fail(dataflow, NULL, "%s%s: on_pressure (line %u): %s cannot be watched here: %.*s (--allow-unenforced-limits goes on without)",
                                node ? "node " : "the dataflow", node ? id : "", c.all[i].line, name, n, reason);
                        return false;
                }
                held(dataflow, node)->unwatched |= UINT32_C(1) << i;
                (void)snprintf(text, sizeof(text), "on_pressure: %s%s is not watched: %.*s", name, node ? "" : " of the dataflow", MIN(n, 350), reason);
                dataflow_note(dataflow, id, text);
        }
        return true;
}

bool pressure_check(Dataflow *dataflow, const char *missing)
{
        if (!check_one(dataflow, NULL, missing))
                return false;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (!check_one(dataflow, &dataflow->nodes[i], missing))
                        return false;
        return true;
}

/* ---- watching */

void pressure_watch(Dataflow *dataflow, Node *node)
{
        Conditions c = conditions_of(dataflow, node);
        Pressure *p = held(dataflow, node);
        char text[PRESSURE_TEXT_MAX] = "";

        p->noted = 0;
        for (size_t i = 0; i < c.n; i++)
                if (!(p->unwatched & UINT32_C(1) << i))
                        (void)pressure_put(text, sizeof(text), &(PressureCondition){(uint32_t)i, c.all[i].kind, c.all[i].threshold, c.all[i].window_ns});
        if (text[0] && !(node && node_is_loose(node)))
                (void)keeper_order_pressure(dataflow, node, text); /* a keeper that is gone has a successor, which is told */
}

static void find_unwatched(Dataflow *dataflow, Node *node, const char *missing)
{
        Conditions c = conditions_of(dataflow, node);
        int n;

        held(dataflow, node)->unwatched = 0;
        for (size_t i = 0; i < c.n; i++)
                if (why_not(&c.all[i], missing, &n))
                        held(dataflow, node)->unwatched |= UINT32_C(1) << i;
}

void pressure_watch_all(Dataflow *dataflow, const char *missing)
{
        find_unwatched(dataflow, NULL, missing);
        if (dataflow->state == DATAFLOW_RUNNING)
                pressure_watch(dataflow, NULL);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                find_unwatched(dataflow, &dataflow->nodes[i], missing);
                if (dataflow->nodes[i].state == NODE_RUNNING)
                        pressure_watch(dataflow, &dataflow->nodes[i]);
        }
}

/* ---- what is met */

/* Who is being ended, or stands still, has no say any more; who starts has none yet. */
static bool is_heard(const Dataflow *dataflow, const Node *node)
{
        if (dataflow->stop_ordered || dataflow->frozen_all)
                return false;
        if (!node)
                return dataflow->state == DATAFLOW_RUNNING;
        return node->state == NODE_RUNNING && !node->error && !node->exited && !node->stop_wanted && !node->restart_wanted && !resources_is_frozen(node);
}

static void span_text(char *buffer, size_t size, nsec_t span)
{
        if (span >= NSEC_PER_SEC)
                (void)snprintf(buffer, size, "%.4g s", (double)span / 1e9);
        else
                (void)snprintf(buffer, size, "%.4g ms", (double)span / 1e6);
}

/* "150 ms"; of what is counted "100 times" */
static void amount_text(char *buffer, size_t size, const PlanPressure *p, uint64_t amount)
{
        if (pressure_counts(p->kind))
                (void)snprintf(buffer, size, "%llu times", (unsigned long long)amount);
        else
                span_text(buffer, size, amount);
}

/* "212 ms in 1.02 s", "at least 150 ms in 1 s (18.3 % of the last 10 s)" */
static void measured_text(char *buffer, size_t size, const PlanPressure *p, const KeeperMsg *msg)
{
        char waited[32], window[32], average[64] = "";
        bool known = msg->pressed.over_ns > 0;

        amount_text(waited, sizeof(waited), p, known ? msg->pressed.measured : p->threshold);
        span_text(window, sizeof(window), known ? msg->pressed.over_ns : p->window_ns);
        if (msg->pressed.average != KEEPER_PRESSURE_UNKNOWN)
                (void)snprintf(average, sizeof(average), " (%.4g %% of the last 10 s)", msg->pressed.average / 100.0);
        (void)snprintf(buffer, size, "%s%s in %s%s", known ? "" : "at least ", waited, window, average);
}

static void threshold_text(char *buffer, size_t size, const PlanPressure *p)
{
        char threshold[32], window[32];

        amount_text(threshold, sizeof(threshold), p, p->threshold);
        span_text(window, sizeof(window), p->window_ns);
        (void)snprintf(buffer, size, "%s in %s", threshold, window);
}

static void act(Dataflow *dataflow, Node *node, const PlanPressure *p, const char *text)
{
        const DataflowOptions *o = &dataflow->options;

        if (p->action == PRESSURE_RESTART && node) {
                node_on_pressure(node, text);
        } else if (p->action == PRESSURE_STOP && node) {
                NodeLadder ladder = node_ladder(dataflow->loop->now, o->grace_ns, o->budget_ns, false);

                node_set_error(node, "was stopped for its pressure: %s", text);
                node_stop_in_escrow(node, &ladder);
        } else if (p->action == PRESSURE_STOP) {
                dataflow_fail(dataflow, NULL, "was stopped for its pressure: %s", text);
                dataflow_stop(dataflow, o->grace_ns, false, "pressure");
        }
}

void pressure_told(Dataflow *dataflow, Node *node, const KeeperMsg *msg)
{
        Conditions c = conditions_of(dataflow, node);
        Pressure *held_ = held(dataflow, node);
        char measured[160], threshold[80], text[320];
        const PlanPressure *p;

        if (msg->pressed.index >= c.n || !is_heard(dataflow, node))
                return;
        p = &c.all[msg->pressed.index];
        measured_text(measured, sizeof(measured), p, msg);
        threshold_text(threshold, sizeof(threshold), p);
        (void)snprintf(text, sizeof(text), "%s %s; on_pressure (line %u): %s at %s", pressure_names[p->kind], measured, p->line,
                pressure_action_names[p->action], threshold);
        held_->n_met++;
        free(held_->text);
        held_->text = strdup(text); /* NULL: status says how often alone */
        dataflow_pressure_event(dataflow, node, pressure_names[p->kind], measured, threshold, pressure_action_names[p->action], text);
        if (!(held_->noted & UINT32_C(1) << msg->pressed.index) && p->action == PRESSURE_EVENT)
                dataflow_note(dataflow, node ? node->plan->id : NULL, text); /* an event is gone; once in a life it is kept */
        held_->noted |= UINT32_C(1) << msg->pressed.index;
        act(dataflow, node, p, text);
}
_Static_assert(PRESSURE_CONDITIONS_MAX <= 32, "a bit for each");

void pressure_told_unwatched(Dataflow *dataflow, Node *node, const char *text)
{
        Conditions c = conditions_of(dataflow, node);

        while (*text) {
                unsigned index;
                int length = 0, n = (int)strcspn(text, "\n");
                char note[400];

                if (sscanf(text, "%u=%n", &index, &length) == 1 && length > 0 && index < c.n) {
                        (void)snprintf(note, sizeof(note), "on_pressure: %s%s is not watched: %.*s", pressure_names[c.all[index].kind], node ? "" : " of the dataflow",
                                MIN(n - length, 300), text + length);
                        dataflow_note(dataflow, node ? node->plan->id : NULL, note);
                }
                text += n + (text[n] == '\n');
        }
}
