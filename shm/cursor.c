/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/cursor.h"

#include "shm/shm-internal.h"

static const char *const drop_reasons[_DROP_REASON_MAX] = {
        [DROP_WINDOW] = "window",
        [DROP_OVERRUN] = "overrun",
        [DROP_POOL] = "pool",
        [DROP_TORN] = "torn",
        [DROP_INVALID] = "invalid",
        [DROP_RESTARTED] = "source_restarted",
        [DROP_DEAD] = "consumer_dead",
        [DROP_DISCARDED] = "discarded",
};

const char *drop_reason_to_string(DropReason reason)
{
        return (unsigned)reason < _DROP_REASON_MAX ? drop_reasons[reason] : NULL;
}

int cursor_create(int *ret_fd)
{
        return region_create(REGION_CURSOR, cursor_size(), NULL, ret_fd);
}

void cursor_read(const Region *map, CursorStatus *ret)
{
        const struct cursor_shared *c = map->map;

        *ret = (CursorStatus){
                .active = load_acquire(&c->state) == CURSOR_ACTIVE, /* acquire: start is there once it is active */
                .attachment = load_acquire(&c->attachment), /* acquire: tail below is not older than it */
                .tail = load_relaxed(&c->tail), /* the rest is for display: each word is whole, the set is not */
                .start = load_relaxed(&c->start),
                .delivered = load_relaxed(&c->delivered),
                .delivered_bytes = load_relaxed(&c->delivered_bytes),
                .copied = load_relaxed(&c->copied),
                .wakes = load_relaxed(&c->wakes),
        };
        for (unsigned i = 0; i < _DROP_REASON_MAX; i++)
                ret->dropped[i] = load_relaxed(&c->dropped[i]);
        for (unsigned k = 0; k < CURSOR_N_CLAIMS; k++)
                ret->n_claims += load_relaxed(&c->claim[k]) != 0;
}
