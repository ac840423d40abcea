/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/bell.h"

#include "shm/shm-internal.h"

int bell_create(int *ret_fd)
{
        return region_create(REGION_BELL, bell_size(), NULL, ret_fd);
}

void bell_init(Bell *bell, const Region *map)
{
        *bell = (Bell){.shared = map->map};
        store_sc(&bell->shared->epoch, 0);
}

void bell_sleep(Bell *bell)
{
        bell->epoch += 1 + (bell->epoch & 1); /* asleep already: the next odd one, or a second poll loses its ring */
        store_sc(&bell->shared->epoch, bell->epoch); /* SC: before the looks that follow */
}

void bell_wake(Bell *bell)
{
        bell->epoch += bell->epoch & 1;
        store_release(&bell->shared->epoch, bell->epoch); /* late is harmless: it costs one superfluous ring */
}

void bell_peer_init(BellPeer *peer, const Region *map)
{
        *peer = (BellPeer){.shared = map->map};
}

bool bell_peer_must_ring(BellPeer *peer)
{
        uint64_t e = load_sc(&peer->shared->epoch); /* SC: after the store that published */

        if (!(e & 1) || load_relaxed(&peer->rung) == e)
                return false;
        /* Two threads of ours may stand here: the exchange lets one of them ring. */
        return __atomic_exchange_n(&peer->rung, e, __ATOMIC_RELAXED) != e;
}
