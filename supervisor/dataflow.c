/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/dataflow.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "base/utf8.h"
#include "base/uuid.h"
#include "supervisor/placer.h"
#include "supervisor/progress.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

#define DATAFLOW_BEGIN_SPAN    (5 * NSEC_PER_SEC)     /* the keeper makes one directory and forks */
#define DATAFLOW_CONFIRM_SPAN  (200 * NSEC_PER_MSEC)  /* the guard answers in microseconds */
#define DATAFLOW_END_SPAN      (2 * NSEC_PER_SEC)     /* the keeper flushes logs and removes directories */
#define DATAFLOW_END_LEFT_SPAN (100 * NSEC_PER_MSEC) /* the same, where somebody is left: no cgroup to wait for, and the stop has had its time */
#define DATAFLOW_END_SLACK     (500 * NSEC_PER_MSEC)
#define DATAFLOW_REPLACE_SPAN  (5 * NSEC_PER_SEC)     /* the guard kills, reaps and forks; the new keeper opens directories */
#define DATAFLOW_RESUME_SPAN   (2 * NSEC_PER_SEC)     /* a keeper that was told of a new supervisor says what it has; it never blocks */
#define DATAFLOW_CALM_SPAN     (10 * NSEC_PER_SEC)    /* a keeper that dies sooner after another one is not replaced */
#define DATAFLOW_DEAF_SPAN     NSEC_PER_SEC           /* the keeper hears of an exit when the guard does */

static const char *const state_names[_DATAFLOW_STATE_MAX] = {
        [DATAFLOW_BEGINNING] = "beginning",
        [DATAFLOW_STARTING] = "starting",
        [DATAFLOW_RUNNING] = "running",
        [DATAFLOW_STOPPING] = "stopping",
        [DATAFLOW_ENDING] = "ending",
        [DATAFLOW_ENDED] = "ended",
};

const char *dataflow_state_to_string(DataflowState state)
{
        return state < _DATAFLOW_STATE_MAX ? state_names[state] : "?";
}

/* ---- telling */

static void dataflow_emit(Dataflow *dataflow, json_t *take_event)
{
        if (take_event && dataflow->event_fn)
                dataflow->event_fn(dataflow, take_event, dataflow->options.owner);
        json_decref(take_event);
}

static void dataflow_set_state(Dataflow *dataflow, DataflowState state)
{
        if (dataflow->state == state)
                return;
        dataflow->state = state;
        dataflow->since = clock_now();
        dataflow_journal(dataflow);
        show_dataflow(dataflow);
        dataflow_emit(dataflow, json_pack("{ss ss}", "type", "dataflow", "state", state_names[state]));
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

void dataflow_freezer_event(Dataflow *dataflow, const Node *node, bool frozen)
{
        dataflow_emit(dataflow, json_pack("{ss ss* ss}", "type", frozen ? "frozen" : "thawed", "node", node ? node->plan->id : NULL, "text",
                                        frozen ? "every process stands still" : "every process runs again"));
}

bool dataflow_has_frozen(const Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].resources.frozen && (dataflow->nodes[i].state == NODE_STARTING || dataflow->nodes[i].state == NODE_RUNNING))
                        return true;
        return dataflow->frozen_all;
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

/* ---- the barrier */

static bool dataflow_is_final(const Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (!node_is_final(&dataflow->nodes[i]))
                        return false;
        return true;
}

/* Only dynamic nodes are left, and there were others: nobody is there any more for whom they could do anything. */
static bool dataflow_is_done(const Dataflow *dataflow)
{
        bool any = false;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                bool dynamic = dataflow->plan->nodes[i].kind == PLAN_KIND_DYNAMIC;

                if (!dynamic && !node_is_final(&dataflow->nodes[i]))
                        return false;
                any = any || !dynamic;
        }
        return any;
}

static void dataflow_let_go(Dataflow *dataflow)
{
        NodeLadder ladder = node_ladder(dataflow->loop->now, dataflow->options.grace_ns, dataflow->options.budget_ns, false);

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (!node_is_final(&dataflow->nodes[i]) && !dataflow->nodes[i].stop_wanted)
                        node_order_stop(&dataflow->nodes[i], &ladder);
}

static void dataflow_abort_start(Dataflow *dataflow, const Node *failed)
{
        dataflow->failed_start = true;
        dataflow_fail(dataflow, failed, "%s (line %u): %s", failed->plan->id, failed->plan->line,
                failed->error ? failed->error : "could not be started");
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (node_is_connected(&dataflow->nodes[i]))
                        wiring_abort(&dataflow->nodes[i], dataflow->error ? dataflow->error : "the start was given up");
        dataflow_stop(dataflow, NSEC_NEVER, false, "failed start");
}

static void dataflow_release(Dataflow *dataflow)
{
        dataflow->released = true;
        dataflow_journal(dataflow);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                if (node->plan->kind != PLAN_KIND_PROGRAM && node->state == NODE_RUNNING)
                        wiring_start(node);
                if (node->state == NODE_RUNNING)
                        show_node_runs(node);
        }
        dataflow_set_state(dataflow, DATAFLOW_RUNNING);
}

