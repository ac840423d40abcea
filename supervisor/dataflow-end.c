/* SPDX-License-Identifier: Apache-2.0 */
/* Every node has ended, or would not: the keeper leaves, or stays with who is left. */
#include "supervisor/dataflow-internal.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "supervisor/show.h"

#define DATAFLOW_END_LEFT_SPAN (100 * NSEC_PER_MSEC) /* DATAFLOW_END_SPAN where somebody is left: no cgroup to wait for, and the stop has had its time */

int dataflow_on_end_late(Timer *timer, nsec_t now)
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
bool dataflow_may_watch(const Dataflow *dataflow)
{
        return dataflow->n_quarantined > 0 && !supervisor_is_private(dataflow->supervisor);
}

void dataflow_end(Dataflow *dataflow)
{
        nsec_t deadline;

        dataflow->n_quarantined = dataflow_count_left(dataflow);
        dataflow->n_left = dataflow_count_tasks_left(dataflow);
        deadline = nsec_add(dataflow->loop->now, dataflow->n_left > 0 ? DATAFLOW_END_LEFT_SPAN : DATAFLOW_END_SPAN);
        dataflow_set_state(dataflow, DATAFLOW_ENDING);
        keeper_order_end(dataflow, deadline, dataflow_may_watch(dataflow));
        timer_arm(dataflow->loop, &dataflow->timer, nsec_add(deadline, DATAFLOW_END_SLACK), dataflow_on_end_late);
}

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
void dataflow_look_at_watch(Dataflow *dataflow)
{
        if (dataflow->n_quarantined > 0 && dataflow->keeper_gone && !dataflow->supervisor->ending && dataflow_may_replace(dataflow))
                dataflow_replace_keeper(dataflow, "has left those alone who would not die");
        if (dataflow->keeper_gone) {
                dataflow->watched = false;
                supervisor_watch_ended(dataflow->supervisor, dataflow);
        }
}
