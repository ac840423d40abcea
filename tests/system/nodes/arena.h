/* SPDX-License-Identifier: Apache-2.0 */
/* What `steady`, `hostile` and the test that looks at them have in common: a file of 64-bit words. */
#ifndef TEST_ARENA_H
#define TEST_ARENA_H

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "node.h"

enum {
        ARENA_PHASE,  /* 3k: hostile's k-th life is as the others are; 3k + 1: it attacks; 3k + 2: over */
        ARENA_SEEN,   /* the test has looked at what the k-th life left behind, and k + 1 may begin */
        ARENA_N,      /* attacks there are; a life after the last is an honest one, without end */
        ARENA_NOTE,   /* of an attack that is refused by the kernel: how often something went through that must not */
        ARENA_WRONG,  /* messages of `steady source` that were not the next one, or not whole */
        ARENA_GOT,    /* and all of them */
        ARENA_STILL,  /* lives of `hostile` in which the others did not go on although it was as they are */
        ARENA_RECORDS = 16, /* of the source, then of the sink: for each phase messages, nanoseconds of CPU, nanoseconds */
        ARENA_PHASES = 512,
        ARENA_WORDS = ARENA_RECORDS + 2 * 3 * ARENA_PHASES,
};

static inline volatile uint64_t *arena_open(const char *path)
{
        void *map;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

        if (fd < 0 || ftruncate(fd, ARENA_WORDS * 8) < 0)
                DIE("%s: %s", path, strerror(errno));
        map = mmap(NULL, ARENA_WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                DIE("%s: %s", path, strerror(errno));
        close(fd);
        return map;
}

static inline uint64_t clock_ns(clockid_t clock)
{
        struct timespec ts;

        (void)clock_gettime(clock, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