static void dataflow_look_at_start(Dataflow *dataflow)
{
        bool all = true;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];
                bool program = node->plan->kind == PLAN_KIND_PROGRAM;

                /* It may be quicker than its keeper, without whose word its pid is not known. */
                if (node->state == NODE_STARTING && !program && node->spawned && wiring_is_ready(node))
                        node_post(node, NODE_EV_READY);
                if (node->state == NODE_RUNNING && !program && !node->started && dataflow->released && wiring_may_begin(node))
                        wiring_start(node);
                if (!node_holds_barrier(node))
                        continue;
                if (node->state == NODE_FAILED && !node->was_ready && !dataflow->released) {
                        dataflow_abort_start(dataflow, node);
                        return;
                }
                all = all && (node->state == NODE_RUNNING || (node->was_ready && (program || node_is_final(node))));
        }
        if (all && !dataflow->released)
                dataflow_release(dataflow);
}

/* ---- the end */

static int on_end_late(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        (void)now;
        dataflow_note(dataflow, NULL, "the keeper did not end in time and was killed; log lines may be missing");
        guard_kill_keeper_order(dataflow->supervisor, dataflow->slot);
        keeper_link_close(dataflow);
        dataflow->keeper_gone = true;
        dataflow_kick(dataflow);
        return 0;
}

uint32_t dataflow_count_left(const Dataflow *dataflow)
{
        uint32_t n = 0;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                n += node_n_left(&dataflow->nodes[i]);
        return n;
}

/* As far as the nodes' verdicts say; at the end the keeper counts, if it is in time. */
static uint32_t dataflow_count_tasks_left(const Dataflow *dataflow)
{
        uint32_t n = 0;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];

                n += node->quarantined ? MAX(node->left.n, UINT32_C(1)) : 0;
                for (size_t k = 0; k < NODE_OLDER_MAX; k++)
                        n += node->older[k].generation > 0 ? MAX(node->older[k].n, UINT32_C(1)) : 0;
        }
        return n;
}

/* A private instance ends with its command: what would not die there is swept by the next one. */
static bool dataflow_may_watch(const Dataflow *dataflow)
{
        return dataflow->n_quarantined > 0 && !supervisor_is_private(dataflow->supervisor);
}

static void dataflow_end(Dataflow *dataflow)
{
        nsec_t deadline;

        dataflow->n_quarantined = dataflow_count_left(dataflow);
        dataflow->n_left = dataflow_count_tasks_left(dataflow);
        deadline = nsec_add(dataflow->loop->now, dataflow->n_left > 0 ? DATAFLOW_END_LEFT_SPAN : DATAFLOW_END_SPAN);
        dataflow_set_state(dataflow, DATAFLOW_ENDING);
        keeper_order_end(dataflow, deadline, dataflow_may_watch(dataflow));
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(deadline, DATAFLOW_END_SLACK), on_end_late);
}

static bool dataflow_may_replace(const Dataflow *dataflow);

void dataflow_left_look(Dataflow *dataflow)
{
        if (dataflow->state < DATAFLOW_ENDING)
                return;
        dataflow->n_quarantined = dataflow_count_left(dataflow);
        if (dataflow->n_quarantined == 0)
                dataflow->n_left = 0;
        dataflow_journal(dataflow);
        show_dataflow(dataflow);
        dataflow_kick(dataflow);
}

void dataflow_cleared(Dataflow *dataflow, const Node *node, const Leftover *leftover)
{
        nsec_t took = nsec_left(dataflow->loop->now, leftover->since);
        _cleanup_free_ char *text = NULL;

        if (asprintf(&text, "quarantine cleared after %.1f s: what was left of generation %llu (%s) has ended", (double)took / 1e9,
                    (unsigned long long)leftover->generation, leftover_verdict(leftover)) < 0)
                text = NULL;
        dataflow_emit(dataflow, json_pack("{ss ss sI sI ss*}", "type", "cleared", "node", node->plan->id, "generation",
                                        (json_int_t)leftover->generation, "took_ms", (json_int_t)(took / NSEC_PER_MSEC), "text", text));
}

const char *dataflow_what_is_left(const Dataflow *dataflow, char *buffer, size_t size)
{
        const Node *node = NULL;
        const Leftover *left = NULL;
        char first[256];

        for (size_t i = 0; i < dataflow->plan->n_nodes && !node; i++)
                if (node_n_left(&dataflow->nodes[i]) > 0)
                        node = &dataflow->nodes[i];
        for (size_t i = 0; node && i < NODE_OLDER_MAX && !left; i++)
                left = node->quarantined ? &node->left : node->older[i].generation > 0 ? &node->older[i] : NULL;
        if (left)
                (void)snprintf(buffer, size, "node %.128s would not end (%s%s%s)", node->plan->id, leftover_verdict(left), left->text ? ": " : "",
                        leftover_brief(left, first, sizeof(first)));
        else
                (void)snprintf(buffer, size, "%u processes of it would not end", dataflow->n_left);
        return buffer;
}

