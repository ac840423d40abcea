/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's side of the guard's socket (protocol/guard_msg.h). */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/epoll.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/log.h"
#include "supervisor/helper.h"
#include "supervisor/packet.h"
#include "supervisor/prober.h"
#include "supervisor/queues.h"
#include "supervisor/supervisor.h"
#include "supervisor/witness.h"

#define GUARD_RECORDS_PER_TURN 64
#define GUARD_QUEUE_MAX        65536 /* records; the start of the largest dataflow stores three a node */

/* In order, and never waited for: what does not fit now waits in a queue. Unanswered: the asker's deadline. */
static void guard_send_fds(Supervisor *supervisor, struct guard_record *record, const int *fds, size_t n_fds)
{
        record->magic = GUARD_MAGIC;
        record->epoch = supervisor->epoch;
        if (supervisor->guard_fd < 0)
                return;
        (void)packet_queue_send(&supervisor->guard_out, supervisor->guard_fd, record, sizeof(*record), fds, n_fds);
        if (packet_queue_pending(&supervisor->guard_out))
                (void)source_set_events(&supervisor->guard_source, EPOLLIN | EPOLLOUT);
}

static void guard_send(Supervisor *supervisor, struct guard_record record)
{
        guard_send_fds(supervisor, &record, NULL, 0);
}

void guard_store_order(const Node *node, const struct guard_item *items, const int *fds, size_t n)
{
        Dataflow *dataflow = node->dataflow;
        struct guard_record record = {.type = GUARD_MSG_STORE,
                .slot = dataflow->slot,
                .node = node->index,
                .generation = node->generation,
                .count = (uint32_t)n};

        if (supervisor_is_private(dataflow->supervisor))
                return;
        memcpy(record.items, items, n * sizeof(items[0]));
        guard_send_fds(dataflow->supervisor, &record, fds, n);
}

static void guard_send_about(const Node *node, GuardMsgType type)
{
        if (!supervisor_is_private(node->dataflow->supervisor))
                guard_send(node->dataflow->supervisor,
                        (struct guard_record){.type = type, .slot = node->dataflow->slot, .node = node->index, .generation = node->generation});
}

void guard_unstore_order(const Node *node)
{
        guard_send_about(node, GUARD_MSG_UNSTORE);
}

void guard_forget_dataflow_order(const Dataflow *dataflow)
{
        guard_send(dataflow->supervisor, (struct guard_record){.type = GUARD_MSG_FORGET, .slot = dataflow->slot});
}

void guard_ask_order(const Node *node)
{
        guard_send_about(node, GUARD_MSG_ASK);
}

void guard_replace_order(Supervisor *supervisor)
{
        if (supervisor->guard_pidfd < 0)
                return;
        log_line("the guard does not answer; it is killed, and this process takes its place");
        (void)syscall(SYS_pidfd_send_signal, supervisor->guard_pidfd, SIGKILL, NULL, 0);
}

void guard_found_order(Supervisor *supervisor, uint32_t slot, int32_t pid, const int fds[2], const char *cgroup)
{
        struct guard_record record = {.type = GUARD_MSG_FOUND, .slot = slot, .pid = pid};

        (void)snprintf(record.text, sizeof(record.text), "%s", cgroup);
        guard_send_fds(supervisor, &record, fds, 2);
}

/* About the cgroup of an incarnation: named as its keeper names it. */
static void guard_send_cgroup(const Dataflow *dataflow, uint32_t node, uint64_t generation, struct guard_record record)
{
        record.slot = dataflow->slot;
        record.node = node;
        record.generation = generation;
        (void)snprintf(record.text, sizeof(record.text), "%s.%llu", dataflow->plan->nodes[node].id, (unsigned long long)generation);
        guard_send(dataflow->supervisor, record);
}

void guard_forget_order(const Dataflow *dataflow, uint32_t node, uint64_t generation)
{
        guard_send_cgroup(dataflow, node, generation, (struct guard_record){.type = GUARD_MSG_REAP});
}

void guard_reap_order(const Node *node)
{
        guard_send_cgroup(node->dataflow, node->index, node->generation, (struct guard_record){.type = GUARD_MSG_REAP});
}

void guard_ask_killed_order(const Node *node)
{
        guard_send_cgroup(node->dataflow, node->index, node->generation, (struct guard_record){.type = GUARD_MSG_ASK_KILLED});
}

