/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files behind status.h: one StatusFile per page, made or taken over whole or not at all. Knows nothing of rows but
 * where they lie.
 */
#ifndef TG_SUPERVISOR_STATUS_INTERNAL_H
#define TG_SUPERVISOR_STATUS_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "protocol/status_page.h"

typedef struct StatusFile {
        int fd;                            /* -1: there is no such page */
        struct status_page_header *header; /* mapped, shared and writable */
        struct status_dataflow_slot *dataflows;
        struct status_node_slot *nodes;
        uint32_t n_dataflows, n_nodes; /* capacity */
} StatusFile;

#define STATUS_FILE_NULL ((StatusFile){.fd = -1})

enum {
        STATUS_FILE_E_OTHER = 1, /* there is none, or not one that we could have written */
        STATUS_FILE_E_ACCESS,    /* it was made, and the user it is for cannot be let in */
};

/* status_file_take() - map what a predecessor left. 0, STATUS_FILE_E_OTHER, or a negative errno. */
int status_file_take(StatusFile *ret, int dir_fd, const char *name, uint32_t n_dataflows, uint32_t n_nodes);

/**
 * status_file_make() - a new one, in place of whatever has that name
 * @info:   its first contents
 * @reader: user who may read it beside ours; (uid_t)-1: everybody
 *
 * Nobody sees it before it is complete. Return: 0, STATUS_FILE_E_ACCESS (*ret is set nevertheless), or a negative errno.
 */
int status_file_make(StatusFile *ret, int dir_fd, const char *name, uint32_t n_dataflows, uint32_t n_nodes,
        const struct status_info *info, uid_t reader);

/* status_file_reserve() - have room for a slot that was never used, so that storing to it cannot fail. 0 or a negative errno. */
int status_file_reserve(StatusFile *file, const void *slot, size_t size);

void status_file_done(StatusFile *file);

#endif
