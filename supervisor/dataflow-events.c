/* SPDX-License-Identifier: Apache-2.0 */
/* What clients hear of a dataflow: events, notes, the ledger. */
#include "supervisor/dataflow-internal.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/utf8.h"
#include "supervisor/supervisor.h"

void dataflow_emit(Dataflow *dataflow, json_t *take_event)
{
        if (take_event && dataflow->event_fn)
                dataflow->event_fn(dataflow, take_event, dataflow->options.owner);
        json_decref(take_event);
}

void dataflow_node_changed(Node *node, NodeState from, NodeEvent event)
{
        json_t *changed;

        if (node->state == from)
                return;
        changed = json_pack("{ss ss si ss ss ss sI si ss* ss*}", "type", "node", "node", node->plan->id, "line", (int)node->plan->line, "from", node_state_to_string(from),
                "to", node_state_to_string(node->state), "event", node_event_to_string(event), "generation",
                (json_int_t)node->generation, "pid", (int)node->pid, "error", node->error, "killed_by", node_killed_by(node));
        if (changed && event == NODE_EV_EXITED && node->exit_known_at) {
                (void)json_object_set_new(changed, "seen_at_us", json_integer((json_int_t)(node->exit_seen_at / NSEC_PER_USEC)));
                (void)json_object_set_new(changed, "known_at_us", json_integer((json_int_t)(node->exit_known_at / NSEC_PER_USEC)));
        }
        dataflow_emit(node->dataflow, changed);
}

void dataflow_note(Dataflow *dataflow, const char *node, const char *text)
{
        _cleanup_free_ char *clean = utf8_clean(text, strlen(text), NULL);
        json_t *note = clean ? json_pack("{ss ss* ss}", "type", "note", "node", node, "text", clean) : NULL;

        if (note && json_array_size(dataflow->notes) < 1000)
                (void)json_array_append(dataflow->notes, note);
        dataflow_emit(dataflow, note);
}

void dataflow_health_event(Dataflow *dataflow, const Node *node, const char *type, const char *text)
{
        dataflow_emit(dataflow, json_pack("{ss ss ss}", "type", type, "node", node->plan->id, "text", text));
}

void dataflow_stuck_event(Dataflow *dataflow, const Node *node, const char *text, json_t *take_why)
{
        const char *sentence = json_string_value(json_object_get(take_why, "text"));

        if (!supervisor_is_private(dataflow->supervisor))
                log_line("STUCK: node %s of %s: %s%s%s", node->plan->id, dataflow->plan->name, text, sentence ? ": " : "", sentence ? sentence : "");
        dataflow_emit(dataflow, json_pack("{ss ss ss so*}", "type", "stuck", "node", node->plan->id, "text", text, "why", take_why));
}

void dataflow_why_event(Dataflow *dataflow, const Node *node, const char *what, json_t *take_why)
{
        char text[1200];

        (void)snprintf(text, sizeof(text), "is killed, and %s: %.1100s", what, json_string_value(json_object_get(take_why, "text")));
        dataflow_emit(dataflow, json_pack("{ss ss ss so*}", "type", "why", "node", node->plan->id, "text", text, "why", take_why));
}

void dataflow_freezer_event(Dataflow *dataflow, const Node *node, bool frozen)
{
        dataflow_emit(dataflow, json_pack("{ss ss* ss}", "type", frozen ? "frozen" : "thawed", "node", node ? node->plan->id : NULL, "text",
                                        frozen ? "every process stands still" : "every process runs again"));
}

void dataflow_probe_event(Dataflow *dataflow, const char *what, const char *why)
{
        dataflow_emit(dataflow, json_pack("{ss ss}", "type", "probe-detached", "text", why));
        if (!supervisor_is_private(dataflow->supervisor))
                log_line("%s of dataflow %s are not counted any more: %s", what, dataflow->plan->name, why);
}

