/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hot.h"
#include "shm/control.h"

#include "shm/shm-internal.h"

int control_create(int *ret_fd)
{
        return region_create(REGION_CONTROL, control_size(), NULL, ret_fd);
}

void control_init(const Region *map)
{
        struct control_shared *c = map->map;

        store_relaxed(&c->stop_deadline_ns, NSEC_NEVER); /* nobody looks before stop is 1 */
        store_relaxed(&c->stop_cause, 0);
        store_sc(&c->stop, 0);
}

void control_bump(const Region *map)
{
        struct control_shared *c = map->map;

        store_sc(&c->epoch, load_relaxed(&c->epoch) + 1); /* SC: pairs with the look of a node going to sleep */
}

void control_stop(const Region *map, uint32_t cause, nsec_t deadline_ns)
{
        struct control_shared *c = map->map;

        if (!load_relaxed(&c->stop)) { /* own word */
                store_relaxed(&c->stop_cause, cause);
                store_relaxed(&c->stop_deadline_ns, deadline_ns);
                store_sc(&c->stop, 1); /* publishes both, and pairs with a sleeper's look */
        } else if (deadline_ns < load_relaxed(&c->stop_deadline_ns)) {
                store_relaxed(&c->stop_deadline_ns, deadline_ns); /* one word: a reader sees the old or the new one */
        }
        control_bump(map);
}

HOT bool control_stopping(const Region *map)
{
        const struct control_shared *c = map->map;

        return load_acquire(&c->stop) != 0; /* acquire: cause and deadline are there once this is */
}

HOT uint64_t control_epoch(const Region *map)
{
        const struct control_shared *c = map->map;

        return load_sc(&c->epoch); /* SC: a look after the sleep epoch was stored */
}

bool control_stop_read(const Region *map, uint32_t *ret_cause, nsec_t *ret_deadline_ns)
{
        const struct control_shared *c = map->map;

        if (!control_stopping(map))
                return false;
        *ret_cause = load_relaxed(&c->stop_cause); /* ordered by the acquire above */
        *ret_deadline_ns = load_relaxed(&c->stop_deadline_ns);
        return true;
}

void control_set_probe_mask(const Region *map, uint64_t mask)
{
        struct control_shared *c = map->map;

        store_relaxed(&c->probe_mask, mask); /* orders nothing */
}

const uint64_t *control_probe_mask(const Region *map)
{
        const struct control_shared *c = map->map;

        return &c->probe_mask;
}
