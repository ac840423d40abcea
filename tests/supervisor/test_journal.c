/* SPDX-License-Identifier: Apache-2.0 */
/* The journal on a real directory: what was put is what a successor reads, whatever tore, filled up or died in between. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crc32.h"
#include "protocol/node_msg.h"
#include "supervisor/dataflow.h"
#include "supervisor/journal.h"
#include "supervisor/wiring.h"

/* The records must have room for what the supervisor will put into them. */
_Static_assert(JOURNAL_MAX_NODES >= PLAN_MAX_NODES, "every plan fits");
_Static_assert(JOURNAL_MAX_OUTPUTS >= NODE_MSG_MAX_PORTS, "every output has its bit");
_Static_assert(_DATAFLOW_STATE_MAX <= UINT8_MAX && _NODE_STATE_MAX <= UINT8_MAX && _NODE_RUNG_MAX <= UINT8_MAX &&
                       NODE_END_PROTOCOL <= UINT8_MAX && LINK_CLOSED <= UINT8_MAX,
        "each is one byte");

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

static unsigned count_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        cr_assert_not_null(dir);
        while (readdir(dir))
                n++;
        (void)closedir(dir);
        return n;
}

static void fixture_enter(Fixture *fx)
{
        int fd = open(fx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        cr_assert_geq(fd, 0);
        fx->journal = JOURNAL_NULL;
        cr_assert_eq(journal_open(&fx->journal, fd), 0);
}

static Fixture fixture_make(void)
{
        Fixture fx = {.fds_before = count_fds()};

        snprintf(fx.dir, sizeof(fx.dir), "%s/tidegate-journal-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        cr_assert_not_null(mkdtemp(fx.dir));
        fixture_enter(&fx);
        return fx;
}

static unsigned count_files(const Fixture *fx)
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
static void fixture_close(Fixture *fx)
{
        cr_assert_eq(journal_remove(&fx->journal, uuid_a), 0);
        cr_assert_eq(journal_remove(&fx->journal, uuid_b), 0);
        journal_close(&fx->journal);
        cr_expect_eq(count_fds(), fx->fds_before, "a descriptor was leaked");
        cr_expect_eq(count_files(fx), 0, "a file was left behind");
        cr_assert_eq(rmdir(fx->dir), 0);
}

static JournalEntry *create(Fixture *fx, const uint8_t *uuid, uint32_t n_nodes, uint32_t n_links)
{
        JournalEntry *entry = NULL;

        cr_assert_eq(journal_create(&fx->journal, &entry, uuid, plan_text, PLAN_SIZE, n_nodes, n_links), 0);
        return entry;
}

static JournalEntry *load(Fixture *fx, const uint8_t *uuid)
{
        _cleanup_free_ char *plan = NULL;
        JournalEntry *entry = NULL;
        int r = journal_load(&fx->journal, &entry, &plan, uuid);

        cr_assert_eq(r, 0, "journal_load() = %d", r);
        cr_assert_str_eq(plan, plan_text);
        return entry;
}

/* The outcome alone. */
static int try_load(Fixture *fx, const uint8_t *uuid)
{
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL;
        _cleanup_free_ char *plan = NULL;
        int r = journal_load(&fx->journal, &entry, &plan, uuid);

        cr_assert_eq(r == 0, entry != NULL && plan != NULL, "outputs are set on success, and only then");
        return r;
}

static size_t list(Fixture *fx)
{
        uint8_t(*uuids)[UUID_SIZE] = NULL;
        size_t n = 99;

        cr_assert_eq(journal_list(&fx->journal, &uuids, &n), 0);
        free(uuids);
        return n;
}

static size_t read_file(Fixture *fx, const char *name, uint8_t *ret, size_t room)
{
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, name, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        cr_assert_geq(fd, 0, "%s", name);
        n = pread(fd, ret, room, 0);
        cr_assert_geq(n, 0);
        cr_assert_lt((size_t)n, room);
        return (size_t)n;
}

static void write_file(Fixture *fx, const char *name, const void *data, size_t size)
{
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        cr_assert_geq(fd, 0, "%s", name);
        cr_assert_eq(write(fd, data, size), (ssize_t)size);
}

/* Every field follows from @k, so that a mixture of two records is seen. */
static struct journal_node node_of(uint64_t k)
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
                .ladder = {.term_ns = k + 10, .kill_ns = k + 11, .verdict_ns = k + 12}};
        char text[JOURNAL_TEXT_SIZE];

        memset(node.outputs_closed, (int)k, sizeof(node.outputs_closed));
        snprintf(text, sizeof(text), "%0200llu", (unsigned long long)k);
        journal_set_text(node.error, text);
        snprintf(text, sizeof(text), "pid %0240llu", (unsigned long long)k);
        journal_set_text(node.left, text);
        return node;
}

static struct journal_dataflow dataflow_of(uint64_t k)
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

static struct journal_link link_of(uint64_t k)
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

static bool node_is(const JournalEntry *entry, uint32_t i, uint64_t k)
{
        struct journal_node node = node_of(k);

        return same(&entry->nodes[i], &node);
}

