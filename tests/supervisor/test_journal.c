/* SPDX-License-Identifier: Apache-2.0 */
/* The journal on a real directory: what was put is what a successor reads, and what is damaged is reported as what it is. */
#include <stddef.h>

#include "base/crc32.h"
#include "journal_fixture.h"
#include "protocol/node_msg.h"
#include "supervisor/dataflow.h"
#include "supervisor/wiring.h"

/* The records must have room for what the supervisor will put into them. */
_Static_assert(JOURNAL_MAX_NODES >= PLAN_MAX_NODES, "every plan fits");
_Static_assert(JOURNAL_MAX_OUTPUTS >= NODE_MSG_MAX_PORTS, "every output has its bit");
_Static_assert(_DATAFLOW_STATE_MAX <= UINT8_MAX && _NODE_STATE_MAX <= UINT8_MAX && _NODE_RUNG_MAX <= UINT8_MAX &&
                       NODE_END_PROTOCOL <= UINT8_MAX && LINK_CLOSED <= UINT8_MAX,
        "each is one byte");

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

Test(journal, a_new_dataflow_has_its_first_record_at_once, .timeout = 20)
{
        Fixture fx = fixture_make();
        JournalEntry *entry = create(&fx, uuid_a, 1, 0);
        struct journal_dataflow first = dataflow_of(1);

        for (unsigned i = 0; i < 2; i++) {
                cr_expect_eq(entry->dataflow->sequence, 1);
                cr_expect(same(entry->dataflow, &first));
                cr_expect_eq(entry->nodes[0].sequence, 0);
                journal_entry_free(entry);
                entry = load(&fx, uuid_a);
        }
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
        cr_expect_eq(entry->dataflow->sequence, 2, "all zero is a record too, once");
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
        struct journal_dataflow endless = dataflow_of(1);
        JournalSpec spec = {uuid_b, plan_text, PLAN_SIZE, 1, 1, &endless};
        struct journal_node node = node_of(1);
        struct journal_link link = link_of(1);

        memset(endless.error, 'x', sizeof(endless.error));
        cr_expect_eq(journal_put_node(entry, 2, &node), -EINVAL);
        cr_expect_eq(journal_put_link(entry, 1, &link), -EINVAL);
        cr_expect_eq(journal_put_node(entry, UINT32_MAX, &node), -EINVAL);
        memset(node.left, 'x', sizeof(node.left));
        cr_expect_eq(journal_put_node(entry, 0, &node), -EINVAL, "a text without an end");
        node = node_of(1);
        memset(node.violation, 'x', sizeof(node.violation));
        cr_expect_eq(journal_put_node(entry, 0, &node), -EINVAL, "another one");
        cr_expect_eq(entry->nodes[0].sequence, 0);
        cr_expect_eq(try_create(&fx, &other, uuid_a, plan_text, PLAN_SIZE, 1, 0), -EEXIST);
        cr_expect_eq(try_create(&fx, &other, uuid_b, plan_text, 0, 1, 0), -E2BIG);
        cr_expect_eq(try_create(&fx, &other, uuid_b, plan_text, JOURNAL_MAX_PLAN + 1, 1, 0), -E2BIG);
        cr_expect_eq(try_create(&fx, &other, uuid_b, plan_text, PLAN_SIZE, JOURNAL_MAX_NODES + 1, 0), -E2BIG);
        cr_expect_eq(try_create(&fx, &other, uuid_b, plan_text, PLAN_SIZE, 0, JOURNAL_MAX_LINKS + 1), -E2BIG);
        cr_expect_eq(try_create(&fx, &other, uuid_b, "a\0b", 3, 0, 0), -EINVAL);
        cr_expect_eq(journal_create(&fx.journal, &other, &spec), -EINVAL, "a first record without an end");
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
        cr_assert_eq(
                try_create(&fx, &entry, uuid_a, plan, JOURNAL_MAX_PLAN, JOURNAL_MAX_NODES, JOURNAL_MAX_LINKS), 0);
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

Test(journal, limits_set_at_run_time_are_found_again_and_go_with_their_dataflow, .timeout = 20)
{
        Fixture fx = fixture_make();
        char *text;

        journal_entry_free(create(&fx, uuid_a, 1, 1));
        cr_expect_null(journal_get_limits(&fx.journal, uuid_a));
        cr_assert_eq(journal_put_limits(&fx.journal, uuid_a, "0 memory_max=4096\n"), 0);
        cr_assert_eq(journal_put_limits(&fx.journal, uuid_a, "- pids_max=9\n"), 0);
        text = journal_get_limits(&fx.journal, uuid_a);
        cr_expect_str_eq(text, "- pids_max=9\n", "the last one");
        free(text);
        cr_expect_eq(list(&fx), 1);
        cr_assert_eq(journal_put_limits(&fx.journal, uuid_b, "- pids_max=9\n"), 0);
        cr_expect_eq(list(&fx), 1, "of no dataflow: garbage, and removed");
        cr_expect_null(journal_get_limits(&fx.journal, uuid_b));
        cr_assert_eq(journal_put_limits(&fx.journal, uuid_a, NULL), 0);
        cr_expect_null(journal_get_limits(&fx.journal, uuid_a));
        cr_assert_eq(journal_put_limits(&fx.journal, uuid_a, "- pids_max=9\n"), 0);
        cr_assert_eq(journal_remove(&fx.journal, uuid_a), 0);
        cr_expect_eq(count_files(&fx), 0);
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