/* Ended, and not done with: until nobody is left there and its keeper has gone, or nobody can be had who would watch. */
static void dataflow_look_at_watch(Dataflow *dataflow)
{
        if (dataflow->n_quarantined > 0 && dataflow->keeper_gone && !dataflow->supervisor->ending && dataflow_may_replace(dataflow))
                dataflow_replace_keeper(dataflow, "has left those alone who would not die");
        if (dataflow->keeper_gone) {
                dataflow->watched = false;
                supervisor_watch_ended(dataflow->supervisor, dataflow);
        }
}

static int on_advance(Job *job)
{
        Dataflow *dataflow = container_of(job, Dataflow, advance);

        if (dataflow->adopting)
                return 0;
        if (dataflow->state == DATAFLOW_STARTING || dataflow->state == DATAFLOW_RUNNING)
                dataflow_look_at_start(dataflow);
        dataflow_look_at_order(dataflow);
        if (dataflow->state >= DATAFLOW_STARTING && dataflow->state < DATAFLOW_STOPPING && dataflow_is_done(dataflow))
                dataflow_let_go(dataflow);
        if (dataflow->state >= DATAFLOW_STARTING && dataflow->state < DATAFLOW_ENDING && dataflow_is_final(dataflow))
                dataflow_end(dataflow);
        if (dataflow->state == DATAFLOW_ENDING && (dataflow->keeper_gone || dataflow->keeper_stays) && audit_dataflow(dataflow)) {
                timer_disarm(&dataflow->timer);
                dataflow->watched = dataflow_may_watch(dataflow);
                dataflow->ended_at = dataflow->loop->now;
                dataflow_set_state(dataflow, DATAFLOW_ENDED);
                supervisor_dataflow_ended(dataflow->supervisor, dataflow);
        }
        if (dataflow->state == DATAFLOW_ENDED && dataflow->watched)
                dataflow_look_at_watch(dataflow);
        return 0;
}

void dataflow_kick(Dataflow *dataflow)
{
        job_post(dataflow->loop, &dataflow->advance, on_advance);
}

/* ---- the stop */

static void dataflow_stop_nodes(Dataflow *dataflow)
{
        if (dataflow->ladder.term > dataflow->loop->now) /* else it begins with the kill, which needs no thaw */
                resources_thaw(dataflow, NULL);
        dataflow_stop_some(dataflow);
        dataflow_kick(dataflow); /* there may be nobody to wait for */
}

static int on_guard_deaf(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        (void)now;
        dataflow_ledger(dataflow, "escrow", NULL, "guard unresponsive", -1);
        guard_replace_order(dataflow->supervisor);
        return 0;
}

/* Nobody waits for it any longer; but a machine may be too busy for it, and its place is taken only when it goes on saying nothing. */
static int on_unconfirmed(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        dataflow_ledger(dataflow, "escrow", NULL, "guard unresponsive", -1);
        dataflow_stop_nodes(dataflow);
        if (supervisor_is_private(dataflow->supervisor)) /* has no other guard to be had */
                return 0;
        dataflow->confirm_again = true;
        timer_arm(dataflow->loop, timer, MAX(MIN(nsec_add(now, DATAFLOW_DEAF_SPAN), dataflow->ladder.kill), nsec_add(now, DATAFLOW_CONFIRM_SPAN)), on_guard_deaf);
        return 0;
}

/* When the kill is due, whoever else would see to it has to be there: the guard is asked once more. */
static int on_confirm_again(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        dataflow->confirm_again = true;
        timer_arm(dataflow->loop, timer, nsec_add(now, DATAFLOW_CONFIRM_SPAN), on_guard_deaf);
        guard_escrow_order(dataflow->supervisor, dataflow->slot, dataflow_escrow_at(dataflow), dataflow_escrow_until(dataflow), 0);
        return 0;
}

void dataflow_on_escrow_ok(Dataflow *dataflow)
{
        if (dataflow->state != DATAFLOW_STOPPING || !dataflow->timer.loop)
                return; /* too late, or a second confirmation */
        timer_disarm(&dataflow->timer);
        if (!dataflow->confirm_again) {
                dataflow_ledger(dataflow, "escrow", NULL, "confirmed", -1);
                dataflow_stop_nodes(dataflow);
        }
        if (!supervisor_is_private(dataflow->supervisor) && dataflow->state == DATAFLOW_STOPPING && dataflow->loop->now < dataflow->ladder.kill)
                timer_arm(dataflow->loop, &dataflow->timer, dataflow->ladder.kill, on_confirm_again);
}

/* Nothing of it was begun, so nothing has to be awaited. */
static void dataflow_end_unbegun(Dataflow *dataflow, const char *who)
{
        dataflow->stop_ordered = true;
        dataflow->stop_at = dataflow->ended_at = dataflow->loop->now;
        dataflow_fail(dataflow, NULL, "was stopped before it began (%s)", who);
        dataflow->waits_for[0] = '\0';
        dataflow_set_state(dataflow, DATAFLOW_ENDED);
        supervisor_dataflow_ended(dataflow->supervisor, dataflow);
}

