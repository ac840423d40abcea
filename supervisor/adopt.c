/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A supervisor takes over from one that died: the journal says what was intended, the guard gives what was held, each keeper says
 * what is there, each node says what it has. Nothing is assumed to live because it is written down, and nothing is started
 * that may have been started already: the keeper's word decides.
 *
 *     journal ──► guard: SLOT, STORED ... STORE_END ──► RESUME to each keeper ──► INCARNATION ... RESUMED ──► RESUME to each node
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/peer.h"
#include "supervisor/server.h"
#include "supervisor/show.h"
#include "supervisor/status.h"
#include "supervisor/wiring.h"

#define ADOPT_COME_BACK_SPAN (5 * NSEC_PER_SEC) /* a node's library tries at least once a second */

/* ---- the journal */

static void adopt_one(Supervisor *supervisor, const uint8_t uuid[UUID_SIZE])
{
        char why[512] = "it is damaged", text[UUID_TEXT_LENGTH + 1];
        JournalEntry *entry = NULL;
        _cleanup_free_ char *plan = NULL;
        Dataflow *dataflow = NULL;
        int r = journal_load(&supervisor->journal, &entry, &plan, uuid);

        uuid_format(text, uuid);
        if (!r)
                r = dataflow_restore(&dataflow, supervisor, entry, plan, server_on_event, why, sizeof(why));
        if (r == -ENOENT)
                return;
        if (r) { /* whoever lives there is ended, once the guard names its slot: nobody could ever stop it otherwise */
                log_line("dataflow %s: its journal is of no use: %s", text, r == JOURNAL_E_BOOT ? "it is from before this boot" : why);
                if (r > 0 || r == -EBADMSG)
                        (void)journal_remove(&supervisor->journal, uuid);
                return;
        }
        list_append(&supervisor->dataflows, &dataflow->link);
        supervisor->n_dataflows++;
        if (server_adopt(supervisor->server, dataflow))
                log_line("dataflow %s: no client can be told of it: out of memory", text);
        show_all(dataflow);
        if (dataflow->adopting) {
                supervisor->slots[dataflow->slot] = dataflow;
                supervisor->adopting = true;
        }
}

static int adopt_order(const void *a, const void *b)
{
        const Dataflow *const *x = a, *const *y = b;

        return (*x)->begun_at < (*y)->begun_at ? -1 : (*x)->begun_at > (*y)->begun_at;
}

/* The directory has no order, people have: by the time of their start. */
static void sort_dataflows(Supervisor *supervisor)
{
        Dataflow **all = calloc(supervisor->n_dataflows + 1, sizeof(*all)), *it, *next;
        unsigned n = 0;

        if (!all)
                return;
        list_for_each(it, next, &supervisor->dataflows, link)
                all[n++] = it;
        qsort(all, n, sizeof(*all), adopt_order);
        for (unsigned i = 0; i < n; i++) {
                list_unlink(&all[i]->link);
                list_append(&supervisor->dataflows, &all[i]->link);
        }
        free(all);
}

