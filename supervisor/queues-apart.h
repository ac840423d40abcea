/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tidegate-queues does not do itself, for it holds the large capability (supervisor/queues-main.c): two processes beside it, which end with it.
 *
 * The reader of files: nobody, with no capability. Each file is read in a child of its own, which may make a handful of system calls and say where the sites are: a file
 * that takes it over can say something about itself, which its author could have written into it.
 * The asker: nobody, with what it takes to ask processes whether they let go of the lock of their memory (bpf/mappers.h). It reads nothing but what the kernel writes.
 *
 * Both answer in time whatever hangs, but for themselves; so each wait here has a deadline, too.
 */
#ifndef TG_SUPERVISOR_QUEUES_APART_H
#define TG_SUPERVISOR_QUEUES_APART_H

#include <stddef.h>

#include "bpf/mappers.h"
#include "bpf/sites.h"

typedef struct QueuesApart {
        int reader, asker; /* sockets; -1: it is gone */
} QueuesApart;

/* queues_apart_begin() - start both; called as root, with one socket to be held as standard input, which they do not hold. 0 or a negative errno. */
int queues_apart_begin(QueuesApart *ret);

/**
 * queues_apart_sites() - what sites_find() says of a file
 *
 * Return: 0 or a negative errno: as sites_find(); -EREMOTEIO (it lies on FUSE: a program may make the kernel wait for it), -ETIMEDOUT (it cannot be read), -EIO (it has
 * killed its reader), -EPIPE (there is no reader any more), -EPROTO (it says what cannot be).
 */
int queues_apart_sites(QueuesApart *apart, int fd, Site ret[static SITES_MAX], size_t *ret_n);

/* queues_apart_check() - what mappers_check() says of up to MAPPERS_FILES_MAX files; -EPIPE: there is no asker any more. */
int queues_apart_check(QueuesApart *apart, const MappedFile *files, size_t n, MappersHeld *ret_held);

#endif