void dataflow_stop(Dataflow *dataflow, nsec_t grace_ns, bool force, const char *who)
{
        nsec_t now = dataflow->loop->now;
        NodeLadder wanted = node_ladder(now, grace_ns == NSEC_NEVER ? dataflow->options.grace_ns : grace_ns, dataflow->options.budget_ns, force);

        if (dataflow->state >= DATAFLOW_ENDING)
                return;
        if (dataflow->waits_for[0]) {
                dataflow_end_unbegun(dataflow, who);
                return;
        }
        if (!dataflow->stop_ordered)
                dataflow->stop_at = now;
        else if (!node_ladder_tighten(&dataflow->ladder, &wanted))
                return;
        if (!dataflow->stop_ordered)
                dataflow->ladder = wanted;
        dataflow->stop_ordered = true;

        /*
         * Nobody hears of a stop before its deadline is in other hands, not even the journal: if we die in between, the guard enforces, and
         * tells our successor, whatever becomes of that.
         */
        guard_escrow_order(dataflow->supervisor, dataflow->slot, dataflow_escrow_at(dataflow), dataflow_escrow_until(dataflow), 0);
        dataflow_journal(dataflow);
        dataflow_ledger(dataflow, force ? "force" : "stop", NULL, who, -1);
        dataflow->confirm_again = false;
        dataflow_set_state(dataflow, DATAFLOW_STOPPING);
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_CONFIRM_SPAN), on_unconfirmed);
}

void dataflow_adopt_escrow(Dataflow *dataflow, nsec_t at, nsec_t until)
{
        NodeLadder ladder = dataflow_ladder_of_escrow(dataflow->loop->now, at, until);

        if (at == NSEC_NEVER || dataflow->state >= DATAFLOW_ENDING || (dataflow->stop_ordered && at >= dataflow_escrow_at(dataflow)))
                return;
        if (!dataflow->stop_ordered) {
                dataflow->ladder = ladder;
                dataflow->stop_at = dataflow->loop->now;
                dataflow->stop_ordered = true;
                dataflow_ledger(dataflow, "stop", NULL, "ordered when the last supervisor died", -1);
        } else {
                (void)node_ladder_tighten(&dataflow->ladder, &ladder);
        }
        dataflow_journal(dataflow); /* the rest when it has been adopted */
}

/* ---- the keeper comes and goes */

void dataflow_on_begun(Dataflow *dataflow, uint32_t controllers, const char *missing, const char *refused)
{
        if (dataflow->state != DATAFLOW_BEGINNING)
                return;
        timer_disarm(&dataflow->timer);
        dataflow_set_state(dataflow, DATAFLOW_STARTING);
        if (resources_check(dataflow, controllers, missing, refused))
                dataflow_start_some(dataflow);
        else
                dataflow_stop(dataflow, NSEC_NEVER, false, "a limit that cannot be enforced");
}

static int on_begin_late(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        (void)now;
        keeper_lost(dataflow, "did not begin in time");
        return 0;
}

static void dataflow_end_without_keeper(Dataflow *dataflow, const char *why);

/* Nobody is there who could say what is there: the journal is what is known. */
static void dataflow_adopt_blindly(Dataflow *dataflow, const char *why)
{
        timer_disarm(&dataflow->keeper_timer);
        dataflow->adopting = dataflow->fresh = dataflow->keeper_replaced = false;
        dataflow_end_without_keeper(dataflow, why);
        dataflow_kick(dataflow); /* what happened meanwhile has waited */
        adopt_look(dataflow->supervisor);
}

static int on_keeper_slow(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, keeper_timer);

        (void)now;
        dataflow->keeper_gone = false;
        dataflow_adopt_blindly(dataflow, "could not be replaced in time");
        return 0;
}

static int on_keeper_silent(Timer *timer, nsec_t now)
{
        (void)now;
        keeper_lost(container_of(timer, Dataflow, keeper_timer), "did not say what it has");
        return 0;
}

void dataflow_resume_keeper(Dataflow *dataflow)
{
        timer_arm(dataflow->loop, &dataflow->keeper_timer, nsec_add(dataflow->loop->now, DATAFLOW_RESUME_SPAN), on_keeper_silent);
        keeper_order_resume(dataflow);
}

/* It is a new one, and not ready yet to say what is there. */
void dataflow_instruct_keeper(Dataflow *dataflow, bool begun)
{
        dataflow->keeper_replaced = true;
        timer_arm(dataflow->loop, &dataflow->keeper_timer, nsec_add(dataflow->loop->now, DATAFLOW_REPLACE_SPAN), on_keeper_slow);
        if (begun)
                adopt_with_new_keeper(dataflow);
        else
                keeper_order_begin(dataflow);
}