static void put_node(JournalEntry *entry, uint32_t i, uint64_t k)
{
        struct journal_node node = node_of(k);

        cr_assert_eq(journal_put_node(entry, i, &node), 0);
}

Test(journal, a_successor_reads_what_was_put, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 3, 2);
        struct journal_dataflow dataflow = dataflow_of(7);
        struct journal_link link = link_of(70);

        cr_assert_eq(journal_put_dataflow(entry, &dataflow), 0);
        for (uint32_t i = 0; i < 3; i++)
                put_node(entry, i, 100 + i);
        cr_assert_eq(journal_put_link(entry, 1, &link), 0);
        entry = journal_entry_free(entry);

        entry = load(&fx, uuid_a);
        cr_expect_eq(memcmp(entry->uuid, uuid_a, UUID_SIZE), 0);
        cr_expect(entry->n_nodes == 3 && entry->n_links == 2 && entry->n_lost == 0);
        cr_expect(same(entry->dataflow, &dataflow));
        for (uint32_t i = 0; i < 3; i++)
                cr_expect(node_is(entry, i, 100 + i), "node %u", i);
        cr_expect(same(&entry->links[1], &link));
        cr_expect_eq(entry->links[0].sequence, 0, "never written");
        journal_entry_free(entry);
        fixture_close(&fx);
}

Test(journal, numbers_go_on_from_one_supervisor_to_the_next, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 2, 0);

        put_node(entry, 1, 1);
        put_node(entry, 1, 2);
        for (uint64_t k = 3; k < 20; k++) {
                journal_entry_free(entry);
                entry = load(&fx, uuid_a);
                cr_assert_eq(entry->nodes[1].sequence, k - 1);
                cr_assert(node_is(entry, 1, k - 1));
                put_node(entry, 1, k);
        }
        journal_entry_free(entry);
        fixture_close(&fx);
}

Test(journal, what_did_not_change_is_not_written, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 1, 1);
        struct journal_dataflow dataflow = {};
        struct journal_node node = node_of(5);
        struct journal_link link = link_of(5);

        for (unsigned i = 0; i < 10; i++) {
                dataflow.sequence = node.sequence = i * 77; /* the caller's own are not looked at */
                dataflow.crc = node.crc = i;
                cr_assert_eq(journal_put_dataflow(entry, &dataflow), 0);
                cr_assert_eq(journal_put_node(entry, 0, &node), 0);
                cr_assert_eq(journal_put_link(entry, 0, &link), 0);
        }
        cr_expect_eq(entry->dataflow->sequence, 1, "all zero is a record too, once");
        cr_expect_eq(entry->nodes[0].sequence, 1);
        cr_expect_eq(entry->links[0].sequence, 1);
        node.left[0] ^= 1;
        cr_assert_eq(journal_put_node(entry, 0, &node), 0);
        node.left[0] ^= 1;
        cr_assert_eq(journal_put_node(entry, 0, &node), 0);
        cr_expect_eq(entry->nodes[0].sequence, 3, "compared with the last one, not with any");
        journal_entry_free(entry);

        entry = load(&fx, uuid_a);
        cr_expect_eq(entry->nodes[0].sequence, 3);
        cr_assert_eq(journal_put_node(entry, 0, &node), 0);
        cr_expect_eq(entry->nodes[0].sequence, 3, "a successor knows what its predecessor wrote");
        journal_entry_free(entry);
        fixture_close(&fx);
}

Test(journal, what_cannot_be_a_record_is_refused, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 2, 1), *other = NULL;
        struct journal_node node = node_of(1);
        struct journal_link link = link_of(1);

        cr_expect_eq(journal_put_node(entry, 2, &node), -EINVAL);
        cr_expect_eq(journal_put_link(entry, 1, &link), -EINVAL);
        cr_expect_eq(journal_put_node(entry, UINT32_MAX, &node), -EINVAL);
        memset(node.left, 'x', sizeof(node.left));
        cr_expect_eq(journal_put_node(entry, 0, &node), -EINVAL, "a text without an end");
        cr_expect_eq(entry->nodes[0].sequence, 0);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_a, plan_text, PLAN_SIZE, 1, 0), -EEXIST);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_b, plan_text, 0, 1, 0), -E2BIG);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_b, plan_text, JOURNAL_MAX_PLAN + 1, 1, 0), -E2BIG);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_b, plan_text, PLAN_SIZE, JOURNAL_MAX_NODES + 1, 0), -E2BIG);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_b, plan_text, PLAN_SIZE, 0, JOURNAL_MAX_LINKS + 1), -E2BIG);
        cr_expect_eq(journal_create(&fx.journal, &other, uuid_b, "a\0b", 3, 0, 0), -EINVAL);
        cr_expect_null(other);
        cr_expect_eq(count_files(&fx), 2, "what was refused left nothing");
        journal_entry_free(entry);
        fixture_close(&fx);
}

