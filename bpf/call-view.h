/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bpf/call.bpf.c counts, for whoever was handed its maps: mapped memory, no system call after the open, no libbpf and no privilege.
 * One process at a time says who is watched.
 *
 * Does not: load or attach anything (bpf/probe.h), know names of calls, nodes or dataflows.
 */
#ifndef TG_BPF_CALL_VIEW_H
#define TG_BPF_CALL_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "bpf/call.h"

typedef struct CallView {
        struct call_watched *watched; /* mapped; NULL: not open */
        struct call_slot *slots;      /* mapped */
        uint32_t n_slots;
} CallView;

#define CALL_VIEW_INIT ((CallView){0})

/* What one system call was for one life of a node, so far. */
struct call_count {
        uint32_t number; /* CALL_OTHER: all that are not told apart */
        uint32_t now;    /* threads that are in it now; of at most CALL_THREADS */
        uint64_t now_since_ns; /* when the longest of those has entered it: CLOCK_MONOTONIC; 0: nobody is in it */
        uint64_t count, errors;
        uint64_t total_ns;
        uint64_t log2_ns[CALL_BUCKETS]; /* sum: count */
};

/* What call_view_read_all() may give at once: each of the entries, and calls that somebody is in and nobody has come back from. */
#define CALL_VIEW_CALLS_MAX (CALL_ENTRIES + 1 + CALL_THREADS)

/**
 * call_view_open() - map what the two descriptors of maps stand for (call_probe_fd())
 * @view: set on success; call_view_close() is due. The descriptors are not kept, and not consumed
 *
 * Who is watched stays so: also whoever was by an earlier view of the same maps. Return: 0, -EPROTO (these are no such maps), or a negative
 * errno. Does not block.
 */
int call_view_open(CallView *view, int watched_fd, int slots_fd);

/* call_view_close() - unmap; also what was never opened. Nobody is watched the less for it. */
void call_view_close(CallView *view);

/**
 * call_view_watch() - from now on the calls of all in that cgroup, and below it, are counted in that slot, which begins at 0
 * @slot:      below view->n_slots, and not in use
 * @cgroup_id: inode number of a directory two levels below the watched one; whoever makes it may watch it before it starts somebody there
 *
 * Clears the slot, some 30 KB of memory; no system call. A call that began before is not counted. Return: 0, -EINVAL, -EEXIST (that cgroup is
 * watched, or the slot in use), -ENOSPC (the table has no place for that very cgroup; not met with fewer than CALL_SLOTS_MAX).
 */
int call_view_watch(CallView *view, uint32_t slot, uint64_t cgroup_id);

/**
 * call_view_unwatch() - no further calls are counted in that slot; what was counted can be read until it is used again
 *
 * A call that somebody is in is still counted when it returns, unless the slot is used again before. Nothing happens to a slot that is not in use.
 */
void call_view_unwatch(CallView *view, uint32_t slot);

/* call_view_cgroup() - who is watched there; 0: nobody. */
uint64_t call_view_cgroup(const CallView *view, uint32_t slot);

/**
 * call_view_read() - one system call of one slot
 *
 * Taken while it is being written: a call that returns at that moment may be in the total and not yet in the count. All 0 for a call that
 * nobody has made. Return: 0 or -EINVAL.
 */
int call_view_read(const CallView *view, uint32_t slot, uint32_t number, struct call_count *ret);

/**
 * call_view_read_all() - all of them, in no order
 * @ret: room for @n, and CALL_VIEW_CALLS_MAX are enough
 *
 * Return: how many calls there are; those that do not fit are left out.
 */
size_t call_view_read_all(const CallView *view, uint32_t slot, struct call_count *ret, size_t n);

/**
 * call_view_threads() - who is in which call now, and since when
 * @ret: room for @n, and CALL_THREADS are enough
 *
 * tid ~0: a thread that the loader's PID namespace does not have. Return: how many threads are in some call; those that do not fit are left out.
 */
size_t call_view_threads(const CallView *view, uint32_t slot, struct call_thread *ret, size_t n);

/* call_view_lost() - calls of that slot that were not counted, for want of memory. */
uint64_t call_view_lost(const CallView *view, uint32_t slot);

#endif