void dataflow_replace_keeper(Dataflow *dataflow, const char *why)
{
        char text[300];

        keeper_link_close(dataflow);
        dataflow->keeper_gone = dataflow->keeper_stays = false;
        dataflow->n_keeper_deaths++;
        dataflow->keeper_died_at = dataflow->loop->now;
        dataflow->adopting = dataflow->keeper_replaced = true;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                dataflow->nodes[i].found = (NodeFound){};
        dataflow_journal(dataflow);
        (void)snprintf(text, sizeof(text), "its keeper %s; another takes over", why);
        dataflow_note(dataflow, NULL, text);
        timer_arm(dataflow->loop, &dataflow->keeper_timer, nsec_add(dataflow->loop->now, DATAFLOW_REPLACE_SPAN), on_keeper_slow);
        if (dataflow->supervisor->slot_state[dataflow->slot] & SLOT_KEEPER) {
                guard_kill_keeper_order(dataflow->supervisor, dataflow->slot); /* the rest when it has been reaped */
                return;
        }
        dataflow->supervisor->slot_state[dataflow->slot] |= SLOT_KEEPER;
        guard_fork_keeper_order(dataflow->supervisor, dataflow->slot);
}

static bool dataflow_may_replace(const Dataflow *dataflow)
{
        nsec_t now = dataflow->loop->now;
        bool lives = !dataflow->keeper_gone && dataflow->state > DATAFLOW_BEGINNING && dataflow->state < DATAFLOW_ENDING;

        return !supervisor_is_private(dataflow->supervisor) && !dataflow->keeper_replaced && (lives || dataflow->watched) && (dataflow->n_keeper_deaths == 0 || nsec_add(dataflow->keeper_died_at, DATAFLOW_CALM_SPAN) <= now);
}

void dataflow_on_keeper(Dataflow *dataflow, int32_t pid, int take_sock, int take_pidfd)
{
        if (keeper_link_open(dataflow, pid, take_sock, take_pidfd))
                keeper_lost(dataflow, "could not be spoken to");
        else if (dataflow->state == DATAFLOW_ENDING) /* stopped before it began */
                keeper_order_end(dataflow, nsec_add(dataflow->loop->now, DATAFLOW_END_SPAN), false);
        else
                keeper_order_begin(dataflow);
}

void dataflow_on_keeper_failed(Dataflow *dataflow, int error)
{
        char why[128];

        (void)snprintf(why, sizeof(why), "could not be started: %s", error_text(-error));
        keeper_lost(dataflow, why);
}

void dataflow_on_keeper_gone(Dataflow *dataflow, int code, int status)
{
        char why[64];

        if (dataflow->state >= DATAFLOW_ENDING && !dataflow->keeper_replaced) {
                keeper_link_close(dataflow);
                dataflow->keeper_gone = true;
                dataflow_kick(dataflow);
                return;
        }
        if (dataflow->keeper_replaced && dataflow->keeper_fd < 0) { /* the one that was killed for it: now there is room */
                dataflow->supervisor->slot_state[dataflow->slot] |= SLOT_KEEPER;
                guard_fork_keeper_order(dataflow->supervisor, dataflow->slot);
                return;
        }
        if (code == CLD_EXITED)
                (void)snprintf(why, sizeof(why), "exited with status %d", status);
        else if (code == 0) /* it was the child of a guard that died */
                (void)snprintf(why, sizeof(why), "has ended, nobody saw how");
        else
                (void)snprintf(why, sizeof(why), "was ended by SIG%s", sigabbrev_np(status) ?: "?");
        keeper_lost(dataflow, why);
}

/*
 * Nobody can signal or watch the nodes' cgroups any more but the guard. It is asked to end them: SIGTERM at once, the kill after
 * half the grace. Nodes still hear a stop event from us, for their sockets are ours.
 */
static void dataflow_end_without_keeper(Dataflow *dataflow, const char *why)
{
        nsec_t now = dataflow->loop->now, term = dataflow->options.grace_ns / 2;

        if (dataflow->keeper_gone)
                return;
        dataflow->keeper_gone = true;
        keeper_link_close(dataflow);
        if (dataflow->state >= DATAFLOW_ENDING) { /* nobody lives there any more */
                dataflow_kick(dataflow);
                return;
        }
        dataflow_fail(dataflow, NULL, "the keeper of this dataflow %s; its nodes are ended by the guard", why);
        if (dataflow->state == DATAFLOW_BEGINNING) {
                dataflow_set_state(dataflow, DATAFLOW_STARTING); /* nothing was started: nothing to wait for */
                dataflow_stop_nodes(dataflow);
                return;
        }
        dataflow_stop(dataflow, dataflow->options.grace_ns, false, "keeper lost");
        if (!dataflow->stopping && !dataflow->timer.loop) /* it was ordered of a predecessor: nobody is asked yet */
                dataflow_stop_nodes(dataflow);
        guard_kill_keeper_order(dataflow->supervisor, dataflow->slot);
        guard_escrow_order(dataflow->supervisor, dataflow->slot, nsec_add(now, term),
                nsec_add(now, nsec_add(term, dataflow->options.budget_ns)), term);
}