int adopt_begin(Supervisor *supervisor)
{
        uint8_t(*uuids)[UUID_SIZE] = NULL;
        size_t n = 0;
        int fd = openat(supervisor->options.runtime_fd, "journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), r;

        if (fd < 0)
                return error_origin(-errno);
        supervisor->adopt_began = clock_now();
        r = journal_open(&supervisor->journal, fd);
        if (r) {
                (void)fd_close(fd);
                return error_fold(r);
        }
        r = journal_list(&supervisor->journal, &uuids, &n);
        for (size_t i = 0; !r && i < n; i++)
                adopt_one(supervisor, uuids[i]);
        free(uuids);
        sort_dataflows(supervisor);
        supervisor->adopting |= supervisor->options.epoch > 1; /* whoever takes over says how it went, also when there was nothing to take */
        return r ? error_fold(r) : 0;
}

/* ---- the guard */

void adopt_stored(Supervisor *supervisor, const struct guard_record *record, int *fds, size_t n_fds)
{
        Dataflow *dataflow = supervisor->slots[record->slot];
        Node *node = dataflow && record->node < dataflow->plan->n_nodes ? &dataflow->nodes[record->node] : NULL;

        if (!node || node->generation != record->generation)
                return; /* left from an incarnation that is over */
        for (size_t i = 0; i < n_fds && i < record->count; i++)
                wiring_take(node, &record->items[i], TAKE_FD(fds[i]));
}

/*
 * Nobody wrote down what this is, so nobody could stop it: it is ended, without a wait. Where nobody lives it has ended, its
 * journal is gone for that, and our predecessor died before its keeper was.
 */
static void end_stranger(Supervisor *supervisor, uint32_t slot, bool lived_in)
{
        if (lived_in) {
                log_line("slot %u holds a dataflow that no journal knows; it is ended", slot);
                supervisor->n_lost++;
                supervisor->adopting = true;
        }
        supervisor->slot_state[slot] = SLOT_KEEPER;
        guard_kill_keeper_order(supervisor, slot);
        guard_escrow_order(supervisor, slot, supervisor->loop.now, nsec_add(supervisor->loop.now, 2 * NSEC_PER_SEC), 0);
}

void adopt_slot(Supervisor *supervisor, const struct guard_record *record, int *fds, size_t n_fds)
{
        Dataflow *dataflow = supervisor->slots[record->slot];

        if (!dataflow || !dataflow->adopting) {
                end_stranger(supervisor, record->slot, record->left > 0);
                return;
        }
        dataflow->slot_known = true;
        dataflow_adopt_escrow(dataflow, record->at_ns, record->until_ns);
        if (n_fds < 2 || dataflow->keeper_fd >= 0)
                return;
        supervisor->slot_state[record->slot] |= SLOT_KEEPER;
        (void)keeper_link_open(dataflow, record->pid, TAKE_FD(fds[0]), TAKE_FD(fds[1])); /* fails: as a keeper that does not answer */
        if (n_fds == 3)
                keeper_order_guard(dataflow, fds[2]);
        if (dataflow->found_by_name)
                dataflow_resume_keeper(dataflow);
}

static bool node_has_life(const Node *node)
{
        return node->state == NODE_STARTING || node->state == NODE_RUNNING || node->state == NODE_STOPPING;
}

/* Its process has connected, and was not moved as far as is known: that is ordered again, and does no harm if it was. */
static bool is_to_be_captured(const Node *node)
{
        return node->state == NODE_STARTING && node->captured && !node->spawned && node->sock >= 0;
}

/* What a keeper that is new has to be told of. A loose process is in no cgroup of ours. */
static bool is_keepers(const Node *node)
{
        return node->quarantined || (node_has_life(node) && !node_is_loose(node) && !is_to_be_captured(node) && !(node->exited && node->empty));
}

/* A keeper that took the place of another hears of each life there, and then says what it found. */
void adopt_with_new_keeper(Dataflow *dataflow)
{
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                if (is_keepers(node))
                        keeper_order_adopt(node);
                for (size_t k = 0; k < NODE_OLDER_MAX; k++)
                        if (node->older[k].generation > 0)
                                keeper_order_adopt_left(node, node->older[k].generation);
        }
        keeper_order_resume(dataflow);
}

void adopt_store_end(Supervisor *supervisor)
{
        Dataflow *it, *next;

        list_for_each(it, next, &supervisor->dataflows, link) {
                if (!it->adopting || it->keeper_replaced)
                        continue;
                if (it->keeper_fd >= 0)
                        dataflow_resume_keeper(it);
                else
                        adopt_without_keeper(it);
        }
        adopt_look(supervisor);
}

/* ---- keepers */

