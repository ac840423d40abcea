/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/show.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/placer.h"
#include "supervisor/progress.h"
#include "supervisor/status.h"
#include "supervisor/wiring.h"

/* ---- pages */

static StatusResult result_of(const Dataflow *dataflow)
{
        if (dataflow->state != DATAFLOW_ENDED)
                return STATUS_RESULT_NONE;
        return dataflow->n_left > 0 ? STATUS_RESULT_LEFT : dataflow_succeeded(dataflow) ? STATUS_RESULT_SUCCEEDED : STATUS_RESULT_FAILED;
}

void show_dataflow(Dataflow *dataflow)
{
        static const StatusDataflowState states[_DATAFLOW_STATE_MAX] = {
                [DATAFLOW_BEGINNING] = STATUS_DATAFLOW_BEGINNING,
                [DATAFLOW_STARTING] = STATUS_DATAFLOW_STARTING,
                [DATAFLOW_RUNNING] = STATUS_DATAFLOW_RUNNING,
                [DATAFLOW_STOPPING] = STATUS_DATAFLOW_STOPPING,
                [DATAFLOW_ENDING] = STATUS_DATAFLOW_ENDING,
                [DATAFLOW_ENDED] = STATUS_DATAFLOW_ENDED,
        };
        Status *status = dataflow->supervisor->status;
        StatusDataflow row = {.uuid = dataflow->uuid_text,
                .name = dataflow->plan->name,
                .cgroup = dataflow->cgroup,
                .uid = dataflow->options.uid,
                .state = states[dataflow->state],
                .wanted = dataflow->stop_ordered ? STATUS_WANTED_STOPPED : STATUS_WANTED_RUNNING,
                .result = result_of(dataflow),
                .health = STATUS_HEALTH_OK,
                .started_at = dataflow->begun_at,
                .since = dataflow->since,
                .stop_until = dataflow->stop_ordered && dataflow->state < DATAFLOW_ENDED ? dataflow->ladder.verdict : 0,
                .n_nodes = (uint32_t)dataflow->plan->n_nodes,
                .frozen = dataflow->frozen_all};

        if (!status)
                return;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                row.n_running += dataflow->nodes[i].state == NODE_RUNNING;
                row.n_failed += dataflow->nodes[i].state == NODE_FAILED;
        }
        row.n_stuck = progress_n_stuck(dataflow->progress, &row.stuck_since);
        if (row.n_stuck > 0)
                row.health = STATUS_HEALTH_STUCK;
        status_put_dataflow(status, &row);
}

static StatusHealth health_of(ProgressHealth health)
{
        return health == PROGRESS_STUCK ? STATUS_HEALTH_STUCK : health == PROGRESS_IDLE ? STATUS_HEALTH_IDLE : STATUS_HEALTH_OK;
}

void show_node(Node *node)
{
        static const StatusNodeState states[_NODE_STATE_MAX] = {
                [NODE_PENDING] = STATUS_NODE_PENDING,
                [NODE_STARTING] = STATUS_NODE_STARTING,
                [NODE_RUNNING] = STATUS_NODE_RUNNING,
                [NODE_STOPPING] = STATUS_NODE_STOPPING,
                [NODE_BACKOFF] = STATUS_NODE_BACKOFF,
                [NODE_STOPPED] = STATUS_NODE_STOPPED,
                [NODE_FAILED] = STATUS_NODE_FAILED,
        };
        static const StatusNodeKind kinds[] = {
                [PLAN_KIND_NODE] = STATUS_KIND_NODE,
                [PLAN_KIND_PROGRAM] = STATUS_KIND_PROGRAM,
                [PLAN_KIND_DYNAMIC] = STATUS_KIND_DYNAMIC,
        };
        Dataflow *dataflow = node->dataflow;
        ProgressState progress;
        StatusNode row;

        if (!dataflow->supervisor->status)
                return;
        progress = progress_state(dataflow->progress, node->index);
        row = (StatusNode){.uuid = dataflow->uuid_text,
                .index = node->index,
                .id = node->plan->id,
                .kind = kinds[node->plan->kind],
                .state = states[node->state],
                .wanted = node->stop_wanted ? STATUS_WANTED_STOPPED : STATUS_WANTED_RUNNING,
                .health = health_of(progress.health),
                .generation = node->generation,
                .since = node->since,
                .stuck_since = progress.stuck_since,
                .waiting = progress.waiting,
                .restarts = node->n_restarts,
                .frozen = resources_is_frozen(node) && !node_is_final(node),
                .waits_for = progress.waits_for == PROGRESS_NOBODY ? STATUS_NONE : progress.waits_for,
                .pid = node->exited ? 0 : node->pid,
                .exit_code = node->exit_code,
                .exit_status = node->exit_status};
        status_put_node(dataflow->supervisor->status, &row);
}

void show_all(Dataflow *dataflow)
{
        show_dataflow(dataflow);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++)
                show_node(&dataflow->nodes[i]);
}

/* ---- progress */

#define LATE_SPAN (100 * NSEC_PER_MSEC) /* more than a loop is late by that does its work */

static void progress_arm(Dataflow *dataflow);

typedef struct Look {
        Dataflow *dataflow;
        bool changed;
} Look;