void keeper_lost(Dataflow *dataflow, const char *why)
{
        if (dataflow_may_replace(dataflow)) {
                dataflow_replace_keeper(dataflow, why);
                return;
        }
        dataflow_adopt_blindly(dataflow, why);
}

/* The guard has seen an empty cgroup: that is the truth, whoever did not tell us. */
static void dataflow_believe_guard(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                if (node_is_final(node))
                        continue;
                if (node->state == NODE_PENDING || node->state == NODE_BACKOFF) {
                        node_order_stop(node, &dataflow->ladder);
                        continue;
                }
                node->exited = node->empty = true;
                node_set_error(node, "was ended by the guard");
                node_post(node, NODE_EV_EMPTY);
        }
}

/* Empty cgroups are not all: their keeper is at those who left them. Each node's own deadline says how that ended. */
static bool dataflow_has_strays(const Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].strayed && !dataflow->nodes[i].empty)
                        return true;
        return false;
}

static int on_keeper_deaf(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, deaf_timer);

        (void)now;
        if (dataflow->state >= DATAFLOW_ENDING || dataflow_is_final(dataflow) || dataflow_has_strays(dataflow))
                return 0;
        dataflow_adopt_blindly(dataflow, "did not react any more");
        dataflow_believe_guard(dataflow);
        return 0;
}

/* The guard has ended an incarnation, and its keeper has not said so: it cannot start the next one either. */
static int on_keeper_deaf_of_node(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, node_deaf_timer);

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];

                if (node->state != NODE_STOPPING || node->strayed || !node->enforced_at || node->exited || node->empty || now < nsec_add(node->enforced_at, DATAFLOW_DEAF_SPAN))
                        continue;
                keeper_lost(dataflow, "did not react any more");
                return 0;
        }
        return 0;
}

/* With somebody left each node's own deadline says so; a keeper that lives tells more than we could. */
void dataflow_on_enforced(Dataflow *dataflow, const struct guard_record *record)
{
        if (dataflow->state == DATAFLOW_ENDED) /* it was told when it ended */
                return;
        if (record->generation > 0) { /* of one node: what was killed there it is told when it is over */
                if (record->left == 0)
                        timer_arm(dataflow->loop, &dataflow->node_deaf_timer, nsec_add(dataflow->loop->now, DATAFLOW_DEAF_SPAN), on_keeper_deaf_of_node);
                return;
        }
        if (record->count > 0 || record->left > 0)
                dataflow_ledger_at(dataflow, record->at_ns, "guard", NULL, record->left ? "left" : "empty", record->count);
        if (record->count > 0 && (!dataflow->kill_at || record->at_ns < dataflow->kill_at))
                dataflow->kill_at = record->at_ns;
        if (record->count > 0)
                dataflow->killed_until = clock_now();
        dataflow->n_killed += record->count - MIN(record->count, record->n_named); /* the rest is counted with its node */
        if (record->left > 0)
                return;
        if (dataflow->keeper_gone)
                dataflow_believe_guard(dataflow);
        else
                timer_arm(dataflow->loop, &dataflow->deaf_timer, nsec_add(dataflow->loop->now, DATAFLOW_DEAF_SPAN), on_keeper_deaf);
}

/* ---- results */

bool dataflow_succeeded(const Dataflow *dataflow)
{
        if (dataflow->error || dataflow->n_left > 0)
                return false;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].state != NODE_STOPPED)
                        return false;
        return true;
}

static json_t *node_result(const Node *node)
{
        json_t *result = json_pack("{ss ss si sI sb}", "id", node->plan->id, "state", node_state_to_string(node->state), "line",
                (int)node->plan->line, "restarts", (json_int_t)node->n_restarts, "killed", node->killed);
        const char *code = node->exit_code == CLD_EXITED ? "exited" : node->exit_code == CLD_KILLED || node->exit_code == CLD_DUMPED ? "signalled" : "unknown";

        if (!result)
                return NULL;
        if (node->spawned)
                (void)json_object_set_new(result, "exit", json_pack("{ss si}", "code", code, "status", (int)node->exit_status));
        if (node->error)
                (void)json_object_set_new(result, "error", json_string(node->error));
        if (node_verdict(node))
                (void)json_object_set_new(result, "verdict", json_string(node_verdict(node)));
        if (node->quarantined)
                leftover_show(&node->left, result);
        if (node->killed)
                (void)json_object_set_new(result, "killed_by", json_string(node_killed_by(node)));
        return result;
}

/* The worst of its nodes'. */
static const char *verdict_of(const Dataflow *dataflow)
{
        const Node *worst = NULL;
        bool killed = dataflow->n_killed > 0;

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];

                killed = killed || node->killed;
                if (node->quarantined && (!worst || node->left.kind > worst->left.kind))
                        worst = node;
        }
        return worst ? node_verdict(worst) : killed ? "killed" : "empty";
}

