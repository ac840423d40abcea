/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/journal.h"

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
#include "base/crc32.h"
#include "base/error.h"
#include "base/utf8.h"

#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"
#define STATE_SUFFIX ".state"
#define PLAN_SUFFIX  ".plan"
#define LIMITS_SUFFIX ".limits"
#define TEMP_SUFFIX  ".tmp"
#define LIMITS_SIZE_MAX ((size_t)8 << 20)

#define DATAFLOW_AT sizeof(struct journal_header)
#define NODES_AT    (DATAFLOW_AT + 2 * sizeof(struct journal_dataflow))

/* <uuid>.state.<pid>.tmp: the pid, so that a predecessor that hangs in its rename cannot move what we write. */
typedef struct Name {
        char text[64];
} Name;

static Name name_of(const uint8_t uuid[UUID_SIZE], const char *suffix)
{
        char text[UUID_TEXT_LENGTH + 1];
        Name name;

        uuid_format(text, uuid);
        (void)snprintf(name.text, sizeof(name.text), "%s%s", text, suffix);
        return name;
}

static Name name_temporary(const Name *of)
{
        Name name;

        (void)snprintf(name.text, sizeof(name.text), "%.44s.%d" TEMP_SUFFIX, of->text, (int)getpid());
        return name;
}

typedef union Record { /* room for any */
        struct journal_dataflow dataflow;
        struct journal_node node;
        struct journal_link link;
} Record;

/* Where a record is: its last copy in memory, its two slots in the file. */
typedef struct Place {
        void *last;
        size_t size;
        size_t at; /* of slot 0 */
} Place;

/* All records of an entry in the file's order: 0 is the dataflow's, then the nodes', then the links'. */
static size_t n_records(const JournalEntry *entry)
{
        return 1 + (size_t)entry->n_nodes + entry->n_links;
}

static Place record_place(const JournalEntry *entry, size_t i)
{
        if (i == 0)
                return (Place){.last = entry->dataflow, .size = sizeof(*entry->dataflow), .at = DATAFLOW_AT};
        i -= 1;
        if (i < entry->n_nodes)
                return (Place){.last = &entry->nodes[i],
                        .size = sizeof(*entry->nodes),
                        .at = NODES_AT + 2 * i * sizeof(*entry->nodes)};
        i -= entry->n_nodes;
        return (Place){.last = &entry->links[i],
                .size = sizeof(*entry->links),
                .at = NODES_AT + 2 * (entry->n_nodes * sizeof(*entry->nodes) + i * sizeof(*entry->links))};
}

static size_t state_size(uint32_t n_nodes, uint32_t n_links)
{
        return NODES_AT + 2 * (n_nodes * sizeof(struct journal_node) + n_links * sizeof(struct journal_link));
}

/* Every layout begins (but for the header) with its sequence number and ends in its CRC. */
static uint64_t record_sequence(const void *record)
{
        uint64_t sequence;

        memcpy(&sequence, record, sizeof(sequence));
        return sequence;
}

static void record_sign(void *record, size_t size)
{
        uint32_t crc = crc32_of(record, size - sizeof(crc));

        memcpy((uint8_t *)record + size - sizeof(crc), &crc, sizeof(crc));
}

static bool record_is_signed(const void *record, size_t size)
{
        uint32_t crc;

        memcpy(&crc, (const uint8_t *)record + size - sizeof(crc), sizeof(crc));
        return crc == crc32_of(record, size - sizeof(crc));
}

static bool text_ends(const char *text)
{
        return memchr(text, '\0', JOURNAL_TEXT_SIZE) != NULL;
}

static bool record_texts_end(const JournalEntry *entry, size_t i, const void *record)
{
        const struct journal_dataflow *dataflow = record;
        const struct journal_node *node = record;

        if (i == 0)
                return text_ends(dataflow->error);
        return i > entry->n_nodes || (text_ends(node->error) && text_ends(node->left) && text_ends(node->violation));
}

