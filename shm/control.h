/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control page of one node: the supervisor writes, the node reads, also in the middle of a long computation and
 * without a system call. It says "stop, until then, because". It carries no commands: those come by the node socket.
 */
#ifndef TG_SHM_CONTROL_H
#define TG_SHM_CONTROL_H

#include "base/clock.h"
#include "shm/region.h"

struct control_shared {
        struct region_header header;
        uint64_t epoch;            /* grows with every change below or on the node socket: "look there" */
        uint64_t stop_deadline_ns; /* CLOCK_MONOTONIC, absolute; NSEC_NEVER while stop is 0. It only moves earlier */
        uint32_t stop;             /* 0 or 1, never back to 0 */
        uint32_t stop_cause;       /* the caller's numbering; valid once stop is 1 */
        uint64_t probe_mask;       /* of the node's messages, those that probes are told of: shm/probe.h; 0: all */
        uint8_t reserved[96];
};
_Static_assert(sizeof(struct control_shared) == 256, "shared between processes");

static inline uint64_t control_size(void)
{
        return sizeof(struct control_shared);
}

int control_create(int *ret_fd); /* as region_create(); the deadline is 0 until control_init() */

/*
 * Supervisor: one thread. @map is a region_map_write() of kind REGION_CONTROL.
 * control_init() is for a fresh page; a successor maps the old one and leaves it as it is.
 */
void control_init(const Region *map);
void control_bump(const Region *map);
/* A later deadline than the one in force is ignored; the first cause stays. */
void control_stop(const Region *map, uint32_t cause, nsec_t deadline_ns);

/* Node: any thread. control_stopping() is one acquire load, cheap enough for an inner loop. */
bool control_stopping(const Region *map);
uint64_t control_epoch(const Region *map); /* SC: part of the look before a sleep */
/* Which messages probes are told of while some are attached. The supervisor; takes effect from a node's next message on. */
void control_set_probe_mask(const Region *map, uint64_t mask);
/* The node: where that word stands, for as long as the page is mapped. */
const uint64_t *control_probe_mask(const Region *map);
/* What the stop is: false when there is none. Cause and deadline are consistent with the flag. */
bool control_stop_read(const Region *map, uint32_t *ret_cause, nsec_t *ret_deadline_ns);

#endif
