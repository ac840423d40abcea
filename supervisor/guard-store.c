/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one supervisor leaves to the next: descriptors by name, slots with their keepers, exits that nobody has written down.
 * Told in pieces, as much at a time as the socket takes: a supervisor that does not read holds nobody up.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"
#include "supervisor/packet.h"

#define NODE_ANY UINT32_MAX
#define REPLAY_STORED (GUARD_MAX_SLOTS + GUARD_MAX_NODE_ESCROWS) /* replay_at counts slots, then escrows of incarnations, then what is stored */

static GuardStored *stored_free(Guard *guard)
{
        if (guard->stored_top < GUARD_MAX_STORED)
                return &guard->stored[guard->stored_top++];
        for (unsigned i = 0; i < GUARD_MAX_STORED; i++)
                if (guard->stored[i].fd < 0)
                        return &guard->stored[i];
        return NULL;
}

void guard_store(Guard *guard, const struct guard_record *record, int *fds, size_t n_fds)
{
        for (size_t i = 0; i < n_fds && i < record->count && i < GUARD_MAX_ITEMS; i++) {
                GuardStored *stored = stored_free(guard);

                if (!stored) {
                        guard->n_refused++; /* that node's links cannot be made anew after the next death; it runs on */
                        continue;
                }
                *stored = (GuardStored){.fd = TAKE_FD(fds[i]),
                        .slot = record->slot,
                        .node = record->node,
                        .generation = record->generation,
                        .item = record->items[i]};
                guard->n_stored++;
        }
}

static void stored_drop(Guard *guard, GuardStored *stored)
{
        stored->fd = fd_close(stored->fd); /* made by our own supervisor: sockets, pipes and memfds */
        guard->n_stored--;
}

static void unstore(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation)
{
        for (unsigned i = 0; i < guard->stored_top; i++) {
                GuardStored *stored = &guard->stored[i];

                if (stored->fd >= 0 && stored->slot == slot && (node == NODE_ANY || (stored->node == node && stored->generation == generation)))
                        stored_drop(guard, stored);
        }
        while (guard->stored_top > 0 && guard->stored[guard->stored_top - 1].fd < 0)
                guard->stored_top--;
}

void guard_unstore(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation)
{
        unstore(guard, slot, node, generation);
}

void guard_unstore_slot(Guard *guard, uint32_t slot)
{
        unstore(guard, slot, NODE_ANY, 0);
}

/* The supervisor has ended the dataflow, and counts what is left of it. */
void guard_forget(Guard *guard, uint32_t slot)
{
        struct guard_record answer = {.type = GUARD_MSG_FORGOTTEN, .slot = slot};

        guard_unstore_slot(guard, slot);
        for (unsigned i = 0; i < guard->stored_top; i++)
                if (guard->stored[i].fd >= 0 && guard->stored[i].slot == slot) {
                        uint16_t kind = guard->stored[i].item.kind;

                        answer.count += kind != GUARD_ITEM_SOCKET && kind != GUARD_ITEM_STDOUT && kind != GUARD_ITEM_STDERR;
                        answer.left += kind == GUARD_ITEM_SOCKET || kind == GUARD_ITEM_STDOUT || kind == GUARD_ITEM_STDERR;
                }
        guard_tell_supervisor(guard, answer);
}

/* ---- telling */

/* 0: sent, or there is nobody to send to. PACKET_E_AGAIN: later. */
static int tell(Guard *guard, struct guard_record *record, const int *fds, size_t n_fds)
{
        int r;

        record->epoch = guard->epoch;
        r = guard_record_send(guard->supervisor_fd, record, fds, n_fds);
        return r == PACKET_E_AGAIN ? r : 0; /* a dead one's successor is told all of it again */
}

int guard_tell_slot(Guard *guard, const GuardSlot *slot)
{
        struct guard_record record = {.type = GUARD_MSG_SLOT,
                .slot = slot->number,
                .at_ns = slot->escrow.at,
                .until_ns = slot->escrow.until,
                .pid = slot->keeper.pid,
                .left = slot->events_fd >= 0 && cgroup_populated(slot->events_fd) != 0};
        const int fds[] = {slot->keeper_peer_fd, slot->keeper.pidfd, slot->keeper_guard_fd};
        size_t n_fds = slot->keeper.pid <= 0 || slot->keeper_peer_fd < 0 ? 0 : slot->keeper_guard_fd < 0 ? 2 : 3;

        if (slot->number == GUARD_SLOT_INSTANCE || (slot->dir_fd < 0 && slot->keeper.pid == 0))
                return 0;
        return tell(guard, &record, fds, n_fds);
}

static bool same_owner(const GuardStored *a, const GuardStored *b)
{
        return a->slot == b->slot && a->node == b->node && a->generation == b->generation;
}