Test(journal, the_largest_dataflow_fits, .timeout = 60)
{
        Fixture fx = fixture_make();
        _cleanup_free_ char *plan = malloc(JOURNAL_MAX_PLAN), *again = NULL;
        JournalEntry *entry = NULL;
        struct journal_link link = link_of(9);
        nsec_t begin = clock_now(), created, loaded;

        cr_assert_not_null(plan);
        memset(plan, ' ', JOURNAL_MAX_PLAN);
        cr_assert_eq(journal_create(&fx.journal, &entry, uuid_a, plan, JOURNAL_MAX_PLAN, JOURNAL_MAX_NODES, JOURNAL_MAX_LINKS), 0);
        created = clock_now();
        put_node(entry, JOURNAL_MAX_NODES - 1, 8);
        cr_assert_eq(journal_put_link(entry, JOURNAL_MAX_LINKS - 1, &link), 0);
        journal_entry_free(entry);
        loaded = clock_now();
        cr_assert_eq(journal_load(&fx.journal, &entry, &again, uuid_a), 0);
        fprintf(stderr, "largest dataflow: created in %.1f ms, loaded in %.1f ms\n", (double)(created - begin) / 1e6,
                (double)(clock_now() - loaded) / 1e6);
        cr_expect(node_is(entry, JOURNAL_MAX_NODES - 1, 8));
        cr_expect(same(&entry->links[JOURNAL_MAX_LINKS - 1], &link));
        cr_expect_eq(strlen(again), JOURNAL_MAX_PLAN);
        journal_entry_free(entry);
        fixture_close(&fx);
}

Test(journal, a_removed_dataflow_is_gone_and_others_stay, .timeout = 20)
{
        Fixture fx = fixture_make();

        journal_entry_free(create(&fx, uuid_a, 1, 1));
        journal_entry_free(create(&fx, uuid_b, 1, 1));
        cr_expect_eq(list(&fx), 2);
        cr_assert_eq(journal_remove(&fx.journal, uuid_a), 0);
        cr_assert_eq(journal_remove(&fx.journal, uuid_a), 0, "twice is no error");
        cr_expect_eq(list(&fx), 1);
        cr_expect_eq(try_load(&fx, uuid_a), -ENOENT);
        journal_entry_free(load(&fx, uuid_b));
        cr_expect_eq(count_files(&fx), 2);
        fixture_close(&fx);
}

/* A create that died before its plan appeared, a remove that died after it disappeared, a file half written. */
Test(journal, what_a_death_left_half_done_is_removed, .timeout = 20)
{
        Fixture fx = fixture_make();

        journal_entry_free(create(&fx, uuid_a, 1, 1));
        write_file(&fx, NAME_B ".state", "x", 1);
        write_file(&fx, NAME_B ".state.123.tmp", "x", 1);
        write_file(&fx, NAME_A ".plan.123.tmp", "x", 1);
        write_file(&fx, NAME_B, "x", 1);
        write_file(&fx, "README.tmp", "x", 1);
        cr_expect_eq(list(&fx), 1);
        cr_expect_eq(count_files(&fx), 4, "dataflow a's two, and two that are not ours to remove");
        journal_entry_free(load(&fx, uuid_a));
        cr_assert_eq(unlinkat(fx.journal.dir_fd, NAME_B, 0), 0);
        cr_assert_eq(unlinkat(fx.journal.dir_fd, "README.tmp", 0), 0);
        fixture_close(&fx);
}

Test(journal, an_empty_journal_lists_nothing, .timeout = 20)
{
        Fixture fx = fixture_make();

        cr_expect_eq(list(&fx), 0);
        cr_expect_eq(try_load(&fx, uuid_a), -ENOENT);
        fixture_close(&fx);
}

/* Offsets in a state file of one node and one link. */
#define DATAFLOW_AT sizeof(struct journal_header)
#define NODE_AT     (DATAFLOW_AT + 2 * sizeof(struct journal_dataflow))
#define LINK_AT     (NODE_AT + 2 * sizeof(struct journal_node))
#define SMALL_SIZE  (LINK_AT + 2 * sizeof(struct journal_link))

/* Records 1 then 2 everywhere: slot 1 holds the older, slot 0 the newer. */
static void make_small(Fixture *fx, uint8_t ret_state[SMALL_SIZE + 1])
{
        _cleanup_(journal_entry_freep) JournalEntry *entry = create(fx, uuid_a, 1, 1);

        for (uint64_t k = 1; k <= 2; k++) {
                struct journal_dataflow dataflow = dataflow_of(k);
                struct journal_link link = link_of(k);

                cr_assert_eq(journal_put_dataflow(entry, &dataflow), 0);
                put_node(entry, 0, k);
                cr_assert_eq(journal_put_link(entry, 0, &link), 0);
        }
        cr_assert_eq(read_file(fx, NAME_A ".state", ret_state, SMALL_SIZE + 1), SMALL_SIZE);
}

