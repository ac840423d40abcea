/* SPDX-License-Identifier: Apache-2.0 */
#include "protocol/guard_msg.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {                         /* what a type of record must have */
        SLOT = 1u << 0,        /* of a dataflow: not the instance's */
        INCARNATION = 1u << 1, /* a generation */
        NAME = 1u << 2,        /* text: the incarnation's cgroup */
        PATH = 1u << 3,        /* text: absolute, or "" */
        ITEMS = 1u << 4,       /* one descriptor each */
        PID = 1u << 5,
        HELPER = 1u << 6,      /* count: which */
};

typedef struct Rule {
        uint16_t type;
        uint8_t from; /* GuardSender */
        uint8_t flags;
        uint8_t min_fds, max_fds;
} Rule;

#define S GUARD_SENDER_SUPERVISOR
#define K GUARD_SENDER_KEEPER
#define C GUARD_SENDER_CLIENT
#define G GUARD_SENDER_GUARD
static const Rule rules[] = {
        {GUARD_MSG_HELLO, S, 0, 0, 0},
        {GUARD_MSG_FORK_KEEPER, S, SLOT, 0, 0},
        {GUARD_MSG_ESCROW, S, 0, 0, 0}, /* and see below */
        {GUARD_MSG_KILL_KEEPER, S, SLOT, 0, 0},
        {GUARD_MSG_BYE, S, 0, 0, 0},
        {GUARD_MSG_REAP, S, SLOT | INCARNATION | NAME, 0, 0},
        {GUARD_MSG_STORE, S, SLOT | ITEMS, 1, GUARD_MAX_ITEMS},
        {GUARD_MSG_UNSTORE, S, SLOT, 0, 0},
        {GUARD_MSG_FORGET, S, SLOT, 0, 0},
        {GUARD_MSG_FORK_HELPER, S, HELPER, 0, 0},
        {GUARD_MSG_ASK, S, SLOT | INCARNATION, 0, 0},
        {GUARD_MSG_ASK_KILLED, S, SLOT | INCARNATION | NAME, 0, 0},
        {GUARD_MSG_FOUND, S, SLOT | PATH | PID, 2, 2},
        {GUARD_MSG_PONG, S, 0, 0, 0},
        {GUARD_MSG_SLOT_FREE, S, SLOT, 0, 0},
        {GUARD_MSG_CGROUP, K, SLOT, 3, 3},
        {GUARD_MSG_CHILD, K, SLOT | INCARNATION | PID, 1, 1},
        {GUARD_MSG_ESCROW, C, 0, 0, 0},
        {GUARD_MSG_KEEPER, G, SLOT | PID, 2, 2},
        {GUARD_MSG_KEEPER_FAILED, G, SLOT, 0, 0},
        {GUARD_MSG_KEEPER_GONE, G, SLOT, 0, 0},
        {GUARD_MSG_ESCROW_OK, G, 0, 0, 0},
        {GUARD_MSG_ESCROW_REFUSED, G, SLOT | INCARNATION, 0, 0},
        {GUARD_MSG_ESCROWED, G, SLOT | INCARNATION, 0, 0},
        {GUARD_MSG_CLIENT_GONE, G, 0, 0, 0},
        {GUARD_MSG_ORPHAN_EXITED, G, SLOT | INCARNATION, 0, 0},
        {GUARD_MSG_STOP, G, 0, 0, 0},
        {GUARD_MSG_STORED, G, SLOT | ITEMS, 1, GUARD_MAX_ITEMS},
        {GUARD_MSG_SLOT, G, SLOT, 0, 3},
        {GUARD_MSG_STORE_END, G, 0, 0, 0},
        {GUARD_MSG_ENFORCING, G, 0, 0, 0},
        {GUARD_MSG_KILLED, G, SLOT | INCARNATION, 0, 0},
        {GUARD_MSG_FORGOTTEN, G, SLOT, 0, 0},
        {GUARD_MSG_HELPER, G, HELPER | PID, 2, 2},
        {GUARD_MSG_HELPER_FAILED, G, HELPER, 0, 0},
        {GUARD_MSG_PING, G, 0, 0, 0},
        {GUARD_MSG_RELOAD, G, 0, 0, 0},
        {GUARD_MSG_DUMP, G, 0, 0, 0},
        {GUARD_MSG_ENFORCED, G, 0, 0, 0},
};
#undef S
#undef K
#undef C
#undef G

bool guard_name_is_of(const char *name, size_t room, uint64_t generation)
{
        size_t n = strnlen(name, room), m;
        char end[24];

        m = (size_t)snprintf(end, sizeof(end), ".%llu", (unsigned long long)generation);
        return n < room && n < GUARD_NAME_MAX && n > m && name[0] != '.' && !memchr(name, '/', n) &&
               memcmp(name + n - m, end, m) == 0;
}

bool guard_path_is_good(const char *path, size_t room)
{
        return strnlen(path, room) < room && (path[0] == '\0' || path[0] == '/');
}

bool guard_item_is_good(const struct guard_item *item)
{
        return item->kind >= GUARD_ITEM_SOCKET && item->kind < _GUARD_ITEM_MAX;
}

static bool items_are_good(const struct guard_record *record, size_t n_fds)
{
        if (record->count != n_fds || n_fds > GUARD_MAX_ITEMS)
                return false;
        for (size_t i = 0; i < n_fds; i++)
                if (!guard_item_is_good(&record->items[i]))
                        return false;
        return true;
}

static const Rule *find_rule(GuardSender from, uint16_t type)
{
        for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
                if (rules[i].from == from && rules[i].type == type)
                        return &rules[i];
        return NULL;
}

int guard_msg_check(GuardSender from, const struct guard_record *record, size_t size, size_t n_fds)
{
        const Rule *rule =
                size == sizeof(*record) && record->magic == GUARD_MAGIC ? find_rule(from, record->type) : NULL;
        unsigned flags = rule ? rule->flags : 0;

        if (!rule || n_fds < rule->min_fds || n_fds > rule->max_fds || record->slot >= GUARD_MAX_SLOTS)
                return -EPROTO;
        if (record->type == GUARD_MSG_ESCROW && record->generation > 0)
                flags |= SLOT | NAME;
        if (record->type == GUARD_MSG_ESCROW && from == GUARD_SENDER_CLIENT &&
                (record->slot != GUARD_SLOT_INSTANCE || record->generation > 0))
                return -EPROTO; /* its instance is all that is a client's */
        if (record->type == GUARD_MSG_SLOT && n_fds == 1)
                return -EPROTO;
        if ((flags & SLOT) && record->slot == GUARD_SLOT_INSTANCE)
                return -EPROTO;
        if ((flags & INCARNATION) && record->generation == 0)
                return -EPROTO;
        if ((flags & NAME) && !guard_name_is_of(record->text, sizeof(record->text), record->generation))
                return -EPROTO;
        if ((flags & PATH) && !guard_path_is_good(record->text, sizeof(record->text)))
                return -EPROTO;
        if ((flags & ITEMS) && !items_are_good(record, n_fds))
                return -EPROTO;
        if ((flags & HELPER) && record->count >= _GUARD_HELPER_MAX)
                return -EPROTO;
        return (flags & PID) && record->pid <= 0 ? -EPROTO : 0;
}
