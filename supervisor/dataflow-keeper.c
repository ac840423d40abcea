/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper comes and goes: its first one, those that take over, and what is true without one. */
#include "supervisor/dataflow-internal.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/error.h"
#include "supervisor/supervisor.h"

#define DATAFLOW_BEGIN_SPAN   (5 * NSEC_PER_SEC)  /* the keeper makes one directory and forks */
#define DATAFLOW_REPLACE_SPAN (5 * NSEC_PER_SEC)  /* the guard kills, reaps and forks; the new keeper opens directories */
#define DATAFLOW_RESUME_SPAN  (2 * NSEC_PER_SEC)  /* a keeper that was told of a new supervisor says what it has; it never blocks */
#define DATAFLOW_CALM_SPAN    (10 * NSEC_PER_SEC) /* a keeper that dies sooner after another one is not replaced */

void dataflow_on_begun(Dataflow *dataflow, uint32_t controllers, const char *missing, const char *refused)
{
        if (dataflow->state != DATAFLOW_BEGINNING)
                return;
        timer_disarm(&dataflow->timer);
        dataflow_set_state(dataflow, DATAFLOW_STARTING);
        if (!resources_check(dataflow, controllers, missing, refused))
                dataflow_stop(dataflow, NSEC_NEVER, false, "a limit that cannot be enforced");
        else if (!pressure_check(dataflow, missing))
                dataflow_stop(dataflow, NSEC_NEVER, false, "pressure that cannot be watched");
        else
                dataflow_start_some(dataflow);
}

static int on_begin_late(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, timer);

        (void)now;
        keeper_lost(dataflow, "did not begin in time");
        return 0;
}

void dataflow_order_keeper(Dataflow *dataflow)
{
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(dataflow->loop->now, DATAFLOW_BEGIN_SPAN), on_begin_late);
        dataflow->supervisor->slot_state[dataflow->slot] |= SLOT_KEEPER;
        guard_fork_keeper_order(dataflow->supervisor, dataflow->slot);
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

bool dataflow_may_replace(const Dataflow *dataflow)
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

/*
 * Empty cgroups are not all: their keeper is at those who left them, or sees dead ones there whom a tracer keeps from being reaped, which is
 * a life's end where its processes have a reaper or a PID namespace. Each node's own deadline says how that ended.
 */
static bool node_is_held(const Node *node)
{
        return !node->empty && (node->strayed || node->left.n > 0);
}

static bool dataflow_is_held(const Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (node_is_held(&dataflow->nodes[i]))
                        return true;
        return false;
}

static void keeper_ask_who_is_left(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].state == NODE_STOPPING && !dataflow->nodes[i].empty)
                        keeper_order_look(&dataflow->nodes[i]);
}

static int on_keeper_deaf(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, deaf_timer);

        (void)now;
        if (dataflow->state >= DATAFLOW_ENDING || dataflow_is_final(dataflow) || dataflow_is_held(dataflow))
                return 0;
        dataflow_adopt_blindly(dataflow, "did not react any more");
        dataflow_believe_guard(dataflow);
        return 0;
}

static int on_keeper_late(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, deaf_timer);

        keeper_ask_who_is_left(dataflow);
        timer_arm(dataflow->loop, timer, nsec_add(now, DATAFLOW_DEAF_SPAN / 2), on_keeper_deaf);
        return 0;
}

/* The guard has ended an incarnation, and its keeper has not said so: it cannot start the next one either. */
static int on_keeper_deaf_of_node(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, node_deaf_timer);

        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];

                if (node->state != NODE_STOPPING || node_is_held(node) || !node->enforced_at || node->exited || node->empty || now < nsec_add(node->enforced_at, DATAFLOW_DEAF_SPAN))
                        continue;
                keeper_lost(dataflow, "did not react any more");
                return 0;
        }
        return 0;
}

static int on_keeper_late_of_node(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, node_deaf_timer);

        keeper_ask_who_is_left(dataflow);
        timer_arm(dataflow->loop, timer, nsec_add(now, DATAFLOW_DEAF_SPAN / 2), on_keeper_deaf_of_node);
        return 0;
}

/* With somebody left each node's own deadline says so; a keeper that lives tells more than we could. */
void dataflow_on_enforced(Dataflow *dataflow, const struct guard_record *record)
{
        if (dataflow->state == DATAFLOW_ENDED) /* it was told when it ended */
                return;
        if (record->generation > 0) { /* of one node: what was killed there it is told when it is over */
                if (record->left == 0)
                        timer_arm(dataflow->loop, &dataflow->node_deaf_timer, nsec_add(dataflow->loop->now, DATAFLOW_DEAF_SPAN / 2), on_keeper_late_of_node);
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
                timer_arm(dataflow->loop, &dataflow->deaf_timer, nsec_add(dataflow->loop->now, DATAFLOW_DEAF_SPAN / 2), on_keeper_late);
}