Test(journal, a_state_cut_anywhere_is_damaged, .timeout = 60)
{
        Fixture fx = fixture_make();
        uint8_t state[SMALL_SIZE + 1];

        make_small(&fx, state);
        for (size_t size = 0; size < SMALL_SIZE; size++) {
                write_file(&fx, NAME_A ".state", state, size);
                cr_assert_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "cut at %zu", size);
        }
        state[SMALL_SIZE] = 0;
        write_file(&fx, NAME_A ".state", state, SMALL_SIZE + 1);
        cr_expect_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "one byte too many");
        write_file(&fx, NAME_A ".state", state, SMALL_SIZE);
        cr_expect_eq(try_load(&fx, uuid_a), 0);
        fixture_close(&fx);
}

Test(journal, a_plan_that_is_not_the_one_is_damaged, .timeout = 20)
{
        Fixture fx = fixture_make();
        char plan[PLAN_SIZE + 1];

        journal_entry_free(create(&fx, uuid_a, 1, 1));
        for (size_t size = 0; size < PLAN_SIZE; size++) {
                write_file(&fx, NAME_A ".plan", plan_text, size);
                cr_assert_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "cut at %zu", size);
        }
        for (size_t i = 0; i < PLAN_SIZE; i++) {
                memcpy(plan, plan_text, PLAN_SIZE);
                plan[i] ^= 1;
                write_file(&fx, NAME_A ".plan", plan, PLAN_SIZE);
                cr_assert_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "changed at %zu", i);
        }
        write_file(&fx, NAME_A ".plan", plan_text, PLAN_SIZE);
        cr_expect_eq(try_load(&fx, uuid_a), 0);
        fixture_close(&fx);
}

/* @bit of byte @at is wrong: the header says so, a newer slot gives way to the older, an older one does not matter. */
static void check_flip(Fixture *fx, size_t at, unsigned bit)
{
        static const size_t bounds[] = {DATAFLOW_AT, NODE_AT, LINK_AT, SMALL_SIZE};
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL;
        _cleanup_free_ char *plan = NULL;
        int r = journal_load(&fx->journal, &entry, &plan, uuid_a);
        uint64_t expect[3] = {2, 2, 2};

        if (at < DATAFLOW_AT) {
                cr_assert_eq(r, at >= 4 && at < 8 ? JOURNAL_E_VERSION : JOURNAL_E_DAMAGED, "byte %zu bit %u: %d", at, bit, r);
                return;
        }
        cr_assert_eq(r, 0, "byte %zu bit %u: %d", at, bit, r);
        for (unsigned i = 0; i < 3; i++)
                if (at >= bounds[i] && at < bounds[i] + (bounds[i + 1] - bounds[i]) / 2)
                        expect[i] = 1;
        cr_assert(entry->dataflow->sequence == expect[0] && entry->nodes[0].sequence == expect[1] &&
                          entry->links[0].sequence == expect[2],
                "byte %zu bit %u", at, bit);
        cr_assert(node_is(entry, 0, expect[1]), "byte %zu bit %u", at, bit);
        cr_assert_eq(entry->n_lost, 0);
}

Test(journal, one_wrong_bit_costs_at_most_the_newest_copy, .timeout = 120)
{
        Fixture fx = fixture_make();
        uint8_t state[SMALL_SIZE + 1];

        make_small(&fx, state);
        for (size_t at = 0; at < SMALL_SIZE; at++) {
                unsigned bit = (unsigned)at % 8;

                state[at] ^= (uint8_t)(1u << bit);
                write_file(&fx, NAME_A ".state", state, SMALL_SIZE);
                check_flip(&fx, at, bit);
                state[at] ^= (uint8_t)(1u << bit);
        }
        fixture_close(&fx);
}

Test(journal, a_put_torn_at_any_byte_leaves_the_last_one, .timeout = 60)
{
        Fixture fx = fixture_make();
        uint8_t before[SMALL_SIZE + 1], after[SMALL_SIZE + 1];
        const size_t slot = NODE_AT + sizeof(struct journal_node), size = sizeof(struct journal_node);
        JournalEntry *entry;

        make_small(&fx, before);
        entry = load(&fx, uuid_a);
        put_node(entry, 0, 3);
        cr_assert_eq(read_file(&fx, NAME_A ".state", after, sizeof(after)), SMALL_SIZE);
        journal_entry_free(entry);
        cr_assert_eq(memcmp(before, after, slot), 0, "the third put went to slot 1, and nowhere else");
        cr_assert_eq(memcmp(before + slot + size, after + slot + size, SMALL_SIZE - slot - size), 0);
        for (size_t cut = 0; cut <= size; cut++) {
                bool whole;

                memcpy(before + slot, after + slot, cut);
                whole = memcmp(before, after, SMALL_SIZE) == 0;
                write_file(&fx, NAME_A ".state", before, SMALL_SIZE);
                entry = load(&fx, uuid_a);
                cr_assert(node_is(entry, 0, whole ? 3 : 2), "torn after %zu bytes", cut);
                put_node(entry, 0, 4);
                entry = journal_entry_free(entry);
                entry = load(&fx, uuid_a);
                cr_assert(node_is(entry, 0, 4), "torn after %zu bytes, then written again", cut);
                entry = journal_entry_free(entry);
        }
        fixture_close(&fx);
}

