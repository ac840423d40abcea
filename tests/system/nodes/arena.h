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
        ARENA_PHASE,  /* 4k: hostile's k-th life has begun; 4k + 1: it is as the others are; 4k + 2: it attacks; 4k + 3: over */
        ARENA_SEEN,   /* the test has looked at what the k-th life left behind, and k + 1 may begin */
        ARENA_GO,     /* the test has said what the k-th life is to do, which is honest until then: k + 1 */
        ARENA_NOTE,   /* of an attack that is refused by the kernel: how often something went through that must not */
        ARENA_WRONG,  /* messages of `steady source` that were not the next one, or not whole */
        ARENA_GOT,    /* and all of them */
        ARENA_STILL,  /* lives of `hostile` in which the others did not go on although it was as they are */
        ARENA_ATTACK, /* of that life */
        ARENA_MS,     /* milliseconds of that attack, and of being honest before it */
        ARENA_TOLD,   /* the test has seen that the k-th life is told of, and its attack may end: k + 1 */
        ARENA_PACE,   /* nanoseconds from one message of the source to the next; 0: as fast as they are taken */
        ARENA_RECORDS = 16, /* of the source, then of the sink: for each phase messages, nanoseconds of CPU, nanoseconds */
        ARENA_PHASES = 1536,
        ARENA_SENT = ARENA_RECORDS + 2 * 3 * ARENA_PHASES, /* when the source sent its last messages: CLOCK_MONOTONIC */
        ARENA_N_SENT = 1024,
        ARENA_LATENCY = ARENA_SENT + ARENA_N_SENT, /* for each phase: of how many messages it was in which quarter of a power of two */
        ARENA_N_BUCKETS = 4 * 40,
        ARENA_WORDS = ARENA_LATENCY + ARENA_N_BUCKETS * ARENA_PHASES,
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