static void on_change(const ProgressEvent *event, void *userdata)
{
        Look *look = userdata;
        Dataflow *dataflow = look->dataflow;
        Node *node = &dataflow->nodes[event->node];
        const Node *blamed = event->waits_for == PROGRESS_NOBODY ? NULL : &dataflow->nodes[event->waits_for];
        const Node *heir = blamed ? NULL : wiring_awaits(node);
        bool stuck = event->change == PROGRESS_CHANGE_STUCK;
        char text[400];

        if (stuck)
                (void)snprintf(text, sizeof(text), "%u messages wait for it, and it has taken none for %.1f s%s%s", event->waiting,
                        (double)(dataflow->loop->now - event->since) / 1e9,
                        blamed ? "; it waits for room in the queue of "
                        : heir ? "; under backpressure it waits for the next life of "
                               : "",
                        blamed ? blamed->plan->id
                        : heir ? heir->plan->id
                               : "");
        else
                (void)snprintf(text, sizeof(text), "it takes messages again, after %.1f s", (double)(dataflow->loop->now - event->since) / 1e9);
        if (stuck) {
                node_why_stuck(node, text);
        } else {
                node_why_flush(node);
                dataflow_health_event(dataflow, node, "resumed", text);
                if (!supervisor_is_private(dataflow->supervisor))
                        log_line("RESUMED: node %s of %s: %s", node->plan->id, dataflow->plan->name, text);
        }
        show_node(node);
        look->changed = true;
}

static int on_look(Timer *timer, nsec_t now)
{
        Dataflow *dataflow = container_of(timer, Dataflow, progress_timer);
        Look look = {.dataflow = dataflow};
        nsec_t late = now - MIN(now, timer->at);

        progress_look(dataflow->progress, now, on_change, &look);
        if (look.changed) /* once, however many: it counts all nodes */
                show_dataflow(dataflow);
        if (late > LATE_SPAN)
                progress_forgive(dataflow->progress, late);
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                nsec_t span = dataflow->plan->nodes[i].health_check_timeout_ns;

                if (span == 0)
                        continue;
                if (wiring_awaits(&dataflow->nodes[i]))
                        progress_excuse(dataflow->progress, (uint32_t)i, now);
                if (progress_overdue(dataflow->progress, (uint32_t)i, span, now))
                        node_on_overdue(&dataflow->nodes[i]);
        }
        progress_arm(dataflow);
        return 0;
}

static void progress_arm(Dataflow *dataflow)
{
        timer_arm(dataflow->loop, &dataflow->progress_timer, progress_next(dataflow->progress, dataflow->loop->now), on_look);
}

void show_node_runs(Node *node)
{
        placer_node_runs(node);
        if (node->plan->stuck_timeout_ns == 0 || node->plan->n_inputs == 0)
                return;
        progress_begin(node->dataflow->progress, node->index, node->plan->stuck_timeout_ns, node->dataflow->loop->now);
        progress_arm(node->dataflow);
}

void show_node_ends(Node *node)
{
        placer_node_ends(node);
        node_why_ends(node);
        progress_end(node->dataflow->progress, node->index);
        progress_arm(node->dataflow);
}

void show_link(Link *link)
{
        Dataflow *dataflow = link->source->dataflow;
        const NodeOutput *output = &link->source->outputs[link->output];
        ProgressLinkSpec spec = {.source = link->source->index,
                .target = link->target->index,
                .number = link->number,
                .queue_size = link->target->plan->inputs[link->input].queue_size,
                .policy = link->target->plan->inputs[link->input].backpressure ? RING_BACKPRESSURE : RING_DROP_OLDEST,
                .ring_fd = output->ring_fd,
                .cursor_fd = link->target->cursor_fds[link->input],
                .ring_size = output->ring_size};

        if (link->state == LINK_ACTIVE && spec.ring_fd >= 0 && spec.cursor_fd >= 0)
                (void)progress_open(dataflow->progress, link->number - 1, &spec); /* not seen then: never called stuck for it */
        else
                progress_close(dataflow->progress, link->number - 1);
        progress_arm(dataflow);
}

bool show_link_counters(const Link *link, LinkCounters *ret)
{
        const Dataflow *dataflow = link->source->dataflow;

        if (dataflow->progress && progress_counters(dataflow->progress, link->number - 1, dataflow->loop->now, ret))
                return true;
        *ret = link->last;
        return link->counted;
}

/*
 * A quiet moment: an honest consumer that has ended by itself leaves counters that say where each message went. One that was killed, or failed, may have
 * been in the middle of telling, and what it was just telling of is counted twice then; but nothing that it has passed is missing.
 */
static void check_counters(const Link *link)
{
        const Node *target = link->target;
        const LinkCounters *c = &link->last;
        bool by_itself = target->exited && target->exit_code == CLD_EXITED && target->exit_status == 0 && !target->killed;
        uint64_t dropped = 0;
        char text[300];

        if ((by_itself ? c->adds_up : c->plausible || !c->still) || (link->state != LINK_ACTIVE && link->state != LINK_CLOSED))
                return;
        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                dropped += c->dropped[i];
        (void)snprintf(text, sizeof(text), "the counters of its input %s do not add up: %llu published, %llu delivered, %llu dropped, %llu waiting",
                target->plan->inputs[link->input].id, (unsigned long long)c->published, (unsigned long long)c->delivered,
                (unsigned long long)dropped, (unsigned long long)c->depth);
        dataflow_note(target->dataflow, target->plan->id, text);
}

void show_link_ends(Link *link)
{
        Progress *progress = link->source->dataflow->progress;

        if (!progress || !progress_counters(progress, link->number - 1, link->source->dataflow->loop->now, &link->last))
                return;
        link->counted = true;
        check_counters(link);
        progress_forget(progress, link->number - 1);
}