json_t *dataflow_result(const Dataflow *dataflow)
{
        json_t *nodes = json_array();
        nsec_t now = dataflow->ended_at ? dataflow->ended_at : clock_now();

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                (void)json_array_append_new(nodes, node_result(&dataflow->nodes[i]));
        return json_pack("{ss ss ss sb sI sI si si ss ss* so sO sO so*}", "type", "result", "uuid", dataflow->uuid_text, "name",
                dataflow->plan->name, "success", dataflow_succeeded(dataflow), "duration_ms",
                (json_int_t)((now - dataflow->begun_at) / NSEC_PER_MSEC), "stop_ms",
                (json_int_t)(dataflow->stop_at ? (now - dataflow->stop_at) / NSEC_PER_MSEC : 0), "killed", (int)dataflow->n_killed,
                "left", (int)dataflow->n_left, "verdict", verdict_of(dataflow), "error", dataflow->error, "nodes", nodes, "ledger", dataflow->ledger, "notes",
                dataflow->notes, "audit", dataflow->audited ? audit_json(&dataflow->audit) : NULL);
}

/* ---- making and unmaking */

static char **environ_free(char **env)
{
        for (size_t i = 0; env && env[i]; i++)
                free(env[i]);
        free(env);
        return NULL;
}

static void make_uuid(uint8_t *u)
{
        /* RFC 9562 version 4. The call cannot fail for 16 bytes once the kernel's pool is ready; before that, time serves. */
        if (getrandom(u, 16, GRND_NONBLOCK) != 16)
                memcpy(u, (uint64_t[2]){clock_now(), clock_wall()}, 16);
        u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
        u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
}

static char **environ_copy(char *const *from)
{
        size_t n = 0;
        char **copy;

        while (from && from[n])
                n++;
        copy = calloc(n + 1, sizeof(*copy));
        for (size_t i = 0; copy && i < n; i++) {
                copy[i] = strdup(from[i]);
                if (!copy[i])
                        copy = environ_free(copy);
        }
        return copy;
}

static int dataflow_setup(Dataflow *dataflow)
{
        int r;

        dataflow->ledger = json_array();
        dataflow->notes = json_array();
        dataflow->nodes = calloc(dataflow->plan->n_nodes, sizeof(*dataflow->nodes));
        dataflow->environ = environ_copy(dataflow->options.environ);
        dataflow->options.environ = dataflow->environ;
        if (!dataflow->ledger || !dataflow->notes || !dataflow->nodes || !dataflow->environ)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                r = node_init(&dataflow->nodes[i], dataflow, (uint32_t)i);
                if (r)
                        return error_fold(r);
        }
        r = wiring_init(dataflow);
        if (!r)
                r = dataflow_order_init(dataflow);
        if (!r)
                r = placer_init(dataflow);
        if (!r)
                r = progress_new(&dataflow->progress, (uint32_t)dataflow->plan->n_nodes, dataflow->n_links);
        return r ? error_fold(r) : 0;
}

int dataflow_make(Dataflow **ret, Supervisor *supervisor, Plan *plan, const DataflowOptions *options, const uint8_t uuid[16], DataflowEventFn fn)
{
        Dataflow *dataflow = calloc(1, sizeof(*dataflow));
        int r;

        if (!dataflow) {
                (void)plan_free(plan);
                return error_origin(-ENOMEM);
        }
        *dataflow = (Dataflow){.supervisor = supervisor,
                .loop = &supervisor->loop,
                .plan = plan,
                .options = *options,
                .keeper_fd = -1,
                .keeper_pidfd = -1,
                .begun_at = supervisor->loop.now,
                .since = supervisor->loop.now,
                .event_fn = fn};
        list_init(&dataflow->link);
        packet_queue_init(&dataflow->keeper_out, 8192);
        memcpy(dataflow->uuid, uuid, sizeof(dataflow->uuid));
        uuid_format(dataflow->uuid_text, uuid);
        r = dataflow_setup(dataflow);
        if (r) {
                (void)dataflow_free(dataflow);
                return error_fold(r);
        }
        *ret = dataflow;
        return 0;
}

static void dataflow_order_keeper(Dataflow *dataflow)
{
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(dataflow->loop->now, DATAFLOW_BEGIN_SPAN), on_begin_late);
        dataflow->supervisor->slot_state[dataflow->slot] |= SLOT_KEEPER;
        guard_fork_keeper_order(dataflow->supervisor, dataflow->slot);
}