bool guard_has_unread(const Supervisor *supervisor)
{
        struct pollfd p = {.fd = supervisor->guard_fd, .events = POLLIN};

        return supervisor->guard_source.loop && poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

void guard_fork_keeper_order(Supervisor *supervisor, uint32_t slot)
{
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_FORK_KEEPER, .slot = slot});
}

void guard_fork_helper_order(Supervisor *supervisor, GuardHelper which, uint32_t word)
{
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_FORK_HELPER, .count = which, .node = word});
}

void guard_kill_keeper_order(Supervisor *supervisor, uint32_t slot)
{
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_KILL_KEEPER, .slot = slot});
}

void guard_escrow_order(Supervisor *supervisor, uint32_t slot, nsec_t at, nsec_t until, nsec_t term_ns)
{
        guard_send(supervisor,
                (struct guard_record){.type = GUARD_MSG_ESCROW, .slot = slot, .at_ns = at, .until_ns = until, .term_ns = term_ns});
}

void guard_escrow_node_order(Node *node, const NodeLadder *ladder, bool restart)
{
        struct guard_record record = {.type = GUARD_MSG_ESCROW,
                .at_ns = nsec_add(ladder->kill, DATAFLOW_STOP_SLACK),
                .until_ns = nsec_add(ladder->verdict, DATAFLOW_STOP_SLACK),
                .status = restart};

        node->escrow_placed = true;
        guard_send_cgroup(node->dataflow, node->index, node->generation, record);
}

void guard_slot_free_order(Supervisor *supervisor, uint32_t slot)
{
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_SLOT_FREE, .slot = slot});
}

bool guard_flushed(const Supervisor *supervisor)
{
        return supervisor->guard_fd < 0 || !packet_queue_pending(&supervisor->guard_out);
}

void guard_bye(Supervisor *supervisor, int status)
{
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_BYE, .status = status});
}

static void on_record(Supervisor *supervisor, const struct guard_record *record, int *fds, size_t n_fds)
{
        Dataflow *dataflow = supervisor->slots[record->slot];
        Node *node = dataflow && record->node < dataflow->plan->n_nodes ? &dataflow->nodes[record->node] : NULL;

        if (record->type == GUARD_MSG_KEEPER_GONE || record->type == GUARD_MSG_KEEPER_FAILED) {
                supervisor->slot_state[record->slot] &= (uint8_t)~SLOT_KEEPER;
                if (!dataflow)
                        supervisor_look_at_slot(supervisor, record->slot);
        }
        if (record->type == GUARD_MSG_RELOAD) {
                supervisor->options.grace_ns = record->at_ns;
                supervisor->options.budget_ns = record->until_ns;
                supervisor->options.watchdog_ns = record->term_ns;
        } else if (record->type == GUARD_MSG_PING)
                guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_PONG});
        else if (record->type == GUARD_MSG_STORED)
                adopt_stored(supervisor, record, fds, n_fds);
        else if (record->type == GUARD_MSG_SLOT)
                adopt_slot(supervisor, record, fds, n_fds);
        else if (record->type == GUARD_MSG_STORE_END)
                adopt_store_end(supervisor);
        else if (record->type == GUARD_MSG_HELPER && record->count == GUARD_HELPER_QUEUES)
                queues_on_started(supervisor, record->pid, TAKE_FD(fds[0]), TAKE_FD(fds[1]));
        else if (record->type == GUARD_MSG_HELPER)
                helper_on_started(supervisor, (GuardHelper)record->count, record->pid, TAKE_FD(fds[0]), TAKE_FD(fds[1]));
        else if (record->type == GUARD_MSG_HELPER_FAILED && record->count == GUARD_HELPER_QUEUES)
                queues_on_failed(supervisor, record->error);
        else if (record->type == GUARD_MSG_HELPER_FAILED)
                helper_on_failed(supervisor, (GuardHelper)record->count, record->error);
        else if (record->type == GUARD_MSG_DUMP)
                supervisor_dump(supervisor);
        else if (record->type == GUARD_MSG_ENFORCING && record->slot == GUARD_SLOT_INSTANCE)
                supervisor->enforced_at = record->at_ns;
        else if (record->type == GUARD_MSG_CLIENT_GONE)
                supervisor_stop_all(supervisor, NSEC_NEVER, false, "the command is gone");
        else if (record->type == GUARD_MSG_STOP)
                supervisor_stop_all(supervisor, NSEC_NEVER, false, "the guard was asked to end");
        else if (!dataflow)
                return;
        else if (record->type == GUARD_MSG_FORGOTTEN)
                audit_on_forgotten(dataflow, record);
        else if (record->type == GUARD_MSG_KEEPER)
                dataflow_on_keeper(dataflow, record->pid, TAKE_FD(fds[0]), TAKE_FD(fds[1]));
        else if (record->type == GUARD_MSG_KEEPER_FAILED)
                dataflow_on_keeper_failed(dataflow, record->error);
        else if (record->type == GUARD_MSG_KEEPER_GONE)
                dataflow_on_keeper_gone(dataflow, record->code, record->status);
        else if ((record->type == GUARD_MSG_ESCROW_OK || record->type == GUARD_MSG_ESCROW_REFUSED) && record->generation > 0) {
                if (node)
                        node_on_escrow_answer(node, record->type == GUARD_MSG_ESCROW_OK ? 0 : record->error);
        } else if (record->type == GUARD_MSG_ESCROW_OK)
                dataflow_on_escrow_ok(dataflow);
        else if (record->type == GUARD_MSG_ESCROWED)
                adopt_escrow(dataflow, record);
        else if (record->type == GUARD_MSG_ENFORCING && record->generation > 0) {
                if (node && node->generation == record->generation)
                        node->enforced_at = record->at_ns;
        }
        else if (record->type == GUARD_MSG_ORPHAN_EXITED)
                adopt_orphan_exit(dataflow, record);
        else if (record->type == GUARD_MSG_ENFORCING)
                dataflow->enforced_at = record->at_ns;
        else if (record->type == GUARD_MSG_KILLED && node && node->generation == record->generation)
                node_on_guard_word(node, record->count, record->at_ns);
        else if (record->type == GUARD_MSG_ENFORCED)
                dataflow_on_enforced(dataflow, record);
}

