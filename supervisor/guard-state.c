/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/guard-state.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* Each part begins where the one before ends, and 64-bit words are read in all of them. */
_Static_assert(sizeof(struct guard_state_header) % 8 == 0 && sizeof(struct guard_state_slot) % 8 == 0 &&
                       sizeof(struct guard_state_item) % 8 == 0 && sizeof(struct guard_state_child) % 8 == 0 &&
                       sizeof(struct guard_state_escrow) % 8 == 0 && sizeof(struct guard_state_kill) % 8 == 0,
        "aligned");

static bool is_dataflow(uint32_t slot)
{
        return slot != GUARD_SLOT_INSTANCE && slot < GUARD_MAX_SLOTS;
}

static bool is_fd(int32_t fd)
{
        return fd >= -1;
}

static bool header_is_good(const struct guard_state_header *h, size_t size)
{
        uint64_t need = sizeof(*h);

        if (h->magic != GUARD_STATE_MAGIC || h->version != GUARD_STATE_VERSION || h->n_slots > GUARD_MAX_SLOTS ||
                h->n_items > GUARD_MAX_STORED || h->n_children > GUARD_MAX_CHILDREN ||
                h->n_escrows > GUARD_MAX_NODE_ESCROWS || h->n_kills > GUARD_MAX_KILLS)
                return false;
        need += (uint64_t)h->n_slots * sizeof(struct guard_state_slot) +
                (uint64_t)h->n_items * sizeof(struct guard_state_item) +
                (uint64_t)h->n_children * sizeof(struct guard_state_child) +
                (uint64_t)h->n_escrows * sizeof(struct guard_state_escrow) +
                (uint64_t)h->n_kills * sizeof(struct guard_state_kill);
        return h->size == need && need == size && is_fd(h->instance_fd) && is_fd(h->runtime_fd) &&
               is_fd(h->control_fd) && is_fd(h->node_fd) && is_fd(h->lock_fd) &&
               guard_path_is_good(h->runtime_path, sizeof(h->runtime_path));
}

static bool slots_are_good(const GuardStateView *v)
{
        bool seen[GUARD_MAX_SLOTS] = {};

        for (uint32_t i = 0; i < v->header->n_slots; i++) {
                const struct guard_state_slot *s = &v->slots[i];

                if (s->slot >= GUARD_MAX_SLOTS || seen[s->slot] || !is_fd(s->keeper_fd) || !is_fd(s->keeper_pidfd) ||
                        s->keeper_pid < 0 || !guard_path_is_good(s->cgroup, sizeof(s->cgroup)))
                        return false;
                seen[s->slot] = true;
        }
        return true;
}

static bool items_are_good(const GuardStateView *v)
{
        for (uint32_t i = 0; i < v->header->n_items; i++)
                if (!is_dataflow(v->items[i].slot) || !guard_item_is_good(&v->items[i].item) ||
                        !is_fd(v->items[i].fd))
                        return false;
        return true;
}

static bool children_are_good(const GuardStateView *v)
{
        for (uint32_t i = 0; i < v->header->n_children; i++)
                if (!is_dataflow(v->children[i].slot) || v->children[i].generation == 0 || v->children[i].pid <= 0 ||
                        !is_fd(v->children[i].pidfd))
                        return false;
        return true;
}

static bool escrows_are_good(const GuardStateView *v)
{
        for (uint32_t i = 0; i < v->header->n_escrows; i++) {
                const struct guard_state_escrow *e = &v->escrows[i];

                if (!is_dataflow(e->slot) || e->generation == 0 ||
                        !guard_name_is_of(e->name, sizeof(e->name), e->generation))
                        return false;
        }
        for (uint32_t i = 0; i < v->header->n_kills; i++) {
                const struct guard_state_kill *k = &v->kills[i];

                if (!is_dataflow(k->slot) || strnlen(k->name, sizeof(k->name)) == sizeof(k->name))
                        return false;
        }
        return true;
}

int guard_state_view(GuardStateView *ret, const void *data, size_t size)
{
        GuardStateView v = {.header = data};

        if (size < sizeof(*v.header) || !header_is_good(v.header, size))
                return -EBADMSG;
        v.slots = (const void *)(v.header + 1);
        v.items = (const void *)(v.slots + v.header->n_slots);
        v.children = (const void *)(v.items + v.header->n_items);
        v.escrows = (const void *)(v.children + v.header->n_children);
        v.kills = (const void *)(v.escrows + v.header->n_escrows);
        if (!slots_are_good(&v) || !items_are_good(&v) || !children_are_good(&v) || !escrows_are_good(&v))
                return -EBADMSG;
        *ret = v;
        return 0;
}
