/* SPDX-License-Identifier: Apache-2.0 */
/* The regions of an incarnation: made, sealed, kept by the guard. */
#include "supervisor/wiring-internal.h"

#include "base/cleanup.h"
#include "base/error.h"
#include "shm/bell.h"
#include "shm/control.h"
#include "shm/cursor.h"
#include "shm/pool.h"
#include "shm/ring.h"
#include "supervisor/growth.h"
#include "supervisor/supervisor.h"

#define QUEUE_DEFAULT 10u
#define POOL_SMALLEST 1024u

uint32_t wiring_max_queue(const Node *node, uint32_t output)
{
        const Dataflow *dataflow = node->dataflow;
        uint32_t max = QUEUE_DEFAULT;

        for (uint32_t i = 0; i < dataflow->n_links; i++) {
                const Link *link = &dataflow->links[i];

                if (link->source == node && link->output == output)
                        max = MAX(max, link->target->plan->inputs[link->input].queue_size);
        }
        return max;
}

/*
 * Chunk sizes of a pool, from large to small. A larger chunk also holds a smaller message, so the memory goes to the large ones:
 * half of it to the largest message that a pool of this size promises (a quarter of its power of two), half of the rest to
 * one half as long, then on in steps of four. No size gets more than a full queue, all claims and one being written need.
 */
static unsigned pool_classes_down(uint64_t *left, uint64_t pool_size, uint32_t want, PoolClass ret[POOL_MAX_CLASSES])
{
        uint64_t size = POOL_SMALLEST;
        unsigned n = 0;

        while (size * 8 <= pool_size)
                size *= 2;
        while (size >= POOL_SMALLEST && n < POOL_MAX_CLASSES) {
                /* Room for the metadata beside a payload of a round size. */
                PoolClass class = pool_class_for(size <= 4096 ? size : size + 4096, 1);
                /* Two of the large ones at the least: one is read while the next is written. */
                uint64_t count = MIN((uint64_t)want, MAX(*left / 2 / class.chunk_size, n < 2 ? UINT64_C(2) : UINT64_C(1)));

                if (count * class.chunk_size <= *left) {
                        class.n_chunks = (uint32_t)count;
                        *left -= count * class.chunk_size;
                        ret[n++] = class;
                }
                size /= n == 1 ? 2 : 4;
        }
        return n;
}

static unsigned pool_classes(uint64_t budget, uint32_t max_queue, PoolClass ret[POOL_MAX_CLASSES])
{
        uint32_t want = max_queue + CURSOR_N_CLAIMS + 2;
        uint64_t left = budget > POOL_DATA_OFFSET ? budget - POOL_DATA_OFFSET : 0;
        PoolClass down[POOL_MAX_CLASSES];
        unsigned n = pool_classes_down(&left, budget, want, down);

        for (unsigned i = 0; i < n; i++) { /* what is left over makes more of the largest that fits */
                uint64_t more = MIN(left / down[i].chunk_size, (uint64_t)(want > down[i].n_chunks ? want - down[i].n_chunks : 0));

                down[i].n_chunks += (uint32_t)more;
                left -= more * down[i].chunk_size;
                ret[n - 1 - i] = down[i];
        }
        return n;
}

/* Outcomes of the shm room mean that our own numbers were wrong. */
static int fold_region(int r)
{
        return r > 0 ? error_origin(-EINVAL) : r;
}

/* Follows from the plan alone, so that a successor knows it too. */
static unsigned output_measure(Node *node, uint32_t index, PoolClass classes[POOL_MAX_CLASSES])
{
        NodeOutput *output = &node->outputs[index];
        uint32_t max_queue = wiring_max_queue(node, index);
        uint64_t bound = node->plan->pool_size ? node->plan->pool_size : GROWTH_FIRST;
        unsigned n = pool_classes(MIN(bound, GROWTH_FIRST), max_queue, classes);
        uint64_t most = node->plan->pool_size ? node->plan->pool_size : GROWTH_BOUND_MOST, first = pool_size(classes, n);

        if (n < POOL_MAX_CLASSES && most > first + POOL_DATA_OFFSET)
                n += growth_expected(node->plan->expected_message, classes[n - 1].chunk_size, most - first - POOL_DATA_OFFSET, &classes[n]);

        output->n_slots = ring_slots_for(max_queue);
        output->ring_size = ring_size(output->n_slots);
        output->pool_size = pool_size(classes, n);
        output->pool_largest = pool_largest(classes, n);
        return n;
}

void wiring_restore(Node *node)
{
        PoolClass classes[POOL_MAX_CLASSES];

        for (uint32_t i = 0; i < node->plan->n_outputs; i++)
                (void)output_measure(node, i, classes);
}

