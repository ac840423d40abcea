/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Shared by call.bpf.c, call.c and call-view.c: two maps of the kernel's that user space has mapped. Fixed widths, no implicit padding.
 *
 * A *slot* is one life of a node: all threads of a cgroup ("home") and of those below it. Of each system call that they make it has an
 * *entry*. Who is watched stands in a small hash table that one process writes and the kernel side reads.
 */
#ifndef TG_BPF_CALL_H
#define TG_BPF_CALL_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define CALL_MAGIC         0x54474331 /* "TGC1": another layout has another number */
#define CALL_SLOTS_MAX     256        /* a quarter of the table, so that few of its places are looked at */
#define CALL_SLOTS_DEFAULT 64
#define CALL_WATCHES       1024 /* power of two */
#define CALL_WATCH_TRIES   8    /* places of the table that are looked at for one cgroup */
#define CALL_NUMBERS       512  /* calls below it are told apart */
#define CALL_OTHER         512  /* the "number" of all others: of another ABI (32-bit programs), and of those for which there was no entry */
#define CALL_ENTRIES       64   /* power of two: so many different calls of one slot are told apart */
#define CALL_BUCKETS       44   /* the last one also has what took longer: 2.4 hours and more */
#define CALL_THREADS       256  /* power of two: of so many threads of a slot it is known in which call they are now */

/* One place of the table of who is watched. */
struct call_watch {
        __u64 cgroup_id; /* bpf/table.h */
        __u32 slot;
        __u32 life;
};
_Static_assert(sizeof(struct call_watch) == 16, "shared with the BPF side");

struct call_watched {
        __u32 magic;
        __u32 slot_size; /* of struct call_slot */
        __u32 n_slots;
        __u32 n_watched;
        __u64 padding[6];
        struct call_watch watches[CALL_WATCHES];
};
_Static_assert(sizeof(struct call_watched) == 64 + CALL_WATCHES * 16, "shared with the BPF side");

/* Of one system call in one slot. Counted when the call has returned: so many of them as the sum of the buckets. */
struct call_entry {
        __u32 key; /* 0: free; else number + 1, and so it stays */
        __u32 zero;
        __u64 errors;   /* returned -4095..-1; those that were interrupted, and restarted by the kernel, too */
        __u64 total_ns;
        __u64 padding;
        __u64 log2_ns[CALL_BUCKETS]; /* [i]: 2^i <= ns < 2^(i + 1); [0] also 0 */
};
_Static_assert(sizeof(struct call_entry) == 384, "shared with the BPF side");

/* Written by that thread alone, and by whoever clears the slot. */
struct call_thread {
        __u64 begin_ns; /* CLOCK_MONOTONIC, of the call that it is in; 0: in none */
        __u32 tid;      /* as the loader's PID namespace counts; 0: the place is free */
        __u32 number;
};
_Static_assert(sizeof(struct call_thread) == 16, "shared with the BPF side");

struct call_slot {
        __u32 life; /* grows with each use of the slot; 0: never used. What began in another life is not counted in this one */
        __u32 zero;
        __u64 cgroup_id; /* of who is watched; for the writer alone */
        __u64 lost;      /* calls that were not counted, for want of memory */
        __u64 unplaced;  /* threads for which there was no place below; their calls are counted all the same */
        __u64 padding[4];
        struct call_entry entries[CALL_ENTRIES + 1]; /* the last one: CALL_OTHER */
        struct call_thread threads[CALL_THREADS];
};
_Static_assert(sizeof(struct call_slot) == 64 + (CALL_ENTRIES + 1) * 384 + CALL_THREADS * 16, "shared with the BPF side");

/* Where the look for a cgroup begins. Ids are inode numbers, most of them small and near to each other. */
static inline __u32 call_watch_hash(__u64 cgroup_id)
{
        return (__u32)((cgroup_id * 0x9e3779b97f4a7c15ull) >> 48) & (CALL_WATCHES - 1);
}

#endif
