/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hot.h"
#include "shm/bell.h"

#include "shm/shm-internal.h"

#define EPOCHS_A_MOMENT 1000000u /* more than anybody wakes up in a second */

int bell_create(int *ret_fd)
{
        return region_create(REGION_BELL, bell_size(), NULL, ret_fd);
}

void bell_init(Bell *bell, const Region *map)
{
        *bell = (Bell){.shared = map->map};
        store_relaxed(&bell->shared->by_socket, 0); /* seen with the first odd epoch at the latest */
        store_sc(&bell->shared->epoch, 0);
}

void bell_sleep(Bell *bell)
{
        bell->epoch += 1 + (bell->epoch & 1); /* asleep already: the next odd one, or a second poll loses its ring */
        store_sc(&bell->shared->epoch, bell->epoch); /* SC: before the looks that follow */
}

HOT void bell_wake(Bell *bell)
{
        if (!(bell->epoch & 1))
                return; /* peers read that line with every message: leave it to them */
        bell->epoch++;
        store_release(&bell->shared->epoch, bell->epoch); /* late is harmless: it costs one superfluous ring */
}

void bell_turn(Bell *bell, bool to_sockets)
{
        store_sc(&bell->shared->by_socket, to_sockets);
}

HOT void bell_tell(const Bell *bell)
{
        struct bell_shared *s = bell->shared;

        store_relaxed(&s->n_sleeps, bell->counters.n_sleeps);
        store_relaxed(&s->n_looks, bell->counters.n_looks);
        store_relaxed(&s->n_found, bell->counters.n_found);
        store_relaxed(&s->n_woken, bell->counters.n_woken);
        store_relaxed(&s->woken_ns, bell->counters.woken_ns);
        store_relaxed(&s->cpu_ns, bell->counters.cpu_ns);
        store_relaxed(&s->cpu_at, bell->counters.cpu_at);
        store_relaxed(&s->n_taken, bell->counters.n_taken);
}

void bell_read(const Region *map, BellCounters *ret)
{
        const struct bell_shared *s = map->map;

        *ret = (BellCounters){
                .n_sleeps = load_relaxed(&s->n_sleeps),
                .n_looks = load_relaxed(&s->n_looks),
                .n_found = load_relaxed(&s->n_found),
                .n_woken = load_relaxed(&s->n_woken),
                .woken_ns = load_relaxed(&s->woken_ns),
                .cpu_ns = load_relaxed(&s->cpu_ns),
                .cpu_at = load_relaxed(&s->cpu_at),
                .n_taken = load_relaxed(&s->n_taken),
                .by_socket = load_relaxed(&s->by_socket),
        };
}

void bell_peer_init(BellPeer *peer, const Region *map)
{
        *peer = (BellPeer){.shared = map->map};
}

HOT bool bell_peer_must_ring(BellPeer *peer, bool alone)
{
        uint64_t e = load_sc(&peer->shared->epoch); /* SC: after the store that published */

        if (!(e & 1) || load_relaxed(&peer->rung) == e)
                return false;
        if (alone) {
                store_relaxed(&peer->rung, e);
                return true;
        }
        /* Two threads of ours may stand here: the exchange lets one of them ring. */
        return __atomic_exchange_n(&peer->rung, e, __ATOMIC_RELAXED) != e;
}

HOT bool bell_peer_by_socket(const BellPeer *peer)
{
        return load_relaxed(&peer->shared->by_socket) != 0;
}

bool bell_peer_sleeps_again(const BellPeer *peer)
{
        uint64_t e = load_relaxed(&peer->shared->epoch), n = e - load_relaxed(&peer->rung);

        return (e & 1) && n > 0 && n <= EPOCHS_A_MOMENT; /* it never goes back */
}