Test(journal, a_record_without_a_good_slot_is_as_never_written_and_counted, .timeout = 20)
{
        Fixture fx = fixture_make();
        uint8_t state[SMALL_SIZE + 1];
        JournalEntry *entry;

        make_small(&fx, state);
        state[NODE_AT + 20] ^= 1;
        state[NODE_AT + sizeof(struct journal_node) + 20] ^= 1;
        write_file(&fx, NAME_A ".state", state, SMALL_SIZE);
        entry = load(&fx, uuid_a);
        cr_expect_eq(entry->n_lost, 1);
        cr_expect_eq(entry->nodes[0].sequence, 0);
        cr_expect_eq(entry->nodes[0].generation, 0, "nothing of it is shown");
        cr_expect_eq(entry->dataflow->sequence, 2);
        cr_expect_eq(entry->links[0].sequence, 2);
        put_node(entry, 0, 9);
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        cr_expect(node_is(entry, 0, 9));
        cr_expect_eq(entry->n_lost, 0);
        journal_entry_free(entry);
        fixture_close(&fx);
}

static void sign(void *record, size_t size)
{
        uint32_t crc = crc32_of(record, size - 4);

        memcpy((uint8_t *)record + size - 4, &crc, 4);
}

/* Signed as we sign, and still not what we write. */
Test(journal, a_slot_that_lies_about_itself_is_not_believed, .timeout = 20)
{
        Fixture fx = fixture_make();
        uint8_t good[SMALL_SIZE + 1], state[SMALL_SIZE];
        struct journal_node node;

        make_small(&fx, good);
        for (unsigned lie = 0; lie < 4; lie++) {
                JournalEntry *entry;

                memcpy(state, good, SMALL_SIZE);
                memcpy(&node, good + NODE_AT, sizeof(node));
                if (lie == 0)
                        node.sequence = 0;
                if (lie == 1)
                        node.sequence = 3; /* belongs into the other slot */
                if (lie == 2)
                        node.sequence = UINT64_MAX - 1;
                if (lie == 3)
                        memset(node.error, 'x', sizeof(node.error));
                sign(&node, sizeof(node));
                memcpy(state + NODE_AT, &node, sizeof(node));
                write_file(&fx, NAME_A ".state", state, SMALL_SIZE);
                entry = load(&fx, uuid_a);
                cr_expect(node_is(entry, 0, 1), "lie %u", lie);
                journal_entry_free(entry);
        }
        fixture_close(&fx);
}

typedef struct Lie {
        const char *what;
        size_t at;
        uint32_t value;
        int outcome;
} Lie;

Test(journal, a_header_that_lies_is_reported_by_what_it_says, .timeout = 20)
{
        static const Lie lies[] = {
                {"magic", offsetof(struct journal_header, magic), 1, JOURNAL_E_DAMAGED},
                {"version", offsetof(struct journal_header, version), JOURNAL_VERSION + 1, JOURNAL_E_VERSION},
                {"boot id", offsetof(struct journal_header, boot_id), 1, JOURNAL_E_BOOT},
                {"uuid", offsetof(struct journal_header, uuid), 1, JOURNAL_E_DAMAGED},
                {"no node", offsetof(struct journal_header, n_nodes), 0, JOURNAL_E_DAMAGED},
                {"a node more", offsetof(struct journal_header, n_nodes), 2, JOURNAL_E_DAMAGED},
                {"all nodes", offsetof(struct journal_header, n_nodes), UINT32_MAX, JOURNAL_E_DAMAGED},
                {"a link more", offsetof(struct journal_header, n_links), 2, JOURNAL_E_DAMAGED},
                {"all links", offsetof(struct journal_header, n_links), UINT32_MAX, JOURNAL_E_DAMAGED},
                {"no plan", offsetof(struct journal_header, plan_size), 0, JOURNAL_E_DAMAGED},
                {"a large plan", offsetof(struct journal_header, plan_size), UINT32_MAX, JOURNAL_E_DAMAGED},
                {"another plan", offsetof(struct journal_header, plan_crc), 1, JOURNAL_E_DAMAGED},
                {"reserved", offsetof(struct journal_header, reserved), 1, 0},
        };
        Fixture fx = fixture_make();
        uint8_t good[SMALL_SIZE + 1], state[SMALL_SIZE];

        make_small(&fx, good);
        for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
                memcpy(state, good, SMALL_SIZE);
                memcpy(state + lies[i].at, &lies[i].value, sizeof(lies[i].value));
                sign(state, sizeof(struct journal_header));
                write_file(&fx, NAME_A ".state", state, SMALL_SIZE);
                cr_expect_eq(try_load(&fx, uuid_a), lies[i].outcome, "%s", lies[i].what);
        }
        fixture_close(&fx);
}

