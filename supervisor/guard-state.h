/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process hands to itself when it becomes the guard: a supervisor whose guard died, or a guard that executes a newer program. A
 * sealed memfd with this, descriptors by number, kept open over execve.
 *
 *     header | n_slots x guard_state_slot | n_items x guard_state_item | n_children x guard_state_child | n_escrows x guard_state_escrow |
 *     n_kills x guard_state_kill
 */
#ifndef TG_SUPERVISOR_GUARD_STATE_H
#define TG_SUPERVISOR_GUARD_STATE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/guard_msg.h"

#define GUARD_STATE_MAGIC   UINT32_C(0x54534754) /* "TGST" */
#define GUARD_STATE_VERSION 8u /* also with protocol/keeper_msg.h: keepers of before live on */

#define GUARD_MAX_CHILDREN 8192
#define GUARD_MAX_STORED   32768
#define GUARD_MAX_KILLS    2048

struct guard_state_header {
        uint32_t magic, version;
        uint64_t size; /* of all of it */
        uint64_t epoch;
        uint64_t nofile_soft, nofile_hard;
        int32_t instance_fd, runtime_fd, control_fd, node_fd, lock_fd; /* lock_fd -1: to be taken anew */
        uint32_t n_slots, n_items, n_children, n_escrows, n_kills;
        uint32_t stop_ordered;
        uint32_t reserved;
        char runtime_path[PATH_MAX];
};

struct guard_state_slot {
        uint32_t slot;
        int32_t keeper_pid, keeper_fd, keeper_pidfd; /* keeper_fd: the supervisor's end of its socket */
        uint64_t at_ns, until_ns, term_ns; /* escrow; at UINT64_MAX: none */
        uint64_t enforced_at_ns;           /* 0: it has not been */
        char cgroup[PATH_MAX];
};

struct guard_state_item {
        uint32_t slot, node;
        uint64_t generation;
        struct guard_item item;
        int32_t fd;
};

struct guard_state_child {
        uint32_t slot, node;
        uint64_t generation;
        int32_t pid, pidfd;
        int32_t ours, code, status; /* ours: it has ended, and this is how */
        int32_t reserved;
};

struct guard_state_escrow { /* of one incarnation */
        uint32_t slot, node;
        uint64_t generation;
        uint64_t at_ns, until_ns, enforced_at_ns;
        uint32_t restart;
        uint32_t reserved;
        char name[GUARD_NAME_MAX]; /* of its cgroup in that of the slot */
};

struct guard_state_kill { /* whom the guard has killed, and the supervisor has not written down */
        uint32_t slot, count;
        uint64_t at_ns;
        char name[GUARD_NAME_MAX];
};

typedef struct GuardStateView { /* borrowed from the bytes that were looked at */
        const struct guard_state_header *header;
        const struct guard_state_slot *slots;
        const struct guard_state_item *items;
        const struct guard_state_child *children;
        const struct guard_state_escrow *escrows;
        const struct guard_state_kill *kills;
} GuardStateView;

/**
 * guard_state_view() - the parts of a state, if it is one
 * @data: aligned for uint64_t
 *
 * It comes from ourselves, or from a program of another day: so its numbers are held against its size and our tables, slots are there
 * once, texts end, names of cgroups belong to their generations. What a descriptor is its user has to see. Pure.
 *
 * Return: 0 or -EBADMSG; then @ret is not touched.
 */
int guard_state_view(GuardStateView *ret, const void *data, size_t size);

#endif
