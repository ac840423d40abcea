/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sites tidegate:enqueue and tidegate:dequeue (shm/probe.h) of an ELF file, by its notes. The file is somebody else's, and hostile: every number
 * in it is held against the file's size, and a site is taken only if its note has our arguments and the file our nop at that place, for the kernel
 * writes there whatever the note says.
 */
#ifndef TG_BPF_SITES_H
#define TG_BPF_SITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SITES_MAX 16 /* of one file; a compiler may make several of one */

typedef enum SiteKind {
        SITE_ENQUEUE,
        SITE_DEQUEUE,
        SITE_MEASURE, /* of whoever measures what an attached site costs */
        _SITE_KIND_MAX,
} SiteKind;

typedef struct Site {
        SiteKind kind;
        uint64_t offset;    /* in the file, as the kernel wants it: of the nop ... */
        uint64_t semaphore; /* ... and of the word that is raised while somebody is attached */
} Site;

/**
 * sites_find() - all sites of a file
 * @fd:    a regular file, open for reading; its offset stays as it is
 * @ret:   room for SITES_MAX
 * @ret_n: how many there are; 0: it is no ELF file of this machine, or has none
 *
 * Reads some kilobytes of it, and blocks as reading does. Return: 0 or a negative errno: of reading, -ENOMEM, -E2BIG (more than SITES_MAX),
 * -EBADMSG (ELF, and does not hold together).
 */
int sites_find(int fd, Site *ret, size_t *ret_n);

/* site_is_sound() - of a file of that size, whoever says so: what the kernel is told lies within the file. Pure. */
bool site_is_sound(const Site *site, uint64_t file_size);

#endif