/* None of these may hold the loop up, lead out of the directory or crash it. */
Test(journal, what_is_no_file_is_damaged, .timeout = 20)
{
        static const char *const names[] = {NAME_A ".state", NAME_A ".plan"};
        Fixture fx = fixture_make();
        uint8_t state[SMALL_SIZE + 1];
        char elsewhere[128];

        make_small(&fx, state);
        snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", fx.dir);
        write_file(&fx, "elsewhere", state, SMALL_SIZE);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                cr_assert_eq(renameat(fx.journal.dir_fd, names[i], fx.journal.dir_fd, "kept"), 0);
                if (i == 0)
                        cr_expect_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "missing");
                cr_assert_eq(mkfifoat(fx.journal.dir_fd, names[i], 0600), 0);
                cr_expect_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "a FIFO as %s", names[i]);
                cr_assert_eq(unlinkat(fx.journal.dir_fd, names[i], 0), 0);
                cr_assert_eq(symlinkat(elsewhere, fx.journal.dir_fd, names[i]), 0);
                cr_expect_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "a link as %s", names[i]);
                cr_assert_eq(unlinkat(fx.journal.dir_fd, names[i], 0), 0);
                cr_assert_eq(mkdirat(fx.journal.dir_fd, names[i], 0700), 0);
                cr_expect_eq(try_load(&fx, uuid_a), JOURNAL_E_DAMAGED, "a directory as %s", names[i]);
                cr_assert_eq(unlinkat(fx.journal.dir_fd, names[i], AT_REMOVEDIR), 0);
                cr_assert_eq(renameat(fx.journal.dir_fd, "kept", fx.journal.dir_fd, names[i]), 0);
        }
        cr_expect_eq(try_load(&fx, uuid_a), 0);
        cr_assert_eq(unlinkat(fx.journal.dir_fd, "elsewhere", 0), 0);
        fixture_close(&fx);
}

/* A predecessor that was killed, and hangs in the kernel, may still finish a pwrite() after its successor has read. */
Test(journal, a_predecessor_cannot_write_any_more, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *old = create(&fx, uuid_a, 1, 0), *entry;

        put_node(old, 0, 1);
        entry = load(&fx, uuid_a);
        put_node(entry, 0, 100);
        for (uint64_t k = 2; k < 9; k++)
                put_node(old, 0, k);
        journal_entry_free(old);
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        cr_expect(node_is(entry, 0, 100));
        journal_entry_free(entry);
        fixture_close(&fx);
}

/* Takes every descriptor number below a new limit. */
static size_t hog_fds(int *ret_fds, size_t room)
{
        struct rlimit limit;
        size_t n = 0;

        cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = room;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        while ((ret_fds[n] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0)
                cr_assert_lt(++n, room);
        return n;
}

/* With 0, 1, 2, ... descriptors to spare every function either works or says -EMFILE, and leaves all as it was. */
Test(journal, too_few_descriptors_are_an_error_and_no_more, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 1, 1);
        int created = -1, loaded = -1, hogs[256];
        size_t n_hogs = hog_fds(hogs, ELEMENTSOF(hogs));

        for (unsigned spare = 0; spare < 5; spare++) {
                JournalEntry *other = NULL;
                uint8_t(*uuids)[UUID_SIZE] = NULL;
                Journal journal = JOURNAL_NULL;
                size_t n = 0;
                int r;

                cr_expect_eq(journal_open(&journal, 0), spare > 0 ? 0 : -EMFILE); /* stdin: not looked at, not closed */
                put_node(entry, 0, spare);
                created = journal_create(&fx.journal, &other, uuid_b, plan_text, PLAN_SIZE, 1, 1);
                cr_expect(created == 0 || created == -EMFILE, "create with %u: %d", spare, created);
                other = journal_entry_free(other);
                r = journal_list(&fx.journal, &uuids, &n);
                cr_expect(r == 0 || r == -EMFILE, "list with %u: %d", spare, r);
                cr_expect(r != 0 || n == (created == 0 ? 2 : 1), "a create that failed left nothing");
                free(uuids);
                cr_assert_eq(journal_remove(&fx.journal, uuid_b), 0);
                cr_expect_eq(faccessat(fx.journal.dir_fd, NAME_B ".state", F_OK, 0), -1);
                entry = journal_entry_free(entry); /* one more to spare */
                loaded = try_load(&fx, uuid_a);
                cr_expect(loaded == 0 || loaded == -EMFILE, "load with %u: %d", spare, loaded);
                fd_closep(&hogs[--n_hogs]);
                fd_closep(&hogs[--n_hogs]);
                entry = load(&fx, uuid_a);
                cr_expect(node_is(entry, 0, spare), "spare %u", spare);
        }
        cr_expect_eq(created, 0);
        cr_expect_eq(loaded, 0);
        journal_entry_free(entry);
        while (n_hogs > 0)
                fd_closep(&hogs[--n_hogs]);
        fixture_close(&fx);
}

static bool mount_tiny(const char *dir)
{
        if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
                return false;
        return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=0700") == 0;
}