void adopt_incarnation(Dataflow *dataflow, const KeeperMsg *msg, int *fds)
{
        Node *node = msg->node < dataflow->plan->n_nodes ? &dataflow->nodes[msg->node] : NULL;
        if (!dataflow->adopting || !node)
                return;
        if (msg->generation != node->generation) {
                if (node_older(node, msg->generation)) {
                        if (msg->incarnation.over)
                                node_on_older(node, &(KeeperMsg){.type = KEEPER_MSG_EMPTY, .node = msg->node, .generation = msg->generation});
                } else if (!msg->incarnation.over) { /* two lives of one node: the journal forbids it, and here it is */
                        dataflow->supervisor->n_duplicated++;
                        log_line("node %s of %s: generation %llu still lives beside %llu", node->plan->id, dataflow->plan->name,
                                (unsigned long long)msg->generation, (unsigned long long)node->generation);
                } else {
                        keeper_order_forget(dataflow, msg->node, msg->generation); /* its end was written down, the word did not arrive */
                }
                return;
        }
        node->found = (NodeFound){.there = true,
                .starting = msg->incarnation.starting,
                .spawned = msg->incarnation.spawned,
                .failed = msg->incarnation.failed,
                .exited = msg->incarnation.exited,
                .over = msg->incarnation.over,
                .code = msg->incarnation.code,
                .status = msg->incarnation.status};
        node_on_keeper_killed(node, msg->incarnation.killed_at_ns);
        if (msg->incarnation.cgroup_write != KEEPER_CGROUP_WRITE_UNKNOWN)
                node->cgroup_write = msg->incarnation.cgroup_write;
        node->resources.frozen = msg->incarnation.frozen;
        resources_told_refused(node, msg->incarnation.refused, true);
        if (msg->incarnation.failed && node_is_dynamic(node) && node->state == NODE_STARTING)
                node_on_refused(node, msg->incarnation.text);
        else if (msg->incarnation.failed && node_has_life(node) && !node_is_dynamic(node))
                keeper_take_spawn_failure(node, msg->incarnation.stage, msg->incarnation.text);
        if (msg->incarnation.has_pidfd)
                keeper_take_pidfd(node, msg->incarnation.pid, TAKE_FD(fds[0]));
}

/* Its incarnation is not there: nobody saw how it ended. */
static void node_is_lost(Node *node)
{
        node->dataflow->supervisor->n_lost++;
        node->spawned = node->exited = node->empty = true;
        node->exit_code = 0; /* unknown */
        log_line("node %s of %s: generation %llu ended while nobody looked", node->plan->id, node->dataflow->plan->name,
                (unsigned long long)node->generation);
        node_post(node, NODE_EV_EXITED);
        node_post(node, NODE_EV_EMPTY);
}

/* The order to start it never left its supervisor, and then it was stopped: a keeper remembers whoever it was told of until REAP. */
static void node_never_began(Node *node)
{
        node->exited = node->empty = true;
        node->exit_code = CLD_EXITED;
        node->exit_status = 0;
        node_post(node, NODE_EV_EXITED);
        node_post(node, NODE_EV_EMPTY);
}

static void node_adopt(Node *node, bool fresh)
{
        const NodeFound *found = &node->found;

        if (fresh && found->spawned && !found->exited)
                node->dataflow->supervisor->n_adopted++;
        node->spawned = node->spawned || found->spawned;
        if (found->failed)
                node_post(node, NODE_EV_SPAWN_FAILED);
        else if (found->spawned && node->state == NODE_STARTING && node->plan->kind == PLAN_KIND_PROGRAM)
                node_post(node, NODE_EV_READY);
        if (found->exited && !node->exited)
                node_on_ended(node, found->code, found->status);
        if (node->exited) /* known from its keeper, from the guard, or from the journal */
                node_post(node, NODE_EV_EXITED);
        if (found->over) {
                node->empty = true;
                if (!node->exited && node->captured)
                        node_on_ended(node, 0, 0);
                node_post(node, NODE_EV_EMPTY);
                if (!node->exited)
                        guard_ask_order(node); /* its keeper is dead, and its successor found nobody: did it run at all? */
        }
        if (node->rung == NODE_RUNG_ASK && !node->connected && !found->exited)
                keeper_order_signal(node, SIGTERM); /* may be the second one: better than none */
}

static int on_did_not_come(Timer *timer, nsec_t now)
{
        (void)now;
        node_on_left(container_of(timer, Node, hung_up));
        return 0;
}

/* Its connection is what there is of it. */
static void dynamic_reconcile(Node *node, bool fresh)
{
        if (!fresh)
                return;
        if (node->sock >= 0) {
                if (node->state == NODE_STARTING && !node->spawned) /* it had just connected, and that was not written down */
                        node_on_connected(node);
                node->dataflow->supervisor->n_adopted++;
                wiring_resume(node);
        } else if (node->spawned && !node->exited) { /* it left while nobody looked, or its socket went with the guard: then it comes again by name */
                timer_arm(node->dataflow->loop, &node->hung_up, nsec_add(node->dataflow->loop->now, ADOPT_COME_BACK_SPAN), on_did_not_come);
        }
}

