/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Escrows: what the guard has promised to end, and by when. Each only ever moves earlier, and none is taken back:
 * that of a dataflow goes with its directory or its slot, that of an incarnation when its end is journalled (REAP).
 *
 * An incarnation is known by slot, node and generation, and killed by the name of its cgroup, which no other life
 * gets. So the next one is never meant, however late an escrow is carried out.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"

#define AGAIN_SPAN (20 * NSEC_PER_MSEC) /* before another try when there is no process to be had */

int guard_escrow_open(Guard *guard)
{
        guard->escrows = mmap(NULL, sizeof(*guard->escrows) * GUARD_MAX_NODE_ESCROWS, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return guard->escrows == MAP_FAILED ? error_origin(-errno) : 0;
}

/* ---- when they are due */

/* The last word on an escrow is that its directory is gone: an empty one may be born into yet. A removed one has no
 * files. */
bool guard_slot_is_gone(const GuardSlot *slot)
{
        return slot->number != GUARD_SLOT_INSTANCE && slot->dir_fd >= 0 &&
               cgroup_is_gone(slot->dir_fd);
}

static bool is_without_keeper(const GuardEscrow *escrow)
{
        return escrow->guard->slots[escrow->slot].keeper.pid == 0;
}

/* Half of the budget has gone by: whoever was sent may be stopped, or held up in a write. Another does no harm. */
static int on_enforcer_late(Timer *timer, nsec_t now)
{
        GuardEscrow *escrow = container_of(timer, GuardEscrow, timer);

        (void)now;
        if (guard_enforcing_escrow(escrow))
                (void)guard_enforce(escrow, is_without_keeper(escrow));
        return 0;
}

static int on_escrow_due(Timer *timer, nsec_t now)
{
        GuardEscrow *escrow = container_of(timer, GuardEscrow, timer);
        Guard *guard = escrow->guard;

        if (guard_slot_is_gone(&guard->slots[escrow->slot])) {
                if (!escrow->name)
                        guard_tell_kept(guard, escrow->slot); /* in time */
                return 0;
        }
        timer_arm(&guard->loop, timer,
                MAX(nsec_add(escrow->at, (escrow->until - escrow->at) / 2), nsec_add(now, NSEC_PER_MSEC)),
                on_enforcer_late);
        if (guard_enforce(escrow, is_without_keeper(escrow)))
                /* No process to be had, or 64 enforcers at work: try again shortly, for an escrow is a promise. */
                timer_arm(&guard->loop, timer, nsec_add(guard->loop.now, AGAIN_SPAN), on_escrow_due);
        return 0;
}

void guard_escrow_again(GuardEscrow *escrow)
{
        timer_arm(&escrow->guard->loop, &escrow->timer, nsec_add(escrow->guard->loop.now, NSEC_PER_MSEC),
                on_escrow_due);
}

/* Asked again about one whose time has passed: once more, or it is over. */
static void enforce_overdue(GuardEscrow *escrow)
{
        nsec_t now = escrow->guard->loop.now;

        if (escrow->slot == GUARD_SLOT_INSTANCE || escrow->at > now || escrow->timer.loop ||
                guard_enforcing_escrow(escrow))
                return;
        escrow->until = MAX(escrow->until, nsec_add(now, NSEC_PER_SEC));
        (void)on_escrow_due(&escrow->timer, now);
}

/* ---- placing them */

static void place(GuardEscrow *escrow, nsec_t at, nsec_t until, nsec_t term_ns)
{
        if (at >= escrow->at)
                return; /* irrevocable: it only ever moves earlier */
        escrow->at = at;
        escrow->until = MAX(until, at);
        escrow->term_ns = term_ns;
        timer_arm(&escrow->guard->loop, &escrow->timer, at - MIN(at, term_ns), on_escrow_due);
}

int guard_escrow(Guard *guard, uint32_t number, nsec_t at, nsec_t until, nsec_t term_ns)
{
        if (number >= GUARD_MAX_SLOTS)
                return error_origin(-EINVAL);
        place(&guard->slots[number].escrow, at, until, term_ns);
        return 0;
}

static GuardNodeEscrow *find_free(Guard *guard)
{
        for (unsigned i = 0; i < guard->escrows_top; i++)
                if (guard->escrows[i].escrow.generation == 0)
                        return &guard->escrows[i];
        return guard->escrows_top < GUARD_MAX_NODE_ESCROWS ? &guard->escrows[guard->escrows_top++] : NULL;
}

static GuardEscrow *node_escrow_new(Guard *guard, const struct guard_record *record)
{
        GuardNodeEscrow *entry = find_free(guard);

        if (!entry)
                return NULL;
        *entry = (GuardNodeEscrow){.escrow = {.guard = guard,
                                           .slot = record->slot,
                                           .node = record->node,
                                           .generation = record->generation,
                                           .name = entry->name,
                                           .at = NSEC_NEVER}};
        (void)strcpy(entry->name, record->text); /* guard_msg_check() has held it against the room */
        return &entry->escrow;
}

int guard_escrow_node(Guard *guard, const struct guard_record *record)
{
        GuardEscrow *escrow = guard_escrow_find(guard, record->slot, record->node, record->generation);

        if (!escrow)
                escrow = node_escrow_new(guard, record);
        if (!escrow)
                return error_origin(-ENOSPC);
        escrow->restart = record->status; /* the last word counts for what follows, the earliest for the end */
        place(escrow, record->at_ns, record->until_ns, 0);
        return 0;
}

GuardEscrow *guard_escrow_find(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation)
{
        if (slot >= GUARD_MAX_SLOTS)
                return NULL;
        if (generation == 0)
                return &guard->slots[slot].escrow;
        for (unsigned i = 0; i < guard->escrows_top; i++) {
                GuardEscrow *escrow = &guard->escrows[i].escrow;

                if (escrow->generation == generation && escrow->slot == slot && escrow->node == node)
                        return escrow;
        }
        return NULL;
}

static void node_escrow_free(GuardEscrow *escrow)
{
        Guard *guard = escrow->guard;

        timer_disarm(&escrow->timer);
        escrow->generation = 0;
        while (guard->escrows_top > 0 && guard->escrows[guard->escrows_top - 1].escrow.generation == 0)
                guard->escrows_top--;
}

void guard_escrow_drop(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation)
{
        GuardEscrow *escrow = generation > 0 ? guard_escrow_find(guard, slot, node, generation) : NULL;

        if (escrow)
                node_escrow_free(escrow);
}

void guard_escrow_drop_slot(GuardSlot *slot)
{
        Guard *guard = slot->guard;

        timer_disarm(&slot->escrow.timer);
        slot->escrow = (GuardEscrow){.guard = guard, .slot = slot->number, .at = NSEC_NEVER};
        for (unsigned i = guard->escrows_top; i-- > 0;)
                if (i < guard->escrows_top && guard->escrows[i].escrow.generation > 0 &&
                        guard->escrows[i].escrow.slot == slot->number)
                        node_escrow_free(&guard->escrows[i].escrow);
}

/* Its keeper was stopped when it was about to be begun, and its time came meanwhile. */
void guard_escrow_on_child(Guard *guard, const struct guard_record *record)
{
        GuardEscrow *escrow = record->generation > 0
                                      ? guard_escrow_find(guard, record->slot, record->node, record->generation)
                                      : NULL;

        if (!escrow || escrow->at > guard->loop.now)
                return;
        escrow->until = MAX(escrow->until, nsec_add(guard->loop.now, NSEC_PER_SEC));
        guard_escrow_again(escrow);
}

void guard_on_escrow(Guard *guard, const struct guard_record *record, int answer_fd)
{
        struct guard_record answer = *record;
        int r = record->generation > 0
                        ? guard_escrow_node(guard, record)
                        : guard_escrow(guard, record->slot, record->at_ns, record->until_ns, record->term_ns);

        if (!r)
                enforce_overdue(guard_escrow_find(guard, record->slot, record->node, record->generation));
        answer.type = r ? GUARD_MSG_ESCROW_REFUSED : GUARD_MSG_ESCROW_OK;
        answer.error = -r;
        (void)guard_record_send(answer_fd, &answer, NULL, 0);
}
