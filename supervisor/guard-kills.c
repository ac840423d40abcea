/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom the guard has killed. The supervisor may sleep through it all, and sees only that a node has ended: so each
 * enforcer writes down before it kills in which incarnations' cgroups somebody lives, and the supervisor asks when
 * one of them is over.
 *
 * One table in memory that guard and enforcers share. An enforcer takes a free entry, fills it and declares it ready;
 * only the guard frees. When the table is full a kill is counted and not named.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "supervisor/cgroup.h"
#include "supervisor/guard-internal.h"

#define COUNT_SPAN                                                                                                   \
        (100 * NSEC_PER_MSEC) /* what counting may delay the kill by: whoever made a thousand cgroups is not counted \
                                 whole */

int guard_kills_open(Guard *guard)
{
        guard->kills = mmap(NULL, sizeof(*guard->kills), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return guard->kills == MAP_FAILED ? error_origin(-errno) : 0;
}

/* ---- in an enforcer */

static struct guard_kill *take(struct guard_kills *kills, unsigned enforcer)
{
        for (uint32_t i = 0; i < GUARD_MAX_KILLS; i++) {
                struct guard_kill *kill = &kills->kills[i];
                uint32_t state = GUARD_KILL_FREE, top;

                if (!atomic_compare_exchange_strong(&kill->state, &state, GUARD_KILL_TAKEN))
                        continue;
                kill->enforcer = enforcer;
                top = atomic_load(&kills->top);
                while (top <= i && !atomic_compare_exchange_weak(&kills->top, &top, i + 1))
                        continue;
                return kill;
        }
        return NULL;
}

static void note(
        const GuardSlot *slot, unsigned enforcer, struct guard_result *result, const char *name, uint32_t count)
{
        struct guard_kill *kill = strlen(name) < GUARD_NAME_MAX ? take(slot->guard->kills, enforcer) : NULL;

        if (!kill)
                return;
        kill->slot = slot->number;
        kill->life = slot->life;
        kill->count = count;
        kill->at = result->at;
        (void)strcpy(kill->name, name);
        atomic_store_explicit(&kill->state, GUARD_KILL_READY, memory_order_release); /* what is ready is whole */
        result->n_named += count;
}

/* How many live in it; at least 1 when somebody does and there is no time to count. */
static uint32_t count_in(int dir_fd, const char *name, bool hurry)
{
        _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_fd_ int events = fd < 0 ? -1 : cgroup_open_events(fd);
        int n;

        if (events < 0 || cgroup_populated(events) != 1)
                return 0;
        n = hurry ? 1 : cgroup_count(fd);
        return n > 0 ? (uint32_t)n : 1;
}

static void note_slot(const GuardSlot *slot, unsigned enforcer, struct guard_result *result)
{
        int fd = slot->dir_fd < 0 ? -1 : openat(slot->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *e;

        if (!dir) {
                (void)fd_close(fd);
                return;
        }
        while ((e = readdir(dir))) {
                uint32_t n = e->d_type == DT_DIR && e->d_name[0] != '.'
                                     ? count_in(fd, e->d_name, clock_now() > nsec_add(result->at, COUNT_SPAN))
                                     : 0;

                if (n > 0)
                        note(slot, enforcer, result, e->d_name, n);
        }
        (void)closedir(dir);
}

void guard_kills_note(const GuardEscrow *escrow, unsigned enforcer, struct guard_result *result)
{
        const Guard *guard = escrow->guard;
        const GuardSlot *slot = &guard->slots[escrow->slot];

        result->at = clock_now();
        if (escrow->name) {
                uint32_t n = count_in(slot->dir_fd, escrow->name, false);

                if (n > 0)
                        note(slot, enforcer, result, escrow->name, n);
                return;
        }
        if (escrow->slot != GUARD_SLOT_INSTANCE) {
                note_slot(slot, enforcer, result);
                return;
        }
        for (uint32_t i = GUARD_SLOT_INSTANCE + 1; i < GUARD_MAX_SLOTS; i++)
                note_slot(&guard->slots[i], enforcer, result);
}

/* ---- in the guard */

/* NULL: free, half written, or of a dataflow that is over. */
static struct guard_kill *ready(const Guard *guard, uint32_t i)
{
        struct guard_kill *kill = &guard->kills->kills[i];

        return atomic_load_explicit(&kill->state, memory_order_acquire) == GUARD_KILL_READY &&
                               kill->slot < GUARD_MAX_SLOTS && kill->life == guard->slots[kill->slot].life
                       ? kill
                       : NULL;
}

const struct guard_kill *guard_kills_find(const Guard *guard, uint32_t slot, const char *name)
{
        uint32_t top = MIN(atomic_load(&guard->kills->top), (uint32_t)GUARD_MAX_KILLS);

        for (uint32_t i = 0; i < top; i++) {
                const struct guard_kill *kill = ready(guard, i);

                if (kill && kill->slot == slot && strcmp(kill->name, name) == 0)
                        return kill;
        }
        return NULL;
}

void guard_kills_drop(Guard *guard, uint32_t slot, const char *name)
{
        uint32_t top = MIN(atomic_load(&guard->kills->top), (uint32_t)GUARD_MAX_KILLS);

        for (uint32_t i = 0; i < top; i++) {
                struct guard_kill *kill = ready(guard, i);

                if (kill && kill->slot == slot && (!name || strcmp(kill->name, name) == 0))
                        atomic_store(&kill->state, GUARD_KILL_FREE);
        }
}

void guard_kills_settle(Guard *guard, unsigned enforcer)
{
        uint32_t top = MIN(atomic_load(&guard->kills->top), (uint32_t)GUARD_MAX_KILLS);

        for (uint32_t i = 0; i < top; i++) {
                struct guard_kill *kill = &guard->kills->kills[i];
                bool half = atomic_load(&kill->state) == GUARD_KILL_TAKEN && kill->enforcer == enforcer;
                bool stale = atomic_load(&kill->state) == GUARD_KILL_READY && !ready(guard, i);

                if (half || stale)
                        atomic_store(&kill->state, GUARD_KILL_FREE);
        }
}

const struct guard_kill *guard_kills_at(const Guard *guard, uint32_t i)
{
        return i < atomic_load(&guard->kills->top) ? ready(guard, i) : NULL;
}

void guard_kills_restore(Guard *guard, const struct guard_state_kill *state)
{
        struct guard_result result = {.at = state->at_ns};

        note(&guard->slots[state->slot], 0, &result, state->name, state->count);
}

void guard_kills_answer(Guard *guard, const struct guard_record *record)
{
        const struct guard_kill *kill = guard_kills_find(guard, record->slot, record->text);

        guard_tell_supervisor(guard, (struct guard_record){.type = GUARD_MSG_KILLED,
                                             .slot = record->slot,
                                             .node = record->node,
                                             .generation = record->generation,
                                             .count = kill ? kill->count : 0,
                                             .at_ns = kill ? kill->at : 0});
}