/* The order never arrived, or its keeper died of it. Without a connection nobody is there who could be meant. */
static void capture_again(Node *node)
{
        _cleanup_fd_ int pidfd = node->sock >= 0 ? peer_process(node->sock) : -ESRCH;

        if (node->state != NODE_STARTING || pidfd < 0)
                node_on_refused(node, node->state != NODE_STARTING ? "the node was stopped" : pidfd == -ESRCH ? "it has ended" : error_text(pidfd));
        else
                node_on_joining(node, pidfd);
}

/* With the time that was written down, unless a stop that was ordered meanwhile has set another. */
static void arm_again(Node *node, nsec_t deadline)
{
        if (!node->deadline.loop)
                node_arm(node, deadline);
}

/* Its end may have been seen while nobody asked. Else it is looked at again: of what was seen the journal keeps a line. */
static void leftover_reconcile(Node *node)
{
        if (node->found.there && !node->found.over) {
                keeper_order_look(node);
                return;
        }
        node->empty = true;
        node_post(node, NODE_EV_EMPTY);
}

/* What was intended against what is there. */
static void node_reconcile(Node *node, nsec_t deadline, bool fresh)
{
        Dataflow *dataflow = node->dataflow;

        if (node->state == NODE_PENDING) {
                if (dataflow->state == DATAFLOW_STARTING || dataflow->state == DATAFLOW_RUNNING)
                        node_post(node, NODE_EV_START);
        } else if (node->state == NODE_BACKOFF) {
                arm_again(node, deadline);
        } else if (node_has_life(node) && node_is_loose(node) && node->plan->capture && node->sock >= 0 && !node->spawned) {
                capture_again(node); /* likewise: it is moved before it hears anything */
        } else if (node_has_life(node) && node_is_loose(node)) {
                arm_again(node, deadline);
                dynamic_reconcile(node, fresh);
        } else if (node_has_life(node) && node->captured && !node->spawned && !node->found.there) {
                capture_again(node);
        } else if (node_has_life(node)) {
                arm_again(node, deadline);
                if (node->found.there)
                        node_adopt(node, fresh);
                else if (node->state == NODE_STARTING && !node->spawned)
                        node_repeat_spawn(node);
                else if (!node->spawned && !node->exited)
                        node_never_began(node);
                else if (!(node->exited && node->empty))
                        node_is_lost(node);
                else
                        node_post(node, NODE_EV_EMPTY); /* resolved or about to be: what follows was not written down */
        } else if (node->quarantined) {
                leftover_reconcile(node);
        } else if (node->found.there) {
                keeper_order_reap(node);
        }
        /* The order was written down, and the one who was to carry it out died in between. */
        if ((node->stop_wanted && !node_is_final(node) && node->state != NODE_STOPPING) ||
                (node->restart_wanted && !node->found.failed && (node->state == NODE_STARTING || node->state == NODE_RUNNING))) {
                if (node->restart_wanted)
                        wiring_will_restart(node);
                node_post(node, NODE_EV_STOP);
        }
}

static void dataflow_reconcile(Dataflow *dataflow, const KeeperMsg *resumed)
{
        bool fresh = dataflow->fresh;

        dataflow->adopting = dataflow->fresh = false;
        for (size_t i = 0; i < dataflow->plan->n_nodes; i++) {
                Node *node = &dataflow->nodes[i];

                node_reconcile(node, dataflow->journal->nodes[i].sequence ? dataflow->journal->nodes[i].deadline_ns : NSEC_NEVER, fresh);
                if (fresh)
                        node_escrow_again(node);
        }
        for (size_t i = 0; fresh && i < dataflow->plan->n_nodes; i++)
                node_journal(&dataflow->nodes[i]); /* a stop may have begun since */
        for (size_t i = 0; fresh && i < dataflow->plan->n_nodes; i++)
                if (node_has_life(&dataflow->nodes[i]) && dataflow->nodes[i].found.there && !is_to_be_captured(&dataflow->nodes[i]))
                        wiring_resume(&dataflow->nodes[i]);
        for (size_t i = 0; fresh && dataflow->released && i < dataflow->plan->n_nodes; i++)
                if (dataflow->nodes[i].state == NODE_RUNNING && !resources_is_frozen(&dataflow->nodes[i])) {
                        dataflow->nodes[i].placed_generation = dataflow->nodes[i].generation; /* perhaps */
                        show_node_runs(&dataflow->nodes[i]);
                }
        show_all(dataflow);
        dataflow_go_on(dataflow, resumed);
        queues_dataflow_resumed(dataflow);
        adopt_look(dataflow->supervisor);
}