static int write_all(int fd, const void *data, size_t size, size_t at)
{
        while (size > 0) {
                ssize_t n = pwrite(fd, data, size, (off_t)at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return error_origin(n < 0 ? -errno : -EIO);
                data = (const uint8_t *)data + n;
                size -= (size_t)n;
                at += (size_t)n;
        }
        return 0;
}

/* -ENODATA when the file ends before @size bytes. */
static int read_all(int fd, void *data, size_t size)
{
        size_t at = 0;

        while (at < size) {
                ssize_t n = pread(fd, (uint8_t *)data + at, size - at, (off_t)at);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? error_origin(-errno) : -ENODATA;
                at += (size_t)n;
        }
        return 0;
}

int journal_open(Journal *ret, int take_dir_fd)
{
        _cleanup_fd_ int fd = open(BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
        Journal journal = {.dir_fd = take_dir_fd};
        char text[UUID_TEXT_LENGTH + 1] = "";
        int r;

        if (fd < 0)
                return error_origin(-errno);
        r = read_all(fd, text, UUID_TEXT_LENGTH);
        if (r)
                return error_fold(r);
        if (!uuid_parse(journal.boot_id, text))
                return error_origin(-EBADMSG);
        *ret = journal;
        return 0;
}

void journal_close(Journal *journal)
{
        journal->dir_fd = fd_close(journal->dir_fd);
}

static int entry_new(JournalEntry **ret, const uint8_t uuid[UUID_SIZE], uint32_t n_nodes, uint32_t n_links)
{
        _cleanup_(journal_entry_freep) JournalEntry *entry = calloc(1, sizeof(*entry));

        if (!entry)
                return error_origin(-ENOMEM);
        *entry = (JournalEntry){.state_fd = -1, .n_nodes = n_nodes, .n_links = n_links};
        memcpy(entry->uuid, uuid, UUID_SIZE);
        entry->dataflow = calloc(1,
                sizeof(*entry->dataflow) + n_nodes * sizeof(*entry->nodes) + n_links * sizeof(*entry->links));
        if (!entry->dataflow)
                return error_origin(-ENOMEM);
        entry->nodes = (struct journal_node *)(void *)(entry->dataflow + 1);
        entry->links = (struct journal_link *)(void *)(entry->nodes + n_nodes);
        *ret = TAKE_PTR(entry);
        return 0;
}

JournalEntry *journal_entry_free(JournalEntry *entry)
{
        if (entry) {
                entry->state_fd = fd_close(entry->state_fd);
                free(entry->dataflow);
                free(entry);
        }
        return NULL;
}

void journal_entry_freep(JournalEntry **entry)
{
        *entry = journal_entry_free(*entry);
}

/* Room for @size bytes, so that writing into them later cannot fail for want of it. */
static int take_room(int fd, size_t size)
{
        int r;

        do {
                r = posix_fallocate(fd, 0, (off_t)size);
        } while (r == EINTR);
        return r ? error_origin(-r) : 0;
}

/*
 * A file of @file_size bytes that begins with @data and ends in zeroes, under a temporary name, then renamed. *ret_fd (if wanted)
 * is open for writing. Nothing is left on failure.
 */
static int publish(const Journal *journal, const Name *name, const void *data, size_t size, size_t file_size, int *ret_fd)
{
        Name temporary = name_temporary(name);
        _cleanup_fd_ int fd = -1;
        int r;

        (void)unlinkat(journal->dir_fd, temporary.text, 0); /* of a process of the same pid, long dead */
        fd = openat(journal->dir_fd, temporary.text, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return error_origin(-errno);
        r = take_room(fd, file_size);
        if (r == 0)
                r = write_all(fd, data, size, 0);
        if (r == 0 && renameat(journal->dir_fd, temporary.text, journal->dir_fd, name->text) < 0)
                r = error_origin(-errno);
        if (r) {
                (void)unlinkat(journal->dir_fd, temporary.text, 0);
                return error_fold(r);
        }
        if (ret_fd)
                *ret_fd = TAKE_FD(fd);
        return 0;
}

/* How a state file begins, and all that is written into a new one. */
struct head {
        struct journal_header header;
        struct journal_dataflow slots[2];
};
_Static_assert(sizeof(struct head) == NODES_AT, "no padding");

static void head_init(struct head *head, const Journal *journal, const JournalSpec *spec)
{
        struct journal_dataflow *first = &head->slots[1];

        *head = (struct head){.header = {.magic = JOURNAL_MAGIC,
                                      .version = JOURNAL_VERSION,
                                      .n_nodes = spec->n_nodes,
                                      .n_links = spec->n_links,
                                      .plan_size = (uint32_t)spec->plan_size,
                                      .plan_crc = crc32_of(spec->plan, spec->plan_size)}};
        memcpy(head->header.boot_id, journal->boot_id, UUID_SIZE);
        memcpy(head->header.uuid, spec->uuid, UUID_SIZE);
        record_sign(&head->header, sizeof(head->header));
        *first = *spec->dataflow;
        first->sequence = 1;
        record_sign(first, sizeof(*first));
}

int journal_create(const Journal *journal, JournalEntry **ret, const JournalSpec *spec)
{
        Name state_name = name_of(spec->uuid, STATE_SUFFIX), plan_name = name_of(spec->uuid, PLAN_SUFFIX);
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL;
        struct head head;
        int r;

        if (spec->plan_size == 0 || spec->plan_size > JOURNAL_MAX_PLAN || spec->n_nodes > JOURNAL_MAX_NODES ||
                spec->n_links > JOURNAL_MAX_LINKS)
                return error_origin(-E2BIG);
        if (memchr(spec->plan, '\0', spec->plan_size) || !text_ends(spec->dataflow->error))
                return error_origin(-EINVAL);
        if (faccessat(journal->dir_fd, plan_name.text, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return error_origin(-EEXIST);
        r = entry_new(&entry, spec->uuid, spec->n_nodes, spec->n_links);
        if (r)
                return error_fold(r);
        head_init(&head, journal, spec);
        *entry->dataflow = head.slots[1];
        r = publish(journal, &state_name, &head, sizeof(head), state_size(spec->n_nodes, spec->n_links), &entry->state_fd);
        if (r)
                return error_fold(r);
        r = publish(journal, &plan_name, spec->plan, spec->plan_size, spec->plan_size, NULL);
        if (r) {
                (void)unlinkat(journal->dir_fd, state_name.text, 0);
                return error_fold(r);
        }
        *ret = TAKE_PTR(entry);
        return 0;
}

static int record_put(JournalEntry *entry, size_t i, const void *record)
{
        Record next;
        Place place = record_place(entry, i);
        uint64_t sequence = record_sequence(place.last);
        const size_t body = sizeof(sequence), end = place.size - sizeof(uint32_t);
        int r;

        if (sequence > 0 && memcmp((uint8_t *)place.last + body, (const uint8_t *)record + body, end - body) == 0)
                return 0;
        sequence++;
        memcpy(&next, record, place.size);
        memcpy(&next, &sequence, sizeof(sequence));
        if (!record_texts_end(entry, i, &next))
                return error_origin(-EINVAL);
        record_sign(&next, place.size);
        r = write_all(entry->state_fd, &next, place.size, place.at + sequence % 2 * place.size);
        if (r)
                return error_fold(r);
        memcpy(place.last, &next, place.size);
        return 0;
}

int journal_put_dataflow(JournalEntry *entry, const struct journal_dataflow *record)
{
        return record_put(entry, 0, record);
}

int journal_put_node(JournalEntry *entry, uint32_t index, const struct journal_node *record)
{
        if (index >= entry->n_nodes)
                return error_origin(-EINVAL);
        return record_put(entry, 1 + (size_t)index, record);
}

int journal_put_link(JournalEntry *entry, uint32_t index, const struct journal_link *record)
{
        if (index >= entry->n_links)
                return error_origin(-EINVAL);
        return record_put(entry, 1 + (size_t)entry->n_nodes + index, record);
}

void journal_set_text(char ret_text[JOURNAL_TEXT_SIZE], const char *text)
{
        size_t size = text ? strlen(text) : 0;

        if (size >= JOURNAL_TEXT_SIZE) {
                size_t whole = 0, n;

                for (; whole < JOURNAL_TEXT_SIZE; whole += n) { /* bytes that are no UTF-8 are not ours to judge */
                        n = MAX(utf8_sequence(text + whole, size - whole), (size_t)1);
                        if (whole + n >= JOURNAL_TEXT_SIZE)
                                break;
                }
                size = whole;
        }
        memset(ret_text, 0, JOURNAL_TEXT_SIZE); /* the same text is the same record */
        if (size > 0)
                memcpy(ret_text, text, size);
}

/*
 * Names in the directory. @ret_uuid is set for a plan's. What nobody will ever look at again is garbage: a temporary name, and a
 * state, or limits, without a plan. Names that are not ours are left alone.
 */
static bool is_plan(const char *name, uint8_t ret_uuid[UUID_SIZE])
{
        return uuid_parse(ret_uuid, name) && strcmp(name + UUID_TEXT_LENGTH, PLAN_SUFFIX) == 0;
}

static bool is_garbage(const Journal *journal, const char *name)
{
        uint8_t uuid[UUID_SIZE];

        if (!uuid_parse(uuid, name))
                return false;
        if (strcmp(name + strlen(name) - strlen(TEMP_SUFFIX), TEMP_SUFFIX) == 0)
                return true;
        return (strcmp(name + UUID_TEXT_LENGTH, STATE_SUFFIX) == 0 || strcmp(name + UUID_TEXT_LENGTH, LIMITS_SUFFIX) == 0) &&
               faccessat(journal->dir_fd, name_of(uuid, PLAN_SUFFIX).text, F_OK, AT_SYMLINK_NOFOLLOW) < 0 &&
               errno == ENOENT;
}

static void closedirp(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}

int journal_list(const Journal *journal, uint8_t (**ret_uuids)[UUID_SIZE], size_t *ret_n)
{
        _cleanup_free_ uint8_t(*uuids)[UUID_SIZE] = NULL;
        _cleanup_(closedirp) DIR *dir = NULL;
        size_t n = 0, room = 0;
        struct dirent *e;
        int fd;

        /* a description of its own, for the position is part of it */
        fd = openat(journal->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_origin(-errno);
        dir = fdopendir(fd);
        if (!dir) {
                int r = -errno;

                (void)fd_close(fd);
                return error_origin(r);
        }
        while ((void)(errno = 0), (e = readdir(dir))) {
                uint8_t uuid[UUID_SIZE];

                if (is_garbage(journal, e->d_name)) {
                        (void)unlinkat(journal->dir_fd, e->d_name, 0); /* what stays is tried again next time */
                        continue;
                }
                if (!is_plan(e->d_name, uuid))
                        continue;
                if (n == room) {
                        size_t more = MAX(2 * room, (size_t)16);
                        void *bigger = reallocarray(uuids, more, sizeof(*uuids));

                        if (!bigger)
                                return error_origin(-ENOMEM);
                        uuids = bigger;
                        room = more;
                }
                memcpy(uuids[n++], uuid, UUID_SIZE);
        }
        if (errno)
                return error_origin(-errno);
        *ret_uuids = TAKE_PTR(uuids);
        *ret_n = n;
        return 0;
}

/* 0: *ret_fd is a regular file of *ret_size bytes. A FIFO does not hold us up, a link leads us nowhere. */
static int open_regular(const Journal *journal, const Name *name, int flags, int *ret_fd, size_t *ret_size)
{
        _cleanup_fd_ int fd =
                openat(journal->dir_fd, name->text, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        struct stat st;

        if (fd < 0 && (errno == ELOOP || errno == EISDIR || errno == ENXIO))
                return JOURNAL_E_DAMAGED;
        if (fd < 0)
                return errno == ENOENT ? -ENOENT : error_origin(-errno);
        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        if (!S_ISREG(st.st_mode))
                return JOURNAL_E_DAMAGED;
        *ret_fd = TAKE_FD(fd);
        *ret_size = (size_t)st.st_size;
        return 0;
}

static int check_header(const Journal *journal, const struct journal_header *header, size_t size, const uint8_t uuid[UUID_SIZE])
{
        if (header->magic != JOURNAL_MAGIC)
                return JOURNAL_E_DAMAGED;
        if (header->version != JOURNAL_VERSION)
                return JOURNAL_E_VERSION;
        if (!record_is_signed(header, sizeof(*header)))
                return JOURNAL_E_DAMAGED;
        if (memcmp(header->boot_id, journal->boot_id, UUID_SIZE) != 0)
                return JOURNAL_E_BOOT;
        if (memcmp(header->uuid, uuid, UUID_SIZE) != 0 || header->plan_size == 0 || header->plan_size > JOURNAL_MAX_PLAN ||
                header->n_nodes > JOURNAL_MAX_NODES || header->n_links > JOURNAL_MAX_LINKS ||
                state_size(header->n_nodes, header->n_links) != size)
                return JOURNAL_E_DAMAGED;
        return 0;
}

static int load_plan(const Journal *journal, const struct journal_header *header, char **ret_plan)
{
        Name name = name_of(header->uuid, PLAN_SUFFIX);
        _cleanup_free_ char *plan = NULL;
        _cleanup_fd_ int fd = -1;
        size_t size;
        int r;

        r = open_regular(journal, &name, O_RDONLY, &fd, &size);
        if (r)
                return r;
        if (size != header->plan_size)
                return JOURNAL_E_DAMAGED;
        plan = malloc(size + 1);
        if (!plan)
                return error_origin(-ENOMEM);
        r = read_all(fd, plan, size);
        if (r)
                return r == -ENODATA ? JOURNAL_E_DAMAGED : r;
        if (crc32_of(plan, size) != header->plan_crc || memchr(plan, '\0', size))
                return JOURNAL_E_DAMAGED;
        plan[size] = '\0';
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
        return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

/* Half of the numbers are never reached, so that counting on from a forged one does not wrap. */
static bool slot_is_good(const JournalEntry *entry, size_t i, unsigned slot, const void *bytes, size_t size)
{
        uint64_t sequence = record_sequence(bytes);

        return sequence > 0 && sequence <= UINT64_MAX / 2 && sequence % 2 == slot && record_is_signed(bytes, size) &&
               record_texts_end(entry, i, bytes);
}

/* Every offset in the image is a multiple of 8, so a record may be looked at where it lies. */
static void choose_slot(JournalEntry *entry, size_t i, const uint8_t *image)
{
        Place place = record_place(entry, i);
        bool written = false;

        for (unsigned slot = 0; slot < 2; slot++) {
                const uint8_t *bytes = image + place.at + slot * place.size;

                written = written || !is_zero(bytes, place.size);
                if (slot_is_good(entry, i, slot, bytes, place.size) &&
                        record_sequence(bytes) > record_sequence(place.last))
                        memcpy(place.last, bytes, place.size);
        }
        if (written && record_sequence(place.last) == 0)
                entry->n_lost++;
}

int journal_load(const Journal *journal, JournalEntry **ret, char **ret_plan, const uint8_t uuid[UUID_SIZE])
{
        Name state_name = name_of(uuid, STATE_SUFFIX), plan_name = name_of(uuid, PLAN_SUFFIX);
        _cleanup_(journal_entry_freep) JournalEntry *entry = NULL;
        _cleanup_free_ uint8_t *image = NULL;
        _cleanup_free_ char *plan = NULL;
        _cleanup_fd_ int fd = -1;
        struct journal_header header;
        size_t size = 0;
        int r;

        if (faccessat(journal->dir_fd, plan_name.text, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? -ENOENT : error_origin(-errno);
        r = open_regular(journal, &state_name, O_RDWR, &fd, &size);
        if (r)
                return r == -ENOENT ? JOURNAL_E_DAMAGED : r;
        r = read_all(fd, &header, sizeof(header));
        if (r)
                return r == -ENODATA ? JOURNAL_E_DAMAGED : r;
        r = check_header(journal, &header, size, uuid);
        if (r)
                return r;
        r = load_plan(journal, &header, &plan);
        if (r)
                return r;
        r = entry_new(&entry, uuid, header.n_nodes, header.n_links);
        if (r)
                return error_fold(r);
        image = malloc(size);
        if (!image)
                return error_origin(-ENOMEM);
        r = read_all(fd, image, size);
        if (r)
                return r == -ENODATA ? JOURNAL_E_DAMAGED : r;
        for (size_t i = 0; i < n_records(entry); i++)
                choose_slot(entry, i, image);
        if (publish(journal, &state_name, image, size, size, &entry->state_fd)) /* no room: go on with the old file */
                entry->state_fd = TAKE_FD(fd);
        *ret = TAKE_PTR(entry);
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

int journal_put_limits(const Journal *journal, const uint8_t uuid[UUID_SIZE], const char *text)
{
        Name name = name_of(uuid, LIMITS_SUFFIX);
        int r;

        if (!text)
                return unlinkat(journal->dir_fd, name.text, 0) < 0 && errno != ENOENT ? error_origin(-errno) : 0;
        r = publish(journal, &name, text, strlen(text), strlen(text), NULL);
        return r ? error_fold(r) : 0;
}

char *journal_get_limits(const Journal *journal, const uint8_t uuid[UUID_SIZE])
{
        Name name = name_of(uuid, LIMITS_SUFFIX);
        _cleanup_free_ char *text = NULL;
        _cleanup_fd_ int fd = -1;
        size_t size;

        if (open_regular(journal, &name, O_RDONLY, &fd, &size) || size == 0 || size > LIMITS_SIZE_MAX)
                return NULL;
        text = malloc(size + 1);
        if (!text || read_all(fd, text, size))
                return NULL;
        text[size] = '\0';
        return TAKE_PTR(text);
}

int journal_remove(const Journal *journal, const uint8_t uuid[UUID_SIZE])
{
        static const char *const suffixes[] = {PLAN_SUFFIX, STATE_SUFFIX, LIMITS_SUFFIX}; /* without its plan the rest is garbage */

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++)
                if (unlinkat(journal->dir_fd, name_of(uuid, suffixes[i]).text, 0) < 0 && errno != ENOENT)
                        return error_origin(-errno);
        return 0;
}
