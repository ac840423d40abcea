/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intrusive doubly linked list. A List is a circular sentinel; a ListLink lives in its owner and is empty (points to
 * itself) when unlinked, so unlinking twice is harmless.
 */
#ifndef TG_BASE_LIST_H
#define TG_BASE_LIST_H

#include <stdbool.h>
#include "base/cleanup.h"

typedef struct ListLink {
        struct ListLink *prev, *next;
} ListLink;

typedef ListLink List;

static inline void list_init(ListLink *l)
{
        l->prev = l->next = l;
}

static inline bool list_empty(const ListLink *l)
{
        return l->next == l;
}

static inline void list_append(List *list, ListLink *what)
{
        what->prev = list->prev;
        what->next = list;
        list->prev->next = what;
        list->prev = what;
}

static inline void list_unlink(ListLink *what)
{
        what->prev->next = what->next;
        what->next->prev = what->prev;
        list_init(what);
}

#define list_first(list, type, member) (list_empty(list) ? NULL : container_of((list)->next, type, member))

/* The link inside an entry, by arithmetic alone: the sentinel is in no entry, and its surroundings must not be accessed. */
#define LIST_LINK(it, member) ((ListLink *)(void *)((char *)(it) + offsetof(__typeof__(*(it)), member)))

/* The current entry may be unlinked and freed inside the loop; its neighbours may not. */
#define list_for_each(it, next_, list, member)                                                                         \
        for ((it) = container_of((list)->next, __typeof__(*(it)), member),                                             \
            (next_) = container_of(LIST_LINK(it, member)->next, __typeof__(*(it)), member);                            \
                LIST_LINK(it, member) != (list);                                                                       \
                (it) = (next_), (next_) = container_of(LIST_LINK(it, member)->next, __typeof__(*(it)), member))

#endif
