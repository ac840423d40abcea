/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/dataflow-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/uuid.h"
#include "supervisor/placer.h"
#include "supervisor/progress.h"
#include "supervisor/show.h"
#include "supervisor/wiring.h"

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

void dataflow_set_state(Dataflow *dataflow, DataflowState state)
{
        if (dataflow->state == state)
                return;
        dataflow->state = state;
        dataflow->since = clock_now();
        dataflow_journal(dataflow);
        show_dataflow(dataflow);
        dataflow_emit(dataflow, json_pack("{ss ss}", "type", "dataflow", "state", state_names[state]));
}

bool dataflow_has_frozen(const Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].resources.frozen && (dataflow->nodes[i].state == NODE_STARTING || dataflow->nodes[i].state == NODE_RUNNING))
                        return true;
        return dataflow->frozen_all;
}

/* ---- the barrier */

bool dataflow_is_final(const Dataflow *dataflow)
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
                if (node->state == NODE_RUNNING) {
                        show_node_runs(node);
                        pressure_watch(dataflow, node);
                }
        }
        dataflow_set_state(dataflow, DATAFLOW_RUNNING);
        pressure_watch(dataflow, NULL);
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
                timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_CONFIRM_SPAN), dataflow_on_unconfirmed);
                guard_escrow_order(dataflow->supervisor, dataflow->slot, dataflow_escrow_at(dataflow), dataflow_escrow_until(dataflow), 0);
        } else if (dataflow->watched) {
                keeper_order_end(dataflow, nsec_add(now, DATAFLOW_END_SPAN), true); /* if it does not stay with them already */
        } else if (dataflow->state == DATAFLOW_ENDING) {
                keeper_order_end(dataflow, nsec_add(now, DATAFLOW_END_SPAN), dataflow_may_watch(dataflow));
                timer_arm(dataflow->loop, &dataflow->timer, nsec_add(now, DATAFLOW_END_SPAN + DATAFLOW_END_SLACK), dataflow_on_end_late);
        }
        dataflow_kick(dataflow);
}

Dataflow *dataflow_free(Dataflow *dataflow)
{
        if (!dataflow)
                return NULL;
        prober_forget(dataflow);
        queues_forget(dataflow);
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
        usage_forget(dataflow);
        pressure_done(&dataflow->pressure);
        json_decref(dataflow->ledger);
        json_decref(dataflow->notes);
        (void)fd_close(dataflow->options.log_fd);
        (void)plan_free(dataflow->plan);
        free(dataflow);
        return NULL;
}