void dataflow_pressure_event(Dataflow *dataflow, const Node *node, const char *resource, const char *measured, const char *threshold, const char *action,
        const char *text)
{
        dataflow_emit(dataflow, json_pack("{ss ss* ss ss ss ss ss}", "type", "pressure", "node", node ? node->plan->id : NULL, "resource", resource, "measured",
                                        measured, "threshold", threshold, "action", action, "text", text));
}

void dataflow_escape_event(Dataflow *dataflow, const Node *node, int32_t pid, const char *comm, const char *from, const char *to, int signo)
{
        const char *fate = signo == SIGKILL             ? "was killed there"
                         : signo == KEEPER_ESCAPED_ALONE ? "is left alone: its node may place others elsewhere"
                         : signo == KEEPER_ESCAPED_GONE  ? "has ended or come back since"
                                                         : "is killed with it";
        char text[512];

        (void)snprintf(text, sizeof(text), "process %d (%s) has left the cgroup of its node for %.300s, and %s", pid, comm, to[0] ? to : "another", fate);
        dataflow_emit(dataflow, json_pack("{ss ss si ss ss ss ss}", "type", "escape-attempt", "node", node->plan->id, "pid", (int)pid,
                "comm", comm, "from", from, "to", to, "text", text));
        if (!supervisor_is_private(dataflow->supervisor))
                log_line("ESCAPE: node %s of %s: %s", node->plan->id, dataflow->plan->name, text);
}

void dataflow_ledger(Dataflow *dataflow, const char *rung, const Node *node, const char *result, int64_t count)
{
        dataflow_ledger_at(dataflow, clock_now(), rung, node, result, count);
}

static json_t *ledger_entry(const Dataflow *dataflow, nsec_t at, const char *rung, const Node *node, const char *result)
{
        nsec_t since = dataflow->stop_at ? dataflow->stop_at : dataflow->begun_at;

        return json_pack("{ss sI ss ss* ss}", "type", "ledger", "at_ms", (json_int_t)(nsec_left(at, since) / NSEC_PER_MSEC), "rung", rung, "node",
                node ? node->plan->id : NULL, "result", result);
}

static void ledger_add(Dataflow *dataflow, json_t *take_entry)
{
        if (take_entry && json_array_size(dataflow->ledger) < 10000)
                (void)json_array_append(dataflow->ledger, take_entry);
        dataflow_emit(dataflow, take_entry);
}

void dataflow_ledger_at(Dataflow *dataflow, nsec_t at, const char *rung, const Node *node, const char *result, int64_t count)
{
        json_t *entry = ledger_entry(dataflow, at, rung, node, result);

        if (entry && count >= 0)
                (void)json_object_set_new(entry, "count", json_integer(count));
        ledger_add(dataflow, entry);
}

void dataflow_ledger_audit(Dataflow *dataflow, const Node *node, const Audit *audit)
{
        char text[256];
        json_t *counts = audit_json(audit);
        json_t *entry = ledger_entry(dataflow, clock_now(), "audit", node, audit_text(audit, text, sizeof(text)));

        if (entry && counts)
                (void)json_object_update(entry, counts);
        json_decref(counts);
        ledger_add(dataflow, entry);
}

void dataflow_verdict(Dataflow *dataflow, const Node *node)
{
        json_t *entry = ledger_entry(dataflow, clock_now(), "verdict", node, leftover_verdict(&node->left));

        if (entry)
                (void)json_object_set_new(entry, "count", json_integer(node->left.n));
        if (entry && node->left.tasks)
                (void)json_object_set(entry, "tasks", node->left.tasks);
        ledger_add(dataflow, entry);
}

void dataflow_fail(Dataflow *dataflow, const Node *node, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        if (dataflow->error)
                return;
        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        if (text)
                dataflow->error = utf8_clean(text, strlen(text), NULL);
        dataflow_emit(dataflow, json_pack("{ss ss* ss}", "type", "error", "node", node ? node->plan->id : NULL, "text",
                                        dataflow->error ? dataflow->error : "out of memory"));
}