/* Takes the last byte that the file system has. */
static void fill(Fixture *fx)
{
        static const uint8_t bytes[4096];
        _cleanup_fd_ int fd = openat(fx->journal.dir_fd, "filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ssize_t n;

        cr_assert_geq(fd, 0);
        while ((n = write(fd, bytes, sizeof(bytes))) > 0)
                ;
        cr_assert(n < 0 && errno == ENOSPC);
}

Test(journal, a_full_file_system_refuses_new_dataflows_and_keeps_old_ones, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry, *other = NULL;
        struct journal_node node = node_of(77);
        int r, fd;

        journal_close(&fx.journal);
        if (!mount_tiny(fx.dir)) {
                (void)rmdir(fx.dir);
                cr_skip("no mount namespace of our own");
        }
        fixture_enter(&fx);
        entry = create(&fx, uuid_a, 8, 8);
        r = journal_create(&fx.journal, &other, uuid_b, plan_text, PLAN_SIZE, 100, 0);
        cr_expect_eq(r, -ENOSPC, "the state does not fit: %d", r);
        fill(&fx);
        r = journal_create(&fx.journal, &other, uuid_b, plan_text, PLAN_SIZE, 0, 0);
        cr_expect_eq(r, -ENOSPC, "%d", r);
        cr_expect_eq(count_files(&fx), 3, "a create that failed left nothing");

        for (uint64_t k = 0; k < 100; k++)
                put_node(entry, (uint32_t)(k % 8), k); /* their room was taken at the beginning */
        journal_entry_free(entry);
        entry = load(&fx, uuid_a); /* without room for its copy */
        for (uint32_t i = 0; i < 8; i++)
                cr_expect(node_is(entry, i, i < 4 ? 96 + i : 88 + i), "node %u", i);
        put_node(entry, 0, 200);

        /* a put that does fail: its page was taken away */
        fd = openat(fx.journal.dir_fd, NAME_A ".state", O_RDWR | O_CLOEXEC);
        cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096), 0);
        (void)close(fd);
        fill(&fx);
        r = journal_put_node(entry, 5, &node);
        cr_expect_eq(r, -ENOSPC, "%d", r);
        cr_expect(node_is(entry, 5, 93), "as before");
        cr_assert_eq(unlinkat(fx.journal.dir_fd, "filler", 0), 0);
        cr_expect_eq(journal_put_node(entry, 5, &node), 0, "the next one tries again");
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        cr_expect(node_is(entry, 5, 77));
        cr_expect(node_is(entry, 0, 200));
        journal_entry_free(entry);
        cr_assert_eq(journal_remove(&fx.journal, uuid_a), 0);
        cr_expect_eq(count_files(&fx), 0);
        journal_close(&fx.journal);
        cr_expect_eq(umount(fx.dir), 0, "nothing holds a file of it open");
        cr_expect_eq(count_fds(), fx.fds_before);
        (void)rmdir(fx.dir);
}

/* What the writer child tells while it runs. */
typedef struct Shared {
        _Atomic uint64_t done; /* puts (or rounds) that have returned */
} Shared;

static Shared *shared_make(void)
{
        Shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        cr_assert_neq(shared, MAP_FAILED);
        return shared;
}