static int output_make(Node *node, uint32_t index)
{
        NodeOutput *output = &node->outputs[index];
        PoolClass classes[POOL_MAX_CLASSES];
        unsigned n = output_measure(node, index, classes);
        int r;

        output->ring_fd = fd_close(output->ring_fd); /* an older incarnation's: consumers have mapped it, or never will */
        output->pool_fd = fd_close(output->pool_fd);
        growth_drop(output);
        output->closed = output->pool_lost = false;
        r = fold_region(ring_create(output->n_slots, &output->ring_fd));
        return r ? r : fold_region(pool_create(classes, n, &output->pool_fd));
}

static int control_make(Node *node)
{
        int r = fold_region(control_create(&node->control_fd));

        if (!r)
                r = fold_region(region_map_write(&node->control, node->control_fd, REGION_CONTROL, control_size()));
        if (!r) {
                control_init(&node->control);
                queues_node_prepared(node);
                r = fold_region(region_seal(node->control_fd, REGION_CONTROL));
        }
        return r;
}

int regions_make(Node *node)
{
        int r = control_make(node);

        if (!r) {
                node->bell_fd = fd_close(node->bell_fd);
                r = fold_region(bell_create(&node->bell_fd));
        }
        for (uint32_t i = 0; !r && i < node->plan->n_outputs; i++)
                r = output_make(node, i);
        for (uint32_t i = 0; !r && i < node->plan->n_inputs; i++)
                if (!node->plan->inputs[i].timer_ns)
                        r = fold_region(cursor_create(&node->cursor_fds[i]));
        return r;
}

/* One that was lost with a supervisor and its guard is handed on by nobody: what was handed on before was sealed before. */
static bool is_sealed_if_there(int fd, RegionKind kind)
{
        return fd < 0 || region_is_sealed(fd, kind);
}

bool regions_are_sealed(const Node *node)
{
        bool sealed = is_sealed_if_there(node->bell_fd, REGION_BELL);

        for (uint32_t i = 0; i < node->plan->n_outputs; i++)
                sealed = sealed && is_sealed_if_there(node->outputs[i].ring_fd, REGION_RING) && is_sealed_if_there(node->outputs[i].pool_fd, REGION_POOL);
        for (uint32_t i = 0; i < node->plan->n_inputs; i++)
                sealed = sealed && is_sealed_if_there(node->cursor_fds[i], REGION_CURSOR);
        return sealed;
}

static bool is_touched_if_there(int fd, RegionKind kind)
{
        return fd < 0 || region_is_touched(fd, kind);
}

bool regions_are_touched(const Node *node)
{
        for (uint32_t i = 0; i < node->plan->n_outputs; i++) {
                const NodeOutput *output = &node->outputs[i];

                if (!is_touched_if_there(output->ring_fd, REGION_RING) || !is_touched_if_there(output->pool_fd, REGION_POOL))
                        return false;
        }
        return true;
}

/* A few at a time, to the guard. */
typedef struct Store {
        const Node *node;
        struct guard_item items[GUARD_MAX_ITEMS];
        int fds[GUARD_MAX_ITEMS];
        size_t n;
} Store;

static void store_flush(Store *store)
{
        if (store->n > 0)
                guard_store_order(store->node, store->items, store->fds, store->n);
        store->n = 0;
}

static void store_add(Store *store, GuardItemKind kind, uint32_t index, int fd)
{
        if (fd < 0)
                return;
        store->items[store->n] = (struct guard_item){.kind = kind, .index = (uint16_t)index};
        store->fds[store->n++] = fd;
        if (store->n == GUARD_MAX_ITEMS)
                store_flush(store);
}

void regions_store(const Node *node)
{
        Store store = {.node = node};

        store_add(&store, GUARD_ITEM_SOCKET, 0, node->sock);
        store_add(&store, GUARD_ITEM_CONTROL, 0, node->control_fd);
        store_add(&store, GUARD_ITEM_BELL, 0, node->bell_fd);
        for (uint32_t i = 0; i < node->plan->n_outputs; i++) {
                store_add(&store, GUARD_ITEM_RING, i, node->outputs[i].ring_fd);
                store_add(&store, GUARD_ITEM_POOL, i, node->outputs[i].pool_fd);
        }
        for (uint32_t i = 0; i < node->plan->n_inputs; i++)
                store_add(&store, GUARD_ITEM_CURSOR, i, node->cursor_fds[i]);
        store_flush(&store);
}

void wiring_release_outputs(Node *node)
{
        for (uint32_t i = 0; node->outputs && i < node->plan->n_outputs; i++) {
                node->outputs[i].ring_fd = fd_close(node->outputs[i].ring_fd);
                node->outputs[i].pool_fd = fd_close(node->outputs[i].pool_fd);
                growth_drop(&node->outputs[i]);
        }
        node->bell_fd = fd_close(node->bell_fd);
}