static int on_guard_socket(Source *source, uint32_t revents)
{
        Supervisor *supervisor = container_of(source, Supervisor, guard_source);

        if (revents & EPOLLOUT) {
                (void)packet_queue_flush(&supervisor->guard_out, supervisor->guard_fd);
                if (!packet_queue_pending(&supervisor->guard_out))
                        (void)source_set_events(source, EPOLLIN);
        }
        for (unsigned i = 0; i < GUARD_RECORDS_PER_TURN; i++) {
                struct guard_record record;
                int fds[GUARD_MAX_ITEMS];
                size_t size = 0, n_fds = 0;
                int r = packet_recv(supervisor->guard_fd, &record, sizeof(record), &size, fds, GUARD_MAX_ITEMS, &n_fds);

                if (r == PACKET_E_AGAIN)
                        return 0;
                if (r) { /* the guard is gone: nobody enforces any more, so end while we can still ask the keeper to */
                        source_remove(source);
                        supervisor->guard_fd = fd_close(supervisor->guard_fd);
                        supervisor->guard_gone = true;
                        if (!supervisor_is_private(supervisor))
                                heir_become_guard(supervisor); /* returns only when that cannot be done */
                        supervisor_stop_all(supervisor, NSEC_NEVER, false, "the guard is gone");
                        return 0;
                }
                if (guard_msg_check(GUARD_SENDER_GUARD, &record, size, n_fds) == 0)
                        on_record(supervisor, &record, fds, n_fds);
                for (size_t k = 0; k < n_fds; k++)
                        fds[k] = fd_close(fds[k]); /* from our own guard: sockets and pidfds */
        }
        return 0;
}

int guard_link_open(Supervisor *supervisor, int take_fd)
{
        int r;

        packet_queue_init(&supervisor->guard_out, GUARD_QUEUE_MAX);
        supervisor->guard_fd = take_fd;
        supervisor->epoch = supervisor->options.epoch;
        r = source_add(&supervisor->loop, &supervisor->guard_source, take_fd, EPOLLIN, SOURCE_EXITS, on_guard_socket);
        if (r)
                return error_fold(r);
        guard_send(supervisor, (struct guard_record){.type = GUARD_MSG_HELLO});
        if (supervisor->n_dataflows > 0) /* to be adopted */
                witness_want(supervisor);
        prober_look(supervisor);
        queues_look(supervisor);
        return 0;
}
