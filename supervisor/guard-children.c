/* SPDX-License-Identifier: Apache-2.0 */
/* Incarnations that registered: each first process before it does anything. Whose keeper is dead ends in our hands. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "supervisor/guard-internal.h"

void guard_child_free(GuardChild *child)
{
        source_remove(&child->source);
        child->pidfd = fd_close(child->pidfd);
        child->guard->n_children--;
}

/* An orphan of a dead keeper is ours: what its end was like is kept until the supervisor has written it down. */
void guard_child_look(GuardChild *child)
{
        siginfo_t si = {};

        if (child->ours || waitid(P_PIDFD, (id_t)child->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0)
                return; /* its keeper's, which tells; or still alive */
        child->ended = child->ours = child->owes_exit = true;
        child->code = si.si_code;
        child->status = si.si_status;
        source_remove(&child->source);
        (void)waitid(P_PIDFD, (id_t)child->pidfd, &si, WEXITED | WNOHANG);
        guard_pump(child->guard);
}

static int on_child_exit(Source *source, uint32_t revents)
{
        GuardChild *child = container_of(source, GuardChild, source);

        (void)revents;
        source_remove(source);
        child->ended = true;
        guard_child_look(child);
        if (!child->ours && !child->guard->options->daemon) /* nobody will ask */
                guard_child_free(child);
        return 0;
}

/* Whether an incarnation ever ran: its first process registers before it does anything, and its keeper is dead. */
void guard_answer(Guard *guard, const GuardSlot *slot, const struct guard_record *record)
{
        struct guard_record answer = {.type = GUARD_MSG_ORPHAN_EXITED,
                .slot = record->slot,
                .node = record->node,
                .generation = record->generation,
                .error = slot->inherited ? EAGAIN : ENOENT};

        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) {
                GuardChild *child = &guard->children[i];

                if (child->pidfd < 0 || child->slot != record->slot || child->node != record->node || child->generation != record->generation)
                        continue;
                child->owes_exit = child->ours; /* not yet: told when it is */
                if (child->ended && !child->ours)
                        break; /* reaped by its keeper, which took it along */
                guard_pump(guard);
                return;
        }
        guard_tell_supervisor(guard, answer);
}

/* The supervisor has written its exit down. */
void guard_reap(Guard *guard, uint32_t slot, uint32_t node, uint64_t generation)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) {
                GuardChild *child = &guard->children[i];

                if (child->pidfd >= 0 && child->slot == slot && child->node == node && child->generation == generation)
                        guard_child_free(child);
        }
}

void guard_add_child(Guard *guard, const struct guard_record *record, int *take_pidfd)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) {
                GuardChild *child = &guard->children[i];

                if (child->pidfd >= 0)
                        continue;
                if (source_add(&guard->loop, &child->source, *take_pidfd, EPOLLIN, SOURCE_EXITS, on_child_exit))
                        return;
                child->guard = guard;
                child->pidfd = TAKE_FD(*take_pidfd);
                child->slot = record->slot;
                child->node = record->node;
                child->generation = record->generation;
                child->pid = record->pid;
                child->ended = child->ours = child->owes_exit = false;
                guard->n_children++;
                return;
        }
        guard->n_children_refused++; /* its cgroup is registered, so it is ended all the same */
}

void guard_set_child_end(Guard *guard, const struct guard_record *record, int32_t code, int32_t status)
{
        for (unsigned i = 0; i < GUARD_MAX_CHILDREN; i++) {
                GuardChild *child = &guard->children[i];

                if (child->pidfd < 0 || child->slot != record->slot || child->node != record->node || child->generation != record->generation)
                        continue;
                child->ended = child->ours = child->owes_exit = true;
                child->code = code;
                child->status = status;
                source_remove(&child->source);
        }
}

/* Its pid may be another's by now: the pidfd says whether it is this one that lies there. */
GuardChild *guard_find_child(Guard *guard, pid_t pid)
{
        uint32_t n = 0; /* seen: the first ones are taken first, and this is asked for each orphan */

        for (unsigned i = 0; i < GUARD_MAX_CHILDREN && n < guard->n_children; i++) {
                GuardChild *child = &guard->children[i];
                siginfo_t si = {};

                n += child->pidfd >= 0;
                if (child->pidfd >= 0 && child->pid == pid && !child->ours &&
                        waitid(P_PIDFD, (id_t)child->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid == pid)
                        return child;
        }
        return NULL;
}