/* Those that follow each other and belong together go in one record. */
static int tell_stored(Guard *guard, unsigned *at)
{
        const GuardStored *first = &guard->stored[*at];
        struct guard_record record = {.type = GUARD_MSG_STORED, .slot = first->slot, .node = first->node, .generation = first->generation};
        int fds[GUARD_MAX_ITEMS];
        unsigned i = *at;
        int r;

        if (first->fd < 0) {
                (*at)++;
                return 0;
        }
        for (; i < guard->stored_top && record.count < GUARD_MAX_ITEMS && guard->stored[i].fd >= 0 && same_owner(first, &guard->stored[i]); i++) {
                fds[record.count] = guard->stored[i].fd;
                record.items[record.count++] = guard->stored[i].item;
        }
        r = tell(guard, &record, fds, record.count);
        if (!r)
                *at = i;
        return r;
}

static int tell_notice(GuardEscrow *escrow)
{
        struct guard_record record = {
                .type = GUARD_MSG_ENFORCING, .slot = escrow->slot, .node = escrow->node, .generation = escrow->generation, .at_ns = escrow->enforced_at};
        int r = escrow->owes_notice ? tell(escrow->guard, &record, NULL, 0) : 0;

        escrow->owes_notice = escrow->owes_notice && r != 0;
        return r;
}

static int tell_notices(Guard *guard)
{
        int r = 0;

        for (unsigned i = 0; !r && i < GUARD_MAX_SLOTS; i++)
                r = tell_notice(&guard->slots[i].escrow);
        for (unsigned i = 0; !r && i < guard->escrows_top; i++)
                if (guard->escrows[i].escrow.generation > 0)
                        r = tell_notice(&guard->escrows[i].escrow);
        return r;
}

static int tell_escrow(Guard *guard, const GuardEscrow *escrow)
{
        struct guard_record record = {.type = GUARD_MSG_ESCROWED,
                .slot = escrow->slot,
                .node = escrow->node,
                .generation = escrow->generation,
                .at_ns = escrow->at,
                .until_ns = escrow->until,
                .status = escrow->restart};

        return escrow->generation > 0 ? tell(guard, &record, NULL, 0) : 0;
}

static int tell_all(Guard *guard)
{
        struct guard_record end = {.type = GUARD_MSG_STORE_END, .count = guard->n_refused};
        int r = tell_notices(guard); /* before anybody's end is heard of */

        while (!r && guard->replay_at < GUARD_MAX_SLOTS) {
                r = guard_tell_slot(guard, &guard->slots[guard->replay_at]);
                guard->replay_at += !r;
        }
        while (!r && guard->replay_at - GUARD_MAX_SLOTS < GUARD_MAX_NODE_ESCROWS) {
                unsigned at = guard->replay_at - GUARD_MAX_SLOTS;

                r = at < guard->escrows_top ? tell_escrow(guard, &guard->escrows[at].escrow) : 0;
                guard->replay_at += !r;
        }
        while (!r && guard->replay_at - REPLAY_STORED < guard->stored_top) {
                unsigned at = guard->replay_at - REPLAY_STORED;

                r = tell_stored(guard, &at);
                guard->replay_at = at + REPLAY_STORED;
        }
        if (!r)
                r = tell(guard, &end, NULL, 0);
        guard->replaying = r != 0;
        return r;
}

static int tell_owed(Guard *guard)
{
        int r = tell_notices(guard);

        for (unsigned i = 0; !r && i < GUARD_MAX_SLOTS; i++) {
                GuardSlot *slot = &guard->slots[i];
                struct guard_record record = {.type = GUARD_MSG_KEEPER_GONE, .slot = i, .code = slot->gone_code, .status = slot->gone_status};

                if (!slot->owes_gone)
                        continue;
                r = tell(guard, &record, NULL, 0);
                slot->owes_gone = r != 0;
        }
        for (unsigned i = 0; !r && i < GUARD_MAX_CHILDREN; i++) {
                GuardChild *child = &guard->children[i];
                struct guard_record record = {.type = GUARD_MSG_ORPHAN_EXITED,
                        .slot = child->slot,
                        .node = child->node,
                        .generation = child->generation,
                        .code = child->code,
                        .status = child->status};

                if (child->pidfd < 0 || !child->owes_exit)
                        continue;
                r = tell(guard, &record, NULL, 0);
                child->owes_exit = r != 0;
        }
        return r;
}

void guard_pump(Guard *guard)
{
        int r = guard->replaying ? tell_all(guard) : 0;

        if (!r)
                r = tell_owed(guard);
        if (guard->supervisor_source.loop)
                (void)source_set_events(&guard->supervisor_source, EPOLLIN | (r ? EPOLLOUT : 0u));
}

void guard_replay(Guard *guard)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++)
                guard->children[i].owes_exit = guard->children[i].ours; /* the last supervisor may have died with it unwritten */
        for (unsigned i = 0; i < GUARD_MAX_SLOTS; i++)
                guard->slots[i].escrow.owes_notice = guard->slots[i].escrow.enforced_at > 0;
        for (unsigned i = 0; i < guard->escrows_top; i++)
                guard->escrows[i].escrow.owes_notice = guard->escrows[i].escrow.enforced_at > 0;
        guard->replaying = true;
        guard->replay_at = 0;
        guard_pump(guard);
}
