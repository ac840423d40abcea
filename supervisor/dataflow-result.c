/* SPDX-License-Identifier: Apache-2.0 */
/* How a dataflow ended, for its client. */
#include "supervisor/dataflow-internal.h"

#include <sys/wait.h>

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
