/* SPDX-License-Identifier: Apache-2.0 */
/* Two nodes of a Tidegate dataflow: written in place, read in place; a message that fits a slot of the ring is copied there. */
#include "peer.h"

#include <tidegate/tidegate.h>

#define PATIENCE_NS INT64_C(10000000000)
#define SLOT_BYTES 192

static tg_node *node;
static tg_event *event;
static tg_sample *room;
static size_t size;
static char small[SLOT_BYTES];

int peer_open(const struct peer_spec *spec)
{
        int r = tg_node_open(&node);

        if (r)
                return peer_fail("tg_node_open", tg_strerror(r));
        size = spec->size;
        tg_set_send_timeout(node, PATIENCE_NS);
        return 0;
}

int peer_loan(void **ret)
{
        int r;

        *ret = small;
        if (size <= SLOT_BYTES)
                return 0;
        r = tg_alloc(node, "out", size, &room);
        if (r)
                return peer_fail("tg_alloc", tg_strerror(r));
        *ret = tg_sample_data(room);
        return 0;
}

int peer_send(void)
{
        int r = size <= SLOT_BYTES ? tg_send(node, "out", small, size, NULL) : tg_send_sample(room, NULL);

        return r ? peer_fail("tg_send", tg_strerror(r)) : 0;
}

int peer_take(const void **ret, int timeout_ms)
{
        int r;

        r = tg_next(node, &event, (int64_t)timeout_ms * 1000000);
        if (r == TG_E_TIMEOUT)
                return PEER_TIMEOUT;
        if (r)
                return peer_fail("tg_next", tg_strerror(r));
        if (tg_event_type(event) != TG_EVENT_INPUT)
                return peer_fail("tg_next", "the other side has left");
        *ret = tg_event_data(event);
        return tg_event_size(event) == size ? 0 : peer_fail("tg_next", "a message of another size");
}

int peer_release(void)
{
        event = tg_event_free(event);
        return 0;
}

void peer_close(void)
{
        node = tg_node_close(node);
}
