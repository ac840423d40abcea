/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A region: one sealed memfd, one writer, one incarnation. This module makes, seals, maps, checks and unmaps them and
 * knows nothing of what they hold (see ring.h, pool.h, cursor.h, bell.h, control.h).
 *
 * Life of a region:
 *
 *   supervisor  x_create()         memfd with its final size and header, sealed SHRINK | GROW
 *   writer      region_map_write() checks the header, maps shared and writable, touches every page (so the writer's cgroup
 *                                  pays for it and no fault is left for later), makes huge pages of a large pool where the
 *                                  kernel can, keeps it from forked children
 *   writer      region_seal()      adds FUTURE_WRITE | SEAL: from now on nobody can map it writable, write, truncate or
 *                                  punch it; the writer's mapping stays
 *   supervisor  region_is_sealed() and region_is_touched() prove that before it hands the fd to a reader
 *   reader      region_map_read()  proves it again, checks the header, maps read-only
 *
 * The header is written once, by the maker, before the first seal. Readers copy it once and hold it against what the
 * supervisor told them; they take no number from it that they did not know already. So a writer that scribbles over
 * its header makes new readers refuse the region and changes nothing for those that have it.
 *
 * Control pages (REGION_CONTROL) are the exception: they get SHRINK | GROW | SEAL but not FUTURE_WRITE, because the
 * next supervisor has to map them writable again. Only one node ever has the fd, it alone reads the page, and the
 * supervisor never does: a node that writes there deceives itself.
 *
 * No function here blocks on a peer, but region_seal(): to add a seal takes the file's lock, and whoever has the fd keeps that for as long as
 * he likes, by a write() from memory whose page does not come, and no signal ends who waits for it. So it is the writer that seals, and who
 * must not hang asks whether it has, for which no lock is taken. All are thread-safe on different objects.
 */
#ifndef TG_SHM_REGION_H
#define TG_SHM_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGION_MAGIC    UINT64_C(0x315f455441474454) /* "TDGATE_1" in memory order */
#define REGION_VERSION  1u
#define REGION_MAX_SIZE (UINT64_C(1) << 30) /* bytes: 1 GiB */
#define REGION_N_LAYOUT 8
/* Of a larger pool segment only so much is touched while mapping: 3 to 13 us a page of 4 KiB. What is beyond costs its pages once,
 * when it is first written. */
#define REGION_POOL_TOUCHED (UINT64_C(128) << 20)
/* From this size on a pool is mapped at a huge page's boundary, and its pages are collapsed into huge ones by its writer. That costs him 0.5 ms
 * a MiB once, and saves each reader as much of mapping it: not worth while for what every output begins with. */
#define REGION_POOL_HUGE (UINT64_C(8) << 20)

typedef enum RegionKind {
        REGION_RING = 1, /* head, floor, room word, counters, slots; written by the producer */
        REGION_POOL,     /* one segment of chunks; written by the producer */
        REGION_CURSOR,   /* position, claims, counters of one link; written by the consumer */
        REGION_BELL,     /* sleep epoch of one node; written by that node */
        REGION_CONTROL,  /* stop flag and deadline of one node; written by the supervisor */
        _REGION_KIND_MAX,
} RegionKind;

enum {
        REGION_E_SEALS = 1, /* a seal is missing, or the fd is not a memfd at all */
        REGION_E_SIZE,      /* not the size that was promised, or no size of this kind */
        REGION_E_HEADER,    /* magic, version, kind, size or layout is wrong */
};

struct region_header { /* the first 128 bytes of every region: fixed width, no implicit padding */
        uint64_t magic;
        uint32_t version;
        uint32_t kind;
        uint64_t size;
        uint64_t layout[REGION_N_LAYOUT]; /* meaning: see x_create() of the kind; unused words are 0 */
        uint64_t reserved[5];
};
_Static_assert(sizeof(struct region_header) == 128, "shared between processes");

typedef struct Region {
        void *map;   /* NULL: not mapped */
        size_t size; /* bytes, as sealed */
        RegionKind kind;
        bool writable;
        uint64_t layout[REGION_N_LAYOUT]; /* private copy, taken once while mapping */
} Region;

#define REGION_INIT ((Region){.map = NULL})

