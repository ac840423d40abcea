/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/detach.h"

#include <errno.h>

#include "base/error.h"

/* A copy of the plan with other nodes; both are consumed. */
static int make(Plan **ret, json_t *take_json, json_t *take_nodes, char *ret_why, size_t why_size)
{
        int r = -ENOMEM;

        if (take_json && take_nodes && json_object_set(take_json, "nodes", take_nodes) == 0)
                r = plan_new(ret, take_json, ret_why, why_size);
        json_decref(take_json);
        json_decref(take_nodes);
        return r ? error_fold(r) : 0;
}

int detach_plan(Plan **ret, const Plan *plan, size_t index, char *ret_why, size_t why_size)
{
        json_t *json = json_copy(plan->json), *nodes = json_array();
        json_t *node = json_copy(json_array_get(json_object_get(plan->json, "nodes"), index));

        if (!json || !nodes || !node || json_object_del(node, "detach") ||
                json_object_set_new(json, "name", json_sprintf("%s.%s", plan->name, plan->nodes[index].id)) ||
                json_object_set_new(json, "detached_from", json_string(plan->name)) || json_array_append(nodes, node)) {
                json_decref(json);
                json_decref(nodes);
                json_decref(node);
                return error_origin(-ENOMEM);
        }
        json_decref(node);
        (void)json_object_del(json, "resources"); /* those are of the nodes that it leaves; its own it keeps */
        return make(ret, json, nodes, ret_why, why_size);
}

int detach_rest(Plan **ret, const Plan *plan, char *ret_why, size_t why_size)
{
        json_t *nodes = json_array();

        for (size_t i = 0; nodes && i < plan->n_nodes; i++)
                if (!plan->nodes[i].detach && json_array_append(nodes, json_array_get(json_object_get(plan->json, "nodes"), i))) {
                        json_decref(nodes);
                        nodes = NULL;
                }
        return make(ret, json_copy(plan->json), nodes, ret_why, why_size);
}

bool detach_is_same(const Plan *running, const Plan *wanted)
{
        return json_equal(json_object_get(running->json, "nodes"), json_object_get(wanted->json, "nodes")) &&
               json_equal(json_object_get(running->json, "dir"), json_object_get(wanted->json, "dir"));
}
