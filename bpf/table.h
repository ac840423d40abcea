/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of who is watched, from the side of user space: rows of one size, each of which begins with the id of a cgroup, at one of a few places from
 * its hash on. Id 0: free, and the kernel's side looks no further; TABLE_GONE: free, and others may be behind it. One process writes it.
 */
#ifndef TG_BPF_TABLE_H
#define TG_BPF_TABLE_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_GONE (~0ull) /* nobody's id */

typedef struct Table {
        void *rows;
        size_t row_size;
        uint32_t n_rows;  /* a power of two */
        uint32_t n_tries; /* places that one id may be at */
} Table;

static inline __u64 *table_row(const Table *table, uint32_t i)
{
        return (__u64 *)(void *)((char *)table->rows + (i & (table->n_rows - 1)) * table->row_size);
}

static inline uint64_t table_id(const __u64 *row)
{
        return __atomic_load_n(row, __ATOMIC_ACQUIRE); /* what was written before it is seen after it */
}

static inline bool table_id_is_valid(uint64_t id)
{
        return id != 0 && id != TABLE_GONE;
}

/* table_find() - the row of that id; NULL: it is not there. */
static inline void *table_find(const Table *table, uint32_t hash, uint64_t id)
{
        for (uint32_t i = 0; i < table->n_tries && table_id_is_valid(id); i++)
                if (table_id(table_row(table, hash + i)) == id)
                        return table_row(table, hash + i);
        return NULL;
}

/* table_find_free() - a row for an id of that hash; NULL: no place is left for that very one. Who writes there writes the id last: table_set(). */
static inline void *table_find_free(const Table *table, uint32_t hash)
{
        for (uint32_t i = 0; i < table->n_tries; i++)
                if (!table_id_is_valid(table_id(table_row(table, hash + i))))
                        return table_row(table, hash + i);
        return NULL;
}

static inline void table_set(void *row, uint64_t id)
{
        __atomic_store_n((__u64 *)row, id, __ATOMIC_RELEASE); /* whoever finds it finds the rest */
}

/* table_remove() - that row; what is gone in front of a free place is free, too: a look for somebody else ends there. */
static inline void table_remove(const Table *table, void *row)
{
        uint32_t at = (uint32_t)((size_t)((char *)row - (char *)table->rows) / table->row_size);

        table_set(row, TABLE_GONE);
        for (; table_id(table_row(table, at)) == TABLE_GONE && table_id(table_row(table, at + 1)) == 0; at--)
                table_set(table_row(table, at), 0);
}

#endif
