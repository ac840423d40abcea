/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: any bytes as a dataflow's two files in the journal. Either an outcome that the header lists, or records that can be
 * written, read again and are what they were; never a crash, a leak, or a file left behind.
 *
 * Input: one byte of flags, two of the plan's size, the plan, the state. Boot id, uuid, sizes and CRCs are put right where the
 * flags say so, for no fuzzer guesses them.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/crc32.h"
#include "supervisor/journal.h"

enum {
        FIX_IDENTITY = 1u << 0, /* magic, version, boot id, uuid */
        FIX_PLAN = 1u << 1,     /* its size and CRC in the header */
        FIX_HEADER = 1u << 2,   /* CRC */
        FIX_RECORDS = 1u << 3,  /* CRC of every slot */
        NO_STATE = 1u << 4,
        NO_PLAN = 1u << 5,
};

static const uint8_t uuid[UUID_SIZE] = {0x5e, 0xed};
#define NAME "5eed0000-0000-0000-0000-000000000000"

static char dir[] = "/tmp/fuzz-journal-XXXXXX"; /* not in /dev/shm, where system tests beside this one count what is there */
static Journal journal = JOURNAL_NULL;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
        if (!good)
                abort();
}

static void clean(void)
{
        (void)rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
        require(mkdtemp(dir) != NULL);
        (void)atexit(clean);
        require(journal_open(&journal, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) == 0);
        return 0;
}

static void write_file(const char *name, const void *data, size_t size)
{
        _cleanup_fd_ int fd = openat(journal.dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
}

static void sign(uint8_t *record, size_t size)
{
        uint32_t crc = crc32_of(record, size - sizeof(crc));

        memcpy(record + size - sizeof(crc), &crc, sizeof(crc));
}

static void sign_slots(uint8_t *state, size_t size, size_t *at, size_t record_size, size_t n)
{
        for (size_t i = 0; i < 2 * n && size - *at >= record_size; i++, *at += record_size)
                sign(state + *at, record_size);
}

static void fix(uint8_t *state, size_t size, unsigned flags, const uint8_t *plan, size_t plan_size)
{
        struct journal_header header;
        size_t at = sizeof(header);

        if (size < sizeof(header))
                return;
        memcpy(&header, state, sizeof(header));
        if (flags & FIX_IDENTITY) {
                header.magic = JOURNAL_MAGIC;
                header.version = JOURNAL_VERSION;
                memcpy(header.boot_id, journal.boot_id, UUID_SIZE);
                memcpy(header.uuid, uuid, UUID_SIZE);
        }
        if (flags & FIX_PLAN) {
                header.plan_size = (uint32_t)plan_size;
                header.plan_crc = crc32_of(plan, plan_size);
        }
        memcpy(state, &header, sizeof(header));
        if (flags & FIX_HEADER)
                sign(state, sizeof(header));
        if (flags & FIX_RECORDS) {
                sign_slots(state, size, &at, sizeof(struct journal_dataflow), 1);
                sign_slots(state, size, &at, sizeof(struct journal_node), header.n_nodes);
                sign_slots(state, size, &at, sizeof(struct journal_link), header.n_links);
        }
}

/* What was accepted may be used without a further check: indices, texts. And it may be written. */
static void use(JournalEntry *entry)
{
        struct journal_dataflow dataflow = *entry->dataflow;

        require(strlen(dataflow.error) < JOURNAL_TEXT_SIZE);
        require(entry->n_lost <= 1 + (size_t)entry->n_nodes + entry->n_links);
        dataflow.n_killed++;
        require(journal_put_dataflow(entry, &dataflow) == 0);
        for (uint32_t i = 0; i < entry->n_nodes; i++) {
                struct journal_node node = entry->nodes[i];

                require(strlen(node.error) < JOURNAL_TEXT_SIZE && strlen(node.left) < JOURNAL_TEXT_SIZE && strlen(node.violation) < JOURNAL_TEXT_SIZE);
                node.generation++;
                require(journal_put_node(entry, i, &node) == 0);
                require(entry->nodes[i].sequence == node.sequence + 1);
        }
        for (uint32_t i = 0; i < entry->n_links; i++) {
                struct journal_link link = entry->links[i];

                link.generation++;
                require(journal_put_link(entry, i, &link) == 0);
        }
}

static int load(JournalEntry **ret)
{
        char *plan = NULL;
        int r = journal_load(&journal, ret, &plan, uuid);

        require((r == 0) == (plan != NULL && *ret != NULL));
        free(plan);
        return r;
}

static void check(void)
{
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL, *again = NULL;
        uint8_t(*uuids)[UUID_SIZE] = NULL;
        size_t n = 0;
        int r = load(&entry);

        require(r == 0 || r == JOURNAL_E_DAMAGED || r == JOURNAL_E_VERSION || r == JOURNAL_E_BOOT || r == -ENOENT);
        if (r == 0) {
                use(entry);
                require(load(&again) == 0);
                require(again->n_nodes == entry->n_nodes && again->n_links == entry->n_links && again->n_lost == 0);
                require(memcmp(again->dataflow, entry->dataflow, sizeof(*entry->dataflow)) == 0);
                require(memcmp(again->nodes, entry->nodes, entry->n_nodes * sizeof(*entry->nodes)) == 0);
                require(memcmp(again->links, entry->links, entry->n_links * sizeof(*entry->links)) == 0);
        }
        require(journal_list(&journal, &uuids, &n) == 0 && n == (r != -ENOENT));
        free(uuids);
        require(journal_remove(&journal, uuid) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const uint8_t *plan;
        size_t plan_size;
        uint8_t *state;

        if (size < 3)
                return 0;
        plan = data + 3;
        plan_size = MIN((size_t)(data[1] | data[2] << 8), size - 3);
        size -= 3 + plan_size;
        state = malloc(size ? size : 1);
        require(state != NULL);
        memcpy(state, plan + plan_size, size);
        fix(state, size, data[0], plan, plan_size);
        if (!(data[0] & NO_STATE))
                write_file(NAME ".state", state, size);
        if (!(data[0] & NO_PLAN))
                write_file(NAME ".plan", plan, plan_size);
        free(state);
        check();
        return 0;
}