/* Kills @pid with SIGKILL once it has done @count rounds, wherever it then is in the next one. */
static void kill_after(pid_t pid, Shared *shared, uint64_t count)
{
        nsec_t deadline = nsec_add(clock_now(), 20 * NSEC_PER_SEC);

        while (atomic_load(&shared->done) < count && clock_now() < deadline)
                (void)sched_yield(); /* the child needs the CPU; a sleep would make the moment less random */
        cr_assert_geq(atomic_load(&shared->done), count, "the writer did not get there in time");
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

Test(journal, a_writer_killed_anywhere_leaves_its_last_put_or_the_one_under_way, .timeout = 120)
{
        Fixture fx = fixture_make();
        Shared *shared = shared_make();
        uint64_t put = 0; /* what node 0 of the journal holds */

        journal_entry_free(create(&fx, uuid_a, 2, 0));
        srandom((unsigned)getpid());
        for (unsigned round = 0; round < 200; round++) {
                JournalEntry *entry = load(&fx, uuid_a);
                pid_t pid;

                atomic_store(&shared->done, put);
                pid = fork();
                cr_assert_geq(pid, 0);
                for (uint64_t k = put + 1; pid == 0; k++) {
                        struct journal_node node = node_of(k);

                        if (journal_put_node(entry, 0, &node))
                                _exit(1);
                        atomic_store(&shared->done, k);
                }
                entry = journal_entry_free(entry);
                kill_after(pid, shared, put + 1 + (uint64_t)random() % 300);
                put = atomic_load(&shared->done);
                entry = load(&fx, uuid_a);
                cr_assert_eq(entry->n_lost, 0);
                if (node_is(entry, 0, put + 1))
                        put++; /* it returned, and the child died before it could say so; or it was whole and did not return */
                cr_assert(node_is(entry, 0, put), "round %u: put %llu had returned, the record is of %llu", round,
                        (unsigned long long)put, (unsigned long long)entry->nodes[0].generation);
                journal_entry_free(entry);
        }
        (void)munmap(shared, sizeof(*shared));
        fixture_close(&fx);
}

/* Creates, loads and removes two dataflows over and over. */
static void churn(Fixture *fx, Shared *shared)
{
        for (uint64_t k = 1;; k++) {
                const uint8_t *uuid = k % 2 ? uuid_a : uuid_b;
                JournalEntry *entry = NULL;
                char *plan = NULL;

                if (journal_create(&fx->journal, &entry, uuid, plan_text, PLAN_SIZE, 20, 5))
                        _exit(1);
                journal_entry_free(entry);
                if (journal_load(&fx->journal, &entry, &plan, uuid))
                        _exit(2);
                free(plan);
                journal_entry_free(entry);
                if (journal_remove(&fx->journal, uuid))
                        _exit(3);
                atomic_store(&shared->done, k);
        }
}

Test(journal, a_creator_killed_anywhere_leaves_dataflows_whole_or_not_at_all, .timeout = 120)
{
        Fixture fx = fixture_make();
        Shared *shared = shared_make();
        unsigned n_alive = 0;

        srandom((unsigned)getpid());
        for (unsigned round = 0; round < 200; round++) {
                uint8_t(*uuids)[UUID_SIZE] = NULL;
                size_t n = 0;
                pid_t pid;

                atomic_store(&shared->done, 0);
                pid = fork();
                cr_assert_geq(pid, 0);
                if (pid == 0)
                        churn(&fx, shared);
                kill_after(pid, shared, 1 + (uint64_t)random() % 20);
                cr_assert_eq(journal_list(&fx.journal, &uuids, &n), 0);
                cr_assert_leq(n, 1);
                cr_assert_eq(count_files(&fx), 2 * n, "round %u: what was half done is gone", round);
                for (size_t i = 0; i < n; i++) {
                        cr_assert_eq(try_load(&fx, uuids[i]), 0, "round %u", round);
                        cr_assert_eq(journal_remove(&fx.journal, uuids[i]), 0);
                        n_alive++;
                }
                free(uuids);
        }
        fprintf(stderr, "killed 200 times, %u of them with a dataflow in the journal\n", n_alive);
        (void)munmap(shared, sizeof(*shared));
        fixture_close(&fx);
}

Test(journal, a_long_text_is_cut_between_two_characters, .timeout = 20)
{
        char text[JOURNAL_TEXT_SIZE], other[JOURNAL_TEXT_SIZE], long_text[600];

        journal_set_text(text, NULL);
        cr_expect_str_eq(text, "");
        journal_set_text(text, "short");
        memset(other, 'z', sizeof(other));
        journal_set_text(other, "short");
        cr_expect_eq(memcmp(text, other, sizeof(text)), 0, "no old bytes behind it");
        memset(long_text, 'a', sizeof(long_text));
        long_text[599] = '\0';
        journal_set_text(text, long_text);
        cr_expect_eq(strlen(text), JOURNAL_TEXT_SIZE - 1);
        memcpy(long_text + 253, "\xe2\x82\xac", 3); /* the euro sign would end at byte 256 */
        journal_set_text(text, long_text);
        cr_expect_eq(strlen(text), 253);
        memcpy(long_text + 252, "\xe2\x82\xac", 3);
        journal_set_text(text, long_text);
        cr_expect_eq(strlen(text), 255);
        memset(long_text, '\xff', 599);
        journal_set_text(text, long_text);
        cr_expect_eq(strlen(text), 255, "what is no UTF-8 is cut somewhere");
        long_text[255] = '\0';
        journal_set_text(text, long_text);
        cr_expect_eq(strlen(text), 255, "what fits is not cut");
}

Test(journal, figures, .timeout = 60)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 1000, 0);
        _cleanup_free_ struct journal_node *nodes = calloc(1000, sizeof(*nodes));
        nsec_t begin, changed, same_again;

        cr_assert_not_null(nodes);
        for (uint32_t i = 0; i < 1000; i++)
                nodes[i] = node_of(i);
        begin = clock_now();
        for (uint32_t i = 0; i < 1000; i++)
                cr_assert_eq(journal_put_node(entry, i, &nodes[i]), 0);
        changed = clock_now() - begin;
        begin = clock_now();
        for (uint32_t i = 0; i < 1000; i++)
                cr_assert_eq(journal_put_node(entry, i, &entry->nodes[i]), 0);
        same_again = clock_now() - begin;
        fprintf(stderr, "1000 node records: %.2f us a put, %.2f us a put that changes nothing\n", (double)changed / 1e6,
                (double)same_again / 1e6);
        begin = clock_now();
        journal_entry_free(entry);
        entry = load(&fx, uuid_a);
        fprintf(stderr, "loaded in %.2f ms\n", (double)(clock_now() - begin) / 1e6);
        for (uint32_t i = 0; i < 1000; i++)
                cr_assert(node_is(entry, i, i) && entry->nodes[i].sequence == 1);
        journal_entry_free(entry);
        fixture_close(&fx);
}
