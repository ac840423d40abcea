/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A journal in a directory of the test's own, and records whose every field follows from one number. fixture_close() asserts
 * that neither a descriptor nor a file is left.
 */
#ifndef TG_TESTS_SUPERVISOR_JOURNAL_FIXTURE_H
#define TG_TESTS_SUPERVISOR_JOURNAL_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "supervisor/journal.h"

static const uint8_t uuid_a[UUID_SIZE] = {0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const uint8_t uuid_b[UUID_SIZE] = {0xb0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#define NAME_A "a0010203-0405-0607-0809-0a0b0c0d0e0f"
#define NAME_B "b0010203-0405-0607-0809-0a0b0c0d0e0f"

static const char plan_text[] = "{\"options\":{\"env\":{\"A\":\"\xc3\xa4\"}},\"plan\":{}}";
#define PLAN_SIZE (sizeof(plan_text) - 1)

typedef struct Fixture {
        char dir[64];
        Journal journal;
        unsigned fds_before;
} Fixture;

static inline unsigned count_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        cr_assert_not_null(dir);
        while (readdir(dir))
                n++;
        (void)closedir(dir);
        return n;
}

static inline void fixture_enter(Fixture *fx)
{
        int fd = open(fx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        cr_assert_geq(fd, 0);
        fx->journal = JOURNAL_NULL;
        cr_assert_eq(journal_open(&fx->journal, fd), 0);
}

static inline Fixture fixture_make(void)
{
        Fixture fx = {.fds_before = count_fds()};

        /* not in /dev/shm, where system tests beside this one count what is there */
        strcpy(fx.dir, "/tmp/tidegate-journal-XXXXXX");
        cr_assert_not_null(mkdtemp(fx.dir));
        fixture_enter(&fx);
        return fx;
}

static inline unsigned count_files(const Fixture *fx)
{
        DIR *dir = opendir(fx->dir);
        struct dirent *e;
        unsigned n = 0;

        cr_assert_not_null(dir);
        while ((e = readdir(dir)))
                n += e->d_name[0] != '.';
        (void)closedir(dir);
        return n;
}

/* Nothing is left: no descriptor, and of files only those that the test accounts for by removing them. */
static inline void fixture_close(Fixture *fx)
{
        cr_assert_eq(journal_remove(&fx->journal, uuid_a), 0);
        cr_assert_eq(journal_remove(&fx->journal, uuid_b), 0);
        journal_close(&fx->journal);
        cr_expect_eq(count_fds(), fx->fds_before, "a descriptor was leaked");
        cr_expect_eq(count_files(fx), 0, "a file was left behind");
        cr_assert_eq(rmdir(fx->dir), 0);
}

static inline JournalEntry *load(Fixture *fx, const uint8_t *uuid)
{
        _cleanup_free_ char *plan = NULL;
        JournalEntry *entry = NULL;
        int r = journal_load(&fx->journal, &entry, &plan, uuid);

        cr_assert_eq(r, 0, "journal_load() = %d", r);
        cr_assert_str_eq(plan, plan_text);
        return entry;
}

/* The outcome alone. */
static inline int try_load(Fixture *fx, const uint8_t *uuid)
{
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL;
        _cleanup_free_ char *plan = NULL;
        int r = journal_load(&fx->journal, &entry, &plan, uuid);

        cr_assert_eq(r == 0, entry != NULL && plan != NULL, "outputs are set on success, and only then");
        return r;
}

static inline size_t list(Fixture *fx)
{
        uint8_t(*uuids)[UUID_SIZE] = NULL;
        size_t n = 99;

        cr_assert_eq(journal_list(&fx->journal, &uuids, &n), 0);
        free(uuids);
        return n;
}

static inline size_t read_file(Fixture *fx, const char *name, uint8_t *ret, size_t room)
{
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, name, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        cr_assert_geq(fd, 0, "%s", name);
        n = pread(fd, ret, room, 0);
        cr_assert_geq(n, 0);
        cr_assert_lt((size_t)n, room);
        return (size_t)n;
}

static inline void write_file(Fixture *fx, const char *name, const void *data, size_t size)
{
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        cr_assert_geq(fd, 0, "%s", name);
        cr_assert_eq(write(fd, data, size), (ssize_t)size);
}

/* Every field follows from @k, so that a mixture of two records is seen. */
static inline struct journal_node node_of(uint64_t k)
{
        struct journal_node node = {.generation = k,
                .state = (uint8_t)k,
                .rung = (uint8_t)(k + 1),
                .end = (uint8_t)(k + 2),
                .flags = (uint32_t)k | JOURNAL_NODE_WAS_READY,
                .pid = (int32_t)(k + 3),
                .exit_code = (int32_t)(k + 4),
                .exit_status = -(int32_t)(k % 1000),
                .n_restarts = (uint32_t)(k + 5),
                .n_window = (uint32_t)(k + 6),
                .started_at_ns = k + 7,
                .since_ns = k + 8,
                .deadline_ns = NSEC_NEVER - k,
                .window_start_ns = k + 9,
                .ladder = {.term_ns = k + 10, .kill_ns = k + 11, .verdict_ns = k + 12},
                .n_violations = k + 13};
        char text[JOURNAL_TEXT_SIZE];

        memset(node.outputs_closed, (int)k, sizeof(node.outputs_closed));
        snprintf(text, sizeof(text), "%0200llu", (unsigned long long)k);
        journal_set_text(node.error, text);
        snprintf(text, sizeof(text), "pid %0240llu", (unsigned long long)k);
        journal_set_text(node.left, text);
        journal_set_text(node.violation, text);
        return node;
}

static inline struct journal_dataflow dataflow_of(uint64_t k)
{
        struct journal_dataflow dataflow = {.wanted = (uint8_t)k,
                .state = (uint8_t)(k + 1),
                .flags = JOURNAL_DATAFLOW_RELEASED | JOURNAL_DATAFLOW_KEEPER_GONE,
                .slot = (uint32_t)(k + 2),
                .uid = (uint32_t)(k + 3),
                .gid = (uint32_t)(k + 4),
                .keeper_deaths = (uint32_t)(k + 5),
                .n_killed = (uint32_t)(k + 6),
                .n_left = (uint32_t)(k + 7),
                .begun_at_ns = k + 8,
                .stop_at_ns = k + 9,
                .ended_at_ns = k + 10,
                .ladder = {.term_ns = k + 11, .kill_ns = k + 12, .verdict_ns = k + 13}};

        journal_set_text(dataflow.error, "no such program");
        return dataflow;
}

/* Its first record is dataflow_of(1). */
static inline int try_create(Fixture *fx, JournalEntry **ret, const uint8_t *uuid, const char *plan, size_t plan_size,
        uint32_t n_nodes, uint32_t n_links)
{
        struct journal_dataflow first = dataflow_of(1);
        JournalSpec spec = {uuid, plan, plan_size, n_nodes, n_links, &first};

        return journal_create(&fx->journal, ret, &spec);
}

static inline JournalEntry *create(Fixture *fx, const uint8_t *uuid, uint32_t n_nodes, uint32_t n_links)
{
        JournalEntry *entry = NULL;

        cr_assert_eq(try_create(fx, &entry, uuid, plan_text, PLAN_SIZE, n_nodes, n_links), 0);
        return entry;
}

static inline struct journal_link link_of(uint64_t k)
{
        return (struct journal_link){.source_generation = k,
                .pair_a_generation = k + 1,
                .pair_b_generation = k + 2,
                .resume_at = k + 3,
                .generation = (uint32_t)(k + 4),
                .pair_generation = (uint32_t)(k + 5),
                .state = (uint8_t)(k + 6)};
}

/* Equal but for what the journal itself writes: sequence number and CRC. */
#define same(a, b)                                                                                                     \
        ({                                                                                                             \
                __typeof__(*(a)) _a = *(a), _b = *(b);                                                                 \
                _a.sequence = _b.sequence = 0;                                                                         \
                _a.crc = _b.crc = 0;                                                                                   \
                memcmp(&_a, &_b, sizeof(_a)) == 0;                                                                     \
        })

static inline bool node_is(const JournalEntry *entry, uint32_t i, uint64_t k)
{
        struct journal_node node = node_of(k);

        return same(&entry->nodes[i], &node);
}

static inline void put_node(JournalEntry *entry, uint32_t i, uint64_t k)
{
        struct journal_node node = node_of(k);

        cr_assert_eq(journal_put_node(entry, i, &node), 0);
}

#endif
