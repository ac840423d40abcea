/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does each process that has a file mapped let go of the lock of its memory?
 *
 * To put a probe into a file, and to take it out, the kernel takes that lock of each of them for writing, one after the other, cannot be interrupted in it, and
 * lets no process of the host be forked with a copy of its memory before it is done. One of them that is stuck with the lock (in a page fault on a file system that does not answer) stops all of
 * them. So they are asked beforehand, in a way that can be given up: the lock is taken by what a write to /proc/PID/clear_refs does. Of all that can be written
 * there it is what does the least, "5": the peak of resident memory that the process is told of (VmHWM) begins anew.
 *
 * A process may be stuck a moment after it was asked; and processes of other PID namespaces than ours, and those that nobody may look at, are not seen.
 */
#ifndef TG_BPF_MAPPERS_H
#define TG_BPF_MAPPERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"

#define MAPPERS_FILES_MAX 64
#define MAPPERS_ONE_SPAN  (2 * NSEC_PER_SEC)  /* for one of them, which usually takes microseconds */
#define MAPPERS_SPAN      (10 * NSEC_PER_SEC) /* for all of them */

enum {
        _MAPPERS_OK,
        MAPPERS_E_HELD, /* one of them does not let go */
};

/* Who has it mapped is told by the number of the inode or by the name: the same file has several numbers where it is seen through several overlays. */
typedef struct MappedFile {
        uint64_t inode;
        char name[56]; /* the last part of its path, from a slash on; of a longer one its end; "": it has none */
} MappedFile;

typedef struct MappersHeld {
        pid_t pid;
        char name[16]; /* what it calls itself; ends in NUL */
} MappersHeld;

/* mapped_file() - of an open one. 0 or a negative errno. */
int mapped_file(int fd, MappedFile *ret);

/**
 * mappers_check() - ask each process that has one of these files mapped, by a child
 * @n:        at most MAPPERS_FILES_MAX
 * @span:     that one of them may take: MAPPERS_ONE_SPAN, but for tests
 * @until:    then who has not been asked yet is not any more
 * @ret_held: of MAPPERS_E_HELD
 *
 * Takes CAP_SYS_PTRACE, and CAP_DAC_OVERRIDE for processes of others. Blocks, some ten milliseconds for a thousand processes. For programs of one thread.
 *
 * Return: 0: all of them have let go of it just now; MAPPERS_E_HELD; or a negative errno: that is not known.
 */
int mappers_check(const MappedFile *files, size_t n, nsec_t span, nsec_t until, MappersHeld *ret_held);

#endif