/**
 * region_create() - make a memfd of one kind, with its size, its header and the seals SHRINK | GROW
 * @kind:       what it will hold
 * @size_bytes: final size, 128..REGION_MAX_SIZE
 * @layout:     REGION_N_LAYOUT words for the header, or NULL for zeroes
 * @ret_fd:     set on success; owned by the caller, close-on-exec, not executable where the kernel can promise it
 *
 * Prefer ring_create(), pool_create(), cursor_create(), bell_create(), control_create(), which know size and layout.
 * Allocates one page (the header's), charged to the caller; the rest is charged to whoever touches it first.
 *
 * Return: 0, REGION_E_SIZE, or a negative errno (-EMFILE, -ENFILE, -ENOMEM, -ENOSPC).
 */
int region_create(RegionKind kind, uint64_t size_bytes, const uint64_t layout[REGION_N_LAYOUT], int *ret_fd);

/**
 * region_seal() - forbid every write from now on except through mappings that exist already
 * @fd: a region; borrowed
 * @kind: REGION_CONTROL gets SEAL alone, see the top of this file
 *
 * By the writer, once it has mapped; of a region that nobody else was given, by anybody. Idempotent: sealed already is success. May wait
 * without an end for who else has the fd, see the top of this file.
 *
 * Return: 0, REGION_E_SEALS when the fd cannot be sealed (not a memfd, or sealed by SEAL without the rest).
 */
int region_seal(int fd, RegionKind kind);

/* region_is_sealed() - are the seals there that region_seal() adds? Safe on any fd, and never waits. @kind: what it was made for */
bool region_is_sealed(int fd, RegionKind kind);

/**
 * region_is_touched() - are the pages there that its writer touches while mapping it?
 * @fd:   sealed by region_seal(), so that its writer can give no page back any more; borrowed
 * @kind: what it was made for
 *
 * Else its readers would pay for them: whoever reads a page that is not there makes it, and is charged for it. Pages are counted: of a
 * pool segment that is larger than REGION_POOL_TOUCHED it may be any that many.
 */
bool region_is_touched(int fd, RegionKind kind);

/**
 * region_check() - prove by the seals alone that a region is safe to hand to a reader
 * @fd:         borrowed
 * @kind:       decides which seals must be there
 * @size_bytes: the size it was made with
 *
 * Safe on any fd, for F_GET_SEALS asks no file system. Only after SHRINK and GROW are proven, which no file but a
 * memfd can show, the size is read with fstat(): that cannot block on a memfd, and cannot change any more.
 *
 * Return: 0, REGION_E_SEALS, REGION_E_SIZE.
 */
int region_check(int fd, RegionKind kind, uint64_t size_bytes);

/**
 * region_map_write() - map the region that the caller is the writer of
 * @ret:        set on success; release with region_unmap(). Not inherited by fork (MADV_DONTFORK)
 * @fd:         borrowed; may be closed afterwards
 * @kind:       what it must hold
 * @size_bytes: what it must measure
 *
 * Touches every page: 13 us per 4 KiB page in the worst case, so do it before the barrier. Fails with -EPERM once the
 * region is sealed: a region never gets a second writable mapping.
 *
 * Return: 0, REGION_E_SEALS (SHRINK | GROW missing), REGION_E_SIZE, REGION_E_HEADER, or a negative errno.
 */
int region_map_write(Region *ret, int fd, RegionKind kind, uint64_t size_bytes);

/**
 * region_map_read() - map another writer's region, read-only
 * @ret:        set on success; release with region_unmap()
 * @fd:         borrowed; may be closed afterwards
 * @kind:       what it must hold
 * @size_bytes: what the supervisor said it measures
 *
 * Refuses anything that region_check() refuses, and a wrong header. The mapping can never become writable. Pages are
 * touched by a read, so that the steady state takes no fault.
 *
 * Return: 0, REGION_E_SEALS, REGION_E_SIZE, REGION_E_HEADER, or a negative errno.
 */
int region_map_read(Region *ret, int fd, RegionKind kind, uint64_t size_bytes);

/**
 * region_map_status() - map another's region, read-only, for the words that status functions read
 * @size_bytes: the size it was made with
 *
 * For ring_read_status(), cursor_read() and link_counters_read(). One page is touched, however large the region is, so a supervisor
 * may do it in its loop.
 *
 * Return: as region_map_read().
 */
int region_map_status(Region *ret, int fd, RegionKind kind, uint64_t size_bytes);

/* region_unmap() - release and return to REGION_INIT. Accepts an unmapped region. Never fails, never touches errno.
 * */
void region_unmap(Region *region);

#endif