/*
 * The predecessor died when it had another keeper made, before it had told that one everything: what it does not name may live all the
 * same.
 */
static bool is_new_to_it(const Dataflow *dataflow, const KeeperMsg *msg)
{
        if (dataflow->state == DATAFLOW_BEGINNING || (dataflow->state >= DATAFLOW_ENDING && !dataflow->watched))
                return false;
        for (size_t i = 0; msg->resumed.takeover && i < dataflow->plan->n_nodes; i++) {
                const Node *node = &dataflow->nodes[i];

                if (is_keepers(node) && !node->found.there)
                        return true;
        }
        return !msg->resumed.begun;
}

void adopt_resumed(Dataflow *dataflow, const KeeperMsg *msg)
{
        if (!dataflow->adopting)
                return;
        if (msg->resumed.begun) {
                free(dataflow->cgroup);
                dataflow->cgroup = strdup(msg->resumed.cgroup);
        }
        if (!dataflow->keeper_replaced && is_new_to_it(dataflow, msg)) {
                dataflow_instruct_keeper(dataflow, msg->resumed.begun);
                return;
        }
        resources_forget_orders(dataflow);
        if (msg->resumed.begun)
                dataflow->frozen_all = msg->resumed.frozen && !dataflow->stop_ordered;
        dataflow_reconcile(dataflow, msg->resumed.begun ? msg : NULL);
        if (msg->resumed.begun)
                pressure_watch_all(dataflow, msg->resumed.missing);
}

void adopt_orphan_exit(Dataflow *dataflow, const struct guard_record *record)
{
        Node *node = record->node < dataflow->plan->n_nodes ? &dataflow->nodes[record->node] : NULL;

        if (node && record->generation < node->generation) /* written down long ago; the word did not arrive */
                guard_forget_order(dataflow, record->node, record->generation);
        if (!node || node->generation != record->generation || node->exited)
                return;
        /* The guard may be younger than the node, and so is what it knows. One that never ran is begun again, and not counted against it. */
        if (record->code == 0 && record->error == ENOENT && !dataflow->stop_ordered && node->state == NODE_STARTING && !node->spawned)
                node->restart_wanted = true;
        node->exited = true;
        node->exit_code = record->code;
        node->exit_status = record->status;
        if (dataflow->adopting)
                node->found.exited = true;
        else
                node_post(node, NODE_EV_EXITED);
}

/* Its keeper died too, or was never made. The guard is asked for another, which takes over what is there. */
void adopt_without_keeper(Dataflow *dataflow)
{
        if (!dataflow->slot_known && !dataflow->found_by_name && heir_find_keeper(dataflow)) {
                dataflow->found_by_name = true; /* the guard answers with its slot */
                return;
        }
        if (dataflow->state == DATAFLOW_BEGINNING || (dataflow->state >= DATAFLOW_ENDING && !dataflow->watched)) { /* not needed yet, or not any more */
                dataflow->keeper_gone = dataflow->state >= DATAFLOW_ENDING;
                dataflow_reconcile(dataflow, NULL);
                return;
        }
        dataflow_replace_keeper(dataflow, "died with the supervisor");
}

/* Said once, when the last one has been reconciled. */
void adopt_look(Supervisor *supervisor)
{
        Dataflow *it, *next;

        if (!supervisor->adopting)
                return;
        list_for_each(it, next, &supervisor->dataflows, link)
                if (it->adopting)
                        return;
        supervisor->adopting = false;
        log_line("adopted %u, lost %u, duplicated %u in %u ms", supervisor->n_adopted, supervisor->n_lost, supervisor->n_duplicated,
                (unsigned)((clock_now() - supervisor->adopt_began) / NSEC_PER_MSEC));
        status_set_adopted(supervisor->status, supervisor->n_adopted, supervisor->n_lost, supervisor->n_duplicated);
        status_settle(supervisor->status);
        server_adopted(supervisor->server);
}
