/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory without names: sealed memfds, and how well pages can be kept at hand. */
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "cli/probe-raw.h"
#include "cli/probes.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define REGION (64 * 1024)

/* A memfd of that size and those flags; -1 with errno. */
static int make_region(size_t size, unsigned flags)
{
        int fd = memfd_create("tidegate-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

        if (fd >= 0 && ftruncate(fd, (off_t)size) < 0)
                fd = fd_close(fd);
        return fd;
}

/* Another open file of the same memory, as a reader that wants more than it was given would get it. */
static int reopen(int fd, int flags)
{
        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return open(path, flags | O_CLOEXEC);
}

static void try_seals(const ProbeContext *context, ProbeReport *report)
{
        int fd = make_region(REGION, 0);

        if (fd < 0)
                return probe_no(report, errno, "memfd_create: %m");
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
                return probe_no(report, errno, "F_ADD_SEALS: %m");
        if (ftruncate(fd, 0) == 0 || ftruncate(fd, 2L * REGION) == 0)
                return probe_no(report, 0, "a sealed memfd changed its size");
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
                return probe_no(report, errno, "F_SEAL_SEAL does not close the list");
        probe_yes(report, "size fixed by SHRINK | GROW; no /dev/shm, no name");
}

static void try_future_write(const ProbeContext *context, ProbeReport *report)
{
        int fd = make_region(REGION, 0), again;
        const volatile char *reader;
        volatile char *writer;

        if (fd < 0)
                return probe_no(report, errno, "memfd_create: %m");
        writer = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (writer == MAP_FAILED)
                return probe_no(report, errno, "mmap: %m");
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0)
                return probe_no(report, errno, "F_ADD_SEALS: %m");

        if (mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
                return probe_no(report, 0, "a second writer could map it");
        if (pwrite(fd, "x", 1, 0) >= 0)
                return probe_no(report, 0, "it could be written by write(2)");
        again = reopen(fd, O_RDWR);
        if (again >= 0 && mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) != MAP_FAILED)
                return probe_no(report, 0, "a second writer could map it through /proc/self/fd");
        reader = mmap(NULL, REGION, PROT_READ, MAP_SHARED, fd, 0);
        if (reader == MAP_FAILED)
                return probe_no(report, errno, "a reader cannot map it: %m");
        if (mprotect((void *)(uintptr_t)reader, REGION, PROT_READ | PROT_WRITE) == 0)
                return probe_no(report, 0, "a reader's mapping became writable by mprotect");

        writer[17] = 'w';
        if (reader[17] != 'w')
                return probe_no(report, 0, "the reader does not see what the writer wrote");
        probe_yes(report, "old mapping writes, readers see it, no new writer by mmap, mprotect, write");
}

static void try_noexec(const ProbeContext *context, ProbeReport *report)
{
        int fd = make_region(REGION, MFD_NOEXEC_SEAL), seals;

        if (fd < 0)
                return probe_no(report, errno, "memfd_create(MFD_NOEXEC_SEAL): %m");
        seals = fcntl(fd, F_GET_SEALS);
        if (seals < 0 || !(seals & F_SEAL_EXEC))
                return probe_no(report, 0, "the seal is not there");
        if (fchmod(fd, 0777) == 0)
                return probe_no(report, 0, "it can be made executable");
        probe_yes(report, "cannot be made executable");
}

static void try_mlock(const ProbeContext *context, ProbeReport *report)
{
        struct rlimit limit = {0};
        char text[48] = "unlimited";

        (void)getrlimit(RLIMIT_MEMLOCK, &limit);
        if (limit.rlim_cur != RLIM_INFINITY)
                (void)snprintf(text, sizeof(text), "%llu KiB", (unsigned long long)limit.rlim_cur / 1024);
        /* ONFAULT: tells whether it is allowed without pulling in every page of this program */
        if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
                return probe_no(report, errno, "mlockall: %m; RLIMIT_MEMLOCK %s", text);
        probe_yes(report, "mlockall allowed; RLIMIT_MEMLOCK %s", text);
}

static void try_collapse(const ProbeContext *context, ProbeReport *report)
{
        const size_t huge = 2 << 20;
        int fd = make_region(huge, 0);
        char *room, *at;

        if (fd < 0)
                return probe_no(report, errno, "memfd_create: %m");
        room = mmap(NULL, 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED)
                return probe_no(report, errno, "mmap: %m");
        at = (char *)(((uintptr_t)room + huge - 1) & ~(uintptr_t)(huge - 1));
        if (mmap(at, huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != at)
                return probe_no(report, errno, "mmap: %m");
        memset(at, 1, huge);
        if (madvise(at, huge, MADV_COLLAPSE) < 0)
                return probe_no(report, errno, "madvise(MADV_COLLAPSE): %m");
        probe_yes(report, "2 MiB of a memfd became one huge page");
}

static const Probe probes[] = {
        {
                .id = "memfd_seals",
                .title = "memfd, size sealed",
                .needed_for = "no reader can be made to fault by a region that shrinks under it",
                .without = "a node could crash its readers: `run` refuses to start",
                .promises = P(2) | P(5) | P(6),
                .weight = PROBE_REQUIRED,
                .attempt = try_seals,
        },
        {
                .id = "memfd_future_write",
                .title = "F_SEAL_FUTURE_WRITE",
                .needed_for = "one writer for each byte: who gets a region later can only read it",
                .without = "a node could write into its neighbours' messages: `run` refuses to start",
                .promises = P(5) | P(6),
                .weight = PROBE_REQUIRED,
                .attempt = try_future_write,
        },
        {
                .id = "memfd_noexec_seal",
                .title = "MFD_NOEXEC_SEAL",
                .needed_for = "regions that nobody can execute",
                .without = "plain memfd: readers map it without PROT_EXEC anyway",
                .promises = P(6),
                .weight = PROBE_BETTER,
                .attempt = try_noexec,
        },
        {
                .id = "mlock",
                .title = "locked memory",
                .needed_for = "guard and supervisor answer in time while the host swaps",
                .without = "they may be paged out: the deadline holds, its last milliseconds do not",
                .promises = P(1) | P(3),
                .weight = PROBE_BETTER,
                .attempt = try_mlock,
        },
        {
                .id = "shmem_collapse",
                .title = "huge pages for memfds (MADV_COLLAPSE)",
                .needed_for = "fewer TLB misses on large payloads",
                .without = "4 KiB pages",
                .weight = PROBE_LATER,
                .attempt = try_collapse,
        },
};

const ProbeGroup memory_probes = {"shared memory", probes, ELEMENTSOF(probes)};
