/* SPDX-License-Identifier: Apache-2.0 */
/* The stop: its deadline into the guard's hands, then the nodes are asked. */
#include "supervisor/dataflow-internal.h"

#include "supervisor/supervisor.h"

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

void dataflow_stop_nodes(Dataflow *dataflow)
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
int dataflow_on_unconfirmed(Timer *timer, nsec_t now)
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
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_CONFIRM_SPAN), dataflow_on_unconfirmed);
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
