/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: one dataflow's plan and state records in two files (docs/daemon.md), so that the next supervisor knows what this
 * one intended. supervisor/journal-format.h has the records.
 *
 * It knows bytes and files. It does not know what a state means, what lives, or when to write: the supervisor puts a record
 * before it sends the order that the record intends.
 *
 * SIGKILL at any instruction leaves, for each record, the last copy whose put returned, or the one whose put was under way; and a
 * dataflow whole or not at all. Files are for the boot they were written in: nothing is synced to a disk.
 *
 * Blocking: file system calls below RUNTIME_DIR/journal, a tmpfs, which answers from memory. journal_create() and
 * journal_load() copy plan and state, megabytes for the largest; a put is one pwrite() of at most 1 KiB, into pages that
 * the file already has. Failures (-ENOSPC, -EMFILE, ...) are returned and leave everything as it was: the caller goes on without
 * what was not written, and the next put tries again. One thread.
 */
#ifndef TG_SUPERVISOR_JOURNAL_H
#define TG_SUPERVISOR_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/uuid.h"
#include "supervisor/journal-format.h"

enum {
        _JOURNAL_E_SUCCESS,
        JOURNAL_E_DAMAGED, /* the files are not what we write: cut, changed, exchanged, or one is missing */
        JOURNAL_E_VERSION, /* written by another version of the format */
        JOURNAL_E_BOOT,    /* written before this boot: nothing in it is true any more */
};

typedef struct Journal {
        int dir_fd;
        uint8_t boot_id[UUID_SIZE];
} Journal;

#define JOURNAL_NULL ((Journal){.dir_fd = -1})

/*
 * One dataflow's records, as last written: read them, but write them by journal_put_*() only. A record whose sequence is 0 was
 * never written, or does not check.
 */
typedef struct JournalEntry {
        int state_fd;
        uint8_t uuid[UUID_SIZE];
        uint32_t n_nodes, n_links;
        uint32_t n_lost; /* records that journal_load() found written, without one good slot; they are as never written */
        struct journal_dataflow *dataflow;
        struct journal_node *nodes;
        struct journal_link *links; /* the three share one allocation */
} JournalEntry;

/**
 * journal_open() - use a directory as the journal, and learn this boot's id
 * @take_dir_fd: RUNTIME_DIR/journal, consumed on success
 *
 * Return: 0 or a negative errno.
 */
int journal_open(Journal *ret, int take_dir_fd);
void journal_close(Journal *journal);

typedef struct JournalSpec { /* all borrowed */
        const uint8_t *uuid; /* UUID_SIZE bytes */
        const char *plan;    /* JSON text, without NUL */
        size_t plan_size;    /* 1..JOURNAL_MAX_PLAN */
        uint32_t n_nodes;    /* at most JOURNAL_MAX_NODES */
        uint32_t n_links;    /* at most JOURNAL_MAX_LINKS */
        const struct journal_dataflow *dataflow; /* its first record: a dataflow is never without one */
} JournalSpec;

/**
 * journal_create() - a new dataflow: its plan, its first record, and room for all others
 *
 * All room the records will ever need is taken here, so that a full file system refuses a new dataflow and not the stop of an
 * old one. The plan appears last: until then there is no such dataflow.
 *
 * Return: 0, -E2BIG when a number is out of its range, -EINVAL for a plan with a NUL or a record that journal_put_dataflow()
 * would refuse, -EEXIST, or another negative errno. On failure nothing is left behind.
 */
int journal_create(const Journal *journal, JournalEntry **ret, const JournalSpec *spec);

/* journal_entry_free() - let go of a dataflow; its files stay. Accepts NULL, returns NULL. */
JournalEntry *journal_entry_free(JournalEntry *entry);
void journal_entry_freep(JournalEntry **entry);

/**
 * journal_put_dataflow(), journal_put_node(), journal_put_link() - write a record, unless it is what was written last
 * @record: copied; its sequence and crc are not looked at. Start from {}, so that what is reserved is zero
 *
 * Return: 0, -EINVAL for an index out of range or a text that does not end, or another negative errno: the record is then
 * as before, and so is what the next supervisor would read.
 */
int journal_put_dataflow(JournalEntry *entry, const struct journal_dataflow *record);
int journal_put_node(JournalEntry *entry, uint32_t index, const struct journal_node *record);
int journal_put_link(JournalEntry *entry, uint32_t index, const struct journal_link *record);

/* journal_set_text() - @text (NULL: none), cut at a character's end if it is longer than a record has room for. */
void journal_set_text(char ret_text[JOURNAL_TEXT_SIZE], const char *text);

/**
 * journal_list() - the dataflows that the journal knows, in no order; removes what a death amid a create or remove left
 * @ret_uuids: array, the caller frees it; NULL when there are none
 *
 * Return: 0 or a negative errno.
 */
int journal_list(const Journal *journal, uint8_t (**ret_uuids)[UUID_SIZE], size_t *ret_n);

/**
 * journal_load() - take over a dataflow that a predecessor journalled
 * @ret:      its records, to read and to go on with; sequence numbers go on too
 * @ret_plan: its plan, NUL-terminated, the caller frees it. It is the text that was given to journal_create(), nothing more
 *            is promised
 *
 * The state file is replaced by a copy, so that a predecessor that was killed but hangs in the kernel, amid a put, cannot change
 * it any more. If there is no room for the copy the old file is used: that predecessor is a rare case of a rare case.
 *
 * Return: 0, JOURNAL_E_DAMAGED, JOURNAL_E_VERSION, JOURNAL_E_BOOT (look at it no further: journal_remove() it), -ENOENT when
 * there is no such dataflow, or another negative errno, which says nothing about the files.
 */
int journal_load(const Journal *journal, JournalEntry **ret, char **ret_plan, const uint8_t uuid[UUID_SIZE]);

/**
 * journal_put_limits() - limits that were set at run time, in place of what was there; the text appears whole
 * @text: without NUL; NULL: none any more
 *
 * journal_get_limits() - what was put last; NULL: nothing, or it cannot be read. The caller frees it.
 */
int journal_put_limits(const Journal *journal, const uint8_t uuid[UUID_SIZE], const char *text);
char *journal_get_limits(const Journal *journal, const uint8_t uuid[UUID_SIZE]);

/* journal_remove() - remove a dataflow's files, whatever is in them. 0 (also when there are none) or a negative errno. */
int journal_remove(const Journal *journal, const uint8_t uuid[UUID_SIZE]);

#endif