int dataflow_new(Dataflow **ret, Supervisor *supervisor, Plan *plan, uint32_t slot, const DataflowOptions *options, DataflowEventFn fn)
{
        Dataflow *dataflow = NULL;
        uint8_t uuid[16];
        int r;

        make_uuid(uuid);
        r = dataflow_make(&dataflow, supervisor, plan, options, uuid, fn);
        if (r)
                return error_fold(r);
        dataflow->slot = slot;
        dataflow->options.log_dir = dataflow->options.waits_for = NULL; /* borrowed */
        (void)snprintf(dataflow->waits_for, sizeof(dataflow->waits_for), "%s", options->waits_for ? options->waits_for : "");
        if (options->log_dir && asprintf(&dataflow->log_dir, "%s/%s", options->log_dir, dataflow->uuid_text) < 0) {
                dataflow->log_dir = NULL;
                r = error_origin(-ENOMEM);
        }
        if (!r && !supervisor_is_private(supervisor))
                r = dataflow_journal_create(dataflow);
        if (r) {
                (void)dataflow_free(dataflow);
                return error_fold(r);
        }
        if (!dataflow->waits_for[0])
                dataflow_order_keeper(dataflow);
        *ret = dataflow;
        return 0;
}

nsec_t dataflow_escrow_at(const Dataflow *dataflow)
{
        return nsec_add(dataflow->ladder.kill, DATAFLOW_STOP_SLACK);
}

nsec_t dataflow_escrow_until(const Dataflow *dataflow)
{
        return nsec_add(dataflow->ladder.verdict, DATAFLOW_STOP_SLACK);
}

NodeLadder dataflow_ladder_of_escrow(nsec_t now, nsec_t at, nsec_t until)
{
        nsec_t kill = at - MIN(at, DATAFLOW_STOP_SLACK), left = nsec_left(kill, now);

        return (NodeLadder){.term = kill - left / 3, .kill = kill, .verdict = MAX(until - MIN(until, DATAFLOW_STOP_SLACK), kill)};
}

void dataflow_begin(Dataflow *dataflow)
{
        if (!dataflow->waits_for[0] || dataflow->state != DATAFLOW_BEGINNING)
                return;
        dataflow->waits_for[0] = '\0';
        dataflow->since = dataflow->loop->now;
        dataflow_journal(dataflow);
        dataflow_order_keeper(dataflow);
}

void dataflow_go_on(Dataflow *dataflow, const KeeperMsg *resumed)
{
        nsec_t now = dataflow->loop->now;

        timer_disarm(&dataflow->keeper_timer);
        dataflow->keeper_replaced = false;
        if (dataflow->stop_ordered && dataflow->state < DATAFLOW_STOPPING)
                dataflow_set_state(dataflow, DATAFLOW_STOPPING);
        if (dataflow->waits_for[0])
                return;
        if (dataflow->state == DATAFLOW_BEGINNING) {
                if (resumed)
                        dataflow_on_begun(dataflow, resumed->resumed.controllers, resumed->resumed.missing, resumed->resumed.refused);
                else if (dataflow->keeper_fd >= 0)
                        keeper_order_begin(dataflow);
                else
                        dataflow_order_keeper(dataflow);
        } else if (dataflow->state == DATAFLOW_STOPPING) {
                /* With the times that were written down; those that have passed are due at once. */
                timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_CONFIRM_SPAN), on_unconfirmed);
                guard_escrow_order(dataflow->supervisor, dataflow->slot, dataflow_escrow_at(dataflow), dataflow_escrow_until(dataflow), 0);
        } else if (dataflow->watched) {
                keeper_order_end(dataflow, nsec_add(now, DATAFLOW_END_SPAN), true); /* if it does not stay with them already */
        } else if (dataflow->state == DATAFLOW_ENDING) {
                keeper_order_end(dataflow, nsec_add(now, DATAFLOW_END_SPAN), dataflow_may_watch(dataflow));
                timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_END_SPAN + DATAFLOW_END_SLACK), on_end_late);
        }
        dataflow_kick(dataflow);
}

Dataflow *dataflow_free(Dataflow *dataflow)
{
        if (!dataflow)
                return NULL;
        list_unlink(&dataflow->link);
        timer_disarm(&dataflow->timer);
        timer_disarm(&dataflow->deaf_timer);
        timer_disarm(&dataflow->node_deaf_timer);
        timer_disarm(&dataflow->keeper_timer);
        timer_disarm(&dataflow->progress_timer);
        placer_done(dataflow);
        timer_disarm(&dataflow->order_timer);
        dataflow_order_done(dataflow);
        job_cancel(&dataflow->advance);
        for (size_t i = 0; dataflow->nodes && dataflow->plan && i < dataflow->plan->n_nodes; i++)
                node_done(&dataflow->nodes[i]);
        keeper_link_close(dataflow);
        packet_queue_done(&dataflow->keeper_out);
        free(dataflow->nodes);
        free(dataflow->links);
        free(dataflow->pairs);
        free(dataflow->log_dir);
        (void)environ_free(dataflow->environ);
        (void)journal_entry_free(dataflow->journal);
        dataflow->progress = progress_free(dataflow->progress);
        free(dataflow->cgroup);
        free(dataflow->error);
        resources_done(&dataflow->resources);
        json_decref(dataflow->ledger);
        json_decref(dataflow->notes);
        (void)fd_close(dataflow->options.log_fd);
        (void)plan_free(dataflow->plan);
        free(dataflow);
        return NULL;
}
